//! Report: what a pass did, told in places that agree: metrics, log, Events and health.
//!
//! A failure is said when it begins, changes its reason or ends. A pass that has nothing to do logs nothing; its beat does.

use jiff::SignedDuration;

use super::outcome::Outcome;
use super::shared::Shared;
use super::verify;
use super::voice::Turn;
use crate::decide::{Action, Checked, Mode, Observed, Reason, Step};
use crate::health::Part;
use crate::kubernetes::events::{Event, Kind, Regarding, reason};
use crate::metrics::{self, Census};
use crate::record::{Record, RecordName};
use crate::snapshot::{Failure, FileName, Inventory, Storage, Verdict};

/// A snapshot older than this is no news when its record is created: it was only found again.
const NEWS: SignedDuration = SignedDuration::from_hours(1);

/// What is said when a pass may write nothing for want of knowledge.
const K3S_UNKNOWN: &str = "nothing is written, since nobody could say whether K3s is at work: its mark on the Nodes could not be read";

/// Tells everybody. True when nothing failed.
pub fn report(seen: &Observed, failures: &[Failure], plan: &Checked, outcomes: &[Outcome], shared: &Shared) -> bool {
    let steps = || plan.steps().iter().zip(outcomes);
    for (step, outcome) in steps() {
        shared.metrics.stepped((&step.action).into(), outcome.into());
        if let Outcome::Vetoed(veto) = outcome {
            shared.metrics.vetoed(*veto);
            if veto.is_a_mistake() {
                tracing::error!(
                    subject = step.action.subject(),
                    reason = step.reason.word(),
                    veto = veto.word(),
                    "a step was planned that never should be"
                );
            }
        }
        log(step, outcome);
        if *outcome == Outcome::Done {
            news(step, seen, shared);
        }
    }
    let of_storage = storage(seen, failures, shared);
    let of_records = records(seen, steps().filter_map(|(_, outcome)| failure(outcome)), shared);
    let given_up = steps().any(|(step, outcome)| *outcome == Outcome::Abandoned && !matches!(step.action, Action::Verify(_)));
    holdings(seen, shared);
    let (planned, done) = (outcomes.len(), steps().filter(|(_, outcome)| **outcome == Outcome::Done).count());
    if planned > 0 {
        tracing::debug!(storage = %seen.storage, files = seen.inventory.seen().len(), planned, done, "the pass has ended");
    }
    of_storage && of_records && !given_up
}

fn failure(outcome: &Outcome) -> Option<&Failure> {
    match outcome {
        Outcome::Failed(failure) => Some(failure),
        _ => None,
    }
}

fn log(step: &Step, outcome: &Outcome) {
    let (action, subject, reason) = (step.action.word(), step.action.subject(), step.reason.word());
    match outcome {
        Outcome::Done => tracing::info!(action, subject, reason, "done"),
        Outcome::Failed(failure) => tracing::debug!(action, subject, reason, "failed: {failure}"),
        Outcome::Vetoed(veto) => tracing::debug!(action, subject, reason, veto = veto.word(), "vetoed"),
        other => tracing::debug!(action, subject, reason, outcome = metrics::Outcome::from(other).word()),
    }
}

/// How it stands with the directory or the bucket.
fn storage(seen: &Observed, failures: &[Failure], shared: &Shared) -> bool {
    let part = match seen.storage {
        Storage::Local { .. } => Part::Directory,
        Storage::S3 { .. } => Part::Bucket,
    };
    let listing = seen.inventory.failure();
    shared.storage_state(&seen.storage, part, listing);
    for failure in failures {
        tracing::debug!(storage = %seen.storage, category = failure.category, "{failure}");
    }
    shared.voice.hear(&format!("looking into files of the {}", seen.storage), failures.first());
    if let (None, Some(first)) = (listing, failures.first()) {
        let more = if failures.len() > 1 { format!(" (and {} more)", failures.len() - 1) } else { String::new() };
        shared.health.ill(part, Some(format!("{first}{more}")));
    }
    if part == Part::Directory && listing.is_none() {
        shared.health.directory_listed();
        let is_there = |name: &str| FileName::new(name).is_ok_and(|name| seen.inventory.seen().contains_key(&name));
        shared.voice.forget(|about| about.strip_prefix(verify::ABOUT).is_some_and(|name| !is_there(name)));
    }
    listing.is_none() && failures.is_empty()
}

/// How it stands with the records of this storage.
fn records<'a>(seen: &Observed, mut failed: impl Iterator<Item = &'a Failure>, shared: &Shared) -> bool {
    let unknown = match (&seen.records, seen.k3s_at_work) {
        (None, _) => Some(shared.records_failure()),
        (Some(_), None) if shared.policy.mode == Mode::Manage => Some(Failure::new("k3s_unknown", K3S_UNKNOWN)),
        _ => None,
    };
    let first = unknown.as_ref().or_else(|| failed.next());
    shared.voice.hear(&format!("keeping the records of the {}", seen.storage), first);
    let part = match seen.storage {
        Storage::Local { .. } => Part::Records,
        Storage::S3 { .. } => Part::BucketRecords,
    };
    shared.health.ill(part, first.map(ToString::to_string));
    first.is_none()
}

/// What the storage holds, when the whole of it was seen; and who else is at work on it.
fn holdings(seen: &Observed, shared: &Shared) {
    if let Inventory::Complete(complete) = &seen.inventory {
        shared.metrics.holds((&seen.storage).into(), &Census::of(complete, &seen.owners));
    }
    let surroundings = shared.surroundings();
    let until = match seen.storage {
        Storage::Local { .. } => surroundings.k3s_here_until(shared.settings.interval),
        Storage::S3 { .. } => surroundings.k3s_anywhere_until(shared.settings.interval),
    };
    shared.health.k3s_at_work((&seen.storage).into(), until.filter(|until| *until > shared.now()));
}

/// The Events of one step that was done: K3s's reasons, and each once.
fn news(step: &Step, seen: &Observed, shared: &Shared) {
    match &step.action {
        Action::Write(wanted) => {
            let spec = &wanted.object.spec;
            let (name, node) = (&spec.snapshot_name, &spec.node_name);
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
        Action::Forget(record, _) if matches!(step.reason, Reason::Gone | Reason::FailureExpired) => {
            let name = record.file.as_ref().map_or(record.name.as_str(), |file| file.as_str());
            shared.tell((&**record).into(), Kind::Normal, reason::DELETED, format!("Snapshot {name} deleted"));
        }
        Action::Forget(..) | Action::Verify(_) | Action::Prune(..) | Action::Upload(..) | Action::Abort(..) => {}
    }
}

/// Whether the record told of this verdict before, whatever else has changed in it.
fn says(record: &Record, verdict: &Verdict) -> bool {
    record.known.as_ref().is_some_and(|known| known.verdict == *verdict)
}

impl Shared {
    /// Says how the listing of a storage stands: in log, health and, when it turns, in an Event on our Node.
    pub fn storage_state(&self, storage: &Storage, part: Part, failure: Option<&Failure>) {
        let turn = self.voice.hear(&format!("listing the {storage}"), failure);
        self.health.ill(part, failure.map(ToString::to_string));
        match (turn, failure) {
            (Turn::Begun, Some(failure)) => self.tell(self.our_node(), Kind::Warning, reason::STORAGE_FAILED, failure.to_string()),
            (Turn::Ended, _) => {
                self.tell(self.our_node(), Kind::Normal, reason::STORAGE_RECOVERED, format!("the {storage} can be listed again"));
            }
            _ => {}
        }
    }

    fn tell(&self, regarding: Regarding, kind: Kind, reason: &'static str, note: String) {
        self.events.tell(Event { regarding, kind, reason, note });
    }

    fn regarding(&self, record: &RecordName) -> Regarding {
        Regarding::Record(record.clone(), self.cache.get(record).map(|record| record.uid.clone()))
    }

    fn our_node(&self) -> Regarding {
        Regarding::Node(self.settings.node.to_string(), self.surroundings().node_uid)
    }
}
