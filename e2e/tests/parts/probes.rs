//! What the outside sees: probes, metrics, Events and the log.

// The values compared are counts and gauges of whole things.
#![allow(clippy::float_cmp)]

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use e2e::operator::Operator;
use e2e::proxy::{Fault, On};
use e2e::site::{FOLDER, Site};
use e2e::{snapshots, tools};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams};

use crate::common::{all_ready, counted, local_record, name, rises, said};

const HISTOGRAMS: [&str; 6] = ["reconcile", "reconcile_local", "reconcile_s3", "save", "save_local", "save_s3"];

#[tokio::test]
async fn probes_and_series_are_there_before_anything_else_is() -> Result<()> {
    let site = Site::new().await?;
    let (api, kubeconfig) = site.api.proxied(site.scratch())?;
    api.cut();
    let mut operator = site.operator_with_bucket().env("KUBECONFIG", kubeconfig).flag("--metrics-prefix", "k3s_").start().await?;
    let answer = operator.get("/readyz").await?;
    ensure!(answer.status == 503 && answer.body.starts_with("not ready\nwaiting for: the API server to say"), "{answer:?}");
    ensure!(answer.body.contains("waiting for: the records to be read"), "{answer:?}");
    ensure!(operator.get("/healthz").await?.ok()? == "healthy\n");
    ensure!(operator.get("/nothing").await?.status == 404);
    let metrics = operator.metrics().await?;
    for histogram in HISTOGRAMS {
        for status in ["success", "error"] {
            for prefix in ["", "k3s_"] {
                let series = format!("{prefix}etcd_snapshot_{histogram}_duration_seconds");
                metrics.get(&format!("{series}_count"), &[("status", status)])?;
                metrics.get(&format!("{series}_sum"), &[("status", status)])?;
                // 0.008 doubled eighteen times, and everything.
                ensure!(metrics.series(&format!("{series}_bucket"), &[("status", status)]) == 20);
                for bound in ["0.008", "131.072", "2097.152", "+Inf"] {
                    metrics.get(&format!("{series}_bucket"), &[("status", status), ("le", bound)])?;
                }
            }
        }
    }
    for series in ["last_beat_timestamp_seconds", "crd_missing", "build_info", "actions_total", "vetoes_total", "s3_requests_total"] {
        metrics.get(&format!("etcd_snapshot_{series}"), &[])?;
    }
    for operation in ["reconcile", "reconcile_local"] {
        metrics.get("etcd_snapshot_last_success_timestamp_seconds", &[("operation", operation)])?;
    }
    for action in ["write", "forget", "verify"] {
        for outcome in ["done", "failed", "stale", "vetoed"] {
            metrics.get("etcd_snapshot_actions_total", &[("action", action), ("outcome", outcome)])?;
        }
    }
    ensure!(metrics.get("etcd_snapshot_build_info", &[])? == 1.0);
    api.restore();
    operator.ready().await?;
    operator
        .until("nothing to be ill", async |operator| {
            ensure!(operator.get("/readyz").await?.ok()? == "ready\n");
            Ok(())
        })
        .await?;
    operator.beats(1).await?;
    let metrics = operator.metrics().await?;
    for kind in ["good", "whole", "plausible", "damaged", "unverified", "another-history", "another-cluster", "unknown"] {
        metrics.get("etcd_snapshot_files", &[("storage", "local"), ("kind", kind)])?;
        metrics.get("etcd_snapshot_bytes", &[("storage", "local"), ("kind", kind)])?;
    }
    ensure!(metrics.get("etcd_snapshot_last_good_timestamp_seconds", &[("storage", "local")])? == 0.0);
    Ok(())
}

#[tokio::test]
async fn a_prober_is_told_when_a_restart_helps() -> Result<()> {
    let site = Site::new().await?;
    site.place(&site.name(1_700_000_000), &snapshots::tiny(0))?;
    let mut operator = site.operator().start().await?;
    all_ready(&mut operator, &site, &[site.name(1_700_000_000)], &[]).await?;
    std::fs::rename(site.snapshots(), site.scratch().join("elsewhere"))?;
    std::fs::create_dir(site.snapshots())?;
    operator
        .until("the directory to be found replaced", async |operator| {
            let answer = operator.get("/healthz").await?;
            ensure!(answer.status == 503 && answer.body.contains("the snapshot directory was replaced"), "{answer:?}");
            Ok(())
        })
        .await?;
    ensure!(operator.get("/readyz").await?.status == 200);
    local_record(&site, &site.name(1_700_000_000)).await?;
    Ok(())
}

/// Everything that a label may say, by the tables of the documentation.
fn documented_values() -> Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(tools::repository("docs/metrics.md"))?;
    let table = text.split("| Label | Of | Values |").nth(1).context("no table of labels")?;
    let values = table.lines().filter_map(|row| row.split('|').nth(3)).flat_map(|cell| cell.split(','));
    Ok(values.map(|value| value.trim().trim_matches('`').to_owned()).filter(|value| !value.is_empty()).collect())
}

#[tokio::test]
async fn no_label_says_what_is_not_documented_and_no_name_is_in_one() -> Result<()> {
    let site = Site::new().await?;
    let files = [site.name(1_700_000_000), site.name(1_700_000_001)];
    let object = [site.name(1_700_000_002)];
    for file in &files {
        site.place(file, &snapshots::tiny(0))?;
    }
    site.put_ours(&object[0], snapshots::tiny(0)).await?;
    let mut operator = site.operator_with_bucket().start().await?;
    all_ready(&mut operator, &site, &files, &object).await?;
    std::fs::remove_file(site.snapshots().join(&files[1]))?;
    all_ready(&mut operator, &site, &files[..1], &object).await?;
    operator.beats(2).await?;
    let text = operator.get("/metrics").await?.ok()?;
    for name in [&files[0], &files[1], &object[0], &site.node, &site.bucket.name, &site.s3.access_key, &site.s3.secret_key] {
        ensure!(!text.contains(name.as_str()), "{name} is in /metrics");
    }
    let documented = documented_values()?;
    ensure!(documented.contains("good") && documented.contains("ListObjectsV2") && documented.len() > 30, "{documented:?}");
    let builds = [env!("CARGO_PKG_VERSION"), std::env::consts::ARCH];
    for value in operator.metrics().await?.label_values() {
        let is_bound = value == "+Inf" || value.parse::<f64>().is_ok();
        ensure!(documented.contains(value) || builds.contains(&value) || is_bound, "{value} is not documented");
    }
    Ok(())
}

#[tokio::test]
async fn beats_do_not_drift_however_long_a_pass_takes() -> Result<()> {
    let site = Site::new().await?;
    let s3 = site.s3.proxied()?;
    // Each listing asks twice: a pass takes most of a beat. Were the next beat counted from its end, there would be half as many.
    s3.when(On::list_objects(), Fault::Delay(std::time::Duration::from_millis(400)));
    let mut operator = site.operator_with_bucket().flag("--etcd-s3-endpoint", s3.endpoint()).start().await?;
    operator.ready().await?;
    rises(&mut operator, "etcd_snapshot_reconcile_s3_duration_seconds_count", &[], 0.0).await?;
    let look = async |operator: &Operator| -> Result<(f64, f64)> {
        let metrics = operator.metrics().await?;
        let ended = metrics.sum("etcd_snapshot_reconcile_duration_seconds_count", &[]).unwrap_or_default();
        Ok((ended, metrics.get("etcd_snapshot_last_beat_timestamp_seconds", &[])?))
    };
    let begun = look(&operator).await?;
    operator.beats(8).await?;
    let ended = look(&operator).await?;
    let (beats, seconds) = (ended.0 - begun.0, ended.1 - begun.1);
    ensure!(beats > seconds * 0.75, "{beats} beats in {seconds} s: they come late");
    ensure!(beats < seconds + 2.5, "{beats} beats in {seconds} s: missed ones are made up for");
    Ok(())
}

/// Events that the operator of this site told, oldest first.
async fn told(site: &Site) -> Result<Vec<(String, String)>> {
    let events: Api<Event> = Api::namespaced(site.kubernetes.client.clone(), "default");
    let mut events = events.list(&ListParams::default()).await?.items;
    events.retain(|event| event.reporting_instance.as_deref() == Some(&site.node));
    events.sort_by_key(|event| event.event_time.as_ref().map(|time| time.0));
    let about = |event: Event| (event.reason.unwrap_or_default(), event.regarding.and_then(|about| about.name).unwrap_or_default());
    Ok(events.into_iter().map(about).collect())
}

async fn hears(operator: &mut Operator, site: &Site, wanted: &[(&str, &str)]) -> Result<()> {
    operator
        .until("exactly these Events", async |_| {
            let told = told(site).await?;
            let told: Vec<(&str, &str)> = told.iter().map(|(reason, about)| (reason.as_str(), about.as_str())).collect();
            ensure!(told == wanted, "{told:?} instead of {wanted:?}");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn each_event_is_told_once() -> Result<()> {
    let site = Site::new().await?;
    let node = site.node.clone();
    let s3 = site.s3.proxied()?;
    let old = site.place(&site.name_of_another(1_600_000_000), &snapshots::tiny(0))?;
    std::fs::File::options().write(true).open(old)?.set_modified(std::time::SystemTime::UNIX_EPOCH)?;
    let mut operator = site.operator_with_bucket().flag("--etcd-s3-endpoint", s3.endpoint()).start().await?;
    all_ready(&mut operator, &site, &[site.name_of_another(1_600_000_000)], &[]).await?;
    operator.beats(2).await?;
    hears(&mut operator, &site, &[]).await.context("what was only found again is no news")?;

    let (new, damaged) = (site.name_of_another(1_700_000_000), site.name_of_another(1_700_000_001));
    site.place(&new, &snapshots::tiny(1))?;
    let record = operator.until("its record", async |_| local_record(&site, &new).await).await?;
    let mut story = vec![("ETCDSnapshotCreated", name(&record))];
    hears(&mut operator, &site, &story).await?;
    site.place(&damaged, &snapshots::bit_flipped(&snapshots::tiny(2)))?;
    let bad = operator.until("its record", async |_| local_record(&site, &damaged).await).await?;
    story.extend([("ETCDSnapshotCreated", name(&bad)), ("ETCDSnapshotDamaged", name(&bad))]);
    hears(&mut operator, &site, &story).await?;
    operator.beats(2).await?;
    hears(&mut operator, &site, &story).await.context("idle beats tell nothing")?;
    std::fs::remove_file(site.snapshots().join(&new))?;
    story.push(("ETCDSnapshotDeleted", name(&record)));
    hears(&mut operator, &site, &story).await?;

    rises(&mut operator, "etcd_snapshot_leader", &[], 0.0).await?;
    operator.beats(1).await?;
    s3.cut();
    story.push(("ETCDSnapshotStorageFailed", node.as_str()));
    hears(&mut operator, &site, &story).await?;
    operator.beats(3).await?;
    hears(&mut operator, &site, &story).await.context("one outage is one Event")?;
    s3.restore();
    story.push(("ETCDSnapshotStorageRecovered", node.as_str()));
    hears(&mut operator, &site, &story).await?;
    operator.beats(2).await?;
    hears(&mut operator, &site, &story).await?;

    // A restart is no news either.
    operator.terminate().await?;
    let mut operator = site.operator_with_bucket().flag("--etcd-s3-endpoint", s3.endpoint()).start().await?;
    operator.ready().await?;
    operator.beats(3).await?;
    hears(&mut operator, &site, &story).await
}

#[tokio::test]
async fn an_idle_beat_logs_one_line_at_debug_and_nothing_above() -> Result<()> {
    let site = Site::new().await?;
    let files = [site.name(1_700_000_000)];
    site.place(&files[0], &snapshots::tiny(0))?;
    site.put_ours(&files[0], snapshots::tiny(0)).await?;
    let mut operator = site.operator_with_bucket().env("RUST_LOG", "etcd_snapshot_operator=debug").start().await?;
    all_ready(&mut operator, &site, &files, &files).await?;
    operator.beats(2).await?;
    let levels = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"];
    let before = said(&operator, &levels, "").len();
    let begun = counted(&operator, "etcd_snapshot_reconcile_duration_seconds_count", &[]).await?;
    operator.beats(5).await?;
    // A beat's line follows its count; another beat may have ended since either was looked at.
    let lines = said(&operator, &levels, "");
    let beats = counted(&operator, "etcd_snapshot_reconcile_duration_seconds_count", &[]).await? - begun;
    let logged = u32::try_from(lines.len() - before)?;
    ensure!((f64::from(logged) - beats).abs() <= 1.0, "{logged} lines in {beats} beats: {:#?}", &lines[before..]);
    ensure!(lines[before..].iter().all(|line| line.contains(r#""level":"DEBUG""#)), "{:#?}", &lines[before..]);
    Ok(())
}

#[tokio::test]
async fn no_secret_is_in_anything_that_it_shows() -> Result<()> {
    let site = Site::new().await?;
    let files = [site.name(1_700_000_000)];
    site.place(&files[0], &snapshots::tiny(0))?;
    site.bucket.put(&format!("{FOLDER}/{}", files[0]), snapshots::tiny(0)).await?;
    let setup = site.operator_with_bucket().env("AWS_SESSION_TOKEN", "token-that-nobody-may-see").env("RUST_LOG", "trace");
    let mut operator = setup.start().await?;
    operator.until("its record", async |_| local_record(&site, &files[0]).await).await?;
    operator.beats(2).await?;
    let records = format!("{:?}{:?}", site.local_records().await?, site.bucket_records().await?);
    let command = std::fs::read_to_string(format!("/proc/{}/cmdline", operator.id()))?;
    let mut shown =
        vec![("records", records), ("log", operator.log()), ("command line", command), ("events", format!("{:?}", told(&site).await?))];
    for path in ["/metrics", "/healthz", "/readyz"] {
        shown.push((path, operator.get(path).await?.body));
    }
    for secret in [site.s3.secret_key.as_str(), "token-that-nobody-may-see", "admin-of-the-tests"] {
        for (what, text) in &shown {
            ensure!(!text.contains(secret), "a secret is in the {what}");
        }
    }
    Ok(())
}
