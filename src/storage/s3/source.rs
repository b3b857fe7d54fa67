//! The file that goes up, read once, in order and by position, and digested as it is read.
//!
//! In: an open file, and how many bytes of it were verified. Out: its parts, the last one with the digest of all. What is sent is what
//! was digested: nothing is read twice.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::{Stream, stream};
use hyper::body::Bytes;
use md5::Md5;
use sha2::{Digest as _, Sha256};

use crate::snapshot::Digest;

/// One part of a file.
pub struct Part {
    /// From 1.
    pub number: i32,
    /// What it holds.
    pub bytes: Bytes,
    /// With the last part: the SHA-256 of all of them.
    pub whole: Option<Digest>,
}

/// MD5 as the header `Content-MD5` has it.
pub fn content_md5(md5: [u8; 16]) -> String {
    BASE64_STANDARD.encode(md5)
}

/// MD5 of these bytes.
pub fn md5(bytes: &[u8]) -> [u8; 16] {
    Md5::digest(bytes).into()
}

/// MD5 of very many, which takes longer than anything else that is done to them; so those of several parts are made at once.
pub async fn md5_of_part(bytes: &Bytes) -> io::Result<[u8; 16]> {
    let bytes = bytes.clone();
    tokio::task::spawn_blocking(move || md5(&bytes)).await.map_err(io::Error::other)
}

struct Reading {
    file: Arc<File>,
    size: u64,
    part: u64,
    at: u64,
    number: i32,
    whole: Sha256,
}

/// The parts of the first `size` bytes, each of `part` bytes but the last one; at least one. A file that is shorter fails with
/// [`io::ErrorKind::UnexpectedEof`].
pub fn parts(file: Arc<File>, size: u64, part: u64) -> impl Stream<Item = io::Result<Part>> + Send {
    let reading = Reading { file, size, part, at: 0, number: 0, whole: Sha256::new() };
    stream::try_unfold(reading, async |reading| {
        if reading.number > 0 && reading.at >= reading.size {
            return Ok(None);
        }
        tokio::task::spawn_blocking(move || reading.next().map(Some)).await.unwrap_or_else(|error| Err(io::Error::other(error)))
    })
}

impl Reading {
    fn next(mut self) -> io::Result<(Part, Self)> {
        let size = self.part.min(self.size - self.at);
        let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, self.at)?;
        self.whole.update(&bytes);
        self.at += size;
        self.number += 1;
        let whole = (self.at == self.size).then(|| Digest(self.whole.clone().finalize().into()));
        Ok((Part { number: self.number, bytes: bytes.into(), whole }, self))
    }
}
