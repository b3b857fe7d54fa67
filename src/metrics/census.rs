//! What a complete listing adds up to.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::words::FileKind;
use crate::snapshot::{Complete, FileName, Owner};

/// Files and bytes by kind, and the newest good one. Only of a complete listing: a partial one would look like a loss.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// How many, and how many bytes as stored. A kind that is not in here has none.
    pub by_kind: BTreeMap<FileKind, (u64, u64)>,
    /// When the newest good one was taken.
    pub newest_good: Option<Timestamp>,
}

impl Census {
    /// Counts a listing; a file without an owner is of an unknown one.
    pub fn of(complete: &Complete, owners: &BTreeMap<FileName, Owner>) -> Self {
        let mut census = Self::default();
        for file in complete.listing().values() {
            let kind = FileKind::of(file, owners.get(&file.name).copied().unwrap_or(Owner::Unknown));
            let (files, bytes) = census.by_kind.entry(kind).or_default();
            *files += 1;
            *bytes = bytes.saturating_add(file.size);
            if kind == FileKind::Good {
                // A copy has a newer time of change, a clock ahead a newer name: neither makes a snapshot newer.
                let taken = file.name.created_at(file.modified).min(file.modified);
                census.newest_good = census.newest_good.max(Some(taken));
            }
        }
        census
    }
}
