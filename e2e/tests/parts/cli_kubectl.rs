//! `kubectl etcd-snapshot`: in which pod a verb would run, and what a person is told when it cannot. The pods are on nodes that nobody runs:
//! what runs in one is the cluster tier's.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use e2e::hand::Hand;
use e2e::process::scratch;
use e2e::shared::Shared;
use e2e::site::unique;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::kubernetes::user_who_may;

/// A namespace that goes with the API server.
async fn namespace(client: &Client) -> Result<String> {
    let name = format!("agents-{}", unique());
    let namespace = serde_json::from_value(json!({ "metadata": { "name": name } }))?;
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await?;
    let account = serde_json::from_value(json!({ "metadata": { "name": "default" } }))?;
    Api::<ServiceAccount>::namespaced(client.clone(), &name).create(&PostParams::default(), &account).await?;
    Ok(name)
}

/// The pod of an agent, as the chart has it.
async fn agent(client: &Client, namespace: &str, node: &str, ready: bool) -> Result<String> {
    let name = format!("eso-{node}");
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let labels = json!({ "etcd-snapshot-operator.dev/component": "agent", "app.kubernetes.io/instance": "eso" });
    let pod = json!({
        "metadata": { "name": name, "labels": labels },
        "spec": { "nodeName": node, "automountServiceAccountToken": false, "containers": [{ "name": "agent", "image": "eso" }] },
    });
    pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
    let state = if ready { json!({ "running": {} }) } else { json!({ "waiting": { "reason": "ImagePullBackOff" } }) };
    let container = json!({ "name": "agent", "ready": ready, "image": "eso", "imageID": "eso", "restartCount": 0, "state": state });
    let status = json!({ "status": { "phase": if ready { "Running" } else { "Pending" }, "containerStatuses": [container] } });
    pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(name)
}

fn plugin(verb: &str, kubeconfig: &Path) -> Result<Hand> {
    Ok(Hand::plugin(verb)?.env("KUBECONFIG", kubeconfig))
}

#[tokio::test]
async fn without_an_agent_where_one_is_wanted_nothing_runs_and_one_sentence_says_why() -> Result<()> {
    let api = &Shared::get()?.api;
    let (admin, client) = (api.kubeconfig(), api.kubernetes().await?.client);
    let (space, other) = (namespace(&client).await?, namespace(&client).await?);
    let save = |space: &str| Ok::<_, anyhow::Error>(plugin("save", &admin)?.flag("-n", space));
    let sentence = format!("no pod in the namespace {space} has the labels etcd-snapshot-operator.dev/component=agent");
    save(&space)?.run().await?.with(1)?.says(&sentence)?.says("give --dir or --etcd-endpoint")?;

    agent(&client, &space, "cp-1", true).await?;
    agent(&client, &space, "cp-2", false).await?;
    save(&space)?.run().await?.with(2)?.says("There are agents on cp-1, cp-2: choose one with --node")?;
    save(&space)?.flag("--node", "cp-3").run().await?.with(2)?.says("no agent on the node cp-3; there are agents on cp-1, cp-2")?;
    let down = save(&space)?.flag("--node", "cp-2").run().await?.with(1)?;
    down.says(&format!("the agent on the node cp-2 does not run: ImagePullBackOff (pod {space}/eso-cp-2)"))?;
    save(&space)?.flag("--instance", "another").run().await?.with(1)?.says("app.kubernetes.io/instance=another")?;

    agent(&client, &other, "cp-1", true).await?;
    let ended = plugin("prune", &admin)?.flag("--node", "cp-1").run().await?.with(2)?;
    ended.says("there are agents of several releases")?.says(&format!("{other}/eso"))?.says("choose one with --namespace or --instance")?;
    // Nobody is on these nodes.
    let ended = save(&space)?.flag("--node", "cp-1").run().await?.with(1)?;
    ended.says("save is not run on the node cp-1")?.says("cannot create pods/exec")?;
    Ok(())
}

#[tokio::test]
async fn who_may_not_is_told_which_right_is_missing_and_what_others_can_type() -> Result<()> {
    let api = &Shared::get()?.api;
    let client = api.kubernetes().await?.client;
    let (space, dir) = (namespace(&client).await?, scratch()?);
    let pod = agent(&client, &space, "cp-1", true).await?;

    let nobody = user_who_may(api, dir.path(), json!([])).await?;
    let ended = plugin("save", &nobody)?.flag("--namespace", &space).flag("--name", "it's").run().await?.with(1)?;
    let line = format!(r"kubectl exec -n {space} POD -c agent -- etcd-snapshot-operator save '--name=it'\''s'");
    ended.says("the right that is missing: list on pods")?.says(&line)?;

    let rules = json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["list"] }]);
    let looker = user_who_may(api, dir.path(), rules).await?;
    let ended = plugin("delete", &looker)?.flag("-n", &space).arg("a-1").arg("--yes").run().await?.with(1)?;
    let line = format!("kubectl exec -n {space} {pod} -c agent -- etcd-snapshot-operator delete --yes -- a-1");
    ended.says(&format!("the rights that are missing: create and get on pods/exec in the namespace {space}"))?.says(&line)?;
    Ok(())
}

#[tokio::test]
async fn what_is_named_here_is_worked_on_here_and_keys_stay() -> Result<()> {
    let dir = scratch()?;
    let here = Hand::plugin("ls")?.flag("--dir", dir.path().to_str().context("UTF-8")?).flag("--node-name", "cp-1").run().await?;
    here.with(0)?;
    Hand::plugin("ls")?.run().await?.with(1)?.says("no API server is named")?;
    let ended = Hand::plugin("save")?.arg("--s3-secret-key=hush").run().await?.with(2)?;
    ensure!(!ended.err.contains("hush") && ended.err.contains("is not sent into a pod"), "{}", ended.err);
    Ok(())
}

#[tokio::test]
async fn the_context_and_the_kubeconfig_are_named_as_for_kubectl() -> Result<()> {
    let api = &Shared::get()?.api;
    let client = api.kubernetes().await?.client;
    let (space, dir) = (namespace(&client).await?, scratch()?);
    let pod = agent(&client, &space, "cp-1", true).await?;
    // The current context leads to nobody, the other one to the API server and the namespace of the agents.
    let mut config: Value = serde_json::from_slice(&std::fs::read(api.kubeconfig())?)?;
    let nowhere = json!({ "name": "nowhere", "cluster": { "server": "https://127.0.0.1:1" } });
    config["clusters"].as_array_mut().context("clusters")?.push(nowhere);
    config["contexts"] = json!([
        { "name": "away", "context": { "cluster": "nowhere", "user": "tests" } },
        { "name": "prod", "context": { "cluster": "tests", "user": "tests", "namespace": space } },
    ]);
    config["current-context"] = "away".into();
    let path = dir.path().join("two");
    std::fs::write(&path, config.to_string())?;

    let away = plugin("save", &path)?.run().await?.with(1)?.says("the agents cannot be found")?;
    ensure!(away.err.contains("cannot be reached"), "{}", away.err);
    let reached = "save is not run on the node cp-1";
    let named = |hand: Hand| hand.flag("--node", "cp-1").flag("-n", &space);
    named(plugin("save", &path)?.flag("--context", "prod")).run().await?.with(1)?.says(reached)?;
    named(Hand::plugin("save")?.flag("--kubeconfig", &path).flag("--context", "prod")).run().await?.with(1)?.says(reached)?;
    // In front of the verb, where people have them.
    let words =
        ["--kubeconfig".into(), path.clone().into_os_string(), "--context=prod".into(), "-n".into(), space.clone().into(), "save".into()];
    let front = words.into_iter().fold(Hand::plugin("--node=cp-1")?, Hand::arg);
    front.run().await?.with(1)?.says(reached)?;
    plugin("save", &path)?.flag("--context", "absent").run().await?.with(1)?.says("has no context \"absent\"; it has away, prod")?;

    // What somebody else can type reaches the same.
    let rules = json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["list"] }]);
    let looker = user_who_may(api, dir.path(), rules).await?;
    let ended = Hand::plugin("save")?.flag("--kubeconfig", &looker).flag("--context", "tests").flag("-n", &space).run().await?.with(1)?;
    let line =
        format!("kubectl --kubeconfig {} --context tests exec -n {space} {pod} -c agent -- etcd-snapshot-operator save", looker.display());
    ended.says(&line)?;

    // A verb that runs here asks the same server.
    let listed = Hand::new("ls")?.flag("--kubeconfig", &path).flag("--context", "prod").run().await?.with(0)?;
    ensure!(listed.out.starts_with("Name "), "{}", listed.out);
    Hand::new("ls")?.flag("--kubeconfig", &path).run().await?.with(1)?.says("the records are not known")?;
    Ok(())
}
