//! Says a failure when it begins, when its reason changes and when it ends, and not at each try; and waits between tries.

use std::time::Duration;

use tracing::{info, warn};

use crate::snapshot::Failure;

/// What was last said of one thing that is tried again and again.
#[derive(Debug)]
pub(super) struct Said {
    what: &'static str,
    category: Option<&'static str>,
}

impl Said {
    pub(super) fn of(what: &'static str) -> Self {
        Self { what, category: None }
    }

    /// It failed. True when that was said, and not known already.
    pub(super) fn failed(&mut self, failure: &Failure) -> bool {
        let is_news = self.category.replace(failure.category) != Some(failure.category);
        if is_news {
            warn!(category = failure.category, "{}: {failure}", self.what);
        }
        is_news
    }

    /// It works. True when it did not before.
    pub(super) fn works(&mut self) -> bool {
        let is_news = self.category.take().is_some();
        if is_news {
            info!("{}: works again", self.what);
        }
        is_news
    }
}

/// The time until the next try: doubles from the first to the longest, each cut by up to half at random, so that agents
/// that lost the same server do not come back at the same moment.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }

    pub(super) fn next(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(self.longest);
        now.mul_f64(1.0 - fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_said_when_it_begins_changes_and_ends() {
        let mut said = Said::of("x");
        let (a, b) = (Failure::new("a", "one"), Failure::new("b", "two"));
        let story = [said.works(), said.failed(&a), said.failed(&a), said.failed(&b), said.failed(&a), said.works(), said.works()];
        assert_eq!(story, [false, true, false, true, true, true, false]);
    }

    #[test]
    fn tries_become_rarer_up_to_a_limit() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, second * 5);
        for most in [1, 2, 4, 5, 5].map(|n| second * n) {
            let wait = backoff.next();
            assert!(wait <= most && wait >= most / 2, "{wait:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= second);
    }
}
