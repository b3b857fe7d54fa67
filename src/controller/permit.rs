//! Until when this agent may write: always to its own node's records; to a bucket's only while it leads.

use tokio::time::Instant;

use crate::deadline::{Moment, before};
use crate::kubernetes::lease::Leadership;

/// Leave to write.
#[derive(Debug, Clone)]
pub enum Permit {
    /// What is our own node's; and whatever a person asks for.
    Always,
    /// While the Lease is ours: its deadline is taken from before its last renewal, so that a request which ends before it
    /// ends before anybody else leads.
    Leading(Leadership),
}

impl Permit {
    /// When a request that is sent now has to have ended; `Some(None)` is whenever, None is not at all.
    pub fn until(&self) -> Option<Option<Instant>> {
        match self {
            Self::Always => Some(None),
            Self::Leading(leadership) => leadership.until().map(Moment::timers).map(Some),
        }
    }

    /// Does several requests one after the other, and sends none of them once we may not write any more, whatever came in meanwhile.
    /// None: it was given up for that.
    pub async fn hold<T>(&self, requests: impl Future<Output = T>) -> Option<T> {
        match self {
            Self::Always => Some(requests.await),
            Self::Leading(leadership) => before(leadership.until()?, requests).await,
        }
    }
}
