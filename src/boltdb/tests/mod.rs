//! Real databases and what etcd's own tools print of them (`testdata/README.md`), and what becomes of damaged ones.

use std::cell::Cell;
use std::io::{self, Read};
use std::path::Path;

use super::*;

mod damage;

/// The database of a snapshot, without the snapshot's trailer.
fn database(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/boltdb/testdata").join(name).with_extension("zip");
    let mut archive = zip::ZipArchive::new(std::fs::File::open(path).unwrap()).unwrap();
    let mut bytes = Vec::new();
    archive.by_index(0).unwrap().read_to_end(&mut bytes).unwrap();
    bytes.truncate(bytes.len() / 512 * 512);
    bytes
}

fn read(bytes: &[u8]) -> Result<Facts, Error> {
    inspect(bytes, bytes.len() as u64)
}

const NAMES: [&str; 11] = [
    "empty",
    "one-key",
    "compacted",
    "compacted-at-tombstone",
    "nothing-lives",
    "leases",
    "big-values",
    "defragmented",
    "compaction-under-way",
    "nothing-lives-compaction-under-way",
    "buckets-in-buckets",
];

#[test]
fn every_number_is_the_one_that_etcds_own_tools_print() {
    // hash, revision, keys of 3.5, keys of 3.6, size; hash-kv, its revision, compacted revision.
    let printed = [
        (880_036_473, 0, 7, 0, 20480, 1_084_519_789, 1, -1),
        (323_934_556, 2, 8, 1, 20480, 1_132_521_990, 2, -1),
        (190_160_760, 65, 29, 11, 24576, 1_860_727_241, 65, 58),
        (966_447_681, 66, 20, 10, 24576, 396_538_236, 66, 66),
        (1_225_732_273, 67, 19, 0, 24576, 1_084_519_789, 67, 67),
        (4_133_059_630, 69, 22, 2, 24576, 826_220_046, 69, 67),
        (2_871_931_848, 6, 12, 4, 1_339_392, 2_214_197_156, 6, -1),
        (1_544_924_009, 41, 4009, 4000, 274_432, 3_212_352_367, 41, 41),
        (385_426_436, 302, 209, 40, 49152, 2_714_081_857, 302, 281),
        (2_106_085_879, 152, 208, 0, 45056, 78_777_138, 152, 152),
        (101_391_631, 200, 212, 7, 76800, 184_670_291, 200, 6),
    ];
    for (name, printed) in NAMES.iter().zip(printed) {
        let it = read(&database(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let status = (it.hash, it.revision, it.total_keys, it.live_keys, it.total_size);
        let found = (status.0, status.1, status.2, status.3, status.4, it.hash_kv, it.hash_kv_revision, it.compact_revision);
        assert_eq!(found, printed, "{name}");
        assert_eq!(it.storage_version.as_deref(), Some("3.6.0"), "{name}");
        assert_eq!(it.cluster_version.as_deref(), Some("3.6.0"), "{name}");
    }
}

#[test]
fn it_knows_raft_and_members() {
    let it = read(&database("buckets-in-buckets")).unwrap();
    assert_eq!((it.raft_index, it.raft_term), (Some(9), Some(2)));
    assert_eq!(it.members, [1, 0x8e9e_05c5_2164_694d]);
    let (empty, one) = (read(&database("empty")).unwrap(), read(&database("one-key")).unwrap());
    assert!(one.raft_index > empty.raft_index);
    assert_eq!(one.members, [0x8e9e_05c5_2164_694d]);
}

#[test]
fn a_file_reads_like_its_bytes_and_what_lies_behind_the_database_does_not_matter() {
    let bytes = database("defragmented");
    let mut file = tempfile::tempfile().unwrap();
    io::Write::write_all(&mut file, &[&bytes[..], &[0xA5; 32]].concat()).unwrap();
    assert_eq!(inspect(&file, bytes.len() as u64).unwrap(), read(&bytes).unwrap());
    assert_eq!(inspect(&file, bytes.len() as u64 + 32).unwrap(), read(&bytes).unwrap());
}

/// Hands out a few bytes at a time, counts them, and fails after some.
struct Slow<'a> {
    bytes: &'a [u8],
    at_once: usize,
    read: Cell<u64>,
    fails_after: u64,
}

impl<'a> Slow<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at_once: usize::MAX, read: Cell::new(0), fails_after: u64::MAX }
    }
}

impl ReadAt for Slow<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.read.get() >= self.fails_after {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let length = buffer.len().min(self.at_once);
        let read = self.bytes.read_at(&mut buffer[..length], offset)?;
        self.read.set(self.read.get() + read as u64);
        Ok(read)
    }
}

#[test]
fn a_reader_that_gives_little_at_a_time_changes_nothing() {
    for name in NAMES {
        let bytes = database(name);
        let slow = Slow { at_once: 1000, ..Slow::new(&bytes) };
        assert_eq!(inspect(&slow, bytes.len() as u64).unwrap(), read(&bytes).unwrap(), "{name}");
    }
}

#[test]
fn each_byte_is_read_about_once() {
    for name in NAMES {
        let bytes = database(name);
        let counting = Slow::new(&bytes);
        inspect(&counting, bytes.len() as u64).unwrap();
        let (read, all) = (counting.read.get(), bytes.len() as u64);
        assert!(read < all * 5 / 4 + 65536, "{name}: {read} of {all}");
    }
}

#[test]
fn an_error_of_the_reader_is_not_damage() {
    let bytes = database("big-values");
    let stopped = Slow { fails_after: 500_000, ..Slow::new(&bytes) };
    let error = inspect(&stopped, bytes.len() as u64).unwrap_err();
    assert!(matches!(&error, Error::Read { source, .. } if source.kind() == io::ErrorKind::Interrupted), "{error:?}");
    assert_eq!(error.category(), "read");
    // A file that is shorter than promised: nothing says which of the two is wrong.
    let error = inspect(&bytes[..300_000], bytes.len() as u64).unwrap_err();
    assert!(matches!(&error, Error::Read { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof), "{error:?}");
}
