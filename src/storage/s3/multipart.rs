//! Uploads in parts: begun once, gone on with by later tries, completed only when every byte is the one that was verified.
//!
//! In: a file too large for one request. Out: its object; or an upload that the next try goes on with, unless that would be in vain.
//! At most three parts are in memory. Nobody's upload is touched but those whose ids we were given, or found under keys of ours.

use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use futures::StreamExt as _;
use jiff::Timestamp;

use super::Bucket;
use super::client::{patient, unhurried};
use super::error::{Category, S3Error, code, is_met, is_unsupported, status};
use super::found::{Found, md5_in};
use super::source::{self, Part, content_md5};
use super::upload::{Outgoing, PUT, Uploaded};
use crate::snapshot::{Digest, Failure, FileName, UploadId};

/// What is sent in which pieces.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Larger files go up in parts. As much is read into memory.
    pub in_one: u64,
    /// Bytes of a part, and more where there would be too many of them.
    pub part: u64,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { in_one: 16 * MIB, part: 8 * MIB }
    }
}

impl Sizes {
    /// Bytes of each part of a file: the same at every try, so that an earlier try's parts fit.
    fn part_of(self, size: u64) -> u64 {
        if size.div_ceil(self.part) <= MOST_PARTS { self.part } else { size.div_ceil(MOST_PARTS).next_multiple_of(MIB) }
    }
}

const MIB: u64 = 1024 * 1024;
/// S3 takes no more parts than these.
const MOST_PARTS: u64 = 10_000;
/// Parts in memory at once, under way or being read.
const AT_ONCE: usize = 3;
/// Pages of uploads after which the rest is left for another day.
const MOST_PAGES: usize = 1000;

/// A part that has arrived.
struct Arrived {
    size: u64,
    etag: String,
}

/// Those that have, by number.
type Parts = BTreeMap<i32, Arrived>;

/// One more of them.
struct Done {
    number: i32,
    etag: String,
    whole: Option<Digest>,
}

impl Bucket {
    /// Goes on with the upload that an earlier try has begun, or begins one.
    pub(super) async fn send_in_parts(
        &self,
        going: &Outgoing,
        note: impl AsyncFnOnce(UploadId) -> Result<(), Failure>,
    ) -> Result<Uploaded, S3Error> {
        if let Some(id) = &going.begun
            && let Some(arrived) = self.arrived(going, id).await?
        {
            match self.finish(going, id, &arrived).await {
                Err(error) if error.is(Category::Gone) => {}
                finished => return finished,
            }
        }
        let id = self.begin(going).await?;
        if let Err(failure) = note(id.clone()).await {
            self.give_up(going, Some(&id)).await;
            let key = self.key(&going.name);
            let rest = format!("was not begun: its id could not be written down: {failure}");
            return Err(self.asked("uploading", &key, PUT).say(Category::Local, rest));
        }
        self.finish(going, &id, &Parts::new()).await
    }

    /// Sends what has not arrived, and completes. What cannot come to an end by another try is aborted.
    async fn finish(&self, going: &Outgoing, id: &UploadId, arrived: &Parts) -> Result<Uploaded, S3Error> {
        let finished = match self.send_parts(going, id, arrived).await {
            Ok(parts) => self.complete(going, id, parts).await,
            Err(error) => Err(error),
        };
        let in_vain = match &finished {
            Ok(uploaded) => *uploaded != Uploaded::Sent,
            Err(error) => [Category::Conflict, Category::Changed, Category::TooLarge].into_iter().any(|category| error.is(category)),
        };
        if in_vain {
            self.give_up(going, Some(id)).await;
        }
        finished
    }

    async fn begin(&self, going: &Outgoing) -> Result<UploadId, S3Error> {
        let key = self.key(&going.name);
        let asked = self.asked("beginning to upload", &key, PUT);
        let request = self
            .client
            .create_multipart_upload()
            .bucket(&self.place.bucket)
            .key(&key)
            .content_type(going.content_type())
            .set_metadata(Some(going.file_metadata()));
        let begun = request.send().await.map_err(|error| asked.failed(&error))?;
        let id = begun.upload_id.filter(|id| !id.is_empty());
        id.map(UploadId).ok_or_else(|| asked.say(Category::Protocol, "brought no id of an upload"))
    }

    /// The parts that an earlier try has brought. None when the server does not know the upload. Where they cannot be listed, they are
    /// sent again.
    async fn arrived(&self, going: &Outgoing, id: &UploadId) -> Result<Option<Parts>, S3Error> {
        let key = self.key(&going.name);
        let asked = self.asked("listing the parts of", &key, "s3:ListMultipartUploadParts on the objects of the folder");
        let mut parts = Parts::new();
        let mut after: Option<String> = None;
        loop {
            let request = self.client.list_parts().bucket(&self.place.bucket).key(&key).upload_id(&id.0);
            let page = match request.set_part_number_marker(after.clone()).send().await {
                Ok(page) => page,
                Err(error) if is_gone(&error) => return Ok(None),
                Err(error) if status(&error) == Some(403) || is_unsupported(&error) => {
                    let error = asked.failed(&error);
                    if error.is(Category::Denied) || error.is(Category::Protocol) {
                        tracing::warn!(%error, "parts that have arrived are sent again");
                        return Ok(Some(Parts::new()));
                    }
                    return Err(error);
                }
                Err(error) => return Err(asked.failed(&error)),
            };
            let before = parts.len();
            for part in page.parts.unwrap_or_default() {
                if let (Some(number), Some(size), Some(etag)) = (part.part_number, part.size, part.e_tag) {
                    parts.insert(number, Arrived { size: u64::try_from(size).unwrap_or_default(), etag });
                }
            }
            after = page.next_part_number_marker.filter(|_| page.is_truncated == Some(true) && parts.len() > before);
            if after.is_none() {
                return Ok(Some(parts));
            }
        }
    }

    /// Sends every part that has not arrived. Returns all of them when together they are the file that was verified. When one fails,
    /// no further one is begun, and those under way come to their end: what has arrived is not sent again.
    async fn send_parts(&self, going: &Outgoing, id: &UploadId, arrived: &Parts) -> Result<Vec<CompletedPart>, S3Error> {
        let file = going.shared().map_err(|error| self.unreadable(going, &error))?;
        let failed = &AtomicBool::new(false);
        let reading =
            source::parts(file, going.size, self.sizes.part_of(going.size)).take_while(|_| ready(!failed.load(Ordering::Relaxed)));
        let sending = reading.map(|part| async move {
            let sent = match part {
                Ok(part) => self.send_part(going, id, part, arrived).await,
                Err(error) => Err(self.unreadable(going, &error)),
            };
            sent.inspect_err(|_| failed.store(true, Ordering::Relaxed))
        });
        let done: Vec<Result<Done, S3Error>> = sending.buffer_unordered(AT_ONCE).collect().await;
        let mut done: Vec<Done> = done.into_iter().collect::<Result<_, _>>()?;
        done.sort_by_key(|part| part.number);
        if done.last().and_then(|part| part.whole) != Some(going.sha256) {
            return Err(self.changed(going));
        }
        Ok(done.into_iter().map(|part| CompletedPart::builder().part_number(part.number).e_tag(part.etag).build()).collect())
    }

    async fn send_part(&self, going: &Outgoing, id: &UploadId, part: Part, arrived: &Parts) -> Result<Done, S3Error> {
        let Part { number, bytes, whole } = part;
        let md5 = source::md5_of_part(&bytes).await.map_err(|error| self.unreadable(going, &error))?;
        let same = |arrived: &&Arrived| arrived.size == bytes.len() as u64 && md5_in(&arrived.etag) == Some(md5);
        if let Some(arrived) = arrived.get(&number).filter(same) {
            return Ok(Done { number, etag: arrived.etag.clone(), whole });
        }
        let key = self.key(&going.name);
        let asked = self.asked("uploading a part of", &key, PUT);
        let request = self
            .client
            .upload_part()
            .bucket(&self.place.bucket)
            .key(&key)
            .upload_id(&id.0)
            .part_number(number)
            .content_md5(content_md5(md5))
            .body(bytes.into());
        let sent = request.customize().config_override(unhurried()).send().await.map_err(|error| asked.failed(&error))?;
        let etag = sent.e_tag.ok_or_else(|| asked.say(Category::Protocol, "brought no ETag"))?;
        Ok(Done { number, etag, whole })
    }

    /// Makes an object of the parts. Before it one more question: many parts take long, and a store that ignores conditions would put
    /// ours over what came meanwhile. After it another: whether that was so.
    async fn complete(&self, going: &Outgoing, id: &UploadId, parts: Vec<CompletedPart>) -> Result<Uploaded, S3Error> {
        let key = self.key(&going.name);
        let asked = self.asked("completing the upload of", &key, PUT);
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        loop {
            match self.found(going).await? {
                Found::Nothing => {}
                found => return Ok(found.into()),
            }
            let conditional = self.has_conditions();
            let request = self
                .client
                .complete_multipart_upload()
                .bucket(&self.place.bucket)
                .key(&key)
                .upload_id(&id.0)
                .multipart_upload(parts.clone())
                .set_if_none_match(conditional.then(|| "*".into()));
            match request.customize().config_override(patient(self.timeout)).send().await {
                Ok(_) => break,
                Err(error) if conditional && is_unsupported(&error) => self.without_conditions(),
                // Perhaps by an earlier attempt of this very request.
                Err(error) if is_met(&error) || is_gone(&error) => {
                    let failed = asked.failed(&error);
                    return match self.found(going).await? {
                        Found::Nothing => Err(failed),
                        Found::Same { .. } if failed.is(Category::Gone) => Ok(Uploaded::Sent),
                        found => Ok(found.into()),
                    };
                }
                Err(error) => return Err(asked.failed(&error)),
            }
        }
        match self.found(going).await? {
            Found::Nothing => Err(asked.say(Category::Protocol, "succeeded, and there is no object")),
            Found::Same { .. } | Found::TakenAsDone => Ok(Uploaded::Sent),
        }
    }

    /// Aborts an upload in parts. One that the server does not know is aborted.
    pub async fn abort(&self, name: &FileName, id: &UploadId) -> Result<(), S3Error> {
        let key = self.key(name);
        let asked = self.asked("aborting the upload of", &key, "s3:AbortMultipartUpload on the objects of the folder");
        let request = self.client.abort_multipart_upload().bucket(&self.place.bucket).key(&key).upload_id(&id.0);
        match request.send().await {
            Ok(_) => Ok(()),
            Err(error) if is_gone(&error) => Ok(()),
            Err(error) => Err(asked.failed(&error)),
        }
    }

    /// Aborts what nobody will go on with. That it cannot be done stops nothing.
    pub(super) async fn give_up(&self, going: &Outgoing, id: Option<&UploadId>) {
        let Some(id) = id else { return };
        if let Err(error) = self.abort(&going.name, id).await {
            tracing::warn!(%error, "the parts of an upload stay in the bucket until the server or an operator removes them");
        }
    }

    /// The uploads in parts of these names that were begun before `before`. Some servers (MinIO) show nothing here and remove old
    /// uploads by themselves.
    pub async fn abandoned(&self, names: &BTreeSet<FileName>, before: Timestamp) -> Result<Vec<(FileName, UploadId)>, S3Error> {
        let asked = self.asked("listing the uploads below", &self.prefix, "s3:ListBucketMultipartUploads on the bucket");
        let mut abandoned = Vec::new();
        let mut after = None;
        for _ in 0..MOST_PAGES {
            let (key, id): (Option<String>, Option<String>) = after.clone().unzip();
            let request = self
                .client
                .list_multipart_uploads()
                .bucket(&self.place.bucket)
                .set_prefix(Some(self.prefix.clone()).filter(|prefix| !prefix.is_empty()))
                .set_key_marker(key)
                .set_upload_id_marker(id);
            let page = request.send().await.map_err(|error| asked.failed(&error))?;
            let next = page.next_key_marker.zip(page.next_upload_id_marker).filter(|_| page.is_truncated == Some(true));
            for upload in page.uploads.unwrap_or_default() {
                let name = upload.key.as_deref().and_then(|key| key.strip_prefix(&self.prefix)).and_then(|name| FileName::new(name).ok());
                let is_old = upload.initiated.is_some_and(|begun| begun.secs() < before.as_second());
                if let (Some(name), Some(id), true) = (name.filter(|name| names.contains(name)), upload.upload_id, is_old) {
                    abandoned.push((name, UploadId(id)));
                }
            }
            if next.is_none() || next == after {
                break;
            }
            after = next;
        }
        Ok(abandoned)
    }
}

/// Whether the server does not know the upload.
fn is_gone<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    code(error) == Some("NoSuchUpload")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_as_small_as_ten_thousand_of_them_allow() {
        for (size, part) in [(17 * MIB, 8 * MIB), (80_000 * MIB, 8 * MIB), (80_000 * MIB + 1, 9 * MIB), (5_000_000 * MIB, 500 * MIB)] {
            assert_eq!(Sizes::default().part_of(size), part, "{size}");
            assert!(size.div_ceil(part) <= 10_000, "{size}");
        }
    }
}
