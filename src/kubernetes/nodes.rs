//! Nodes: whether ours exists, which there are, and when K3s last wrote on them; and the cluster id.
//!
//! Of a Node only its metadata is asked for. Nothing is written.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::api::{Api, ListParams};
use kube::core::PartialObjectMeta;

use super::error::{Cause, Doing, Error, call};
use crate::snapshot::{ClusterId, NodeName, Program};

const NODES: &str = "nodes";
const PAGE: u32 = 500;
/// K3s that has not been at work for this long is not at work, however short the interval.
const AT_LEAST: Duration = Duration::from_mins(30);

/// What is of interest in one Node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSeen {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The newest `etcd.<program>.cattle.io/local-snapshots-timestamp` under any program word.
    pub k3s_at: Option<Timestamp>,
}

/// The Node of this name; None when there is none.
pub async fn node(client: &kube::Client, name: &NodeName) -> Result<Option<NodeSeen>, Error> {
    // Nothing of another name can be a Node, and the server would say that with another answer than 404.
    if !is_object_name(name.as_str()) {
        return Ok(None);
    }
    let api: Api<PartialObjectMeta<Node>> = Api::all(client.clone());
    let found = call(Doing::new("get", NODES, name.as_str()), None, || api.get_opt(name.as_str())).await?;
    Ok(found.as_ref().map(seen))
}

/// All Nodes. A list that is too old to go on begins anew, once.
pub async fn nodes(client: &kube::Client) -> Result<Vec<NodeSeen>, Error> {
    match all(client).await {
        Err(Error { cause: Cause::Expired, .. }) => all(client).await,
        other => other,
    }
}

async fn all(client: &kube::Client) -> Result<Vec<NodeSeen>, Error> {
    let api: Api<PartialObjectMeta<Node>> = Api::all(client.clone());
    let (mut found, mut page) = (Vec::new(), ListParams::default().limit(PAGE));
    loop {
        let list = call(Doing::new("list", NODES, ""), None, || api.list(&page)).await?;
        found.extend(list.items.iter().map(seen));
        page.continue_token = list.metadata.continue_.filter(|token| !token.is_empty());
        if page.continue_token.is_none() {
            return Ok(found);
        }
    }
}

/// UID of the namespace `kube-system`.
pub async fn cluster_id(client: &kube::Client) -> Result<ClusterId, Error> {
    let api: Api<PartialObjectMeta<Namespace>> = Api::all(client.clone());
    let doing = || Doing::new("get", "namespaces", "kube-system");
    let found = call(doing(), None, || api.get("kube-system")).await?;
    let id = found.metadata.uid.as_deref().and_then(ClusterId::new);
    id.ok_or_else(|| Error { doing: doing(), cause: Cause::Unreadable("it has no UID".into()) })
}

fn seen(node: &PartialObjectMeta<Node>) -> NodeSeen {
    let annotations = node.metadata.annotations.as_ref();
    let stamp = |program: Program| {
        let text = annotations?.get(&format!("etcd.{program}.cattle.io/local-snapshots-timestamp"))?;
        text.parse::<Timestamp>().ok()
    };
    NodeSeen {
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        k3s_at: Program::ALL.into_iter().filter_map(stamp).max(),
    }
}

fn is_object_name(name: &str) -> bool {
    let fine = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.';
    (1..=253).contains(&name.len()) && name.bytes().all(fine)
}

/// Whether K3s manages snapshots now: its timestamp is younger than three intervals, and never less than half an hour
/// counts. One that lies as far in the future is a broken clock's and means nothing.
pub fn is_at_work(k3s_at: Option<Timestamp>, now: Timestamp, interval: Duration) -> bool {
    let limit = interval.saturating_mul(3).max(AT_LEAST);
    k3s_at.is_some_and(|at| now.duration_since(at).unsigned_abs() < limit)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn k3s_is_at_work_for_three_intervals_and_never_less_than_half_an_hour() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let ago = |seconds: i64| Some(Timestamp::from_second(now.as_second() - seconds).unwrap());
        let minutes = Duration::from_mins;
        for (at, interval, at_work) in [
            (None, minutes(10), false),
            (ago(0), minutes(10), true),
            (ago(1799), minutes(10), true),
            (ago(1800), minutes(10), false),
            (ago(1799), Duration::from_secs(1), true),
            (ago(1800), Duration::from_secs(1), false),
            (ago(5399), minutes(30), true),
            (ago(5400), minutes(30), false),
            (ago(-60), minutes(10), true),
            (ago(-1800), minutes(10), false),
            (Some(Timestamp::MIN), Duration::MAX, true),
        ] {
            assert_eq!(is_at_work(at, now, interval), at_work, "{at:?} {interval:?}");
        }
    }

    #[test]
    fn the_newest_timestamp_under_any_program_word_counts() {
        let mut node: PartialObjectMeta<Node> = PartialObjectMeta::default();
        let mut at = |k3s: &str, rke2: &str| {
            let key = |word: &str| format!("etcd.{word}.cattle.io/local-snapshots-timestamp");
            node.metadata.annotations = Some(BTreeMap::from([(key("k3s"), k3s.into()), (key("rke2"), rke2.into())]));
            seen(&node).k3s_at.map(|at| at.to_string())
        };
        assert_eq!(at("2026-01-02T03:04:05Z", "2026-01-02T03:04:06+00:00"), Some("2026-01-02T03:04:06Z".into()));
        assert_eq!(at("2026-01-02T03:04:05Z", "soon"), Some("2026-01-02T03:04:05Z".into()));
        assert_eq!(at("", "soon"), None);
    }
}
