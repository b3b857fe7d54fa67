//! `prune`: the agent's own retention, once, without its brake.

use clap::Args;

use super::forget::forget;
use super::hand::{Hand, by_hand};
use super::removing::{How, remove};
use super::start;
use super::start::Needs;
use super::terminal::note;
use crate::decide::Asked;

/// At the end of `prune --help`.
pub const EXAMPLES: &str = "\
Examples:
  What retention would delete of the scheduled snapshots, here and in the bucket:
    etcd-snapshot-operator prune --name etcd-snapshot --dry-run --etcd-snapshot-retention 5

  Let it, though it is more at once than an agent deletes by itself:
    etcd-snapshot-operator prune --name etcd-snapshot

  After a restore: let snapshots of the history before it go, too:
    etcd-snapshot-operator prune --name etcd-snapshot --take-over

  S3 was turned off, or is another bucket now; the records of the old one still stand there:
    etcd-snapshot-operator prune --forget-storage s3://etcd/prod";

/// Apply retention to the snapshots of one base name, in the directory and in the bucket.
///
/// It deletes what an agent would, and has no brake: who runs it has looked. The newest good snapshot never goes.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Prune {
    /// Base name of the snapshots; those on schedule have etcd-snapshot.
    #[arg(long, value_name = "NAME", default_value = "on-demand")]
    name: String,
    /// Count snapshots from before a restore of etcd as this cluster's own.
    #[arg(long)]
    take_over: bool,
    /// Delete the records of a bucket that no agent is configured for any more, and no snapshot: s3://BUCKET/FOLDER as ls shows it.
    #[arg(long, value_name = "BUCKET", conflicts_with_all = ["name", "take_over"], value_parser = clap::builder::NonEmptyStringValueParser::new())]
    forget_storage: Option<String>,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    hand: Hand,
}

/// Prunes.
pub fn prune(arguments: &Prune) -> u8 {
    let Prune { name, take_over, forget_storage, how, hand } = arguments;
    by_hand(hand, async |settings, stop| {
        if let Some(storage) = forget_storage {
            let mut hand = start::start(&settings, &start::base(name)?, (Asked::Nothing, Needs::Records), &stop).await?;
            let code = Box::pin(forget(&mut hand, storage, *how, &stop)).await?;
            hand.end().await;
            return Ok(code);
        }
        let asked = (Asked::Prune { take_over: *take_over }, Needs::Nothing);
        let mut hand = start::start(&settings, &start::base(name)?, asked, &stop).await?;
        let removed = Box::pin(remove(&mut hand, *how, &stop)).await?;
        if removed.planned.is_empty() && removed.code == super::DONE {
            note(format!("there is nothing to delete of {name}"));
        }
        hand.end().await;
        Ok(removed.code)
    })
}
