//! The loops: when a pass runs, and what a beat is.
//!
//! Triggers carry no data; all of them mean *look again*, and are coalesced. At most one pass of a storage runs at a time.
//! The beat is the tick of the reconcile interval: it wakes every loop, and a beat that finds a pass running joins it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// How one pass ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassEnd {
    /// From its beginning to its end.
    pub took: Duration,
    /// Whether every part of it succeeded.
    pub ok: bool,
}

/// What a loop tells the beat that it took part in; None when this agent has no such pass (no bucket, not its leader).
pub type BeatPart = Option<PassEnd>;

/// Wakes one loop.
#[derive(Debug, Default)]
pub struct Wake {
    again: Notify,
    beats: Mutex<Beats>,
}

/// The beats that wait for a pass, and whether one runs.
#[derive(Debug, Default)]
struct Beats {
    running: bool,
    joined: Vec<oneshot::Sender<BeatPart>>,
}

impl Wake {
    /// Look again, soon. Many calls are one.
    pub fn wake(&self) {
        self.again.notify_one();
    }

    /// Look again for a beat. It is answered when the pass that serves it has ended: the running one, else the next.
    pub fn beat(&self) -> oneshot::Receiver<BeatPart> {
        let (answer, part) = oneshot::channel();
        let mut beats = self.beats();
        beats.joined.push(answer);
        if !beats.running {
            self.wake();
        }
        part
    }

    fn begin(&self) {
        self.beats().running = true;
    }

    fn end(&self, part: BeatPart) {
        let mut beats = self.beats();
        beats.running = false;
        for beat in beats.joined.drain(..) {
            // Nobody waits any more when the process is stopping.
            beat.send(part).ok();
        }
    }

    fn beats(&self) -> std::sync::MutexGuard<'_, Beats> {
        self.beats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs one storage's passes, one at a time, until told to stop. A pass that is running then has `grace` to end.
pub async fn run(mut pass: impl AsyncFnMut() -> BeatPart, wake: &Wake, grace: Duration, stop: &CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = wake.again.notified() => {}
        }
        wake.begin();
        let ended = {
            let running = pass();
            tokio::pin!(running);
            tokio::select! {
                part = &mut running => Some(part),
                () = stop.cancelled() => tokio::time::timeout(grace, running).await.ok(),
            }
        };
        let Some(part) = ended else { return };
        wake.end(part);
    }
}

/// Ticks at every whole interval from now on, without drift. A tick that comes late is made once and not for each one missed.
pub async fn beats(interval: Duration, mut beat: impl FnMut(), stop: &CancellationToken) {
    let mut ticks = tokio::time::interval_at(Instant::now(), interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = ticks.tick() => beat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn beats_come_on_the_beat_however_long_each_one_takes() {
        for interval in [SECOND, Duration::from_mins(2), Duration::from_mins(10)] {
            let (begun, stop) = (Instant::now(), CancellationToken::new());
            let seen = Rc::new(Cell::new(Vec::new()));
            let count = Rc::new(Cell::new(0));
            let (seen_by_beat, stop_by_beat) = (seen.clone(), stop.clone());
            let beat = move || {
                let mut all = seen_by_beat.take();
                all.push(begun.elapsed());
                count.set(all.len());
                if all.len() == 5 {
                    stop_by_beat.cancel();
                }
                seen_by_beat.set(all);
            };
            beats(interval, beat, &stop).await;
            assert_eq!(seen.take(), (0..5).map(|n| interval * n).collect::<Vec<_>>());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_beat_is_made_once_and_the_next_is_on_time_again() {
        let (begun, stop) = (Instant::now(), CancellationToken::new());
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let stopper = stop.clone();
        let ticking = async move {
            let mut made = 0;
            beats(
                SECOND,
                || {
                    made += 1;
                    told.send(begun.elapsed()).unwrap();
                    if made == 4 {
                        stopper.cancel();
                    }
                },
                &stop,
            )
            .await;
        };
        tokio::pin!(ticking);
        // Not polled from 1.0 s to 3.5 s: two beats are missed, one is made up, then 4.0 s.
        tokio::time::timeout(SECOND, &mut ticking).await.unwrap_err();
        tokio::time::advance(Duration::from_millis(2500)).await;
        ticking.await;
        let mut seen = Vec::new();
        while let Ok(at) = heard.try_recv() {
            seen.push(at.as_millis());
        }
        assert_eq!(seen, [0, 1000, 3500, 4000]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_beat_joins_the_running_pass_and_many_wakes_are_one_more() {
        let (wake, stop) = (Rc::new(Wake::default()), CancellationToken::new());
        let passes = Rc::new(Cell::new(0));
        let count = passes.clone();
        let pass = async move || {
            count.set(count.get() + 1);
            tokio::time::sleep(10 * SECOND).await;
            Some(PassEnd { took: 10 * SECOND, ok: true })
        };
        let driver = async {
            wake.wake();
            tokio::time::sleep(SECOND).await;
            let first = wake.beat();
            let second = wake.beat();
            assert_eq!(first.await.unwrap(), Some(PassEnd { took: 10 * SECOND, ok: true }));
            assert!(second.await.unwrap().is_some());
            tokio::time::sleep(30 * SECOND).await;
            assert_eq!(passes.get(), 1, "both beats were served by the pass that ran");
            wake.wake();
            tokio::time::sleep(SECOND).await;
            (1..100).for_each(|_| wake.wake());
            tokio::time::sleep(60 * SECOND).await;
            stop.cancel();
        };
        tokio::join!(run(pass, &wake, SECOND, &stop), driver);
        assert_eq!(passes.get(), 3, "a hundred wakes during a pass are one more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pass_has_its_grace_and_not_more_when_told_to_stop() {
        for (length, ends) in [(3, true), (7, false)] {
            let (wake, stop, ended) = (Wake::default(), CancellationToken::new(), Rc::new(Cell::new(false)));
            let end = ended.clone();
            let pass = async move || {
                tokio::time::sleep(length * SECOND).await;
                end.set(true);
                None
            };
            wake.wake();
            let driver = async {
                tokio::time::sleep(SECOND).await;
                stop.cancel();
            };
            let begun = Instant::now();
            tokio::join!(run(pass, &wake, 5 * SECOND, &stop), driver);
            assert_eq!(ended.get(), ends);
            assert!(begun.elapsed() <= 6 * SECOND);
        }
    }
}
