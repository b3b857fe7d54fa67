//! Flags in front of the verb, where K3s's own documentation shows them: `k3s etcd-snapshot --s3 --s3-bucket=b save`.
//!
//! In: the words of a command line. Out: the same with those flags behind the verb, where they are parsed; or, where that makes no sense,
//! the words as they were, for the parser to say what is wrong. Pure.

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args as _, Command};

use super::save::Save;

/// Moves them. Of a flag that is on both sides the one behind the verb counts, since it comes last.
pub fn behind_the_verb(words: Vec<OsString>) -> Vec<OsString> {
    let begins_with_a_flag = words.get(1).is_some_and(|word| word.as_encoded_bytes().starts_with(b"-"));
    if !begins_with_a_flag {
        return words;
    }
    let in_front = flags();
    let Ok(given) = in_front.clone().try_get_matches_from(&words) else { return words };
    let Some((verb, behind)) = given.subcommand() else { return words };
    let mut moved = vec![words[0].clone(), verb.into()];
    moved.extend(in_front.get_arguments().flat_map(|arg| again(arg, &given)));
    moved.extend(behind.get_many::<OsString>("").into_iter().flatten().cloned());
    moved
}

/// What K3s takes there, and kubectl: all that `save` takes, and the short form of the namespace.
fn flags() -> Command {
    let command = Save::augment_args(Command::new("in-front")).mut_arg("namespace", |namespace| namespace.short('n'));
    command.args_override_self(true).allow_external_subcommands(true)
}

/// A flag as it was given, in one word each time.
fn again(arg: &Arg, given: &ArgMatches) -> Vec<OsString> {
    let id = arg.get_id().as_str();
    let Some(long) = arg.get_long().filter(|_| given.value_source(id) == Some(ValueSource::CommandLine)) else { return Vec::new() };
    let alone = || OsString::from(format!("--{long}"));
    match arg.get_action() {
        ArgAction::SetTrue => vec![alone()],
        ArgAction::Count => vec![alone(); usize::from(given.get_count(id))],
        _ => given
            .get_raw(id)
            .into_iter()
            .flatten()
            .map(|text| {
                let mut word = alone();
                word.push("=");
                word.push(text);
                word
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(line: &str) -> String {
        let words = behind_the_verb(["x"].into_iter().chain(line.split_whitespace()).map(OsString::from).collect());
        words[1..].iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_stands_in_front_of_the_verb_is_meant_for_it() {
        assert_eq!(
            moved("--s3 --s3-bucket test --s3-access-key=key delete a-1 --yes b-2"),
            "delete --etcd-s3=true --etcd-s3-bucket=test --etcd-s3-access-key=key a-1 --yes b-2"
        );
        assert_eq!(
            moved("--s3=false -d /data -vv --debug --name n save"),
            "save --name=n --data-dir=/data --etcd-s3=false --verbose --verbose --debug"
        );
        assert_eq!(moved("--context prod -n backup ls -o json"), "ls --context=prod --namespace=backup -o json");
        // The last one counts, and that is the one behind the verb.
        assert_eq!(moved("--s3-bucket a --s3-bucket b save --s3-bucket c"), "save --etcd-s3-bucket=b --s3-bucket c");
    }

    #[test]
    fn what_makes_no_sense_stays_as_it_is() {
        for line in ["", "ls --s3", "--help", "--version", "--s3", "--no-such-flag ls", "--s3-bucket", "-h ls"] {
            assert_eq!(moved(line), line);
        }
    }
}
