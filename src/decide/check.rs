//! The one place that says no. It sets vetoes, step by step, and drops nothing: a vetoed step stays in the plan and shows
//! in log and metrics.
//!
//! What a removal or an upload may do is found out here once more, from what was observed and not from the rules that
//! planned it.

use std::collections::HashSet;

use jiff::{SignedDuration, Timestamp};

use super::plan::{Action, Asked, Mode, Observed, Plan, Policy, Proof, Reason, Step, Veto};
use crate::record::Record;
use crate::snapshot::{FileName, Inventory, Member, Owner, SnapshotFile, Storage, Upload, Verdict};

/// A pass may delete so many however few good ones there are.
const ALWAYS_DELETED: usize = 3;
/// A clock may be wrong by this much.
const SKEW: SignedDuration = SignedDuration::from_mins(5);

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
pub fn check(plan: Plan, seen: &Observed, policy: &Policy, now: Timestamp) -> Checked {
    let mut steps = plan.0;
    let held = seen.records.iter().flatten().map(|record| state(record)).collect();
    let view = View { seen, held, policy, now };
    let brake = view.brakes(&steps);
    let newest = view.newest_good();
    for step in &mut steps {
        step.veto = view.mistake(step, &newest).or_else(|| view.reluctance(step, brake));
    }
    Checked(steps)
}

/// How many files retention may turn out to be about once they are looked into.
pub fn unjudged(seen: &Observed) -> usize {
    seen.inventory.seen().values().filter(|file| file.known.is_none() && file.name.time().is_some()).count()
}

/// One state of one record.
fn state(record: &Record) -> (&str, &str) {
    (&record.uid, &record.resource_version)
}

struct View<'a> {
    seen: &'a Observed,
    /// The states of the records that the cache held.
    held: HashSet<(&'a str, &'a str)>,
    policy: &'a Policy,
    now: Timestamp,
}

impl View<'_> {
    /// What is never seen unless `decide` is wrong.
    fn mistake(&self, step: &Step, newest: &[&FileName]) -> Option<Veto> {
        match &step.action {
            Action::Verify(_) | Action::Write(_) => None,
            Action::Forget(record, proof) => self.forget(record, proof, step.reason),
            Action::Prune(file, records) if step.reason == Reason::Asked => {
                let others = records.iter().any(|record| !self.is_held(record) || record.file.as_ref() != Some(&file.name));
                if self.is_complete() { (others || !self.may_be_deleted(file)).then_some(Veto::NotOurs) } else { Some(Veto::Incomplete) }
            }
            Action::Prune(file, records) => {
                let others = records.iter().any(|record| !self.is_held(record) || record.file.as_ref() != Some(&file.name));
                let damaged = matches!(file.known.as_ref().map(|known| &known.verdict), Some(Verdict::Damaged(_)));
                if !self.is_complete() {
                    Some(Veto::Incomplete)
                } else if others || self.seen.us.member == Member::Silent || !self.is_seen(file) || !self.counts(file) {
                    Some(Veto::NotOurs)
                } else if step.reason == Reason::Damaged && !damaged {
                    Some(Veto::NotGood)
                } else {
                    newest.contains(&&file.name).then_some(Veto::NewestGood)
                }
            }
            Action::Upload(file, _) => {
                let owner = self.seen.owners.get(&file.name);
                let ours = owner.is_some_and(|owner| owner.is_ours_as_it_seems()) && self.seen.us.cluster.is_some();
                if !self.is_complete() {
                    Some(Veto::Incomplete)
                } else if !ours || !self.is_seen(file) {
                    Some(Veto::NotOurs)
                } else {
                    (!file.is_good()).then_some(Veto::NotGood)
                }
            }
            Action::Abort(name, id) => {
                let around = &self.seen.around;
                let begun = around.bucket.as_ref().and_then(|bucket| around.uploads.get(name)?.get(&bucket.storage.id()));
                let begun_here = matches!(begun, Some(Upload::Begun { id: begun }) if begun == id);
                // Our own state is proof of our own; of others' only an object of ours under that name.
                let local = matches!(self.seen.storage, Storage::Local { .. });
                let is_ours = || local || self.seen.owners.get(name) == Some(&Owner::Ours);
                let stands_still = || around.abandoned.iter().any(|(of, that)| of == name && that == id);
                (!(begun_here || stands_still() && is_ours())).then_some(Veto::NotOurs)
            }
        }
    }

    fn forget(&self, record: &Record, proof: &Proof, reason: Reason) -> Option<Veto> {
        if reason == Reason::NodeGone {
            return (!self.is_orphan(record)).then_some(Veto::NotOurs);
        }
        if !self.is_held(record) {
            return Some(Veto::NotOurs);
        }
        if reason == Reason::TooManyFailures && !(record.is_failure() && record.is_untouched) {
            return Some(Veto::NotOurs);
        }
        let from_listing =
            matches!(reason, Reason::Gone | Reason::FailureExpired | Reason::TooManyFailures) || matches!(proof, Proof::Absent(_));
        (from_listing && !self.is_complete()).then_some(Veto::Incomplete)
    }

    /// What is ordinary.
    fn reluctance(&self, step: &Step, brake: bool) -> Option<Veto> {
        let (moves_files, local) = (
            matches!(step.action, Action::Prune(..) | Action::Upload(..) | Action::Abort(..)),
            matches!(self.seen.storage, Storage::Local { .. }),
        );
        if matches!(step.action, Action::Verify(_)) {
            return None;
        }
        if self.policy.mode == Mode::Observe {
            return Some(Veto::Observing);
        }
        // Not to know is doubt, and no record is written on doubt. But local retention and uploads do not wait for the
        // API server: the day when etcd is ill is the day they matter.
        // And who asks for something by hand has looked.
        let at_work_here = self.seen.k3s_at_work.unwrap_or(self.policy.asked == Asked::Nothing && !(moves_files && local));
        let goes_up = local && matches!(step.action, Action::Upload(..) | Action::Abort(..));
        if at_work_here || goes_up && self.seen.around.k3s_on_bucket.unwrap_or(false) {
            return Some(Veto::K3sAtWork);
        }
        (brake && matches!(step.action, Action::Prune(..))).then_some(Veto::Brake)
    }

    /// Whether this pass would delete more than anybody expects: more than three, and more than half of the good ones. What is not
    /// judged yet counts as good and as going: else a directory of old files would go bit by bit, as fast as they are verified.
    fn brakes(&self, steps: &[Step]) -> bool {
        let deleted = steps.iter().filter(|step| matches!(step.action, Action::Prune(..))).count();
        let good = self.seen.inventory.seen().values().filter(|file| file.is_good() && self.counts(file)).count();
        let unjudged = unjudged(self.seen);
        self.policy.asked.has_brake() && deleted + unjudged > ALWAYS_DELETED && (deleted + unjudged) * 2 > good + unjudged
    }

    fn is_complete(&self) -> bool {
        matches!(self.seen.inventory, Inventory::Complete(_))
    }

    /// Whether the cache held exactly this record, of this storage.
    fn is_held(&self, record: &Record) -> bool {
        record.storage.as_ref() == Some(&self.seen.storage) && self.held.contains(&state(record))
    }

    /// Whether it is a local record of a node that is gone, and no agent of that node keeps it without a Node object.
    fn is_orphan(&self, record: &Record) -> bool {
        let of_gone = matches!(&record.storage, Some(Storage::Local { node }) if self.seen.around.gone_nodes.contains(node) && *node != self.seen.us.node);
        of_gone && !record.without_node_object && self.seen.around.orphans.iter().any(|orphan| state(orphan) == state(record))
    }

    /// Whether the listing found exactly this, looked into and at rest.
    fn is_seen(&self, file: &SnapshotFile) -> bool {
        let listed = self.seen.inventory.seen().get(&file.name);
        listed.is_some_and(|listed| listed == file) && file.at_rest && file.known.is_some()
    }

    /// Whether a person may have it deleted: what is ours, of whatever base name and worth; of another history when told so. A local
    /// file of which nothing is known yet is ours when its name names our node.
    fn may_be_deleted(&self, file: &SnapshotFile) -> bool {
        let seen = self.seen.inventory.seen().get(&file.name).is_some_and(|listed| listed == file) && file.at_rest;
        let ours = match self.seen.owners.get(&file.name) {
            Some(Owner::Ours) => true,
            Some(owner) if owner.may_be_from_before_a_restore() => self.policy.asked.takes_over(),
            Some(Owner::Unknown) => {
                file.known.is_none() && matches!(&self.seen.storage, Storage::Local { node } if file.name.names_node(node))
            }
            _ => false,
        };
        seen && ours
    }

    /// Whether it is proven ours, of the base name, and not dated ahead.
    fn counts(&self, file: &SnapshotFile) -> bool {
        let Some(known) = &file.known else { return false };
        let owner = match self.seen.owners.get(&file.name) {
            Some(Owner::Ours) => true,
            Some(owner) if owner.may_be_from_before_a_restore() => self.policy.asked.takes_over(),
            _ => false,
        };
        let cluster = match &self.seen.storage {
            Storage::S3 { .. } if known.cluster.is_none() => self.policy.keep.adopt_unlabelled,
            Storage::S3 { .. } => known.cluster == self.seen.us.cluster,
            Storage::Local { .. } => known.manifest.cluster.is_none() || known.manifest.cluster == self.seen.us.cluster,
        };
        let told: Vec<_> = known.node.iter().chain(&known.manifest.node).collect();
        let of_node = |node| file.name.is_of(&self.policy.keep.base, node);
        let named = if told.is_empty() { of_node(&self.seen.us.node) } else { told.into_iter().all(of_node) };
        let in_time = file.name.time().is_some_and(|time| time.duration_since(self.now) <= SKEW);
        owner && cluster && named && in_time && file.at_rest
    }

    /// The newest good one by its name, and by its last change.
    fn newest_good(&self) -> Vec<&FileName> {
        let good = || self.seen.inventory.seen().values().filter(|file| file.is_good() && self.counts(file));
        let by_name = good().max_by_key(|file| (file.name.time(), file.modified));
        let by_change = good().max_by_key(|file| (file.modified, file.name.time()));
        by_name.into_iter().chain(by_change).map(|file| &file.name).collect()
    }
}
