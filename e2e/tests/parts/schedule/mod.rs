//! The agent saves on schedule: what a save leaves behind, what is told of it, and when there is none.

mod ahead;
mod corrupt;
mod ill;
mod kills;
mod order;
mod restarts;
mod slow_bucket;
mod whole_cluster;
mod without_api;

use std::collections::BTreeMap;
use std::io::{Cursor, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use e2e::etcd::Etcd;
use e2e::operator::{Operator, OperatorSetup};
use e2e::site::Site;
use e2e::wait;
use etcd_snapshot_operator::snapshot::manifest::PREFIX;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node};
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::common::{complained_about, counted, file, name, ready, rises};
use crate::etcd::{Cluster, Server};
use crate::look::annotation;

const RUNS: &str = "etcd_snapshot_schedule_runs_total";
const K3S: &str = "etcd.k3s.cattle.io/local-snapshots-timestamp";

/// A node with a member of its own.
pub struct Saver {
    pub site: Site,
    pub etcd: Etcd,
}

impl Saver {
    pub async fn new() -> Result<Self> {
        let (site, etcd) = tokio::try_join!(Site::new(), Etcd::start())?;
        etcd.etcdctl(["put", "key", "value"]).await?;
        Ok(Self { site, etcd })
    }

    /// An agent that saves every few seconds.
    pub fn operator(&self) -> OperatorSetup {
        every(&self.site, &self.etcd.endpoint(), "@every 3s")
    }

    /// An agent that saves nothing.
    pub fn idle(&self) -> OperatorSetup {
        self.operator().switch("--etcd-disable-snapshots")
    }

    pub fn files(&self) -> Result<Vec<String>> {
        snapshots_in(&self.site.snapshots())
    }
}

/// An agent with a bucket that saves on this schedule from this member.
pub fn every(site: &Site, etcd: &str, schedule: &str) -> OperatorSetup {
    site.operator_with_bucket().flag("--etcd-endpoint", etcd).saving(schedule).flag("--etcd-snapshot-jitter", "0s")
}

/// The names in a directory, hidden or not, sorted.
pub fn names_in(directory: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    let mut names: Vec<String> = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

/// The names of snapshots in a directory.
pub fn snapshots_in(directory: &Path) -> Result<Vec<String>> {
    let mut names = names_in(directory)?;
    names.retain(|name| !name.starts_with('.'));
    Ok(names)
}

/// What is left of saves that did not end, anywhere at or beside the directory.
pub fn temporaries(site: &Site) -> Result<Vec<String>> {
    let mut names = names_in(&site.snapshots())?;
    let beside = site.snapshots().with_file_name(".metadata");
    if beside.exists() {
        names.extend(names_in(&beside)?);
    }
    names.retain(|name| name.starts_with('.') && name != ".state" && name != ".metadata");
    Ok(names)
}

/// Fails unless this is a whole snapshot, plain or in an archive: its end is the SHA-256 of the rest.
pub fn is_whole(path: &Path) -> Result<()> {
    let mut bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    if path.extension().is_some_and(|ending| ending == "zip") {
        let mut archive = zip::ZipArchive::new(Cursor::new(&bytes)).with_context(|| format!("open {}", path.display()))?;
        let mut inner = Vec::new();
        archive.by_index(0)?.read_to_end(&mut inner)?;
        bytes = inner;
    }
    let (database, trailer) = bytes.split_at_checked(bytes.len().saturating_sub(32)).context("too short")?;
    ensure!(!database.is_empty() && Sha256::digest(database).as_slice() == trailer, "{} is not whole", path.display());
    Ok(())
}

/// What lies beside a snapshot.
pub fn sidecar(site: &Site, name: &str) -> Result<BTreeMap<String, String>> {
    let path = site.snapshots().with_file_name(".metadata").join(name);
    Ok(serde_json::from_slice(&std::fs::read(&path).with_context(|| format!("read {}", path.display()))?)?)
}

/// When a snapshot was taken, by its name.
fn taken(name: &str) -> Result<f64> {
    let seconds = name.trim_end_matches(".zip").rsplit('-').next().context("no time")?;
    Ok(seconds.parse::<u32>().with_context(|| format!("the time in {name}"))?.into())
}

/// Waits until the newest good snapshot in this storage is the one of this time.
async fn newest_good(operator: &mut Operator, storage: &str, taken: f64) -> Result<()> {
    operator
        .until(&format!("the newest good one in the storage {storage} to be of {taken}"), async |operator| {
            let now = operator.metrics().await?.get("etcd_snapshot_last_good_timestamp_seconds", &[("storage", storage)])?;
            ensure!((now - taken).abs() < 0.5, "it is of {now}");
            Ok(())
        })
        .await
}

/// The slots of which a log says that a save of them began.
fn slots(operator: &Operator) -> Vec<String> {
    let slot = |line: &str| {
        let line: Value = serde_json::from_str(line).ok()?;
        (line["message"] == "a snapshot is due").then(|| line["slot"].to_string())
    };
    operator.log().lines().filter_map(slot).collect()
}

/// Waits until a run of the schedule more than before ended like this.
async fn runs(operator: &mut Operator, outcome: &str) -> Result<()> {
    let before = counted(operator, RUNS, &[("outcome", outcome)]).await?;
    rises(operator, RUNS, &[("outcome", outcome)], before).await
}

/// Waits until a snapshot that is newer than this one has gone up; returns the keys of the bucket then.
async fn later_goes_up(operator: &mut Operator, site: &Site, name: &str) -> Result<Vec<String>> {
    operator
        .until("a later one in the bucket", async |_| {
            let keys = site.bucket.keys().await?;
            ensure!(keys.iter().any(|key| *key > site.key(name)), "{keys:?}");
            Ok(())
        })
        .await?;
    site.bucket.keys().await
}

async fn in_force(operator: &Operator) -> Result<bool> {
    Ok(operator.metrics().await?.get("etcd_snapshot_schedule_in_force", &[])? > 0.0)
}

#[tokio::test]
async fn a_snapshot_on_schedule_is_recorded_goes_up_and_shows_in_the_metrics() -> Result<()> {
    saved_and_told(&Saver::new().await?, false).await
}

#[tokio::test]
async fn a_compressed_snapshot_on_schedule_is_recorded_goes_up_and_shows_in_the_metrics() -> Result<()> {
    saved_and_told(&Saver::new().await?, true).await
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::similar_names, reason = "whole and positive numbers of metrics")]
async fn saved_and_told(saver: &Saver, compress: bool) -> Result<()> {
    let site = &saver.site;
    let client = &site.kubernetes.client;
    let metadata = |name: &str| ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    let namespace = Namespace { metadata: metadata(&site.node), ..Namespace::default() };
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await?;
    let data = Some([("provisioning-cluster-spec".to_owned(), "the spec".to_owned())].into());
    let extra = ConfigMap { metadata: metadata("k3s-etcd-snapshot-extra-metadata"), data, ..ConfigMap::default() };
    Api::<ConfigMap>::namespaced(client.clone(), &site.node).create(&PostParams::default(), &extra).await?;
    site.kubernetes.create_node(&site.node).await?;
    let token = site.scratch().join("token");
    std::fs::write(&token, "test\n")?;
    let mut setup = saver.operator().flag("--config-namespace", &site.node).flag("--token-file", &token);
    if compress {
        setup = setup.switch("--etcd-snapshot-compress");
    }
    let mut operator = setup.start().await?;
    let first = operator
        .until("a snapshot that is recorded here and in the bucket", async |_| {
            let first = saver.files()?.first().cloned().context("none yet")?;
            let (local, bucket) = (site.local_records().await?, site.bucket_records().await?);
            let whole = |record: &kube::api::DynamicObject| annotation(record, "verdict") == Some("whole") && ready(record);
            let recorded = |all: &[kube::api::DynamicObject]| all.iter().any(|record| file(record) == first && whole(record));
            ensure!(recorded(&local) && recorded(&bucket), "{first}: {} and {} records", local.len(), bucket.len());
            Ok(first)
        })
        .await?;
    let never_read = counted(&operator, "etcd_snapshot_actions_total", &[("action", "verify")]).await?;
    ensure!(never_read < 0.5, "what was verified while it was saved was read again: {never_read}");

    let path = site.snapshots().join(&first);
    is_whole(&path)?;
    ensure!(path.extension().is_some() == compress && std::fs::metadata(&path)?.permissions().mode() & 0o777 == 0o600);
    let beside = sidecar(site, &first)?;
    let said = |key: &str| beside.get(&format!("{PREFIX}{key}")).map(String::as_str);
    let cluster = site.kubernetes.cluster_id().await?;
    ensure!(said("node") == Some(&site.node) && said("cluster-id") == Some(&cluster) && said("quorum") == Some("true"), "{beside:?}");
    ensure!(beside["provisioning-cluster-spec"] == "the spec" && said("token-hash") == Some("9f86d081884c"), "{beside:?}");
    let record = crate::common::local_record(site, &first).await?;
    ensure!(record.data["spec"]["metadata"] == json!({ "provisioning-cluster-spec": "the spec" }), "{}", record.data);

    let key = site.key(&first);
    ensure!(site.bucket.get(&key).await? == std::fs::read(&path)?);
    let above: BTreeMap<String, String> = serde_json::from_slice(&site.bucket.get(&site.key(&format!(".metadata/{first}"))).await?)?;
    ensure!(above["provisioning-cluster-spec"] == "the spec", "{above:?}");
    let head = site.bucket.client.head_object().bucket(&site.bucket.name).key(&key).send().await?;
    let shown = head.metadata().cloned().unwrap_or_default();
    ensure!(shown.get("k3s-token-hash").map(String::as_str) == Some("9f86d081884c") && shown["k3s-cluster-id"] == cluster, "{shown:?}");

    // What is counted is counted a moment after it can be seen.
    rises(&mut operator, RUNS, &[("outcome", "done")], 0.5).await?;
    rises(&mut operator, "etcd_snapshot_save_s3_duration_seconds_count", &[("status", "success")], 0.5).await?;
    let metrics = operator.metrics().await?;
    for part in ["save", "save_local", "save_s3"] {
        let count = |status| metrics.get(&format!("etcd_snapshot_{part}_duration_seconds_count"), &[("status", status)]);
        ensure!(count("success")? > 0.5 && count("error")? < 0.5, "{part}");
        metrics.get("etcd_snapshot_last_success_timestamp_seconds", &[("operation", part)])?;
    }
    for step in ["status", "stream", "verify", "inspect", "compress", "rename", "upload"] {
        let count = metrics.get("etcd_snapshot_step_duration_seconds_count", &[("step", step), ("status", "success")])?;
        ensure!((count > 0.5) == (compress || step != "compress"), "{step}: {count}");
        ensure!(metrics.get("etcd_snapshot_step_duration_seconds_count", &[("step", step), ("status", "error")])? < 0.5, "{step}");
    }
    ensure!(in_force(&operator).await? && metrics.get("etcd_snapshot_schedule_interval_seconds", &[])?.round() as i64 == 3);
    let next = metrics.get("etcd_snapshot_schedule_next_timestamp_seconds", &[])? as i64;
    ensure!((Timestamp::now().as_second() - next).abs() < 3600, "{next}");
    ensure!(metrics.get(RUNS, &[("outcome", "done")])? > 0.5 && metrics.get(RUNS, &[("outcome", "failed")])? < 0.5);
    ensure!(metrics.get("etcd_snapshot_consecutive_failures", &[])? < 0.5);
    let size = metrics.get("etcd_snapshot_size_bytes", &[])? as u64;
    let sizes: Vec<u64> =
        saver.files()?.iter().map(|name| Ok(std::fs::metadata(site.snapshots().join(name))?.len())).collect::<Result<_>>()?;
    ensure!(sizes.contains(&size), "{size} is none of {sizes:?}");
    ensure!(metrics.get("etcd_snapshot_revision", &[])? as u64 == saver.etcd.revision().await?);
    ensure!(metrics.get("etcd_snapshot_keys", &[])?.round() as i64 == 1);

    // Told to stop, it leaves only whole things.
    ensure!(operator.terminate().await?.success());
    saver.files()?.iter().try_for_each(|name| is_whole(&site.snapshots().join(name)))?;
    ensure!(temporaries(site)?.is_empty(), "{:?}", temporaries(site)?);
    ensure!(complained_about(&operator).is_empty(), "{:?}", complained_about(&operator));
    let events = site.kubernetes.events_about(name(&record)).await?;
    ensure!(events.iter().any(|event| event.reason.as_deref() == Some("ETCDSnapshotCreated")), "{events:?}");
    Ok(())
}

#[tokio::test]
async fn a_save_that_failed_is_told_everywhere_and_forgotten_when_one_succeeds() -> Result<()> {
    let mut saver = Saver::new().await?;
    let mut operator = saver.operator().start().await?;
    runs(&mut operator, "done").await?;
    let before = Timestamp::now().as_second();
    saver.etcd.kill();
    let failed = operator
        .until("a record of the save that failed", async |_| {
            let records = saver.site.local_records().await?;
            records.into_iter().find(|record| !record.data["status"]["error"].is_null()).context("none yet")
        })
        .await?;
    let now = Timestamp::now().as_second();
    let error = &failed.data["status"]["error"];
    let at: Timestamp = error["time"].as_str().context("no time")?.parse()?;
    ensure!((before..=now).contains(&at.as_second()), "{error}");
    ensure!(error["message"].as_str().is_some_and(|text| text.contains(&saver.etcd.endpoint())) && !ready(&failed), "{error}");
    ensure!(
        failed.data["spec"]["location"].as_str().unwrap_or_default().is_empty() && !saver.files()?.iter().any(|name| name == file(&failed))
    );
    wait::until("an Event of it", async || {
        let events = saver.site.kubernetes.events_about(name(&failed)).await?;
        ensure!(events.iter().any(|event| event.reason.as_deref() == Some("ETCDSnapshotFailed")), "{events:?}");
        Ok(())
    })
    .await?;
    rises(&mut operator, "etcd_snapshot_consecutive_failures", &[], 1.5).await?;
    // The run has ended when what became of it is on the disk: a moment later.
    rises(&mut operator, RUNS, &[("outcome", "failed")], 1.5).await?;
    ensure!(operator.metrics().await?.get("etcd_snapshot_save_duration_seconds_count", &[("status", "error")])? > 1.5);
    let ill = operator.get("/readyz").await?.ok()?;
    ensure!(ill.contains("saving snapshots"), "ready, and says what is ill: {ill}");
    ensure!(temporaries(&saver.site)?.is_empty(), "{:?}", temporaries(&saver.site)?);

    saver.etcd.launch().await?;
    runs(&mut operator, "done").await?;
    operator
        .until("nothing to be said of failures any more", async |operator| {
            ensure!(counted(operator, "etcd_snapshot_consecutive_failures", &[]).await? < 0.5);
            let ill = operator.get("/readyz").await?.ok()?;
            ensure!(!ill.contains("saving snapshots"), "{ill}");
            Ok(())
        })
        .await?;
    // Its record stays for a day, as K3s's does; whoever deletes it is rid of it.
    for record in saver.site.local_records().await?.iter().filter(|record| !record.data["status"]["error"].is_null()) {
        saver.site.kubernetes.delete_record(name(record)).await?;
    }
    operator.beats(3).await?;
    let records = saver.site.local_records().await?;
    ensure!(records.iter().all(|record| record.data["status"]["error"].is_null()), "a failure that is over came back");
    Ok(())
}

#[tokio::test]
async fn who_only_observes_or_has_no_schedule_saves_nothing_and_shows_it() -> Result<()> {
    let saver = Saver::new().await?;
    let mut operator = saver.operator().switch("--etcd-disable-snapshots").start().await?;
    operator.ready().await?;
    operator.beats(5).await?;
    ensure!(!in_force(&operator).await? && saver.files()?.is_empty());
    ensure!(operator.metrics().await?.series("etcd_snapshot_schedule_next_timestamp_seconds", &[]) == 0);
    operator.stop().await;

    let mut operator = saver.operator().flag("--mode", "observe").start().await?;
    runs(&mut operator, "skipped").await?;
    operator.beats(5).await?;
    ensure!(!in_force(&operator).await? && saver.files()?.is_empty());
    operator.stop().await;
    // The slot missed meanwhile is made up.
    let mut operator = saver.operator().start().await?;
    runs(&mut operator, "done").await?;
    ensure!(in_force(&operator).await? && !saver.files()?.is_empty());
    Ok(())
}

#[tokio::test]
async fn while_k3s_is_at_work_on_the_node_it_saves_and_when_it_ends_we_do() -> Result<()> {
    let saver = Saver::new().await?;
    let node = &saver.site.node;
    saver.site.kubernetes.create_node(node).await?;
    let nodes: Api<Node> = Api::all(saver.site.kubernetes.client.clone());
    let annotate = async |value: Value| {
        let change = json!({ "metadata": { "annotations": { K3S: value } } });
        nodes.patch(node, &PatchParams::default(), &Patch::Merge(&change)).await
    };
    annotate(json!(Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string())).await?;
    let mut operator = saver.operator().start().await?;
    runs(&mut operator, "skipped").await?;
    ensure!(!in_force(&operator).await? && saver.files()?.is_empty());
    annotate(Value::Null).await?;
    runs(&mut operator, "done").await?;
    ensure!(in_force(&operator).await? && !saver.files()?.is_empty());
    Ok(())
}

#[tokio::test]
async fn another_save_at_work_and_a_learner_are_skipped_and_are_no_failure() -> Result<()> {
    let saver = Saver::new().await?;
    let mut operator = saver.operator().start().await?;
    runs(&mut operator, "done").await?;
    let state = saver.site.snapshots().with_file_name(".metadata").join(".state");
    let here = std::fs::read_dir(state)?.next().context("no state")??.path();
    let lock = std::fs::File::options().write(true).open(here.join("save.lock"))?;
    lock.lock()?;
    let before = saver.files()?;
    runs(&mut operator, "skipped").await?;
    ensure!(saver.files()? == before && counted(&operator, RUNS, &[("outcome", "failed")]).await? < 0.5);
    drop(lock);
    runs(&mut operator, "done").await?;
    ensure!(counted(&operator, "etcd_snapshot_consecutive_failures", &[]).await? < 0.5);
    operator.stop().await;

    let mut cluster = Cluster::start(1, &[]).await?;
    cluster.members.push(Server::new());
    let peer = cluster.members[1].peer_url();
    cluster.etcdctl(&["member", "add", "m1", "--learner", "--peer-urls", &peer]).await?;
    cluster.launch(1, "existing")?;
    let learner = Site::new().await?;
    let mut operator = every(&learner, &cluster.endpoint(1), "@every 3s").start().await?;
    runs(&mut operator, "skipped").await?;
    ensure!(snapshots_in(&learner.snapshots())?.is_empty() && learner.local_records().await?.is_empty());
    ensure!(counted(&operator, RUNS, &[("outcome", "failed")]).await? < 0.5);
    ensure!(counted(&operator, "etcd_snapshot_consecutive_failures", &[]).await? < 0.5);
    Ok(())
}
