//! Observe: everything that one pass of one storage knows, in the order that makes it proof. The records are read first:
//! what they hold existed before the listing began.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::parts::{Hands, Parts};
use super::shared::{Shared, Surroundings};
use crate::decide::{Around, BucketView, FailedUpload, Observed};
use crate::record::{Place, Record, Shape};
use crate::snapshot::owner::{owners, owners_adopting};
use crate::snapshot::{ClusterId, FailedSave, Failure, Identity, Inventory, NodeName, Storage, StorageId, Upload};
use crate::storage::{Listed, Memory, Store};

/// What is seen, and what could not be looked into on the way.
pub async fn observe<S: Store>(parts: &Parts<'_, S>) -> (Observed, Vec<Failure>) {
    let shared = parts.shared;
    super::surroundings::heard(shared).await;
    let records: Option<Vec<Arc<Record>>> =
        shared.cache.records().map(|all| all.into_iter().filter(|record| record.storage.as_ref() == Some(&parts.storage)).collect());
    let running = parts.hands.map(|hands| hands.verifier.running()).unwrap_or_default();
    let policy = shared.policy();
    let Listed { inventory, failures } = parts.store.list(&memory(records.as_deref().unwrap_or_default())).await;
    let surroundings = shared.surroundings();
    // After the listing: what was restored before the answer cannot have been listed as ours.
    let member = shared.historian.ask(shared, surroundings.beat).await;
    let us = Identity { node: shared.settings.node.clone(), cluster: cluster(records.is_some(), &surroundings), member };
    let judge = if policy.keep.adopt_unlabelled && matches!(parts.storage, Storage::S3 { .. }) { owners_adopting } else { owners };
    let k3s_at_work = match &parts.storage {
        Storage::Local { .. } => surroundings.k3s_at_work_here(shared.now(), shared.settings.interval),
        Storage::S3 { .. } => surroundings.k3s_at_work_anywhere(shared.now(), shared.settings.interval),
    };
    let place = match &parts.place {
        Place::Local { dir, node, .. } => {
            Place::Local { dir: dir.clone(), node: node.clone(), has_node_object: surroundings.has_node_object.unwrap_or(true) }
        }
        place @ Place::S3(_) => place.clone(),
    };
    let around = around(parts, &inventory, &surroundings).await;
    let seen = Observed {
        owners: judge(&parts.storage, &us, inventory.seen(), shared.now()),
        storage: parts.storage.clone(),
        shape: Shape { program: shared.settings.program, bucket_lookup: shared.cache.has_bucket_lookup() },
        us,
        place,
        records,
        inventory,
        running,
        k3s_at_work,
        around,
    };
    (seen, failures)
}

/// What retention and uploads need to know beside the storage.
async fn around<S>(parts: &Parts<'_, S>, inventory: &Inventory, surroundings: &Surroundings) -> Around {
    let shared = parts.shared;
    let all = shared.cache.records();
    let known = all.as_deref().unwrap_or_default();
    let living = living(surroundings.nodes.as_ref(), known, &shared.settings.node);
    let Some(hands) = parts.hands else {
        let failed_uploads = failed_uploads(known, &parts.storage.id());
        return Around { living, failed_uploads, abandoned: parts.abandoned.clone(), ..Around::default() };
    };
    let bucket = shared.bucket().map(|connected| {
        let storage = connected.bucket.storage().clone();
        let of_bucket = |all: &Vec<Arc<Record>>| all.iter().filter(|record| record.storage.as_ref() == Some(&storage)).cloned().collect();
        BucketView { records: all.as_ref().map(of_bucket), beat: surroundings.beat, storage }
    });
    let is_orphan = |record: &&Arc<Record>| match &record.storage {
        Some(Storage::Local { node }) => surroundings.gone.contains(node) && !record.without_node_object,
        _ => false,
    };
    let abandoned = match &bucket {
        Some(bucket) => hands.directory.abandoned_uploads(inventory.seen(), &bucket.storage.id()).await,
        None => Vec::new(),
    };
    Around {
        living,
        busy: hands.uploader.running(),
        failed_saves: failed_saves(hands, shared).await,
        uploads: hands.directory.uploads(inventory.seen()).await,
        abandoned,
        bucket,
        k3s_on_bucket: surroundings.k3s_at_work_anywhere(shared.now(), shared.settings.interval),
        gone_nodes: surroundings.gone.clone(),
        orphans: known.iter().filter(is_orphan).cloned().collect(),
        ..Around::default()
    }
}

/// The nodes that have a Node object or an agent at work.
fn living(nodes: Option<&BTreeSet<NodeName>>, records: &[Arc<Record>], own: &NodeName) -> Option<BTreeSet<NodeName>> {
    let mut living = nodes?.clone();
    living.insert(own.clone());
    let without_node_object = records.iter().filter(|record| record.without_node_object);
    living.extend(without_node_object.filter_map(|record| NodeName::new(&record.node).ok()));
    Some(living)
}

/// The uploads to this bucket that failed, as the nodes that tried say it on their records.
fn failed_uploads(records: &[Arc<Record>], bucket: &StorageId) -> Vec<FailedUpload> {
    let failed = |record: &Arc<Record>| match (record.storage.as_ref()?, record.uploads.get(bucket)?) {
        (Storage::Local { node }, Upload::Failed { since, why, .. }) if !record.terminating => {
            Some(FailedUpload { file: record.file.clone()?, node: node.clone(), since: *since, why: why.clone() })
        }
        _ => None,
    };
    records.iter().filter_map(failed).collect()
}

/// Saves that failed. What cannot be read is said, and shows no failure.
async fn failed_saves(hands: &Hands, shared: &Shared) -> Vec<FailedSave> {
    let failed = hands.directory.failed_saves().await;
    shared.voice.hear("reading in the state which saves failed", failed.as_ref().err());
    failed.unwrap_or_default()
}

/// Whose files are ours. While there are no records to judge, what the state remembers: the day when etcd is ill is the day
/// on which snapshots have to go up.
fn cluster(has_records: bool, surroundings: &Surroundings) -> Option<ClusterId> {
    if has_records { surroundings.cluster_of_records() } else { surroundings.cluster_of_uploads() }.cloned()
}

/// What the records say is known: believed only of the version that it was learnt of, and of records that nobody touched.
fn memory(records: &[Arc<Record>]) -> Memory {
    let known = |record: &Arc<Record>| Some((record.file.clone()?, (record.version.clone()?, record.known.as_deref()?.clone())));
    records.iter().filter(|record| !record.terminating).filter_map(known).collect()
}
