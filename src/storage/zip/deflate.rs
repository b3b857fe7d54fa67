//! Deflate, on more than one processor.
//!
//! In: bytes. Out: one deflate stream of them. It is made of pieces that know nothing of each other, each compressed for itself and
//! ended at a whole byte, so that they can be put one after the other; that costs a thousandth of the size. Any reader of deflate
//! reads it.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::num::NonZero;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, Scope};

use crc_fast::{CrcAlgorithm, Digest};
use flate2::{Compress, Compression, FlushCompress, Status};

/// Bytes of a piece.
const PIECE: usize = 1 << 20;
/// What a piece takes at most: nothing gets larger by more than five bytes in each 16 KiB.
const LARGEST: usize = PIECE + PIECE / 1024 + 64;
/// Processors used at most: the others are the member's.
const MOST: usize = 2;

/// Compresses exactly `size` bytes, and returns their CRC-32. `go_on` is told between pieces how many were read, and false ends it with
/// [`io::ErrorKind::Interrupted`].
pub(super) fn deflate(mut from: impl Read, into: &mut impl Write, size: u64, go_on: impl Fn(u64) -> bool) -> io::Result<u32> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get).min(MOST);
    thread::scope(|scope| {
        let workers = (0..processors).map(|_| Worker::start(scope)).collect::<io::Result<Vec<_>>>()?;
        let mut busy = VecDeque::new();
        let mut crc = Digest::new(CrcAlgorithm::Crc32IsoHdlc);
        let (mut read, mut is_last, mut turns) = (0, false, workers.iter().cycle());
        loop {
            if !go_on(read) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            if is_last {
                break;
            }
            let mut bytes = Vec::with_capacity(PIECE);
            from.by_ref().take(PIECE as u64).read_to_end(&mut bytes)?;
            crc.update(&bytes);
            read += bytes.len() as u64;
            is_last = bytes.len() < PIECE;
            if read > size || (is_last && read < size) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the snapshot has {read} bytes and should have {size}")));
            }
            // The oldest gets the next piece before what it has done is written.
            let oldest = if busy.len() == workers.len() { busy.pop_front() } else { None };
            let packed = oldest.map(Worker::done).transpose()?;
            if let Some(worker) = turns.next() {
                worker.take(Piece { bytes, is_last })?;
                busy.push_back(worker);
            }
            into.write_all(&packed.unwrap_or_default())?;
        }
        for worker in busy {
            into.write_all(&worker.done()?)?;
        }
        Ok(u32::try_from(crc.finalize()).unwrap_or_default())
    })
}

struct Piece {
    bytes: Vec<u8>,
    is_last: bool,
}

/// A thread that compresses one piece after the other, until nobody can give it any.
struct Worker {
    pieces: SyncSender<Piece>,
    packed: Receiver<io::Result<Vec<u8>>>,
}

impl Worker {
    fn start<'scope>(scope: &'scope Scope<'scope, '_>) -> io::Result<Self> {
        let (pieces, arriving) = sync_channel::<Piece>(1);
        let (done, packed) = sync_channel(1);
        let work = move || {
            let mut deflate = Compress::new(Compression::default(), false);
            while let Ok(piece) = arriving.recv() {
                if done.send(pack(&mut deflate, &piece)).is_err() {
                    break;
                }
            }
        };
        thread::Builder::new().spawn_scoped(scope, work)?;
        Ok(Self { pieces, packed })
    }

    fn take(&self, piece: Piece) -> io::Result<()> {
        self.pieces.send(piece).map_err(|_| ended())
    }

    fn done(&self) -> io::Result<Vec<u8>> {
        self.packed.recv().map_err(|_| ended())?
    }
}

fn ended() -> io::Error {
    io::Error::other("a thread that compresses has ended early")
}

fn pack(deflate: &mut Compress, piece: &Piece) -> io::Result<Vec<u8>> {
    deflate.reset();
    let mut packed = Vec::with_capacity(LARGEST);
    let flush = if piece.is_last { FlushCompress::Finish } else { FlushCompress::Sync };
    let status = deflate.compress_vec(&piece.bytes, &mut packed, flush)?;
    let is_whole =
        deflate.total_in() == piece.bytes.len() as u64 && packed.len() < LARGEST && (status == Status::StreamEnd) == piece.is_last;
    if is_whole { Ok(packed) } else { Err(io::Error::other("a piece was not compressed to its end")) }
}
