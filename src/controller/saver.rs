//! One save, told: the pipeline with what it needs of Kubernetes, and what became of it in metrics, log, Events, health and
//! the state, from which a failure gets its record.
//!
//! In: a base name, and whether to compress. Out: the snapshot that was saved, or why there is none. When a save is due is
//! decided elsewhere. Nothing here waits for the API server longer than a moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use super::shared::Shared;
use super::voice::Turn;
use crate::etcd::{Alarm, AlarmKind};
use crate::health::Part;
use crate::kubernetes::error::Cause;
use crate::kubernetes::events::{Kind, reason};
use crate::kubernetes::secret;
use crate::metrics::{self, Operation, Status};
use crate::save::{Compressed, Progress, SaveError, Saved, Saving, Step, Tell, read_token_hash, save};
use crate::snapshot::{BaseName, FailedSave, Failure, FileName};
use crate::storage::local::Directory;

/// How long the stream may stand still.
const STALL: Duration = Duration::from_mins(1);
/// How long the extra metadata is waited for.
const METADATA: Duration = Duration::from_secs(3);
/// How the log speaks of saves.
const ABOUT: &str = "saving snapshots";
/// And of what is left out of a sidecar when it cannot be read.
pub(super) const LEFT_OUT: [&str; 2] = [EXTRA, TOKEN];
const EXTRA: &str = "reading the extra metadata";
const TOKEN: &str = "reading the token file";

/// Saves into one directory. Cheap to clone.
#[derive(Clone)]
pub struct Saver {
    shared: Arc<Shared>,
    directory: Directory,
}

impl Saver {
    /// For this directory.
    pub fn new(shared: Arc<Shared>, directory: Directory) -> Self {
        Self { shared, directory }
    }

    /// Saves one snapshot now. `watch` is told of its progress.
    pub async fn save(&self, base: &BaseName, compress: bool, watch: Tell) -> Result<Saved, SaveError> {
        let (shared, begun, start) = (&self.shared, self.shared.now(), Instant::now());
        let (metrics, also) = (shared.metrics.clone(), watch);
        let tell: Tell = Arc::new(move |step: Step, progress: Progress| {
            if let Progress::Ended { took, ok } = progress {
                metrics.step(step.into(), Status::of(ok), took);
            }
            also(step, progress);
        });
        let (extra, token_hash) = tokio::join!(self.extra_metadata(), self.token_hash());
        let saving = Saving {
            member: shared.historian.member(),
            directory: &self.directory,
            base: base.clone(),
            compress,
            cluster: shared.surroundings().cluster_of_uploads().cloned(),
            extra,
            token_hash,
            stall: STALL,
        };
        let ended = save(&saving, &tell, &shared.stop, || shared.now()).await;
        match &ended {
            Ok(saved) => self.succeeded(base, saved, start).await,
            // Nothing has failed: it is for another process, or another member, or another time.
            Err(error @ (SaveError::Busy { .. } | SaveError::Learner(_) | SaveError::Stopped)) => {
                tracing::info!(reason = error.category(), "no snapshot is saved: {error}");
            }
            Err(error) => {
                let file = format!("{}-{}-{}", base.as_str(), shared.settings.node, begun.as_second());
                self.failed(&file, &Failure::of(error.category(), error), start).await;
            }
        }
        ended
    }

    async fn succeeded(&self, base: &BaseName, saved: &Saved, start: Instant) {
        let (shared, name) = (&self.shared, &saved.file);
        let took = start.elapsed();
        tracing::info!(snapshot = %name, bytes = saved.size, revision = saved.facts.revision, ?took, "a snapshot is saved");
        for operation in [Operation::Save, Operation::SaveLocal] {
            shared.metrics.ended(operation, Status::Success, took, shared.now());
        }
        shared.metrics.saved(saved.size, saved.facts.revision, saved.facts.live_keys);
        shared.voice.hear(ABOUT, None);
        shared.health.ill(Part::Saves, None);
        let uncompressed = match &saved.compressed {
            Compressed::Failed(failure) => Some(failure),
            Compressed::Done | Compressed::NotAsked => None,
        };
        shared.voice.hear("compressing snapshots", uncompressed);
        if !saved.is_good() {
            let alarms: Vec<_> = saved.alarms.iter().map(|alarm| alarm.kind.to_string()).collect();
            let why = match (saved.quorum, alarms.is_empty()) {
                (false, true) => "its member had no quorum".to_string(),
                (false, false) => format!("its member had no quorum, and etcd the alarms {}", alarms.join(", ")),
                _ => format!("etcd had the alarms {}", alarms.join(", ")),
            };
            let note = format!("Snapshot {name} is saved and does not count as good: {why}");
            tracing::warn!(snapshot = %name, "{note}");
            shared.tell(shared.our_node(), Kind::Warning, reason::NO_QUORUM, note);
        }
        let alarm = other_alarm(&saved.alarms);
        if let (Turn::Begun, Some(alarm)) = (shared.voice.hear("the alarms of etcd", alarm.as_ref()), alarm) {
            shared.tell(shared.our_node(), Kind::Warning, reason::ALARM, alarm.message);
        }
        let forgotten = self.directory.forget_failed_saves(base, &shared.settings.node).await;
        shared.voice.hear("noting saves in the state", forgotten.as_ref().err());
        shared.wakes.directory.wake();
    }

    async fn failed(&self, file: &str, failure: &Failure, start: Instant) {
        let shared = &self.shared;
        for operation in [Operation::Save, Operation::SaveLocal] {
            shared.metrics.ended(operation, Status::Error, start.elapsed(), shared.now());
        }
        shared.metrics.save_failed();
        shared.voice.hear(ABOUT, Some(failure));
        shared.health.ill(Part::Saves, Some(failure.to_string()));
        if let Ok(file) = FileName::new(file) {
            let failed = FailedSave { file, at: shared.now(), why: failure.message.clone() };
            let noted = self.directory.note_failed_save(failed).await;
            shared.voice.hear("noting saves in the state", noted.as_ref().err());
        }
        shared.wakes.directory.wake();
    }

    /// The data of K3s's extra-metadata ConfigMap (docs/k3s.md 2.5). There is none as a rule, and none is no failure; what cannot be
    /// read does not stop a save.
    async fn extra_metadata(&self) -> BTreeMap<String, String> {
        let settings = &self.shared.settings;
        let name = format!("{}-etcd-snapshot-extra-metadata", settings.program);
        let read = timeout(METADATA, secret::config_map(&self.shared.client, &settings.config_namespace, &name)).await;
        let (data, failure) = match read {
            Ok(Ok(values)) => (values.0, None),
            Ok(Err(error)) if matches!(error.cause, Cause::NotFound(_)) => (BTreeMap::new(), None),
            Ok(Err(error)) => (BTreeMap::new(), Some(error.failure())),
            Err(_) => (BTreeMap::new(), Some(Failure::new("timeout", format!("the ConfigMap {name} had no answer in time")))),
        };
        self.shared.voice.hear(EXTRA, failure.as_ref());
        data.into_iter().filter_map(|(key, value)| Some((key, String::from_utf8(value).ok()?))).collect()
    }

    async fn token_hash(&self) -> Option<String> {
        let path = self.shared.settings.token_file.clone()?;
        let read = spawn_blocking(move || read_token_hash(&path)).await.ok()?;
        let failure = read.as_ref().err().map(|error| Failure::of("token", error));
        self.shared.voice.hear(TOKEN, failure.as_ref());
        read.ok().flatten()
    }
}

/// An alarm that takes nothing from a snapshot, and that somebody should know of all the same: etcd takes no writes.
fn other_alarm(alarms: &[Alarm]) -> Option<Failure> {
    let alarm = alarms.iter().find(|alarm| alarm.kind != AlarmKind::Corrupt)?;
    let what = format!("etcd has the alarm {}, raised for its member {}; snapshots are saved and count as ever", alarm.kind, alarm.member);
    Some(match &alarm.kind {
        AlarmKind::NoSpace => {
            let how =
                "free space with a compaction and `etcdctl defrag`, or raise its --quota-backend-bytes, then run `etcdctl alarm disarm`";
            Failure::new("nospace", format!("{what}, but etcd takes no writes: {how}"))
        }
        AlarmKind::Corrupt | AlarmKind::Other(_) => Failure::new("alarm", what),
    })
}

impl From<Step> for metrics::Step {
    fn from(step: Step) -> Self {
        match step {
            Step::Status => Self::Status,
            Step::Stream => Self::Stream,
            Step::Verify => Self::Verify,
            Step::Inspect => Self::Inspect,
            Step::Compress => Self::Compress,
            Step::Rename => Self::Rename,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::Id;

    fn raised(kind: AlarmKind) -> Alarm {
        Alarm { kind, member: Id(0xab) }
    }

    #[test]
    fn an_alarm_that_leaves_snapshots_good_is_told_with_what_to_do() {
        assert_eq!(other_alarm(&[]), None);
        assert_eq!(other_alarm(&[raised(AlarmKind::Corrupt)]), None, "that one is told with the snapshot that is not good");
        let both = [raised(AlarmKind::Corrupt), raised(AlarmKind::NoSpace)];
        let told = other_alarm(&both).unwrap();
        assert_eq!(told.category, "nospace");
        for word in ["NOSPACE", "member ab", "--quota-backend-bytes", "etcdctl alarm disarm"] {
            assert!(told.message.contains(word), "{word} in {}", told.message);
        }
        let other = other_alarm(&[raised(AlarmKind::Other("FIRE".into()))]).unwrap();
        assert_eq!((other.category, other.message.contains("FIRE")), ("alarm", true));
    }
}
