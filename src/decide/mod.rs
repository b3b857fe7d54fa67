//! Every rule: what one pass should do, as a pure function of what was observed, the policy, and the time.
//!
//! In: [`Observed`], [`Policy`], now. Out: a [`Plan`] of steps, each with its reason. It neither waits nor looks anything
//! up, and it never says no: that is [`check`]'s alone.

pub mod check;
#[cfg(test)]
mod fixtures;
pub mod plan;
pub mod records;
pub mod retention;
pub mod schedule;
pub mod successes;
#[cfg(test)]
mod tests;
pub mod uploads;

use jiff::Timestamp;

pub use check::{Checked, check, unjudged};
pub use plan::{Action, Around, Asked, BucketView, FailedUpload, Keep, Mode, Observed, Plan, Policy, Proof, Reason, Step, Veto};

/// What this pass should do: records, what may go, what is to be verified, what goes up. In this order, so that what goes
/// does not go up. What a person asks for is done alone: the records are kept by the agents.
pub fn decide(seen: &Observed, policy: &Policy, now: Timestamp) -> Plan {
    Plan(match &policy.asked {
        Asked::Prune { .. } => retention::retention(seen, policy, now),
        Asked::Delete { names, .. } => retention::delete(seen, names),
        Asked::Upload { .. } => uploads::uploads(seen, policy, now),
        Asked::Nothing => {
            let mut steps = records::records(seen, now);
            steps.extend(retention::retention(seen, policy, now));
            steps.extend(records::verify(seen));
            steps.extend(uploads::uploads(seen, policy, now));
            steps.extend(uploads::abandoned(seen, policy, now));
            steps
        }
    })
}
