//! What a pass of one storage works with.

use super::permit::Permit;
use super::shared::Shared;
use super::verify::Verifier;
use crate::record::Place;
use crate::snapshot::Storage;

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
