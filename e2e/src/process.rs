//! A server as a child process: its own process group, its output in a log file, dead when the test is dead.
//!
//! Two things make sure of the last: `Drop` kills the group, and `setpriv --pdeathsig KILL` has the kernel do it when the
//! test is killed and nothing is dropped any more. The kernel means by "parent" the *thread* that started the child, and
//! a test's threads end before the test process does; so one thread that never ends starts them all.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError, mpsc};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process, kill_process_group};

use crate::wait;

/// What to start. Its environment is empty but for `PATH`, `HOME` and what is given: no credential or proxy setting of the
/// machine reaches a test.
pub struct Launch {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    without: Vec<&'static str>,
    dir: PathBuf,
}

impl Launch {
    /// `name` is for messages and names the log file in `dir`, where the child runs too.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>, dir: impl Into<PathBuf>) -> Self {
        Self { name: name.into(), program: program.into(), args: Vec::new(), env: Vec::new(), without: Vec::new(), dir: dir.into() }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// `--name value` as two arguments.
    pub fn flag(self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.arg(name).arg(value)
    }

    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Takes capabilities from it, named as in `setpriv --bounding-set` without their sign.
    pub fn without_capabilities(mut self, names: &[&'static str]) -> Self {
        self.without.extend(names);
        self
    }

    /// Starts the child. Its log goes on where an earlier child of the same name and folder left it.
    pub fn start(self) -> Result<Process> {
        let log = self.dir.join(format!("{}.log", self.name));
        let out = OpenOptions::new().create(true).append(true).open(&log).with_context(|| format!("open {}", log.display()))?;
        let log_begins = out.metadata()?.len();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if !self.without.is_empty() {
            let dropped: Vec<String> = self.without.iter().map(|name| format!("-{name}")).collect();
            command.args(["--bounding-set", &dropped.join(","), "--inh-caps", &dropped.join(",")]);
        }
        command.arg("--").arg(&self.program).args(&self.args);
        command.env_clear().env("TMPDIR", &self.dir).current_dir(&self.dir).process_group(0);
        for inherited in ["PATH", "HOME", "RUST_BACKTRACE"] {
            if let Some(value) = std::env::var_os(inherited) {
                command.env(inherited, value);
            }
        }
        command.envs(self.env).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = spawn(command).with_context(|| format!("start {}", self.name))?;
        let pid = Pid::from_child(&child);
        Ok(Process { name: self.name, log, log_begins, pid, child, ended: None })
    }
}

/// A running child. Dropping it kills its whole group.
pub struct Process {
    name: String,
    log: PathBuf,
    log_begins: u64,
    pid: Pid,
    child: Child,
    ended: Option<ExitStatus>,
}

impl Process {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, or None while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("waiting for an own child");
        }
        self.ended
    }

    /// Sends a signal to the child alone.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.ended().is_some() {
            bail!("{} has ended already\n{}", self.name, self.tail());
        }
        kill_process(self.pid, signal).with_context(|| format!("signal {}", self.name))
    }

    /// SIGKILL for the whole group, and waits for the child's end. Nothing to do when it has ended.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            let _ = kill_process_group(self.pid, Signal::KILL);
            self.ended = self.child.wait().ok();
        }
    }

    /// SIGTERM, then SIGKILL for what is still there after `grace`.
    pub async fn stop(&mut self, grace: Duration) {
        if self.ended().is_none() && self.signal(Signal::TERM).is_ok() {
            let _ = wait::until_within(grace, "its end", async || self.ended().context("still running")).await;
        }
        self.kill();
    }

    /// Waits for it to end by itself.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        let name = self.name.clone();
        let ended = wait::until(format!("{name} to end"), async || self.ended().context("still running")).await;
        ended.map_err(|error| error.context(self.tail()))
    }

    /// Looks until `look` succeeds; gives up at once when the child has ended. A failure shows the end of its log.
    pub async fn until<T>(&mut self, what: &str, mut look: impl AsyncFnMut() -> Result<T>) -> Result<T> {
        let what = format!("{what} ({})", self.name);
        // The outer result ends the wait: a dead child will not answer any more.
        let seen = wait::until(what, async || match look().await {
            Ok(seen) => Ok(Ok(seen)),
            Err(_) if self.ended().is_some() => Ok(Err(anyhow!("{} ended ({:?})", self.name, self.ended))),
            Err(error) => Err(error),
        });
        seen.await.and_then(|seen| seen).map_err(|error| error.context(self.tail()))
    }

    /// What this child has printed so far.
    pub fn log(&self) -> String {
        read_from(&self.log, self.log_begins).unwrap_or_default()
    }

    /// The end of its log, for a message.
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(40)..];
        format!("the last lines of {}:\n{}\n", self.name, last.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether a server's log says that another process was faster to take its port.
pub fn is_port_taken(error: &anyhow::Error) -> bool {
    format!("{error:#}").to_lowercase().contains("address already in use")
}

/// Starts a server that may find its ports taken: `start` chooses new ones each time.
pub async fn with_free_ports<T>(mut start: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    for _ in 0..4 {
        match start().await {
            Err(error) if is_port_taken(&error) => {}
            done => return done,
        }
    }
    start().await
}

/// A folder for one test, removed at its end unless `E2E_KEEP` is set.
pub fn scratch() -> Result<tempfile::TempDir> {
    let mut dir = tempfile::Builder::new().prefix("e2e-").tempdir().context("make a scratch folder")?;
    if std::env::var_os("E2E_KEEP").is_some() {
        eprintln!("kept: {}", dir.path().display());
        dir.disable_cleanup(true);
    }
    Ok(dir)
}

fn read_from(path: &Path, begin: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(begin))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

type Order = (Command, mpsc::Sender<std::io::Result<Child>>);

fn spawn(command: Command) -> Result<Child> {
    static STARTER: LazyLock<Mutex<mpsc::Sender<Order>>> = LazyLock::new(|| {
        let (orders, taken) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in taken {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (answer, child) = mpsc::channel();
    STARTER.lock().unwrap_or_else(PoisonError::into_inner).send((command, answer)).context("the starting thread is gone")?;
    child.recv().context("the starting thread is gone")?.context("spawn through setpriv (of util-linux)")
}
