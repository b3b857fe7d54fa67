//! A turn: the right to save into the directory, and what a save does there.
//!
//! In: temporaries that a save has filled, and its sidecar. Out: a snapshot under a name that nothing had before, with its
//! sidecar beside it and its verdict in the state. One turn at a time in a directory, whoever asks. Blocking.
//!
//! The sidecar gets its name before the snapshot does: a snapshot never lacks what is known against it. A kill between the
//! two leaves a sidecar alone; the state says whose it is, and the next turn or start removes it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use jiff::Timestamp;
use rustix::fs::{AtFlags, CWD, fstat, fstatvfs, fsync, statat, unlinkat};
use serde::{Deserialize, Serialize};

use super::error::LocalError;
use super::place::{self, DirectoryId, Entered, Look, Stamp};
use super::state::{ABANDONED, FORM, Judged, bounded, read};
use super::{Directory, Inner, atomic};
use crate::snapshot::{Digest, Failure, FileName, Inventory, Manifest, NodeName, Verdict};
use crate::storage::Memory;

/// More than a lock's note has.
const LARGEST_HOLDER: u64 = 4096;

/// Why there is no turn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoTurn {
    /// Another save has it.
    #[error("another save is at work in this directory: {by}{}", .since.map_or_else(String::new, |since| format!(", since {since}")))]
    Busy {
        /// Host and process.
        by: String,
        /// When it began.
        since: Option<Timestamp>,
    },
    /// The directory cannot be used.
    #[error(transparent)]
    Directory(#[from] Failure),
}

impl From<LocalError> for NoTurn {
    fn from(error: LocalError) -> Self {
        Self::Directory(error.into())
    }
}

/// Who holds the lock, as the lock says it itself.
#[derive(Debug, Serialize, Deserialize)]
struct Holder {
    host: String,
    pid: u32,
    since: Timestamp,
}

/// Which name is about to be given.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct SavingNote {
    v: u32,
    name: String,
    file_sha256: String,
    inode: u64,
}

/// The right to save. It ends when this is dropped, or with the process.
#[derive(Debug)]
pub struct Turn {
    inner: Arc<Inner>,
    entered: Arc<Entered>,
    /// None on a file system without locks, which has one process a node as far as we can know.
    lock: Option<File>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(lock) = &self.lock {
            let _ = lock.set_len(0);
            // Closing it is not enough while a process that is just being started has it as well.
            let _ = lock.unlock();
        }
    }
}

/// A file that is no snapshot yet, and goes when it is dropped.
#[derive(Debug)]
pub struct Temporary {
    /// Open for reading and writing.
    pub file: File,
    name: String,
    entered: Arc<Entered>,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Renamed, it is not there any more; and what cannot be removed goes with the next sweep.
        let _ = unlinkat(&self.entered.directory, self.name.as_str(), AtFlags::empty());
    }
}

impl Directory {
    /// Begins a save. Removes what a killed one has left.
    pub fn turn(&self, now: Timestamp) -> Result<Turn, NoTurn> {
        let inner = &self.0;
        if inner.standing().known.is_none() {
            // Only a listing tells an empty directory from a volume that is not mounted.
            let listed = inner.list(&Memory::new(), SystemTime::now(), Instant::now());
            if let Inventory::Failed(failure) = listed.inventory {
                return Err(failure.into());
            }
        }
        let entered = inner.enter()?;
        let lock = inner.lock(now)?;
        inner.recover(&entered)?;
        for directory in [&inner.path, &inner.metadata] {
            let _ = atomic::sweep(directory, &inner.node, ABANDONED);
        }
        Ok(Turn { inner: inner.clone(), entered: Arc::new(entered), lock })
    }
}

impl Inner {
    /// Takes the lock of saves, and writes into it who holds it.
    fn lock(&self, since: Timestamp) -> Result<Option<File>, NoTurn> {
        let path = self.state.save_lock_path();
        let failed = |source| LocalError::State { verb: "write", path: path.clone(), source };
        let open = || File::options().create(true).read(true).write(true).truncate(false).mode(0o600).open(&path);
        let lock = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                path.parent().map_or(Ok(()), atomic::create_directory).and_then(|()| open()).map_err(failed)?
            }
            opened => opened.map_err(failed)?,
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(self.holder()),
            Err(fs::TryLockError::Error(error)) => {
                tracing::warn!(lock = %path.display(), %error, "the file system has no locks: nothing keeps two processes from saving at once");
                return Ok(None);
            }
        }
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let holder = Holder { host, pid: std::process::id(), since };
        // It only informs.
        let _ = lock.set_len(0).and_then(|()| (&lock).write_all(&serde_json::to_vec(&holder).unwrap_or_default()));
        Ok(Some(lock))
    }

    fn holder(&self) -> NoTurn {
        let bytes = bounded(&self.state.save_lock_path(), LARGEST_HOLDER).unwrap_or_default();
        match serde_json::from_slice::<Holder>(&bytes) {
            Ok(Holder { host, pid, since }) => NoTurn::Busy { by: format!("process {pid} on {host}"), since: Some(since) },
            Err(_) => NoTurn::Busy { by: "a process that has only just begun".into(), since: None },
        }
    }

    /// Removes the sidecar of a save that was killed before its snapshot had a name, unless a save is running.
    pub(super) fn clear_unfinished_save(&self, entered: &Entered) {
        if fs::symlink_metadata(self.state.saving_path()).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return;
        }
        let cleared = match self.lock(Timestamp::now()) {
            Ok(_lock) => self.recover(entered).map_err(Failure::from),
            Err(NoTurn::Busy { .. }) => Ok(()),
            Err(NoTurn::Directory(failure)) => Err(failure),
        };
        if let Err(failure) = cleared {
            tracing::warn!(error = %failure, "what an unfinished save left cannot be removed now; the next save tries again");
        }
    }

    fn recover(&self, entered: &Entered) -> Result<(), LocalError> {
        let path = self.state.saving_path();
        let Some(note) = read(&path, |note: &SavingNote| note.v == FORM)? else {
            return Ok(());
        };
        if let (Ok(name), Some(sha256)) = (FileName::new(&note.name), Digest::parse(&note.file_sha256)) {
            let sidecar = self.metadata.join(name.as_str());
            // K3s may have one of the same name.
            let own = || {
                let map = serde_json::from_slice(&bounded(&sidecar, place::LARGEST_SIDECAR).ok()?).ok()?;
                Some(Manifest::from_sidecar(map).0).filter(|manifest| manifest.file_sha256 == Some(sha256))
            };
            if let Some(manifest) = own() {
                // Another file may have the name, and later even the inode.
                let look = place::look(entered, &self.path, &name)?;
                let is_its = |stamp: Stamp| stamp.inode == note.inode && Some(stamp.size) == manifest.file_size;
                if !matches!(look, Look::File(stamp) if is_its(stamp)) {
                    remove(sidecar)?;
                }
            }
        }
        remove(path)
    }

    fn is_taken(&self, entered: &Entered, name: &str) -> Result<bool, LocalError> {
        let failed = |source: rustix::io::Errno| LocalError::Read { path: self.path.join(name), source: source.into() };
        let exists = |stat| match stat {
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(error) => Err(failed(error)),
        };
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        Ok(exists(statat(&entered.directory, name, flags))? || exists(statat(CWD, self.metadata.join(name), flags))?)
    }
}

impl Turn {
    /// The node whose directory it is.
    pub fn node(&self) -> &NodeName {
        &self.inner.node
    }

    /// Bytes that may still be written.
    pub fn room(&self) -> Result<u64, LocalError> {
        let stat = fstatvfs(&self.entered.directory).map_err(|source| self.unread(source.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Whether neither a file nor a sidecar has this name, with `.zip` or without: the two would be one snapshot to K3s.
    pub fn is_free(&self, stem: &FileName) -> Result<bool, LocalError> {
        Ok(!self.inner.is_taken(&self.entered, stem.as_str())? && !self.inner.is_taken(&self.entered, &format!("{stem}.zip"))?)
    }

    /// An empty file beside the snapshots.
    pub fn temporary(&self) -> Result<Temporary, LocalError> {
        let inner = &self.inner;
        let create = |source| LocalError::Create { path: inner.path.clone(), source };
        let (path, file) = atomic::temporary(&inner.path, &inner.node).map_err(create)?;
        if DirectoryId::at(&inner.path).ok() != Some(self.entered.id) {
            let _ = fs::remove_file(path);
            return Err(LocalError::Replaced(inner.path.clone()));
        }
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        Ok(Temporary { file, name, entered: self.entered.clone() })
    }

    /// Gives a temporary, on the disk and verified whole, the first of these names that is free, and its sidecar the same.
    pub fn place(
        &self,
        temporary: &Temporary,
        stems: Vec<FileName>,
        ending: &str,
        sidecar: &[u8],
        digests: &Manifest,
    ) -> Result<FileName, LocalError> {
        let inner = &self.inner;
        let file_sha256 = digests.file_sha256.map(|digest| digest.to_string()).unwrap_or_default();
        let inode = fstat(&temporary.file).map_err(|source| self.unread(source.into()))?.st_ino;
        let mut path = inner.path.clone();
        for stem in stems {
            let Ok(name) = FileName::new(&format!("{stem}{ending}")) else { continue };
            path = inner.path.join(name.as_str());
            if !self.is_free(&stem)? {
                continue;
            }
            let note = SavingNote { v: FORM, name: name.to_string(), file_sha256: file_sha256.clone(), inode };
            inner.state.write(&inner.state.saving_path(), &note)?;
            match self.put_sidecar(&name, sidecar).and_then(|()| self.put(temporary, &name, digests)) {
                Ok(()) => {
                    // What is noted is true; the next turn only looks once more.
                    let _ = fs::remove_file(inner.state.saving_path());
                    // Nobody writes it any more, whether or not somebody watches: it need not be waited for.
                    inner.rest().closed(name.clone());
                    return Ok(name);
                }
                Err(source) => {
                    inner.recover(&self.entered)?;
                    if source.kind() != io::ErrorKind::AlreadyExists {
                        return Err(LocalError::Create { path, source });
                    }
                }
            }
        }
        Err(LocalError::Create { path, source: io::ErrorKind::AlreadyExists.into() })
    }

    fn put_sidecar(&self, name: &FileName, bytes: &[u8]) -> io::Result<()> {
        let metadata = &self.inner.metadata;
        atomic::create_directory(metadata)?;
        let opened = File::open(metadata)?;
        let (path, mut file) = atomic::temporary(metadata, &self.inner.node)?;
        let temporary = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let put = file.write_all(bytes).and_then(|()| file.sync_all());
        let put = put.and_then(|()| atomic::rename_new(opened.as_fd(), temporary, name.as_str())).and_then(|()| opened.sync_all());
        if put.is_err() {
            let _ = fs::remove_file(&path);
        }
        put
    }

    fn put(&self, temporary: &Temporary, name: &FileName, digests: &Manifest) -> io::Result<()> {
        let directory = &self.entered.directory;
        let stamp = Stamp::of(&fstat(&temporary.file)?);
        atomic::rename_new(directory.as_fd(), &temporary.name, name.as_str())?;
        // Nobody writes it any more; without a watch, as by hand, no one else would say so.
        self.inner.rest().closed(name.clone());
        if let Some(stamp) = stamp {
            // At once: whoever lists it now need not read it again.
            let content = stamp.version(None).of_content().to_owned();
            self.inner.state.note(name, &content, Judged { verdict: Verdict::Whole, digests: digests.clone() });
        }
        fsync(directory).map_err(|error| {
            // A name that may be gone after a power failure is none to report.
            let _ = unlinkat(directory, name.as_str(), AtFlags::empty());
            error.into()
        })
    }

    fn unread(&self, source: io::Error) -> LocalError {
        LocalError::Read { path: self.inner.path.clone(), source }
    }
}

fn remove(path: PathBuf) -> Result<(), LocalError> {
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(LocalError::State { verb: "remove", path, source }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
