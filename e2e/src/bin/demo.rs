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
const BEAT: &str = "5s";
/// The schedule. The snapshots of the beginning are older, so the first save is due at once.
const EVERY: &str = "@every 1m";
/// How many good ones stay.
const KEPT: &str = "3";
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
        // For curl and for the verbs by hand, so that no command shows a key.
        let curl =
            format!("aws-sigv4 = \"aws:amz:us-east-1:s3\"\nuser = \"{}:{}\"\nsilent\nshow-error\nfail\n", s3.access_key, s3.secret_key);
        std::fs::write(dir.path().join("s3.curl"), curl)?;
        let keys = format!("export AWS_ACCESS_KEY_ID={} AWS_SECRET_ACCESS_KEY={}\n", s3.access_key, s3.secret_key);
        std::fs::write(dir.path().join("keys"), keys)?;
        std::fs::write(dir.path().join("short"), SHORT)?;
        Ok(Self { style, operator: None, kubernetes, s3, api, dir, seconds: 0 })
    }

    async fn tell_story(&mut self) -> Result<()> {
        self.a_directory_that_was_there().await?;
        self.it_only_looks().await?;
        let scheduled = self.it_does_what_it_said().await?;
        self.one_by_hand().await?;
        self.a_damaged_file().await?;
        self.an_object_is_deleted(&scheduled).await?;
        self.the_bucket_is_away().await?;

        self.style.title("The six histograms");
        Style::paragraph("K3s's own, for its dashboards: what was saved and reconciled, how often, with what outcome.");
        self.run("curl -s $OPERATOR/metrics | grep -E '^etcd_snapshot_(save|reconcile).*_count'").await
    }

    async fn a_directory_that_was_there(&self) -> Result<()> {
        self.style.title("A directory that somebody else has filled");
        Style::paragraph("Four snapshots of the last hours, as a CronJob would leave them. Nothing else knows of them.");
        self.run(
            "for hours in 4 3 2 1; do\n    seconds=$(date -d \"$hours hours ago\" +%s)\n    \
             etcdctl snapshot save snapshots/etcd-snapshot-$NODE-$seconds\n    \
             touch -d @$seconds snapshots/etcd-snapshot-$NODE-$seconds\ndone",
        )
        .await
    }

    async fn it_only_looks(&mut self) -> Result<()> {
        self.style.title("The operator only looks");
        Style::paragraph("It needs the resource, and never installs it: on K3s it is there already.");
        self.run(&format!("kubectl apply -f {}", tools::repository(e2e::kubernetes::CRD_FILE).display())).await?;
        Style::paragraph(
            "It is to keep three snapshots, here and in a bucket. At first it only says so.\n\
             The keys of the bucket come from the environment.",
        );
        let observing = self.setup().flag("--mode", "observe").switch("--etcd-disable-snapshots");
        self.start_operator(&observing.env("RUST_LOG", "info,etcd_snapshot_operator=debug")).await?;
        self.operator()?
            .until("what it would do", async |operator| {
                let log = operator.log();
                let would = |action: &str| log.lines().any(|line| line.contains("vetoed") && line.contains(action));
                ensure!(would("prune") && would("upload") && would("write"), "not yet");
                Ok(())
            })
            .await?;
        Style::paragraph("Each step that it planned is in its log, with what it is for and why it is not done.");
        self.run("grep -o 'vetoed.*' $LOG | sort -u").await?;
        self.run("curl -s $OPERATOR/readyz").await?;
        Style::paragraph(
            "A person can ask for the same. The verbs take the settings that the agent has,\n\
             here from the environment.",
        );
        self.run("etcd-snapshot-operator prune --name etcd-snapshot --dry-run").await?;
        self.run(TABLE).await
    }

    /// Returns the name of the snapshot that was saved on schedule.
    async fn it_does_what_it_said(&mut self) -> Result<String> {
        self.style.title("The operator does what it said, and saves on schedule");
        if let Some(mut observing) = self.operator.take() {
            observing.stop().await;
        }
        let begun = Instant::now();
        let managing = self.setup().saving(EVERY).switch("--etcd-snapshot-compress");
        self.start_operator(&managing).await?;
        let records = self.records("the scheduled snapshot here and in the bucket, and three good ones left", |records| {
            let is_zip = |record: &&DynamicObject| name(record).ends_with(".zip") && is_ready(record);
            let local = records.iter().filter(|record| !is_in_bucket(record));
            let old = local.clone().filter(|record| !name(record).ends_with(".zip")).count();
            old == 2
                && local.clone().any(|record| is_zip(&record))
                && records.iter().filter(|record| is_in_bucket(record)).any(|record| is_zip(&record))
        });
        let records = records.await?;
        let scheduled = records.iter().find(|record| is_in_bucket(record) && name(record).ends_with(".zip")).map(name);
        let scheduled = scheduled.context("the scheduled snapshot")?.to_owned();
        Style::paragraph(&format!(
            "{} later a new snapshot is there, compressed: the last one was older than the\n\
             schedule allows. The good ones went up, and what is more than three is gone.",
            took(begun)
        ));
        self.run(
            "grep -o 'a snapshot is saved.*' $LOG; grep -o 'the snapshot is in the bucket.*' $LOG; grep -o 'done.*action=\"prune\".*' $LOG",
        )
        .await?;
        Style::paragraph(
            "READY means that it was read to its end and has the digest that etcd gave it;\n\
             an object, that its digest and size are those of its manifest.",
        );
        self.run("kubectl get etcdsnapshotfiles").await?;
        Style::paragraph("The manifest lies beside each snapshot, here and in the bucket:");
        self.run(&format!("curl -K s3.curl $BUCKET/.metadata/{scheduled} | tr , '\\n'; echo")).await?;
        Ok(scheduled)
    }

    async fn one_by_hand(&mut self) -> Result<()> {
        self.style.title("A snapshot by hand, before an upgrade");
        self.run("etcd-snapshot-operator save --name before-upgrade").await?;
        Style::paragraph("Retention is about snapshots of its own base name: this one stays until somebody deletes it.");
        Ok(())
    }

    async fn a_damaged_file(&mut self) -> Result<()> {
        self.style.title("A damaged file appears");
        let damaged = self.next_name();
        self.run(&format!("cp snapshots/before-upgrade-* snapshots/{damaged}")).await?;
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
        .await
    }

    async fn an_object_is_deleted(&mut self, deleted: &str) -> Result<()> {
        self.style.title("An object is deleted by hand");
        self.run(&format!("curl -K s3.curl -X DELETE $BUCKET/{deleted}")).await?;
        let begun = Instant::now();
        let is_there = |records: &[DynamicObject]| records.iter().any(|record| is_in_bucket(record) && name(record) == deleted);
        self.records("the record of the object to go", |records| !is_there(records)).await?;
        Style::paragraph(&format!("Its record went at the next pass, {} later. Passes come every {BEAT} here.", took(begun)));
        self.operator()?.beats(2).await?;
        Style::paragraph(
            "Two passes later it is still gone: what somebody deleted is not brought back,\n\
             and is not passed over in silence.",
        );
        self.run("kubectl get events --field-selector reason=ETCDSnapshotVanished -o custom-columns=:.message").await?;
        Style::paragraph("That is done:");
        self.run("etcd-snapshot-operator upload --missing").await?;
        self.records("the record of the object", is_there).await?;
        self.run("etcd-snapshot-operator ls").await
    }

    async fn the_bucket_is_away(&mut self) -> Result<()> {
        self.style.title("The bucket becomes unreachable");
        Style::paragraph("The S3 server is stopped, and something else takes another snapshot.");
        self.s3.stop();
        let failed_before = ended_s3_passes(self.operator()?, "error").await?;
        let name = self.next_name();
        self.run(&format!("etcdctl snapshot save snapshots/{name}")).await?;
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
        self.run("curl -s $OPERATOR/readyz").await
    }

    async fn leave_running(&mut self) -> Result<()> {
        self.style.title("Now you");
        Style::paragraph("Everything runs until Ctrl-C. In another terminal:");
        println!("cd {}\n. ./keys", self.dir.path().display());
        for (name, value) in self.variables()? {
            println!("export {name}=\"{value}\"");
        }
        println!();
        for line in [
            "kubectl get etcdsnapshotfiles --watch",
            "kubectl explain etcdsnapshotfile.status",
            "etcd-snapshot-operator save",
            "etcd-snapshot-operator ls",
            "curl -K s3.curl \"$BUCKET?list-type=2\"",
            "curl -s $OPERATOR/metrics",
            &format!("less {}", self.operator()?.log_path().display()),
        ] {
            println!("{}", self.style.command(line));
        }
        println!();
        std::future::pending().await
    }

    fn setup(&self) -> OperatorSetup {
        OperatorSetup::default()
            .flag("--node-name", NODE)
            .flag("--etcd-endpoint", self.api.etcd.endpoint())
            .flag("--etcd-snapshot-dir", self.dir.path().join("snapshots"))
            .flag("--etcd-snapshot-retention", KEPT)
            .flag("--etcd-snapshot-reconcile-interval", BEAT)
            .switch("--etcd-s3")
            .flag("--etcd-s3-endpoint", self.s3.endpoint())
            .switch("--etcd-s3-insecure")
            .flag("--etcd-s3-bucket", BUCKET)
            .flag("--etcd-s3-bucket-lookup-type", "path")
            .flag("--namespace", "default")
            .env("KUBECONFIG", self.api.kubeconfig())
            .env("AWS_ACCESS_KEY_ID", &self.s3.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &self.s3.secret_key)
    }

    async fn start_operator(&mut self, setup: &OperatorSetup) -> Result<()> {
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
    fn variables(&self) -> Result<Vec<(&'static str, String)>> {
        let folder = |path: PathBuf| path.parent().map(Path::to_owned).unwrap_or_default();
        let operator = folder(tools::operator()?);
        let kubectl = folder(tools::tool("kubernetes", "kubectl")?);
        let etcdctl = folder(tools::tool(e2e::etcd::DEFAULT_SET, "etcdctl")?);
        Ok(vec![
            ("PATH", format!("{}:{}:{}:$PATH", operator.display(), kubectl.display(), etcdctl.display())),
            ("KUBECONFIG", self.api.kubeconfig().display().to_string()),
            ("ETCDCTL_ENDPOINTS", self.api.etcd.endpoint()),
            ("BUCKET", format!("http://{}/{BUCKET}", self.s3.endpoint())),
            ("NODE", NODE.to_owned()),
            ("OPERATOR", self.operator.as_ref().map_or_else(String::new, |operator| format!("http://{}", operator.http()))),
            ("LOG", self.operator.as_ref().map_or_else(String::new, |operator| operator.log_path().display().to_string())),
            // The settings of the verbs by hand.
            ("NODE_NAME", NODE.to_owned()),
            ("ETCD_ENDPOINT", self.api.etcd.endpoint()),
            ("ETCD_SNAPSHOT_DIR", self.dir.path().join("snapshots").display().to_string()),
            ("ETCD_SNAPSHOT_RETENTION", KEPT.to_owned()),
            ("ETCD_S3", "true".to_owned()),
            ("ETCD_S3_ENDPOINT", self.s3.endpoint()),
            ("ETCD_S3_INSECURE", "true".to_owned()),
            ("ETCD_S3_BUCKET", BUCKET.to_owned()),
            ("ETCD_S3_BUCKET_LOOKUP_TYPE", "path".to_owned()),
        ])
    }

    /// Shows a command, runs it, and shows what it printed.
    async fn run(&self, line: &str) -> Result<()> {
        println!("{}", self.style.command(line));
        std::io::stdout().flush()?;
        let mut shell = tokio::process::Command::new("bash");
        let exports: Vec<String> = self.variables()?.iter().map(|(name, value)| format!("export {name}=\"{value}\"\n")).collect();
        shell.arg("-c").arg(format!("set -o pipefail\n. ./keys\n{}{line}", exports.concat())).current_dir(self.dir.path());
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

fn name(record: &DynamicObject) -> &str {
    record.data["spec"]["snapshotName"].as_str().unwrap_or_default()
}

fn is_of(record: &DynamicObject, called: &str) -> bool {
    name(record) == called && !is_in_bucket(record)
}

fn reason(record: &DynamicObject) -> Option<&str> {
    record.data["status"]["error"]["message"].as_str()
}

fn is_in_bucket(record: &DynamicObject) -> bool {
    !record.data["spec"]["s3"].is_null()
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
