//! The story of the operator on a terminal: `e2e/demo` builds what this needs and starts it; `--no-wait` ends it after the story.
//!
//! Everything is real. Each command is run by a shell as it is shown, and what stands below it is what it printed.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use e2e::apiserver::ApiServer;
use e2e::kubernetes::Kubernetes;
use e2e::operator::{Operator, OperatorSetup};
use e2e::process::scratch;
use e2e::s3::S3;
use e2e::{snapshots, tools, wait};
use kube::api::DynamicObject;
use tempfile::TempDir;

const NODE: &str = "demo";
const BUCKET: &str = "demo";
const BEAT: &str = "10s";
/// A table that fits a terminal.
const TABLE: &str = "kubectl get etcdsnapshotfiles -o custom-columns-file=short";
const SHORT: &str = "RECORD SIZE READY\n.metadata.name .status.size .status.readyToUse\n";

#[tokio::main]
async fn main() -> ExitCode {
    let wait = match std::env::args().nth(1).as_deref() {
        None => true,
        Some("--no-wait") => false,
        Some(other) => {
            eprintln!("demo: unknown argument {other}: there is only --no-wait");
            return ExitCode::from(2);
        }
    };
    let story = async {
        let mut demo = Demo::begin().await?;
        demo.tell_story().await?;
        if wait { demo.leave_running().await } else { anyhow::Ok(()) }
    };
    // Whoever is interrupted drops what it has started on its way out.
    let ended = tokio::select! {
        ended = story => ended,
        _ = tokio::signal::ctrl_c() => Ok(()),
        () = terminated() => Ok(()),
    };
    match ended {
        Ok(()) => {
            println!("Everything is stopped and removed.");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\ndemo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

struct Demo {
    style: Style,
    operator: Option<Operator>,
    kubernetes: Kubernetes,
    s3: S3,
    api: ApiServer,
    dir: TempDir,
    /// The time in the next snapshot's name: two of one second would be one file.
    seconds: u64,
}

impl Demo {
    async fn begin() -> Result<Self> {
        let style = Style::of_stdout();
        Style::paragraph("Starting a real etcd, kube-apiserver and S3 server on loopback: a few seconds.");
        let dir = scratch()?;
        std::fs::create_dir(dir.path().join("snapshots"))?;
        let (api, s3) = tokio::try_join!(ApiServer::start(), S3::start())?;
        s3.bucket(BUCKET).await?;
        let kubernetes = api.kubernetes().await?;
        // For curl, so that no command shows a key.
        let curl =
            format!("aws-sigv4 = \"aws:amz:us-east-1:s3\"\nuser = \"{}:{}\"\nsilent\nshow-error\nfail\n", s3.access_key, s3.secret_key);
        std::fs::write(dir.path().join("s3.curl"), curl)?;
        std::fs::write(dir.path().join("short"), SHORT)?;
        Ok(Self { style, operator: None, kubernetes, s3, api, dir, seconds: 0 })
    }

    async fn tell_story(&mut self) -> Result<()> {
        self.style.title("Snapshots, taken by hand");
        Style::paragraph(
            "The cluster's own etcd is saved twice into a directory, and both snapshots\n\
             are put into a bucket, with the metadata that K3s gives an object.",
        );
        let mut names = Vec::new();
        for _ in 0..2 {
            names.push(self.save().await?);
        }
        for name in &names {
            let metadata = "-H \"x-amz-meta-k3s-node-name: $NODE\" -H \"x-amz-meta-k3s-cluster-id: $CLUSTER\"";
            self.run(&format!("curl -K s3.curl -T snapshots/{name} $BUCKET/ \\\n    {metadata}")).await?;
        }

        self.style.title("The operator");
        Style::paragraph("It needs the resource, and never installs it: on K3s it is there already.");
        self.run(&format!("kubectl apply -f {}", tools::repository(e2e::kubernetes::CRD_FILE).display())).await?;
        let begun = Instant::now();
        self.start_operator().await?;
        self.records("four records, all verified", |records| records.len() == 4 && records.iter().all(is_ready)).await?;
        Style::paragraph(&format!(
            "{} later every snapshot has a record. READY means that it was read to its\n\
             end and has the digest that etcd gave it; an object without one is ready\n\
             when its size is that of a snapshot.",
            took(begun)
        ));
        self.run("kubectl get etcdsnapshotfiles").await?;

        self.style.title("A file appears");
        let name = self.save().await?;
        let begun = Instant::now();
        self.records("the new record", |records| records.iter().any(|record| is_of(record, &name) && is_ready(record))).await?;
        Style::paragraph(&format!("Its record was there, verified, {} later.", took(begun)));
        self.run(TABLE).await?;

        self.style.title("A damaged file appears");
        let damaged = self.next_name();
        self.run(&format!("cp snapshots/{name} snapshots/{damaged}")).await?;
        self.run(&format!("printf x | dd of=snapshots/{damaged} bs=1 seek=50000 conv=notrunc status=none")).await?;
        let broken = self.records("the record of the damaged file", |records| {
            records.iter().any(|record| is_of(record, &damaged) && reason(record).is_some())
        });
        let broken =
            broken.await?.into_iter().find(|record| is_of(record, &damaged)).and_then(|record| record.metadata.name).unwrap_or_default();
        Style::paragraph("One byte is another one now. It has a record too, which is not ready and says why.");
        self.run(&format!(
            "kubectl get etcdsnapshotfile {broken} \\\n    -o jsonpath='{{.status.readyToUse}}: {{.status.error.message}}{{\"\\n\"}}'"
        ))
        .await?;

        self.style.title("An object is deleted by hand");
        self.run(&format!("curl -K s3.curl -X DELETE $BUCKET/{}", names[0])).await?;
        let begun = Instant::now();
        self.records("the record of the object to go", |records| in_bucket(records) == 1).await?;
        Style::paragraph(&format!("Its record went at the next pass, {} later. Passes come every {BEAT} here.", took(begun)));
        self.run(TABLE).await?;

        self.style.title("The bucket becomes unreachable");
        Style::paragraph("The S3 server is stopped, and another snapshot is taken.");
        self.s3.stop();
        let failed_before = ended_s3_passes(self.operator()?, "error").await?;
        let name = self.save().await?;
        self.records("the new record", |records| records.iter().any(|record| is_of(record, &name) && is_ready(record))).await?;
        self.operator()?
            .until("a pass over the bucket to fail", async |operator| {
                let failed = ended_s3_passes(operator, "error").await?;
                ensure!(failed > failed_before, "{failed} have failed");
                Ok(())
            })
            .await?;
        Style::paragraph(
            "A pass over the bucket has failed since. Local records go on; a listing that\n\
             failed removes nothing, so the object's record stays.",
        );
        self.run(TABLE).await?;
        Style::paragraph("The operator stays ready, since a restart would not help, and says what is ill.");
        self.run("curl -s $OPERATOR/readyz").await?;
        self.s3.launch().await?;
        let ended_before = ended_s3_passes(self.operator()?, "success").await?;
        self.operator()?
            .until("a pass over the bucket to succeed", async |operator| {
                let ended = ended_s3_passes(operator, "success").await?;
                ensure!(ended > ended_before, "{ended} have succeeded");
                Ok(())
            })
            .await?;
        Style::paragraph("The S3 server is back, and nobody had to do anything:");
        self.run("curl -s $OPERATOR/readyz").await?;

        self.style.title("The six histograms");
        Style::paragraph("K3s's own, for its dashboards: what was reconciled, how often, with what outcome.");
        self.run("curl -s $OPERATOR/metrics | grep '^etcd_snapshot_.*_duration_seconds_count'").await
    }

    async fn leave_running(&mut self) -> Result<()> {
        self.style.title("Now you");
        Style::paragraph("Everything runs until Ctrl-C. In another terminal:");
        println!("cd {}", self.dir.path().display());
        for (name, value) in self.variables().await? {
            println!("export {name}=\"{value}\"");
        }
        println!();
        for line in [
            "kubectl get etcdsnapshotfiles --watch",
            "kubectl explain etcdsnapshotfile.status",
            "etcdctl snapshot save snapshots/etcd-snapshot-$NODE-$(date +%s)",
            "curl -K s3.curl \"$BUCKET?list-type=2\"",
            "curl -s $OPERATOR/metrics",
            &format!("less {}", self.operator()?.log_path().display()),
        ] {
            println!("{}", self.style.command(line));
        }
        println!();
        std::future::pending().await
    }

    async fn start_operator(&mut self) -> Result<()> {
        let setup = OperatorSetup::default()
            .flag("--node-name", NODE)
            .flag("--etcd-snapshot-dir", self.dir.path().join("snapshots"))
            .flag("--etcd-snapshot-reconcile-interval", BEAT)
            .switch("--etcd-s3")
            .flag("--etcd-s3-endpoint", self.s3.endpoint())
            .switch("--etcd-s3-insecure")
            .flag("--etcd-s3-bucket", BUCKET)
            .flag("--etcd-s3-bucket-lookup-type", "path")
            .flag("--namespace", "default")
            .env("KUBECONFIG", self.api.kubeconfig())
            .env("AWS_ACCESS_KEY_ID", &self.s3.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &self.s3.secret_key);
        Style::paragraph("The keys of the bucket come from the environment.");
        println!("{}\n", self.style.command(&setup.shown()));
        let mut operator = setup.start().await?;
        operator.ready().await?;
        self.operator = Some(operator);
        Ok(())
    }

    fn operator(&mut self) -> Result<&mut Operator> {
        self.operator.as_mut().context("the operator does not run")
    }

    fn next_name(&mut self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.seconds = now.max(self.seconds + 1);
        snapshots::name(NODE, i64::try_from(self.seconds).unwrap_or(i64::MAX))
    }

    /// Takes a snapshot into the directory; returns its name.
    async fn save(&mut self) -> Result<String> {
        let name = self.next_name();
        self.run(&format!("etcdctl snapshot save snapshots/{name}")).await?;
        Ok(name)
    }

    /// Waits until the records are so, and returns them.
    async fn records(&mut self, what: &str, are_so: impl Fn(&[DynamicObject]) -> bool) -> Result<Vec<DynamicObject>> {
        let kubernetes = self.kubernetes.clone();
        self.operator()?
            .until(what, async |_| {
                let records = kubernetes.records_where(|_| true).await?;
                ensure!(
                    are_so(&records),
                    "{} records, of which {} are ready",
                    records.len(),
                    records.iter().filter(|record| is_ready(record)).count()
                );
                Ok(records)
            })
            .await
    }

    /// What the shown commands are run with, and what is to be copied for more of them.
    async fn variables(&self) -> Result<Vec<(&'static str, String)>> {
        let folder = |path: PathBuf| path.parent().map(Path::to_owned).unwrap_or_default();
        let kubectl = folder(tools::tool("kubernetes", "kubectl")?);
        let etcdctl = folder(tools::tool(e2e::etcd::DEFAULT_SET, "etcdctl")?);
        Ok(vec![
            ("PATH", format!("{}:{}:$PATH", kubectl.display(), etcdctl.display())),
            ("KUBECONFIG", self.api.kubeconfig().display().to_string()),
            ("ETCDCTL_ENDPOINTS", self.api.etcd.endpoint()),
            ("BUCKET", format!("http://{}/{BUCKET}", self.s3.endpoint())),
            ("NODE", NODE.to_owned()),
            ("CLUSTER", self.kubernetes.cluster_id().await?),
            ("OPERATOR", self.operator.as_ref().map_or_else(String::new, |operator| format!("http://{}", operator.http()))),
        ])
    }

    /// Shows a command, runs it, and shows what it printed.
    async fn run(&self, line: &str) -> Result<()> {
        println!("{}", self.style.command(line));
        std::io::stdout().flush()?;
        let mut shell = tokio::process::Command::new("bash");
        let exports: Vec<String> = self.variables().await?.iter().map(|(name, value)| format!("export {name}=\"{value}\"\n")).collect();
        shell.arg("-c").arg(format!("set -o pipefail\n{}{line}", exports.concat())).current_dir(self.dir.path());
        let ended = shell.stdin(Stdio::null()).kill_on_drop(true).output();
        let ended = tokio::time::timeout(wait::PATIENCE, ended).await.context("the command does not end")??;
        print!("{}", String::from_utf8_lossy(&ended.stdout));
        if !ended.status.success() {
            bail!("it failed: {}", String::from_utf8_lossy(&ended.stderr).trim());
        }
        println!();
        Ok(())
    }
}

fn is_ready(record: &DynamicObject) -> bool {
    record.data["status"]["readyToUse"] == true
}

fn is_of(record: &DynamicObject, name: &str) -> bool {
    record.data["spec"]["snapshotName"] == name && record.data["spec"]["s3"].is_null()
}

fn reason(record: &DynamicObject) -> Option<&str> {
    record.data["status"]["error"]["message"].as_str()
}

fn in_bucket(records: &[DynamicObject]) -> usize {
    records.iter().filter(|record| !record.data["spec"]["s3"].is_null()).count()
}

async fn ended_s3_passes(operator: &Operator, status: &str) -> Result<f64> {
    operator.metrics().await?.get("etcd_snapshot_reconcile_s3_duration_seconds_count", &[("status", status)])
}

fn took(begun: Instant) -> String {
    let took: Duration = begun.elapsed();
    format!("{:.1} s", took.as_secs_f64())
}

async fn terminated() {
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(mut terminated) => {
            terminated.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}

/// How the story looks: with weight and colour on a terminal, plain elsewhere and where `NO_COLOR` is set.
struct Style {
    plain: bool,
}

impl Style {
    fn of_stdout() -> Self {
        Self { plain: !std::io::stdout().is_terminal() || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) }
    }

    fn title(&self, text: &str) {
        let rule = "─".repeat(75_usize.saturating_sub(text.chars().count()));
        println!("{}\n", self.paint("1", &format!("── {text} {rule}")));
    }

    fn paragraph(text: &str) {
        println!("{text}\n");
    }

    fn command(&self, line: &str) -> String {
        format!("{} {}", self.paint("1;32", "$"), self.paint("1", line))
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.plain { text.to_owned() } else { format!("\x1b[{code}m{text}\x1b[0m") }
    }
}
