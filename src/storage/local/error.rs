//! What can be wrong with a directory, in one sentence each.

use std::io;
use std::path::PathBuf;

use crate::snapshot::Failure;

/// What is wrong with a directory or with one file of it.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Only an absolute path with a parent has a place for the sidecars beside it.
    #[error("the snapshot directory {0:?} should be an absolute path below the root, without `..`")]
    NotUsable(PathBuf),
    /// Neither created nor taken for empty: it was there once.
    #[error("the snapshot directory {0:?} is not there, and it was once; it is not created again")]
    Missing(PathBuf),
    /// A file, or below one.
    #[error("the snapshot directory {0:?} is not a directory")]
    NotADirectory(PathBuf),
    /// The path leads to another directory than when we started.
    #[error("the snapshot directory {0:?} was replaced by another one under us")]
    Replaced(PathBuf),
    /// It was removed, and only a mount still holds it.
    #[error("the snapshot directory {0:?} was removed, and what is mounted here is only what is left of it")]
    Removed(PathBuf),
    /// An empty mount point looks like a directory whose snapshots are all gone.
    #[error("{path:?} has no snapshots and is not the directory that had some (is its volume mounted?); if this is meant, remove {note:?}")]
    Unmounted {
        /// The snapshot directory.
        path: PathBuf,
        /// The note that says which directory it was.
        note: PathBuf,
    },
    /// The directory could not be created.
    #[error("cannot create {path:?}")]
    Create {
        /// What should be there.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file or the directory cannot be looked at or read.
    #[error("cannot read {path:?}")]
    Read {
        /// What was to be read.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file system would not let a file or a sidecar go.
    #[error("cannot remove {path:?}{hint}")]
    Remove {
        /// What should go.
        path: PathBuf,
        /// What would let it go, where that can be told.
        hint: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A removal was done, and may not be on the disk.
    #[error("cannot bring a removal in {path:?} to the disk")]
    Sync {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No record can be made of such a name.
    #[error("the name {shown:?} in {path:?} cannot be a snapshot's: it is not valid UTF-8, or has control characters in it")]
    Name {
        /// The name as far as it can be shown.
        shown: String,
        /// The snapshot directory.
        path: PathBuf,
    },
    /// The sidecar is there and says nothing.
    #[error("the sidecar {path:?} is not read: {why}")]
    Sidecar {
        /// The sidecar.
        path: PathBuf,
        /// What it should have been.
        why: String,
    },
    /// The state could not be read or written; what it should hold is only in memory.
    #[error("cannot {verb} the state {path:?}")]
    State {
        /// `read`, `write` or `remove`.
        verb: &'static str,
        /// The file of the state.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Inotify has no watch for it.
    #[error("cannot watch {path:?}")]
    Watch {
        /// What was to be watched.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something of ours gave up.
    #[error("looking at the snapshot directory {0:?} ended without an answer")]
    Lost(PathBuf),
}

impl LocalError {
    /// For metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::NotUsable(_) => "setting",
            Self::Missing(_) => "missing",
            Self::NotADirectory(_) => "not-a-directory",
            Self::Replaced(_) | Self::Removed(_) => "replaced",
            Self::Unmounted { .. } => "unmounted",
            Self::Create { source, .. } | Self::Read { source, .. } | Self::Remove { source, .. } if is_refused(source) => "permission",
            Self::Create { .. } | Self::Read { .. } | Self::Remove { .. } | Self::Sync { .. } => "io",
            Self::Name { .. } => "name",
            Self::Sidecar { .. } => "sidecar",
            Self::State { .. } => "state",
            Self::Watch { .. } => "watch",
            Self::Lost(_) => "internal",
        }
    }
}

fn is_refused(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

impl From<LocalError> for Failure {
    fn from(error: LocalError) -> Self {
        Self::of(error.category(), &error)
    }
}
