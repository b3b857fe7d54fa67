//! What became of one file's upload to one bucket, and of a save that brought no file, as the state of their node remembers it.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;

use super::file::StorageId;
use super::name::FileName;

/// The id that the S3 server gave a multipart upload.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadId(pub String);

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How far the upload of one version of a file has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upload {
    /// A multipart upload was begun and neither completed nor aborted.
    Begun {
        /// Its id.
        id: UploadId,
    },
    /// The bucket has had it; it is not uploaded again, whatever became of the object.
    Done,
    /// It did not succeed.
    Failed {
        /// When it failed first for this reason.
        since: Timestamp,
        /// When it failed last.
        at: Timestamp,
        /// Why, in one sentence.
        why: String,
    },
}

/// A save that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedSave {
    /// The file that it would have made.
    pub file: FileName,
    /// When it failed.
    pub at: Timestamp,
    /// Why, in one sentence.
    pub why: String,
}

impl FailedSave {
    /// So many of one node are remembered and have a record, the newest: enough to see since when and why. One that fails every
    /// minute must not fill the API server.
    pub const MOST: usize = 20;
}

/// Uploads of one version of a file, by the bucket's storage id: a new bucket starts anew.
pub type Uploads = BTreeMap<StorageId, Upload>;
