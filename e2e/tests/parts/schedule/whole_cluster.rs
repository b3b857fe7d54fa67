//! One save for the whole cluster: several agents, one of them saves.

use std::time::Duration;

use e2e::proxy::{Fault, On};
use e2e::site::unique;
use e2e::snapshots;
use etcd_snapshot_operator::kubernetes::claim::SCHEDULE_LEASE;
use k8s_openapi::api::coordination::v1::Lease;

use super::*;

#[tokio::test]
async fn of_three_agents_one_saves_each_slot_and_while_the_api_is_away_each_saves_for_itself() -> Result<()> {
    let etcd = Etcd::start().await?;
    let mut sites = Vec::new();
    let mut operators = Vec::new();
    let namespace = new_namespace().await?;
    for _ in 0..3 {
        let site = Site::new().await?;
        let (api, kubeconfig) = site.api.proxied(site.scratch())?;
        let setup = site
            .operator()
            .env("KUBECONFIG", kubeconfig)
            .flag("--namespace", &namespace)
            .flag("--etcd-endpoint", etcd.endpoint())
            .saving("* * * * *")
            .flag("--etcd-snapshot-jitter", "0s")
            .flag("--schedule-scope", "cluster");
        operators.push(setup.start().await?);
        sites.push((site, api));
    }
    let files = || -> Result<Vec<usize>> { sites.iter().map(|(site, _)| Ok(snapshots_in(&site.snapshots())?.len())).collect() };
    wait::until("a save of a slot, of which everybody knows", async || {
        let known = sites.iter().filter(|(site, _)| attempt(site).is_some()).count();
        ensure!(files()?.iter().sum::<usize>() > 0 && known == 3, "{:?} and {known}", files()?);
        Ok(())
    })
    .await?;
    // Once more, and then no two of one slot.
    let before = files()?.iter().sum::<usize>();
    wait::until("the next slot", async || {
        ensure!(files()?.iter().sum::<usize>() > before, "{:?}", files()?);
        Ok(())
    })
    .await?;
    let mut seen = operators.iter().flat_map(slots).collect::<Vec<_>>();
    seen.sort_unstable();
    ensure!(seen.windows(2).all(|two| two[0] != two[1]), "two saves of one slot: {seen:?} {:?}", files()?);

    let before = files()?;
    for (_, api) in &sites {
        api.cut();
    }
    wait::until("a save of each", async || {
        let now = files()?;
        ensure!(now.iter().zip(&before).all(|(now, before)| now > before), "{before:?} {now:?}");
        Ok(())
    })
    .await
}

/// A namespace of the test's own, for the Lease.
async fn new_namespace() -> Result<String> {
    let name = format!("leases-{}", unique());
    let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
    let made = Namespace { metadata, ..Namespace::default() };
    let client = e2e::shared::Shared::get()?.api.kubernetes().await?.client;
    Api::<Namespace>::all(client).create(&PostParams::default(), &made).await?;
    Ok(name)
}

/// Longer than a claim stands without a sign of life.
const UNTIL_TAKEN_OVER: Duration = Duration::from_mins(6);
/// When the snapshot was taken that each node has. The slot since then is due at once, and the next one far away.
const BEFORE: i64 = 1_600_000_000;

/// A node with a good snapshot from before the slot.
async fn with_an_old_one(etcd: &Etcd) -> Result<Site> {
    let site = Site::new().await?;
    site.place(&site.name(BEFORE), &snapshots::tiny(1))?;
    let mut operator = site.operator().flag("--etcd-endpoint", etcd.endpoint()).start().await?;
    newest_good(&mut operator, "local", 1_600_000_000.0).await?;
    operator.stop().await;
    Ok(site)
}

#[tokio::test]
async fn a_claim_without_an_outcome_or_a_sign_of_life_is_taken_over_by_the_next_agent() -> Result<()> {
    let etcd = Etcd::start().await?;
    let (first, second) = tokio::try_join!(with_an_old_one(&etcd), with_an_old_one(&etcd))?;
    let namespace = new_namespace().await?;
    let leases: Api<Lease> = Api::namespaced(first.kubernetes.client.clone(), &namespace);
    let setup = |site: &Site| {
        let setup = site.operator().flag("--etcd-endpoint", etcd.endpoint()).flag("--namespace", &namespace);
        setup.saving("@yearly").flag("--etcd-snapshot-jitter", "0s").flag("--schedule-scope", "cluster")
    };
    let claimed_by = async |site: &Site, outcome: &str| {
        let lease = leases.get(SCHEDULE_LEASE).await?;
        let holder = lease.spec.clone().and_then(|spec| spec.holder_identity).unwrap_or_default();
        let is = lease.metadata.annotations.as_ref().and_then(|all| all.get("etcd-snapshot-operator.dev/outcome"));
        ensure!(holder.starts_with(&format!("{}_", site.node)) && is.is_some_and(|is| is == outcome), "{lease:?}");
        Ok(())
    };

    // The first one never hears that it has claimed the slot, and cannot say another word of it. Should it outlive its patience, then
    // somebody else saves in its directory.
    let (api, kubeconfig) = first.api.proxied(first.scratch())?;
    let _claim = api.when(On::method("POST").path("*/leases*").times(1), Fault::HoldAnswer);
    api.when(On::writes().path("*/leases*"), Fault::Drop);
    let state = first.snapshots().with_file_name(".metadata").join(".state");
    let lock = std::fs::read_dir(state)?.next().context("no state")??.path().join("save.lock");
    let lock = std::fs::File::options().create(true).truncate(false).write(true).open(lock)?;
    lock.lock()?;
    let mut operator = setup(&first).env("KUBECONFIG", kubeconfig).start().await?;
    operator.until("the claim", async |_| claimed_by(&first, "begun").await).await?;
    operator.kill();
    drop(lock);

    // The next one finds the claim and waits.
    let (api, kubeconfig) = second.api.proxied(second.scratch())?;
    let mut operator = setup(&second).env("KUBECONFIG", kubeconfig).start().await?;
    let saved = wait::until_within(UNTIL_TAKEN_OVER, "a save of the next one", async || {
        ensure!(operator.ended().is_none(), "it has ended");
        claimed_by(&second, "saved").await?;
        let saved = snapshots_in(&second.snapshots())?.pop().context("none")?;
        ensure!(saved != second.name(BEFORE), "none but the old one");
        Ok(saved)
    });
    let saved = saved.await?;
    is_whole(&second.snapshots().join(&saved))?;
    let asked: Vec<String> = api.requests().into_iter().filter(|seen| seen.path.contains("/leases")).map(|seen| seen.method).collect();
    let looks = asked.iter().take_while(|method| *method == "GET").count();
    ensure!(looks >= 2 && looks < asked.len(), "it took the claim at the first look: {asked:?}");

    // Back again, the first one hears that the slot is saved.
    let mut back = setup(&first).start().await?;
    back.until("the first one to know of the save", async |_| attempt(&first).context("nothing is noted").map(drop)).await?;
    ensure!(snapshots_in(&first.snapshots())? == [first.name(BEFORE)], "{:?}", snapshots_in(&first.snapshots())?);
    ensure!(snapshots_in(&second.snapshots())? == [second.name(BEFORE), saved]);
    Ok(())
}

/// What the state remembers of the last attempt.
fn attempt(site: &Site) -> Option<Value> {
    let state = site.snapshots().with_file_name(".metadata").join(".state");
    let here = std::fs::read_dir(state).ok()?.next()?.ok()?.path().join(&site.node).join("schedule.json");
    let noted: Value = serde_json::from_slice(&std::fs::read(here).ok()?).ok()?;
    Some(noted).filter(|noted| !noted["slot"].is_null() || !noted["attempt"].is_null())
}
