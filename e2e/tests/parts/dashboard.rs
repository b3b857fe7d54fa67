//! The chart's dashboards against a real Prometheus that scraped a real run, and against Grafana's own types.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use e2e::monitoring::{awaited, dashboard_files, dashboards, metrics_in, panels, queries, rule_files, title};
use e2e::operator::Operator;
use e2e::prometheus::Prometheus;
use e2e::site::Site;
use e2e::tools::{TOOLS, repository, run};
use e2e::{snapshots, wait};

use crate::common::rises;

/// What Grafana puts in for the variables when nothing is chosen, and for a scrape each second.
const VARIABLES: [(&str, &str); 6] =
    [("$__rate_interval", "15s"), ("$__range", "5m"), ("$cluster", ".*"), ("$namespace", ".*"), ("$job", ".+"), ("$instance", ".+")];

fn put_in(query: &str) -> String {
    VARIABLES.iter().fold(query.to_owned(), |query, (name, value)| query.replace(name, value))
}

/// A node with three whole snapshots and one damaged, that saves on schedule, and a bucket that it leads.
async fn node(site: &Site) -> Result<Operator> {
    for number in 0..3 {
        let name = site.name(1_700_000_000 + number);
        site.place(&name, &snapshots::tiny(u64::try_from(number)?))?;
        site.put_ours(&name, snapshots::tiny(u64::try_from(number)?)).await?;
    }
    site.place(&site.name(1_700_000_009), &snapshots::bit_flipped(&snapshots::tiny(9)))?;
    let saving = site.operator_with_bucket().saving("@every 5s");
    let mut operator = saving.start().await?;
    operator.ready().await?;
    rises(&mut operator, "etcd_snapshot_upload_bytes_total", &[], 0.0).await?;
    rises(&mut operator, "etcd_snapshot_leader", &[], 0.0).await?;
    Ok(operator)
}

#[tokio::test]
async fn every_query_of_a_dashboard_finds_data_after_a_real_run() -> Result<()> {
    let site = Site::new().await?;
    let operator = node(&site).await?;
    let mut prometheus = Prometheus::start(&[(&site.node, operator.http())], &rule_files()?).await?;
    let awaited = awaited()?;
    let mut waiting = Vec::new();
    for dashboard in dashboards()? {
        for panel in panels(&dashboard) {
            waiting.extend(queries(panel).into_iter().map(|query| (title(panel).to_owned(), query.to_owned())));
        }
    }
    ensure!(waiting.len() > 30, "{} queries", waiting.len());
    let may_be_empty = |query: &str| metrics_in(query).iter().any(|name| awaited.contains(name));
    wait::until("every query to find data", async || {
        let mut empty = Vec::new();
        for (panel, query) in &waiting {
            let found = prometheus.query(&put_in(query)).await.with_context(|| panel.clone())?;
            if !found.iter().any(|series| series["value"][1] != "NaN") {
                empty.push((panel.clone(), query.clone()));
            }
        }
        waiting.clone_from(&empty);
        empty.retain(|(_, query)| !may_be_empty(query));
        ensure!(empty.is_empty(), "nothing is found by {empty:#?}");
        Ok(())
    })
    .await?;

    // Whatever the operator shows, and no panel misses, need not be waited for any more.
    let metrics = operator.metrics().await?;
    let shown = |name: &&String| metrics.series(name, &[]) + metrics.series(&format!("{name}_count"), &[]) > 0;
    let missed = |name: &&String| waiting.iter().any(|(_, query)| metrics_in(query).contains(*name));
    let there: Vec<_> = awaited.iter().filter(shown).filter(|name| !missed(name)).collect();
    ensure!(there.is_empty(), "take off e2e/dashboard/awaited, for there is data now: {there:?}");
    prometheus.stop().await;
    Ok(())
}

#[tokio::test]
async fn the_rules_are_evaluated_on_live_data_and_one_alert_is_due() -> Result<()> {
    let site = Site::new().await?;
    let operator = node(&site).await?;
    let mut prometheus = Prometheus::start(&[(&site.node, operator.http())], &rule_files()?).await?;
    let due = wait::until("the damaged snapshot to be an alert", async || {
        let query = r#"ALERTS{alertname="EtcdSnapshotDamaged"}"#;
        prometheus.query(query).await?.into_iter().next().context("no such alert")
    });
    let due = due.await?;
    ensure!(due["metric"]["instance"] == site.node.as_str() && due["metric"]["storage"] == "local", "{due}");
    // What was pending before the first scrape is not any more.
    wait::until("the other alerts to be silent", async || {
        let others = r#"ALERTS{alertname=~"EtcdSnapshot(Operator.+|LeaderMissing|CRDMissing|BeatMissing|S3Unreachable)"}"#;
        let found = prometheus.query(others).await?;
        ensure!(found.is_empty(), "{found:?}");
        Ok(())
    })
    .await?;
    prometheus.stop().await;
    Ok(())
}

#[tokio::test]
async fn dashboards_have_the_types_of_grafana_s_schema() -> Result<()> {
    let tools = std::env::var_os(TOOLS).with_context(|| format!("{TOOLS} is not set: run this with e2e/test"))?;
    let tools = Path::new(&tools).join("grafana-schema");
    let check = repository("e2e/dashboard/check");
    let words = [tools.clone()].into_iter().chain(dashboard_files()?);
    run(&check, words).await?;

    // A word that Grafana does not know is found.
    let dir = e2e::process::scratch()?;
    let first = dashboard_files()?.into_iter().next().context("no dashboard")?;
    let text = std::fs::read_to_string(first)?;
    let wrong: PathBuf = dir.path().join("wrong.json");
    std::fs::write(&wrong, text.replacen("\"palette-classic\"", "\"palette-clasic\"", 1))?;
    ensure!(run(&check, [tools, wrong]).await.is_err(), "a wrong word has gone unnoticed");
    Ok(())
}
