//! The chart's alerts and dashboards as files: what they ask of which metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::tools::repository;

/// The chart.
pub const CHART: &str = "charts/etcd-snapshot-operator";
/// Names of metrics, one a line, that dashboards and alerts ask for and that a run of the tests does not show yet.
const AWAITED: &str = "e2e/dashboard/awaited";

/// One alert of a rule file.
#[derive(Debug, Clone, Deserialize)]
pub struct Alert {
    #[serde(rename = "alert")]
    pub name: String,
    pub expr: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct RuleFile {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Alert>,
}

/// The rule files in the chart.
pub fn rule_files() -> Result<Vec<PathBuf>> {
    files(&repository(CHART).join("alerts"), "yaml")
}

/// Every alert of every rule file.
pub fn alerts() -> Result<Vec<Alert>> {
    let mut alerts = Vec::new();
    for path in rule_files()? {
        let text = std::fs::read_to_string(&path)?;
        let file: RuleFile = serde_saphyr::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
        alerts.extend(file.groups.into_iter().flat_map(|group| group.rules));
    }
    Ok(alerts)
}

/// The dashboards in the chart.
pub fn dashboard_files() -> Result<Vec<PathBuf>> {
    files(&repository(CHART).join("dashboards"), "json")
}

/// Each dashboard as it is.
pub fn dashboards() -> Result<Vec<Value>> {
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path)?;
        serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))
    };
    dashboard_files()?.into_iter().map(read).collect()
}

/// Files of a folder with this extension, in order.
pub fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|is| is == extension));
    paths.sort();
    Ok(paths)
}

/// The panels that show something, without the rows between them.
pub fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    dashboard["panels"].as_array().into_iter().flatten().filter(|panel| panel["type"] != "row")
}

/// A panel's title, for a message.
pub fn title(panel: &Value) -> &str {
    panel["title"].as_str().unwrap_or("a panel without a title")
}

/// A panel's queries.
pub fn queries(panel: &Value) -> Vec<&str> {
    panel["targets"].as_array().into_iter().flatten().filter_map(|target| target["expr"].as_str()).collect()
}

/// One `name{…}` of a query.
#[derive(Debug, Clone, Copy)]
pub struct Selector<'a> {
    pub name: &'a str,
    /// What is between the braces.
    pub matchers: &'a str,
    /// The query up to the name.
    pub before: &'a str,
    /// The query after the closing brace.
    pub after: &'a str,
}

/// Every selector with braces. None of ours has a brace inside of quotes.
pub fn selectors(query: &str) -> Vec<Selector<'_>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(open) = query[from..].find('{').map(|at| from + at) {
        let name_begins = query[..open].rfind(|char: char| !in_name(char)).map_or(0, |at| at + 1);
        let close = query[open..].find('}').map_or(query.len(), |at| open + at);
        found.push(Selector {
            name: &query[name_begins..open],
            matchers: &query[open + 1..close],
            before: &query[..name_begins],
            after: query.get(close + 1..).unwrap_or_default(),
        });
        from = close;
    }
    found
}

/// The operator's own metrics that a query asks for, a histogram by its own name.
pub fn metrics_in(query: &str) -> BTreeSet<String> {
    let words = query.split(|char: char| !in_name(char)).filter(|word| word.starts_with("etcd_snapshot_"));
    words.map(|word| family(word).to_owned()).collect()
}

/// `…_duration_seconds_bucket` is of the histogram `…_duration_seconds`.
fn family(series: &str) -> &str {
    let of = |suffix| series.strip_suffix(suffix).filter(|name: &&str| name.ends_with("_seconds"));
    ["_bucket", "_count", "_sum"].into_iter().find_map(of).unwrap_or(series)
}

fn in_name(char: char) -> bool {
    char.is_ascii_alphanumeric() || char == '_'
}

/// The metrics that a run of the tests does not show yet.
pub fn awaited() -> Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(repository(AWAITED)).with_context(|| format!("read {AWAITED}"))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_tells_its_selectors_and_metrics() {
        let query = r#"sum(rate(etcd_snapshot_save_duration_seconds_count{a="b"}[5m])) / max(up{c=~"d"}) > etcd_snapshot_leader"#;
        let found: Vec<_> = selectors(query).iter().map(|one| (one.name, one.matchers)).collect();
        assert_eq!(found, [("etcd_snapshot_save_duration_seconds_count", r#"a="b""#), ("up", r#"c=~"d""#)]);
        assert!(selectors(query)[0].before.ends_with("rate(") && selectors(query)[0].after.starts_with("[5m]"));
        let metrics: Vec<_> = metrics_in(query).into_iter().collect();
        assert_eq!(metrics, ["etcd_snapshot_leader", "etcd_snapshot_save_duration_seconds"]);
    }
}
