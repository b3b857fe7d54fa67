//! Verbs by hand that are interrupted: by a signal, by a terminal that goes, by a line that is cut, by a disk that is full. Nothing half
//! done is left, and the next run goes on.

use std::fs::File;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use e2e::hand::{Hand, Running};
use e2e::process::Signal;
use e2e::proxy::{Fault, FaultProxy, On};
use e2e::{ports, snapshots, wait};

use crate::cli_save::{save, saved};
use crate::common::SmallDisk;
use crate::invariants::{Left, invariants_by_hand};
use crate::save::Relay;
use crate::save::{address, fill, take_all_but};
use crate::schedule::{Saver, is_whole, names_in, temporaries};

const MIB: usize = 1 << 20;

/// A node whose member holds a few MiB.
async fn saver() -> Result<Saver> {
    let saver = Saver::new().await?;
    fill(&saver.etcd, 6).await?;
    Ok(saver)
}

/// A way to the member on which something happens when the first MiB of a snapshot has passed.
struct Way {
    relay: Relay,
    proxy: Arc<FaultProxy>,
}

impl Way {
    async fn new(saver: &Saver, then: impl Fn(&FaultProxy) + Send + Sync + 'static) -> Result<Self> {
        let proxy = Arc::new(FaultProxy::tcp(address(&saver.etcd)?)?);
        let (behind, passed) = (Arc::clone(&proxy), AtomicUsize::new(0));
        let spoil = move |data: &mut [u8]| {
            let before = passed.fetch_add(data.len(), Ordering::Relaxed);
            if before < MIB && before + data.len() >= MIB {
                then(&behind);
            }
            true
        };
        Ok(Self { relay: Relay::start(ports::loopback(proxy.port()), Arc::new(spoil)).await?, proxy })
    }

    fn save(&self, saver: &Saver) -> Result<Hand> {
        Ok(save(saver)?.flag("--etcd-endpoint", self.relay.endpoint()))
    }
}

/// Waits until a save is in the middle of its stream.
async fn streams(saver: &Saver) -> Result<()> {
    wait::until("a part of the snapshot", async || {
        let bytes = |name: &String| std::fs::metadata(saver.site.snapshots().join(name)).map_or(0, |metadata| metadata.len());
        ensure!(temporaries(&saver.site)?.iter().any(|name| bytes(name) > 500_000), "{:?}", temporaries(&saver.site)?);
        Ok(())
    })
    .await
}

async fn nothing_is_left(saver: &Saver) -> Result<()> {
    wait::until("nothing to be left", async || {
        ensure!(names_in(&saver.site.snapshots())?.is_empty() && temporaries(&saver.site)?.is_empty(), "{:?}", temporaries(&saver.site)?);
        Ok(())
    })
    .await
}

/// A snapshot has its name before its save has ended.
fn nobody_saves(saver: &Saver) -> Result<()> {
    for state in std::fs::read_dir(saver.site.snapshots().with_file_name(".metadata").join(".state"))? {
        File::open(state?.path().join("save.lock"))?.try_lock().context("the directory is held")?;
    }
    Ok(())
}

/// The next run saves, and an agent brings it to the bucket.
async fn one_is_saved(saver: &Saver) -> Result<()> {
    let name = saved(&save(saver)?.run().await?.with(0)?.out)?;
    is_whole(&saver.site.snapshots().join(&name))?;
    let one = slice::from_ref(&name);
    invariants_by_hand(saver, &Left::new(one, one)).await
}

#[tokio::test]
async fn a_save_that_is_interrupted_or_loses_its_terminal_leaves_nothing() -> Result<()> {
    let saver = saver().await?;
    for (signal, code) in [(Signal::HUP, 129), (Signal::INT, 130), (Signal::TERM, 143)] {
        let way = Way::new(&saver, FaultProxy::black_hole).await?;
        let running = way.save(&saver)?.start()?;
        streams(&saver).await?;
        running.signal(signal)?;
        let ended = running.ended().await?.with(code)?;
        ensure!(ended.out.is_empty(), "{}", ended.out);
        nothing_is_left(&saver).await?;
    }
    // Ctrl-C on a terminal, and a terminal that is closed.
    let way = Way::new(&saver, FaultProxy::black_hole).await?;
    let mut running = way.save(&saver)?.on_terminal(80).start()?;
    streams(&saver).await?;
    running.types("\x03").await?;
    running.ended().await?.with(130)?;
    nothing_is_left(&saver).await?;
    let way = Way::new(&saver, FaultProxy::black_hole).await?;
    let running = way.save(&saver)?.on_terminal(80).start()?;
    streams(&saver).await?;
    running.signal(Signal::KILL)?;
    nothing_is_left(&saver).await?;
    drop(running);
    // Nobody keeps the directory from the next one.
    one_is_saved(&saver).await
}

#[tokio::test]
async fn a_save_in_a_pod_does_not_stop_with_the_connection_and_none_does_that_was_told_so() -> Result<()> {
    let saver = saver().await?;
    let in_pod = |hand: Hand| hand.with_kubernetes(&saver.site).env("KUBERNETES_SERVICE_HOST", "192.0.2.1");
    let way = Way::new(&saver, FaultProxy::black_hole).await?;
    let running = in_pod(way.save(&saver)?).start()?;
    streams(&saver).await?;
    running.signal(Signal::HUP)?;
    way.proxy.restore();
    let first = saved(&running.ended().await?.with(0)?.out)?;
    is_whole(&saver.site.snapshots().join(&first))?;

    // As kubectl exec has it: the far end of the terminal goes, and nobody can be told anything any more.
    let way = Way::new(&saver, FaultProxy::black_hole).await?;
    let running = in_pod(way.save(&saver)?).on_terminal(80).start()?;
    streams(&saver).await?;
    running.signal(Signal::KILL)?;
    way.proxy.restore();
    let second = wait::until("the second snapshot", async || {
        let mut files = saver.files()?;
        files.retain(|name| *name != first);
        ensure!(files.len() == 1 && temporaries(&saver.site)?.is_empty(), "{files:?}");
        nobody_saves(&saver)?;
        Ok(files.remove(0))
    })
    .await?;
    is_whole(&saver.site.snapshots().join(&second))?;

    let way = Way::new(&saver, FaultProxy::black_hole).await?;
    let running = way.save(&saver)?.through(["nohup"]).start()?;
    streams(&saver).await?;
    running.signal(Signal::HUP)?;
    way.proxy.restore();
    is_whole(&saver.site.snapshots().join(saved(&running.ended().await?.with(0)?.out)?))?;
    let files = saver.files()?;
    invariants_by_hand(&saver, &Left::new(&files, &files)).await
}

#[tokio::test]
async fn a_line_that_is_cut_in_the_middle_of_a_save_is_one_failure_and_leaves_nothing() -> Result<()> {
    let saver = saver().await?;
    let way = Way::new(&saver, FaultProxy::cut).await?;
    let ended = way.save(&saver)?.run().await?.with(1)?.says("error: no snapshot is saved\n")?.says(&way.relay.endpoint())?;
    ensure!(ended.out.is_empty() && ended.err.matches("error: no").count() == 1 && !ended.err.contains("WARN"), "{}", ended.err);
    nothing_is_left(&saver).await?;
    one_is_saved(&saver).await
}

#[tokio::test]
async fn a_disk_that_gets_full_in_the_middle_of_a_save_is_one_failure_and_leaves_nothing() -> Result<()> {
    let saver = saver().await?;
    let small = SmallDisk::mount(saver.site.scratch().join("small"), "64m")?;
    let dir = small.0.join("snapshots");
    std::fs::create_dir(&dir)?;
    let path = dir.clone();
    let way = Way::new(&saver, move |_| take_all_but(&path, 0)).await?;
    let ended = way.save(&saver)?.flag("--dir", &dir).run().await?.with(1)?;
    let ended = ended.says("error: no snapshot is saved\n")?.says("was full after")?;
    ensure!(ended.out.is_empty() && ended.err.matches("error: ").count() == 1 && !ended.err.contains("WARN"), "{}", ended.err);
    ensure!(names_in(&dir)? == ["else"], "{:?}", names_in(&dir)?);
    std::fs::remove_file(dir.join("else"))?;
    let name = saved(&save(&saver)?.flag("--dir", &dir).run().await?.with(0)?.out)?;
    is_whole(&dir.join(name))
}

/// `delete` or `prune` on a terminal, at its question.
async fn at_the_question(saver: &Saver, verb: &str, arg: &str) -> Result<Running> {
    let hand = Hand::new(verb)?.on(&saver.site).flag("--etcd-endpoint", saver.etcd.endpoint()).arg(arg).on_terminal(80);
    let mut running = hand.start()?;
    running.shows("would be deleted").await?;
    running.shows("Delete? [y/N]").await?;
    Ok(running)
}

#[tokio::test]
async fn whoever_is_asked_can_say_no_in_every_way_and_then_nothing_goes() -> Result<()> {
    let saver = Saver::new().await?;
    let all: Vec<String> = (0..3).map(|number| saver.site.name(1_700_000_000 + number)).collect();
    for name in &all {
        snapshots::age(&saver.site.place(name, &snapshots::tiny(1))?, 86_400)?;
    }
    let delete = || at_the_question(&saver, "delete", &all[0]);
    for (keys, code) in [("\x03", 130), ("n\r", 0), ("\r", 0), ("\x04", 0)] {
        let mut running = delete().await?;
        running.types(keys).await?;
        let ended = running.ended().await?.with(code)?;
        ensure!(code == 130 || ended.out.contains("nothing is deleted"), "{keys:?} {}", ended.out);
        ensure!(saver.files()? == all, "{keys:?}");
    }
    // The terminal goes.
    let running = delete().await?;
    running.signal(Signal::KILL)?;
    drop(running);
    let mut running = delete().await?;
    ensure!(saver.files()? == all);
    running.types("y\r").await?;
    let ended = running.ended().await?.with(0)?;
    ensure!(ended.out.contains(&format!("Snapshot {} deleted.", all[0])) && saver.files()? == all[1..], "{}", ended.out);

    let hand = Hand::new("prune")?.on(&saver.site).flag("--etcd-endpoint", saver.etcd.endpoint());
    let mut running = hand.flag("--name", "etcd-snapshot").flag("--snapshot-retention", "1").on_terminal(80).start()?;
    running.shows("Delete? [y/N]").await?;
    running.types("\x03").await?;
    running.ended().await?.with(130)?;
    ensure!(saver.files()? == all[1..]);
    invariants_by_hand(&saver, &Left::new(&all[1..], &all[1..])).await
}

#[tokio::test]
async fn a_signal_between_two_deletions_ends_it_there_and_the_next_run_goes_on() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    let all: Vec<String> = (0..40).map(|number| site.name(1_700_000_000 + number)).collect();
    for name in &all {
        site.put_ours(name, snapshots::tiny(1)).await?;
        site.put_ours(&format!(".metadata/{name}"), "{}").await?;
    }
    let s3 = site.s3.proxied()?;
    let through = format!("http://{}", s3.endpoint());
    let mut hand = Hand::new("delete")?.on(site).with_bucket(site).with_kubernetes(site).flag("--s3-proxy", &through).arg("--yes");
    for name in &all {
        hand = hand.arg(name);
    }
    for signal in [Signal::INT, Signal::HUP] {
        let (before, keys) = (s3.count(&On::method("DELETE")), site.bucket.keys().await?.len());
        let held = s3.when(On::method("DELETE").skip(4), Fault::Hold);
        let running = hand.start()?;
        wait::until("some to be deleted", async || {
            ensure!(held.hits() > 0 && s3.count(&On::method("DELETE")) > before + 4, "not yet");
            Ok(())
        })
        .await?;
        running.signal(signal)?;
        // What was begun may end.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        held.release();
        let ended = running.ended().await?.with(if signal == Signal::INT { 130 } else { 129 })?;
        let left = site.bucket.keys().await?;
        ensure!(!left.is_empty() && left.len() < keys, "{} of {keys}", left.len());
        // What it says is gone is gone whole, and what is left is whole.
        for name in &all {
            let (object, sidecar) = (left.contains(&site.key(name)), left.contains(&site.key(&format!(".metadata/{name}"))));
            let said = ended.out.contains(&format!("Snapshot {name} deleted."));
            ensure!(object == sidecar && (!said || !object), "{name}: {object} {sidecar} {said}");
        }
        s3.clear();
    }
    let ended = hand.run().await?;
    ensure!(site.bucket.keys().await?.is_empty(), "{ended:?}");
    invariants_by_hand(&saver, &Left::default()).await
}
