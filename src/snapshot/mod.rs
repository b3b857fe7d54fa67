//! What a snapshot is: the nouns that everything else speaks in, and the rules that need nothing but them.
//!
//! In: names, bytes, sidecars. Out: values that cannot be wrong. Nothing here knows a client, a file system or a clock.

pub mod file;
pub mod manifest;
pub mod name;
pub mod owner;
pub mod token;
pub mod upload;
pub mod verify;

pub use file::{Complete, Failure, Inventory, Known, Listing, Metadata, SnapshotFile, Storage, StorageId, Verdict, Version};
pub use manifest::{Digest, History, Manifest};
pub use name::{BaseName, ClusterId, FileName, NameError, NodeName, Program};
pub use owner::{Identity, Member, Owner};
pub use token::{TokenError, token_hash};
pub use upload::{FailedSave, Upload, UploadId, Uploads};
