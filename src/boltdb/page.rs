//! The layout of a page: a header, an array of elements, then their keys and values in the same order.

use super::error::Fault;

/// Flags of a page whose elements lead to other pages.
pub const BRANCH: u16 = 0x01;
/// Flags of a page whose elements are keys with values.
pub const LEAF: u16 = 0x02;
/// Flags of a meta page.
pub const META: u16 = 0x04;
/// Flags of the list of free pages.
pub const FREELIST: u16 = 0x10;
/// Bytes of a page's header.
pub const HEADER: u64 = 16;
/// Bytes of an element, in a branch and in a leaf.
pub const ELEMENT: u64 = 16;
/// The longest key that bbolt takes.
pub const MAX_KEY: u32 = 32768;
/// The longest value that bbolt takes.
pub const MAX_VALUE: u32 = (1 << 31) - 2;
/// Flag of a leaf's element whose value is a bucket.
const BUCKET: u32 = 0x01;

/// The beginning of every page.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    /// The number of the page itself.
    pub id: u64,
    /// What kind of page it is.
    pub flags: u16,
    /// How many elements it has.
    pub count: u16,
    /// How many pages more belong to it.
    pub overflow: u32,
}

impl Header {
    /// Takes a header apart.
    pub fn parse(bytes: &[u8; 16]) -> Self {
        let [low, high, kind, overflow] = words(bytes);
        let [flags, count] = [kind & 0xFFFF, kind >> 16].map(|half| u16::try_from(half).unwrap_or(0));
        Self { id: join(low, high), flags, count, overflow }
    }
}

/// An element of a leaf, with its key and value found to be inside the page.
#[derive(Debug, Clone, Copy)]
pub struct LeafElement {
    /// Where the key begins, from the beginning of the page; the value follows it.
    pub at: u64,
    /// Bytes of the key: 1 to [`MAX_KEY`].
    pub key: usize,
    /// Bytes of the value.
    pub value: u32,
    /// Whether the value is a bucket.
    pub bucket: bool,
}

/// An element of a branch, with its key found to be inside the page.
#[derive(Debug, Clone, Copy)]
pub struct BranchElement {
    /// Where the key begins, from the beginning of the page.
    pub at: u64,
    /// Bytes of the key: 1 to [`MAX_KEY`].
    pub key: usize,
    /// The page it leads to.
    pub child: u64,
}

/// Goes through the elements of one page, and sees that no two share a byte. (bbolt writes their keys and values in
/// their order. Elements over one another would let a small file hold endless content.)
pub struct Layout {
    end: u64,
    free_from: u64,
    index: u64,
}

impl Layout {
    /// Of a page of `length` bytes, header and overflow included.
    pub fn new(count: u16, length: u64) -> Result<Self, Fault> {
        let free_from = HEADER + ELEMENT * u64::from(count);
        if free_from > length {
            return Err(Fault::Elements(count));
        }
        Ok(Self { end: length, free_from, index: 0 })
    }

    /// The next element of a leaf.
    pub fn leaf(&mut self, bytes: &[u8; 16]) -> Result<LeafElement, Fault> {
        let [flags, position, key, value] = words(bytes);
        if flags & !BUCKET != 0 {
            return Err(Fault::ElementFlags(self.index, flags));
        }
        if value > MAX_VALUE {
            return Err(Fault::ValueSize(self.index, value));
        }
        let (at, key) = self.place(position, key, value)?;
        Ok(LeafElement { at, key, value, bucket: flags == BUCKET })
    }

    /// The next element of a branch.
    pub fn branch(&mut self, bytes: &[u8; 16]) -> Result<BranchElement, Fault> {
        let [position, key, low, high] = words(bytes);
        let (at, key) = self.place(position, key, 0)?;
        Ok(BranchElement { at, key, child: join(low, high) })
    }

    /// `position` counts from the element itself.
    fn place(&mut self, position: u32, key: u32, value: u32) -> Result<(u64, usize), Fault> {
        let index = self.index;
        if key == 0 || key > MAX_KEY {
            return Err(Fault::KeySize(index, key));
        }
        let at = HEADER + ELEMENT * index + u64::from(position);
        let end = at + u64::from(key) + u64::from(value);
        if at < self.free_from {
            return Err(Fault::Overlap(index));
        }
        if end > self.end {
            return Err(Fault::Beyond(index));
        }
        (self.free_from, self.index) = (end, index + 1);
        Ok((at, usize::try_from(key).map_err(|_| Fault::KeySize(index, key))?))
    }
}

fn words(bytes: &[u8; 16]) -> [u32; 4] {
    let all = u128::from_le_bytes(*bytes);
    [0, 32, 64, 96].map(|shift| u32::try_from(all >> shift & u128::from(u32::MAX)).unwrap_or(0))
}

fn join(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}
