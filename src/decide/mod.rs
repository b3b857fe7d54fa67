//! Every rule: what one pass should do, as a pure function of what was observed, the policy, and the time.
//!
//! In: [`Observed`], [`Policy`], now. Out: a [`Plan`] of steps, each with its reason. It neither waits nor looks anything
//! up, and it never says no: that is [`check`]'s alone.

pub mod check;
pub mod plan;
pub mod records;

use jiff::Timestamp;

pub use check::{Checked, check};
pub use plan::{Action, Mode, Observed, Plan, Policy, Proof, Reason, Step, Veto};

/// What this pass should do. Records first, then what is to be verified; retention and uploads have their place behind.
pub fn decide(seen: &Observed, _policy: &Policy, now: Timestamp) -> Plan {
    let mut steps = records::records(seen, now);
    steps.extend(records::verify(seen));
    Plan(steps)
}
