//! The manifest: what is known of a snapshot's content; and the sidecar that carries it beside the file and the object.
//!
//! In: the sidecar's map from string to string. Out: typed facts, and the extra metadata that is not ours. Whatever a
//! newer version of us wrote and this one does not know is kept as it is.

use std::collections::BTreeMap;
use std::fmt;

use super::name::{ClusterId, NodeName};

/// Before the keys of ours in a sidecar and in a record's annotations.
pub const PREFIX: &str = "etcd-snapshot-operator.dev/";

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Reads 64 hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One life of an etcd: raft's cluster id, and a raft index that only rises in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Raft's own cluster id, as the manifest writes it.
    pub etcd_cluster: String,
    /// The raft index at which the snapshot was taken.
    pub raft_index: u64,
}

/// What is known of a snapshot's content. Nothing in it is guessed; what is not known is None.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifest {
    /// SHA-256 of the stored file, zipped or not.
    pub file_sha256: Option<Digest>,
    /// Bytes of the stored file.
    pub file_size: Option<u64>,
    /// SHA-256 of the database, as its trailer says and its bytes prove.
    pub db_sha256: Option<Digest>,
    /// Bytes of the database without its trailer.
    pub db_size: Option<u64>,
    /// The cluster that the snapshot was taken in.
    pub cluster: Option<ClusterId>,
    /// The node that took it.
    pub node: Option<NodeName>,
    /// Where in etcd's life it was taken.
    pub history: Option<History>,
    /// Whether the member had a quorum then.
    pub quorum: Option<bool>,
    /// Whether the member had a CORRUPT alarm then.
    pub corrupt: bool,
    /// Keys without the prefix that say more; written back as they were read.
    pub rest: BTreeMap<String, String>,
}

impl Manifest {
    /// Splits a sidecar: the manifest from the keys with our prefix, and the extra metadata from all others.
    pub fn from_sidecar(sidecar: BTreeMap<String, String>) -> (Self, BTreeMap<String, String>) {
        let mut ours = BTreeMap::new();
        let mut extra = BTreeMap::new();
        for (key, value) in sidecar {
            match key.strip_prefix(PREFIX) {
                Some(key) => ours.insert(key.to_string(), value),
                None => extra.insert(key, value),
            };
        }
        (Self::from_keys(ours), extra)
    }

    /// Reads keys without the prefix, as the record's annotation has them. A value that cannot be read is not known.
    pub fn from_keys(mut keys: BTreeMap<String, String>) -> Self {
        let corrupt = keys.get("alarms").is_some_and(|alarms| alarms.contains("CORRUPT"));
        let history = match (keys.get("etcd-cluster-id"), keys.get("raft-index").map(|index| index.parse())) {
            (Some(id), Some(Ok(raft_index))) if !id.is_empty() => Some(History { etcd_cluster: id.clone(), raft_index }),
            _ => None,
        };
        let mut take = |key: &str| keys.remove(key);
        let manifest = Self {
            file_sha256: take("file-sha256").and_then(|text| Digest::parse(&text)),
            file_size: take("file-size").and_then(|text| text.parse().ok()),
            db_sha256: take("db-sha256").and_then(|text| Digest::parse(&text)),
            db_size: take("db-size").and_then(|text| text.parse().ok()),
            cluster: take("cluster-id").and_then(|text| ClusterId::new(&text)),
            node: take("node").and_then(|text| NodeName::new(&text).ok()),
            quorum: take("quorum").and_then(|text| text.parse().ok()),
            history,
            corrupt,
            rest: BTreeMap::new(),
        };
        Self { rest: keys, ..manifest }
    }

    /// The keys without the prefix; equal manifests give equal keys.
    pub fn to_keys(&self) -> BTreeMap<String, String> {
        let mut keys = self.rest.clone();
        let known = [
            ("file-sha256", self.file_sha256.map(|digest| digest.to_string())),
            ("file-size", self.file_size.map(|size| size.to_string())),
            ("db-sha256", self.db_sha256.map(|digest| digest.to_string())),
            ("db-size", self.db_size.map(|size| size.to_string())),
            ("cluster-id", self.cluster.as_ref().map(ToString::to_string)),
            ("node", self.node.as_ref().map(ToString::to_string)),
            ("quorum", self.quorum.map(|quorum| quorum.to_string())),
        ];
        keys.extend(known.into_iter().filter_map(|(key, value)| Some((key.to_string(), value?))));
        keys
    }

    /// The hash of the token that the servers had then (docs/k3s.md 7.4).
    pub fn token_hash(&self) -> Option<&str> {
        self.rest.get("token-hash").map(String::as_str)
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.to_keys().is_empty()
    }

    /// The digests of bytes that were read just now stand in for whatever a sidecar claims. What a sidecar says of
    /// other bytes than these is not known of these.
    #[must_use]
    pub fn with_digests_of(self, read: &Manifest) -> Self {
        let contradicts = |claimed: Option<Digest>, found: Option<Digest>| matches!((claimed, found), (Some(a), Some(b)) if a != b);
        let of_other_bytes = contradicts(self.file_sha256, read.file_sha256) || contradicts(self.db_sha256, read.db_sha256);
        let base = if of_other_bytes { Self::default() } else { self };
        Self { file_sha256: read.file_sha256, file_size: read.file_size, db_sha256: read.db_sha256, db_size: read.db_size, ..base }
    }
}

/// The sidecar's bytes: a JSON object from text to text with sorted keys. What in `extra` stands under a key of ours is
/// left out: it would be read back as the manifest.
pub fn sidecar(manifest: &Manifest, extra: &BTreeMap<String, String>) -> Vec<u8> {
    let extra = extra.iter().filter(|(key, _)| !key.starts_with(PREFIX)).map(|(key, value)| (key.clone(), value.clone()));
    let ours = manifest.to_keys().into_iter().map(|(key, value)| (format!("{PREFIX}{key}"), value));
    let pairs: BTreeMap<String, String> = extra.chain(ours).collect();
    serde_json::Value::from_iter(pairs).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())).collect()
    }

    #[test]
    fn a_manifest_survives_the_way_through_its_keys() {
        let keys = map(&[
            ("file-sha256", &"ab".repeat(32)),
            ("file-size", "4128"),
            ("etcd-cluster-id", "cdf818194e3a8c32"),
            ("raft-index", "77"),
            ("quorum", "false"),
            ("alarms", "NOSPACE,CORRUPT"),
            ("cluster-id", "uid"),
            ("node", "cp1"),
            ("from-the-future", "x"),
        ]);
        let manifest = Manifest::from_keys(keys.clone());
        assert_eq!(manifest.to_keys(), keys);
        assert_eq!(manifest.history, Some(History { etcd_cluster: "cdf818194e3a8c32".into(), raft_index: 77 }));
        assert!(manifest.corrupt);
        assert_eq!(manifest.quorum, Some(false));
    }

    #[test]
    fn only_keys_with_our_prefix_are_the_manifest() {
        let prefixed = format!("{PREFIX}file-size");
        let (manifest, extra) = Manifest::from_sidecar(map(&[(&prefixed, "9"), ("provisioning-cluster-spec", "{}"), ("file-size", "1")]));
        assert_eq!(manifest.file_size, Some(9));
        assert_eq!(extra, map(&[("file-size", "1"), ("provisioning-cluster-spec", "{}")]));
    }

    #[test]
    fn what_cannot_be_read_is_not_known() {
        let manifest = Manifest::from_keys(map(&[
            ("file-size", "-1"),
            ("file-sha256", "é".repeat(32).as_str()),
            ("raft-index", "x"),
            ("etcd-cluster-id", "c"),
        ]));
        assert_eq!((manifest.file_size, manifest.file_sha256, manifest.history), (None, None, None));
    }

    #[test]
    fn a_sidecar_of_other_bytes_says_nothing_of_these() {
        let claimed = Manifest { file_sha256: Some(Digest([1; 32])), quorum: Some(true), ..Manifest::default() };
        let read = Manifest { file_sha256: Some(Digest([2; 32])), file_size: Some(5), ..Manifest::default() };
        assert_eq!(claimed.clone().with_digests_of(&read), read);
        let same = Manifest { file_sha256: Some(Digest([1; 32])), file_size: Some(5), ..Manifest::default() };
        assert_eq!(claimed.with_digests_of(&same).quorum, Some(true));
    }

    #[test]
    fn a_sidecar_has_sorted_keys_and_no_stranger_speaks_for_the_manifest() {
        let manifest = Manifest { file_size: Some(9), quorum: Some(true), ..Manifest::default() };
        let forged = format!("{PREFIX}cluster-id");
        let bytes = sidecar(&manifest, &map(&[("z", "\"{}"), ("a", "1"), (&forged, "another"), (&format!("{PREFIX}file-size"), "1")]));
        let expected = r#"{"a":"1","etcd-snapshot-operator.dev/file-size":"9","etcd-snapshot-operator.dev/quorum":"true","z":"\"{}"}"#;
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
        assert_eq!(sidecar(&Manifest::default(), &BTreeMap::new()), b"{}");
    }

    fn key() -> impl Strategy<Value = String> {
        prop_oneof![
            proptest::sample::select(vec![
                "file-size",
                "quorum",
                "alarms",
                "etcd-cluster-id",
                "raft-index",
                "node",
                "cluster-id",
                "db-sha256"
            ])
            .prop_map(String::from),
            ".{0,8}",
        ]
    }

    fn value() -> impl Strategy<Value = String> {
        prop_oneof!["[0-9]{1,9}", "true|false", "CORRUPT", "[0-9a-f]{64}", ".{0,8}"]
    }

    proptest! {
        #[test]
        fn a_sidecar_is_read_back_as_it_was_written(
            ours in proptest::collection::btree_map(key(), value(), 0..12),
            extra in proptest::collection::btree_map(key(), value(), 0..6),
        ) {
            let manifest = Manifest::from_keys(ours);
            let read = serde_json::from_slice(&sidecar(&manifest, &extra)).unwrap();
            prop_assert_eq!(Manifest::from_sidecar(read), (manifest, extra));
        }
    }
}
