//! Saves on schedule on bad days: without a quorum, with an alarm, on a disk that gets full.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::boltdb::post;
use crate::common::{SmallDisk, complaints, said};
use crate::invariants::{heard, hears, told};
use crate::save::{Relay, take_all_but};

#[tokio::test]
async fn without_a_quorum_it_saves_tells_of_it_and_sends_nothing_up_until_there_is_one() -> Result<()> {
    let site = Site::new().await?;
    let mut cluster = Cluster::start(3, &[]).await?;
    cluster.etcdctl(&["put", "key", "value"]).await?;
    let mut operator = every(&site, &cluster.endpoint(0), "@every 3s").start().await?;
    runs(&mut operator, "done").await?;
    ensure!(told(&site).await?.iter().all(|(reason, ..)| reason != "ETCDSnapshotNoQuorum"), "there was one");
    for at in [1, 2] {
        cluster.kill(at);
    }
    let notes = heard(&mut operator, &site, "ETCDSnapshotNoQuorum").await?;
    let name = notes[0].strip_prefix("Snapshot ").and_then(|note| note.split_once(' ')).context("a name")?.0.to_owned();
    ensure!(notes[0].ends_with("is saved and does not count as good: its member had no quorum"), "{notes:?}");
    is_whole(&site.snapshots().join(&name))?;
    ensure!(sidecar(&site, &name)?[&format!("{PREFIX}quorum")] == "false");
    let good = operator.metrics().await?.get("etcd_snapshot_last_good_timestamp_seconds", &[("storage", "local")])?;
    runs(&mut operator, "done").await?;
    operator.beats(3).await?;
    let now = operator.metrics().await?.get("etcd_snapshot_last_good_timestamp_seconds", &[("storage", "local")])?;
    ensure!((now - good).abs() < 0.5, "what was saved without a quorum counts as the last good one: {good} {now}");

    for at in [1, 2] {
        cluster.launch(at, "existing")?;
    }
    let keys = later_goes_up(&mut operator, &site, &name).await?;
    ensure!(!keys.contains(&site.key(&name)), "what was saved without a quorum went up: {keys:?}");
    let record = crate::common::local_record(&site, &name).await?;
    ensure!(ready(&record), "it is whole, and can be restored: {record:?}");
    Ok(())
}

#[tokio::test]
async fn an_etcd_without_space_is_saved_as_ever_and_told_of_once() -> Result<()> {
    let site = Site::new().await?;
    let cluster = Cluster::start(1, &["--quota-backend-bytes", "3000000"]).await?;
    let address = e2e::ports::loopback(cluster.members[0].client);
    let mut operator = every(&site, &cluster.endpoint(0), "@every 3s").start().await?;
    runs(&mut operator, "done").await?;
    let put = json!({ "key": "key", "value": "abcd".repeat(200_000) });
    let refused = async || loop {
        if let Err(error) = post(address, "kv/put", &put).await {
            return error;
        }
    };
    let error = format!("{:#}", refused().await);
    ensure!(error.contains("space"), "{error}");

    let notes = hears(&mut operator, &site, "ETCDSnapshotAlarm", 1).await?;
    for word in ["NOSPACE", "--quota-backend-bytes", "etcdctl alarm disarm"] {
        ensure!(notes[0].contains(word), "{word} in {notes:?}");
    }
    let about = |operator: &Operator, level: &str| said(operator, &[level], r#""about":"the alarms of etcd""#).len();
    ensure!(about(&operator, "WARN") == 1);
    runs(&mut operator, "done").await?;
    let newest = snapshots_in(&site.snapshots())?.pop().context("none")?;
    ensure!(sidecar(&site, &newest)?[&format!("{PREFIX}alarms")] == "NOSPACE");
    // It is a good one: it goes up.
    operator
        .until("it in the bucket", async |_| {
            site.bucket.get(&site.key(&newest)).await?;
            Ok(())
        })
        .await?;
    hears(&mut operator, &site, "ETCDSnapshotAlarm", 1).await?;
    ensure!(told(&site).await?.iter().all(|(reason, ..)| reason != "ETCDSnapshotNoQuorum"), "it is good");

    cluster.etcdctl(&["alarm", "disarm"]).await?;
    operator
        .until("the log to say that the alarm has ended", async |operator| {
            ensure!(about(operator, "INFO") == 1, "not a word of it");
            Ok(())
        })
        .await?;
    // And once more, when it begins anew.
    refused().await;
    hears(&mut operator, &site, "ETCDSnapshotAlarm", 2).await?;
    Ok(())
}

/// Waits for the Event that says on the Node that nothing can be saved.
async fn hears_on_node(operator: &mut Operator, site: &Site) -> Result<String> {
    operator
        .until("an Event on the Node", async |_| {
            let all = told(site).await?;
            let is_it = |(reason, about, _): &&(String, String, String)| reason == "ETCDSnapshotFailed" && *about == site.node;
            Ok(all.iter().find(is_it).with_context(|| format!("{all:#?}"))?.2.clone())
        })
        .await
}

#[tokio::test]
async fn a_disk_that_gets_full_in_the_middle_of_a_save_is_one_failure_and_the_next_one_saves() -> Result<()> {
    let saver = Saver::new().await?;
    crate::save::fill(&saver.etcd, 4).await?;
    let disk = SmallDisk::mount(saver.site.scratch().join("small"), "256m,mode=0700")?;
    let dir = disk.0.join("snapshots");
    // After so many bytes of etcd's answers all that is left of the disk is taken.
    let (rest, taken) = (Arc::new(AtomicUsize::new(usize::MAX)), Arc::new(AtomicBool::new(false)));
    let (left, done, small) = (Arc::clone(&rest), Arc::clone(&taken), disk.0.clone());
    let relay = Relay::start(
        saver.etcd.endpoint().trim_start_matches("http://").parse()?,
        Arc::new(move |data| {
            let before = left.load(Ordering::Relaxed);
            left.store(before.saturating_sub(data.len()), Ordering::Relaxed);
            if before < data.len() && !done.swap(true, Ordering::Relaxed) {
                take_all_but(&small, 0);
            }
            true
        }),
    )
    .await?;
    let mut operator = every(&saver.site, &relay.endpoint(), "@every 3s").flag("--etcd-snapshot-dir", &dir).start().await?;
    runs(&mut operator, "done").await?;
    rest.store(2 << 20, Ordering::Relaxed);
    runs(&mut operator, "failed").await?;
    ensure!(taken.load(Ordering::Relaxed), "it failed of something else");
    let failed = operator
        .until("a record of the failure", async |_| {
            // Later attempts find too little space, and may have records already.
            let why = |record: &kube::api::DynamicObject| record.data["status"]["error"]["message"].to_string();
            let records = saver.site.local_records().await?;
            let whys: Vec<String> = records.iter().map(why).collect();
            records.into_iter().find(|record| why(record).contains("was full after")).with_context(|| format!("{whys:?}"))
        })
        .await?;
    let files = names_in(&dir)?;
    ensure!(!files.iter().any(|name| name.starts_with('.')) && !files.iter().any(|name| name == file(&failed)), "{files:?}");

    // While nothing at all can be written, not even that a save is tried, nothing is saved; and that is said.
    operator
        .until("the log to complain of a full disk", async |operator| {
            // A file that is replaced leaves its old place free.
            take_all_but(&disk.0, 0);
            ensure!(!complaints(operator, "noting attempts of the schedule in the state").is_empty(), "not a word of it");
            Ok(())
        })
        .await?;
    let notes = hears_on_node(&mut operator, &saver.site).await?;
    ensure!(notes.contains("schedule.json"), "{notes}");
    let ill = async |operator: &Operator| -> Result<String> { operator.get("/readyz").await?.ok() };
    operator
        .until("readyz to say it", async |operator| {
            let said = ill(operator).await?;
            ensure!(said.contains("schedule.json"), "{said}");
            Ok(())
        })
        .await?;
    std::fs::remove_file(disk.0.join("else"))?;
    runs(&mut operator, "done").await?;
    operator
        .until("nothing to be said of saves any more", async |operator| {
            ensure!(counted(operator, "etcd_snapshot_consecutive_failures", &[]).await? < 0.5);
            let said = ill(operator).await?;
            ensure!(!said.contains("saving snapshots"), "{said}");
            Ok(())
        })
        .await?;
    for name in snapshots_in(&dir)? {
        is_whole(&dir.join(name))?;
    }
    Ok(())
}
