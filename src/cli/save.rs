//! `save`: one snapshot now, from the member to the directory and to the bucket.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use clap::Args;

use super::hand::{Hand, by_hand_to_the_end};
use super::start::Needs;
use super::terminal::{self, note, print};
use super::trouble::Trouble;
use super::{DONE, FAILED, PARTLY, sending, start};
use crate::decide::Asked;
use crate::save::{Compressed, Progress, SaveError, Saved, Step, Tell};
use crate::snapshot::ClusterId;

/// At the end of `save --help`.
pub const EXAMPLES: &str = "\
Examples:
  On a node of kubeadm:
    etcd-snapshot-operator save --dir /var/lib/etcd-snapshot-operator/snapshots \\
      --etcd-cacert /etc/kubernetes/pki/etcd/ca.crt \\
      --etcd-cert /etc/kubernetes/pki/etcd/healthcheck-client.crt --etcd-key /etc/kubernetes/pki/etcd/healthcheck-client.key

  Compressed, and to a bucket as well:
    etcd-snapshot-operator save --name before-upgrade --snapshot-compress --s3 --s3-bucket etcd";

/// Save a snapshot of this node's etcd member now: checked, recorded, and uploaded if there is a bucket.
///
/// Nothing is pruned. It ends with 0 only when the snapshot is saved, checked and, with S3, in the bucket.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Save {
    /// Base name of the snapshot: it is called NAME-node-seconds.
    #[arg(long, value_name = "NAME", default_value = "on-demand")]
    name: String,
    /// Whose it is in the bucket, where no API server says it: the UID of the namespace kube-system, or another word that stays the same.
    #[arg(long, value_name = "ID", value_parser = super::hand::cluster)]
    cluster_id: Option<ClusterId>,
    #[command(flatten)]
    hand: Hand,
}

/// Saves it.
pub fn save(arguments: &Save) -> u8 {
    let Save { name, cluster_id, hand } = arguments;
    by_hand_to_the_end(hand, async |settings, stop| {
        let base = start::base(name)?;
        let mut hand = start::start(&settings, &base, (Asked::Nothing, Needs::Made), &stop).await?;
        start::believe(&hand, cluster_id.as_ref())?;
        let settings = &hand.shared().settings;
        let (compress, with_bucket) = (settings.compress, settings.s3.is_on());
        let saved = Box::pin(hand.save(&base, compress, progress())).await.map_err(|error| trouble(&error));
        terminal::progress_ended();
        let saved = saved?;
        // Who can be told no more, as when the terminal is gone, still wants it in the bucket.
        let told = print(&result(&saved));
        for failure in hand.left_out() {
            note(format_args!("what should stand beside it is left out: {failure}"));
        }
        if let Compressed::Failed(failure) = &saved.compressed {
            note(format!("it is not compressed: {failure}"));
        }
        if !saved.is_good() {
            note("it does not count as good: its member had no quorum, or an alarm; retention and uploads leave it alone");
        }
        let code = if with_bucket && saved.is_good() { Box::pin(up(&mut hand, &saved, &stop)).await } else { DONE };
        hand.end().await;
        told.map(|()| code)
    })
}

/// A snapshot that is saved stays saved, whatever becomes of its upload.
async fn up(hand: &mut crate::controller::by_hand::ByHand, saved: &Saved, stop: &tokio_util::sync::CancellationToken) -> u8 {
    match sending::send(hand, &BTreeSet::from([saved.file.clone()]), stop).await {
        Ok(sent) if sent.planned.contains(&saved.file) => {
            if sent.code == DONE {
                DONE
            } else {
                PARTLY
            }
        }
        // An agent of this node was faster, or nobody would keep it there.
        Ok(_) => match hand.is_in_bucket(&saved.file).await {
            Ok(true) => {
                note("it is in the bucket already: an agent of this node was faster");
                DONE
            }
            Ok(false) => {
                note("it is not uploaded: retention would keep none of it in the bucket, or it is not proven to be this cluster's; see ls");
                PARTLY
            }
            Err(failure) => {
                terminal::complain(&Trouble::failed("whether it is in the bucket cannot be known").because(failure.to_string()));
                PARTLY
            }
        },
        Err(trouble) => {
            terminal::complain(&trouble);
            start::say_whose(hand, hand.shared().surroundings().cluster_of_uploads().is_some());
            PARTLY
        }
    }
}

fn trouble(error: &SaveError) -> Trouble {
    let sentence = "no snapshot is saved";
    match error {
        SaveError::Busy { .. } | SaveError::Learner(_) => Trouble::refused(sentence).because_of(error),
        _ => Trouble { code: FAILED, ..Trouble::failed(sentence).because_of(error) },
    }
}

/// The result: K3s's line first, then what was learnt.
fn result(saved: &Saved) -> String {
    let mut text = format!("Snapshot {} saved.\n", saved.file);
    let digest = saved.manifest.file_sha256.map(|digest| digest.to_string()).unwrap_or_default();
    let facts = [
        ("size", format!("{} ({})", saved.size, terminal::bytes(saved.size))),
        ("revision", saved.facts.revision.to_string()),
        ("keys", saved.facts.live_keys.to_string()),
        ("sha256", digest),
    ];
    for (what, value) in facts {
        let _ = writeln!(text, "  {what:<9} {value}");
    }
    text
}

/// On a terminal: the step and its bytes. In a pipe nothing.
fn progress() -> Tell {
    if terminal::width_of_stderr().is_none() {
        return Arc::new(|_, _| ());
    }
    Arc::new(|step: Step, progress: Progress| match progress {
        Progress::Begun => terminal::progress(&step.to_string()),
        Progress::Bytes(bytes) => terminal::progress(&format!("{step} {}", terminal::bytes(bytes))),
        Progress::Ended { .. } => {}
    })
}
