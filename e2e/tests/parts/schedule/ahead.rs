//! A clock that ran ahead for one save, and is right again.

use std::time::{Duration, UNIX_EPOCH};

use e2e::hand::Hand;
use e2e::snapshots;

use super::*;
use crate::histories::Moment;
use crate::invariants::heard;
use crate::look::{annotation, is_well};

/// In 2031.
const AHEAD: i64 = 1_930_000_000;

#[tokio::test]
async fn what_is_saved_after_a_clock_ran_ahead_goes_up_and_stays_until_somebody_has_looked() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    let (ahead, bytes) = (site.name(AHEAD), snapshots::tiny(31));
    let moment = Moment::of(&saver.etcd).await?;
    moment.write_sidecar(site, &ahead, &bytes).await?;
    let path = site.place(&ahead, &bytes)?;
    std::fs::File::options().write(true).open(&path)?.set_modified(UNIX_EPOCH + Duration::from_secs(AHEAD.try_into()?))?;
    saver.etcd.etcdctl(["put", "key", "later"]).await?;

    let mut operator = saver.operator().start().await?;
    runs(&mut operator, "done").await?;
    let notes = heard(&mut operator, site, "ETCDSnapshotDatedAhead").await?;
    let how = format!("runs etcd-snapshot-operator delete {ahead}");
    ensure!(notes.iter().all(|note| note.contains(&how)), "{notes:?}");
    let new = saver.files()?.into_iter().find(|name| *name != ahead).context("nothing is saved")?;
    operator
        .until("what is new in the bucket", async |_| {
            site.bucket.get(&site.key(&new)).await?;
            Ok(())
        })
        .await?;
    let owner = async || -> Result<String> {
        let record = crate::common::local_record(site, &new).await?;
        ensure!(ready(&record), "{record:?}");
        Ok(annotation(&record, "owner").unwrap_or_default().to_owned())
    };
    ensure!(owner().await? == "doubtful", "{}", owner().await?);
    let said = operator.get("/readyz").await?.ok()?;
    ensure!(said.contains(&how), "{said}");
    ensure!(!complained_about(&operator).iter().any(|about| about.starts_with("another history")), "it is no restore");

    let delete = Hand::new("delete")?.arg(&ahead).on(site).with_bucket(site).with_kubernetes(site);
    delete.run().await?.with(0)?;
    ensure!(!path.exists());
    is_well(&mut operator).await?;
    operator
        .until("what is new to be ours", async |_| {
            ensure!(owner().await? == "ours");
            Ok(())
        })
        .await
}
