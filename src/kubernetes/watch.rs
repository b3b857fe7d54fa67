//! Keeps the cache true: lists all records, watches them, and lists anew when the watch ends, however it ends.
//!
//! A watch is never resumed. Resumed at a version from before a restore of etcd it hangs silently, and once the store has
//! passed that version it goes on with what lay between lost. An end without an error proves nothing either: a server that
//! is restarted ends its watches in good order. So watches are long, and each begins with a list.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, pin_mut};
use kube::api::{ListParams, WatchEvent, WatchParams};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::cache::{Cache, RECORDS, TRAVELLED};
use super::error::{Cause, Doing, Error, call};
use super::memory::{Committed, Past};
use super::said::{Backoff, Said};
use crate::record::ETCDSnapshotFile;
use crate::snapshot::Failure;

/// Records a page.
const PAGE: u32 = 500;
/// How long a watch is asked to last, in seconds; and how much longer at random, so that not all agents list at once.
const WATCH: u32 = 3000;
const SPREAD: u32 = 600;
/// The server sends a bookmark about once a minute. Without a word for this long the watch is dead.
const SILENCE: Duration = Duration::from_mins(4);
/// A watch that lasted this long did not fail at once.
const STEADY: Duration = Duration::from_secs(30);
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What is said when writes come from another past than lists.
const HIDDEN: &str =
    "the API server lists records that its etcd no longer has, as when that was restored and the API server not restarted: restart it";

/// See [`Cache::run`].
pub(super) async fn run(cache: &Cache, stop: &CancellationToken) {
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    let mut said = Said::of("the records cannot be watched");
    loop {
        let begun = Instant::now();
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = cache.0.again.notified() => {
                backoff.reset();
                continue;
            }
            ended = list_and_watch(cache, &mut said) => match ended {
                Ok(why) => debug!(why, "the watch of the records has ended"),
                Err(Error { cause: Cause::Expired, .. }) => debug!("the list of the records took too long and begins anew"),
                Err(error) => failed(cache, &mut said, &error),
            },
        }
        if begun.elapsed() >= STEADY {
            backoff.reset();
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = cache.0.again.notified() => backoff.reset(),
            () = sleep(backoff.next()) => {}
        }
    }
}

fn failed(cache: &Cache, said: &mut Said, error: &Error) {
    let failure = error.failure();
    said.failed(&failure);
    let crd_missing = matches!(error.cause, Cause::NotServed(_));
    if crd_missing && cache.memory().is_synced() {
        cache.memory().throw_away();
    }
    cache.0.health.send_if_modified(|health| {
        let before = health.clone();
        health.crd_missing = crd_missing;
        health.synced &= !crd_missing;
        health.failure = Some(failure);
        *health != before
    });
}

/// One list and the watch that goes on from it. The failure of a watch that had begun is no failure yet: the next list is
/// the proof.
async fn list_and_watch(cache: &Cache, said: &mut Said) -> Result<&'static str, Error> {
    cache.read_schema().await;
    let Some((from, ill)) = list(cache).await? else { return Ok("thrown away") };
    let seconds = WATCH + fastrand::u32(..SPREAD);
    let params = WatchParams::default().timeout(seconds);
    let stream = call(Doing::new("watch", RECORDS, ""), None, || cache.0.api.watch(&params, &from)).await?;
    match &ill {
        Some(failure) => _ = said.failed(failure),
        None => _ = said.works(),
    }
    cache.0.health.send_if_modified(|health| {
        let before = std::mem::replace(&mut health.failure, ill);
        health.failure != before
    });
    pin_mut!(stream);
    loop {
        let event = match timeout(SILENCE, stream.next()).await {
            Err(_) => return Ok("silence"),
            Ok(None) => return Ok("ended by the server"),
            Ok(Some(Err(error))) => {
                debug!(
                    error = Error::from_kube(Doing::new("watch", RECORDS, ""), error).failure().message,
                    "the watch of the records is broken"
                );
                return Ok("broken");
            }
            Ok(Some(Ok(event))) => event,
        };
        let changed = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let record = cache.project(&object);
                cache.memory().applied(record)
            }
            WatchEvent::Deleted(object) => {
                let record = cache.project(&object);
                cache.memory().deleted(&record)
            }
            WatchEvent::Bookmark(bookmark) => {
                cache.memory().saw(&bookmark.metadata.resource_version);
                continue;
            }
            WatchEvent::Error(status) => {
                debug!(code = status.code, message = status.message, "the server gives up the watch of the records");
                return Ok("given up by the server");
            }
        };
        cache.wake(&changed);
    }
}

/// Lists everything into the cache. Returns the version of the list and what is wrong with it, or None when the cache was
/// thrown away meanwhile.
async fn list(cache: &Cache) -> Result<Option<(String, Option<Failure>)>, Error> {
    let begun = cache.memory().begin_list();
    let (mut listed, mut version) = (Vec::new(), String::new());
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = call(Doing::new("list", RECORDS, ""), None, || cache.0.api.list(&page)).await?;
        listed.extend(list.items.iter().map(|object: &ETCDSnapshotFile| Arc::new(cache.project(object))));
        version = list.metadata.resource_version.unwrap_or(version);
        page.continue_token = list.metadata.continue_.filter(|token| !token.is_empty());
        if page.continue_token.is_none() {
            break;
        }
    }
    let committed = cache.memory().commit(begun, &version, listed);
    let Committed::Held(changed, past) = committed else { return Ok(None) };
    let ill = match past {
        Past::Gone => None,
        Past::Travelled(before, now) => {
            warn!(before, now, "{TRAVELLED}");
            None
        }
        Past::Hidden => Some(Failure::new("stale", HIDDEN)),
    };
    cache.0.health.send_if_modified(|health| {
        let news = !health.synced || health.crd_missing;
        (health.synced, health.crd_missing) = (true, false);
        news
    });
    cache.wake(&changed);
    Ok(Some((version, ill)))
}
