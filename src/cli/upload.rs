//! `upload`: puts back what the bucket lost, or brings named snapshots there.

use std::collections::BTreeSet;

use clap::Args;

use super::hand::{Hand, by_hand};
use super::terminal::note;
use super::trouble::Trouble;
use super::{USAGE, around, sending, start, terminal};
use crate::decide::Asked;
use crate::snapshot::{BaseName, FileName};

/// At the end of `upload --help`.
pub const EXAMPLES: &str = "\
Examples:
  Everything that this node has and the bucket lost, or never got:
    etcd-snapshot-operator upload --missing --s3-bucket etcd --s3-folder prod";

/// Upload snapshots of this node's directory that the bucket lacks, also those that it once had.
///
/// Only what is good, this cluster's, and what retention would keep there goes up. Nothing there is replaced.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Upload {
    /// Names of snapshots, as ls shows them.
    #[arg(required_unless_present = "missing", conflicts_with = "missing")]
    names: Vec<String>,
    /// All that the bucket lacks and would keep.
    #[arg(long)]
    missing: bool,
    #[command(flatten)]
    hand: Hand,
}

/// Uploads them.
pub fn upload(arguments: Upload) -> u8 {
    let Upload { names, missing: _, hand } = arguments;
    let only: BTreeSet<FileName> = match names.iter().map(|name| FileName::new(name)).collect() {
        Ok(names) => names,
        Err(error) => {
            terminal::complain(&Trouble::usage("upload takes names of snapshots, as ls shows them").because_of(&error));
            return USAGE;
        }
    };
    by_hand(&hand.with_bucket(), async |settings, stop| {
        let settings = settings.run(around::node(&settings)?, &BaseName::default())?;
        let mut hand = start::start(settings, Asked::Nothing, &stop).await?;
        let sent = Box::pin(sending::send(&mut hand, &only, &stop)).await?;
        hand.end().await;
        for name in only.iter().filter(|name| !sent.planned.contains(*name)) {
            note(format!("{name} does not go up: it is not here, not good, there already, or more than retention keeps; see ls"));
        }
        if sent.planned.is_empty() && only.is_empty() {
            note("the bucket lacks nothing that it would keep");
        }
        let left_out = only.iter().any(|name| !sent.planned.contains(name));
        Ok(if left_out && sent.code == super::DONE { super::PARTLY } else { sent.code })
    })
}
