//! Zip: a snapshot inside an archive with exactly one entry, as K3s and RKE2 write and read it (docs/k3s.md 2.4).
//!
//! Everything that knows the `zip` crate is in here.

mod deflate;
mod hashing;
mod read;
mod write;

pub use read::{Unpacked, unpack_into, verify};
pub use write::{Entry, Written, write};

/// For the tests of both: begins like bbolt's database, has so many pages, and its trailer.
#[cfg(test)]
fn snapshot(pages: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..pages * 512).map(|i| u8::try_from(i * i % 251).unwrap()).collect();
    bytes[16..20].copy_from_slice(&0xED0C_DAED_u32.to_le_bytes());
    let digest = <sha2::Sha256 as sha2::Digest>::digest(&bytes);
    bytes.extend_from_slice(&digest);
    bytes
}
