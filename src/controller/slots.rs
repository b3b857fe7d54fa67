//! The slots of a long step: how many run at once, and who waits.
//!
//! What could not be done gives its slot to the next file and waits for the beat: one that fails costs only itself.

use std::collections::{BTreeMap, BTreeSet};

use super::outcome::Outcome;
use crate::snapshot::{FileName, SnapshotFile, Version};

/// What runs, and what has to wait.
#[derive(Debug)]
pub struct Slots {
    most: usize,
    running: BTreeSet<FileName>,
    /// What failed since the last beat, or was asked for once and is done.
    failed: BTreeMap<FileName, Version>,
    /// A file found no slot free.
    refused: bool,
}

impl Slots {
    /// So many at once.
    pub fn new(most: usize) -> Self {
        Self { most, running: BTreeSet::new(), failed: BTreeMap::new(), refused: false }
    }

    /// The files that are being worked on.
    pub fn running(&self) -> &BTreeSet<FileName> {
        &self.running
    }

    /// For a beat: what failed may be tried again.
    pub fn again(&mut self) {
        self.failed.clear();
    }

    /// Takes a slot; or says why not.
    pub fn take(&mut self, file: &SnapshotFile) -> Result<(), Outcome> {
        if self.running.contains(&file.name) {
            return Err(Outcome::Abandoned);
        }
        if self.failed.get(&file.name) == Some(&file.version) {
            return Err(Outcome::Waiting);
        }
        if self.running.len() >= self.most {
            self.refused = true;
            return Err(Outcome::Waiting);
        }
        self.running.insert(file.name.clone());
        Ok(())
    }

    /// Gives it back. Whether somebody was refused one meanwhile.
    pub fn give_back(&mut self, name: &FileName, failed: Option<Version>) -> bool {
        self.running.remove(name);
        self.failed.extend(failed.map(|version| (name.clone(), version)));
        std::mem::take(&mut self.refused)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn file(name: &str, version: &str) -> SnapshotFile {
        let (name, version) = (FileName::new(name).unwrap(), Version::remembered(version));
        SnapshotFile { name, size: 1, modified: Timestamp::UNIX_EPOCH, version, at_rest: true, known: None }
    }

    #[test]
    fn files_that_cannot_be_read_leave_their_slots_to_those_behind_them() {
        let mut slots = Slots::new(2);
        let (a, b, c) = (file("a", "1"), file("b", "1"), file("c", "1"));
        assert_eq!([&a, &b, &a, &c].map(|file| slots.take(file)), [Ok(()), Ok(()), Err(Outcome::Abandoned), Err(Outcome::Waiting)]);
        assert!(slots.give_back(&a.name, Some(a.version.clone())), "c was refused and has to be planned again");
        assert!(!slots.give_back(&b.name, Some(b.version.clone())), "once");
        assert_eq!([&a, &b, &c].map(|file| slots.take(file)), [Err(Outcome::Waiting), Err(Outcome::Waiting), Ok(())]);
        assert_eq!(slots.take(&file("a", "2")), Ok(()), "other bytes are not those that failed");
    }
}
