//! The manifest of a snapshot just taken, and the sidecar that carries it.
//!
//! In: what the member said, what the stream, the inside and the archive showed. Out: the sidecar's keys. Nothing is guessed.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::stream::Streamed;
use super::{Compressed, Packed, Said, Saving};
use crate::boltdb::Facts;
use crate::snapshot::manifest::PREFIX;
use crate::snapshot::{Manifest, NodeName};

/// All that is known of it.
pub(super) fn manifest(
    saving: &Saving<'_>,
    node: &NodeName,
    said: &Said,
    streamed: &Streamed,
    facts: &Facts,
    packed: &Packed,
    time: Timestamp,
) -> Manifest {
    let status = &said.status;
    let alarms: BTreeSet<String> = status.alarms.iter().map(|alarm| alarm.kind.to_string()).collect();
    let alarms: Vec<String> = alarms.into_iter().collect();
    // etcd 3.4 notes no term, and no index before its first write. What the member had applied before the stream began the
    // snapshot has as well.
    let raft_index = facts.raft_index.unwrap_or(status.raft_applied_index);
    let raft_term = facts.raft_term.unwrap_or(status.raft_term);
    let storage_version = facts.storage_version.clone().or_else(|| status.storage_version.clone());
    let known: [(&str, Option<String>); 23] = [
        ("file-sha256", Some(packed.sha256.to_string())),
        ("file-size", Some(packed.size.to_string())),
        ("db-sha256", Some(streamed.db_sha256.to_string())),
        ("db-size", Some(streamed.db_size.to_string())),
        ("time", Some(seconds(time).to_string())),
        ("node", Some(node.to_string())),
        ("cluster-id", saving.cluster.as_ref().map(ToString::to_string)),
        ("etcd-cluster-id", Some(status.etcd_cluster.to_string())),
        ("member-id", Some(status.member.to_string())),
        ("etcd-version", Some(status.version.clone())),
        ("storage-version", storage_version),
        ("raft-term", Some(raft_term.to_string())),
        ("raft-index", Some(raft_index.to_string())),
        ("revision", Some(facts.revision.to_string())),
        ("compact-revision", Some(facts.compact_revision.to_string())),
        ("live-keys", Some(facts.live_keys.to_string())),
        ("total-keys", Some(facts.total_keys.to_string())),
        // Each as etcdutl prints it: this one in hexadecimal, the next one not.
        ("hash", Some(format!("{:x}", facts.hash))),
        ("hash-kv", Some(facts.hash_kv.to_string())),
        ("quorum", Some(said.quorum.to_string())),
        ("alarms", Some(alarms.join(","))),
        ("compression", Some(if packed.compressed == Compressed::Done { "zip" } else { "none" }.into())),
        ("token-hash", saving.token_hash.clone()),
    ];
    Manifest::from_keys(known.into_iter().filter_map(|(key, value)| Some((key.to_string(), value?))).collect())
}

/// The digests and sizes alone: what the state remembers.
pub(super) fn digests(manifest: &Manifest) -> Manifest {
    Manifest {
        file_sha256: manifest.file_sha256,
        file_size: manifest.file_size,
        db_sha256: manifest.db_sha256,
        db_size: manifest.db_size,
        ..Manifest::default()
    }
}

/// The JSON of the sidecar. The extra metadata has no say in what is ours.
pub(super) fn sidecar(manifest: &Manifest, extra: &BTreeMap<String, String>) -> Vec<u8> {
    let mut keys: BTreeMap<String, String> =
        extra.iter().filter(|(key, _)| !key.starts_with(PREFIX)).map(|(key, value)| (key.clone(), value.clone())).collect();
    keys.extend(manifest.to_keys().into_iter().map(|(key, value)| (format!("{PREFIX}{key}"), value)));
    serde_json::json!(keys).to_string().into_bytes()
}

fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
