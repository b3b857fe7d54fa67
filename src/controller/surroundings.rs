//! Looks around: whether the API has travelled back in time, whose cluster this is, which nodes have a Node object, and
//! whether K3s is at work.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::shared::Shared;
use crate::kubernetes::Error;
use crate::kubernetes::nodes::{NodeSeen, cluster_id, node, nodes};
use crate::snapshot::{Failure, NodeName, Storage};

/// How the log speaks of it.
pub(super) const ABOUT: &str = "looking around at the API server";
/// How long a pass waits at most for the API server to be heard of at all.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// For each beat. Wakes the loops when something that they go by is not what it was. True when everything could be seen, and
/// when an earlier beat is still looking, which says itself how that ends.
pub async fn look(shared: &Shared) -> bool {
    let Ok(mut missing) = shared.looking.try_lock() else { return true };
    let (travelled, cluster, own, all) =
        tokio::join!(shared.cache.check(), cluster_id(&shared.client), node(&shared.client, &shared.settings.node), nodes(&shared.client));
    let failures = [travelled.as_ref().err(), cluster.as_ref().err(), own.as_ref().err(), all.as_ref().err()];
    let failure: Option<Failure> = failures.into_iter().flatten().next().map(Error::failure);
    let named = nodes_of_records(shared);
    let k3s_anywhere = all.as_ref().ok().map(|all| last_of_k3s(all));
    let all = all.ok().map(|all| names(&all));
    // Seen before a restore or not seen at all: both begin anew.
    let proven = all.as_ref().filter(|_| matches!(travelled, Ok(false)));
    let gone = missing.look(&named, proven, shared.settings.orphan_grace, Instant::now());
    let turned = {
        let mut around = shared.around();
        let before = around.clone();
        if let Ok(cluster) = cluster {
            if let Some(known) = before.cluster.as_ref().filter(|known| **known != cluster) {
                tracing::warn!(was = %known, is = %cluster, "the cluster has another id than before: what was saved in the other one is not ours any more");
            }
            around.cluster = Some(cluster);
            around.cluster_told = true;
        }
        if let Ok(own) = own {
            around.has_node_object = Some(own.is_some());
            around.node_uid = own.as_ref().map(|node| node.uid.clone());
            around.k3s_here = Some(own.and_then(|node| node.k3s_at));
        }
        around.nodes = all;
        around.k3s_anywhere = k3s_anywhere;
        around.gone = gone;
        around.asked = true;
        around.for_passes() != before.for_passes()
    };
    shared.heard.notify_waiters();
    if turned {
        shared.wakes.both();
    }
    shared.voice.hear(ABOUT, failure.as_ref());
    failure.is_none()
}

fn names(nodes: &[NodeSeen]) -> BTreeSet<NodeName> {
    nodes.iter().filter_map(|node| NodeName::new(&node.name).ok()).collect()
}

fn last_of_k3s(nodes: &[NodeSeen]) -> Option<Timestamp> {
    nodes.iter().filter_map(|node| node.k3s_at).max()
}

/// The nodes whose directories have records. A record of an agent that has no Node object names none that could be gone.
fn nodes_of_records(shared: &Shared) -> BTreeSet<NodeName> {
    let records = shared.cache.records().unwrap_or_default();
    let node = |storage: &Storage| match storage {
        Storage::Local { node } => Some(node.clone()),
        Storage::S3 { .. } => None,
    };
    records.iter().filter(|record| !record.without_node_object).filter_map(|record| node(record.storage.as_ref()?)).collect()
}

/// Since when nodes that records name have had no Node object, on our own clock.
#[derive(Debug, Default)]
pub struct Missing(BTreeMap<NodeName, Instant>);

impl Missing {
    /// Looks at all Node objects. Which nodes have been gone for the grace; a look that failed proves nothing, and whoever was
    /// missing before it begins anew.
    pub fn look(
        &mut self,
        named: &BTreeSet<NodeName>,
        nodes: Option<&BTreeSet<NodeName>>,
        grace: Duration,
        now: Instant,
    ) -> BTreeSet<NodeName> {
        let Some(nodes) = nodes else {
            self.0.clear();
            return BTreeSet::new();
        };
        self.0.retain(|node, _| named.contains(node) && !nodes.contains(node));
        for node in named.difference(nodes) {
            self.0.entry(node.clone()).or_insert(now);
        }
        let is_gone = |(_, since): &(&NodeName, &Instant)| now.saturating_duration_since(**since) >= grace;
        self.0.iter().filter(is_gone).map(|(node, _)| node.clone()).collect()
    }
}

/// For each pass of the bucket's leader: when K3s was last at work on any node.
pub async fn look_for_k3s(shared: &Shared) {
    let seen = nodes(&shared.client).await;
    shared.voice.hear("looking for K3s on all nodes", seen.as_ref().err().map(Error::failure).as_ref());
    // What was seen earlier is no answer: K3s may have begun since.
    shared.around().k3s_anywhere = seen.ok().map(|seen| last_of_k3s(&seen));
}

/// Waits, for a moment, until the records are known and our Node was asked for, or until it is known why not: at the start,
/// and while the records are listed anew.
pub async fn heard(shared: &Shared) {
    let mut health = shared.cache.watch_health();
    let heard = async {
        loop {
            let notified = shared.heard.notified();
            let cache = health.borrow_and_update().clone();
            if cache.failure.is_some() || cache.crd_missing || (cache.synced && shared.around().asked) {
                return;
            }
            tokio::select! {
                changed = health.changed() => if changed.is_err() { return },
                () = notified => {}
            }
        }
    };
    // Whoever does not answer is said by whoever asked.
    tokio::time::timeout(FIRST_ANSWER, heard).await.ok();
}

/// Waits, for a moment, until somebody has looked around once: at the start, to know whose cluster this is.
pub async fn looked(shared: &Shared) {
    let looked = async {
        loop {
            let notified = shared.heard.notified();
            if shared.around().asked {
                return;
            }
            notified.await;
        }
    };
    tokio::time::timeout(FIRST_ANSWER, looked).await.ok();
}

/// Tells health and metrics how it stands with the records.
pub async fn follow_cache(shared: Arc<Shared>, stop: CancellationToken) {
    let mut health = shared.cache.watch_health();
    loop {
        let cache = health.borrow_and_update().clone();
        if cache.crd_missing || cache.synced {
            shared.health.crd(!cache.crd_missing);
            shared.metrics.crd(!cache.crd_missing);
        }
        if cache.synced {
            shared.health.records_synced();
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = health.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(names: &[&str]) -> BTreeSet<NodeName> {
        names.iter().map(|name| NodeName::new(name).unwrap()).collect()
    }

    #[test]
    fn a_node_is_gone_after_the_grace_without_a_node_object_and_a_failed_look_begins_anew() {
        let (mut missing, start, grace) = (Missing::default(), Instant::now(), Duration::from_hours(1));
        let mut look = |there: Option<&[&str]>, minutes: u64| {
            let gone = missing.look(&nodes(&["a", "b"]), there.map(nodes).as_ref(), grace, start + Duration::from_mins(minutes));
            gone.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(look(Some(&["a"]), 0).is_empty());
        assert!(look(Some(&["a"]), 59).is_empty());
        assert_eq!(look(Some(&["a", "c"]), 60), ["b"]);
        assert!(look(Some(&["a", "b"]), 70).is_empty(), "it is back");
        assert!(look(Some(&["a"]), 80).is_empty(), "and gone again, from now on");
        assert!(look(None, 130).is_empty());
        assert!(look(Some(&["a"]), 140).is_empty(), "nobody could say whether it was there meanwhile");
        assert_eq!(look(Some(&["a"]), 200), ["b"]);
    }
}
