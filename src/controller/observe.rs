//! Observe: everything that one pass of one storage knows, in the order that makes it proof. The records are read first:
//! what they hold existed before the listing began.

use std::sync::Arc;

use super::parts::Parts;
use crate::decide::{Around, Observed};
use crate::record::{Place, Record, Shape};
use crate::snapshot::owner::owners;
use crate::snapshot::{Failure, Identity, Member, Storage};
use crate::storage::{Listed, Memory, Store};

/// What is seen, and what could not be looked into on the way.
pub async fn observe<S: Store>(parts: &Parts<'_, S>) -> (Observed, Vec<Failure>) {
    let shared = parts.shared;
    super::surroundings::heard(shared).await;
    let records: Option<Vec<Arc<Record>>> =
        shared.cache.records().map(|all| all.into_iter().filter(|record| record.storage.as_ref() == Some(&parts.storage)).collect());
    let running = parts.verifier.map(super::verify::Verifier::running).unwrap_or_default();
    let Listed { inventory, failures } = parts.store.list(&memory(records.as_deref().unwrap_or_default())).await;
    let surroundings = shared.surroundings();
    let us = Identity { node: shared.settings.node.clone(), cluster: surroundings.cluster_of_records().cloned(), member: Member::Silent };
    let k3s_at_work = match &parts.storage {
        Storage::Local { .. } => surroundings.k3s_at_work_here(shared.now(), shared.settings.interval),
        Storage::S3 { .. } => surroundings.k3s_at_work_anywhere(shared.now(), shared.settings.interval),
    };
    let place = match &parts.place {
        Place::Local { dir, node, .. } => {
            Place::Local { dir: dir.clone(), node: node.clone(), has_node_object: surroundings.has_node_object.unwrap_or(true) }
        }
        place @ Place::S3(_) => place.clone(),
    };
    let seen = Observed {
        owners: owners(&parts.storage, &us, inventory.seen()),
        storage: parts.storage.clone(),
        shape: Shape { program: shared.settings.program, bucket_lookup: shared.cache.has_bucket_lookup() },
        us,
        place,
        records,
        inventory,
        running,
        k3s_at_work,
        around: Around::default(),
    };
    (seen, failures)
}

/// What the records say is known: believed only of the version that it was learnt of, and of records that nobody touched.
fn memory(records: &[Arc<Record>]) -> Memory {
    let known = |record: &Arc<Record>| Some((record.file.clone()?, (record.version.clone()?, record.known.as_deref()?.clone())));
    records.iter().filter(|record| !record.terminating).filter_map(known).collect()
}
