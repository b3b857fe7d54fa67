//! What holds whatever a storage holds, and whatever happens to it.

use proptest::prelude::*;

use super::*;
use crate::snapshot::{Known, Manifest, Metadata};

/// Anything that a storage of ours may hold.
fn any_file() -> impl Strategy<Value = SnapshotFile> {
    let verdict = prop_oneof![6 => Just(Verdict::Whole), 1 => Just(Verdict::Plausible), 2 => Just(Verdict::Damaged("d".into()))];
    let whose = (
        prop_oneof![6 => Just("uid"), 1 => Just("another"), 1 => Just("")],
        prop_oneof![5 => Just("cp1"), 2 => Just("cp2"), 1 => Just("")],
        prop_oneof![5 => Just("cp1"), 2 => Just("cp2"), 1 => Just("")],
    );
    let times = (prop_oneof![8 => -10..200_i64, 1 => -3000..-10_i64], -2..200_i64, prop::option::of(0..100_u64));
    let ways = (any::<prop::sample::Index>(), 0..20_u8);
    (verdict, whose, times, ways).prop_map(|(verdict, (cluster, of, said), (ago, changed, index), (base, odd))| {
        let base = ["etcd-snapshot", "etcd-snapshot", "etcd-snapshot", "on-demand", "etcd-snapshot-eu"][base.index(5)];
        let manifest = Manifest {
            cluster: ClusterId::new(cluster),
            node: NodeName::new(said).ok(),
            history: index.map(|raft_index| History { etcd_cluster: "c".into(), raft_index }),
            quorum: (odd == 1).then_some(false),
            corrupt: odd == 2,
            ..Manifest::default()
        };
        let (cluster, node, metadata) = (ClusterId::new(cluster), NodeName::new(said).ok(), Metadata::InRecord(None));
        SnapshotFile {
            name: name(&format!("{base}-{}-{}", if of.is_empty() { "x" } else { of }, NOW - ago * 60)),
            size: 1,
            modified: time(NOW - changed * 60),
            version: Version::remembered("v"),
            at_rest: odd != 3,
            known: (odd != 4).then_some(Known { verdict, manifest, cluster, node, token_hash: None, metadata }),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// The laws, over anything: what goes is ours and judged, the newest stay, nothing is a mistake to the check, the
    /// brake holds, and once done there is nothing left to do.
    #[test]
    fn the_laws_hold_over_anything(
        in_bucket in any::<bool>(), newest in 0..8_u32, files in prop::collection::vec(any_file(), 0..40),
        asked in prop::sample::select(vec![Asked::Nothing, PRUNE, TAKE_OVER]), index in 0..150_u64, adopt in any::<bool>(), living in any::<bool>()
    ) {
        let mut world = World::new(if in_bucket { bucket() } else { local() }, newest, files);
        world.policy.asked = asked.clone();
        world.policy.keep.adopt_unlabelled = adopt;
        world.member = member("c", index);
        world.living = living.then(|| BTreeSet::from([node("cp2")]));
        let (before, seen, checked) = (world.inventory.seen().clone(), world.observed(), world.checked());
        let going: BTreeSet<_> = pruned(&checked).map(|(file, _)| file.name.clone()).collect();
        for (file, step) in pruned(&checked) {
            prop_assert!(step.veto.is_none_or(|veto| !veto.is_a_mistake()), "{:?}", step);
            let owner = seen.owners[&file.name];
            prop_assert!(owner == Owner::Ours || asked == TAKE_OVER && owner.may_be_from_before_a_restore());
            prop_assert!(file.known.is_some() && file.at_rest && file.name.as_str().starts_with("etcd-snapshot-cp"));
            prop_assert!(file.name.time().unwrap() <= time(NOW + 300));
            // A person who prunes has looked at what was saved just now.
            prop_assert!(file.modified <= time(NOW - 300) || !asked.has_brake());
        }
        let ours = |file: &&SnapshotFile| {
            seen.owners[&file.name] == Owner::Ours && file.is_good() && file.at_rest && file.name.time() <= Some(time(NOW + 300))
                && file.known.as_ref().unwrap().node.as_ref().or(Some(&node("cp1"))).is_some_and(|of| file.name.is_of(&BaseName::default(), of))
        };
        let mut by_name: Vec<_> = before.values().filter(ours).collect();
        by_name.sort_by_key(|file| (file.name.time(), &file.name));
        let mut by_change = by_name.clone();
        by_change.sort_by_key(|file| (file.modified, file.name.time(), &file.name));
        for order in [by_name, by_change] {
            // Taken over, another history's may be newer and have the places.
            let have = order.iter().rev().take(newest as usize).filter(|_| asked != TAKE_OVER);
            prop_assert!(have.into_iter().all(|file| !going.contains(&file.name)));
            prop_assert!(order.is_empty() || order.iter().any(|file| !going.contains(&file.name)) || asked == TAKE_OVER);
        }
        let good = before.values().filter(|file| file.is_good()).count();
        let gone = world.apply();
        prop_assert!(gone.is_empty() || asked.has_brake() <= (gone.len() <= 3.max(good / 2)));
        prop_assert!(asked.has_brake() || gone.len() == going.len());
        if asked == TAKE_OVER {
            // What does not tell its history is ours once nothing of another one is left beside it: in the second run.
            world.apply();
        }
        if !gone.is_empty() || going.is_empty() {
            prop_assert!(world.plan().is_empty(), "left: {:?}", world.plan());
        }
    }
}

/// What can happen to a directory or a bucket.
#[derive(Debug, Clone)]
enum Event {
    Save,
    SaveDamaged,
    Wait(i64),
    /// The node's clock is off by so many seconds from now on.
    Clock(i64),
    Keep(u32),
    /// A file of another cluster, of nobody known, of another base name.
    Foreign(u8),
}

fn any_event() -> impl Strategy<Value = Event> {
    let clock = prop_oneof![Just(0), -7200..7200_i64, Just(-400_000_000), Just(130_000_000), Just(130_000_000 - 3000)];
    prop_oneof![
        8 => Just(Event::Save),
        1 => Just(Event::SaveDamaged),
        4 => prop_oneof![1..400_i64, Just(HOUR), Just(24 * HOUR)].prop_map(Event::Wait),
        3 => clock.prop_map(Event::Clock),
        1 => prop_oneof![Just(50), Just(5), 1..4_u32].prop_map(Event::Keep),
        1 => (0..3_u8).prop_map(Event::Foreign),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever the clock does between saves, the newest of them that are good are never deleted, nor anything foreign.
    #[test]
    fn no_jump_of_the_clock_costs_a_snapshot(in_bucket in any::<bool>(), events in prop::collection::vec(any_event(), 1..60)) {
        let mut world = World::new(if in_bucket { bucket() } else { local() }, 5, []);
        world.policy.asked = PRUNE;
        let (mut now, mut off, mut index) = (NOW, 0, 100);
        // In the order in which they were saved, whatever their names say.
        let mut saves: Vec<FileName> = Vec::new();
        let mut foreign: Vec<FileName> = Vec::new();
        for event in events {
            now += 1;
            index += 7;
            match event {
                Event::Save | Event::SaveDamaged => {
                    let mut file = good(NOW - now - off).but(at_index(index));
                    if in_bucket {
                        // LastModified is the server's clock.
                        file.modified = time(now);
                    }
                    // One second, one name: the next save takes it, as it does in a directory.
                    saves.retain(|name| *name != file.name);
                    if matches!(event, Event::Save) { saves.push(file.name.clone()) } else { damaged(&mut file) }
                    world.add(file);
                }
                Event::Wait(seconds) => now += seconds,
                Event::Clock(seconds) => off = seconds,
                Event::Keep(newest) => (world.policy.keep.local, world.policy.keep.bucket) = (newest, newest),
                Event::Foreign(kind) => {
                    let mut file = of_node("x", NOW - now).but(at_index(index));
                    match kind {
                        0 => (known(&mut file).cluster, known(&mut file).manifest.cluster) = (ClusterId::new("another"), ClusterId::new("another")),
                        1 => (known(&mut file).cluster, known(&mut file).manifest.cluster) = (None, None),
                        _ => file.name = name(&format!("on-demand-x-{now}")),
                    }
                    if kind == 1 {
                        known(&mut file).node = None;
                        known(&mut file).manifest.node = None;
                    }
                    foreign.push(file.name.clone());
                    world.add(file);
                }
            }
            world.now = now + off;
            world.member = member("c", index);
            let newest: Vec<_> = saves.iter().rev().take(world.policy.keep.local as usize).cloned().collect();
            let gone = world.apply();
            for name in &gone {
                prop_assert!(!newest.contains(name), "{name} went, of {newest:?}");
                prop_assert!(!foreign.contains(name));
            }
            saves.retain(|name| !gone.contains(name));
            prop_assert!(world.plan().is_empty());
        }
    }

    /// Restores with a clock that goes right: nothing of an earlier history is deleted, the newest of ours stay, and their
    /// number does not grow beyond what has a place or tells the histories apart.
    #[test]
    fn no_restore_costs_a_snapshot(
        newest in 1..5_u32, lives in prop::collection::vec((1..12_usize, 1..500_u64, 0..100_u64), 1..4), in_bucket in any::<bool>()
    ) {
        let mut world = World::new(if in_bucket { bucket() } else { local() }, newest, []);
        world.policy.asked = PRUNE;
        let mut now = NOW - 1000 * 24 * HOUR;
        let mut index = 1000;
        let (mut ours, mut lost): (Vec<(FileName, u64)>, Vec<FileName>) = (Vec::new(), Vec::new());
        for (saves, step, back_to) in lives {
            index = index * back_to / 100 + 1;
            lost.extend(ours.extract_if(.., |(_, at)| *at > index).map(|(name, _)| name));
            for _ in 0..saves {
                now += 24 * HOUR;
                let file = good(NOW - now).but(at_index(index));
                ours.push((file.name.clone(), index));
                world.add(file);
                // Our member is asked when the next save is due.
                index += step;
                world.now = now + 24 * HOUR - 1;
                world.member = member("c", index);
                let gone = world.apply();
                prop_assert!(lost.iter().all(|name| !gone.contains(name)), "of an earlier history: {gone:?}");
                let newest: Vec<_> = ours.iter().rev().take(newest as usize).collect();
                prop_assert!(newest.iter().all(|(name, _)| !gone.contains(name)));
                ours.retain(|(name, _)| !gone.contains(name));
                prop_assert!(world.plan().is_empty());
            }
        }
    }
}
