//! Saves that failed, in the state (docs/design.md 6): their records are made of it, also after a restart.
//!
//! In: failures, and successes that end them. Out: the newest of them. `<node>/failures.json`, written atomically.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::Directory;
use super::error::LocalError;
use super::state::{FORM, State, read};
use crate::snapshot::{BaseName, FailedSave, Failure, FileName, NodeName};

#[derive(Serialize, Deserialize)]
struct FailuresNote {
    v: u32,
    saves: Vec<SaveNote>,
}

#[derive(Serialize, Deserialize)]
struct SaveNote {
    file: String,
    at: Timestamp,
    why: String,
}

impl State {
    fn failures(&self) -> Result<Vec<FailedSave>, LocalError> {
        let note = read(&self.own.join("failures.json"), |note: &FailuresNote| note.v == FORM)?;
        let failed = |save: SaveNote| Some(FailedSave { file: FileName::new(&save.file).ok()?, at: save.at, why: save.why });
        Ok(note.into_iter().flat_map(|note| note.saves).filter_map(failed).collect())
    }

    fn change_failures(&self, change: impl FnOnce(&mut Vec<FailedSave>)) -> Result<(), LocalError> {
        let before = self.failures()?;
        let mut after = before.clone();
        change(&mut after);
        if after == before {
            return Ok(());
        }
        let note = |save: FailedSave| SaveNote { file: save.file.to_string(), at: save.at, why: save.why };
        self.write(&self.own.join("failures.json"), &FailuresNote { v: FORM, saves: after.into_iter().map(note).collect() })
    }
}

impl Directory {
    /// The newest saves that failed, oldest first.
    pub async fn failed_saves(&self) -> Result<Vec<FailedSave>, Failure> {
        let inner = self.0.clone();
        let failures = spawn_blocking(move || inner.state.failures()).await;
        failures.unwrap_or_else(|_| Err(self.0.lost())).map_err(Failure::from)
    }

    /// Notes one more; on the disk on return.
    pub async fn note_failed_save(&self, failed: FailedSave) -> Result<(), Failure> {
        self.of_state(move |state| {
            state.change_failures(|all| {
                all.retain(|other| other.file != failed.file);
                all.push(failed);
                all.drain(..all.len().saturating_sub(FailedSave::MOST));
            })
        })
        .await
    }

    /// A save of this base name has succeeded: those that failed before are over.
    pub async fn forget_failed_saves(&self, base: &BaseName, node: &NodeName) -> Result<(), Failure> {
        let (base, node) = (base.clone(), node.clone());
        self.of_state(move |state| state.change_failures(|all| all.retain(|failed| !failed.file.is_of(&base, &node)))).await
    }
}
