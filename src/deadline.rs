//! Deadlines that nobody sleeps past.
//!
//! A process may be stopped and its machine suspended for as long as they like. When it goes on, answers that came meanwhile lie
//! before it, and no timer has fired yet: so whoever may act until a moment looks at the clock first, each time it goes on.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, sleep_until};

/// A moment on two clocks: that of timers, which stands still while the machine is suspended, and one that goes on meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    timers: Instant,
    since_boot: Duration,
}

impl Moment {
    /// This one.
    pub fn now() -> Self {
        let boot = clock_gettime(ClockId::Boottime);
        let since_boot = Duration::new(boot.tv_sec.try_into().unwrap_or(0), boot.tv_nsec.try_into().unwrap_or(0));
        Self { timers: Instant::now(), since_boot }
    }

    /// So much later.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        Self { timers: self.timers + time, since_boot: self.since_boot + time }
    }

    /// Whether it has come, by whichever clock is ahead.
    pub fn has_come(self) -> bool {
        let now = Self::now();
        now.timers >= self.timers || now.since_boot >= self.since_boot
    }

    /// For timers.
    pub fn timers(self) -> Instant {
        self.timers
    }
}

/// Works until the end and not a step further. None: the end came first, and the work was dropped where it was.
pub async fn before<T>(end: Moment, work: impl Future<Output = T>) -> Option<T> {
    let (mut timer, mut work) = (pin!(sleep_until(end.timers)), pin!(work));
    poll_fn(|context| {
        if end.has_come() || timer.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        work.as_mut().poll(context).map(Some)
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::sync::oneshot;
    use tokio::time::{advance, timeout};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn what_came_in_while_we_slept_is_not_acted_on() {
        let (tell, answer) = oneshot::channel();
        let acted = Cell::new(false);
        let mut working = pin!(before(Moment::now().after(10 * SECOND), async {
            answer.await.unwrap();
            acted.set(true);
        }));
        timeout(SECOND, &mut working).await.unwrap_err();
        // Both are there when it goes on: the answer, and the end.
        tell.send(()).unwrap();
        advance(20 * SECOND).await;
        assert_eq!(working.await, None);
        assert!(!acted.get());
    }

    #[tokio::test(start_paused = true)]
    async fn time_that_only_one_clock_counts_is_over_all_the_same() {
        let end = Moment { timers: Instant::now() + 10 * SECOND, since_boot: Moment::now().since_boot };
        assert!(end.has_come());
        assert_eq!(before(end, async {}).await, None);
        assert_eq!(before(Moment::now().after(10 * SECOND), async { 1 }).await, Some(1));
        let begun = Instant::now();
        assert_eq!(before(Moment::now().after(10 * SECOND), std::future::pending::<()>()).await, None, "it ends by itself");
        assert!(begun.elapsed() >= 10 * SECOND);
    }
}
