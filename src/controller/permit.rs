//! Until when this agent may write: always to its own node's records; to a bucket's only while it leads.

use tokio::time::Instant;

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
            Self::Leading(leadership) => leadership.until().map(Some),
        }
    }
}
