//! The command line: one thin file a verb. Arguments in, exit code out.
//!
//! * `run` the agent
//! * `save`, `ls`, `get`, `delete`, `prune`, `upload` by hand, with K3s's names; `hand` has what they have in common, `around` what they find around them
//! * `kubectl` runs a verb in the pod of an agent, as `kubectl etcd-snapshot`
//! * `ready` asks an agent how it is
//! * `in_front` takes flags that stand before the verb
//! * `crd`, `completion`, `man` print what belongs to the program
//! * `trouble` why a verb failed; `terminal` what is shown, and to whom

mod around;
mod completion;
mod crd;
mod delete;
#[cfg(test)]
mod documented;
mod forget;
mod get;
mod hand;
mod in_front;
mod kubectl;
mod ls;
mod man;
#[cfg(test)]
mod named;
mod prune;
mod ready;
mod removing;
mod run;
mod save;
mod sending;
mod start;
mod terminal;
mod trouble;
mod upload;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::builder::StyledStr;
use clap::{Arg, Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::config::{Flags, HandFlags};

/// Saves, checks and keeps the snapshots of an etcd, in a directory and in a bucket, each with a true record.
#[derive(Debug, Parser)]
#[command(name = "etcd-snapshot-operator", version, about, long_about = None, after_help = EXIT_CODES, max_term_width = 120)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the agent of one node: it saves on schedule, checks every snapshot in the node's directory, uploads, applies retention, and
    /// keeps the records of directory and bucket true.
    #[command(after_long_help = run::EXAMPLES)]
    Run(Box<Flags>),
    Save(Box<save::Save>),
    #[command(visible_aliases = ["list", "l"])]
    Ls(Box<ls::Ls>),
    Get(Box<get::Get>),
    Delete(Box<delete::Delete>),
    Prune(Box<prune::Prune>),
    Upload(Box<upload::Upload>),
    Ready(ready::Ready),
    /// Print the CustomResourceDefinition of ETCDSnapshotFile as YAML, for kubectl apply -f -.
    ///
    /// K3s and RKE2 install their own at every start: do not apply this one there.
    Crd,
    Completion(completion::Completion),
    Man(man::Man),
}

/// Done.
const DONE: u8 = 0;
/// Something failed.
const FAILED: u8 = 1;
/// The command line or a setting is wrong.
const USAGE: u8 = 2;
/// Some of it was done.
const PARTLY: u8 = 3;
/// It could be done, and should not.
const REFUSED: u8 = 4;

/// At the end of every help.
const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 failed; 2 the command line or a setting is wrong; 3 partly done; 4 refused for safety; 128 and a signal's number (130 \
after Ctrl-C) when ended by one.";

/// The whole command line. Of the flags that all verbs by hand take for K3s's sake, each verb's help shows those that do something.
fn command() -> Command {
    Arguments::command()
        .mut_subcommands(|verb| {
            let without = without_effect(verb.get_name());
            verb.mut_args(|arg| shown_for(arg, without))
        })
        .mut_subcommands(as_in_k3s)
        .mut_subcommands(with_exit_codes)
}

/// The flag of K3s's base name, where it has no effect.
const WITHOUT_EFFECT: &str = "name-without-effect";

/// Of a flag that is repeated the last one counts, and all verbs by hand take `--name`.
fn as_in_k3s(verb: Command) -> Command {
    let name = Arg::new(WITHOUT_EFFECT).long("name").value_name("NAME").hide(true).help("Accepted for K3s's sake.");
    let verb = match verb.get_name() {
        "ls" | "get" | "delete" | "upload" => verb.arg(name).arg(server_name()),
        "save" | "prune" => verb.arg(server_name()),
        _ => verb,
    };
    verb.args_override_self(true)
}

/// A flag of K3s's server, which its page about snapshots shows beside those that can be given by hand.
fn server_name() -> Arg {
    let refused = |_: &str| Err::<String, _>("that is the agent's; by hand the base name is given with --name");
    Arg::new("server-name").long("etcd-snapshot-name").value_name("NAME").hide(true).value_parser(refused)
}

fn with_exit_codes(verb: Command) -> Command {
    let below = |text: Option<&StyledStr>| text.map_or(EXIT_CODES.to_string(), |text| format!("{text}\n\n{EXIT_CODES}"));
    let (short, long) = (below(verb.get_after_help()), below(verb.get_after_long_help().or(verb.get_after_help())));
    verb.after_help(short).after_long_help(long)
}

/// The settings that do nothing for a verb by hand: by their names, or by the headings that they have in the help.
fn without_effect(verb: &str) -> &'static [&'static str] {
    match verb {
        "save" => {
            &["etcd-snapshot-schedule-cron", "etcd-snapshot-timezone", "etcd-snapshot-jitter", "schedule-scope", "etcd-disable-snapshots"]
        }
        "ls" => &["Schedule", "Retention"],
        "get" => &["Schedule", "Retention", "etcd"],
        "delete" | "prune" | "upload" => &["Schedule"],
        _ => &[],
    }
}

fn shown_for(arg: Arg, without: &[&str]) -> Arg {
    let id = arg.get_id().as_str();
    let hide = HandFlags::group(id).is_some_and(|group| without.contains(&group) || without.contains(&id));
    if hide { arg.hide(true) } else { arg }
}

/// As a plugin of kubectl: the verbs by hand, called as people call them there.
fn plugin() -> Command {
    let of_the_agent = |verb: Command| if matches!(verb.get_name(), "run" | "crd" | "ready") { verb.hide(true) } else { verb };
    command().bin_name("kubectl etcd-snapshot").mut_subcommands(of_the_agent).mut_subcommands(kubectl::with_flags)
}

/// Whether kubectl called us: it takes a program of this name for its verb `etcd-snapshot`.
fn is_plugin(program: Option<OsString>) -> bool {
    program.is_some_and(|program| Path::new(&program).file_name().is_some_and(|name| name == "kubectl-etcd_snapshot"))
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let is_plugin = is_plugin(std::env::args_os().next());
    let command = if is_plugin { plugin() } else { command() };
    let given = command.clone().get_matches_from(in_front::behind_the_verb(std::env::args_os().collect()));
    if let Some(code) = is_plugin.then(|| kubectl::in_pod(&command, &given)).flatten() {
        return code.into();
    }
    if given.subcommand().is_some_and(|(_, given)| given.try_contains_id(WITHOUT_EFFECT).unwrap_or_default()) {
        terminal::note("--name does nothing here: it is the base name of what save saves and prune prunes");
    }
    let arguments = Arguments::from_arg_matches(&given).unwrap_or_else(|error| error.exit());
    match arguments.verb {
        Verb::Run(flags) => run::run(&flags),
        Verb::Save(arguments) => save::save(&arguments),
        Verb::Delete(arguments) => delete::delete(&arguments),
        Verb::Prune(arguments) => prune::prune(&arguments),
        Verb::Upload(arguments) => upload::upload(*arguments),
        Verb::Ls(arguments) => ls::ls(&arguments),
        Verb::Get(arguments) => get::get(*arguments),
        Verb::Ready(arguments) => ready::ready(&arguments),
        Verb::Crd => crd::crd(),
        Verb::Completion(arguments) => completion::completion(&arguments),
        Verb::Man(arguments) => man::man(&arguments),
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_token_is_kept_and_none_is_shown() {
        let line = ["etcd-snapshot-operator", "ls", "--etcd-token=hush", "--s3-secret-key=hush", "--log=hush"];
        let arguments = Arguments::from_arg_matches(&command().get_matches_from(line)).unwrap();
        assert!(!format!("{arguments:?}").contains("hush"));
    }

    #[test]
    fn as_a_plugin_of_kubectl_it_is_called_so() {
        assert!(is_plugin(Some("/usr/local/bin/kubectl-etcd_snapshot".into())));
        assert!(!is_plugin(Some("/etcd-snapshot-operator".into())) && !is_plugin(None));
        let help = plugin().render_help().to_string();
        assert!(help.contains("Usage: kubectl etcd-snapshot <COMMAND>") && !help.contains("Run the agent"), "{help}");
    }

    #[test]
    fn all_verbs_by_hand_take_what_k3s_takes_and_the_last_of_a_flag_counts() {
        for line in ["save", "ls", "get --latest", "delete x", "prune", "upload --missing"] {
            let given =
                "--name a --name b --snapshot-compress --snapshot-compress=false --s3-bucket=c --s3-bucket=d --s3-timeout=1s -d /x -c /y";
            let words = ["etcd-snapshot-operator"].into_iter().chain(line.split(' ')).chain(given.split(' '));
            let given = command().try_get_matches_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
            let flags = HandFlags::from_arg_matches(given.subcommand().unwrap().1).unwrap().0;
            assert_eq!((flags.get("etcd-s3-bucket"), flags.get("etcd-snapshot-compress")), (Some("d"), Some("false")), "{line}");
        }
        let given = command().get_matches_from(["etcd-snapshot-operator", "delete", "a", "b", "-v", "-v"]);
        let Ok(Arguments { verb: Verb::Delete(delete) }) = Arguments::from_arg_matches(&given) else { panic!("{given:?}") };
        let text = format!("{delete:?}");
        assert!(text.contains(r#"names: ["a", "b"]"#) && text.contains("verbose: 2"), "{text}");
    }

    #[test]
    fn each_verb_shows_the_settings_that_do_something_for_it_and_takes_them_all() {
        let help = |verb: &str| command().find_subcommand_mut(verb).unwrap().render_long_help().to_string();
        for (verb, shown, hidden) in [
            ("save", "--etcd-snapshot-compress", "--etcd-snapshot-schedule-cron"),
            ("ls", "--etcd-cacert", "--etcd-snapshot-retention"),
            ("get", "--etcd-s3-bucket", "--etcd-endpoint"),
            ("prune", "--etcd-snapshot-retention", "--etcd-snapshot-jitter"),
            ("run", "--etcd-snapshot-jitter", "--context"),
        ] {
            let help = help(verb);
            assert!(help.contains(shown) && !help.contains(hidden), "{verb}: {help}");
        }
    }

    #[test]
    fn the_base_name_of_the_agent_is_refused_by_hand_with_the_flag_that_is_meant() {
        for verb in ["save", "ls", "get", "delete", "prune", "upload"] {
            let refused = command().try_get_matches_from(["etcd-snapshot-operator", verb, "--etcd-snapshot-name=x"]).unwrap_err();
            assert!(refused.to_string().contains("by hand the base name is given with --name"), "{refused}");
        }
    }

    #[test]
    fn clap_finds_nothing_wrong_with_the_command_line() {
        command().debug_assert();
    }
}
