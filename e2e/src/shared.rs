//! The servers that tests share: one API server with the CRD, one S3 server. `with-servers` starts them and says where they
//! are; whoever stops, restores or fills them to the brim starts its own instead.

use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::apiserver::{ApiAccess, ApiServer};
use crate::kubernetes::CRD_FILE;
use crate::s3::{S3, S3Access};
use crate::{snapshots, tools};

/// The variable with the file that says where the shared servers are.
pub const SERVERS: &str = "E2E_SERVERS";

/// What every test may use.
#[derive(Clone, Serialize, Deserialize)]
pub struct Shared {
    pub api: ApiAccess,
    pub s3: S3Access,
    /// A snapshot that etcdctl took of the shared API server's etcd.
    pub snapshot: std::path::PathBuf,
}

impl Shared {
    /// The servers that run for this test run.
    pub fn get() -> Result<&'static Self> {
        static SHARED: OnceLock<Shared> = OnceLock::new();
        if let Some(shared) = SHARED.get() {
            return Ok(shared);
        }
        let Some(path) = std::env::var_os(SERVERS) else {
            bail!("these tests share real servers, and {SERVERS} does not say where they are: run them with e2e/test");
        };
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", Path::new(&path).display()))?;
        Ok(SHARED.get_or_init(|| serde_json::from_str(&text).expect("written by with-servers")))
    }

    /// The bytes of [`Self::snapshot`].
    pub fn real_snapshot(&self) -> Result<Vec<u8>> {
        std::fs::read(&self.snapshot).context("read the shared snapshot")
    }
}

/// Owns the shared servers: dropping it ends them.
pub struct Servers {
    _api: ApiServer,
    _s3: S3,
}

impl Servers {
    /// Starts them and writes into `dir` what [`Shared::get`] reads; returns that file's path.
    pub async fn start(dir: &Path) -> Result<(Self, std::path::PathBuf)> {
        let (api, s3) = tokio::try_join!(ApiServer::start(), S3::start())?;
        if tools::repository(CRD_FILE).is_file() {
            api.kubernetes().await?.apply_crd().await?;
        }
        let snapshot = dir.join("snapshot");
        std::fs::write(&snapshot, snapshots::real(&api.etcd).await?)?;
        let shared = Shared { api: api.access().clone(), s3: s3.access().clone(), snapshot };
        let path = dir.join("servers.json");
        std::fs::write(&path, serde_json::to_vec_pretty(&shared)?)?;
        Ok((Self { _api: api, _s3: s3 }, path))
    }
}
