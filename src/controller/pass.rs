//! One pass of one storage: observe, decide, check, act, report.

use tokio::time::Instant;

use super::act::act;
use super::observe::observe;
use super::parts::Parts;
use super::report::report;
use super::run::PassEnd;
use crate::decide::{check, decide};
use crate::storage::Store;

/// Runs one pass. What failed in it is said; the next pass is the retry.
pub async fn pass<S: Store>(parts: &Parts<'_, S>) -> PassEnd {
    let began = Instant::now();
    let (seen, failures) = observe(parts).await;
    let (policy, now) = (&parts.shared.policy, parts.shared.now());
    let plan = check(decide(&seen, policy, now), &seen, policy, now);
    let outcomes = act(&plan, parts).await;
    let ok = report(&seen, &failures, &plan, &outcomes, parts.shared);
    PassEnd { took: began.elapsed(), ok }
}
