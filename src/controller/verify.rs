//! The slots in which files are read against their trailers: a long step, started and not waited for.
//!
//! Its verdict goes to the state, and its success wakes the directory's loop, which finds it there. Its failure waits for
//! the beat, and gives its slot to the next file: one that cannot be read costs only itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::outcome::Outcome;
use super::run::Wake;
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

/// What is read, and what has to wait.
#[derive(Debug, Default)]
struct Slots {
    running: BTreeSet<FileName>,
    /// What could not be read since the last beat.
    failed: BTreeMap<FileName, Version>,
    /// A file found no slot free.
    refused: bool,
}

impl Slots {
    /// Takes a slot; or says why not.
    fn take(&mut self, file: &SnapshotFile) -> Result<(), Outcome> {
        if self.running.contains(&file.name) {
            return Err(Outcome::Abandoned);
        }
        if self.failed.get(&file.name) == Some(&file.version) {
            return Err(Outcome::Waiting);
        }
        if self.running.len() >= SLOTS {
            self.refused = true;
            return Err(Outcome::Waiting);
        }
        self.running.insert(file.name.clone());
        Ok(())
    }

    /// Gives it back. Whether somebody was refused one meanwhile.
    fn give_back(&mut self, name: &FileName, failed: Option<Version>) -> bool {
        self.running.remove(name);
        self.failed.extend(failed.map(|version| (name.clone(), version)));
        std::mem::take(&mut self.refused)
    }
}

impl Verifier {
    /// For this directory, whose loop `wake` wakes.
    pub fn new(directory: Directory, wake: Arc<Wake>, metrics: Arc<Metrics>, voice: Arc<Voice>, stop: CancellationToken) -> Self {
        Self(Arc::new(Inner { directory, slots: Mutex::default(), wake, metrics, voice, stop, tasks: TaskTracker::new() }))
    }

    /// The files that are being read.
    pub fn running(&self) -> BTreeSet<FileName> {
        self.0.slots().running.clone()
    }

    /// For a beat: what could not be read may be tried again.
    pub fn again(&self) {
        self.0.slots().failed.clear();
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

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn file(name: &str, version: &str) -> SnapshotFile {
        let (name, version) = (FileName::new(name).unwrap(), Version::remembered(version));
        SnapshotFile { name, size: 1, modified: Timestamp::UNIX_EPOCH, version, at_rest: true, known: None }
    }

    #[test]
    fn files_that_cannot_be_read_leave_their_slots_to_those_behind_them() {
        let mut slots = Slots::default();
        let (a, b, c) = (file("a", "1"), file("b", "1"), file("c", "1"));
        assert_eq!([&a, &b, &a, &c].map(|file| slots.take(file)), [Ok(()), Ok(()), Err(Outcome::Abandoned), Err(Outcome::Waiting)]);
        assert!(slots.give_back(&a.name, Some(a.version.clone())), "c was refused and has to be planned again");
        assert!(!slots.give_back(&b.name, Some(b.version.clone())), "once");
        assert_eq!([&a, &b, &c].map(|file| slots.take(file)), [Err(Outcome::Waiting), Err(Outcome::Waiting), Ok(())]);
        assert_eq!(slots.take(&file("a", "2")), Ok(()), "other bytes are not those that failed");
    }
}
