//! What tests of several topics look at.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use e2e::operator::Operator;
use e2e::proxy::{FaultProxy, On};
use e2e::site::Site;
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::Value;

/// The records' collection and each of them, as a path of the API server.
pub const RECORDS: &str = "/apis/k3s.cattle.io/v1/etcdsnapshotfiles*";

pub fn ready(record: &DynamicObject) -> bool {
    record.data["status"]["readyToUse"] == true
}

pub fn name(record: &DynamicObject) -> &str {
    record.metadata.name.as_deref().unwrap_or_default()
}

pub fn file(record: &DynamicObject) -> &str {
    record.data["spec"]["snapshotName"].as_str().unwrap_or_default()
}

/// Waits until exactly these snapshots have records, all of them ready. `bucket` is what a test has put there; there is, too,
/// what is in the directory of an operator that uploads, and what was there before: it goes up and stays.
pub async fn all_ready(operator: &mut Operator, site: &Site, local: &[String], bucket: &[String]) -> Result<()> {
    let goes_up = |name: &&String| operator.uploads() && name.contains(&format!("-{}-", site.node)) && !bucket.contains(name);
    let going_up: BTreeSet<String> = local.iter().filter(goes_up).cloned().collect();
    let there: BTreeSet<String> = bucket.iter().chain(&going_up).chain(site.bucket.gone_up().iter()).cloned().collect();
    let in_bucket: Vec<String> = there.into_iter().collect();
    operator
        .until("exactly the snapshots to have ready records", async |_| {
            agree("local", local, &site.local_records().await?)?;
            agree("bucket", &in_bucket, &site.bucket_records().await?)
        })
        .await?;
    site.bucket.gone_up().extend(going_up);
    Ok(())
}

fn agree(storage: &str, wanted: &[String], records: &[DynamicObject]) -> Result<()> {
    let mut wanted: Vec<_> = wanted.iter().map(|file| (file.as_str(), true)).collect();
    let mut there: Vec<_> = records.iter().map(|record| (file(record), ready(record))).collect();
    wanted.sort_unstable();
    there.sort_unstable();
    ensure!(there == wanted, "{storage}: {there:?} instead of {wanted:?}");
    Ok(())
}

/// The one record of the site's directory with this file.
pub async fn local_record(site: &Site, of: &str) -> Result<DynamicObject> {
    let mut records = site.local_records().await?;
    records.retain(|record| file(record) == of);
    ensure!(records.len() == 1, "{} records of {of}", records.len());
    records.pop().context("one")
}

/// Changes a record as somebody else would.
pub async fn edit(site: &Site, record: &str, change: &Value) -> Result<DynamicObject> {
    let merge = Patch::Merge(change);
    site.kubernetes.records().patch(record, &PatchParams::default(), &merge).await.with_context(|| format!("edit {record}"))
}

/// Names and resourceVersions: equal when nobody wrote in between.
pub fn versions(records: &[DynamicObject]) -> Vec<(String, Option<String>)> {
    records.iter().map(|record| (name(record).to_owned(), record.metadata.resource_version.clone())).collect()
}

/// Requests that change a record.
pub fn writes(api: &FaultProxy) -> usize {
    ["POST", "PATCH", "PUT", "DELETE"].iter().map(|method| api.count(&On::method(method).path(RECORDS))).sum()
}

/// The lines of the JSON log at these levels that contain this text.
pub fn said(operator: &Operator, levels: &[&str], text: &str) -> Vec<String> {
    let is_level = |line: &str| {
        let line: Option<Value> = serde_json::from_str(line).ok();
        line.is_some_and(|line| levels.iter().any(|level| line["level"] == *level))
    };
    operator.log().lines().filter(|line| line.contains(text) && is_level(line)).map(str::to_owned).collect()
}

/// The operator's own complaints in the log: at warn or above.
pub fn complaints(operator: &Operator, text: &str) -> Vec<String> {
    let mut lines = said(operator, &["WARN", "ERROR"], text);
    lines.retain(|line| line.contains(r#""target":"etcd_snapshot_operator"#));
    lines
}

/// What each complaint is about, without its details.
pub fn complained_about(operator: &Operator) -> Vec<String> {
    let about = |line: &String| {
        let line: Value = serde_json::from_str(line).unwrap_or_default();
        let message = line["message"].as_str().unwrap_or_default();
        line["about"].as_str().unwrap_or_else(|| message.split(':').next().unwrap_or_default()).to_owned()
    };
    let mut all: Vec<String> = complaints(operator, "").iter().map(about).collect();
    all.sort();
    all
}

/// Waits until the log complains like this, in one sentence.
pub async fn complains(operator: &mut Operator, text: &str) -> Result<()> {
    let what = format!("the log to complain: {text}");
    operator
        .until(&what, async |operator| {
            ensure!(!complaints(operator, text).is_empty(), "not a word of it");
            Ok(())
        })
        .await
}

/// The value of a series, 0 when it is not there.
pub async fn counted(operator: &Operator, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
    Ok(operator.metrics().await?.sum(name, labels).unwrap_or(0.0))
}

/// Waits until a counter has risen above what it was.
pub async fn rises(operator: &mut Operator, name: &str, labels: &[(&str, &str)], above: f64) -> Result<()> {
    let what = format!("{name} {labels:?} to rise above {above}");
    operator
        .until(&what, async |operator| {
            let now = counted(operator, name, labels).await?;
            ensure!(now > above, "it is {now}");
            Ok(())
        })
        .await
}

/// Waits until this many more passes over the directory served a beat, also while the bucket's hangs.
pub async fn local_beats(operator: &mut Operator, more: u32) -> Result<()> {
    let series = "etcd_snapshot_reconcile_local_duration_seconds_count";
    let before = counted(operator, series, &[]).await?;
    rises(operator, series, &[], before + f64::from(more) - 0.5).await
}

/// A small file system of its own, gone with the test.
pub struct SmallDisk(pub PathBuf);

impl SmallDisk {
    /// On a new folder; `size` as mount takes it. Needs root.
    pub fn mount(at: PathBuf, size: &str) -> Result<Self> {
        std::fs::create_dir(&at)?;
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&at).status()?;
        ensure!(mounted.success(), "cannot mount a tmpfs; this needs root");
        Ok(Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
