//! What became of a step.

use crate::decide::Veto;
use crate::kubernetes::Error;
use crate::kubernetes::write::Written;
use crate::metrics;
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
    /// Why it failed, if it did.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed(failure) => Some(failure),
            _ => None,
        }
    }
}

impl From<Result<Written, Error>> for Outcome {
    fn from(written: Result<Written, Error>) -> Self {
        match written {
            Ok(Written::Created | Written::Changed | Written::Deleted) => Self::Done,
            Ok(Written::Unchanged | Written::Stale) => Self::Stale,
            Ok(Written::Waiting) => Self::Waiting,
            Ok(Written::Abandoned) => Self::Abandoned,
            Err(error) => Self::Failed(error.failure()),
        }
    }
}

impl From<&Outcome> for metrics::Outcome {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::Done,
            Outcome::Started => Self::Started,
            Outcome::Waiting => Self::Waiting,
            Outcome::Vetoed(_) => Self::Vetoed,
            Outcome::Stale => Self::Stale,
            Outcome::Failed(_) => Self::Failed,
            Outcome::Abandoned => Self::Abandoned,
        }
    }
}
