//! Memory with very many records.

use anyhow::{Context as _, Result, ensure};

use super::bare;
use super::process::resident;
use super::report::{Section, mebibytes, took};
use super::world::{World, until, value};
use crate::snapshots;

/// Nodes whose records they are.
const NODES: u32 = 10;

/// The section. It fills the API server with records of other nodes, as their operators write them.
pub async fn measure(world: &World) -> Result<Section> {
    let mut section = Section::new("records");
    let pattern = pattern(world).await?;
    let mut records = Vec::new();
    for number in 0..world.scale.records {
        let node = format!("other-{}", number % NODES);
        let file = snapshots::name(&node, 1_600_000_000 + i64::from(number));
        let mut record = bare::anew(&pattern, format!("local-{file}-{number:06x}"));
        let labels = record.metadata.labels.get_or_insert_default();
        labels.insert("etcd.k3s.cattle.io/snapshot-storage-node".into(), node.clone());
        record.data["spec"]["location"] = format!("file:///snapshots/{file}").into();
        record.data["spec"]["snapshotName"] = file.into();
        record.data["spec"]["nodeName"] = node.into();
        records.push(record);
    }
    let took_all = bare::creates(&world.site.kubernetes.records(), &records).await?;
    drop(records);
    eprintln!("   filled in {}", took(took_all));

    let mut operator = world.operator("2s").start().await?;
    until(&mut operator, "readiness", async |operator| operator.get("/readyz").await?.ok()).await?;
    until(&mut operator, "three beats", async |operator| {
        let ended = value(&operator.metrics().await?, "reconcile_duration_seconds_count", &[]);
        ensure!(ended >= 3.0, "{ended} have ended");
        Ok(())
    })
    .await?;
    let memory = resident(operator.id()).context("the operator has ended")?;
    section.row(format!("resident memory with {} records in the cluster, after three beats", world.scale.records), mebibytes(memory.now));
    section.row("– the most it ever held, which is at its start", mebibytes(memory.most));
    operator.stop().await;
    Ok(section)
}

/// A record that the operator wrote of a whole file.
async fn pattern(world: &World) -> Result<kube::api::DynamicObject> {
    let name = world.site.name(1_500_000_000);
    let path = world.site.place(&name, &snapshots::tiny(7))?;
    let mut operator = world.operator("10m").start().await?;
    let record = until(&mut operator, "a ready record", async |_| {
        let records = world.site.local_records().await?;
        let ready =
            |record: &kube::api::DynamicObject| record.data["spec"]["snapshotName"] == name && record.data["status"]["readyToUse"] == true;
        records.into_iter().find(ready).context("none")
    });
    let record = record.await?;
    operator.stop().await;
    std::fs::remove_file(path)?;
    Ok(record)
}
