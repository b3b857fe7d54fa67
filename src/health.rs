//! Whether this agent is ready, whether a restart would help it, and what is ill: one state behind `/readyz` and `/healthz`.
//!
//! In: what the loops tell. Out: two answers with the text that explains them. Ready never depends on S3, etcd or
//! leadership, and once true stays true: a rollout that repairs an outage must not stall on it. Healthy is false only when
//! a restart helps. No secret may be told.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::decide::Mode;
use crate::snapshot::Storage;

/// A step without any progress takes no longer than this, or than twice the longest request, before its loop counts as stuck.
const PATIENCE: Duration = Duration::from_mins(10);
/// The name of the CRD, as `kubectl get crd` shows it.
const CRD: &str = "etcdsnapshotfiles.k3s.cattle.io";

/// One of the two loops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loop {
    /// Over the directory.
    Directory,
    /// Over the bucket.
    Bucket,
}

impl From<&Storage> for Loop {
    fn from(storage: &Storage) -> Self {
        match storage {
            Storage::Local { .. } => Self::Directory,
            Storage::S3 { .. } => Self::Bucket,
        }
    }
}

impl fmt::Display for Loop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directory => "directory",
            Self::Bucket => "bucket",
        })
    }
}

/// What can be ill while the agent goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The settings that are read again: Secret and ConfigMaps.
    Settings,
    /// The snapshot directory.
    Directory,
    /// The bucket.
    Bucket,
    /// The records of the directory, or the API server that holds them.
    Records,
    /// The records of the bucket.
    BucketRecords,
    /// Retention in the directory.
    Retention,
    /// Retention in the bucket.
    BucketRetention,
    /// Uploads to the bucket.
    Uploads,
    /// The etcd member.
    Member,
    /// Saving snapshots.
    Saves,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Settings => "settings",
            Self::Directory => "directory",
            Self::Bucket => "bucket",
            Self::Records => "records",
            Self::BucketRecords => "records of the bucket",
            Self::Retention => "retention",
            Self::BucketRetention => "retention in the bucket",
            Self::Uploads => "uploads",
            Self::Member => "etcd member",
            Self::Saves => "saving snapshots",
        })
    }
}

/// What a probe is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Yes or no.
    pub ok: bool,
    /// Why, a line each, for people.
    pub text: String,
}

/// The one state. Every method is short and none waits.
#[derive(Debug)]
pub struct Health {
    interval: Duration,
    state: Mutex<State>,
}

impl Health {
    /// `mode` is told to people, `interval` is the reconcile interval, `longest_request` the longest that one request may take by its own timeout.
    pub fn new(mode: Mode, interval: Duration, longest_request: Duration) -> Self {
        Self { interval, state: Mutex::new(State { mode, longest_request, ..State::default() }) }
    }

    /// A request may take this long by its own timeout: a loop that waits for it is not stuck.
    pub fn allow(&self, longest_request: Duration) {
        self.tell(|state| state.longest_request = state.longest_request.max(longest_request));
    }

    /// The directory was listed completely.
    pub fn directory_listed(&self) {
        self.tell(|state| state.listed = true);
    }

    /// Every record has been read once.
    pub fn records_synced(&self) {
        self.tell(|state| state.synced = true);
    }

    /// Whether the API server serves the CRD.
    pub fn crd(&self, served: bool) {
        self.tell(|state| state.crd = Some(served));
    }

    /// What is wrong with a part at present, in one sentence; None when nothing is.
    pub fn ill(&self, part: Part, why: Option<String>) {
        self.tell(|state| match why {
            Some(why) => _ = state.ill.insert(part, why),
            None => _ = state.ill.remove(&part),
        });
    }

    /// Until when K3s manages the records of this loop's storage; None when it does not.
    pub fn k3s_at_work(&self, of: Loop, until: Option<Timestamp>) {
        self.tell(|state| match until {
            Some(until) => _ = state.k3s_at_work.insert(of, until),
            None => _ = state.k3s_at_work.remove(&of),
        });
    }

    /// The directory that was opened at the start is another one now; only a restart opens the new one. None: it is itself.
    pub fn directory_replaced(&self, why: Option<String>) {
        self.tell(|state| state.replaced = why);
    }

    /// A pass begins and lasts as long as the answer lives. From its first pass on a loop is expected to beat.
    pub fn pass(&self, of: Loop) -> Pass<'_> {
        self.tell(|state| state.begins(of, Instant::now()));
        Pass { health: self, of }
    }

    /// A step of the running pass came further: a page, a file, a request. Without a running pass it says nothing.
    pub fn progress(&self, of: Loop) {
        self.tell(|state| state.progresses(of, Instant::now()));
    }

    /// This loop is not expected to run: another agent leads the bucket, or the agent is stopping.
    pub fn stands_down(&self, of: Loop) {
        self.tell(|state| _ = state.loops.remove(&of));
    }

    /// What `/readyz` says.
    pub fn ready(&self) -> Answer {
        self.state().readiness()
    }

    /// What `/healthz` says.
    pub fn healthy(&self) -> Answer {
        let now = Instant::now();
        let state = self.state();
        state.liveness(now, &Limits::new(self.interval, state.longest_request))
    }

    fn tell(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        state.ready = state.ready || state.waited_for().is_empty();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running pass; it ends when this is dropped, also when the pass is given up.
#[derive(Debug)]
#[must_use = "the pass ends when this is dropped"]
pub struct Pass<'a> {
    health: &'a Health,
    of: Loop,
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.health.tell(|state| state.rests(self.of, Instant::now()));
    }
}

/// How long a loop may do without a sign of life.
#[derive(Debug)]
struct Limits {
    pass: Duration,
    rest: Duration,
}

impl Limits {
    fn new(interval: Duration, longest_request: Duration) -> Self {
        let pass = PATIENCE.max(longest_request.saturating_mul(2));
        Self { pass, rest: interval.saturating_add(pass) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Pass,
    Rest,
}

#[derive(Debug, Default)]
struct State {
    listed: bool,
    synced: bool,
    crd: Option<bool>,
    /// Once everything was there; it does not become false again.
    ready: bool,
    ill: BTreeMap<Part, String>,
    mode: Mode,
    longest_request: Duration,
    k3s_at_work: BTreeMap<Loop, Timestamp>,
    replaced: Option<String>,
    /// What each loop does, and since when without a sign of life.
    loops: BTreeMap<Loop, (Doing, Instant)>,
}

impl State {
    fn begins(&mut self, of: Loop, now: Instant) {
        self.loops.insert(of, (Doing::Pass, now));
    }

    fn progresses(&mut self, of: Loop, now: Instant) {
        if let Some((Doing::Pass, since)) = self.loops.get_mut(&of) {
            *since = now;
        }
    }

    /// A loop that stood down while its pass was given up stays down.
    fn rests(&mut self, of: Loop, now: Instant) {
        if let Some(doing) = self.loops.get_mut(&of) {
            *doing = (Doing::Rest, now);
        }
    }

    fn waited_for(&self) -> Vec<String> {
        let mut missing = Vec::new();
        match self.crd {
            Some(true) => {}
            Some(false) => missing.push(format!("the CRD {CRD} to be served")),
            None => missing.push(format!("the API server to say whether it serves the CRD {CRD}")),
        }
        if !self.synced {
            missing.push("the records to be read".into());
        }
        if !self.listed {
            missing.push("the snapshot directory to be listed".into());
        }
        missing
    }

    fn readiness(&self) -> Answer {
        let mut text = String::from(if self.ready { "ready\n" } else { "not ready\n" });
        let mut line = |sentence: fmt::Arguments<'_>| writeln!(text, "{sentence}").expect("a String takes everything");
        if !self.ready {
            self.waited_for().iter().for_each(|missing| line(format_args!("waiting for: {missing}")));
        } else if self.crd == Some(false) {
            line(format_args!("ill: records: the CRD {CRD} is not served any more"));
        }
        for (part, why) in &self.ill {
            line(format_args!("ill: {part}: {why}"));
        }
        if self.mode == Mode::Observe {
            line(format_args!("observe mode: nothing is written"));
        }
        for (of, until) in &self.k3s_at_work {
            line(format_args!("{of}: K3s is at work: nothing is written until {}", until.strftime("%Y-%m-%dT%H:%M:%SZ")));
        }
        Answer { ok: self.ready, text }
    }

    fn liveness(&self, now: Instant, limits: &Limits) -> Answer {
        let mut wrong = Vec::new();
        if let Some(why) = &self.replaced {
            wrong.push(format!("the snapshot directory was replaced: {why}"));
        }
        for (of, (doing, since)) in &self.loops {
            let quiet = now.saturating_duration_since(*since);
            let minutes = quiet.as_secs() / 60;
            match doing {
                Doing::Pass if quiet > limits.pass => {
                    wrong.push(format!("the pass of the {of} has made no progress for {minutes} minutes"));
                }
                Doing::Rest if quiet > limits.rest => {
                    wrong.push(format!("the loop of the {of} has not begun a pass for {minutes} minutes"));
                }
                _ => {}
            }
        }
        let ok = wrong.is_empty();
        let head = if ok { "healthy" } else { "a restart is needed" };
        let text = std::iter::once(head.to_owned()).chain(wrong).map(|line| line + "\n").collect();
        Answer { ok, text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);
    const MINUTE: Duration = Duration::from_mins(1);

    fn health() -> Health {
        Health::new(Mode::Manage, 10 * MINUTE, MINUTE)
    }

    fn everything_came(health: &Health) {
        health.crd(true);
        health.records_synced();
        health.directory_listed();
    }

    #[test]
    fn it_says_what_it_waits_for_until_nothing_is_left() {
        let health = health();
        let text = |health: &Health| (health.ready().ok, health.ready().text);
        let first = "not ready\nwaiting for: the API server to say whether it serves the CRD etcdsnapshotfiles.k3s.cattle.io\n\
            waiting for: the records to be read\nwaiting for: the snapshot directory to be listed\n";
        assert_eq!(text(&health), (false, first.into()));
        health.directory_listed();
        health.crd(false);
        let second = "not ready\nwaiting for: the CRD etcdsnapshotfiles.k3s.cattle.io to be served\nwaiting for: the records to be read\n";
        assert_eq!(text(&health), (false, second.into()));
        health.crd(true);
        assert_eq!(text(&health), (false, "not ready\nwaiting for: the records to be read\n".into()));
        health.records_synced();
        assert_eq!(text(&health), (true, "ready\n".into()));
    }

    #[test]
    fn once_ready_it_stays_ready_and_says_what_is_ill() {
        let health = health();
        everything_came(&health);
        health.crd(false);
        health.ill(Part::Bucket, Some("listing s3://b/f at s3.example.com: connection refused".into()));
        health.ill(Part::Directory, Some("reading /snapshots: permission denied".into()));
        health.directory_replaced(Some("another device is mounted there".into()));
        let text = "ready\nill: records: the CRD etcdsnapshotfiles.k3s.cattle.io is not served any more\n\
            ill: directory: reading /snapshots: permission denied\n\
            ill: bucket: listing s3://b/f at s3.example.com: connection refused\n";
        assert_eq!(health.ready(), Answer { ok: true, text: text.into() });
        health.crd(true);
        health.ill(Part::Bucket, None);
        health.ill(Part::Directory, None);
        assert_eq!(health.ready().text, "ready\n");
    }

    #[test]
    fn what_keeps_it_from_writing_is_told_and_is_no_illness() {
        let health = Health::new(Mode::Observe, 10 * MINUTE, MINUTE);
        everything_came(&health);
        health.k3s_at_work(Loop::Directory, Some(Timestamp::constant(1_763_800_000, 5)));
        let text = "ready\nobserve mode: nothing is written\ndirectory: K3s is at work: nothing is written until 2025-11-22T08:26:40Z\n";
        assert_eq!(health.ready(), Answer { ok: true, text: text.into() });
        health.k3s_at_work(Loop::Directory, None);
        assert_eq!((health.ready().text.as_str(), health.healthy().ok), ("ready\nobserve mode: nothing is written\n", true));
    }

    #[test]
    fn neither_waiting_nor_illness_is_cured_by_a_restart() {
        let health = health();
        health.crd(false);
        health.ill(Part::Records, Some("the API server cannot be reached".into()));
        assert_eq!(health.healthy(), Answer { ok: true, text: "healthy\n".into() });
        health.directory_replaced(Some("its inode was 5 and is 9".into()));
        let text = "a restart is needed\nthe snapshot directory was replaced: its inode was 5 and is 9\n";
        assert_eq!(health.healthy(), Answer { ok: false, text: text.into() });
        health.directory_replaced(None);
        assert!(health.healthy().ok);
    }

    /// Ten minutes for a pass without progress, twenty between two.
    fn limits() -> Limits {
        Limits::new(10 * MINUTE, MINUTE)
    }

    #[test]
    fn a_pass_is_stuck_when_it_makes_no_progress_and_a_long_one_is_not() {
        let (mut state, start) = (State::default(), Instant::now());
        assert!(state.liveness(start + 100 * HOUR, &limits()).ok, "a loop that never began is waited for, not stuck");
        state.begins(Loop::Bucket, start);
        assert!(state.liveness(start + 10 * MINUTE, &limits()).ok);
        let text = "a restart is needed\nthe pass of the bucket has made no progress for 11 minutes\n";
        assert_eq!(state.liveness(start + 11 * MINUTE, &limits()), Answer { ok: false, text: text.into() });
        state.progresses(Loop::Bucket, start + HOUR);
        state.progresses(Loop::Directory, start + HOUR);
        assert!(state.liveness(start + HOUR + 10 * MINUTE, &limits()).ok);
        assert!(!state.liveness(start + HOUR + 11 * MINUTE, &limits()).ok);
    }

    #[test]
    fn a_loop_at_rest_is_stuck_when_its_beat_is_long_over() {
        let (mut state, start) = (State::default(), Instant::now());
        state.begins(Loop::Directory, start);
        state.rests(Loop::Directory, start + HOUR);
        state.progresses(Loop::Directory, start + 2 * HOUR);
        assert!(state.liveness(start + HOUR + 20 * MINUTE, &limits()).ok);
        let text = "a restart is needed\nthe loop of the directory has not begun a pass for 21 minutes\n";
        assert_eq!(state.liveness(start + HOUR + 21 * MINUTE, &limits()), Answer { ok: false, text: text.into() });
        state.begins(Loop::Directory, start + 2 * HOUR);
        assert!(state.liveness(start + 2 * HOUR, &limits()).ok);
    }

    #[test]
    fn a_pass_ends_with_its_guard_and_does_not_bring_back_a_loop_that_stood_down() {
        let health = health();
        let pass = health.pass(Loop::Bucket);
        assert_eq!(health.state().loops[&Loop::Bucket].0, Doing::Pass);
        drop(pass);
        assert_eq!(health.state().loops[&Loop::Bucket].0, Doing::Rest);
        let pass = health.pass(Loop::Bucket);
        health.stands_down(Loop::Bucket);
        drop(pass);
        assert!(health.state().loops.is_empty());
    }

    #[test]
    fn slow_settings_are_given_time() {
        let limits = Limits::new(Duration::from_hours(24), HOUR);
        assert_eq!((limits.pass, limits.rest), (2 * HOUR, 26 * HOUR));
        let limits = Limits::new(Duration::MAX, Duration::MAX);
        assert_eq!((limits.pass, limits.rest), (Duration::MAX, Duration::MAX));
        let health = health();
        health.allow(HOUR);
        health.allow(MINUTE);
        assert_eq!(health.state().longest_request, HOUR, "as long as the slowest that was ever set");
    }
}
