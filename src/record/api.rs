//! The `ETCDSnapshotFile` as types: K3s's fields and names, field for field (k3s-io/api, `k3s.cattle.io/v1`).
//!
//! The doc comments are what `kubectl explain` prints.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

use super::quantity::Quantity;

/// One snapshot in one storage: a file in the snapshot directory of a node, or an object in an S3 bucket. The record
/// says what is there and whether it was checked; deleting it does nothing to the file or object, and it comes back.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
pub struct ETCDSnapshotFile {
    /// Name, labels, annotations.
    pub metadata: ObjectMeta,
    /// Where the snapshot is.
    #[serde(default)]
    pub spec: Spec,
    /// What is known of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

/// Where the snapshot is, and what was noted when it was taken.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct Spec {
    /// Name of the snapshot file, with .zip at its end when compressed. It is what the command line takes as argument.
    #[serde(default)]
    pub snapshot_name: String,
    /// Node that took the snapshot; "s3" for an object whose metadata does not tell.
    #[serde(default)]
    pub node_name: String,
    /// Absolute URL of the file or object: file:///... or s3://bucket/key. Empty for a snapshot that could not be saved.
    #[serde(default)]
    pub location: String,
    /// Extra metadata: the data of the ConfigMap named after the program and "-etcd-snapshot-extra-metadata" in kube-system at the time of the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Present exactly when the snapshot is an object in S3: how to reach it. Credentials are never stored here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3>,
}

/// How to reach an object. Credentials are never stored here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct S3 {
    /// Host or host:port of the S3 service.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// Certificate authorities trusted for the endpoint: paths or base64 bundles, as in the setting etcd-s3-endpoint-ca.
    #[serde(default, rename = "endpointCA", skip_serializing_if = "String::is_empty")]
    pub endpoint_ca: String,
    /// Whether the endpoint's certificate is not checked.
    #[serde(default, rename = "skipSSLVerify", skip_serializing_if = "std::ops::Not::not")]
    pub skip_ssl_verify: bool,
    /// Name of the bucket.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub bucket: String,
    /// How the bucket is put into requests: dns, path, or auto when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub bucket_lookup: String,
    /// Region of the bucket.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub region: String,
    /// Folder of the snapshots in the bucket.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// Whether plain HTTP is used.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
}

/// What is known of the snapshot.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct Status {
    /// Bytes of the file or object, as a Kubernetes quantity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Quantity")]
    pub size: Option<Quantity>,
    /// When the snapshot was taken.
    #[serde(default, deserialize_with = "readable", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub creation_time: Option<Timestamp>,
    /// Whether it can be restored: true only for a snapshot that was read to its end and matches its own SHA-256, or for an object of which no digest is known and whose size can be a snapshot's. False while that is being found out, see the annotation etcd-snapshot-operator.dev/verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub ready_to_use: Option<bool>,
    /// Why it cannot be restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
}

/// Why a snapshot cannot be restored.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct Error {
    /// When it failed, or when the damaged file or object last changed.
    #[serde(default, deserialize_with = "readable", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub time: Option<Timestamp>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub message: Option<String>,
}

/// Kubernetes takes date-times that are no time, such as one 99 hours ahead of UTC. One such record counts as having none: it
/// must not make a whole list unreadable.
fn readable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.and_then(|text| text.parse().ok()))
}

fn date_time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}

impl JsonSchema for Quantity {
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$",
            "x-kubernetes-int-or-string": true,
        })
    }
}

impl k8s_openapi::Resource for ETCDSnapshotFile {
    const API_VERSION: &'static str = "k3s.cattle.io/v1";
    const GROUP: &'static str = "k3s.cattle.io";
    const KIND: &'static str = "ETCDSnapshotFile";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "etcdsnapshotfiles";
    type Scope = k8s_openapi::ClusterResourceScope;
}

impl k8s_openapi::Metadata for ETCDSnapshotFile {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &Self::Ty {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut Self::Ty {
        &mut self.metadata
    }
}
