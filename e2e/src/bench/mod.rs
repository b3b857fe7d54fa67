//! The benchmark against real servers: what the operator takes for its work, beside K3s's own way of doing the same.
//!
//! In: the built tools, as for the tests, and how much of everything. Out: one table a section, in Markdown, on the terminal
//! and, if asked for, in `docs/performance.md`. It measures and judges nothing: whether a goal is met is for the reader.
//!
//! | section | measures |
//! | --- | --- |
//! | [`agent`] | the start, and memory with nothing to do |
//! | [`objects`] | the first import of a bucket, and beats in which nothing has changed; [`peer`] and [`bare`] stand beside it |
//! | [`files`] | from a file to its record |
//! | [`records`] | memory with very many records |
//! | [`saving`] | a save and a look into a snapshot of a [`member`], beside etcd's own tools, and the member's [`latency`] meanwhile; [`sending`] has those that go up |

pub mod agent;
pub mod bare;
pub mod files;
pub mod latency;
pub mod member;
pub mod objects;
pub mod peer;
pub mod process;
pub mod records;
pub mod report;
pub mod saving;
pub mod sending;
pub mod world;

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Objects in the bucket, each with a sidecar.
    pub objects: u32,
    /// First imports.
    pub imports: u32,
    /// Beats in which nothing changes.
    pub beats: u32,
    /// Of so many objects the peer is measured; the rest is calculated.
    pub sample: u32,
    /// Files that appear, one after the other.
    pub files: u32,
    /// MiB of each large file, and how many of them.
    pub large: (usize, u32),
    /// Records in the API server.
    pub records: u32,
    /// Starts.
    pub starts: u32,
    /// MiB of the databases that are saved; and of each, how many pairs of ours and theirs go up to a bucket as well.
    pub databases: &'static [(u32, u32)],
    /// Pairs of everything else.
    pub pairs: u32,
}

impl Scale {
    /// What the page shows.
    pub const FULL: Self = Self {
        objects: 10_000,
        imports: 3,
        beats: 9,
        sample: 300,
        files: 300,
        large: (512, 3),
        records: 100_000,
        starts: 20,
        databases: &[(100, 9), (1000, 3)],
        pairs: 9,
    };
    /// Whether it runs at all.
    pub const QUICK: Self = Self {
        objects: 300,
        imports: 1,
        beats: 2,
        sample: 30,
        files: 20,
        large: (32, 1),
        records: 1000,
        starts: 3,
        databases: &[(10, 2)],
        pairs: 2,
    };
}
