//! The command line: one thin file a verb. Arguments in, exit code out.

mod crd;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Flags;

/// Keeps ETCDSnapshotFile records true to a directory and a bucket of etcd snapshots.
#[derive(Debug, Parser)]
#[command(name = "etcd-snapshot-operator", version, about, long_about = None)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the agent of one node: it checks every snapshot in the node's directory, lists the bucket when it leads, and keeps the records of
    /// both true.
    #[command(after_long_help = run::EXAMPLES)]
    Run(Flags),
    /// Print the CustomResourceDefinition of ETCDSnapshotFile as YAML, for kubectl apply -f -.
    ///
    /// K3s and RKE2 install their own at every start: do not apply this one there.
    Crd,
}

/// Done.
const DONE: u8 = 0;
/// Something failed.
const FAILED: u8 = 1;
/// The command line or a setting is wrong.
const USAGE: u8 = 2;

/// Does what the command line says.
pub fn main() -> ExitCode {
    match Arguments::parse().verb {
        Verb::Run(flags) => run::run(&flags),
        Verb::Crd => crd::crd(),
    }
    .into()
}
