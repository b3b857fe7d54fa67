//! A node whose clock is walked back and forth while it saves into a real directory, and retention removes from it.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicI64, Ordering};

use etcd_snapshot_operator::decide::{Action, Around, Asked, Keep, Mode, Observed, Policy, Veto, check, decide};
use etcd_snapshot_operator::record::{Place as InRecords, Shape};
use etcd_snapshot_operator::snapshot::owner::owners;
use etcd_snapshot_operator::snapshot::{FileName, Identity, Inventory, Member as Heard, Program, SnapshotFile};
use etcd_snapshot_operator::storage::{Memory, Removed, Store as _};

use super::*;

/// How many are kept.
const KEPT: u32 = 3;
const DAY: i64 = 86_400;
const BY_HAND: Asked = Asked::Prune { take_over: false };

/// What the node's clock shows, in seconds. It begins years ago, so that no walk of it comes near the real time.
static CLOCK: AtomicI64 = AtomicI64::new(1_500_000_000);

fn clock() -> Timestamp {
    Timestamp::from_second(CLOCK.load(Ordering::Relaxed)).unwrap()
}

/// How far the clock goes to the next save: on as it should, mostly; or set, by minutes or by years.
fn step(random: u64) -> i64 {
    let far = i64::try_from(random >> 8).unwrap_or(0);
    match random % 8 {
        0..4 => 600 + far % 7200,
        4 => far % 600,
        5 => -(far % (2 * DAY)),
        6 => far % (700 * DAY) - 350 * DAY,
        _ => -(far % 90),
    }
}

/// A save by that clock: the name shows it, and so does what the file system notes of the file.
async fn save_by_the_clock(member: &Member, directory: &Directory) -> Result<FileName> {
    let path = directory.path().to_owned();
    let save = Save { now: clock, ..Save::of(member, directory) }.at(move |step, progress| {
        if (step, progress) == (Step::Rename, Progress::Begun) {
            let then = std::time::SystemTime::from(clock());
            let hidden = names(&path).unwrap().into_iter().filter(|name| name.starts_with('.'));
            for name in hidden {
                std::fs::File::options().write(true).open(path.join(name)).unwrap().set_modified(then).unwrap();
            }
        }
    });
    Ok(save.run().await?.file)
}

/// One pass of the agent over its directory, by that clock: the same look, the same decision, the same removal. How many went; None
/// when the brake kept them, and a person has to look.
async fn pass(directory: &Directory, member: &Member, asked: Asked) -> Result<Option<usize>> {
    let inventory = directory.list(&Memory::new()).await.inventory;
    let us = Identity {
        node: NodeName::new(NODE)?,
        cluster: ClusterId::new("uid-of-kube-system"),
        member: Heard::At(member.history().await?.context("a history")?),
    };
    let storage = directory.storage();
    let seen = Observed {
        owners: owners(&storage, &us, inventory.seen(), clock()),
        place: InRecords::Local { dir: directory.path().display().to_string(), node: us.node.clone(), has_node_object: true },
        shape: Shape { program: Program::K3s, bucket_lookup: true },
        records: None,
        running: [].into(),
        k3s_at_work: Some(false),
        around: Around::default(),
        us,
        storage,
        inventory,
    };
    let keep = Keep { local: KEPT, ..Keep::default() };
    let policy = Policy { mode: Mode::Manage, interval: Duration::from_mins(10), keep, asked };
    let (mut gone, mut braked) = (0, false);
    for step in check(decide(&seen, &policy, clock()), &seen, &policy, clock()).steps() {
        ensure!(step.veto.is_none_or(|veto| !veto.is_a_mistake()), "{step:?}");
        if let (Action::Prune(file, _), None) = (&step.action, step.veto) {
            ensure!(directory.remove(file, false).await? == Removed::Done, "{step:?}");
            gone += 1;
        }
        braked |= step.veto == Some(Veto::Brake);
    }
    ensure!(matches!(seen.inventory, Inventory::Complete(_)), "{:?}", seen.inventory);
    let unknown: Vec<&SnapshotFile> = seen.inventory.seen().values().filter(|file| !file.is_good() || !file.at_rest).collect();
    ensure!(unknown.is_empty(), "not judged: {unknown:?}");
    Ok((!braked).then_some(gone))
}

#[tokio::test]
async fn a_clock_that_is_walked_back_and_forth_costs_none_of_the_last_ones_saved() -> Result<()> {
    let place = Place::new()?;
    let etcd = Etcd::start().await?;
    let (member, directory) = (at(&etcd)?, place.open()?);
    let (mut saved, mut walk, mut gone) = (Vec::new(), Vec::new(), 0);
    for number in 0..80 {
        post(address(&etcd)?, "kv/put", &json!({ "key": "key", "value": format!("{number:04}") })).await?;
        saved.push(save_by_the_clock(&member, &directory).await?);
        // As it should be for a while, so that something goes.
        let by = if number < 10 { 3600 } else { step(RandomState::new().hash_one(number)) };
        walk.push(by);
        CLOCK.fetch_add(by, Ordering::Relaxed);
        gone += match pass(&directory, &member, Asked::Nothing).await.with_context(|| format!("walked by {walk:?}"))? {
            Some(gone) => gone,
            None => pass(&directory, &member, BY_HAND).await?.context("a person is not held by the brake")?,
        };
        let files = place.files()?;
        let newest = saved.iter().rev().take(KEPT as usize);
        let lost: Vec<&FileName> = newest.filter(|name| !files.iter().any(|file| *file == name.as_str())).collect();
        ensure!(lost.is_empty(), "{lost:?} went, of {saved:?}; walked by {walk:?}");
        ensure!(number != 9 || gone == 10 - KEPT as usize, "{gone} went of ten by a clock that goes right");
        ensure!(place.sidecars()? == files, "{:?} beside {files:?}", place.sidecars()?);
    }
    ensure!(place.files()?.len() == saved.len() - gone, "{gone} of {} went: {:?}", saved.len(), place.files()?);
    // What looks newer than a later one and is not may pass for another history: that stays until a person takes it over, in two
    // runs. Then only those are left that have a place by one of the three clocks.
    CLOCK.store(Timestamp::now().as_second(), Ordering::Relaxed);
    for _ in 0..2 {
        pass(&directory, &member, Asked::Prune { take_over: true }).await?;
    }
    let left = place.files()?;
    ensure!(left.len() <= 3 * KEPT as usize, "walked by {walk:?}, and {} are left: {left:?}", left.len());
    Ok(())
}
