//! What can go wrong with a save, each in one sentence, with the step it went wrong in. No password is ever in one.

use std::io;
use std::path::PathBuf;

use jiff::Timestamp;

use super::Step;
use crate::boltdb;
use crate::etcd::{Endpoint, EtcdError};
use crate::snapshot::{Failure, NameError};
use crate::storage::local::{LocalError, NoTurn};

/// Why nothing was saved. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// Another save is at work in the directory; this one is skipped.
    #[error("another save is at work in the snapshot directory: {by}{}", .since.map_or_else(String::new, |since| format!(", since {since}")))]
    Busy {
        /// Host and process.
        by: String,
        /// When it began.
        since: Option<Timestamp>,
    },
    /// The member has no vote and may lag; this save is skipped.
    #[error("{0} is a learner, of which no snapshot is taken; set etcd-endpoint to a voting member")]
    Learner(Endpoint),
    /// The directory cannot be used.
    #[error(transparent)]
    Directory(Failure),
    /// The member does not say how it is.
    #[error("the member cannot be asked for its status")]
    Status(#[source] EtcdError),
    /// The name would be too long.
    #[error("the name {name:?} has more than {longest} bytes; make etcd-snapshot-name shorter")]
    LongName {
        /// Without `.zip`.
        name: String,
        /// How many it may have.
        longest: usize,
    },
    /// The name would be none of a snapshot.
    #[error("{name:?} cannot be the name of a snapshot; change etcd-snapshot-name")]
    Name {
        /// Without `.zip`.
        name: String,
        /// Why not.
        source: NameError,
    },
    /// There is too little room, so nothing was written.
    #[error("{} has {free} bytes free, and the snapshot needs {needed}; make room there, or lower etcd-snapshot-retention", .path.display())]
    NoRoom {
        /// The directory.
        path: PathBuf,
        /// Bytes of the database and a little more.
        needed: u64,
        /// Bytes that there are.
        free: u64,
    },
    /// The disk was full before the end.
    #[error("{} was full after {written} bytes of the snapshot; make room there, or lower etcd-snapshot-retention", .path.display())]
    Full {
        /// The directory.
        path: PathBuf,
        /// Bytes until then.
        written: u64,
    },
    /// The disk failed.
    #[error("the snapshot cannot be {what} in {}", .path.display())]
    Disk {
        /// The step.
        step: Step,
        /// `written`, `read`.
        what: &'static str,
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The stream did not come to its end.
    #[error(transparent)]
    Stream(EtcdError),
    /// The bytes are others than etcd sent.
    #[error("the snapshot of {endpoint} does not match its SHA-256: it was changed on the way")]
    Trailer {
        /// The member.
        endpoint: Endpoint,
    },
    /// The bytes are those that etcd sent, and no database.
    #[error(
        "the database in the snapshot of {endpoint} is damaged, so the member's own may be; see etcd's log, and take a snapshot of another member"
    )]
    Damaged {
        /// The member.
        endpoint: Endpoint,
        /// Where and how.
        source: boltdb::Error,
    },
    /// The snapshot cannot get its name.
    #[error("the snapshot cannot be put into its place")]
    Place(#[from] LocalError),
    /// We were told to stop.
    #[error("the save was stopped")]
    Stopped,
    /// Something of ours gave up.
    #[error("the step {step} ended without an answer")]
    Lost {
        /// Which one.
        step: Step,
    },
}

impl From<NoTurn> for SaveError {
    fn from(none: NoTurn) -> Self {
        match none {
            NoTurn::Busy { by, since } => Self::Busy { by, since },
            NoTurn::Directory(failure) => Self::Directory(failure),
        }
    }
}

impl SaveError {
    /// A short word for metric labels.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Busy { .. } => "busy",
            Self::Learner(_) => "learner",
            Self::Directory(failure) => failure.category,
            Self::Status(error) | Self::Stream(error) => error.category(),
            Self::LongName { .. } | Self::Name { .. } => "name",
            Self::NoRoom { .. } | Self::Full { .. } => "full",
            Self::Disk { .. } => "io",
            Self::Trailer { .. } => "trailer",
            Self::Damaged { source, .. } => source.category(),
            Self::Place(error) => error.category(),
            Self::Stopped => "stopped",
            Self::Lost { .. } => "internal",
        }
    }

    /// The step that failed.
    pub fn step(&self) -> Option<Step> {
        match self {
            Self::Busy { .. } | Self::Learner(_) | Self::Directory(_) | Self::Status(_) => Some(Step::Status),
            Self::LongName { .. } | Self::Name { .. } | Self::NoRoom { .. } | Self::Full { .. } | Self::Stream(_) => Some(Step::Stream),
            Self::Trailer { .. } => Some(Step::Verify),
            Self::Damaged { .. } => Some(Step::Inspect),
            Self::Place(_) => Some(Step::Rename),
            Self::Disk { step, .. } | Self::Lost { step } => Some(*step),
            Self::Stopped => None,
        }
    }

    /// Whether nothing was tried, so that on schedule this is a save skipped and none failed.
    pub fn is_skip(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Learner(_))
    }
}

impl From<&SaveError> for Failure {
    fn from(error: &SaveError) -> Self {
        Self::of(error.category(), error)
    }
}
