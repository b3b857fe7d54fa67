//! What the cache keeps of one record: enough to decide, and not the record itself.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::api::ETCDSnapshotFile;
use super::content::{Short, annotation, digest, digest_without_metadata, is_untouched};
use super::name::RecordName;
use super::uploads;
use crate::snapshot::{FileName, Known, Manifest, Metadata, NodeName, Program, Storage, Uploads, Verdict, Version};

/// The projection of one `ETCDSnapshotFile`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its name.
    pub name: RecordName,
    /// Its UID: another object of the same name is another record.
    pub uid: String,
    /// The state of it that this projection is of.
    pub resource_version: String,
    /// A finalizer holds it; it counts as absent and is left alone.
    pub terminating: bool,
    /// Where the file is. None when nothing can be told from it.
    pub storage: Option<Storage>,
    /// `spec.snapshotName`, when a snapshot can be called that.
    pub file: Option<FileName>,
    /// `spec.nodeName`.
    pub node: String,
    /// The digest of all its content.
    pub digest: Short,
    /// The digest of its content without the extra metadata.
    pub facts: Short,
    /// The version it says it was written for.
    pub version: Option<Version>,
    /// Its content is what was last written to it, by an agent like us: K3s writes no digest.
    pub is_untouched: bool,
    /// What it says is known of that version. None when its content is not what was last written to it: then it is not believed.
    pub known: Option<Box<Known>>,
    /// `status.error.time`, when it has an error.
    pub error_at: Option<Timestamp>,
    /// What became of the file's uploads, as far as it shows that.
    pub uploads: Uploads,
    /// The agent that wrote it has no Node object.
    pub without_node_object: bool,
}

impl Record {
    /// Whether it only tells of something that failed: an error, and no version that it was ever written for.
    pub fn is_failure(&self) -> bool {
        self.error_at.is_some() && self.version.is_none()
    }
}

/// The projection of a record.
pub fn cached(object: &ETCDSnapshotFile, program: Program) -> Record {
    let meta = &object.metadata;
    let text = |key: &str| meta.annotations.as_ref().and_then(|all| all.get(key));
    let error = object.status.as_ref().and_then(|status| status.error.as_ref());
    let version = text(annotation::VERSION).map(|text| Version::remembered(text));
    let untouched = is_untouched(object, program);
    Record {
        name: RecordName::existing(meta.name.as_deref().unwrap_or_default()),
        uid: meta.uid.clone().unwrap_or_default(),
        resource_version: meta.resource_version.clone().unwrap_or_default(),
        terminating: meta.deletion_timestamp.is_some(),
        storage: storage(object),
        file: FileName::new(&object.spec.snapshot_name).ok(),
        node: object.spec.node_name.clone(),
        digest: digest(object, program),
        facts: digest_without_metadata(object, program),
        is_untouched: untouched,
        known: if untouched { known(object, program).map(Box::new) } else { None },
        version,
        uploads: text(annotation::UPLOAD).map(|text| uploads::read(text)).unwrap_or_default(),
        without_node_object: text(annotation::NODE).is_some_and(|text| text == "none"),
        // An error without a time counts from the record's own beginning.
        error_at: error.map(|error| error.time.or(meta.creation_timestamp.as_ref().map(|time| time.0)).unwrap_or(Timestamp::UNIX_EPOCH)),
    }
}

fn storage(object: &ETCDSnapshotFile) -> Option<Storage> {
    match &object.spec.s3 {
        Some(s3) => Some(Storage::s3(&s3.endpoint, !s3.insecure, &s3.bucket, &s3.prefix)),
        None => NodeName::new(&object.spec.node_name).ok().map(|node| Storage::Local { node }),
    }
}

fn known(object: &ETCDSnapshotFile, program: Program) -> Option<Known> {
    let annotations = object.metadata.annotations.as_ref()?;
    let text = |key: &str| annotations.get(key).map(String::as_str);
    let verdict = match text(annotation::VERDICT)? {
        "whole" => Verdict::Whole,
        "plausible" => Verdict::Plausible,
        "damaged" => Verdict::Damaged(object.status.as_ref()?.error.as_ref()?.message.clone()?),
        _ => return None,
    };
    let manifest: BTreeMap<String, String> = match text(annotation::MANIFEST) {
        Some(json) => serde_json::from_str(json).ok()?,
        None => BTreeMap::new(),
    };
    let manifest = Manifest::from_keys(manifest);
    Some(Known {
        verdict,
        cluster: manifest.cluster.clone().filter(|_| object.spec.s3.is_some()),
        manifest,
        node: NodeName::new(&object.spec.node_name).ok(),
        token_hash: text(&super::content::token_hash_key(program)).map(Into::into),
        metadata: Metadata::InRecord(text(annotation::METADATA_OMITTED).and_then(|bytes| bytes.parse().ok())),
    })
}
