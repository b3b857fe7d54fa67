//! `docs/commands.md`: made from the command line, and a test that fails when the page differs.

use std::fmt::Write as _;

use clap::Command;

use super::command;
use crate::config::HandFlags;

const HEADING: &str = "# Commands\n\n<!-- Made from src/cli: UPDATE=1 cargo test --locked --lib cli:: -->\n\nWhat `--help` prints, of the program and of each verb, without the settings. Those are in docs/settings.md; by hand `--s3-bucket` is `--etcd-s3-bucket`, and so for all of S3's, `--dir` is `--etcd-snapshot-dir`, `-c` is `--config` and `-d` is `--data-dir`, as in K3s. Flags may stand in front of the verb, as K3s's own page shows them: `etcd-snapshot-operator --s3 --s3-bucket=etcd save`.\n\n## kubectl etcd-snapshot\n\nLinked as `kubectl-etcd_snapshot` into a folder of `PATH`, the same program is `kubectl etcd-snapshot`. Where neither a flag nor the environment names an etcd or a directory (`--etcd-endpoint`, `--etcd-host`, `--dir`, `--data-dir`), `save`, `ls`, `delete`, `prune` and `upload` run in the pod of an agent: that of `--node`, of the only one, or for `ls` of all. `-n NAMESPACE` and `--instance RELEASE` choose one release of several, `--context` and `--kubeconfig` another cluster, as for kubectl, in front of the verb or behind it. The settings are those of the agent; what is given besides is meant in the pod, paths too, and keys are not sent there. `get` needs the bucket alone and runs here.\n\nIt takes `list` on `pods`, and `create` and `get` on `pods/exec`, in the namespace of the agents; a refusal says which one is missing and prints the line of `kubectl exec` for somebody who has it. The exit code is that of the verb in the pod. A connection that is lost does not stop a `save` that has begun there, and Ctrl-C without a terminal stops nothing: `ls` shows what became of it.\n";

#[test]
fn the_documentation_agrees_with_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/commands.md");
    let fresh = page();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &fresh).unwrap();
    } else {
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert!(page == fresh, "docs/commands.md is not what the code says; UPDATE=1 cargo test --locked --lib cli:: writes it anew");
    }
}

fn without_settings(command: Command) -> Command {
    command.mut_args(|arg| if HandFlags::group(arg.get_id().as_str()).is_some() { arg.hide(true) } else { arg })
}

fn page() -> String {
    let mut page = HEADING.to_string();
    let mut command = command().disable_help_subcommand(true).term_width(120);
    command.build();
    let name = command.get_name().to_string();
    let verbs: Vec<_> = command.get_subcommands().map(|verb| (format!("{name} {}", verb.get_name()), verb.clone())).collect();
    for (name, command) in [(name, command)].into_iter().chain(verbs) {
        let help = without_settings(command).term_width(120).render_long_help().to_string();
        let help = help.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
        write!(page, "\n## {name}\n\n```text\n{}\n```\n", help.trim_end()).unwrap();
    }
    page
}
