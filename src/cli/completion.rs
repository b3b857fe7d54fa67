//! `completion`: prints what completes the command line in a shell.

use clap::{Args, ValueEnum};
use clap_complete::Shell;

use super::terminal::{complain, print};
use super::{DONE, command};

/// At the end of `completion --help`.
const EXAMPLES: &str = "\
Examples:
  etcd-snapshot-operator completion bash > /etc/bash_completion.d/etcd-snapshot-operator
  etcd-snapshot-operator completion zsh > \"${fpath[1]}/_etcd-snapshot-operator\"
  etcd-snapshot-operator completion fish > ~/.config/fish/completions/etcd-snapshot-operator.fish";

/// Print what completes this command line in a shell.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Completion {
    /// The shell.
    shell: Kind,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Bash,
    Zsh,
    Fish,
}

/// Prints it.
pub fn completion(arguments: &Completion) -> u8 {
    let shell = match arguments.shell {
        Kind::Bash => Shell::Bash,
        Kind::Zsh => Shell::Zsh,
        Kind::Fish => Shell::Fish,
    };
    let (mut command, mut script) = (command(), Vec::new());
    let name = command.get_name().to_string();
    clap_complete::generate(shell, &mut command, name, &mut script);
    match print(&String::from_utf8_lossy(&script)) {
        Ok(()) => DONE,
        Err(trouble) => {
            complain(&trouble);
            trouble.code
        }
    }
}
