//! Elections, with two who want the same Lease.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use e2e::process::scratch;
use e2e::proxy::{Fault, On};
use e2e::shared::Shared;
use e2e::site::unique;
use e2e::wait;
use etcd_snapshot_operator::kubernetes::lease::{Election, Leadership, Timing, holder};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, DeleteParams};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{operators, user_who_may};

/// As the default, in a hurry.
const QUICK: Timing =
    Timing { duration: Duration::from_secs(2), renew_within: Duration::from_millis(1400), retry: Duration::from_millis(200) };

struct Candidate {
    holder: String,
    leadership: Leadership,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Candidate {
    async fn stand(kubeconfig: &Path, lease: &str) -> Result<Self> {
        Self::stand_with(QUICK, kubeconfig, lease).await
    }

    async fn stand_with(timing: Timing, kubeconfig: &Path, lease: &str) -> Result<Self> {
        let holder = holder("cp1");
        let (election, leadership) = Election::new(operators(kubeconfig).await?, "default", lease, &holder, timing);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move { election.run(&stopped).await });
        Ok(Self { holder, leadership, stop, task })
    }

    async fn leads(&self) -> Result<()> {
        wait::until("leadership", async || self.leadership.until().map(|_| ()).context("not leading")).await
    }

    async fn leads_no_more(&self) -> Result<()> {
        wait::until("the end of leadership", async || if self.leadership.until().is_none() { Ok(()) } else { bail!("leading") }).await
    }

    async fn resign(self) -> Result<()> {
        self.stop.cancel();
        Ok(self.task.await?)
    }
}

async fn leases() -> Result<Api<Lease>> {
    Ok(Api::namespaced(Shared::get()?.api.kubernetes().await?.client, "default"))
}

async fn held_by(lease: &str) -> Result<Option<String>> {
    Ok(leases().await?.get(lease).await?.spec.context("a spec")?.holder_identity)
}

#[tokio::test]
async fn one_of_two_leads_and_the_other_follows_when_it_resigns() -> Result<()> {
    let (kubeconfig, lease) = (Shared::get()?.api.kubeconfig(), format!("lease-{}", unique()));
    // Not given back, it would be free long after this test has lost its patience.
    let for_ever = Timing { duration: Duration::from_hours(1), ..QUICK };
    let first = Candidate::stand_with(for_ever, &kubeconfig, &lease).await?;
    first.leads().await?;
    let second = Candidate::stand(&kubeconfig, &lease).await?;
    let mut begins = second.leadership.clone();
    let begun = first.leadership.until().context("leading")?;
    wait::until("a renewal", async || first.leadership.until().filter(|until| *until > begun).context("not renewed")).await?;
    ensure!(second.leadership.until().is_none() && held_by(&lease).await?.as_ref() == Some(&first.holder));

    // Also when somebody else wrote on it last.
    let label = json!({ "metadata": { "labels": { "team": "x" } } });
    leases().await?.patch(&lease, &kube::api::PatchParams::default(), &kube::api::Patch::Merge(label)).await?;
    first.resign().await?;
    timeout(wait::PATIENCE, begins.changed()).await.context("nobody follows")?;
    ensure!(begins.until().is_some() && held_by(&lease).await?.as_ref() == Some(&second.holder));
    let spec = leases().await?.get(&lease).await?.spec.context("a spec")?;
    ensure!(spec.lease_transitions == Some(1) && spec.lease_duration_seconds == Some(2), "{spec:?}");
    second.resign().await?;
    ensure!(held_by(&lease).await?.is_none());
    Ok(())
}

#[tokio::test]
async fn a_leader_that_cannot_renew_stops_leading_before_another_begins() -> Result<()> {
    let api = &Shared::get()?.api;
    let (dir, lease) = (scratch()?, format!("lease-{}", unique()));
    let (proxy, kubeconfig) = api.proxied(dir.path())?;
    let first = Candidate::stand(&kubeconfig, &lease).await?;
    first.leads().await?;
    let second = Candidate::stand(&api.kubeconfig(), &lease).await?;
    for silence in [false, true] {
        if silence {
            proxy.black_hole();
        } else {
            proxy.cut();
        }
        second.leads().await?;
        ensure!(first.leadership.until().is_none(), "two lead");
        // And back again.
        proxy.restore();
        second.leads().await?;
        let others = leases().await?;
        let stolen = json!({ "spec": { "holderIdentity": first.holder } });
        others.patch(&lease, &kube::api::PatchParams::default(), &kube::api::Patch::Merge(stolen)).await?;
        second.leads_no_more().await?;
        first.leads().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_lease_that_is_deleted_or_spoiled_is_taken_anew() -> Result<()> {
    let api = &Shared::get()?.api;
    let (dir, lease) = (scratch()?, format!("lease-{}", unique()));
    let (proxy, kubeconfig) = api.proxied(dir.path())?;
    let only = Candidate::stand(&kubeconfig, &lease).await?;
    only.leads().await?;
    leases().await?.delete(&lease, &DeleteParams::default()).await?;
    wait::until("the Lease to be back", async || ensure_holder(&lease, &only.holder).await).await?;
    // An answer that is lost was given all the same.
    let lost = proxy.when(On::method("PUT").times(2), Fault::LoseAnswer);
    wait::until("lost answers", async || if lost.hits() == 2 { Ok(()) } else { bail!("{}", lost.hits()) }).await?;
    only.leads().await?;
    let puts = proxy.count(&On::method("PUT"));
    wait::until("renewals", async || if proxy.count(&On::method("PUT")) > puts + 2 { Ok(()) } else { bail!("none") }).await?;
    only.leads().await
}

async fn ensure_holder(lease: &str, holder: &str) -> Result<()> {
    let held = held_by(lease).await?;
    ensure!(held.as_deref() == Some(holder), "{held:?}");
    Ok(())
}

#[tokio::test]
async fn without_the_rights_nobody_leads_and_with_them_it_goes_on() -> Result<()> {
    let api = &Shared::get()?.api;
    let (dir, lease) = (scratch()?, format!("lease-{}", unique()));
    let stranger = Candidate::stand(&user_who_may(api, dir.path(), json!([])).await?, &lease).await?;
    let may = json!([{ "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"] }]);
    let enough = Candidate::stand(&user_who_may(api, dir.path(), may).await?, &lease).await?;
    enough.leads().await?;
    ensure!(stranger.leadership.until().is_none() && !stranger.task.is_finished());
    stranger.resign().await?;
    enough.resign().await
}
