//! One folder of one bucket: what is in it, and what is known of each object.
//!
//! In: an [`S3Access`] and what is known already. Out: a [`Listed`], an answer about one name, an object brought or removed. An
//! unchanged bucket costs its LIST requests and nothing else. Dropping a future of this module ends its request, so a caller with a deadline needs nothing but
//! [`crate::deadline::before`].

mod body;
mod client;
mod credentials;
mod dial;
pub mod download;
mod error;
mod found;
mod list;
mod look;
mod multipart;
#[cfg(test)]
mod multipart_tests;
mod proxy;
mod remove;
#[cfg(test)]
mod remove_tests;
mod source;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tls;
mod transport;
mod upload;
#[cfg(test)]
mod upload_tests;
#[cfg(test)]
mod way_tests;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use futures::StreamExt as _;

pub use error::{Category, S3Error};
pub use transport::{Observer, Traffic};
pub use upload::{Outgoing, Uploaded};

use super::{Listed, Memory, Removed, Store};
use crate::config::S3Access;
use crate::snapshot::{ClusterId, Complete, Failure, FileName, Inventory, Known, Listing, Metadata, SnapshotFile, Storage, Version};
use error::{Asked, Place};
use list::{Entry, Folder};
use look::{Looked, Looker};
use multipart::Sizes;

/// Looks that are under way at once.
const LOOKS: usize = 32;
/// Looks in a row that found no way to the server; after them the rest waits for the next pass.
const LOST_LOOKS: usize = 2 * LOOKS;
/// Bytes of extra metadata of one object that are worth remembering here.
const REMEMBERED: usize = 16 * 1024;

/// The bucket of one [`S3Access`].
pub struct Bucket {
    client: Client,
    place: Place,
    storage: Storage,
    prefix: String,
    us: ClusterId,
    /// Of everybody's objects the sidecars are read.
    everyone: bool,
    timeout: Duration,
    /// What was looked into and stands in nobody else's memory: objects of other clusters have no record.
    looked: Mutex<Memory>,
    /// Whether the bucket was seen to exist since the last listing began.
    exists: AtomicBool,
    /// Whether the server was seen not to know `If-None-Match`.
    unconditional: AtomicBool,
    /// Objects whose removal was begun, until their sidecars are gone as well.
    removing: Mutex<BTreeSet<FileName>>,
    sizes: Sizes,
}

/// What it takes to list, and to tell a missing object from a missing bucket.
const LIST: &str = "s3:ListBucket on the bucket";

impl Bucket {
    /// Sends nothing. Fails when the settings leave no way to reach any server.
    pub async fn new(access: &S3Access, us: ClusterId, observer: Observer) -> Result<Self, S3Error> {
        let (client, place) = client::connect(access, observer).await?;
        let prefix = if access.folder.is_empty() { String::new() } else { format!("{}/", access.folder) };
        let (storage, timeout) = (access.storage(), access.timeout);
        let [exists, unconditional] = [false; 2].map(AtomicBool::new);
        let (looked, removing, sizes) = (Mutex::default(), Mutex::default(), Sizes::default());
        Ok(Self { client, place, storage, prefix, us, everyone: false, timeout, looked, exists, unconditional, removing, sizes })
    }

    /// The same for somebody who looks at everybody's objects alike, and whose cluster is none.
    pub async fn of_everyone(access: &S3Access, observer: Observer) -> Result<Self, S3Error> {
        let nobody = ClusterId::new("nobody").expect("not empty");
        Ok(Self { everyone: true, ..Self::new(access, nobody, observer).await? })
    }

    /// Which storage this is.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    fn looker(&self) -> Looker<'_> {
        let us = Some(&self.us).filter(|_| !self.everyone);
        Looker { client: &self.client, place: &self.place, prefix: &self.prefix, us, timeout: self.timeout }
    }

    fn looked(&self) -> MutexGuard<'_, Memory> {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked<'a>(&'a self, doing: &'static str, key: &'a str, permission: &'static str) -> Asked<'a> {
        Asked { doing, key, permission, place: &self.place }
    }

    /// A 404 for an object is also what a missing bucket answers, so only together with this it proves anything.
    async fn prove_existence(&self) -> Result<(), S3Error> {
        if self.exists.load(Ordering::Relaxed) {
            return Ok(());
        }
        let asked = self.asked("asking for", "", LIST);
        self.client.head_bucket().bucket(&self.place.bucket).send().await.map_err(|error| asked.failed(&error))?;
        self.exists.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Looks into everything that `memory` and earlier looks do not know, and puts the listing together.
    async fn look_into(&self, objects: Folder, mut sidecars: Folder, memory: &Memory, failures: &mut Vec<Failure>) -> Seen {
        let mut seen = Seen::default();
        let mut unknown = Vec::new();
        {
            let looked = self.looked();
            for (name, object) in objects.entries {
                let sidecar = sidecars.entries.remove(&name);
                let version = version(&object, sidecar.as_ref());
                let of_this = |(then, known): &(Version, Known)| (*then == version).then(|| known.clone());
                match memory.get(&name).and_then(of_this) {
                    Some(known) => seen.add(name, &object, version, Some(known)),
                    None => match looked.get(&name).and_then(of_this) {
                        Some(known) => seen.remember(name, &object, version, known),
                        None => unknown.push((name, object, sidecar, version)),
                    },
                }
            }
        }
        let lost = AtomicUsize::new(0);
        let skipped = AtomicUsize::new(0);
        let mut looks = futures::stream::iter(unknown)
            .map(|(name, object, sidecar, version)| {
                let (lost, skipped) = (&lost, &skipped);
                async move {
                    if lost.load(Ordering::Relaxed) >= LOST_LOOKS {
                        skipped.fetch_add(1, Ordering::Relaxed);
                        return (name, object, version, None);
                    }
                    let looked = self.looker().look(&name, &object, sidecar.as_ref()).await;
                    match &looked {
                        Looked::Failed(error) if error.is_of_the_way() => lost.fetch_add(1, Ordering::Relaxed),
                        _ => lost.swap(0, Ordering::Relaxed),
                    };
                    (name, object, version, Some(looked))
                }
            })
            .buffer_unordered(LOOKS);
        let mut first_loss = None;
        while let Some((name, object, version, looked)) = looks.next().await {
            match looked {
                Some(Looked::Known(known, fault)) => {
                    failures.extend(fault.map(|fault| fault.failure()));
                    seen.remember(name, &object, version, *known);
                }
                Some(Looked::Vanished) => seen.vanished = true,
                Some(Looked::Replaced) | None => seen.add(name, &object, version, None),
                Some(Looked::Failed(error)) => {
                    failures.push(error.failure());
                    first_loss.get_or_insert(error);
                    seen.add(name, &object, version, None);
                }
            }
        }
        drop(looks);
        if let (Some(error), skipped @ 1..) = (first_loss, skipped.into_inner()) {
            failures.push(Failure::new(
                error.category(),
                format!("{skipped} more objects were not looked into, since there was no way: {error}"),
            ));
        }
        seen
    }

    /// What the sidecars' failed listing leaves: a version without its sidecar's part is no version, so only what is known of the same
    /// content already.
    fn recall(&self, objects: Folder, memory: &Memory) -> Listing {
        let looked = self.looked();
        let mut seen = Seen::default();
        for (name, object) in objects.entries {
            let content = version(&object, None);
            let known =
                [memory.get(&name), looked.get(&name)].into_iter().flatten().find(|(then, _)| then.of_content() == content.of_content());
            if let Some((version, known)) = known.cloned() {
                seen.add(name, &object, version, Some(known));
            }
        }
        seen.listing
    }
}

impl Store for Bucket {
    async fn list(&self, memory: &Memory) -> Listed {
        self.exists.store(false, Ordering::Relaxed);
        let mut failures = Vec::new();
        let (objects, failed) = list::folder(&self.client, &self.prefix, &self.place).await;
        if let Some(error) = failed.as_ref().filter(|_| objects.entries.is_empty()) {
            return Listed { inventory: Inventory::Failed(error.failure()), failures };
        }
        let (sidecars, sidecars_failed) = match failed {
            // Half a listing is worth what is known of it already, and no more requests.
            Some(error) => (Folder::default(), Some(error)),
            None => list::folder(&self.client, &format!("{}.metadata/", self.prefix), &self.place).await,
        };
        let outside = objects.outside + sidecars.outside;
        if outside > 0 {
            let rest = format!("showed keys of other folders, which are left alone: {outside}");
            failures.push(self.asked("listing", &self.prefix, LIST).say(Category::Protocol, rest).failure());
        }
        if let Some(error) = sidecars_failed {
            return Listed { inventory: Inventory::Partial(self.recall(objects, memory), error.failure()), failures };
        }
        let seen = self.look_into(objects, sidecars, memory, &mut failures).await;
        *self.looked() = seen.remembered;
        let gone = if seen.vanished { self.prove_existence().await.err() } else { None };
        let inventory = match gone {
            Some(error) => Inventory::Partial(seen.listing, error.failure()),
            None => Inventory::Complete(Complete::vouch(seen.listing)),
        };
        Listed { inventory, failures }
    }

    /// One HEAD; after a 404 one more of the bucket, once in a pass. The version has no sidecar's part, since that would be another
    /// request: compare [`Version::of_content`].
    async fn ask(&self, name: &FileName) -> Result<Option<Version>, Failure> {
        let Some(head) = self.looker().head(name).await.map_err(|error| error.failure())? else {
            return self.prove_existence().await.map(|()| None).map_err(|error| error.failure());
        };
        let key = self.key(name);
        let bare = || self.asked("asking for", &key, LIST).say(Category::Protocol, "had an answer without ETag, size or time").failure();
        entry_of(&head).map(|entry| Some(version(&entry, None))).ok_or_else(bare)
    }

    async fn remove(&self, file: &SnapshotFile, adopting: bool) -> Result<Removed, Failure> {
        self.remove_object(file, adopting).await.map_err(|error| error.failure())
    }
}

/// An object as a HEAD shows it.
fn entry_of(head: &HeadObjectOutput) -> Option<Entry> {
    let etag = list::plain_etag(head.e_tag()?).to_string();
    Some(Entry { etag, size: head.content_length()?.try_into().ok()?, modified: look::modified(head)? })
}

fn version(object: &Entry, sidecar: Option<&Entry>) -> Version {
    fn token(entry: &Entry) -> (&str, u64, i64) {
        (&entry.etag, entry.size, entry.modified.as_second())
    }
    Version::s3(token(object), sidecar.map(token))
}

/// A listing in the making.
#[derive(Default)]
struct Seen {
    listing: Listing,
    remembered: Memory,
    vanished: bool,
}

impl Seen {
    fn add(&mut self, name: FileName, object: &Entry, version: Version, known: Option<Known>) {
        let Entry { size, modified, .. } = *object;
        self.listing.insert(name.clone(), SnapshotFile { name, size, modified, version, at_rest: true, known });
    }

    /// Adds what this bucket itself has to remember, until somebody else's memory holds it.
    fn remember(&mut self, name: FileName, object: &Entry, version: Version, known: Known) {
        let bytes = match &known.metadata {
            Metadata::InRecord(_) => 0,
            Metadata::Read(map) => map.iter().map(|(key, value)| key.len() + value.len()).sum(),
        };
        if bytes <= REMEMBERED {
            self.remembered.insert(name.clone(), (version.clone(), known.clone()));
        }
        self.add(name, object, version, Some(known));
    }
}
