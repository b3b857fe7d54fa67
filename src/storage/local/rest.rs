//! At rest: whether somebody may still be writing a file.
//!
//! In: what the watch saw closed, and what each listing finds. Out: which files are at rest, and when the next one will
//! be. A file is at rest when it was closed or moved into place and is still what it was then; or when it has not changed
//! for two seconds, by the wall clock against its modification time, or, since modification times may lie in the future,
//! by our own watching.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use super::place::Stamp;
use crate::snapshot::{FileName, Listing};

/// How long a file must stay the same.
pub const QUIET: Duration = Duration::from_secs(2);

/// What is known of the files' rest.
#[derive(Debug, Default)]
pub struct Rest {
    closed: BTreeSet<FileName>,
    seen: BTreeMap<FileName, Seen>,
    next: Option<Instant>,
}

#[derive(Debug)]
struct Seen {
    stamp: Stamp,
    since: Instant,
    closed: bool,
}

impl Rest {
    /// The watch saw this file closed after writing, or moved into place.
    pub fn closed(&mut self, name: FileName) {
        self.closed.insert(name);
    }

    /// Begins a listing.
    pub fn begin(&mut self) {
        self.next = None;
    }

    /// Whether a file that a listing found with this stamp is at rest.
    pub fn is_at_rest(&mut self, name: &FileName, stamp: Stamp, wall: SystemTime, now: Instant) -> bool {
        let closed = self.closed.remove(name);
        let seen = self.seen.entry(name.clone()).or_insert(Seen { stamp, since: now, closed });
        if seen.stamp != stamp {
            *seen = Seen { stamp, since: now, closed };
        }
        seen.closed |= closed;
        let quiet = unchanged_for(stamp, wall).max(now.duration_since(seen.since));
        if seen.closed || quiet >= QUIET {
            return true;
        }
        let at = now + QUIET.saturating_sub(quiet);
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
        false
    }

    /// Ends a listing that saw everything: what it did not see is forgotten.
    pub fn end(&mut self, listing: &Listing) {
        self.seen.retain(|name, _| listing.contains_key(name));
        self.closed.retain(|name| listing.contains_key(name));
    }

    /// When the next file will be at rest if nobody touches it.
    pub fn next(&self) -> Option<Instant> {
        self.next
    }
}

/// How long ago the file was modified; zero for a time in the future.
fn unchanged_for(stamp: Stamp, wall: SystemTime) -> Duration {
    let now = wall.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| i128::try_from(since.as_nanos()).unwrap_or(i128::MAX));
    Duration::from_nanos(u64::try_from(now.saturating_sub(stamp.modified).max(0)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i128 = 1_000_000_000;

    fn name() -> FileName {
        FileName::new("x-1").unwrap()
    }

    fn stamp(modified: i128) -> Stamp {
        Stamp { inode: 1, size: 2, modified }
    }

    fn wall(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_file_is_at_rest_two_seconds_after_its_last_change() {
        let (mut rest, now) = (Rest::default(), Instant::now());
        assert!(!rest.is_at_rest(&name(), stamp(99 * SECOND), wall(100), now));
        assert_eq!(rest.next(), Some(now + Duration::from_secs(1)));
        rest.begin();
        assert_eq!(rest.next(), None);
        assert!(rest.is_at_rest(&name(), stamp(98 * SECOND), wall(100), now));
        assert_eq!(rest.next(), None);
    }

    #[test]
    fn a_time_in_the_future_is_outwaited_by_our_own_clock() {
        let (mut rest, now) = (Rest::default(), Instant::now());
        assert!(!rest.is_at_rest(&name(), stamp(900 * SECOND), wall(100), now));
        assert!(!rest.is_at_rest(&name(), stamp(900 * SECOND), wall(101), now + Duration::from_secs(1)));
        assert!(!rest.is_at_rest(&name(), stamp(901 * SECOND), wall(102), now + Duration::from_secs(2)), "it changed");
        assert!(rest.is_at_rest(&name(), stamp(901 * SECOND), wall(104), now + Duration::from_secs(4)));
    }

    #[test]
    fn what_was_closed_is_at_rest_until_it_changes() {
        let (mut rest, now) = (Rest::default(), Instant::now());
        rest.closed(name());
        assert!(rest.is_at_rest(&name(), stamp(100 * SECOND), wall(100), now));
        assert!(rest.is_at_rest(&name(), stamp(100 * SECOND), wall(100), now), "still the same");
        assert!(!rest.is_at_rest(&name(), stamp(101 * SECOND), wall(101), now), "written again");
        rest.closed(name());
        rest.end(&Listing::new());
        assert!(!rest.is_at_rest(&name(), stamp(101 * SECOND), wall(101), now), "another file of the same name");
    }
}
