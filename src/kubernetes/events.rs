//! Events: told once each, when something begins, changes or ends. The caller tells only what is new.
//!
//! Best effort: they wait in a short queue for a server that is slow or away, are dropped when it is full or the server refuses
//! them, and their failure is said in the log and never fails the work. Each is a plain POST: nothing is merged with what was
//! told before. One whose answer was lost may be told twice.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use tokio::sync::mpsc;
use tokio::time::{Duration, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::OPERATOR;
use super::error::{Cause, Doing, Error, call};
use super::said::{Backoff, Said};
use crate::record::{Record, RecordName};

/// Why an Event is told.
pub mod reason {
    /// On the record: a snapshot was saved (K3s).
    pub const CREATED: &str = "ETCDSnapshotCreated";
    /// On the record: a snapshot could not be saved (K3s). On the Node: none can be, since no attempt can be noted.
    pub const FAILED: &str = "ETCDSnapshotFailed";
    /// On the record: its file or object is gone (K3s).
    pub const DELETED: &str = "ETCDSnapshotDeleted";
    /// On the Node: local retention failed (K3s).
    pub const RETENTION_FAILED_LOCAL: &str = "ETCDSnapshotRetentionFailedLocal";
    /// On the Node: retention in the bucket failed (K3s).
    pub const RETENTION_FAILED_S3: &str = "ETCDSnapshotRetentionFailedS3";
    /// On the record: the snapshot cannot be restored.
    pub const DAMAGED: &str = "ETCDSnapshotDamaged";
    /// On the Node: an object that retention would have kept is gone.
    pub const VANISHED: &str = "ETCDSnapshotVanished";
    /// On the record: another object has the place of an upload.
    pub const UPLOAD_CONFLICT: &str = "ETCDSnapshotUploadConflict";
    /// On the Node: a directory or bucket cannot be listed.
    pub const STORAGE_FAILED: &str = "ETCDSnapshotStorageFailed";
    /// On the Node: it can again.
    pub const STORAGE_RECOVERED: &str = "ETCDSnapshotStorageRecovered";
    /// On the Node: a pass would have deleted too much.
    pub const DELETION_BRAKED: &str = "ETCDSnapshotDeletionBraked";
    /// On the Node: the bucket holds another history of our cluster.
    pub const BUCKET_CONTESTED: &str = "ETCDSnapshotBucketContested";
    /// On the Node: a snapshot was saved that does not count as good: no quorum, or an alarm.
    pub const NO_QUORUM: &str = "ETCDSnapshotNoQuorum";
    /// On the Node: etcd has an alarm that takes nothing from its snapshots, such as NOSPACE.
    pub const ALARM: &str = "ETCDSnapshotAlarm";
}

const EVENTS: &str = "events.events.k8s.io";
/// Cluster-scoped objects have their Events there.
const NAMESPACE: &str = "default";
/// Longer notes are refused, in bytes.
const LONGEST_NOTE: usize = 1024;
/// The same for who reports.
const LONGEST_INSTANCE: usize = 128;
/// How much of an object's name its Events' names begin with.
const LONGEST_NAME: usize = 200;
/// How many Events may wait.
const QUEUE: usize = 256;
/// Between the tries to tell one Event to a server that is away.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long what waits is still sent after the stop.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Whether it is good or bad news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Good news, or none.
    Normal,
    /// Somebody should look.
    Warning,
}

/// What an Event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Regarding {
    /// A record; without a UID when that is not known any more.
    Record(RecordName, Option<String>),
    /// A Node; `kubectl describe` finds it by UID.
    Node(String, Option<String>),
}

impl From<&Record> for Regarding {
    fn from(record: &Record) -> Self {
        Self::Record(record.name.clone(), Some(record.uid.clone()))
    }
}

/// One piece of news.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// About what.
    pub regarding: Regarding,
    /// Good or bad.
    pub kind: Kind,
    /// One of [`reason`].
    pub reason: &'static str,
    /// One sentence for people; cut at 1 kB. No secrets.
    pub note: String,
}

/// Where Events are told. Clones share the queue.
#[derive(Debug, Clone)]
pub struct Events(mpsc::Sender<Event>);

impl Events {
    /// The queue, and who empties it. `instance` is the node or pod that reports.
    pub fn new(client: kube::Client, instance: &str) -> (Self, Publisher) {
        let (tell, told) = mpsc::channel(QUEUE);
        let instance = cut(instance, LONGEST_INSTANCE).to_string();
        (Self(tell), Publisher { api: Api::namespaced(client, NAMESPACE), instance, told })
    }

    /// Tells it, soon. Never waits. Dropped when the server is so slow that too many wait.
    pub fn tell(&self, event: Event) {
        if let Err(error) = self.0.try_send(event) {
            tracing::debug!("an Event is dropped: {error}");
        }
    }
}

/// Empties the queue.
pub struct Publisher {
    api: Api<v1::Event>,
    instance: String,
    told: mpsc::Receiver<Event>,
}

impl Publisher {
    /// Sends Events until told to stop; then, for a moment, those that still wait.
    pub async fn run(mut self, stop: &CancellationToken) {
        let mut said = Said::of("Events cannot be told");
        loop {
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                event = self.told.recv() => event,
            };
            let Some(event) = event else { return };
            // What begins while the server is away is not said again: the Event waits for it.
            let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
            while !self.send(&event, &mut said).await {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => break,
                    () = sleep(backoff.next()) => {}
                }
            }
        }
        self.told.close();
        let rest = async {
            while let Some(event) = self.told.recv().await {
                self.send(&event, &mut said).await;
            }
        };
        timeout(LAST_WORDS, rest).await.ok();
    }

    /// False when another try may help.
    async fn send(&self, event: &Event, said: &mut Said) -> bool {
        let Err(error) = self.post(event).await else {
            said.works();
            return true;
        };
        said.failed(&error.failure());
        !matches!(error.cause, Cause::Unavailable { .. } | Cause::Unreachable(_) | Cause::Throttled | Cause::Timeout(_))
    }

    async fn post(&self, event: &Event) -> Result<(), Error> {
        let event = object(event, &self.instance, Timestamp::now());
        let params = PostParams { field_manager: Some(OPERATOR.into()), ..PostParams::default() };
        call(Doing::new("create", EVENTS, ""), None, || async { self.api.create(&params, &event).await }).await?;
        Ok(())
    }
}

fn object(event: &Event, instance: &str, now: Timestamp) -> v1::Event {
    let (api_version, kind, name, uid) = match &event.regarding {
        Regarding::Record(name, uid) => ("k3s.cattle.io/v1", "ETCDSnapshotFile", name.as_str(), uid),
        Regarding::Node(name, uid) => ("v1", "Node", name.as_str(), uid),
    };
    // The server cuts it shorter and makes it unique, but refuses what is longer than a name may be.
    // A Node that is none may be called what no object can be.
    let fine = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' { c } else { '-' };
    let begin: String = cut(name, LONGEST_NAME).to_ascii_lowercase().chars().map(fine).collect();
    let begin = begin.trim_matches(['-', '.']);
    v1::Event {
        metadata: ObjectMeta { generate_name: Some(format!("{begin}-")), namespace: Some(NAMESPACE.into()), ..ObjectMeta::default() },
        event_time: Some(MicroTime(now)),
        reporting_controller: Some(OPERATOR.into()),
        reporting_instance: Some(instance.into()),
        action: Some("Reconcile".into()),
        reason: Some(event.reason.into()),
        regarding: Some(ObjectReference {
            api_version: Some(api_version.into()),
            kind: Some(kind.into()),
            name: Some(name.into()),
            uid: uid.clone(),
            ..ObjectReference::default()
        }),
        note: Some(cut(&event.note, LONGEST_NOTE).into()),
        type_: Some(match event.kind {
            Kind::Normal => "Normal".into(),
            Kind::Warning => "Warning".into(),
        }),
        ..v1::Event::default()
    }
}

/// At most `longest` bytes, and whole characters.
fn cut(text: &str, longest: usize) -> &str {
    &text[..text.floor_char_boundary(longest)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_says_about_what_by_whom_and_why() {
        let event = Event {
            regarding: Regarding::Record(RecordName::existing("local-x"), Some("uid".into())),
            kind: Kind::Warning,
            reason: reason::DAMAGED,
            note: "its bytes do not match".into(),
        };
        let object = serde_json::json!(object(&event, "cp1", Timestamp::UNIX_EPOCH));
        assert_eq!(object["regarding"]["name"], "local-x");
        assert_eq!(object["regarding"]["uid"], "uid");
        assert_eq!((&object["metadata"]["namespace"], &object["type"]), (&"default".into(), &"Warning".into()));
        assert_eq!((&object["reportingController"], &object["reportingInstance"]), (&OPERATOR.into(), &"cp1".into()));
        assert_eq!((&object["reason"], &object["note"]), (&"ETCDSnapshotDamaged".into(), &"its bytes do not match".into()));
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        assert_eq!(cut("short", 1024), "short");
        for begin in ["", "x", "xx", "xxx"] {
            let long = format!("{begin}{}", "🦀".repeat(300));
            let note = cut(&long, LONGEST_NOTE);
            assert!(note.len() <= LONGEST_NOTE && note.len() > LONGEST_NOTE - 4 && long.starts_with(note));
        }
    }
}
