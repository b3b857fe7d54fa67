//! Every label's values: enums, so that the number of series is bounded and no name of a snapshot, node or bucket can become one.

use crate::decide::{self, Veto};
use crate::snapshot::{Owner, SnapshotFile, Storage, Verdict};

/// One label of a metric.
#[derive(Debug, Clone, Copy)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// Every value that it can have.
    pub values: fn() -> Vec<&'static str>,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The label's value.
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }

            pub(super) fn words() -> Vec<&'static str> {
                Self::ALL.iter().map(|value| value.word()).collect()
            }
        }
    };
}

words! {
    /// How a measured operation ended (docs/k3s.md 8.1).
    Status {
        /// It did everything it set out to do.
        Success = "success",
        /// A part of it failed.
        Error = "error",
    }
}

impl Status {
    /// Whether every part of it succeeded.
    pub fn of(ok: bool) -> Self {
        if ok { Self::Success } else { Self::Error }
    }
}

words! {
    /// What is measured and timed.
    Operation {
        /// One beat, from its start until its passes over both storages have ended.
        Reconcile = "reconcile",
        /// The beat's pass over the directory.
        ReconcileLocal = "reconcile_local",
        /// The beat's pass over the bucket.
        ReconcileS3 = "reconcile_s3",
        /// One save altogether.
        Save = "save",
        /// A save's part up to the file's place in the directory.
        SaveLocal = "save_local",
        /// A save's upload.
        SaveS3 = "save_s3",
    }
}

words! {
    /// Which of the two storages.
    StorageKind {
        /// The directory of this agent's node.
        Local = "local",
        /// The bucket that this agent leads.
        S3 = "s3",
    }
}

impl From<&Storage> for StorageKind {
    fn from(storage: &Storage) -> Self {
        match storage {
            Storage::Local { .. } => Self::Local,
            Storage::S3 { .. } => Self::S3,
        }
    }
}

words! {
    /// What a snapshot file is worth and whose it is. Each file is of exactly one kind.
    FileKind {
        /// Ours, whole, and nothing known against its member.
        Good = "good",
        /// Ours and whole, but not good: saved without quorum or with a CORRUPT alarm.
        Whole = "whole",
        /// Ours, and nothing known but a size that a snapshot can have.
        Plausible = "plausible",
        /// Ours or of unknown owner, and it cannot be restored.
        Damaged = "damaged",
        /// Not looked into yet, or it could not be.
        Unverified = "unverified",
        /// Our cluster's, from before a restore.
        AnotherHistory = "another-history",
        /// Another cluster's.
        AnotherCluster = "another-cluster",
        /// Nothing proves whose it is.
        Unknown = "unknown",
    }
}

impl FileKind {
    /// The kind of a file with this owner.
    pub fn of(file: &SnapshotFile, owner: Owner) -> Self {
        match (&file.known, owner) {
            (None, _) => Self::Unverified,
            (_, Owner::AnotherCluster) => Self::AnotherCluster,
            (_, Owner::AnotherHistory) => Self::AnotherHistory,
            (Some(known), Owner::Unknown | Owner::Ours | Owner::Doubtful) if matches!(known.verdict, Verdict::Damaged(_)) => Self::Damaged,
            (_, Owner::Unknown) => Self::Unknown,
            (_, Owner::Ours | Owner::Doubtful) if file.is_good() => Self::Good,
            (Some(known), Owner::Ours | Owner::Doubtful) if known.verdict == Verdict::Plausible => Self::Plausible,
            (_, Owner::Ours | Owner::Doubtful) => Self::Whole,
        }
    }
}

words! {
    /// What a step does.
    Action {
        /// Create or change a record.
        Write = "write",
        /// Delete a record.
        Forget = "forget",
        /// Read a snapshot to its end against its trailer.
        Verify = "verify",
        /// Remove a file or object that retention does not keep, with its sidecar and record.
        Prune = "prune",
        /// Upload a file to the bucket.
        Upload = "upload",
        /// Abort a multipart upload.
        Abort = "abort",
    }
}

impl From<&decide::Action> for Action {
    fn from(action: &decide::Action) -> Self {
        match action {
            decide::Action::Write(_) => Self::Write,
            decide::Action::Forget(..) => Self::Forget,
            decide::Action::Verify(_) => Self::Verify,
            decide::Action::Prune(..) => Self::Prune,
            decide::Action::Upload(..) => Self::Upload,
            decide::Action::Abort(..) => Self::Abort,
        }
    }
}

words! {
    /// What became of a step.
    Outcome {
        /// It is done.
        Done = "done",
        /// A long step was started; its end is counted as another outcome.
        Started = "started",
        /// No slot was free; it is planned again.
        Waiting = "waiting",
        /// It was vetoed.
        Vetoed = "vetoed",
        /// What it was decided on has changed in between; the next pass looks again.
        Stale = "stale",
        /// It failed; the next pass is the retry.
        Failed = "failed",
        /// It was given up before its end, at a stop or when leadership was lost.
        Abandoned = "abandoned",
    }
}

words! {
    /// One step of a save.
    Step {
        /// Having the directory for itself, and what the member says of itself.
        Status = "status",
        /// The stream from the member to the disk.
        Stream = "stream",
        /// The bytes against their trailer.
        Verify = "verify",
        /// One pass over the database.
        Inspect = "inspect",
        /// Writing the archive and reading it back.
        Compress = "compress",
        /// Sidecar, name and state.
        Rename = "rename",
        /// The way up to the bucket, which follows by itself.
        Upload = "upload",
    }
}

words! {
    /// What became of a run of the schedule.
    Run {
        /// A snapshot was saved.
        Done = "done",
        /// None could be saved.
        Failed = "failed",
        /// None was tried: a save ran already, the member is a learner, or there are no saves just now.
        Skipped = "skipped",
        /// Its time passed while nobody was there, and it is not made up.
        Missed = "missed",
        /// It was late, and is made up; what becomes of it counts besides.
        MadeUp = "made_up",
    }
}

words! {
    /// Why a file or object was removed.
    Removal {
        /// Retention: enough newer good ones are there.
        BeyondRetention = "beyond-retention",
        /// Retention: it is damaged, and newer damaged ones are there to be looked at.
        Damaged = "damaged",
    }
}

impl From<decide::Reason> for Removal {
    fn from(reason: decide::Reason) -> Self {
        if reason == decide::Reason::Damaged { Self::Damaged } else { Self::BeyondRetention }
    }
}

words! {
    /// Which S3 request, by S3's own name for it.
    S3Operation {
        /// A page of the listing.
        List = "ListObjectsV2",
        /// One object's metadata.
        Head = "HeadObject",
        /// One sidecar.
        Get = "GetObject",
        /// The bucket itself.
        HeadBucket = "HeadBucket",
        /// A whole file, or a sidecar.
        Put = "PutObject",
        /// The begin of an upload in parts.
        CreateUpload = "CreateMultipartUpload",
        /// One part.
        PutPart = "UploadPart",
        /// The end of an upload in parts.
        CompleteUpload = "CompleteMultipartUpload",
        /// An upload in parts given up.
        AbortUpload = "AbortMultipartUpload",
        /// The parts that have arrived.
        ListParts = "ListParts",
        /// The uploads in parts that were begun.
        ListUploads = "ListMultipartUploads",
        /// One object or sidecar removed.
        Delete = "DeleteObject",
        /// Anything else.
        Other = "Other",
    }
}

words! {
    /// How an S3 request ended.
    S3Outcome {
        /// Answered with what was asked for.
        Success = "success",
        /// 404: the object or the bucket is not there.
        NotFound = "not_found",
        /// 401 or 403.
        Denied = "denied",
        /// 429 or 503.
        Throttled = "throttled",
        /// The server could not be reached, or TLS failed; nothing was asked.
        Unreachable = "unreachable",
        /// Given up without a whole answer.
        Timeout = "timeout",
        /// Any other answer, or a broken one.
        Error = "error",
    }
}

impl S3Operation {
    /// The operation of this name.
    pub fn named(word: &str) -> Self {
        Self::ALL.iter().copied().find(|operation| operation.word() == word).unwrap_or(Self::Other)
    }
}

impl S3Outcome {
    /// The outcome of this name.
    pub fn named(word: &str) -> Self {
        Self::ALL.iter().copied().find(|outcome| outcome.word() == word).unwrap_or(Self::Error)
    }
}

/// `decide`'s own words for why a step is not done.
pub(super) fn vetoes() -> Vec<&'static str> {
    Veto::ALL.iter().map(|veto| veto.word()).collect()
}
