//! What one agent decides about what others left: records of nodes that are gone, failures that nodes tell of, multipart
//! uploads that nobody goes on with; and what a person asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::check;
use super::fixtures::*;
use super::plan::{Action, Asked, BucketView, FailedUpload, Mode, Plan, Proof, Reason, Step, Veto};
use crate::record::Place;
use crate::record::Record;
use crate::record::api::ETCDSnapshotFile;
use crate::record::cached::cached;
use crate::record::content::annotation;
use crate::record::patch::create;
use crate::record::wanted::{failed_save, failed_upload};
use crate::snapshot::*;

const HOUR: i64 = 3600;

fn of(storage_node: &str) -> Storage {
    Storage::Local { node: node(storage_node) }
}

/// A world of cp1 in which cp2 has been gone for long, with records of both.
fn after_a_node() -> (World, Arc<Record>) {
    let mut world = World::new(local(), 0, [good(HOUR).but(of_directory)]);
    world.records = Some(vec![record(&good(HOUR).but(of_directory), &local(), |_| {})]);
    let orphan = record(&of_node("cp2", HOUR).but(of_directory), &of("cp2"), |_| {});
    world.gone_nodes = BTreeSet::from([node("cp2")]);
    world.orphans = vec![orphan.clone()];
    (world, orphan)
}

fn of_directory(file: &mut SnapshotFile) {
    (known(file).cluster, known(file).node) = (None, None);
}

#[test]
fn records_of_a_node_that_is_gone_go_whatever_the_own_directory_shows() {
    let (mut world, orphan) = after_a_node();
    let line = format!("forget {} because node-gone", orphan.name);
    assert_eq!(all_lines(&world.checked()), [line.as_str()]);
    world.inventory = Inventory::Failed(Failure::new("x", "x"));
    assert_eq!(all_lines(&world.checked()), [line.as_str()]);
    world.policy.mode = Mode::Observe;
    assert_eq!(all_lines(&world.checked()), [format!("{line}, vetoed: observing")]);
}

#[test]
fn the_check_refuses_an_orphan_that_is_none() {
    let (world, orphan) = after_a_node();
    let seen = world.observed();
    let forget = |record: &Arc<Record>| Step::new(Action::Forget(record.clone(), Proof::None), Reason::NodeGone);
    let own = seen.records.as_ref().unwrap()[0].clone();
    let living = record(&of_node("cp3", HOUR), &of("cp3"), |_| {});
    let marked = record(&of_node("cp2", HOUR), &of("cp2"), |object| {
        object.metadata.annotations.as_mut().unwrap().insert(annotation::NODE.into(), "none".into());
    });
    let mut later = (*orphan).clone();
    later.resource_version = "later".into();
    let all = [&orphan, &own, &living, &marked, &Arc::new(later)].map(forget);
    let checked = check(Plan(all.into()), &seen, &world.policy, time(NOW));
    let vetoes: Vec<_> = checked.steps().iter().map(|step| step.veto).collect();
    assert_eq!(vetoes, [None, Some(Veto::NotOurs), Some(Veto::NotOurs), Some(Veto::NotOurs), Some(Veto::NotOurs)]);
}

/// The bucket, and one upload to it that failed.
fn after_a_failure() -> (World, Arc<Record>) {
    let mut world = World::new(bucket(), 0, []);
    let failed = FailedUpload { file: good(HOUR).name, node: node("cp1"), since: time(NOW - 60), why: "403".into() };
    let Place::S3(place) = place(&bucket()) else { unreachable!() };
    let wanted = failed_upload(&failed.file, &failed.node, failed.since, &failed.why, &place, SHAPE);
    let record = cached(&create(&wanted, Program::K3s).unwrap(), Program::K3s);
    world.failed_uploads = vec![failed];
    (world, Arc::new(record))
}

#[test]
fn an_upload_that_failed_has_a_record_for_as_long_as_its_node_says_so_and_no_object_is_there() {
    let (mut world, record) = after_a_failure();
    assert_eq!(all_lines(&world.checked()), [format!("write {} because failed", record.name)]);
    world.records = Some(vec![record.clone()]);
    assert!(all_lines(&world.checked()).is_empty(), "it says so already");
    world.now = NOW + 48 * HOUR;
    assert!(all_lines(&world.checked()).is_empty(), "it still fails");
    world.failed_uploads.clear();
    assert_eq!(all_lines(&world.checked()), [format!("forget {} because failure-expired", record.name)]);
    world.now = NOW;
    assert!(all_lines(&world.checked()).is_empty(), "a day from the failure");
    let (mut world, record) = after_a_failure();
    world.inventory = complete([good(HOUR)]);
    world.records = Some(vec![record.clone()]);
    assert_eq!(all_lines(&world.checked()), [format!("write {} because changed", record.name)], "the object is there now");
    for partial in [Inventory::Failed(Failure::new("x", "x")), Inventory::Partial(Listing::new(), Failure::new("x", "x"))] {
        world.inventory = partial;
        world.records = Some(Vec::new());
        assert!(all_lines(&world.checked()).is_empty(), "nobody knows whether the object is there");
    }
}

#[test]
fn a_bucket_that_takes_nothing_fills_no_api_server() {
    let (mut world, _) = after_a_failure();
    world.failed_uploads =
        (0..500).map(|ago| FailedUpload { file: good(ago).name, node: node("cp1"), since: time(NOW - ago), why: "full".into() }).collect();
    let lines = all_lines(&world.checked());
    assert_eq!(lines.len(), 100);
    assert!(lines[0].contains(&format!("-{NOW}-")), "the newest: {}", lines[0]);
}

/// What the API server holds after every write and every removal of a pass; and how many it wrote.
fn act(world: &mut World) -> usize {
    let checked = world.checked();
    let mut records: BTreeMap<_, _> = world.records.take().into_iter().flatten().map(|record| (record.name.clone(), record)).collect();
    let mut writes = 0;
    for step in checked.steps() {
        assert_eq!(step.veto, None, "{step:?}");
        match &step.action {
            Action::Write(wanted) => {
                writes += 1;
                records.insert(wanted.name(), Arc::new(cached(&create(wanted, Program::K3s).unwrap(), Program::K3s)));
            }
            Action::Forget(record, _) => drop(records.remove(&record.name)),
            other => panic!("{other:?}"),
        }
    }
    world.records = Some(records.into_values().collect());
    writes
}

/// The failure records of the world, by when they failed.
fn failed_at(world: &World) -> Vec<i64> {
    let mut failed: Vec<_> = world.records.iter().flatten().filter_map(|record| Some(record.error_at?.as_second())).collect();
    failed.sort_unstable();
    failed
}

#[test]
fn a_save_that_fails_every_minute_has_its_newest_twenty_records_each_written_once() {
    let mut world = World::new(local(), 0, []);
    for minute in 1..=70 {
        world.now = NOW + minute * 60;
        let failed = FailedSave { file: good(-minute * 60).name, at: time(world.now), why: "cut".into() };
        if minute == 50 {
            // One has succeeded: those before it are over, and stay their day.
            world.failed_saves.clear();
        }
        world.failed_saves.push(failed);
        let too_many = world.failed_saves.len().saturating_sub(FailedSave::MOST);
        world.failed_saves.drain(..too_many);
        assert_eq!(act(&mut world), 1, "one that goes is not written again");
        let newest: Vec<_> = ((minute - 19).max(1)..=minute).map(|minute| NOW + minute * 60).collect();
        assert_eq!(failed_at(&world), newest, "after {minute} failures");
        assert!(all_lines(&world.checked()).is_empty(), "{:?}", all_lines(&world.checked()));
    }
}

#[test]
fn a_clock_that_was_set_back_makes_no_failure_record_come_and_go() {
    let mut world = World::new(local(), 0, []);
    for (back, count) in [(0, 30), (2 * HOUR, 15)] {
        for minute in 1..=count {
            let at = NOW + minute * 60 - back;
            world.now = at;
            world.failed_saves.push(FailedSave { file: good(NOW - at).name, at: time(at), why: "cut".into() });
            let too_many = world.failed_saves.len().saturating_sub(FailedSave::MOST);
            world.failed_saves.drain(..too_many);
            act(&mut world);
            assert!(all_lines(&world.checked()).is_empty(), "{:?}", all_lines(&world.checked()));
            assert!(failed_at(&world).contains(&at) && failed_at(&world).len() <= 20, "{:?}", failed_at(&world));
        }
    }
}

#[test]
fn of_failed_uploads_a_hundred_records_stay_and_of_what_is_no_failure_of_ours_all() {
    let (mut world, _) = after_a_failure();
    let Place::S3(place) = place(&bucket()) else { unreachable!() };
    let written = |ago: i64, change: fn(&mut ETCDSnapshotFile)| {
        let wanted = failed_upload(&good(ago).name, &node("cp1"), time(NOW - ago), "full", &place, SHAPE);
        let mut object = create(&wanted, Program::K3s).unwrap();
        change(&mut object);
        Arc::new(cached(&object, Program::K3s))
    };
    let of_k3s: fn(&mut ETCDSnapshotFile) = |object| object.metadata.annotations = None;
    // Ours, oldest first; then K3s's own; then that of a damaged object, which was written for a version.
    let mut records: Vec<_> = (1..=130).map(|ago| written(ago, |_| ())).collect();
    records.extend((201..=230).map(|ago| written(ago, of_k3s)));
    let mut broken = good(300);
    damaged(&mut broken);
    records.push(record(&broken, &bucket(), |_| ()));
    world.inventory = complete([broken]);
    world.failed_uploads.clear();
    world.records = Some(records.clone());
    let going: Vec<_> = records[100..130].iter().map(|record| format!("forget {} because too-many-failures", record.name)).collect();
    assert_eq!(all_lines(&world.checked()), going);

    // Those that fail still have their places first, however old they are.
    let still = |ago: i64| FailedUpload { file: good(ago).name, node: node("cp1"), since: time(NOW - ago), why: "full".into() };
    world.failed_uploads = (111..=130).map(still).collect();
    let going: Vec<_> = records[80..110].iter().map(|record| format!("forget {} because too-many-failures", record.name)).collect();
    assert_eq!(all_lines(&world.checked()), going);

    let seen = world.inventory.seen().clone();
    for unknown in [Inventory::Failed(Failure::new("x", "x")), Inventory::Partial(seen, Failure::new("x", "x"))] {
        world.inventory = unknown;
        assert!(all_lines(&world.checked()).is_empty(), "an object may stand behind each of them");
    }
}

#[test]
fn the_check_refuses_to_forget_as_one_too_many_what_is_no_failure_of_ours() {
    let world = World::new(local(), 0, [good(HOUR)]);
    let failed =
        |file: &SnapshotFile| failed_save(&FailedSave { file: file.name.clone(), at: time(NOW), why: "cut".into() }, &node("cp1"), SHAPE);
    let ours = create(&failed(&good(1)), Program::K3s).unwrap();
    let mut of_k3s = create(&failed(&good(2)), Program::K3s).unwrap();
    of_k3s.metadata.annotations = None;
    let all = [ours, of_k3s].map(|object| Arc::new(cached(&object, Program::K3s)));
    let all = [all[0].clone(), all[1].clone(), record(&good(HOUR), &local(), |_| ())];
    let world = World { records: Some(all.to_vec()), ..world };
    let steps = all.map(|record| Step::new(Action::Forget(record, Proof::None), Reason::TooManyFailures));
    let checked = check(Plan(steps.into()), &world.observed(), &world.policy, time(NOW));
    let vetoes: Vec<_> = checked.steps().iter().map(|step| step.veto).collect();
    assert_eq!(vetoes, [None, Some(Veto::NotOurs), Some(Veto::NotOurs)]);
}

#[test]
fn a_multipart_upload_that_nobody_goes_on_with_is_aborted_only_under_the_name_of_an_object_of_ours() {
    let theirs = good(2 * HOUR).but(|file| known(file).cluster = ClusterId::new("another"));
    let mut world = World::new(bucket(), 0, [good(HOUR), theirs.clone()]);
    world.abandoned = vec![
        (good(HOUR).name, UploadId("u".into())),
        (theirs.name.clone(), UploadId("v".into())),
        (name("etcd-snapshot-cp1-1"), UploadId("w".into())),
    ];
    assert_eq!(lines(&world.checked()), [format!("abort {} because abandoned", good(HOUR).name)]);
    // The check finds it out once more.
    let steps = world.abandoned.iter().map(|(name, id)| Step::new(Action::Abort(name.clone(), id.clone()), Reason::Abandoned));
    let checked = check(Plan(steps.collect()), &world.observed(), &world.policy, time(NOW));
    let vetoes: Vec<_> = checked.steps().iter().map(|step| step.veto).collect();
    assert_eq!(vetoes, [None, Some(Veto::NotOurs), Some(Veto::NotOurs)]);
}

#[test]
fn what_a_person_asks_for_is_done_and_nothing_else() {
    let files = || (1..=5).map(|hour| good(hour * HOUR).but(of_directory)).chain([good(9 * HOUR).but(|file| file.known = None)]);
    let mut world = World::new(local(), 2, files());
    let words = |world: &World| world.checked().steps().iter().map(|step| step.action.word()).collect::<BTreeSet<_>>();
    assert_eq!(words(&world), BTreeSet::from(["prune", "verify", "write"]));
    world.policy.asked = Asked::Prune { take_over: false };
    assert_eq!(words(&world), BTreeSet::from(["prune"]));
    world.policy.asked = Asked::Upload { only: BTreeSet::new(), tried: BTreeSet::new() };
    assert!(words(&world).is_empty(), "there is no bucket");
}

/// The directory of cp1 and an empty bucket.
fn with_bucket(files: impl IntoIterator<Item = SnapshotFile>) -> World {
    let mut world = World::new(local(), 0, files.into_iter().map(|file| file.but(of_directory)));
    world.bucket = Some(BucketView { storage: bucket(), records: Some(Vec::new()), beat: time(NOW) });
    world
}

#[test]
fn an_upload_that_failed_goes_on_where_it_was_and_others_that_stand_still_are_aborted() {
    let file = good(HOUR);
    let mut world = with_bucket([file.clone()]);
    let failed = Upload::Failed { since: time(NOW - 900), at: time(NOW - 900), why: "reset".into() };
    world.uploads.insert(file.name.clone(), Uploads::from([(bucket().id(), failed)]));
    world.abandoned = vec![
        (file.name.clone(), UploadId("u".into())),
        (file.name.clone(), UploadId("v".into())),
        (name("gone-cp1-1"), UploadId("w".into())),
    ];
    let begun = |world: &World| {
        let begun = |step: &Step| match &step.action {
            Action::Upload(_, begun) => Some(begun.clone()),
            _ => None,
        };
        world.checked().steps().iter().find_map(begun).flatten()
    };
    assert_eq!(begun(&world), Some(UploadId("u".into())));
    let aborts = |world: &World| {
        let id = |step: &Step| match &step.action {
            Action::Abort(_, id) if step.veto.is_none() => Some(id.0.clone()),
            _ => None,
        };
        world.checked().steps().iter().filter_map(id).collect::<Vec<_>>()
    };
    assert_eq!(aborts(&world), ["v", "w"]);
    world.now = NOW - 901;
    assert_eq!(aborts(&world), ["v", "w"], "it waits for the beat and keeps what it has");
    world.now = NOW;
    world.busy.insert(file.name.clone());
    assert_eq!(aborts(&world), ["w"], "nobody knows which of them is gone on with");
    world.inventory = complete([]);
    world.busy.clear();
    assert_eq!(aborts(&world), ["u", "v", "w"], "the file is gone");
}

#[test]
fn nothing_goes_up_while_k3s_of_any_node_is_at_work_on_the_bucket_and_doubt_stops_no_upload() {
    let mut world = with_bucket([good(HOUR)]);
    let line = format!("upload {} because not-in-bucket", good(HOUR).name);
    for (k3s, veto) in [(Some(true), ", vetoed: k3s-at-work"), (Some(false), ""), (None, "")] {
        world.k3s_on_bucket = k3s;
        assert_eq!(lines(&world.checked()), [format!("{line}{veto}")]);
    }
}

#[test]
fn a_save_that_failed_has_a_record_for_a_day_unless_its_file_is_there() {
    let mut world = World::new(local(), 0, []);
    let file = good(HOUR).name;
    world.failed_saves = vec![FailedSave { file: file.clone(), at: time(NOW - 60), why: "the stream was cut".into() }];
    let lines = all_lines(&world.checked());
    assert_eq!(lines.len(), 1);
    assert!(lines[0].starts_with(&format!("write local-{file}-")) && lines[0].ends_with("because failed"), "{lines:?}");
    let written = |world: &World| match &world.checked().steps()[0].action {
        Action::Write(wanted) => Arc::new(cached(&create(wanted, Program::K3s).unwrap(), Program::K3s)),
        other => panic!("{other:?}"),
    };
    let record = written(&world);
    assert!(record.is_failure());
    world.records = Some(vec![record.clone()]);
    assert!(all_lines(&world.checked()).is_empty());
    world.failed_saves.clear();
    assert!(all_lines(&world.checked()).is_empty(), "a day from the failure");
    world.now = NOW - 60 + 24 * HOUR;
    assert_eq!(all_lines(&world.checked()), [format!("forget {} because failure-expired", record.name)]);
    world.failed_saves = vec![FailedSave { file, at: time(NOW - 60), why: "the stream was cut".into() }];
    assert_eq!(
        all_lines(&world.checked()),
        [format!("forget {} because failure-expired", record.name)],
        "nor does the state keep it longer"
    );
}
