//! One pass of one storage: observe, decide, check, act, report.

use tokio::time::Instant;

use super::act::act;
use super::observe::observe;
use super::outcome::Outcome;
use super::parts::Parts;
use super::report::{Told, report};
use super::run::PassEnd;
use super::shared::Shared;
use crate::decide::{Asked, Checked, Observed, Policy, check, decide};
use crate::snapshot::{Failure, Member, Storage};
use crate::storage::Store;

/// What one pass decided on, and what became of it.
pub struct Passed {
    /// Which storage.
    pub storage: Storage,
    /// The plan, with its vetoes.
    pub plan: Checked,
    /// What became of each step.
    pub outcomes: Vec<Outcome>,
    /// Why the storage could not be listed completely; or why nobody can say what a person may prune there.
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
        incomplete: seen.inventory.failure().cloned().or_else(|| undecided(&seen, &policy, parts.shared)),
        plan,
        outcomes,
        end: PassEnd { took: began.elapsed(), ok },
    }
}

/// What retention would have to know. The agent waits for it; a person is told.
fn undecided(seen: &Observed, policy: &Policy, shared: &Shared) -> Option<Failure> {
    if !matches!(policy.asked, Asked::Prune { .. }) {
        return None;
    }
    if seen.us.member == Member::Silent {
        let endpoint = &shared.historian.member().access().endpoint;
        let why = format!("the etcd member at {endpoint} does not answer, and only it can say which snapshots are of its own history");
        return Some(Failure::new("member", why));
    }
    let misses_records = seen.records.is_none() && matches!(seen.storage, Storage::S3 { .. });
    misses_records.then(|| shared.records_failure())
}
