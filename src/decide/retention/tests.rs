mod laws;

use std::sync::Arc;

use super::super::fixtures::*;
use super::super::plan::{Asked, Mode, Plan, Veto};
use super::super::{check, decide};
use super::*;
use crate::snapshot::{ClusterId, Failure, History, Version};

const HOUR: i64 = 3600;

type Change = fn(&mut SnapshotFile);
const PRUNE: Asked = Asked::Prune { take_over: false };
const TAKE_OVER: Asked = Asked::Prune { take_over: true };

fn member(etcd_cluster: &str, raft_index: u64) -> Member {
    Member::At(History { etcd_cluster: etcd_cluster.into(), raft_index })
}

fn days(days: impl IntoIterator<Item = i64>) -> Vec<SnapshotFile> {
    days.into_iter().map(|day| good(day * 24 * HOUR)).collect()
}

fn in_days(gone: Vec<i64>) -> Vec<i64> {
    gone.into_iter().map(|seconds| seconds / (24 * HOUR)).collect()
}

#[test]
fn the_newest_stay_and_the_rest_goes_oldest_first_in_both_storages_each_by_its_own_number() {
    for storage in [local(), bucket()] {
        let mut world = World::new(storage.clone(), 3, days(1..=6));
        assert_eq!(in_days(world.gone()), [6, 5, 4]);
        assert_eq!(world.plan()[0], format!("prune etcd-snapshot-cp1-{} because beyond-retention", NOW - 6 * 24 * HOUR));
        world.policy.keep.local = 5;
        world.policy.keep.bucket = 4;
        assert_eq!(in_days(world.gone()), if storage == local() { vec![6] } else { vec![6, 5] });
    }
}

#[test]
fn less_than_one_keeps_everything_damaged_ones_too() {
    let files = days(1..=3).into_iter().chain((4..=9).map(|day| good(day * 24 * HOUR).but(damaged)));
    assert!(World::new(local(), 0, files).gone().is_empty());
}

#[test]
fn a_file_is_of_the_base_name_only_when_its_node_is_known_to_stand_between_base_and_seconds() {
    let at = NOW - 100 * HOUR;
    for (text, object, sidecar, goes) in [
        ("etcd-snapshot-cp1-AT", Some("cp1"), Some("cp1"), true),
        ("etcd-snapshot-cp1-AT.zip", Some("cp1"), None, true),
        ("etcd-snapshot-cp2-AT", None, Some("cp2"), true),
        ("etcd-snapshot-cp2-AT", Some("cp2"), None, true),
        // Without that knowledge only our own node's name counts.
        ("etcd-snapshot-cp1-AT", None, None, true),
        ("etcd-snapshot-cp2-AT", None, None, false),
        // Two that do not agree are no knowledge.
        ("etcd-snapshot-cp1-AT", Some("cp1"), Some("cp2"), false),
        ("etcd-snapshot-cp2-AT", Some("cp1"), Some("cp2"), false),
        // Another name than the metadata says.
        ("etcd-snapshot-cp2-AT", Some("cp1"), None, false),
        // Another base name, though it begins with ours.
        ("etcd-snapshot-eu-cp1-AT", Some("cp1"), Some("cp1"), false),
        ("etcd-snapshot-eu-cp1-AT", Some("eu-cp1"), Some("eu-cp1"), true),
        ("on-demand-cp1-AT", Some("cp1"), Some("cp1"), false),
        ("etcd-snapshot-AT", Some("cp1"), Some("cp1"), false),
        ("etcd-snapshot-cp1", Some("cp1"), Some("cp1"), false),
        ("etcd-snapshot-cp1-ATx", Some("cp1"), Some("cp1"), false),
        ("etcd-snapshot-cp1-99999999999999", Some("cp1"), Some("cp1"), false),
    ] {
        let old = good(100 * HOUR).but(called(&text.replace("AT", &at.to_string()))).but(|file| {
            known(file).node = object.map(node);
            known(file).manifest.node = sidecar.map(node);
        });
        let world = World::new(bucket(), 1, [good(HOUR), old]);
        assert_eq!(!world.plan().is_empty(), goes, "{text} {object:?} {sidecar:?}");
    }
    let mut world = World::new(local(), 1, [1, 2].map(|ago| good(ago * HOUR).but(called(&format!("on-demand-cp1-{}", NOW - ago * HOUR)))));
    assert!(world.gone().is_empty());
    world.policy.keep.base = BaseName::new("on-demand").unwrap();
    assert_eq!(world.gone(), [2 * HOUR]);
}

#[test]
fn what_is_not_ours_not_looked_into_or_not_at_rest_never_goes_and_takes_no_place() {
    let changes: [(&str, Change); 6] = [
        ("another cluster's", |file| {
            known(file).cluster = ClusterId::new("another");
            known(file).manifest.cluster = ClusterId::new("another");
        }),
        ("of nobody known", |file| {
            known(file).cluster = None;
            known(file).manifest.cluster = None;
            known(file).manifest.node = Some(node("cp2"));
        }),
        ("not looked into", |file| file.known = None),
        ("not at rest", |file| file.at_rest = false),
        ("in the future", |file| file.name = name(&format!("etcd-snapshot-cp1-{}", NOW + 301))),
        ("another base name's", |file| file.name = name(&format!("on-demand-cp1-{}", file.name.time().unwrap().as_second()))),
    ];
    for (what, change) in changes {
        for storage in [local(), bucket()] {
            let old = World::new(storage.clone(), 1, [good(HOUR), good(9 * HOUR).but(change)]);
            assert!(old.gone().is_empty(), "{what}: an old one stays");
            let new = World::new(storage, 1, [good(HOUR).but(change), good(9 * HOUR), good(10 * HOUR)]);
            assert_eq!(new.gone(), [10 * HOUR], "{what}: a new one takes no place");
        }
    }
}

#[test]
fn a_name_five_minutes_from_now_is_not_dated_ahead_yet() {
    let ahead = |seconds: i64| good(-seconds).but(|file| file.modified = time(NOW - 9 * HOUR));
    for (seconds, counts) in [(0, true), (300, true), (301, false), (200_000_000, false)] {
        let world = World::new(local(), 1, [ahead(seconds), good(HOUR), good(2 * HOUR), good(3 * HOUR)]);
        // It takes the place by name; the newest by change stays as well.
        assert_eq!(world.gone(), [3 * HOUR, 2 * HOUR], "{seconds}");
        let world = World::new(local(), 1, [ahead(seconds), good(12 * HOUR)]);
        assert_eq!(world.gone().len(), usize::from(counts), "{seconds}");
    }
}

#[test]
fn the_newest_by_name_stay_and_the_newest_by_change_and_the_newest_by_raft_index() {
    let changed = |ago: i64, changed: i64| good(ago * HOUR).but(|file| file.modified = time(NOW - changed * HOUR));
    // By name: 1, 2. By change: 5, 6. In the middle: 3, 4.
    let crossed = [changed(1, 60), changed(2, 50), changed(3, 40), changed(4, 30), changed(5, 20), changed(6, 10)];
    assert_eq!(World::new(bucket(), 2, crossed).gone(), [4 * HOUR, 3 * HOUR]);
    // Within the five minutes in which no newer manifest makes another history, a clock that was set back.
    let back = [(1200, 50), (1150, 51), (1100, 52), (1250, 53), (1240, 54)].map(|(ago, index)| good(ago).but(at_index(index)));
    assert_eq!(World::new(local(), 2, back).gone(), [1200]);
}

#[test]
fn equal_times_leave_exactly_as_many_as_there_are_places() {
    let nodes = ["cp1", "cp2", "cp3", "cp4"].map(|of| of_node(of, 9 * HOUR));
    assert_eq!(World::new(bucket(), 3, nodes).plan(), [format!("prune etcd-snapshot-cp1-{} because beyond-retention", NOW - 9 * HOUR)]);
}

#[test]
fn a_bucket_counts_the_whole_cluster_and_keeps_the_newest_of_each_living_node() {
    let files =
        [of_node("cp1", HOUR), of_node("cp1", 2 * HOUR), of_node("cp2", 3 * HOUR), of_node("cp2", 4 * HOUR), of_node("cp3", 5 * HOUR)];
    let mut world = World::new(bucket(), 2, files.clone());
    assert_eq!(world.gone(), [5 * HOUR, 4 * HOUR, 3 * HOUR]);
    world.living = Some(BTreeSet::from([node("cp1"), node("cp2")]));
    assert_eq!(world.gone(), [5 * HOUR, 4 * HOUR]);
    world.living = None;
    assert_eq!(world.gone(), [4 * HOUR], "who lives is not known, so everybody may");
    // The node's newest good one: a newer one that is not good is none.
    world.inventory = complete(files.into_iter().chain([of_node("cp2", 1800).but(damaged)]));
    assert_eq!(world.gone(), [4 * HOUR]);
    // A directory is one node's; what was saved there under another node name has no place of its own.
    world.storage = local();
    assert_eq!(world.gone(), [5 * HOUR, 4 * HOUR, 3 * HOUR]);
}

#[test]
fn what_is_not_good_takes_no_place_and_goes_when_a_good_one_of_its_age_would() {
    let changes: [(&str, Change); 4] = [
        ("plausible", |file| known(file).verdict = Verdict::Plausible),
        ("damaged", damaged),
        ("without quorum", |file| known(file).manifest.quorum = Some(false)),
        ("corrupt", |file| known(file).manifest.corrupt = true),
    ];
    for (what, bad) in changes {
        let with = |newest, bad_ago: i64| {
            let files = [good(2 * HOUR), good(4 * HOUR), good(6 * HOUR), good(bad_ago * HOUR).but(bad)];
            World::new(bucket(), newest, files).gone()
        };
        assert_eq!(with(2, 1), [6 * HOUR], "{what}, the newest of all: no place, and none of the good ones goes for it");
        assert_eq!(with(2, 3), [6 * HOUR], "{what}, between the two that stay");
        assert_eq!(with(2, 5), [6 * HOUR, 5 * HOUR], "{what}, older than the two that stay");
        assert_eq!(with(3, 7), [7 * HOUR], "{what}, the oldest");
        assert_eq!(with(4, 7), Vec::<i64>::new(), "{what}: a good one would be the fourth");
        // Newer by one clock is enough, as for a good one.
        let touched = good(9 * HOUR).but(bad).but(|file| file.modified = time(NOW - HOUR));
        assert_eq!(World::new(bucket(), 1, [good(2 * HOUR), touched]).gone(), Vec::<i64>::new(), "{what}, changed since");
        let mut node = World::new(bucket(), 1, [good(2 * HOUR), of_node("cp2", 9 * HOUR).but(bad)]);
        node.living = None;
        assert!(node.gone().is_empty(), "{what}: a good one would be the newest of its node");
        node.add(of_node("cp2", 8 * HOUR));
        assert_eq!(node.gone(), [9 * HOUR], "{what}: the node has a newer good one");
    }
}

#[test]
fn of_three_damaged_ones_the_newest_two_stay_however_few_good_ones_there_are() {
    let bad = |ago: i64| good(ago * HOUR).but(damaged);
    for (files, gone) in [
        (vec![bad(1), bad(2)], vec![]),
        (vec![bad(1), bad(2), bad(3)], vec![3]),
        (vec![bad(1), bad(2), bad(3), bad(4), good(5 * HOUR)], vec![4, 3]),
        // Neither good nor damaged is not damaged.
        (vec![bad(1), bad(2), good(3 * HOUR).but(|file| known(file).verdict = Verdict::Plausible)], vec![]),
    ] {
        assert_eq!(World::new(local(), 50, files).gone(), gone.into_iter().map(|ago: i64| ago * HOUR).collect::<Vec<_>>());
    }
    let world = World::new(local(), 50, [bad(1), bad(2), bad(3)]);
    assert_eq!(world.plan(), [format!("prune etcd-snapshot-cp1-{} because damaged", NOW - 3 * HOUR)]);
}

#[test]
fn nothing_goes_that_changed_just_now_or_that_somebody_is_at_work_on() {
    let old_name = |changed: i64| good(9 * HOUR).but(|file| file.modified = time(NOW - changed));
    // Newer by change are two others, so that it has a place by no clock.
    let around = |changed| [good(20).but(|file| file.modified = time(NOW + 200)), good(10), old_name(changed)];
    for (changed, goes) in [(299, false), (300, true), (100, false), (-100, false), (301, true)] {
        let gone = World::new(local(), 1, around(changed)).gone();
        assert_eq!(gone.contains(&(9 * HOUR)), goes, "{changed}");
    }
    let mut world = World::new(local(), 1, days(1..=3));
    world.busy = BTreeSet::from([days([3])[0].name.clone()]);
    assert_eq!(in_days(world.gone()), [2]);
}

#[test]
fn the_brake_stops_a_pass_that_would_delete_more_than_three_and_more_than_half_of_the_good_ones() {
    for (good_ones, newest, braked) in [
        (4, 1, false),
        (5, 1, true),
        (5, 2, false),
        (8, 4, false),
        (7, 3, true),
        (60, 30, false),
        (60, 29, true),
        (60, 5, true),
        (50, 5, true),
    ] {
        let mut world = World::new(local(), newest, days(1..=good_ones));
        let lines = world.plan();
        assert_eq!(lines.len(), usize::try_from(good_ones).unwrap() - newest as usize);
        assert!(lines.iter().all(|line| line.ends_with(", vetoed: brake") == braked), "{good_ones} {newest} {lines:?}");
        assert_eq!(world.apply().is_empty(), braked);
        if braked {
            world.policy.asked = PRUNE;
            assert_eq!(world.apply().len(), lines.len(), "a person has looked");
            assert!(world.plan().is_empty());
        }
    }
    // Files are verified one after the other, newest first: what waits for it may go as well.
    let unknown = |day: i64| good(day * 24 * HOUR).but(|file| file.known = None);
    for verified in 6..=60 {
        let world = World::new(local(), 5, days(1..=verified).into_iter().chain((verified + 1..=60).map(unknown)));
        let lines = world.plan();
        assert!(!lines.is_empty() && lines.iter().all(|line| line.ends_with(", vetoed: brake")), "{verified} {lines:?}");
    }
    // One that cannot be read stops nothing.
    let mut world = World::new(local(), 5, days(1..=7).into_iter().chain([unknown(8)]));
    assert_eq!(world.apply().len(), 2);
    // What is not good counts among what goes, and not among the good ones.
    let files =
        days(1..=2).into_iter().chain((3..=6).map(|day| good(day * 24 * HOUR).but(|file| known(file).verdict = Verdict::Plausible)));
    assert!(World::new(bucket(), 1, files).plan().iter().all(|line| line.ends_with("brake")));
    let files =
        days(1..=5).into_iter().chain((6..=9).map(|day| good(day * 24 * HOUR).but(|file| known(file).verdict = Verdict::Plausible)));
    assert!(World::new(bucket(), 5, files).plan().iter().all(|line| line.ends_with("brake")));
    // Nor do those of another base name.
    let others = (1..=60).map(|day| good(day * HOUR).but(called(&format!("on-demand-cp1-{}", NOW - day * HOUR))));
    assert!(World::new(local(), 1, days(1..=6).into_iter().chain(others)).plan().iter().all(|line| line.ends_with("brake")));
}

#[test]
fn retention_waits_for_an_answer_of_our_member_a_complete_listing_and_a_buckets_records() {
    let mut world = World::new(bucket(), 1, days(1..=2));
    let all = world.inventory.seen().clone();
    world.member = Member::Silent;
    assert!(world.plan().is_empty());
    world.policy.asked = TAKE_OVER;
    assert!(world.plan().is_empty());
    world.member = member("c", 1);
    assert_eq!(world.plan().len(), 1);
    world.records = None;
    assert!(world.plan().is_empty());
    world.records = Some(Vec::new());
    for inventory in [Inventory::Partial(all, Failure::new("x", "x")), Inventory::Failed(Failure::new("x", "x"))] {
        world.inventory = inventory;
        assert!(world.plan().is_empty());
    }
}

#[test]
fn a_directory_waits_neither_for_records_nor_for_an_answer_about_k3s_and_a_bucket_does() {
    for (storage, at_work, veto) in [
        (local(), None, None),
        (local(), Some(true), Some(Veto::K3sAtWork)),
        (bucket(), None, Some(Veto::K3sAtWork)),
        (bucket(), Some(true), Some(Veto::K3sAtWork)),
    ] {
        let mut world = World::new(storage.clone(), 1, days(1..=2));
        world.k3s_at_work = at_work;
        world.records = (storage == bucket()).then(Vec::new);
        assert_eq!(pruned(&world.checked()).map(|(_, step)| step.veto).collect::<Vec<_>>(), [veto]);
    }
    let mut world = World::new(local(), 1, days(1..=9));
    world.policy.mode = Mode::Observe;
    assert!(world.plan().iter().all(|line| line.ends_with("vetoed: observing")) && world.plan().len() == 8);
}

#[test]
fn another_history_is_left_alone_until_it_is_taken_over_and_that_takes_two_runs() {
    // Five of the old history, up to index 90; restored to 40; then new ones.
    let old = (0..5).map(|at| good((30 - at) * 24 * HOUR).but(at_index(50 + 10 * u64::try_from(at).unwrap())));
    let mut world = World::new(bucket(), 3, old);
    world.member = member("c", 45);
    assert!(world.plan().is_empty(), "nobody has looked yet");
    let save = |world: &mut World, day: i64, index: u64| {
        world.add(good(day * 24 * HOUR).but(at_index(index)));
        world.member = member("c", index);
    };
    save(&mut world, 20, 46);
    assert!(world.plan().is_empty());
    world.policy.asked = TAKE_OVER;
    assert_eq!(in_days(world.apply().iter().map(|name| NOW - name.time().unwrap().as_second()).collect()), [30, 29, 28]);
    assert!(world.plan().is_empty());
    world.policy.asked = Asked::Nothing;
    for (day, index) in [(19, 60), (18, 80)] {
        save(&mut world, day, index);
        assert!(world.apply().is_empty(), "two of the old history are left, and three are ours");
    }
    world.policy.asked = PRUNE;
    assert!(world.apply().is_empty(), "a prune that does not take over is an ordinary one");
    world.policy.asked = TAKE_OVER;
    assert_eq!(world.apply().len(), 2);
    assert_eq!(world.inventory.seen().len(), 3);
}

#[test]
fn what_was_saved_after_a_clock_ran_ahead_is_left_alone_until_somebody_has_looked() {
    let ahead = good(-9 * HOUR).but(at_index(60));
    let later = [(4, 67), (3, 68), (2, 69), (1, 70)].map(|(ago, index)| good(ago * HOUR).but(at_index(index)));
    let mut world = World::new(local(), 1, [ahead].into_iter().chain(later));
    world.member = member("c", 71);
    assert!(world.plan().is_empty(), "{:?}", world.plan());
    world.policy.asked = PRUNE;
    assert!(world.plan().is_empty(), "{:?}", world.plan());
    world.policy.asked = TAKE_OVER;
    assert_eq!(world.gone(), [4 * HOUR, 3 * HOUR, 2 * HOUR]);
}

#[test]
fn what_tells_another_history_from_ours_stays_as_long_as_that_is_there() {
    let old = (0..4).map(|at| good((40 - at) * 24 * HOUR).but(at_index(900 + u64::try_from(at).unwrap())));
    let old: Vec<_> = old.collect();
    let mut world = World::new(bucket(), 2, old.clone());
    // Restored to index 5; our member passes 900 long before the last of these saves.
    for (day, index) in (0..20_i64).map(|at| (30 - at, 10 + 100 * u64::try_from(at).unwrap())) {
        world.add(good(day * 24 * HOUR).but(at_index(index)));
        world.member = member("c", index);
        world.apply();
        assert!(old.iter().all(|file| world.inventory.seen().contains_key(&file.name)), "an old one went at index {index}");
    }
    let left: Vec<_> = world.inventory.seen().values().skip(4).map(|file| file.known.clone().unwrap().manifest.history.unwrap()).collect();
    assert_eq!(
        left.iter().map(|history| history.raft_index).collect::<Vec<_>>(),
        [810, 1810, 1910],
        "the last one that tells, and two that have places"
    );
    // With the old ones goes what told of them.
    world.policy.asked = TAKE_OVER;
    assert_eq!(world.apply().len(), 5);
    assert_eq!(world.inventory.seen().len(), 2);
}

#[test]
fn what_tells_another_history_stays_even_while_our_member_tells_it_as_well() {
    let times =
        |name: i64, changed: i64, index| good(name * HOUR).but(|file| file.modified = time(NOW - changed * HOUR)).but(at_index(index));
    // The one at index 10 has no place by any clock, and none of those that have is newer than the old one by both.
    let mut world = World::new(bucket(), 1, [times(10, 10, 900), times(8, 8, 10), times(1, 20, 12), times(20, 1, 14)]);
    world.member = member("c", 20);
    assert!(world.gone().is_empty());
    world.policy.asked = TAKE_OVER;
    assert_eq!(world.gone(), [10 * HOUR, 8 * HOUR]);
}

#[test]
fn what_shows_no_cluster_id_goes_only_when_it_is_adopted() {
    let unlabelled = |ago: i64| good(ago * HOUR).but(|file| (known(file).cluster, known(file).manifest.cluster) = (None, None));
    let mut world = World::new(bucket(), 1, [good(HOUR), unlabelled(2), unlabelled(3)]);
    assert!(world.plan().is_empty());
    world.policy.keep.adopt_unlabelled = true;
    assert_eq!(world.gone(), [3 * HOUR, 2 * HOUR]);
}

#[test]
fn a_prune_takes_the_records_of_its_file_along() {
    let mut world = World::new(bucket(), 1, days(1..=2));
    let (new, old) = (days([1]).remove(0), days([2]).remove(0));
    let mine = record(&old, &bucket(), |_| {});
    let held = record(&old, &bucket(), |object| {
        object.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(time(NOW)));
    });
    world.records = Some(vec![record(&new, &bucket(), |_| {}), mine.clone(), held, record(&old, &local(), |_| {})]);
    let checked = world.checked();
    let records: Vec<_> = checked
        .steps()
        .iter()
        .filter_map(|step| match &step.action {
            Action::Prune(_, records) => Some((records.clone(), step.veto)),
            _ => None,
        })
        .collect();
    assert_eq!(records, [(vec![mine], None)]);
}

#[test]
fn the_check_refuses_what_a_wrong_decision_would_delete() {
    type Wrong = fn(&mut World, &mut SnapshotFile, &mut Reason);
    let table: [(&str, Wrong, Option<Veto>); 16] = [
        ("right", |_, _, _| {}, None),
        (
            "partial",
            |world, _, _| world.inventory = Inventory::Partial(world.inventory.seen().clone(), Failure::new("x", "x")),
            Some(Veto::Incomplete),
        ),
        ("member silent", |world, _, _| world.member = Member::Silent, Some(Veto::NotOurs)),
        ("member elsewhere", |world, _, _| world.member = member("other", 1), Some(Veto::NotOurs)),
        ("our cluster unknown", |world, _, _| world.cluster = None, Some(Veto::NotOurs)),
        ("our cluster another", |world, _, _| world.cluster = ClusterId::new("other"), Some(Veto::NotOurs)),
        ("replaced since", |_, file, _| file.version = Version::remembered("2"), Some(Veto::NotOurs)),
        ("not listed", |_, file, _| file.name = name("etcd-snapshot-cp1-1"), Some(Veto::NotOurs)),
        ("base name", |world, _, _| world.policy.keep.base = BaseName::new("on-demand").unwrap(), Some(Veto::NotOurs)),
        ("clock back", |world, _, _| world.now = NOW - 4000 * HOUR, Some(Veto::NotOurs)),
        (
            "being written",
            |world, file, _| {
                file.at_rest = false;
                world.add(file.clone());
            },
            Some(Veto::NotOurs),
        ),
        (
            "not looked into",
            |world, file, _| {
                file.known = None;
                world.add(file.clone());
            },
            Some(Veto::NotOurs),
        ),
        (
            "unlabelled",
            |world, file, _| {
                known(file).cluster = None;
                world.add(file.clone());
            },
            Some(Veto::NotOurs),
        ),
        (
            "two nodes",
            |world, file, _| {
                known(file).node = Some(node("cp2"));
                world.add(file.clone());
            },
            Some(Veto::NotOurs),
        ),
        ("not damaged", |_, _, reason| *reason = Reason::Damaged, Some(Veto::NotGood)),
        ("newest", |_, file, _| *file = days([1]).remove(0).but(at_index(7)), Some(Veto::NewestGood)),
    ];
    for (what, change, veto) in table {
        let mut world = World::new(bucket(), 1, days(1..=3).into_iter().map(|file| file.but(at_index(7))));
        let (mut file, mut reason) = (days([3]).remove(0).but(at_index(7)), Reason::BeyondRetention);
        change(&mut world, &mut file, &mut reason);
        let seen = world.observed();
        let plan = Plan(vec![Step::new(Action::Prune(Box::new(file), Vec::new()), reason)]);
        assert_eq!(check(plan, &seen, &world.policy, time(world.now)).steps()[0].veto, veto, "{what}");
    }
    // Newest by change alone; and with a record that is another file's.
    let touched = days([3]).remove(0).but(|file| file.modified = time(NOW - HOUR));
    let mut world = World::new(bucket(), 1, days(1..=2).into_iter().chain([touched.clone()]));
    let other = record(&days([1])[0], &bucket(), |_| {});
    world.records = Some(vec![other.clone()]);
    let veto = |file: &SnapshotFile, records: Vec<Arc<crate::record::Record>>| {
        let plan = Plan(vec![Step::new(Action::Prune(Box::new(file.clone()), records), Reason::BeyondRetention)]);
        check(plan, &world.observed(), &world.policy, time(NOW)).steps()[0].veto
    };
    assert_eq!(veto(&touched, vec![]), Some(Veto::NewestGood));
    assert_eq!(veto(&days([1])[0], vec![]), Some(Veto::NewestGood), "by name alone");
    assert_eq!(veto(&days([2])[0], vec![other]), Some(Veto::NotOurs));
    // Whatever the owners say, an object shows our cluster id.
    let strangers = days([2]).remove(0).but(|file| known(file).cluster = ClusterId::new("another"));
    let world = World::new(bucket(), 1, days([1]).into_iter().chain([strangers.clone()]));
    let mut seen = world.observed();
    seen.owners.insert(strangers.name.clone(), Owner::Ours);
    let plan = Plan(vec![Step::new(Action::Prune(Box::new(strangers), Vec::new()), Reason::BeyondRetention)]);
    assert_eq!(check(plan, &seen, &world.policy, time(NOW)).steps()[0].veto, Some(Veto::NotOurs));
}

#[test]
fn decide_plans_what_retention_says() {
    let world = World::new(local(), 1, days(1..=2));
    let words: Vec<_> = decide(&world.observed(), &world.policy, time(NOW)).0.iter().map(|step| step.action.word()).collect();
    assert!(words.contains(&"prune"));
}
