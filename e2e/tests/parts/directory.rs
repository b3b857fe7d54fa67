//! What the directory holds, and what its records say of it: whole, damaged, being written, oddly named.

use std::collections::BTreeMap;
use std::io::{Seek as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::operator::Operator;
use e2e::shared::Shared;
use e2e::site::{Site, unique};
use e2e::snapshots;

use crate::look::{errors, expected, falls_ill, is_well, local_becomes, short, shown, states, value, warnings};

/// The most memory that the process ever held, in KiB.
fn most_memory(operator: &Operator) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", operator.id()))?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).context("no VmHWM")?;
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).context("VmHWM is no number")
}

#[tokio::test]
async fn every_file_is_judged_once_and_its_record_says_how() -> Result<()> {
    let site = Site::new().await?;
    let (whole, dir) = (snapshots::sized(1, 40_000), site.snapshots());
    let name = |what: &str| format!("{what}-{}-1700000000", site.node);
    let zip = |what: &str| format!("{}.zip", name(what));
    let packed = snapshots::zipped(&name("packed"), &whole)?;
    let damaged = "not ready, damaged: ";
    let files: Vec<(String, Vec<u8>, String)> = vec![
        (name("whole"), whole.clone(), "whole".into()),
        (name("real"), Shared::get()?.real_snapshot()?, "whole".into()),
        (zip("packed"), packed.clone(), "whole".into()),
        (
            name("truncated"),
            snapshots::truncated(&snapshots::tiny(1)),
            format!("{damaged}272 bytes cannot be a snapshot: a database is whole pages of 512 bytes, followed by 32 bytes of SHA-256"),
        ),
        (
            name("bare"),
            snapshots::without_trailer(&snapshots::tiny(1)),
            format!("{damaged}its 512 bytes have no SHA-256 trailer at their end, so it is cut off there or a copy of a database file"),
        ),
        (name("flipped"), snapshots::bit_flipped(&whole), format!("{damaged}its bytes do not match its SHA-256 trailer")),
        (name("zeros"), vec![0; 544], format!("{damaged}it does not begin like an etcd database")),
        (zip("half"), packed[..packed.len() / 2].to_vec(), format!("{damaged}it is not a zip archive, or it is cut off before its end")),
        (
            zip("two"),
            snapshots::zip_of(&[("a", &whole), ("b", &whole)])?,
            format!("{damaged}its zip archive has 2 entries, and a snapshot's has exactly one"),
        ),
        (
            zip("flipped"),
            snapshots::zipped("a", &snapshots::bit_flipped(&whole))?,
            format!("{damaged}its bytes do not match its SHA-256 trailer"),
        ),
    ];
    for (name, bytes, _) in &files {
        site.place(name, bytes)?;
    }
    // None of these is a snapshot.
    for name in [name("empty"), format!("{}.part", name("unfinished")), ".hidden".into()] {
        std::fs::write(dir.join(&name), if name.contains("empty") { &[][..] } else { &whole })?;
    }
    std::fs::create_dir(dir.join(name("folder")))?;
    std::fs::write(dir.join(name("folder")).join(name("inside")), &whole)?;
    std::fs::write(site.scratch().join("outside"), &whole)?;
    std::os::unix::fs::symlink(site.scratch().join("outside"), dir.join(name("link")))?;

    let mut wanted: BTreeMap<String, String> = expected(files.iter().map(|(name, _, short)| (name, short)));
    let mut operator = site.operator().start().await?;
    local_becomes(&mut operator, &site, &wanted).await?;
    is_well(&mut operator).await?;
    let kinds = |kind: &'static str| [("storage", "local"), ("kind", kind)];
    ensure!(value(&operator, "files", &kinds("damaged")).await? == 7 && value(&operator, "files", &kinds("good")).await? == 3);
    ensure!(value(&operator, "actions_total", &[("action", "verify"), ("outcome", "done")]).await? == 10, "each file is read once");
    ensure!(warnings(&operator, "its bytes do not match its SHA-256 trailer") == 2, "one warning for each of the two");
    let record = site.local_records().await?.into_iter().find(|record| record.data["spec"]["snapshotName"] == *name("flipped"));
    let record = record.and_then(|record| record.metadata.name).context("the record of the damaged file")?;
    operator
        .until("an Event about the damage", async |_| {
            let events = site.kubernetes.events_about(&record).await?;
            ensure!(events.iter().any(|event| event.reason.as_deref() == Some("ETCDSnapshotDamaged")), "{events:?}");
            Ok(())
        })
        .await?;

    // Replaced by a whole one, and removed: the record follows, without an error left behind.
    site.place(&name("flipped"), &whole)?;
    std::fs::remove_file(dir.join(name("truncated")))?;
    wanted.insert(name("flipped"), "whole".into());
    wanted.remove(&name("truncated"));
    local_becomes(&mut operator, &site, &wanted).await?;
    ensure!(dir.join(zip("two")).exists(), "a damaged file stays");

    // Verdicts outlive a restart, and so do the records.
    operator.terminate().await?;
    let before = states(&site.local_records().await?);
    let mut operator = site.operator().start().await?;
    operator.ready().await?;
    operator.beats(3).await?;
    ensure!(value(&operator, "actions_total", &[]).await? == 0, "nothing is read or written again after a restart");
    ensure!(states(&site.local_records().await?) == before);
    ensure!(errors(&operator, "local").await? == 0);
    Ok(())
}

#[tokio::test]
async fn a_zip_bomb_takes_no_memory() -> Result<()> {
    const MEBIBYTES: usize = 96;
    let site = Site::new().await?;
    let name = |what: &str| format!("{what}-{}-1700000000.zip", site.node);
    site.place(&name("small"), &snapshots::zipped("a", &snapshots::tiny(1))?)?;
    let mut operator = site.operator().start().await?;
    local_becomes(&mut operator, &site, &expected([(name("small"), "whole")])).await?;
    let before = most_memory(&operator)?;
    site.place(&name("zeros"), &snapshots::zip_bomb("a", MEBIBYTES)?)?;
    // Whole, and read to its end: its bytes are right, however many they are.
    site.place(&name("large"), &snapshots::zipped("a", &snapshots::sized(1, MEBIBYTES << 20))?)?;
    let zeros = format!("in its zip archive, its {} bytes have no SHA-256 trailer at their end", MEBIBYTES << 20);
    operator
        .until("both to be judged", async |_| {
            let found = shown(&site.local_records().await?)?;
            let of = |what: &str| found.get(&name(what)).map(String::as_str).unwrap_or_default();
            ensure!(of("large") == "whole" && of("zeros").contains(&zeros), "{found:#?}");
            Ok(())
        })
        .await?;
    let grown = most_memory(&operator)? - before;
    ensure!(grown < 24 * 1024, "memory grew by {grown} KiB over {MEBIBYTES} MiB");
    Ok(())
}

#[tokio::test]
async fn whatever_a_file_is_called_it_has_a_record_of_its_own() -> Result<()> {
    let site = Site::new().await?;
    let node = &site.node;
    let longest = format!("{:x<1$}-1700000000", format!("etcd-snapshot-{node}-"), 244);
    ensure!(longest.len() == 255);
    let names = [
        site.name(1_700_000_000),
        // Of the same second.
        format!("on-demand-{node}-1700000000"),
        format!("{}.zip", site.name(1_700_000_000)),
        // Two that are one in lower case.
        format!("Before-Upgrade-{node}-1700000001"),
        format!("before-upgrade-{node}-1700000001"),
        format!("under_score-{node}-1700000002"),
        format!("a space and a ü-{node}-1700000003"),
        "no-time-and-no-node".to_owned(),
        longest,
    ];
    for (number, name) in names.iter().enumerate() {
        let snapshot = snapshots::tiny(u64::try_from(number)?);
        site.place(name, &if name.ends_with(".zip") { snapshots::zipped("a", &snapshot)? } else { snapshot })?;
    }
    let mut operator = site.operator().start().await?;
    let wanted = expected(names.iter().map(|name| (name, "whole")));
    local_becomes(&mut operator, &site, &wanted).await?;
    is_well(&mut operator).await?;
    for record in site.local_records().await? {
        let location =
            format!("file://{}/{}", site.snapshots().display(), record.data["spec"]["snapshotName"].as_str().unwrap_or_default());
        ensure!(record.data["spec"]["location"] == location, "{record:?}");
    }

    // Names that no record can have: said, and in nobody's way.
    let before = states(&site.local_records().await?);
    let nameless: PathBuf = site.snapshots().join(std::ffi::OsStr::from_bytes(b"not-utf8-\xff-1700000000"));
    std::fs::write(&nameless, snapshots::tiny(1))?;
    falls_ill(&mut operator, "directory", "cannot be a snapshot's: it is not valid UTF-8").await?;
    ensure!(errors(&operator, "local").await? > 0);
    std::fs::remove_file(site.snapshots().join(&names[0]))?;
    let wanted = expected(names[1..].iter().map(|name| (name, "whole")));
    local_becomes(&mut operator, &site, &wanted).await?;
    ensure!(states(&site.local_records().await?).iter().all(|state| before.contains(state)), "the others are as they were");
    std::fs::remove_file(nameless)?;
    is_well(&mut operator).await?;
    Ok(())
}

#[tokio::test]
async fn whatever_a_node_is_called_its_records_are_valid() -> Result<()> {
    let unique = unique();
    let mut names = Vec::new();
    for node in
        [format!("node.with.dots-{unique}"), format!("UPPER-{unique}"), format!("{}-{unique}", "n".repeat(80)), format!("under_{unique}_")]
    {
        let site = Site::new().await?.called(&node);
        site.place(&site.name(1_700_000_000), &snapshots::tiny(0))?;
        let mut operator = site.operator().start().await?;
        local_becomes(&mut operator, &site, &expected([(site.name(1_700_000_000), "whole")])).await?;
        is_well(&mut operator).await?;
        let record = site.local_records().await?.pop().context("the record")?;
        let label = record.metadata.labels.as_ref().and_then(|labels| labels.get("etcd.k3s.cattle.io/snapshot-storage-node"));
        let is_as_named = label.is_some_and(|label| *label == node);
        ensure!(is_as_named == (node.len() <= 63 && node.ends_with(|c: char| c.is_ascii_alphanumeric())), "{node}: {label:?}");
        names.extend(record.metadata.name);
    }
    names.dedup();
    ensure!(names.len() == 4, "{names:?}");
    for (node, words) in [
        ("s3", "node-name: \"s3\" cannot be the name of a node: K3s marks the records of a bucket with that word (from flag --node-name)"),
        ("a/b", "node-name: \"a/b\" is not the name of a node"),
        ("..", "node-name: \"..\" is not the name of a node"),
    ] {
        let said = Site::new().await?.called(node).operator().refuse().await?;
        ensure!(said.contains(words) && said.lines().count() == 1, "{said}");
    }
    Ok(())
}

/// Writes on and on, a piece every now and then, until it is told to stop.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Result<(std::fs::File, Duration)>>,
}

impl Writer {
    fn start(path: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut file = std::fs::File::create(path)?;
            let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                file.write_all(&[1; 100])?;
                longest = longest.max(last.elapsed());
                last = Instant::now();
                // Long enough for everything there is to be read to its end, if somebody did.
                std::thread::sleep(Duration::from_millis(300));
            }
            Ok((file, longest))
        });
        Self { stop, thread }
    }

    /// The file, still open, and the longest time for which nothing was written.
    fn stop(self) -> Result<(std::fs::File, Duration)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?
    }
}

#[tokio::test]
async fn a_file_being_written_in_place_is_not_judged_before_it_is_closed_or_at_rest() -> Result<()> {
    let site = Site::new().await?;
    let (written, renamed) = (site.name(1_700_000_000), site.name(1_700_000_001));
    let mut operator = site.operator().start().await?;
    operator.ready().await?;
    let writer = Writer::start(site.snapshots().join(&written));
    // Wakes the directory's loop between beats, too.
    site.place(&renamed, &snapshots::tiny(1))?;
    local_becomes(&mut operator, &site, &expected([(&written, "not ready, unverified"), (&renamed, "whole")])).await?;
    operator.beats(4).await?;
    let judged = site.local_records().await?.iter().filter(|record| short(record) != "not ready, unverified").count();
    let started = value(&operator, "actions_total", &[("action", "verify"), ("outcome", "started")]).await?;
    let (mut file, longest) = writer.stop()?;
    // A machine that stood still for that long is no writer.
    let left_alone = judged == 1 && started == 1;
    ensure!(left_alone || longest >= Duration::from_millis(1500), "it was judged while it was being written");

    // At rest, although it is still open: what is there is judged.
    operator
        .until("what is there to be judged", async |_| {
            let found = shown(&site.local_records().await?)?;
            ensure!(found[&written].starts_with("not ready, damaged: "), "{found:?}");
            Ok(())
        })
        .await?;
    // Then it is written to its end after all.
    file.rewind()?;
    file.write_all(&snapshots::tiny(2))?;
    file.set_len(u64::try_from(snapshots::tiny(2).len())?)?;
    drop(file);
    local_becomes(&mut operator, &site, &expected([(&written, "whole"), (&renamed, "whole")])).await?;
    operator
        .until("both to be counted", async |operator| {
            ensure!(value(operator, "files", &[("storage", "local"), ("kind", "good")]).await? == 2);
            Ok(())
        })
        .await
}
