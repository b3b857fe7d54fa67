//! The operator's verbs by hand: one run of the binary, with what it printed where, and how it ended.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::process::scratch;
use crate::site::{FOLDER, Site};
use crate::{tools, wait};

/// What to type. The environment is empty but for `PATH` and what is given; so no API server is named until a test names one.
pub struct Hand {
    /// The name that it is called by, where that is not its own.
    name: Option<&'static str>,
    args: Vec<OsString>,
    env: Vec<(String, OsString)>,
    home: TempDir,
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Hand {
    pub fn new(verb: &str) -> Result<Self> {
        Ok(Self { name: None, args: vec![verb.into()], env: Vec::new(), home: scratch()? })
    }

    /// As kubectl calls it: `kubectl etcd-snapshot`.
    pub fn plugin(verb: &str) -> Result<Self> {
        Ok(Self { name: Some("kubectl-etcd_snapshot"), ..Self::new(verb)? })
    }

    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub fn flag(self, name: &str, value: impl Into<OsString>) -> Self {
        self.arg(name).arg(value)
    }

    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// On the node of this site, with its directory.
    pub fn on(self, site: &Site) -> Self {
        self.flag("--node-name", &site.node).flag("--dir", site.snapshots())
    }

    /// With the bucket of this site, by K3s's short names.
    pub fn with_bucket(self, site: &Site) -> Self {
        self.with_bucket_at(site, site.s3.endpoint())
    }

    /// With the bucket of this site behind a proxy.
    pub fn with_bucket_at(self, site: &Site, endpoint: String) -> Self {
        self.arg("--s3")
            .arg("--s3-insecure")
            .flag("--s3-endpoint", endpoint)
            .flag("--s3-bucket", &site.bucket.name)
            .flag("--s3-bucket-lookup-type", "path")
            .flag("--s3-folder", FOLDER)
            .env("AWS_ACCESS_KEY_ID", &site.s3.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &site.s3.secret_key)
    }

    /// With the API server of this site.
    pub fn with_kubernetes(self, site: &Site) -> Self {
        self.env("KUBECONFIG", site.api.kubeconfig())
    }

    /// What is started.
    pub fn command(&self) -> Result<Command> {
        let mut command = Command::new(tools::operator()?);
        if let Some(name) = self.name {
            command.arg0(name);
        }
        command.args(&self.args).env_clear().env("HOME", self.home.path()).env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.env.iter().map(|(name, value)| (name, value))).current_dir(self.home.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        Ok(command)
    }

    /// Runs it to its end.
    pub async fn run(&self) -> Result<Ended> {
        self.start()?.ended().await
    }

    /// Runs it with a standard output that nobody reads any more.
    pub async fn run_unread(&self) -> Result<Ended> {
        let (read, write) = std::io::pipe()?;
        drop(read);
        let mut command = self.command()?;
        command.stdout(OwnedFd::from(write));
        Running(command.spawn()?).ended().await
    }

    /// Starts it.
    pub fn start(&self) -> Result<Running> {
        Ok(Running(self.command()?.spawn().context("start the operator")?))
    }
}

/// A run that has not ended. Dropping it kills it.
pub struct Running(Child);

impl Running {
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = self.0.id().and_then(|id| Pid::from_raw(id.cast_signed())).context("it has ended")?;
        kill_process(id, signal).context("signal the operator")
    }

    /// Waits for its end.
    pub async fn ended(self) -> Result<Ended> {
        let output = tokio::time::timeout(wait::PATIENCE, self.0.wait_with_output()).await.context("it does not end")??;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let code = output.status.code().or_else(|| signalled(output.status));
        Ok(Ended { code, out: text(output.stdout), err: text(output.stderr) })
    }
}

fn signalled(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status).map(|number| -number)
}

impl Ended {
    /// Fails unless it ended with this code.
    pub fn with(self, code: i32) -> Result<Self> {
        ensure!(self.code == Some(code), "it ended with {:?} instead of {code}\n{}{}", self.code, self.out, self.err);
        Ok(self)
    }

    /// Fails unless standard error says this.
    pub fn says(self, words: &str) -> Result<Self> {
        ensure!(self.err.contains(words), "not a word of {words:?}\n{}{}", self.out, self.err);
        Ok(self)
    }

    /// The words of each line of a table, without the headings.
    pub fn rows(&self) -> Vec<Vec<&str>> {
        self.out.lines().skip(1).map(|line| line.split_whitespace().collect()).collect()
    }

    /// What a line `NAME  VALUE` says.
    pub fn value(&self, name: &str) -> Result<&str> {
        let line = self.out.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::trim).with_context(|| format!("no {name} in\n{}", self.out))
    }
}
