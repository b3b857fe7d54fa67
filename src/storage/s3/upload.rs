//! Bringing one file and its sidecar into the bucket, and never over anything else.
//!
//! In: an open file that was verified, and what is known of it. Out: how it came to be there, or why it is not. An object that is there
//! is judged by a HEAD, whatever became of earlier tries: an answer that was lost after it succeeded is a success at the next look.
//! Every request with a body carries Content-MD5, which buckets with object lock demand. The file comes first: a sidecar without its
//! object tells nothing, and a failed one is made up for by the next try.

use std::collections::HashMap;
use std::fs::File;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::TryStreamExt as _;
use hyper::body::Bytes;

use super::Bucket;
use super::client::unhurried;
use super::error::{Category, S3Error, is_unsupported};
use super::found::{Found, found, md5_of};
use super::look::UserMetadata;
use super::source::{self, content_md5, md5};
use crate::snapshot::{ClusterId, Digest, Failure, FileName, NodeName, Program, UploadId};

/// What it takes to write an object.
pub(super) const PUT: &str = "s3:PutObject on the objects of the folder";

/// What goes up.
#[derive(Debug)]
pub struct Outgoing {
    /// Its name, here and there.
    pub name: FileName,
    /// The open file. It is read by position, so that nobody can put another one under its path meanwhile.
    pub file: File,
    /// Bytes of it.
    pub size: u64,
    /// SHA-256 of them, as they were verified.
    pub sha256: Digest,
    /// The sidecar: JSON.
    pub sidecar: Vec<u8>,
    /// The word in the keys of user metadata.
    pub program: Program,
    /// Our cluster.
    pub cluster: ClusterId,
    /// The node that saved it.
    pub node: NodeName,
    /// K3s's token hash, where it is known.
    pub token_hash: Option<String>,
    /// An upload in parts that an earlier try began.
    pub begun: Option<UploadId>,
}

/// How an object came to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uploaded {
    /// It was sent.
    Sent,
    /// The very same was there already: equal digest and size.
    There,
    /// K3s's own upload was there: no digest, but our cluster id, node and size. It stays plausible.
    TakenAsDone,
}

impl Uploaded {
    /// For logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::There => "there",
            Self::TakenAsDone => "taken_as_done",
        }
    }
}

impl Outgoing {
    /// K3s's keys; what is not known is left out.
    pub(super) fn user_metadata(&self) -> HashMap<String, String> {
        let known = [
            ("cluster-id", Some(self.cluster.as_str())),
            ("node-name", Some(self.node.as_str())),
            ("token-hash", self.token_hash.as_deref().filter(|hash| !hash.is_empty())),
        ];
        known.into_iter().filter_map(|(key, value)| Some((format!("{}-{key}", self.program), value?.to_string()))).collect()
    }

    /// The file's: the same, and its digest.
    pub(super) fn file_metadata(&self) -> HashMap<String, String> {
        let mut metadata = self.user_metadata();
        metadata.insert("etcd-snapshot-sha256".into(), self.sha256.to_string());
        metadata
    }

    pub(super) fn content_type(&self) -> &'static str {
        if self.name.is_compressed() { "application/zip" } else { "application/octet-stream" }
    }

    /// The file for another thread. It has no position that it could share.
    pub(super) fn shared(&self) -> std::io::Result<Arc<File>> {
        Ok(Arc::new(self.file.try_clone()?))
    }
}

/// What is where the sidecar belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    Same,
    /// Ours or nobody's, with other contents.
    Other,
}

/// An object to be put in one request.
struct Whole<'a> {
    key: &'a str,
    bytes: Bytes,
    md5: [u8; 16],
    content_type: &'static str,
    metadata: HashMap<String, String>,
}

impl Bucket {
    /// Uploads a file and its sidecar. `note` is told of an upload in parts before the first part is sent, so that whoever comes later
    /// can go on with it; when it fails, the upload is aborted and fails.
    pub async fn upload(&self, going: &Outgoing, note: impl AsyncFnOnce(UploadId) -> Result<(), Failure>) -> Result<Uploaded, S3Error> {
        let found = match self.found(going).await {
            Ok(found) => found,
            Err(error) => {
                if error.is(Category::Conflict) {
                    self.give_up(going, going.begun.as_ref()).await;
                }
                return Err(error);
            }
        };
        if found == (Found::Same { foreign: true }) {
            self.give_up(going, going.begun.as_ref()).await;
            return Ok(Uploaded::There);
        }
        // Looked at first: our object beside another cluster's sidecar would look damaged.
        let beside = self.beside(going).await?;
        let uploaded = match found {
            Found::Nothing if going.size > self.sizes.in_one => self.send_in_parts(going, note).await?,
            Found::Nothing => self.send_whole(going).await?,
            found => {
                self.give_up(going, going.begun.as_ref()).await;
                found.into()
            }
        };
        match beside {
            Beside::Same => {}
            // It is K3s's own.
            Beside::Other if uploaded == Uploaded::TakenAsDone => {}
            Beside::Other => self.send_sidecar(going, false).await?,
            Beside::Nothing => self.send_sidecar(going, true).await?,
        }
        Ok(uploaded)
    }

    pub(super) fn key(&self, name: &FileName) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(super) fn sidecar_key(&self, name: &FileName) -> String {
        format!("{}.metadata/{name}", self.prefix)
    }

    /// One HEAD that decides what becomes of the upload.
    pub(super) async fn found(&self, going: &Outgoing) -> Result<Found, S3Error> {
        let Some(head) = self.looker().head(&going.name).await? else { return Ok(Found::Nothing) };
        let size = head.content_length().and_then(|size| u64::try_from(size).ok()).unwrap_or_default();
        found(going, size, &UserMetadata::of(head.metadata())).map_err(|other| {
            let key = self.key(&going.name);
            let rest = format!("is not done: there is another object under this key, {other}; it is left as it is");
            self.asked("uploading", &key, PUT).say(Category::Conflict, rest)
        })
    }

    async fn beside(&self, going: &Outgoing) -> Result<Beside, S3Error> {
        let key = self.sidecar_key(&going.name);
        let Some(head) = self.looker().head_key(&key).await? else { return Ok(Beside::Nothing) };
        match UserMetadata::of(head.metadata()).cluster {
            Some(cluster) if cluster != going.cluster => {
                let rest = "is not done: this sidecar is another cluster's; it is left as it is";
                Err(self.asked("uploading", &key, PUT).say(Category::Conflict, rest))
            }
            _ if md5_of(&head) == Some(md5(&going.sidecar)) => Ok(Beside::Same),
            _ => Ok(Beside::Other),
        }
    }

    async fn send_whole(&self, going: &Outgoing) -> Result<Uploaded, S3Error> {
        let file = going.shared().map_err(|error| self.unreadable(going, &error))?;
        let mut parts = pin!(source::parts(file, going.size, self.sizes.in_one));
        let part = parts.try_next().await.map_err(|error| self.unreadable(going, &error))?;
        let Some(part) = part.filter(|part| part.whole == Some(going.sha256)) else { return Err(self.changed(going)) };
        let key = self.key(&going.name);
        let (content_type, metadata) = (going.content_type(), going.file_metadata());
        let md5 = source::md5_of_part(&part.bytes).await.map_err(|error| self.unreadable(going, &error))?;
        let whole = Whole { key: &key, bytes: part.bytes, md5, content_type, metadata };
        match self.put(&whole, true).await {
            Ok(()) => Ok(Uploaded::Sent),
            // Perhaps by an earlier attempt of this very request.
            Err(error) if error.is(Category::Conflict) => match self.found(going).await? {
                Found::Nothing => Err(error),
                found => Ok(found.into()),
            },
            Err(error) => Err(error),
        }
    }

    async fn send_sidecar(&self, going: &Outgoing, only_new: bool) -> Result<(), S3Error> {
        let key = self.sidecar_key(&going.name);
        let bytes = Bytes::from(going.sidecar.clone());
        let md5 = md5(&bytes);
        let whole = Whole { key: &key, bytes, md5, content_type: "application/json", metadata: going.user_metadata() };
        match self.put(&whole, only_new).await {
            // Perhaps by an earlier attempt of this very request.
            Err(error) if only_new && error.is(Category::Conflict) => match self.beside(going).await? {
                Beside::Nothing => Err(error),
                Beside::Same => Ok(()),
                Beside::Other => self.put(&whole, false).await,
            },
            sent => sent,
        }
    }

    async fn put(&self, whole: &Whole<'_>, only_new: bool) -> Result<(), S3Error> {
        loop {
            let conditional = only_new && self.has_conditions();
            let request = self
                .client
                .put_object()
                .bucket(&self.place.bucket)
                .key(whole.key)
                .body(whole.bytes.clone().into())
                .content_md5(content_md5(whole.md5))
                .content_type(whole.content_type)
                .set_metadata(Some(whole.metadata.clone()))
                .set_if_none_match(conditional.then(|| "*".into()));
            let asked = self.asked("uploading", whole.key, PUT);
            match request.customize().config_override(unhurried()).send().await {
                Ok(_) => return Ok(()),
                Err(error) if conditional && is_unsupported(&error) => self.without_conditions(),
                Err(error) => return Err(asked.failed(&error)),
            }
        }
    }

    /// Whether `If-None-Match` is worth sending.
    pub(super) fn has_conditions(&self) -> bool {
        !self.unconditional.load(Ordering::Relaxed)
    }

    /// From now on a HEAD is all that stands before a write.
    pub(super) fn without_conditions(&self) {
        if !self.unconditional.swap(true, Ordering::Relaxed) {
            let bucket = self.storage.to_string();
            tracing::warn!(bucket, "the server does not know If-None-Match; only the question before each upload keeps what is there");
        }
    }

    /// The file is shorter than it was, or cannot be read at all.
    pub(super) fn unreadable(&self, going: &Outgoing, error: &std::io::Error) -> S3Error {
        if error.kind() == std::io::ErrorKind::UnexpectedEof {
            return self.changed(going);
        }
        let key = self.key(&going.name);
        self.asked("uploading", &key, PUT).say(Category::Local, format!("failed: the file cannot be read: {error}"))
    }

    pub(super) fn changed(&self, going: &Outgoing) -> S3Error {
        let key = self.key(&going.name);
        let rest = "was given up: the file changed while it went up, and is not the one that was verified; nothing of it is kept there";
        self.asked("uploading", &key, PUT).say(Category::Changed, rest)
    }
}

impl From<Found> for Uploaded {
    fn from(found: Found) -> Self {
        match found {
            Found::TakenAsDone => Self::TakenAsDone,
            Found::Nothing | Found::Same { .. } => Self::There,
        }
    }
}
