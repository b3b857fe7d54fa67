//! A save that is killed: at the beginning of each step, as soon as a file appears, and whenever.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};

use etcd_snapshot_operator::snapshot::{Digest, Verdict};
use etcd_snapshot_operator::storage::{Memory, Store as _, zip};
use sha2::{Digest as _, Sha256};

use super::faults::saver;
use super::*;

/// When to kill.
#[derive(Debug, Clone, Copy)]
enum When {
    /// As soon as it says that this step begins, or later by so many tenths of a millisecond.
    At(Step, u64),
    /// As soon as there are so many names in the snapshot directory, among the sidecars and in the state of the running save.
    Names(usize, usize, usize),
    /// After so many tenths of a millisecond.
    After(u64),
}

fn random(below: u64) -> u64 {
    RandomState::new().hash_one(()) % below
}

fn look(place: &Place) -> (usize, usize, usize) {
    let saving = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten().collect::<Vec<_>>();
    let state = saving(place.0.path().join(".metadata/.state")).into_iter().flat_map(|state| saving(state.path().join(NODE)));
    let count = |names: Result<Vec<String>>| names.map_or(0, |names| names.len());
    (count(place.files()), count(place.sidecars()), state.filter(|entry| entry.file_name() == "saving.json").count())
}

/// Runs one save and kills it. Says whether it had told of its snapshot.
async fn kill(etcd: &Etcd, place: &Place, how: &str, when: When) -> Result<Option<String>> {
    let (files, sidecars, _) = look(place);
    let mut process = saver(etcd, place, how)?.start()?;
    let begun = std::time::Instant::now();
    let end = begun + Duration::from_mins(1);
    while process.ended().is_none() && std::time::Instant::now() < end {
        let now = match when {
            When::At(step, later) => {
                let said = process.log().contains(&format!("begun {step}\n"));
                if said {
                    tokio::time::sleep(Duration::from_micros(later * 100)).await;
                }
                said
            }
            When::Names(more, beside, saving) => {
                let look = look(place);
                look.0 >= files + more && look.1 >= sidecars + beside && look.2 >= saving
            }
            When::After(later) => begun.elapsed() >= Duration::from_micros(later * 100),
        };
        if now {
            break;
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    process.kill();
    Ok(process.log().lines().find_map(|line| line.strip_prefix("saved ").map(str::to_owned)))
}

/// What has to be so after the owner's next start, whatever happened before.
async fn invariants(place: &Place, reported: &BTreeSet<String>, checked: &mut BTreeSet<String>) -> Result<()> {
    let directory = place.open()?;
    let listed = directory.list(&Memory::new()).await;
    ensure!(listed.inventory.failure().is_none() && listed.failures.is_empty(), "{listed:?}");
    let (files, mut sidecars) = (place.files()?, place.sidecars()?);
    ensure!(sidecars.iter().any(|name| name == "of-k3s-1"), "a sidecar that is not ours is gone");
    sidecars.retain(|name| name != "of-k3s-1");
    ensure!(files == sidecars, "{files:?} with sidecars {sidecars:?}");
    ensure!(reported.iter().all(|name| files.contains(name)), "{reported:?} was saved, {files:?} is there");
    let new: Vec<&String> = files.iter().filter(|name| !checked.contains(*name)).collect();
    for name in new {
        let bytes = std::fs::read(place.path().join(name))?;
        let snapshot = if name.ends_with(".zip") {
            let unpacked = zip::verify(std::io::Cursor::new(&bytes), bytes.len() as u64, || true)?;
            ensure!(unpacked.verified.verdict == Verdict::Whole, "{name}: {unpacked:?}");
            let mut snapshot = Vec::new();
            std::io::Read::read_to_end(&mut ::zip::ZipArchive::new(std::io::Cursor::new(&bytes))?.by_index(0)?, &mut snapshot)?;
            snapshot
        } else {
            bytes.clone()
        };
        let (database, trailer) = snapshot.split_at(snapshot.len() - 32);
        ensure!(Sha256::digest(database).as_slice() == trailer, "{name} does not match its trailer");
        let told = &place.sidecar(name)?[&format!("{PREFIX}file-sha256")];
        ensure!(*told == Digest(Sha256::digest(&bytes).into()).to_string(), "{name}");
        restores(DEFAULT_SET, &snapshot).await.with_context(|| format!("restore {name}"))?;
        checked.insert(name.clone());
    }
    // Whoever starts next can save at once.
    let _turn = directory.turn(Timestamp::now())?;
    Ok(())
}

async fn killed_often(how: &'static str, random_kills: usize) -> Result<()> {
    let place = Place::new()?;
    let etcd = Etcd::start().await?;
    fill(&etcd, 1).await?;
    place.open()?;
    std::fs::create_dir_all(place.0.path().join(".metadata"))?;
    std::fs::write(place.0.path().join(".metadata/of-k3s-1"), r#"{"provisioning-cluster-spec":"{}"}"#)?;
    let (mut reported, mut checked) = (BTreeSet::new(), BTreeSet::new());
    // How long a whole one takes here and now.
    let began = std::time::Instant::now();
    reported.extend(kill(&etcd, &place, how, When::After(600_000)).await?);
    let whole = u64::try_from(began.elapsed().as_micros() / 100)?;
    ensure!(reported.len() == 1, "an undisturbed save saves");

    let steps = Step::ALL.into_iter().filter(|step| how == "zip" || *step != Step::Compress);
    let mut times: Vec<When> = steps.flat_map(|step| [When::At(step, 0), When::At(step, random(20))]).collect();
    times.extend([When::Names(1, 0, 0), When::Names(1, 0, 1), When::Names(1, 1, 0), When::Names(1, 1, 1)]);
    times.extend((0..random_kills).map(|_| When::After(random(whole * 11 / 10))));
    let mut killed = 0;
    for when in times {
        let told = kill(&etcd, &place, how, when).await?;
        killed += usize::from(told.is_none());
        reported.extend(told);
        invariants(&place, &reported, &mut checked).await.with_context(|| format!("killed {when:?}"))?;
    }
    ensure!(killed > 10 && checked.len() > 1, "{killed} were killed before their end, {} snapshots are there", checked.len());
    Ok(())
}

#[tokio::test]
async fn a_save_that_is_killed_leaves_a_whole_snapshot_or_nothing() -> Result<()> {
    killed_often("raw", 110).await
}

#[tokio::test]
async fn a_compressed_save_that_is_killed_leaves_a_whole_snapshot_or_nothing() -> Result<()> {
    killed_often("zip", 110).await
}
