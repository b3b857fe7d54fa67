//! What a person asks for by hand: the agent's own passes, once, without its loops and beside whatever agents run.
//!
//! In: the settings, and what is asked. Out: what each pass decided on and what became of it. It takes no part in elections
//! and keeps no records: those that retention removes the files of go with them, those of a bucket that a person gives up go when they
//! say so, and all others are the agents' to write.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::agent::{Built, StartError, build, open};
use super::bucket::BucketLoop;
use super::directory::DirectoryLoop;
use super::outcome::Outcome;
use super::parts::Hands;
use super::pass::Passed;
use super::saver::Saver;
use super::shared::Shared;
use super::surroundings;
use super::upload::End;
use crate::config::RunSettings;
use crate::decide::Asked;
use crate::kubernetes::client::{Source, client, nowhere};
use crate::kubernetes::write;
use crate::record::Record;
use crate::save::{SaveError, Saved, Tell};
use crate::snapshot::{BaseName, ClusterId, Failure, FileName, Listing, SnapshotFile, Storage, Upload};
use crate::storage::local::Directory;
use crate::storage::{Memory, Store as _};

/// How long Events and the cache have to end.
const LAST_THINGS: Duration = Duration::from_secs(5);
/// A file that somebody has written has come to rest before this, unless it is written on.
const REST: Duration = Duration::from_secs(3);

/// One run by hand.
pub struct ByHand {
    shared: Arc<Shared>,
    hands: Hands,
    bucket: BucketLoop,
    tasks: TaskTracker,
    last: CancellationToken,
    there: There,
}

/// What a person has around them.
#[derive(Debug, Clone)]
pub struct There {
    /// Where the API server is, if one is named.
    pub api: Option<Source>,
    /// Whether there is a directory, or one is to be made.
    pub directory: bool,
}

impl ByHand {
    /// Looks around once. None when told to stop before.
    pub async fn new(settings: RunSettings, there: There, asked: Asked, stop: &CancellationToken) -> Result<Option<Self>, StartError> {
        let client = match &there.api {
            Some(source) => client(source, settings.namespace.as_deref()).await?,
            // The day when there is no Kubernetes is one on which people work by hand.
            None => nowhere(),
        };
        let directory = if there.directory {
            open(&settings, stop).await?
        } else {
            // On a laptop there is a bucket, and no directory is made.
            Some(Directory::read_only(settings.snapshot_dir.clone(), settings.node.clone())?)
        };
        let Some(directory) = directory else { return Ok(None) };
        let Built { shared, hands, publisher } = build(settings, asked, client, directory, stop);
        let (tasks, last) = (TaskTracker::new(), CancellationToken::new());
        let stopped = last.clone();
        tasks.spawn(async move { publisher.run(&stopped).await });
        let (cache, stopped) = (shared.cache.clone(), last.clone());
        tasks.spawn(async move { cache.run(&stopped).await });
        shared.around().beat = shared.now();
        surroundings::look(&shared).await;
        let bucket = BucketLoop::new(shared.clone(), String::new(), String::new());
        Ok(Some(Self { shared, hands, bucket, tasks, last, there }))
    }

    /// Whether there is a directory to work on, and not the bucket alone.
    pub fn has_directory(&self) -> bool {
        self.there.directory
    }

    /// What could not be found out at the API server, where there should be one.
    pub fn unasked(&self) -> Option<Failure> {
        self.shared.voice.failing(surroundings::ABOUT).filter(|_| self.there.api.is_some())
    }

    /// What should stand beside a snapshot that was saved, and could not be read.
    pub fn left_out(&self) -> Vec<Failure> {
        let of_api = |failure: &Failure| matches!(failure.category, "unavailable" | "timeout" | "unauthorized");
        let failing = super::saver::LEFT_OUT.into_iter().filter_map(|about| self.shared.voice.failing(about));
        // That nobody answers is known already.
        failing.filter(|failure| !of_api(failure)).collect()
    }

    /// What the passes share.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// From now on only decides, or acts again.
    pub fn observe(&self, only: bool) {
        self.shared.observing.store(only, Ordering::Relaxed);
    }

    /// The cluster whose objects are ours, as a person says it: where no API server does.
    pub fn believe(&self, cluster: ClusterId) {
        let mut around = self.shared.around();
        if !around.cluster_told {
            (around.cluster, around.cluster_told) = (Some(cluster), true);
        }
    }

    /// Saves one snapshot into the directory.
    pub async fn save(&self, base: &BaseName, compress: bool, watch: Tell) -> Result<Saved, SaveError> {
        Saver::new(self.shared.clone(), self.hands.directory.clone()).save(base, compress, watch).await
    }

    /// Finds the bucket of the settings in force, to which files go up and from which objects go. False when there is none.
    pub async fn find_bucket(&mut self) -> Result<bool, Failure> {
        if !self.shared.settings.s3.is_on() {
            return Ok(false);
        }
        self.bucket.connected().await.map(|connected| connected.is_some())
    }

    /// One pass over the directory. What was written a moment ago has that moment to be at rest: there is no watch that would say so,
    /// and no next pass.
    pub async fn directory(&mut self) -> Passed {
        self.hands.directory.list(&Memory::new()).await;
        // What is written all the time is not waited for.
        let end = Instant::now() + REST;
        while let Some(rest) = self.hands.directory.next_rest().filter(|_| Instant::now() < end) {
            tokio::time::sleep(rest).await;
            self.hands.directory.list(&Memory::new()).await;
        }
        self.verify().await;
        DirectoryLoop::new(self.shared.clone(), self.hands.clone()).passed().await
    }

    /// Reads what nobody has verified yet, as far as it matters to what is asked: what is not known to be good takes no place, and does
    /// not go up; and no later pass would have the verdict.
    async fn verify(&self) {
        let (asked, base) = (self.shared.policy().asked, &self.shared.settings.base);
        let matters = |file: &SnapshotFile| match &asked {
            Asked::Prune { .. } => file.name.as_str().starts_with(base.as_str()),
            Asked::Upload { only, .. } => only.is_empty() || only.contains(&file.name),
            Asked::Nothing | Asked::Delete { .. } => false,
        };
        let listed = self.hands.directory.list(&Memory::new()).await;
        let files = listed.inventory.seen().values().filter(|file| file.known.is_none() && file.at_rest && matters(file));
        for file in files.cloned() {
            let (directory, stop, name) = (self.hands.directory.clone(), self.shared.stop.clone(), file.name.clone());
            let read = spawn_blocking(move || directory.verify(&file, || !stop.is_cancelled())).await;
            tracing::info!(snapshot = %name, "nobody had verified it: {read:?}");
        }
    }

    /// From now on this is asked for.
    pub fn ask(&self, asked: Asked) {
        *self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner) = asked;
    }

    /// How uploads of this run ended since this was asked last.
    pub fn upload_ends(&self) -> BTreeMap<FileName, End> {
        self.hands.uploader.ends()
    }

    /// Sends a file that another process was sending, if that has let go of it: the `HEAD` tells what became of it, and where
    /// nothing did it goes on with what was begun.
    pub async fn send_again(&self, file: &SnapshotFile) {
        let Some(to) = self.shared.bucket().map(|connected| connected.bucket.storage().id()) else { return };
        let files = Listing::from([(file.name.clone(), file.clone())]);
        let noted = self.hands.directory.uploads(&files).await.remove(&file.name).and_then(|mut uploads| uploads.remove(&to));
        let begun = match noted {
            Some(Upload::Begun { id }) => Some(id),
            _ => None,
        };
        self.hands.uploader.again();
        self.hands.uploader.start(file, begun);
    }

    /// Whether the bucket has something under this name, asked now.
    pub async fn is_in_bucket(&self, name: &FileName) -> Result<bool, Failure> {
        match self.shared.bucket() {
            Some(connected) => Ok(connected.bucket.ask(name).await?.is_some()),
            None => Ok(false),
        }
    }

    /// Waits until an upload has ended. False when none runs.
    pub async fn next_upload(&self) -> bool {
        let runs = !self.hands.uploader.running().is_empty();
        self.hands.uploader.next().await;
        runs
    }

    /// All records, as the API server has them.
    pub async fn records(&self) -> Result<Vec<Arc<Record>>, Failure> {
        surroundings::heard(&self.shared).await;
        self.shared.cache.records().ok_or_else(|| self.shared.records_failure())
    }

    /// Deletes one record, if it is still this one.
    pub async fn forget(&self, record: &Record) -> Outcome {
        write::forget(&self.shared.cache, record, None).await.into()
    }

    /// The bucket that was found.
    pub fn bucket_in_force(&self) -> Option<Storage> {
        self.shared.bucket().map(|connected| connected.bucket.storage().clone())
    }

    /// Whether K3s is at work anywhere, or nobody can say that it is not.
    pub fn k3s_is_at_work(&self) -> bool {
        let interval = self.shared.settings.interval;
        self.shared.around().k3s_at_work_anywhere(self.shared.now(), interval) != Some(false)
    }

    /// One pass over the bucket, if there is one.
    pub async fn bucket(&mut self) -> Result<Option<Passed>, Failure> {
        self.bucket.by_hand().await
    }

    /// Ends what runs beside: Events are told, the state is written.
    pub async fn end(self) {
        self.last.cancel();
        self.tasks.close();
        let ended = async { tokio::join!(self.tasks.wait(), self.hands.uploader.stopped()) };
        tokio::time::timeout(LAST_THINGS, ended).await.ok();
    }
}
