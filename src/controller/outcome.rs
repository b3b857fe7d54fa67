//! What became of a step.

use crate::decide::Veto;
use crate::snapshot::Failure;

/// What became of one step of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// A long step has begun; it ends by itself.
    Started,
    /// It has to wait: for a slot, or for a finalizer.
    Waiting,
    /// The check said no.
    Vetoed(Veto),
    /// The world has moved on: look again.
    Stale,
    /// It failed; the next pass is the retry.
    Failed(Failure),
    /// It was not tried: we are stopping, no longer leading, or the way was found to be closed.
    Abandoned,
}

impl Outcome {
    /// The metric's label.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Started => "started",
            Self::Waiting => "waiting",
            Self::Vetoed(_) => "vetoed",
            Self::Stale => "stale",
            Self::Failed(_) => "failed",
            Self::Abandoned => "abandoned",
        }
    }
}
