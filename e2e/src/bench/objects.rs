//! A bucket of very many objects: the first import, and beats in which nothing has changed, near and at a distance.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kube::api::DynamicObject;
use sha2::{Digest as _, Sha256};

use super::bare;
use super::peer::{Estimate, K3s};
use super::report::{Section, Spread, times, took};
use super::world::{Way, World, until, value, written};
use crate::operator::Operator;
use crate::proxy::On;
use crate::site::FOLDER;
use crate::snapshots;

const RECORDS: &str = "/apis/k3s.cattle.io/v1/etcdsnapshotfiles*";
/// Long enough for a beat at a distance to end before the next begins.
const INTERVAL: &str = "5s";

/// The section. It leaves the objects and their records behind.
pub async fn measure(world: &World) -> Result<Section> {
    let mut section = Section::new("objects");
    fill(world).await?;
    let objects = world.scale.objects;
    let k3s = K3s::new(world);
    world.move_s3(Way::Distant);

    let (mut ours, mut looks, mut creates, mut bodies) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..world.scale.imports {
        let (time, mut operator) = import(world).await?;
        ours.push(time);
        operator.stop().await;
        bodies = world.records().await?;
        world.delete_all().await?;
        looks.push(bare::looks(&world.client(), &world.site.bucket.name, &names(world)).await?);
        bodies = bodies.iter().enumerate().map(|(number, record)| bare::anew(record, format!("s3-bare-{number}"))).collect();
        creates.push(bare::creates(&world.site.kubernetes.records(), &bodies).await?);
        world.delete_all().await?;
    }
    let bare: Vec<Duration> = looks.iter().zip(&creates).map(|(looks, creates)| *looks + *creates).collect();
    let (ours, bare) = (Spread::new(ours), Spread::new(bare));
    let gathered = gather(world, &k3s).await?;
    let written = repeat(world, async || k3s.create(&bodies).await).await?;
    let theirs = gathered.typical() + written.typical();
    let of_import = format!("first import of {objects} objects with sidecars, {}", Way::Distant.word());
    section.row(format!("{of_import}: from the start of the process to the last record"), &ours);
    section.row("– the same as K3s does it (calculated)", took(theirs.time));
    section.row("– K3s's time in ours", times(theirs.time, ours.median()));
    section.row("– the bare HEADs and GETs, 32 at once", Spread::new(looks));
    section.row("– the bare creates, 16 at once", Spread::new(creates));
    section.row("– ours in both of these", times(ours.median(), bare.median()));

    world.move_s3(Way::Near);
    let (time, mut operator) = import(world).await?;
    operator.stop().await;
    section.row(format!("first import, {}", Way::Near.word()), took(time));
    let near = gather(world, &k3s).await?;
    unchanged(world, &mut section, Way::Near, &near).await?;
    world.move_s3(Way::Distant);
    unchanged(world, &mut section, Way::Distant, &gathered).await?;
    world.move_s3(Way::Near);
    restarted(world, &mut section).await?;
    Ok(section)
}

fn names(world: &World) -> Vec<String> {
    (0..world.scale.objects).map(|number| world.site.name(1_700_000_000 + i64::from(number))).collect()
}

/// Objects as the operator uploads them: whole, with a sidecar that has a manifest.
async fn fill(world: &World) -> Result<()> {
    let body = snapshots::tiny(1);
    let sha256 = Sha256::digest(&body).iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    let key = |key: &str| format!("etcd-snapshot-operator.dev/{key}");
    let sidecar = serde_json::json!({
        key("file-sha256"): sha256, key("file-size"): body.len().to_string(), key("node"): world.site.node,
        key("revision"): "123456", key("live-keys"): "4321", key("quorum"): "true", "provisioning-cluster-spec": "{}",
    });
    let cluster = world.site.kubernetes.cluster_id().await?;
    let metadata =
        [("k3s-cluster-id", cluster.as_str()), ("k3s-node-name", world.site.node.as_str()), ("etcd-snapshot-sha256", sha256.as_str())];
    let sidecars = names(world).into_iter().map(|name| (format!("{FOLDER}/.metadata/{name}"), sidecar.to_string().into_bytes()));
    world.site.bucket.put_many(sidecars, &metadata[..2]).await?;
    let objects = names(world).into_iter().map(|name| (world.site.key(&name), body.clone()));
    world.site.bucket.put_many(objects, &metadata).await
}

/// From a process to the last of its records.
async fn import(world: &World) -> Result<(Duration, Operator)> {
    world.s3.forget();
    let begun = Instant::now();
    let mut operator = world.operator_with_bucket("10m").start().await?;
    written(&mut operator, world.scale.objects).await?;
    Ok((begun.elapsed(), operator))
}

/// Several estimates of one thing.
struct Estimates(Vec<Estimate>);

impl Estimates {
    fn typical(&self) -> Estimate {
        let mut all = self.0.clone();
        all.sort_by_key(|one| one.time);
        all.get(all.len() / 2).copied().unwrap_or_default()
    }

    fn spread(&self) -> Spread {
        Spread::new(self.0.iter().map(|one| one.time).collect())
    }
}

async fn repeat(world: &World, mut work: impl AsyncFnMut() -> Result<Estimate>) -> Result<Estimates> {
    let mut all = Vec::new();
    for _ in 0..world.scale.imports {
        all.push(work().await?);
    }
    Ok(Estimates(all))
}

async fn gather(world: &World, peer: &K3s<'_>) -> Result<Estimates> {
    repeat(world, async || peer.gather().await).await
}

/// Beats of both in which nothing has changed.
async fn unchanged(world: &World, section: &mut Section, way: Way, gathered: &Estimates) -> Result<()> {
    let mut operator = world.operator_with_bucket(INTERVAL).start().await?;
    let spread = beats(&mut operator, world.scale.beats).await?;
    operator.stop().await;
    let peer = K3s::new(world);
    let compared = repeat(world, async || peer.compare(world.scale.objects).await).await?;
    let theirs = gathered.typical() + compared.typical();
    let objects = world.scale.objects;
    section.row(format!("beat over {objects} unchanged objects with sidecars, {}", way.word()), &spread);
    let parts = format!("S3: {}; records: {}", gathered.spread(), compared.spread());
    section.row(format!("– the same as K3s does it, {} S3 requests (calculated)", gathered.typical().requests), took(theirs.time));
    section.row("– of that", parts);
    section.row("– K3s's time in ours", times(theirs.time, spread.median()));
    Ok(())
}

/// How long the bucket's part of so many beats takes, the first ones of its life left out.
async fn beats(operator: &mut Operator, count: u32) -> Result<Spread> {
    let mut seen = ended(operator, 1.0).await?;
    let mut all = Vec::new();
    for _ in 0..count {
        let next = ended(operator, seen.0 + 1.0).await?;
        all.push(Duration::from_secs_f64((next.1 - seen.1) / (next.0 - seen.0)));
        seen = next;
    }
    Ok(Spread::new(all))
}

/// How many beats over the bucket have ended, once it is so many, and what they took altogether.
async fn ended(operator: &mut Operator, count: f64) -> Result<(f64, f64)> {
    until(operator, "a beat to end", async |operator| {
        let metrics = operator.metrics().await?;
        let failed = value(&metrics, "reconcile_s3_duration_seconds_count", &[("status", "error")]);
        ensure!(failed < 1.0, "{failed} beats have failed");
        let ended = value(&metrics, "reconcile_s3_duration_seconds_count", &[("status", "success")]);
        ensure!(ended >= count, "{ended} of {count}");
        Ok((ended, value(&metrics, "reconcile_s3_duration_seconds_sum", &[("status", "success")])))
    })
    .await
}

/// What a beat asks and writes, after a restart, by the count of proxies.
async fn restarted(world: &World, section: &mut Section) -> Result<()> {
    let before = versions(&world.records().await?);
    let s3 = &world.s3;
    s3.forget();
    let (api, kubeconfig) = world.site.api.proxied(world.site.scratch())?;
    let setup = world.operator_with_bucket(INTERVAL).env("KUBECONFIG", kubeconfig);
    let mut operator = setup.start().await?;
    let seen = ended(&mut operator, 2.0).await?;
    let looked = s3.requests().len() - s3.count(&On::list_objects());
    s3.forget();
    api.forget();
    let last = ended(&mut operator, seen.0 + f64::from(world.scale.beats)).await?;
    let (asked, all, leases, written) = (s3.requests().len(), api.requests().len(), leases(&api), writes(&api));
    operator.stop().await;
    let unchanged = versions(&world.records().await?) == before;
    let beats = last.0 - seen.0;
    section.row(
        "the same after a restart: requests to S3 a beat",
        format!("{asked} in {beats} beats; beside listings since the start {looked}"),
    );
    section.row(
        "– to the API server",
        format!("{} in {beats} beats, besides {leases} for the Lease; {written} writes of records", all - leases),
    );
    section.row("– all records have the resourceVersion they had", if unchanged { "yes" } else { "no" });
    Ok(())
}

fn writes(api: &crate::proxy::FaultProxy) -> usize {
    ["POST", "PATCH", "PUT", "DELETE"].iter().map(|method| api.count(&On::method(method).path(RECORDS))).sum()
}

fn leases(api: &crate::proxy::FaultProxy) -> usize {
    api.count(&On::any().path("/apis/coordination.k8s.io/*"))
}

fn versions(records: &[DynamicObject]) -> Vec<(Option<String>, Option<String>)> {
    records.iter().map(|record| (record.metadata.name.clone(), record.metadata.resource_version.clone())).collect()
}
