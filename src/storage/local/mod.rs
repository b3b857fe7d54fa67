//! The snapshot directory of one node: listed, verified, watched, and remembered in its state.
//!
//! In: a path, our node, and the memory of what was learnt. Out: inventories, verdicts, wakes. Whatever blocks runs off the
//! async threads. Nothing here decides what is done about a file.
//!
//! * `list` what is there, and one look at one name
//! * `place` which directory the path leads to, and whether it is the one we know
//! * `rest` whether somebody may still be writing a file
//! * `open` exactly the bytes that were judged
//! * `verify` reading a file to its end
//! * `remove` a file and what stands beside it
//! * `turn` where a save writes, and how what it wrote gets its name
//! * `state` verdicts, uploads, and who is at work here, across restarts
//! * `failures` saves that failed, `schedule` the last attempt of the schedule, across restarts
//! * `watch` wakes
//! * `atomic` writes that a kill cannot halve

pub mod atomic;
mod error;
mod failures;
mod list;
mod open;
mod place;
mod remove;
mod rest;
mod schedule;
mod state;
mod turn;
mod verify;
mod watch;

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;

pub use self::error::LocalError;
pub use self::open::{NotRead, Opened};
pub use self::state::bounded;
pub use self::turn::{NoTurn, Temporary, Turn};
pub use self::verify::NotVerified;
use crate::snapshot::{
    ClusterId, Failure, FileName, Inventory, Listing, NodeName, SnapshotFile, Storage, StorageId, Upload, UploadId, Uploads, Verdict,
    Version,
};
use crate::storage::{Listed, Memory, Removed, Store};

/// The snapshot directory of one node. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Directory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// Where the sidecars are: beside the directory, as in K3s.
    metadata: PathBuf,
    node: NodeName,
    state: state::State,
    standing: Mutex<Standing>,
    rest: Mutex<rest::Rest>,
    /// Sidecars that say nothing, by the version under which that was found out.
    garbled: Mutex<BTreeMap<FileName, (Version, Failure)>>,
    /// A listing ended, so the watch may have to look elsewhere, or at another time.
    listed: Notify,
}

/// How it stands with the directory.
#[derive(Debug, Default)]
struct Standing {
    /// The directory that a listing accepted first since we started.
    known: Option<place::DirectoryId>,
    replaced: bool,
    shared_with: Vec<NodeName>,
    present: watch::Present,
}

impl Directory {
    /// The directory at an absolute path, whatever is there just now; it is created (0700) when neither it nor its state
    /// ever existed. Blocks for a few looks at the disk.
    pub fn open(path: PathBuf, node: NodeName) -> Result<Self, LocalError> {
        let directory = Self::with_state(path, node, state::State::new)?;
        // Whatever is wrong now is each listing's to say, until it is right.
        let _ = directory.0.enter();
        Ok(directory)
    }

    /// The same for somebody who only looks: nothing is created, noted or swept, and verdicts stay in memory.
    pub fn read_only(path: PathBuf, node: NodeName) -> Result<Self, LocalError> {
        Self::with_state(path, node, state::State::read_only)
    }

    /// The nodes whose agents ever kept state on this directory. Blocks for a few small files.
    pub fn nodes(&self) -> Vec<NodeName> {
        self.0.state.nodes()
    }

    fn with_state(path: PathBuf, node: NodeName, state: impl Fn(&Path, &Path, &NodeName) -> state::State) -> Result<Self, LocalError> {
        let plain = path.is_absolute() && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        let Some(parent) = path.parent().filter(|_| plain) else {
            return Err(LocalError::NotUsable(path));
        };
        let metadata = parent.join(".metadata");
        let state = state(&path, &metadata, &node);
        Ok(Self(Arc::new(Inner {
            path,
            metadata,
            node,
            state,
            standing: Mutex::default(),
            rest: Mutex::default(),
            garbled: Mutex::default(),
            listed: Notify::new(),
        })))
    }

    /// Its place among the storages.
    pub fn storage(&self) -> Storage {
        Storage::Local { node: self.0.node.clone() }
    }

    /// The path as it was given.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Where a file's sidecar is, whether or not there is one.
    pub fn sidecar_path(&self, name: &FileName) -> PathBuf {
        self.0.metadata.join(name.as_str())
    }

    /// Whether the last listing found that the directory was replaced under us, which a restart mends.
    pub fn was_replaced(&self) -> bool {
        self.0.standing().replaced
    }

    /// The other nodes whose agents are at work on this directory, as of the last listing. While there are any, only files
    /// that name our node, or whose manifest does, are ours.
    pub fn shared_with(&self) -> Vec<NodeName> {
        self.0.standing().shared_with.clone()
    }

    /// The last cluster id that a beat noted. Blocks for one small file.
    pub fn remembered_cluster(&self) -> Result<Option<ClusterId>, Failure> {
        self.0.state.cluster().map_err(Failure::from)
    }

    /// Notes the beat of `now` and the cluster id if it is known, for the other agents here and for our next start.
    /// A directory that no listing has accepted gets no note.
    pub async fn note_beat(&self, now: Timestamp, interval: Duration, cluster: Option<&ClusterId>) -> Result<(), Failure> {
        let (inner, cluster) = (self.0.clone(), cluster.cloned());
        if inner.standing().known.is_none() {
            return Ok(());
        }
        let noted = spawn_blocking(move || inner.state.note_beat(now, interval, cluster.as_ref())).await;
        noted.unwrap_or_else(|_| Err(self.0.lost())).map_err(Failure::from)
    }

    /// Reads one file to its end and notes its verdict. Blocking and long; `go_on` is asked between pieces of a quarter
    /// of a mebibyte, and false ends it.
    pub fn verify(&self, file: &SnapshotFile, go_on: impl Fn() -> bool) -> Result<Verdict, NotVerified> {
        self.0.verify(file, go_on)
    }

    /// Opens a file that is to be copied elsewhere, if it still is the content that the listing found.
    pub async fn read(&self, file: &SnapshotFile) -> Result<Opened, NotRead> {
        let (inner, file) = (self.0.clone(), file.clone());
        let read = spawn_blocking(move || inner.read(&file)).await;
        read.unwrap_or_else(|_| Err(NotRead::Failed(self.0.lost().into())))
    }

    /// What is remembered of uploads: of the versions that this listing of ours found; and of files that it does not have,
    /// the multipart uploads that were begun. It reads nothing that the listing did not read.
    pub async fn uploads(&self, listing: &Listing) -> BTreeMap<FileName, Uploads> {
        let of = |(name, note): (FileName, state::Note)| {
            let uploads = note.uploads_of(listing.get(&name));
            (name, uploads)
        };
        self.notes_of_uploads().await.into_iter().map(of).filter(|(_, uploads)| !uploads.is_empty()).collect()
    }

    /// Multipart uploads to a bucket that were begun and that nobody goes on with, though their names may stand for a file
    /// of other content by now. Each is to be aborted, and then forgotten.
    pub async fn abandoned_uploads(&self, listing: &Listing, to: &StorageId) -> Vec<(FileName, UploadId)> {
        let of = |(name, note): (FileName, state::Note)| {
            let ids = note.abandoned_of(listing.get(&name), to);
            ids.into_iter().map(move |id| (name.clone(), id))
        };
        self.notes_of_uploads().await.into_iter().flat_map(of).collect()
    }

    async fn notes_of_uploads(&self) -> Vec<(FileName, state::Note)> {
        let inner = self.0.clone();
        // Not known is as if nothing had gone up: the bucket tells what it has.
        spawn_blocking(move || inner.state.of_uploads()).await.unwrap_or_default()
    }

    /// Notes how far an upload of this content has come; on the disk on return. One that fails as it did before fails
    /// since then.
    pub async fn note_upload(&self, file: &SnapshotFile, to: &StorageId, upload: Upload) -> Result<(), Failure> {
        let (name, version, to) = (file.name.clone(), file.version.clone(), to.clone());
        self.of_state(move |state| state.note_upload(&name, version.of_content(), &to, upload)).await
    }

    /// Forgets the multipart upload of this name that was begun, now that it is aborted.
    pub async fn forget_upload(&self, name: &FileName, to: &StorageId) -> Result<(), Failure> {
        let (name, to) = (name.clone(), to.clone());
        self.of_state(move |state| state.forget_begun(&name, &to, None)).await
    }

    /// Forgets one of [`Self::abandoned_uploads`], now that it is aborted.
    pub async fn forget_abandoned_upload(&self, name: &FileName, to: &StorageId, id: &UploadId) -> Result<(), Failure> {
        let (name, to, id) = (name.clone(), to.clone(), id.clone());
        self.of_state(move |state| state.forget_begun(&name, &to, Some(&id))).await
    }

    async fn of_state(&self, change: impl FnOnce(&state::State) -> Result<(), LocalError> + Send + 'static) -> Result<(), Failure> {
        let inner = self.0.clone();
        let changed = spawn_blocking(move || change(&inner.state)).await;
        changed.unwrap_or_else(|_| Err(self.0.lost())).map_err(Failure::from)
    }

    /// How long until the next file that may still be written will be at rest if nobody touches it. The watch wakes then
    /// by itself.
    pub fn next_rest(&self) -> Option<Duration> {
        self.0.rest().next().map(|at| at.saturating_duration_since(Instant::now()))
    }
}

impl Store for Directory {
    async fn list(&self, memory: &Memory) -> Listed {
        let (inner, memory) = (self.0.clone(), memory.clone());
        let listed = spawn_blocking(move || inner.list(&memory, SystemTime::now(), Instant::now())).await;
        listed.unwrap_or_else(|_| Listed { inventory: Inventory::Failed(self.0.lost().into()), failures: Vec::new() })
    }

    async fn ask(&self, name: &FileName) -> Result<Option<Version>, Failure> {
        let (inner, name) = (self.0.clone(), name.clone());
        let asked = spawn_blocking(move || inner.ask(&name)).await;
        asked.unwrap_or_else(|_| Err(self.0.lost())).map_err(Failure::from)
    }

    async fn remove(&self, file: &SnapshotFile, _adopting: bool) -> Result<Removed, Failure> {
        let (inner, file) = (self.0.clone(), file.clone());
        let removed = spawn_blocking(move || inner.remove(&file)).await;
        removed.unwrap_or_else(|_| Err(self.0.lost())).map_err(Failure::from)
    }
}

impl Inner {
    fn enter(&self) -> Result<place::Entered, LocalError> {
        let known = self.standing().known;
        place::enter(&self.path, &self.state, known)
    }

    fn note_standing(&self, failure: Option<&Failure>) {
        let present = (place::DirectoryId::at(&self.path).ok(), place::DirectoryId::at(&self.metadata).ok());
        let mut standing = self.standing();
        standing.replaced = failure.is_some_and(|failure| failure.category == "replaced");
        standing.present = present;
    }

    fn lost(&self) -> LocalError {
        LocalError::Lost(self.path.clone())
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rest(&self) -> MutexGuard<'_, rest::Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
