//! One agent: its parts put together, started, and stopped in the order that leaves nothing half done.

use std::panic::resume_unwind;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::bucket::BucketLoop;
use super::directory::DirectoryLoop;
use super::member::Historian;
use super::parts::Hands;
use super::run::{BeatPart, beats, run};
use super::schedule::ScheduleLoop;
use super::shared::{Shared, Surroundings, Wakes};
use super::surroundings;
use super::upload::Uploader;
use super::verify::Verifier;
use super::voice::Voice;
use crate::config::RunSettings;
use crate::decide::{Asked, Mode};
use crate::health::Health;
use crate::http;
use crate::kubernetes::cache::LookAgain;
use crate::kubernetes::client::{ClientError, Source, client};
use crate::kubernetes::events::{Events, Publisher};
use crate::kubernetes::{Cache, lease};
use crate::metrics::{Metrics, Operation, Status};
use crate::snapshot::{Failure, Storage};
use crate::storage::local::{Directory, LocalError};

/// How long a running pass may take to end when we stop.
const GRACE: Duration = Duration::from_secs(8);
/// How long each of the last things may take after that: Leases given back and readers ended, then Events told.
const LAST_THINGS: Duration = Duration::from_secs(5);
const _: () = assert!(GRACE.as_secs() + 2 * LAST_THINGS.as_secs() < 20, "the end is promised within 20 s");
/// No request takes longer than this unless etcd-s3-timeout says so; a loop that shows no progress for longer is stuck.
const LONGEST_REQUEST: Duration = Duration::from_mins(5);

/// Why an agent cannot start. Everything else is waited out.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No API server is named, or the way to it makes no sense.
    #[error("there is no way to the API server")]
    Client(#[from] ClientError),
    /// The snapshot directory cannot be one.
    #[error("the setting etcd-snapshot-dir cannot be used")]
    Directory(#[from] LocalError),
    /// The address is taken, or not ours.
    #[error("metrics and probes cannot be served")]
    Listen(#[from] http::ListenError),
}

/// What an agent works with, and what a person's run by hand does.
pub(super) struct Built {
    pub(super) shared: Arc<Shared>,
    pub(super) hands: Hands,
    /// Sends the Events that are told.
    pub(super) publisher: Publisher,
}

/// Puts the parts together; nothing is asked or listed yet. `asked` is what a person asked for.
pub(super) fn build(settings: RunSettings, asked: Asked, client: kube::Client, directory: Directory, stop: &CancellationToken) -> Built {
    let health = Arc::new(Health::new(settings.mode, settings.interval, LONGEST_REQUEST));
    let metrics = Arc::new(Metrics::new(settings.metrics_prefix.as_deref()));
    let wakes = Wakes::default();
    let (woken, node) = (wakes.clone(), settings.node.clone());
    let cache = Cache::new(client.clone(), settings.program, move |changed| match changed {
        LookAgain::At(Storage::Local { node: of }) if *of == node => woken.directory.wake(),
        LookAgain::At(Storage::Local { .. }) => {}
        LookAgain::At(Storage::S3 { .. }) | LookAgain::AtUploads => woken.bucket.wake(),
        LookAgain::Everywhere => woken.both(),
    });
    let (events, publisher) = Events::new(client.clone(), settings.node.as_str());
    let shared = Arc::new(Shared {
        asked: Mutex::new(asked),
        observing: AtomicBool::new(settings.mode == Mode::Observe),
        historian: Historian::new(settings.etcd.clone()),
        connected: Mutex::default(),
        client,
        cache,
        events,
        metrics: metrics.clone(),
        health,
        voice: Arc::new(Voice::default()),
        stop: stop.clone(),
        around: Mutex::new(Surroundings::default()),
        heard: Notify::new(),
        looking: tokio::sync::Mutex::default(),
        wakes: wakes.clone(),
        settings,
    });
    super::directory::remembered_cluster(&directory, &shared);
    let hands = Hands {
        verifier: Verifier::new(directory.clone(), wakes.directory, metrics, shared.voice.clone(), stop.clone()),
        uploader: Uploader::new(shared.clone(), directory.clone()),
        directory,
    };
    Built { shared, hands, publisher }
}

/// Opens the snapshot directory of these settings. A dead disk may hold it for ever; who is told to stop does not wait for
/// that, and gets None.
pub(super) async fn open(settings: &RunSettings, stop: &CancellationToken) -> Result<Option<Directory>, StartError> {
    let (path, node) = (settings.snapshot_dir.clone(), settings.node.clone());
    tokio::select! {
        opened = spawn_blocking(move || Directory::open(path, node)) => Ok(Some(opened.unwrap_or_else(|panic| resume_unwind(panic.into_panic()))?)),
        () = stop.cancelled() => Ok(None),
    }
}

/// Runs until `stop`, and returns when everything in flight has ended or was given up.
pub async fn agent(settings: RunSettings, stop: CancellationToken) -> Result<(), StartError> {
    let listener = http::listen(settings.http_listen).await?;
    let client = client(&Source::infer(|name| std::env::var_os(name))?, settings.namespace.as_deref()).await?;
    let Some(directory) = open(&settings, &stop).await? else { return Ok(()) };
    let Built { shared, hands, publisher } = build(settings, Asked::Nothing, client, directory, &stop);
    let wakes = shared.wakes.clone();

    // What may go on while the loops end, and ends after them.
    let (tasks, last) = (TaskTracker::new(), CancellationToken::new());
    let stopped = last.clone();
    tasks.spawn(async move { publisher.run(&stopped).await });
    tasks.spawn(http::serve(listener, shared.metrics.clone(), shared.health.clone(), last.clone()));
    let (cache, stopped) = (shared.cache.clone(), last.clone());
    tasks.spawn(async move { cache.run(&stopped).await });
    let (watching, woken, stopped) = (hands.directory.clone(), wakes.directory.clone(), stop.clone());
    tasks.spawn(async move { watching.watch(move || woken.wake(), stopped).await });
    tasks.spawn(surroundings::follow_cache(shared.clone(), last.clone()));

    let with_bucket = shared.settings.s3.is_on();
    let beating = beats(
        shared.settings.interval,
        || {
            shared.around().beat = shared.now();
            hands.verifier.again();
            hands.uploader.again();
            let parts = (wakes.directory.beat(), with_bucket.then(|| wakes.bucket.beat()));
            tokio::spawn(beat(shared.clone(), parts));
        },
        &stop,
    );
    let mut directory_loop = DirectoryLoop::new(shared.clone(), hands.clone());
    let looking = async {
        run(async || directory_loop.pass().await, &wakes.directory, GRACE, &stop).await;
        let hands_stopped = async { tokio::join!(hands.verifier.stopped(), hands.uploader.stopped()) };
        tokio::time::timeout(LAST_THINGS, hands_stopped).await.ok();
    };
    let leading = async {
        let namespace = shared.client.default_namespace().to_string();
        let holder = lease::holder(shared.settings.node.as_str());
        let mut bucket_loop = BucketLoop::new(shared.clone(), namespace, holder);
        if with_bucket {
            run(async || bucket_loop.pass().await, &wakes.bucket, GRACE, &stop).await;
        }
        tokio::time::timeout(LAST_THINGS, bucket_loop.stopped()).await.ok();
    };
    let saving = async {
        let namespace = shared.client.default_namespace().to_string();
        let holder = lease::holder(shared.settings.node.as_str());
        if let Some(schedule) = ScheduleLoop::new(shared.clone(), hands.directory.clone(), &namespace, holder) {
            Box::pin(schedule.run(&stop)).await;
        }
    };
    tokio::join!(beating, looking, leading, saving);
    tracing::info!("stopping");
    last.cancel();
    tasks.close();
    tokio::time::timeout(LAST_THINGS, tasks.wait()).await.ok();
    Ok(())
}

type Parts = (oneshot::Receiver<BeatPart>, Option<oneshot::Receiver<BeatPart>>);

/// One beat: looks around, and measures both storages' passes when they have ended.
async fn beat(shared: Arc<Shared>, (local, remote): Parts) {
    let began = Instant::now();
    shared.metrics.beat(shared.now());
    // Each part is told when it ends: a bucket that hangs must not make the directory look ill.
    let part = async |part: oneshot::Receiver<BeatPart>, operation| {
        let ended = part.await.ok().flatten()?;
        shared.metrics.ended(operation, Status::of(ended.ok), ended.took, shared.now());
        Some(ended)
    };
    let local = part(local, Operation::ReconcileLocal);
    let remote = async {
        match remote {
            Some(remote) => part(remote, Operation::ReconcileS3).await,
            None => None,
        }
    };
    let (around, local, remote) = tokio::join!(surroundings::look(&shared), local, remote);
    let Some(local) = local else { return }; // We are stopping.
    let ok = around && local.ok && remote.is_none_or(|remote| remote.ok);
    shared.metrics.ended(Operation::Reconcile, Status::of(ok), began.elapsed(), shared.now());
    tracing::debug!(ok, took = ?began.elapsed(), "the beat has ended");
}

/// The whole chain of an error that ends the process.
pub fn sentence(error: &StartError) -> String {
    Failure::of("start", error).message
}
