//! CRC-32C of content that is put together from parts.
//!
//! A CRC is linear, so that of `a` followed by `b` follows from both CRCs and the length of `b`. That is how content is
//! hashed once and used in two sums, and how a sum is made of parts of which it turns out only later which belong to it.

use crc_fast::{CrcAlgorithm, Digest, crc32_iscsi};

/// Bytes up to which content is hashed again rather than combined: it is faster.
pub const SMALL: usize = 4096;

/// CRC-32C and length of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum {
    /// The CRC-32C; 0 for no bytes.
    pub crc: u32,
    /// How many bytes.
    pub length: u64,
}

impl Sum {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self { crc: crc32_iscsi(bytes), length: bytes.len() as u64 }
    }

    /// Followed by these bytes.
    pub fn extend(&mut self, bytes: &[u8]) {
        *self = self.then(Self::of(bytes));
    }

    /// Followed by those bytes.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        Self { crc: multiply(power(next.length), self.crc) ^ next.crc, length: self.length.saturating_add(next.length) }
    }
}

/// Content to be hashed.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// At most [`SMALL`] bytes.
    Small(&'a [u8]),
    /// What was too much to be held.
    Large(Sum),
}

impl Content<'_> {
    /// Its sum.
    pub fn sum(&self) -> Sum {
        match self {
            Self::Small(bytes) => Sum::of(bytes),
            Self::Large(sum) => *sum,
        }
    }
}

/// A sum that many parts are added to.
#[derive(Debug, Clone)]
pub struct Running {
    before: Sum,
    digest: Digest,
    length: u64,
}

impl Running {
    /// Of these bytes, to begin with.
    pub fn new(bytes: &[u8]) -> Self {
        let mut running = Self { before: Sum::default(), digest: Digest::new(CrcAlgorithm::Crc32Iscsi), length: 0 };
        running.add(Content::Small(bytes));
        running
    }

    /// Followed by this content.
    pub fn add(&mut self, content: Content<'_>) {
        match content {
            Content::Small(bytes) => {
                self.digest.update(bytes);
                self.length += bytes.len() as u64;
            }
            Content::Large(sum) => {
                self.before = self.sum().then(sum);
                self.digest.reset();
                self.length = 0;
            }
        }
    }

    /// Of all that was added.
    pub fn sum(&self) -> Sum {
        let crc = u32::try_from(self.digest.finalize() & 0xFFFF_FFFF).unwrap_or(0);
        self.before.then(Sum { crc, length: self.length })
    }
}

/// The polynomial of CRC-32C, lowest power in the highest bit.
const POLYNOMIAL: u32 = 0x82F6_3B78;
/// 1 in this representation.
const ONE: u32 = 1 << 31;

/// The product of two polynomials modulo the CRC's.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 32;
    while bit > 0 {
        bit -= 1;
        product ^= b & (a >> bit & 1).wrapping_neg();
        b = b >> 1 ^ POLYNOMIAL & (b & 1).wrapping_neg();
    }
    product
}

/// x to the power of 8·2ⁿ, for all n.
const SQUARES: [u32; 64] = {
    let mut squares = [ONE >> 8; 64];
    let mut n = 1;
    while n < 64 {
        squares[n] = multiply(squares[n - 1], squares[n - 1]);
        n += 1;
    }
    squares
};

/// x to the power of 8·n, for n below 256.
const LOW: [u32; 256] = {
    let mut powers = [ONE; 256];
    let mut n = 1;
    while n < 256 {
        powers[n] = multiply(powers[n - 1], ONE >> 8);
        n += 1;
    }
    powers
};

/// x to the power of 8·256·n, for n below 256.
const HIGH: [u32; 256] = {
    let mut powers = [ONE; 256];
    let mut n = 1;
    while n < 256 {
        powers[n] = multiply(powers[n - 1], SQUARES[8]);
        n += 1;
    }
    powers
};

/// x to the power of 8·`length`: what so many bytes behind it do to a CRC.
fn power(length: u64) -> u32 {
    let [low, high, rest @ ..] = length.to_le_bytes();
    let mut power = LOW[usize::from(low)];
    if high > 0 {
        power = multiply(power, HIGH[usize::from(high)]);
    }
    if rest != [0; 6] {
        let set = SQUARES.iter().enumerate().skip(16).filter(|(bit, _)| length >> bit & 1 == 1);
        power = set.fold(power, |power, (_, square)| multiply(power, *square));
    }
    power
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_published_check_value() {
        assert_eq!(Sum::of(b"123456789").crc, 0xE306_9283);
        assert_eq!(Sum::of(b"12345").then(Sum::of(b"6789")).crc, 0xE306_9283);
    }

    #[test]
    fn a_sum_of_parts_is_the_sum_of_the_whole_whatever_their_lengths() {
        let bytes: Vec<u8> = (0..300_000_u32).map(|i| (i * 31 % 251).to_le_bytes()[0]).collect();
        for at in [0, 1, 255, 256, 257, 4096, 65535, 65536, 65537, 299_999, 300_000] {
            assert_eq!(Sum::of(&bytes[..at]).then(Sum::of(&bytes[at..])), Sum::of(&bytes), "{at}");
        }
    }

    proptest! {
        #[test]
        fn however_content_is_added_the_sum_is_that_of_all_of_it(parts in prop::collection::vec((any::<Vec<u8>>(), any::<bool>()), 0..20)) {
            let mut running = Running::new(b"key");
            let mut all = b"key".to_vec();
            for (bytes, large) in &parts {
                running.add(if *large { Content::Large(Sum::of(bytes)) } else { Content::Small(bytes) });
                all.extend_from_slice(bytes);
            }
            prop_assert_eq!(running.sum(), Sum::of(&all));
        }
    }
}
