//! Events, Nodes, Secrets and ConfigMaps.

use anyhow::{Context as _, Result, bail, ensure};
use e2e::process::scratch;
use e2e::proxy::{Fault, On};
use e2e::shared::Shared;
use e2e::site::unique;
use e2e::wait;
use etcd_snapshot_operator::kubernetes::events::{Event, Events, Kind, Regarding, reason};
use etcd_snapshot_operator::kubernetes::{nodes, secret};
use etcd_snapshot_operator::record::RecordName;
use etcd_snapshot_operator::snapshot::NodeName;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Secret};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{operators, user_who_may};

fn event(about: &str, note: &str) -> Event {
    let regarding = Regarding::Record(RecordName::existing(about), Some("00000000-0000-4000-8000-000000000000".into()));
    Event { regarding, kind: Kind::Warning, reason: reason::DAMAGED, note: note.into() }
}

#[tokio::test]
async fn events_are_told_once_each_whatever_their_length() -> Result<()> {
    let api = &Shared::get()?.api;
    let kubernetes = api.kubernetes().await?;
    let (events, publisher) = Events::new(operators(&api.kubeconfig()).await?, "cp1");
    let stop = CancellationToken::new();
    let told = tokio::spawn({
        let stop = stop.clone();
        async move { publisher.run(&stop).await }
    });
    let long = format!("local-{}-{}", unique(), "x".repeat(200));
    let node = format!("node-{}", unique());
    for note in ["first", "first", &"🦀".repeat(2000)] {
        events.tell(event(&long, note));
    }
    events.tell(Event {
        regarding: Regarding::Node(node.clone(), None),
        kind: Kind::Normal,
        reason: reason::STORAGE_RECOVERED,
        note: "again".into(),
    });
    // What waits when the agent stops is still told.
    stop.cancel();
    told.await?;
    let all = kubernetes.events_about(&long).await?;
    ensure!(all.len() == 3, "{all:?}");
    for event in &all {
        ensure!(event.metadata.namespace.as_deref() == Some("default") && event.reason.as_deref() == Some(reason::DAMAGED));
        ensure!(
            event.reporting_controller.as_deref() == Some("etcd-snapshot-operator") && event.reporting_instance.as_deref() == Some("cp1")
        );
    }
    ensure!(all.iter().filter_map(|event| event.note.as_ref()).any(|note| note.len() > 1000 && note.starts_with('🦀')));
    let about_node = kubernetes.events_about(&node).await?;
    ensure!(about_node.len() == 1 && about_node[0].type_.as_deref() == Some("Normal"));
    Ok(())
}

#[tokio::test]
async fn a_server_that_takes_no_events_stops_nobody() -> Result<()> {
    let api = &Shared::get()?.api;
    let dir = scratch()?;
    let (proxy, kubeconfig) = api.proxied(dir.path())?;
    let held = proxy.when(On::method("POST").times(1), Fault::Hold);
    proxy.when(On::method("POST").times(2), Fault::kubernetes(403, "Forbidden"));
    let (events, publisher) = Events::new(operators(&kubeconfig).await?, "cp1");
    let stop = CancellationToken::new();
    let told = tokio::spawn({
        let stop = stop.clone();
        async move { publisher.run(&stop).await }
    });
    let name = format!("local-{}", unique());
    events.tell(event(&name, "held"));
    wait::until("the first", async || if held.hits() == 1 { Ok(()) } else { bail!("not yet") }).await?;
    // Far more than the queue holds, and no waiting.
    for _ in 0..10_000 {
        events.tell(event(&name, "waits"));
    }
    held.release();
    wait::until("those that were not dropped", async || {
        let told = api.kubernetes().await?.events_about(&name).await?.len();
        if told > 100 { Ok(()) } else { bail!("{told}") }
    })
    .await?;
    stop.cancel();
    told.await?;
    let count = api.kubernetes().await?.events_about(&name).await?.len();
    ensure!(count < 300, "{count}");
    Ok(())
}

#[tokio::test]
async fn an_event_whose_answer_is_lost_or_fails_is_told_once_and_holds_up_nobody() -> Result<()> {
    let api = &Shared::get()?.api;
    let kubernetes = api.kubernetes().await?;
    let dir = scratch()?;
    let (proxy, kubeconfig) = api.proxied(dir.path())?;
    let lost = proxy.when(On::method("POST").times(1), Fault::LoseAnswer);
    let failing = proxy.when(On::method("POST").skip(1).times(1), Fault::kubernetes(500, "InternalError"));
    let name = format!("local-{}", unique());
    let (events, publisher) = Events::new(operators(&kubeconfig).await?, "cp1");
    for note in ["its answer is lost", "the server fails with it", "behind it"] {
        events.tell(event(&name, note));
    }
    let stop = CancellationToken::new();
    let telling = tokio::spawn({
        let stop = stop.clone();
        async move { publisher.run(&stop).await }
    });
    wait::until("all three", async || {
        let told = kubernetes.events_about(&name).await?.len();
        if told == 3 { Ok(()) } else { bail!("{told}") }
    })
    .await?;
    stop.cancel();
    telling.await?;
    let mut told = kubernetes.events_about(&name).await?;
    told.sort_by_key(|event| event.metadata.resource_version.as_ref().and_then(|version| version.parse::<u64>().ok()));
    ensure!(lost.hits() == 1 && failing.hits() == 1 && proxy.count(&On::method("POST")) == 5, "{:?}", proxy.requests());
    let notes: Vec<&str> = told.iter().filter_map(|event| event.note.as_deref()).collect();
    ensure!(notes == ["its answer is lost", "behind it", "the server fails with it"], "{notes:?}");
    Ok(())
}

#[tokio::test]
async fn a_node_is_seen_with_what_k3s_wrote_on_it() -> Result<()> {
    let api = &Shared::get()?.api;
    let (client, kubernetes) = (operators(&api.kubeconfig()).await?, api.kubernetes().await?);
    let name = NodeName::new(&format!("node-{}", unique()))?;
    ensure!(nodes::node(&client, &name).await?.is_none());
    let made = kubernetes.create_node(name.as_str()).await?;
    let seen = nodes::node(&client, &name).await?.context("a Node")?;
    ensure!(seen.k3s_at.is_none() && Some(seen.uid) == made.metadata.uid);
    for no_node in ["?x", "/../x", "%2e", "#", "ä", ":1"].map(|end| format!("{name}{end}")) {
        // What no Node can be called is not there, and not another one.
        let Ok(no_node) = NodeName::new(&no_node) else { continue };
        ensure!(nodes::node(&client, &no_node).await?.is_none(), "{no_node}");
    }
    let stamp = json!({ "metadata": { "annotations": { "etcd.rke2.cattle.io/local-snapshots-timestamp": "2026-01-02T03:04:05Z" } } });
    let api_nodes: Api<Node> = Api::all(kubernetes.client.clone());
    api_nodes.patch(name.as_str(), &PatchParams::default(), &Patch::Merge(stamp)).await?;
    let all = nodes::nodes(&client).await?;
    let seen = all.iter().find(|node| node.name == name.as_str()).context("a Node among all")?;
    ensure!(seen.k3s_at.map(|at| at.to_string()).as_deref() == Some("2026-01-02T03:04:05Z"));
    ensure!(nodes::cluster_id(&client).await?.as_str() == kubernetes.cluster_id().await?);
    Ok(())
}

#[tokio::test]
async fn secrets_and_config_maps_are_read_and_never_shown() -> Result<()> {
    let api = &Shared::get()?.api;
    let (client, kubernetes) = (operators(&api.kubeconfig()).await?, api.kubernetes().await?);
    let name = format!("s3-{}", unique());
    let values = json!({ "metadata": { "name": name }, "stringData": { "etcd-s3-secret-key": "hush" }, "data": { "binary": "/w==" } });
    Api::<Secret>::namespaced(kubernetes.client.clone(), "kube-system")
        .create(&PostParams::default(), &serde_json::from_value(values)?)
        .await?;
    let values = json!({ "metadata": { "name": name }, "data": { "a": "text" }, "binaryData": { "b": "/w==" } });
    Api::<ConfigMap>::namespaced(kubernetes.client.clone(), "kube-system")
        .create(&PostParams::default(), &serde_json::from_value(values)?)
        .await?;

    let read = secret::secret(&client, "kube-system", &name).await?;
    ensure!(read.0["etcd-s3-secret-key"] == b"hush" && read.0["binary"] == [0xff] && !format!("{read:?}").contains("hush"));
    let read = secret::config_map(&client, "kube-system", &name).await?;
    ensure!(read.0["a"] == b"text" && read.0["b"] == [0xff]);

    let missing = secret::secret(&client, "kube-system", "no-such").await.err().context("none")?;
    ensure!(
        missing.category() == "not_found" && missing.failure().message.contains("cannot get secrets kube-system/no-such"),
        "{missing:?}"
    );
    let dir = scratch()?;
    let stranger = operators(&user_who_may(api, dir.path(), json!([])).await?).await?;
    let refused = secret::secret(&stranger, "kube-system", &name).await.err().context("refused")?;
    ensure!(refused.category() == "forbidden" && refused.failure().message.contains("verb get on secrets"), "{refused:?}");
    let (proxy, kubeconfig) = api.proxied(dir.path())?;
    proxy.when(On::get().path("*/secrets/*"), Fault::rewrite(|_| r#"{"data": {"k": "hush"#.into()));
    let broken = secret::secret(&operators(&kubeconfig).await?, "kube-system", &name).await.err().context("broken")?;
    ensure!(broken.category() == "unreadable" && !format!("{broken:?}").contains("hush"), "{broken:?}");
    Ok(())
}
