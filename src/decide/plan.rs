//! What a pass sees, what it is told to do, and what it decides on: plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::record::{Place, Record, RecordName, Shape, Wanted};
use crate::snapshot::{BaseName, FailedSave, FileName, Identity, Inventory, NodeName, Owner, SnapshotFile, Storage, UploadId, Uploads};

/// Everything that one pass of one storage knows.
#[derive(Debug)]
pub struct Observed {
    /// Who we are.
    pub us: Identity,
    /// The storage of this pass.
    pub storage: Storage,
    /// Where its files are, as records say it.
    pub place: Place,
    /// How records are written in this cluster.
    pub shape: Shape,
    /// The storage's records, read before the listing began: what they hold existed before it. None while they are not
    /// known: then nothing about them can be decided.
    pub records: Option<Vec<Arc<Record>>>,
    /// What the listing found.
    pub inventory: Inventory,
    /// Whose each file is.
    pub owners: BTreeMap<FileName, Owner>,
    /// Files that are being verified.
    pub running: BTreeSet<FileName>,
    /// Whether K3s itself manages this storage's records now. None when that could not be found out, which is doubt.
    pub k3s_at_work: Option<bool>,
    /// What uploads and retention need to know beside this.
    pub around: Around,
}

/// What uploads and retention need to know beside the storage and its records. By default nothing is known, and then
/// nothing is uploaded.
#[derive(Debug, Default)]
pub struct Around {
    /// Nodes that have a Node object or an agent at work. None when that could not be found out: then every node is one of them.
    pub living: Option<BTreeSet<NodeName>>,
    /// Files that a running save has named or an upload is reading. They neither go nor go up.
    pub busy: BTreeSet<FileName>,
    /// What this node's state says of the uploads of the versions that the listing found, and of those begun of files that are gone.
    pub uploads: BTreeMap<FileName, Uploads>,
    /// Whether K3s is at work on the bucket, from whichever node. None when that could not be found out.
    pub k3s_on_bucket: Option<bool>,
    /// Where the files of this directory go up to. None when there is no bucket, and in the bucket's own pass.
    pub bucket: Option<BucketView>,
    /// In a directory's pass: saves that failed, by its state.
    pub failed_saves: Vec<FailedSave>,
    /// In the bucket's pass: uploads to it that failed, by the records of the nodes that tried.
    pub failed_uploads: Vec<FailedUpload>,
    /// Multipart uploads that stand still: in a directory's pass those of its own that failed or whose file is another one now, by its
    /// state; in a bucket's pass those under the names of objects that were begun long ago.
    pub abandoned: Vec<(FileName, UploadId)>,
    /// In a directory's pass: nodes that have had no Node object for longer than the grace.
    pub gone_nodes: BTreeSet<NodeName>,
    /// The local records of those nodes.
    pub orphans: Vec<Arc<Record>>,
}

/// An upload that failed, as the record of the file tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedUpload {
    /// The file.
    pub file: FileName,
    /// The node that tried.
    pub node: NodeName,
    /// When it failed first for this reason.
    pub since: Timestamp,
    /// Why, in one sentence.
    pub why: String,
}

/// A bucket as the pass of a directory sees it.
#[derive(Debug, Clone)]
pub struct BucketView {
    /// The bucket.
    pub storage: Storage,
    /// Its records. None while they are not known: then nothing is taken to be there, and the `HEAD` before each upload tells.
    pub records: Option<Vec<Arc<Record>>>,
    /// When this beat began: what has failed since waits for the next one.
    pub beat: Timestamp,
}

/// What the user wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Whether to act at all.
    pub mode: Mode,
    /// The reconcile interval.
    pub interval: Duration,
    /// What retention keeps.
    pub keep: Keep,
    /// What a person asked of this run.
    pub asked: Asked,
}

/// What retention keeps. By default everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Keep {
    /// The base name of the files that it is about.
    pub base: BaseName,
    /// How many good ones the directory keeps; 0 means all (docs/k3s.md 2.7).
    pub local: u32,
    /// How many good ones of the whole cluster the bucket keeps; 0 means all.
    pub bucket: u32,
    /// Whether objects that show no cluster id count as ours.
    pub adopt_unlabelled: bool,
}

impl Keep {
    /// How many good ones this storage keeps; 0 means all.
    pub fn newest(&self, storage: &Storage) -> u32 {
        match storage {
            Storage::Local { .. } => self.local,
            Storage::S3 { .. } => self.bucket,
        }
    }
}

/// What a person asked of one run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Asked {
    /// Nothing: the loop runs by itself.
    #[default]
    Nothing,
    /// `prune`: a person has looked, so there is no brake.
    Prune {
        /// Another history counts as ours in this run.
        take_over: bool,
    },
    /// `delete`: these, whatever retention thinks of them.
    Delete {
        /// Which.
        names: BTreeSet<FileName>,
        /// Another history counts as ours in this run.
        take_over: bool,
    },
    /// `upload`: what was uploaded once goes up again where its object is gone.
    Upload {
        /// Only these; none is all.
        only: BTreeSet<FileName>,
        /// But not what this run has brought there already: no record may have told of it yet.
        tried: BTreeSet<FileName>,
    },
}

impl Asked {
    /// Whether another history counts as ours.
    pub fn takes_over(&self) -> bool {
        matches!(self, Self::Prune { take_over: true } | Self::Delete { take_over: true, .. })
    }

    /// Whether a pass may only delete so many.
    pub fn has_brake(&self) -> bool {
        !matches!(self, Self::Prune { .. } | Self::Delete { .. })
    }

    /// Whether a file goes up that was uploaded once.
    pub fn uploads_again(&self, name: &FileName) -> bool {
        matches!(self, Self::Upload { only, tried } if !tried.contains(name) && (only.is_empty() || only.contains(name)))
    }
}

/// Whether to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Act.
    #[default]
    Manage,
    /// Look and verify; write nothing.
    Observe,
}

/// What one pass decided on, in the order of its rules.
#[derive(Debug, Default)]
pub struct Plan(pub Vec<Step>);

/// One action with its reason, and why it is not done.
#[derive(Debug)]
pub struct Step {
    /// What to do.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// Why not. Set by [`super::check()`] and by nobody else.
    pub veto: Option<Veto>,
}

impl Step {
    /// A step that nobody has objected to yet.
    pub fn new(action: Action, reason: Reason) -> Self {
        Self { action, reason, veto: None }
    }
}

/// Something to do.
#[derive(Debug)]
pub enum Action {
    /// Create the record, or change it by one patch.
    Write(Box<Wanted>),
    /// Delete the record, after its proof.
    Forget(Arc<Record>, Proof),
    /// Read the file to its end against its trailer. Long: started if a slot is free, planned again if not.
    Verify(Box<SnapshotFile>),
    /// Remove the file or object if it is still this version and shows our cluster id, then its sidecar, then its records
    /// as they were seen: in one step, so that nobody takes it for vanished.
    Prune(Box<SnapshotFile>, Vec<Arc<Record>>),
    /// Upload the file and then its sidecar, going on with the multipart upload that was begun. Long, as Verify is.
    Upload(Box<SnapshotFile>, Option<UploadId>),
    /// Abort a multipart upload of ours of this name.
    Abort(FileName, UploadId),
}

impl Action {
    /// The metric's label.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Write(_) => "write",
            Self::Forget(..) => "forget",
            Self::Verify(_) => "verify",
            Self::Prune(..) => "prune",
            Self::Upload(..) => "upload",
            Self::Abort(..) => "abort",
        }
    }

    /// What it is about, for people.
    pub fn subject(&self) -> String {
        match self {
            Self::Write(wanted) => wanted.name().to_string(),
            Self::Forget(record, _) => record.name.to_string(),
            Self::Verify(file) | Self::Prune(file, _) | Self::Upload(file, _) => file.name.to_string(),
            Self::Abort(name, _) => name.to_string(),
        }
    }
}

/// What must be shown right before a record is deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// The storage, asked about this one name, says that it is not there.
    Absent(FileName),
    /// The file stands under another record now: this one.
    RecordedAs(RecordName),
    /// Nothing: what it told of has expired, or can never be a snapshot file of ours, or its node is gone.
    None,
}

/// Why a step is planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The file has no record.
    New,
    /// The record does not say what is.
    Changed,
    /// The record is not what was last written to it.
    Edited,
    /// The file is gone.
    Gone,
    /// The node is gone.
    NodeGone,
    /// A save or an upload failed.
    Failed,
    /// The file's record has another name now.
    Renamed,
    /// The object is another cluster's.
    AnotherCluster,
    /// No snapshot can be called that.
    NotASnapshot,
    /// The failure is a day old.
    FailureExpired,
    /// Enough newer failures have records.
    TooManyFailures,
    /// Its bytes have not been read.
    NotVerified,
    /// The bucket lacks it and would keep it.
    NotInBucket,
    /// Enough newer good ones are there.
    BeyondRetention,
    /// It is damaged, and newer damaged ones are there to be looked at.
    Damaged,
    /// A person asked for it.
    Asked,
    /// Nobody goes on with the multipart upload that was begun.
    Abandoned,
}

impl Reason {
    /// For logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Changed => "changed",
            Self::Edited => "edited",
            Self::Gone => "gone",
            Self::NodeGone => "node-gone",
            Self::Failed => "failed",
            Self::Renamed => "renamed",
            Self::AnotherCluster => "another-cluster",
            Self::NotASnapshot => "not-a-snapshot",
            Self::FailureExpired => "failure-expired",
            Self::TooManyFailures => "too-many-failures",
            Self::NotVerified => "not-verified",
            Self::NotInBucket => "not-in-bucket",
            Self::BeyondRetention => "beyond-retention",
            Self::Damaged => "damaged",
            Self::Asked => "asked",
            Self::Abandoned => "abandoned",
        }
    }
}

/// Why a step is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Veto {
    /// `--mode observe`.
    Observing,
    /// K3s manages these records now, or nobody could say whether it does.
    K3sAtWork,
    /// Retention would delete more at once than anybody expects of it.
    Brake,
    /// A removal on the word of a listing that did not see everything. Never seen unless `decide` is wrong.
    Incomplete,
    /// A record of another storage, or one that the cache did not hold; a file that is not proven ours. Never seen unless `decide` is wrong.
    NotOurs,
    /// An upload of what is not good, or a removal as damaged of what is not. Never seen unless `decide` is wrong.
    NotGood,
    /// The removal of the newest good one. Never seen unless `decide` is wrong.
    NewestGood,
}

impl Veto {
    /// All of them, for metrics.
    pub const ALL: [Self; 7] =
        [Self::Observing, Self::K3sAtWork, Self::Brake, Self::Incomplete, Self::NotOurs, Self::NotGood, Self::NewestGood];

    /// The metric's label.
    pub fn word(self) -> &'static str {
        match self {
            Self::Observing => "observing",
            Self::K3sAtWork => "k3s-at-work",
            Self::Brake => "brake",
            Self::Incomplete => "incomplete",
            Self::NotOurs => "not-ours",
            Self::NotGood => "not-good",
            Self::NewestGood => "newest-good",
        }
    }

    /// Whether `decide` should never have planned such a step.
    pub fn is_a_mistake(self) -> bool {
        matches!(self, Self::Incomplete | Self::NotOurs | Self::NotGood | Self::NewestGood)
    }
}
