//! The stream of a snapshot, part by part.
//!
//! In: the messages of `Maintenance.Snapshot`. Out: the bytes of the database in order, then the SHA-256 that etcd made of
//! them, kept apart; or why the stream is not whole. Nothing is written or hashed here: whoever stores the bytes compares.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::SnapshotStreaming;
use tokio::time::timeout;

use super::access::EtcdAccess;
use super::error::EtcdError;
use crate::snapshot::Digest;

/// A snapshot on its way. The member holds a read transaction open as long as this lives.
pub struct SnapshotStream {
    pub(super) messages: SnapshotStreaming,
    pub(super) access: Arc<EtcdAccess>,
    pub(super) stall: Duration,
    pub(super) seen: Seen,
}

/// What came next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Bytes of the database, 32 KiB at most times.
    Data(Vec<u8>),
    /// The last part: etcd's SHA-256 of all data. A snapshot file ends with these 32 bytes.
    Trailer(Digest),
}

impl SnapshotStream {
    /// The next part; None after the trailer, when etcd has ended the stream as well. An error is final.
    pub async fn next(&mut self) -> Result<Option<Part>, EtcdError> {
        let endpoint = || self.access.endpoint.clone();
        let broken = |problem| EtcdError::Stream { endpoint: endpoint(), problem };
        let Ok(message) = timeout(self.stall, self.messages.message()).await else {
            return Err(broken(format!("stalled: nothing came for {} s, {}", self.stall.as_secs(), self.seen)));
        };
        match message.map_err(|error| EtcdError::of_request(&error, &self.access))? {
            Some(message) => self.seen.take(message.remaining_bytes(), message.blob()).map(Some).map_err(broken),
            None => self.seen.end().map(|()| None).map_err(broken),
        }
    }

    /// Bytes of the database; None before the first part.
    pub fn size(&self) -> Option<u64> {
        self.seen.size
    }
}

/// How far the stream has come.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Bytes of the database, as the first message tells.
    size: Option<u64>,
    received: u64,
    has_trailer: bool,
}

impl Seen {
    /// Takes one message: how many bytes it says remain after it, and its own.
    fn take(&mut self, remaining: u64, blob: &[u8]) -> Result<Part, String> {
        if self.has_trailer {
            return Err("goes on after its checksum".into());
        }
        if self.size == Some(self.received) {
            let trailer = blob.try_into().ok().filter(|_| remaining == 0);
            self.has_trailer = trailer.is_some();
            return trailer.map(|trailer| Part::Trailer(Digest(trailer))).ok_or_else(|| "has no checksum at its end".into());
        }
        // etcd sends such messages for ever when it cannot read its database to the end.
        if blob.is_empty() {
            return Err(format!("ended early, {self}"));
        }
        let after = self.received.saturating_add(blob.len() as u64);
        let size = after.saturating_add(remaining);
        if *self.size.get_or_insert(size) != size {
            return Err(format!("lost bytes on the way, {self}"));
        }
        self.received = after;
        Ok(Part::Data(blob.to_vec()))
    }

    /// The stream was ended.
    fn end(&self) -> Result<(), String> {
        if self.has_trailer {
            Ok(())
        } else if self.size == Some(self.received) {
            Err("ended without its checksum".into())
        } else {
            Err(format!("ended early, {self}"))
        }
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.size {
            Some(size) => write!(f, "after {} of {size} bytes", self.received),
            None => f.write_str("before its first byte"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of these messages: the data, then the trailer's first byte or the problem.
    fn outcome(messages: &[(u64, &[u8])]) -> (Vec<u8>, Result<Option<u8>, String>) {
        let mut seen = Seen::default();
        let (mut data, mut trailer) = (Vec::new(), None);
        for (remaining, blob) in messages {
            match seen.take(*remaining, blob) {
                Ok(Part::Data(bytes)) => data.extend(bytes),
                Ok(Part::Trailer(digest)) => trailer = Some(digest.0[0]),
                Err(problem) => return (data, Err(problem)),
            }
        }
        (data, seen.end().map(|()| trailer))
    }

    #[test]
    fn a_whole_stream_is_its_data_and_its_trailer() {
        let messages: [(u64, &[u8]); 3] = [(2, b"abc"), (0, b"de"), (0, &[7; 32])];
        assert_eq!(outcome(&messages), (b"abcde".to_vec(), Ok(Some(7))));
        // Data of 32 bytes is no trailer.
        let messages: [(u64, &[u8]); 2] = [(0, &[1; 32]), (0, &[7; 32])];
        assert_eq!(outcome(&messages), (vec![1; 32], Ok(Some(7))));
    }

    #[test]
    fn a_stream_that_is_not_whole_says_how() {
        type Messages<'a> = &'a [(u64, &'a [u8])];
        let cases: [(Messages, &str); 8] = [
            (&[], "ended early, before its first byte"),
            (&[(2, b"abc")], "ended early, after 3 of 5 bytes"),
            (&[(2, b"abc"), (2, b"")], "ended early, after 3 of 5 bytes"),
            (&[(2, b"abc"), (0, b"d")], "lost bytes on the way, after 3 of 5 bytes"),
            (&[(0, b"abc")], "ended without its checksum"),
            (&[(0, b"abc"), (0, &[7; 31])], "has no checksum at its end"),
            (&[(0, b"abc"), (1, &[7; 32])], "has no checksum at its end"),
            (&[(0, b"abc"), (0, &[7; 32]), (0, b"x")], "goes on after its checksum"),
        ];
        for (messages, problem) in cases {
            assert_eq!(outcome(messages).1.unwrap_err(), problem);
        }
    }
}
