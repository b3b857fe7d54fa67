//! The body of an upload, handed over in pieces, so that it shows whether it moves.
//!
//! In: a body in memory. Out: the same bytes, and when the last piece of them was taken. A slow line may take as long as it needs; one
//! that stands still may not.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aws_smithy_types::body::SdkBody;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::time::Instant;

use super::transport::{Observer, Traffic};

/// Bytes handed over at a time: few enough that a slow line takes one within seconds.
const PIECE: usize = 64 * 1024;

/// An upload that stands still.
#[derive(Debug, thiserror::Error)]
#[error("nothing moved for {0:?}")]
pub struct Stalled(pub Duration);

/// When an upload moved last.
pub struct Progress {
    observer: Observer,
    last: Mutex<Instant>,
}

impl Progress {
    /// From now on.
    pub fn new(observer: Observer) -> Arc<Self> {
        Arc::new(Self { observer, last: Mutex::new(Instant::now()) })
    }

    fn last(&self) -> MutexGuard<'_, Instant> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moved(&self, bytes: usize) {
        *self.last() = Instant::now();
        (self.observer)(Traffic::Sent { bytes: bytes as u64 });
    }

    /// Ends when nothing has moved for this long.
    pub async fn stalled(&self, patience: Duration) -> Stalled {
        loop {
            let until = *self.last() + patience;
            tokio::time::sleep_until(until).await;
            if *self.last() + patience <= until {
                return Stalled(patience);
            }
        }
    }
}

/// A body in pieces.
pub struct Pieces {
    body: SdkBody,
    begun: Bytes,
    left: u64,
    progress: Arc<Progress>,
}

impl Pieces {
    /// The body must be one of known length, as those in memory are.
    pub fn new(body: SdkBody, progress: Arc<Progress>) -> Self {
        let left = body.content_length().unwrap_or_default();
        Self { body, begun: Bytes::new(), left, progress }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = <SdkBody as Body>::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        while self.begun.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.begun = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let size = self.begun.len().min(PIECE);
        let piece = self.begun.split_to(size);
        self.left = self.left.saturating_sub(size as u64);
        self.progress.moved(size);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
