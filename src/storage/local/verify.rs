//! Verifies one file of the directory: reads it to its end and notes in the state what that showed.
//!
//! In: a file as a listing found it. Out: its verdict, or why there is none. Blocking, and as long as the disk takes. An
//! error of the disk damages nothing, and of a file that changed meanwhile nothing is noted.

use std::fs::File;
use std::io::{self, Read, Seek};

use rustix::fs::{Advice, fadvise};
use sha2::{Digest as _, Sha256};

use super::Inner;
use super::error::LocalError;
use super::open::NotRead;
use super::place::{self, Look};
use super::state::Judged;
use crate::snapshot::verify::TRAILER;
use crate::snapshot::{Digest, Failure, Manifest, SnapshotFile, Verdict, verify};
use crate::storage::zip;

/// Bytes hashed at a time.
const PIECE: usize = 256 * 1024;

/// Why there is no verdict.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotVerified {
    /// It is gone, or not the version that the listing found; the next listing shows what it is.
    #[error("the file changed before or while it was read")]
    Stale,
    /// We were told to stop.
    #[error("verification was stopped")]
    Stopped,
    /// The disk would not let us read it.
    #[error(transparent)]
    Failed(#[from] Failure),
}

impl Inner {
    pub(super) fn verify(&self, file: &SnapshotFile, go_on: impl Fn() -> bool) -> Result<Verdict, NotVerified> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::Interrupted => NotVerified::Stopped,
            _ => Failure::from(LocalError::Read { path: self.path.join(file.name.as_str()), source }).into(),
        };
        let (entered, opened) = self.open(file).map_err(|why| match why {
            NotRead::Stale => NotVerified::Stale,
            NotRead::Failed(failure) => NotVerified::Failed(failure),
        })?;
        // Advice may be refused, and is never worth an error.
        let _ = fadvise(&opened, 0, None, Advice::Sequential);
        let read = if file.name.is_compressed() { zipped(&opened, file.size, &go_on) } else { raw(&opened, file.size, &go_on) };
        let still_there =
            matches!(place::look(&entered, &self.path, &file.name), Ok(Look::File(stamp)) if stamp.is_content_of(&file.version));
        let judged = match read {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(NotVerified::Stopped),
            _ if !still_there => Err(NotVerified::Stale),
            read => read.map_err(failed),
        };
        if let Ok((verdict, digests)) = &judged {
            self.state.note(&file.name, file.version.of_content(), Judged { verdict: verdict.clone(), digests: digests.clone() });
        }
        leave_the_page_cache(opened);
        Ok(judged?.0)
    }
}

/// Reading a snapshot should not push out what the member next door lives on. What was written just now goes to the disk first, which
/// can take as long as hashing it took; so nobody waits, nor has the state to be synced meanwhile.
fn leave_the_page_cache(file: File) {
    let advise = move || fadvise(&file, 0, None, Advice::DontNeed);
    // Without a thread to be had it stays there for now.
    let _ = std::thread::Builder::new().name("page-cache".into()).spawn(advise);
}

fn raw(file: &File, size: u64, go_on: &impl Fn() -> bool) -> io::Result<(Verdict, Manifest)> {
    let verified = verify::verify(file, size, go_on)?;
    let db_size = (verified.verdict == Verdict::Whole).then(|| size - TRAILER);
    let digests =
        Manifest { file_sha256: verified.sha256, file_size: Some(size), db_sha256: verified.db_sha256, db_size, ..Manifest::default() };
    Ok((verified.verdict, digests))
}

fn zipped(mut file: &File, size: u64, go_on: &impl Fn() -> bool) -> io::Result<(Verdict, Manifest)> {
    let unpacked = zip::verify(io::BufReader::with_capacity(PIECE, file), size, go_on)?;
    file.rewind()?;
    let digests = Manifest {
        file_sha256: Some(sha256(file, go_on)?),
        file_size: Some(size),
        db_sha256: unpacked.verified.db_sha256,
        db_size: unpacked.db_size,
        ..Manifest::default()
    };
    Ok((unpacked.verified.verdict, digests))
}

fn sha256(mut file: impl Read, go_on: &impl Fn() -> bool) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; PIECE];
    loop {
        if !go_on() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match file.read(&mut piece) {
            Ok(0) => return Ok(Digest(hash.finalize().into())),
            Ok(got) => hash.update(&piece[..got]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
