//! `get`: brings a snapshot from the bucket, verified, ready to be restored.
//!
//! It needs the settings of S3 and nothing else. What it leaves under a snapshot's name was read to its end and matches its own digest.

mod bring;
mod choose;
mod progress;
mod restore;
mod target;

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;

use self::bring::{Brought, Order, bring, gone};
use super::around::{self, Kubernetes};
use super::hand::{Hand, by_hand, cluster as cluster_of, unless_stopped};
use super::terminal::{self, note, print};
use super::trouble::Trouble;
use super::{DONE, PARTLY};
use crate::config::HandSettings;
use crate::snapshot::{ClusterId, FileName, Inventory, NodeName};
use crate::storage::local::Directory;
use crate::storage::s3::Bucket;
use crate::storage::s3::download::Found;
use crate::storage::{Listed, Memory, Store as _};

/// At the end of `get --help`.
pub const EXAMPLES: &str = "\
Examples:
  The newest good snapshot of this cluster, into the present directory:
    etcd-snapshot-operator get --latest --s3-endpoint minio.example.com --s3-bucket etcd --s3-folder prod

  A certain one, to a node that has nothing yet; the keys come from the environment:
    AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=... etcd-snapshot-operator get etcd-snapshot-cp-1-1752319252.zip \\
      --s3-bucket etcd --to /var/lib/etcd-backup

  Of one of the clusters that share a bucket:
    etcd-snapshot-operator get --latest --cluster-id 0c5b8f0e-6d1c-4d0e-9a4c-3f6f0d1f2a11 --s3-bucket etcd

What was downloaded in part is kept beside the target in a hidden file, and the same command again goes on from there.";

/// Get a snapshot from the bucket: download it, verify it, unpack it, and say how to restore it.
///
/// Only a snapshot that was read to its end and matches its own SHA-256 gets its name; nothing that is there is replaced.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Get {
    /// Name of the snapshot, as ls shows it.
    #[arg(required_unless_present = "latest")]
    name: Option<String>,
    /// Take the newest good snapshot of this cluster.
    #[arg(long, conflicts_with = "name")]
    latest: bool,
    /// Whose snapshots count: the UID of the namespace kube-system of the cluster.
    ///
    /// Without it: what the API server says, else what the agent of this node remembered, else the only cluster that has snapshots in the
    /// bucket.
    #[arg(long, value_name = "ID", value_parser = cluster_of)]
    cluster_id: Option<ClusterId>,
    /// Directory to bring it to.
    #[arg(long, value_name = "DIR", default_value = ".")]
    to: PathBuf,
    /// Leave a compressed snapshot as the zip archive that it is.
    #[arg(long)]
    keep_zip: bool,
    #[command(flatten)]
    hand: Hand,
}

/// Brings it.
pub fn get(arguments: Get) -> u8 {
    let Get { name, latest: _, cluster_id: asked, to, keep_zip, hand } = arguments;
    let name = match name.map(|name| FileName::new(&name)).transpose() {
        Ok(name) => name,
        Err(error) => {
            terminal::complain(&Trouble::usage("get takes the name of a snapshot, as ls shows it").because_of(&error));
            return super::USAGE;
        }
    };
    by_hand(&hand.with_bucket(), async |settings: HandSettings, stop| {
        let asked = async {
            let needs_kubernetes = settings.s3()?.config_secret().is_some() || (name.is_none() && asked.is_none());
            let kubernetes = if needs_kubernetes { Kubernetes::ask(&settings).await? } else { Kubernetes::Nowhere };
            let access = around::bucket(&settings, &kubernetes).await?;
            let access = access.ok_or_else(|| Trouble::usage("there is no bucket: S3 is turned off"))?;
            let node = around::node(&settings)?;
            let cluster = if name.is_some() { None } else { asked.clone().or_else(|| cluster(&settings, &kubernetes, &node)) };
            let bucket = match cluster.clone() {
                Some(cluster) => Bucket::new(&access, cluster, around::nobody()).await,
                None => Bucket::of_everyone(&access, around::nobody()).await,
            };
            let bucket = bucket.map_err(|error| Trouble::from(error.failure()))?;
            let (name, code) = match &name {
                Some(name) => (name.clone(), DONE),
                None => latest(&bucket, cluster.as_ref(), &node).await?,
            };
            let found = bucket.find(&name).await.map_err(|error| Trouble::from(error.failure()))?.ok_or_else(|| gone(&bucket, &name))?;
            check_cluster(&found, asked.as_ref())?;
            found.fault.iter().for_each(note);
            Ok((bucket, found, node, code))
        };
        let (bucket, found, node, code) = Box::pin(unless_stopped(&stop, asked)).await?;
        let snapshot_dir = settings.snapshot_dir().ok();
        let order = Order { to: directory(&to)?, keep_zip, snapshot_dir, node };
        let brought = bring(&bucket, found, &order, &stop).await?;
        print(&result(&brought))?;
        Ok(code)
    })
}

/// The directory, absolute, so that what is printed can be typed anywhere.
fn directory(to: &std::path::Path) -> Result<PathBuf, Trouble> {
    match to.canonicalize() {
        Ok(path) if path.is_dir() => Ok(path),
        Ok(path) => Err(Trouble::failed(format!("{} is not a directory: name one with --to", target::shown(&path)))),
        Err(error) => Err(Trouble::failed(format!("there is no directory {}: make it, or name another one with --to", target::shown(to)))
            .because_of(&error)),
    }
}

/// Whose cluster this is, as far as anybody tells.
fn cluster(settings: &HandSettings, kubernetes: &Kubernetes, node: &NodeName) -> Option<ClusterId> {
    if let Some(cluster) = kubernetes.cluster() {
        return Some(cluster.clone());
    }
    if let Some(failure) = kubernetes.failure() {
        note(format_args!("the API server does not say whose cluster this is: {failure}"));
    }
    let remembered = Directory::read_only(settings.snapshot_dir().ok()?, node.clone()).ok()?.remembered_cluster().ok()??;
    note(format_args!("the agent of this node remembered cluster {}", terminal::harmless(remembered.as_str())));
    Some(remembered)
}

/// Lists the bucket and chooses.
async fn latest(bucket: &Bucket, cluster: Option<&ClusterId>, node: &NodeName) -> Result<(FileName, u8), Trouble> {
    let Listed { inventory, failures } = bucket.list(&Memory::new()).await;
    if let Some(failure) = inventory.failure() {
        let sentence = match inventory {
            Inventory::Partial(..) => "the bucket was not seen whole, so nobody knows which snapshot is the latest: get one by its name",
            _ => "the bucket cannot be listed",
        };
        return Err(Trouble::failed(sentence).because_of(failure));
    }
    failures.iter().for_each(note);
    let latest = choose::latest(bucket.storage(), inventory.seen(), cluster, node, Timestamp::now())?;
    latest.notes.iter().for_each(note);
    let unseen = inventory.seen().values().filter(|file| file.known.is_none()).count();
    if unseen > 0 {
        note(format_args!("{unseen} could not be looked into, and may be newer"));
    }
    Ok((latest.file.name.clone(), if unseen > 0 { PARTLY } else { DONE }))
}

fn check_cluster(found: &Found, asked: Option<&ClusterId>) -> Result<(), Trouble> {
    let of = found.file.known.as_ref().and_then(|known| known.cluster.as_ref());
    match (asked, of) {
        (Some(asked), Some(of)) if asked != of => Err(Trouble::refused(format!(
            "{} is of cluster {}, and not of {}",
            found.file.name,
            terminal::harmless(of.as_str()),
            terminal::harmless(asked.as_str())
        ))
        .because("leave --cluster-id out to get it all the same")),
        (Some(asked), None) => {
            note(format_args!("{} does not tell whether it is of cluster {}", found.file.name, terminal::harmless(asked.as_str())));
            Ok(())
        }
        _ => Ok(()),
    }
}

/// What is printed.
fn result(brought: &Brought) -> String {
    let Brought { path, found, digests, was_here } = brought;
    let mut text = String::new();
    let mut line = |name: &str, value: String| _ = writeln!(text, "{name:<9} {value}");
    let is_here = if *was_here { "was here already and is whole" } else { "is here and whole" };
    line("Snapshot", format!("{} {is_here}", found.file.name));
    line("File", target::shown(path));
    if let Some(size) = digests.file_size {
        line("Size", format!("{size} bytes ({})", terminal::bytes(size)));
    }
    line("Taken", format!("{:.0}", found.file.name.created_at(found.file.modified)));
    if let Some(sha256) = digests.file_sha256 {
        line("SHA-256", sha256.to_string());
    }
    if let Some(known) = &found.file.known {
        for (name, key) in [("Revision", "revision"), ("Keys", "live-keys"), ("etcd", "etcd-version")] {
            if let Some(value) = known.manifest.rest.get(key) {
                line(name, terminal::harmless(value));
            }
        }
        if let Some(node) = known.node.as_ref().or(known.manifest.node.as_ref()) {
            line("Node", node.to_string());
        }
        if let Some(cluster) = &known.cluster {
            line("Cluster", terminal::harmless(cluster.as_str()));
        }
    }
    let ways = restore::restore(path, found.file.known.as_ref(), found.program);
    for (number, way) in ways.iter().enumerate() {
        let or = if number == 0 { "Restore it" } else { "Or" };
        let _ = write!(text, "\n{or} ({}):\n  {}\n", way.when, way.command);
    }
    text
}
