//! Whoever copies a line from a page at three in the morning must not find that it never worked: every verb, flag, setting and
//! metric that a page, an alert or the dashboard names has to be there.

use std::collections::BTreeSet;
use std::path::Path;

use super::command;

/// Every page with its path, and what is shown to Prometheus and Grafana.
fn pages() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let chart = root.join("charts/etcd-snapshot-operator");
    let folders =
        [root.into(), root.join("docs"), root.join("docs/runbooks"), chart.clone(), chart.join("alerts"), chart.join("dashboards")];
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
    let is_page = |path: &std::path::PathBuf| path.extension().is_some_and(|kind| ["md", "yaml", "json"].iter().any(|page| kind == *page));
    files.filter(is_page).map(|path| (path.display().to_string(), std::fs::read_to_string(path).unwrap())).collect()
}

/// The words of which `is` is true, wherever in the text they stand.
fn words<'a>(text: &'a str, is: impl Fn(char) -> bool + 'a) -> impl Iterator<Item = &'a str> {
    text.split(move |letter| !is(letter)).filter(|word| !word.is_empty())
}

/// The command lines in a text: from the program's name to the end of the code, or to what the shell does with its output.
fn lines_typed(text: &str) -> Vec<String> {
    let text = text.replace("\\\n", " ");
    let programs = ["etcd-snapshot-operator ", "kubectl etcd-snapshot "];
    let begin = |line: &str| {
        programs.iter().flat_map(|program| line.match_indices(*program).map(|(at, found)| at + found.len())).collect::<Vec<_>>()
    };
    let typed = |line: &str| line.split(['`', '|', ';', '#', '>', ')', '…']).next().unwrap_or_default().to_owned();
    text.lines().flat_map(|line| begin(line).into_iter().map(|at| typed(&line[at..])).collect::<Vec<_>>()).collect()
}

#[test]
fn every_flag_that_a_page_types_is_one_of_its_verb() {
    let mut command = command();
    command.build();
    let mut checked = BTreeSet::new();
    for (page, text) in pages() {
        for line in lines_typed(&text) {
            let mut given = line.split_whitespace();
            let Some(verb) = given.next().and_then(|word| command.find_subcommand(word)) else { continue };
            let flags: BTreeSet<&str> =
                verb.get_arguments().flat_map(|arg| arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default())).collect();
            for flag in given.filter_map(|word| word.strip_prefix("--")) {
                let flag = flag.split('=').next().unwrap_or_default().trim_end_matches(['.', ',', ':']);
                assert!(flag.is_empty() || flags.contains(flag), "{page}: `{line}`: {} has no --{flag}", verb.get_name());
                checked.insert(format!("{} --{flag}", verb.get_name()));
            }
        }
    }
    assert!(checked.len() > 20, "they were not found any more: {checked:?}");
}

#[test]
fn every_metric_and_setting_that_a_page_names_is_there() {
    let documented = |page: &str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page)).unwrap();
    let named_first = |page: String| {
        page.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split('`').next()?.to_owned())).collect::<BTreeSet<_>>()
    };
    // Both are made from the code, and compared with it elsewhere.
    let (metrics, settings) = (named_first(documented("metrics.md")), named_first(documented("settings.md")));
    let (mut of_metrics, mut of_settings) = (0, 0);
    for (page, text) in pages() {
        for word in words(&text, |letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_') {
            let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end));
            let is_metric = word.starts_with("etcd_snapshot_") && !word.starts_with("etcd_snapshot_operator") && !word.ends_with('_');
            assert!(
                !is_metric || metrics.contains(word) || of_histogram.is_some_and(|word| metrics.contains(word)),
                "{page}: there is no metric {word}"
            );
            of_metrics += usize::from(is_metric);
        }
        for word in words(&text, |letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || ".-".contains(letter)) {
            let Some(setting) = word.strip_prefix("settings.").map(|word| word.trim_end_matches('.')) else { continue };
            // The end of a sentence, and of the page's own name.
            if ["", "md"].contains(&setting) {
                continue;
            }
            assert!(settings.contains(setting), "{page}: there is no setting {setting}");
            of_settings += 1;
        }
    }
    assert!(of_metrics > 100 && of_settings > 10, "they were not found any more: {of_metrics} and {of_settings}");
}
