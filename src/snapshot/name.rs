//! Names: of snapshot files, of nodes, of clusters, and the program word of K3s or RKE2.
//!
//! In: text from a directory, a bucket, a setting. Out: newtypes that hold only what is usable as such.

use std::fmt;

use jiff::Timestamp;

/// Why a text is not the name that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing to look at.
    #[error("a name cannot be empty")]
    Empty,
    /// It could leave its directory or folder.
    #[error("{0:?} has a slash or a control character in it, or is a directory")]
    NotAName(String),
    /// Hidden files, `.part` files and other temporaries are never snapshots.
    #[error("{0:?} is the name of a temporary or hidden file")]
    Temporary(String),
    /// `s3` as a node name would make local records look like a bucket's (K3s's label has one word for both).
    #[error("a node cannot be called \"s3\": K3s marks the records of a bucket with that word")]
    NodeCalledS3,
}

/// The base name of a snapshot file: no slash, not hidden, no temporary; `.zip` at its end when compressed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(String);

/// Endings of files that are still being written, by etcd's client and by K3s's S3 client.
const TEMPORARY_ENDINGS: [&str; 2] = [".part", ".part.minio"];

impl FileName {
    /// Takes what K3s would list (docs/k3s.md 2.6), less what cannot be a finished snapshot.
    pub fn new(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.contains('/') || text.chars().any(char::is_control) {
            return Err(NameError::NotAName(text.into()));
        }
        if text.starts_with('.') || TEMPORARY_ENDINGS.iter().any(|ending| text.ends_with(ending)) {
            return Err(NameError::Temporary(text.into()));
        }
        Ok(Self(text.into()))
    }

    /// The name as it stands in the directory or after the folder's slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the file is a zip archive with the snapshot as its one entry.
    pub fn is_compressed(&self) -> bool {
        self.0.ends_with(".zip")
    }

    /// The time in the name: the Unix seconds after the last `-`, `.zip` left off. None when there is no such number.
    pub fn time(&self) -> Option<Timestamp> {
        let stem = self.0.strip_suffix(".zip").unwrap_or(&self.0);
        let seconds = stem.rsplit('-').next()?;
        Timestamp::from_second(seconds.parse().ok()?).ok()
    }

    /// When the snapshot was taken: the time in the name, else when the file or object last changed (docs/k3s.md 2.3).
    pub fn created_at(&self, modified: Timestamp) -> Timestamp {
        self.time().unwrap_or(modified)
    }

    /// Whether the name is `<base>-<node>-<seconds>[.zip]` for some base name.
    pub fn names_node(&self, node: &NodeName) -> bool {
        self.before_seconds().and_then(|rest| rest.strip_suffix(node.as_str())).is_some_and(|base| base.len() > 1 && base.ends_with('-'))
    }

    /// Whether the name is exactly `<base>-<node>-<seconds>[.zip]`. That base `prod` is not base `prod-eu` only the node tells.
    pub fn is_of(&self, base: &BaseName, node: &NodeName) -> bool {
        let rest = self.before_seconds().and_then(|rest| rest.strip_prefix(base.as_str()));
        rest.and_then(|rest| rest.strip_prefix('-')) == Some(node.as_str())
    }

    /// What stands before `-<seconds>[.zip]`.
    fn before_seconds(&self) -> Option<&str> {
        let stem = self.0.strip_suffix(".zip").unwrap_or(&self.0);
        stem.rsplit_once('-')
            .filter(|(_, seconds)| !seconds.is_empty() && seconds.bytes().all(|b| b.is_ascii_digit()))
            .map(|(rest, _)| rest)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the names of snapshot files begin with, before node and seconds: the setting `etcd-snapshot-name`, or `--name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BaseName(String);

impl BaseName {
    /// Takes what makes the name of a snapshot file.
    pub fn new(text: &str) -> Result<Self, NameError> {
        FileName::new(text).map(|name| Self(name.0))
    }

    /// The name as the user gave it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for BaseName {
    /// That of scheduled snapshots (docs/k3s.md 6).
    fn default() -> Self {
        Self("etcd-snapshot".into())
    }
}

/// The name of a node: what K3s calls `NODE_NAME`. Any printable text without spaces and slashes; never `s3`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(String);

impl NodeName {
    /// Checks what would break file names, object keys or records.
    pub fn new(text: &str) -> Result<Self, NameError> {
        match text {
            "" => Err(NameError::Empty),
            "s3" => Err(NameError::NodeCalledS3),
            _ if text.contains('/') || text.chars().any(|c| c.is_control() || c.is_whitespace()) => Err(NameError::NotAName(text.into())),
            _ => Ok(Self(text.into())),
        }
    }

    /// The name as Kubernetes or the user gave it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// UID of the namespace `kube-system`. Not raft's cluster id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(String);

impl ClusterId {
    /// None for an empty text: unknown, not a cluster of that name.
    pub fn new(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self(text.into()))
    }

    /// The UID.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The word in label, annotation and user-metadata keys. Both are read, one is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Program {
    /// `etcd.k3s.cattle.io/…`, `k3s-node-name`
    #[default]
    K3s,
    /// `etcd.rke2.cattle.io/…`, `rke2-node-name`
    Rke2,
}

impl Program {
    /// All program words, the reading order.
    pub const ALL: [Self; 2] = [Self::K3s, Self::Rke2];

    /// The word itself.
    pub fn word(self) -> &'static str {
        match self {
            Self::K3s => "k3s",
            Self::Rke2 => "rke2",
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> FileName {
        FileName::new(name).unwrap()
    }

    #[test]
    fn the_time_in_a_name_is_what_follows_its_last_dash() {
        let modified = Timestamp::from_second(99).unwrap();
        for (name, seconds) in [
            ("etcd-snapshot-cp1-1752319252", 1_752_319_252),
            ("etcd-snapshot-cp1-1752319252.zip", 1_752_319_252),
            ("foo-7", 7),
            ("7", 7),
            ("no-time", 99),
            ("x-99999999999999999999", 99),
            ("x-9223372036854775807", 99),
            ("x-", 99),
        ] {
            assert_eq!(file(name).created_at(modified).as_second(), seconds, "{name}");
        }
    }

    #[test]
    fn what_is_no_snapshot_has_no_file_name() {
        for name in
            ["", ".", "..", ".hidden", "a/b", "a\nb", "x.part", "x.zip.part", "x.part.minio", ".etcd-snapshot-operator-0123456789-x"]
        {
            assert!(FileName::new(name).is_err(), "{name:?}");
        }
        for name in ["a b", "Ä", "_", "-", "x.zip", "x.partly", "README.md"] {
            assert!(FileName::new(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn a_name_names_a_node_only_between_base_and_seconds() {
        let node = NodeName::new("cp1").unwrap();
        for (name, names) in [
            ("etcd-snapshot-cp1-1752319252", true),
            ("on-demand-cp1-1.zip", true),
            ("etcd-snapshot-xcp1-1752319252", false),
            ("cp1-1752319252", false),
            ("-cp1-1752319252", false),
            ("etcd-snapshot-cp1-", false),
            ("etcd-snapshot-cp1-12a", false),
            ("etcd-snapshot-cp1", false),
        ] {
            assert_eq!(file(name).names_node(&node), names, "{name}");
        }
    }

    #[test]
    fn a_file_is_of_a_base_name_only_when_nothing_else_stands_between_base_and_node() {
        let (base, node) = (BaseName::new("prod").unwrap(), NodeName::new("cp1").unwrap());
        for (name, is) in [
            ("prod-cp1-1", true),
            ("prod-cp1-1.zip", true),
            ("prod-eu-cp1-1", false),
            ("prodcp1-1", false),
            ("prod-cp1", false),
            ("prod-cp1-", false),
            ("prod-cp1-1x", false),
            ("prod-cp1--1", false),
            ("xprod-cp1-1", false),
            ("prod-cp1-1.zip.zip", false),
        ] {
            assert_eq!(file(name).is_of(&base, &node), is, "{name}");
        }
        assert!(file("prod-eu-cp1-1").is_of(&base, &NodeName::new("eu-cp1").unwrap()));
        assert!(["", ".x", "a/b", "x.part"].iter().all(|text| BaseName::new(text).is_err()));
    }

    #[test]
    fn node_names_are_refused_when_they_would_break_records() {
        assert_eq!(NodeName::new("s3"), Err(NameError::NodeCalledS3));
        assert!(NodeName::new("a/b").is_err() && NodeName::new("a b").is_err() && NodeName::new("").is_err());
        assert!(NodeName::new("CP-1.example.com").is_ok() && NodeName::new(&"n".repeat(80)).is_ok());
    }
}
