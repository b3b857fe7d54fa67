//! From a file to its record, as somebody sees it who watches the records.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::stream::{Stream, StreamExt as _};
use kube::api::{DynamicObject, WatchEvent, WatchParams};
use tokio::time::timeout;

use super::report::{Section, Spread};
use super::world::World;
use crate::snapshots;

/// Between a ready record and the next file: as after a person's command, the operator is at rest.
const PAUSE: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_mins(2);

/// The section.
pub async fn measure(world: &World) -> Result<Section> {
    let mut section = Section::new("files");
    let mut operator = world.operator("10m").start().await?;
    operator.ready().await?;
    let of_node = format!("etcd.k3s.cattle.io/snapshot-storage-node={}", world.site.node);
    let records = world.site.kubernetes.records();
    let watch = records.watch(&WatchParams::default().labels(&of_node), "0").await?;
    let mut watch = std::pin::pin!(watch);

    let (mut visible, mut ready) = (Vec::new(), Vec::new());
    for number in 0..world.scale.files {
        let name = world.site.name(1_600_000_000 + i64::from(number));
        let begun = Instant::now();
        world.site.place(&name, &snapshots::tiny(u64::from(number)))?;
        let seen = seen(&mut watch, &name, begun).await?;
        visible.push(seen.visible);
        ready.push(seen.ready);
        tokio::time::sleep(PAUSE).await;
    }
    let (visible, ready) = (Spread::new(visible), Spread::new(ready));
    section.row("small file renamed into the directory → its record is seen by a watch", visible.tail());
    section.row("– its record is seen to be ready", ready.tail());

    let (mebibytes, count) = world.scale.large;
    let mut hashed = Vec::new();
    for number in 0..count {
        let name = world.site.name(1_650_000_000 + i64::from(number));
        let bytes = snapshots::sized(u64::from(number), mebibytes << 20);
        let path = world.site.scratch().join("large");
        std::fs::write(&path, bytes)?;
        let begun = Instant::now();
        std::fs::rename(&path, world.site.snapshots().join(&name))?;
        let seen = seen(&mut watch, &name, begun).await?;
        hashed.push(seen.ready.saturating_sub(seen.visible));
    }
    let hashed = Spread::new(hashed);
    let speed = f64::from(u32::try_from(mebibytes)?) * 1.048_576 / 1000.0 / hashed.median().as_secs_f64();
    section.row(format!("file of {mebibytes} MiB: its record is seen → it is ready"), format!("{hashed}, {speed:.2} GB/s"));
    operator.stop().await;
    for entry in std::fs::read_dir(world.site.snapshots())? {
        std::fs::remove_file(entry?.path())?;
    }
    Ok(section)
}

/// When a record was first seen, and when it was ready.
struct Seen {
    visible: Duration,
    ready: Duration,
}

async fn seen(
    watch: &mut (impl Stream<Item = kube::Result<WatchEvent<DynamicObject>>> + Unpin),
    name: &str,
    begun: Instant,
) -> Result<Seen> {
    let mut visible = None;
    loop {
        let event = timeout(PATIENCE, watch.next()).await.with_context(|| format!("no ready record of {name}"))?;
        let at = begun.elapsed();
        let record = match event.context("the watch has ended")?? {
            WatchEvent::Added(record) | WatchEvent::Modified(record) => record,
            WatchEvent::Error(error) => bail!("the watch says {error:?}"),
            WatchEvent::Deleted(_) | WatchEvent::Bookmark(_) => continue,
        };
        if record.data["spec"]["snapshotName"] != name {
            continue;
        }
        let visible = *visible.get_or_insert(at);
        if record.data["status"]["readyToUse"] == true {
            ensure!(at >= visible);
            return Ok(Seen { visible, ready: at });
        }
    }
}
