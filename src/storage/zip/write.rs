//! Writes a snapshot into an archive.
//!
//! In: the snapshot's bytes, and the file that becomes the archive. Out: the archive's size and digest. It is written from
//! front to end, its sizes behind the data as Go writes them, with the large numbers of zip64 where they may be needed. That
//! it can be read again is for [`super::verify`] to show.
//!
//! The few records around the one entry are written here (APPNOTE 4.3), because the `zip` crate writes none around what others have
//! compressed.

use std::io::{self, Read, Write};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use sha2::{Digest as _, Sha256};
use zip::DateTime;

use super::deflate::deflate;
use crate::snapshot::Digest;

/// From here on the compressed size may need more than the 32 bits of a plain archive.
const LARGE: u64 = 1 << 31;
/// What stands in 32 bits for a number that zip64 has elsewhere.
const ELSEWHERE: u32 = u32::MAX;
/// Checksum and sizes stand behind the data; the name is UTF-8.
const FLAGS: u16 = 1 << 3 | 1 << 11;
const DEFLATED: u16 = 8;
/// The extra field with a modification time in Unix seconds.
const EXTENDED_TIMESTAMP: u16 = 0x5455;
/// The extra field with the sizes of zip64.
const ZIP64: u16 = 1;
/// "Made by Unix", so that the mode counts.
const UNIX: u16 = 3 << 8;
/// A file that only its owner may read and write.
const MODE: u32 = 0o100_600 << 16;

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
pub fn write(snapshot: impl Read, archive: impl Write, entry: &Entry<'_>, go_on: impl Fn(u64) -> bool) -> io::Result<Written> {
    write_as(snapshot, archive, entry, entry.size >= LARGE, go_on)
}

fn write_as(
    snapshot: impl Read,
    archive: impl Write,
    entry: &Entry<'_>,
    is_large: bool,
    go_on: impl Fn(u64) -> bool,
) -> io::Result<Written> {
    let mut below = Below { inner: archive, size: 0, hash: Sha256::new() };
    let records = Records::new(entry, is_large)?;
    below.write_all(&records.before())?;
    let begin = below.size;
    let crc = deflate(snapshot, &mut below, entry.size, go_on)?;
    let data = Data { crc, packed: below.size - begin, size: entry.size };
    below.write_all(&records.behind(&data))?;
    let directory = below.size;
    below.write_all(&records.directory(&data))?;
    below.write_all(&records.end(directory, below.size))?;
    below.inner.flush()?;
    Ok(Written { size: below.size, sha256: Digest(below.hash.finalize().into()) })
}

/// What is known once the data is written.
struct Data {
    crc: u32,
    packed: u64,
    size: u64,
}

/// The records around the data.
struct Records<'a> {
    name: &'a [u8],
    name_length: u16,
    /// The old field has two-second steps, no zone, and years from 1980 on only.
    time: (u16, u16),
    /// This one has the second itself.
    timestamp: Option<Vec<u8>>,
    is_large: bool,
}

impl<'a> Records<'a> {
    fn new(entry: &Entry<'a>, is_large: bool) -> io::Result<Self> {
        let name_length = u16::try_from(entry.name.len()).map_err(io::Error::other)?;
        let time = DateTime::try_from(entry.time.to_zoned(TimeZone::UTC).datetime()).unwrap_or_default();
        let seconds = u32::try_from(entry.time.as_second()).ok();
        let timestamp = seconds.map(|seconds| [&EXTENDED_TIMESTAMP.to_le_bytes()[..], &[5, 0, 1], &seconds.to_le_bytes()].concat());
        Ok(Self { name: entry.name.as_bytes(), name_length, time: (time.timepart(), time.datepart()), timestamp, is_large })
    }

    /// The local header.
    fn before(&self) -> Vec<u8> {
        let nothing_yet = Data { crc: 0, packed: 0, size: 0 };
        let extra = self.extra(&nothing_yet);
        let mut record = b"PK\x03\x04".to_vec();
        self.common(&mut record, &nothing_yet, &extra);
        [&record, self.name, &extra].concat()
    }

    /// The data descriptor.
    fn behind(&self, data: &Data) -> Vec<u8> {
        let mut record = b"PK\x07\x08".to_vec();
        record.extend(data.crc.to_le_bytes());
        for size in [data.packed, data.size] {
            let bytes = size.to_le_bytes();
            record.extend(if self.is_large { &bytes[..] } else { &bytes[..4] });
        }
        record
    }

    /// The central header.
    fn directory(&self, data: &Data) -> Vec<u8> {
        let extra = self.extra(data);
        let mut record = b"PK\x01\x02".to_vec();
        record.extend((UNIX | self.version()).to_le_bytes());
        self.common(&mut record, data, &extra);
        // No comment, the first disk, binary.
        record.extend([0; 6]);
        record.extend(MODE.to_le_bytes());
        // The local header is at the beginning.
        record.extend([0; 4]);
        [&record, self.name, &extra].concat()
    }

    /// The end record, with that of zip64 before it where the data before the directory is so long.
    fn end(&self, directory: u64, end: u64) -> Vec<u8> {
        let size = end - directory;
        let offset = u32::try_from(directory).unwrap_or(ELSEWHERE);
        let mut record = Vec::new();
        if offset == ELSEWHERE {
            record.extend(b"PK\x06\x06");
            record.extend(44_u64.to_le_bytes());
            record.extend([UNIX | self.version(), self.version()].map(u16::to_le_bytes).as_flattened());
            record.extend([0; 8]);
            record.extend([1, 1, size, directory].map(u64::to_le_bytes).as_flattened());
            // Where that record is, on the one disk that there is.
            record.extend(b"PK\x06\x07\0\0\0\0");
            record.extend(end.to_le_bytes());
            record.extend(1_u32.to_le_bytes());
        }
        record.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
        record.extend(u32::try_from(size).unwrap_or(ELSEWHERE).to_le_bytes());
        record.extend(offset.to_le_bytes());
        record.extend([0; 2]);
        record
    }

    /// What both headers have, from the version up to the lengths of name and extra fields.
    fn common(&self, record: &mut Vec<u8>, data: &Data, extra: &[u8]) {
        record.extend([self.version(), FLAGS, DEFLATED, self.time.0, self.time.1].map(u16::to_le_bytes).as_flattened());
        record.extend(data.crc.to_le_bytes());
        for size in [data.packed, data.size] {
            let small = if self.is_large { ELSEWHERE } else { u32::try_from(size).unwrap_or(ELSEWHERE) };
            record.extend(small.to_le_bytes());
        }
        let extra_length = u16::try_from(extra.len()).unwrap_or_default();
        record.extend([self.name_length, extra_length].map(u16::to_le_bytes).as_flattened());
    }

    fn extra(&self, data: &Data) -> Vec<u8> {
        let mut extra = Vec::new();
        if self.is_large {
            extra.extend([ZIP64, 16].map(u16::to_le_bytes).as_flattened());
            extra.extend([data.size, data.packed].map(u64::to_le_bytes).as_flattened());
        }
        extra.extend(self.timestamp.iter().flatten());
        extra
    }

    /// What a reader has to know: deflate, or zip64.
    fn version(&self) -> u16 {
        if self.is_large { 45 } else { 20 }
    }
}

/// The file.
struct Below<W> {
    inner: W,
    size: u64,
    hash: Sha256,
}

impl<W: Write> Write for Below<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write_all(bytes)?;
        self.size += bytes.len() as u64;
        self.hash.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use zip::CompressionMethod;

    use super::super::{snapshot, verify};
    use super::*;
    use crate::snapshot::Verdict;

    fn entry(size: u64) -> Entry<'static> {
        Entry { name: "etcd-snapshot-cp1-1752319253", size, time: Timestamp::from_second(1_752_319_253).unwrap() }
    }

    #[test]
    fn what_was_written_is_read_as_it_was_with_name_time_and_mode() {
        // Fewer pieces than threads, as many, and more.
        for pages in [1, 700, 2048, 3000, 12_000] {
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
        let snapshot = snapshot(3000);
        let mut archive = Vec::new();
        let written = write_as(&snapshot[..], &mut archive, &entry(snapshot.len() as u64), true, |_| true).unwrap();
        let unpacked = verify(Cursor::new(&archive), written.size, || true).unwrap();
        assert_eq!(unpacked.verified.verdict, Verdict::Whole);
        assert_eq!(archive.windows(4).filter(|bytes| *bytes == [1, 0, 16, 0]).count(), 2, "a zip64 field in both headers");
    }

    #[test]
    fn a_directory_beyond_four_gibibytes_is_found_by_the_records_of_zip64() {
        let records = Records::new(&entry(LARGE), true).unwrap();
        let (begin, size) = (5 << 32, 77);
        let end = records.end(begin, begin + size);
        assert_eq!(end.len(), 56 + 20 + 22);
        let number = |at: usize| u64::from_le_bytes(end[at..at + 8].try_into().unwrap());
        assert_eq!([number(24), number(32), number(40), number(48)], [1, 1, size, begin]);
        assert_eq!(number(56 + 8), begin + size, "the locator leads to where the record begins");
        assert_eq!(end[56 + 20 + 16..][..4], [0xff; 4]);
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
