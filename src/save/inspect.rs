//! One pass over the database that was streamed.
//!
//! In: the file. Out: what its inside says, or why it is none that can be restored. It can be stopped between two reads.

use std::io;

use tokio_util::sync::CancellationToken;

use super::stream::Received;
use super::{SaveError, Saving, Step, blocking};
use crate::boltdb::{self, Facts, ReadAt};
use crate::storage::local::Temporary;

/// Reads the database.
pub(super) async fn inspect(received: &Received, saving: &Saving<'_>, stop: &CancellationToken) -> Result<Facts, SaveError> {
    let (temporary, length, stop) = (received.temporary.clone(), received.db_size, stop.clone());
    let (endpoint, path) = (saving.member.access().endpoint.clone(), saving.directory.path().to_owned());
    blocking(Step::Inspect, move || {
        boltdb::inspect(&Stoppable { temporary: &temporary, stop: &stop }, length).map_err(|error| match error {
            boltdb::Error::Read { source, .. } if source.kind() == io::ErrorKind::Interrupted => SaveError::Stopped,
            boltdb::Error::Read { source, .. } => SaveError::Disk { step: Step::Inspect, what: "read", path, source },
            source => SaveError::Damaged { endpoint, source },
        })
    })
    .await
}

struct Stoppable<'a> {
    temporary: &'a Temporary,
    stop: &'a CancellationToken,
}

impl ReadAt for Stoppable<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        ReadAt::read_at(&self.temporary.file, buffer, offset)
    }
}
