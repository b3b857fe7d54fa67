//! Which local files go up, which wait to, and which objects have vanished.
//!
//! In: the pass of a directory with its bucket as far as known; for what vanished, the pass of a bucket. Out: upload and
//! abort steps, newest first; names. A file goes up once: what its state calls done stays done, whatever became of the object.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::plan::{Action, Asked, BucketView, Keep, Observed, Policy, Reason, Step};
use super::retention::Shelf;
use crate::record::Record;
use crate::snapshot::owner::{owners, owners_adopting};
use crate::snapshot::{
    ClusterId, Complete, Digest, FileName, Identity, Inventory, Listing, NodeName, Owner, SnapshotFile, Storage, Upload, UploadId,
};

/// The uploads of this pass, newest first, and multipart uploads to be aborted since their file is not to go up any more.
///
/// A file goes up when it is good and ours, the bucket lacks it as far as its records are known, and bucket retention
/// would keep it if all that is good and ours here were there. None while the listing is not complete or our cluster id,
/// which every object shows, is not known.
pub fn uploads(seen: &Observed, policy: &Policy, now: Timestamp) -> Vec<Step> {
    let (Storage::Local { .. }, Inventory::Complete(all), Some(bucket), Some(cluster)) =
        (&seen.storage, &seen.inventory, &seen.around.bucket, &seen.us.cluster)
    else {
        return Vec::new();
    };
    let upload = |name: &FileName| upload_of(seen, bucket, name);
    let is_due = |file: &&SnapshotFile| match upload(&file.name) {
        // In the future: a clock has been set back since.
        Some(Upload::Failed { at, .. }) => *at < bucket.beat || *at > now,
        _ => true,
    };
    let is_idle = |file: &&SnapshotFile| !seen.around.busy.contains(&file.name);
    let waiting = waiting(seen, all, bucket, cluster, policy, now);
    let due: Vec<&SnapshotFile> = waiting.iter().copied().filter(is_due).filter(is_idle).collect();
    let begun = |name: &FileName| match upload(name) {
        Some(Upload::Begun { id }) => Some(id.clone()),
        _ => None,
    };
    // What failed may go on where it was: each part is compared.
    let stands_still = |name: &FileName| seen.around.abandoned.iter().find(|(of, _)| of == name).map(|(_, id)| id.clone());
    let go_up = |file: &&SnapshotFile| {
        let begun = begun(&file.name).or_else(|| stands_still(&file.name));
        Step::new(Action::Upload(Box::new((*file).clone()), begun), Reason::NotInBucket)
    };
    let mut steps: Vec<Step> = due.iter().map(go_up).collect();

    let going_up: BTreeSet<&FileName> = due.iter().map(|file| &file.name).collect();
    for name in seen.around.uploads.keys().filter(|name| !going_up.contains(name) && !seen.around.busy.contains(*name)) {
        // What cannot be judged yet may still go on.
        let judged = all.listing().get(name).is_none_or(|file| file.at_rest && file.known.is_some());
        steps.extend(begun(name).filter(|_| judged).map(|id| Step::new(Action::Abort(name.clone(), id), Reason::Abandoned)));
    }
    steps
}

/// The files that wait to go up or are going up, newest first, whether or not they are due. None where [`uploads`] plans none.
pub fn backlog<'a>(seen: &'a Observed, policy: &Policy, now: Timestamp) -> Vec<&'a SnapshotFile> {
    match (&seen.storage, &seen.inventory, &seen.around.bucket, &seen.us.cluster) {
        (Storage::Local { .. }, Inventory::Complete(all), Some(bucket), Some(cluster)) => waiting(seen, all, bucket, cluster, policy, now),
        _ => Vec::new(),
    }
}

/// The multipart uploads that stand still and with which nobody goes on: in a directory's pass all but one of each file that
/// waits to go up or is going, in a bucket's those under the names of objects of ours.
pub fn abandoned(seen: &Observed, policy: &Policy, now: Timestamp) -> Vec<Step> {
    let mut kept: BTreeSet<&FileName> = backlog(seen, policy, now).into_iter().map(|file| &file.name).collect();
    kept.retain(|name| !seen.around.busy.contains(*name));
    // What the state of this node remembers was begun by this node.
    let of_this_node = matches!(seen.storage, Storage::Local { .. });
    let is_ours = |name: &FileName| of_this_node || seen.owners.get(name) == Some(&Owner::Ours);
    let is_left = |(name, _): &&(FileName, UploadId)| !kept.remove(name) && !seen.around.busy.contains(name) && is_ours(name);
    let left: Vec<_> = seen.around.abandoned.iter().filter(is_left).collect();
    left.into_iter().map(|(name, id)| Step::new(Action::Abort(name.clone(), id.clone()), Reason::Abandoned)).collect()
}

fn upload_of<'a>(seen: &'a Observed, bucket: &BucketView, name: &FileName) -> Option<&'a Upload> {
    seen.around.uploads.get(name)?.get(&bucket.storage.id())
}

fn waiting<'a>(
    seen: &'a Observed,
    all: &'a Complete,
    bucket: &BucketView,
    cluster: &ClusterId,
    policy: &Policy,
    now: Timestamp,
) -> Vec<&'a SnapshotFile> {
    let there = there(bucket, cluster, policy.keep.adopt_unlabelled);
    let files = all.listing().values();
    let may_go = |file: &&SnapshotFile| {
        file.is_good() && file.at_rest && seen.owners.get(&file.name).is_some_and(|owner| owner.is_ours_as_it_seems())
    };
    let lacking: Vec<&SnapshotFile> = files.filter(may_go).filter(|file| !is_there(file, &there)).collect();
    let is_open = |file: &&&SnapshotFile| match &policy.asked {
        Asked::Upload { .. } => policy.asked.uploads_again(&file.name),
        _ => upload_of(seen, bucket, &file.name) != Some(&Upload::Done),
    };
    let mut open: Vec<&SnapshotFile> = lacking.iter().filter(is_open).copied().collect();
    if !open.is_empty() {
        // What is done and gone again keeps its place: nothing older goes up in its stead.
        let kept = kept(&lacking, bucket, cluster, seen, &policy.keep, now);
        open.retain(|file| kept.contains(&file.name));
    }
    open.sort_by_key(|file| Reverse((file.name.created_at(file.modified), &file.name)));
    open
}

/// The names under which the bucket has a file of ours with its sidecar, or may have. A failure record has none behind it, and what
/// is not proven ours only the `HEAD` of an upload can judge. An object without a sidecar may be all that an upload came to before it
/// was cut off; to the leader it is not good, and whoever has the file brings the sidecar. With the digest of each that is known.
fn there<'a>(bucket: &'a BucketView, cluster: &ClusterId, adopt_unlabelled: bool) -> BTreeMap<&'a FileName, Option<Digest>> {
    let shows_ours = |record: &Record| match record.known.as_ref().map(|known| &known.cluster) {
        Some(Some(shown)) => shown == cluster,
        Some(None) => adopt_unlabelled,
        None => true,
    };
    let is_bare = |record: &Record| record.version.as_ref().is_some_and(|version| version.of_sidecar().is_none());
    let records = bucket.records.iter().flatten();
    records
        .filter(|record| !record.terminating && !record.is_failure() && shows_ours(record) && !is_bare(record))
        .filter_map(|record| Some((record.file.as_ref()?, record.known.as_ref().and_then(|known| known.manifest.file_sha256))))
        .collect()
}

/// Whether the file is one of those. Where both digests are known and differ the upload has to name the conflict.
fn is_there(file: &SnapshotFile, there: &BTreeMap<&FileName, Option<Digest>>) -> bool {
    let ours = file.known.as_ref().and_then(|known| known.manifest.file_sha256);
    there.get(&file.name).is_some_and(|theirs| theirs.is_none() || ours.is_none() || *theirs == ours)
}

/// Which of these local files the bucket's retention would keep, if all of them were there.
fn kept(
    lacking: &[&SnapshotFile],
    bucket: &BucketView,
    cluster: &ClusterId,
    seen: &Observed,
    keep: &Keep,
    now: Timestamp,
) -> BTreeSet<FileName> {
    let mut listing = Listing::new();
    for file in bucket.records.iter().flatten().filter(|record| !record.terminating).filter_map(|record| as_object(record)) {
        listing.insert(file.name.clone(), file);
    }
    for file in lacking {
        listing.insert(file.name.clone(), once_uploaded(file, cluster, &seen.us.node));
    }
    let kept = kept_of(&listing, &bucket.storage, &seen.us, seen.around.living.as_ref(), keep, now);
    lacking.iter().map(|file| &file.name).filter(|name| kept.contains(name)).cloned().collect()
}

/// What is ours in a bucket with these objects and would not go.
fn kept_of<'a>(
    listing: &'a Listing,
    storage: &Storage,
    us: &Identity,
    living: Option<&BTreeSet<NodeName>>,
    keep: &Keep,
    now: Timestamp,
) -> BTreeSet<&'a FileName> {
    let judge = if keep.adopt_unlabelled { owners_adopting } else { owners };
    let owners = judge(storage, us, listing, now);
    let shelf = Shelf { storage, us, listing, owners: &owners, living };
    let going: BTreeSet<&FileName> = shelf.going(keep, false, now).into_iter().map(|(file, _)| &file.name).collect();
    listing.keys().filter(|name| owners[*name].is_ours_as_it_seems() && !going.contains(name)).collect()
}

/// The object that a local file becomes, with the age of the file: that it changed in the bucket just now makes no old one new.
fn once_uploaded(file: &SnapshotFile, cluster: &ClusterId, node: &NodeName) -> SnapshotFile {
    let mut object = file.clone();
    if let Some(known) = &mut object.known {
        known.cluster = Some(cluster.clone());
        known.node = Some(known.manifest.node.as_ref().unwrap_or(node).clone());
    }
    object
}

/// The object that a record tells of; None when the record is not believed.
fn as_object(record: &Record) -> Option<SnapshotFile> {
    let (name, version) = (record.file.clone()?, record.version.clone()?);
    let known = record.known.as_deref()?.clone();
    let modified = version.last_modified().or_else(|| name.time())?;
    Some(SnapshotFile { name, size: 0, modified, version, at_rest: true, known: Some(known) })
}

/// In the pass of a bucket: the good objects of ours that are gone though retention would have kept them, by their records.
/// Nothing is known to have vanished while the listing is not complete.
pub fn vanished(seen: &Observed, policy: &Policy, now: Timestamp) -> Vec<FileName> {
    let (Storage::S3 { .. }, Inventory::Complete(all)) = (&seen.storage, &seen.inventory) else { return Vec::new() };
    let is_gone = |object: &SnapshotFile| object.is_good() && !all.listing().contains_key(&object.name);
    let records = seen.records.iter().flatten().filter(|record| !record.terminating);
    let gone: BTreeMap<FileName, SnapshotFile> =
        records.filter_map(|record| as_object(record)).filter(is_gone).map(|object| (object.name.clone(), object)).collect();
    if gone.is_empty() {
        return Vec::new();
    }
    let mut listing = all.listing().clone();
    listing.extend(gone.clone());
    let kept = kept_of(&listing, &seen.storage, &seen.us, seen.around.living.as_ref(), &policy.keep, now);
    gone.into_keys().filter(|name| kept.contains(name)).collect()
}

#[cfg(test)]
mod tests;
