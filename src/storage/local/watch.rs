//! The watch: wakes when something happened in the directory or beside it.
//!
//! In: inotify events, and when a file will be at rest. Out: wakes, which carry no data; the listing is the truth. Where
//! nothing can be watched (no watches left, a directory that is gone, a network file system that another machine
//! writes), the beat finds everything a little later, and the watch comes back by itself.

use std::path::Path;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use inotify::{EventMask, EventOwned, EventStream, Inotify, WatchDescriptor, WatchMask};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Directory;
use super::error::LocalError;
use super::place::DirectoryId;
use crate::snapshot::FileName;

/// So long after the first event the others of the same doing have come as well.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// How often a watch that is not to be had is asked for.
const RETRY: Duration = Duration::from_secs(10);
/// Room for some dozens of events with long names.
const EVENTS: usize = 16 * 1024;

/// Names that came, went or changed. CREATE is for hard links and symlinks, which nobody closes; ATTRIB for times and
/// permissions. Writes are not looked at: each of a large file would be an event, and its end is one anyway.
fn names() -> WatchMask {
    let came_and_went = WatchMask::CREATE | WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | WatchMask::MOVED_FROM | WatchMask::DELETE;
    came_and_went | WatchMask::ATTRIB | WatchMask::DELETE_SELF | WatchMask::MOVE_SELF | WatchMask::ONLYDIR
}

/// The end of the watch itself.
fn ends() -> EventMask {
    EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::UNMOUNT | EventMask::IGNORED
}

/// Which directories are there: the snapshots' and the sidecars'.
pub(super) type Present = (Option<DirectoryId>, Option<DirectoryId>);

struct Eye {
    events: EventStream<Vec<u8>>,
    snapshots: WatchDescriptor,
    /// Whether the paths lead to these still is what the listings tell.
    watched: Present,
    /// Kept here while it waits for more, because the waiting may be broken off.
    seen: Seen,
}

impl Directory {
    /// Calls `wake` whenever something changed, or a file that was being written has come to rest; until it is stopped.
    pub async fn watch(&self, wake: impl Fn() + Send, stop: CancellationToken) {
        let mut eye: Option<Eye> = None;
        let mut said = false;
        loop {
            if eye.is_none() {
                match Eye::open(self.clone()).await {
                    Ok(opened) => {
                        if said {
                            tracing::info!(directory = %self.path().display(), "the directory is watched again");
                        }
                        said = false;
                        eye = Some(opened);
                        // What happened while nobody watched.
                        wake();
                    }
                    Err(error) => {
                        if !said {
                            let error = crate::snapshot::Failure::from(error);
                            tracing::warn!(directory = %self.path().display(), %error, "the directory is not watched; changes show at the next beat");
                        }
                        said = true;
                    }
                }
            }
            let rest = self.0.rest().next().map(Instant::from_std);
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.0.listed.notified() => {
                    if eye.as_ref().is_some_and(|eye| eye.watched != self.0.standing().present) {
                        eye = None;
                    }
                }
                () = async { sleep_until(rest.unwrap_or_else(Instant::now)).await }, if rest.is_some() => {
                    self.0.rest().begin();
                    wake();
                }
                () = sleep(RETRY), if eye.is_none() => {}
                seen = async { eye.as_mut().expect("checked below").look(self).await }, if eye.is_some() => {
                    if seen.something {
                        wake();
                    }
                    if seen.ended {
                        eye = None;
                        // Whatever ends each new watch at once must not keep us busy.
                        sleep(DEBOUNCE).await;
                    }
                }
            }
        }
    }
}

/// What a burst of events showed.
#[derive(Default)]
struct Seen {
    something: bool,
    ended: bool,
}

impl Eye {
    async fn open(directory: Directory) -> Result<Self, LocalError> {
        let lost = LocalError::Lost(directory.path().into());
        // Looking up a path may take as long as a network file system likes.
        let opened = tokio::task::spawn_blocking(move || {
            let failed = |path: &Path, source| LocalError::Watch { path: path.into(), source };
            let snapshots = &directory.0.path;
            let metadata = &directory.0.metadata;
            let inotify = Inotify::init().map_err(|source| failed(snapshots, source))?;
            let id = DirectoryId::at(snapshots).map_err(|source| failed(snapshots, source))?;
            let wd = inotify.watches().add(snapshots, names()).map_err(|source| failed(snapshots, source))?;
            let beside = match DirectoryId::at(metadata) {
                Ok(id) => inotify.watches().add(metadata, names()).map(|_| Some(id)).map_err(|source| failed(metadata, source))?,
                Err(_) => None,
            };
            Ok((inotify, wd, (Some(id), beside)))
        });
        let (inotify, snapshots, watched) = opened.await.unwrap_or(Err(lost))?;
        let failed = |source| LocalError::Watch { path: "inotify".into(), source };
        let events = inotify.into_event_stream(vec![0; EVENTS]).map_err(failed)?;
        Ok(Self { events, snapshots, watched, seen: Seen::default() })
    }

    /// Waits for an event, and a moment for what comes with it. Broken off, it has lost nothing.
    async fn look(&mut self, directory: &Directory) -> Seen {
        if !self.seen.something {
            let first = self.events.next().await;
            self.take(first, directory);
        }
        if self.seen.something && !self.seen.ended {
            sleep(DEBOUNCE).await;
        }
        while !self.seen.ended {
            match self.events.next().now_or_never() {
                Some(event) => self.take(event, directory),
                None => break,
            }
        }
        std::mem::take(&mut self.seen)
    }

    fn take(&mut self, event: Option<std::io::Result<EventOwned>>, directory: &Directory) {
        let event = match event {
            Some(Ok(event)) if !event.mask.intersects(ends()) => event,
            _ => {
                self.seen = Seen { something: true, ended: true };
                return;
            }
        };
        // Of names that are no snapshot's, temporaries and the state among them, nothing is to be told.
        let name = event.name.as_ref().and_then(|name| name.to_str()).map(FileName::new);
        match name {
            Some(Err(_)) => return,
            Some(Ok(name)) if event.wd == self.snapshots && event.mask.intersects(EventMask::CLOSE_WRITE | EventMask::MOVED_TO) => {
                directory.0.rest().closed(name);
            }
            _ => {}
        }
        self.seen.something = true;
    }
}
