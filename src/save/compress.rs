//! The snapshot in an archive.
//!
//! In: a snapshot that is whole. Out: an archive of it that was read back, on the disk; or why there is none, and then the
//! snapshot is still there.

use std::fs::File;
use std::io::{self, BufReader, Seek as _};
use std::sync::Arc;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::stream::{Received, Streamed};
use super::{Compressed, Packed, Progress, SaveError, Stems, Step, Tell, blocking};
use crate::snapshot::{Failure, FileName, Verdict};
use crate::storage::local::Turn;
use crate::storage::zip::{self, Entry};

/// Bytes read at a time.
const PIECE: usize = 256 * 1024;
/// So many bytes are told of at a time.
const TOLD: u64 = 16 << 20;

/// Makes the archive.
pub(super) async fn compress(
    turn: &Arc<Turn>,
    stems: &Stems,
    received: &Received,
    streamed: &Streamed,
    time: Timestamp,
    tell: &Tell,
    stop: &CancellationToken,
) -> Result<Packed, Failure> {
    let (turn, stems, tell, stop) = (turn.clone(), stems.clone(), tell.clone(), stop.clone());
    let (snapshot, size, db_sha256) = (received.temporary.clone(), streamed.size, streamed.db_sha256);
    let compressing = blocking(Step::Compress, move || {
        let name = first_free(&turn, &stems)?;
        let archive = turn.temporary()?;
        let entry = Entry { name: name.as_str(), size, time };
        let told = |read: u64| {
            if read.is_multiple_of(TOLD) || read == size {
                tell(Step::Compress, Progress::Bytes(read));
            }
            !stop.is_cancelled()
        };
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::Interrupted => Ok(Err(Failure::new("stopped", "the compression was stopped"))),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Ok(Err(Failure::new("full", format!("{} was full before the archive was written", turn.path().display()))))
            }
            _ => Err(SaveError::Disk { step: Step::Compress, what: "compressed", path: turn.path().into(), source }),
        };
        let written = match write(&snapshot.file, &archive.file, &entry, told) {
            Ok(written) => written,
            Err(error) => return failed(error),
        };
        let read_back = zip::verify(BufReader::with_capacity(PIECE, &archive.file), written.size, || !stop.is_cancelled());
        match read_back {
            Err(error) => return failed(error),
            Ok(read) if read.verified.verdict == Verdict::Whole && read.verified.db_sha256 == Some(db_sha256) => {}
            Ok(read) => {
                let why = match read.verified.verdict {
                    Verdict::Damaged(why) => why,
                    Verdict::Whole | Verdict::Plausible => "it holds another snapshot".into(),
                };
                return Ok(Err(Failure::new("damaged", format!("the archive was written and cannot be read back: {why}"))));
            }
        }
        Ok(Ok(Packed { temporary: Arc::new(archive), size: written.size, sha256: written.sha256, compressed: Compressed::Done }))
    });
    compressing.await.unwrap_or_else(|error| Err(Failure::from(&error)))
}

fn write(mut snapshot: &File, archive: &File, entry: &Entry<'_>, told: impl Fn(u64) -> bool) -> io::Result<zip::Written> {
    snapshot.rewind()?;
    let written = zip::write(snapshot, archive, entry, told)?;
    archive.sync_all()?;
    Ok(written)
}

/// The name of the entry is that of the file without `.zip`.
fn first_free(turn: &Turn, stems: &Stems) -> Result<FileName, SaveError> {
    for stem in stems.all()? {
        if turn.is_free(&stem)? {
            return Ok(stem);
        }
    }
    stems.of(stems.seconds)
}
