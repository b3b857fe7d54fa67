//! The file that goes up, read once, in order and by position, and digested as it is read.
//!
//! In: an open file, and how many bytes of it were verified. Out: its parts, the last one with the digest of all. What is sent is what
//! was digested: nothing is read twice. Memory is held for as many parts as somebody holds at once, and not for more.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

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

/// The buffer of a part. When nobody needs its bytes any more it goes back to be read into again: an allocator keeps large ones that
/// many threads free for a while, as much again as is in use.
struct Buffer {
    bytes: Vec<u8>,
    back: Sender<Vec<u8>>,
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // Nobody reads any more: it is freed.
        let _ = self.back.send(std::mem::take(&mut self.bytes));
    }
}

struct Reading {
    file: Arc<File>,
    size: u64,
    part: u64,
    at: u64,
    number: i32,
    whole: Sha256,
    free: Receiver<Vec<u8>>,
    back: Sender<Vec<u8>>,
}

/// The parts of the first `size` bytes, each of `part` bytes but the last one; at least one. A file that is shorter fails with
/// [`io::ErrorKind::UnexpectedEof`].
pub fn parts(file: Arc<File>, size: u64, part: u64) -> impl Stream<Item = io::Result<Part>> + Send {
    let (back, free) = channel();
    let reading = Reading { file, size, part, at: 0, number: 0, whole: Sha256::new(), free, back };
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
        let mut bytes = self.free.try_recv().unwrap_or_default();
        bytes.resize(usize::try_from(size).map_err(io::Error::other)?, 0);
        self.file.read_exact_at(&mut bytes, self.at)?;
        self.whole.update(&bytes);
        self.at += size;
        self.number += 1;
        let whole = (self.at == self.size).then(|| Digest(self.whole.clone().finalize().into()));
        let bytes = Bytes::from_owner(Buffer { bytes, back: self.back.clone() });
        Ok((Part { number: self.number, bytes, whole }, self))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::Write as _;
    use std::pin::pin;

    use futures::TryStreamExt as _;

    use super::*;

    #[tokio::test]
    async fn as_many_buffers_are_made_as_parts_are_held_at_once() {
        let mut file = tempfile::tempfile().unwrap();
        let all: Vec<u8> = (0..10_500_u32).map(|at| (at % 251) as u8).collect();
        file.write_all(&all).unwrap();
        let file = Arc::new(file);
        for at_once in [1, 3] {
            let mut parts = pin!(parts(Arc::clone(&file), all.len() as u64, 1000));
            let (mut held, mut buffers, mut sent) = (Vec::new(), BTreeSet::new(), Vec::new());
            while let Some(part) = parts.try_next().await.unwrap() {
                sent.extend_from_slice(&part.bytes);
                buffers.insert(part.bytes.as_ptr());
                assert_eq!(part.whole, (sent.len() == all.len()).then(|| Digest(Sha256::digest(&all).into())));
                held.push(part);
                if held.len() == at_once {
                    held.remove(0);
                }
            }
            assert_eq!((sent == all, buffers.len()), (true, at_once));
        }
    }
}
