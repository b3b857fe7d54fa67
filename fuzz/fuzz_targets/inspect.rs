//! Any bytes as a database: reading them ends, with facts or an error, and with bounded reading.
//!
//! The bytes are read as they are, and once more with checksums that match, which a fuzzer does not find by itself.

#![no_main]
#![allow(dead_code, unused_imports)]

use std::cell::Cell;
use std::io;

use libfuzzer_sys::fuzz_target;

#[path = "../../src/boltdb/mod.rs"]
mod boltdb;

struct Counting<'a>(&'a [u8], Cell<u64>);

impl boltdb::ReadAt for Counting<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = self.0.read_at(buffer, offset)?;
        self.1.set(self.1.get() + read as u64);
        Ok(read)
    }
}

fn inspect(bytes: &[u8]) {
    let counting = Counting(bytes, Cell::new(0));
    let _ = boltdb::inspect(&counting, bytes.len() as u64);
    assert!(counting.1.get() < bytes.len() as u64 * 8 + (1 << 20), "{} of {} bytes were read", counting.1.get(), bytes.len());
}

fuzz_target!(|bytes: &[u8]| {
    inspect(bytes);
    let mut sealed = bytes.to_vec();
    for page in (512..=4096).step_by(512).chain([0]) {
        if let Some(meta) = sealed.get_mut(page + 16..page + 80) {
            let checksum = meta[..56].iter().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3));
            if meta.starts_with(&0xED0C_DAED_u32.to_le_bytes()) {
                meta[56..].copy_from_slice(&checksum.to_le_bytes());
            }
        }
    }
    inspect(&sealed);
});
