//! Which snapshot files may go (docs/design.md 7).
//!
//! In: one storage's complete listing, whose each file is, and how many good ones to keep. Out: what goes, oldest first,
//! each with its reason. It keeps on every doubt; the brake is [`super::check()`]'s.
//!
//! **What counts**: files of the base name that are ours beyond doubt, at rest, looked into, and not dated ahead. Good
//! ones of them take places, N by each of three clocks: the time in the name, the last change, and etcd's raft index where
//! the manifest tells it, which no jump of a node's clock touches. One that has a place by any of them stays.
//!
//! **What is not good** takes no place. It goes when a good one with its times would have none. Damaged ones are worth
//! nothing but a look, so of three or more all but the newest two go as well, however few good ones there are.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::plan::{Action, Asked, Keep, Observed, Policy, Reason, Step};
use crate::snapshot::owner::{is_dated_ahead, owners, owners_adopting, tells_of_another_history};
use crate::snapshot::{BaseName, FileName, Identity, Inventory, Listing, Member, NodeName, Owner, SnapshotFile, Storage, Verdict};

/// What changed less than this ago was saved or uploaded just now, and stays whatever its name says; unless a person prunes, who has looked.
const JUST_NOW: SignedDuration = SignedDuration::from_mins(5);
/// When there are three damaged ones, the oldest goes.
const DAMAGED_TO_LOOK_AT: usize = 2;

/// The prune steps of this pass. None while our member has not answered, the listing is not complete, or a bucket's
/// records are not known: an object goes together with its record.
pub fn retention(seen: &Observed, policy: &Policy, now: Timestamp) -> Vec<Step> {
    let Inventory::Complete(all) = &seen.inventory else { return Vec::new() };
    let records_are_missed = seen.records.is_none() && matches!(seen.storage, Storage::S3 { .. });
    if seen.us.member == Member::Silent || records_are_missed {
        return Vec::new();
    }
    let shelf =
        Shelf { storage: &seen.storage, us: &seen.us, listing: all.listing(), owners: &seen.owners, living: seen.around.living.as_ref() };
    let mut going = shelf.going(&policy.keep, policy.asked.takes_over(), now);
    let by_hand = matches!(policy.asked, Asked::Prune { .. });
    going.retain(|(file, _)| (by_hand || now.duration_since(file.modified) >= JUST_NOW) && !seen.around.busy.contains(&file.name));
    going.into_iter().map(|(file, reason)| prune(seen, file, reason)).collect()
}

/// The prune steps of these names, as far as they are there.
pub fn delete(seen: &Observed, names: &BTreeSet<FileName>) -> Vec<Step> {
    let there = names.iter().filter_map(|name| seen.inventory.seen().get(name));
    there.filter(|file| !seen.around.busy.contains(&file.name)).map(|file| prune(seen, file, Reason::Asked)).collect()
}

fn prune(seen: &Observed, file: &SnapshotFile, reason: Reason) -> Step {
    let here = seen.records.iter().flatten().filter(|record| !record.terminating && record.storage.as_ref() == Some(&seen.storage));
    let records = here.filter(|record| record.file.as_ref() == Some(&file.name)).cloned().collect();
    Step::new(Action::Prune(Box::new(file.clone()), records), reason)
}

/// The files of one storage as retention sees them.
#[derive(Debug, Clone, Copy)]
pub struct Shelf<'a> {
    /// The storage.
    pub storage: &'a Storage,
    /// Who we are.
    pub us: &'a Identity,
    /// Its files.
    pub listing: &'a Listing,
    /// Whose each of them is.
    pub owners: &'a BTreeMap<FileName, Owner>,
    /// Nodes whose newest good one a bucket keeps; None is all of them.
    pub living: Option<&'a BTreeSet<NodeName>>,
}

/// A file that retention is about.
#[derive(Clone, Copy)]
struct Counted<'a> {
    file: &'a SnapshotFile,
    node: &'a NodeName,
    named: Timestamp,
    /// Only of our present history: raft indexes of two histories do not compare.
    raft_index: Option<u64>,
}

/// By what newer is told; on equal values the time in the name decides, then the name.
type Key<'a> = (i128, Timestamp, &'a FileName);

impl<'a> Counted<'a> {
    fn keys(&self) -> [Option<Key<'a>>; 3] {
        let key = |value: i128| (value, self.named, &self.file.name);
        let by_name = key(i128::from(self.named.as_second()));
        [Some(by_name), Some(key(self.file.modified.as_nanosecond())), self.raft_index.map(|index| key(index.into()))]
    }

    fn is_damaged(&self) -> bool {
        matches!(self.file.known.as_ref().map(|known| &known.verdict), Some(Verdict::Damaged(_)))
    }
}

/// The places that the newest of some files take: by each clock, from which key on one has a place. None: there are fewer.
struct Places<'a>([Option<Key<'a>>; 3]);

impl<'a> Places<'a> {
    fn of(takers: &[Counted<'a>], places: usize) -> Self {
        Self(std::array::from_fn(|clock| {
            let mut keys: Vec<_> = takers.iter().filter_map(|taker| taker.keys()[clock]).collect();
            keys.sort_unstable_by(|a, b| b.cmp(a));
            keys.get(places.saturating_sub(1)).copied()
        }))
    }

    /// Whether it has a place, or would have one if it were among the takers.
    fn have(&self, one: &Counted<'a>) -> bool {
        let by_clock = |(key, from): (Option<Key>, Option<Key>)| key.is_some_and(|key| from.is_none_or(|from| key >= from));
        one.keys().into_iter().zip(self.0).any(by_clock)
    }
}

impl<'a> Shelf<'a> {
    /// What has no place, oldest first, and why it goes. `take_over` counts another history as ours.
    pub fn going(&self, keep: &Keep, take_over: bool, now: Timestamp) -> Vec<(&'a SnapshotFile, Reason)> {
        let newest = keep.newest(self.storage) as usize;
        if newest == 0 {
            return Vec::new();
        }
        let counted: Vec<_> = self.listing.values().filter_map(|file| self.counted(file, &keep.base, take_over, now)).collect();
        let good: Vec<_> = counted.iter().filter(|one| one.file.is_good()).copied().collect();
        let damaged: Vec<_> = counted.iter().filter(|one| one.is_damaged()).copied().collect();
        let (of_all, of_damaged, of_nodes) =
            (Places::of(&good, newest), Places::of(&damaged, DAMAGED_TO_LOOK_AT), self.places_of_nodes(&good));
        let reason = |one: &Counted<'a>| {
            let of_its_node = || match of_nodes.get(one.node) {
                Some(places) => places.have(one),
                // A good one would be the first of its node.
                None => self.keeps_one_of(one.node),
            };
            if !of_all.have(one) && !of_its_node() {
                Some(Reason::BeyondRetention)
            } else {
                (one.is_damaged() && !of_damaged.have(one)).then_some(Reason::Damaged)
            }
        };
        let mut going: Vec<_> = counted.iter().filter_map(|one| Some((*one, reason(one)?))).collect();
        self.leave_what_tells_histories_apart(&mut going, keep, now);
        going.sort_by_key(|(one, _)| (one.named, &one.file.name));
        going.into_iter().map(|(one, reason)| (one.file, reason)).collect()
    }

    /// The file with what its places depend on; None when retention is not about it.
    fn counted(&self, file: &'a SnapshotFile, base: &BaseName, take_over: bool, now: Timestamp) -> Option<Counted<'a>> {
        let owner = *self.owners.get(&file.name)?;
        let ours = owner == Owner::Ours || take_over && owner.may_be_from_before_a_restore();
        let known = file.known.as_ref().filter(|_| ours && file.at_rest)?;
        // Two that do not agree leave it in doubt; none leaves our own node.
        let node = match (&known.node, &known.manifest.node) {
            (Some(object), Some(sidecar)) if object != sidecar => return None,
            (Some(node), _) | (None, Some(node)) => node,
            (None, None) => &self.us.node,
        };
        let named = file.name.time().filter(|_| file.name.is_of(base, node) && !is_dated_ahead(file, now))?;
        let history = known.manifest.history.as_ref().filter(|_| owner == Owner::Ours);
        Some(Counted { file, node, named, raft_index: history.map(|history| history.raft_index) })
    }

    /// A bucket keeps the newest good one of each living node.
    fn places_of_nodes(&self, good: &[Counted<'a>]) -> BTreeMap<&'a NodeName, Places<'a>> {
        let mut by_node: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for one in good.iter().filter(|one| self.keeps_one_of(one.node)) {
            by_node.entry(one.node).or_default().push(*one);
        }
        by_node.into_iter().map(|(node, good)| (node, Places::of(&good, 1))).collect()
    }

    fn keeps_one_of(&self, node: &NodeName) -> bool {
        matches!(self.storage, Storage::S3 { .. }) && self.living.is_none_or(|living| living.contains(node))
    }

    /// What stays of another history is told from ours by newer manifests, once our member has passed its raft index by
    /// them alone. Without them it would become ours and go, though nobody has looked. So those few stay as well.
    fn leave_what_tells_histories_apart(&self, going: &mut Vec<(Counted<'a>, Reason)>, keep: &Keep, now: Timestamp) {
        if going.is_empty() || !self.owners.values().any(|owner| *owner == Owner::AnotherHistory) {
            return;
        }
        let without_member = Identity { member: Member::Silent, ..self.us.clone() };
        let told = |listing: &Listing| {
            let judge = if keep.adopt_unlabelled { owners_adopting } else { owners };
            judge(self.storage, &without_member, listing, now)
        };
        let mut rest = self.listing.clone();
        for (one, _) in &*going {
            rest.remove(&one.file.name);
        }
        let after = told(&rest);
        let mut untold: Vec<&SnapshotFile> = Vec::new();
        for (name, owner) in told(self.listing) {
            if owner == Owner::AnotherHistory && after.get(&name).is_some_and(|after| *after != owner) {
                untold.extend(self.listing.get(&name));
            }
        }
        // The lowest index speaks about the most files.
        let index = |one: &Counted| Some(one.file.known.as_ref()?.manifest.history.as_ref()?.raft_index);
        going.sort_by_key(|(one, _)| (index(one), one.named, &one.file.name));
        let mut tells: Vec<&SnapshotFile> = Vec::new();
        for older in untold {
            if tells.iter().any(|newer| tells_of_another_history(newer, older)) {
                continue;
            }
            if let Some(at) = going.iter().position(|(one, _)| tells_of_another_history(one.file, older)) {
                tells.push(going.remove(at).0.file);
            }
        }
    }
}

#[cfg(test)]
mod tests;
