//! `upload`: puts back what the bucket lost, or brings named snapshots there.

use std::collections::BTreeSet;

use clap::Args;

use super::hand::{Hand, by_hand};
use super::start::Needs;
use super::terminal::note;
use super::trouble::Trouble;
use super::{USAGE, sending, start, terminal};
use crate::decide::Asked;
use crate::snapshot::{BaseName, ClusterId, FileName};

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
    /// Whose they are in the bucket, where no API server says it: the UID of the namespace kube-system, or another word that stays the same.
    #[arg(long, value_name = "ID", value_parser = super::hand::cluster)]
    cluster_id: Option<ClusterId>,
    #[command(flatten)]
    hand: Hand,
}

/// Uploads them.
pub fn upload(arguments: Upload) -> u8 {
    let Upload { names, missing: _, cluster_id, hand } = arguments;
    let only: BTreeSet<FileName> = match names.iter().map(|name| FileName::new(name)).collect() {
        Ok(names) => names,
        Err(error) => {
            terminal::complain(&Trouble::usage("upload takes names of snapshots, as ls shows them").because_of(&error));
            return USAGE;
        }
    };
    by_hand(&hand.with_bucket(), async |settings, stop| {
        let mut hand = start::start(&settings, &BaseName::default(), (Asked::Nothing, Needs::There), &stop).await?;
        start::believe(&hand, cluster_id.as_ref())?;
        let sent = Box::pin(sending::send(&mut hand, &only, &stop)).await;
        if sent.is_err() {
            start::say_whose(&hand, hand.shared().surroundings().cluster_of_uploads().is_some());
        }
        let sent = sent?;
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
