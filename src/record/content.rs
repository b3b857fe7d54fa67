//! What of a record is ours: `spec`, `status`, one label, and the annotations with our prefix; and the two digests by
//! which a record is believed and compared without keeping it.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::api::ETCDSnapshotFile;
use super::quantity::Quantity;
use crate::snapshot::manifest::PREFIX;
use crate::snapshot::name::Program;

/// Annotations that project what is known of the file.
pub mod annotation {
    /// The version that everything else was learnt of.
    pub const VERSION: &str = "etcd-snapshot-operator.dev/version";
    /// `whole`, `plausible`, `damaged` or `unverified`.
    pub const VERDICT: &str = "etcd-snapshot-operator.dev/verdict";
    /// `ours`, `doubtful`, `another-history` or `unknown`.
    pub const OWNER: &str = "etcd-snapshot-operator.dev/owner";
    /// JSON of the manifest, without the keys' prefix.
    pub const MANIFEST: &str = "etcd-snapshot-operator.dev/manifest";
    /// Bytes of extra metadata that stay in the sidecar.
    pub const METADATA_OMITTED: &str = "etcd-snapshot-operator.dev/metadata-omitted";
    /// JSON of what became of the file's uploads, by storage id.
    pub const UPLOAD: &str = "etcd-snapshot-operator.dev/upload";
    /// `none` when the agent's node has no Node object.
    pub const NODE: &str = "etcd-snapshot-operator.dev/node";
    /// The digest of all the others, of spec, status and our label.
    pub const DIGEST: &str = "etcd-snapshot-operator.dev/digest";
}

/// The key of the label with the storage's node.
pub fn label_key(program: Program) -> String {
    format!("etcd.{program}.cattle.io/snapshot-storage-node")
}

/// The key of the annotation with the token hash.
pub fn token_hash_key(program: Program) -> String {
    format!("etcd.{program}.cattle.io/snapshot-token-hash")
}

/// The first eight bytes of a SHA-256; printed as 16 hex digits.
pub type Short = u64;

/// The digest over everything of ours in the record, as the annotation has it.
pub fn digest(object: &ETCDSnapshotFile, program: Program) -> Short {
    short(&content(object, program, true))
}

/// The same without the extra metadata: comparable with a record whose metadata was not read again.
pub fn digest_without_metadata(object: &ETCDSnapshotFile, program: Program) -> Short {
    short(&content(object, program, false))
}

/// Whether the record is what was last written to it, by its own annotation.
pub fn is_untouched(object: &ETCDSnapshotFile, program: Program) -> bool {
    let annotations = object.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(annotation::DIGEST)).is_some_and(|written| *written == print(digest(object, program)))
}

/// 16 hex digits.
pub fn print(digest: Short) -> String {
    format!("{digest:016x}")
}

fn short(content: &Value) -> Short {
    let hash = Sha256::digest(content.to_string());
    hash.iter().take(8).fold(0, |number, byte| number << 8 | Short::from(*byte))
}

/// serde_json's maps are sorted, so equal contents are equal texts.
fn content(object: &ETCDSnapshotFile, program: Program, with_metadata: bool) -> Value {
    let mut spec = object.spec.clone();
    if !with_metadata {
        spec.metadata = None;
    }
    let mut status = object.status.clone();
    if let Some(size) = status.as_mut().and_then(|status| status.size.as_mut()) {
        *size = canonical(size);
    }
    let ours: BTreeMap<_, _> =
        object.metadata.annotations.iter().flatten().filter(|(key, _)| key.starts_with(PREFIX) && *key != annotation::DIGEST).collect();
    let label = object.metadata.labels.as_ref().and_then(|labels| labels.get(&label_key(program)));
    json!({"spec": spec, "status": status, "label": label, "annotations": ours})
}

/// One text for one number, so that another's spelling of it is no difference.
pub fn canonical(size: &Quantity) -> Quantity {
    size.bytes().map_or_else(|| size.clone(), Quantity::of_bytes)
}
