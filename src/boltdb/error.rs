//! What can be wrong with a database, with the page it was seen at.

use std::io;

/// Why a database cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The reader failed; it says nothing about the database.
    #[error("failed to read the database at byte {at}")]
    Read {
        /// Bytes from the beginning.
        at: u64,
        /// What the reader said.
        source: io::Error,
    },
    /// Neither of the two meta pages can be used, so nothing says where anything is.
    #[error("it is no bbolt database: its first meta page {first}, its second meta page {second}")]
    NoMeta {
        /// What is wrong with page 0.
        first: MetaFault,
        /// What is wrong with page 1.
        second: MetaFault,
    },
    /// A page is not what it has to be.
    #[error("page {page} {fault}")]
    Page {
        /// Its number.
        page: u64,
        /// What is wrong with it.
        fault: Fault,
    },
}

impl Error {
    /// `read` or `damaged`: the label of a metric.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Read { .. } => "read",
            Self::NoMeta { .. } | Self::Page { .. } => "damaged",
        }
    }
}

/// What is wrong with a meta page; completes "its first meta page …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MetaFault {
    /// The database ends before it.
    #[error("is cut off")]
    Short,
    /// Another number than bbolt's.
    #[error("does not begin with bbolt's magic number")]
    Magic,
    /// A format that is not known here.
    #[error("has format version {0}, known is 2")]
    Version(u32),
    /// Its FNV-1a differs.
    #[error("does not match its checksum")]
    Checksum,
    /// Page id, or the flag of a meta page.
    #[error("has the header of another page")]
    Header,
    /// Not a power of two between 512 bytes and 64 KiB, or another than the first meta page's.
    #[error("has an impossible page size of {0} bytes")]
    PageSize(u32),
}

/// What is wrong with a page; completes "page 7 …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The meta page promises more than there is.
    #[error("says that the database has {pages} pages of {page_size} bytes, but it has only {length} bytes")]
    CutOff {
        /// The high-water mark.
        pages: u64,
        /// Bytes of each.
        page_size: u64,
        /// Bytes that there are.
        length: u64,
    },
    /// A reference to a page that cannot be a bucket's.
    #[error("is referred to, but data is on pages 2 to {last} only")]
    Outside {
        /// The last page below the high-water mark.
        last: u64,
    },
    /// Its header has another page's id.
    #[error("has the header of page {0}")]
    Id(u64),
    /// Neither a branch nor a leaf where one of them is due, or no freelist.
    #[error("has flags {0:#06x}, which no page at its place has")]
    Flags(u16),
    /// It goes on for more pages than there are.
    #[error("goes on for {0} pages, beyond the last page")]
    Overflow(u32),
    /// Two references to one page, or a page both used and free.
    #[error("is referred to twice")]
    Twice,
    /// Branches below branches.
    #[error("lies deeper than {0} levels")]
    Depth(usize),
    /// A branch that leads nowhere.
    #[error("is a branch without children")]
    NoChildren,
    /// A branch that bbolt would have split.
    #[error("is a branch of {0} bytes, larger than bbolt writes any")]
    LargeBranch(u64),
    /// The array of elements does not fit.
    #[error("has no room for its {0} elements")]
    Elements(u16),
    /// Key and value do not fit.
    #[error("has an element {0} that reaches beyond its end")]
    Beyond(u64),
    /// Key and value lie over the elements or over those of another element.
    #[error("has an element {0} that lies over another one")]
    Overlap(u64),
    /// bbolt takes keys of 1 to 32768 bytes.
    #[error("has an element {0} whose key has {1} bytes, which bbolt allows no key")]
    KeySize(u64, u32),
    /// bbolt takes values of less than 2 GiB.
    #[error("has an element {0} whose value has {1} bytes, which bbolt allows no value")]
    ValueSize(u64, u32),
    /// Flags of a leaf's element are none, or the bucket's.
    #[error("has an element {0} with unknown flags {1:#x}")]
    ElementFlags(u64, u32),
    /// A key that is not above the one before.
    #[error("has keys that do not ascend")]
    Order,
    /// A key outside what the branches above promise.
    #[error("has keys that do not belong below its branch")]
    Misplaced,
    /// Too few bytes, a header that no inline page has, or a bucket inside it.
    #[error("has a bucket that is not laid out as one")]
    Bucket,
    /// Something else than a bucket among the buckets.
    #[error("has a key among the buckets that is no bucket")]
    NoBucket,
    /// More than etcd could ever have.
    #[error("has more buckets than etcd has")]
    ManyBuckets,
    /// Neither used nor in the freelist that the database carries.
    #[error("is neither used nor free")]
    Lost,
    /// bbolt has a list of free pages that does not fit.
    #[error("is a list of {0} free pages that does not fit into it")]
    Freelist(u64),
    /// A key of bucket `key` that is no revision.
    #[error("has a key of {0} bytes in bucket \"key\" that is no revision")]
    Revision(usize),
    /// A value of bucket `key` that is no KeyValue.
    #[error("has a value in bucket \"key\" that is not encoded as a key and its value")]
    KeyValue,
    /// A number of bucket `meta` in other than its bytes.
    #[error("has a number in bucket \"meta\" that is not encoded as one")]
    MetaNumber,
    /// A key of bucket `members` that is no id.
    #[error("has a key in bucket \"members\" that is no member id")]
    Member,
    /// More entries than can be counted in 32 bits.
    #[error("has more keys than can be told apart")]
    ManyKeys,
}

impl Fault {
    /// With the page it was seen at.
    pub fn at(self, page: u64) -> Error {
        Error::Page { page, fault: self }
    }
}
