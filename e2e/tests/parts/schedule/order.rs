//! The order of a save, as somebody sees it who watches the records: what is ready is there, with all that belongs to it.

use std::collections::BTreeSet;

use anyhow::bail;
use futures::StreamExt as _;
use kube::api::{DynamicObject, WatchEvent, WatchParams};

use super::*;
use crate::invariants::sha256;

/// Follows the records of a site until so many snapshots are ready in its directory and in its bucket, and looks at once, whenever
/// one is heard to be, for what should be there.
async fn hears_what_is_ready(site: &Site, wanted: usize) -> Result<()> {
    let (mut local, mut bucket) = (BTreeSet::new(), BTreeSet::new());
    let mut events = site.kubernetes.records().watch(&WatchParams::default(), "0").await?.boxed();
    while let Some(event) = events.next().await {
        let record: DynamicObject = match event? {
            WatchEvent::Added(record) | WatchEvent::Modified(record) => record,
            WatchEvent::Error(error) => bail!("{error:?}"),
            WatchEvent::Deleted(_) | WatchEvent::Bookmark(_) => continue,
        };
        if record.data["spec"]["nodeName"] != site.node.as_str() || !ready(&record) {
            continue;
        }
        let name = file(&record).to_owned();
        let digest = format!("{PREFIX}file-sha256");
        if record.data["spec"]["s3"].is_null() {
            let beside = sidecar(site, &name).context("its record is ready, and there is no sidecar")?;
            let bytes = std::fs::read(site.snapshots().join(&name)).context("its record is ready, and there is no file")?;
            ensure!(beside[&digest] == sha256(&bytes), "{name} is ready with the sidecar of another one");
            local.insert(name);
        } else if annotation(&record, "verdict") == Some("whole") {
            let beside = site.bucket.get(&site.key(&format!(".metadata/{name}"))).await.context("its record is whole")?;
            let beside: BTreeMap<String, String> = serde_json::from_slice(&beside)?;
            ensure!(beside[&digest] == sha256(&site.bucket.get(&site.key(&name)).await?), "{name} in the bucket");
            bucket.insert(name);
        }
        if local.len() >= wanted && bucket.len() >= wanted {
            return Ok(());
        }
    }
    bail!("the watch ended with {local:?} and {bucket:?}")
}

#[tokio::test]
async fn whoever_hears_that_a_snapshot_is_ready_finds_it_with_its_sidecar() -> Result<()> {
    for compress in [false, true] {
        let saver = Saver::new().await?;
        let setup = saver.operator();
        let setup = if compress { setup.switch("--etcd-snapshot-compress") } else { setup };
        let heard = hears_what_is_ready(&saver.site, 3);
        let mut operator = setup.start().await?;
        tokio::time::timeout(wait::PATIENCE, heard).await.context("too few were ready")??;
        operator.stop().await;
    }
    Ok(())
}
