//! The loop that saves on schedule: asks what is due, notes each attempt on the disk before it begins, and saves.
//!
//! It never sleeps for long: the clock on the wall may jump, and timers do not see that. With `--schedule-scope cluster` a slot
//! is claimed first; while the API server does not answer, each node saves for itself.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::saver::Saver;
use super::shared::Shared;
use super::voice;
use crate::decide::Mode;
use crate::decide::schedule::{Due, Hold, Known, Role, Turn, due, rank, turn};
use crate::etcd::Status;
use crate::health::Part;
use crate::kubernetes::claim::{Claims, SCHEDULE_LEASE};
use crate::kubernetes::events::{Kind, reason};
use crate::metrics::Run;
use crate::save::SaveError;
use crate::schedule::{Attempt, Claim, Noted, Outcome, Schedule, Scope};
use crate::snapshot::Failure;
use crate::storage::local::Directory;

/// The longest sleep.
const NAP: Duration = Duration::from_secs(20);
/// Between two tries of what cannot be done just now.
const RETRY: Duration = Duration::from_secs(5);
/// A claim is renewed so often; others take it over when it has stood still for two minutes.
const RENEW: Duration = Duration::from_secs(30);

/// Saves on schedule.
pub struct ScheduleLoop {
    shared: Arc<Shared>,
    directory: Directory,
    saver: Saver,
    schedule: Schedule,
    /// Only where one agent saves for all.
    claims: Option<Claims>,
    holder: String,
    jitter: Duration,
    counted: Option<Timestamp>,
    members: Option<usize>,
}

/// Whether a slot is ours to save.
enum Mine {
    Yes,
    Later,
    /// Somebody has saved for all.
    Elsewhere(Attempt),
}

impl ScheduleLoop {
    /// None where saves on schedule are turned off. Leases are in `namespace`, held as `holder`.
    pub fn new(shared: Arc<Shared>, directory: Directory, namespace: &str, holder: String) -> Option<Self> {
        let schedule = shared.settings.schedule.clone();
        shared.metrics.schedule(schedule.is_some(), None, None);
        let schedule = schedule?;
        let is_shared = shared.settings.scope == Scope::Cluster;
        let claims = is_shared.then(|| Claims::new(shared.client.clone(), namespace, SCHEDULE_LEASE));
        let saver = Saver::new(shared.clone(), directory.clone());
        let mut made = Self { shared, directory, saver, schedule, claims, holder, jitter: Duration::ZERO, counted: None, members: None };
        made.draw_jitter();
        Some(made)
    }

    /// Runs until told to stop.
    pub async fn run(mut self, stop: &CancellationToken) {
        // Whose cluster this is, and whether K3s is at work, is worth a moment.
        super::surroundings::looked(&self.shared).await;
        loop {
            let pause = tokio::select! {
                pause = self.look() => pause,
                // A save that runs sees the stop itself, and ends clean.
                () = stopped_at_rest(stop) => return,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Does what is due. How long to wait before the next look.
    async fn look(&mut self) -> Duration {
        if !self.shared.surroundings().listed {
            // Without the directory there is nowhere to save to, and nobody knows what it holds.
            return Duration::from_secs(1);
        }
        let noted = match self.directory.noted_schedule().await {
            Ok(noted) => noted,
            Err(failure) => return self.cannot(&failure),
        };
        let now = self.shared.now();
        let known = Known {
            schedule: &self.schedule,
            noted,
            newest_good: self.shared.surroundings().newest_good,
            saving: false,
            hold: self.hold(now),
            jitter: self.jitter,
            rank: self.rank().await,
            counted: self.counted,
        };
        let next = due(&known, now);
        let held = matches!(next, Due::Held { .. });
        self.shared.metrics.schedule(!held, self.schedule.next(now), self.schedule.interval(now));
        match next {
            Due::Note(noted) => self.note(noted).await,
            Due::Wait(until) => nap(until, now),
            Due::Held { slot, until, .. } => {
                if let Some(slot) = slot {
                    self.counted = Some(slot);
                    self.shared.metrics.ran(Run::Skipped, 1);
                }
                nap(until, now)
            }
            Due::Skip(slot) => {
                self.shared.metrics.ran(Run::Skipped, 1);
                self.note_attempt(noted, Attempt { slot, at: now, outcome: Outcome::Skipped }).await
            }
            Due::Start { slot, made_up, missed } => self.start(noted, slot, made_up, missed).await,
        }
    }

    async fn start(&mut self, noted: Option<Noted>, slot: Timestamp, made_up: bool, missed: u32) -> Duration {
        match self.claim(slot).await {
            Mine::Yes => {}
            Mine::Later => return RETRY,
            Mine::Elsewhere(attempt) => return self.note_attempt(noted, attempt).await,
        }
        let begun = Attempt { slot, at: self.shared.now(), outcome: Outcome::Begun };
        let pause = self.note_attempt(noted, begun).await;
        if !pause.is_zero() {
            return pause;
        }
        let metrics = self.shared.metrics.clone();
        metrics.ran(Run::Missed, missed);
        metrics.ran(Run::MadeUp, u32::from(made_up));
        tracing::info!(%slot, made_up, missed, "a snapshot is due");
        let (base, compress) = (self.shared.settings.base.clone(), self.shared.settings.compress);
        let saver = self.saver.clone();
        let made = {
            let saving = saver.save(&base, compress, Arc::new(|_, _| ()));
            tokio::pin!(saving);
            loop {
                tokio::select! {
                    ended = &mut saving => break ended,
                    () = tokio::time::sleep(RENEW) => self.tell_others(begun).await,
                }
            }
        };
        let (outcome, run) = match &made {
            Ok(file) => {
                self.members = Some(file.facts.members.len());
                (Outcome::Saved, Run::Done)
            }
            Err(SaveError::Busy { .. } | SaveError::Learner(_)) => (Outcome::Skipped, Run::Skipped),
            // As it was noted: begun.
            Err(SaveError::Stopped) => return RETRY,
            Err(_) => (Outcome::Failed, Run::Failed),
        };
        metrics.ran(run, 1);
        let ended = Attempt { outcome, ..begun };
        self.tell_others(ended).await;
        self.draw_jitter();
        self.note_attempt(noted, ended).await
    }

    /// Why there are no saves on schedule now. While nobody can say whether K3s is at work they go on: the day when the API server is
    /// away is one on which a snapshot is wanted.
    fn hold(&self, now: Timestamp) -> Option<Hold> {
        let settings = &self.shared.settings;
        if settings.mode == Mode::Observe {
            return Some(Hold::Observing);
        }
        let k3s = self.shared.surroundings().k3s_at_work_here(now, settings.interval);
        (k3s == Some(true)).then_some(Hold::K3sAtWork)
    }

    async fn rank(&self) -> u32 {
        if self.claims.is_none() {
            return 0;
        }
        rank(role(self.shared.historian.member().status().await.ok().as_ref()), self.members)
    }

    /// Claims the slot, where one saves for all.
    async fn claim(&mut self, slot: Timestamp) -> Mine {
        let Some(claims) = &mut self.claims else { return Mine::Yes };
        let now = self.shared.now();
        let asked = match claims.look().await {
            Ok(looked) => match turn(&self.schedule, looked.claim.as_ref(), looked.stood_still, slot, &self.holder, now) {
                Turn::Take(claim) => claims.write(&claim, now).await.map(|written| if written { Mine::Yes } else { Mine::Later }),
                Turn::Ours => Ok(Mine::Yes),
                Turn::Theirs => Ok(Mine::Later),
                Turn::Done(attempt) => Ok(Mine::Elsewhere(attempt)),
            },
            Err(error) => Err(error),
        };
        let failure = asked.as_ref().err().map(crate::kubernetes::Error::failure);
        self.shared.voice.hear("claiming a slot for the whole cluster", failure.as_ref());
        // A snapshot too many is better than none.
        asked.unwrap_or(Mine::Yes)
    }

    /// Renews our claim, or says in it what became of the attempt.
    async fn tell_others(&mut self, attempt: Attempt) {
        let Some(claims) = &mut self.claims else { return };
        let claim = Claim { attempt, holder: self.holder.clone() };
        let told = claims.write(&claim, self.shared.now()).await;
        let failure = told.err().map(|error| error.failure());
        self.shared.voice.hear("telling the other nodes of a save", failure.as_ref());
    }

    async fn note_attempt(&mut self, noted: Option<Noted>, attempt: Attempt) -> Duration {
        let since = noted.map_or(attempt.at, |noted| noted.since);
        self.note(Noted { since, attempt: Some(attempt) }).await
    }

    /// Zero when it is noted.
    async fn note(&self, noted: Noted) -> Duration {
        match self.directory.note_schedule(noted).await {
            Ok(()) => {
                if self.shared.voice.hear(ABOUT, None) == voice::Turn::Ended {
                    self.shared.health.ill(Part::Saves, None);
                }
                Duration::ZERO
            }
            Err(failure) => self.cannot(&failure),
        }
    }

    /// No save begins that cannot be noted: it might begin again and again. So nobody else tells of it.
    fn cannot(&self, failure: &Failure) -> Duration {
        let shared = &self.shared;
        if shared.voice.hear(ABOUT, Some(failure)) == voice::Turn::Begun {
            let note = format!("No snapshot is saved on schedule while its attempt cannot be noted: {failure}");
            shared.tell(shared.our_node(), Kind::Warning, reason::FAILED, note);
        }
        shared.health.ill(Part::Saves, Some(failure.to_string()));
        RETRY
    }

    fn draw_jitter(&mut self) {
        self.jitter = self.shared.settings.jitter.mul_f64(fastrand::f64());
    }
}

/// How the log speaks of the state.
const ABOUT: &str = "noting attempts of the schedule in the state";

fn nap(until: Option<Timestamp>, now: Timestamp) -> Duration {
    until.map_or(NAP, |until| until.duration_since(now).try_into().unwrap_or(Duration::ZERO)).min(NAP)
}

/// What the member is to its cluster.
fn role(status: Option<&Status>) -> Role {
    match status {
        Some(status) if status.leader.is_none() || !status.alarms.is_empty() => Role::Ill,
        Some(status) if status.leader == Some(status.member) => Role::Leader,
        Some(_) => Role::Follower,
        None => Role::Ill,
    }
}

/// Told to stop, a save has this long to end clean before it is dropped.
async fn stopped_at_rest(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(RETRY).await;
}
