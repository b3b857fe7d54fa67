//! The chart's alerts, by the words of a real promtool: each is seen to fire and to be silent.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use e2e::monitoring::{alerts, files, rule_files};
use e2e::tools::{repository, run, tool};
use serde::Deserialize;

#[derive(Deserialize)]
struct TestFile {
    tests: Vec<Test>,
}

#[derive(Deserialize)]
struct Test {
    alert_rule_test: Vec<Look>,
}

#[derive(Deserialize)]
struct Look {
    alertname: String,
    #[serde(default)]
    exp_alerts: Vec<serde_json::Value>,
}

#[tokio::test]
async fn promtool_finds_every_alert_firing_and_silent_when_it_should_be() -> Result<()> {
    let promtool = tool("prometheus", "promtool")?;
    let check = ["check", "rules", "--lint=all", "--lint-fatal"].map(Into::into).into_iter();
    run(&promtool, check.chain(rule_files()?.into_iter().map(std::path::PathBuf::into_os_string))).await?;

    let tests = files(&repository("e2e/alerts"), "yaml")?;
    let mut seen: BTreeMap<String, (bool, bool)> = alerts()?.into_iter().map(|alert| (alert.name, (false, false))).collect();
    for path in &tests {
        let file: TestFile =
            serde_saphyr::from_str(&std::fs::read_to_string(path)?).with_context(|| format!("parse {}", path.display()))?;
        for look in file.tests.into_iter().flat_map(|test| test.alert_rule_test) {
            let (fires, silent) = seen.get_mut(&look.alertname).with_context(|| format!("there is no alert {}", look.alertname))?;
            *(if look.exp_alerts.is_empty() { silent } else { fires }) = true;
        }
    }
    let missing: Vec<_> = seen.iter().filter(|(_, both)| **both != (true, true)).collect();
    ensure!(missing.is_empty(), "not seen (firing, silent): {missing:?}");
    for path in tests {
        run(&promtool, ["test".into(), "rules".into(), path]).await?;
    }
    Ok(())
}
