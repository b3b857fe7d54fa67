//! The API server is away: saves and uploads go on, also after a restart, and are recorded when it is back.

use super::*;

/// Waits until a snapshot that was begun from now on is in the bucket, and no save or upload has failed.
async fn another_goes_up(operator: &mut Operator, saver: &Saver) -> Result<String> {
    // What was under way may have begun before.
    for _ in 0..2 {
        runs(operator, "done").await?;
    }
    let newest = saver.files()?.pop().context("none")?;
    operator
        .until("a snapshot from this time in the bucket", async |_| {
            saver.site.bucket.get(&saver.site.key(&newest)).await?;
            saver.site.bucket.get(&saver.site.key(&format!(".metadata/{newest}"))).await?;
            Ok(())
        })
        .await?;
    runs(operator, "done").await?;
    ensure!(counted(operator, RUNS, &[("outcome", "failed")]).await? < 0.5);
    ensure!(counted(operator, "etcd_snapshot_actions_total", &[("action", "upload"), ("outcome", "failed")]).await? < 0.5);
    Ok(newest)
}

#[tokio::test]
async fn without_an_api_server_saves_and_uploads_go_on_also_after_a_restart() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    let (api, kubeconfig) = site.api.proxied(site.scratch())?;
    let setup = saver.operator().env("KUBECONFIG", kubeconfig);
    let mut operator = setup.start().await?;
    runs(&mut operator, "done").await?;
    operator.until("a record", async |_| site.local_records().await?.pop().context("none")).await?;
    api.cut();
    let newest = another_goes_up(&mut operator, &saver).await?;
    ensure!(operator.terminate().await?.success());
    // Of the cluster and of its bucket it knows what the state of the disk remembers.
    let mut operator = setup.start().await?;
    let last = another_goes_up(&mut operator, &saver).await?;
    ensure!(last > newest, "{last} and {newest}");
    let records = site.local_records().await?;
    ensure!(!records.iter().any(|record| [&newest, &last].iter().any(|name| *name == file(record))), "{records:?}");
    let cluster = site.kubernetes.cluster_id().await?;
    ensure!(sidecar(site, &last)?[&format!("{PREFIX}cluster-id")] == cluster);
    api.restore();
    operator
        .until("records of both, here and in the bucket", async |_| {
            for records in [site.local_records().await?, site.bucket_records().await?] {
                for name in [&newest, &last] {
                    ensure!(records.iter().any(|record| file(record) == name && ready(record)), "none of {name}");
                }
            }
            Ok(())
        })
        .await
}
