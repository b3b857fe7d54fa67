//! A snapshot file: one snapshot in one storage, what one listing found of it, and what is known of it.
//!
//! Everything that is known is known of one [`Version`]; another version is another content, and nothing is known of it.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::manifest::{Digest, Manifest};
use super::name::{ClusterId, FileName, NodeName};

/// A place that keeps snapshots.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Storage {
    /// The snapshot directory of one node.
    Local {
        /// The node.
        node: NodeName,
    },
    /// One folder of one bucket.
    S3 {
        /// `host[:port]`, lower case, without the scheme's own port.
        endpoint: String,
        /// The bucket's name.
        bucket: String,
        /// The folder without outer slashes; empty for the bucket's root.
        folder: String,
    },
}

impl Storage {
    /// An S3 storage in its one spelling. `tls` tells which port goes without saying.
    pub fn s3(endpoint: &str, tls: bool, bucket: &str, folder: &str) -> Self {
        let endpoint = endpoint.to_lowercase();
        let default_port = if tls { ":443" } else { ":80" };
        let endpoint = endpoint.strip_suffix(default_port).unwrap_or(&endpoint).to_string();
        Self::S3 { endpoint, bucket: bucket.into(), folder: folder.trim_matches('/').into() }
    }

    /// The first ten hex digits of the SHA-256 of exactly what makes this storage this one.
    pub fn id(&self) -> StorageId {
        StorageId(hex10(&match self {
            Self::Local { node } => format!("local\n{node}"),
            Self::S3 { endpoint, bucket, folder } => format!("s3\n{endpoint}\n{bucket}\n{folder}"),
        }))
    }

    /// `local` or `s3`: the label of its metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Local { .. } => "local",
            Self::S3 { .. } => "s3",
        }
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { node } => write!(f, "directory of node {node}"),
            Self::S3 { endpoint, bucket, folder } => write!(f, "s3://{bucket}/{folder} at {endpoint}"),
        }
    }
}

/// The first ten hex digits of a text's SHA-256: enough to tell names apart, short enough to be part of one.
pub fn hex10(text: &str) -> String {
    short_hex(text, 10)
}

/// The first hex digits of a text's SHA-256, at most 64.
pub fn short_hex(text: &str, digits: usize) -> String {
    let mut hex = Digest(Sha256::digest(text).into()).to_string();
    hex.truncate(digits);
    hex
}

/// See [`Storage::id`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorageId(String);

impl StorageId {
    /// An id that was written down earlier.
    pub fn remembered(text: &str) -> Self {
        Self(text.into())
    }

    /// The ten digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StorageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One token for "same content": `<inode>.<size>.<mtime ns>` or `<etag>.<size>.<unix>`, then `/` and the sidecar's, or `/-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(String);

impl Version {
    /// Of a local file: inode, bytes and modification time in nanoseconds of the file, and of its sidecar if there is one.
    pub fn local(file: (u64, u64, i128), sidecar: Option<(u64, u64, i128)>) -> Self {
        let token = |(inode, size, mtime): (u64, u64, i128)| format!("{inode}.{size}.{mtime}");
        Self(format!("{}/{}", token(file), sidecar.map_or("-".into(), token)))
    }

    /// Of an object: ETag as listed, bytes and LastModified in Unix seconds, and of its sidecar if there is one.
    pub fn s3(object: (&str, u64, i64), sidecar: Option<(&str, u64, i64)>) -> Self {
        let token = |(etag, size, modified): (&str, u64, i64)| format!("{}.{size}.{modified}", etag.trim_matches('"'));
        Self(format!("{}/{}", token(object), sidecar.map_or("-".into(), token)))
    }

    /// A version that was written down earlier.
    pub fn remembered(text: &str) -> Self {
        Self(text.into())
    }

    /// The whole token.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// LastModified of an object's version, to the second; None when that cannot be read from it.
    pub fn last_modified(&self) -> Option<Timestamp> {
        let (_, seconds) = self.of_content().rsplit_once('.')?;
        Timestamp::from_second(seconds.parse().ok()?).ok()
    }

    /// The part of the snapshot itself, without its sidecar's: what the verdict on its bytes belongs to.
    pub fn of_content(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(content, _)| content)
    }

    /// The part of the sidecar; None when there was none.
    pub fn of_sidecar(&self) -> Option<&str> {
        self.0.rsplit_once('/').map(|(_, sidecar)| sidecar).filter(|sidecar| *sidecar != "-")
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What reading a snapshot showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Its bytes were read to the end and match its trailer; or the object's digest and size are those of its manifest.
    Whole,
    /// An object whose size can be a snapshot's, and of whose bytes nothing more is known.
    Plausible,
    /// It cannot be restored, and why.
    Damaged(String),
}

/// Learnt from one version: from the bytes and sidecar of a file, or the HEAD and sidecar of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// What its bytes are worth.
    pub verdict: Verdict,
    /// What is known of its content.
    pub manifest: Manifest,
    /// The cluster in the object's user metadata.
    pub cluster: Option<ClusterId>,
    /// The node in the object's user metadata.
    pub node: Option<NodeName>,
    /// The token hash in the object's user metadata, or in the file's sidecar (docs/k3s.md 7.4).
    pub token_hash: Option<String>,
    /// The sidecar's extra metadata.
    pub metadata: Metadata,
}

/// The extra metadata of a sidecar: the data of K3s's extra-metadata ConfigMap when the snapshot was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Metadata {
    /// The record holds it already; it was not read again. With the bytes that were too many for the record.
    InRecord(Option<usize>),
    /// As the sidecar has it; empty when there is none.
    Read(BTreeMap<String, String>),
}

/// One snapshot in one storage, as one listing found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Its base name.
    pub name: FileName,
    /// Bytes of the stored file or object.
    pub size: u64,
    /// mtime or LastModified.
    pub modified: Timestamp,
    /// Its content's token.
    pub version: Version,
    /// False while somebody may still be writing it.
    pub at_rest: bool,
    /// None: not looked into yet. Then it is not ready, not counted, not deleted.
    pub known: Option<Known>,
}

impl SnapshotFile {
    /// Good: whole, and nothing known against its member (no quorum, CORRUPT alarm).
    pub fn is_good(&self) -> bool {
        self.known
            .as_ref()
            .is_some_and(|known| known.verdict == Verdict::Whole && known.manifest.quorum != Some(false) && !known.manifest.corrupt)
    }
}

/// What one listing found, by name.
pub type Listing = BTreeMap<FileName, SnapshotFile>;

/// A listing that reached its end. Only such a one proves that something is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complete(Listing);

impl Complete {
    /// For a storage that has seen the end of its listing, and for nobody else.
    pub fn vouch(listing: Listing) -> Self {
        Self(listing)
    }

    /// What is there.
    pub fn listing(&self) -> &Listing {
        &self.0
    }
}

/// What one listing of one storage found, with how far it got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inventory {
    /// It saw everything.
    Complete(Complete),
    /// It saw this much before it failed: true of what is in it, silent about the rest.
    Partial(Listing, Failure),
    /// It saw nothing.
    Failed(Failure),
}

impl Inventory {
    /// What was seen, whether or not it is everything.
    pub fn seen(&self) -> &Listing {
        static NOTHING: Listing = BTreeMap::new();
        match self {
            Self::Complete(complete) => complete.listing(),
            Self::Partial(listing, _) => listing,
            Self::Failed(_) => &NOTHING,
        }
    }

    /// Why it is not complete.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Complete(_) => None,
            Self::Partial(_, failure) | Self::Failed(failure) => Some(failure),
        }
    }
}

/// Something that did not work: a fixed category for metrics, and one sentence for people. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// From a small fixed set, for a metric's label and for telling one failure from the next.
    pub category: &'static str,
    /// The whole chain, once.
    pub message: String,
}

impl Failure {
    /// A failure of this category with the error's whole chain as its sentence.
    pub fn of(category: &'static str, error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            cause = error.source();
        }
        Self { category, message }
    }

    /// A failure that is its own sentence.
    pub fn new(category: &'static str, message: impl Into<String>) -> Self {
        Self { category, message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bucket_has_one_id_however_it_is_spelled() {
        let plain = Storage::s3("minio.example.com", true, "b", "f");
        assert_eq!(plain.id(), Storage::s3("MINIO.example.com:443", true, "b", "/f/").id());
        assert_ne!(plain.id(), Storage::s3("minio.example.com:80", true, "b", "f").id());
        assert_eq!(Storage::s3("h:80", false, "b", ""), Storage::s3("h", false, "b", "/"));
        // sha256("s3\nminio.example.com\nb\nf") and sha256("local\ncp1"), by sha256sum.
        assert_eq!(plain.id().to_string(), hex10("s3\nminio.example.com\nb\nf"));
        assert_eq!(hex10(""), "e3b0c44298");
    }

    #[test]
    fn a_new_sidecar_is_a_new_version_of_the_same_content() {
        let without = Version::local((1, 2, 3), None);
        let with = Version::local((1, 2, 3), Some((4, 5, 6)));
        assert_eq!((without.as_str(), with.as_str()), ("1.2.3/-", "1.2.3/4.5.6"));
        assert_eq!(without.of_content(), with.of_content());
        assert_eq!((without.of_sidecar(), with.of_sidecar(), Version::remembered("v").of_sidecar()), (None, Some("4.5.6"), None));
        let object = Version::s3(("\"ab-2\"", 9, 7), Some(("cd", 1, 8)));
        assert_eq!((object.as_str(), object.last_modified().unwrap().as_second()), ("ab-2.9.7/cd.1.8", 7));
        assert_eq!((Version::remembered("v").last_modified(), Version::remembered("e.9.x/-").last_modified()), (None, None));
    }
}
