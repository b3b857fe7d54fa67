//! The chart's alerts, runbooks and dashboards as files: each complete, and all of them about metrics that there are. What they find
//! on real servers is in `parts/`.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use e2e::monitoring::{Selector, alerts, awaited, dashboards, files, metrics_in, panels, queries, selectors, title};
use e2e::tools::repository;
use serde_json::Value;

/// The parts of a runbook, in their order.
const RUNBOOK: [&str; 4] = ["## What it means", "## What to look at", "## What to do", "## When to wake someone"];
/// The units of Grafana that a panel may have here.
const UNITS: [&str; 7] = ["none", "short", "s", "bytes", "Bps", "reqps", "dateTimeAsIso"];
/// Labels that Prometheus gives to a target, or a person to a cluster.
const OF_THE_TARGET: [&str; 4] = ["cluster", "namespace", "job", "instance"];
/// Counters count from the start of a process: only their rise means something.
const RISES: [&str; 3] = ["rate(", "increase(", "irate("];

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(repository(path)).with_context(|| format!("read {path}"))
}

#[test]
fn every_alert_says_how_bad_it_is_and_what_it_means_and_has_a_runbook() -> Result<()> {
    let mut names = BTreeSet::new();
    for alert in alerts()? {
        let name = &alert.name;
        ensure!(name.starts_with("EtcdSnapshot"), "{name} does not say whose it is");
        ensure!(names.insert(name.clone()), "{name} is there twice");
        let severity = alert.labels.get("severity").map(String::as_str).unwrap_or_default();
        ensure!(["critical", "warning", "info"].contains(&severity), "{name} has severity {severity:?}");
        for key in ["summary", "description"] {
            let said = alert.annotations.get(key).map(String::as_str).unwrap_or_default();
            ensure!(said.ends_with('.') || said.ends_with("{{ end }}"), "{name}: {key} is no sentence: {said:?}");
        }
        let runbook = format!("docs/runbooks/{name}.md");
        ensure!(alert.annotations.get("runbook_url") == Some(&runbook), "{name}: runbook_url is not {runbook}");
        let page = read(&runbook)?;
        ensure!(page.starts_with(&format!("# {name}\n")), "{runbook} has another title");
        let parts: Vec<_> = page.lines().filter(|line| line.starts_with("## ")).collect();
        ensure!(parts == RUNBOOK, "{runbook} has the parts {parts:?}");
    }
    let pages = files(&repository("docs/runbooks"), "md")?;
    let mut pages: BTreeSet<_> = pages.iter().filter_map(|path| path.file_stem()?.to_str().map(str::to_owned)).collect();
    ensure!(pages.remove("README"), "the runbooks have no page on how to read them");
    ensure!(pages == names, "runbooks without an alert: {:?}", pages.difference(&names).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn the_table_of_alerts_and_the_schema_of_values_name_each_of_them() -> Result<()> {
    let table = read("docs/alerts.md")?;
    let listed: BTreeSet<_> = table.lines().filter(|line| line.starts_with("| [Etcd")).map(row).collect();
    let there: BTreeSet<_> =
        alerts()?.into_iter().map(|alert| (alert.name, alert.labels.get("severity").cloned().unwrap_or_default())).collect();
    ensure!(listed == there, "docs/alerts.md differs by {:?}", listed.symmetric_difference(&there).collect::<Vec<_>>());

    let schema: Value = serde_json::from_str(&read(&format!("{}/values.schema.json", e2e::monitoring::CHART))?)?;
    let switches = schema.pointer("/properties/monitoring/properties/prometheusRule/properties/alerts/properties");
    let switches = switches.and_then(Value::as_object).context("the schema has no switches")?;
    let switches: BTreeSet<_> = switches.keys().cloned().collect();
    let names: BTreeSet<_> = there.into_iter().map(|(name, _)| name).collect();
    ensure!(switches == names, "the switches differ by {:?}", switches.symmetric_difference(&names).collect::<Vec<_>>());
    Ok(())
}

/// Name and severity of a line of the table.
fn row(line: &str) -> (String, String) {
    let mut cells = line.split('|').map(str::trim).skip(1);
    let name = cells.next().unwrap_or_default();
    let name = name.trim_start_matches('[').split(']').next().unwrap_or_default();
    (name.to_owned(), cells.next().unwrap_or_default().to_owned())
}

#[test]
fn alerts_and_dashboards_ask_for_metrics_that_the_operator_declares() -> Result<()> {
    let documented = metrics_in(&read("docs/metrics.md")?);
    let awaited = awaited()?;
    let mut asked: BTreeSet<String> = alerts()?.iter().flat_map(|alert| metrics_in(&alert.expr)).collect();
    for dashboard in dashboards()? {
        asked.extend(panels(&dashboard).flat_map(queries).flat_map(metrics_in));
    }
    let unknown: Vec<_> = asked.iter().filter(|name| !documented.contains(*name) && !awaited.contains(*name)).collect();
    ensure!(unknown.is_empty(), "nobody declares {unknown:?}");
    let idle: Vec<_> = awaited.difference(&asked).collect();
    ensure!(idle.is_empty(), "e2e/dashboard/awaited has what nothing asks for: {idle:?}");
    Ok(())
}

#[test]
fn alerts_and_dashboards_ask_for_labels_and_values_that_the_operator_declares() -> Result<()> {
    let page = read("docs/metrics.md")?;
    // Label, its metrics and its values; a value of any other form is `one, of this build`.
    let declared: Vec<Vec<BTreeSet<&str>>> =
        page.lines().map(|line| line.trim_matches('|').split('|').map(words).collect()).filter(|row: &Vec<_>| row.len() == 3).collect();
    let documented = metrics_in(&page);
    let mut queries: Vec<String> = alerts()?.into_iter().map(|alert| alert.expr).collect();
    for dashboard in dashboards()? {
        queries.extend(panels(&dashboard).flat_map(e2e::monitoring::queries).map(str::to_owned));
    }
    let mut looked_at = 0;
    for query in &queries {
        for selector in selectors(query) {
            let Some(name) = metrics_in(selector.name).pop_first().filter(|name| documented.contains(name)) else { continue };
            for (label, values) in matchers(selector.matchers).filter(|(label, _)| !OF_THE_TARGET.contains(label)) {
                let of = |row: &&Vec<BTreeSet<&str>>| row[0].contains(label) && row[1].contains(name.as_str());
                let row = declared.iter().find(of).with_context(|| format!("{name} has no label {label}: {query}"))?;
                let unknown: Vec<_> = values.split('|').filter(|value| !row[2].contains(value)).collect();
                ensure!(unknown.is_empty(), "{name}: {label} is never {unknown:?}: {query}");
                looked_at += 1;
            }
        }
    }
    ensure!(looked_at > 20, "only {looked_at} were looked at");
    Ok(())
}

/// What stands between backticks.
fn words(cell: &str) -> BTreeSet<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Label and value of `a="b", c=~"d|e"`.
fn matchers(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let quoted = text.split("\",").map(|one| one.trim().trim_end_matches('"'));
    quoted.filter_map(|one| one.split_once('"')).map(|(label, value)| (label.trim_end_matches(['=', '~', '!']), value))
}

#[test]
fn a_dashboard_can_be_pointed_at_any_data_source_cluster_and_node() -> Result<()> {
    for dashboard in dashboards()? {
        ensure!(dashboard["editable"] == false && dashboard["uid"].is_string() && dashboard["tags"][0].is_string());
        let variables = dashboard["templating"]["list"].as_array().context("no variables")?;
        let names: Vec<_> = variables.iter().filter_map(|one| one["name"].as_str()).collect();
        ensure!(names == ["datasource", "cluster", "namespace", "job", "instance"], "{names:?}");
        ensure!(variables[0]["type"] == "datasource" && variables[0]["query"] == "prometheus" && variables[0]["label"] == "Data source");
        for (at, variable) in variables.iter().enumerate().skip(1) {
            let name = names[at];
            // cluster and namespace may be missing from a target; Grafana's linter asks for ".+" of the other two.
            let all = if ["cluster", "namespace"].contains(&name) { ".*" } else { ".+" };
            ensure!(variable["type"] == "query" && variable["datasource"]["uid"] == "${datasource}", "{name}: {variable}");
            ensure!(variable["multi"] == true && variable["includeAll"] == true && variable["allValue"] == all, "{name}: {variable}");
            ensure!(variable["refresh"] == 2 && variable["label"].is_string(), "{name} is not asked for anew with the time range");
            let query = variable["query"]["query"].as_str().unwrap_or_default();
            ensure!(variable["definition"] == query, "{name}: definition and query differ");
            ensure!(query.starts_with("label_values(etcd_snapshot_build_info") && query.ends_with(&format!("{name})")), "{name}: {query}");
            ensure!(names[1..at].iter().all(|earlier| query.contains(&format!("{earlier}=~\"${earlier}\""))), "{name}: {query}");
        }
    }
    Ok(())
}

#[test]
fn every_panel_has_a_title_a_description_a_unit_and_queries_with_legends() -> Result<()> {
    for dashboard in dashboards()? {
        let mut titles = BTreeSet::new();
        for panel in panels(&dashboard) {
            let title = title(panel);
            ensure!(panel["title"].as_str().is_some_and(|title| !title.is_empty()), "no title: {panel}");
            ensure!(titles.insert(title), "two panels are called {title}");
            ensure!(panel["description"].as_str().is_some_and(|said| said.ends_with('.')), "{title}: no description");
            let unit = panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap_or_default();
            ensure!(UNITS.contains(&unit), "{title}: unit {unit:?}");
            ensure!(panel["datasource"]["uid"] == "${datasource}", "{title}: data source");
            let targets =
                panel["targets"].as_array().filter(|targets| !targets.is_empty()).with_context(|| format!("{title}: no query"))?;
            let mut ids = BTreeSet::new();
            for target in targets {
                ensure!(ids.insert(target["refId"].as_str()), "{title}: refId twice");
                ensure!(target["datasource"]["uid"] == "${datasource}", "{title}: data source of a query");
                ensure!(target["legendFormat"].as_str().is_some_and(|said| !said.is_empty()), "{title}: no legend");
                ensure!(target["expr"].as_str().is_some_and(|query| !query.is_empty()), "{title}: no query");
                let heatmap = panel["type"] == "heatmap";
                ensure!((target["format"] == "heatmap") == heatmap, "{title}: format {}", target["format"]);
                ensure!(
                    (target["instant"] == true) == ["stat", "table"].contains(&panel["type"].as_str().unwrap_or_default()),
                    "{title}: instant"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn every_query_is_narrowed_by_the_variables_and_takes_the_rate_of_a_counter_over_the_interval_that_grafana_gives() -> Result<()> {
    for dashboard in dashboards()? {
        for panel in panels(&dashboard) {
            for query in queries(panel) {
                let found = selectors(query);
                ensure!(!found.is_empty(), "{}: {query} selects nothing", title(panel));
                for selector in found {
                    narrowed(selector).with_context(|| format!("{}: {query}", title(panel)))?;
                }
            }
        }
    }
    Ok(())
}

fn narrowed(selector: Selector<'_>) -> Result<()> {
    let Selector { name, matchers, before, after } = selector;
    // An alert has the labels that its expression leaves, at the least none but the cluster's.
    let variables: &[&str] = if name == "ALERTS" { &["cluster"] } else { &["cluster", "namespace", "job"] };
    for variable in variables {
        ensure!(matchers.contains(&format!("{variable}=~\"${variable}\"")), "{name} is not narrowed by {variable}");
    }
    // What is of the bucket comes from whichever node leads it.
    let of_the_bucket = ["_s3_duration_", "_bucket_contested", "_vanished_total"].iter().any(|part| name.contains(part));
    ensure!(of_the_bucket || name == "ALERTS" || matchers.contains("instance=~\"$instance\""), "{name} is not narrowed by instance");
    for fixed in ["cluster=\"", "namespace=\"", "job=\"", "instance=\""] {
        ensure!(!matchers.contains(fixed), "{name} has a fixed {fixed}");
    }
    let counter = ["_total", "_count", "_sum", "_bucket"].iter().any(|end| name.ends_with(end));
    let rises = RISES.iter().any(|function| before.ends_with(function));
    ensure!(counter == rises, "{name}: a counter, and nothing else, wants one of {RISES:?}");
    ensure!(!rises || after.starts_with("[$__rate_interval]") || after.starts_with("[$__range]"), "{name}: over what interval?");
    Ok(())
}

#[test]
fn no_two_panels_lie_on_one_another() -> Result<()> {
    for dashboard in dashboards()? {
        let all = dashboard["panels"].as_array().context("no panels")?;
        let ids: BTreeSet<_> = all.iter().map(|panel| panel["id"].as_u64()).collect();
        ensure!(ids.len() == all.len() && !ids.contains(&None), "ids: {ids:?}");
        let mut taken = BTreeSet::new();
        for panel in all {
            let side = |name: &str| panel["gridPos"][name].as_u64().with_context(|| format!("{}: no {name}", title(panel)));
            let (x, y, w, h) = (side("x")?, side("y")?, side("w")?, side("h")?);
            ensure!(w > 0 && h > 0 && x + w <= 24, "{} does not fit", title(panel));
            for cell in (x..x + w).flat_map(|column| (y..y + h).map(move |line| (column, line))) {
                ensure!(taken.insert(cell), "{} lies on another panel at {cell:?}", title(panel));
            }
        }
        ensure!(all.first().is_some_and(|panel| panel["title"] == "Am I protected?"), "the first question is another one");
    }
    Ok(())
}
