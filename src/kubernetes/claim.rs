//! The Lease by which one agent saves for the whole cluster: looked at, and replaced if nobody was faster.
//!
//! In: claims. Out: the claim that is written, and how long it has looked as it does, on our own clock. Whose a slot is is decided
//! elsewhere. When the API server does not answer, that is an error, and each node saves for itself.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use tokio::time::Instant;

use super::OPERATOR;
use super::error::{Cause, Doing, Error, REQUEST_TIMEOUT, call_within};
use crate::schedule::{Attempt, Claim, Outcome};

const LEASES: &str = "leases.coordination.k8s.io";
/// The name of the Lease.
pub const SCHEDULE_LEASE: &str = "etcd-snapshot-operator-schedule";
const SLOT: &str = "etcd-snapshot-operator.dev/slot";
const OUTCOME: &str = "etcd-snapshot-operator.dev/outcome";
/// For those who look at Leases in general: how long this one has to stand still before somebody else may take it.
const STANDS_SECONDS: i32 = 120;

/// What a look at the Lease showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// The claim that is written; None when there is none, or one that says nothing.
    pub claim: Option<Claim>,
    /// How long it has looked as it does.
    pub stood_still: Duration,
}

/// The Lease of the schedule, and what we last saw of it.
pub struct Claims {
    api: Api<Lease>,
    namespace: String,
    name: String,
    seen: Option<(Lease, Instant)>,
}

impl Claims {
    /// The Lease of this name, which is [`SCHEDULE_LEASE`] but for tests. Asks for nothing yet.
    pub fn new(client: kube::Client, namespace: &str, name: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), namespace: namespace.into(), name: name.into(), seen: None }
    }

    /// Looks at the Lease.
    pub async fn look(&mut self) -> Result<Looked, Error> {
        let Some(lease) = self.ask("get", || self.api.get_opt(&self.name)).await? else {
            self.seen = None;
            return Ok(Looked { claim: None, stood_still: Duration::ZERO });
        };
        let since = match &self.seen {
            Some((seen, since)) if seen.metadata.resource_version == lease.metadata.resource_version => *since,
            _ => Instant::now(),
        };
        let looked = Looked { claim: read(&lease), stood_still: since.elapsed() };
        self.seen = Some((lease, since));
        Ok(looked)
    }

    /// Writes a claim, or what became of it, in place of what the last look or write showed. False when somebody else was faster;
    /// then look again. Writing the same once more renews it.
    pub async fn write(&mut self, claim: &Claim, now: Timestamp) -> Result<bool, Error> {
        let params = PostParams { field_manager: Some(OPERATOR.into()), ..PostParams::default() };
        let seen = self.seen.as_ref().map(|(lease, _)| lease);
        let lease = written(&self.name, seen, claim, now);
        let written = if seen.is_some() {
            self.ask("update", || self.api.replace(&self.name, &params, &lease)).await
        } else {
            self.ask("create", || self.api.create(&params, &lease)).await
        };
        match written {
            Ok(lease) => {
                self.seen = Some((lease, Instant::now()));
                Ok(true)
            }
            Err(Error { cause: Cause::Conflict(_), .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn ask<T, F>(&self, verb: &'static str, request: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = kube::Result<T>>,
    {
        let doing = Doing::new(verb, LEASES, format!("{}/{}", self.namespace, self.name));
        call_within(doing, REQUEST_TIMEOUT, None, request).await
    }
}

/// What a Lease says of a slot; None when it says nothing that is understood.
fn read(lease: &Lease) -> Option<Claim> {
    let annotations = lease.metadata.annotations.as_ref()?;
    let spec = lease.spec.as_ref()?;
    let attempt = Attempt {
        slot: annotations.get(SLOT)?.parse().ok()?,
        at: spec.acquire_time.as_ref()?.0,
        outcome: annotations.get(OUTCOME).and_then(|word| Outcome::from_word(word))?,
    };
    Some(Claim { attempt, holder: spec.holder_identity.clone()? })
}

/// The Lease with this claim in it, in place of what was seen.
fn written(name: &str, seen: Option<&Lease>, claim: &Claim, now: Timestamp) -> Lease {
    let mut lease = seen
        .cloned()
        .unwrap_or_else(|| Lease { metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() }, ..Lease::default() });
    let before = lease.spec.take().unwrap_or_default();
    let transitions = match (seen, before.holder_identity.as_deref()) {
        (None, _) => 0,
        (Some(_), Some(holder)) if holder == claim.holder => before.lease_transitions.unwrap_or(0),
        (Some(_), _) => before.lease_transitions.unwrap_or(0).saturating_add(1),
    };
    let annotations = lease.metadata.annotations.get_or_insert_with(BTreeMap::new);
    annotations.insert(SLOT.into(), claim.attempt.slot.to_string());
    annotations.insert(OUTCOME.into(), claim.attempt.outcome.word().into());
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(claim.holder.clone()),
        acquire_time: Some(MicroTime(claim.attempt.at)),
        renew_time: Some(MicroTime(now)),
        lease_duration_seconds: Some(STANDS_SECONDS),
        lease_transitions: Some(transitions),
        ..before
    });
    lease
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn claim(slot: i64, outcome: Outcome, holder: &str) -> Claim {
        Claim { attempt: Attempt { slot: at(slot), at: at(slot + 3), outcome }, holder: holder.into() }
    }

    #[test]
    fn a_claim_is_read_as_it_was_written_and_what_others_put_on_the_lease_stays() {
        let mut first = written(SCHEDULE_LEASE, None, &claim(60, Outcome::Begun, "cp1_a"), at(64));
        assert_eq!(read(&first), Some(claim(60, Outcome::Begun, "cp1_a")));
        first.metadata.annotations.as_mut().unwrap().insert("theirs".into(), "x".into());
        first.metadata.resource_version = Some("7".into());
        let mut seen = first;
        for (next, transitions) in
            [(claim(60, Outcome::Saved, "cp1_a"), 0), (claim(120, Outcome::Begun, "cp2_b"), 1), (claim(120, Outcome::Failed, "cp2_b"), 1)]
        {
            seen = written(SCHEDULE_LEASE, Some(&seen), &next, at(200));
            assert_eq!(read(&seen), Some(next));
            let spec = seen.spec.as_ref().unwrap();
            assert_eq!((spec.lease_transitions, spec.renew_time.as_ref().unwrap().0), (Some(transitions), at(200)));
            assert_eq!(seen.metadata.resource_version.as_deref(), Some("7"));
            assert_eq!(seen.metadata.annotations.as_ref().unwrap()["theirs"], "x");
        }
    }

    #[test]
    fn a_lease_that_says_nothing_is_no_claim() {
        assert_eq!(read(&Lease::default()), None);
        let whole = written(SCHEDULE_LEASE, None, &claim(60, Outcome::Begun, "cp1_a"), at(64));
        for (key, value) in [(SLOT, "noon"), (OUTCOME, "maybe")] {
            let mut lease = whole.clone();
            lease.metadata.annotations.as_mut().unwrap().insert(key.into(), value.into());
            assert_eq!(read(&lease), None, "{key}");
        }
        assert_eq!(read(&Lease { spec: None, ..whole }), None);
    }
}
