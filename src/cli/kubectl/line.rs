//! What is run in a pod, and how a person would type it. Pure.
//!
//! In: the command line that was understood. Out: the same for the pod, without what says which pod; no secret is in it, since whatever is
//! run there stands in the audit log of the API server.

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Command};

use crate::cli::WITHOUT_EFFECT;
use crate::cli::trouble::Trouble;
use crate::config::{ApiServer, HandFlags};
use crate::kubernetes::OPERATOR;
use crate::kubernetes::pods::Agent;

/// What says which pod, and what has no effect anywhere; the token is a secret besides.
const NOT_FORWARDED: [&str; 10] =
    ["kubeconfig", "context", "namespace", "instance", "node-name", "etcd_token", "etcd_server", "log", "alsologtostderr", WITHOUT_EFFECT];

/// The command line for the pod: `verb` with all that was given and is meant there.
pub fn forwarded(verb: &Command, given: &ArgMatches) -> Result<Vec<String>, Trouble> {
    let (mut flags, mut names) = (Vec::new(), Vec::new());
    for arg in verb.get_arguments() {
        let id = arg.get_id().as_str();
        if NOT_FORWARDED.contains(&id) || given.value_source(id) != Some(ValueSource::CommandLine) {
            continue;
        }
        let Some(long) = arg.get_long() else {
            names.extend(texts(given, id));
            continue;
        };
        // A proxy may want a password.
        if HandFlags::is_secret(id) || (id == "etcd-s3-proxy" && texts(given, id).iter().any(|url| url.contains('@'))) {
            let sentence = format!("--{long} is not sent into a pod: what is run there stands in the audit log of the API server");
            return Err(Trouble::usage(sentence).because("the agent there has its own keys; leave it out"));
        }
        match arg.get_action() {
            ArgAction::SetTrue => flags.push(format!("--{long}")),
            ArgAction::Count => flags.extend((0..given.get_count(id)).map(|_| format!("--{long}"))),
            _ => flags.extend(texts(given, id).into_iter().map(|text| format!("--{long}={text}"))),
        }
    }
    let mut line = vec![OPERATOR.to_string(), verb.get_name().to_string()];
    line.append(&mut flags);
    if !names.is_empty() {
        line.push("--".into());
        line.append(&mut names);
    }
    Ok(line)
}

fn texts(given: &ArgMatches, id: &str) -> Vec<String> {
    given.get_raw(id).into_iter().flatten().map(|text| text.to_string_lossy().into_owned()).collect()
}

/// What a person would type to have the same.
pub fn typed(api: &ApiServer, agent: &Agent, line: &[String], on_terminal: bool) -> String {
    let kubeconfig = api.kubeconfig.as_ref().map(|path| format!("--kubeconfig {} ", quoted(&path.display().to_string())));
    let context = api.context.as_ref().map(|context| format!("--context {} ", quoted(context)));
    let (kubeconfig, context) = (kubeconfig.unwrap_or_default(), context.unwrap_or_default());
    let terminal = if on_terminal { "-it " } else { "" };
    let words: Vec<_> = line.iter().map(|word| quoted(word)).collect();
    let (namespace, pod, container) = (quoted(&agent.namespace), quoted(&agent.pod), quoted(&agent.container));
    format!("kubectl {kubeconfig}{context}exec {terminal}-n {namespace} {pod} -c {container} -- {}", words.join(" "))
}

/// One word to a shell.
fn quoted(word: &str) -> String {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    // zsh takes a word that begins with = for the name of a program.
    if !word.is_empty() && !word.starts_with('=') && word.chars().all(is_fine) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::pods::State;

    fn line(words: &[&str]) -> Result<Vec<String>, String> {
        let command = crate::cli::plugin();
        let given = command.clone().get_matches_from(["kubectl-etcd_snapshot"].iter().chain(words));
        let (verb, given) = given.subcommand().unwrap();
        forwarded(command.find_subcommand(verb).unwrap(), given).map_err(|trouble| trouble.shown())
    }

    fn joined(words: &[&str]) -> String {
        line(words).unwrap().join(" ")
    }

    #[test]
    fn what_was_given_goes_into_the_pod_without_what_says_which_pod() {
        assert_eq!(joined(&["save"]), "etcd-snapshot-operator save");
        assert_eq!(
            joined(&["list", "-n", "x", "--instance=y", "--node", "z", "-o", "json", "-vv"]),
            "etcd-snapshot-operator ls --output=json --verbose --verbose"
        );
        let given =
            joined(&["save", "--name", "a b", "--snapshot-compress", "--s3=false", "--s3-bucket=b", "--node-name=z", "--namespace=x"]);
        for part in ["--name=a b", "--etcd-snapshot-compress=true", "--etcd-s3=false", "--etcd-s3-bucket=b"] {
            assert!(given.contains(part), "{given}");
        }
        assert!(!given.contains("namespace") && !given.contains("node"), "{given}");
        assert_eq!(joined(&["ls", "--context", "prod", "--kubeconfig=/k"]), "etcd-snapshot-operator ls");
        assert_eq!(joined(&["delete", "a-1", "--yes", "--", "-b-2"]), "etcd-snapshot-operator delete --yes -- a-1 -b-2");
    }

    #[test]
    fn no_secret_goes_into_the_pod() {
        assert_eq!(joined(&["save", "--etcd-token", "hush", "--etcd-server=hush"]), "etcd-snapshot-operator save");
        for flag in ["--s3-secret-key=hush", "--etcd-s3-access-key=hush", "--s3-session-token=hush", "--s3-proxy=http://me:hush@proxy"] {
            let refused = line(&["save", flag]).unwrap_err();
            assert!(refused.contains("is not sent into a pod") && !refused.contains("hush"), "{refused}");
        }
    }

    #[test]
    fn the_line_can_be_typed_as_it_is_printed() {
        let agent = Agent {
            namespace: "backup".into(),
            pod: "eso-x".into(),
            instance: "eso".into(),
            node: "cp-1".into(),
            container: "agent".into(),
            state: State::Ready,
        };
        let words = ["save", "--name=it's $HOME", "", "a;b"].map(String::from);
        let end = r"kubectl exec -n backup eso-x -c agent -- save '--name=it'\''s $HOME' '' 'a;b'";
        let api = ApiServer::default();
        assert_eq!(typed(&api, &agent, &words, false), end);
        assert!(typed(&api, &agent, &words, true).starts_with("kubectl exec -it -n backup"));
        let other = ApiServer { kubeconfig: Some("/a b".into()), context: Some("prod".into()) };
        assert!(typed(&other, &agent, &words, false).starts_with("kubectl --kubeconfig '/a b' --context prod exec -n backup"));
        let printed = quoted("it's `id` \"x\" \\ *\n~");
        let shell = std::process::Command::new("sh").args(["-c", &format!("printf %s {printed}")]).output().unwrap();
        assert_eq!(String::from_utf8(shell.stdout).unwrap(), "it's `id` \"x\" \\ *\n~");
    }
}
