//! Three agents on one API server and one bucket: who writes, who tells of whose failure, and who goes on when one is gone.

// The values compared are counts and gauges of whole things.
#![allow(clippy::float_cmp)]

use std::slice;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::operator::Operator;
use e2e::proxy::{Fault, FaultProxy, On};
use e2e::site::Site;
use e2e::{snapshots, wait};

use crate::agents::{Agent, leads, leads_no_more};
use crate::common::{counted, local_beats, name, versions, writes};
use crate::invariants::{Left, hears, invariants, told};
use crate::leases::{held_by, leases};
use crate::look::{annotation, bucket_becomes, is_well, local_becomes, value};
use crate::retention::{HOUR, hours_ago, place_old, put_good, removed, whole};
use crate::uploads::{backlog, uploads};

/// Agents of one bucket, each on a node of its own. Every object looks an hour older than it is, so that none was put there
/// just now; `_older` is what makes it so.
struct Together {
    agents: Vec<Agent>,
    _older: FaultProxy,
}

impl Together {
    async fn new(many: usize) -> Result<Self> {
        let first = Site::new().await?;
        let older = first.s3.proxied()?;
        for method in ["GET", "HEAD"] {
            older.when(On::method(method), Fault::Older(Duration::from_secs(HOUR)));
        }
        let bucket = first.bucket.clone();
        let mut sites = vec![first];
        for _ in 1..many {
            sites.push(Site::new().await?);
        }
        let on = |mut site: Site| {
            site.bucket = bucket.clone();
            site.s3.port = older.port();
            Agent::on(site)
        };
        let agents = sites.into_iter().map(on).collect::<Result<_>>()?;
        Ok(Self { agents, _older: older })
    }

    fn forget(&self) {
        self.agents.iter().for_each(Agent::forget);
    }
}

/// How many of them say that they lead.
async fn leaders(operators: &[Operator]) -> Result<f64> {
    let mut all = 0.0;
    for operator in operators {
        all += counted(operator, "etcd_snapshot_leader", &[]).await?;
    }
    Ok(all)
}

/// Nobody was kept from anything, removed anything or missed anything.
async fn peaceful(operator: &Operator) -> Result<()> {
    for name in ["vetoes_total", "removed_total", "vanished_total", "bucket_contested"] {
        let value = counted(operator, &format!("etcd_snapshot_{name}"), &[]).await?;
        ensure!(value == 0.0, "{name} is {value}");
    }
    Ok(())
}

#[tokio::test]
async fn three_agents_of_one_bucket_send_their_own_and_never_fight() -> Result<()> {
    let all = Together::new(3).await?;
    let mut files = Vec::new();
    for (number, agent) in (0..).zip(&all.agents) {
        let own = [30 + number, 20 + number].map(|hours| place_old(&agent.site, hours));
        files.push(own.into_iter().collect::<Result<Vec<_>>>()?);
    }
    let everything = files.concat();
    let mut operators = Vec::new();
    for agent in &all.agents {
        operators.push(agent.setup.start().await?);
    }
    for ((agent, operator), own) in all.agents.iter().zip(&mut operators).zip(&files) {
        bucket_becomes(operator, &agent.site, &whole(&everything)).await?;
        local_becomes(operator, &agent.site, &whole(own)).await?;
        backlog(operator, 0.0, 0.0).await?;
        is_well(operator).await?;
        ensure!(uploads(operator, "done").await? == 2 && uploads(operator, "failed").await? == 0);
        operator.beats(2).await?;
    }
    let records = async || -> Result<_> {
        let mut records = all.agents[0].site.bucket_records().await?;
        for agent in &all.agents {
            records.extend(agent.site.local_records().await?);
        }
        Ok(versions(&records))
    };
    let before = records().await?;
    all.forget();
    for operator in &mut operators {
        local_beats(operator, 4).await?;
    }
    ensure!(leaders(&operators).await? == 1.0, "{} lead", leaders(&operators).await?);
    ensure!(all.agents.iter().filter(|agent| agent.lists() > 0).count() == 1, "one lists");
    for agent in &all.agents {
        ensure!(writes(&agent.api) == 0, "{:?}", agent.api.requests());
        ensure!(agent.s3.count(&On::list_objects()) == agent.s3.requests().len(), "{:?}", agent.s3.requests());
    }
    ensure!(records().await? == before, "a record flapped");
    for (agent, operator) in all.agents.iter().zip(&operators) {
        peaceful(operator).await?;
        let events = told(&agent.site).await?;
        ensure!(events.iter().all(|(reason, ..)| reason == "ETCDSnapshotCreated"), "{events:#?}");
    }
    for ((agent, operator), own) in all.agents.iter().zip(operators).zip(&files) {
        invariants(operator, &agent.setup, &agent.site, &Left::new(own, &everything)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_leader_tells_of_an_upload_that_fails_elsewhere_until_it_succeeds() -> Result<()> {
    let all = Together::new(2).await?;
    let [first, second] = &all.agents[..] else { unreachable!("two") };
    let mut leader = first.setup.start().await?;
    leads(&mut leader).await?;
    let refused = second.s3.when(On::method("PUT"), Fault::s3(403, "AccessDenied"));
    let file = place_old(&second.site, 5)?;
    let mut follower = second.setup.start().await?;
    let record = leader
        .until("the leader's record of the failure", async |_| {
            let mut records = first.site.bucket_records().await?;
            ensure!(records.len() == 1, "{} records", records.len());
            records.pop().context("one")
        })
        .await?;
    let why = record.data["status"]["error"]["message"].as_str().unwrap_or_default();
    ensure!(name(&record).starts_with("s3-"), "{}", name(&record));
    ensure!(record.data["spec"]["nodeName"] == second.site.node.as_str() && record.data["spec"]["snapshotName"] == file.as_str());
    ensure!(why.contains("403 AccessDenied") && why.contains("s3:PutObject"), "{why}");
    ensure!(record.data["status"]["readyToUse"] == false && record.data["status"]["size"] == "0", "{:?}", record.data);
    let notes = hears(&mut leader, &first.site, "ETCDSnapshotFailed", 1).await?;
    ensure!(notes[0] == format!("Failed to save snapshot {file} on {}: {why}", second.site.node), "{notes:?}");
    let about = told(&first.site).await?;
    ensure!(about.iter().any(|(reason, about, _)| reason == "ETCDSnapshotFailed" && about == name(&record)), "{about:?}");
    backlog(&mut follower, 1.0, seconds(&file)?).await?;
    // It is tried again at each beat, and told once.
    let tried = refused.hits();
    follower
        .until("it to be tried again", async |_| {
            ensure!(refused.hits() >= tried + 2);
            Ok(())
        })
        .await?;
    leader.beats(2).await?;
    ensure!(uploads(&follower, "failed").await? >= 2 && uploads(&follower, "done").await? == 0);
    ensure!(value(&follower, "save_s3_duration_seconds_count", &[("status", "error")]).await? >= 2);
    ensure!(versions(&first.site.bucket_records().await?) == versions(slice::from_ref(&record)), "the record of the failure flapped");
    ensure!(hears(&mut leader, &first.site, "ETCDSnapshotFailed", 1).await?.len() == 1);

    refused.remove();
    bucket_becomes(&mut leader, &first.site, &whole(slice::from_ref(&file))).await?;
    let now = first.site.bucket_records().await?;
    ensure!(now.len() == 1 && name(&now[0]) == name(&record), "{} became {}", name(&record), name(&now[0]));
    ensure!(now[0].data["status"]["error"].is_null() && annotation(&now[0], "owner") == Some("ours"), "{:?}", now[0]);
    backlog(&mut follower, 0.0, 0.0).await?;
    is_well(&mut follower).await?;
    is_well(&mut leader).await?;
    peaceful(&leader).await?;
    peaceful(&follower).await?;
    invariants(follower, &second.setup, &second.site, &Left::new(slice::from_ref(&file), slice::from_ref(&file))).await?;
    invariants(leader, &first.setup, &first.site, &Left::new(&[], slice::from_ref(&file))).await
}

/// The time in a snapshot's name.
fn seconds(name: &str) -> Result<f64> {
    name.rsplit('-').next().context("a time")?.parse().context("seconds")
}

#[tokio::test]
async fn when_the_leader_is_killed_another_goes_on_with_uploads_and_retention() -> Result<()> {
    let all = Together::new(3).await?;
    let sites: Vec<&Site> = all.agents.iter().map(|agent| &agent.site).collect();
    let mut objects = Vec::new();
    for number in 0..3 {
        let object = sites[0].name(hours_ago(40 - number)?);
        put_good(sites[0], &sites[0].bucket, &sites[0].node, &object, &snapshots::tiny(number)).await?;
        objects.push(object);
    }
    let setups: Vec<_> = all.agents.iter().map(|agent| agent.setup.clone().flag("--etcd-s3-retention", "3")).collect();
    let mut leader = setups[0].start().await?;
    leads(&mut leader).await?;
    bucket_becomes(&mut leader, sites[0], &whole(&objects)).await?;
    let lease = held_by(sites[0]).await?;
    let mut others = [setups[1].start().await?, setups[2].start().await?];
    for other in &mut others {
        other.beats(1).await?;
    }
    ensure!(leaders(&others).await? == 0.0);
    leader.kill();
    // Whatever leads: it goes up.
    let new = place_old(sites[1], 2)?;
    wait::until("one of the others to lead", async || {
        ensure!(leaders(&others).await? == 1.0);
        Ok(())
    })
    .await?;
    let left: Vec<String> = objects[1..].iter().chain([&new]).cloned().collect();
    bucket_becomes(&mut others[0], sites[0], &whole(&left)).await?;
    let now = leases(sites[0]).await?.into_iter().find(|one| one.metadata.name.as_ref() == lease.first()).context("no Lease")?;
    let spec = now.spec.unwrap_or_default();
    ensure!(spec.lease_duration_seconds == Some(15) && spec.lease_transitions == Some(1), "{spec:?}");
    let by_whom = usize::from(counted(&others[1], "etcd_snapshot_leader", &[]).await? == 1.0);
    hears(&mut others[by_whom], sites[1 + by_whom], "ETCDSnapshotDeleted", 1).await?;
    ensure!(removed(&others[by_whom], "s3", "beyond-retention").await? == 1);
    ensure!(removed(&others[1 - by_whom], "s3", "beyond-retention").await? == 0);
    for other in &others {
        ensure!(counted(other, "etcd_snapshot_vanished_total", &[]).await? == 0.0);
        ensure!(counted(other, "etcd_snapshot_bucket_contested", &[]).await? == 0.0);
    }
    // Whoever was killed follows when it is back.
    let mut back = setups[0].start().await?;
    back.beats(2).await?;
    ensure!(counted(&back, "etcd_snapshot_leader", &[]).await? == 0.0);
    invariants(back, &setups[0], sites[0], &Left::new(&[], &left)).await?;
    let [second, third] = others;
    invariants(second, &setups[1], sites[1], &Left::new(slice::from_ref(&new), &left)).await?;
    invariants(third, &setups[2], sites[2], &Left::new(&[], &left)).await
}

#[tokio::test]
async fn a_leader_that_fell_asleep_between_question_and_deletion_deletes_nothing_when_it_wakes() -> Result<()> {
    let all = Together::new(2).await?;
    let [first, second] = &all.agents[..] else { unreachable!("two") };
    let site = &first.site;
    let mut objects = Vec::new();
    for number in 0..3 {
        let object = site.name(hours_ago(40 - number)?);
        put_good(site, &site.bucket, &site.node, &object, &snapshots::tiny(number)).await?;
        objects.push(object);
    }
    let setups: Vec<_> = all.agents.iter().map(|agent| agent.setup.clone().flag("--etcd-s3-retention", "3")).collect();
    let mut sleeper = setups[0].start().await?;
    leads(&mut sleeper).await?;
    bucket_becomes(&mut sleeper, site, &whole(&objects)).await?;
    let mut other = setups[1].start().await?;
    other.beats(1).await?;

    // It has asked about the oldest, and the answer is on its way.
    let held = first.s3.when(On::method("HEAD").path(&format!("*/{}", objects[0])), Fault::HoldAnswer);
    let new = place_old(&second.site, 2)?;
    sleeper
        .until("it to ask about what is to go", async |_| {
            ensure!(held.hits() == 1);
            Ok(())
        })
        .await?;
    sleeper.pause()?;
    first.s3.forget();
    leads(&mut other).await?;
    let left: Vec<String> = objects[1..].iter().chain([&new]).cloned().collect();
    bucket_becomes(&mut other, site, &whole(&left)).await?;
    ensure!(removed(&other, "s3", "beyond-retention").await? == 1);
    // Somebody puts back what the other one has removed: it is not what the sleeper asked about.
    site.put_ours(&objects[0], snapshots::sized(9, 4_000)).await?;
    held.release();
    sleeper.resume()?;
    local_beats(&mut sleeper, 3).await?;
    leads_no_more(&mut sleeper).await?;
    local_beats(&mut sleeper, 2).await?;
    ensure!(first.s3.count(&On::method("DELETE")) == 0, "{:?}", first.s3.requests());
    ensure!(removed(&sleeper, "s3", "beyond-retention").await? == 0);
    // It changed last, so it has a place, and stays as what it is.
    let mut shown = whole(&left);
    shown.insert(objects[0].clone(), "plausible".to_owned());
    bucket_becomes(&mut other, site, &shown).await?;
    other.beats(2).await?;
    ensure!(removed(&other, "s3", "beyond-retention").await? == 1);
    ensure!(counted(&other, "etcd_snapshot_vanished_total", &[]).await? == 0.0);
    let left: Vec<String> = left.into_iter().chain([objects[0].clone()]).collect();
    invariants(sleeper, &setups[0], site, &Left::new(&[], &left)).await?;
    invariants(other, &setups[1], &second.site, &Left::new(slice::from_ref(&new), &left)).await
}
