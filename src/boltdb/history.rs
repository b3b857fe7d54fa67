//! Bucket `key`: every revision of every key, oldest first; and the three things etcd makes of it.
//!
//! * `revision`: the last one.
//! * live keys: those whose last revision is no tombstone, as `etcdutl snapshot status` of 3.6 counts keys.
//! * `hash-kv`: a CRC-32C of the bucket's name and of revisions with their values. Of those up to the compacted revision
//!   it takes only the last one of each living key: the others may or may not have been deleted yet. A tombstone at the
//!   compacted revision never counts: etcd up to 3.4.33 and 3.5.15 deletes it, later ones keep it. Without any living
//!   key etcd skips no other one either.
//!
//! In one pass it is not known whether an old revision is its key's last one. So the sums of those that are so far are kept
//! one by one, and put together in the end.

use std::hash::Hasher;

use super::crc::{Running, Sum};
use super::error::{Error, Fault};
use super::key_value::user_key;
use super::keys::{Fingerprint, Keys, NEW};
use super::read::ReadAt;
use super::tree::Entry;

/// Number of a key whose last revision is a tombstone.
const DELETED: u32 = NEW - 1;
/// Number of a key whose last revision is after the compacted one.
const RECENT: u32 = NEW - 2;
/// Bytes of a key hashed at a time.
const PIECE: u64 = 64 * 1024;
/// Sums of one block; the blocks are never moved.
const BLOCK: usize = 8192;
/// Revisions that wait to be entered into the table together.
const PENDING: usize = 32;
/// Old revisions that turned out not to be the last ones are forgotten when there are so many.
const MANY: usize = 65536;

/// A revision, as bucket `key` and bucket `meta` write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revision {
    /// The revision of the whole store.
    pub main: i64,
    /// Whether the key was deleted by it.
    pub tombstone: bool,
}

impl Revision {
    /// Eight bytes, `_`, eight bytes; then `t` for a tombstone.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (revision, mark) = bytes.split_first_chunk::<17>()?;
        let [main @ .., b'_', _, _, _, _, _, _, _, _] = *revision else { return None };
        let main = i64::from_be_bytes(main);
        let tombstone = match mark {
            [] => false,
            [b't'] => true,
            _ => return None,
        };
        (main >= 0 && revision[9] < 0x80).then_some(Self { main, tombstone })
    }
}

/// What was made of it.
pub struct End {
    /// The last revision; 0 if there is none.
    pub revision: i64,
    /// Keys that are there at the last revision.
    pub live_keys: u64,
    /// The CRC-32C as `HashKV` and `etcdutl hashkv` have it.
    pub hash_kv: u32,
}

/// What was learnt so far.
pub struct History {
    compacted: i64,
    last: i64,
    keys: Keys,
    kept: Kept,
    live: u64,
    before: Running,
    after: Running,
    pending: Vec<(Fingerprint, u32)>,
}

impl History {
    /// Of a store that was compacted up to this revision; −1 if never.
    pub fn new(compacted: i64) -> Self {
        let name = Running::new(b"key");
        let (before, after) = (name, Running::new(b""));
        Self { compacted, last: 0, keys: Keys::new(), kept: Kept::default(), live: 0, before, after, pending: Vec::with_capacity(PENDING) }
    }

    /// The next revision; its content is also added to `bucket`.
    pub fn add<R: ReadAt + ?Sized>(&mut self, entry: &mut Entry<'_, '_, R>, bucket: &mut Running) -> Result<(), Error> {
        let page = entry.page;
        if entry.bucket {
            return Err(Fault::KeyValue.at(page));
        }
        let revision = Revision::parse(entry.key).ok_or(Fault::Revision(entry.key.len()).at(page))?;
        self.last = revision.main;
        let fingerprint = self.fingerprint(entry)?;
        let content = entry.content()?;
        bucket.add(content);
        let number = if revision.tombstone {
            DELETED
        } else if revision.main > self.compacted {
            RECENT
        } else {
            self.kept.push(content.sum()).ok_or(Fault::ManyKeys.at(page))?
        };
        if revision.main > self.compacted {
            self.after.add(content);
        } else if !revision.tombstone || revision.main != self.compacted {
            self.before.add(content);
        }
        self.pending.push((fingerprint, number));
        if self.pending.len() == PENDING {
            self.settle();
        }
        Ok(())
    }

    /// Enters the pending revisions into the table.
    fn settle(&mut self) {
        self.keys.touch(self.pending.iter().map(|(fingerprint, _)| *fingerprint));
        for (fingerprint, number) in self.pending.drain(..) {
            let before = std::mem::replace(self.keys.number(fingerprint), number);
            self.live += u64::from(number != DELETED);
            self.live -= u64::from(before != DELETED && before != NEW);
            if before < RECENT {
                self.kept.forget(before);
            }
        }
        self.kept.close_gaps(&mut self.keys);
    }

    /// What all revisions together show.
    pub fn end(mut self) -> End {
        self.settle();
        let old = if self.live == 0 { self.before.sum() } else { self.kept.sums().fold(Sum::of(b"key"), Sum::then) };
        End { revision: self.last, live_keys: self.live, hash_kv: old.then(self.after.sum()).crc }
    }

    fn fingerprint<R: ReadAt + ?Sized>(&self, entry: &mut Entry<'_, '_, R>) -> Result<Fingerprint, Error> {
        let (mut at, mut rest) = user_key(entry)?;
        let mut hasher = self.keys.hasher();
        loop {
            let piece = rest.min(PIECE);
            hasher.write(entry.value(at, piece)?.unwrap_or_default());
            (at, rest) = (at + piece, rest - piece);
            if rest == 0 {
                return Ok(hasher.into());
            }
        }
    }
}

/// The sums of old revisions in their order: CRC and length, or length 0 for one that is not its key's last.
#[derive(Default)]
struct Kept {
    blocks: Vec<Vec<(u32, u32)>>,
    length: usize,
    forgotten: usize,
}

impl Kept {
    /// Its number; None when there are no more numbers.
    fn push(&mut self, sum: Sum) -> Option<u32> {
        let number = u32::try_from(self.length).ok().filter(|number| *number < RECENT)?;
        if self.length.is_multiple_of(BLOCK) {
            self.blocks.push(Vec::with_capacity(BLOCK));
        }
        self.blocks.last_mut()?.push((sum.crc, u32::try_from(sum.length).ok()?));
        self.length += 1;
        Some(number)
    }

    fn get(&mut self, index: usize) -> Option<&mut (u32, u32)> {
        self.blocks.get_mut(index / BLOCK)?.get_mut(index % BLOCK)
    }

    fn sums(&self) -> impl Iterator<Item = Sum> {
        let kept = self.blocks.iter().flatten().filter(|(_, length)| *length > 0);
        kept.map(|(crc, length)| Sum { crc: *crc, length: u64::from(*length) })
    }

    fn forget(&mut self, number: u32) {
        if let Some(sum) = usize::try_from(number).ok().and_then(|number| self.get(number)) {
            *sum = (0, 0);
            self.forgotten += 1;
        }
    }

    /// When many are forgotten, closes the gaps, which gives the `keys` new numbers. No other number may be around.
    fn close_gaps(&mut self, keys: &mut Keys) {
        if self.forgotten < MANY || self.forgotten < self.length / 8 {
            return;
        }
        // For each 64 numbers which of them are kept, and how many are before them.
        let mut kept: Vec<(u64, u32)> = Vec::with_capacity(self.length / 64 + 1);
        let mut before = 0;
        for sums in self.blocks.iter().flat_map(|block| block.chunks(64)) {
            let bits = sums.iter().rev().fold(0, |bits, (_, length)| bits << 1 | u64::from(*length > 0));
            kept.push((bits, before));
            before += bits.count_ones();
        }
        for number in keys.numbers().filter(|number| **number < RECENT) {
            let Some((bits, before)) = usize::try_from(*number / 64).ok().and_then(|index| kept.get(index)) else { continue };
            *number = before + (bits & !(u64::MAX << (*number % 64))).count_ones();
        }
        let mut to = 0;
        for from in 0..self.length {
            let Some(sum) = self.get(from).copied().filter(|(_, length)| *length > 0) else { continue };
            if let Some(free) = self.get(to) {
                *free = sum;
                to += 1;
            }
        }
        self.blocks.truncate(to.div_ceil(BLOCK));
        if let Some(last) = self.blocks.last_mut().filter(|_| !to.is_multiple_of(BLOCK)) {
            last.truncate(to % BLOCK);
        }
        (self.length, self.forgotten) = (to, 0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_revision_is_two_numbers_and_a_mark() {
        let bytes = |main: i64, mark: &[u8]| [&main.to_be_bytes()[..], b"_", &[0; 8], mark].concat();
        let parse = |bytes: &[u8]| Revision::parse(bytes).map(|revision| (revision.main, revision.tombstone));
        assert_eq!(parse(&bytes(7, b"")), Some((7, false)));
        assert_eq!(parse(&bytes(i64::MAX, b"t")), Some((i64::MAX, true)));
        for wrong in [bytes(7, b"x"), bytes(7, b"tt"), bytes(-1, b""), bytes(7, b"")[..16].to_vec(), vec![b'_'; 16], vec![1; 17], vec![]] {
            assert_eq!(parse(&wrong), None, "{wrong:?}");
        }
    }

    fn fingerprint(keys: &Keys, key: u32) -> Fingerprint {
        let mut hasher = keys.hasher();
        hasher.write_u32(key);
        hasher.into()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn closing_gaps_keeps_order_and_numbers(writes in prop::collection::vec(0..30_u32, 1..300), last in 1..300_usize) {
            // Every key is written over and over, so nearly all of many sums are forgotten.
            let (mut kept, mut keys) = (Kept::default(), Keys::new());
            let mut order = Vec::new();
            let many = writes.iter().cycle().take(MANY + last * 8);
            for (crc, key) in (0..).zip(many) {
                let number = kept.push(Sum { crc, length: 17 }).unwrap();
                let fingerprint = fingerprint(&keys, *key);
                let before = std::mem::replace(keys.number(fingerprint), number);
                order.retain(|(of, _)| of != key);
                order.push((*key, crc));
                if before != NEW {
                    kept.forget(before);
                }
                kept.close_gaps(&mut keys);
            }
            prop_assert_eq!(kept.sums().map(|sum| sum.crc).collect::<Vec<_>>(), order.iter().map(|(_, crc)| *crc).collect::<Vec<_>>());
            prop_assert!(kept.length < MANY + 400);
            for (key, crc) in order {
                let fingerprint = fingerprint(&keys, key);
                let number = *keys.number(fingerprint);
                prop_assert_eq!(kept.get(usize::try_from(number).unwrap()).copied(), Some((crc, 17)));
            }
        }
    }
}
