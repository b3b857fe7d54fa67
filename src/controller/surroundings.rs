//! Looks around: whether the API has travelled back in time, whose cluster this is, whether our node has a Node object, and
//! whether K3s is at work.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::run::Wake;
use super::shared::Shared;
use crate::kubernetes::Error;
use crate::kubernetes::nodes::{cluster_id, node, nodes};
use crate::snapshot::Failure;

/// How long a pass waits at most for the API server to be heard of at all.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// For each beat. Wakes the loops when something that they go by is not what it was. True when everything could be seen, and
/// when an earlier beat is still looking, which says itself how that ends.
pub async fn look(shared: &Shared, wakes: &[Arc<Wake>; 2]) -> bool {
    let Ok(_alone) = shared.looking.try_lock() else { return true };
    let (travelled, cluster, own) =
        tokio::join!(shared.cache.check(), cluster_id(&shared.client), node(&shared.client, &shared.settings.node));
    let failures = [travelled.as_ref().err(), cluster.as_ref().err(), own.as_ref().err()];
    let failure: Option<Failure> = failures.into_iter().flatten().next().map(Error::failure);
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
        around.asked = true;
        around.for_passes() != before.for_passes()
    };
    shared.heard.notify_waiters();
    if turned {
        for wake in wakes {
            wake.wake();
        }
    }
    shared.voice.hear("looking around at the API server", failure.as_ref());
    failure.is_none()
}

/// For each pass of the bucket's leader: when K3s was last at work on any node.
pub async fn look_for_k3s(shared: &Shared) {
    let seen = nodes(&shared.client).await;
    shared.voice.hear("looking for K3s on all nodes", seen.as_ref().err().map(Error::failure).as_ref());
    // What was seen earlier is no answer: K3s may have begun since.
    shared.around().k3s_anywhere = seen.ok().map(|seen| seen.iter().filter_map(|node| node.k3s_at).max());
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
