//! One Lease, and whether we hold it: the protocol of client-go.
//!
//! In: a name, a namespace, who we are. Out: until when we may act as its leader. A Lease is over when it stood still for
//! its duration on our own clock; the clocks of others, which it shows, are never compared with ours. The time until which we
//! may act counts from before the request that renewed it, and ends well before anybody else may take it.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::OPERATOR;
use super::error::{Cause, Doing, Error, call_within};
use super::said::Said;
use crate::deadline::Moment;

const LEASES: &str = "leases.coordination.k8s.io";

/// The times of an election.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long a Lease stands still before somebody else may take it. Whole seconds.
    pub duration: Duration,
    /// How long a leader may act without having renewed it. Less than `duration`.
    pub renew_within: Duration,
    /// The time between two tries; those who wait take up to 2.2 times as long.
    pub retry: Duration,
}

impl Default for Timing {
    /// client-go's.
    fn default() -> Self {
        Self { duration: Duration::from_secs(15), renew_within: Duration::from_secs(10), retry: Duration::from_secs(2) }
    }
}

/// Who an agent is in elections: `<node>_<uuid>`, another one at each start.
pub fn holder(node: &str) -> String {
    let random = fastrand::u128(..);
    let part = |shift: u32, digits: u32| (random >> shift) & ((1 << (digits * 4)) - 1);
    let (version, variant) = (0x4000 | part(64, 3), 0x8000 | part(48, 4) & 0x3fff);
    format!("{node}_{:08x}-{:04x}-{version:04x}-{variant:04x}-{:012x}", part(96, 8), part(80, 4), part(0, 12))
}

/// Whether we lead. Clones look at the same election.
#[derive(Debug, Clone)]
pub struct Leadership(watch::Receiver<Option<Moment>>);

impl Leadership {
    /// Until when we may act as leader; None when we may not.
    pub fn until(&self) -> Option<Moment> {
        let until = *self.0.borrow();
        until.filter(|until| !until.has_come())
    }

    /// Waits until leadership begins or ends. Never returns once the election has stopped.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// One election that we take part in.
pub struct Election {
    api: Api<Lease>,
    namespace: String,
    name: String,
    holder: String,
    timing: Timing,
    params: PostParams,
    state: watch::Sender<Option<Moment>>,
    seen: Option<Seen>,
}

/// The Lease as last seen, and since when it looks like that.
struct Seen {
    lease: Lease,
    since: Instant,
}

impl Election {
    /// An election for the Lease of this name. [`Self::run`] takes part in it.
    pub fn new(client: kube::Client, namespace: &str, name: &str, holder: &str, timing: Timing) -> (Self, Leadership) {
        let (state, leadership) = watch::channel(None);
        let api = Api::namespaced(client, namespace);
        let election = Self {
            api,
            namespace: namespace.into(),
            name: name.into(),
            holder: holder.into(),
            timing,
            params: params(),
            state,
            seen: None,
        };
        (election, Leadership(leadership))
    }

    /// Takes part until told to stop, then gives the Lease back, so that the next one takes it over at once. Whoever acts
    /// as leader has to be done before.
    pub async fn run(mut self, stop: &CancellationToken) {
        let mut said = Said::of("this agent cannot take part in the election of a leader");
        loop {
            let begun = Moment::now();
            let tried = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                tried = self.try_once() => tried,
            };
            match tried {
                Ok(true) => {
                    said.works();
                    self.set(Some(begun.after(self.timing.renew_within)));
                }
                Ok(false) => {
                    said.works();
                    self.set(None);
                }
                Err(error) => {
                    said.failed(&error.failure());
                    if self.until().is_some_and(Moment::has_come) {
                        self.set(None);
                    }
                }
            }
            let pause = match self.until() {
                // A failed try is followed by another one before the time is over, and the end of it is noticed.
                Some(until) => self.timing.retry.min(until.timers().saturating_duration_since(Instant::now())),
                None => self.timing.retry.mul_f64(1.0 + 1.2 * fastrand::f64()),
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = sleep(pause) => {}
            }
        }
        self.release().await;
    }

    fn until(&self) -> Option<Moment> {
        *self.state.borrow()
    }

    /// Those who wait for a change are told of beginnings and ends, not of each renewal.
    fn set(&self, until: Option<Moment>) {
        let news = self.state.send_if_modified(|state| std::mem::replace(state, until).is_some() != until.is_some());
        if news {
            info!(lease = self.name, holder = self.holder, "{}", if until.is_some() { "leading" } else { "no longer leading" });
        }
    }

    /// One look and, if it is ours to take, one write. Whether we hold it.
    async fn try_once(&mut self) -> Result<bool, Error> {
        if let (Some(_), Some(seen)) = (self.until(), &self.seen) {
            // Nobody but us writes it while we lead, so there is nothing to ask. A conflict says otherwise.
            let lease = seen.lease.clone();
            match self.put(lease, |spec, holder| next_spec(spec, false, holder, Timestamp::now())).await {
                Err(Error { cause: Cause::Conflict(_) | Cause::NotFound(_), .. }) => {}
                other => return other,
            }
        }
        let Some(lease) = self.ask("get", || self.api.get_opt(&self.name)).await? else {
            return self.create().await;
        };
        let since = match &self.seen {
            Some(seen) if seen.lease.spec == lease.spec => seen.since,
            _ => Instant::now(),
        };
        let expired = since.elapsed() >= duration(lease.spec.as_ref());
        self.seen = Some(Seen { lease: lease.clone(), since });
        match self.put(lease, |spec, holder| next_spec(spec, expired, holder, Timestamp::now())).await {
            // Somebody else was faster.
            Err(Error { cause: Cause::Conflict(_) | Cause::NotFound(_), .. }) => Ok(false),
            other => other,
        }
    }

    async fn create(&mut self) -> Result<bool, Error> {
        let spec = next_spec(None, false, &self.holder, Timestamp::now()).map(|spec| self.timed(spec));
        let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
        let lease = Lease { metadata, spec };
        match self.ask("create", || self.api.create(&self.params, &lease)).await {
            Ok(lease) => {
                self.seen = Some(Seen { lease, since: Instant::now() });
                Ok(true)
            }
            Err(Error { cause: Cause::Conflict(_), .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Replaces what `lease` was, if `next` has something to say. Whether that was done.
    async fn put(&mut self, mut lease: Lease, next: impl FnOnce(Option<&LeaseSpec>, &str) -> Option<LeaseSpec>) -> Result<bool, Error> {
        let Some(spec) = next(lease.spec.as_ref(), &self.holder) else { return Ok(false) };
        lease.spec = Some(self.timed(spec));
        let lease = self.ask("update", || self.api.replace(&self.name, &self.params, &lease)).await?;
        self.seen = Some(Seen { lease, since: Instant::now() });
        Ok(true)
    }

    /// Two tries fit into the time that is left to renew, however slow the first.
    async fn ask<T, F>(&self, verb: &'static str, request: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = kube::Result<T>>,
    {
        let doing = Doing::new(verb, LEASES, format!("{}/{}", self.namespace, self.name));
        call_within(doing, self.timing.renew_within / 2, None, request).await
    }

    fn timed(&self, spec: LeaseSpec) -> LeaseSpec {
        LeaseSpec { lease_duration_seconds: i32::try_from(self.timing.duration.as_secs()).ok(), ..spec }
    }

    async fn release(&mut self) {
        let (Some(_), Some(seen)) = (self.until(), self.seen.take()) else { return };
        self.set(None);
        let mut freed = self.free(seen.lease).await;
        if let Err(Error { cause: Cause::Conflict(_), .. }) = freed {
            // Somebody wrote on it; it may be ours all the same.
            freed = match self.ask("get", || self.api.get(&self.name)).await {
                Ok(lease) => self.free(lease).await,
                Err(error) => Err(error),
            };
        }
        if let Err(error) = freed {
            info!(lease = self.name, "not given back, and free when its time is over: {}", error.failure());
        }
    }

    async fn free(&self, mut lease: Lease) -> Result<(), Error> {
        let Some(spec) = released_spec(lease.spec.as_ref(), &self.holder, Timestamp::now()) else { return Ok(()) };
        lease.spec = Some(spec);
        self.ask("update", || self.api.replace(&self.name, &self.params, &lease)).await?;
        Ok(())
    }
}

fn params() -> PostParams {
    PostParams { field_manager: Some(OPERATOR.into()), ..PostParams::default() }
}

/// How long this Lease has to stand still before it is over.
fn duration(spec: Option<&LeaseSpec>) -> Duration {
    let seconds = spec.and_then(|spec| spec.lease_duration_seconds).and_then(|seconds| u64::try_from(seconds).ok());
    Duration::from_secs(seconds.unwrap_or(0))
}

/// The next state of a Lease that `holder` takes or renews; None when somebody else holds it.
pub fn next_spec(spec: Option<&LeaseSpec>, expired: bool, holder: &str, now: Timestamp) -> Option<LeaseSpec> {
    let before = spec.cloned().unwrap_or_default();
    let held_by = before.holder_identity.as_deref().unwrap_or_default();
    let transitions = before.lease_transitions.unwrap_or(0);
    let (acquire_time, lease_transitions) = match held_by {
        _ if held_by == holder => (before.acquire_time.clone(), before.lease_transitions),
        "" => (Some(MicroTime(now)), Some(if spec.is_some() { transitions.saturating_add(1) } else { 0 })),
        _ if expired => (Some(MicroTime(now)), Some(transitions.saturating_add(1))),
        _ => return None,
    };
    Some(LeaseSpec { holder_identity: Some(holder.into()), acquire_time, renew_time: Some(MicroTime(now)), lease_transitions, ..before })
}

/// The state of a Lease that `holder` gives back; None when it is not its to give.
pub fn released_spec(spec: Option<&LeaseSpec>, holder: &str, now: Timestamp) -> Option<LeaseSpec> {
    let before = spec.filter(|spec| spec.holder_identity.as_deref() == Some(holder))?;
    // As client-go: nobody holds it, and whoever does not look at the holder waits one second.
    Some(LeaseSpec { holder_identity: None, lease_duration_seconds: Some(1), renew_time: Some(MicroTime(now)), ..before.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn held_by(holder: &str) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.into()),
            acquire_time: Some(MicroTime(time(1))),
            renew_time: Some(MicroTime(time(5))),
            lease_duration_seconds: Some(15),
            lease_transitions: Some(3),
            ..LeaseSpec::default()
        }
    }

    fn taken(spec: Option<&LeaseSpec>, expired: bool) -> Option<(i64, i64, i32)> {
        let next = next_spec(spec, expired, "us", time(9))?;
        assert_eq!(next.holder_identity.as_deref(), Some("us"));
        Some((next.acquire_time?.0.as_second(), next.renew_time?.0.as_second(), next.lease_transitions?))
    }

    #[test]
    fn a_lease_is_taken_when_it_is_new_free_or_over_and_kept_while_it_is_ours() {
        assert_eq!(taken(None, false), Some((9, 9, 0)));
        assert_eq!(taken(Some(&held_by("us")), false), Some((1, 9, 3)));
        assert_eq!(taken(Some(&held_by("us")), true), Some((1, 9, 3)));
        assert_eq!(taken(Some(&held_by("them")), false), None);
        assert_eq!(taken(Some(&held_by("them")), true), Some((9, 9, 4)));
        assert_eq!(taken(Some(&held_by("")), false), Some((9, 9, 4)));
        assert_eq!(taken(Some(&LeaseSpec::default()), false), Some((9, 9, 1)));
    }

    #[test]
    fn a_lease_that_is_given_back_is_free_at_once_and_only_ours_is_given_back() {
        let free = released_spec(Some(&held_by("us")), "us", time(9)).unwrap();
        assert_eq!((free.holder_identity.as_deref(), duration(Some(&free)).as_secs()), (None, 1));
        assert!(next_spec(Some(&free), false, "them", time(10)).is_some());
        assert_eq!(released_spec(Some(&held_by("them")), "us", time(9)), None);
        assert_eq!(released_spec(None, "us", time(9)), None);
    }

    #[test]
    fn every_start_is_somebody_else() {
        let (one, other) = (holder("cp1"), holder("cp1"));
        assert_ne!(one, other);
        assert!(one.starts_with("cp1_") && one.len() == 4 + 36 && one.as_bytes()[18] == b'4', "{one}");
    }
}
