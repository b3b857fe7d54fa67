//! The slots in which files go up: a long step, started and not waited for.
//!
//! How far an upload has come goes to the state, before and after; its success wakes the directory's loop, which finds it
//! there. Its failure waits for the beat. Told to stop, it ends where it is: the state knows its id, and the next start goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::outcome::Outcome;
use super::shared::{Connected, Shared};
use super::slots::Slots;
use crate::decide::Asked;
use crate::kubernetes::events::{Kind, reason};
use crate::metrics::{self, Operation, Status};
use crate::snapshot::manifest::sidecar;
use crate::snapshot::{ClusterId, Failure, FileName, SnapshotFile, Upload, UploadId};
use crate::storage::local::{Directory, NotRead, Opened};
use crate::storage::s3::{Outgoing, Uploaded};

/// Files that go up at once: the newest should not wait for an old one, and a slow line is not split into many.
const SLOTS: usize = 2;
/// How the log speaks of one file's upload; its name follows.
pub const ABOUT: &str = "uploading ";
/// The category of a failure whose place another object has.
const CONFLICT: &str = "conflict";

/// Sends the files of one directory to the bucket. Cheap to clone; all clones share the slots.
#[derive(Clone)]
pub struct Uploader(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    directory: Directory,
    slots: Mutex<Slots>,
    /// How uploads ended since somebody asked, or since the beat.
    ends: Mutex<BTreeMap<FileName, End>>,
    tasks: TaskTracker,
    ended: Notify,
}

/// How an upload ended without a failure.
enum Ended {
    Uploaded(Uploaded),
    /// The file is not what was judged any more.
    Stale,
    /// We are stopping.
    Stopped,
    /// Another process is sending it: an agent, or a person's hand.
    Elsewhere,
}

/// How an upload ended, for who waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It is in the bucket.
    Done,
    /// Another process is sending it.
    Elsewhere,
    /// It is not, and will be looked at again: it changed, or we are stopping.
    Left,
    /// It failed.
    Failed(Failure),
}

impl From<&Result<Ended, Failure>> for End {
    fn from(ended: &Result<Ended, Failure>) -> Self {
        match ended {
            Ok(Ended::Uploaded(_)) => Self::Done,
            Ok(Ended::Elsewhere) => Self::Elsewhere,
            Ok(Ended::Stale | Ended::Stopped) => Self::Left,
            Err(failure) => Self::Failed(failure.clone()),
        }
    }
}

impl Uploader {
    /// For this directory.
    pub fn new(shared: Arc<Shared>, directory: Directory) -> Self {
        let slots = Mutex::new(Slots::new(SLOTS));
        let (ends, tasks, ended) = (Mutex::default(), TaskTracker::new(), Notify::new());
        Self(Arc::new(Inner { shared, directory, slots, ends, tasks, ended }))
    }

    /// The files that are going up.
    pub fn running(&self) -> BTreeSet<FileName> {
        self.0.slots().running().clone()
    }

    /// How uploads ended since this was asked last, or since the beat.
    pub fn ends(&self) -> BTreeMap<FileName, End> {
        std::mem::take(&mut *self.0.ends())
    }

    /// For a beat: what failed may be tried again.
    pub fn again(&self) {
        self.0.slots().again();
        self.0.ends().clear();
    }

    /// Begins to upload, if a slot is free, or goes on with what was begun.
    pub fn start(&self, file: &SnapshotFile, begun: Option<UploadId>) -> Outcome {
        let inner = self.0.clone();
        let Some(connected) = inner.shared.bucket().filter(|_| !inner.shared.stop.is_cancelled()) else { return Outcome::Abandoned };
        if let Err(why_not) = inner.slots().take(file) {
            return why_not;
        }
        let file = file.clone();
        self.0.tasks.spawn(async move {
            let start = Instant::now();
            let ended = tokio::select! {
                ended = inner.upload(&connected, &file, begun) => ended,
                () = inner.shared.stop.cancelled() => Ok(Ended::Stopped),
            };
            inner.end(&connected, &file, ended, start).await;
        });
        Outcome::Started
    }

    /// Waits until a slot is given back.
    pub async fn next(&self) {
        let ended = self.0.ended.notified();
        if !self.0.slots().running().is_empty() {
            ended.await;
        }
    }

    /// Waits until what runs has seen that we are stopping.
    pub async fn stopped(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

impl Inner {
    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ends(&self) -> MutexGuard<'_, BTreeMap<FileName, End>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn upload(&self, connected: &Connected, file: &SnapshotFile, begun: Option<UploadId>) -> Result<Ended, Failure> {
        let opened = match self.directory.read(file).await {
            Ok(opened) => opened,
            Err(NotRead::Stale) => return Ok(Ended::Stale),
            Err(NotRead::Failed(failure)) => return Err(failure),
        };
        if !opened.claim() {
            return Ok(Ended::Elsewhere);
        }
        let Some(going) = self.outgoing(file, opened, &connected.cluster, begun) else { return Ok(Ended::Stale) };
        let storage = connected.bucket.storage().id();
        let note = |id| {
            let (directory, file, storage) = (self.directory.clone(), file.clone(), storage.clone());
            async move { directory.note_upload(&file, &storage, Upload::Begun { id }).await }
        };
        let uploaded = connected.bucket.upload(&going, note).await.map_err(|error| error.failure())?;
        Ok(Ended::Uploaded(uploaded))
    }

    /// What goes up; None when nothing certain is known of the file.
    fn outgoing(&self, file: &SnapshotFile, opened: Opened, cluster: &ClusterId, begun: Option<UploadId>) -> Option<Outgoing> {
        let known = file.known.as_ref()?;
        let settings = &self.shared.settings;
        // The object is another snapshot file than the local one: what its sidecar says of cluster and node is what it shows itself.
        let node = known.manifest.node.clone().unwrap_or_else(|| settings.node.clone());
        let mut manifest = known.manifest.clone();
        manifest.cluster.get_or_insert_with(|| cluster.clone());
        manifest.node.get_or_insert_with(|| node.clone());
        Some(Outgoing {
            name: file.name.clone(),
            file: opened.file,
            size: file.size,
            sha256: known.manifest.file_sha256?,
            sidecar: sidecar(&manifest, &opened.extra),
            program: settings.program,
            cluster: cluster.clone(),
            node,
            token_hash: known.token_hash.clone(),
            begun,
        })
    }

    async fn end(&self, connected: &Connected, file: &SnapshotFile, ended: Result<Ended, Failure>, start: Instant) {
        let (shared, storage) = (&self.shared, connected.bucket.storage().id());
        let about = format!("{ABOUT}{}", file.name);
        self.ends().insert(file.name.clone(), End::from(&ended));
        let (outcome, failed) = match &ended {
            Ok(Ended::Uploaded(uploaded)) => {
                tracing::info!(snapshot = %file.name, bucket = %connected.bucket.storage(), outcome = uploaded.word(), "the snapshot is in the bucket");
                shared.voice.hear(&about, None);
                let noted = self.directory.note_upload(file, &storage, Upload::Done).await;
                shared.voice.hear("noting uploads in the state", noted.as_ref().err());
                (metrics::Outcome::Done, false)
            }
            Ok(Ended::Stale) => (metrics::Outcome::Stale, false),
            Ok(Ended::Stopped) => (metrics::Outcome::Abandoned, false),
            Ok(Ended::Elsewhere) => {
                tracing::info!(snapshot = %file.name, "another process is sending the snapshot; what became of it the next beat shows");
                (metrics::Outcome::Waiting, false)
            }
            Err(failure) => {
                self.failed(connected, file, failure).await;
                (metrics::Outcome::Failed, true)
            }
        };
        if let metrics::Outcome::Done | metrics::Outcome::Failed = outcome {
            shared.metrics.step(metrics::Step::Upload, Status::of(!failed), start.elapsed());
            shared.metrics.ended(Operation::SaveS3, Status::of(!failed), start.elapsed(), shared.now());
        }
        shared.metrics.stepped(metrics::Action::Upload, outcome);
        // Who asks by hand keeps no records, and so would find the file lacking again.
        let once = outcome == metrics::Outcome::Done && shared.policy().asked != Asked::Nothing;
        let waits = failed || once || matches!(ended, Ok(Ended::Elsewhere));
        let refused = self.slots().give_back(&file.name, waits.then(|| file.version.clone()));
        // A failure changes the state, too, and the record that shows it.
        if refused || !matches!(ended, Ok(Ended::Stopped | Ended::Elsewhere)) {
            shared.wakes.directory.wake();
        }
        self.ended.notify_waiters();
    }

    async fn failed(&self, connected: &Connected, file: &SnapshotFile, failure: &Failure) {
        let (shared, storage) = (&self.shared, connected.bucket.storage().id());
        let turn = shared.voice.hear(&format!("{ABOUT}{}", file.name), Some(failure));
        if turn == super::voice::Turn::Begun && failure.category == CONFLICT {
            shared.tell(shared.regarding_file(&file.name), Kind::Warning, reason::UPLOAD_CONFLICT, failure.to_string());
        }
        let now = shared.now();
        let noted = self.directory.note_upload(file, &storage, Upload::Failed { since: now, at: now, why: failure.message.clone() }).await;
        shared.voice.hear("noting uploads in the state", noted.as_ref().err());
    }
}
