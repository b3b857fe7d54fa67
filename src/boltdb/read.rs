//! Bytes at an offset, and a window on them that is read in few and large pieces.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::error::Error;

/// Something that can be read anywhere.
pub trait ReadAt {
    /// Reads into `buffer` from `offset` on, as much as comes at once. 0 is the end. An error of
    /// [`io::ErrorKind::Interrupted`] is handed on, so that a reader can stop whoever reads from it.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match FileExt::read_at(self, buffer, offset) {
                // A signal to the process is nobody's wish to stop.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }
}

impl ReadAt for &[u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        ReadAt::read_at(*self, buffer, offset)
    }
}

/// Bytes held at once. Small enough for a processor's second-level cache, large enough that calls do not count.
pub const WINDOW: usize = 256 * 1024;

/// A stretch of the database, moved on demand.
pub struct Window<'a, R: ?Sized> {
    file: &'a R,
    length: u64,
    start: u64,
    filled: usize,
    bytes: Box<[u8]>,
    /// Bytes that were read so far, the same ones more than once if they were.
    read: u64,
}

impl<'a, R: ReadAt + ?Sized> Window<'a, R> {
    /// On a database of so many bytes.
    pub fn new(file: &'a R, length: u64) -> Self {
        Self { file, length, start: 0, filled: 0, bytes: vec![0; WINDOW].into_boxed_slice(), read: 0 }
    }

    /// Bytes of the database.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Whether these bytes can be had without reading.
    pub fn holds(&self, at: u64, length: usize) -> bool {
        self.position(at, length).is_some()
    }

    /// These bytes, at most [`WINDOW`] of them; where they have to be read, `ahead` bytes are, if there are as many.
    pub fn get(&mut self, at: u64, length: usize, ahead: u64) -> Result<&[u8], Error> {
        let position = match self.position(at, length) {
            Some(position) => position,
            None => self.load(at, length, ahead)?,
        };
        Ok(&self.bytes[position..position + length])
    }

    fn position(&self, at: u64, length: usize) -> Option<usize> {
        let position = usize::try_from(at.checked_sub(self.start)?).ok()?;
        (position.checked_add(length)? <= self.filled).then_some(position)
    }

    fn load(&mut self, at: u64, length: usize, ahead: u64) -> Result<usize, Error> {
        let error = |source| Error::Read { at, source };
        let rest = usize::try_from(self.length.saturating_sub(at)).unwrap_or(usize::MAX);
        if length > rest.min(WINDOW) {
            return Err(error(io::ErrorKind::UnexpectedEof.into()));
        }
        // No tree that bbolt wrote makes much of what is read ahead useless. One that was made to has to do without.
        let ahead = if self.read / 3 > self.length { 0 } else { ahead };
        let wanted = usize::try_from(ahead).unwrap_or(WINDOW).clamp(length, WINDOW).min(rest);
        (self.start, self.filled) = (at, 0);
        while self.filled < length {
            match self.file.read_at(&mut self.bytes[self.filled..wanted], at + self.filled as u64) {
                Ok(0) => return Err(error(io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => {
                    self.filled += read.min(wanted - self.filled);
                    self.read += read as u64;
                }
                Err(source) => return Err(error(source)),
            }
        }
        Ok(0)
    }

    /// All these bytes, however many, in pieces.
    pub fn pieces(&mut self, at: u64, length: u64, mut each: impl FnMut(&[u8])) -> Result<(), Error> {
        let mut done = 0;
        while done < length {
            let rest = usize::try_from(length - done).unwrap_or(WINDOW).min(WINDOW);
            // First what there is of it.
            let piece = self.position(at + done, 1).map_or(rest, |position| rest.min(self.filled - position));
            each(self.get(at + done, piece, length - done)?);
            done += piece as u64;
        }
        Ok(())
    }
}
