//! The two meta pages: where the tree begins, and how many pages there are.

use super::error::{Error, MetaFault};
use super::page::{Header, META};
use super::read::{ReadAt, Window};

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
/// Header, meta and its checksum.
const BYTES: usize = 16 + 64;
/// Page sizes that can be: an operating system's.
const PAGE_SIZES: std::ops::RangeInclusive<u32> = 512..=65536;

/// What one meta page says.
#[derive(Debug, Clone, Copy)]
pub struct Meta {
    /// The page it is on.
    pub page: u64,
    /// Bytes of a page.
    pub page_size: u64,
    /// The page at which the tree of buckets begins.
    pub root: u64,
    /// The page with the list of free pages; None where bbolt was told not to keep it, as etcd does.
    pub freelist: Option<u64>,
    /// How many pages there are; what lies behind them was never used.
    pub high_water: u64,
    txid: u64,
}

/// Reads both and takes the one of the later transaction. What is true of only one of them does not matter: bbolt writes
/// them in turn, so that one is whole whenever the other is being written.
pub fn read<R: ReadAt + ?Sized>(window: &mut Window<'_, R>) -> Result<Meta, Error> {
    let first = one(window, 0, 0)?;
    let second = if let Ok(first) = &first {
        let second = one(window, 1, first.page_size)?;
        second.and_then(|second| same_page_size(first, second))
    } else {
        // Only from the second one can be told where it is. What is not one there says less than what nearly is.
        let mut found = Err(MetaFault::Magic);
        let sizes = std::iter::successors(Some(*PAGE_SIZES.start()), |size| size.checked_mul(2));
        for size in sizes.take_while(|size| PAGE_SIZES.contains(size)).map(u64::from) {
            match one(window, 1, size)? {
                Ok(meta) if meta.page_size == size => found = Ok(meta),
                Ok(_) | Err(MetaFault::Magic | MetaFault::Short) => {}
                Err(fault) => found = found.or(Err(fault)),
            }
        }
        found
    };
    match (first, second) {
        (Ok(first), Ok(second)) => Ok(if second.txid > first.txid { second } else { first }),
        (Ok(meta), Err(_)) | (Err(_), Ok(meta)) => Ok(meta),
        (Err(first), Err(second)) => Err(Error::NoMeta { first, second }),
    }
}

fn same_page_size(first: &Meta, second: Meta) -> Result<Meta, MetaFault> {
    if first.page_size == second.page_size {
        Ok(second)
    } else {
        Err(MetaFault::PageSize(u32::try_from(second.page_size).unwrap_or(u32::MAX)))
    }
}

fn one<R: ReadAt + ?Sized>(window: &mut Window<'_, R>, page: u64, at: u64) -> Result<Result<Meta, MetaFault>, Error> {
    if at + BYTES as u64 > window.length() {
        return Ok(Err(MetaFault::Short));
    }
    let bytes = window.get(at, BYTES, BYTES as u64)?;
    Ok(bytes.first_chunk().map_or(Err(MetaFault::Short), |bytes| parse(bytes, page)))
}

fn parse(bytes: &[u8; BYTES], page: u64) -> Result<Meta, MetaFault> {
    let (words, _) = bytes.as_chunks::<8>();
    let word = |index: usize| words.get(index).map_or(0, |word| u64::from_le_bytes(*word));
    let low = |index: usize| u32::try_from(word(index) & 0xFFFF_FFFF).unwrap_or(0);
    let high = |index: usize| u32::try_from(word(index) >> 32).unwrap_or(0);
    if low(2) != MAGIC {
        return Err(MetaFault::Magic);
    }
    if high(2) != VERSION {
        return Err(MetaFault::Version(high(2)));
    }
    if fnv1a(&bytes[16..BYTES - 8]) != word(9) {
        return Err(MetaFault::Checksum);
    }
    let header = bytes.first_chunk().map(Header::parse);
    if header.is_none_or(|header| header.id != page || header.flags != META) {
        return Err(MetaFault::Header);
    }
    let page_size = low(3);
    if !PAGE_SIZES.contains(&page_size) || !page_size.is_power_of_two() {
        return Err(MetaFault::PageSize(page_size));
    }
    let freelist = Some(word(6)).filter(|freelist| *freelist != u64::MAX);
    Ok(Meta { page, page_size: u64::from(page_size), root: word(4), freelist, high_water: word(7), txid: word(8) })
}

/// FNV-1a of 64 bits, the checksum of a meta page.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3))
}
