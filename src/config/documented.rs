//! The tables of `docs/settings.md`: made from the table of settings, and a test that fails when the page differs.

use std::fmt::Write as _;

use super::table::{Kind, SETTINGS, Setting};

const BEGIN: &str = "<!-- The tables are made from src/config/table.rs: UPDATE=1 cargo test --locked --lib config:: -->\n";
const END: &str = "<!-- End of the tables. -->\n";

#[test]
fn the_documentation_agrees_with_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/settings.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("docs/settings.md has lost the comment that begins its tables");
    let (_, after) = rest.split_once(END).expect("docs/settings.md has lost the comment that ends its tables");
    let fresh = format!("{before}{BEGIN}\n{}\n{END}{after}", tables());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &fresh).unwrap();
    } else {
        assert!(page == fresh, "docs/settings.md is not what the code says; UPDATE=1 cargo test --locked --lib config:: writes it anew");
    }
}

/// A table for each group that the help has, then what is only known.
fn tables() -> String {
    let mut text = String::new();
    let mut groups: Vec<&str> = Vec::new();
    for setting in SETTINGS {
        if !setting.group.is_empty() && !groups.contains(&setting.group) {
            groups.push(setting.group);
        }
    }
    for group in groups {
        writeln!(text, "## {group}\n").unwrap();
        text.push_str("| Setting | Given in | Environment | Default | Meaning |\n| --- | --- | --- | --- | --- |\n");
        for setting in SETTINGS.iter().filter(|setting| setting.group == group) {
            row(&mut text, setting);
        }
        text.push('\n');
    }
    text.push_str("## Known and not used\n\nA config file may hold these. They are checked, so that a typing error is found today, and nothing is done with them.\n\n");
    text.push_str("| Setting | Given in | Value |\n| --- | --- | --- |\n");
    for setting in SETTINGS.iter().filter(|setting| setting.group.is_empty()) {
        writeln!(text, "| `{}` | {} | {} |", setting.name, given_in(setting), form(setting)).unwrap();
    }
    text
}

fn row(text: &mut String, setting: &Setting) {
    let environment = match setting.also_environment {
        _ if !setting.reach.has_environment() => String::new(),
        None => format!("`{}`", setting.environment()),
        Some(other) => format!("`{}`, then `{other}`", setting.environment()),
    };
    let default = match (setting.default, setting.default_in_words) {
        (Some(default), _) => format!("`{default}`"),
        (None, words) => words.map(escaped).unwrap_or_default(),
    };
    let name = setting.name;
    let value = setting.placeholder.replace('|', "\\|");
    writeln!(text, "| `{name}` `{value}` | {} | {environment} | {default} | {} |", given_in(setting), escaped(setting.help)).unwrap();
}

fn given_in(setting: &Setting) -> String {
    let reach = setting.reach;
    let places = [
        ("flag", reach.has_flag()),
        ("environment", reach.has_environment()),
        ("file", reach.is_in_file()),
        ("Secret", reach.is_in_secret()),
    ];
    places.into_iter().filter_map(|(place, is_one)| is_one.then_some(place)).collect::<Vec<_>>().join(", ")
}

fn form(setting: &Setting) -> &'static str {
    match setting.kind {
        Kind::Switch => "true or false",
        Kind::Duration => "a duration",
        Kind::Count => "a number, 0 or more",
        Kind::Text | Kind::Secret => "text",
    }
}

/// Prose in a cell: one line, and nothing in it that Markdown would take for its own.
fn escaped(prose: &str) -> String {
    prose.replace('\n', " ").replace('|', "\\|").replace('<', "&lt;").replace('>', "&gt;").replace('*', "\\*")
}
