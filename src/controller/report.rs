//! Report: what a pass did, told in places that agree: metrics, log, Events and health.
//!
//! A failure is said when it begins, changes its reason or ends. A pass that has nothing to do logs nothing; its beat does.

use jiff::Timestamp;

use super::news;
use super::outcome::Outcome;
use super::shared::Shared;
use super::verify;
use super::voice::Turn;
use crate::decide::successes::successes;
use crate::decide::{Action, Checked, Mode, Observed, Policy, Reason, Step};
use crate::health::Part;
use crate::kubernetes::events::{Event, Kind, Regarding, reason};
use crate::metrics::{self, Census, Operation};
use crate::record::RecordName;
use crate::snapshot::{Failure, FileName, Inventory, Storage};

/// What is said when a pass may write nothing for want of knowledge.
const K3S_UNKNOWN: &str = "nothing is written, since nobody could say whether K3s is at work: its mark on the Nodes could not be read";

/// One pass, as it is told.
pub struct Told<'a> {
    /// What it saw.
    pub seen: &'a Observed,
    /// What could not be looked into.
    pub failures: &'a [Failure],
    /// What it decided on.
    pub plan: &'a Checked,
    /// What became of each step.
    pub outcomes: &'a [Outcome],
    /// What the user wanted.
    pub policy: &'a Policy,
    /// When it decided.
    pub now: Timestamp,
}

impl<'a> Told<'a> {
    /// Each step with what became of it.
    pub fn steps(&self) -> impl Iterator<Item = (&'a Step, &'a Outcome)> {
        self.plan.steps().iter().zip(self.outcomes)
    }
}

/// Tells everybody. True when nothing failed.
pub fn report(told: &Told<'_>, shared: &Shared) -> bool {
    let seen = told.seen;
    let steps = || told.steps();
    for (step, outcome) in steps() {
        shared.metrics.stepped((&step.action).into(), outcome.into());
        if let Outcome::Vetoed(veto) = outcome {
            shared.metrics.vetoed(*veto);
            // What a person asks for may well be none of ours.
            if veto.is_a_mistake() && step.reason != Reason::Asked {
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
            news::of_step(step, seen, shared);
        }
    }
    let of_storage = storage(seen, told.failures, shared);
    let is_record = |step: &Step| matches!(step.action, Action::Write(_) | Action::Forget(..));
    let of_records = records(seen, steps().filter(|(step, _)| is_record(step)).filter_map(|(_, outcome)| outcome.failure()), shared);
    let of_retention = news::of_retention(told, shared);
    news::of_uploads(told, shared);
    let is_started = |step: &Step| matches!(step.action, Action::Verify(_) | Action::Upload(..));
    let given_up = steps().any(|(step, outcome)| *outcome == Outcome::Abandoned && !is_started(step));
    holdings(seen, shared);
    let known = successes(seen, told.now);
    for (operation, at) in [(Operation::Save, known.save), (Operation::SaveLocal, known.save), (Operation::SaveS3, known.upload)] {
        if let Some(at) = at {
            shared.metrics.succeeded(operation, at);
        }
    }
    let (planned, done) = (told.outcomes.len(), steps().filter(|(_, outcome)| **outcome == Outcome::Done).count());
    if planned > 0 {
        tracing::debug!(storage = %seen.storage, files = seen.inventory.seen().len(), planned, done, "the pass has ended");
    }
    of_storage && of_records && of_retention && !given_up
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
        (Some(_), None) if shared.settings.mode == Mode::Manage => Some(Failure::new("k3s_unknown", K3S_UNKNOWN)),
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
        let census = Census::of(complete, &seen.owners);
        shared.metrics.holds((&seen.storage).into(), &census);
        if let Storage::Local { .. } = seen.storage {
            let mut around = shared.around();
            (around.listed, around.newest_good) = (true, census.newest_good);
        }
    }
    let surroundings = shared.surroundings();
    let until = match seen.storage {
        Storage::Local { .. } => surroundings.k3s_here_until(shared.settings.interval),
        Storage::S3 { .. } => surroundings.k3s_anywhere_until(shared.settings.interval),
    };
    shared.health.k3s_at_work((&seen.storage).into(), until.filter(|until| *until > shared.now()));
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

    /// Tells Kubernetes.
    pub fn tell(&self, regarding: Regarding, kind: Kind, reason: &'static str, note: String) {
        self.events.tell(Event { regarding, kind, reason, note });
    }

    /// A record, for an Event on it.
    pub fn regarding(&self, record: &RecordName) -> Regarding {
        Regarding::Record(record.clone(), self.cache.get(record).map(|record| record.uid.clone()))
    }

    /// The record of a file of our directory, for an Event on it; our Node while it has none.
    pub fn regarding_file(&self, name: &FileName) -> Regarding {
        let here = Storage::Local { node: self.settings.node.clone() };
        let records = self.cache.records().unwrap_or_default();
        let record = records.iter().find(|record| record.storage.as_ref() == Some(&here) && record.file.as_ref() == Some(name));
        record.map_or_else(|| self.our_node(), |record| (&**record).into())
    }

    /// Our Node, for an Event on it.
    pub fn our_node(&self) -> Regarding {
        Regarding::Node(self.settings.node.to_string(), self.surroundings().node_uid)
    }
}
