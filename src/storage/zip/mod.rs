//! Zip: a snapshot inside an archive with exactly one entry, as K3s and RKE2 write and read it (docs/k3s.md 2.4).
//!
//! Everything that knows the `zip` crate is in here.

mod read;
mod write;

pub use read::{Unpacked, unpack_into, verify};
pub use write::{Entry, Written, write};
