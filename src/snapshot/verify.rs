//! Verify: read a snapshot to its end against its trailer.
//!
//! In: a snapshot's bytes and how many there should be. Out: the verdict and the digests. It reads once, in pieces of
//! fixed size, and keeps none. An error of the reader says nothing about the snapshot, so it is not a verdict.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use super::file::Verdict;
use super::manifest::Digest;

/// Bytes of the SHA-256 that etcd appends to the database.
pub const TRAILER: u64 = 32;
/// Bytes of bbolt's smallest page; a database is whole pages.
const PAGE: u64 = 512;
/// bbolt's magic number, at this offset of the first page (bbolt, `meta.magic`).
const MAGIC: (usize, [u8; 4]) = (16, 0xED0C_DAED_u32.to_le_bytes());
/// Bytes read at a time.
const PIECE: usize = 256 * 1024;

/// What reading showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Whole or damaged.
    pub verdict: Verdict,
    /// SHA-256 of the database, when it was read to its end and its trailer matches.
    pub db_sha256: Option<Digest>,
    /// SHA-256 of everything read, when it was read to its end.
    pub sha256: Option<Digest>,
}

impl Verified {
    fn damaged(why: impl Into<String>) -> Self {
        Self { verdict: Verdict::Damaged(why.into()), db_sha256: None, sha256: None }
    }
}

/// Whether a snapshot can have this many bytes: whole pages and a trailer. The same test as etcd's own client makes.
pub fn is_plausible_size(size: u64) -> bool {
    size > TRAILER && size % PAGE == TRAILER
}

/// Why a snapshot cannot have this many bytes.
pub fn implausible_size(size: u64) -> String {
    if size > 0 && size.is_multiple_of(PAGE) {
        format!("its {size} bytes have no SHA-256 trailer at their end, so it is cut off there or a copy of a database file")
    } else {
        format!("{size} bytes cannot be a snapshot: a database is whole pages of {PAGE} bytes, followed by {TRAILER} bytes of SHA-256")
    }
}

/// Reads `size` bytes and not one more; `go_on` is asked between pieces, and false ends it with [`io::ErrorKind::Interrupted`].
pub fn verify(mut reader: impl Read, size: u64, go_on: impl Fn() -> bool) -> io::Result<Verified> {
    if !is_plausible_size(size) {
        return Ok(Verified::damaged(implausible_size(size)));
    }
    let mut piece = vec![0; PIECE];
    let mut database = Sha256::new();
    let mut trailer = Vec::with_capacity(32);
    let mut read = 0_u64;
    while read < size {
        if !go_on() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "verification was stopped"));
        }
        let got = fill(&mut reader, &mut piece)?;
        if got == 0 {
            return Ok(Verified::damaged(format!("it ends after {read} of {size} bytes")));
        }
        if read == 0 && piece.get(MAGIC.0..MAGIC.0 + 4).filter(|_| got >= MAGIC.0 + 4) != Some(&MAGIC.1) {
            return Ok(Verified::damaged("it does not begin like an etcd database"));
        }
        if read + got as u64 > size {
            return Ok(Verified::damaged(format!("it goes on after {size} bytes")));
        }
        let of_database = usize::try_from((size - TRAILER).saturating_sub(read)).unwrap_or(usize::MAX).min(got);
        database.update(&piece[..of_database]);
        trailer.extend_from_slice(&piece[of_database..got]);
        read += got as u64;
    }
    if reader.read(&mut piece[..1])? > 0 {
        return Ok(Verified::damaged(format!("it goes on after {size} bytes")));
    }
    let mut whole = database.clone();
    whole.update(&trailer);
    let (found, sha256) = (Digest(database.finalize().into()), Digest(whole.finalize().into()));
    let verdict = if trailer == found.0 { Verdict::Whole } else { Verdict::Damaged("its bytes do not match its SHA-256 trailer".into()) };
    let db_sha256 = (verdict == Verdict::Whole).then_some(found);
    Ok(Verified { verdict, db_sha256, sha256: Some(sha256) })
}

fn fill(reader: &mut impl Read, piece: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < piece.len() {
        match reader.read(&mut piece[filled..]) {
            Ok(0) => break,
            Ok(got) => filled += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A database of so many pages that begins like bbolt's, with its trailer.
    fn snapshot(pages: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..pages * 512).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect();
        bytes[16..20].copy_from_slice(&MAGIC.1);
        let digest = Sha256::digest(&bytes);
        bytes.extend_from_slice(&digest);
        bytes
    }

    fn verdict(bytes: &[u8]) -> Verdict {
        verify(bytes, bytes.len() as u64, || true).unwrap().verdict
    }

    #[test]
    fn a_whole_snapshot_is_whole_and_its_digests_are_those_of_its_bytes() {
        for pages in [1, 8, 511, 512, 513, 2000] {
            let bytes = snapshot(pages);
            let verified = verify(&bytes[..], bytes.len() as u64, || true).unwrap();
            assert_eq!(verified.verdict, Verdict::Whole, "{pages} pages");
            assert_eq!(verified.sha256, Some(Digest(Sha256::digest(&bytes).into())));
            assert_eq!(verified.db_sha256.unwrap().0, bytes[bytes.len() - 32..]);
        }
    }

    #[test]
    fn what_cannot_be_a_snapshot_is_damaged_with_the_reason() {
        let why = |bytes: &[u8]| match verdict(bytes) {
            Verdict::Damaged(why) => why,
            other => panic!("{other:?}"),
        };
        assert!(why(&[]).contains("0 bytes cannot be"));
        assert!(why(&snapshot(2)[..1024]).contains("no SHA-256 trailer"));
        assert!(why(&snapshot(2)[..1000]).contains("1000 bytes cannot be"));
        let nothing = Sha256::digest([]);
        assert!(why(&nothing).contains("32 bytes cannot be"));
        let mut zeros = vec![0; 1024];
        zeros.extend_from_slice(&Sha256::digest(&zeros));
        assert!(why(&zeros).contains("does not begin like"));
    }

    #[test]
    fn a_stream_of_another_length_than_promised_is_damaged() {
        let bytes = snapshot(600);
        let long = bytes.len() as u64;
        let why = |bytes: &[u8], size| format!("{:?}", verify(bytes, size, || true).unwrap().verdict);
        assert!(why(&bytes[..4096], long).contains("ends after 4096 of"));
        assert!(why(&bytes, long - 512).contains("goes on after"));
        let mut endless = bytes.clone();
        endless.extend_from_slice(&[0; 512]);
        assert!(why(&endless, long).contains("goes on after"));
    }

    #[test]
    fn an_error_of_the_reader_is_no_verdict_and_it_can_be_stopped() {
        let begun = snapshot(2);
        let broken = io::Read::chain(&begun[..100], BadDisk);
        assert_eq!(verify(broken, 1056, || true).unwrap_err().kind(), io::ErrorKind::Other);
        assert_eq!(verify(&snapshot(2)[..], 1056, || false).unwrap_err().kind(), io::ErrorKind::Interrupted);
    }

    struct BadDisk;
    impl Read for BadDisk {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("input/output error"))
        }
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_found(at in 0..1056_usize, bit in 0..8_u8) {
            let mut bytes = snapshot(2);
            bytes[at] ^= 1 << bit;
            prop_assert!(matches!(verdict(&bytes), Verdict::Damaged(_)));
        }
    }
}
