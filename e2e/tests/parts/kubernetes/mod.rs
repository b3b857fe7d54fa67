//! The library's `kubernetes` module against a real API server: no operator, the module's own calls.

mod cache;
mod claim;
mod lease;
mod others;
mod write;

use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Result, bail, ensure};
use e2e::kubernetes::Kubernetes;
use e2e::site::unique;
use e2e::wait;
use etcd_snapshot_operator::kubernetes::Cache;
use etcd_snapshot_operator::kubernetes::cache::LookAgain;
use etcd_snapshot_operator::kubernetes::client::{Source, client};
use etcd_snapshot_operator::record::{Place, Record, Shape, Wanted, wanted::wanted};
use etcd_snapshot_operator::snapshot::{
    FileName, Known, Manifest, Metadata, NodeName, Owner, Program, SnapshotFile, Storage, Verdict, Version,
};
use jiff::Timestamp;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A cache of a node of its own, on a server that may have more.
struct Bench {
    node: NodeName,
    cache: Cache,
    woken: Arc<Mutex<Vec<Option<Storage>>>>,
    _stop: DropGuard,
}

impl Bench {
    /// A cache that runs, with the rights of this kubeconfig.
    async fn start(kubeconfig: &Path) -> Result<Self> {
        let node = NodeName::new(&format!("node-{}", unique()))?;
        let woken = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&woken);
        let cache = Cache::new(operators(kubeconfig).await?, Program::K3s, move |look| {
            let storage = match look {
                LookAgain::At(storage) => Some(storage.clone()),
                LookAgain::Everywhere => None,
                LookAgain::AtUploads => return,
            };
            seen.lock().unwrap().push(storage);
        });
        let stop = CancellationToken::new();
        let (running, stopped) = (cache.clone(), stop.clone());
        tokio::spawn(async move { running.run(&stopped).await });
        Ok(Self { node, cache, woken, _stop: stop.drop_guard() })
    }

    /// One that knows the records.
    async fn synced(kubeconfig: &Path) -> Result<Self> {
        let bench = Self::start(kubeconfig).await?;
        bench.is_synced().await?;
        Ok(bench)
    }

    async fn is_synced(&self) -> Result<()> {
        wait::until("the cache to know the records", async || {
            let health = self.cache.health();
            ensure!(health.synced && health.failure.is_none(), "{health:?}");
            Ok(())
        })
        .await
    }

    /// The records of this bench's node.
    fn records(&self) -> Vec<Arc<Record>> {
        let mine = |record: &Arc<Record>| record.node == self.node.as_str();
        self.cache.records().unwrap_or_default().into_iter().filter(mine).collect()
    }

    /// How often somebody else's change of a record of this node was told.
    fn wakes(&self) -> usize {
        let mine = Some(Storage::Local { node: self.node.clone() });
        self.woken.lock().unwrap().iter().filter(|woken| **woken == mine).count()
    }

    /// Waits for a state of the cache.
    async fn until(&self, what: &str, look: impl Fn(&[Arc<Record>]) -> bool) -> Result<()> {
        wait::until(what, async || {
            let records = self.records();
            if look(&records) { Ok(()) } else { bail!("{records:?}, {:?}", self.cache.health()) }
        })
        .await
    }

    /// Somebody else changes a record of this node. What the watch showed before has been dealt with when that is told.
    async fn bystander(&self, kubernetes: &Kubernetes, name: &str) -> Result<()> {
        let before = self.wakes();
        create(kubernetes, name, self.node.as_str()).await?;
        wait::until("the bystander's record to wake", async || if self.wakes() > before { Ok(()) } else { bail!("{before}") }).await
    }

    /// The record of a file of this node. Another `turn` is another content.
    fn wanted(&self, file: &str, turn: u64) -> Wanted {
        let known = Known {
            verdict: Verdict::Whole,
            manifest: Manifest::default(),
            cluster: None,
            node: None,
            token_hash: None,
            metadata: Metadata::Read(std::collections::BTreeMap::new()),
        };
        let file = SnapshotFile {
            name: FileName::new(file).unwrap(),
            size: 13_140_000 + turn,
            modified: Timestamp::UNIX_EPOCH,
            version: Version::remembered(&format!("{turn}.2.3/-")),
            at_rest: true,
            known: Some(known),
        };
        let place = Place::Local { dir: "/snapshots".into(), node: self.node.clone(), has_node_object: true };
        wanted(&file, Owner::Ours, &place, Shape { program: Program::K3s, bucket_lookup: true }, None, None).unwrap()
    }
}

/// The client that the operator makes of a kubeconfig.
async fn operators(kubeconfig: &Path) -> Result<kube::Client> {
    Ok(client(&Source::Files { paths: vec![kubeconfig.to_owned()], context: None }, Some("default")).await?)
}

/// A record by somebody else.
async fn create(kubernetes: &Kubernetes, name: &str, node: &str) -> Result<()> {
    let record = serde_json::from_value(serde_json::json!({
        "apiVersion": "k3s.cattle.io/v1", "kind": "ETCDSnapshotFile", "metadata": { "name": name },
        "spec": { "snapshotName": "a", "nodeName": node, "location": "file:///a" },
    }))?;
    kubernetes.records().create(&kube::api::PostParams::default(), &record).await?;
    Ok(())
}

/// Changes a record as a person would.
async fn edit(kubernetes: &Kubernetes, name: &str, change: serde_json::Value) -> Result<()> {
    let change = kube::api::Patch::Merge(change);
    kubernetes.records().patch(name, &kube::api::PatchParams::default(), &change).await?;
    Ok(())
}

/// A user who may do this and nothing else, and their kubeconfig in `dir`: rules as RBAC has them.
pub async fn user_who_may(api: &e2e::apiserver::ApiAccess, dir: &Path, rules: serde_json::Value) -> Result<std::path::PathBuf> {
    use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
    use kube::api::{Api, PostParams};

    let client = api.kubernetes().await?.client;
    let name = format!("user-{}", unique());
    let metadata = serde_json::json!({ "name": name });
    let role = serde_json::from_value(serde_json::json!({ "metadata": metadata, "rules": rules }))?;
    Api::<ClusterRole>::all(client.clone()).create(&PostParams::default(), &role).await?;
    let binding = serde_json::from_value(serde_json::json!({
        "metadata": metadata,
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name },
        "subjects": [{ "kind": "User", "name": name, "apiGroup": "rbac.authorization.k8s.io" }],
    }))?;
    Api::<ClusterRoleBinding>::all(client).create(&PostParams::default(), &binding).await?;
    api.kubeconfig_as(&name, dir)
}
