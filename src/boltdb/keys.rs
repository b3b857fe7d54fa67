//! A table of keys by their fingerprint, with a number for each, in little memory.
//!
//! A key is known by 64 bits of a keyed hash, so two of 10⁷ keys are taken for one with a probability of 3·10⁻⁶. The
//! hash's own key is chosen anew each time, so nobody can choose keys that are.

use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};

/// Shards grow one at a time, so that the copy made meanwhile is small.
const SHARDS: usize = 64;
/// Slots of the smallest shard to begin with.
const FEWEST: usize = 64;

/// The number of a key that was not seen before.
pub const NEW: u32 = u32::MAX;

/// 12 bytes a slot, about 16 bytes a key.
pub struct Keys {
    shards: Vec<Shard>,
    state: RandomState,
}

/// What stands for a key; never 0.
#[derive(Debug, Clone, Copy)]
pub struct Fingerprint(u64);

impl From<DefaultHasher> for Fingerprint {
    fn from(hasher: DefaultHasher) -> Self {
        Self(hasher.finish().max(1))
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
    pub fn number(&mut self, Fingerprint(fingerprint): Fingerprint) -> &mut u32 {
        let shards = self.shards.len() as u64;
        let shard = usize::try_from((fingerprint >> 32) % shards).unwrap_or(0);
        self.shards[shard].number(fingerprint)
    }

    /// The numbers of all keys.
    pub fn numbers(&mut self) -> impl Iterator<Item = &mut u32> {
        self.shards.iter_mut().flat_map(|shard| &mut shard.numbers)
    }
}

/// A table with linear probing, filled to 7/8 at most.
struct Shard {
    fingerprints: Vec<u64>,
    numbers: Vec<u32>,
    used: usize,
}

impl Shard {
    fn new(slots: usize) -> Self {
        Self { fingerprints: vec![0; slots], numbers: vec![NEW; slots], used: 0 }
    }

    fn number(&mut self, fingerprint: u64) -> &mut u32 {
        let mut slot = self.slot(fingerprint);
        if self.fingerprints[slot] == 0 {
            if self.used >= self.fingerprints.len() / 8 * 7 {
                self.grow();
                slot = self.slot(fingerprint);
            }
            self.fingerprints[slot] = fingerprint;
            self.used += 1;
        }
        &mut self.numbers[slot]
    }

    /// Where it is, or where it belongs. There is always a free slot.
    fn slot(&self, fingerprint: u64) -> usize {
        let slots = self.fingerprints.len();
        let mut slot = usize::try_from((fingerprint & 0xFFFF_FFFF) * slots as u64 >> 32).unwrap_or(0);
        while self.fingerprints[slot] != 0 && self.fingerprints[slot] != fingerprint {
            slot = if slot + 1 < slots { slot + 1 } else { 0 };
        }
        slot
    }

    fn grow(&mut self) {
        let slots = self.fingerprints.len();
        let mut larger = Self::new(slots + slots / 4 + 8);
        for (fingerprint, number) in self.fingerprints.iter().zip(&self.numbers).filter(|(fingerprint, _)| **fingerprint != 0) {
            *larger.number(*fingerprint) = *number;
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
    fn it_takes_sixteen_bytes_a_key_whatever_their_number() {
        for count in [100_000_u32, 130_000, 170_000, 220_000] {
            let mut keys = Keys::new();
            for key in 0..count {
                let fingerprint = fingerprint(&keys, &key.to_le_bytes());
                *keys.number(fingerprint) = key;
            }
            let slots: usize = keys.shards.iter().map(|shard| shard.fingerprints.capacity()).sum();
            assert!(slots * 12 < count as usize * 16, "{count} keys in {slots} slots");
        }
    }

    proptest! {
        #[test]
        fn it_is_a_map(pairs in prop::collection::vec((0..500_u64, 0..NEW), 0..2000)) {
            let (mut keys, mut map) = (Keys::new(), HashMap::new());
            for (key, number) in pairs {
                // The same low and high bits: one shard, neighbouring slots.
                let fingerprint = Fingerprint(1 + (key << 20 | key << 8));
                let before = std::mem::replace(keys.number(fingerprint), number);
                prop_assert_eq!(before, map.insert(key, number).unwrap_or(NEW));
            }
        }
    }
}
