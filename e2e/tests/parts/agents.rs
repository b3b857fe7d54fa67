//! Several agents: who lists a bucket, and who takes over.

// The values compared are counts and gauges of whole things.
#![allow(clippy::float_cmp)]

use std::slice;

use anyhow::{Result, ensure};
use e2e::operator::{Operator, OperatorSetup};
use e2e::proxy::{Fault, FaultProxy, On};
use e2e::site::Site;
use e2e::{snapshots, wait};

use crate::common::{RECORDS, all_ready, counted, local_beats, ready, rises, versions, writes};
use crate::invariants::{Left, as_found, invariants};
use crate::leases::{held_by, leases};
use crate::look::bucket_passes;

/// One agent of a bucket that it shares: its requests to the S3 server pass a proxy of its own.
pub struct Agent {
    pub site: Site,
    pub s3: FaultProxy,
    pub api: FaultProxy,
    pub setup: OperatorSetup,
}

impl Agent {
    /// On a node of its own, with the bucket of `site`, or the site's own.
    async fn of(bucket: Option<&Site>) -> Result<Self> {
        let mut site = Site::new().await?;
        if let Some(shared) = bucket {
            site.bucket = shared.bucket.clone();
        }
        Self::on(site)
    }

    /// On the node and with the bucket of this site.
    pub fn on(site: Site) -> Result<Self> {
        let (s3, (api, kubeconfig)) = (site.s3.proxied()?, site.api.proxied(site.scratch())?);
        // Behind an HTTP proxy the endpoint, which is the storage's identity, is the same for all.
        let setup = site.operator_with_bucket().flag("--etcd-s3-proxy", format!("http://{}", s3.endpoint())).env("KUBECONFIG", kubeconfig);
        Ok(Self { site, s3, api, setup })
    }

    pub fn lists(&self) -> usize {
        self.s3.count(&On::list_objects())
    }

    pub fn forget(&self) {
        self.s3.forget();
        self.api.forget();
    }
}

pub async fn leads(operator: &mut Operator) -> Result<()> {
    rises(operator, "etcd_snapshot_leader", &[], 0.0).await
}

pub async fn leads_no_more(operator: &mut Operator) -> Result<()> {
    operator
        .until("it to know that it does not lead", async |one| {
            ensure!(one.metrics().await?.get("etcd_snapshot_leader", &[])? == 0.0);
            Ok(())
        })
        .await
}

/// Only its leader shows what a bucket holds.
async fn shows_bucket(operator: &Operator) -> Result<bool> {
    let metrics = operator.metrics().await?;
    let shown = ["etcd_snapshot_files", "etcd_snapshot_bytes", "etcd_snapshot_last_good_timestamp_seconds"]
        .map(|name| metrics.series(name, &[("storage", "s3")]) > 0);
    ensure!(shown.iter().all(|one| *one == shown[0]), "some of them: {shown:?}");
    Ok(shown[0])
}

#[tokio::test]
async fn of_two_agents_one_lists_and_the_other_takes_over_when_it_ends() -> Result<()> {
    let first = Agent::of(None).await?;
    let second = Agent::of(Some(&first.site)).await?;
    let (a, b, object) = (first.site.name(1_700_000_000), second.site.name(1_700_000_001), first.site.name(1_700_000_002));
    first.site.place(&a, &snapshots::tiny(0))?;
    second.site.place(&b, &snapshots::tiny(1))?;
    first.site.put_ours(&object, snapshots::tiny(2)).await?;
    let mut leader = first.setup.start().await?;
    leads(&mut leader).await?;
    all_ready(&mut leader, &first.site, slice::from_ref(&a), slice::from_ref(&object)).await?;
    let mut follower = second.setup.start().await?;
    all_ready(&mut follower, &second.site, slice::from_ref(&b), slice::from_ref(&object)).await?;
    let records = async || -> Result<_> {
        Ok([first.site.local_records().await?, second.site.local_records().await?, first.site.bucket_records().await?]
            .map(|records| versions(&records)))
    };
    let before = records().await?;
    first.forget();
    second.forget();
    local_beats(&mut leader, 3).await?;
    bucket_passes(&mut leader, 2).await?;
    local_beats(&mut follower, 3).await?;
    ensure!(first.lists() >= 2 && second.s3.requests().is_empty(), "{} and {:?}", first.lists(), second.s3.requests());
    ensure!(shows_bucket(&leader).await? && !shows_bucket(&follower).await?);
    ensure!(
        counted(&follower, "etcd_snapshot_reconcile_s3_duration_seconds_count", &[]).await? == 0.0,
        "a follower has no pass of the bucket"
    );
    ensure!(
        counted(&leader, "etcd_snapshot_leader", &[]).await? == 1.0 && follower.metrics().await?.get("etcd_snapshot_leader", &[])? == 0.0
    );
    ensure!(records().await? == before && writes(&first.api) + writes(&second.api) == 0, "each has its own, and nobody writes");

    // Told to stop, it gives the Lease back: the other one leads, although the Lease would still be valid for long.
    let lease = held_by(&first.site).await?;
    leader.terminate().await?;
    let free = leases(&first.site).await?.into_iter().find(|one| one.metadata.name.as_ref() == lease.first());
    let holder = free.and_then(|lease| lease.spec?.holder_identity).unwrap_or_default();
    ensure!(!holder.starts_with(&first.site.node), "the Lease is still held by {holder}");
    leads(&mut follower).await?;
    let newer = second.site.name(1_700_000_003);
    let key = first.site.key(&newer);
    first.site.bucket.put(&key, snapshots::tiny(3)).await?;
    all_ready(&mut follower, &first.site, slice::from_ref(&a), &[object.clone(), newer]).await?;
    ensure!(shows_bucket(&follower).await? && held_by(&second.site).await? == lease);
    let (there, foreign) = ([a.clone(), b.clone(), object], as_found(&first.site.bucket, [key]).await?);
    let left = |local: String| Left::new(&[local], &there).foreign(foreign.clone());
    invariants(follower, &second.setup, &second.site, &left(b)).await?;
    let back = first.setup.start().await?;
    invariants(back, &first.setup, &first.site, &left(a)).await
}

#[tokio::test]
async fn a_leader_that_is_killed_is_replaced_and_its_local_records_stay() -> Result<()> {
    let first = Agent::of(None).await?;
    let second = Agent::of(Some(&first.site)).await?;
    let (local, gone, object) = (first.site.name(1_700_000_000), first.site.name(1_700_000_001), first.site.name(1_700_000_002));
    first.site.place(&local, &snapshots::tiny(0))?;
    first.site.put_ours(&gone, snapshots::tiny(1)).await?;
    let mut leader = first.setup.start().await?;
    all_ready(&mut leader, &first.site, slice::from_ref(&local), slice::from_ref(&gone)).await?;
    let mut follower = second.setup.start().await?;
    follower.beats(1).await?;
    leader.kill();
    first.site.bucket.delete(&first.site.key(&gone)).await?;
    first.site.put_ours(&object, snapshots::tiny(2)).await?;
    leads(&mut follower).await?;
    all_ready(&mut follower, &first.site, slice::from_ref(&local), slice::from_ref(&object)).await?;
    let there = [object, local.clone()];
    invariants(follower, &second.setup, &second.site, &Left::new(&[], &there)).await?;
    let back = first.setup.start().await?;
    invariants(back, &first.setup, &first.site, &Left::new(&[local], &there)).await
}

#[tokio::test]
async fn a_leader_that_slept_over_its_lease_does_nothing_when_it_wakes() -> Result<()> {
    let first = Agent::of(None).await?;
    let second = Agent::of(Some(&first.site)).await?;
    let names: Vec<String> = (0..4).map(|number| first.site.name(1_700_000_000 + number)).collect();
    for (number, name) in (0..).zip(&names[..3]) {
        first.site.put_ours(name, snapshots::tiny(number)).await?;
    }
    let mut sleeper = first.setup.start().await?;
    all_ready(&mut sleeper, &first.site, &[], &names[..3]).await?;
    let mut other = second.setup.start().await?;
    other.beats(1).await?;
    sleeper.pause()?;
    // The world goes on without it.
    leads(&mut other).await?;
    first.site.bucket.delete(&first.site.key(&names[0])).await?;
    first.site.put_ours(&names[3], snapshots::tiny(9)).await?;
    all_ready(&mut other, &first.site, &[], &names[1..]).await?;
    other.beats(2).await?;
    let before = versions(&first.site.bucket_records().await?);
    first.forget();
    // Nobody tells it: it has to know by its own clock.
    let unheard = first.api.when(On::any().path("*/leases/*"), Fault::Drop);
    sleeper.resume()?;
    local_beats(&mut sleeper, 3).await?;
    leads_no_more(&mut sleeper).await?;
    first.s3.forget();
    local_beats(&mut sleeper, 2).await?;
    ensure!(first.lists() == 0, "it lists a bucket that it does not lead");
    let election = first.api.count(&On::any().path("*/leases/*"));
    let change_nothing_else = writes(&first.api);
    ensure!(election > 0 && change_nothing_else == 0, "{:?}", first.api.requests());
    unheard.remove();
    other.beats(3).await?;
    ensure!(writes(&first.api) == 0, "{:?}", first.api.requests());
    ensure!(versions(&first.site.bucket_records().await?) == before, "a record flapped");
    ensure!(!shows_bucket(&sleeper).await? && shows_bucket(&other).await?);
    first.forget();
    local_beats(&mut sleeper, 2).await?;
    ensure!(first.lists() == 0, "it still lists");
    // And back again.
    other.terminate().await?;
    leads(&mut sleeper).await?;
    sleeper.beats(2).await?;
    ensure!(versions(&first.site.bucket_records().await?) == before, "a record flapped");
    invariants(sleeper, &first.setup, &first.site, &Left::new(&[], &names[1..])).await
}

#[tokio::test]
async fn a_delete_that_was_on_its_way_when_its_leader_fell_asleep_deletes_nothing_newer() -> Result<()> {
    let first = Agent::of(None).await?;
    let second = Agent::of(Some(&first.site)).await?;
    let object = [first.site.name(1_700_000_000)];
    first.site.put_ours(&object[0], snapshots::tiny(0)).await?;
    let mut sleeper = first.setup.start().await?;
    all_ready(&mut sleeper, &first.site, &[], &object).await?;
    let old = first.site.bucket_records().await?.remove(0);
    let mut other = second.setup.start().await?;
    other.beats(1).await?;
    let held = first.api.when(On::method("DELETE").path(RECORDS), Fault::Hold);
    first.site.bucket.delete(&first.site.key(&object[0])).await?;
    sleeper
        .until("its delete to be on its way", async |_| {
            ensure!(held.hits() == 1);
            Ok(())
        })
        .await?;
    sleeper.pause()?;
    // It is back, and is another object.
    first.site.put_ours(&object[0], snapshots::tiny(1)).await?;
    leads(&mut other).await?;
    let new = other
        .until("the record of the other object", async |_| {
            let record = first.site.bucket_records().await?.remove(0);
            ensure!(record.metadata.resource_version != old.metadata.resource_version && ready(&record));
            Ok(record)
        })
        .await?;
    held.release();
    sleeper.resume()?;
    local_beats(&mut sleeper, 2).await?;
    other.beats(2).await?;
    ensure!(versions(&first.site.bucket_records().await?) == versions(&[new]), "the record of the new object was deleted for the old one");
    invariants(sleeper, &first.setup, &first.site, &Left::new(&[], &object)).await?;
    invariants(other, &second.setup, &second.site, &Left::new(&[], &object)).await
}

#[tokio::test]
async fn agents_with_different_buckets_leave_each_other_alone() -> Result<()> {
    let (first, second) = (Agent::of(None).await?, Agent::of(None).await?);
    let (one, other) = (first.site.name(1_700_000_000), second.site.name(1_700_000_001));
    first.site.put_ours(&one, snapshots::tiny(0)).await?;
    second.site.put_ours(&other, snapshots::tiny(1)).await?;
    let (mut a, mut b) = (first.setup.start().await?, second.setup.start().await?);
    leads(&mut a).await?;
    leads(&mut b).await?;
    all_ready(&mut a, &first.site, &[], slice::from_ref(&one)).await?;
    all_ready(&mut b, &second.site, &[], slice::from_ref(&other)).await?;
    let before = versions(&second.site.bucket_records().await?);
    first.site.bucket.delete(&first.site.key(&one)).await?;
    all_ready(&mut a, &first.site, &[], &[]).await?;
    a.beats(2).await?;
    b.beats(2).await?;
    ensure!(versions(&second.site.bucket_records().await?) == before);
    // The Lease of one bucket is no other's.
    let held = (held_by(&first.site).await?, held_by(&second.site).await?);
    ensure!(held.0.len() == 1 && held.1.len() == 1 && held.0 != held.1, "{held:?}");
    // An agent that is given another bucket leaves the records of the first one as they are: its objects are still there.
    b.terminate().await?;
    let setup = second.setup.clone().flag("--etcd-s3-bucket", &first.site.bucket.name);
    let mut moved = setup.start().await?;
    a.terminate().await?;
    leads(&mut moved).await?;
    moved.beats(2).await?;
    ensure!(versions(&second.site.bucket_records().await?) == before);
    wait::until("the old bucket's Lease to be free", async || {
        ensure!(held_by(&second.site).await? == held.0);
        Ok(())
    })
    .await?;
    ensure!(second.site.bucket.keys().await? == [second.site.key(&other)]);
    let mut site = second.site;
    site.bucket = first.site.bucket.clone();
    invariants(moved, &setup, &site, &Left::default()).await
}
