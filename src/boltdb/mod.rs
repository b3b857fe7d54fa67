//! The bbolt database inside a snapshot: whether its structure is whole, and what it says about the etcd it is of.
//!
//! In: something that reads at an offset, and how many bytes the database has (a snapshot's without its trailer). Out:
//! [`Facts`], or an [`Error`] with the page and what is wrong with it. It reads each page once, keeps none, and must
//! neither fail otherwise nor take long on any bytes: a snapshot comes from a bucket that others may write to.
//!
//! [`read`] gives bytes, [`meta`] and [`page`] take pages apart, [`tree`] walks them, [`facts`] collects; [`history`]
//! makes of bucket `key` what etcd makes of it, with a table of [`keys`] and sums by [`crc`].

mod crc;
mod error;
mod facts;
mod history;
mod key_value;
mod keys;
mod meta;
mod page;
mod read;
mod tree;

#[cfg(test)]
mod tests;

pub use error::{Error, Fault, MetaFault};
pub use facts::{Facts, inspect};
pub use read::ReadAt;
