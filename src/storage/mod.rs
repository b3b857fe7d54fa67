//! Storages: where snapshot files are. Effects only; nothing here knows Kubernetes, and nothing here decides.

pub mod s3;

use std::collections::BTreeMap;

use crate::snapshot::{Failure, FileName, Inventory, Known, SnapshotFile, Version};

pub mod local;
pub mod zip;

/// What is known already, by name: of a version that is in here, nothing is looked into again.
pub type Memory = BTreeMap<FileName, (Version, Known)>;

/// What one listing brought: the inventory, and what cost only itself on the way.
#[derive(Debug)]
pub struct Listed {
    /// How far it got and what it saw.
    pub inventory: Inventory,
    /// One for each file or object that could not be looked into; it is listed with nothing known of it.
    pub failures: Vec<Failure>,
}

/// A directory or a bucket.
pub trait Store: Send + Sync {
    /// Lists everything, and looks into what is not in `memory` under the version found.
    fn list(&self, memory: &Memory) -> impl Future<Output = Listed> + Send;

    /// Looks at one name, now: `lstat` or `HEAD`. `Ok(None)` is proof that it is not there.
    fn ask(&self, name: &FileName) -> impl Future<Output = Result<Option<Version>, Failure>> + Send;

    /// Removes the file or object and then its sidecar. Asks first; leaves alone what is no longer this version, or, in a
    /// bucket, does not show our cluster id. `adopting`: an object without any cluster id counts as ours.
    fn remove(&self, file: &SnapshotFile, adopting: bool) -> impl Future<Output = Result<Removed, Failure>> + Send;
}

/// What became of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// The file or object is gone, and its sidecar.
    Done,
    /// It was gone before; its sidecar is, too.
    Absent,
    /// It is another version than the one that was judged, or does not show our cluster id: it was left alone.
    Stale,
}
