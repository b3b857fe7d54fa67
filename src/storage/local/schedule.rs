//! The schedule's part of the state: the last attempt, and since when slots are answered for (docs/design.md 6).
//!
//! In: what is to be remembered. Out: the same after a restart, from `<node>/schedule.json`. It is on the disk when noting returns,
//! so that a save that begins after it is known to have begun, whatever becomes of the process.

use std::io;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::error::LocalError;
use super::state::{FORM, State, read};
use super::{Directory, Inner};
use crate::schedule::{Attempt, Noted, Outcome};
use crate::snapshot::Failure;

#[derive(Serialize, Deserialize)]
struct ScheduleNote {
    v: u32,
    since: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attempt: Option<AttemptNote>,
}

#[derive(Serialize, Deserialize)]
struct AttemptNote {
    slot: Timestamp,
    at: Timestamp,
    outcome: String,
}

impl ScheduleNote {
    fn of(noted: &Noted) -> Self {
        let attempt =
            noted.attempt.map(|attempt| AttemptNote { slot: attempt.slot, at: attempt.at, outcome: attempt.outcome.word().into() });
        Self { v: FORM, since: noted.since, attempt }
    }

    fn noted(self) -> Noted {
        // A word of another version is an attempt all the same.
        let outcome = |word: &str| Outcome::from_word(word).unwrap_or(Outcome::Begun);
        let attempt = self.attempt.map(|note| Attempt { slot: note.slot, at: note.at, outcome: outcome(&note.outcome) });
        Noted { since: self.since, attempt }
    }
}

impl State {
    fn schedule_path(&self) -> PathBuf {
        self.own.join("schedule.json")
    }

    fn schedule(&self) -> Result<Option<Noted>, LocalError> {
        Ok(read(&self.schedule_path(), |note: &ScheduleNote| note.v == FORM)?.map(ScheduleNote::noted))
    }

    fn note_schedule(&self, noted: &Noted) -> Result<(), LocalError> {
        self.write(&self.schedule_path(), &ScheduleNote::of(noted))
    }
}

impl Inner {
    fn note_schedule(&self, noted: &Noted) -> Result<(), LocalError> {
        if self.standing().known.is_none() {
            let source = io::Error::new(io::ErrorKind::NotFound, "no listing has found the snapshot directory yet");
            return Err(LocalError::State { verb: "write", path: self.state.schedule_path(), source });
        }
        self.state.note_schedule(noted)
    }
}

impl Directory {
    /// What was last noted of the schedule; None when nothing was.
    pub async fn noted_schedule(&self) -> Result<Option<Noted>, Failure> {
        let inner = self.0.clone();
        let noted = spawn_blocking(move || inner.state.schedule()).await;
        noted.unwrap_or_else(|_| Err(self.0.lost())).map_err(Failure::from)
    }

    /// Notes it in place of what was noted; on the disk on return. A directory that no listing has accepted gets no note.
    pub async fn note_schedule(&self, noted: Noted) -> Result<(), Failure> {
        let inner = self.0.clone();
        let done = spawn_blocking(move || inner.note_schedule(&noted)).await;
        done.unwrap_or_else(|_| Err(self.0.lost())).map_err(Failure::from)
    }
}
