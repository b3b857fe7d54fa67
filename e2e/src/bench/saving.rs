//! A save and a look into a snapshot, beside etcd's own tools: pairs, one after the other, each in a process of its own.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use etcd_snapshot_operator::boltdb;
use etcd_snapshot_operator::snapshot::Verdict;
use etcd_snapshot_operator::snapshot::verify::verify;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Scale;
use super::latency::during;
use super::process::{Ran, run};
use super::report::{Section, Spread, mebibytes, times};
use crate::etcd::{DEFAULT_SET, Etcd};
use crate::process::scratch;
use crate::tools;

/// The word that makes the benchmark's binary look into a snapshot and end.
pub const INSPECT: &str = "inspect";
/// Bytes of a value, as an object of Kubernetes may have them, and how many are put at once.
const VALUE: usize = 3 << 10;
const AT_ONCE: usize = 128;
const TRAILER: u64 = 32;
const REST: Duration = Duration::from_millis(500);

/// The section.
pub async fn measure(scale: Scale) -> Result<Section> {
    let mut section = Section::new("saving");
    for mebibytes in scale.databases {
        let etcd = Etcd::start().await?;
        fill(&etcd, usize::try_from(*mebibytes)?).await?;
        saves(&mut section, &etcd, *mebibytes, scale.pairs).await?;
        felt(&mut section, &etcd, *mebibytes, scale.pairs).await?;
    }
    Ok(section)
}

async fn saves(section: &mut Section, etcd: &Etcd, size: u32, pairs: u32) -> Result<()> {
    let dir = scratch()?;
    let theirs = dir.path().join("theirs");
    let (our_save, etcdctl) = (tools::beside("saver")?, tools::tool(DEFAULT_SET, "etcdctl")?);
    let (me, looks) = (std::env::current_exe()?, tools::tool(DEFAULT_SET, "etcdutl")?);
    let mut all = [const { Vec::new() }; 4];
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
        std::fs::remove_file(&theirs)?;
    }
    let [save, their_save, status, their_status] = &all;
    let agreed = status.iter().zip(their_status).all(|(ours, theirs)| answer(ours) == answer(theirs));
    ensure!(agreed && answer(&status[0]).is_some(), "etcdutl says something else: {} {}", status[0].output, their_status[0].output);
    section.row(format!("save of {size} MiB to a verified file with its manifest"), shown(save));
    section.row("– `etcdctl snapshot save`, which verifies nothing", shown(their_save));
    section.row("– ours in theirs", times(spread(save).median(), spread(their_save).median()));
    section.row(format!("status of the snapshot of {size} MiB: trailer, structure, every number"), shown(status));
    section.row("– `etcdutl snapshot status`, with the same answer", shown(their_status));
    section.row("– theirs in ours", times(spread(their_status).median(), spread(status).median()));
    Ok(())
}

/// The member's own latency while it is saved.
async fn felt(section: &mut Section, etcd: &Etcd, size: u32, pairs: u32) -> Result<()> {
    let dir = scratch()?;
    let address: SocketAddr = etcd.endpoint().trim_start_matches("http://").parse()?;
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

/// Values of random digits, as they do not compress, until the database has so many MiB.
async fn fill(etcd: &Etcd, mebibytes: usize) -> Result<()> {
    let address: SocketAddr = etcd.endpoint().trim_start_matches("http://").parse()?;
    let mut random = File::open("/dev/urandom")?;
    let digits = VALUE / 3 * 4;
    for batch in 0..(mebibytes << 20).div_ceil(AT_ONCE * VALUE) {
        let mut puts = Vec::new();
        for number in 0..AT_ONCE {
            let mut bytes = vec![0; digits];
            random.read_exact(&mut bytes)?;
            let value: String = bytes.iter().map(|byte| char::from(DIGITS[usize::from(byte % 64)])).collect();
            puts.push(json!({ "requestPut": { "key": format!("k{batch:08}{number:03}"), "value": value } }));
        }
        post(address, "kv/txn", &json!({ "success": puts })).await?;
    }
    Ok(())
}

/// Keys and values are given in base64.
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// A request to the member's JSON gateway.
pub async fn post(address: SocketAddr, path: &str, body: &Value) -> Result<()> {
    let body = body.to_string();
    let mut request = String::new();
    write!(request, "POST /v3/{path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer.split(' ').nth(1) == Some("200"), "{path}: {answer}");
    Ok(())
}

/// What a status of a snapshot is: its trailer and its inside, both at once; as `etcdutl snapshot status` prints it.
pub fn inspect(path: &Path) -> Result<Value> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let length = size.checked_sub(TRAILER).context("no snapshot is so short")?;
    let (verified, facts) = std::thread::scope(|scope| {
        let verified = scope.spawn(|| verify(&mut &file, size, || true));
        let facts = boltdb::inspect(&file, length);
        (verified.join(), facts)
    });
    let verified = verified.map_err(|_| anyhow::anyhow!("verifying has ended early"))??;
    ensure!(verified.verdict == Verdict::Whole, "{:?}", verified.verdict);
    let facts = facts?;
    Ok(json!({
        "hash": facts.hash, "revision": facts.revision, "totalKey": facts.live_keys, "totalSize": facts.total_size,
        "version": facts.storage_version,
    }))
}
