//! What is known of saves after a restart, before there is another one.

use crate::uploads::backlog;

use super::*;

#[tokio::test]
async fn after_a_restart_the_last_success_and_the_last_good_one_are_shown_before_anything_is_saved() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    let mut operator = saver.operator().start().await?;
    for _ in 0..2 {
        runs(&mut operator, "done").await?;
    }
    ensure!(operator.terminate().await?.success());
    let name = saver.files()?.pop().context("none")?;
    let newest = taken(&name)?;

    // One that saves nothing any more brings up what has not gone up yet.
    let setup = site.operator_with_bucket().flag("--etcd-endpoint", saver.etcd.endpoint());
    let mut operator = setup.start().await?;
    for storage in ["local", "s3"] {
        newest_good(&mut operator, storage, newest).await?;
    }
    backlog(&mut operator, 0.0, 0.0).await?;
    operator
        .until("it to be known as uploaded", async |_| {
            let record = crate::common::local_record(site, &name).await?;
            ensure!(annotation(&record, "upload").is_some_and(|told| told.contains(r#""phase":"done""#)), "{record:?}");
            Ok(())
        })
        .await?;
    ensure!(operator.terminate().await?.success());

    let mut operator = setup.start().await?;
    for storage in ["local", "s3"] {
        newest_good(&mut operator, storage, newest).await?;
    }
    operator
        .until("the last success of each to be that of the newest snapshot", async |operator| {
            let metrics = operator.metrics().await?;
            for operation in ["save", "save_local", "save_s3"] {
                let last = metrics.get("etcd_snapshot_last_success_timestamp_seconds", &[("operation", operation)])?;
                ensure!((last - newest).abs() < 0.5, "{operation}: {last} instead of {newest}");
            }
            Ok(())
        })
        .await?;
    operator.beats(2).await?;
    for operation in ["save", "save_local", "save_s3"] {
        let ended = counted(&operator, &format!("etcd_snapshot_{operation}_duration_seconds_count"), &[]).await?;
        ensure!(ended < 0.5, "{operation}: this process has done it itself");
    }
    Ok(())
}
