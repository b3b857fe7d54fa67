//! Walks a bucket's tree, in the order of its keys, each page once, and sees on the way that it is a tree.
//!
//! In: the root of a bucket. Out: one [`Entry`] after the other. Nothing is kept but the branches above the present leaf,
//! one bit a page, and the last key.

use super::crc::{Content, SMALL, Sum};
use super::error::{Error, Fault};
use super::page::{self, BRANCH, BranchElement, FREELIST, HEADER, Header, LEAF, Layout};
use super::read::{ReadAt, WINDOW, Window};

/// Levels of branches. A database of 10⁹ keys has five.
const DEPTH: usize = 16;
/// bbolt splits a branch that is larger than a page, down to a few keys, each of at most 32 KiB.
const LARGEST_BRANCH: u64 = 256 * 1024;
/// Where this many pages at most lie between a page and the next of the same branch, both are read at once.
const GAP: u64 = 4;
/// Bytes read at a time of what is too large for the window, where only a few of its fields are wanted.
const LITTLE: u64 = 4096;

/// So many bytes, if they fit into the window.
fn fitting(length: u64) -> Option<usize> {
    usize::try_from(length).ok().filter(|length| *length <= WINDOW)
}

/// Where a bucket's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// On pages of its own, from this one on.
    Page(u64),
    /// On a small page inside the value of its entry.
    Inline {
        /// The page the entry is on.
        page: u64,
        /// Where the small page begins.
        at: u64,
        /// Its bytes.
        length: u64,
    },
}

/// A key with its value, or with its bucket.
pub struct Entry<'w, 'a, R: ?Sized> {
    /// The key.
    pub key: &'w [u8],
    /// Whether the value is a bucket.
    pub bucket: bool,
    /// The page that it is on, for errors.
    pub page: u64,
    /// Bytes of the value.
    pub value_size: u64,
    at: u64,
    window: &'w mut Window<'a, R>,
}

impl<R: ReadAt + ?Sized> Entry<'_, '_, R> {
    /// Bytes of the value, at most [`WINDOW`] of them. What lies outside the value is an error of whoever asks, so None.
    pub fn value(&mut self, from: u64, length: u64) -> Result<Option<&[u8]>, Error> {
        match (from.checked_add(length), fitting(length)) {
            (Some(end), Some(length)) if end <= self.value_size => {
                let at = self.value_at() + from;
                self.window.get(at, length, LITTLE).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Key and value as they are hashed.
    pub fn content(&mut self) -> Result<Content<'_>, Error> {
        let length = self.key.len() as u64 + self.value_size;
        if let Some(small) = fitting(length).filter(|length| *length <= SMALL) {
            return Ok(Content::Small(self.window.get(self.at, small, length)?));
        }
        let mut sum = Sum::default();
        self.window.pieces(self.at, length, |piece| sum.extend(piece))?;
        Ok(Content::Large(sum))
    }

    /// The bucket that the value is.
    pub fn root(&mut self) -> Result<Root, Error> {
        let fault = Fault::Bucket.at(self.page);
        let (page, at, size) = (self.page, self.value_at(), self.value_size);
        let Some(bytes) = self.value(0, 16)? else { return Err(fault) };
        let root = bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        match root.ok_or(fault)? {
            0 => Ok(Root::Inline { page, at: at + 16, length: size - 16 }),
            root => Ok(Root::Page(root)),
        }
    }

    fn value_at(&self) -> u64 {
        self.at + self.key.len() as u64
    }
}

/// A page and the ones that belong to it.
struct Extent {
    page: u64,
    at: u64,
    length: u64,
    header: Header,
}

/// A branch above the present page.
struct Branch {
    bytes: Vec<u8>,
    elements: Vec<BranchElement>,
    next: usize,
    /// Whether its children are leaves, as far as they were seen. Only leaves are read ahead: below a branch the walk
    /// goes elsewhere first, and what was read is gone.
    leaves: Option<bool>,
}

impl Branch {
    fn key(&self, index: usize) -> Option<&[u8]> {
        let element = self.elements.get(index)?;
        let at = usize::try_from(element.at).ok()?;
        self.bytes.get(at..at + element.key)
    }

    /// How many pages from the next child on hold children, nearly without a gap.
    fn run(&self) -> u64 {
        if self.leaves != Some(true) {
            return 1;
        }
        let mut children = self.elements.iter().skip(self.next).map(|element| element.child);
        let Some(first) = children.next() else { return 1 };
        let mut last = first;
        for child in children {
            if child <= last || child - last > 1 + GAP || child - first >= WINDOW as u64 / 512 {
                break;
            }
            last = child;
        }
        last - first + 1
    }
}

/// The pages of one database.
pub struct Tree<'a, R: ?Sized> {
    window: Window<'a, R>,
    page_size: u64,
    pages: u64,
    reached: Vec<u64>,
    last_key: Vec<u8>,
    elements: Vec<u8>,
}

impl<'a, R: ReadAt + ?Sized> Tree<'a, R> {
    /// Of so many pages, which have to be there.
    pub fn new(window: Window<'a, R>, meta: &super::meta::Meta) -> Result<Self, Error> {
        let (page_size, pages, length) = (meta.page_size, meta.high_water, window.length());
        if pages.checked_mul(page_size).is_none_or(|bytes| bytes > length) {
            return Err(Fault::CutOff { pages, page_size, length }.at(meta.page));
        }
        let words = usize::try_from(pages / 64 + 1).unwrap_or(0);
        let mut tree = Self { window, page_size, pages, reached: vec![0; words], last_key: Vec::new(), elements: Vec::new() };
        // The meta pages.
        for page in [0, 1] {
            tree.reach(page)?;
        }
        Ok(tree)
    }

    /// Calls `each` for every entry of a bucket, but not for those of the buckets in it.
    pub fn walk(&mut self, root: Root, mut each: impl FnMut(Entry<'_, 'a, R>) -> Result<(), Error>) -> Result<(), Error> {
        self.last_key.clear();
        let mut branches: Vec<Branch> = Vec::new();
        let mut next = match root {
            Root::Page(page) => page,
            Root::Inline { page, at, length } => {
                let extent = self.inline(page, at, length)?;
                return self.leaf(&extent, &branches, &mut each);
            }
        };
        loop {
            let extent = self.claim(next, branches.last())?;
            if let Some(branch) = branches.last_mut() {
                branch.next += 1;
                branch.leaves = Some(branch.leaves.unwrap_or(true) && extent.header.flags == LEAF);
            }
            match extent.header.flags {
                LEAF => self.leaf(&extent, &branches, &mut each)?,
                BRANCH if branches.len() >= DEPTH => return Err(Fault::Depth(DEPTH).at(extent.page)),
                BRANCH => {
                    let branch = self.branch(&extent, &branches)?;
                    branches.push(branch);
                }
                other => return Err(Fault::Flags(other).at(extent.page)),
            }
            loop {
                let Some(branch) = branches.last() else { return Ok(()) };
                if let Some(element) = branch.elements.get(branch.next) {
                    next = element.child;
                    break;
                }
                branches.pop();
            }
        }
    }

    /// Sees that a freelist holds exactly the pages that were not reached. To be called after all walks.
    pub fn freelist(&mut self, page: u64) -> Result<(), Error> {
        let extent = self.claim(page, None)?;
        if extent.header.flags != FREELIST {
            return Err(Fault::Flags(extent.header.flags).at(page));
        }
        let (mut at, mut count) = (extent.at + HEADER, u64::from(extent.header.count));
        let end = extent.at + extent.length;
        if extent.header.count == u16::MAX {
            let bytes = self.window.get(at, 8, 8)?;
            (at, count) = (at + 8, bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)));
        }
        if count.checked_mul(8).is_none_or(|bytes| bytes > end - at) {
            return Err(Fault::Freelist(count).at(page));
        }
        for index in 0..count {
            let at = at + index * 8;
            let bytes = self.window.get(at, 8, end - at)?;
            let free = bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            self.inside(free)?;
            self.reach(free)?;
        }
        match (0..self.pages).find(|page| !self.is_reached(*page)) {
            Some(lost) => Err(Fault::Lost.at(lost)),
            None => Ok(()),
        }
    }

    fn inside(&self, page: u64) -> Result<(), Error> {
        if page < 2 || page >= self.pages { Err(Fault::Outside { last: self.pages.saturating_sub(1) }.at(page)) } else { Ok(()) }
    }

    fn is_reached(&self, page: u64) -> bool {
        usize::try_from(page / 64).ok().and_then(|word| self.reached.get(word)).is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    fn reach(&mut self, page: u64) -> Result<(), Error> {
        if self.is_reached(page) {
            return Err(Fault::Twice.at(page));
        }
        if let Some(word) = usize::try_from(page / 64).ok().and_then(|word| self.reached.get_mut(word)) {
            *word |= 1 << (page % 64);
        }
        Ok(())
    }

    /// A page that was referred to, by nobody before. Where it has to be read, so are its next siblings.
    fn claim(&mut self, page: u64, parent: Option<&Branch>) -> Result<Extent, Error> {
        self.inside(page)?;
        let at = page * self.page_size;
        let length = usize::try_from(self.page_size).unwrap_or(WINDOW);
        let ahead = if self.window.holds(at, length) { 0 } else { parent.map_or(1, Branch::run).saturating_mul(self.page_size) };
        let bytes = self.window.get(at, length, ahead)?;
        let header = bytes.first_chunk().map(Header::parse).ok_or(Fault::Bucket.at(page))?;
        if header.id != page {
            return Err(Fault::Id(header.id).at(page));
        }
        let overflow = u64::from(header.overflow);
        if overflow >= self.pages - page {
            return Err(Fault::Overflow(header.overflow).at(page));
        }
        (page..=page + overflow).try_for_each(|page| self.reach(page))?;
        Ok(Extent { page, at, length: (1 + overflow) * self.page_size, header })
    }

    fn inline(&mut self, page: u64, at: u64, length: u64) -> Result<Extent, Error> {
        if length < HEADER {
            return Err(Fault::Bucket.at(page));
        }
        let header = self.window.get(at, 16, length)?.first_chunk().map(Header::parse);
        match header {
            Some(header) if (header.id, header.flags, header.overflow) == (0, LEAF, 0) => Ok(Extent { page, at, length, header }),
            _ => Err(Fault::Bucket.at(page)),
        }
    }

    fn branch(&mut self, extent: &Extent, above: &[Branch]) -> Result<Branch, Error> {
        let page = extent.page;
        if extent.length > LARGEST_BRANCH {
            return Err(Fault::LargeBranch(extent.length).at(page));
        }
        let length = usize::try_from(extent.length).map_err(|_| Fault::LargeBranch(extent.length).at(page))?;
        let bytes = self.window.get(extent.at, length, extent.length)?.to_vec();
        let count = extent.header.count;
        let mut layout = Layout::new(count, extent.length).map_err(|fault| fault.at(page))?;
        let (chunks, _) = bytes.as_chunks::<16>();
        let elements = chunks.iter().skip(1).take(usize::from(count)).map(|chunk| layout.branch(chunk));
        let elements = elements.collect::<Result<Vec<_>, _>>().map_err(|fault| fault.at(page))?;
        let branch = Branch { bytes, elements, next: 0, leaves: None };
        let Some(last) = branch.elements.len().checked_sub(1) else { return Err(Fault::NoChildren.at(page)) };
        if (0..last).any(|index| branch.key(index) >= branch.key(index + 1)) {
            return Err(Fault::Order.at(page));
        }
        belongs(branch.key(0), branch.key(last), above).map_err(|fault| fault.at(page))?;
        Ok(branch)
    }

    fn leaf(
        &mut self,
        extent: &Extent,
        above: &[Branch],
        each: &mut impl FnMut(Entry<'_, 'a, R>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (page, page_end) = (extent.page, extent.at + extent.length);
        let inline = extent.header.id != page;
        let mut layout = Layout::new(extent.header.count, extent.length).map_err(|fault| fault.at(page))?;
        let mut elements = std::mem::take(&mut self.elements);
        elements.clear();
        // A leaf that fits is read whole at once.
        if let Some(length) = fitting(extent.length) {
            self.window.get(extent.at, length, extent.length)?;
        }
        let bytes = page::ELEMENT * u64::from(extent.header.count);
        self.window.pieces(extent.at + HEADER, bytes, |piece| elements.extend_from_slice(piece))?;
        for (index, chunk) in elements.as_chunks::<16>().0.iter().enumerate() {
            let element = layout.leaf(chunk).map_err(|fault| fault.at(page))?;
            if element.bucket && inline {
                return Err(Fault::Bucket.at(page));
            }
            let at = extent.at + element.at;
            let size = element.key as u64 + u64::from(element.value);
            // So is an entry, with what follows it.
            let (length, ahead) = fitting(size).map_or((element.key, LITTLE), |length| (length, page_end - at));
            let key = &self.window.get(at, length, ahead)?[..element.key];
            if key <= &self.last_key[..] {
                return Err(Fault::Order.at(page));
            }
            self.last_key.clear();
            self.last_key.extend_from_slice(key);
            if index == 0 {
                belongs(Some(key), None, above).map_err(|fault| fault.at(page))?;
            }
            let value_size = u64::from(element.value);
            each(Entry { key: &self.last_key, bucket: element.bucket, page, value_size, at, window: &mut self.window })?;
        }
        if extent.header.count > 0 {
            belongs(None, Some(&self.last_key), above).map_err(|fault| fault.at(page))?;
        }
        self.elements = elements;
        Ok(())
    }
}

/// Whether the first and last key of a page are where its branches lead; their `next` already points behind it.
fn belongs(first: Option<&[u8]>, last: Option<&[u8]>, above: &[Branch]) -> Result<(), Fault> {
    let from = above.last().and_then(|branch| branch.key(branch.next.checked_sub(1)?));
    let to = above.iter().rev().find_map(|branch| branch.key(branch.next));
    let low = first.zip(from).is_some_and(|(first, from)| first < from);
    let high = last.zip(to).is_some_and(|(last, to)| last >= to);
    if low || high { Err(Fault::Misplaced) } else { Ok(()) }
}
