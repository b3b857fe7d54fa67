//! The one place that says no. It sets vetoes, step by step, and drops nothing: a vetoed step stays in the plan and shows
//! in log and metrics.

use std::collections::HashSet;

use super::plan::{Action, Mode, Observed, Plan, Policy, Proof, Reason, Step, Veto};
use crate::record::Record;
use crate::snapshot::Inventory;

/// A plan that was checked. Only this is acted on, and only [`check`] makes one.
#[derive(Debug)]
pub struct Checked(Vec<Step>);

impl Checked {
    /// The steps, with their vetoes.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }
}

/// Sets each step's veto.
pub fn check(plan: Plan, seen: &Observed, policy: &Policy) -> Checked {
    let mut steps = plan.0;
    let held = seen.records.iter().flatten().map(|record| state(record)).collect();
    for step in &mut steps {
        step.veto = veto(step, &held, seen, policy);
    }
    Checked(steps)
}

/// One state of one record.
fn state(record: &Record) -> (&str, &str) {
    (&record.uid, &record.resource_version)
}

fn veto(step: &Step, held: &HashSet<(&str, &str)>, seen: &Observed, policy: &Policy) -> Option<Veto> {
    match &step.action {
        Action::Verify(_) => return None,
        Action::Write(_) => {}
        Action::Forget(record, proof) => {
            if !held.contains(&state(record)) || record.storage.as_ref() != Some(&seen.storage) {
                return Some(Veto::NotOurs);
            }
            let from_listing = matches!(step.reason, Reason::Gone | Reason::FailureExpired) || matches!(proof, Proof::Absent(_));
            if from_listing && !matches!(seen.inventory, Inventory::Complete(_)) {
                return Some(Veto::Incomplete);
            }
        }
    }
    if policy.mode == Mode::Observe {
        return Some(Veto::Observing);
    }
    // Not to know is doubt, and nothing is written on doubt.
    (seen.k3s_at_work != Some(false)).then_some(Veto::K3sAtWork)
}
