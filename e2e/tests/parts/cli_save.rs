//! `save` by hand: alone, beside an agent, and on bad days.

use std::slice;

use anyhow::{Context as _, Result, ensure};
use e2e::hand::Hand;
use e2e::process::Signal;
use e2e::proxy::{Fault, On};
use e2e::wait;

use crate::common::{SmallDisk, all_ready, file, ready};
use crate::invariants::{Left, invariants, invariants_by_hand};
use crate::schedule::{Saver, is_whole, names_in, sidecar, temporaries};

/// `save` from this member into this directory, without a bucket and without an API server.
pub fn save(saver: &Saver) -> Result<Hand> {
    Ok(Hand::new("save")?.on(&saver.site).flag("--etcd-endpoint", saver.etcd.endpoint()))
}

/// The snapshot that a run says it has saved.
pub fn saved(out: &str) -> Result<String> {
    let line = out.lines().next().unwrap_or_default();
    let name = line.strip_prefix("Snapshot ").and_then(|line| line.strip_suffix(" saved."));
    Ok(name.with_context(|| format!("nothing is saved: {out}"))?.to_owned())
}

#[tokio::test]
async fn a_snapshot_by_hand_beside_an_agent_is_recorded_and_goes_up_once() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    let s3 = site.s3.proxied()?;
    let through = format!("http://{}", s3.endpoint());
    let setup = site.operator().flag("--etcd-endpoint", saver.etcd.endpoint());
    let mut operator = setup.start().await?;
    operator.ready().await?;
    let hand = save(&saver)?.with_bucket(site).with_kubernetes(site).flag("--s3-proxy", &through).flag("--name", "ALIVEBEEF");
    let ended = hand.run().await?.with(0)?;
    let name = saved(&ended.out)?;
    ensure!(name.starts_with(&format!("ALIVEBEEF-{}-", site.node)), "{name}");
    ensure!(ended.out.contains(&format!("Snapshot {name} uploaded.")), "{}", ended.out);
    let path = site.snapshots().join(&name);
    is_whole(&path)?;
    let bytes = std::fs::metadata(&path)?.len();
    ensure!(ended.value("  size")?.starts_with(&bytes.to_string()) && ended.value("  keys")? == "1", "{}", ended.out);
    ensure!(ended.value("  revision")? == saver.etcd.revision().await?.to_string(), "{}", ended.out);
    ensure!(sidecar(site, &name)?.contains_key("etcd-snapshot-operator.dev/cluster-id"));
    all_ready(&mut operator, site, slice::from_ref(&name), &[]).await?;
    let puts = s3.requests().iter().filter(|seen| seen.method == "PUT" && seen.path.ends_with(&name)).count();
    ensure!(puts == 2, "the snapshot and its sidecar, each once, and not {puts}: {:?}", s3.requests());
    ensure!(site.bucket.get(&site.key(&name)).await? == std::fs::read(&path)?);
    let one = slice::from_ref(&name);
    invariants(operator, &setup, site, &Left::new(one, one)).await
}

#[tokio::test]
async fn without_an_api_server_a_snapshot_is_saved_and_goes_up_where_the_cluster_is_known() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    let name = saved(&save(&saver)?.run().await?.with(0)?.out)?;
    is_whole(&site.snapshots().join(&name))?;
    ensure!(name.starts_with(&format!("on-demand-{}-", site.node)));
    // Nobody knows whose objects they would be: it is saved all the same.
    let partly = save(&saver)?.with_bucket(site).run().await?.with(3)?;
    is_whole(&site.snapshots().join(saved(&partly.out)?))?;
    ensure!(partly.err.contains("kube-system"), "{}", partly.err);
    ensure!(site.bucket.keys().await?.is_empty());
    // An agent has remembered it.
    let mut operator = saver.idle().flag("--mode", "observe").start().await?;
    operator.ready().await?;
    operator.beats(2).await?;
    operator.stop().await;
    let name = saved(&save(&saver)?.with_bucket(site).arg("--snapshot-compress").run().await?.with(0)?.out)?;
    ensure!(name.ends_with(".zip"), "{name}");
    ensure!(site.bucket.keys().await? == [site.key(&format!(".metadata/{name}")), site.key(&name)], "{:?}", site.bucket.keys().await?);
    // An agent brings there what was saved for it.
    let files = saver.files()?;
    invariants_by_hand(&saver, &Left::new(&files, &files)).await
}

#[tokio::test]
async fn what_a_save_lacks_is_said_and_leaves_nothing() -> Result<()> {
    let mut saver = Saver::new().await?;
    save(&saver)?.flag("--name", "a/b").run().await?.with(2)?.says("--name")?;
    save(&saver)?.flag("--etcd-endpoint", "nonsense://x").run().await?.with(2)?;
    saver.etcd.kill();
    let ended = save(&saver)?.run().await?.with(1)?.says("no snapshot is saved")?;
    ensure!(ended.err.contains(&saver.etcd.endpoint()) && ended.out.is_empty(), "{}", ended.err);
    ensure!(saver.files()?.is_empty() && temporaries(&saver.site)?.is_empty());
    // The agent, when it comes, shows what failed.
    let setup = saver.idle();
    let mut operator = setup.start().await?;
    operator
        .until("a record of the failure", async |_| {
            let records = saver.site.local_records().await?;
            let failed = records.iter().find(|record| file(record).starts_with("on-demand-"));
            ensure!(failed.context("none")?.data["status"]["error"]["message"].is_string());
            Ok(())
        })
        .await?;
    saver.etcd.launch().await?;
    let name = saved(&save(&saver)?.run().await?.with(0)?.out)?;
    operator
        .until("a record of the snapshot", async |_| {
            let records = saver.site.local_records().await?;
            ensure!(records.iter().any(|record| file(record) == name && ready(record)), "none");
            Ok(())
        })
        .await?;
    let one = slice::from_ref(&name);
    invariants(operator, &setup, &saver.site, &Left::new(one, one)).await
}

#[tokio::test]
async fn a_bucket_that_is_away_leaves_the_snapshot_saved_and_the_agent_brings_it_there() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    let s3 = site.s3.proxied()?;
    s3.when(On::writes(), Fault::s3(403, "AccessDenied"));
    let hand = save(&saver)?.with_kubernetes(site).with_bucket(site).flag("--s3-proxy", format!("http://{}", s3.endpoint()));
    let ended = hand.run().await?.with(3)?.says("is not uploaded")?;
    let refused = saved(&ended.out)?;
    is_whole(&site.snapshots().join(&refused))?;
    s3.cut();
    let ended = hand.run().await?.with(3)?;
    let unreached = saved(&ended.out)?;
    is_whole(&site.snapshots().join(&unreached))?;
    ensure!(site.bucket.keys().await?.is_empty(), "{:?}", site.bucket.keys().await?);
    let setup = saver.idle().flag("--etcd-snapshot-name", "on-demand");
    let mut operator = setup.start().await?;
    let both = [refused, unreached];
    all_ready(&mut operator, site, &both, &both).await?;
    invariants(operator, &setup, site, &Left::new(&both, &both)).await
}

#[tokio::test]
async fn of_two_at_once_one_is_refused_and_an_interrupted_one_leaves_nothing() -> Result<()> {
    let mut saver = Saver::new().await?;
    let state = saver.site.snapshots().with_file_name(".metadata").join(".state");
    let lock = || anyhow::Ok(std::fs::read_dir(&state)?.next().context("no state")??.path().join("save.lock"));
    let has_the_directory = async |process: u32| {
        wait::until("it to have the directory", async || {
            let held = std::fs::read_to_string(lock()?)?;
            ensure!(held.split(|c: char| !c.is_ascii_digit()).any(|number| number == process.to_string()), "{held:?}");
            Ok(())
        })
        .await
    };
    saver.etcd.pause()?;
    let first = save(&saver)?.start()?;
    has_the_directory(first.id()?).await?;
    save(&saver)?.run().await?.with(4)?.says("no snapshot is saved")?;
    saver.etcd.resume()?;
    let name = saved(&first.ended().await?.with(0)?.out)?;
    ensure!(saver.files()? == slice::from_ref(&name));

    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        saver.etcd.pause()?;
        let running = save(&saver)?.start()?;
        has_the_directory(running.id()?).await?;
        running.signal(signal)?;
        running.ended().await?.with(code)?;
        saver.etcd.resume()?;
        ensure!(saver.files()? == slice::from_ref(&name) && temporaries(&saver.site)?.is_empty());
    }
    // Nobody reads the result: it is saved all the same.
    save(&saver)?.run_unread().await?.with(0)?;
    let files = saver.files()?;
    ensure!(files.len() == 2);
    invariants_by_hand(&saver, &Left::new(&files, &files)).await
}

#[tokio::test]
async fn a_disk_that_is_full_is_said_with_what_would_help() -> Result<()> {
    let saver = Saver::new().await?;
    let small = SmallDisk::mount(saver.site.scratch().join("small"), "512k")?;
    let dir = small.0.join("snapshots");
    let hand = Hand::new("save")?.flag("--node-name", &saver.site.node).flag("--dir", &dir).flag("--etcd-endpoint", saver.etcd.endpoint());
    hand.run().await?.with(1)?.says("etcd-snapshot-retention")?;
    ensure!(names_in(&dir)?.is_empty(), "{:?}", names_in(&dir)?);
    Ok(())
}
