//! Opens one file of the directory for reading, if it is still what was judged.
//!
//! In: a file as a listing found it. Out: exactly its bytes, open, or why not. Blocking. Whoever reads on may still find
//! that the file changed under the reading; only what is read to its end and asked for again is proven.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};

use rustix::fs::{Mode, OFlags, fstat, openat};

use super::Inner;
use super::error::LocalError;
use super::place::{Entered, Stamp};
use crate::snapshot::{Failure, SnapshotFile};

/// Why a file is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotRead {
    /// It is gone, or not the content that the listing found; the next listing shows what it is.
    #[error("the file changed before it was read")]
    Stale,
    /// The disk would not let us read it.
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// A file that is to be copied elsewhere, with what stands beside it.
#[derive(Debug)]
pub struct Opened {
    /// The bytes that were judged.
    pub file: File,
    /// The extra metadata of its sidecar as it is now, without our keys; empty where there is none or it says nothing.
    pub extra: BTreeMap<String, String>,
}

impl Opened {
    /// Has the file for itself while it is open: an agent and a person's hand must not send it at the same time. False when another one has it.
    ///
    /// The lock is on the snapshot, so that nothing is left over, and it ends with the process. Where the file system has no locks there is
    /// one process a node, as far as we can know.
    pub fn claim(&self) -> bool {
        !matches!(self.file.try_lock(), Err(TryLockError::WouldBlock))
    }
}

impl Inner {
    /// The directory that it is in, and the open file.
    pub(super) fn open(&self, file: &SnapshotFile) -> Result<(Entered, File), NotRead> {
        let entered = self.enter().map_err(Failure::from)?;
        // Without NONBLOCK a pipe that took the file's place would hold us for ever.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = match openat(&entered.directory, file.name.as_str(), flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => return Err(NotRead::Stale),
            Err(error) => {
                let error = LocalError::Read { path: self.path.join(file.name.as_str()), source: error.into() };
                return Err(NotRead::Failed(error.into()));
            }
            Ok(opened) => File::from(opened),
        };
        match fstat(&opened).ok().and_then(|stat| Stamp::of(&stat)) {
            Some(stamp) if stamp.is_content_of(&file.version) => Ok((entered, opened)),
            _ => Err(NotRead::Stale),
        }
    }

    pub(super) fn read(&self, file: &SnapshotFile) -> Result<Opened, NotRead> {
        let (_, opened) = self.open(file)?;
        // What garbage says is nothing; each listing tells of it.
        let sidecar = self.sidecar(&file.name).map_err(Failure::from)?.unwrap_or_default();
        Ok(Opened { file: opened, extra: sidecar.extra })
    }
}
