//! A table of keys by their fingerprint, with a number for each, in little memory.
//!
//! A key is known by 64 bits of a keyed hash, so two of 10⁷ keys are taken for one with a probability of 3·10⁻⁶. The
//! hash's own key is chosen anew each time, so nobody can choose keys that are.

use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};

/// Shards grow one at a time, so that the copy made meanwhile is small.
const SHARDS: usize = 64;
/// Slots of the smallest shard to begin with.
const FEWEST: usize = 64;
/// Slots of each shard that no fingerprint belongs to.
const SPARE: usize = 32;

/// The number of a key that was not seen before.
pub const NEW: u32 = u32::MAX;

/// 12 bytes a slot, about 16 bytes a key.
pub struct Keys {
    shards: Vec<Shard>,
    state: RandomState,
}

/// What stands for a key; in two halves, because a slot of 12 bytes can be aligned to no more than four.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint {
    high: u32,
    low: u32,
}

/// The fingerprint of a free slot, and of no key.
const FREE: Fingerprint = Fingerprint { high: 0, low: 0 };

impl From<DefaultHasher> for Fingerprint {
    fn from(hasher: DefaultHasher) -> Self {
        let hash = hasher.finish().max(1);
        let half = |half: u64| u32::try_from(half & u64::from(u32::MAX)).unwrap_or(0);
        Self { high: half(hash >> 32), low: half(hash) }
    }
}

impl Keys {
    /// Without any key.
    pub fn new() -> Self {
        // All shards fill alike. Beginning with different sizes they grow one after the other, not all at once.
        let shards = (0..SHARDS).map(|shard| Shard::new(FEWEST + FEWEST * shard / SHARDS / 4)).collect();
        Self { shards, state: RandomState::new() }
    }

    /// To make a fingerprint with; the same key has to come in the same pieces.
    pub fn hasher(&self) -> DefaultHasher {
        self.state.build_hasher()
    }

    /// The number of a key, [`NEW`] at first.
    pub fn number(&mut self, fingerprint: Fingerprint) -> &mut u32 {
        self.shards[shard(fingerprint)].number(fingerprint)
    }

    /// Reads where these keys belong. That brings all of it into the processor's cache in the time of one; asking for
    /// them one by one would wait for memory each time, and do little else in a large table.
    pub fn touch(&self, fingerprints: impl Iterator<Item = Fingerprint>) {
        let homes = fingerprints.map(|fingerprint| {
            let shard = &self.shards[shard(fingerprint)];
            shard.slots[shard.home(fingerprint)].number
        });
        std::hint::black_box(homes.fold(0, u32::wrapping_add));
    }

    /// The numbers of all keys.
    pub fn numbers(&mut self) -> impl Iterator<Item = &mut u32> {
        self.shards.iter_mut().flat_map(|shard| &mut shard.slots).map(|slot| &mut slot.number)
    }
}

/// The low half chooses the shard, the high half the slot in it.
fn shard(fingerprint: Fingerprint) -> usize {
    usize::try_from(fingerprint.low).unwrap_or(0) % SHARDS
}

/// A table with linear probing, its fingerprints ascending, filled to 7/8 at most. Their order makes the search for what
/// is not there as short as for what is.
struct Shard {
    slots: Vec<Slot>,
    used: usize,
}

#[derive(Clone, Copy)]
struct Slot {
    fingerprint: Fingerprint,
    number: u32,
}

impl Shard {
    fn new(homes: usize) -> Self {
        Self { slots: vec![Slot { fingerprint: FREE, number: NEW }; homes + SPARE], used: 0 }
    }

    /// Slots that a fingerprint may belong to; behind them are some more for those that find theirs taken.
    fn homes(&self) -> usize {
        self.slots.len() - SPARE
    }

    fn home(&self, fingerprint: Fingerprint) -> usize {
        usize::try_from((u64::from(fingerprint.high) * self.homes() as u64) >> 32).unwrap_or(0)
    }

    fn number(&mut self, fingerprint: Fingerprint) -> &mut u32 {
        let slot = loop {
            let slot = self.search(fingerprint);
            if self.slots.get(slot).is_some_and(|slot| slot.fingerprint == fingerprint) || self.make_room(slot, fingerprint) {
                break slot;
            }
            self.grow();
        };
        &mut self.slots[slot].number
    }

    /// Where it is, or where it belongs; the end if there is no slot left.
    fn search(&self, fingerprint: Fingerprint) -> usize {
        let home = self.home(fingerprint);
        let before = self.slots[home..].iter().take_while(|slot| slot.fingerprint != FREE && slot.fingerprint < fingerprint);
        home + before.count()
    }

    /// Puts it there and moves those behind it by one slot. False if there is no room for that.
    fn make_room(&mut self, slot: usize, fingerprint: Fingerprint) -> bool {
        let free = self.slots[slot..].iter().position(|slot| slot.fingerprint == FREE);
        let Some(free) = free.filter(|_| self.used < self.homes() / 8 * 7) else { return false };
        self.slots.copy_within(slot..slot + free, slot + 1);
        self.slots[slot] = Slot { fingerprint, number: NEW };
        self.used += 1;
        true
    }

    fn grow(&mut self) {
        let homes = self.homes();
        let mut larger = Self::new(homes + homes / 4 + 8);
        for slot in self.slots.iter().filter(|slot| slot.fingerprint != FREE) {
            *larger.number(slot.fingerprint) = slot.number;
        }
        *self = larger;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn fingerprint(keys: &Keys, key: &[u8]) -> Fingerprint {
        let mut hasher = keys.hasher();
        hasher.write(key);
        hasher.into()
    }

    #[test]
    fn every_key_keeps_its_number_while_the_table_grows() {
        let mut keys = Keys::new();
        for key in 0..50_000_u32 {
            let fingerprint = fingerprint(&keys, &key.to_le_bytes());
            assert_eq!(std::mem::replace(keys.number(fingerprint), key), NEW);
        }
        for key in 0..50_000_u32 {
            let fingerprint = fingerprint(&keys, &key.to_le_bytes());
            assert_eq!(*keys.number(fingerprint), key);
        }
        assert_eq!(keys.numbers().filter(|number| **number != NEW).count(), 50_000);
    }

    #[test]
    fn it_takes_about_sixteen_bytes_a_key_whatever_their_number() {
        for count in [100_000_u32, 130_000, 170_000, 220_000] {
            let mut keys = Keys::new();
            for key in 0..count {
                let fingerprint = fingerprint(&keys, &key.to_le_bytes());
                *keys.number(fingerprint) = key;
            }
            let slots: usize = keys.shards.iter().map(|shard| shard.slots.capacity()).sum();
            assert!(slots * 24 < count as usize * 33, "{count} keys in {slots} slots");
        }
    }

    proptest! {
        #[test]
        fn it_is_a_map(pairs in prop::collection::vec((0..3200_u32, 0..NEW), 0..2000)) {
            let (mut keys, mut map) = (Keys::new(), HashMap::new());
            for (key, number) in pairs {
                // All in one shard, in a few clusters, up to its end.
                let fingerprint = Fingerprint { high: (key / 50) << 26, low: 64 * (1 + key) };
                let before = std::mem::replace(keys.number(fingerprint), number);
                prop_assert_eq!(before, map.insert(key, number).unwrap_or(NEW));
            }
        }
    }
}
