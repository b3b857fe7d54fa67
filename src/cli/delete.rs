//! `delete`: named snapshots, in the directory and in the bucket.

use std::collections::BTreeSet;
use std::sync::Arc;

use clap::Args;

use super::hand::{Hand, by_hand};
use super::removing::{How, remove};
use super::start::Needs;
use super::terminal::{complain, note};
use super::trouble::Trouble;
use super::{FAILED, PARTLY, USAGE, start};
use crate::decide::Asked;
use crate::record::Record;
use crate::snapshot::{BaseName, ClusterId, FileName, NodeName, Storage};

/// At the end of `delete --help`.
pub const EXAMPLES: &str = "\
Examples:
  From the directory of this node and, with S3, from the bucket:
    etcd-snapshot-operator delete on-demand-cp-1-1752319252 --s3 --s3-bucket etcd

  Without an API server the bucket needs to be told whose snapshots may go:
    etcd-snapshot-operator delete on-demand-cp-1-1752319252 --s3 --s3-bucket etcd \\
      --cluster-id 0c5b8f0e-6d1c-4d0e-9a4c-3f6f0d1f2a11";

/// Delete snapshots by name, in the directory and in the bucket, with their sidecars and records.
///
/// Only what is proven to be this cluster's goes; what is from before a restore only with --take-over.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Delete {
    /// Names of snapshots, as ls shows them.
    #[arg(required = true)]
    names: Vec<String>,
    /// Whose objects may go, where no API server says it: the UID of the namespace kube-system.
    #[arg(long, value_name = "ID", value_parser = super::hand::cluster)]
    cluster_id: Option<ClusterId>,
    /// Count snapshots from before a restore of etcd as this cluster's own.
    #[arg(long)]
    take_over: bool,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    hand: Hand,
}

/// Deletes them.
pub fn delete(arguments: &Delete) -> u8 {
    let Delete { names, cluster_id, take_over, how, hand } = arguments;
    let names: BTreeSet<FileName> = match names.iter().map(|name| FileName::new(name)).collect() {
        Ok(names) => names,
        Err(error) => {
            complain(&Trouble::usage("delete takes names of snapshots, as ls shows them").because_of(&error));
            return USAGE;
        }
    };
    by_hand(hand, async |settings, stop| {
        let asked = (Asked::Delete { names: names.clone(), take_over: *take_over }, Needs::Nothing);
        let mut hand = start::start(&settings, &BaseName::default(), asked, &stop).await?;
        start::believe(&hand, cluster_id.as_ref())?;
        let removed = Box::pin(remove(&mut hand, *how, &stop)).await?;
        let code = removed.code;
        if code != super::DONE {
            start::say_whose(&hand, hand.shared().surroundings().cluster_of_records().is_some());
        }
        let elsewhere = hand.records().await.map(|records| elsewhere(&records, &names, &hand.shared().settings.node)).unwrap_or_default();
        hand.end().await;
        for (name, node) in &elsewhere {
            note(format!(
                "Snapshot {name} lies on node {node}, which this run does not reach: delete it there, or with --node {node} of kubectl etcd-snapshot"
            ));
        }
        let absent: BTreeSet<_> = names.difference(&removed.planned).filter(|_| removed.saw_all).collect();
        let unreached: BTreeSet<_> = elsewhere.iter().map(|(name, _)| name).collect();
        for name in absent.difference(&unreached) {
            // K3s's own words.
            note(format!("Snapshot {name} not found."));
        }
        Ok(match (code, absent.union(&unreached).count()) {
            (_, 0) => code,
            (super::DONE, _) if absent.len() < names.len() => PARTLY,
            (super::DONE, _) => FAILED,
            _ => code,
        })
    })
}

/// Which of these lie in the directories of other nodes, by their records.
fn elsewhere(records: &[Arc<Record>], names: &BTreeSet<FileName>, us: &NodeName) -> BTreeSet<(FileName, NodeName)> {
    let on_another = |record: &Arc<Record>| match (&record.storage, &record.file) {
        (Some(Storage::Local { node }), Some(name))
            if node != us && names.contains(name) && !record.is_failure() && !record.terminating =>
        {
            Some((name.clone(), node.clone()))
        }
        _ => None,
    };
    records.iter().filter_map(on_another).collect()
}
