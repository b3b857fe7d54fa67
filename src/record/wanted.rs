//! The record that a snapshot file should have: where it is, what is known of it, and whether it is ready.
//!
//! Ready is only what was verified whole, and an object that is plausible (docs/design.md 4, promise 1). A file that is not yet
//! verified has no `status.error`: Rancher would show a failure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::api::{ETCDSnapshotFile, Error, S3, Spec, Status};
use super::content::{annotation, label_key, token_hash_key};
use super::name::{Parts, RecordName, node_label, record_name};
use super::quantity::Quantity;
use super::uploads;
use crate::snapshot::{FailedSave, FileName, Metadata, NodeName, Owner, Program, SnapshotFile, Uploads, Verdict};

/// More extra metadata than this stays in the sidecar: K3s's old controller copies all of it into one ConfigMap of 1 MiB.
const MOST_METADATA: usize = 16 * 1024;

/// Where the files of one storage are, as records say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A directory of our node.
    Local {
        /// Absolute path without a slash at its end.
        dir: String,
        /// Our node.
        node: NodeName,
        /// Whether there is a Node object of that name.
        has_node_object: bool,
    },
    /// A folder of a bucket; the settings as records show them.
    S3(S3),
}

/// How records are written in this cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// The word in label and annotation keys.
    pub program: Program,
    /// Whether the served CRD has `spec.s3.bucketLookup`; older ones prune it silently.
    pub bucket_lookup: bool,
}

/// A record as it should be. Its digest is not in it yet: that depends on the metadata the record may hold already.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// Name, label, annotations, spec, status.
    pub object: ETCDSnapshotFile,
    /// The extra metadata was not read again: what the record holds stays.
    pub metadata_in_record: bool,
}

impl Wanted {
    /// The record's name.
    pub fn name(&self) -> RecordName {
        RecordName::existing(self.object.metadata.name.as_deref().unwrap_or_default())
    }
}

/// The record for this file. `node_in_record` names an object's node while nothing is known of its new version; an object
/// of which nothing is known and that has no record yet gets none, since its name depends on its metadata.
/// `uploads` is what became of a local file's.
pub fn wanted(
    file: &SnapshotFile,
    owner: Owner,
    place: &Place,
    shape: Shape,
    node_in_record: Option<&str>,
    uploads: Option<&Uploads>,
) -> Option<Wanted> {
    let (node, label, location, s3) = match place {
        Place::Local { dir, node, .. } => (node.to_string(), node_label(node.as_str()), format!("file://{dir}/{}", file.name), None),
        Place::S3(s3) => {
            let node = match &file.known {
                Some(known) => known.node.as_ref().map_or("s3", NodeName::as_str),
                None => node_in_record?,
            };
            (node.to_string(), "s3".into(), location(s3, &file.name), Some(served(s3, shape)))
        }
    };
    let created_at = whole_seconds(file.name.created_at(file.modified));
    let name = record_name(Parts { file: file.name.as_str(), node: &node, in_bucket: s3.is_some(), location: &location, created_at });
    let (metadata, omitted, metadata_in_record) = metadata(file);

    let mut annotations = BTreeMap::from([
        (annotation::VERSION.to_string(), file.version.to_string()),
        (annotation::VERDICT.to_string(), verdict_word(file).to_string()),
        (annotation::OWNER.to_string(), owner.word().to_string()),
    ]);
    if let Some(known) = &file.known {
        let mut manifest = known.manifest.clone();
        if let Place::S3(_) = place {
            // What its HEAD showed is proof; what its sidecar claims is another object's word.
            manifest.cluster.clone_from(&known.cluster);
        }
        if !manifest.is_empty() {
            annotations.insert(annotation::MANIFEST.into(), serde_json::json!(manifest.to_keys()).to_string());
        }
        if let Some(hash) = &known.token_hash {
            annotations.insert(token_hash_key(shape.program), hash.clone());
        }
    }
    if let Some(bytes) = omitted {
        annotations.insert(annotation::METADATA_OMITTED.into(), bytes.to_string());
    }
    if let Place::Local { has_node_object, .. } = place {
        if !has_node_object {
            annotations.insert(annotation::NODE.into(), "none".into());
        }
        annotations.extend(uploads.and_then(uploads::shown).map(|shown| (annotation::UPLOAD.to_string(), shown)));
    }
    let error = match file.known.as_ref().map(|known| &known.verdict) {
        Some(Verdict::Damaged(why)) => Some(Error { time: Some(whole_seconds(file.modified)), message: Some(why.clone()) }),
        _ => None,
    };
    let status = Status {
        size: Some(Quantity::of_bytes(file.size)),
        creation_time: Some(created_at),
        ready_to_use: Some(is_ready(file, place)),
        error,
    };
    let object = ETCDSnapshotFile {
        metadata: ObjectMeta {
            name: Some(name.as_str().into()),
            labels: Some(BTreeMap::from([(label_key(shape.program), label)])),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        spec: Spec { snapshot_name: file.name.to_string(), node_name: node, location, metadata, s3 },
        status: Some(status),
    };
    Some(Wanted { object, metadata_in_record })
}

/// The record of an upload that failed: no object is there.
pub fn failed_upload(file: &FileName, node: &NodeName, since: Timestamp, why: &str, place: &S3, shape: Shape) -> Wanted {
    failed(file, node, (since, why), (location(place, file), Some(served(place, shape))), ("s3".into(), shape))
}

/// The record of a save that failed: no file is there, and so it has no location.
pub fn failed_save(save: &FailedSave, node: &NodeName, shape: Shape) -> Wanted {
    failed(&save.file, node, (save.at, &save.why), (String::new(), None), (node_label(node.as_str()), shape))
}

/// A failure as K3s writes it (docs/k3s.md 5.2), but with the time of the failure.
fn failed(
    file: &FileName,
    node: &NodeName,
    (at, why): (Timestamp, &str),
    (location, s3): (String, Option<S3>),
    (label, shape): (String, Shape),
) -> Wanted {
    let at = whole_seconds(at);
    let created_at = file.time().unwrap_or(at);
    let name = record_name(Parts { file: file.as_str(), node: node.as_str(), in_bucket: s3.is_some(), location: &location, created_at });
    let error = Error { time: Some(at), message: Some(why.into()) };
    let status =
        Status { size: Some(Quantity::of_bytes(0)), creation_time: Some(created_at), ready_to_use: Some(false), error: Some(error) };
    let object = ETCDSnapshotFile {
        metadata: ObjectMeta {
            name: Some(name.as_str().into()),
            labels: Some(BTreeMap::from([(label_key(shape.program), label)])),
            annotations: Some(BTreeMap::new()),
            ..ObjectMeta::default()
        },
        spec: Spec { snapshot_name: file.to_string(), node_name: node.to_string(), location, metadata: None, s3 },
        status: Some(status),
    };
    Wanted { object, metadata_in_record: false }
}

fn location(s3: &S3, file: &FileName) -> String {
    let key = [&s3.prefix, file.as_str()].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("/");
    format!("s3://{}/{key}", s3.bucket)
}

/// Without the field that the served CRD may not have.
fn served(s3: &S3, shape: Shape) -> S3 {
    let mut s3 = s3.clone();
    if !shape.bucket_lookup {
        s3.bucket_lookup = String::new();
    }
    s3
}

fn is_ready(file: &SnapshotFile, place: &Place) -> bool {
    match file.known.as_ref().map(|known| &known.verdict) {
        Some(Verdict::Whole) => true,
        Some(Verdict::Plausible) => matches!(place, Place::S3(_)),
        Some(Verdict::Damaged(_)) | None => false,
    }
}

fn verdict_word(file: &SnapshotFile) -> &'static str {
    match file.known.as_ref().map(|known| &known.verdict) {
        Some(Verdict::Whole) => "whole",
        Some(Verdict::Plausible) => "plausible",
        Some(Verdict::Damaged(_)) => "damaged",
        None => "unverified",
    }
}

/// The extra metadata for the record, how many bytes were too many for it, and whether the record's own stays.
fn metadata(file: &SnapshotFile) -> (Option<BTreeMap<String, String>>, Option<usize>, bool) {
    match file.known.as_ref().map(|known| &known.metadata) {
        Some(Metadata::Read(extra)) if !extra.is_empty() => {
            let bytes = extra.iter().map(|(key, value)| key.len() + value.len()).sum();
            if bytes > MOST_METADATA { (None, Some(bytes), false) } else { (Some(extra.clone()), None, false) }
        }
        Some(Metadata::InRecord(omitted)) => (None, *omitted, true),
        Some(Metadata::Read(_)) | None => (None, None, false),
    }
}

/// metav1.Time has no fractions.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
