//! The pods of the agents: which there are, and a command run in one of them.
//!
//! In: labels, and what to run. Out: the agents, and the streams of what runs. Which of them, and what for, is decided elsewhere.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};
use kube::api::{Api, AttachParams, AttachedProcess, ListParams};

use super::error::{Cause, Doing, Error, call};

/// What a user must be allowed: to run something in a pod.
pub const EXEC: &str = "pods/exec";
/// What the chart calls the container of an agent.
const CONTAINER: &str = "agent";
/// What the chart's values and other charts leave alone, unlike the name of the application.
const LABEL: &str = "etcd-snapshot-operator.dev/component=agent";
const INSTANCE: &str = "app.kubernetes.io/instance";
const PAGE: u32 = 500;

/// Whether an agent can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It runs and is ready.
    Ready,
    /// It runs, and waits for something.
    NotReady,
    /// It does not run, and why.
    Down(String),
}

/// The pod of one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Namespace of the pod.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// The release it is of; empty when it does not tell.
    pub instance: String,
    /// The node whose snapshots it keeps.
    pub node: String,
    /// The container that it runs in.
    pub container: String,
    /// Whether it can be asked.
    pub state: State,
}

/// The labels that agents have: those of one release, or of all.
pub fn labels(instance: Option<&str>) -> String {
    let of = instance.map(|instance| format!(",{INSTANCE}={instance}")).unwrap_or_default();
    format!("{LABEL}{of}")
}

/// The agents in one namespace, or in all.
pub async fn agents(client: &kube::Client, namespace: Option<&str>, instance: Option<&str>) -> Result<Vec<Agent>, Error> {
    let api: Api<Pod> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let (mut found, mut page) = (Vec::new(), ListParams::default().labels(&labels(instance)).limit(PAGE));
    loop {
        let list = call(Doing::new("list", "pods", namespace.unwrap_or_default()), None, || api.list(&page)).await?;
        found.extend(list.items.into_iter().filter_map(agent));
        page.continue_token = list.metadata.continue_.filter(|token| !token.is_empty());
        if page.continue_token.is_none() {
            return Ok(found);
        }
    }
}

/// Runs a command in an agent's container. On a terminal it has that for all its streams, else it has nothing to read.
pub async fn exec(client: &kube::Client, agent: &Agent, command: &[String], on_terminal: bool) -> Result<AttachedProcess, Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &agent.namespace);
    // Of a terminal there is one stream out.
    let params = AttachParams {
        container: Some(agent.container.clone()),
        stdin: on_terminal,
        stdout: true,
        stderr: !on_terminal,
        tty: on_terminal,
        ..AttachParams::default()
    };
    let doing = Doing::new("create", EXEC, format!("{}/{}", agent.namespace, agent.pod));
    call(doing, None, || api.exec(&agent.pod, command, &params)).await.map_err(|mut error| {
        if let Cause::NotServed(_) = error.cause {
            error.cause = Cause::NotFound("the pod is gone".into());
        }
        error
    })
}

/// None of a pod that goes, or has ended: another one takes its place.
fn agent(pod: Pod) -> Option<Agent> {
    let (spec, status) = (pod.spec?, pod.status.unwrap_or_default());
    let phase = status.phase.unwrap_or_default();
    if pod.metadata.deletion_timestamp.is_some() || matches!(phase.as_str(), "Succeeded" | "Failed") {
        return None;
    }
    let container = spec.containers.iter().find(|container| container.name == CONTAINER).or(spec.containers.first())?;
    // An agent that is told a name keeps the snapshots of that one, wherever it runs.
    let told = container.env.iter().flatten().find(|variable| variable.name == "NODE_NAME").and_then(|variable| variable.value.clone());
    let running = status.container_statuses.unwrap_or_default().into_iter().find(|status| status.name == container.name);
    Some(Agent {
        namespace: pod.metadata.namespace?,
        pod: pod.metadata.name?,
        instance: pod.metadata.labels.unwrap_or_default().remove(INSTANCE).unwrap_or_default(),
        node: told.filter(|name| !name.is_empty()).or(spec.node_name).unwrap_or_default(),
        container: container.name.clone(),
        state: running.map_or(State::Down(phase), state),
    })
}

fn state(status: ContainerStatus) -> State {
    match status.state.unwrap_or_default() {
        ContainerState { running: Some(_), .. } if status.ready => State::Ready,
        ContainerState { running: Some(_), .. } => State::NotReady,
        ContainerState { waiting: Some(waiting), .. } => State::Down(waiting.reason.unwrap_or_else(|| "waiting".into())),
        ContainerState { terminated: Some(ended), .. } => State::Down(ended.reason.unwrap_or_else(|| "ended".into())),
        ContainerState { .. } => State::Down("not started".into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(change: impl FnOnce(&mut Value)) -> Option<Agent> {
        let mut pod = json!({
            "metadata": {"namespace": "backup", "name": "eso-x", "labels": {"app.kubernetes.io/instance": "eso"}},
            "spec": {"nodeName": "cp-1", "containers": [{"name": "proxy"}, {"name": "agent"}]},
            "status": {"phase": "Running", "containerStatuses": [
                {"name": "proxy", "ready": false, "image": "", "imageID": "", "restartCount": 0},
                {"name": "agent", "ready": true, "image": "", "imageID": "", "restartCount": 0, "state": {"running": {}}}
            ]}
        });
        change(&mut pod);
        agent(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn an_agent_is_of_its_node_and_runs_in_its_container() {
        let agent = pod(|_| {}).unwrap();
        assert_eq!((agent.namespace.as_str(), agent.pod.as_str(), agent.instance.as_str()), ("backup", "eso-x", "eso"));
        assert_eq!((agent.node.as_str(), agent.container.as_str(), agent.state), ("cp-1", "agent", State::Ready));
        let agent = pod(|pod| pod["spec"]["containers"] = json!([{"name": "main"}, {"name": "other"}])).unwrap();
        assert_eq!(agent.container, "main");
        let agent = pod(|pod| pod["spec"]["containers"][1]["env"] = json!([{"name": "NODE_NAME", "value": "outside"}])).unwrap();
        assert_eq!(agent.node, "outside");
        let from_field = json!([{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]);
        assert_eq!(pod(|pod| pod["spec"]["containers"][1]["env"] = from_field).unwrap().node, "cp-1");
    }

    #[test]
    fn whether_it_can_be_asked_is_its_containers_word() {
        let with = |state: Value| pod(|pod| pod["status"]["containerStatuses"][1] = state).map(|agent| agent.state);
        let status = |ready: bool, state: Value| json!({"name": "agent", "ready": ready, "image": "", "imageID": "", "restartCount": 0, "state": state});
        assert_eq!(with(status(false, json!({"running": {}}))), Some(State::NotReady));
        let waiting = status(false, json!({"waiting": {"reason": "ImagePullBackOff"}}));
        assert_eq!(with(waiting), Some(State::Down("ImagePullBackOff".into())));
        assert_eq!(with(status(false, json!({"terminated": {"exitCode": 1}}))), Some(State::Down("ended".into())));
        let pending = pod(|pod| pod["status"] = json!({"phase": "Pending"}));
        assert_eq!(pending.unwrap().state, State::Down("Pending".into()));
        assert_eq!(pod(|pod| pod["status"]["phase"] = json!("Failed")), None);
        assert_eq!(pod(|pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-02T03:04:05Z")), None);
    }
}
