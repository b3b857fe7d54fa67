//! Verifying what is unpacked, on another processor than the unpacking.
//!
//! In: a reader of a snapshot, and its size. Out: what [`verify::verify`] says of the same bytes and errors, in their order.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use crate::snapshot::verify::{self, Verified};

/// Bytes handed over at a time, and how many such pieces may wait.
const PIECE: usize = 256 * 1024;
const WAITING: usize = 2;

/// Reads a snapshot of `size` bytes to its end. `go_on` is asked between pieces, and false ends it with [`io::ErrorKind::Interrupted`].
pub(super) fn verify(mut from: impl Read, size: u64, go_on: impl Fn() -> bool) -> io::Result<Verified> {
    thread::scope(|scope| {
        let (pieces, arriving) = sync_channel(WAITING);
        let hash = move || verify::verify(Arriving { pieces: arriving, piece: Vec::new(), at: 0 }, size, || true);
        // Without another thread it takes longer, which says nothing about the snapshot.
        let Ok(hashing) = thread::Builder::new().spawn_scoped(scope, hash) else { return verify::verify(from, size, go_on) };
        loop {
            if !go_on() {
                return Err(io::Error::new(io::ErrorKind::Interrupted, "verification was stopped"));
            }
            let mut piece = Vec::with_capacity(PIECE);
            let read = from.by_ref().take(PIECE as u64).read_to_end(&mut piece);
            let ends = piece.is_empty() || read.is_err();
            // What came before an error comes before it there, too. An empty piece would be the end.
            let sent = if piece.is_empty() { Ok(()) } else { pieces.send(Ok(piece)) };
            let sent = sent.and_then(|()| read.map_or_else(|error| pieces.send(Err(error)), |_| Ok(())));
            // Who hashes may have seen enough.
            if ends || sent.is_err() {
                break;
            }
        }
        drop(pieces);
        hashing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The same bytes, and the same error, on the other side.
struct Arriving {
    pieces: Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Arriving {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            (self.piece, self.at) = (self.pieces.recv().unwrap_or_else(|_| Ok(Vec::new()))?, 0);
        }
        let got = (&self.piece[self.at..]).read(into)?;
        self.at += got;
        Ok(got)
    }
}
