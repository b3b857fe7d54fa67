//! What a pass of one storage works with.

use super::permit::Permit;
use super::shared::Shared;
use super::upload::Uploader;
use super::verify::Verifier;
use crate::record::Place;
use crate::snapshot::{FileName, Storage, UploadId};
use crate::storage::local::Directory;

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
    /// Who works on the files of a directory; a bucket has none.
    pub hands: Option<&'a Hands>,
    /// Until when we may write.
    pub permit: Permit,
    /// Multipart uploads to a bucket with which nobody goes on, when they were looked for.
    pub abandoned: Vec<(FileName, UploadId)>,
}

/// Who works on the files of a directory, and remembers what became of them.
#[derive(Clone)]
pub struct Hands {
    /// The directory, with its state.
    pub directory: Directory,
    /// Reads files against their trailers.
    pub verifier: Verifier,
    /// Sends them to the bucket.
    pub uploader: Uploader,
}
