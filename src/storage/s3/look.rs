//! Looking into one object: one HEAD, and its sidecar if it has one.
//!
//! In: an object as it was listed. Out: what is known of it. Its own bytes are not read here, so the most that is known of them is
//! that somebody who knew their digest uploaded them.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_s3::Client;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_smithy_types::byte_stream::error::Error as BodyError;
use jiff::Timestamp;
use tokio::time::Instant;

use super::error::{Asked, Category, Place, S3Error};
use super::list::{Entry, plain_etag};
use crate::snapshot::verify::{implausible_size, is_plausible_size};
use crate::snapshot::{ClusterId, Digest, FileName, Known, Manifest, Metadata, NodeName, Program, Verdict};

/// Bytes of a sidecar at most. K3s's own come from a ConfigMap, which cannot have more than one MiB.
const SIDECAR_LIMIT: u64 = 4 * 1024 * 1024;
/// Bytes of a zip archive at least: the record at its end.
const SMALLEST_ZIP: u64 = 22;

/// How a look ended.
#[derive(Debug)]
pub enum Looked {
    /// With what is known; and with what could not be read of the sidecar, if that is so.
    Known(Box<Known>, Option<S3Error>),
    /// It is another object than the one that was listed; the next listing shows it.
    Replaced,
    /// It is not there any more.
    Vanished,
    /// Nothing is known.
    Failed(S3Error),
}

/// What it takes to look.
#[derive(Debug, Clone, Copy)]
pub struct Looker<'a> {
    /// Whom to ask.
    pub client: &'a Client,
    /// Where.
    pub place: &'a Place,
    /// The folder with its slash, or nothing.
    pub prefix: &'a str,
    /// Our cluster: of another one's objects the sidecar is not read. None: everybody's are.
    pub us: Option<&'a ClusterId>,
    /// The longest time for one request.
    pub timeout: std::time::Duration,
}

impl Looker<'_> {
    /// Looks into an object that was listed with this sidecar, or without one.
    pub async fn look(&self, name: &FileName, object: &Entry, sidecar: Option<&Entry>) -> Looked {
        let head = match self.head(name).await {
            Ok(Some(head)) => head,
            Ok(None) => return Looked::Vanished,
            Err(error) => return Looked::Failed(error),
        };
        if !is_same(object, head.e_tag(), head.content_length(), head.last_modified()) {
            return Looked::Replaced;
        }
        let user = UserMetadata::of(head.metadata());
        let ours_or_unknown = user.cluster.as_ref().is_none_or(|cluster| self.us.is_none_or(|us| cluster == us));
        let (sidecar, fault) = match sidecar.filter(|_| ours_or_unknown) {
            None => (BTreeMap::new(), None),
            Some(entry) => match self.sidecar(name, entry).await {
                Sidecar::Read(map) => (map, None),
                Sidecar::Unusable(why) => (BTreeMap::new(), Some(why)),
                Sidecar::Replaced => return Looked::Replaced,
                Sidecar::Failed(error) => return Looked::Failed(error),
            },
        };
        let (manifest, metadata) = Manifest::from_sidecar(sidecar);
        let verdict = verdict(name, object.size, user.sha256, &manifest);
        let UserMetadata { cluster, node, token_hash, .. } = user;
        let known = Known { verdict, manifest, cluster, node, token_hash, metadata: Metadata::Read(metadata) };
        Looked::Known(Box::new(known), fault)
    }

    /// HEAD of the object. `Ok(None)`: 404, which an object in a missing bucket answers as well.
    pub async fn head(&self, name: &FileName) -> Result<Option<HeadObjectOutput>, S3Error> {
        self.head_key(&format!("{}{name}", self.prefix)).await
    }

    /// The same of any key.
    pub async fn head_key(&self, key: &str) -> Result<Option<HeadObjectOutput>, S3Error> {
        let asked = Asked { doing: "asking for", key, permission: "s3:GetObject on the objects of the folder", place: self.place };
        match self.client.head_object().bucket(&self.place.bucket).key(key).send().await {
            Ok(head) => Ok(Some(head)),
            Err(error) if error.raw_response().is_some_and(|response| response.status().as_u16() == 404) => Ok(None),
            Err(error) => Err(asked.failed(&error)),
        }
    }

    async fn sidecar(&self, name: &FileName, listed: &Entry) -> Sidecar {
        let key = format!("{}.metadata/{name}", self.prefix);
        let asked = Asked { doing: "reading", key: &key, permission: "s3:GetObject on the objects of the folder", place: self.place };
        let unusable = |why: &str| Sidecar::Unusable(asked.say(Category::Protocol, format!("brought no usable sidecar: {why}")));
        if listed.size > SIDECAR_LIMIT {
            return unusable("it is larger than 4 MiB");
        }
        let until = Instant::now() + self.timeout;
        let answer = match self.client.get_object().bucket(&self.place.bucket).key(&key).send().await {
            Ok(answer) => answer,
            Err(error) if error.raw_response().is_some_and(|response| response.status().as_u16() == 404) => return Sidecar::Replaced,
            Err(error) => return Sidecar::Failed(asked.failed(&error)),
        };
        if !is_same(listed, answer.e_tag(), answer.content_length(), answer.last_modified()) {
            return Sidecar::Replaced;
        }
        // The SDK's own deadlines end with the headers.
        match tokio::time::timeout_at(until, collect(answer, listed.size)).await {
            Err(_) => Sidecar::Failed(asked.say(Category::Timeout, "did not end within etcd-s3-timeout")),
            Ok(Err(error)) => Sidecar::Failed(asked.garbled(&error)),
            Ok(Ok(None)) => Sidecar::Replaced,
            Ok(Ok(Some(body))) => match serde_json::from_slice(&body) {
                Ok(map) => Sidecar::Read(map),
                Err(_) => unusable("it is not a JSON object that maps text to text"),
            },
        }
    }
}

enum Sidecar {
    Read(BTreeMap<String, String>),
    Unusable(S3Error),
    Replaced,
    Failed(S3Error),
}

/// The body, if it has exactly this many bytes.
async fn collect(mut answer: GetObjectOutput, size: u64) -> Result<Option<Vec<u8>>, BodyError> {
    let mut body = Vec::new();
    while let Some(piece) = answer.body.try_next().await? {
        body.extend_from_slice(&piece);
        if body.len() as u64 > size {
            return Ok(None);
        }
    }
    Ok((body.len() as u64 == size).then_some(body))
}

/// Whether an answer is about what was listed. LastModified comes as whole seconds here and with fractions there, and servers do not
/// agree on how to round.
fn is_same(listed: &Entry, etag: Option<&str>, size: Option<i64>, modified: Option<&aws_sdk_s3::primitives::DateTime>) -> bool {
    let near = |time: &aws_sdk_s3::primitives::DateTime| time.secs().abs_diff(listed.modified.as_second()) <= 1;
    etag.map(plain_etag) == Some(&listed.etag)
        && size.and_then(|size| u64::try_from(size).ok()) == Some(listed.size)
        && modified.is_none_or(near)
}

/// When an answer says that the object was last changed.
pub fn modified(head: &HeadObjectOutput) -> Option<Timestamp> {
    head.last_modified().and_then(|time| Timestamp::from_second(time.secs()).ok())
}

/// The user metadata that means something to us.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserMetadata {
    /// The cluster that uploaded it.
    pub cluster: Option<ClusterId>,
    /// The node.
    pub node: Option<NodeName>,
    /// K3s's token hash.
    pub token_hash: Option<String>,
    /// SHA-256 of the object.
    pub sha256: Option<Digest>,
}

impl UserMetadata {
    /// Whose words it has.
    pub fn program(metadata: Option<&HashMap<String, String>>) -> Option<Program> {
        let has = |program: &Program| {
            let ours = format!("{program}-cluster-id");
            metadata.is_some_and(|metadata| metadata.keys().any(|key| key.eq_ignore_ascii_case(&ours)))
        };
        Program::ALL.into_iter().find(has)
    }

    /// Reads it under every program word.
    pub fn of(metadata: Option<&HashMap<String, String>>) -> Self {
        let Some(metadata) = metadata else { return Self::default() };
        // Servers keep the case of keys as they like.
        let metadata: HashMap<String, &str> = metadata.iter().map(|(key, value)| (key.to_lowercase(), value.trim())).collect();
        let of_any_program = |key: &str| {
            Program::ALL.iter().find_map(|program| metadata.get(&format!("{program}-{key}")).copied().filter(|value| !value.is_empty()))
        };
        Self {
            cluster: of_any_program("cluster-id").and_then(ClusterId::new),
            node: of_any_program("node-name").and_then(|node| NodeName::new(node).ok()),
            token_hash: of_any_program("token-hash").map(Into::into),
            sha256: metadata.get("etcd-snapshot-sha256").and_then(|digest| Digest::parse(digest)),
        }
    }
}

/// What an object's bytes are worth, from what is said of them in two places that were written at different times.
fn verdict(name: &FileName, size: u64, sha256: Option<Digest>, manifest: &Manifest) -> Verdict {
    match (manifest.file_size, manifest.file_sha256, sha256) {
        (Some(told), _, _) if told != size => Verdict::Damaged(format!("it has {size} bytes, and its manifest tells of {told}")),
        (_, Some(told), Some(found)) if told != found => {
            Verdict::Damaged("its manifest tells of other bytes: etcd-snapshot-sha256 in its user metadata is another".into())
        }
        (Some(_), Some(_), Some(_)) => Verdict::Whole,
        _ if name.is_compressed() && size >= SMALLEST_ZIP => Verdict::Plausible,
        _ if name.is_compressed() => Verdict::Damaged(format!("{size} bytes cannot be a zip archive")),
        _ if is_plausible_size(size) => Verdict::Plausible,
        _ => Verdict::Damaged(implausible_size(size)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> FileName {
        FileName::new(name).unwrap()
    }

    #[test]
    fn an_object_is_whole_only_when_manifest_and_object_agree() {
        let (a, b) = (Digest([1; 32]), Digest([2; 32]));
        let manifest = |file_sha256, file_size| Manifest { file_sha256, file_size, ..Manifest::default() };
        let word = |name: &str, size, sha256, manifest: &Manifest| match verdict(&file(name), size, sha256, manifest) {
            Verdict::Whole => "whole".to_string(),
            Verdict::Plausible => "plausible".to_string(),
            Verdict::Damaged(why) => why,
        };
        for (name, size, sha256, manifest, expected) in [
            ("s-n-1", 4128, Some(a), manifest(Some(a), Some(4128)), "whole"),
            ("s-n-1.zip", 100, Some(a), manifest(Some(a), Some(100)), "whole"),
            (
                "s-n-1",
                4128,
                Some(b),
                manifest(Some(a), Some(4128)),
                "its manifest tells of other bytes: etcd-snapshot-sha256 in its user metadata is another",
            ),
            ("s-n-1", 4128, Some(a), manifest(Some(a), Some(4127)), "it has 4128 bytes, and its manifest tells of 4127"),
            ("s-n-1", 4128, None, manifest(None, Some(9)), "it has 4128 bytes, and its manifest tells of 9"),
            ("s-n-1", 4128, None, manifest(Some(a), Some(4128)), "plausible"),
            ("s-n-1", 4128, Some(a), manifest(None, Some(4128)), "plausible"),
            ("s-n-1", 4128, Some(a), manifest(Some(a), None), "plausible"),
            ("s-n-1", 4128, None, manifest(None, None), "plausible"),
            ("s-n-1.zip", 22, None, manifest(None, None), "plausible"),
            ("s-n-1.zip", 21, None, manifest(None, None), "21 bytes cannot be a zip archive"),
        ] {
            assert_eq!(word(name, size, sha256, &manifest), expected, "{name} {size}");
        }
        assert!(word("s-n-1", 4000, None, &Manifest::default()).contains("cannot be a snapshot"));
    }

    #[test]
    fn user_metadata_is_read_under_every_program_word_and_in_any_case() {
        let of = |pairs: &[(&str, &str)]| UserMetadata::of(Some(&pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()));
        let rke2 = of(&[("Rke2-Cluster-Id", "uid"), ("rke2-node-name", "cp1"), ("rke2-token-hash", "abc")]);
        assert_eq!((rke2.cluster, rke2.node, rke2.token_hash), (ClusterId::new("uid"), NodeName::new("cp1").ok(), Some("abc".into())));
        let both = of(&[("k3s-cluster-id", ""), ("rke2-cluster-id", "uid"), ("k3s-node-name", "s3"), ("etcd-snapshot-sha256", "xyz")]);
        assert_eq!((both.cluster, both.node, both.sha256), (ClusterId::new("uid"), None, None));
        assert_eq!(UserMetadata::of(None), UserMetadata::default());
    }
}
