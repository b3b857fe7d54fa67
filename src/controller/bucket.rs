//! The bucket's loop: every agent resolves the settings at each pass and holds a client for its uploads; whoever leads lists
//! the bucket, writes its records and removes what retention lets go.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::outcome::Outcome;
use super::parts::Parts;
use super::pass::{Passed, pass};
use super::permit::Permit;
use super::run::{BeatPart, PassEnd};
use super::shared::{Connected, Shared};
use crate::config::{CaBundles, ConfigError, Lookup, S3Access, S3Layer, ca_config_map, read_certificates, resolve_s3};
use crate::decide::{Action, Step};
use crate::health::{Loop, Part};
use crate::kubernetes::lease::{Election, Leadership, Timing};
use crate::kubernetes::secret;
use crate::metrics::{self, S3Operation, S3Outcome};
use crate::record::Place;
use crate::record::api::S3;
use crate::snapshot::{ClusterId, Failure, FileName, StorageId, UploadId};
use crate::storage::s3::{Bucket, Observer, S3Error, Traffic};

/// Time from one look for multipart uploads that nobody goes on with to the next.
const SWEEP: Duration = Duration::from_hours(24);
/// And from the beginning of leadership to the first.
const FIRST_SWEEP: Duration = Duration::from_hours(1);
/// So old they are then: no upload takes that long, and whoever began one would have gone on with it.
const ABANDONED: SignedDuration = SignedDuration::from_hours(7 * 24);

/// The bucket of the settings in force, and the election of its leader.
pub struct BucketLoop {
    shared: Arc<Shared>,
    namespace: String,
    holder: String,
    /// What the Secret last said, for as long as the API server is away.
    layer: Option<S3Layer>,
    bundles: Option<CaBundles>,
    running: Option<Candidacy>,
    sweep: Sweep,
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
    pub fn new(shared: Arc<Shared>, namespace: String, holder: String) -> Self {
        Self { shared, namespace, holder, layer: None, bundles: None, running: None, sweep: Sweep::default(), tasks: TaskTracker::new() }
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
                self.publish(None);
                self.shared.metrics.leads(metrics::Leadership::Follower);
                return Some(self.ill(Part::Settings, &failure, began));
            }
        };
        self.hear(Part::Settings, None);
        let leadership = self.candidate(&access);
        // At a start a bucket may be led, or uploaded to, before anybody has said whose cluster this is.
        super::surroundings::looked(&self.shared).await;
        let connected = self.connect(access).await;
        if leadership.until().is_none() {
            self.shared.metrics.leads(metrics::Leadership::Follower);
            self.shared.health.stands_down(Loop::Bucket);
            self.hear(Part::Bucket, connected.err().as_ref());
            self.shared.health.ill(Part::BucketRecords, None);
            self.shared.health.k3s_at_work(Loop::Bucket, None);
            return None;
        }
        self.shared.metrics.leads(metrics::Leadership::Leader);
        let connected = match connected.and_then(|connected| self.of_records(connected)) {
            Ok(connected) => connected,
            Err(failure) => return Some(self.ill(Part::Bucket, &failure, began)),
        };
        // Health keeps what the last listing said until the next one has ended.
        self.shared.voice.hear(&about(Part::Bucket), None);
        let permit = Permit::Leading(leadership);
        self.finish_removals(&connected, &permit).await;
        self.look_for_abandoned(&connected).await;
        let passed = self.passed(&connected, permit, self.sweep.left.clone()).await;
        self.sweep.heard(&passed);
        Some(passed.end)
    }

    /// One pass for a person, who needs no leadership: what a removal asks first makes it harmless beside the leader's. None
    /// when there is no bucket.
    pub async fn by_hand(&mut self) -> Result<Option<Passed>, Failure> {
        let Some(connected) = self.connected().await? else { return Ok(None) };
        let connected = self.of_records(connected)?;
        Ok(Some(self.passed(&connected, Permit::Always, Vec::new()).await))
    }

    /// The bucket of the settings in force; None when there is none.
    pub async fn connected(&mut self) -> Result<Option<Arc<Connected>>, Failure> {
        let Some(access) = self.access().await? else { return Ok(None) };
        self.connect(access).await.map(Some)
    }

    async fn passed(&self, connected: &Connected, permit: Permit, abandoned: Vec<(FileName, UploadId)>) -> Passed {
        super::surroundings::look_for_k3s(&self.shared).await;
        let parts = Parts {
            shared: &self.shared,
            store: &connected.bucket,
            storage: connected.bucket.storage().clone(),
            place: place(connected),
            hands: None,
            permit,
            abandoned,
        };
        pass(&parts).await
    }

    /// What an earlier pass began to remove, and what was checked then. Costs nothing where nothing was cut.
    async fn finish_removals(&self, connected: &Connected, permit: &Permit) {
        let Some(finished) = permit.hold(Box::pin(connected.bucket.finish_removals())).await else { return };
        self.shared.voice.hear("removing sidecars whose objects are gone", finished.err().map(|error| error.failure()).as_ref());
    }

    /// Multipart uploads of objects of ours that were begun long ago: looked for once a day, and not in the first hour, so that
    /// neither a beat nor a restart costs a request for them.
    async fn look_for_abandoned(&mut self, connected: &Connected) {
        if !self.sweep.is_due(Instant::now()) {
            return;
        }
        let records = self.shared.cache.records().unwrap_or_default();
        let of_bucket = records.iter().filter(|record| record.storage.as_ref() == Some(connected.bucket.storage()));
        let names = of_bucket.filter_map(|record| record.file.clone()).collect();
        let found = connected.bucket.abandoned(&names, abandoned_before(self.shared.now())).await;
        self.shared
            .voice
            .hear("looking for multipart uploads that nobody goes on with", found.as_ref().err().map(S3Error::failure).as_ref());
        if let Ok(found) = found {
            self.sweep.left = found;
        }
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
        self.sweep = Sweep::default();
        self.shared.metrics.leads(metrics::Leadership::Follower);
        let name = format!("{}-s3-{storage}", crate::kubernetes::OPERATOR);
        let (election, leadership) = Election::new(self.shared.client.clone(), &self.namespace, &name, &self.holder, Timing::default());
        let stop = CancellationToken::new();
        let (stopped, wake, mut seen) = (stop.clone(), self.shared.wakes.bucket.clone(), leadership.clone());
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
    async fn connect(&self, access: S3Access) -> Result<Arc<Connected>, Failure> {
        let Some(cluster) = self.shared.surroundings().cluster_of_uploads().cloned() else {
            self.publish(None);
            return Err(cluster_unknown());
        };
        if let Some(before) = self.shared.bucket().filter(|before| before.access == access && before.cluster == cluster) {
            return Ok(before);
        }
        self.publish(None);
        let connected = Arc::new(connect(&self.shared, access, cluster).await?);
        self.publish(Some(connected.clone()));
        // Whoever uploads has another place to upload to.
        self.shared.wakes.directory.wake();
        Ok(connected)
    }

    /// The cluster that the state of a disk remembers is enough to upload, and not to judge records by.
    fn of_records(&self, connected: Arc<Connected>) -> Result<Arc<Connected>, Failure> {
        let told = self.shared.surroundings().cluster_of_records() == Some(&connected.cluster);
        if told { Ok(connected) } else { Err(cluster_unknown()) }
    }

    fn publish(&self, connected: Option<Arc<Connected>>) {
        *self.shared.connected.lock().unwrap_or_else(PoisonError::into_inner) = connected;
    }
}

/// When to look next for multipart uploads to one bucket that nobody goes on with, and what is left of those found. Not known before
/// we lead. A leadership that is lost and won again goes on with it: else one that never lasts an hour would never look.
#[derive(Debug, Default)]
struct Sweep {
    due: Option<Instant>,
    left: Vec<(FileName, UploadId)>,
}

impl Sweep {
    /// Whether it is time, for each pass of the leader.
    fn is_due(&mut self, now: Instant) -> bool {
        let due = self.due.is_some_and(|at| at <= now);
        if self.due.is_none() || due {
            self.due = now.checked_add(if due { SWEEP } else { FIRST_SWEEP });
        }
        due
    }

    /// What could not be aborted is left for the next pass.
    fn heard(&mut self, passed: &Passed) {
        let is_aborted = |left: &(FileName, UploadId)| {
            let is_it = |step: &Step| matches!(&step.action, Action::Abort(name, id) if (name, id) == (&left.0, &left.1));
            passed.plan.steps().iter().zip(&passed.outcomes).any(|(step, outcome)| is_it(step) && *outcome == Outcome::Done)
        };
        self.left.retain(|left| !is_aborted(left));
    }
}

/// An upload that was begun before this is gone on with by nobody.
fn abandoned_before(now: Timestamp) -> Timestamp {
    now.saturating_sub(ABANDONED).unwrap_or(Timestamp::MIN)
}

/// A client for these settings. Sends nothing.
pub async fn connect(shared: &Shared, access: S3Access, cluster: ClusterId) -> Result<Connected, Failure> {
    shared.health.allow(access.timeout);
    let (metrics, health) = (shared.metrics.clone(), shared.health.clone());
    let observer: Observer = Arc::new(move |seen| {
        match seen {
            Traffic::Request { operation, outcome } => metrics.requested(S3Operation::named(operation), S3Outcome::named(outcome)),
            Traffic::Sent { bytes } => metrics.uploaded(bytes, 0),
            Traffic::Retried => metrics.uploaded(0, 1),
        }
        health.progress(Loop::Bucket);
    });
    let bucket = Bucket::new(&access, cluster.clone(), observer).await.map_err(|error| error.failure())?;
    Ok(Connected { access, cluster, bucket })
}

fn cluster_unknown() -> Failure {
    Failure::new("cluster_unknown", "the UID of the namespace kube-system is not known yet, so nobody can say which objects are ours")
}

/// What the log calls it.
fn about(part: Part) -> String {
    format!("{part} of S3")
}

fn wrong(error: &ConfigError) -> Failure {
    Failure::of(error.category(), error)
}

/// Where the objects are, as records say it.
pub fn place(connected: &Connected) -> Place {
    Place::S3(shown(&connected.access))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn left_uploads_are_looked_for_once_a_day_by_who_leads_for_an_hour_and_are_seven_days_old() {
        let (mut sweep, begun) = (Sweep::default(), Instant::now());
        let mut is_due = |minutes: u64| sweep.is_due(begun + Duration::from_mins(minutes));
        assert_eq!(
            [0, 59, 60, 61, 60 + 24 * 60 - 1, 60 + 24 * 60, 61 + 24 * 60].map(&mut is_due),
            [false, false, true, false, false, true, false]
        );
        let now: Timestamp = "2026-11-25T12:00:00Z".parse().unwrap();
        assert_eq!(abandoned_before(now), "2026-11-18T12:00:00Z".parse().unwrap());
    }
}
