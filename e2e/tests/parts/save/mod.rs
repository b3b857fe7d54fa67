//! Saving from real members: what is saved, what it takes to restore it, and what is left of a save that failed.

mod clock;
mod cluster;
mod faults;
mod killed;
mod leaders;
mod many_keys;
mod relay;
mod versions;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::etcd::{DEFAULT_SET, Etcd, offline_tool};
use e2e::process::scratch;
use e2e::tools;
use etcd_snapshot_operator::etcd::Member;
use etcd_snapshot_operator::save::{Progress, SaveError, Saved, Saving, Step, Tell, save};
use etcd_snapshot_operator::snapshot::manifest::PREFIX;
use etcd_snapshot_operator::snapshot::{BaseName, ClusterId, NodeName};
use etcd_snapshot_operator::storage::local::Directory;
use jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub use self::faults::take_all_but;
pub use self::relay::Relay;
use crate::boltdb::post;
use crate::etcd::member;

const NODE: &str = "cp-1.example";

/// A folder with a snapshot directory in it.
struct Place(TempDir);

impl Place {
    fn new() -> Result<Self> {
        Ok(Self(scratch()?))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("snapshots")
    }

    /// As a process that has just begun.
    fn open(&self) -> Result<Directory> {
        Ok(Directory::open(self.path(), NodeName::new(NODE)?)?)
    }

    /// Everything in the snapshot directory, hidden or not.
    fn files(&self) -> Result<Vec<String>> {
        names(&self.path())
    }

    /// Everything among the sidecars but the state.
    fn sidecars(&self) -> Result<Vec<String>> {
        let mut names = names(&self.0.path().join(".metadata"))?;
        names.retain(|name| name != ".state");
        Ok(names)
    }

    fn sidecar(&self, name: &str) -> Result<BTreeMap<String, String>> {
        Ok(serde_json::from_slice(&std::fs::read(self.0.path().join(".metadata").join(name))?)?)
    }

    fn is_empty(&self) -> Result<()> {
        let (files, sidecars) = (self.files()?, self.sidecars()?);
        ensure!(files.is_empty() && sidecars.is_empty(), "left behind: {files:?} {sidecars:?}");
        Ok(())
    }
}

fn names(directory: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    let mut names: Vec<String> = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

fn mode(path: &Path) -> Result<u32> {
    Ok(std::fs::metadata(path)?.permissions().mode() & 0o777)
}

/// A save that a test makes.
struct Save<'a> {
    member: &'a Member,
    directory: &'a Directory,
    compress: bool,
    stall: Duration,
    stop: CancellationToken,
    now: fn() -> Timestamp,
    seen: Arc<Mutex<Vec<(Step, Progress)>>>,
    /// Called at each step and while one goes on.
    at: Box<dyn Fn(Step, Progress) + Send + Sync>,
}

impl<'a> Save<'a> {
    fn of(member: &'a Member, directory: &'a Directory) -> Self {
        let stall = Duration::from_secs(30);
        let stop = CancellationToken::new();
        Self { member, directory, compress: false, stall, stop, now: Timestamp::now, seen: Arc::default(), at: Box::new(|_, _| ()) }
    }

    fn zip(mut self) -> Self {
        self.compress = true;
        self
    }

    fn at(mut self, at: impl Fn(Step, Progress) + Send + Sync + 'static) -> Self {
        self.at = Box::new(at);
        self
    }

    async fn run(self) -> Result<Saved, SaveError> {
        let saving = Saving {
            member: self.member,
            directory: self.directory,
            base: BaseName::default(),
            compress: self.compress,
            cluster: ClusterId::new("uid-of-kube-system"),
            extra: [("provisioning-cluster-spec".to_owned(), "{}".to_owned()), (format!("{PREFIX}quorum"), "forged".to_owned())].into(),
            token_hash: Some("9f86d081884c".to_owned()),
            stall: self.stall,
        };
        let (seen, at) = (self.seen, self.at);
        let tell: Tell = Arc::new(move |step, progress| {
            seen.lock().unwrap().push((step, progress));
            at(step, progress);
        });
        save(&saving, &tell, &self.stop, self.now).await
    }
}

fn at(etcd: &Etcd) -> Result<Member> {
    member(&etcd.endpoint(), |_| ())
}

pub fn address(etcd: &Etcd) -> Result<SocketAddr> {
    Ok(etcd.endpoint().trim_start_matches("http://").parse()?)
}

/// Some MiB of values that do not compress: base64 digits, each of six random bits.
pub async fn fill(etcd: &Etcd, mebibytes: usize) -> Result<()> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let value: String = (0..1_400_000)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            char::from(DIGITS[usize::try_from(state % 64).unwrap_or(0)])
        })
        .collect();
    let address = address(etcd)?;
    for number in 0..mebibytes {
        post(address, "kv/put", &json!({ "key": format!("big{number:05}"), "value": value })).await?;
    }
    Ok(())
}

/// Restores a snapshot with this version's own tool, hash check on, which `snapshot status` leaves out. Returns what that prints of it.
async fn restores(set: &str, snapshot: &[u8]) -> Result<Value> {
    let dir = scratch()?;
    let (path, tool) = (dir.path().join("snapshot"), offline_tool(set)?);
    std::fs::write(&path, snapshot)?;
    tools::run(&tool, ["snapshot".into(), "restore".into(), path.clone(), "--data-dir".into(), dir.path().join("data")]).await?;
    let status = ["snapshot".into(), "status".into(), path, "-w".into(), PathBuf::from("json")];
    Ok(serde_json::from_str(&tools::run(&tool, status).await?)?)
}

/// What clients see at this revision, and of all leases.
async fn content(etcd: &Etcd, revision: u64) -> Result<Value> {
    let all: Value = serde_json::from_str(&etcd.etcdctl(["get", "", "--prefix", "--rev", &revision.to_string(), "-w", "json"]).await?)?;
    let list: Value = serde_json::from_str(&etcd.etcdctl(["lease", "list", "-w", "json"]).await?)?;
    let mut ids: Vec<i64> = list["leases"].as_array().into_iter().flatten().filter_map(|lease| lease["id"].as_i64()).collect();
    ids.sort_unstable();
    let mut leases = Vec::new();
    for id in ids {
        let text = etcd.etcdctl(["lease", "timetolive", &format!("{id:x}"), "--keys", "-w", "json"]).await?;
        let lease: Value = serde_json::from_str(&text)?;
        let mut keys: Vec<String> = lease["keys"].as_array().into_iter().flatten().map(ToString::to_string).collect();
        keys.sort();
        leases.push(json!({ "id": id, "granted": lease["granted-ttl"], "keys": keys }));
    }
    ensure!(all["kvs"].as_array().is_some_and(|kvs| !kvs.is_empty()), "nothing there: {all}");
    Ok(json!({ "kvs": all["kvs"], "leases": leases }))
}
