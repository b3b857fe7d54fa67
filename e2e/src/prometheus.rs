//! A real Prometheus that scrapes operators each second.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{Launch, Process, scratch, with_free_ports};
use crate::{http, ports, tools};

/// The label `job` of what it scrapes.
pub const JOB: &str = "etcd-snapshot-operator";

/// A running Prometheus. Dropping it kills it.
pub struct Prometheus {
    process: Process,
    port: u16,
    _dir: TempDir,
}

impl Prometheus {
    /// Starts it with these rule files, and waits until it answers. `targets` are the nodes' names and `127.0.0.1:port`; as with
    /// the chart's `PodMonitor`, the label `instance` is the node.
    pub async fn start(targets: &[(&str, String)], rules: &[PathBuf]) -> Result<Self> {
        let targets: Vec<Value> = targets.iter().map(|(node, at)| json!({"targets": [at], "labels": {"instance": node}})).collect();
        // Every JSON document is a YAML document too.
        let config = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": rules,
            "scrape_configs": [{"job_name": JOB, "static_configs": targets}],
        });
        with_free_ports(async || {
            let (dir, port) = (scratch()?, ports::free());
            let path = dir.path().join("prometheus.yml");
            std::fs::write(&path, config.to_string())?;
            let process = Launch::new("prometheus", tools::tool("prometheus", "prometheus")?, dir.path())
                .arg(format!("--config.file={}", path.display()))
                .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
                .arg(format!("--web.listen-address={}", ports::loopback(port)))
                .start()?;
            let mut prometheus = Self { process, port, _dir: dir };
            let ready =
                prometheus.process.until("Prometheus to be ready", async || http::get(ports::loopback(port), "/-/ready").await?.ok());
            ready.await?;
            Ok(prometheus)
        })
        .await
    }

    /// What a query finds now: each series with its labels and value.
    pub async fn query(&self, query: &str) -> Result<Vec<Value>> {
        let path = format!("/api/v1/query?query={}", escaped(query));
        let answer = http::get(ports::loopback(self.port), &path).await?;
        let body: Value = serde_json::from_str(&answer.body).with_context(|| format!("not JSON: {}", answer.body))?;
        if body["status"] != "success" {
            bail!("Prometheus refuses {query}: {}", body["error"]);
        }
        match &body["data"]["result"] {
            Value::Array(series) => Ok(series.clone()),
            other => bail!("{query} is no vector: {other}"),
        }
    }

    /// SIGTERM, then SIGKILL.
    pub async fn stop(&mut self) {
        self.process.stop(Duration::from_secs(30)).await;
    }
}

fn escaped(text: &str) -> String {
    let escape = |byte: u8| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(escape).collect()
}
