//! What the two loops share, and what is known of the world around: our Node, our cluster, and K3s.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::member::Historian;
use super::run::Wake;
use super::surroundings::Missing;
use super::voice::Voice;
use crate::config::{RunSettings, S3Access};
use crate::decide::{Asked, Keep, Mode, Policy};
use crate::health::Health;
use crate::kubernetes::Cache;
use crate::kubernetes::events::Events;
use crate::kubernetes::nodes::{at_work_until, is_at_work};
use crate::metrics::Metrics;
use crate::snapshot::{ClusterId, Failure, NodeName};
use crate::storage::s3::Bucket;

/// What both loops use.
pub struct Shared {
    /// The settings of this run.
    pub settings: RunSettings,
    /// What a person asked of this run.
    pub asked: Mutex<Asked>,
    /// Nothing is done, only decided: `--mode observe`, and a dry run by hand.
    pub observing: AtomicBool,
    /// Asks the etcd member.
    pub historian: Historian,
    /// The API server.
    pub client: kube::Client,
    /// The records.
    pub cache: Cache,
    /// Tells Kubernetes what happened.
    pub events: Events,
    /// Tells Prometheus.
    pub metrics: Arc<Metrics>,
    /// Tells kubelet.
    pub health: Arc<Health>,
    /// Tells the log.
    pub voice: Arc<Voice>,
    /// We are stopping.
    pub stop: CancellationToken,
    /// What was last seen around us.
    pub around: Mutex<Surroundings>,
    /// The bucket, while its settings can be read and make sense.
    pub connected: Mutex<Option<Arc<Connected>>>,
    /// Somebody has looked around.
    pub heard: Notify,
    /// One look around at a time, so that no late answer undoes a newer one; and which nodes it missed.
    pub looking: tokio::sync::Mutex<Missing>,
    /// To make the loops look again.
    pub wakes: Wakes,
}

/// Wakes the two loops.
#[derive(Clone, Default)]
pub struct Wakes {
    /// The directory's.
    pub directory: Arc<Wake>,
    /// The bucket's.
    pub bucket: Arc<Wake>,
}

impl Wakes {
    /// Both look again.
    pub fn both(&self) {
        self.directory.wake();
        self.bucket.wake();
    }
}

/// The bucket of the settings in force.
pub struct Connected {
    /// The settings.
    pub access: S3Access,
    /// The cluster whose objects are ours.
    pub cluster: ClusterId,
    /// The bucket itself.
    pub bucket: Bucket,
}

impl Shared {
    /// The bucket, while its settings can be read and make sense.
    pub fn bucket(&self) -> Option<Arc<Connected>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What decisions follow now: what the bucket keeps is said where the bucket is, and may change from beat to beat.
    pub fn policy(&self) -> Policy {
        let settings = &self.settings;
        let keep = Keep {
            base: settings.base.clone(),
            local: settings.retention,
            bucket: self.bucket().map_or(0, |connected| connected.access.retention),
            adopt_unlabelled: settings.adopt_unlabelled,
        };
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mode = if self.observing.load(Ordering::Relaxed) { Mode::Observe } else { Mode::Manage };
        Policy { mode, interval: settings.interval, keep, asked }
    }

    /// The time for decisions.
    pub fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// What was last seen around us.
    pub fn surroundings(&self) -> Surroundings {
        self.around().clone()
    }

    /// To note what is around us.
    pub fn around(&self) -> MutexGuard<'_, Surroundings> {
        self.around.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the records are not known.
    pub fn records_failure(&self) -> Failure {
        let health = self.cache.health();
        if health.crd_missing {
            return Failure::new("crd_missing", "the API server does not serve etcdsnapshotfiles.k3s.cattle.io: its CRD is not installed");
        }
        health.failure.unwrap_or_else(|| Failure::new("not_synced", "the records have not been listed yet"))
    }
}

/// What is around us, as far as it could be found out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// When the beat began.
    pub beat: Timestamp,
    /// The API server was asked once, whatever it said.
    pub asked: bool,
    /// The cluster's id; what the state remembered until the API server has told it.
    pub cluster: Option<ClusterId>,
    /// The API server has told the cluster's id.
    pub cluster_told: bool,
    /// Whether there is a Node object of our name.
    pub has_node_object: Option<bool>,
    /// The UID of that Node object.
    pub node_uid: Option<String>,
    /// When K3s last reconciled this node's snapshots; the inner None is never.
    pub k3s_here: Option<Option<Timestamp>>,
    /// When K3s last reconciled any node's snapshots.
    pub k3s_anywhere: Option<Option<Timestamp>>,
    /// The directory was listed completely once.
    pub listed: bool,
    /// When the newest good snapshot of ours in the directory was taken, as of the last complete listing.
    pub newest_good: Option<Timestamp>,
    /// The nodes that have a Node object. None when that could not be found out just now.
    pub nodes: Option<BTreeSet<NodeName>>,
    /// Nodes that records name and that have had no Node object for longer than the grace.
    pub gone: BTreeSet<NodeName>,
}

impl Surroundings {
    /// What passes go by. That K3s was at work once more is not in it: such a pass would have nothing to do.
    pub fn for_passes(&self) -> impl PartialEq {
        (self.asked, self.cluster_of_records().cloned(), self.has_node_object, self.k3s_here.is_some(), self.gone.clone())
    }

    /// The cluster that records are kept for. The disk of a node may remember another one than it is in now, and then every
    /// record would count as another cluster's: so only what the API server told.
    pub fn cluster_of_records(&self) -> Option<&ClusterId> {
        self.cluster.as_ref().filter(|_| self.cluster_told)
    }

    /// The cluster that uploads name: what the API server told, else, while it does not answer, what the state remembers.
    pub fn cluster_of_uploads(&self) -> Option<&ClusterId> {
        self.cluster.as_ref().filter(|_| self.cluster_told || self.asked)
    }

    /// Until when K3s counts as at work on this node's directory, going by what it last did.
    pub fn k3s_here_until(&self, interval: Duration) -> Option<Timestamp> {
        self.k3s_here.flatten().map(|last| at_work_until(last, interval))
    }

    /// Until when K3s counts as at work on a bucket.
    pub fn k3s_anywhere_until(&self, interval: Duration) -> Option<Timestamp> {
        self.k3s_anywhere.flatten().map(|last| at_work_until(last, interval))
    }

    /// Whether K3s is at work on this node's directory. None when nobody could say.
    pub fn k3s_at_work_here(&self, now: Timestamp, interval: Duration) -> Option<bool> {
        self.k3s_here.map(|last| is_at_work(last, now, interval))
    }

    /// Whether K3s is at work on a bucket. None when nobody could say.
    pub fn k3s_at_work_anywhere(&self, now: Timestamp, interval: Duration) -> Option<bool> {
        self.k3s_anywhere.map(|last| is_at_work(last, now, interval))
    }
}
