//! The Lease of the schedule, with several who want the same slot.

use anyhow::{Result, ensure};
use e2e::shared::Shared;
use e2e::site::unique;
use etcd_snapshot_operator::kubernetes::claim::Claims;
use etcd_snapshot_operator::schedule::{Attempt, Claim, Outcome};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, DeleteParams};
use tokio::task::JoinSet;

use super::operators;

fn claim(slot: i64, outcome: Outcome, holder: &str) -> Result<Claim> {
    let (slot, at) = (Timestamp::from_second(1_800_000_000 + slot)?, Timestamp::from_second(1_800_000_002 + slot)?);
    Ok(Claim { attempt: Attempt { slot, at, outcome }, holder: holder.into() })
}

async fn claims(lease: &str) -> Result<Claims> {
    Ok(Claims::new(operators(&Shared::get()?.api.kubeconfig()).await?, "default", lease))
}

#[tokio::test]
async fn of_many_who_claim_a_slot_one_gets_it() -> Result<()> {
    let lease = format!("schedule-{}", unique());
    // The first one finds no Lease, the others the last slot's.
    for slot in [0, 60, 120] {
        let mut line = Vec::new();
        for racer in 0..8 {
            let (mut claims, claim) = (claims(&lease).await?, claim(slot, Outcome::Begun, &format!("cp{racer}_x"))?);
            claims.look().await?;
            line.push((claims, claim));
        }
        let mut racers = JoinSet::new();
        for (mut claims, claim) in line {
            racers.spawn(async move {
                let won = claims.write(&claim, Timestamp::now()).await?;
                anyhow::Ok(won.then_some(claim))
            });
        }
        let mut winners = Vec::new();
        while let Some(raced) = racers.join_next().await {
            winners.extend(raced??);
        }
        ensure!(winners.len() == 1, "{winners:?}");
        ensure!(claims(&lease).await?.look().await?.claim == winners.pop());
    }
    Ok(())
}

#[tokio::test]
async fn who_was_overtaken_is_told_so_and_who_renews_does_not_stand_still() -> Result<()> {
    let lease = format!("schedule-{}", unique());
    let (mut first, mut second) = (claims(&lease).await?, claims(&lease).await?);
    ensure!(first.look().await?.claim.is_none());
    ensure!(first.write(&claim(0, Outcome::Begun, "cp1_a")?, Timestamp::now()).await?);
    let seen = second.look().await?;
    let stood = second.look().await?.stood_still;
    ensure!(seen.claim == Some(claim(0, Outcome::Begun, "cp1_a")?) && stood > seen.stood_still, "{seen:?}, {stood:?}");

    // A renewal says the same and moves the Lease.
    ensure!(first.write(&claim(0, Outcome::Begun, "cp1_a")?, Timestamp::now()).await?);
    ensure!(!second.write(&claim(0, Outcome::Begun, "cp2_b")?, Timestamp::now()).await?, "a renewed claim was taken");
    ensure!(second.look().await?.stood_still < stood);

    ensure!(second.write(&claim(0, Outcome::Begun, "cp2_b")?, Timestamp::now()).await?);
    ensure!(!first.write(&claim(0, Outcome::Saved, "cp1_a")?, Timestamp::now()).await?, "an outcome replaced another's claim");
    ensure!(first.look().await?.claim == Some(claim(0, Outcome::Begun, "cp2_b")?));

    // Somebody removes it.
    let leases: Api<Lease> = Api::namespaced(Shared::get()?.api.kubernetes().await?.client, "default");
    leases.delete(&lease, &DeleteParams::default()).await?;
    ensure!(!second.write(&claim(0, Outcome::Saved, "cp2_b")?, Timestamp::now()).await?);
    ensure!(second.look().await?.claim.is_none());
    ensure!(second.write(&claim(0, Outcome::Saved, "cp2_b")?, Timestamp::now()).await?);
    let spec = leases.get(&lease).await?.spec.unwrap_or_default();
    ensure!(spec.holder_identity.as_deref() == Some("cp2_b") && spec.lease_transitions == Some(0), "{spec:?}");
    Ok(())
}
