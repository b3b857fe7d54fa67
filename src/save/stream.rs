//! The stream, to the disk.
//!
//! In: a member and an empty file. Out: the file with the database and its trailer, on the disk, and what was hashed on the way;
//! or why not. The member holds a read transaction open as long as this takes, so nothing is done here but hash and write.

use std::io::{self, Write};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::{Progress, SaveError, Saving, Step, Tell, blocking};
use crate::etcd::{EtcdError, Part};
use crate::snapshot::Digest;
use crate::snapshot::verify::TRAILER;
use crate::storage::local::Temporary;

/// Parts of 32 KiB that may wait for the disk.
const WAITING: usize = 128;
/// So many bytes are told of at a time.
const TOLD: u64 = 1 << 20;

/// All that came.
pub(super) struct Received {
    /// The database, and the trailer as etcd sent it.
    pub temporary: Arc<Temporary>,
    /// Bytes of the database.
    pub db_size: u64,
    written: Written,
    trailer: Digest,
}

/// A snapshot, whole and on the disk.
pub(super) struct Streamed {
    /// Bytes of the file.
    pub size: u64,
    pub db_size: u64,
    pub db_sha256: Digest,
    pub file_sha256: Digest,
}

struct Written {
    bytes: u64,
    database: Digest,
    hash: Sha256,
}

/// Streams a snapshot into a file.
pub(super) async fn receive(
    saving: &Saving<'_>,
    temporary: Temporary,
    tell: &Tell,
    stop: &CancellationToken,
) -> Result<Received, SaveError> {
    let temporary = Arc::new(temporary);
    let (parts, arriving) = mpsc::channel(WAITING);
    let file = temporary.clone();
    let writing = spawn_blocking(move || write(&file, arriving));
    let told = tokio::select! {
        told = pass_on(saving, &parts, tell) => told,
        () = stop.cancelled() => Err(SaveError::Stopped),
    };
    drop(parts);
    // Also of a broken stream: when this returns, nobody writes any more.
    let written = writing.await.map_err(|_| SaveError::Lost { step: Step::Stream })?;
    let path = saving.directory.path();
    let written = written.map_err(|(bytes, source)| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => SaveError::Full { path: path.into(), written: bytes },
        _ => SaveError::Disk { step: Step::Stream, what: "written", path: path.into(), source },
    });
    // When the disk failed, so did the passing on.
    let (written, trailer) = (written?, told?);
    let trailer = trailer.ok_or(SaveError::Lost { step: Step::Stream })?;
    Ok(Received { temporary, db_size: written.bytes, written, trailer })
}

/// Hands every part to the writer. None when the writer has given up.
async fn pass_on(saving: &Saving<'_>, parts: &mpsc::Sender<Part>, tell: &Tell) -> Result<Option<Digest>, SaveError> {
    let mut stream = saving.member.snapshot(saving.stall).await.map_err(SaveError::Stream)?;
    let (mut trailer, mut bytes, mut told) = (None, 0, 0);
    while let Some(part) = stream.next().await.map_err(SaveError::Stream)? {
        match &part {
            Part::Data(data) => bytes += data.len() as u64,
            Part::Trailer(digest) => trailer = Some(*digest),
        }
        if parts.send(part).await.is_err() {
            return Ok(None);
        }
        if bytes - told >= TOLD {
            told = bytes;
            tell(Step::Stream, Progress::Bytes(bytes));
        }
    }
    tell(Step::Stream, Progress::Bytes(bytes));
    // The stream is none without.
    let endpoint = saving.member.access().endpoint.clone();
    let missing = || SaveError::Stream(EtcdError::Stream { endpoint, problem: "ended without its checksum".into() });
    trailer.map(Some).ok_or_else(missing)
}

/// Writes all parts; an error comes with how many bytes there were before it.
fn write(temporary: &Temporary, mut arriving: mpsc::Receiver<Part>) -> Result<Written, (u64, io::Error)> {
    let (mut bytes, mut hash) = (0, Sha256::new());
    let mut database = Digest([0; 32]);
    while let Some(part) = arriving.blocking_recv() {
        let part = match &part {
            Part::Data(data) => {
                bytes += data.len() as u64;
                &data[..]
            }
            Part::Trailer(digest) => {
                database = Digest(hash.clone().finalize().into());
                &digest.0
            }
        };
        (&temporary.file).write_all(part).map_err(|error| (bytes, error))?;
        hash.update(part);
    }
    Ok(Written { bytes, database, hash })
}

/// Compares what was written with etcd's own SHA-256, and waits until it is on the disk.
pub(super) async fn verify(received: &Received, saving: &Saving<'_>) -> Result<Streamed, SaveError> {
    let Written { bytes, database, hash } = &received.written;
    if *database != received.trailer {
        return Err(SaveError::Trailer { endpoint: saving.member.access().endpoint.clone() });
    }
    let streamed =
        Streamed { size: bytes + TRAILER, db_size: *bytes, db_sha256: *database, file_sha256: Digest(hash.clone().finalize().into()) };
    let (temporary, path) = (received.temporary.clone(), saving.directory.path().to_owned());
    blocking(Step::Verify, move || {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => SaveError::Full { path: path.clone(), written: streamed.size },
            _ => SaveError::Disk { step: Step::Verify, what: "written", path: path.clone(), source },
        };
        temporary.file.sync_all().map_err(failed)?;
        Ok(streamed)
    })
    .await
}
