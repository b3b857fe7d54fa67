//! The operator's own binary as a process.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Result, ensure};
use tempfile::TempDir;

use crate::http::{self, Answer};
use crate::metrics::Metrics;
use crate::process::{Launch, Process, Signal, scratch, with_free_ports};
use crate::{ports, tools};

/// What to start it with. A flag given twice counts as the last one, so a test can change what a [`crate::site::Site`] set.
#[derive(Debug, Clone, Default)]
pub struct OperatorSetup {
    flags: Vec<(String, Option<OsString>)>,
    env: Vec<(String, OsString)>,
    bound_by_modes: bool,
}

impl OperatorSetup {
    pub fn flag(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.flags.retain(|(other, _)| other != name);
        self.flags.push((name.to_owned(), Some(value.into())));
        self
    }

    /// A flag without a value.
    pub fn switch(mut self, name: &str) -> Self {
        self.flags.retain(|(other, _)| other != name);
        self.flags.push((name.to_owned(), None));
        self
    }

    /// Saves on this schedule.
    pub fn saving(self, schedule: &str) -> Self {
        self.without("--etcd-disable-snapshots").flag("--etcd-snapshot-schedule-cron", schedule)
    }

    pub fn without(mut self, name: &str) -> Self {
        self.flags.retain(|(other, _)| other != name);
        self
    }

    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.retain(|(other, _)| other != name);
        self.env.push((name.to_owned(), value.into()));
        self
    }

    pub fn without_env(mut self, name: &str) -> Self {
        self.env.retain(|(other, _)| other != name);
        self
    }

    /// File modes hold for it, although it is root's.
    pub fn bound_by_modes(mut self) -> Self {
        self.bound_by_modes = true;
        self
    }

    /// The command line, as a person would type it.
    pub fn shown(&self) -> String {
        let flags = self.flags.iter().map(|(name, value)| match value {
            Some(value) if value.to_string_lossy().contains(' ') => format!(" \\\n    {name} '{}'", value.display()),
            Some(value) => format!(" \\\n    {name} {}", value.display()),
            None => format!(" \\\n    {name}"),
        });
        format!("etcd-snapshot-operator run{}", flags.collect::<String>())
    }

    /// Starts it and waits until it serves HTTP; not until it is ready, for which see [`Operator::ready`].
    pub async fn start(&self) -> Result<Operator> {
        with_free_ports(async || {
            let (dir, port) = (scratch()?, ports::free());
            let process = self.launch(&dir, port)?.start()?;
            let mut operator = Operator { process, port, dir, uploads: self.uploads() };
            operator.until("/healthz to answer", async |operator| operator.get("/healthz").await).await?;
            Ok(operator)
        })
        .await
    }

    /// Starts it with settings that it must refuse: waits for its end, which must be a failure, and returns what it said.
    pub async fn refuse(&self) -> Result<String> {
        let dir = scratch()?;
        let mut process = self.launch(&dir, ports::free())?.start()?;
        let ended = process.wait().await?;
        ensure!(!ended.success(), "it ended with success and said: {}", process.log());
        Ok(process.log())
    }

    fn uploads(&self) -> bool {
        let observes =
            |(name, value): &(String, Option<OsString>)| name == "--mode" && value.as_ref().is_some_and(|mode| mode == "observe");
        self.flags.iter().any(|(name, _)| name == "--etcd-s3") && !self.flags.iter().any(observes)
    }

    fn launch(&self, dir: &TempDir, port: u16) -> Result<Launch> {
        let mut launch = Launch::new("etcd-snapshot-operator", tools::operator()?, dir.path()).arg("run");
        if !self.flags.iter().any(|(name, _)| name == "--http-listen") {
            launch = launch.flag("--http-listen", ports::loopback(port).to_string());
        }
        if self.bound_by_modes {
            launch = launch.without_capabilities(&["dac_override", "dac_read_search"]);
        }
        for (name, value) in &self.flags {
            launch = launch.arg(name).args(value);
        }
        for (name, value) in &self.env {
            launch = launch.env(name, value);
        }
        Ok(launch)
    }
}

/// A running operator. Dropping it kills it.
pub struct Operator {
    process: Process,
    port: u16,
    dir: TempDir,
    uploads: bool,
}

impl Operator {
    /// Whether it was started with a bucket to which files go up.
    pub fn uploads(&self) -> bool {
        self.uploads
    }

    /// `127.0.0.1:port` of its HTTP server.
    pub fn http(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub async fn get(&self, path: &str) -> Result<Answer> {
        http::get(ports::loopback(self.port), path).await
    }

    pub async fn metrics(&self) -> Result<Metrics> {
        Metrics::parse(&self.get("/metrics").await?.ok()?)
    }

    /// Waits until `/readyz` says so.
    pub async fn ready(&mut self) -> Result<()> {
        self.until("the operator to be ready", async |operator| operator.get("/readyz").await?.ok()).await?;
        Ok(())
    }

    /// Waits until this many more beats have ended, with success or not. "Nothing happens" is shown by beats, not by time.
    pub async fn beats(&mut self, more: u32) -> Result<()> {
        let begun = self.beat_count().await?;
        let what = format!("{more} more beats");
        self.until(&what, async |operator| {
            let ended = operator.beat_count().await? - begun;
            ensure!(ended >= f64::from(more), "{ended} have ended");
            Ok(())
        })
        .await
    }

    async fn beat_count(&self) -> Result<f64> {
        Ok(self.metrics().await?.sum("etcd_snapshot_reconcile_duration_seconds_count", &[]).unwrap_or(0.0))
    }

    /// Looks until `look` succeeds; gives up when the operator has ended. A failure shows the end of its log.
    pub async fn until<T>(&mut self, what: &str, mut look: impl AsyncFnMut(&Self) -> Result<T>) -> Result<T> {
        // The look borrows all of the operator, so its process is asked in between.
        let waited = crate::wait::until(what, async || {
            if self.process.ended().is_some() {
                return Ok(None);
            }
            look(self).await.map(Some)
        });
        match waited.await {
            Ok(Some(seen)) => Ok(seen),
            Ok(None) => Err(anyhow::anyhow!("waited for {what}, and the operator has ended").context(self.process.tail())),
            Err(error) => Err(error.context(self.process.tail())),
        }
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    pub fn log_path(&self) -> PathBuf {
        self.dir.path().join("etcd-snapshot-operator.log")
    }

    /// Its process id, to look at what it holds.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends SIGTERM and waits for its end.
    pub async fn terminate(&mut self) -> Result<ExitStatus> {
        self.process.signal(Signal::TERM)?;
        self.until_ended().await
    }

    /// Waits for its end.
    pub async fn until_ended(&mut self) -> Result<ExitStatus> {
        self.process.wait().await
    }

    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// SIGSTOP: it keeps its connections and its Lease, and does nothing. [`Self::resume`] ends it.
    pub fn pause(&mut self) -> Result<()> {
        self.process.signal(Signal::STOP)
    }

    pub fn resume(&mut self) -> Result<()> {
        self.process.signal(Signal::CONT)
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// How it ended, or None while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    /// SIGTERM, then SIGKILL.
    pub async fn stop(&mut self) {
        self.process.stop(Duration::from_secs(30)).await;
    }
}
