//! The bucket's loop: every agent resolves the settings at each pass, and whoever leads lists the bucket and writes its
//! records.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::parts::Parts;
use super::pass::pass;
use super::permit::Permit;
use super::run::{BeatPart, PassEnd, Wake};
use super::shared::Shared;
use crate::config::{CaBundles, ConfigError, Lookup, S3Access, S3Layer, ca_config_map, read_certificates, resolve_s3};
use crate::health::{Loop, Part};
use crate::kubernetes::lease::{Election, Leadership, Timing};
use crate::kubernetes::secret;
use crate::metrics::{self, S3Operation, S3Outcome};
use crate::record::Place;
use crate::record::api::S3;
use crate::snapshot::{ClusterId, Failure, StorageId};
use crate::storage::s3::Bucket;

/// The bucket of the settings in force, and the election of its leader.
pub struct BucketLoop {
    shared: Arc<Shared>,
    wake: Arc<Wake>,
    namespace: String,
    holder: String,
    /// What the Secret last said, for as long as the API server is away.
    layer: Option<S3Layer>,
    bundles: Option<CaBundles>,
    bucket: Option<(S3Access, ClusterId, Bucket)>,
    running: Option<Candidacy>,
    tasks: TaskTracker,
}

/// Our part in the election for one bucket.
struct Candidacy {
    storage: StorageId,
    leadership: Leadership,
    stop: CancellationToken,
}

impl BucketLoop {
    /// Nothing is asked yet. The Leases are in `namespace`, held as `holder`.
    pub fn new(shared: Arc<Shared>, wake: Arc<Wake>, namespace: String, holder: String) -> Self {
        let tasks = TaskTracker::new();
        Self { shared, wake, namespace, holder, layer: None, bundles: None, bucket: None, running: None, tasks }
    }

    /// One pass. None when this agent does not lead.
    pub async fn pass(&mut self) -> BeatPart {
        let began = Instant::now();
        let shared = self.shared.clone();
        // Settings that cannot be read are no stuck loop.
        let _running = shared.health.pass(Loop::Bucket);
        let access = match self.access().await {
            Ok(Some(access)) => access,
            // S3 is on or off for a whole run, and off there is no such loop.
            Ok(None) => return None,
            Err(failure) => {
                // Who cannot read the settings does not keep the Lease from those who can.
                self.resign();
                self.shared.metrics.leads(metrics::Leadership::Follower);
                return Some(self.ill(Part::Settings, &failure, began));
            }
        };
        self.hear(Part::Settings, None);
        let leadership = self.candidate(&access);
        if leadership.until().is_none() {
            self.shared.metrics.leads(metrics::Leadership::Follower);
            self.shared.health.stands_down(Loop::Bucket);
            self.shared.health.ill(Part::Bucket, None);
            self.shared.health.ill(Part::BucketRecords, None);
            self.shared.health.k3s_at_work(Loop::Bucket, None);
            return None;
        }
        self.shared.metrics.leads(metrics::Leadership::Leader);
        // At a start the bucket may be led before anybody has said whose cluster this is.
        super::surroundings::looked(&self.shared).await;
        if let Err(failure) = self.connect(access).await {
            return Some(self.ill(Part::Bucket, &failure, began));
        }
        // Health keeps what the last listing said until the next one has ended.
        self.shared.voice.hear(&about(Part::Bucket), None);
        super::surroundings::look_for_k3s(&self.shared).await;
        let (access, _, bucket) = self.bucket.as_ref()?;
        let parts = Parts {
            shared: &self.shared,
            store: bucket,
            storage: bucket.storage().clone(),
            place: Place::S3(shown(access)),
            verifier: None,
            permit: Permit::Leading(leadership),
        };
        let end = pass(&parts).await;
        Some(end)
    }

    /// Gives every Lease back. Nothing may be written after this.
    pub async fn stopped(mut self) {
        self.resign();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn ill(&self, part: Part, failure: &Failure, began: Instant) -> PassEnd {
        self.hear(part, Some(failure));
        PassEnd { took: began.elapsed(), ok: false }
    }

    fn hear(&self, part: Part, failure: Option<&Failure>) {
        self.shared.voice.hear(&about(part), failure);
        self.shared.health.ill(part, failure.map(ToString::to_string));
    }

    /// The settings in force: the Secret is read again, and what it last said holds while the API server is away.
    async fn access(&mut self) -> Result<Option<S3Access>, Failure> {
        let settings = &self.shared.settings.s3;
        if let Some(name) = settings.config_secret() {
            let namespace = &self.shared.settings.config_namespace;
            match secret::secret(&self.shared.client, namespace, name).await {
                Ok(values) => {
                    let (layer, warnings) =
                        S3Layer::from_secret(&format!("{namespace}/{name}"), &values.0).map_err(|error| wrong(&error))?;
                    if self.layer.as_ref() != Some(&layer) {
                        for warning in &warnings {
                            tracing::warn!("{warning}");
                        }
                    }
                    self.layer = Some(layer);
                }
                Err(error) => self.keep_if_away(&error)?,
            }
        }
        if let Some(name) = ca_config_map(settings, self.layer.as_ref()) {
            match secret::config_map(&self.shared.client, &self.shared.settings.config_namespace, name).await {
                Ok(values) => self.bundles = Some(values.0),
                Err(error) => self.keep_if_away(&error)?,
            }
        }
        resolve_s3(settings, self.layer.as_ref(), self.bundles.as_ref(), &read_certificates).map_err(|error| wrong(&error))
    }

    /// What was read last stays in force while the API server does not answer; a Secret that is gone or forbidden does not.
    fn keep_if_away(&self, error: &crate::kubernetes::Error) -> Result<(), Failure> {
        let failure = error.failure();
        let away = matches!(failure.category, "unavailable" | "timeout" | "throttled");
        if away && self.layer.is_some() { Ok(()) } else { Err(failure) }
    }

    /// Stands for election in the Lease of this bucket, and no longer in that of another.
    fn candidate(&mut self, access: &S3Access) -> Leadership {
        let storage = access.storage().id();
        if let Some(running) = self.running.as_ref().filter(|running| running.storage == storage) {
            return running.leadership.clone();
        }
        self.resign();
        self.shared.metrics.leads(metrics::Leadership::Follower);
        let name = format!("{}-s3-{storage}", crate::kubernetes::OPERATOR);
        let (election, leadership) = Election::new(self.shared.client.clone(), &self.namespace, &name, &self.holder, Timing::default());
        let stop = CancellationToken::new();
        let (stopped, wake, mut seen) = (stop.clone(), self.wake.clone(), leadership.clone());
        self.tasks.spawn(async move { election.run(&stopped).await });
        let stopped = stop.clone();
        self.tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = stopped.cancelled() => return,
                    () = seen.changed() => wake.wake(),
                }
            }
        });
        tracing::info!(lease = name, namespace = self.namespace, bucket = %access.storage(), "standing for election");
        self.running = Some(Candidacy { storage, leadership: leadership.clone(), stop });
        leadership
    }

    fn resign(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.cancel();
        }
    }

    /// A client for these settings, made anew when they or the cluster changed.
    async fn connect(&mut self, access: S3Access) -> Result<(), Failure> {
        let Some(cluster) = self.shared.surroundings().cluster_of_records().cloned() else {
            return Err(Failure::new(
                "cluster_unknown",
                "the UID of the namespace kube-system is not known yet, so nobody can say which objects are ours",
            ));
        };
        if self.bucket.as_ref().is_some_and(|(before, us, _)| *before == access && *us == cluster) {
            return Ok(());
        }
        self.bucket = None;
        self.shared.health.allow(access.timeout);
        let (metrics, health) = (self.shared.metrics.clone(), self.shared.health.clone());
        let observer: crate::storage::s3::Observer = Arc::new(move |operation, outcome| {
            metrics.requested(S3Operation::named(operation), S3Outcome::named(outcome));
            health.progress(Loop::Bucket);
        });
        let bucket = Bucket::new(&access, cluster.clone(), observer).await.map_err(|error| error.failure())?;
        self.bucket = Some((access, cluster, bucket));
        Ok(())
    }
}

/// What the log calls it.
fn about(part: Part) -> String {
    format!("{part} of S3")
}

fn wrong(error: &ConfigError) -> Failure {
    Failure::of(error.category(), error)
}

/// The settings as records show them. Keys, proxy and timeouts are never shown.
pub fn shown(access: &S3Access) -> S3 {
    S3 {
        endpoint: access.endpoint.as_str().into(),
        endpoint_ca: access.endpoint_ca.clone(),
        skip_ssl_verify: access.skip_verify,
        bucket: access.bucket.clone(),
        bucket_lookup: match access.lookup {
            Lookup::Auto => String::new(),
            Lookup::Dns => "dns".into(),
            Lookup::Path => "path".into(),
        },
        region: access.region.clone(),
        prefix: access.folder.clone(),
        insecure: access.insecure,
    }
}
