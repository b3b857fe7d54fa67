//! Whatever can go wrong on the way: in the stream, on the disk, with the name, with others who save.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::bail;
use e2e::process::Launch;
use e2e::proxy::FaultProxy;
use e2e::wait;
use etcd_snapshot_operator::etcd::EtcdError;
use etcd_snapshot_operator::save::Compressed;

use super::relay::{Relay, Spoil};
use super::*;
use crate::common::SmallDisk;

const MIB: u64 = 1 << 20;

async fn failed(save: Save<'_>) -> Result<SaveError> {
    match save.run().await {
        Ok(saved) => bail!("it was saved: {saved:?}"),
        Err(error) => Ok(error),
    }
}

#[tokio::test]
async fn a_stream_that_is_cut_or_stalls_leaves_nothing() -> Result<()> {
    let place = Place::new()?;
    let etcd = Etcd::start().await?;
    fill(&etcd, 6).await?;
    let proxy = Arc::new(FaultProxy::tcp(address(&etcd)?)?);
    let member = member(&format!("http://{}", proxy.endpoint()), |_| ())?;
    let directory = place.open()?;
    let when = |fault: fn(&FaultProxy)| {
        let proxy = Arc::clone(&proxy);
        move |step, progress| {
            if step == Step::Stream && matches!(progress, Progress::Bytes(bytes) if bytes > MIB) {
                fault(&proxy);
            }
        }
    };
    let error = failed(Save::of(&member, &directory).at(when(FaultProxy::cut))).await?;
    ensure!(matches!(error, SaveError::Stream(EtcdError::Lost { .. })) && error.category() == "connection", "{error:?}");
    place.is_empty()?;
    proxy.restore();
    let stalling = Save { stall: Duration::from_secs(1), ..Save::of(&member, &directory).at(when(FaultProxy::black_hole)) };
    let error = failed(stalling).await?;
    ensure!(error.to_string().contains("stalled: nothing came for 1 s, after ") && error.step() == Some(Step::Stream), "{error:?}");
    place.is_empty()?;
    proxy.restore();
    ensure!(Save::of(&member, &directory).run().await?.is_good(), "the same member, afterwards");
    Ok(())
}

#[tokio::test]
async fn a_stream_that_is_changed_or_lacks_something_leaves_nothing() -> Result<()> {
    let place = Place::new()?;
    let etcd = Etcd::start().await?;
    etcd.etcdctl(["put", "key", &"Q".repeat(50_000)]).await?;
    let (seen, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let once = |done: &Arc<AtomicBool>| !done.swap(true, Ordering::Relaxed);
    let flip: Arc<Spoil> = {
        let done = Arc::clone(&done);
        Arc::new(move |data| {
            let value = data.windows(100).position(|bytes| bytes.iter().all(|byte| *byte == b'Q'));
            if let Some(at) = value.filter(|_| once(&done)) {
                data[at + 50] ^= 1;
            }
            true
        })
    };
    // After many bytes, a frame that is one short message is that of the checksum.
    let is_short_message =
        |data: &[u8]| data.len() < 200 && data.starts_with(&[0; 4]) && data.get(4).map(|rest| usize::from(*rest) + 5) == Some(data.len());
    let without_trailer: Arc<Spoil> = {
        let (seen, done) = (Arc::clone(&seen), Arc::clone(&done));
        Arc::new(move |data| seen.fetch_add(data.len(), Ordering::Relaxed) < 20_000 || !is_short_message(data) || !once(&done))
    };
    let without_a_frame: Arc<Spoil> = {
        let (seen, done) = (Arc::clone(&seen), Arc::clone(&done));
        Arc::new(move |data| seen.fetch_add(data.len(), Ordering::Relaxed) < 20_000 || !once(&done))
    };
    let directory = place.open()?;
    for (what, spoil) in [("flip", flip), ("trailer", without_trailer), ("frame", without_a_frame)] {
        seen.store(0, Ordering::Relaxed);
        done.store(false, Ordering::Relaxed);
        let relay = Relay::start(address(&etcd)?, spoil).await?;
        let member = member(&relay.endpoint(), |_| ())?;
        let error = failed(Save::of(&member, &directory)).await?;
        ensure!(done.load(Ordering::Relaxed), "{what}: nothing was spoiled");
        match what {
            "flip" => ensure!(matches!(error, SaveError::Trailer { .. }) && error.category() == "trailer", "{error:?}"),
            "trailer" => ensure!(error.to_string().contains("ended without its checksum"), "{error:?}"),
            _ => ensure!(matches!(error, SaveError::Stream(_)), "{error:?}"),
        }
        place.is_empty()?;
    }
    Ok(())
}

/// Takes all the room but so many bytes, besides what it took before.
pub fn take_all_but(path: &Path, rest: u64) {
    let file = std::fs::File::options().create(true).append(true).open(path.join("else")).unwrap();
    let take = || {
        let stat = rustix::fs::statvfs(path)?;
        let (taken, free) = (rustix::fs::fstat(&file)?.st_size, (stat.f_bavail * stat.f_frsize).saturating_sub(rest));
        if free == 0 { Ok(()) } else { rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), taken.cast_unsigned(), free) }
    };
    // Somebody may be writing meanwhile.
    while take() == Err(rustix::io::Errno::NOSPC) {}
}

#[tokio::test]
async fn a_disk_that_is_too_small_or_gets_full_is_one_clear_failure_and_nothing_is_left() -> Result<()> {
    let place = Place::new()?;
    let etcd = Etcd::start().await?;
    fill(&etcd, 8).await?;
    let disk = SmallDisk::mount(place.path(), "64m,mode=0700")?;
    let (source, directory) = (at(&etcd)?, place.open()?);
    let size = source.status().await?.db_size;

    take_all_but(&disk.0, size / 2);
    let error = failed(Save::of(&source, &directory)).await?;
    let SaveError::NoRoom { free, needed, .. } = &error else { bail!("{error:?}") };
    ensure!(*free <= size / 2 && *needed > size && error.category() == "full", "{error:?}");
    ensure!(error.to_string().contains("etcd-snapshot-retention"), "{error}");
    ensure!(place.files()? == ["else"]);
    std::fs::remove_file(disk.0.join("else"))?;

    // Full in the middle: at the first MiB all that is left is taken.
    let path = disk.0.clone();
    let taken = AtomicBool::new(false);
    let filling = Save::of(&source, &directory).at(move |step, progress| {
        if step == Step::Stream && matches!(progress, Progress::Bytes(_)) && !taken.swap(true, Ordering::Relaxed) {
            take_all_but(&path, 0);
        }
    });
    let error = failed(filling).await?;
    let SaveError::Full { written, .. } = &error else { bail!("{error:?}") };
    ensure!(*written < size && error.to_string().contains("was full after"), "{error}");
    ensure!(place.files()? == ["else"] && place.sidecars()?.is_empty());
    std::fs::remove_file(disk.0.join("else"))?;

    // Room for the snapshot alone, at the start or in the end: it is saved as it is.
    take_all_but(&disk.0, size + size / 2 + MIB);
    let saved = Save::of(&source, &directory).zip().run().await?;
    let Compressed::Failed(why) = &saved.compressed else { bail!("{saved:?}") };
    ensure!(why.category == "full" && !saved.file.is_compressed() && saved.manifest.rest["compression"] == "none", "{saved:?}");
    ensure!(place.files()? == ["else", saved.file.as_str()], "{:?}", place.files()?);
    std::fs::remove_file(disk.0.join("else"))?;
    let path = disk.0.clone();
    let filling = Save::of(&source, &directory).zip().at(move |step, progress| {
        if (step, progress) == (Step::Compress, Progress::Begun) {
            take_all_but(&path, MIB);
        }
    });
    let second = filling.run().await?;
    let Compressed::Failed(why) = &second.compressed else { bail!("{second:?}") };
    ensure!(why.category == "full" && why.message.contains("full") && second.is_good(), "{second:?}");
    let mut there = vec!["else".to_owned(), saved.file.to_string(), second.file.to_string()];
    there.sort();
    ensure!(place.files()? == there, "{:?}", place.files()?);
    drop(disk);
    Ok(())
}

#[tokio::test]
async fn saves_of_one_second_and_a_name_that_is_taken_get_names_of_their_own() -> Result<()> {
    let place = Place::new()?;
    let etcd = Etcd::start().await?;
    let (source, directory) = (at(&etcd)?, place.open()?);
    let now = || Timestamp::from_second(1_752_319_253).unwrap();
    std::fs::write(place.path().join(format!("etcd-snapshot-{NODE}-1752319253.zip")), "K3s's")?;
    for compress in [false, true, false] {
        Save { compress, now, ..Save::of(&source, &directory) }.run().await?;
    }
    let names = ["53.zip", "54", "55.zip", "56"].map(|end| format!("etcd-snapshot-{NODE}-17523192{end}"));
    ensure!(place.files()? == names, "{:?}", place.files()?);
    ensure!(std::fs::read(place.path().join(&names[0]))? == b"K3s's" && place.sidecars()? == names[1..]);

    // One that appears at the last moment.
    let path = place.path().join(format!("etcd-snapshot-{NODE}-1752319257"));
    let theirs = path.clone();
    let late = Save { now, ..Save::of(&source, &directory) }.at(move |step, progress| {
        if (step, progress) == (Step::Rename, Progress::Begun) {
            std::fs::write(&theirs, "K3s's").unwrap();
        }
    });
    ensure!(late.run().await?.file.as_str().ends_with("58"));
    ensure!(std::fs::read(path)? == b"K3s's");
    Ok(())
}

#[tokio::test]
async fn one_save_at_a_time_in_a_directory_whoever_asks() -> Result<()> {
    let place = Place::new()?;
    let etcd = Etcd::start().await?;
    fill(&etcd, 4).await?;
    let proxy = Arc::new(FaultProxy::tcp(address(&etcd)?)?);
    let slow = member(&format!("http://{}", proxy.endpoint()), |_| ())?;
    let (source, directory) = (at(&etcd)?, place.open()?);
    let (held, once) = (Arc::clone(&proxy), AtomicBool::new(false));
    let first = Save::of(&slow, &directory).at(move |step, progress| {
        if step == Step::Stream && matches!(progress, Progress::Bytes(_)) && !once.swap(true, Ordering::Relaxed) {
            held.black_hole();
        }
    });
    let others = async {
        wait::until("the first one to stream", async || if place.files()?.is_empty() { bail!("not yet") } else { Ok(()) }).await?;
        for directory in [directory.clone(), place.open()?] {
            let error = failed(Save::of(&source, &directory)).await?;
            ensure!(matches!(&error, SaveError::Busy { since: Some(_), .. }) && error.is_skip(), "{error:?}");
            ensure!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        }
        // Of another process.
        let mut saver = saver(&etcd, &place, "raw")?.start()?;
        ensure!(!saver.wait().await?.success() && saver.log().contains("another save is at work"), "{}", saver.log());
        ensure!(place.files()?.len() == 1, "only what the first one writes: {:?}", place.files()?);
        proxy.restore();
        Ok(())
    };
    let (first, others) = tokio::join!(first.run(), others);
    others?;
    let first = first?;
    let mut saver = saver(&etcd, &place, "zip")?.start()?;
    ensure!(saver.wait().await?.success(), "{}", saver.log());
    ensure!(place.files()?.len() == 2 && place.files()?.contains(&first.file.to_string()));
    Ok(())
}

#[tokio::test]
async fn a_stop_ends_a_stream_with_nothing_left_and_a_compression_with_the_snapshot_as_it_is() -> Result<()> {
    let place = Place::new()?;
    let etcd = Etcd::start().await?;
    fill(&etcd, 4).await?;
    let (source, directory) = (at(&etcd)?, place.open()?);
    let stopping = |at: Step| {
        let stop = CancellationToken::new();
        let save = Save { stop: stop.clone(), ..Save::of(&source, &directory).zip() };
        save.at(move |step, _| {
            if step == at {
                stop.cancel();
            }
        })
    };
    for step in [Step::Status, Step::Stream, Step::Inspect] {
        let error = failed(stopping(step)).await?;
        ensure!(matches!(error, SaveError::Stopped), "{step}: {error:?}");
        place.is_empty()?;
    }
    let saved = stopping(Step::Compress).run().await?;
    let Compressed::Failed(why) = &saved.compressed else { bail!("{saved:?}") };
    ensure!(why.category == "stopped" && place.files()? == [saved.file.as_str()] && saved.is_good(), "{saved:?}");
    Ok(())
}

#[tokio::test]
async fn memory_does_not_grow_with_the_size_of_values() -> Result<()> {
    let place = Place::new()?;
    let etcd = Etcd::start().await?;
    fill(&etcd, 100).await?;
    for how in ["raw", "zip"] {
        let mut saver = saver(&etcd, &place, how)?.start()?;
        ensure!(saver.wait().await?.success(), "{}", saver.log());
        let log = saver.log();
        let peak: u64 = log.lines().find_map(|line| line.strip_prefix("peak ")).context("a peak")?.parse()?;
        ensure!(peak < 64 * 1024, "{how}: {peak} KiB");
    }
    ensure!(place.files()?.iter().all(|name| std::fs::metadata(place.path().join(name)).is_ok_and(|file| file.len() > 50 * MIB)));
    Ok(())
}

/// One save in a process of its own.
pub fn saver(etcd: &Etcd, place: &Place, how: &str) -> Result<Launch> {
    let launch = Launch::new("saver", tools::beside("saver")?, place.0.path());
    Ok(launch.arg(etcd.endpoint()).arg(place.path()).arg(NODE).arg(how))
}
