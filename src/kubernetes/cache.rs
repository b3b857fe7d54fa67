//! The records, in memory, as the API server last showed them.
//!
//! In: lists and a watch of all records, and the answers to our own writes. Out: [`Record`]s for a pass, a call to whoever
//! wants to look again when somebody else changed one, and whether the API has travelled back in time. Nothing is written
//! here. What is read here may be old; who acts on it asks again first.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::api::{Api, ListParams};
use kube::core::PartialObjectMeta;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::error::{Cause, Doing, Error, call};
use super::memory::{Changed, Memory, number};
use super::said::Said;
use crate::record::cached::cached;
use crate::record::crd::has_bucket_lookup;
use crate::record::{ETCDSnapshotFile, Record, RecordName};
use crate::snapshot::{Failure, Program, Storage};

/// Plural and group of the records, as RBAC has them.
pub const RECORDS: &str = "etcdsnapshotfiles.k3s.cattle.io";
const CRDS: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// What can be said of the cache.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// The records are known.
    pub synced: bool,
    /// The API server does not serve them: the CRD is not installed.
    pub crd_missing: bool,
    /// Why they cannot be listed or watched now. What was known is still there, unless the CRD is missing.
    pub failure: Option<Failure>,
}

/// Where somebody else changed records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookAgain<'a> {
    /// Of this storage.
    At(&'a Storage),
    /// Of files whose uploads came to something.
    AtUploads,
    /// Of any storage.
    Everywhere,
}

type Listener = dyn Fn(LookAgain<'_>) + Send + Sync;

/// The records. Clones share them.
#[derive(Clone)]
pub struct Cache(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) client: kube::Client,
    pub(super) api: Api<ETCDSnapshotFile>,
    pub(super) program: Program,
    pub(super) health: watch::Sender<Health>,
    /// To list anew, now.
    pub(super) again: Notify,
    memory: Mutex<Memory>,
    bucket_lookup: AtomicBool,
    schema_said: Mutex<Said>,
    look_again: Box<Listener>,
}

impl Cache {
    /// An empty cache; [`Self::run`] fills it. `look_again` is called for the storage of each record that somebody else
    /// created, changed or deleted. Our own writes wake nothing.
    pub fn new(client: kube::Client, program: Program, look_again: impl Fn(LookAgain<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner {
            api: Api::all(client.clone()),
            client,
            program,
            health: watch::Sender::new(Health::default()),
            again: Notify::new(),
            memory: Mutex::default(),
            bucket_lookup: AtomicBool::new(false),
            schema_said: Mutex::new(Said::of("whether the CRD has spec.s3.bucketLookup is not known, and records go without it")),
            look_again: Box::new(look_again),
        }))
    }

    /// Lists and watches until told to stop. A failure is said once and waited out.
    pub async fn run(&self, stop: &CancellationToken) {
        super::watch::run(self, stop).await;
    }

    /// All records, by name. None before the first list is complete, while the CRD is missing, and from the moment that the
    /// API has travelled back in time until it is listed anew.
    pub fn records(&self) -> Option<Vec<Arc<Record>>> {
        self.memory().records()
    }

    /// One record, as last seen.
    pub fn get(&self, name: &RecordName) -> Option<Arc<Record>> {
        self.memory().get(name)
    }

    /// Its state now.
    pub fn health(&self) -> Health {
        self.0.health.borrow().clone()
    }

    /// Its state, and each change of it.
    pub fn watch_health(&self) -> watch::Receiver<Health> {
        self.0.health.subscribe()
    }

    /// Whether the served CRD has `spec.s3.bucketLookup`. What cannot be read counts as no: every CRD takes a record without.
    pub fn has_bucket_lookup(&self) -> bool {
        self.0.bucket_lookup.load(Ordering::Relaxed)
    }

    /// For each beat: looks at the CRD again, and whether the API has travelled back in time. If it has, the cache is thrown
    /// away and listed anew, which is said here, and the answer is true.
    ///
    /// A watch that was resumed from before a restore hangs without a word, so its silence proves nothing; but no list is
    /// older than what was seen before it was asked for.
    pub async fn check(&self) -> Result<bool, Error> {
        self.read_schema().await;
        let Some(before) = self.memory().highest() else { return Ok(false) };
        let one = ListParams::default().limit(1);
        let api: Api<PartialObjectMeta<ETCDSnapshotFile>> = Api::all(self.0.client.clone());
        let list = call(Doing::new("list", RECORDS, ""), None, || api.list(&one)).await?;
        let now = list.metadata.resource_version.as_deref().and_then(number);
        // Of several looks that waited for the same server, and of a list that came meanwhile, the first one counts.
        let travelled = now.is_some_and(|now| now < before) && self.memory().highest().is_some_and(|highest| before <= highest);
        if travelled {
            warn!(before, now, "{TRAVELLED}");
            self.throw_away();
        }
        Ok(travelled)
    }

    /// Forgets everything and lists anew.
    pub fn throw_away(&self) {
        self.memory().throw_away();
        self.0.health.send_if_modified(|health| std::mem::replace(&mut health.synced, false));
        self.0.again.notify_one();
    }

    /// Asks which fields the served CRD has.
    pub(super) async fn read_schema(&self) {
        let url = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{RECORDS}");
        let get = || async {
            let request = http::Request::get(&url).body(Vec::new()).map_err(kube::Error::HttpError)?;
            self.0.client.request::<Value>(request).await
        };
        let answer = call(Doing::new("get", CRDS, RECORDS), None, get).await;
        let mut said = self.0.schema_said.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(crd) => {
                said.works();
                let versions = crd["spec"]["versions"].as_array();
                let has = versions.into_iter().flatten().any(|version| version["name"] == "v1" && has_bucket_lookup(version));
                self.0.bucket_lookup.store(has, Ordering::Relaxed);
            }
            Err(error) if matches!(error.cause, Cause::Forbidden { .. }) => {
                self.0.bucket_lookup.store(false, Ordering::Relaxed);
                said.failed(&error.failure());
            }
            // What was known of the CRD stays. Whoever lists the records says what is wrong.
            Err(_) => {}
        }
    }

    /// For a write: until the guard is dropped, what the watch shows of this record is not taken for somebody else's doing.
    pub(super) fn begin_write(&self, name: &RecordName) -> Writing<'_> {
        self.memory().begin_write(name);
        Writing { cache: self, name: name.clone() }
    }

    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn project(&self, object: &ETCDSnapshotFile) -> Record {
        cached(object, self.0.program)
    }

    pub(super) fn wake(&self, changed: &Changed) {
        if changed.everything {
            return (self.0.look_again)(LookAgain::Everywhere);
        }
        changed.storages.iter().for_each(|storage| (self.0.look_again)(LookAgain::At(storage)));
        if changed.uploads {
            (self.0.look_again)(LookAgain::AtUploads);
        }
    }
}

/// What is said when the API has travelled.
pub(super) const TRAVELLED: &str = "the API has travelled back in time, as after a restore of its etcd: all records are listed anew";

/// A write of one record that is under way.
pub(super) struct Writing<'a> {
    cache: &'a Cache,
    name: RecordName,
}

impl Writing<'_> {
    /// The record, as an answer shows it.
    pub(super) fn answered(&self, object: &ETCDSnapshotFile) {
        self.cache.memory().answered(self.cache.project(object));
    }

    /// The same, of a write. One that is older than what was seen before it asks for a new list.
    pub(super) fn written(&self, object: &ETCDSnapshotFile) {
        if self.cache.memory().written(self.cache.project(object)) {
            self.cache.0.again.notify_one();
        }
    }

    /// The answer: it is deleted.
    pub(super) fn answered_deleted(&self, uid: &str) {
        self.cache.memory().answered_deleted(&self.name, uid);
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let changed = self.cache.memory().end_write(&self.name);
        self.cache.wake(&changed);
    }
}
