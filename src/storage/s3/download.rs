//! One object from the bucket: found, and its bytes brought here.
//!
//! In: a name; then where to write and how far an earlier download got. Out: what is known of the object, and its bytes. Memory does not
//! grow with the object. A connection that breaks is taken up where it broke; an object that changed meanwhile never becomes a mixture of two.

use std::io;
use std::time::Duration;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};

use super::error::{Asked, Category, S3Error};
use super::list::{Entry, plain_etag};
use super::look::{Looked, Looker, UserMetadata, modified};
use super::{Bucket, version};
use crate::snapshot::{Digest, Failure, FileName, Program, SnapshotFile};

/// A connection that brings nothing for longer is given up, and taken up anew.
const SILENCE: Duration = Duration::from_mins(1);
/// How often in a row it may break without having brought anything.
const FRUITLESS: u32 = 4;
/// Before it is taken up again; doubled each time that it brings nothing.
const PAUSE: Duration = Duration::from_millis(500);

/// One object as it is now.
#[derive(Debug, Clone)]
pub struct Found {
    /// The object, and what is known of it.
    pub file: SnapshotFile,
    /// Its ETag, without quotes.
    pub etag: String,
    /// The digest of its bytes that whoever uploaded it noted.
    pub sha256: Option<Digest>,
    /// Whose words its user metadata has.
    pub program: Option<Program>,
    /// What could not be read of its sidecar.
    pub fault: Option<Failure>,
}

/// Why an object is not here.
#[derive(Debug, thiserror::Error)]
pub enum NotDownloaded {
    /// It is another one than was found: everything begins anew.
    #[error("the object was replaced or removed while it was downloaded")]
    Changed,
    /// The server or the way to it; what was brought so far is good.
    #[error(transparent)]
    Failed(#[from] S3Error),
    /// Where it is written to; what was brought before is good.
    #[error("writing what was downloaded failed")]
    Write(#[source] io::Error),
}

impl Bucket {
    /// Looks at one object and its sidecar, whosever it is. None proves that it is not there.
    pub async fn find(&self, name: &FileName) -> Result<Option<Found>, S3Error> {
        let looker = Looker { us: None, ..self.looker() };
        let Some(head) = looker.head(name).await? else {
            return self.prove_existence().await.map(|()| None);
        };
        let key = format!("{}{name}", self.prefix);
        let asked = self.asked("asking for", &key, "s3:ListBucket on the bucket");
        let entry = |head: &aws_sdk_s3::operation::head_object::HeadObjectOutput| {
            let etag = plain_etag(head.e_tag()?).to_string();
            Some(Entry { etag, size: head.content_length()?.try_into().ok()?, modified: modified(head)? })
        };
        let object = entry(&head).ok_or_else(|| asked.say(Category::Protocol, "had an answer without ETag, size or time"))?;
        let sidecars = format!("{}.metadata/", self.prefix);
        let sidecar = Looker { prefix: &sidecars, ..looker }.head(name).await?.as_ref().and_then(entry);
        let (known, fault) = match looker.look(name, &object, sidecar.as_ref()).await {
            Looked::Known(known, fault) => (known, fault),
            Looked::Vanished | Looked::Replaced => return Err(asked.say(Category::Protocol, "found it changing: ask again")),
            Looked::Failed(error) => return Err(error),
        };
        let user = UserMetadata::of(head.metadata());
        let version = version(&object, sidecar.as_ref());
        let Entry { etag, size, modified } = object;
        Ok(Some(Found {
            file: SnapshotFile { name: name.clone(), size, modified, version, at_rest: true, known: Some(*known) },
            etag,
            sha256: user.sha256,
            program: UserMetadata::program(head.metadata()),
            fault: fault.map(|fault| fault.failure()),
        }))
    }

    /// Writes the object's bytes from the `from`th on, and tells after each piece how many there are. Nothing is flushed to a disk.
    pub async fn download(
        &self,
        found: &Found,
        from: u64,
        into: &mut (impl AsyncWrite + Unpin),
        mut so_far: impl FnMut(u64),
    ) -> Result<(), NotDownloaded> {
        let key = format!("{}{}", self.prefix, found.file.name);
        let asked = Asked { doing: "reading", key: &key, permission: "s3:GetObject on the objects of the folder", place: &self.place };
        let mut at = from;
        let mut fruitless = 0;
        while at < found.file.size {
            let before = at;
            match self.piece(found, &asked, &mut at, into, &mut so_far).await {
                Ok(()) => break,
                Err(NotDownloaded::Failed(error)) if error.is_of_the_way() => {
                    fruitless = if at > before { 0 } else { fruitless + 1 };
                    if fruitless >= FRUITLESS {
                        return Err(error.into());
                    }
                    tracing::info!(at, of = found.file.size, %error, "the download is taken up again");
                    sleep(PAUSE * 2_u32.pow(fruitless)).await;
                }
                Err(error) => return Err(error),
            }
        }
        into.flush().await.map_err(NotDownloaded::Write)
    }

    /// As much as one request brings.
    async fn piece(
        &self,
        found: &Found,
        asked: &Asked<'_>,
        at: &mut u64,
        into: &mut (impl AsyncWrite + Unpin),
        so_far: &mut impl FnMut(u64),
    ) -> Result<(), NotDownloaded> {
        let request = self.client.get_object().bucket(&self.place.bucket).key(asked.key).if_match(format!("\"{}\"", found.etag));
        let range = (*at > 0).then(|| format!("bytes={at}-"));
        let mut answer = match request.set_range(range).send().await {
            Ok(answer) => answer,
            Err(error) => {
                return Err(match error.raw_response().map(|response| response.status().as_u16()) {
                    Some(404 | 412 | 416) => NotDownloaded::Changed,
                    _ => asked.failed(&error).into(),
                });
            }
        };
        if answer.e_tag().map(plain_etag) != Some(&found.etag) {
            return Err(NotDownloaded::Changed);
        }
        // A server that does not know ranges sends everything: what is here already is read past.
        let mut known = if begins_at(&answer, *at) { 0 } else { *at };
        loop {
            let piece = match timeout(SILENCE.min(self.timeout), answer.body.try_next()).await {
                Ok(Ok(Some(piece))) => piece,
                Ok(Ok(None)) if *at == found.file.size => return Ok(()),
                Ok(Ok(None)) => return Err(asked.say(Category::Unreachable, "broke off in the middle of the answer").into()),
                Ok(Err(error)) => return Err(broken(asked, &error).into()),
                Err(_) => return Err(asked.say(Category::Timeout, "brought nothing any more").into()),
            };
            let skipped = known.min(piece.len() as u64);
            known -= skipped;
            let piece = &piece[usize::try_from(skipped).unwrap_or(piece.len())..];
            if *at + piece.len() as u64 > found.file.size {
                return Err(asked.say(Category::Protocol, "brought more bytes than the object has").into());
            }
            into.write_all(piece).await.map_err(NotDownloaded::Write)?;
            *at += piece.len() as u64;
            so_far(*at);
        }
    }
}

/// Whatever breaks a body in the middle can be taken up again.
fn broken(asked: &Asked<'_>, error: &(dyn std::error::Error + 'static)) -> S3Error {
    let said = asked.garbled(error);
    if said.is_of_the_way() { said } else { asked.say(Category::Unreachable, "broke off in the middle of the answer") }
}

fn begins_at(answer: &GetObjectOutput, at: u64) -> bool {
    at == 0 || answer.content_range().is_some_and(|range| range.trim_start_matches("bytes ").starts_with(&format!("{at}-")))
}
