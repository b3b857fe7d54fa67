//! What a pass sees, what it is told to do, and what it decides on: plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::record::{Place, Record, RecordName, Shape, Wanted};
use crate::snapshot::{FileName, Identity, Inventory, Owner, SnapshotFile, Storage};

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
}

/// What the user wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Whether to act at all.
    pub mode: Mode,
    /// The reconcile interval.
    pub interval: Duration,
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
}

impl Action {
    /// The metric's label.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Write(_) => "write",
            Self::Forget(..) => "forget",
            Self::Verify(_) => "verify",
        }
    }

    /// What it is about, for people.
    pub fn subject(&self) -> String {
        match self {
            Self::Write(wanted) => wanted.name().to_string(),
            Self::Forget(record, _) => record.name.to_string(),
            Self::Verify(file) => file.name.to_string(),
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
    /// Nothing: what it told of has expired, or can never be a snapshot file of ours.
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
    /// The file's record has another name now.
    Renamed,
    /// The object is another cluster's.
    AnotherCluster,
    /// No snapshot can be called that.
    NotASnapshot,
    /// The failure is a day old.
    FailureExpired,
    /// Its bytes have not been read.
    NotVerified,
}

impl Reason {
    /// For logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Changed => "changed",
            Self::Edited => "edited",
            Self::Gone => "gone",
            Self::Renamed => "renamed",
            Self::AnotherCluster => "another-cluster",
            Self::NotASnapshot => "not-a-snapshot",
            Self::FailureExpired => "failure-expired",
            Self::NotVerified => "not-verified",
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
    /// A removal on the word of a listing that did not see everything. Never seen unless `decide` is wrong.
    Incomplete,
    /// A record of another storage, or one that the cache did not hold. Never seen unless `decide` is wrong.
    NotOurs,
}

impl Veto {
    /// All of them, for metrics.
    pub const ALL: [Self; 4] = [Self::Observing, Self::K3sAtWork, Self::Incomplete, Self::NotOurs];

    /// The metric's label.
    pub fn word(self) -> &'static str {
        match self {
            Self::Observing => "observing",
            Self::K3sAtWork => "k3s-at-work",
            Self::Incomplete => "incomplete",
            Self::NotOurs => "not-ours",
        }
    }

    /// Whether `decide` should never have planned such a step.
    pub fn is_a_mistake(self) -> bool {
        matches!(self, Self::Incomplete | Self::NotOurs)
    }
}
