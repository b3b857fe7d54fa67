//! One pass of one storage: observe, decide, check, act, report.

use tokio::time::Instant;

use super::act::act;
use super::observe::observe;
use super::outcome::Outcome;
use super::parts::Parts;
use super::report::{Told, report};
use super::run::PassEnd;
use crate::decide::{Checked, check, decide};
use crate::snapshot::{Failure, Storage};
use crate::storage::Store;

/// What one pass decided on, and what became of it.
pub struct Passed {
    /// Which storage.
    pub storage: Storage,
    /// The plan, with its vetoes.
    pub plan: Checked,
    /// What became of each step.
    pub outcomes: Vec<Outcome>,
    /// Why the storage could not be listed completely.
    pub incomplete: Option<Failure>,
    /// How long it took, and whether all of it succeeded.
    pub end: PassEnd,
}

/// Runs one pass. What failed in it is said; the next pass is the retry.
pub async fn pass<S: Store>(parts: &Parts<'_, S>) -> Passed {
    let began = Instant::now();
    let (seen, failures) = observe(parts).await;
    let (policy, now) = (parts.shared.policy(), parts.shared.now());
    let plan = check(decide(&seen, &policy, now), &seen, &policy, now);
    let outcomes = act(&plan, parts, &policy).await;
    let ok = report(&Told { seen: &seen, failures: &failures, plan: &plan, outcomes: &outcomes, policy: &policy, now }, parts.shared);
    Passed {
        storage: parts.storage.clone(),
        incomplete: seen.inventory.failure().cloned(),
        plan,
        outcomes,
        end: PassEnd { took: began.elapsed(), ok },
    }
}
