//! What is remembered of a schedule: the last attempt, since when one is answerable for runs that passed, and who does a run
//! for the whole cluster.

use jiff::Timestamp;

/// Who saves on schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Each node for itself.
    Node,
    /// One node for the whole cluster.
    Cluster,
}

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Begun. As a memory from before a restart: it died with the process.
    Begun,
    /// A snapshot was saved.
    Saved,
    /// None was saved.
    Failed,
    /// None was tried: a save ran already, or this member must not be saved from.
    Skipped,
    /// Another node saved for the whole cluster.
    Elsewhere,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Begun, Self::Saved, Self::Failed, Self::Skipped, Self::Elsewhere];

    /// The word for it in the state, in a Lease and in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Saved => "saved",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Elsewhere => "elsewhere",
        }
    }

    /// The outcome of this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.word() == word)
    }
}

/// The one attempt of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// The instant that the schedule names.
    pub slot: Timestamp,
    /// When it began.
    pub at: Timestamp,
    /// What became of it.
    pub outcome: Outcome,
}

/// What a node remembers of its schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noted {
    /// Slots up to this instant are not made up: the first start, or when the clock was set back.
    pub since: Timestamp,
    /// The last attempt.
    pub attempt: Option<Attempt>,
}

/// Which agent saves for the whole cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The attempt. Never [`Outcome::Elsewhere`].
    pub attempt: Attempt,
    /// Who: `<node>_<uuid>`.
    pub holder: String,
}
