//! Damaged databases: each fault is named, no bytes at all make it fail otherwise or go on without end.

use proptest::prelude::*;

use super::super::meta::fnv1a;
use super::*;

/// A database to be damaged, in its pages.
struct Pages {
    bytes: Vec<u8>,
    size: usize,
}

impl Pages {
    /// Its pages are of 1024 bytes, it has branches, a freelist, buckets in buckets and inline buckets.
    fn new() -> Self {
        Self { bytes: database("buckets-in-buckets"), size: 1024 }
    }

    fn number<const N: usize>(&self, at: usize) -> u64 {
        self.bytes[at..at + N].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn set<const N: usize>(&mut self, at: usize, number: u64) {
        self.bytes[at..at + N].copy_from_slice(&number.to_le_bytes()[..N]);
    }

    /// Makes both meta pages say so, and match their checksums.
    fn meta<const N: usize>(&mut self, field: usize, number: u64) {
        for page in [0, self.size] {
            self.set::<N>(page + field, number);
            let checksum = fnv1a(&self.bytes[page + 16..page + 72]);
            self.set::<8>(page + 72, checksum);
        }
    }

    /// Where the page begins that the newer meta page refers to at this field.
    fn referred(&self, field: usize) -> usize {
        let newer = usize::from(self.referred_by_second()) * self.size;
        usize::try_from(self.number::<8>(newer + field)).unwrap() * self.size
    }

    fn referred_by_second(&self) -> bool {
        self.number::<8>(self.size + 64) > self.number::<8>(64)
    }

    fn root(&self) -> usize {
        self.referred(32)
    }

    fn freelist(&self) -> usize {
        self.referred(48)
    }

    /// Where the data of an element of a leaf begins.
    fn data(&self, leaf: usize, index: usize) -> usize {
        let element = leaf + 16 + 16 * index;
        element + usize::try_from(self.number::<4>(element + 4)).unwrap()
    }

    /// The first page of a top-level bucket.
    fn bucket(&self, name: &[u8]) -> usize {
        let root = self.root();
        let count = usize::try_from(self.number::<2>(root + 10)).unwrap();
        let found = (0..count).map(|index| self.data(root, index)).find(|at| self.bytes[*at..].starts_with(name)).unwrap();
        usize::try_from(self.number::<8>(found + name.len())).unwrap() * self.size
    }

    /// The root branch of bucket `key`.
    fn branch(&self) -> usize {
        self.bucket(b"key")
    }

    /// The first leaf of bucket `key`.
    fn leaf(&self) -> usize {
        usize::try_from(self.number::<8>(self.branch() + 16 + 8)).unwrap() * self.size
    }

    /// The element whose key this is: of the page, or the small page in it, that its data points back to.
    fn element_of(&self, key: &[u8]) -> usize {
        let at = self.position(key);
        let points = |element: &usize| {
            self.number::<4>(element + 8) == key.len() as u64 && element + usize::try_from(self.number::<4>(element + 4)).unwrap() == at
        };
        (0..at - 16).rev().find(points).unwrap()
    }

    /// Where these bytes are: in the root with its inline buckets, or else anywhere. (Free pages still hold older ones.)
    fn position(&self, what: &[u8]) -> usize {
        let small = self.root()..self.root() + self.size;
        let found = |range: std::ops::Range<usize>| {
            self.bytes[range.clone()].windows(what.len()).rposition(|bytes| bytes == what).map(|at| range.start + at)
        };
        found(small).or_else(|| found(0..self.bytes.len())).unwrap()
    }
}

type Damage = (&'static str, fn(&mut Pages));

const META: &[Damage] = &[
    ("first meta page does not begin with bbolt's magic number", |db| db.meta::<4>(16, 7)),
    ("second meta page has format version 3, known is 2", |db| db.meta::<4>(20, 3)),
    ("meta page has an impossible page size of 1000 bytes", |db| db.meta::<4>(24, 1000)),
    ("meta page has an impossible page size of 256 bytes", |db| db.meta::<4>(24, 256)),
    ("first meta page does not match its checksum, its second meta page does not", |db| {
        let size = db.size;
        db.bytes[30] ^= 1;
        db.bytes[size + 30] ^= 1;
    }),
    ("first meta page has the header of another page", |db| {
        let size = db.size;
        db.set::<8>(0, 9);
        db.set::<8>(size, 9);
    }),
    ("says that the database has 1000 pages of 1024 bytes, but it has only 76800 bytes", |db| db.meta::<8>(56, 1000)),
    ("but it has only 75776 bytes", |db| db.bytes.truncate(75776)),
    ("has 18446744073709551615 pages of 1024 bytes, but", |db| db.meta::<8>(56, u64::MAX)),
    ("page 0 is referred to, but data is on pages 2 to 74 only", |db| db.meta::<8>(32, 0)),
    ("page 75 is referred to, but", |db| db.meta::<8>(32, 75)),
];

const PAGES: &[Damage] = &[
    ("has the header of page 3000", |db| db.set::<8>(db.leaf(), 3000)),
    ("has flags 0x0010, which no page at its place has", |db| db.set::<2>(db.leaf() + 8, 0x10)),
    ("has flags 0x0003, which", |db| db.set::<2>(db.leaf() + 8, 3)),
    ("goes on for 4294967295 pages, beyond the last page", |db| db.set::<4>(db.leaf() + 12, u64::from(u32::MAX))),
    ("is referred to twice", |db| db.set::<8>(db.branch() + 32 + 8, db.number::<8>(db.branch() + 16 + 8))),
    ("is referred to twice", |db| db.set::<8>(db.branch() + 32 + 8, db.number::<8>(db.branch()))),
    ("is referred to twice", |db| db.set::<4>(db.leaf() + 12, 1)),
    ("is a branch without children", |db| db.set::<2>(db.branch() + 10, 0)),
    ("has no room for its 65535 elements", |db| db.set::<2>(db.leaf() + 10, 65535)),
    ("has an element 1 whose key has 0 bytes", |db| db.set::<4>(db.leaf() + 32 + 8, 0)),
    ("has an element 0 whose key has 32769 bytes", |db| db.set::<4>(db.leaf() + 16 + 8, 32769)),
    ("has an element 0 whose value has 4294967295 bytes", |db| db.set::<4>(db.leaf() + 16 + 12, u64::from(u32::MAX))),
    ("has an element 0 that reaches beyond its end", |db| db.set::<4>(db.leaf() + 16 + 12, 1024)),
    ("has an element 0 that reaches beyond its end", |db| db.set::<4>(db.leaf() + 16 + 4, u64::from(u32::MAX))),
    ("has an element 1 that lies over another one", |db| db.set::<4>(db.leaf() + 32 + 4, 16)),
    ("has an element 0 with unknown flags 0x2", |db| db.set::<4>(db.leaf() + 16, 2)),
    ("has keys that do not ascend", |db| {
        let (first, second) = (db.data(db.leaf(), 0), db.data(db.leaf(), 1));
        db.bytes.copy_within(second..second + 17, first);
    }),
    ("has keys that do not ascend", |db| {
        let branch = db.branch();
        let first = branch + 16 + usize::try_from(db.number::<4>(branch + 16)).unwrap();
        db.bytes.copy_within(first + 17..first + 34, first);
    }),
    ("has keys that do not belong below its branch", |db| {
        let leaf = db.leaf();
        let first = db.data(leaf, 0);
        db.bytes[first..first + 17].copy_from_slice(b"\0\0\0\0\0\0\0\0_\0\0\0\0\0\0\0\0");
    }),
    ("has keys that do not belong below its branch", |db| {
        let leaf = db.leaf();
        let last = usize::try_from(db.number::<2>(leaf + 10)).unwrap() - 1;
        let last = db.data(leaf, last);
        db.bytes[last] = 0x7F;
    }),
];

const BUCKETS: &[Damage] = &[
    ("has a bucket that is not laid out as one", |db| {
        let inline = db.position(b"inline") + 6;
        db.set::<8>(inline + 16, 5);
    }),
    ("has a bucket that is not laid out as one", |db| {
        let element = db.element_of(b"inline");
        db.set::<4>(element + 12, 31);
    }),
    ("has a bucket that is not laid out as one", |db| {
        let element = db.element_of(b"inline");
        db.set::<4>(element + 12, 15);
    }),
    ("has a bucket that is not laid out as one", |db| {
        let inner = db.position(b"inline") + 6 + 16;
        db.set::<4>(inner + 16, 1);
    }),
    ("has a key among the buckets that is no bucket", |db| db.set::<4>(db.root() + 16, 0)),
    ("has flags 0x0010, which", |db| db.meta::<8>(32, db.number::<8>(db.freelist()))),
    ("has flags 0x0002, which", |db| db.set::<2>(db.freelist() + 8, 2)),
    ("is a list of 18446744073709551615 free pages that does not fit into it", |db| {
        let freelist = db.freelist();
        db.set::<2>(freelist + 10, 0xFFFF);
        db.set::<8>(freelist + 16, u64::MAX);
    }),
    ("free pages that does not fit into it", |db| db.set::<2>(db.freelist() + 10, 127)),
    ("is neither used nor free", |db| {
        let freelist = db.freelist();
        let free = db.number::<2>(freelist + 10);
        assert!(free > 1);
        db.set::<2>(freelist + 10, free - 1);
    }),
    ("is referred to twice", |db| db.set::<8>(db.freelist() + 16, db.number::<8>(db.freelist() + 24))),
    ("page 1 is referred to, but", |db| db.set::<8>(db.freelist() + 16, 1)),
    ("has a key of 17 bytes in bucket \"key\" that is no revision", |db| {
        let second = db.data(db.leaf(), 1);
        db.bytes[second + 8] = b'a';
    }),
    ("has a value in bucket \"key\" that is not encoded", |db| {
        let value = db.data(db.leaf(), 0) + 17;
        db.bytes[value + 1] = 0x7F;
    }),
    ("has a value in bucket \"key\" that is not encoded", |db| {
        let value = db.data(db.leaf(), 0) + 17;
        db.bytes[value] = 0x0B;
    }),
    ("has a number in bucket \"meta\" that is not encoded as one", |db| {
        let element = db.element_of(b"term");
        db.set::<4>(element + 12, 7);
    }),
    ("has a number in bucket \"meta\" that is not encoded as one", |db| {
        let element = db.element_of(b"scheduledCompactRev");
        db.set::<4>(element + 12, 16);
    }),
    ("has a key in bucket \"members\" that is no member id", |db| {
        let at = db.position(b"8e9e05c52164694d");
        db.bytes[at] = b'g';
    }),
];

#[test]
fn whatever_is_wrong_is_said_in_a_sentence() {
    for (sentence, damage) in [META, PAGES, BUCKETS].concat() {
        let mut db = Pages::new();
        damage(&mut db);
        match read(&db.bytes) {
            Ok(_) => panic!("nothing found wrong: {sentence}"),
            Err(error) => {
                assert!(error.to_string().contains(sentence), "{error} / {sentence}");
                assert_eq!(error.category(), "damaged");
            }
        }
    }
}

#[test]
fn one_whole_meta_page_is_enough() {
    let whole = read(&Pages::new().bytes).unwrap();
    let newer = usize::from(Pages::new().referred_by_second()) * 1024;
    let older = 1024 - newer;
    for field in [16, 20, 24, 60, 72] {
        let mut db = Pages::new();
        db.bytes[older + field] ^= 0x40;
        assert_eq!(read(&db.bytes).unwrap(), whole, "older meta page, byte {field}");
    }
    // With the first one damaged, the size of a page is found with the second.
    let mut db = Pages::new();
    db.bytes.copy_within(newer..newer + 80, older);
    db.set::<8>(older, u64::from(older > 0));
    db.bytes[16] ^= 1;
    assert_eq!(read(&db.bytes).unwrap(), whole);
}

/// A database of branches with one child each, and a leaf below them.
fn chain(branches: u64) -> Vec<u8> {
    let mut db = Pages { bytes: vec![0; usize::try_from(branches + 3).unwrap() * 512], size: 512 };
    for page in [0, 1] {
        let at = usize::try_from(page * 512).unwrap();
        db.set::<8>(at, page);
        db.set::<2>(at + 8, 4);
        for (field, number) in [(16, 0x2_ED0C_DAED), (24, 512), (32, 2), (48, u64::MAX), (56, branches + 3), (64, page)] {
            db.set::<8>(at + field, number);
        }
        let checksum = fnv1a(&db.bytes[at + 16..at + 72]);
        db.set::<8>(at + 72, checksum);
    }
    for page in 2..branches + 3 {
        let at = usize::try_from(page * 512).unwrap();
        let branch = page < branches + 2;
        db.set::<8>(at, page);
        db.set::<2>(at + 8, if branch { 1 } else { 2 });
        if branch {
            db.set::<2>(at + 10, 1);
            for (field, number) in [(16, 16), (20, 1), (24, page + 1)] {
                db.set::<8>(at + field, number);
            }
            db.bytes[at + 32] = b'a';
        }
    }
    db.bytes
}

#[test]
fn branches_below_branches_end_somewhere() {
    assert_eq!(read(&chain(16)).unwrap().total_keys, 0);
    assert!(read(&chain(17)).unwrap_err().to_string().contains("lies deeper than 16 levels"));
}

/// Reads it, and sees that it took no more reading than a few times its size.
fn read_in_bounds(bytes: &[u8]) -> Result<Facts, Error> {
    let counting = Slow::new(bytes);
    let result = inspect(&counting, bytes.len() as u64);
    assert!(counting.read.get() < bytes.len() as u64 * 8 + (1 << 20), "{} of {}", counting.read.get(), bytes.len());
    result
}

/// The corpus of the fuzzer: what it found worth keeping, damaged and whole.
#[test]
fn nothing_in_the_fuzzers_corpus_makes_it_fail_otherwise() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/inspect");
    let (mut whole, mut damaged) = (0, 0);
    for file in std::fs::read_dir(folder).unwrap() {
        match read_in_bounds(&std::fs::read(file.unwrap().path()).unwrap()) {
            Ok(_) => whole += 1,
            Err(_) => damaged += 1,
        }
    }
    assert!(whole > 2 && damaged > 10, "{whole} whole, {damaged} damaged");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn flipped_bits_do_no_harm(which in 0..NAMES.len(), bits in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u8), 1..20)) {
        let mut bytes = database(NAMES[which]);
        for (at, bit) in bits {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        let _ = read_in_bounds(&bytes);
    }

    #[test]
    fn smashed_headers_do_no_harm(which in 0..NAMES.len(), smashed in prop::collection::vec((any::<prop::sample::Index>(), 0..48_usize, any::<[u8; 8]>()), 1..6)) {
        let mut bytes = database(NAMES[which]);
        for (page, at, smash) in smashed {
            let page = page.index(bytes.len() / 1024) * 1024;
            bytes[page + at..page + at + 8].copy_from_slice(&smash);
        }
        let _ = read_in_bounds(&bytes);
    }

    #[test]
    fn small_numbers_in_the_wrong_place_do_no_harm(numbers in prop::collection::vec((any::<prop::sample::Index>(), 0..80_u64), 1..30)) {
        // References and lengths that might be right are worse than random ones.
        let mut db = Pages::new();
        for (at, number) in numbers {
            let at = at.index(db.bytes.len() / 4 - 1) * 4;
            db.set::<4>(at, number);
        }
        db.meta::<4>(20, 2);
        let _ = read_in_bounds(&db.bytes);
    }

    #[test]
    fn cut_off_anywhere_is_damage(which in 0..NAMES.len(), at in any::<prop::sample::Index>()) {
        let bytes = database(NAMES[which]);
        let cut = &bytes[..at.index(bytes.len())];
        prop_assert_eq!(read_in_bounds(cut).unwrap_err().category(), "damaged");
    }

    #[test]
    fn any_bytes_at_all_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
        prop_assert!(read_in_bounds(&bytes).is_err());
    }
}
