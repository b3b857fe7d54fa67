//! The slots in which files are read against their trailers: a long step, started and not waited for.
//!
//! Its verdict goes to the state, and its success wakes the directory's loop, which finds it there. Its failure waits for
//! the beat.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::outcome::Outcome;
use super::run::Wake;
use super::voice::Voice;
use crate::metrics::{self, Metrics};
use crate::snapshot::{FileName, SnapshotFile, Verdict};
use crate::storage::local::{Directory, NotVerified};

/// Files read at once: enough to keep a disk busy, and few enough to be a good neighbour to the member.
const SLOTS: usize = 2;

/// Reads files of one directory. Cheap to clone; all clones share the slots.
#[derive(Clone)]
pub struct Verifier(Arc<Inner>);

struct Inner {
    directory: Directory,
    slots: Arc<Semaphore>,
    running: Mutex<BTreeSet<FileName>>,
    wake: Arc<Wake>,
    metrics: Arc<Metrics>,
    voice: Arc<Voice>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Verifier {
    /// For this directory, whose loop `wake` wakes.
    pub fn new(directory: Directory, wake: Arc<Wake>, metrics: Arc<Metrics>, voice: Arc<Voice>, stop: CancellationToken) -> Self {
        let slots = Arc::new(Semaphore::new(SLOTS));
        Self(Arc::new(Inner { directory, slots, running: Mutex::default(), wake, metrics, voice, stop, tasks: TaskTracker::new() }))
    }

    /// The files that are being read.
    pub fn running(&self) -> BTreeSet<FileName> {
        self.0.running().clone()
    }

    /// Begins to read, if a slot is free.
    pub fn start(&self, file: &SnapshotFile) -> Outcome {
        let Ok(slot) = self.0.slots.clone().try_acquire_owned() else { return Outcome::Waiting };
        if self.0.stop.is_cancelled() || !self.0.running().insert(file.name.clone()) {
            return Outcome::Abandoned;
        }
        let (inner, file) = (self.0.clone(), file.clone());
        self.0.tasks.spawn(async move {
            let (reader, name) = (inner.clone(), file.name.clone());
            let read = spawn_blocking(move || reader.directory.verify(&file, || !reader.stop.is_cancelled())).await;
            drop(slot);
            inner.running().remove(&name);
            // A reader that panicked has no verdict either.
            inner.end(&name, read.unwrap_or(Err(NotVerified::Stopped)));
        });
        Outcome::Started
    }

    /// Waits until what runs has seen that we are stopping.
    pub async fn stopped(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

impl Inner {
    fn running(&self) -> MutexGuard<'_, BTreeSet<FileName>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, name: &FileName, read: Result<Verdict, NotVerified>) {
        let about = format!("verifying {name}");
        let outcome = match read {
            Ok(verdict) => {
                self.voice.hear(&about, None);
                match verdict {
                    Verdict::Damaged(why) => tracing::warn!(snapshot = %name, "the snapshot is damaged: {why}"),
                    Verdict::Whole | Verdict::Plausible => tracing::info!(snapshot = %name, "the snapshot is whole"),
                }
                self.wake.wake();
                metrics::Outcome::Done
            }
            Err(NotVerified::Stale) => {
                self.wake.wake();
                metrics::Outcome::Stale
            }
            Err(NotVerified::Stopped) => metrics::Outcome::Abandoned,
            Err(NotVerified::Failed(failure)) => {
                self.voice.hear(&about, Some(&failure));
                metrics::Outcome::Failed
            }
        };
        self.metrics.stepped(metrics::Action::Verify, outcome);
    }
}
