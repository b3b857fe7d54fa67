//! The API server: records, Leases, Events, Nodes, and the Secret of the S3 settings. Effects only.
//!
//! In: nouns of `record` and `snapshot`. Out: what the API server holds, and outcomes of requests. Nothing here knows a
//! directory, a bucket or a rule; nothing here decides.

pub mod cache;
pub mod claim;
pub mod client;
pub mod error;
pub mod events;
pub mod lease;
mod memory;
pub mod nodes;
pub mod pods;
pub mod records;
mod said;
pub mod secret;
mod watch;
pub mod write;

pub use cache::Cache;
pub use error::Error;

/// Field manager of every write, reporter of every Event, part of every Lease's name.
pub const OPERATOR: &str = "etcd-snapshot-operator";
