//! What most tests begin with: a node of their own, with its snapshot directory and bucket, and an operator for it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use kube::api::DynamicObject;
use tempfile::TempDir;

use crate::apiserver::ApiAccess;
use crate::kubernetes::Kubernetes;
use crate::operator::OperatorSetup;
use crate::process::scratch;
use crate::s3::{Bucket, S3Access};
use crate::shared::Shared;
use crate::snapshots;

/// The beat of tests: as short as the operator allows.
pub const INTERVAL: &str = "1s";
/// The folder in the bucket.
pub const FOLDER: &str = "folder";

/// A node that no other test knows.
pub struct Site {
    pub node: String,
    pub bucket: Bucket,
    pub kubernetes: Kubernetes,
    pub api: ApiAccess,
    pub s3: S3Access,
    dir: TempDir,
}

impl Site {
    /// On the shared servers.
    pub async fn new() -> Result<Self> {
        let shared = Shared::get()?;
        Self::on(&shared.api, &shared.s3).await
    }

    /// On servers of the test's own.
    pub async fn on(api: &ApiAccess, s3: &S3Access) -> Result<Self> {
        let dir = scratch()?;
        let unique = unique();
        std::fs::create_dir_all(dir.path().join("db/snapshots"))?;
        Ok(Self {
            node: format!("node-{unique}"),
            bucket: s3.bucket(&format!("bucket-{unique}")).await?,
            kubernetes: api.kubernetes().await?,
            api: api.clone(),
            s3: s3.clone(),
            dir,
        })
    }

    /// The same with another name of the node.
    pub fn called(mut self, node: impl Into<String>) -> Self {
        self.node = node.into();
        self
    }

    /// Its snapshot directory. Sidecars and state are in `.metadata` beside it.
    pub fn snapshots(&self) -> PathBuf {
        self.dir.path().join("db/snapshots")
    }

    /// A folder of the test's own that nobody watches.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// An operator for the directory alone. It removes no snapshot: tests of retention say how many are kept. It saves none by
    /// itself either, since what a test places is old and a slot missed since then is made up: [`OperatorSetup::saving`].
    pub fn operator(&self) -> OperatorSetup {
        OperatorSetup::default()
            .flag("--node-name", &self.node)
            .flag("--etcd-snapshot-dir", self.snapshots())
            .flag("--etcd-snapshot-reconcile-interval", INTERVAL)
            .flag("--etcd-snapshot-retention", "0")
            .switch("--etcd-disable-snapshots")
            .flag("--etcd-endpoint", self.api.etcd())
            .flag("--namespace", "default")
            .flag("--log-format", "json")
            .env("KUBECONFIG", self.api.kubeconfig())
            .env("RUST_LOG", "debug,hyper=info,h2=info,tower=info,kube=info,aws=info,rustls=info")
    }

    /// An operator for directory and bucket, keys from the environment.
    pub fn operator_with_bucket(&self) -> OperatorSetup {
        self.operator()
            .switch("--etcd-s3")
            .flag("--etcd-s3-endpoint", self.s3.endpoint())
            .switch("--etcd-s3-insecure")
            .flag("--etcd-s3-bucket", &self.bucket.name)
            .flag("--etcd-s3-bucket-lookup-type", "path")
            .flag("--etcd-s3-folder", FOLDER)
            .env("AWS_ACCESS_KEY_ID", &self.s3.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &self.s3.secret_key)
    }

    /// `etcd-snapshot-<node>-<seconds>` of this node.
    pub fn name(&self, seconds: i64) -> String {
        snapshots::name(&self.node, seconds)
    }

    /// `etcd-snapshot-another-<seconds>`: the name of a file that has a record here and, since it names another node, does not go up.
    pub fn name_of_another(&self, seconds: i64) -> String {
        snapshots::name("another", seconds)
    }

    /// Puts a file into the directory at once.
    pub fn place(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        snapshots::place(&self.snapshots(), name, bytes)
    }

    /// Puts an object as an operator of this node and cluster would have: with its user metadata.
    pub async fn put_ours(&self, name: &str, bytes: impl Into<Vec<u8>>) -> Result<()> {
        let cluster = self.kubernetes.cluster_id().await?;
        let metadata = [("k3s-cluster-id", cluster.as_str()), ("k3s-node-name", &self.node)];
        self.bucket.put_with(&self.key(name), bytes, &metadata).await
    }

    /// The key of a snapshot in the bucket.
    pub fn key(&self, name: &str) -> String {
        format!("{FOLDER}/{name}")
    }

    pub async fn local_records(&self) -> Result<Vec<DynamicObject>> {
        self.kubernetes.local_records(&self.node).await
    }

    pub async fn bucket_records(&self) -> Result<Vec<DynamicObject>> {
        self.kubernetes.bucket_records(&self.bucket.name).await
    }
}

/// A few letters that are new on every server, in this run and in the next.
pub fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    format!("{:x}-{:x}-{:x}", now & 0xffff_ffff, std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}
