//! Removing one object and its sidecar, when the object is still what was judged and shows that it is ours.
//!
//! In: a snapshot file as it was judged. Out: what became of it. A HEAD right before says what is there; `If-Match` on the DELETE would
//! say it better, and most servers ignore it, or refuse it. In a bucket with versions only a delete marker is added. An object and its
//! sidecar are deleted by one request each: many servers want other checksums of the request for many. So a removal may be cut between
//! the two; the object's name is then remembered for as long as this process lives, and the next pass takes the sidecar after it.

use std::collections::BTreeSet;
use std::sync::{MutexGuard, PoisonError};

use super::error::{DELETING, S3Error, code, status};
use super::look::UserMetadata;
use super::{Bucket, entry_of, version};
use crate::snapshot::{FileName, SnapshotFile, Version};
use crate::storage::Removed;

impl Bucket {
    /// Removes the object and then its sidecar. `adopting`: an object that shows no cluster id counts as ours.
    pub(super) async fn remove_object(&self, file: &SnapshotFile, adopting: bool) -> Result<Removed, S3Error> {
        let Some(head) = self.looker().head(&file.name).await? else {
            self.prove_existence().await?;
            self.remove_sidecar(&file.name, false).await?;
            return Ok(Removed::Absent);
        };
        let is_ours = match UserMetadata::of(head.metadata()).cluster {
            Some(cluster) => cluster == self.us,
            None => adopting,
        };
        let is_judged = entry_of(&head).is_some_and(|entry| is_version(&file.version, &version(&entry, None)));
        if !is_ours || !is_judged {
            return Ok(Removed::Stale);
        }
        // Before the request: its answer may be lost, and whoever waits for it may be dropped.
        self.removing().insert(file.name.clone());
        self.delete(&self.key(&file.name)).await?;
        self.remove_sidecar(&file.name, true).await?;
        self.removing().remove(&file.name);
        Ok(Removed::Done)
    }

    /// Removes the sidecars of objects whose removal was begun here and cut, if the object is gone and the sidecar itself shows our
    /// cluster. What fails is tried again the next time.
    pub async fn finish_removals(&self) -> Result<(), S3Error> {
        let (begun, mut finished) = (self.removing().clone(), Ok(()));
        for name in begun {
            match self.finish_removal(&name).await {
                Ok(()) => {
                    self.removing().remove(&name);
                }
                failed => finished = finished.and(failed),
            }
        }
        finished
    }

    async fn finish_removal(&self, name: &FileName) -> Result<(), S3Error> {
        if self.looker().head(name).await?.is_some() {
            return Ok(());
        }
        self.prove_existence().await?;
        self.remove_sidecar(name, false).await
    }

    fn removing(&self) -> MutexGuard<'_, BTreeSet<FileName>> {
        self.removing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another cluster's is left alone; one that shows no cluster id goes only together with its object.
    async fn remove_sidecar(&self, name: &FileName, with_object: bool) -> Result<(), S3Error> {
        let key = self.sidecar_key(name);
        let Some(head) = self.looker().head_key(&key).await? else { return Ok(()) };
        match UserMetadata::of(head.metadata()).cluster {
            Some(cluster) if cluster != self.us => Ok(()),
            None if !with_object => Ok(()),
            _ => self.delete(&key).await,
        }
    }

    async fn delete(&self, key: &str) -> Result<(), S3Error> {
        let asked = self.asked(DELETING, key, "s3:DeleteObject on the objects of the folder");
        match self.client.delete_object().bucket(&self.place.bucket).key(key).send().await {
            Ok(_) => Ok(()),
            Err(error) if status(&error) == Some(404) && code(&error) != Some("NoSuchBucket") => Ok(()),
            Err(error) => Err(asked.failed(&error)),
        }
    }
}

/// Whether a version is the judged one. Servers do not agree on how to round LastModified.
fn is_version(judged: &Version, found: &Version) -> bool {
    let content = |version: &Version| version.of_content().rsplit_once('.').map(|(content, _)| content.to_string());
    let near = judged.last_modified().zip(found.last_modified()).is_some_and(|(a, b)| a.duration_since(b).as_secs().abs() <= 1);
    content(judged) == content(found) && near
}
