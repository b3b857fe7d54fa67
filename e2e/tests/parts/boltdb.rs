//! The database reader against the own tools of each etcd and the member's own answers, on databases made just now.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, ensure};
use e2e::etcd::{DEFAULT_SET, Etcd, Restore, offline_tool};
use e2e::process::scratch;
use e2e::tools;
use etcd_snapshot_operator::boltdb::{Facts, inspect};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Bytes of a snapshot's trailer.
const TRAILER: u64 = 32;

/// A member whose database is written to through its JSON gateway: faster than one etcdctl for each key.
struct Member {
    set: &'static str,
    etcd: Etcd,
    dir: TempDir,
}

/// Keys and values are given in base64, so eight of its characters are six bytes.
fn key(number: usize) -> String {
    format!("k{number:07}")
}

pub async fn post(address: SocketAddr, path: &str, body: &Value) -> Result<Value> {
    let body = body.to_string();
    let head = format!("POST /v3/{path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all([head.as_bytes(), body.as_bytes()].concat().as_slice()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no whole answer")?;
    ensure!(head.split(' ').nth(1) == Some("200"), "{path}: {answer}");
    Ok(serde_json::from_str(body)?)
}

impl Member {
    async fn start(set: &'static str) -> Result<Self> {
        Ok(Self { set, etcd: Etcd::start_version(set).await?, dir: scratch()? })
    }

    fn address(&self) -> Result<SocketAddr> {
        Ok(self.etcd.endpoint().trim_start_matches("http://").parse()?)
    }

    async fn post(&self, path: &str, body: Value) -> Result<Value> {
        post(self.address()?, path, &body).await
    }

    async fn put(&self, key: &str, value: &str) -> Result<()> {
        self.post("kv/put", json!({ "key": key, "value": value })).await.map(drop)
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.post("kv/deleterange", json!({ "key": key })).await.map(drop)
    }

    /// Compacts up to so many revisions before the last one, and waits until it is done.
    async fn compact(&self, before: u64) -> Result<()> {
        let revision = self.etcd.revision().await? - before;
        self.post("kv/compaction", json!({ "revision": revision.to_string(), "physical": true })).await.map(drop)
    }

    async fn ask(&self, what: &str) -> Result<Value> {
        let answer: Value = serde_json::from_str(&self.etcd.etcdctl(["endpoint", what, "--write-out", "json"]).await?)?;
        Ok(answer[0].clone())
    }

    /// Saves a snapshot and reads it; every number has to be the one that etcdutl prints of it.
    async fn same(&self, what: &str) -> Result<(Facts, PathBuf)> {
        let path = self.dir.path().join(what);
        self.etcd.save(&path).await?;
        let file = File::open(&path)?;
        let facts = inspect(&file, file.metadata()?.len() - TRAILER).with_context(|| format!("read {what}"))?;
        let status = self.offline(&["snapshot", "status"], &path).await?;
        let keys = if self.set < "etcd-3.6" { facts.total_keys } else { facts.live_keys };
        let mut ours = json!({ "hash": facts.hash, "revision": facts.revision, "totalKey": keys, "totalSize": facts.total_size });
        if self.set >= "etcd-3.6" {
            ours["version"] = json!(facts.storage_version);
        }
        ensure!(ours == status, "{what}: {ours} read, {status} by {}'s snapshot status", self.set);
        Ok((facts, path))
    }

    /// As [`Self::same`], of a member that nobody writes to: then its own answers are those of the snapshot.
    async fn same_as_the_member(&self, what: &str) -> Result<Facts> {
        let hash = self.ask("hashkv").await?["HashKV"].clone();
        let status = self.ask("status").await?["Status"].clone();
        let (facts, _) = self.same(what).await?;
        let ours = (Some(u64::from(facts.hash_kv)), Some(facts.compact_revision));
        let theirs = (hash["hash"].as_u64(), hash["compact_revision"].as_i64());
        ensure!(ours == theirs, "{what}: {ours:?} read, {theirs:?} by the member");
        if self.set >= "etcd-3.6" {
            ensure!(hash["hash_revision"] == facts.hash_kv_revision, "{what}: {facts:?} read, {hash} by the member");
        }
        // 3.4 notes no term, and no index with compactions.
        if self.set > "etcd-3.4" {
            let (ours, theirs) = ((facts.raft_index, facts.raft_term), (status["raftAppliedIndex"].as_u64(), status["raftTerm"].as_u64()));
            ensure!(ours == theirs, "{what}: {ours:?} read, {theirs:?} by the member");
        }
        ensure!(
            Some(&facts.members[..]) == status["header"]["member_id"].as_u64().as_ref().map(std::slice::from_ref),
            "{what}: {:?}",
            facts.members
        );
        Ok(facts)
    }

    /// What the version's own tool says of a file.
    async fn offline(&self, command: &[&str], path: &Path) -> Result<Value> {
        let mut args: Vec<_> = command.iter().map(std::ffi::OsString::from).collect();
        args.extend([path.into(), "--write-out".into(), "json".into()]);
        Ok(serde_json::from_str(&tools::run(&offline_tool(self.set)?, args).await?)?)
    }

    /// `etcdutl hashkv` writes into what it reads. Before 3.6 there is none.
    async fn same_hash_kv(&self, facts: &Facts, path: &Path) -> Result<()> {
        if self.set < "etcd-3.6" {
            return Ok(());
        }
        let copy = path.with_extension("copy");
        std::fs::copy(path, &copy)?;
        let printed = self.offline(&["hashkv"], &copy).await?;
        let ours = json!({ "hash": facts.hash_kv, "hashRevision": facts.hash_kv_revision, "compactRevision": facts.compact_revision });
        ensure!(ours == printed, "{}: {ours} read, {printed} by etcdutl hashkv", path.display());
        Ok(())
    }

    /// Reads snapshots that are streamed while somebody writes, each later than the one before, the first later than `last`.
    async fn same_while_written_to(&self, mut last: i64) -> Result<()> {
        let writing = Arc::new(AtomicBool::new(true));
        let writer = tokio::spawn({
            let (writing, address) = (Arc::clone(&writing), self.address()?);
            async move {
                let mut number = 0;
                while writing.load(Ordering::Relaxed) {
                    number += 1;
                    post(address, "kv/put", &json!({ "key": key(number % 500), "value": "abc1".repeat(number % 700) })).await?;
                }
                anyhow::Ok(number)
            }
        });
        for what in ["written to 1", "written to 2", "written to 3"] {
            while self.etcd.revision().await? <= u64::try_from(last)? {}
            let (facts, path) = self.same(what).await?;
            self.same_hash_kv(&facts, &path).await?;
            ensure!(facts.revision > last, "{what}: nothing was written: {facts:?}");
            last = facts.revision;
        }
        writing.store(false, Ordering::Relaxed);
        writer.await??;
        Ok(())
    }
}

/// The versions of etcd.
const VERSIONS: [&str; 4] = ["etcd-3.4", "etcd-3.5", "etcd-3.6", "etcd-3.7"];

#[tokio::test]
async fn a_small_database_reads_as_each_etcd_reads_it_through_its_life() -> Result<()> {
    for set in VERSIONS {
        a_small_one_reads_the_same(set).await.context(set)?;
    }
    Ok(())
}

async fn a_small_one_reads_the_same(set: &'static str) -> Result<()> {
    let member = Member::start(set).await?;
    let empty = member.same_as_the_member("empty").await?;
    ensure!((empty.live_keys, empty.compact_revision) == (0, -1), "{empty:?}");
    // 3.4 notes its index with the first write.
    let before = empty.total_keys + u64::from(set == "etcd-3.4");
    member.put(&key(1), "aaaa").await?;
    let one = member.same_as_the_member("one key").await?;
    ensure!((one.live_keys, one.total_keys) == (1, before + 1), "{one:?}");
    for number in 0..60 {
        member.put(&key(number % 12), &key(number)).await?;
    }
    for number in [3, 5] {
        member.delete(&key(number)).await?;
    }
    let deleted = member.same_as_the_member("deleted").await?;
    ensure!((deleted.live_keys, deleted.total_keys) == (10, before + 63), "{deleted:?}");
    member.compact(6).await?;
    let compacted = member.same_as_the_member("compacted").await?;
    ensure!(compacted.live_keys == 10 && compacted.total_keys < deleted.total_keys && compacted.compact_revision > 0, "{compacted:?}");
    member.put(&key(7), "after000").await?;
    member.delete(&key(8)).await?;
    member.same_as_the_member("compacted and changed").await?;
    // The last revision is a tombstone, and the compaction reaches it.
    member.compact(0).await?;
    let (facts, path) = member.same("compacted at a tombstone").await?;
    member.same_hash_kv(&facts, &path).await?;
    member.same_as_the_member("compacted at a tombstone").await?;
    member.post("kv/deleterange", json!({ "key": "AA==", "range_end": "AA==" })).await?;
    member.compact(0).await?;
    let nothing = member.same_as_the_member("nothing lives").await?;
    ensure!(nothing.live_keys == 0, "{nothing:?}");
    Ok(())
}

#[tokio::test]
async fn leases_read_as_each_etcd_reads_them() -> Result<()> {
    for set in VERSIONS {
        leases_read_the_same(set).await.context(set)?;
    }
    Ok(())
}

async fn leases_read_the_same(set: &'static str) -> Result<()> {
    let member = Member::start(set).await?;
    let lease = member.post("lease/grant", json!({ "TTL": 3600 })).await?["ID"].clone();
    for number in 0..20 {
        member.post("kv/put", json!({ "key": key(number), "value": "aaaa", "lease": lease })).await?;
    }
    member.same_as_the_member("leases").await?;
    member.post("lease/revoke", json!({ "ID": lease })).await?;
    let revoked = member.same_as_the_member("revoked").await?;
    ensure!(revoked.live_keys == 0, "{revoked:?}");
    Ok(())
}

#[tokio::test]
async fn values_larger_than_pages_and_than_what_is_read_at_once_read_as_each_etcd_reads_them() -> Result<()> {
    for set in VERSIONS {
        large_ones_read_the_same(set).await.context(set)?;
    }
    Ok(())
}

/// Also while somebody writes, defragmented, and restored.
async fn large_ones_read_the_same(set: &'static str) -> Result<()> {
    let mut member = Member::start(set).await?;
    for (number, length) in [100, 4096, 20_000, 350_000, 1_000_000, 1_400_000, 4000].into_iter().enumerate() {
        member.put(&key(number), &"abc1".repeat(length / 3)).await?;
    }
    // And keys that are.
    member.put(&"key/".repeat(100_000), "aaaa").await?;
    member.put(&"key/".repeat(100_001), "aaaa").await?;
    member.put(&"key/".repeat(100_000), "bbbb").await?;
    let facts = member.same_as_the_member("big").await?;
    ensure!(facts.live_keys == 9, "{facts:?}");
    member.compact(0).await?;
    let compacted = member.same_as_the_member("big and compacted").await?;
    member.same_while_written_to(compacted.revision).await?;
    member.etcd.etcdctl(["defrag"]).await?;
    let (facts, path) = member.same("defragmented").await?;
    member.same_hash_kv(&facts, &path).await?;
    member.etcd.restore(&path, Restore::default()).await?;
    let restored = member.same_as_the_member("restored").await?;
    ensure!((restored.revision, restored.live_keys) == (facts.revision, facts.live_keys), "{restored:?} of {facts:?}");
    Ok(())
}

#[tokio::test]
async fn fifty_thousand_keys_read_as_etcd_reads_them_also_defragmented_restored_and_written_to() -> Result<()> {
    let mut member = Member::start(DEFAULT_SET).await?;
    for first in (0..50_000).step_by(125) {
        let puts = (first..first + 125).map(|number| json!({ "requestPut": { "key": key(number), "value": key(number / 7) } }));
        member.post("kv/txn", json!({ "success": puts.collect::<Vec<_>>() })).await?;
    }
    let facts = member.same_as_the_member("many").await?;
    ensure!(facts.live_keys == 50_000, "{facts:?}");
    member.compact(200).await?;
    member.same_as_the_member("many and compacted").await?;
    member.etcd.etcdctl(["defrag"]).await?;
    member.same_as_the_member("defragmented").await?;

    member.same_while_written_to(facts.revision).await?;

    let (_, path) = member.same("before the restore").await?;
    member.etcd.restore(&path, Restore { bump_revision: Some(1_000_000) }).await?;
    let restored = member.same_as_the_member("restored").await?;
    ensure!(restored.compact_revision >= 1_000_000 && restored.live_keys >= 50_000, "{restored:?}");
    Ok(())
}
