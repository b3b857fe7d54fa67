//! Reads a snapshot in an archive.
//!
//! In: a readable and seekable archive and its length. Out: what verifying the snapshot inside showed. An archive that
//! cannot be unpacked is a verdict; an error of the reader below it never is. The entry's name is neither trusted nor used.
//!
//! Accepted is what Go's `archive/zip` accepts, since that is what restores it: bytes before the archive, an archive
//! comment, up to 65 KiB of bytes after it, zip64. Nothing that the archive claims is believed before it is bounded: we
//! find the end record and the one central header ourselves, and the `zip` crate only ever sees that one header.

use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};

use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive, read::ZipReadOptions};

use super::hashing;
use crate::snapshot::Verdict;
use crate::snapshot::verify::{self, TRAILER, Verified};

/// Go looks for the end record in so many last bytes.
const TAIL: u64 = 65 * 1024;
/// Bytes of the end record without its comment.
const END: usize = 22;
/// Bytes of the zip64 locator, which stands right before the end record.
const LOCATOR: u64 = 20;
/// Bytes of the zip64 end record that matter.
const END64: usize = 56;
/// Bytes of a central header without its name, extra field and comment.
const HEADER: usize = 46;
/// Deflate makes at most 258 bytes of two bits: no honest entry is larger than so many times its compressed size.
const LARGEST_RATIO: u64 = 1032;

/// What reading an archive showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Of the snapshot inside; `sha256` is that of the unpacked bytes, not of the archive.
    pub verified: Verified,
    /// Bytes of the database inside, without its trailer, where it is whole.
    pub db_size: Option<u64>,
}

/// Reads the snapshot in an archive of `length` bytes to its end. `go_on` is asked between pieces, and false ends it with
/// [`io::ErrorKind::Interrupted`]. Memory does not grow with anything that the archive claims.
pub fn verify(archive: impl Read + Seek, length: u64, go_on: impl Fn() -> bool) -> io::Result<Unpacked> {
    unpack_into(archive, length, io::sink(), go_on)
}

/// The same, and writes the snapshot while it is read. What was written is the snapshot only where the verdict is whole.
pub fn unpack_into(archive: impl Read + Seek, length: u64, into: impl Write, go_on: impl Fn() -> bool) -> io::Result<Unpacked> {
    let mut archive = Archive { inner: archive, length, base: 0, failed: None };
    let mut written = Written { inner: into, failed: None };
    let outcome = unpack(&mut archive, &mut written, go_on);
    match (archive.failed.or(written.failed), outcome) {
        (Some(error), _) | (None, Err(Refused::Io(error))) => Err(error),
        (None, Ok(unpacked)) => Ok(unpacked),
        (None, Err(Refused::Damaged(why))) => {
            let verified = Verified { verdict: Verdict::Damaged(why), db_sha256: None, sha256: None };
            Ok(Unpacked { verified, db_size: None })
        }
    }
}

fn unpack<R: Read + Seek, W: Write>(
    archive: &mut Archive<R>,
    into: &mut Written<W>,
    go_on: impl Fn() -> bool,
) -> Result<Unpacked, Refused> {
    let (header, base) = only_header(archive)?;
    archive.base = base;
    let directory = ZipArchive::new(Cursor::new(as_archive(&header)))?.metadata();
    let entry = directory.entry(0)?;
    if entry.encrypted() {
        return Err(Refused::damaged("the entry of its zip archive is encrypted"));
    }
    let (packed, size, method) = (entry.compressed_size(), entry.size(), entry.compression());
    match method {
        CompressionMethod::Stored if packed != size => {
            return Err(Refused::damaged(format!("its zip archive stores {packed} bytes and calls them {size}")));
        }
        CompressionMethod::Deflated if size / LARGEST_RATIO > packed => {
            return Err(Refused::damaged(format!("its zip archive claims that {packed} bytes unpack to {size}, which deflate cannot do")));
        }
        CompressionMethod::Stored | CompressionMethod::Deflated => {}
        other => return Err(Refused::damaged(format!("its zip archive is compressed with {other}, and not with deflate"))),
    }
    if packed > archive.length {
        return Err(Refused::damaged(format!("its zip archive should hold {packed} bytes, and has {} in all", archive.length)));
    }
    if !verify::is_plausible_size(size) {
        return Err(Refused::damaged(format!("in its zip archive, {}", verify::implausible_size(size))));
    }
    let reader = entry.with_reader(archive, ZipReadOptions::new())?;
    let verified = hashing::verify(Tee { from: reader, into }, size, go_on)?;
    let db_size = (verified.verdict == Verdict::Whole).then_some(size - TRAILER);
    Ok(Unpacked { verified, db_size })
}

/// Where the snapshot is written. It remembers its first error, which says nothing about the archive.
struct Written<W> {
    inner: W,
    failed: Option<io::Error>,
}

/// Writes what is read.
struct Tee<'a, R, W> {
    from: R,
    into: &'a mut Written<W>,
}

impl<R: Read, W: Write> Read for Tee<'_, R, W> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let got = self.from.read(into)?;
        if let Err(error) = self.into.inner.write_all(&into[..got]) {
            let kind = error.kind();
            self.into.failed = Some(error);
            return Err(kind.into());
        }
        Ok(got)
    }
}

/// The central header of the one entry, and where the archive begins.
fn only_header<R: Read + Seek>(archive: &mut Archive<R>) -> Result<(Vec<u8>, u64), Refused> {
    let tail_at = archive.length.saturating_sub(TAIL);
    let tail = archive.bytes(tail_at, usize::try_from(archive.length - tail_at).unwrap_or(usize::MAX))?;
    let at = end_record(&tail).ok_or_else(|| Refused::damaged("it is not a zip archive, or it is cut off before its end"))?;
    let record = &tail[at..at + END];
    let (mut end, mut entries) = (tail_at + at as u64, u64::from(u16_at(record, 10)));
    let (mut size, mut offset) = (u64::from(u32_at(record, 12)), u64::from(u32_at(record, 16)));
    // The same three fields as Go looks at, 0xffff for the size included.
    let may_be_zip64 = entries == 0xffff || size == 0xffff || size == 0xffff_ffff || offset == 0xffff_ffff;
    if let Some(at) = if may_be_zip64 { end64_record(archive, end)? } else { None } {
        let record = archive.bytes(at, END64)?;
        if !record.starts_with(b"PK\x06\x06") {
            return Err(Refused::damaged("the zip64 end of its zip archive is not where it should be"));
        }
        (end, entries, size, offset) = (at, u64_at(&record, 32), u64_at(&record, 40), u64_at(&record, 48));
    }
    if entries != 1 {
        return Err(Refused::damaged(format!("its zip archive has {entries} entries, and a snapshot's has exactly one")));
    }
    let nowhere = || Refused::damaged("the directory of its zip archive is not where it should be");
    let start = end.checked_sub(size).ok_or_else(nowhere)?;
    let base = start.checked_sub(offset).ok_or_else(nowhere)?;
    let begins_header = |bytes: &[u8]| bytes.starts_with(b"PK\x01\x02");
    // As Go has it: where the offset is right as it is, the bytes too many are not before the archive.
    let absolute = base > 0 && archive.bytes(offset, 4).is_ok_and(|bytes| begins_header(&bytes));
    let (start, base) = if absolute { (offset, 0) } else { (start, base) };
    let fixed = archive.bytes(start, HEADER)?;
    if !begins_header(&fixed) {
        return Err(nowhere());
    }
    let length = HEADER + [28, 30, 32].iter().map(|at| usize::from(u16_at(&fixed, *at))).sum::<usize>();
    if archive.bytes(start + length as u64, 4).is_ok_and(|next| begins_header(&next)) {
        return Err(Refused::damaged("its zip archive has several entries and claims one; a snapshot's has exactly one"));
    }
    Ok((archive.bytes(start, length)?, base))
}

/// Where the last end record begins whose comment fits.
fn end_record(tail: &[u8]) -> Option<usize> {
    let last = tail.len().checked_sub(END)?;
    let at = (0..=last).rev().find(|at| tail[*at..].starts_with(b"PK\x05\x06"))?;
    (at + END + usize::from(u16_at(tail, at + 20)) <= tail.len()).then_some(at)
}

/// Where the zip64 end record begins, if a locator of a single-disk archive stands before the end record.
fn end64_record<R: Read + Seek>(archive: &mut Archive<R>, end: u64) -> Result<Option<u64>, Refused> {
    let Some(at) = end.checked_sub(LOCATOR) else {
        return Ok(None);
    };
    let locator = archive.bytes(at, 20)?;
    let usable = locator.starts_with(b"PK\x06\x07") && u32_at(&locator, 4) == 0 && u32_at(&locator, 16) == 1;
    Ok(usable.then(|| u64_at(&locator, 8)))
}

/// An archive that is nothing but this central header and an end record that tells the truth about it.
fn as_archive(header: &[u8]) -> Vec<u8> {
    let length = u32::try_from(header.len()).unwrap_or(u32::MAX);
    let end = [&b"PK\x05\x06\0\0\0\0\x01\0\x01\0"[..], &length.to_le_bytes(), &[0; 4], &[0; 2]].concat();
    [header, &end].concat()
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Why nothing was unpacked.
enum Refused {
    Damaged(String),
    Io(io::Error),
}

impl Refused {
    fn damaged(why: impl Into<String>) -> Self {
        Self::Damaged(why.into())
    }
}

impl From<io::Error> for Refused {
    /// Of errors that the reader below did not have itself, only the stop is one; the others are the unpacker's opinion
    /// of the bytes.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::Interrupted => Self::Io(error),
            _ => Self::Damaged(format!("its zip archive cannot be unpacked: {error}")),
        }
    }
}

impl From<ZipError> for Refused {
    fn from(error: ZipError) -> Self {
        match error {
            ZipError::Io(error) => error.into(),
            error => Self::Damaged(format!("its zip archive cannot be unpacked: {error}")),
        }
    }
}

/// The reader below. It remembers its first own error, because what comes out of an unpacker does not tell whether the
/// disk or the archive is bad.
struct Archive<R> {
    inner: R,
    length: u64,
    /// Where the archive begins, for an archive behind other bytes.
    base: u64,
    failed: Option<io::Error>,
}

impl<R: Read + Seek> Archive<R> {
    fn bytes(&mut self, at: u64, length: usize) -> Result<Vec<u8>, Refused> {
        let mut bytes = vec![0; length];
        self.seek(SeekFrom::Start(at))?;
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn remembering<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted && self.failed.is_none() {
                self.failed = Some(error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error));
            }
        })
    }
}

impl<R: Read + Seek> Read for Archive<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(into);
        self.remembering(got)
    }
}

impl<R: Read + Seek> Seek for Archive<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let to = match to {
            SeekFrom::Start(at) => match at.checked_add(self.base).filter(|at| *at <= self.length) {
                Some(at) => SeekFrom::Start(at),
                None => return Err(io::Error::new(io::ErrorKind::InvalidData, "it points beyond its own end")),
            },
            other => other,
        };
        let at = self.inner.seek(to);
        self.remembering(at).map(|at| at.saturating_sub(self.base))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use sha2::{Digest as _, Sha256};
    use zip::unstable::write::FileOptionsExt;
    use zip::write::{SimpleFileOptions, ZipWriter};

    use super::super::snapshot;
    use super::*;
    use crate::snapshot::Digest;

    fn deflated() -> SimpleFileOptions {
        SimpleFileOptions::default().compression_method(CompressionMethod::Deflated)
    }

    fn zipped(entries: &[(&str, &[u8])], options: SimpleFileOptions) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in entries {
            writer.start_file(*name, options).unwrap();
            writer.write_all(bytes).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn read(bytes: &[u8]) -> Unpacked {
        verify(Cursor::new(bytes), bytes.len() as u64, || true).unwrap()
    }

    fn why(bytes: &[u8]) -> String {
        match read(bytes).verified.verdict {
            Verdict::Damaged(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_snapshot_in_an_archive_is_whole_however_the_archive_is_written() {
        let snapshot = snapshot(3000);
        let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        // A stream writer puts the sizes behind the data, as Go does.
        let mut streamed = ZipWriter::new_stream(Vec::new());
        streamed.start_file("x", deflated()).unwrap();
        streamed.write_all(&snapshot).unwrap();
        let streamed = streamed.finish().unwrap().into_inner();
        let plain = zipped(&[("../../etc/passwd", &snapshot)], deflated());
        for archive in [
            plain.clone(),
            zipped(&[("x", &snapshot)], stored),
            zipped(&[("x", &snapshot)], deflated().large_file(true)),
            streamed,
            [&b"some bytes before"[..], &plain].concat(),
            [&plain[..], b"some bytes after"].concat(),
            [&plain[..plain.len() - END], b"some bytes between", &plain[plain.len() - END..]].concat(),
        ] {
            let unpacked = read(&archive);
            assert_eq!(unpacked.verified.verdict, Verdict::Whole);
            assert_eq!(unpacked.db_size, Some(3000 * 512));
            assert_eq!(unpacked.verified.db_sha256, Some(Digest(Sha256::digest(&snapshot[..3000 * 512]).into())));
        }
    }

    #[test]
    fn a_zip64_end_record_is_followed() {
        let snapshot = snapshot(2);
        let plain = zipped(&[("x", &snapshot)], deflated());
        let end = plain.len() - END;
        let (size, offset) = (u32_at(&plain, end + 12), u32_at(&plain, end + 16));
        let with = |entries: u64| {
            let mut bytes = plain[..end].to_vec();
            bytes.extend_from_slice(b"PK\x06\x06");
            bytes.extend_from_slice(&44_u64.to_le_bytes());
            bytes.extend_from_slice(&[45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            for number in [entries, entries, size.into(), offset.into()] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            bytes.extend_from_slice(b"PK\x06\x07\0\0\0\0");
            bytes.extend_from_slice(&(end as u64).to_le_bytes());
            bytes.extend_from_slice(&1_u32.to_le_bytes());
            bytes.extend_from_slice(b"PK\x05\x06\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0");
            bytes
        };
        assert_eq!(read(&with(1)).verified.verdict, Verdict::Whole);
        assert!(why(&with(1_000_000_000)).contains("has 1000000000 entries"));
    }

    #[test]
    fn an_archive_with_another_number_of_entries_than_one_is_damaged() {
        let snapshot = snapshot(2);
        assert!(why(&zipped(&[], deflated())).contains("has 0 entries"));
        let two = zipped(&[("a", &snapshot), ("b", &snapshot)], deflated());
        assert!(why(&two).contains("has 2 entries"));
        let mut claims_one = two.clone();
        let end = claims_one.len() - END;
        claims_one[end + 8] = 1;
        claims_one[end + 10] = 1;
        assert!(why(&claims_one).contains("several entries"));
    }

    #[test]
    fn a_half_written_archive_is_damaged_wherever_it_ends() {
        let archive = zipped(&[("x", &snapshot(40))], deflated());
        for length in (0..archive.len()).step_by(7).chain(archive.len() - 30..archive.len()) {
            assert!(!why(&archive[..length]).is_empty(), "{length}");
        }
    }

    #[test]
    fn no_flipped_byte_is_whole_unless_nothing_depends_on_it() {
        let archive = zipped(&[("x", &snapshot(4))], deflated());
        let sound = read(&archive);
        let header = archive.len() - END - HEADER - 1;
        for at in 0..archive.len() {
            let mut flipped = archive.clone();
            flipped[at] ^= 0x55;
            let unpacked = read(&flipped);
            let in_data = (31..header).contains(&at);
            assert!(!in_data || matches!(unpacked.verified.verdict, Verdict::Damaged(_)), "{at}");
            assert!(unpacked == sound || matches!(unpacked.verified.verdict, Verdict::Damaged(_)), "{at}");
        }
    }

    #[test]
    fn a_bomb_is_not_inflated() {
        let mut begins_well = snapshot(1);
        begins_well.resize(64 << 20, 0);
        begins_well.extend_from_slice(&[0; 32]);
        let bomb = zipped(&[("x", &begins_well)], deflated());
        assert!(why(&bomb).contains("do not match"), "honest about its size, so only its trailer tells");

        let claims = |size: u32| {
            let mut bytes = zipped(&[("x", &snapshot(2))], deflated());
            let header = bytes.len() - END - HEADER - 1;
            bytes[header + 24..header + 28].copy_from_slice(&size.to_le_bytes());
            bytes
        };
        assert!(why(&claims(0x4000_0020)).contains("deflate cannot do"));
        let mut claims_much = claims(0x4000_0020);
        let header = claims_much.len() - END - HEADER - 1;
        claims_much[header + 20..header + 24].copy_from_slice(&0x4000_0000_u32.to_le_bytes());
        assert!(why(&claims_much).contains("should hold 1073741824 bytes"));
        assert!(why(&claims(1056 + 512)).contains("ends after 1056 of 1568 bytes"));
        assert!(why(&claims(544)).contains("cannot be unpacked"));
        assert!(why(&claims(1025)).contains("1025 bytes cannot be a snapshot"));
    }

    #[test]
    fn an_encrypted_or_otherwise_packed_entry_is_damaged() {
        let encrypted = zipped(&[("x", &snapshot(2))], deflated().with_deprecated_encryption(b"secret").unwrap());
        assert!(why(&encrypted).contains("encrypted"));
        let mut lzma = zipped(&[("x", &snapshot(2))], deflated());
        let header = lzma.len() - END - HEADER - 1;
        lzma[header + 10] = 14;
        assert!(why(&lzma).contains("not with deflate"));
    }

    #[test]
    fn an_error_of_the_disk_is_no_verdict() {
        let archive = zipped(&[("x", &snapshot(4000))], deflated());
        for good_reads in 0..6 {
            let disk = BadDisk { inner: Cursor::new(archive.clone()), good_reads };
            let error = verify(disk, archive.len() as u64, || true).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(5), "{good_reads}");
        }
        let stopped = verify(Cursor::new(&archive), archive.len() as u64, || false).unwrap_err();
        assert_eq!(stopped.kind(), io::ErrorKind::Interrupted);
    }

    struct BadDisk {
        inner: Cursor<Vec<u8>>,
        good_reads: usize,
    }

    impl Read for BadDisk {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.good_reads = self.good_reads.checked_sub(1).ok_or_else(|| io::Error::from_raw_os_error(5))?;
            self.inner.read(into)
        }
    }

    impl Seek for BadDisk {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.inner.seek(to)
        }
    }
}
