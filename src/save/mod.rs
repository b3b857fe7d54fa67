//! Saving: from the member to a checked file in the directory.
//!
//! In: a member, a directory, and what is to be noted beside the snapshot. Out: a snapshot under its final name, whole,
//! with its manifest; or why there is none, and then nothing of it is left. Nothing here knows Kubernetes, a bucket, or when
//! a save is due; and nothing after the stream can slow the stream.
//!
//! The steps, in this order: what the member says of itself; [`stream`] its snapshot to a hidden file; verify it against its
//! trailer; [`inspect`] its inside; [`compress`] it if asked; give it its name, with the [`manifest`] beside it.

mod compress;
mod error;
mod inspect;
mod manifest;
mod stream;
mod token;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

pub use self::error::SaveError;
use self::stream::{Received, Streamed};
pub use self::token::{TokenFileError, read_token_hash};
use crate::boltdb::Facts;
use crate::etcd::{Alarm, EtcdError, Member, Status};
use crate::snapshot::{BaseName, ClusterId, Digest, Failure, FileName, Manifest, NodeName};
use crate::storage::local::{Directory, Temporary, Turn};

/// Room beside the database: for the sidecar, the state and their folders.
const MARGIN: u64 = 1 << 20;
/// So many seconds after the save began its name is looked for: one a save, however fast they follow each other.
const NAMES: i64 = 300;
/// The longest name that file systems take, less `.zip`.
const LONGEST_NAME: usize = 251;

/// What to save, from where to where.
pub struct Saving<'a> {
    /// The one member.
    pub member: &'a Member,
    /// The directory, which also says our node.
    pub directory: &'a Directory,
    /// What the file's name begins with.
    pub base: BaseName,
    /// Whether to put it into a `.zip`.
    pub compress: bool,
    /// The cluster we are in, if known.
    pub cluster: Option<ClusterId>,
    /// The data of the extra-metadata ConfigMap.
    pub extra: BTreeMap<String, String>,
    /// The hash of the servers' token, if known.
    pub token_hash: Option<String>,
    /// How long the stream may stand still. There is no limit for the whole.
    pub stall: Duration,
}

/// One step of a save: the label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Having the directory for ourselves, and asking the member for its status and for a linearizable read.
    Status,
    /// The stream, to the disk.
    Stream,
    /// The trailer is compared, and the file is on the disk for good.
    Verify,
    /// One pass over the database.
    Inspect,
    /// Writing the archive, and reading it back.
    Compress,
    /// Sidecar, name and state.
    Rename,
}

impl Step {
    /// All, in their order.
    pub const ALL: [Self; 6] = [Self::Status, Self::Stream, Self::Verify, Self::Inspect, Self::Compress, Self::Rename];

    /// The word for metrics and people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Stream => "stream",
            Self::Verify => "verify",
            Self::Inspect => "inspect",
            Self::Compress => "compress",
            Self::Rename => "rename",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// How far a step has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It begins.
    Begun,
    /// So many bytes of the snapshot have gone through it.
    Bytes(u64),
    /// It has ended.
    Ended {
        /// How long it took.
        took: Duration,
        /// Whether it did what it should.
        ok: bool,
    },
}

/// Who is told of progress; from any thread, so it must be quick.
pub type Tell = Arc<dyn Fn(Step, Progress) + Send + Sync>;

/// Whether the snapshot is in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compressed {
    /// Nobody asked.
    NotAsked,
    /// It is.
    Done,
    /// It was asked for and is not, but saved as it is; and why.
    Failed(Failure),
}

/// A snapshot that was saved.
#[derive(Debug, Clone)]
pub struct Saved {
    /// Its name in the directory.
    pub file: FileName,
    /// Bytes of the file.
    pub size: u64,
    /// As it stands in the sidecar.
    pub manifest: Manifest,
    /// What its inside says.
    pub facts: Facts,
    /// Whether the member had a quorum.
    pub quorum: bool,
    /// The alarms that were raised.
    pub alarms: Vec<Alarm>,
    /// Whether it is in an archive.
    pub compressed: Compressed,
}

impl Saved {
    /// Whether nothing is known against its member.
    pub fn is_good(&self) -> bool {
        self.quorum && !self.manifest.corrupt
    }
}

/// What the member said before the stream.
struct Said {
    status: Status,
    quorum: bool,
}

/// Saves one snapshot. Told to stop, it gives up until the snapshot is verified and inspected; from then on it only leaves out
/// the compression.
pub async fn save(saving: &Saving<'_>, tell: &Tell, stop: &CancellationToken, now: impl Fn() -> Timestamp) -> Result<Saved, SaveError> {
    // A save is rare, and what its questions need is large.
    let (turn, said) = step(tell, Step::Status, Box::pin(begin(saving, stop, now()))).await?;
    let streaming = async {
        let (temporary, room) = prepare(&turn, saving, said.status.db_size).await?;
        let time = now();
        Ok::<_, SaveError>((stream::receive(saving, temporary, tell, stop).await?, room, time))
    };
    let (received, room_for_archive, time) = step(tell, Step::Stream, Box::pin(streaming)).await?;
    // The disk is waited for while the database is read from memory.
    let (streamed, facts) = tokio::join!(
        step(tell, Step::Verify, stream::verify(&received, saving)),
        step(tell, Step::Inspect, inspect::inspect(&received, saving, stop)),
    );
    let (streamed, facts) = (streamed?, facts?);
    let stems = Stems { base: saving.base.clone(), node: turn.node().clone(), seconds: time.as_second() };
    let packed = match room_for_archive {
        _ if !saving.compress => Packed::raw(&received, &streamed, Compressed::NotAsked),
        Err(failure) => Packed::raw(&received, &streamed, Compressed::Failed(failure)),
        Ok(()) => {
            let compressing = compress::compress(&turn, &stems, &received, &streamed, time, tell, stop);
            match step(tell, Step::Compress, compressing).await {
                Ok(packed) => packed,
                Err(failure) => Packed::raw(&received, &streamed, Compressed::Failed(failure)),
            }
        }
    };
    let manifest = manifest::manifest(saving, turn.node(), &said, &streamed, &facts, &packed, time);
    let sidecar = manifest::sidecar(&manifest, &saving.extra);
    let (digests, ending) = (manifest::digests(&manifest), packed.ending());
    let (temporary, compressed) = (packed.temporary, packed.compressed);
    let placing = blocking(Step::Rename, move || {
        let file = turn.place(&temporary, stems.all()?, ending, &sidecar, &digests)?;
        // Where there is an archive of it, it goes only now; and a large file takes its time.
        drop(received);
        Ok(file)
    });
    let file = step(tell, Step::Rename, placing).await?;
    Ok(Saved { file, size: packed.size, manifest, facts, quorum: said.quorum, alarms: said.status.alarms, compressed })
}

/// Runs a step and tells of it.
async fn step<T, E>(tell: &Tell, step: Step, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let began = Instant::now();
    tell(step, Progress::Begun);
    let done = work.await;
    tell(step, Progress::Ended { took: began.elapsed(), ok: done.is_ok() });
    done
}

/// Runs what blocks.
async fn blocking<T: Send + 'static>(step: Step, work: impl FnOnce() -> Result<T, SaveError> + Send + 'static) -> Result<T, SaveError> {
    spawn_blocking(work).await.unwrap_or(Err(SaveError::Lost { step }))
}

/// Has the directory for itself, and asks the member.
async fn begin(saving: &Saving<'_>, stop: &CancellationToken, now: Timestamp) -> Result<(Arc<Turn>, Said), SaveError> {
    let directory = saving.directory.clone();
    let turn = blocking(Step::Status, move || Ok(directory.turn(now)?)).await?;
    let said = tokio::select! {
        said = ask(saving.member) => said?,
        () = stop.cancelled() => return Err(SaveError::Stopped),
    };
    Ok((Arc::new(turn), said))
}

async fn ask(member: &Member) -> Result<Said, SaveError> {
    let status = member.status().await.map_err(SaveError::Status)?;
    if status.learner {
        return Err(SaveError::Learner(member.access().endpoint.clone()));
    }
    let quorum = match member.linearizable().await {
        Ok(quorum) => quorum,
        Err(EtcdError::Learner { endpoint }) => return Err(SaveError::Learner(endpoint)),
        Err(error) => {
            // No proof is no quorum; and whether a snapshot is to be had the stream will show.
            let error = Failure::of(error.category(), &error);
            tracing::warn!(%error, "whether the member has a quorum cannot be known; the snapshot counts as one without");
            false
        }
    };
    Ok(Said { status, quorum })
}

/// Sees that there is room and that the name can be, and makes the file. The inner result is of the archive alone.
async fn prepare(turn: &Arc<Turn>, saving: &Saving<'_>, db_size: u64) -> Result<(Temporary, Result<(), Failure>), SaveError> {
    let stems = Stems { base: saving.base.clone(), node: turn.node().clone(), seconds: i64::from(u32::MAX) };
    let turn = turn.clone();
    blocking(Step::Stream, move || {
        stems.all()?;
        let (free, needed) = (turn.room()?, db_size + MARGIN);
        let path = turn.path().display();
        if free < needed {
            return Err(SaveError::NoRoom { path: turn.path().into(), needed, free });
        }
        let with_archive = needed + db_size;
        let why =
            || Failure::new("full", format!("{path} has {free} bytes free, and the snapshot and its archive may take {with_archive}"));
        let room_for_archive = if free < with_archive { Err(why()) } else { Ok(()) };
        Ok((turn.temporary()?, room_for_archive))
    })
    .await
}

/// A file that is ready to get its name.
struct Packed {
    temporary: Arc<Temporary>,
    size: u64,
    sha256: Digest,
    compressed: Compressed,
}

impl Packed {
    fn raw(received: &Received, streamed: &Streamed, compressed: Compressed) -> Self {
        Self { temporary: received.temporary.clone(), size: streamed.size, sha256: streamed.file_sha256, compressed }
    }

    fn ending(&self) -> &'static str {
        if self.compressed == Compressed::Done { ".zip" } else { "" }
    }
}

/// The names, less `.zip`, that a snapshot may get.
#[derive(Clone)]
struct Stems {
    base: BaseName,
    node: NodeName,
    /// When it was taken. Two of one second get two names: the other one's is of the next.
    seconds: i64,
}

impl Stems {
    fn all(&self) -> Result<Vec<FileName>, SaveError> {
        (self.seconds..self.seconds + NAMES).map(|seconds| self.of(seconds)).collect()
    }

    fn of(&self, seconds: i64) -> Result<FileName, SaveError> {
        let name = format!("{}-{}-{seconds}", self.base.as_str(), self.node);
        if name.len() > LONGEST_NAME {
            return Err(SaveError::LongName { name, longest: LONGEST_NAME });
        }
        FileName::new(&name).map_err(|source| SaveError::Name { name, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::{EtcdAccess, EtcdSettings};

    fn stems(base: &str, seconds: i64) -> Stems {
        Stems { base: BaseName::new(base).unwrap(), node: NodeName::new("cp1").unwrap(), seconds }
    }

    /// A save runs in a task of its own.
    #[test]
    fn a_save_can_run_on_any_thread() {
        fn sendable(_: impl Send) {}
        let root = tempfile::tempdir().unwrap();
        let saving = Saving {
            member: &Member::new(EtcdAccess::new(&EtcdSettings::default()).unwrap()),
            directory: &Directory::open(root.path().join("snapshots"), NodeName::new("cp1").unwrap()).unwrap(),
            base: BaseName::default(),
            compress: true,
            cluster: None,
            extra: BTreeMap::new(),
            token_hash: None,
            stall: Duration::from_secs(1),
        };
        let tell: Tell = Arc::new(|_, _| ());
        sendable(save(&saving, &tell, &CancellationToken::new(), Timestamp::now));
    }

    #[test]
    fn names_are_those_of_the_base_the_node_and_the_seconds_from_the_first_on() {
        let names = stems("on-demand", 7).all().unwrap();
        assert_eq!((names[0].as_str(), names[1].as_str(), names.len()), ("on-demand-cp1-7", "on-demand-cp1-8", 300));
    }

    #[test]
    fn a_name_that_no_file_system_takes_is_refused_with_the_setting() {
        let (fits, long) = ("b".repeat(251 - 6), "b".repeat(251 - 5));
        assert!(stems(&fits, 7).of(7).is_ok());
        let error = stems(&long, 7).all().unwrap_err();
        assert!(matches!(error, SaveError::LongName { .. }) && error.to_string().contains("etcd-snapshot-name"), "{error}");
    }
}
