//! Act: does what a checked plan says, with a bounded number of steps at once. Each step is idempotent and has its own outcome.
//!
//! Records are written first, then those that must go are forgotten, each after its proof; long steps are only started.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt as _;

use super::outcome::Outcome;
use super::parts::Parts;
use crate::decide::{Action, Checked, Proof, Step};
use crate::kubernetes::Error;
use crate::kubernetes::write::{Written, forget, write};
use crate::record::RecordName;
use crate::snapshot::Failure;
use crate::storage::Store;

/// Writes to the API server that are under way at once.
const AT_ONCE: usize = 16;
/// Writes in a row that found no API server; after them the rest waits for the next pass.
const LOST_WRITES: usize = AT_ONCE;

/// Categories of failures that the next write would meet, too.
const LOST: [&str; 5] = ["unavailable", "timeout", "throttled", "unauthorized", "crd_missing"];

/// Does the plan. The outcomes stand in the order of its steps.
pub async fn act<S: Store>(plan: &Checked, parts: &Parts<'_, S>) -> Vec<Outcome> {
    let acting = Acting { parts, lost: AtomicUsize::new(0), failed: Mutex::default() };
    let mut outcomes = vec![Outcome::Abandoned; plan.steps().len()];
    let of_kind = |wanted: fn(&Action) -> bool| plan.steps().iter().enumerate().filter(move |(_, step)| wanted(&step.action));

    for (at, step) in of_kind(|action| matches!(action, Action::Verify(_))) {
        if let Action::Verify(file) = &step.action {
            outcomes[at] = parts.verifier.map_or(Outcome::Abandoned, |verifier| verifier.start(file));
        }
    }
    // In this order: a record that stands under a new name is there before the old one goes.
    for kind in [(|action| matches!(action, Action::Write(_))) as fn(&Action) -> bool, |action| matches!(action, Action::Forget(..))] {
        let ends = futures::stream::iter(of_kind(kind)).map(async |(at, step)| (at, acting.step(step).await)).buffer_unordered(AT_ONCE);
        tokio::pin!(ends);
        while let Some((at, outcome)) = ends.next().await {
            parts.shared.health.progress((&parts.storage).into());
            outcomes[at] = outcome;
        }
    }
    outcomes
}

struct Acting<'a, S> {
    parts: &'a Parts<'a, S>,
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
                let outcome = outcome(write(&self.parts.shared.cache, wanted, until).await);
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
                outcome(forget(&self.parts.shared.cache, record, until).await)
            }
            // Verify is started apart; of the others none is planned where everything is kept and no bucket is known.
            Action::Verify(_) | Action::Prune(..) | Action::Upload(..) | Action::Abort(..) => Outcome::Abandoned,
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

fn outcome(written: Result<Written, Error>) -> Outcome {
    match written {
        Ok(Written::Created | Written::Changed | Written::Deleted) => Outcome::Done,
        Ok(Written::Unchanged | Written::Stale) => Outcome::Stale,
        Ok(Written::Waiting) => Outcome::Waiting,
        Ok(Written::Abandoned) => Outcome::Abandoned,
        Err(error) => Outcome::Failed(error.failure()),
    }
}
