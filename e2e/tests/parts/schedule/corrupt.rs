//! Saves on schedule from an etcd that has the alarm CORRUPT.

use super::*;
use crate::boltdb::post;
use crate::invariants::{heard, told};

#[tokio::test]
async fn with_the_alarm_corrupt_it_saves_and_tells_of_it_and_nothing_is_good_or_goes_up_until_it_has_ended() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    let address = saver.etcd.endpoint().trim_start_matches("http://").parse()?;
    let member = post(address, "maintenance/status", &json!({})).await?["header"]["member_id"].clone();
    let mut operator = saver.operator().start().await?;
    runs(&mut operator, "done").await?;
    ensure!(told(site).await?.iter().all(|(reason, ..)| reason != "ETCDSnapshotNoQuorum"), "there was no alarm");
    post(address, "maintenance/alarm", &json!({ "action": "ACTIVATE", "memberID": member, "alarm": "CORRUPT" })).await?;
    let notes = heard(&mut operator, site, "ETCDSnapshotNoQuorum").await?;
    let name = notes[0].strip_prefix("Snapshot ").and_then(|note| note.split_once(' ')).context("a name")?.0.to_owned();
    ensure!(notes[0].ends_with("is saved and does not count as good: etcd had the alarms CORRUPT"), "{notes:?}");
    is_whole(&site.snapshots().join(&name))?;
    let alarms = |name: &str| Ok::<_, anyhow::Error>(sidecar(site, name)?[&format!("{PREFIX}alarms")].clone());
    ensure!(alarms(&name)? == "CORRUPT");
    let record = operator
        .until("its record", async |_| {
            let record = crate::common::local_record(site, &name).await?;
            ensure!(ready(&record), "it is whole, and can be restored: {record:?}");
            Ok(record)
        })
        .await?;
    let manifest: BTreeMap<String, String> = serde_json::from_str(annotation(&record, "manifest").context("no manifest")?)?;
    ensure!(manifest["alarms"] == "CORRUPT" && manifest["quorum"] == "true", "{manifest:?}");

    // However many follow, the newest good one is the last from before.
    for _ in 0..2 {
        runs(&mut operator, "done").await?;
    }
    let mut good = None;
    for name in saver.files()? {
        if alarms(&name)?.is_empty() {
            good = Some(name);
        }
    }
    rises(&mut operator, "etcd_snapshot_files", &[("storage", "local"), ("kind", "whole")], 1.5).await?;
    newest_good(&mut operator, "local", taken(&good.context("none was saved before")?)?).await?;

    saver.etcd.etcdctl(["alarm", "disarm"]).await?;
    let keys = later_goes_up(&mut operator, site, &name).await?;
    for name in saver.files()? {
        ensure!(alarms(&name)?.is_empty() || !keys.contains(&site.key(&name)), "{name} was saved with the alarm, and went up");
    }
    Ok(())
}
