//! The etcd member that snapshots are taken from: exactly one.
//!
//! In: the settings of etcd as an [`EtcdAccess`]. Out: what the member says of itself, whether it has a quorum, which
//! history it is in, and the stream of its snapshot; or one clear sentence why not. It writes nothing to etcd and knows no directory, bucket or Kubernetes.

mod access;
mod connect;
mod error;
mod member;
mod status;
mod stream;
mod tls;

pub use access::{AccessError, ClientFiles, Endpoint, EtcdAccess, EtcdSettings, Password, TlsFiles, User};
pub use error::EtcdError;
pub use member::Member;
pub use status::{Alarm, AlarmKind, Id, Status};
pub use stream::{Part, SnapshotStream};
