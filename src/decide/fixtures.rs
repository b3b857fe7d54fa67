//! For tests: files of a made-up cluster, a pass over them, and its plan as lines.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::plan::{Action, Around, Asked, BucketView, FailedUpload, Keep, Mode, Observed, Policy, Step};
use super::{Checked, check, decide};
use crate::record::api::{ETCDSnapshotFile, S3};
use crate::record::cached::cached;
use crate::record::patch::create;
use crate::record::wanted::wanted;
use crate::record::{Place, Record, Shape};
use crate::snapshot::owner::{owners, owners_adopting};
use crate::snapshot::*;

pub const NOW: i64 = 1_800_000_000;
pub const SHAPE: Shape = Shape { program: Program::K3s, bucket_lookup: true };

pub fn time(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

pub fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

pub fn name(text: &str) -> FileName {
    FileName::new(text).unwrap()
}

pub fn bucket() -> Storage {
    Storage::s3("h", true, "b", "f")
}

pub fn local() -> Storage {
    Storage::Local { node: node("cp1") }
}

/// A good one of cp1, saved and last changed so many seconds before now, without a raft index.
pub fn good(ago: i64) -> SnapshotFile {
    of_node("cp1", ago)
}

pub fn of_node(of: &str, ago: i64) -> SnapshotFile {
    let manifest = Manifest { cluster: ClusterId::new("uid"), node: Some(node(of)), ..Manifest::default() };
    let known = Known {
        verdict: Verdict::Whole,
        manifest,
        cluster: ClusterId::new("uid"),
        node: Some(node(of)),
        token_hash: None,
        metadata: Metadata::Read(BTreeMap::new()),
    };
    SnapshotFile {
        name: name(&format!("etcd-snapshot-{of}-{}", NOW - ago)),
        size: 4128,
        modified: time(NOW - ago),
        version: Version::s3(("e", 4128, NOW - ago), None),
        at_rest: true,
        known: Some(known),
    }
}

/// The same changed: `file.but(|file| ..)`.
pub trait But: Sized {
    fn but(self, change: impl FnOnce(&mut Self)) -> Self;
}

impl But for SnapshotFile {
    fn but(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

/// What is known of a file that something is known of.
pub fn known(file: &mut SnapshotFile) -> &mut Known {
    file.known.as_mut().unwrap()
}

pub fn called(text: &str) -> impl FnOnce(&mut SnapshotFile) {
    move |file| file.name = name(text)
}

pub fn at_index(raft_index: u64) -> impl FnOnce(&mut SnapshotFile) {
    move |file| {
        // As read from a sidecar, so that a record can carry it.
        let mut keys = known(file).manifest.to_keys();
        keys.extend([("etcd-cluster-id".into(), "c".into()), ("raft-index".into(), raft_index.to_string())]);
        known(file).manifest = Manifest::from_keys(keys);
    }
}

pub fn damaged(file: &mut SnapshotFile) {
    known(file).verdict = Verdict::Damaged("cut".into());
}

pub fn complete(files: impl IntoIterator<Item = SnapshotFile>) -> Inventory {
    Inventory::Complete(Complete::vouch(files.into_iter().map(|file| (file.name.clone(), file)).collect()))
}

/// One storage and what a pass over it knows.
pub struct World {
    pub storage: Storage,
    pub inventory: Inventory,
    pub policy: Policy,
    pub member: Member,
    pub cluster: Option<ClusterId>,
    pub k3s_at_work: Option<bool>,
    pub records: Option<Vec<Arc<Record>>>,
    pub living: Option<BTreeSet<NodeName>>,
    pub busy: BTreeSet<FileName>,
    pub k3s_on_bucket: Option<bool>,
    pub uploads: BTreeMap<FileName, Uploads>,
    pub failed_saves: Vec<FailedSave>,
    pub failed_uploads: Vec<FailedUpload>,
    pub abandoned: Vec<(FileName, UploadId)>,
    pub gone_nodes: BTreeSet<NodeName>,
    pub orphans: Vec<Arc<Record>>,
    pub bucket: Option<BucketView>,
    pub now: i64,
}

impl World {
    /// N of both storages, and no node that a bucket keeps one of.
    pub fn new(storage: Storage, newest: u32, files: impl IntoIterator<Item = SnapshotFile>) -> Self {
        Self {
            storage,
            inventory: complete(files),
            policy: Policy {
                mode: Mode::Manage,
                interval: Duration::from_mins(10),
                keep: Keep { local: newest, bucket: newest, ..Keep::default() },
                asked: Asked::Nothing,
            },
            member: Member::At(History { etcd_cluster: "c".into(), raft_index: u64::MAX }),
            cluster: ClusterId::new("uid"),
            k3s_at_work: Some(false),
            records: Some(Vec::new()),
            living: Some(BTreeSet::new()),
            busy: BTreeSet::new(),
            k3s_on_bucket: Some(false),
            uploads: BTreeMap::new(),
            failed_saves: Vec::new(),
            failed_uploads: Vec::new(),
            abandoned: Vec::new(),
            gone_nodes: BTreeSet::new(),
            orphans: Vec::new(),
            bucket: None,
            now: NOW,
        }
    }

    pub fn us(&self) -> Identity {
        Identity { node: node("cp1"), cluster: self.cluster.clone(), member: self.member.clone() }
    }

    pub fn observed(&self) -> Observed {
        let us = self.us();
        let judge = if self.policy.keep.adopt_unlabelled { owners_adopting } else { owners };
        Observed {
            owners: judge(&self.storage, &us, self.inventory.seen(), time(self.now)),
            us,
            storage: self.storage.clone(),
            place: place(&self.storage),
            shape: SHAPE,
            records: self.records.clone(),
            inventory: self.inventory.clone(),
            running: BTreeSet::new(),
            k3s_at_work: self.k3s_at_work,
            around: Around {
                living: self.living.clone(),
                busy: self.busy.clone(),
                k3s_on_bucket: self.k3s_on_bucket,
                uploads: self.uploads.clone(),
                bucket: self.bucket.clone(),
                failed_saves: self.failed_saves.clone(),
                failed_uploads: self.failed_uploads.clone(),
                abandoned: self.abandoned.clone(),
                gone_nodes: self.gone_nodes.clone(),
                orphans: self.orphans.clone(),
            },
        }
    }

    pub fn checked(&self) -> Checked {
        let seen = self.observed();
        let plan = decide(&seen, &self.policy, time(self.now));
        check(plan, &seen, &self.policy, time(self.now))
    }

    /// `prune NAME because REASON`, a line a step that moves files.
    pub fn plan(&self) -> Vec<String> {
        lines(&self.checked())
    }

    /// The seconds ago in the names of what goes; panics at a veto.
    pub fn gone(&self) -> Vec<i64> {
        let checked = self.checked();
        let of = |step: &Step| {
            assert!(step.veto.is_none(), "{step:?}");
            match &step.action {
                Action::Prune(file, _) => Some(NOW - file.name.time().unwrap().as_second()),
                _ => None,
            }
        };
        checked.steps().iter().filter_map(of).collect()
    }

    /// Removes what is not vetoed, and says what.
    pub fn apply(&mut self) -> Vec<FileName> {
        let checked = self.checked();
        let gone: Vec<FileName> = pruned(&checked).filter(|(_, step)| step.veto.is_none()).map(|(file, _)| file.name.clone()).collect();
        let rest = self.inventory.seen().values().filter(|file| !gone.contains(&file.name)).cloned().collect::<Vec<_>>();
        self.inventory = complete(rest);
        gone
    }

    pub fn add(&mut self, file: SnapshotFile) {
        self.inventory = complete(self.inventory.seen().values().cloned().chain([file]));
    }
}

pub fn pruned(checked: &Checked) -> impl Iterator<Item = (&SnapshotFile, &Step)> {
    checked.steps().iter().filter_map(|step| match &step.action {
        Action::Prune(file, _) => Some((&**file, step)),
        _ => None,
    })
}

pub fn lines(checked: &Checked) -> Vec<String> {
    let moves = |step: &&Step| matches!(step.action, Action::Prune(..) | Action::Upload(..) | Action::Abort(..));
    checked.steps().iter().filter(moves).map(line).collect()
}

fn line(step: &Step) -> String {
    let veto = step.veto.map(|veto| format!(", vetoed: {}", veto.word())).unwrap_or_default();
    format!("{} {} because {}{veto}", step.action.word(), step.action.subject(), step.reason.word())
}

pub fn place(storage: &Storage) -> Place {
    match storage {
        Storage::Local { node } => Place::Local { dir: "/snapshots".into(), node: node.clone(), has_node_object: true },
        Storage::S3 { endpoint, bucket, folder } => {
            Place::S3(S3 { endpoint: endpoint.clone(), bucket: bucket.clone(), prefix: folder.clone(), ..S3::default() })
        }
    }
}

/// Every step of a plan, a line each.
pub fn all_lines(checked: &Checked) -> Vec<String> {
    checked.steps().iter().map(line).collect()
}

/// The record of a file, as the cache keeps it.
pub fn record(file: &SnapshotFile, storage: &Storage, change: impl FnOnce(&mut ETCDSnapshotFile)) -> Arc<Record> {
    let wanted = wanted(file, Owner::Ours, &place(storage), SHAPE, Some("cp1"), None).unwrap();
    let mut object = create(&wanted, Program::K3s).unwrap();
    object.metadata.uid = Some(format!("uid of {}", file.name));
    change(&mut object);
    Arc::new(cached(&object, Program::K3s))
}
