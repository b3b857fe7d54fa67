//! One pass of one storage: observe, decide, check, act, report.

use tokio::time::Instant;

use super::act::{Hands, act};
use super::observe::observe;
use super::permit::Permit;
use super::report::report;
use super::run::PassEnd;
use super::shared::Shared;
use super::verify::Verifier;
use crate::decide::{check, decide};
use crate::health::Loop;
use crate::record::Place;
use crate::snapshot::Storage;
use crate::storage::Store;

/// What a pass works with.
pub struct Parts<'a, S> {
    /// What both loops share.
    pub shared: &'a Shared,
    /// The directory or the bucket.
    pub store: &'a S,
    /// Which one.
    pub storage: Storage,
    /// Where its files are, as records say it.
    pub place: Place,
    /// Reads files against their trailers; a bucket has none.
    pub verifier: Option<&'a Verifier>,
    /// Until when we may write.
    pub permit: Permit,
}

/// Runs one pass. What failed in it is said; the next pass is the retry.
pub async fn pass<S: Store>(parts: &Parts<'_, S>) -> PassEnd {
    let began = Instant::now();
    let (seen, failures) = observe(parts).await;
    let (policy, now) = (&parts.shared.policy, parts.shared.now());
    let plan = check(decide(&seen, policy, now), &seen, policy, now);
    let hands = Hands {
        store: parts.store,
        cache: &parts.shared.cache,
        verifier: parts.verifier,
        health: &parts.shared.health,
        of: loop_of(&parts.storage),
        permit: &parts.permit,
        stop: &parts.shared.stop,
    };
    let outcomes = act(&plan, &hands).await;
    let ok = report(&seen, &failures, &plan, &outcomes, parts.shared);
    PassEnd { took: began.elapsed(), ok }
}

/// Whose pass is over this storage.
pub fn loop_of(storage: &Storage) -> Loop {
    match storage {
        Storage::Local { .. } => Loop::Directory,
        Storage::S3 { .. } => Loop::Bucket,
    }
}
