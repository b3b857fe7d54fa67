//! The operator's verbs by hand: one run of the binary, with what it printed where, and how it ended.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, Command};

use crate::process::scratch;
use crate::site::{FOLDER, Site};
use crate::{tools, wait};

/// What to type. The environment is empty but for `PATH` and what is given; so no API server is named until a test names one.
pub struct Hand {
    /// What it is called by: its own path, or a link to it.
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(String, OsString)>,
    home: Arc<TempDir>,
    /// What starts it, where it is not started at once.
    through: Vec<OsString>,
    /// The columns of its terminal, where it has one.
    columns: Option<u16>,
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
        let program = tools::operator()?;
        Ok(Self { program, args: vec![verb.into()], env: Vec::new(), home: Arc::new(scratch()?), through: Vec::new(), columns: None })
    }

    /// As kubectl calls it: `kubectl etcd-snapshot`.
    pub fn plugin(verb: &str) -> Result<Self> {
        let mut hand = Self::new(verb)?;
        let link = hand.home.path().join("kubectl-etcd_snapshot");
        std::os::unix::fs::symlink(&hand.program, &link)?;
        hand.program = link;
        Ok(hand)
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

    /// Started by these words, as `nohup` starts what is behind it.
    pub fn through<S: Into<OsString>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.through = words.into_iter().map(Into::into).collect();
        self
    }

    /// File modes hold for it, although it is root's.
    pub fn bound_by_modes(self) -> Self {
        let dropped = "-dac_override,-dac_read_search";
        self.through(["setpriv", "--bounding-set", dropped, "--inh-caps", dropped, "--"])
    }

    /// On a terminal of so many columns, and in the foreground of a session of its own. All of its streams are that terminal: what it
    /// says is in `out`, and what somebody types comes from [`Running::types`].
    pub fn on_terminal(mut self, columns: u16) -> Self {
        self.columns = Some(columns);
        self
    }

    /// What is started.
    pub fn command(&self) -> Command {
        // Whoever started the tests may have told them to ignore a hangup, and that is inherited.
        let hears_hangups = ["env", "--default-signal=HUP"].map(OsStr::new);
        let words: Vec<&OsStr> = hears_hangups
            .into_iter()
            .chain(self.through.iter().map(OsString::as_os_str))
            .chain([self.program.as_os_str()])
            .chain(self.args.iter().map(OsString::as_os_str))
            .collect();
        let mut command = if let Some(columns) = self.columns {
            let words: Vec<String> = words.iter().map(|word| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"))).collect();
            let line = format!("stty cols {columns} rows 24; exec {}", words.join(" "));
            let mut script = Command::new("script");
            script.args(["--quiet", "--flush", "--return", "--command", &line, "/dev/null"]).stdin(Stdio::piped());
            script
        } else {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).stdin(Stdio::null());
            command
        };
        command.env_clear().env("HOME", self.home.path()).env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.env.iter().map(|(name, value)| (name, value))).current_dir(self.home.path());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Runs it to its end.
    pub async fn run(&self) -> Result<Ended> {
        self.start()?.ended().await
    }

    /// Runs it with a standard output that nobody reads any more.
    pub async fn run_unread(&self) -> Result<Ended> {
        let (read, write) = std::io::pipe()?;
        drop(read);
        let mut command = self.command();
        command.stdout(OwnedFd::from(write));
        Running::of(command.spawn()?, &self.home).ended().await
    }

    /// Starts it.
    pub fn start(&self) -> Result<Running> {
        Ok(Running::of(self.command().spawn().context("start the operator")?, &self.home))
    }
}

/// A run that has not ended. Dropping it kills it; on a terminal, that goes.
pub struct Running {
    child: Child,
    keys: Option<ChildStdin>,
    /// What it has printed so far, as far as somebody has read it.
    seen: Vec<u8>,
    home: Arc<TempDir>,
}

impl Running {
    fn of(mut child: Child, home: &Arc<TempDir>) -> Self {
        Self { keys: child.stdin.take(), child, seen: Vec::new(), home: Arc::clone(home) }
    }

    /// Waits until it has printed this.
    pub async fn shows(&mut self, words: &str) -> Result<()> {
        let out = self.child.stdout.as_mut().context("nobody reads it")?;
        let showing = async {
            while !String::from_utf8_lossy(&self.seen).contains(words) {
                ensure!(out.read_buf(&mut self.seen).await? > 0, "it ended without {words:?}: {}", String::from_utf8_lossy(&self.seen));
            }
            Ok(())
        };
        tokio::time::timeout(wait::PATIENCE, showing).await.with_context(|| format!("it does not show {words:?}"))?
    }

    /// Types on its terminal; `\x03` is Ctrl-C.
    pub async fn types(&mut self, keys: &str) -> Result<()> {
        let terminal = self.keys.as_mut().context("it has no terminal")?;
        terminal.write_all(keys.as_bytes()).await?;
        Ok(terminal.flush().await?)
    }

    /// Its process id.
    pub fn id(&self) -> Result<u32> {
        self.child.id().context("it has ended")
    }

    /// To the operator; on a terminal, to the program that is it: killed, the terminal is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())).context("it has ended")?;
        kill_process(id, signal).context("signal the operator")
    }

    /// Waits for its end.
    pub async fn ended(self) -> Result<Ended> {
        let (_keys, _home) = (self.keys, self.home);
        let output = tokio::time::timeout(wait::PATIENCE, self.child.wait_with_output()).await.context("it does not end")??;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let code = output.status.code().or_else(|| signalled(output.status));
        Ok(Ended { code, out: text([self.seen, output.stdout].concat()), err: text(output.stderr) })
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
