//! The slots in which files are read against their trailers: a long step, started and not waited for.
//!
//! Its verdict goes to the state, and its success wakes the directory's loop, which finds it there. Its failure waits for
//! the beat, and gives its slot to the next file: one that cannot be read costs only itself.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::outcome::Outcome;
use super::run::Wake;
use super::slots::Slots;
use super::voice::Voice;
use crate::metrics::{self, Metrics};
use crate::snapshot::{FileName, SnapshotFile, Verdict, Version};
use crate::storage::local::{Directory, NotVerified};

/// Files read at once: enough to keep a disk busy, and few enough to be a good neighbour to the member.
const SLOTS: usize = 2;
/// How the log speaks of one file's reading; its name follows.
pub const ABOUT: &str = "verifying ";

/// Reads files of one directory. Cheap to clone; all clones share the slots.
#[derive(Clone)]
pub struct Verifier(Arc<Inner>);

struct Inner {
    directory: Directory,
    slots: Mutex<Slots>,
    wake: Arc<Wake>,
    metrics: Arc<Metrics>,
    voice: Arc<Voice>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Verifier {
    /// For this directory, whose loop `wake` wakes.
    pub fn new(directory: Directory, wake: Arc<Wake>, metrics: Arc<Metrics>, voice: Arc<Voice>, stop: CancellationToken) -> Self {
        Self(Arc::new(Inner { directory, slots: Mutex::new(Slots::new(SLOTS)), wake, metrics, voice, stop, tasks: TaskTracker::new() }))
    }

    /// The files that are being read.
    pub fn running(&self) -> BTreeSet<FileName> {
        self.0.slots().running().clone()
    }

    /// For a beat: what could not be read may be tried again.
    pub fn again(&self) {
        self.0.slots().again();
    }

    /// Begins to read, if a slot is free.
    pub fn start(&self, file: &SnapshotFile) -> Outcome {
        if self.0.stop.is_cancelled() {
            return Outcome::Abandoned;
        }
        if let Err(why_not) = self.0.slots().take(file) {
            return why_not;
        }
        let (inner, file) = (self.0.clone(), file.clone());
        self.0.tasks.spawn(async move {
            let (reader, name, version) = (inner.clone(), file.name.clone(), file.version.clone());
            let read = spawn_blocking(move || reader.directory.verify(&file, || !reader.stop.is_cancelled())).await;
            // A reader that panicked has no verdict either.
            inner.end(&name, version, read.unwrap_or(Err(NotVerified::Stopped)));
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
    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, name: &FileName, version: Version, read: Result<Verdict, NotVerified>) {
        let about = format!("{ABOUT}{name}");
        let is_failure = matches!(read, Err(NotVerified::Failed(_) | NotVerified::Stopped));
        if self.slots().give_back(name, is_failure.then_some(version)) {
            self.wake.wake();
        }
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
