//! A save and a look into a snapshot, beside etcd's own tools: pairs, one after the other, each in a process of its own. [`sending`]
//! has those that go up to a bucket.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use etcd_snapshot_operator::boltdb;
use etcd_snapshot_operator::snapshot::Verdict;
use etcd_snapshot_operator::snapshot::verify::verify;
use serde_json::{Value, json};

use super::latency::during;
use super::process::{Ran, run};
use super::report::{Section, Spread, mebibytes, times};
use super::world::World;
use super::{Scale, member, sending};
use crate::etcd::{DEFAULT_SET, Etcd};
use crate::process::scratch;
use crate::tools;

/// The word that makes the benchmark's binary look into a snapshot and end.
pub const INSPECT: &str = "inspect";
/// The word for a look into it and at its trailer, both at once.
pub const VERIFY: &str = "verify";
const TRAILER: u64 = 32;
const REST: Duration = Duration::from_millis(500);

/// The section.
pub async fn measure(scale: Scale) -> Result<Section> {
    let mut section = Section::new("saving");
    let world = World::start(scale).await?;
    for (mebibytes, uploads) in scale.databases {
        let etcd = Etcd::start().await?;
        member::fill(&etcd, usize::try_from(*mebibytes)?).await?;
        saves(&mut section, &etcd, *mebibytes, scale.pairs).await?;
        felt(&mut section, &etcd, *mebibytes, scale.pairs).await?;
        sending::measure(&mut section, &world, &etcd, *mebibytes, *uploads).await?;
    }
    Ok(section)
}

async fn saves(section: &mut Section, etcd: &Etcd, size: u32, pairs: u32) -> Result<()> {
    let dir = scratch()?;
    let theirs = dir.path().join("theirs");
    let (our_save, etcdctl) = (tools::beside("saver")?, tools::tool(DEFAULT_SET, "etcdctl")?);
    let (me, looks) = (std::env::current_exe()?, tools::tool(DEFAULT_SET, "etcdutl")?);
    let (mut all, mut whole) = ([const { Vec::new() }; 4], Vec::new());
    for pair in 0..pairs {
        let place = dir.path().join(format!("ours-{pair}"));
        let snapshots = place.join("snapshots");
        std::fs::create_dir_all(&snapshots)?;
        let endpoint = etcd.endpoint();
        let save = words(&[endpoint.as_ref(), snapshots.as_ref(), "node".as_ref(), "raw".as_ref()]);
        let peer = words(&["--endpoints".as_ref(), endpoint.as_ref(), "snapshot".as_ref(), "save".as_ref(), theirs.as_ref()]);
        both(&mut all, 0, (&our_save, &save), (&etcdctl, &peer), pair).await?;
        std::fs::remove_dir_all(&place)?;
        let ours = words(&[INSPECT.as_ref(), theirs.as_ref()]);
        let peer = words(&["snapshot".as_ref(), "status".as_ref(), theirs.as_ref(), "--write-out".as_ref(), "json".as_ref()]);
        both(&mut all, 2, (&me, &ours), (&looks, &peer), pair).await?;
        whole.push(run(&me, &words(&[VERIFY.as_ref(), theirs.as_ref()])).await?);
        std::fs::remove_file(&theirs)?;
    }
    let [save, their_save, status, their_status] = &all;
    let said = answer(&status[0]);
    let agreed = status.iter().chain(their_status).chain(&whole).all(|ran| answer(ran) == said);
    ensure!(agreed && said.is_some(), "etcdutl says something else: {} {}", status[0].output, their_status[0].output);
    section.row(format!("save of {size} MiB to a verified file with its manifest"), shown(save));
    section.row("– `etcdctl snapshot save`, which verifies nothing", shown(their_save));
    section.row("– ours in theirs", times(spread(save).median(), spread(their_save).median()));
    section.row(format!("status of the snapshot of {size} MiB: structure, every number"), shown(status));
    section.row("– `etcdutl snapshot status`, with the same answer", shown(their_status));
    section.row("– theirs in ours", times(spread(their_status).median(), spread(status).median()));
    section.row("– ours with the SHA-256 of all of it as well, which theirs does not look at", shown(&whole));
    section.row("– theirs in ours with it", times(spread(their_status).median(), spread(&whole).median()));
    Ok(())
}

/// The member's own latency while it is saved.
async fn felt(section: &mut Section, etcd: &Etcd, size: u32, pairs: u32) -> Result<()> {
    let dir = scratch()?;
    let address = member::address(etcd)?;
    let (our_save, etcdctl, endpoint) = (tools::beside("saver")?, tools::tool(DEFAULT_SET, "etcdctl")?, etcd.endpoint());
    let theirs = dir.path().join("theirs");
    let peer = words(&["--endpoints".as_ref(), endpoint.as_ref(), "snapshot".as_ref(), "save".as_ref(), theirs.as_ref()]);
    let (mut ours, mut others, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..pairs {
        let place = dir.path().join(format!("ours-{pair}"));
        let snapshots = place.join("snapshots");
        std::fs::create_dir_all(&snapshots)?;
        let save = words(&[endpoint.as_ref(), snapshots.as_ref(), "node".as_ref(), "raw".as_ref()]);
        ours.extend(during(address, run(&our_save, &save)).await?);
        std::fs::remove_dir_all(&place)?;
        others.extend(during(address, run(&etcdctl, &peer)).await?);
        std::fs::remove_file(&theirs)?;
        let resting = async {
            tokio::time::sleep(REST).await;
            Ok(())
        };
        rest.extend(during(address, resting).await?);
    }
    let (ours, others, rest) = (Spread::new(ours), Spread::new(others), Spread::new(rest));
    section.row(format!("a put to the member of {size} MiB, during our save"), ours.tail());
    section.row("– during `etcdctl snapshot save`", others.tail());
    section.row("– at rest", rest.tail());
    section.row("– our p99 in theirs", times(ours.at(99), others.at(99)));
    Ok(())
}

/// Ours and theirs, in turn the first.
async fn both(all: &mut [Vec<Ran>; 4], at: usize, ours: (&Path, &[OsString]), theirs: (&Path, &[OsString]), pair: u32) -> Result<()> {
    let order = if pair.is_multiple_of(2) { [(at, ours), (at + 1, theirs)] } else { [(at + 1, theirs), (at, ours)] };
    for (at, (program, args)) in order {
        all[at].push(run(program, args).await?);
    }
    Ok(())
}

fn words(words: &[&OsStr]) -> Vec<OsString> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn spread(ran: &[Ran]) -> Spread {
    Spread::new(ran.iter().map(|ran| ran.time).collect())
}

fn shown(ran: &[Ran]) -> String {
    let peak = ran.iter().map(|ran| ran.peak).max().unwrap_or_default();
    format!("{}, {} resident", spread(ran), mebibytes(peak))
}

fn answer(ran: &Ran) -> Option<Value> {
    serde_json::from_str(&ran.output).ok()
}

/// What a status of a snapshot is, as `etcdutl snapshot status` prints it; with `trailer` that is compared meanwhile.
pub fn inspect(path: &Path, trailer: bool) -> Result<Value> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let length = size.checked_sub(TRAILER).context("no snapshot is so short")?;
    let facts = std::thread::scope(|scope| {
        let verified = trailer.then(|| scope.spawn(|| verify(&file, size, || true)));
        let facts = boltdb::inspect(&file, length);
        if let Some(verified) = verified {
            let verified = verified.join().map_err(|_| anyhow::anyhow!("verifying has ended early"))??;
            ensure!(verified.verdict == Verdict::Whole, "{:?}", verified.verdict);
        }
        Ok(facts?)
    })?;
    Ok(json!({
        "hash": facts.hash, "revision": facts.revision, "totalKey": facts.live_keys, "totalSize": facts.total_size,
        "version": facts.storage_version,
    }))
}
