use std::sync::Arc;

use proptest::prelude::*;

use super::super::check;
use super::super::fixtures::*;
use super::super::plan::{Mode, Plan, Veto};
use super::*;
use crate::record::api::Error;
use crate::snapshot::{BaseName, Failure, History, Member, UploadId, Uploads, Verdict, Version};

const HOUR: i64 = 3600;

type Change = fn(&mut SnapshotFile);

/// The directory of cp1 with these files, which keeps all, and an empty bucket that keeps so many.
fn world(newest: u32, files: impl IntoIterator<Item = SnapshotFile>) -> World {
    let mut world = World::new(local(), 0, files.into_iter().map(|file| file.but(local_only)));
    world.policy.keep.bucket = newest;
    world.bucket = Some(BucketView { storage: bucket(), records: Some(Vec::new()), beat: time(NOW - 60) });
    world
}

/// What a directory does not tell of its files.
fn local_only(file: &mut SnapshotFile) {
    if let Some(known) = &mut file.known {
        (known.cluster, known.node) = (None, None);
    }
}

fn with_sidecar(file: &mut SnapshotFile) {
    file.version = Version::s3(("e", 4128, file.modified.as_second()), Some(("f", 100, file.modified.as_second())));
}

fn hours(hours: impl IntoIterator<Item = i64>) -> Vec<SnapshotFile> {
    hours.into_iter().map(|ago| good(ago * HOUR)).collect()
}

fn id(text: &str) -> UploadId {
    UploadId(text.into())
}

fn upload(text: &str) -> String {
    format!("upload {text} because not-in-bucket")
}

fn up(ago: i64) -> String {
    upload(&format!("etcd-snapshot-cp1-{}", NOW - ago * HOUR))
}

impl World {
    fn view(&mut self) -> &mut BucketView {
        self.bucket.as_mut().unwrap()
    }

    fn became(&mut self, name: &FileName, upload: Upload) {
        self.uploads.insert(name.clone(), Uploads::from([(bucket().id(), upload)]));
    }

    /// Objects with sidecars.
    fn holds(&mut self, files: &[SnapshotFile]) {
        self.shows(&files.iter().cloned().map(|file| file.but(with_sidecar)).collect::<Vec<_>>());
    }

    fn shows(&mut self, files: &[SnapshotFile]) {
        self.view().records = Some(files.iter().map(|file| record(file, &bucket(), |_| {})).collect());
    }
}

#[test]
fn what_is_good_and_ours_and_the_bucket_lacks_and_would_keep_goes_up_newest_first() {
    let mut world = world(3, hours(1..=5));
    assert_eq!(world.plan(), [up(1), up(2), up(3)]);
    world.holds(&hours([2, 9]));
    assert_eq!(world.plan(), [up(1), up(3)]);
    world.holds(&hours([1, 2]).into_iter().chain([of_node("cp2", HOUR)]).collect::<Vec<_>>());
    assert_eq!(world.plan(), Vec::<String>::new(), "another node's is newer than what is left");
    world.policy.keep.bucket = 0;
    assert_eq!(world.plan(), [up(3), up(4), up(5)], "a bucket that keeps all gets all");
}

#[test]
fn the_newest_good_one_of_a_living_node_goes_up_however_many_newer_ones_others_have() {
    let mut world = world(2, hours([5, 6]));
    world.holds(&[of_node("cp2", HOUR), of_node("cp2", 2 * HOUR)]);
    assert!(world.plan().is_empty());
    world.living = Some(BTreeSet::from([node("cp1")]));
    assert_eq!(world.plan(), [up(5)]);
}

#[test]
fn files_that_were_all_copied_just_now_do_not_all_go_up() {
    let copied = |seconds| hours(1..=9).into_iter().map(move |file| file.but(|file| file.modified = time(NOW - seconds)));
    for seconds in [10, 9000] {
        let mut world = world(2, copied(seconds));
        assert_eq!(world.plan(), [up(1), up(2)]);
        world.holds(&hours([1, 2]));
        assert_eq!(world.plan().len(), if seconds == 10 { 2 } else { 0 }, "as many as would be the newest by change, and no more");
    }
}

#[test]
fn what_retention_is_not_about_goes_up_since_the_bucket_would_keep_it() {
    let on_demand = |ago: i64| good(ago * HOUR).but(called(&format!("on-demand-cp1-{}", NOW - ago * HOUR)));
    let world = world(1, hours([1, 2]).into_iter().chain([on_demand(7), on_demand(8)]));
    let named = |ago: i64| upload(&format!("on-demand-cp1-{}", NOW - ago * HOUR));
    assert_eq!(world.plan(), [up(1), named(7), named(8)]);
}

#[test]
fn what_is_not_good_not_ours_or_not_at_rest_stays_here_and_takes_no_place_there() {
    let changes: [(&str, Change); 7] = [
        ("damaged", damaged),
        ("plausible", |file| known(file).verdict = Verdict::Plausible),
        ("without quorum", |file| known(file).manifest.quorum = Some(false)),
        ("another cluster's", |file| known(file).manifest.cluster = ClusterId::new("another")),
        ("another node's name", |file| {
            file.name = name("etcd-snapshot-cp2-1799999999");
            known(file).manifest = crate::snapshot::Manifest::default();
        }),
        ("not at rest", |file| file.at_rest = false),
        ("not looked into", |file| file.known = None),
    ];
    for (what, change) in changes {
        assert_eq!(world(1, [good(HOUR).but(change), good(2 * HOUR)]).plan(), [up(2)], "{what}");
    }
    let old = good(9 * HOUR).but(at_index(50));
    let mut world = world(2, [good(HOUR).but(at_index(30)), old]);
    assert_eq!(world.plan(), [up(1)], "another history's");
    world.policy.asked = Asked::Prune { take_over: true };
    assert!(world.plan().is_empty(), "whoever prunes uploads nothing");
    // Only by the word of a file whose clock ran ahead.
    let ahead = [good(-9 * HOUR).but(at_index(60)), good(HOUR).but(at_index(70))];
    assert_eq!(self::world(2, ahead).plan(), [up(-9), up(1)]);
    // That it is of another history may only the bucket tell.
    world.policy.asked = Asked::Nothing;
    world.inventory = complete([good(9 * HOUR).but(at_index(50))]);
    world.holds(&[of_node("cp2", HOUR).but(at_index(30))]);
    world.policy.keep.bucket = 9;
    assert!(world.plan().is_empty());
}

#[test]
fn a_file_goes_up_once_goes_on_where_it_was_begun_and_is_tried_again_at_the_next_beat() {
    let failed = |at: i64| Upload::Failed { since: time(NOW + at), at: time(NOW + at), why: "403".into() };
    let file = good(HOUR);
    for (state, asked, goes) in [
        (None, Asked::Nothing, Some(None)),
        (Some(Upload::Begun { id: id("u") }), Asked::Nothing, Some(Some(id("u")))),
        (Some(Upload::Done), Asked::Nothing, None),
        (Some(Upload::Done), Asked::Prune { take_over: false }, None),
        (Some(Upload::Done), Asked::Upload { only: BTreeSet::new(), tried: BTreeSet::new() }, Some(None)),
        // The beat began a minute ago.
        (Some(failed(-61)), Asked::Nothing, Some(None)),
        (Some(failed(-60)), Asked::Nothing, None),
        (Some(failed(0)), Asked::Nothing, None),
        (Some(failed(1)), Asked::Nothing, Some(None)),
    ] {
        let mut world = world(1, [file.clone()]);
        if let Some(state) = state.clone() {
            world.became(&file.name, state);
        }
        world.policy.asked = asked.clone();
        let steps: Vec<_> = world
            .checked()
            .steps()
            .iter()
            .filter_map(|step| match &step.action {
                Action::Upload(file, begun) => Some((file.name.clone(), begun.clone())),
                _ => None,
            })
            .collect();
        assert_eq!(steps, goes.into_iter().map(|begun| (file.name.clone(), begun)).collect::<Vec<_>>(), "{state:?} {asked:?}");
        // What was sent to another bucket says nothing of this one.
        world.policy.asked = Asked::Nothing;
        world.view().storage = Storage::s3("h", true, "another", "f");
        assert_eq!(world.plan(), [up(1)]);
        world.busy = BTreeSet::from([file.name.clone()]);
        assert!(world.plan().is_empty(), "it is under way");
    }
}

#[test]
fn what_was_uploaded_and_is_gone_keeps_its_place_so_that_no_older_one_goes_up_for_it() {
    let files = hours(1..=4);
    let mut world = world(2, files.clone());
    for file in &files[..2] {
        world.became(&file.name, Upload::Done);
    }
    assert!(world.plan().is_empty());
    world.policy.asked = Asked::Upload { only: BTreeSet::new(), tried: BTreeSet::new() };
    assert_eq!(world.plan(), [up(1), up(2)]);
}

#[test]
fn an_object_without_a_sidecar_is_half_an_upload_that_is_gone_on_with_before_anything_older() {
    let files = hours(1..=4);
    // As the leader sees them.
    let bare = files[..2].iter().cloned().map(|file| file.but(|file| known(file).verdict = Verdict::Plausible)).collect::<Vec<_>>();
    let mut world = world(2, files.clone());
    world.shows(&bare);
    assert_eq!(world.plan(), [up(1), up(2)], "cut off between file and sidecar, or K3s's own");
    world.busy = BTreeSet::from([files[0].name.clone()]);
    assert_eq!(world.plan(), [up(2)], "on its way");
    world.became(&files[1].name, Upload::Done);
    assert!(world.plan().is_empty(), "both sidecars were sent, and the leader has not seen them yet");
    world.holds(&bare);
    world.became(&files[0].name, Upload::Done);
    assert_eq!(world.plan(), [up(3), up(4)], "K3s's own are never good there, and take no place");
}

#[test]
fn that_an_object_is_in_the_bucket_only_a_record_of_ours_says() {
    let file = good(HOUR).but(with_sidecar);
    let unlabelled = file.clone().but(|file| known(file).cluster = None);
    let strangers = file.clone().but(|file| known(file).cluster = ClusterId::new("another"));
    let of_k3s = record(&file, &bucket(), |object| object.metadata.annotations = None);
    let failure = record(&file, &bucket(), |object| {
        object.metadata.annotations = None;
        object.status.as_mut().unwrap().error = Some(Error { time: Some(time(NOW)), message: Some("x".into()) });
    });
    let terminating = record(&file, &bucket(), |object| {
        object.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time(NOW)));
    });
    let of = |file: &SnapshotFile| record(file, &bucket(), |_| {});
    for (what, record, there) in [
        ("ours", of(&file), true),
        ("one that is not believed", of_k3s, true),
        ("a failure record", failure, false),
        ("one that goes", terminating, false),
        ("one without a cluster id", of(&unlabelled), false),
        ("a stranger's", of(&strangers), false),
        ("another file's", of(&good(2 * HOUR)), false),
    ] {
        let mut world = world(9, [file.clone()]);
        world.view().records = Some(vec![record]);
        assert_eq!(world.plan().is_empty(), there, "{what}");
    }
    let mut world = world(9, [file]);
    world.holds(&[unlabelled]);
    world.policy.keep.adopt_unlabelled = true;
    assert!(world.plan().is_empty());
    // Uploads do not wait for the API server: the HEAD tells.
    world.view().records = None;
    assert_eq!(world.plan(), [up(1)]);
}

#[test]
fn an_upload_waits_for_our_cluster_id_and_a_complete_listing_and_for_no_answer_of_the_member() {
    let mut world = world(1, hours([1]));
    world.member = Member::Silent;
    assert_eq!(world.plan(), [up(1)]);
    let seen = world.inventory.seen().clone();
    for inventory in [Inventory::Partial(seen, Failure::new("x", "x")), Inventory::Failed(Failure::new("x", "x"))] {
        let before = std::mem::replace(&mut world.inventory, inventory);
        assert!(world.plan().is_empty());
        world.inventory = before;
    }
    // A file without a manifest is ours by its name alone; its object would be nobody's.
    world.inventory = complete([good(HOUR).but(|file| known(file).manifest = crate::snapshot::Manifest::default())]);
    assert_eq!(world.plan(), [up(1)]);
    world.cluster = None;
    assert!(world.plan().is_empty());
    world.cluster = ClusterId::new("uid");
    world.bucket = None;
    assert!(world.plan().is_empty());
}

#[test]
fn a_multipart_upload_is_aborted_when_its_file_is_not_to_go_up_any_more() {
    let file = good(9 * HOUR);
    let abort = [format!("abort {} because abandoned", file.name)];
    let begin = |world: &mut World| world.became(&file.name, Upload::Begun { id: id("u") });
    let aborts = |files: Vec<SnapshotFile>| {
        let mut world = world(1, files);
        begin(&mut world);
        world.plan().into_iter().filter(|line| line.starts_with("abort")).collect::<Vec<_>>()
    };
    assert!(aborts(vec![file.clone()]).is_empty(), "it goes on");
    assert_eq!(aborts(vec![]), abort, "its file is gone");
    assert_eq!(aborts(vec![file.clone(), good(HOUR)]), abort, "the bucket would not keep it");
    assert_eq!(aborts(vec![file.clone().but(damaged)]), abort, "it turned out to be damaged");
    assert!(aborts(vec![file.clone().but(|file| file.known = None)]).is_empty(), "it is being verified");
    assert!(aborts(vec![file.clone().but(|file| file.at_rest = false)]).is_empty(), "it is not at rest");

    let mut world = world(1, [file.clone()]);
    begin(&mut world);
    world.holds(std::slice::from_ref(&file));
    assert_eq!(world.plan(), abort, "the bucket has it by now");
    world.k3s_at_work = None;
    assert_eq!(world.plan(), abort);
    world.k3s_at_work = Some(true);
    assert_eq!(world.plan(), [format!("{}, vetoed: k3s-at-work", abort[0])]);
    world.busy = BTreeSet::from([file.name.clone()]);
    assert!(world.plan().is_empty(), "it is under way");
    world.busy.clear();
    world.inventory = Inventory::Partial(Listing::new(), Failure::new("x", "x"));
    assert!(world.plan().is_empty(), "not to have seen the file is no proof that it is gone");
}

#[test]
fn the_check_refuses_what_a_wrong_decision_would_send() {
    type Wrong = fn(&mut World, &mut SnapshotFile);
    let table: [(&str, Wrong, Option<Veto>); 8] = [
        ("right", |_, _| {}, None),
        ("observing", |world, _| world.policy.mode = Mode::Observe, Some(Veto::Observing)),
        ("k3s", |world, _| world.k3s_at_work = Some(true), Some(Veto::K3sAtWork)),
        (
            "partial",
            |world, _| world.inventory = Inventory::Partial(world.inventory.seen().clone(), Failure::new("x", "x")),
            Some(Veto::Incomplete),
        ),
        (
            "our cluster unknown",
            |world, file| {
                // By its name alone it is ours all the same.
                known(file).manifest = crate::snapshot::Manifest::default();
                world.add(file.clone());
                world.cluster = None;
            },
            Some(Veto::NotOurs),
        ),
        ("changed since", |_, file| file.version = Version::remembered("2"), Some(Veto::NotOurs)),
        (
            "another cluster's",
            |world, file| {
                known(file).manifest.cluster = ClusterId::new("x");
                world.add(file.clone());
            },
            Some(Veto::NotOurs),
        ),
        (
            "damaged",
            |world, file| {
                damaged(file);
                world.add(file.clone());
            },
            Some(Veto::NotGood),
        ),
    ];
    for (what, change, veto) in table {
        let (mut world, mut file) = (world(1, hours([1])), good(HOUR).but(local_only));
        change(&mut world, &mut file);
        let plan = Plan(vec![Step::new(Action::Upload(Box::new(file), None), Reason::NotInBucket)]);
        assert_eq!(check(plan, &world.observed(), &world.policy, time(NOW)).steps()[0].veto, veto, "{what}");
    }
    let mut world = world(1, hours([1]));
    world.became(&good(HOUR).name, Upload::Begun { id: id("ours") });
    for (begun, veto) in [("ours", None), ("a stranger's", Some(Veto::NotOurs))] {
        let plan = Plan(vec![Step::new(Action::Abort(good(HOUR).name, id(begun)), Reason::Abandoned)]);
        assert_eq!(check(plan, &world.observed(), &world.policy, time(NOW)).steps()[0].veto, veto);
    }
}

#[test]
fn an_object_has_vanished_when_it_is_gone_though_retention_would_have_kept_it() {
    let gone = |newest, there: Vec<SnapshotFile>, records: Vec<SnapshotFile>| {
        let mut world = World::new(bucket(), newest, there);
        world.records = Some(records.iter().map(|file| record(file, &bucket(), |_| {})).collect());
        let names = vanished(&world.observed(), &world.policy, time(NOW));
        names.iter().map(|name| (NOW - name.time().unwrap().as_second()) / HOUR).collect::<Vec<_>>()
    };
    assert_eq!(gone(2, hours([1, 3]), hours([1, 2, 3])), [2]);
    assert_eq!(gone(2, hours([1, 2]), hours([1, 2, 3])), Vec::<i64>::new(), "it was beyond retention");
    assert_eq!(gone(2, vec![], hours(1..=4)), [2, 1], "the bucket was emptied");
    assert_eq!(gone(0, vec![], hours([1, 2])), [2, 1]);
    assert_eq!(gone(2, vec![], vec![good(HOUR).but(damaged)]), Vec::<i64>::new());
    assert_eq!(gone(2, vec![], vec![good(HOUR).but(|file| known(file).cluster = ClusterId::new("another"))]), Vec::<i64>::new());
    assert_eq!(gone(2, vec![good(HOUR).but(at_index(3))], vec![good(9 * HOUR).but(at_index(9))]), Vec::<i64>::new(), "another history's");

    let mut world = World::new(bucket(), 2, []);
    world.records = Some(vec![record(&good(HOUR), &bucket(), |_| {})]);
    assert_eq!(vanished(&world.observed(), &world.policy, time(NOW)).len(), 1);
    world.inventory = Inventory::Partial(Listing::new(), Failure::new("x", "x"));
    assert!(vanished(&world.observed(), &world.policy, time(NOW)).is_empty());
}

/// What can happen between two passes.
#[derive(Debug, Clone)]
enum Event {
    Save {
        base: bool,
    },
    /// The next upload ends like this: 0 well, 1 failed, 2 killed in the middle, 3 killed after it succeeded, 4 its answer was lost.
    Uploads(u8),
    DeletedByHand(prop::sample::Index),
    Keep(u32, u32),
    RecordsUnknown(bool),
    /// Every local file was copied: all changed just now.
    Touched,
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => prop::bool::weighted(0.8).prop_map(|base| Event::Save { base }),
        4 => (0..5_u8).prop_map(Event::Uploads),
        2 => any::<prop::sample::Index>().prop_map(Event::DeletedByHand),
        1 => (0..6_u32, 0..6_u32).prop_map(|(local, bucket)| Event::Keep(local, bucket)),
        1 => any::<bool>().prop_map(Event::RecordsUnknown),
        1 => Just(Event::Touched),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// However uploads end and whoever deletes objects: nothing goes up twice, nothing deleted comes back, both storages
    /// come to rest, and the bucket then holds the newest that it keeps, save those that were deleted by hand.
    #[test]
    fn everything_goes_up_once(events in prop::collection::vec(any_event(), 1..50)) {
        let mut here = world(3, []);
        here.policy.keep.local = 4;
        // Whoever prunes has no brake.
        let prunes = Asked::Prune { take_over: false };
        let mut there = World::new(bucket(), 3, []);
        let mut now = NOW;
        let mut index = 10;
        let (mut done, mut deleted) = (BTreeSet::new(), BTreeSet::new());
        let quiet = std::iter::repeat_n(Event::Uploads(0), 8);
        for event in events.into_iter().chain([Event::RecordsUnknown(false)]).chain(quiet) {
            now += 600;
            index += 1;
            let mut ending = 0;
            match event {
                Event::Save { base } => {
                    let file = good(NOW - now).but(at_index(index)).but(local_only);
                    let called = format!("on-demand-cp1-{now}");
                    here.add(if base { file } else { file.but(|file| file.name = name(&called)) });
                }
                Event::Uploads(how) => ending = how,
                Event::DeletedByHand(which) => {
                    let mut objects: Vec<_> = there.inventory.seen().values().cloned().collect();
                    if !objects.is_empty() {
                        deleted.insert(objects.remove(which.index(objects.len())).name);
                        there.inventory = complete(objects);
                    }
                }
                Event::Keep(local, bucket) => {
                    (here.policy.keep.local, here.policy.keep.bucket, there.policy.keep.bucket) = (local, bucket, bucket);
                }
                Event::RecordsUnknown(unknown) => here.view().records = if unknown { None } else { Some(Vec::new()) },
                Event::Touched => {
                    let touched = here.inventory.seen().values().cloned().map(|file| file.but(|file| file.modified = time(now)));
                    here.inventory = complete(touched.collect::<Vec<_>>());
                }
            }
            (here.now, there.now) = (now, now);
            let member = Member::At(History { etcd_cluster: "c".into(), raft_index: index });
            (here.member, there.member) = (member.clone(), member);
            here.view().beat = time(now);
            if here.view().records.is_some() {
                let records = there.inventory.seen().values().map(|file| record(file, &bucket(), |_| {})).collect::<Vec<Arc<_>>>();
                here.view().records = Some(records);
            }
            for step in here.checked().steps() {
                prop_assert!(step.veto.is_none_or(|veto| veto == Veto::Brake));
                match &step.action {
                    Action::Upload(file, _) => {
                        prop_assert!(!done.contains(&file.name), "{} goes up again", file.name);
                        let state = match ending {
                            0 => Upload::Done,
                            1 => Upload::Failed { since: time(now), at: time(now), why: "403".into() },
                            _ => Upload::Begun { id: id("u") },
                        };
                        if matches!(ending, 0 | 3 | 4) && !there.inventory.seen().contains_key(&file.name) {
                            there.add((**file).clone().but(|file| {
                                known(file).cluster = ClusterId::new("uid");
                                known(file).node = Some(node("cp1"));
                                file.modified = time(now);
                                file.version = Version::s3(("e", 1, now), None);
                            }));
                        }
                        if state == Upload::Done {
                            done.insert(file.name.clone());
                        }
                        here.became(&file.name, state);
                    }
                    Action::Abort(name, _) => {
                        here.uploads.remove(name);
                    }
                    _ => {}
                }
            }
            (here.policy.asked, there.policy.asked) = (prunes.clone(), prunes.clone());
            here.apply();
            there.apply();
            here.policy.asked = Asked::Nothing;
        }
        prop_assert!(here.plan().is_empty() && there.plan().is_empty(), "{:?} {:?}", here.plan(), there.plan());
        let base = BaseName::default();
        let mut newest: Vec<_> = here.inventory.seen().keys().filter(|name| name.is_of(&base, &node("cp1"))).collect();
        newest.reverse();
        if here.policy.keep.bucket > 0 {
            newest.truncate(here.policy.keep.bucket as usize);
        }
        for name in newest {
            let held = there.inventory.seen().contains_key(name);
            // Or the bucket kept fewer for a while.
            prop_assert!(held || deleted.contains(name) || done.contains(name), "{name} is missing");
        }
    }
}

#[test]
fn an_object_of_ours_with_other_bytes_is_not_this_file_so_that_the_upload_names_the_conflict() {
    let with = |byte: u8| move |file: &mut SnapshotFile| known(file).manifest.file_sha256 = Some(crate::snapshot::Digest([byte; 32]));
    let mut world = world(9, [good(HOUR).but(with(1))]);
    world.holds(&[good(HOUR).but(with(1))]);
    assert!(world.plan().is_empty());
    world.holds(&[good(HOUR).but(with(2))]);
    assert_eq!(world.plan(), [up(1)]);
    world.holds(&[good(HOUR)]);
    assert!(world.plan().is_empty(), "no digest is no contradiction");
}
