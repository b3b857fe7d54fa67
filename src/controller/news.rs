//! What a pass has to tell beside how it went: Events of steps that were done, what retention removed or was kept from
//! removing, what waits to go up, and what vanished.
//!
//! Each is told when it begins, changes or ends; the metrics say how it stands.

use std::collections::BTreeSet;

use jiff::SignedDuration;

use super::outcome::Outcome;
use super::report::Told;
use super::shared::Shared;
use super::upload;
use super::voice::Turn;
use crate::decide::uploads::{backlog, vanished};
use crate::decide::{Action, Observed, Reason, Step, Veto, unjudged};
use crate::health::Part;
use crate::kubernetes::events::{Kind, reason};
use crate::record::content::annotation;
use crate::record::{ETCDSnapshotFile, Record, Wanted, uploads};
use crate::snapshot::owner::is_dated_ahead;
use crate::snapshot::{Failure, FileName, Inventory, Owner, Storage, Upload, Verdict};

/// A snapshot older than this is no news when its record is created: it was only found again.
const NEWS: SignedDuration = SignedDuration::from_hours(1);

/// The Events of one step that was done: K3s's reasons, and each once.
pub fn of_step(step: &Step, seen: &Observed, shared: &Shared) {
    match &step.action {
        Action::Write(wanted) => {
            let spec = &wanted.object.spec;
            let (name, node) = (&spec.snapshot_name, &spec.node_name);
            if let (Reason::Failed, Some(why)) = (step.reason, failure_of(&wanted.object)) {
                let said = format!("Failed to save snapshot {name} on {node}: {why}");
                return shared.tell(shared.regarding(&wanted.name()), Kind::Warning, reason::FAILED, said);
            }
            if matches!(seen.storage, Storage::Local { .. }) && tells_of_uploads(wanted, seen) {
                // Whoever leads the bucket has something to write; other leaders hear it from the API server.
                shared.wakes.bucket.wake();
            }
            let Some(file) = FileName::new(name).ok().and_then(|name| seen.inventory.seen().get(&name)) else { return };
            let regarding = || shared.regarding(&wanted.name());
            if step.reason == Reason::New && shared.now().duration_since(file.modified) < NEWS {
                shared.tell(regarding(), Kind::Normal, reason::CREATED, format!("Snapshot {name} saved on {node}"));
            }
            if let Some(verdict @ Verdict::Damaged(why)) = file.known.as_ref().map(|known| &known.verdict)
                && step.reason != Reason::Edited
                && !seen.records.iter().flatten().any(|before| before.name == wanted.name() && says(before, verdict))
            {
                shared.tell(regarding(), Kind::Warning, reason::DAMAGED, format!("Snapshot {name} on {node} is damaged: {why}"));
            }
        }
        Action::Forget(record, _) if matches!(step.reason, Reason::Gone | Reason::NodeGone | Reason::FailureExpired) => {
            let name = record.file.as_ref().map_or(record.name.as_str(), |file| file.as_str());
            shared.tell((&**record).into(), Kind::Normal, reason::DELETED, format!("Snapshot {name} deleted"));
        }
        Action::Prune(file, records) => {
            shared.metrics.removed((&seen.storage).into(), step.reason.into());
            let note = || format!("Snapshot {} deleted by retention: {}", file.name, step.reason.word());
            for record in records {
                shared.tell((&**record).into(), Kind::Normal, reason::DELETED, note());
            }
        }
        Action::Forget(..) | Action::Verify(_) | Action::Upload(..) | Action::Abort(..) => {}
    }
}

fn failure_of(object: &ETCDSnapshotFile) -> Option<&str> {
    object.status.as_ref()?.error.as_ref()?.message.as_deref()
}

/// Whether what the record shows of uploads is not what it showed before.
fn tells_of_uploads(wanted: &Wanted, seen: &Observed) -> bool {
    let shown = wanted.object.metadata.annotations.as_ref().and_then(|all| all.get(annotation::UPLOAD));
    let now = shown.map(|shown| uploads::read(shown)).unwrap_or_default();
    let before = seen.records.iter().flatten().find(|before| before.name == wanted.name());
    before.map_or(!now.is_empty(), |before| before.uploads != now)
}

/// Whether the record told of this verdict before, whatever else has changed in it.
fn says(record: &Record, verdict: &Verdict) -> bool {
    record.known.as_ref().is_some_and(|known| known.verdict == *verdict)
}

/// What retention could not remove, what it was kept from removing, and what is gone without it. False when something failed.
pub fn of_retention(told: &Told<'_>, shared: &Shared) -> bool {
    let (seen, storage) = (told.seen, &told.seen.storage);
    let prunes = || told.steps().filter(|(step, _)| matches!(step.action, Action::Prune(..) | Action::Abort(..)));
    let failed = prunes().find_map(|(_, outcome)| outcome.failure());
    let (part, event) = match storage {
        Storage::Local { .. } => (Part::Retention, reason::RETENTION_FAILED_LOCAL),
        Storage::S3 { .. } => (Part::BucketRetention, reason::RETENTION_FAILED_S3),
    };
    if let (Turn::Begun, Some(failure)) = (shared.voice.hear(&format!("retention of the {storage}"), failed), failed) {
        shared.tell(shared.our_node(), Kind::Warning, event, failure.to_string());
    }
    let braked = prunes().filter(|(step, _)| step.veto == Some(Veto::Brake)).count();
    let good = seen.inventory.seen().values().filter(|file| file.is_good()).count();
    let braked = (braked > 0).then(|| {
        let what = match unjudged(seen) {
            0 => format!("retention would remove {braked} snapshots at once from the {storage}, which holds {good} good ones"),
            unjudged => format!(
                "retention would remove up to {} snapshots at once from the {storage}, which holds {good} good ones and {unjudged} that are not verified yet",
                braked + unjudged
            ),
        };
        let how = format!("etcd-snapshot-operator prune --name {}", told.policy.keep.base.as_str());
        Failure::new("brake", format!("{what}; none is removed until somebody has looked and runs {how}"))
    });
    turned(shared, &format!("the brake of the {storage}"), braked.as_ref(), reason::DELETION_BRAKED);
    let contested = contested(told, shared);
    let doubtful = doubtful(told);
    turned(shared, &format!("dates in the {storage}"), doubtful.as_ref(), reason::DATED_AHEAD);
    let ill =
        [failed, braked.as_ref(), contested.as_ref(), doubtful.as_ref()].into_iter().flatten().map(ToString::to_string).collect::<Vec<_>>();
    shared.health.ill(part, (!ill.is_empty()).then(|| ill.join("; ")));
    tell_of_vanished(told, shared);
    failed.is_none()
}

/// Whether the bucket holds another history of our cluster.
fn contested(told: &Told<'_>, shared: &Shared) -> Option<Failure> {
    let (Storage::S3 { .. }, Inventory::Complete(_)) = (&told.seen.storage, &told.seen.inventory) else { return None };
    let of_another = told.seen.owners.values().filter(|owner| **owner == Owner::AnotherHistory).count();
    shared.metrics.contested(of_another > 0);
    let contested = (of_another > 0).then(|| {
        let what =
            format!("{of_another} objects of the {} are from before a restore of etcd, or from a clone of this cluster", told.seen.storage);
        let how = format!("etcd-snapshot-operator prune --take-over --name {}", told.policy.keep.base.as_str());
        Failure::new("contested", format!("{what}; they are kept until somebody has looked and runs {how}"))
    });
    turned(shared, &format!("another history in the {}", told.seen.storage), contested.as_ref(), reason::BUCKET_CONTESTED);
    contested
}

/// Whether there are snapshots that only the word of a file dated ahead makes look older than they are: none of them goes.
fn doubtful(told: &Told<'_>) -> Option<Failure> {
    let doubtful = told.seen.owners.values().filter(|owner| **owner == Owner::Doubtful).count();
    let ahead = told.seen.inventory.seen().values().filter(|file| is_dated_ahead(file, told.now));
    let newest = ahead.max_by_key(|file| file.name.created_at(file.modified)).filter(|_| doubtful > 0)?;
    let what = format!(
        "{doubtful} snapshots of the {} look older than {}, which is dated ahead of this machine's clock",
        told.seen.storage, newest.name
    );
    let how = format!("etcd-snapshot-operator delete {}", newest.name);
    Some(Failure::new("clock", format!("{what}; they go up, and none is removed until somebody has looked at the clock and runs {how}")))
}

/// Objects that are gone though nobody here removed them.
fn tell_of_vanished(told: &Told<'_>, shared: &Shared) {
    let is_gone = |(step, outcome): (&Step, &Outcome)| match &step.action {
        Action::Forget(record, _) if step.reason == Reason::Gone && *outcome == Outcome::Done => record.file.clone(),
        _ => None,
    };
    let gone: BTreeSet<FileName> = told.steps().filter_map(is_gone).collect();
    if gone.is_empty() {
        return;
    }
    for name in vanished(told.seen, told.policy, told.now).into_iter().filter(|name| gone.contains(name)) {
        let note = format!(
            "Snapshot {name} is gone from the {}, and retention would have kept it; etcd-snapshot-operator upload --missing puts it back from the node that has it",
            told.seen.storage
        );
        tracing::warn!(snapshot = %name, "{note}");
        shared.metrics.vanished();
        shared.tell(shared.our_node(), Kind::Warning, reason::VANISHED, note);
    }
}

/// What waits to go up, and why it does.
pub fn of_uploads(told: &Told<'_>, shared: &Shared) {
    let (Storage::Local { .. }, Inventory::Complete(all)) = (&told.seen.storage, &told.seen.inventory) else { return };
    let waiting = backlog(told.seen, told.policy, told.now);
    let oldest = waiting.iter().map(|file| file.name.created_at(file.modified)).min();
    shared.metrics.backlog(told.seen.around.bucket.is_some().then_some((waiting.len(), oldest)));
    let bucket = told.seen.around.bucket.as_ref().map(|bucket| bucket.storage.id());
    let why = |name: &FileName| match told.seen.around.uploads.get(name)?.get(bucket.as_ref()?)? {
        Upload::Failed { why, .. } => Some(why.clone()),
        _ => None,
    };
    let failed: Vec<_> = waiting.iter().filter_map(|file| Some(format!("{}: {}", file.name, why(&file.name)?))).collect();
    let more = failed.len().saturating_sub(1);
    let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
    shared.health.ill(Part::Uploads, failed.first().map(|first| format!("{first}{more}")));
    let is_there = |name: &str| FileName::new(name).is_ok_and(|name| all.listing().contains_key(&name));
    shared.voice.forget(|about| about.strip_prefix(upload::ABOUT).is_some_and(|name| !is_there(name)));
}

/// Tells in an Event on our Node when something begins.
fn turned(shared: &Shared, about: &str, is: Option<&Failure>, reason: &'static str) {
    if let (Turn::Begun, Some(failure)) = (shared.voice.hear(about, is), is) {
        shared.tell(shared.our_node(), Kind::Warning, reason, failure.to_string());
    }
}
