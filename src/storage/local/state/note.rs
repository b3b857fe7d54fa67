//! What the state remembers of one file, and its form on the disk.
//!
//! All of it is known of one content. Another content under the same name has no verdict and was never uploaded; only the
//! multipart uploads that were begun stay known, until they are aborted.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::FORM;
use crate::snapshot::{FileName, Manifest, SnapshotFile, StorageId, Upload, UploadId, Uploads, Verdict, Version};

/// What verifying one content showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// Whole or damaged.
    pub verdict: Verdict,
    /// Digests and sizes; nothing else.
    pub digests: Manifest,
}

/// What is remembered of one file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Note {
    /// The part of the version without the sidecar's: a new sidecar makes no new bytes.
    pub content: String,
    /// Its verdict, if there is one.
    pub judged: Option<Judged>,
    /// Its uploads.
    pub uploads: Uploads,
    /// Multipart uploads that were begun, are gone on with by nobody, and may not have been aborted.
    pub abandoned: BTreeMap<StorageId, BTreeSet<UploadId>>,
    /// The version that is being removed.
    pub removing: Option<Version>,
}

impl Note {
    /// Turns to this content; what is known of another one is dropped, but for what has to be aborted.
    pub fn turn_to(&mut self, content: &str) {
        if self.content == content {
            return;
        }
        let begun: Vec<_> = self.begun().map(|(to, id)| (to.clone(), id.clone())).collect();
        for (to, id) in begun {
            self.abandoned.entry(to).or_default().insert(id);
        }
        self.content = content.into();
        self.judged = None;
        self.uploads.clear();
    }

    /// Notes an upload of this content. One that fails as it did before fails since then.
    pub fn upload(&mut self, to: &StorageId, upload: Upload) {
        let before = self.uploads.remove(to);
        let upload = match (&before, upload) {
            (Some(Upload::Failed { since: first, why: as_before, .. }), Upload::Failed { since, at, why }) if *as_before == why => {
                Upload::Failed { since: since.min(*first), at, why }
            }
            (_, upload) => upload,
        };
        // Completed is completed; but one that failed, or that another one took the place of, may still hold its parts.
        if let Some(Upload::Begun { id }) = before
            && upload != Upload::Done
            && upload != (Upload::Begun { id: id.clone() })
        {
            self.abandoned.entry(to.clone()).or_default().insert(id);
        }
        // What is gone on with is not abandoned any more.
        if let Upload::Begun { id } = &upload {
            self.forget_begun(to, Some(id));
        }
        self.uploads.insert(to.clone(), upload);
    }

    /// Forgets a multipart upload that was begun: this one, or whichever it is.
    pub fn forget_begun(&mut self, to: &StorageId, which: Option<&UploadId>) {
        let is_it = |id: &UploadId| which.is_none_or(|which| which == id);
        if matches!(self.uploads.get(to), Some(Upload::Begun { id }) if is_it(id)) {
            self.uploads.remove(to);
        }
        if let (Some(ids), Some(id)) = (self.abandoned.get_mut(to), which) {
            ids.remove(id);
        }
        self.abandoned.retain(|_, ids| !ids.is_empty());
    }

    /// The multipart uploads that were begun.
    pub fn begun(&self) -> impl Iterator<Item = (&StorageId, &UploadId)> {
        self.uploads.iter().filter_map(|(to, upload)| match upload {
            Upload::Begun { id } => Some((to, id)),
            _ => None,
        })
    }

    /// What it tells of the uploads of the file as a listing found it; of one that is not there, what was begun.
    pub fn uploads_of(self, found: Option<&SnapshotFile>) -> Uploads {
        match found {
            Some(file) if file.version.of_content() == self.content => self.uploads,
            Some(_) => Uploads::new(),
            None => self.begun().map(|(to, id)| (to.clone(), Upload::Begun { id: id.clone() })).collect(),
        }
    }

    /// The multipart uploads that nobody goes on with: those that failed, and those of other content than a listing found.
    pub fn abandoned_of(&self, found: Option<&SnapshotFile>, to: &StorageId) -> Vec<UploadId> {
        let replaced = found.is_some_and(|file| file.version.of_content() != self.content);
        let begun = self.begun().filter(|(bucket, _)| replaced && *bucket == to).map(|(_, id)| id);
        self.abandoned.get(to).into_iter().flatten().chain(begun).cloned().collect()
    }

    /// Whether something is left to do that is known from here alone, so that it outlives its file.
    pub fn is_pending(&self) -> bool {
        self.removing.is_some() || !self.abandoned.is_empty() || self.begun().next().is_some()
    }

    /// Whether there is nothing to remember.
    pub fn is_empty(&self) -> bool {
        self.judged.is_none() && self.uploads.is_empty() && !self.is_pending()
    }
}

/// A note on the disk.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Form {
    pub v: u32,
    pub name: String,
    version: String,
    verdict: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(default)]
    digests: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    uploads: BTreeMap<String, Value>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    abandoned: BTreeMap<String, BTreeSet<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    removing: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "kebab-case")]
enum UploadForm {
    Begun { id: String },
    Done,
    Failed { since: Timestamp, at: Timestamp, why: String },
}

impl Form {
    /// As it is written.
    pub fn of(name: &FileName, note: &Note) -> Self {
        let (verdict, why) = match note.judged.as_ref().map(|judged| &judged.verdict) {
            Some(Verdict::Whole) => ("whole", None),
            Some(Verdict::Plausible) => ("plausible", None),
            Some(Verdict::Damaged(why)) => ("damaged", Some(why.clone())),
            None => ("unverified", None),
        };
        let upload = |upload: &Upload| match upload.clone() {
            Upload::Begun { id } => UploadForm::Begun { id: id.0 },
            Upload::Done => UploadForm::Done,
            Upload::Failed { since, at, why } => UploadForm::Failed { since, at, why },
        };
        let uploads = note.uploads.iter().filter_map(|(to, one)| Some((to.to_string(), serde_json::to_value(upload(one)).ok()?)));
        let abandoned = note.abandoned.iter().map(|(to, ids)| (to.to_string(), ids.iter().map(ToString::to_string).collect()));
        Self {
            v: FORM,
            name: name.to_string(),
            version: note.content.clone(),
            verdict: verdict.into(),
            why,
            digests: note.judged.as_ref().map(|judged| judged.digests.to_keys()).unwrap_or_default(),
            uploads: uploads.collect(),
            abandoned: abandoned.collect(),
            removing: note.removing.as_ref().map(ToString::to_string),
        }
    }

    /// As it is read. An upload that is not understood is none: the bucket itself tells what it has.
    pub fn note(self) -> Note {
        let verdict = match self.verdict.as_str() {
            "whole" => Some(Verdict::Whole),
            "damaged" => Some(Verdict::Damaged(self.why.unwrap_or_default())),
            _ => None,
        };
        let digests = Manifest::from_keys(self.digests);
        let upload = |(to, form): (String, Value)| match serde_json::from_value(form) {
            Ok(UploadForm::Begun { id }) => Some((StorageId::remembered(&to), Upload::Begun { id: UploadId(id) })),
            Ok(UploadForm::Done) => Some((StorageId::remembered(&to), Upload::Done)),
            Ok(UploadForm::Failed { since, at, why }) => Some((StorageId::remembered(&to), Upload::Failed { since, at, why })),
            Err(error) => {
                tracing::warn!(snapshot = self.name, storage = to, %error, "what the state says of an upload is not understood, and is forgotten");
                None
            }
        };
        let abandoned = self.abandoned.into_iter().map(|(to, ids)| (StorageId::remembered(&to), ids.into_iter().map(UploadId).collect()));
        Note {
            content: self.version,
            judged: verdict.map(|verdict| Judged { verdict, digests }),
            uploads: self.uploads.into_iter().filter_map(upload).collect(),
            abandoned: abandoned.collect(),
            removing: self.removing.as_deref().map(Version::remembered),
        }
    }
}
