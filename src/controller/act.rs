//! Act: does what a checked plan says, with a bounded number of steps at once. Each step is idempotent and has its own outcome.
//!
//! Records are written first, then those that must go are forgotten, each after its proof; then what retention lets go is
//! removed; long steps are only started, uploads last.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt as _;

use super::outcome::Outcome;
use super::parts::Parts;
use crate::decide::{Action, Checked, Policy, Proof, Step};
use crate::kubernetes::write::{forget, write};
use crate::record::{Record, RecordName};
use crate::snapshot::{Failure, FileName, SnapshotFile, UploadId};
use crate::storage::{Removed, Store};

/// Writes to the API server that are under way at once.
const AT_ONCE: usize = 16;
/// Writes in a row that found no API server; after them the rest waits for the next pass.
const LOST_WRITES: usize = AT_ONCE;

/// Categories of failures that the next write would meet, too.
const LOST: [&str; 5] = ["unavailable", "timeout", "throttled", "unauthorized", "crd_missing"];

/// Does the plan. The outcomes stand in the order of its steps.
pub async fn act<S: Store>(plan: &Checked, parts: &Parts<'_, S>, policy: &Policy) -> Vec<Outcome> {
    let adopting = policy.keep.adopt_unlabelled;
    let acting = Acting { parts, adopting, lost: AtomicUsize::new(0), failed: Mutex::default() };
    let mut outcomes = vec![Outcome::Abandoned; plan.steps().len()];
    let of_kind = |wanted: fn(&Action) -> bool| plan.steps().iter().enumerate().filter(move |(_, step)| wanted(&step.action));

    for (at, step) in of_kind(|action| matches!(action, Action::Verify(_))) {
        if let Action::Verify(file) = &step.action {
            outcomes[at] = parts.hands.map_or(Outcome::Abandoned, |hands| hands.verifier.start(file));
        }
    }
    // In this order: a record that stands under a new name is there before the old one goes.
    let kinds: [fn(&Action) -> bool; 3] = [
        |action| matches!(action, Action::Write(_)),
        |action| matches!(action, Action::Forget(..)),
        |action| matches!(action, Action::Prune(..) | Action::Abort(..)),
    ];
    for kind in kinds {
        let ends = futures::stream::iter(of_kind(kind)).map(async |(at, step)| (at, acting.step(step).await)).buffer_unordered(AT_ONCE);
        tokio::pin!(ends);
        while let Some((at, outcome)) = ends.next().await {
            parts.shared.health.progress((&parts.storage).into());
            outcomes[at] = outcome;
        }
    }
    for (at, step) in of_kind(|action| matches!(action, Action::Upload(..))) {
        if let (Action::Upload(file, begun), None) = (&step.action, step.veto) {
            outcomes[at] = parts.hands.map_or(Outcome::Abandoned, |hands| hands.uploader.start(file, begun.clone()));
        } else if let Some(veto) = step.veto {
            outcomes[at] = Outcome::Vetoed(veto);
        }
    }
    outcomes
}

struct Acting<'a, S> {
    parts: &'a Parts<'a, S>,
    /// Whether objects without a cluster id count as ours.
    adopting: bool,
    /// Writes in a row that did not reach the API server.
    lost: AtomicUsize,
    /// Records whose write did not succeed in this pass.
    failed: Mutex<BTreeSet<RecordName>>,
}

impl<S: Store> Acting<'_, S> {
    async fn step(&self, step: &Step) -> Outcome {
        if let Some(veto) = step.veto {
            return Outcome::Vetoed(veto);
        }
        match &step.action {
            // What is ours on the disk and in the bucket waits for no API server.
            Action::Prune(file, records) => return self.prune(file, records).await,
            Action::Abort(name, id) => return self.abort(name, id).await,
            _ => {}
        }
        let outcome = self.unvetoed(&step.action).await;
        let unreached = matches!(&outcome, Outcome::Failed(failure) if LOST.contains(&failure.category));
        if unreached {
            self.lost.fetch_add(1, Ordering::Relaxed);
        } else if !matches!(outcome, Outcome::Abandoned) {
            self.lost.store(0, Ordering::Relaxed);
        }
        outcome
    }

    async fn unvetoed(&self, action: &Action) -> Outcome {
        if self.parts.shared.stop.is_cancelled() || self.lost.load(Ordering::Relaxed) >= LOST_WRITES {
            return Outcome::Abandoned;
        }
        match action {
            Action::Write(wanted) => {
                let Some(until) = self.parts.permit.until() else { return Outcome::Abandoned };
                let outcome = write(&self.parts.shared.cache, wanted, until).await.into();
                if outcome != Outcome::Done {
                    self.failed.lock().unwrap_or_else(PoisonError::into_inner).insert(wanted.name());
                }
                outcome
            }
            Action::Forget(record, proof) => {
                match self.prove(proof).await {
                    Ok(true) => {}
                    Ok(false) => return Outcome::Stale,
                    Err(failure) => return Outcome::Failed(failure),
                }
                let Some(until) = self.parts.permit.until() else { return Outcome::Abandoned };
                forget(&self.parts.shared.cache, record, until).await.into()
            }
            Action::Verify(_) | Action::Prune(..) | Action::Upload(..) | Action::Abort(..) => Outcome::Abandoned,
        }
    }

    /// The file or object with its sidecar, and then its records. A record that could not go now is taken for that of a file
    /// that is gone, which it is, by the next pass.
    async fn prune(&self, file: &SnapshotFile, records: &[Arc<Record>]) -> Outcome {
        if self.parts.shared.stop.is_cancelled() {
            return Outcome::Abandoned;
        }
        match self.parts.permit.hold(self.parts.store.remove(file, self.adopting)).await {
            Some(Ok(Removed::Done | Removed::Absent)) => {}
            Some(Ok(Removed::Stale)) => return Outcome::Stale,
            Some(Err(failure)) => return Outcome::Failed(failure),
            None => return Outcome::Abandoned,
        }
        for record in records {
            let Some(until) = self.parts.permit.until() else { break };
            if let Err(error) = forget(&self.parts.shared.cache, record, until).await {
                tracing::debug!(record = %record.name, "the record of what was pruned could not be deleted yet: {}", error.failure());
            }
        }
        Outcome::Done
    }

    async fn abort(&self, name: &FileName, id: &UploadId) -> Outcome {
        let Some(connected) = self.parts.shared.bucket() else { return Outcome::Abandoned };
        match self.parts.permit.hold(Box::pin(connected.bucket.abort(name, id))).await {
            Some(Ok(())) => {}
            Some(Err(error)) => return Outcome::Failed(error.failure()),
            None => return Outcome::Abandoned,
        }
        // In the bucket's own pass it was begun by somebody whose state is lost.
        let Some(hands) = self.parts.hands else { return Outcome::Done };
        match hands.directory.forget_abandoned_upload(name, &connected.bucket.storage().id(), id).await {
            Ok(()) => Outcome::Done,
            Err(failure) => Outcome::Failed(failure),
        }
    }

    /// The direct question right before a record is deleted.
    async fn prove(&self, proof: &Proof) -> Result<bool, Failure> {
        match proof {
            Proof::Absent(name) => self.parts.store.ask(name).await.map(|there| there.is_none()),
            Proof::RecordedAs(name) => {
                let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).contains(name);
                Ok(!failed && self.parts.shared.cache.get(name).is_some())
            }
            Proof::None => Ok(true),
        }
    }
}
