//! Writes a snapshot into an archive.
//!
//! In: the snapshot's bytes, and the file that becomes the archive. Out: the archive's size and digest. It is written from
//! front to end, its sizes behind the data as Go writes them, with the large numbers of zip64 where they may be needed. That
//! it can be read again is for [`super::verify`] to show.

use std::cell::RefCell;
use std::io::{self, BufWriter, Read, Write};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use sha2::{Digest as _, Sha256};
use zip::result::ZipError;
use zip::write::{FullFileOptions, ZipWriter};
use zip::{CompressionMethod, DateTime};

use crate::snapshot::Digest;

/// Bytes at a time.
const PIECE: usize = 256 * 1024;
/// From here on the compressed size may need more than the 32 bits of a plain archive.
const LARGE: u64 = 1 << 31;
/// The extra field with a modification time in Unix seconds.
const EXTENDED_TIMESTAMP: u16 = 0x5455;

/// The one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The file name of the snapshot without `.zip`.
    pub name: &'a str,
    /// Bytes of the snapshot.
    pub size: u64,
    /// When it was taken.
    pub time: Timestamp,
}

/// An archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Its bytes.
    pub size: u64,
    /// Of all of them.
    pub sha256: Digest,
}

/// Compresses exactly `entry.size` bytes. `go_on` is told between pieces how many were read, and false ends it with
/// [`io::ErrorKind::Interrupted`].
pub fn write(mut snapshot: impl Read, archive: impl Write, entry: &Entry<'_>, go_on: impl Fn(u64) -> bool) -> io::Result<Written> {
    let below = RefCell::new(Below { inner: archive, size: 0, hash: Sha256::new(), failed: None });
    let done = deflate(&mut snapshot, &below, entry, go_on);
    let Below { size, hash, failed, .. } = below.into_inner();
    match failed {
        Some(error) => Err(error),
        None => done.map(|()| Written { size, sha256: Digest(hash.finalize().into()) }),
    }
}

fn deflate<W: Write>(
    snapshot: &mut impl Read,
    below: &RefCell<Below<W>>,
    entry: &Entry<'_>,
    go_on: impl Fn(u64) -> bool,
) -> io::Result<()> {
    let mut archive = ZipWriter::new_stream(BufWriter::with_capacity(PIECE, Front(below)));
    archive.start_file(entry.name, options(entry).map_err(io_error)?).map_err(io_error)?;
    let mut piece = vec![0; PIECE];
    let mut read = 0;
    loop {
        if !go_on(read) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let got = match snapshot.read(&mut piece) {
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        read += got as u64;
        if read > entry.size || (got == 0 && read < entry.size) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the snapshot has {read} bytes and should have {}", entry.size),
            ));
        }
        if got == 0 {
            break;
        }
        archive.write_all(&piece[..got])?;
        if below.borrow().failed.is_some() {
            return Ok(());
        }
    }
    archive.finish().map_err(io_error)?.into_inner().flush()
}

fn options(entry: &Entry<'_>) -> Result<FullFileOptions<'static, 'static>, ZipError> {
    let mut options =
        FullFileOptions::default().compression_method(CompressionMethod::Deflated).large_file(entry.size >= LARGE).unix_permissions(0o600);
    // The old field has two-second steps, no zone, and years from 1980 on only; the extra one has the second itself.
    if let Ok(time) = DateTime::try_from(entry.time.to_zoned(TimeZone::UTC).datetime()) {
        options = options.last_modified_time(time);
    }
    if let Ok(seconds) = u32::try_from(entry.time.as_second()) {
        let [a, b, c, d] = seconds.to_le_bytes();
        options.add_extra_field(EXTENDED_TIMESTAMP, [1, a, b, c, d], false)?;
    }
    Ok(options)
}

fn io_error(error: ZipError) -> io::Error {
    match error {
        ZipError::Io(error) => error,
        error => io::Error::other(error),
    }
}

/// The file. It keeps its first error to itself and takes everything after it for nothing: a dropped `ZipWriter` goes on
/// writing, and prints errors on its own account.
struct Below<W> {
    inner: W,
    size: u64,
    hash: Sha256,
    failed: Option<io::Error>,
}

struct Front<'b, W>(&'b RefCell<Below<W>>);

impl<W: Write> Write for Front<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut below = self.0.borrow_mut();
        if below.failed.is_none() {
            match below.inner.write_all(bytes) {
                Ok(()) => {
                    below.size += bytes.len() as u64;
                    below.hash.update(bytes);
                }
                Err(error) => below.failed = Some(error),
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::super::{snapshot, verify};
    use super::*;
    use crate::snapshot::Verdict;

    fn entry(size: u64) -> Entry<'static> {
        Entry { name: "etcd-snapshot-cp1-1752319253", size, time: Timestamp::from_second(1_752_319_253).unwrap() }
    }

    #[test]
    fn what_was_written_is_read_as_it_was_with_name_time_and_mode() {
        for pages in [1, 700, 3000] {
            let snapshot = snapshot(pages);
            let mut archive = Vec::new();
            let written = write(&snapshot[..], &mut archive, &entry(snapshot.len() as u64), |_| true).unwrap();
            assert_eq!(written, Written { size: archive.len() as u64, sha256: Digest(Sha256::digest(&archive).into()) });
            let unpacked = verify(Cursor::new(&archive), written.size, || true).unwrap();
            assert_eq!(unpacked.verified.verdict, Verdict::Whole);
            assert_eq!(unpacked.verified.sha256, Some(Digest(Sha256::digest(&snapshot).into())));

            let mut archive = zip::ZipArchive::new(Cursor::new(archive)).unwrap();
            assert_eq!(archive.len(), 1);
            let entry = archive.by_index(0).unwrap();
            assert_eq!(entry.name().unwrap(), "etcd-snapshot-cp1-1752319253");
            assert_eq!(entry.compression(), CompressionMethod::Deflated);
            assert_eq!(entry.unix_mode(), Some(0o100_600));
            assert_eq!(entry.last_modified().unwrap().to_string(), "2025-07-12 11:20:52", "two-second steps");
            let seconds = entry.extra_data_fields().find_map(|field| match field {
                zip::ExtraField::ExtendedTimestamp(times) => times.mod_time(),
                _ => None,
            });
            assert_eq!(seconds, Some(1_752_319_253));
        }
    }

    #[test]
    fn large_numbers_are_written_as_zip64() {
        let snapshot = snapshot(2);
        let mut archive = Vec::new();
        let large = options(&entry(LARGE)).unwrap();
        let mut writer = ZipWriter::new_stream(&mut archive);
        writer.start_file("x", large).unwrap();
        writer.write_all(&snapshot).unwrap();
        writer.finish().unwrap();
        let unpacked = verify(Cursor::new(&archive), archive.len() as u64, || true).unwrap();
        assert_eq!(unpacked.verified.verdict, Verdict::Whole);
        assert!(archive.windows(4).any(|bytes| bytes == [1, 0, 16, 0]), "a zip64 field in the local header");
    }

    #[test]
    fn an_archive_is_not_made_of_more_or_fewer_bytes_than_promised_and_can_be_stopped() {
        let snapshot = snapshot(1000);
        let size = snapshot.len() as u64;
        for promised in [size - 512, size + 512] {
            let error = write(&snapshot[..], Vec::new(), &entry(promised), |_| true).unwrap_err();
            assert!(error.to_string().contains(&format!("should have {promised}")), "{error}");
        }
        let stopped = write(&snapshot[..], Vec::new(), &entry(size), |read| read == 0).unwrap_err();
        assert_eq!(stopped.kind(), io::ErrorKind::Interrupted);
    }

    #[test]
    fn a_full_disk_is_the_error_wherever_it_strikes() {
        let snapshot = snapshot(4000);
        let size = snapshot.len() as u64;
        for room in [0, 1, 100, 10_000] {
            let error = write(&snapshot[..], Full(room), &entry(size), |_| true).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{room}");
        }
    }

    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let got = bytes.len().min(self.0);
            self.0 -= got;
            if got == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(got) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
