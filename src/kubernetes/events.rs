//! Events: told once each, when something begins, changes or ends. The caller tells only what is new.
//!
//! Best effort: they wait in a short queue for a server that is slow or away, are dropped when it is full, the server refuses
//! them or they are old, and their failure is said in the log and never fails the work. Each is a plain POST of an object whose
//! name is made once: nothing is merged with what was told before, and one whose answer was lost is not told twice.

use std::collections::VecDeque;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, sleep, timeout};
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
    /// On the Node: a snapshot is dated ahead of the clock, so that what was saved after it looks older.
    pub const DATED_AHEAD: &str = "ETCDSnapshotDatedAhead";
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
/// How many Events may wait, and of them so many for another try.
const QUEUE: usize = 256;
const AGAIN: usize = 64;
/// What is older is no news: servers keep Events as long (`kube-apiserver --event-ttl`).
const NEWS: Duration = Duration::from_hours(1);
/// Between tries, while a server is away or answers with its own failure.
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
pub struct Events(mpsc::Sender<News>);

/// An Event under the name that it keeps, however often it is sent.
#[derive(Debug)]
struct News {
    event: Event,
    name: String,
    at: Timestamp,
    told: Instant,
}

/// What became of sending one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// It is told, or never will be.
    Over,
    /// Nobody is there: those behind it would not get through either.
    Away,
    /// The server has a failure of its own, perhaps with this one alone.
    Failing,
}

impl Events {
    /// The queue, and who empties it. `instance` is the node or pod that reports.
    pub fn new(client: kube::Client, instance: &str) -> (Self, Publisher) {
        let (tell, told) = mpsc::channel(QUEUE);
        let instance = cut(instance, LONGEST_INSTANCE).to_string();
        (Self(tell), Publisher { api: Api::namespaced(client, NAMESPACE), instance, told })
    }

    /// Tells it, soon. Never waits. Dropped when the server is so slow that too many wait.
    pub fn tell(&self, event: Event) {
        let news = News { name: name(&event.regarding), event, at: Timestamp::now(), told: Instant::now() };
        if let Err(error) = self.0.try_send(news) {
            tracing::debug!("an Event is dropped: {error}");
        }
    }
}

/// Empties the queue.
pub struct Publisher {
    api: Api<v1::Event>,
    instance: String,
    told: mpsc::Receiver<News>,
}

impl Publisher {
    /// Sends Events until told to stop; then, for a moment, those that still wait.
    pub async fn run(mut self, stop: &CancellationToken) {
        let mut said = Said::of("Events cannot be told");
        let mut waiting = VecDeque::new();
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            while waiting.len() < AGAIN
                && let Ok(news) = self.told.try_recv()
            {
                waiting.push_back(news);
            }
            let news = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                news = self.next(&mut waiting) => news,
            };
            let Some(news) = news else { return };
            let sent = self.send(&news, &mut said).await;
            if sent == Sent::Over {
                backoff.reset();
                continue;
            }
            if news.told.elapsed() >= NEWS {
                tracing::debug!(about = news.event.reason, "an Event is dropped: it could not be told in time");
            } else if sent == Sent::Away {
                waiting.push_front(news);
            } else {
                waiting.push_back(news);
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = sleep(backoff.next()) => {}
            }
        }
        self.told.close();
        let rest = async {
            while let Some(news) = self.next(&mut waiting).await {
                self.send(&news, &mut said).await;
            }
        };
        timeout(LAST_WORDS, rest).await.ok();
    }

    async fn next(&mut self, waiting: &mut VecDeque<News>) -> Option<News> {
        match waiting.pop_front() {
            Some(news) => Some(news),
            None => self.told.recv().await,
        }
    }

    async fn send(&self, news: &News, said: &mut Said) -> Sent {
        match self.post(news).await {
            // A conflict: it was told before, and the answer was lost.
            Ok(()) | Err(Error { cause: Cause::Conflict(_), .. }) => {}
            Err(error) => {
                said.failed(&error.failure());
                return match error.cause {
                    Cause::Unreachable(_) | Cause::Throttled | Cause::Timeout(_) => Sent::Away,
                    Cause::Unavailable { .. } => Sent::Failing,
                    _ => Sent::Over,
                };
            }
        }
        said.works();
        Sent::Over
    }

    async fn post(&self, news: &News) -> Result<(), Error> {
        let event = object(news, &self.instance);
        let params = PostParams { field_manager: Some(OPERATOR.into()), ..PostParams::default() };
        call(Doing::new("create", EVENTS, ""), None, || async { self.api.create(&params, &event).await }).await?;
        Ok(())
    }
}

/// A name for an Event about this that no other has. The server refuses what is longer than a name may be; and a Node that is none may
/// be called what no object can be.
fn name(regarding: &Regarding) -> String {
    let about = match regarding {
        Regarding::Record(name, _) => name.as_str(),
        Regarding::Node(name, _) => name,
    };
    let fine = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' { c } else { '-' };
    let begin: String = cut(about, LONGEST_NAME).to_ascii_lowercase().chars().map(fine).collect();
    format!("{}.{:016x}", begin.trim_matches(['-', '.']), fastrand::u64(..))
}

fn object(news: &News, instance: &str) -> v1::Event {
    let event = &news.event;
    let (api_version, kind, name, uid) = match &event.regarding {
        Regarding::Record(name, uid) => ("k3s.cattle.io/v1", "ETCDSnapshotFile", name.as_str(), uid),
        Regarding::Node(name, uid) => ("v1", "Node", name.as_str(), uid),
    };
    v1::Event {
        metadata: ObjectMeta { name: Some(news.name.clone()), namespace: Some(NAMESPACE.into()), ..ObjectMeta::default() },
        event_time: Some(MicroTime(news.at)),
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
        let news = News { name: name(&event.regarding), event, at: Timestamp::UNIX_EPOCH, told: Instant::now() };
        let object = serde_json::json!(object(&news, "cp1"));
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
