//! One etcd member, with the tools to take and restore its snapshots.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::process::{Launch, Process, Signal, scratch, with_free_ports};
use crate::{http, ports, tools};

/// The set of tools with the version that tests use unless they ask for another.
pub const DEFAULT_SET: &str = "etcd-3.6";

/// A member on plain HTTP that is its own cluster. Its ports stay over stops and restores.
pub struct Etcd {
    set: String,
    dir: TempDir,
    data: PathBuf,
    restores: u32,
    client: u16,
    peer: u16,
    process: Option<Process>,
}

/// How a restored etcd treats revisions that clients have seen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Restore {
    /// `--bump-revision N --mark-compacted`: the revision jumps, and watches from before it learn so. None: as the file says.
    pub bump_revision: Option<u64>,
}

impl Etcd {
    pub async fn start() -> Result<Self> {
        Self::start_version(DEFAULT_SET).await
    }

    /// A member of the version that this set of tools holds.
    pub async fn start_version(set: &str) -> Result<Self> {
        with_free_ports(async || {
            let dir = scratch()?;
            let data = dir.path().join("data");
            let (client, peer) = (ports::free(), ports::free());
            let mut etcd = Self { set: set.to_owned(), dir, data, restores: 0, client, peer, process: None };
            etcd.launch().await?;
            Ok(etcd)
        })
        .await
    }

    /// `http://127.0.0.1:port`, for clients.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.client)
    }

    /// Starts a stopped or killed member again, on its ports and with its data.
    pub async fn launch(&mut self) -> Result<()> {
        let peer = format!("http://127.0.0.1:{}", self.peer);
        let launch = Launch::new("etcd", tools::tool(&self.set, "etcd")?, self.dir.path())
            .flag("--name", "member")
            .flag("--data-dir", &self.data)
            .flag("--listen-client-urls", self.endpoint())
            .flag("--advertise-client-urls", self.endpoint())
            .flag("--listen-peer-urls", &peer)
            .flag("--initial-advertise-peer-urls", &peer)
            .flag("--initial-cluster", format!("member={peer}"))
            .flag("--log-level", "warn")
            .args(without_fsync(&self.set));
        let mut process = launch.start()?;
        let address = ports::loopback(self.client);
        process.until("etcd to be healthy", async || http::get(address, "/health").await?.ok()).await?;
        self.process = Some(process);
        Ok(())
    }

    pub async fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop(Duration::from_secs(10)).await;
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// SIGSTOP: connections stay, answers do not come. [`Self::resume`] ends it.
    pub fn pause(&mut self) -> Result<()> {
        self.process.as_mut().context("etcd is stopped")?.signal(Signal::STOP)
    }

    pub fn resume(&mut self) -> Result<()> {
        self.process.as_mut().context("etcd is stopped")?.signal(Signal::CONT)
    }

    /// Runs etcdctl against this member and returns what it printed.
    pub async fn etcdctl<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        let mut all: Vec<std::ffi::OsString> = vec!["--endpoints".into(), self.endpoint().into()];
        all.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        tools::run(&tools::tool(&self.set, "etcdctl")?, all).await
    }

    /// `etcdctl snapshot save`.
    pub async fn save(&self, to: &Path) -> Result<()> {
        self.etcdctl([OsStr::new("snapshot"), OsStr::new("save"), to.as_os_str()]).await?;
        Ok(())
    }

    /// The store's revision now.
    pub async fn revision(&self) -> Result<u64> {
        let status: serde_json::Value = serde_json::from_str(&self.etcdctl(["endpoint", "status", "--write-out", "json"]).await?)?;
        status[0]["Status"]["header"]["revision"].as_u64().with_context(|| format!("no revision in {status}"))
    }

    /// Stops the member, restores this snapshot into a new data directory, and starts it again on the same ports.
    pub async fn restore(&mut self, from: &Path, how: Restore) -> Result<()> {
        self.stop().await;
        self.restores += 1;
        self.data = self.dir.path().join(format!("data-{}", self.restores));
        let peer = format!("http://127.0.0.1:{}", self.peer);
        let mut args: Vec<std::ffi::OsString> = vec!["snapshot".into(), "restore".into(), from.into()];
        args.extend(["--data-dir".into(), self.data.clone().into_os_string(), "--name".into(), "member".into()]);
        args.extend(["--initial-advertise-peer-urls".into(), peer.clone().into()]);
        args.extend(["--initial-cluster".into(), format!("member={peer}").into()]);
        if let Some(by) = how.bump_revision {
            args.extend(["--bump-revision".into(), by.to_string().into(), "--mark-compacted".into()]);
        }
        tools::run(&offline_tool(&self.set)?, args).await?;
        self.launch().await
    }

    /// A member of this version, on ports of its own, with what a snapshot holds.
    pub async fn restored(set: &str, from: &Path) -> Result<Self> {
        let mut etcd = Self::start_version(set).await?;
        etcd.restore(from, Restore::default()).await?;
        Ok(etcd)
    }
}

/// What restores and looks at snapshots: `etcdutl`, which 3.4 does not have yet.
pub fn offline_tool(set: &str) -> Result<PathBuf> {
    tools::tool(set, if set == "etcd-3.4" { "etcdctl" } else { "etcdutl" })
}

/// Nothing here outlives the machine; 3.4 cannot leave it out.
pub fn without_fsync(set: &str) -> Option<&'static str> {
    (set != "etcd-3.4").then_some("--unsafe-no-fsync")
}
