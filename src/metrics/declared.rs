//! Every metric: its name, type, labels, and how an operator reads it. Nothing is exported that is not declared here, and
//! `docs/metrics.md` is made from it.

use prometheus::core::{Atomic, Collector, GenericCounterVec, GenericGaugeVec};
use prometheus::{HistogramOpts, HistogramVec, Opts, Registry};

use super::words::{Action, FileKind, Label, Operation, Outcome, Removal, Run, S3Operation, S3Outcome, Status, Step, StorageKind, vetoes};

/// One metric as it is declared.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its whole name.
    pub name: &'static str,
    /// Its type, as Prometheus says it.
    pub kind: Kind,
    /// Its labels, in the order of their values.
    pub labels: &'static [Label],
    /// What it says, and what to alert on.
    pub help: &'static str,
}

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Goes up only, from 0 at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts seconds in buckets.
    Histogram,
}

impl Kind {
    /// As `# TYPE` says it.
    #[cfg(test)]
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

const fn metric(name: &'static str, kind: Kind, labels: &'static [Label], help: &'static str) -> Metric {
    Metric { name, kind, labels, help }
}

const STATUS: Label = Label { name: "status", values: Status::words };
const OPERATION: Label = Label { name: "operation", values: Operation::words };
const STORAGE: Label = Label { name: "storage", values: StorageKind::words };
const KIND: Label = Label { name: "kind", values: FileKind::words };
const ACTION: Label = Label { name: "action", values: Action::words };
const OUTCOME: Label = Label { name: "outcome", values: Outcome::words };
const STEP: Label = Label { name: "step", values: Step::words };
const RUN: Label = Label { name: "outcome", values: Run::words };
const REMOVAL: Label = Label { name: "reason", values: Removal::words };
const VETO: Label = Label { name: "kind", values: vetoes };
const S3_OPERATION: Label = Label { name: "operation", values: S3Operation::words };
const S3_OUTCOME: Label = Label { name: "outcome", values: S3Outcome::words };
/// The build's own; the value is not from a set, but a process has only one.
const VERSION: Label = Label { name: "version", values: Vec::new };
const ARCHITECTURE: Label = Label { name: "arch", values: Vec::new };
const PROFILE: Label = Label { name: "profile", values: || vec!["debug", "release"] };

/// Upper bounds in seconds: K3s's own 0.008 × 2ⁿ for n = 0…14 (docs/k3s.md 8.1), and four more, up to 35 minutes.
pub(super) fn buckets() -> Vec<f64> {
    std::iter::successors(Some(0.008), |bound| Some(bound * 2.0)).take(19).collect()
}

impl Operation {
    /// The histogram that it is timed in.
    pub const fn metric(self) -> Metric {
        let (name, help) = match self {
            Self::Reconcile => (
                "etcd_snapshot_reconcile_duration_seconds",
                "Duration of one beat in seconds, until its passes over directory and bucket have ended, by success or error of any part. Observed once a beat: alert when status=\"error\" rises beat after beat.",
            ),
            Self::ReconcileLocal => (
                "etcd_snapshot_reconcile_local_duration_seconds",
                "Duration of the beat's pass over this node's snapshot directory in seconds, by success or error. Observed once a beat by every agent.",
            ),
            Self::ReconcileS3 => (
                "etcd_snapshot_reconcile_s3_duration_seconds",
                "Duration of the beat's pass over the bucket in seconds, by success or error. Observed once a beat by the bucket's leader only: sum it over all agents.",
            ),
            Self::Save => (
                "etcd_snapshot_save_duration_seconds",
                "Duration of one save in seconds, altogether, by success or error of any part. Zero where this agent takes no snapshots.",
            ),
            Self::SaveLocal => (
                "etcd_snapshot_save_local_duration_seconds",
                "Duration of a save's part up to the file's place in the directory in seconds, by success or error. Zero where this agent takes no snapshots.",
            ),
            Self::SaveS3 => (
                "etcd_snapshot_save_s3_duration_seconds",
                "Duration of a save's upload to the bucket in seconds, by success or error. Zero where this agent takes no snapshots.",
            ),
        };
        metric(name, Kind::Histogram, &[STATUS], help)
    }
}

pub(super) const LAST_BEAT: Metric = metric(
    "etcd_snapshot_last_beat_timestamp_seconds",
    Kind::Gauge,
    &[],
    "When this agent's last beat began, in Unix seconds; 0 before the first. Alert when it is more than three reconcile intervals ago: the agent stands still.",
);
pub(super) const LAST_SUCCESS: Metric = metric(
    "etcd_snapshot_last_success_timestamp_seconds",
    Kind::Gauge,
    &[OPERATION],
    "When an operation last succeeded, in Unix seconds; 0 when it has not since this process started. reconcile_s3 is shown by the bucket's leader only and starts at 0 with its leadership. save and save_local are after a restart when the newest snapshot that was saved on this node, save_s3 when the newest of its directory that went up to this bucket was taken; absent while there is none. Alert when reconcile_local or reconcile_s3 is more than three reconcile intervals ago.",
);
pub(super) const LAST_GOOD: Metric = metric(
    "etcd_snapshot_last_good_timestamp_seconds",
    Kind::Gauge,
    &[STORAGE],
    "When the newest good snapshot in the storage was taken, in Unix seconds, by its name or its last change, whichever is earlier; 0 when the storage holds none, absent until it was listed completely. Alert when it is longer ago than two snapshots are apart: this is the age of what a restore would bring back.",
);
pub(super) const FILES: Metric = metric(
    "etcd_snapshot_files",
    Kind::Gauge,
    &[STORAGE, KIND],
    "Snapshot files in the storage by kind, each counted once, as the last complete listing found them. Alert on kind=\"damaged\" above 0, on kind=\"good\" at 0, and on kind=\"unverified\" that stays above 0.",
);
pub(super) const BYTES: Metric = metric(
    "etcd_snapshot_bytes",
    Kind::Gauge,
    &[STORAGE, KIND],
    "Bytes of the snapshot files in the storage as stored, by kind, as the last complete listing found them.",
);
pub(super) const ACTIONS: Metric = metric(
    "etcd_snapshot_actions_total",
    Kind::Counter,
    &[ACTION, OUTCOME],
    "Steps that passes took, by what they do and what became of them. Alert when outcome=\"failed\" keeps rising; a steady rise of action=\"write\" with outcome=\"done\" in an unchanged world means that somebody else edits the records.",
);
pub(super) const VETOES: Metric = metric(
    "etcd_snapshot_vetoes_total",
    Kind::Counter,
    &[VETO],
    "Steps that were planned and not taken, by why not. observing and k3s-at-work are ordinary; brake waits for a person to look and to run prune; all others mean a mistake in the operator that was stopped: alert on any, and report it.",
);
pub(super) const S3_REQUESTS: Metric = metric(
    "etcd_snapshot_s3_requests_total",
    Kind::Counter,
    &[S3_OPERATION, S3_OUTCOME],
    "Requests to the S3 server, each attempt counted, by operation and outcome. An unchanged bucket is only listed. Alert on the rate of denied, unreachable, timeout and error.",
);
pub(super) const STEP_DURATION: Metric = metric(
    "etcd_snapshot_step_duration_seconds",
    Kind::Histogram,
    &[STEP, STATUS],
    "Duration of each step of a save in seconds, by success or error. The member holds a read transaction open as long as stream takes.",
);
pub(super) const SCHEDULE_IN_FORCE: Metric = metric(
    "etcd_snapshot_schedule_in_force",
    Kind::Gauge,
    &[],
    "1 while this agent saves on schedule; 0 while that is turned off, in observe mode, and while K3s is at work. Alert on 0 where it should be 1.",
);
pub(super) const SCHEDULE_NEXT: Metric = metric(
    "etcd_snapshot_schedule_next_timestamp_seconds",
    Kind::Gauge,
    &[],
    "When the next save on schedule is due, in Unix seconds; absent where none is.",
);
pub(super) const SCHEDULE_INTERVAL: Metric = metric(
    "etcd_snapshot_schedule_interval_seconds",
    Kind::Gauge,
    &[],
    "The longest time between two runs of the schedule in the coming time, in seconds; absent where there is none. What a good snapshot may be old, plus the time that a save takes.",
);
pub(super) const SCHEDULE_RUNS: Metric = metric(
    "etcd_snapshot_schedule_runs_total",
    Kind::Counter,
    &[RUN],
    "Runs of the schedule by what became of them. made_up counts besides: a run that was late. Alert on failed, and on missed.",
);
pub(super) const CONSECUTIVE_FAILURES: Metric = metric(
    "etcd_snapshot_consecutive_failures",
    Kind::Gauge,
    &[],
    "Saves that failed since the last one that succeeded, since this process started. Alert on two.",
);
pub(super) const SAVED_SIZE: Metric = metric(
    "etcd_snapshot_size_bytes",
    Kind::Gauge,
    &[],
    "Bytes of the last snapshot that this process saved, as stored; absent before the first.",
);
pub(super) const SAVED_REVISION: Metric = metric(
    "etcd_snapshot_revision",
    Kind::Gauge,
    &[],
    "etcd's revision in the last snapshot that this process saved; absent before the first.",
);
pub(super) const SAVED_KEYS: Metric = metric(
    "etcd_snapshot_keys",
    Kind::Gauge,
    &[],
    "Living keys in the last snapshot that this process saved; absent before the first. Alert when it falls to a fraction of what it was: somebody deleted, and the good snapshots are the old ones.",
);
pub(super) const REMOVED: Metric = metric(
    "etcd_snapshot_removed_total",
    Kind::Counter,
    &[STORAGE, REMOVAL],
    "Snapshot files that retention removed, by storage and reason. In step with the saves once there are as many as retention keeps.",
);
pub(super) const VANISHED: Metric = metric(
    "etcd_snapshot_vanished_total",
    Kind::Counter,
    &[],
    "Good objects that were gone from the bucket though retention would have kept them, counted by the leader that noticed. Alert on any: somebody or some rule of the bucket deletes snapshots. `upload --missing` puts back what a node still has.",
);
pub(super) const UPLOAD_BACKLOG_FILES: Metric = metric(
    "etcd_snapshot_upload_backlog_files",
    Kind::Gauge,
    &[],
    "Good snapshots in this node's directory that should go up to the bucket and are not there yet, those on their way included; absent where no bucket is known.",
);
pub(super) const UPLOAD_BACKLOG_OLDEST: Metric = metric(
    "etcd_snapshot_upload_backlog_oldest_timestamp_seconds",
    Kind::Gauge,
    &[],
    "When the oldest snapshot of the backlog was taken, in Unix seconds; 0 while nothing waits, absent where no bucket is known. Alert when it is longer ago than an upload may take: uploads fail or do not keep up.",
);
pub(super) const UPLOAD_BYTES: Metric = metric(
    "etcd_snapshot_upload_bytes_total",
    Kind::Counter,
    &[],
    "Bytes of snapshots and sidecars that were sent to the bucket, those sent again included.",
);
pub(super) const UPLOAD_PARTS_RETRIED: Metric = metric(
    "etcd_snapshot_upload_parts_retried_total",
    Kind::Counter,
    &[],
    "Requests with a snapshot or a part of one that had to be sent again. A steady rise means a bad way to the bucket.",
);
pub(super) const BUCKET_CONTESTED: Metric = metric(
    "etcd_snapshot_bucket_contested",
    Kind::Gauge,
    &[],
    "1 while the bucket holds snapshots of another history of this cluster, from before a restore or of a clone; they are kept until a person has looked. Shown by the bucket's leader only. Alert on 1: look, then run `prune --take-over`.",
);
pub(super) const MEMBER_ANSWERS: Metric = metric(
    "etcd_snapshot_member_answers",
    Kind::Gauge,
    &[],
    "1 while the etcd member of this node says where it is in its history, 0 while it does not answer or has no quorum. Nothing is removed before it has answered once.",
);
pub(super) const LEADER: Metric = metric(
    "etcd_snapshot_leader",
    Kind::Gauge,
    &[],
    "1 while this agent leads its bucket, 0 while another may; absent where no bucket is configured. Alert when the sum over all agents is 0 for longer than a minute: nobody looks after the bucket.",
);
pub(super) const CRD_MISSING: Metric = metric(
    "etcd_snapshot_crd_missing",
    Kind::Gauge,
    &[],
    "1 while the API server does not serve the CRD etcdsnapshotfiles.k3s.cattle.io, so that no record can be written. Alert on 1.",
);
pub(super) const BUILD_INFO: Metric =
    metric("etcd_snapshot_build_info", Kind::Gauge, &[VERSION, ARCHITECTURE, PROFILE], "Always 1; the labels say which build this is.");

pub(super) const PROCESS_CPU: Metric =
    metric("process_cpu_seconds_total", Kind::Counter, &[], "Seconds of CPU time, user and system, that this process has used.");
pub(super) const PROCESS_RESIDENT: Metric = metric(
    "process_resident_memory_bytes",
    Kind::Gauge,
    &[],
    "Bytes of memory that this process holds. It does not grow with the size of a snapshot.",
);
pub(super) const PROCESS_VIRTUAL: Metric =
    metric("process_virtual_memory_bytes", Kind::Gauge, &[], "Bytes of address space that this process has reserved.");
pub(super) const PROCESS_OPEN_FDS: Metric = metric("process_open_fds", Kind::Gauge, &[], "Open file descriptors.");
pub(super) const PROCESS_MAX_FDS: Metric = metric("process_max_fds", Kind::Gauge, &[], "The most file descriptors that may be open.");
pub(super) const PROCESS_START: Metric = metric(
    "process_start_time_seconds",
    Kind::Gauge,
    &[],
    "When this process started, in Unix seconds. Alert on frequent changes: it restarts.",
);

/// All of them, in the order of the documentation.
#[cfg(test)]
pub(super) fn all() -> Vec<Metric> {
    let histograms = Operation::ALL.iter().map(|operation| operation.metric());
    let own = [
        LAST_BEAT,
        LAST_SUCCESS,
        LAST_GOOD,
        FILES,
        BYTES,
        ACTIONS,
        VETOES,
        STEP_DURATION,
        SCHEDULE_IN_FORCE,
        SCHEDULE_NEXT,
        SCHEDULE_INTERVAL,
        SCHEDULE_RUNS,
        CONSECUTIVE_FAILURES,
        SAVED_SIZE,
        SAVED_REVISION,
        SAVED_KEYS,
        REMOVED,
        VANISHED,
        UPLOAD_BACKLOG_FILES,
        UPLOAD_BACKLOG_OLDEST,
        UPLOAD_BYTES,
        UPLOAD_PARTS_RETRIED,
        BUCKET_CONTESTED,
        MEMBER_ANSWERS,
        S3_REQUESTS,
        LEADER,
        CRD_MISSING,
        BUILD_INFO,
    ];
    let process = [PROCESS_CPU, PROCESS_RESIDENT, PROCESS_VIRTUAL, PROCESS_OPEN_FDS, PROCESS_MAX_FDS, PROCESS_START];
    histograms.chain(own).chain(process).collect()
}

/// Why a declaration cannot be refused: names and labels are constants, and every test makes all of them.
const DECLARED: &str = "a declared metric is valid and declared once";

impl Metric {
    /// Its name and help.
    pub(super) fn opts(&self) -> Opts {
        Opts::new(self.name, self.help)
    }

    fn label_names(&self) -> Vec<&'static str> {
        self.labels.iter().map(|label| label.name).collect()
    }

    pub(super) fn histogram(&self, registry: &Registry) -> HistogramVec {
        let opts = HistogramOpts::new(self.name, self.help).buckets(buckets());
        registered(registry, HistogramVec::new(opts, &self.label_names()).expect(DECLARED))
    }

    pub(super) fn counter<P: Atomic + 'static>(&self, registry: &Registry) -> GenericCounterVec<P> {
        registered(registry, GenericCounterVec::new(self.opts(), &self.label_names()).expect(DECLARED))
    }

    pub(super) fn gauge<P: Atomic + 'static>(&self, registry: &Registry) -> GenericGaugeVec<P> {
        registered(registry, GenericGaugeVec::new(self.opts(), &self.label_names()).expect(DECLARED))
    }
}

pub(super) fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    registry.register(Box::new(collector.clone())).expect(DECLARED);
    collector
}
