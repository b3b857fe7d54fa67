//! How Kubernetes shows a snapshot file: the `ETCDSnapshotFile`, K3s's own resource, here called the record.
//!
//! In: snapshot files and records as the API server has them. Out: the record that is wanted, the projection of a record
//! that the cache keeps, and the one patch between the two. Nothing here talks to an API server.

pub mod api;
pub mod cached;
pub mod content;
pub mod crd;
pub mod name;
pub mod patch;
pub mod quantity;
pub mod uploads;
pub mod wanted;

pub use api::ETCDSnapshotFile;
pub use cached::Record;
pub use name::RecordName;
pub use wanted::{Place, Shape, Wanted};
