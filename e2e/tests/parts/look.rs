//! What tests read of records, readiness and log, as short texts that can be compared.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use e2e::operator::Operator;
use e2e::site::Site;
use kube::api::DynamicObject;
use serde_json::Value;

/// What a record says of its snapshot: `whole`, `not ready, damaged: <why>`, `not ready, unverified`.
pub fn short(record: &DynamicObject) -> String {
    let verdict = annotation(record, "verdict").unwrap_or("without a verdict");
    let ready = if record.data["status"]["readyToUse"] == true { "" } else { "not ready, " };
    match record.data["status"]["error"]["message"].as_str() {
        Some(why) => format!("{ready}{verdict}: {why}"),
        None => format!("{ready}{verdict}"),
    }
}

/// An annotation of the operator's own.
pub fn annotation<'a>(record: &'a DynamicObject, key: &str) -> Option<&'a str> {
    record.metadata.annotations.as_ref()?.get(&format!("etcd-snapshot-operator.dev/{key}")).map(String::as_str)
}

/// [`short`] by snapshot name. Two records of one snapshot are an error.
pub fn shown(records: &[DynamicObject]) -> Result<BTreeMap<String, String>> {
    let pairs = records.iter().map(|record| Some((record.data["spec"]["snapshotName"].as_str()?.to_owned(), short(record))));
    let shown: BTreeMap<_, _> = pairs.collect::<Option<_>>().context("a record without a snapshotName")?;
    ensure!(shown.len() == records.len(), "a snapshot has two records: {:?}", states(records));
    Ok(shown)
}

/// What is expected, to compare with [`shown`].
pub fn expected<N: ToString, S: ToString>(pairs: impl IntoIterator<Item = (N, S)>) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(name, short)| (name.to_string(), short.to_string())).collect()
}

/// Names and resourceVersions: equal when nobody wrote a record.
pub fn states(records: &[DynamicObject]) -> Vec<(String, String)> {
    let state = |record: &DynamicObject| {
        (record.metadata.name.clone().unwrap_or_default(), record.metadata.resource_version.clone().unwrap_or_default())
    };
    records.iter().map(state).collect()
}

/// Waits until the directory's records are exactly these.
pub async fn local_becomes(operator: &mut Operator, site: &Site, wanted: &BTreeMap<String, String>) -> Result<()> {
    let look = async |_: &Operator| {
        let found = shown(&site.local_records().await?)?;
        ensure!(found == *wanted, "the directory's records are {found:#?} and should be {wanted:#?}");
        Ok(())
    };
    operator.until("the records of the directory", look).await
}

/// Waits until the bucket's records are exactly these.
pub async fn bucket_becomes(operator: &mut Operator, site: &Site, wanted: &BTreeMap<String, String>) -> Result<()> {
    let look = async |_: &Operator| {
        let found = shown(&site.bucket_records().await?)?;
        ensure!(found == *wanted, "the bucket's records are {found:#?} and should be {wanted:#?}");
        Ok(())
    };
    operator.until("the records of the bucket", look).await
}

/// Waits until `/readyz` says that a part is ill with these words, and sees that the log warns of it, once.
pub async fn falls_ill(operator: &mut Operator, part: &str, words: &str) -> Result<()> {
    operator
        .until(&format!("the {part} to be ill: {words}"), async |operator| {
            let said = operator.get("/readyz").await?.body;
            let is_it = |line: &str| line.strip_prefix(&format!("ill: {part}: ")).is_some_and(|why| why.contains(words));
            ensure!(said.lines().any(is_it), "/readyz says {said:?}");
            Ok(())
        })
        .await?;
    let warned = warnings(operator, words);
    operator.beats(2).await?;
    let warned_now = warnings(operator, words);
    ensure!(warned > 0 && warned_now == warned, "{warned} warnings of {words:?}, and after two more beats {warned_now}");
    Ok(())
}

/// Waits until `/readyz` has nothing to say but that all is well.
pub async fn is_well(operator: &mut Operator) -> Result<()> {
    operator
        .until("all to be well", async |operator| {
            let said = operator.get("/readyz").await?.body;
            ensure!(said == "ready\n", "/readyz says {said:?}");
            Ok(())
        })
        .await
}

/// How many lines of the log warn with these words.
pub fn warnings(operator: &Operator, words: &str) -> usize {
    lines(operator).filter(|line| line["level"] == "WARN" && text(line).contains(words)).count()
}

/// How many lines of the log, of whatever level, have these words.
pub fn said(operator: &Operator, words: &str) -> usize {
    lines(operator).filter(|line| text(line).contains(words)).count()
}

fn lines(operator: &Operator) -> impl Iterator<Item = Value> {
    let lines: Vec<Value> = operator.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    lines.into_iter()
}

fn text(line: &Value) -> &str {
    line["message"].as_str().unwrap_or_default()
}

/// The value of one series that counts, 0 when it is not there yet.
pub async fn value(operator: &Operator, name: &str, labels: &[(&str, &str)]) -> Result<u64> {
    let sum = operator.metrics().await?.sum(&format!("etcd_snapshot_{name}"), labels).unwrap_or(0.0);
    format!("{sum:.0}").parse().with_context(|| format!("{name} is {sum}"))
}

/// How many passes over this storage (`local`, `s3`) ended in error.
pub async fn errors(operator: &Operator, storage: &str) -> Result<u64> {
    value(operator, &format!("reconcile_{storage}_duration_seconds_count"), &[("status", "error")]).await
}

/// Waits for more passes over the bucket, counted by the beat.
pub async fn bucket_passes(operator: &mut Operator, more: u32) -> Result<()> {
    let count = async |operator: &Operator| value(operator, "reconcile_s3_duration_seconds_count", &[]).await;
    let begun = count(operator).await?;
    let look = async |operator: &Operator| {
        let ended = count(operator).await? - begun;
        ensure!(ended >= u64::from(more), "{ended} have ended");
        Ok(())
    };
    operator.until(&format!("{more} more passes over the bucket"), look).await
}
