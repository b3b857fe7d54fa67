//! What an operator on call, an alert and a dashboard see.
//!
//! In: what passes, storages and the controller tell. Out: the Prometheus text format 0.0.4. Labels are enums, so neither
//! a name nor a secret can become one. The bucket's gauges are shown by its leader only: two agents with two ages of one
//! truth would be added up.

mod census;
mod declared;
mod process;
pub mod words;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use prometheus::core::{AtomicF64, AtomicU64, GenericCounterVec, GenericGaugeVec};
use prometheus::{HistogramVec, Registry, TEXT_FORMAT, TextEncoder};

pub use census::Census;
pub use words::{Action, FileKind, Operation, Outcome, Removal, Run, S3Operation, S3Outcome, Status, Step, StorageKind};

use crate::decide::Veto;

/// The `Content-Type` of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = TEXT_FORMAT;

/// Whether this agent leads its bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Leadership {
    /// No bucket is configured.
    #[default]
    NoBucket,
    /// Another agent leads it, or nobody.
    Follower,
    /// This agent does.
    Leader,
}

/// Every metric of this process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    prefix: Option<String>,
    durations: Vec<HistogramVec>,
    last_beat: GenericGaugeVec<AtomicF64>,
    last_success: GenericGaugeVec<AtomicF64>,
    last_good: GenericGaugeVec<AtomicF64>,
    files: GenericGaugeVec<AtomicU64>,
    bytes: GenericGaugeVec<AtomicU64>,
    actions: GenericCounterVec<AtomicU64>,
    vetoes: GenericCounterVec<AtomicU64>,
    steps: HistogramVec,
    in_force: GenericGaugeVec<AtomicU64>,
    next: GenericGaugeVec<AtomicF64>,
    interval: GenericGaugeVec<AtomicF64>,
    runs: GenericCounterVec<AtomicU64>,
    consecutive_failures: GenericGaugeVec<AtomicU64>,
    saved: [GenericGaugeVec<AtomicF64>; 3],
    removed: GenericCounterVec<AtomicU64>,
    vanished: GenericCounterVec<AtomicU64>,
    backlog_files: GenericGaugeVec<AtomicU64>,
    backlog_oldest: GenericGaugeVec<AtomicF64>,
    upload_bytes: GenericCounterVec<AtomicU64>,
    parts_retried: GenericCounterVec<AtomicU64>,
    contested: GenericGaugeVec<AtomicU64>,
    member_answers: GenericGaugeVec<AtomicU64>,
    s3_requests: GenericCounterVec<AtomicU64>,
    leader: GenericGaugeVec<AtomicU64>,
    crd_missing: GenericGaugeVec<AtomicU64>,
    /// Held while a bucket's gauge is written, so that a pass which ends after its leadership brings none back.
    leadership: Mutex<Leadership>,
}

/// The labels of a metric that has none.
const NO_LABELS: &[&str] = &[];

impl Metrics {
    /// Every series whose labels are known is there from the start, at zero. Under `prefix` the six histograms are shown once more.
    pub fn new(prefix: Option<&str>) -> Self {
        let registry = Registry::new();
        declared::registered(&registry, process::Process::new());
        let build = declared::BUILD_INFO.gauge::<AtomicU64>(&registry);
        let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
        build.with_label_values(&[env!("CARGO_PKG_VERSION"), std::env::consts::ARCH, profile]).set(1);
        let metrics = Self {
            prefix: prefix.map(str::to_owned),
            durations: Operation::ALL.iter().map(|operation| operation.metric().histogram(&registry)).collect(),
            last_beat: declared::LAST_BEAT.gauge(&registry),
            last_success: declared::LAST_SUCCESS.gauge(&registry),
            last_good: declared::LAST_GOOD.gauge(&registry),
            files: declared::FILES.gauge(&registry),
            bytes: declared::BYTES.gauge(&registry),
            actions: declared::ACTIONS.counter(&registry),
            vetoes: declared::VETOES.counter(&registry),
            steps: declared::STEP_DURATION.histogram(&registry),
            in_force: declared::SCHEDULE_IN_FORCE.gauge(&registry),
            next: declared::SCHEDULE_NEXT.gauge(&registry),
            interval: declared::SCHEDULE_INTERVAL.gauge(&registry),
            runs: declared::SCHEDULE_RUNS.counter(&registry),
            consecutive_failures: declared::CONSECUTIVE_FAILURES.gauge(&registry),
            saved: [&declared::SAVED_SIZE, &declared::SAVED_REVISION, &declared::SAVED_KEYS].map(|metric| metric.gauge(&registry)),
            removed: declared::REMOVED.counter(&registry),
            vanished: declared::VANISHED.counter(&registry),
            backlog_files: declared::UPLOAD_BACKLOG_FILES.gauge(&registry),
            backlog_oldest: declared::UPLOAD_BACKLOG_OLDEST.gauge(&registry),
            upload_bytes: declared::UPLOAD_BYTES.counter(&registry),
            parts_retried: declared::UPLOAD_PARTS_RETRIED.counter(&registry),
            contested: declared::BUCKET_CONTESTED.gauge(&registry),
            member_answers: declared::MEMBER_ANSWERS.gauge(&registry),
            s3_requests: declared::S3_REQUESTS.counter(&registry),
            leader: declared::LEADER.gauge(&registry),
            crd_missing: declared::CRD_MISSING.gauge(&registry),
            leadership: Mutex::default(),
            registry,
        };
        metrics.show_what_is_known();
        metrics
    }

    fn show_what_is_known(&self) {
        for status in Status::ALL {
            for duration in &self.durations {
                duration.with_label_values(&[status.word()]);
            }
        }
        self.last_beat.with_label_values(NO_LABELS);
        for operation in [Operation::Reconcile, Operation::ReconcileLocal] {
            self.last_success.with_label_values(&[operation.word()]);
        }
        for action in Action::ALL {
            for outcome in Outcome::ALL {
                self.actions.with_label_values(&[action.word(), outcome.word()]);
            }
        }
        for veto in Veto::ALL {
            self.vetoes.with_label_values(&[veto.word()]);
        }
        for storage in StorageKind::ALL {
            for reason in Removal::ALL {
                self.removed.with_label_values(&[storage.word(), reason.word()]);
            }
        }
        for counter in [&self.vanished, &self.upload_bytes, &self.parts_retried] {
            counter.with_label_values(NO_LABELS);
        }
        for run in Run::ALL {
            self.runs.with_label_values(&[run.word()]);
        }
        for step in Step::ALL {
            for status in Status::ALL {
                self.steps.with_label_values(&[step.word(), status.word()]);
            }
        }
        for gauge in [&self.member_answers, &self.in_force, &self.consecutive_failures] {
            gauge.with_label_values(NO_LABELS);
        }
        for operation in S3Operation::ALL {
            for outcome in S3Outcome::ALL {
                self.s3_requests.with_label_values(&[operation.word(), outcome.word()]);
            }
        }
        self.crd_missing.with_label_values(NO_LABELS);
    }

    /// A beat began.
    pub fn beat(&self, now: Timestamp) {
        self.last_beat.with_label_values(NO_LABELS).set(unix(now));
    }

    /// A timed operation ended now after `took`.
    pub fn ended(&self, operation: Operation, status: Status, took: Duration, now: Timestamp) {
        let at = Operation::ALL.iter().position(|known| *known == operation).expect("ALL has every operation");
        self.durations[at].with_label_values(&[status.word()]).observe(took.as_secs_f64());
        let leadership = self.leadership();
        if status == Status::Success && (operation != Operation::ReconcileS3 || *leadership == Leadership::Leader) {
            self.last_success.with_label_values(&[operation.word()]).set(unix(now));
        }
    }

    /// An operation succeeded at this time or later, be it before this process began.
    pub fn succeeded(&self, operation: Operation, at: Timestamp) {
        let _held = self.leadership();
        let last = self.last_success.with_label_values(&[operation.word()]);
        last.set(last.get().max(unix(at)));
    }

    /// What a storage holds. A bucket's is ignored unless this agent leads it.
    pub fn holds(&self, storage: StorageKind, census: &Census) {
        let leadership = self.leadership();
        if storage == StorageKind::S3 && *leadership != Leadership::Leader {
            return;
        }
        for kind in FileKind::ALL {
            let (files, bytes) = census.by_kind.get(kind).copied().unwrap_or_default();
            self.files.with_label_values(&[storage.word(), kind.word()]).set(files);
            self.bytes.with_label_values(&[storage.word(), kind.word()]).set(bytes);
        }
        self.last_good.with_label_values(&[storage.word()]).set(census.newest_good.map_or(0.0, unix));
    }

    /// A step came to this.
    pub fn stepped(&self, action: Action, outcome: Outcome) {
        self.actions.with_label_values(&[action.word(), outcome.word()]).inc();
    }

    /// A step was not taken, and why. Its outcome is counted by [`Self::stepped`].
    pub fn vetoed(&self, veto: Veto) {
        self.vetoes.with_label_values(&[veto.word()]).inc();
    }

    /// A step of a save has ended after `took`.
    pub fn step(&self, step: Step, status: Status, took: Duration) {
        self.steps.with_label_values(&[step.word(), status.word()]).observe(took.as_secs_f64());
    }

    /// A save has brought a snapshot of so many bytes, of this revision and with so many living keys.
    pub fn saved(&self, bytes: u64, revision: i64, keys: u64) {
        self.consecutive_failures.with_label_values(NO_LABELS).set(0);
        // Gauges are floating: exact up to nine quadrillion.
        #[allow(clippy::cast_precision_loss)]
        for (gauge, value) in self.saved.iter().zip([bytes as f64, revision as f64, keys as f64]) {
            gauge.with_label_values(NO_LABELS).set(value);
        }
    }

    /// A save has failed.
    pub fn save_failed(&self) {
        self.consecutive_failures.with_label_values(NO_LABELS).inc();
    }

    /// Whether saves on schedule are made, when the next one is due, and how far two are apart at most.
    pub fn schedule(&self, in_force: bool, next: Option<Timestamp>, interval: Option<Duration>) {
        self.in_force.with_label_values(NO_LABELS).set(u64::from(in_force));
        for (gauge, value) in [(&self.next, next.map(unix)), (&self.interval, interval.map(|interval| interval.as_secs_f64()))] {
            match value {
                Some(value) => gauge.with_label_values(NO_LABELS).set(value),
                None => gauge.reset(),
            }
        }
    }

    /// So many runs of the schedule came to this.
    pub fn ran(&self, run: Run, count: u32) {
        self.runs.with_label_values(&[run.word()]).inc_by(count.into());
    }

    /// Retention removed a file or object.
    pub fn removed(&self, storage: StorageKind, reason: Removal) {
        self.removed.with_label_values(&[storage.word(), reason.word()]).inc();
    }

    /// An object is gone that retention would have kept.
    pub fn vanished(&self) {
        self.vanished.with_label_values(NO_LABELS).inc();
    }

    /// How many files wait to go up, and when the oldest was taken; None where there is no bucket.
    pub fn backlog(&self, waiting: Option<(usize, Option<Timestamp>)>) {
        let Some((files, oldest)) = waiting else {
            self.backlog_files.reset();
            self.backlog_oldest.reset();
            return;
        };
        self.backlog_files.with_label_values(NO_LABELS).set(files as u64);
        self.backlog_oldest.with_label_values(NO_LABELS).set(oldest.map_or(0.0, unix));
    }

    /// Bytes were sent to the bucket, or a request with bytes had to be sent again.
    pub fn uploaded(&self, bytes: u64, retried: u64) {
        self.upload_bytes.with_label_values(NO_LABELS).inc_by(bytes);
        self.parts_retried.with_label_values(NO_LABELS).inc_by(retried);
    }

    /// Whether the bucket holds another history of our cluster. Ignored unless this agent leads it.
    pub fn contested(&self, is: bool) {
        let leadership = self.leadership();
        if *leadership == Leadership::Leader {
            self.contested.with_label_values(NO_LABELS).set(u64::from(is));
        }
    }

    /// Whether the etcd member says where it is in its history.
    pub fn member_answers(&self, does: bool) {
        self.member_answers.with_label_values(NO_LABELS).set(u64::from(does));
    }

    /// An S3 request was sent, or could not be.
    pub fn requested(&self, operation: S3Operation, outcome: S3Outcome) {
        self.s3_requests.with_label_values(&[operation.word(), outcome.word()]).inc();
    }

    /// Leadership was won, lost, or is not to be had. With its loss the bucket's gauges vanish.
    pub fn leads(&self, now: Leadership) {
        let mut before = self.leadership();
        match now {
            Leadership::NoBucket => self.leader.reset(),
            Leadership::Follower => self.leader.with_label_values(NO_LABELS).set(0),
            Leadership::Leader => self.leader.with_label_values(NO_LABELS).set(1),
        }
        if *before != now {
            self.forget_bucket();
            if now == Leadership::Leader {
                self.last_success.with_label_values(&[Operation::ReconcileS3.word()]).set(0.0);
            }
        }
        *before = now;
    }

    /// What cannot be removed was not there.
    fn forget_bucket(&self) {
        let s3 = StorageKind::S3.word();
        for kind in FileKind::ALL {
            let _ = self.files.remove_label_values(&[s3, kind.word()]);
            let _ = self.bytes.remove_label_values(&[s3, kind.word()]);
        }
        let _ = self.last_good.remove_label_values(&[s3]);
        self.contested.reset();
        let _ = self.last_success.remove_label_values(&[Operation::ReconcileS3.word()]);
    }

    /// Whether the API server serves the CRD.
    pub fn crd(&self, served: bool) {
        self.crd_missing.with_label_values(NO_LABELS).set(u64::from(!served));
    }

    /// Everything, in the text format 0.0.4.
    pub fn encode(&self) -> String {
        let mut families = {
            let _whole = self.leadership();
            self.registry.gather()
        };
        if let Some(prefix) = &self.prefix {
            let is_duration = |name: &str| Operation::ALL.iter().any(|operation| operation.metric().name == name);
            let mut again: Vec<_> = families.iter().filter(|family| is_duration(family.name())).cloned().collect();
            for family in &mut again {
                family.set_name(format!("{prefix}{}", family.name()));
            }
            families.extend(again);
        }
        TextEncoder::new().encode_to_string(&families).expect("a gathered family has a name and a series")
    }

    fn leadership(&self) -> MutexGuard<'_, Leadership> {
        self.leadership.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unix(time: Timestamp) -> f64 {
    time.as_duration().as_secs_f64()
}

#[cfg(test)]
mod tests;
