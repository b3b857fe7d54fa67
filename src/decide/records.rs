//! When a record is written, when it goes, and what is to be verified.
//!
//! A record is written when it does not say what is. It goes when its file or object is gone, which only a complete
//! listing may suggest and only a direct question proves; when its failure is a day old, or enough newer ones have records;
//! when the object is another cluster's; when its node is gone. A save or an upload that failed has a record while nothing is
//! there under its name.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::plan::{Action, Observed, Proof, Reason, Step};
use crate::record::content::{digest, digest_without_metadata};
use crate::record::wanted::{failed_save, failed_upload, wanted};
use crate::record::{Place, Record, RecordName, Wanted};
use crate::snapshot::{FailedSave, FileName, Inventory, Owner};

/// How long a failure record stays when what failed is not tried any more, from its error's time (docs/k3s.md 4.3).
const FAILURES_STAY: SignedDuration = SignedDuration::from_hours(24);
/// So many uploads to one bucket that failed have a record, of all nodes together: what twenty nodes keep. A bucket that takes
/// nothing must not fill the API server.
const MOST_UPLOADS: usize = 100;

/// Writes and forgets: the records of this storage against its inventory.
pub fn records(seen: &Observed, now: Timestamp) -> Vec<Step> {
    let Some(records) = &seen.records else { return Vec::new() };
    let by_name: BTreeMap<&RecordName, &Arc<Record>> = records.iter().map(|record| (&record.name, record)).collect();
    let mut by_file: BTreeMap<&FileName, Vec<&Arc<Record>>> = BTreeMap::new();
    for record in records {
        if let Some(file) = &record.file {
            by_file.entry(file).or_default().push(record);
        }
    }
    let mut steps = Vec::new();
    let mut recorded_as: BTreeMap<&FileName, RecordName> = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for file in seen.inventory.seen().values() {
        let owner = seen.owners.get(&file.name).copied().unwrap_or(Owner::Unknown);
        if owner == Owner::AnotherCluster {
            continue;
        }
        let mine = by_file.get(&file.name).map(Vec::as_slice).unwrap_or_default();
        let believed_of = |record: &Record| record.version.as_ref() == Some(&file.version);
        if matches!(seen.place, Place::S3(_))
            && file.known.is_none()
            && mine.iter().any(|record| record.version.is_none() || believed_of(record))
        {
            // It could not be asked about, and the record may well be right: it does not flap because a request failed.
            continue;
        }
        let node = mine.iter().find(|record| !record.terminating).map(|record| record.node.as_str());
        let Some(wanted) = wanted(file, owner, &seen.place, seen.shape, node, seen.around.uploads.get(&file.name)) else { continue };
        let name = wanted.name();
        if taken.insert(name.clone()) {
            recorded_as.insert(&file.name, name.clone());
            steps.extend(write(wanted, by_name.get(&name).copied(), seen));
        }
    }
    let failures = failures(seen, now);
    let places = most_failures(&seen.place).saturating_sub(failures.len());
    for wanted in failures {
        let name = wanted.name();
        if taken.insert(name.clone()) {
            let step = write(wanted, by_name.get(&name).copied(), seen);
            steps.extend(step.map(|step| Step { reason: Reason::Failed, ..step }));
        }
    }
    let left: Vec<_> = records.iter().filter(|record| !record.terminating && !taken.contains(&record.name)).collect();
    let too_many = too_many(&left, places, seen);
    for record in left {
        let step = forget(record, &recorded_as, seen, now);
        let is_too_many = || too_many.contains(&record.name);
        steps.extend(
            step.or_else(|| is_too_many().then(|| Step::new(Action::Forget(record.clone(), Proof::None), Reason::TooManyFailures))),
        );
    }
    let orphans = seen.around.orphans.iter().filter(|record| !record.terminating);
    steps.extend(orphans.map(|record| Step::new(Action::Forget(record.clone(), Proof::None), Reason::NodeGone)));
    steps
}

/// The records of saves and uploads that failed, where a complete listing shows that no file or object is there.
fn failures(seen: &Observed, now: Timestamp) -> Vec<Wanted> {
    let Inventory::Complete(all) = &seen.inventory else { return Vec::new() };
    let place = match &seen.place {
        Place::Local { node, .. } => {
            let is_shown = |save: &&FailedSave| !all.listing().contains_key(&save.file) && now.duration_since(save.at) < FAILURES_STAY;
            return seen.around.failed_saves.iter().filter(is_shown).map(|save| failed_save(save, node, seen.shape)).collect();
        }
        Place::S3(place) => place,
    };
    let mut failed: Vec<_> = seen.around.failed_uploads.iter().filter(|failed| !all.listing().contains_key(&failed.file)).collect();
    failed.sort_by_key(|failed| (Reverse(failed.since), &failed.file));
    failed.truncate(MOST_UPLOADS);
    failed.into_iter().map(|failed| failed_upload(&failed.file, &failed.node, failed.since, &failed.why, place, seen.shape)).collect()
}

fn most_failures(place: &Place) -> usize {
    match place {
        Place::Local { .. } => FailedSave::MOST,
        Place::S3(_) => MOST_UPLOADS,
    }
}

/// The failure records of ours beyond so many places, by the time of the failure. Those that are wanted have theirs already: one
/// that goes here is not written again. K3s's own take no place and stay their day, and so does what may be a file's.
fn too_many<'a>(left: &[&'a Arc<Record>], places: usize, seen: &Observed) -> BTreeSet<&'a RecordName> {
    let Inventory::Complete(all) = &seen.inventory else { return BTreeSet::new() };
    let is_listed = |record: &Record| record.file.as_ref().is_some_and(|file| all.listing().contains_key(file));
    let mut failures: Vec<_> =
        left.iter().copied().filter(|record| record.is_failure() && record.is_untouched && !is_listed(record)).collect();
    failures.sort_by_key(|record| (Reverse(record.error_at), &record.name));
    failures.into_iter().skip(places).map(|record| &record.name).collect()
}

/// What brings the record to what is wanted, if anything has to.
fn write(wanted: Wanted, record: Option<&Arc<Record>>, seen: &Observed) -> Option<Step> {
    let program = seen.shape.program;
    let reason = match record {
        None => Reason::New,
        // It comes back when its finalizer has let it go.
        Some(record) if record.terminating => return None,
        Some(record) => {
            let same = if wanted.metadata_in_record {
                record.facts == digest_without_metadata(&wanted.object, program)
            } else {
                record.digest == digest(&wanted.object, program)
            };
            match (same, record.is_untouched) {
                (true, true) => return None,
                // K3s's own says the same.
                (true, false) if record.is_failure() => return None,
                (_, false) if record.version.is_some() => Reason::Edited,
                _ => Reason::Changed,
            }
        }
    };
    Some(Step::new(Action::Write(Box::new(wanted)), reason))
}

/// Why a record that no file wants should go, and what has to be shown before.
fn forget(record: &Arc<Record>, recorded_as: &BTreeMap<&FileName, RecordName>, seen: &Observed, now: Timestamp) -> Option<Step> {
    let step = |proof, reason| Some(Step::new(Action::Forget(record.clone(), proof), reason));
    let listed = record.file.as_ref().filter(|file| seen.inventory.seen().contains_key(*file));
    let is_complete = matches!(seen.inventory, Inventory::Complete(_));
    match (&record.file, listed) {
        _ if record.is_failure() && listed.is_none() => {
            let since = record.error_at.unwrap_or(now);
            // Where not everything was seen, a file may stand behind it.
            let expired = is_complete && now.duration_since(since) >= FAILURES_STAY;
            if expired { step(Proof::None, Reason::FailureExpired) } else { None }
        }
        (None, _) => step(Proof::None, Reason::NotASnapshot),
        (Some(_), Some(file)) if seen.owners.get(file) == Some(&Owner::AnotherCluster) => step(Proof::None, Reason::AnotherCluster),
        (Some(_), Some(file)) => match recorded_as.get(file) {
            Some(name) if *name != record.name => step(Proof::RecordedAs(name.clone()), Reason::Renamed),
            _ => None,
        },
        (Some(file), None) if is_complete => step(Proof::Absent(file.clone()), Reason::Gone),
        (Some(_), None) => None,
    }
}

/// What is to be read against its trailer: local files at rest of which nothing is known, newest first.
pub fn verify(seen: &Observed) -> Vec<Step> {
    if !matches!(seen.place, Place::Local { .. }) {
        return Vec::new();
    }
    let waits = |file: &&crate::snapshot::SnapshotFile| file.known.is_none() && file.at_rest && !seen.running.contains(&file.name);
    let mut files: Vec<_> = seen.inventory.seen().values().filter(waits).collect();
    files.sort_by_key(|file| std::cmp::Reverse((file.name.created_at(file.modified), &file.name)));
    files.into_iter().map(|file| Step::new(Action::Verify(Box::new(file.clone())), Reason::NotVerified)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::plan::{Around, Asked, Keep, Mode, Policy, Veto};
    use super::super::{check, decide};
    use super::*;
    use crate::record::Shape;
    use crate::record::api::{ETCDSnapshotFile, Error, S3, Status};
    use crate::record::cached::cached;
    use crate::record::patch::{create, patch};
    use crate::snapshot::owner::owners;
    use crate::snapshot::*;

    const SHAPE: Shape = Shape { program: Program::K3s, bucket_lookup: true };
    const NOW: i64 = 1_800_000_000;

    fn time(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn known(verdict: Verdict, cluster: Option<&str>) -> Known {
        Known {
            verdict,
            manifest: Manifest::default(),
            cluster: cluster.and_then(ClusterId::new),
            node: NodeName::new("cp1").ok(),
            token_hash: None,
            metadata: Metadata::Read(BTreeMap::new()),
        }
    }

    fn file(name: &str, version: &str, known: Option<Known>) -> SnapshotFile {
        let name = FileName::new(name).unwrap();
        SnapshotFile { name, size: 4128, modified: time(NOW - 100), version: Version::remembered(version), at_rest: true, known }
    }

    /// A storage, its records as the API server would hold them, and a pass over both.
    struct World {
        bucket: bool,
        records: BTreeMap<String, ETCDSnapshotFile>,
        inventory: Inventory,
        k3s_at_work: Option<bool>,
    }

    impl World {
        fn new(bucket: bool, files: Vec<SnapshotFile>) -> Self {
            Self { bucket, records: BTreeMap::new(), inventory: complete(files), k3s_at_work: Some(false) }
        }

        fn observed(&self) -> Observed {
            let node = NodeName::new("cp1").unwrap();
            let s3 = S3 { endpoint: "h".into(), bucket: "b".into(), prefix: "f".into(), ..S3::default() };
            let (storage, place) = if self.bucket {
                (Storage::s3("h", true, "b", "f"), Place::S3(s3))
            } else {
                (
                    Storage::Local { node: node.clone() },
                    Place::Local { dir: "/snapshots".into(), node: node.clone(), has_node_object: true },
                )
            };
            let us = Identity { node, cluster: ClusterId::new("uid"), member: Member::Silent };
            Observed {
                owners: owners(&storage, &us, self.inventory.seen(), time(NOW)),
                records: Some(self.records.values().map(|object| Arc::new(cached(object, Program::K3s))).collect()),
                inventory: self.inventory.clone(),
                shape: SHAPE,
                running: BTreeSet::new(),
                k3s_at_work: self.k3s_at_work,
                around: Around::default(),
                us,
                storage,
                place,
            }
        }

        /// `write NAME because REASON`, a line a step.
        fn plan(&self, mode: Mode) -> Vec<String> {
            let (seen, policy) = (
                self.observed(),
                Policy { mode, interval: std::time::Duration::from_mins(10), keep: Keep::default(), asked: Asked::Nothing },
            );
            let checked = check(decide(&seen, &policy, time(NOW)), &seen, &policy, time(NOW));
            let line = |step: &Step| {
                let veto = step.veto.map(|veto| format!(", vetoed: {}", veto.word())).unwrap_or_default();
                format!("{} {} because {}{veto}", step.action.word(), step.action.subject(), step.reason.word())
            };
            checked.steps().iter().map(line).collect()
        }

        /// Does what the API server would.
        fn act(&mut self) {
            let seen = self.observed();
            let policy =
                Policy { mode: Mode::Manage, interval: std::time::Duration::from_mins(10), keep: Keep::default(), asked: Asked::Nothing };
            for step in
                check(decide(&seen, &policy, time(NOW)), &seen, &policy, time(NOW)).steps().iter().filter(|step| step.veto.is_none())
            {
                match &step.action {
                    Action::Write(wanted) => {
                        let name = wanted.name().to_string();
                        let is = self.records.get(&name).cloned();
                        let now = match is {
                            None => create(wanted, Program::K3s).unwrap(),
                            Some(is) => apply(&is, &patch(&is, wanted, Program::K3s).unwrap_or_default()),
                        };
                        self.records.insert(name, now);
                    }
                    Action::Forget(record, _) => {
                        self.records.remove(record.name.as_str());
                    }
                    _ => {}
                }
            }
        }

        fn edit(&mut self, edit: impl Fn(&mut ETCDSnapshotFile)) {
            self.records.values_mut().for_each(edit);
        }
    }

    fn complete(files: Vec<SnapshotFile>) -> Inventory {
        Inventory::Complete(Complete::vouch(files.into_iter().map(|file| (file.name.clone(), file)).collect()))
    }

    fn apply(is: &ETCDSnapshotFile, patch: &serde_json::Value) -> ETCDSnapshotFile {
        fn merge(into: &mut serde_json::Value, patch: &serde_json::Value) {
            let Some(patch) = patch.as_object() else { return *into = patch.clone() };
            for (key, value) in patch {
                let map = into.as_object_mut().unwrap();
                if value.is_null() {
                    map.remove(key);
                } else {
                    merge(map.entry(key).or_insert(serde_json::json!({})), value);
                }
            }
        }
        let mut value = serde_json::json!(is);
        merge(&mut value, patch);
        serde_json::from_value(value).unwrap()
    }

    const A: &str = "etcd-snapshot-cp1-1700000000";
    const RECORD_A: &str = "local-etcd-snapshot-cp1-1700000000-fccecf";

    fn whole() -> Known {
        known(Verdict::Whole, None)
    }

    fn failed(name: &str, file: &str, at: i64) -> ETCDSnapshotFile {
        let mut object = ETCDSnapshotFile::default();
        object.metadata.name = Some(name.into());
        object.spec.snapshot_name = file.into();
        object.spec.node_name = "cp1".into();
        let error = Some(Error { time: Some(time(at)), message: Some("boom".into()) });
        object.status = Some(Status { error, ready_to_use: Some(false), ..Status::default() });
        object
    }

    #[test]
    fn a_new_file_is_recorded_and_verified_and_then_nothing_is_left_to_do() {
        let mut world = World::new(false, vec![file(A, "1", None)]);
        assert_eq!(world.plan(Mode::Manage), [format!("write {RECORD_A} because new"), format!("verify {A} because not-verified")]);
        world.act();
        assert_eq!(world.records[RECORD_A].status.as_ref().unwrap().ready_to_use, Some(false));
        world.inventory = complete(vec![file(A, "1", Some(whole()))]);
        assert_eq!(world.plan(Mode::Manage), [format!("write {RECORD_A} because changed")]);
        world.act();
        assert_eq!(world.records[RECORD_A].status.as_ref().unwrap().ready_to_use, Some(true));
        assert!(world.plan(Mode::Manage).is_empty());
    }

    #[test]
    fn a_listing_that_did_not_see_everything_removes_nothing() {
        let mut world = World::new(false, vec![file(A, "1", Some(whole()))]);
        world.act();
        for inventory in [Inventory::Failed(Failure::new("x", "x")), Inventory::Partial(Listing::new(), Failure::new("x", "x"))] {
            world.inventory = inventory;
            assert!(world.plan(Mode::Manage).is_empty());
        }
        world.inventory = complete(vec![]);
        assert_eq!(world.plan(Mode::Manage), [format!("forget {RECORD_A} because gone")]);
    }

    #[test]
    fn the_check_refuses_what_a_wrong_decision_would_remove() {
        let mut world = World::new(false, vec![file(A, "1", Some(whole()))]);
        world.act();
        world.inventory = Inventory::Failed(Failure::new("x", "x"));
        let seen = world.observed();
        let policy =
            Policy { mode: Mode::Manage, interval: std::time::Duration::from_mins(10), keep: Keep::default(), asked: Asked::Nothing };
        let record = seen.records.as_ref().unwrap()[0].clone();
        let mut other = (*record).clone();
        other.resource_version = "older".into();
        let name = FileName::new(A).unwrap();
        let forget = |record: &Arc<Record>| Step::new(Action::Forget(record.clone(), Proof::Absent(name.clone())), Reason::Gone);
        let checked = check(crate::decide::Plan(vec![forget(&record), forget(&Arc::new(other))]), &seen, &policy, time(NOW));
        assert_eq!(checked.steps().iter().map(|step| step.veto).collect::<Vec<_>>(), [Some(Veto::Incomplete), Some(Veto::NotOurs)]);
    }

    #[test]
    fn observing_and_k3s_at_work_stop_every_write_and_no_verification() {
        let mut world = World::new(false, vec![file(A, "1", None)]);
        let vetoed = |veto: &str| vec![format!("write {RECORD_A} because new, vetoed: {veto}"), format!("verify {A} because not-verified")];
        assert_eq!(world.plan(Mode::Observe), vetoed("observing"));
        for doubt in [Some(true), None] {
            world.k3s_at_work = doubt;
            assert_eq!(world.plan(Mode::Manage), vetoed("k3s-at-work"));
        }
    }

    #[test]
    fn an_edited_or_deleted_record_comes_back_as_it_was() {
        let mut world = World::new(false, vec![file(A, "1", Some(whole()))]);
        world.act();
        let before = world.records.clone();
        world.edit(|object| object.status.as_mut().unwrap().ready_to_use = Some(false));
        assert_eq!(world.plan(Mode::Manage), [format!("write {RECORD_A} because edited")]);
        world.act();
        assert_eq!(world.records, before);
        world.records.clear();
        world.act();
        assert_eq!(world.records, before);
    }

    #[test]
    fn a_record_that_a_finalizer_holds_is_absent_and_left_alone() {
        let mut world = World::new(false, vec![file(A, "1", Some(whole()))]);
        world.act();
        world.edit(|object| object.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time(NOW))));
        assert!(world.plan(Mode::Manage).is_empty());
        world.inventory = complete(vec![]);
        assert!(world.plan(Mode::Manage).is_empty());
    }

    #[test]
    fn a_failure_record_stays_a_day_from_its_failure_and_until_it_is_seen_that_nothing_is_behind_it() {
        let mut world = World::new(false, vec![]);
        for (age, gone) in [(0, false), (86_399, false), (86_400, true)] {
            world.records = BTreeMap::from([("f".to_string(), failed("f", "etcd-snapshot-cp1-1", NOW - age))]);
            assert_eq!(world.plan(Mode::Manage).len(), usize::from(gone), "{age}");
        }
        assert_eq!(world.plan(Mode::Manage), ["forget f because failure-expired"]);
        for inventory in [Inventory::Failed(Failure::new("x", "x")), Inventory::Partial(Listing::new(), Failure::new("x", "x"))] {
            world.inventory = inventory;
            assert!(world.plan(Mode::Manage).is_empty());
        }
    }

    #[test]
    fn a_damaged_files_record_is_no_failure_record() {
        let mut world = World::new(false, vec![file(A, "1", Some(known(Verdict::Damaged("cut".into()), None)))]);
        world.act();
        let status = world.records[RECORD_A].status.clone().unwrap();
        assert_eq!((status.ready_to_use, status.error.unwrap().message), (Some(false), Some("cut".to_string())));
        assert!(world.plan(Mode::Manage).is_empty());
        world.inventory = complete(vec![]);
        assert_eq!(world.plan(Mode::Manage), [format!("forget {RECORD_A} because gone")]);
    }

    #[test]
    fn another_clusters_object_has_no_record_and_an_unknown_one_has() {
        let mut world = World::new(
            true,
            vec![
                file("etcd-snapshot-x-1", "1", Some(known(Verdict::Plausible, Some("another")))),
                file("etcd-snapshot-x-2", "1", Some(Known { node: None, ..known(Verdict::Plausible, None) })),
            ],
        );
        let mut k3s = failed("s3-of-k3s", "etcd-snapshot-x-1", 0);
        k3s.status = None;
        k3s.spec.s3 = Some(S3 { endpoint: "h".into(), bucket: "b".into(), prefix: "f".into(), ..S3::default() });
        world.records.insert("s3-of-k3s".into(), k3s);
        world.act();
        let left: Vec<_> =
            world.records.values().map(|object| (object.spec.snapshot_name.as_str(), object.spec.node_name.as_str())).collect();
        assert_eq!(left, [("etcd-snapshot-x-2", "s3")]);
    }

    #[test]
    fn an_object_that_could_not_be_asked_about_keeps_its_record_and_an_unknown_new_one_waits() {
        let mut world = World::new(true, vec![file(A, "1", Some(known(Verdict::Whole, Some("uid"))))]);
        world.act();
        world.inventory = complete(vec![file(A, "1", None), file("etcd-snapshot-cp1-1700000001", "1", None)]);
        assert!(world.plan(Mode::Manage).is_empty(), "the same version: nothing flaps; no record yet: no name to give it");
        // Replaced, and what it is now is not known: not ready, under its old name.
        world.inventory = complete(vec![file(A, "2", None)]);
        let name = world.records.keys().next().unwrap().clone();
        assert_eq!(world.plan(Mode::Manage), [format!("write {name} because changed")]);
        world.act();
        assert_eq!(world.records[&name].status.as_ref().unwrap().ready_to_use, Some(false));
        assert_eq!(world.records[&name].spec.node_name, "cp1");
    }

    #[test]
    fn a_new_directory_means_new_records_and_then_the_old_go() {
        let mut world = World::new(false, vec![file(A, "1", Some(whole()))]);
        world.act();
        let old = world.records.remove(RECORD_A).unwrap();
        let mut moved = old.clone();
        moved.metadata.name = Some("local-elsewhere".into());
        world.records.insert("local-elsewhere".into(), moved);
        assert_eq!(
            world.plan(Mode::Manage),
            [format!("write {RECORD_A} because new"), "forget local-elsewhere because renamed".to_string()]
        );
    }

    #[test]
    fn without_records_nothing_is_decided_about_them_and_files_are_verified_all_the_same() {
        let world = World::new(false, vec![file(A, "1", None)]);
        let seen = Observed { records: None, ..world.observed() };
        let policy =
            Policy { mode: Mode::Manage, interval: std::time::Duration::from_mins(10), keep: Keep::default(), asked: Asked::Nothing };
        let words: Vec<_> = decide(&seen, &policy, time(NOW)).0.iter().map(|step| step.action.word()).collect();
        assert_eq!(words, ["verify"]);
    }

    fn any_file() -> impl Strategy<Value = SnapshotFile> {
        (
            0..6_i64,
            0..3_u8,
            prop_oneof![Just(None), Just(Some(0)), Just(Some(1)), Just(Some(2))],
            prop_oneof![Just(None), Just(Some("uid")), Just(Some("x"))],
        )
            .prop_map(|(name, version, verdict, cluster)| {
                let verdict = verdict.map(|verdict| [Verdict::Whole, Verdict::Plausible, Verdict::Damaged("d".into())][verdict].clone());
                file(
                    &format!("etcd-snapshot-cp1-{}", 1_700_000_000 + name),
                    &version.to_string(),
                    verdict.map(|verdict| known(verdict, cluster)),
                )
            })
    }

    proptest! {
        /// From any records over any inventory, one pass reaches what is wanted: the second finds nothing to write or
        /// forget; and what an incomplete listing did not see is never forgotten.
        #[test]
        fn one_pass_is_enough(
            bucket in any::<bool>(), before in proptest::collection::vec(any_file(), 0..6), after in proptest::collection::vec(any_file(), 0..6), whole in any::<bool>()
        ) {
            let mut world = World::new(bucket, before);
            world.act();
            let held: BTreeSet<String> = world.records.keys().cloned().collect();
            world.inventory = complete(after);
            if !whole {
                world.inventory = Inventory::Partial(world.inventory.seen().clone(), Failure::new("x", "x"));
            }
            world.act();
            let left: Vec<_> = world.plan(Mode::Manage).into_iter().filter(|line| !line.starts_with("verify")).collect();
            prop_assert!(left.is_empty(), "{left:?}");
            if !whole {
                let seen: BTreeSet<_> = world.inventory.seen().keys().map(ToString::to_string).collect();
                for name in held {
                    let unseen = !seen.iter().any(|file| name.contains(file.as_str()));
                    prop_assert!(!unseen || world.records.contains_key(&name), "{name} was forgotten");
                }
            }
        }
    }
}
