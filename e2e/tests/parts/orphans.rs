//! Records of nodes that are gone, and of nodes that only look as if they were. Each test has an API server of its own: an
//! agent that takes an hour for a few seconds must not see the nodes of other tests.

// The values compared are counts and gauges of whole things.
#![allow(clippy::float_cmp)]

use std::slice;

use anyhow::{Context as _, Result, ensure};
use e2e::apiserver::ApiServer;
use e2e::operator::{Operator, OperatorSetup};
use e2e::proxy::{Fault, FaultProxy, On};
use e2e::shared::Shared;
use e2e::site::Site;
use e2e::snapshots;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DeleteParams};
use serde_json::{Value, json};

use crate::common::{complaints, local_beats, name, versions, writes};
use crate::invariants::{Left, invariants, told};
use crate::look::{annotation, bucket_becomes, expected, is_well, local_becomes, value};
use crate::retention::whole;

/// An API server alone, with the CRD.
async fn server() -> Result<ApiServer> {
    let server = ApiServer::start().await?;
    server.kubernetes().await?.apply_crd().await?;
    Ok(server)
}

/// An agent of a directory, whose requests to the API server pass a proxy.
struct Agent {
    site: Site,
    api: FaultProxy,
    setup: OperatorSetup,
}

impl Agent {
    async fn on(server: &ApiServer, grace: &str) -> Result<Self> {
        let site = Site::on(server.access(), &Shared::get()?.s3).await?;
        let (api, kubeconfig) = server.proxied(site.scratch())?;
        let setup = site.operator().env("KUBECONFIG", kubeconfig).flag("--orphan-grace", grace);
        Ok(Self { site, api, setup })
    }

    /// With so many files.
    fn place(&self, many: u64) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for (number, seconds) in (0..many).zip(1_700_000_000..) {
            names.push(self.site.name(seconds));
            self.site.place(&names[names.len() - 1], &snapshots::tiny(number))?;
        }
        Ok(names)
    }

    async fn join(&self) -> Result<()> {
        self.site.kubernetes.create_node(&self.site.node).await?;
        Ok(())
    }

    /// Its Node object goes.
    async fn leave(&self) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.site.kubernetes.client.clone());
        nodes.delete(&self.site.node, &DeleteParams::default()).await?;
        Ok(())
    }

    async fn marks(&self) -> Result<Vec<Option<String>>> {
        let records = self.site.local_records().await?;
        Ok(records.iter().map(|record| annotation(record, "node").map(str::to_owned)).collect())
    }
}

async fn no_records(operator: &mut Operator, site: &Site) -> Result<()> {
    local_becomes(operator, site, &expected::<&str, &str>([])).await
}

/// Records that an agent says it has deleted.
async fn forgotten(operator: &Operator) -> Result<u64> {
    value(operator, "actions_total", &[("action", "forget"), ("outcome", "done")]).await
}

#[tokio::test]
async fn the_records_of_a_node_that_is_gone_go_once_and_come_back_with_it() -> Result<()> {
    let server = server().await?;
    let (a, b, gone) = (Agent::on(&server, "1s").await?, Agent::on(&server, "1s").await?, Agent::on(&server, "1s").await?);
    let mut running = Vec::new();
    let (of_a, of_b, files) = (a.place(1)?, b.place(1)?, gone.place(3)?);
    for (agent, own) in [(&a, &of_a), (&b, &of_b), (&gone, &files)] {
        agent.join().await?;
        let mut operator = agent.setup.start().await?;
        local_becomes(&mut operator, &agent.site, &whole(own)).await?;
        is_well(&mut operator).await?;
        running.push(operator);
    }
    ensure!(gone.marks().await? == [const { None }; 3]);
    let names: Vec<String> = gone.site.local_records().await?.iter().map(|record| name(record).to_owned()).collect();
    // An agent that is away from a node that is there costs nothing.
    running[2].terminate().await?;
    running[0].beats(5).await?;
    ensure!(gone.site.local_records().await?.len() == 3);

    gone.leave().await?;
    no_records(&mut running[0], &gone.site).await?;
    for operator in &mut running[..2] {
        operator.beats(3).await?;
    }
    ensure!(forgotten(&running[0]).await? + forgotten(&running[1]).await? == 3, "each is deleted by one of them");
    let mut events = told(&a.site).await?;
    events.extend(told(&b.site).await?);
    for record in &names {
        let of = |(reason, about, _): &&(String, String, String)| reason == "ETCDSnapshotDeleted" && about == record;
        ensure!(events.iter().filter(of).count() == 1, "{record}: {events:#?}");
    }
    for (agent, operator, own) in [(&a, &running[0], &of_a), (&b, &running[1], &of_b)] {
        ensure!(agent.site.local_records().await?.len() == own.len());
        ensure!(value(operator, "removed_total", &[]).await? == 0 && value(operator, "vetoes_total", &[]).await? == 0);
        agent.api.forget();
    }
    for operator in &mut running[..2] {
        local_beats(operator, 3).await?;
    }
    ensure!(writes(&a.api) + writes(&b.api) == 0, "nobody goes on deleting");

    // It was only cut off.
    gone.join().await?;
    let mut back = gone.setup.start().await?;
    local_becomes(&mut back, &gone.site, &whole(&files)).await?;
    let again: Vec<String> = gone.site.local_records().await?.iter().map(|record| name(record).to_owned()).collect();
    ensure!(again == names, "{again:?} were {names:?}");
    running[0].beats(5).await?;
    for (agent, operator, own) in [(&gone, back, &files), (&a, running.remove(0), &of_a)] {
        invariants(operator, &agent.setup, &agent.site, &Left::new(own, &[])).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_node_that_never_had_a_node_object_keeps_its_records_with_and_without_its_agent() -> Result<()> {
    let server = server().await?;
    let (other, without) = (Agent::on(&server, "1s").await?, Agent::on(&server, "1s").await?);
    other.join().await?;
    let (of_other, files) = (other.place(1)?, without.place(2)?);
    let mut looks = other.setup.start().await?;
    local_becomes(&mut looks, &other.site, &whole(&of_other)).await?;
    let mut operator = without.setup.start().await?;
    local_becomes(&mut operator, &without.site, &whole(&files)).await?;
    operator.beats(1).await?;
    ensure!(without.marks().await? == [Some("none".to_owned()), Some("none".to_owned())], "{:?}", without.marks().await?);
    ensure!(other.marks().await? == [None]);
    let before = versions(&without.site.local_records().await?);
    looks.beats(6).await?;
    operator.kill();
    looks.beats(6).await?;
    ensure!(versions(&without.site.local_records().await?) == before && forgotten(&looks).await? == 0);
    let operator = without.setup.start().await?;
    invariants(operator, &without.setup, &without.site, &Left::new(&files, &[])).await?;
    ensure!(versions(&without.site.local_records().await?) == before, "a record flapped");
    invariants(looks, &other.setup, &other.site, &Left::new(&of_other, &[])).await
}

#[tokio::test]
async fn a_node_whose_node_object_is_deleted_while_its_agent_lives_keeps_its_records() -> Result<()> {
    let server = server().await?;
    // Time enough for the agent to say that it lives, however slow the machine.
    let (other, node) = (Agent::on(&server, "10s").await?, Agent::on(&server, "10s").await?);
    let (of_other, files) = (other.place(1)?, node.place(2)?);
    for agent in [&other, &node] {
        agent.join().await?;
    }
    let mut looks = other.setup.start().await?;
    let mut operator = node.setup.start().await?;
    local_becomes(&mut looks, &other.site, &whole(&of_other)).await?;
    local_becomes(&mut operator, &node.site, &whole(&files)).await?;
    let identities =
        async || -> Result<Vec<_>> { Ok(node.site.local_records().await?.into_iter().map(|record| record.metadata.uid).collect()) };
    let before = identities().await?;
    node.leave().await?;
    operator
        .until("its records to say that it has no Node object", async |_| {
            let marks = node.marks().await?;
            ensure!(marks == [Some("none".to_owned()), Some("none".to_owned())], "{marks:?}");
            Ok(())
        })
        .await?;
    looks.beats(14).await?;
    ensure!(identities().await? == before && forgotten(&looks).await? == 0, "a record of a living agent went");
    // And when it has one again, they say nothing any more.
    node.join().await?;
    operator
        .until("its records to say nothing of it", async |_| {
            let marks = node.marks().await?;
            ensure!(marks == [None, None], "{marks:?}");
            Ok(())
        })
        .await?;
    ensure!(identities().await? == before);
    invariants(operator, &node.setup, &node.site, &Left::new(&files, &[])).await?;
    invariants(looks, &other.setup, &other.site, &Left::new(&of_other, &[])).await
}

#[tokio::test]
async fn a_list_of_nodes_that_fails_proves_nothing_and_the_grace_begins_anew() -> Result<()> {
    let server = server().await?;
    let (looks, gone) = (Agent::on(&server, "10s").await?, Agent::on(&server, "10s").await?);
    let (own, files) = (looks.place(1)?, gone.place(2)?);
    for agent in [&looks, &gone] {
        agent.join().await?;
    }
    let mut operator = gone.setup.start().await?;
    local_becomes(&mut operator, &gone.site, &whole(&files)).await?;
    operator.terminate().await?;
    let mut operator = looks.setup.start().await?;
    local_becomes(&mut operator, &looks.site, &whole(&own)).await?;
    gone.leave().await?;
    let lists = On::get().path("/api/v1/nodes");
    let seen = looks.api.count(&lists);
    operator
        .until("it to see that the node is gone", async |_| {
            ensure!(looks.api.count(&lists) >= seen + 2);
            Ok(())
        })
        .await?;
    // Longer than the grace, and nobody could say whether it was there.
    let failing = looks.api.when(lists.clone(), Fault::kubernetes(500, "InternalError"));
    operator
        .until("many looks to fail", async |_| {
            ensure!(failing.hits() >= 14);
            Ok(())
        })
        .await?;
    ensure!(complaints(&operator, "looking around at the API server").len() == 1, "{:#?}", complaints(&operator, ""));
    ensure!(gone.site.local_records().await?.len() == 2);
    failing.remove();
    let seen = looks.api.count(&lists);
    operator
        .until("two looks that see", async |_| {
            ensure!(looks.api.count(&lists) >= seen + 2);
            Ok(())
        })
        .await?;
    ensure!(gone.site.local_records().await?.len() == 2 && forgotten(&operator).await? == 0, "what failed was taken for a proof");
    no_records(&mut operator, &gone.site).await?;
    // The pass counts when it has ended, and an Event follows.
    operator
        .until("both to be counted and told", async |operator| {
            let events = told(&looks.site).await?;
            let deleted = events.iter().filter(|(reason, ..)| reason == "ETCDSnapshotDeleted").count();
            ensure!(forgotten(operator).await? == 2 && deleted == 2, "{events:#?}");
            Ok(())
        })
        .await?;
    for file in &files {
        ensure!(gone.site.snapshots().join(file).exists(), "a record went, and the file stays");
    }
    invariants(operator, &looks.setup, &looks.site, &Left::new(slice::from_ref(&own[0]), &[])).await
}

/// Lets a file have a sidecar as a save of this node leaves one.
async fn saved_here(site: &Site, name: &str) -> Result<()> {
    let key = |key: &str| format!("etcd-snapshot-operator.dev/{key}");
    let sidecar = json!({ key("node"): site.node, key("cluster-id"): site.kubernetes.cluster_id().await? });
    let sidecars = site.snapshots().join("../.metadata");
    std::fs::create_dir_all(&sidecars)?;
    std::fs::write(sidecars.join(name), sidecar.to_string())?;
    Ok(())
}

/// Lets the agent of this node have been at work an hour ago: just now it might still be, and then a file that does not name our node
/// would be its business.
fn long_ago(site: &Site) -> Result<()> {
    for state in std::fs::read_dir(site.snapshots().join("../.metadata/.state"))? {
        let path = state?.path().join(&site.node).join("self.json");
        let mut note: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        let beat: Timestamp = note["last-beat"].as_str().context("no last beat")?.parse()?;
        note["last-beat"] = json!((beat - SignedDuration::from_hours(1)).to_string());
        std::fs::write(&path, note.to_string())?;
    }
    Ok(())
}

#[tokio::test]
async fn a_node_that_is_renamed_takes_its_files_along_and_nothing_goes_or_goes_up_again() -> Result<()> {
    let server = server().await?;
    let before = Agent::on(&server, "5s").await?;
    before.join().await?;
    let (site, s3) = (&before.site, before.site.s3.proxied()?);
    let files = before.place(3)?;
    // Of one nobody said where it was saved.
    for file in &files[1..] {
        saved_here(site, file).await?;
    }
    let with_bucket = |site: &Site| {
        let setup = site.operator_with_bucket().flag("--etcd-s3-endpoint", s3.endpoint()).flag("--orphan-grace", "5s");
        setup.flag("--etcd-snapshot-retention", "3").flag("--etcd-s3-retention", "3")
    };
    let mut operator = with_bucket(site).start().await?;
    bucket_becomes(&mut operator, site, &whole(&files)).await?;
    local_becomes(&mut operator, site, &whole(&files)).await?;
    let objects = versions(&site.bucket_records().await?);
    is_well(&mut operator).await?;
    operator.terminate().await?;
    let old = site.node.clone();
    long_ago(site)?;
    before.leave().await?;

    s3.forget();
    let after = before.site.called(format!("{old}-renamed"));
    after.kubernetes.create_node(&after.node).await?;
    let setup = with_bucket(&after);
    let mut operator = setup.start().await?;
    local_becomes(&mut operator, &after, &whole(&files)).await?;
    operator
        .until("the records under the old name to go", async |_| {
            let left = after.kubernetes.local_records(&old).await?;
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
        .await?;
    is_well(&mut operator).await?;
    operator.beats(3).await?;
    ensure!(s3.count(&On::writes()) == 0, "{:?}", s3.requests());
    ensure!(versions(&after.bucket_records().await?) == objects, "the record of an object changed");
    ensure!(value(&operator, "removed_total", &[]).await? == 0 && value(&operator, "vanished_total", &[]).await? == 0);
    let mut events = told(&after).await?;
    events.retain(|(reason, ..)| reason.contains("Vanished") || reason.contains("Conflict") || reason.contains("Braked"));
    ensure!(events.is_empty(), "{events:#?}");
    invariants(operator, &setup, &after, &Left::new(&files, &files)).await
}
