//! Looks at the directory, the bucket and the records: each by itself, so that none keeps the others from being seen.
//!
//! In: the settings. Out: rows, what somebody should know about them, and what failed.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::row::{Looked, Records, Row, rows, the};
use crate::cli::around::{self, Kubernetes};
use crate::cli::trouble::Trouble;
use crate::config::HandSettings;
use crate::controller::bucket::shown;
use crate::etcd;
use crate::kubernetes::error::Cause;
use crate::kubernetes::records::records;
use crate::record::{Place, Shape};
use crate::snapshot::owner::owners;
use crate::snapshot::{ClusterId, Failure, Identity, Inventory, Member, NodeName, Storage};
use crate::storage::local::{Directory, NotVerified};
use crate::storage::s3::Bucket;
use crate::storage::{Listed, Memory, Store};

/// How long the etcd member has to say where it is in its history.
const ANSWER: Duration = Duration::from_secs(3);

/// What was asked for.
#[derive(Debug)]
pub struct Asked {
    /// Which cluster is ours.
    pub cluster: Option<ClusterId>,
    /// Read what nobody has verified.
    pub verify: bool,
    /// Show the records of other nodes' directories.
    pub all_nodes: bool,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Unsorted.
    pub rows: Vec<Row>,
    /// Our cluster, where it is known.
    pub cluster: Option<ClusterId>,
    /// What somebody should know.
    pub notes: Vec<String>,
    /// What could not be seen.
    pub failures: Vec<Trouble>,
    /// At least one storage was seen, or the records were.
    pub showed_something: bool,
}

/// Looks everywhere.
pub async fn look(settings: &HandSettings, asked: &Asked, stop: &CancellationToken) -> Result<Seen, Trouble> {
    let (program, node, snapshot_dir) = (settings.program()?, around::node(settings)?, settings.snapshot_dir()?);
    // Settings of S3 that make no sense are a wrong usage, whatever else there is.
    settings.s3()?;
    let mut seen = Seen::default();
    let kubernetes = Kubernetes::ask(settings).await?;
    let records = match &kubernetes {
        Kubernetes::Nowhere => None,
        Kubernetes::Away { failure, .. } => {
            seen.failures.push(Trouble::failed("the records are not known").because_of(failure));
            None
        }
        Kubernetes::There { client, .. } => match records(client).await {
            Ok(objects) => Some(Records::new(objects, program)),
            Err(error) if matches!(error.cause, Cause::NotServed(_)) => {
                seen.notes.push("there are no records: the CRD is not installed".into());
                None
            }
            Err(error) => {
                seen.failures.push(Trouble::failed("the records are not known").because_of(&error));
                None
            }
        },
    };
    let bucket_lookup = true;
    let shape = Shape { program, bucket_lookup };
    let directory = directory(settings, &snapshot_dir, &node).await?;
    seen.cluster = asked.cluster.clone().or_else(|| kubernetes.cluster().cloned());
    if let Some(directory) = directory.as_ref().filter(|_| seen.cluster.is_none()) {
        seen.cluster = directory.remembered_cluster().ok().flatten();
    }
    let mut all = Vec::new();
    if let Some(directory) = &directory {
        let place = Place::Local { dir: directory.path().display().to_string(), node: node.clone(), has_node_object: true };
        let mut listed = directory.list(&Memory::new()).await;
        if asked.verify && verify(directory, &listed, &mut seen, stop).await {
            listed = directory.list(&Memory::new()).await;
        }
        all.push((directory.storage(), place, listed));
    }
    match bucket(settings, &kubernetes, seen.cluster.clone()).await {
        Ok(None) => {}
        Ok(Some((bucket, place))) => {
            let listed = bucket.list(&Memory::new()).await;
            all.push((bucket.storage().clone(), place, listed));
        }
        Err(trouble) => seen.failures.push(trouble),
    }
    // After the listings: what is saved meanwhile must not look like another history's.
    let us = Identity { node, cluster: seen.cluster.clone(), member: Box::pin(member(settings, &mut seen)).await? };
    let storages: Vec<Storage> = all.iter().map(|(storage, ..)| storage.clone()).collect();
    for (storage, place, listed) in all {
        add(&mut seen, (&storage, &place, listed), &us, records.as_ref(), shape);
    }
    if let Some(records) = &records {
        seen.showed_something = true;
        let elsewhere = records.elsewhere(&storages.iter().collect::<Vec<_>>());
        match elsewhere.len() {
            0 => {}
            _ if asked.all_nodes || storages.is_empty() => seen.rows.extend(elsewhere),
            1 => seen.notes.push("the records tell of 1 more snapshot elsewhere: --all-nodes shows it".into()),
            more => seen.notes.push(format!("the records tell of {more} more snapshots elsewhere: --all-nodes shows them")),
        }
    } else if storages.is_empty() && seen.failures.is_empty() {
        return Err(nothing(&snapshot_dir));
    }
    Ok(seen)
}

/// What the member says of its history, where somebody said which one it is. Without it another history shows only beside a newer one.
async fn member(settings: &HandSettings, seen: &mut Seen) -> Result<Member, Trouble> {
    if !settings.names_an_etcd() {
        return Ok(Member::Silent);
    }
    let member = etcd::Member::new(settings.etcd()?);
    let endpoint = &member.access().endpoint;
    let why = match timeout(ANSWER, member.history()).await {
        Ok(Ok(Some(history))) => return Ok(Member::At(history)),
        Ok(Ok(None)) => format!("the etcd member at {endpoint} has no quorum"),
        Ok(Err(error)) => Failure::of(error.category(), &error).message,
        Err(_) => format!("the etcd member at {endpoint} gave no answer within {} s", ANSWER.as_secs()),
    };
    seen.notes.push(format!("ours may be from before a restore, for nobody says where etcd is now: {why}"));
    Ok(Member::Silent)
}

fn nothing(snapshot_dir: &Path) -> Trouble {
    Trouble::usage(format!("there is nothing to list: no directory {}, no bucket and no API server", snapshot_dir.display()))
        .because("name a directory with --dir, a bucket with --s3 and --s3-bucket, or an API server with KUBECONFIG")
}

/// The directory; None where there is none and nobody asked for one.
async fn directory(settings: &HandSettings, path: &Path, node: &NodeName) -> Result<Option<Directory>, Trouble> {
    let (looked_at, node) = (path.to_owned(), node.clone());
    let opened = spawn_blocking(move || match looked_at.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        _ => Some(Directory::read_only(looked_at, node)),
    });
    match opened.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())) {
        Some(Ok(directory)) => Ok(Some(directory)),
        Some(Err(error)) => Err(Trouble::usage("the snapshot directory cannot be used").because_of(&error)),
        None if settings.names_a_directory() => Err(Trouble::failed(format!("there is no directory {}", path.display()))),
        None => Ok(None),
    }
}

async fn bucket(settings: &HandSettings, kubernetes: &Kubernetes, us: Option<ClusterId>) -> Result<Option<(Bucket, Place)>, Trouble> {
    let Some(access) = around::bucket(settings, kubernetes).await? else { return Ok(None) };
    let place = Place::S3(shown(&access));
    let bucket = match us {
        Some(us) => Bucket::new(&access, us, around::nobody()).await,
        None => Bucket::of_everyone(&access, around::nobody()).await,
    };
    bucket.map(|bucket| Some((bucket, place))).map_err(|error| Trouble::from(error.failure()))
}

/// Reads what nobody has verified yet. True when that may have shown something.
async fn verify(directory: &Directory, listed: &Listed, seen: &mut Seen, stop: &CancellationToken) -> bool {
    let files: Vec<_> = listed.inventory.seen().values().filter(|file| file.known.is_none() && file.at_rest).cloned().collect();
    let some = !files.is_empty();
    for file in files {
        let (directory, stop, name) = (directory.clone(), stop.clone(), file.name.clone());
        let read = spawn_blocking(move || directory.verify(&file, || !stop.is_cancelled())).await;
        match read.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())) {
            Ok(_) | Err(NotVerified::Stopped) => {}
            Err(error) => seen.failures.push(Trouble::failed(format!("{name} was not verified")).because_of(&error)),
        }
    }
    some
}

/// Adds what one storage showed.
fn add(seen: &mut Seen, (storage, place, listed): (&Storage, &Place, Listed), us: &Identity, records: Option<&Records>, shape: Shape) {
    let Listed { inventory, failures } = listed;
    let owners = owners(storage, us, inventory.seen(), Timestamp::now());
    let complete = matches!(inventory, Inventory::Complete(_)) && failures.is_empty();
    let looked = Looked { storage, place, listing: inventory.seen(), complete, owners: &owners };
    let (rows, notes) = rows(&looked, records, shape);
    seen.showed_something |= !matches!(inventory, Inventory::Failed(_));
    seen.rows.extend(rows);
    seen.notes.extend(notes);
    match &inventory {
        Inventory::Complete(_) => {}
        Inventory::Partial(_, failure) => {
            seen.failures.push(Trouble::failed(format!("{} was not seen whole", the(storage))).because_of(failure));
        }
        Inventory::Failed(failure) => seen.failures.push(Trouble::failed(format!("{} was not seen", the(storage))).because_of(failure)),
    }
    seen.failures.extend(failures.into_iter().map(Trouble::from));
}
