//! What a database says about the etcd it is of.

use super::crc::{Content, Running, Sum};
use super::error::{Error, Fault};
use super::history::{History, Revision};
use super::meta::{self, Meta};
use super::read::{ReadAt, Window};
use super::tree::{Entry, Root, Tree};

/// etcd has ten buckets.
const MANY_BUCKETS: usize = 1000;
/// More members than etcd can have and live.
const MANY_MEMBERS: usize = 1000;
/// The longest value of bucket `meta` or `cluster` that is looked at.
const SHORT: u64 = 64;

/// What one pass over a database shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The revision of the last key in bucket `key`, as `snapshot status` prints it; 0 if there is none.
    pub revision: i64,
    /// CRC-32C of all buckets with their names, as `snapshot status` prints it.
    pub hash: u32,
    /// Entries of all buckets, as `snapshot status` of etcd 3.4 and 3.5 prints it.
    pub total_keys: u64,
    /// Keys that are there at the last revision, as `snapshot status` of etcd 3.6 and 3.7 prints it.
    pub live_keys: u64,
    /// Bytes of all pages, used or not, as `snapshot status` prints it. A database file may be longer.
    pub total_size: u64,
    /// The revision up to which the store was compacted, as `etcdutl hashkv` prints it; −1 if never.
    pub compact_revision: i64,
    /// CRC-32C of the keys' history from the compacted revision on, as `etcdutl hashkv` of 3.6 prints it and as the
    /// member's HashKV answers it.
    pub hash_kv: u32,
    /// The revision at which `hash_kv` was taken: not below 1, nor below `compact_revision`.
    pub hash_kv_revision: i64,
    /// Raft index of the last applied entry, as far as the database notes it: etcd 3.4 has none before the first write,
    /// and none of compactions. Small after a restore.
    pub raft_index: Option<u64>,
    /// Raft term of that entry; from etcd 3.5 on.
    pub raft_term: Option<u64>,
    /// Version of the storage's layout, as `snapshot status` prints it; from etcd 3.6 on.
    pub storage_version: Option<String>,
    /// The version that all members agreed on.
    pub cluster_version: Option<String>,
    /// Ids of all members, ascending. The cluster's own id is in no database.
    pub members: Vec<u64>,
}

/// A bucket of the root, to be walked later.
struct Bucket {
    name: Vec<u8>,
    root: Root,
}

/// What bucket `meta` and the buckets of the members say.
#[derive(Default)]
struct Notes {
    raft_index: Option<u64>,
    raft_term: Option<u64>,
    scheduled: Option<i64>,
    finished: Option<i64>,
    storage_version: Option<String>,
    cluster_version: Option<String>,
    members: Vec<u64>,
}

/// Reads the first `length` bytes of `file`, each page once, and sees that its structure is whole. (A changed value in a
/// whole structure shows in the digests only.) Takes less than 2 MiB, and 24 bytes for each key; what is damaged may take
/// up to 4 MiB more.
pub fn inspect<R: ReadAt + ?Sized>(file: &R, length: u64) -> Result<Facts, Error> {
    let mut window = Window::new(file, length);
    let meta = meta::read(&mut window)?;
    let mut tree = Tree::new(window, &meta)?;
    let buckets = buckets(&mut tree, &meta)?;
    let mut sums = vec![Sum::default(); buckets.len()];
    let mut total_keys = 0;
    let mut notes = Notes::default();
    let mut nested = Vec::new();

    let mut others = |tree: &mut Tree<'_, R>, bucket: &Bucket| -> Result<Sum, Error> {
        let mut running = Running::new(&bucket.name);
        tree.walk(bucket.root, |mut entry| {
            total_keys += 1;
            notes.take(&bucket.name, &mut entry)?;
            hash(&mut running, &mut entry, &mut nested)
        })?;
        Ok(running.sum())
    };
    // What was compacted is noted in `meta`, and has to be known before the keys are read.
    let is_key = |bucket: &Bucket| bucket.name == b"key";
    for (bucket, sum) in buckets.iter().zip(&mut sums).filter(|(bucket, _)| !is_key(bucket)) {
        *sum = others(&mut tree, bucket)?;
    }
    let mut history = History::new(notes.compacted());
    for (bucket, sum) in buckets.iter().zip(&mut sums).filter(|(bucket, _)| is_key(bucket)) {
        let mut running = Running::new(&bucket.name);
        tree.walk(bucket.root, |mut entry| {
            total_keys += 1;
            history.add(&mut entry, &mut running)
        })?;
        *sum = running.sum();
    }
    walk_nested(&mut tree, nested)?;
    if let Some(page) = meta.freelist {
        tree.freelist(page)?;
    }

    let (end, compact_revision) = (history.end(), notes.compacted());
    Ok(Facts {
        revision: end.revision,
        hash: sums.into_iter().fold(Sum::default(), Sum::then).crc,
        total_keys,
        live_keys: end.live_keys,
        total_size: meta.high_water * meta.page_size,
        compact_revision,
        hash_kv: end.hash_kv,
        hash_kv_revision: end.revision.max(compact_revision).max(1),
        raft_index: notes.raft_index,
        raft_term: notes.raft_term,
        storage_version: notes.storage_version,
        cluster_version: notes.cluster_version,
        members: notes.members,
    })
}

fn buckets<R: ReadAt + ?Sized>(tree: &mut Tree<'_, R>, meta: &Meta) -> Result<Vec<Bucket>, Error> {
    let mut buckets = Vec::new();
    tree.walk(Root::Page(meta.root), |mut entry| {
        let page = entry.page;
        if !entry.bucket {
            return Err(Fault::NoBucket.at(page));
        }
        if buckets.len() >= MANY_BUCKETS {
            return Err(Fault::ManyBuckets.at(page));
        }
        buckets.push(Bucket { name: entry.key.to_vec(), root: entry.root()? });
        Ok(())
    })?;
    Ok(buckets)
}

/// Adds an entry as etcd hashes it: of a bucket in a bucket only its key.
fn hash<R: ReadAt + ?Sized>(running: &mut Running, entry: &mut Entry<'_, '_, R>, nested: &mut Vec<Root>) -> Result<(), Error> {
    if !entry.bucket {
        running.add(entry.content()?);
        return Ok(());
    }
    if nested.len() >= MANY_BUCKETS {
        return Err(Fault::ManyBuckets.at(entry.page));
    }
    running.add(Content::Small(entry.key));
    nested.push(entry.root()?);
    Ok(())
}

/// Walks buckets in buckets, of which etcd has none, for their structure alone.
fn walk_nested<R: ReadAt + ?Sized>(tree: &mut Tree<'_, R>, mut nested: Vec<Root>) -> Result<(), Error> {
    let mut ignored = Running::new(b"");
    while let Some(root) = nested.pop() {
        tree.walk(root, |mut entry| hash(&mut ignored, &mut entry, &mut nested))?;
    }
    Ok(())
}

impl Notes {
    fn take<R: ReadAt + ?Sized>(&mut self, bucket: &[u8], entry: &mut Entry<'_, '_, R>) -> Result<(), Error> {
        let page = entry.page;
        match (bucket, entry.key) {
            _ if entry.bucket => {}
            (b"meta", b"consistent_index") => self.raft_index = Some(number(entry)?),
            (b"meta", b"term") => self.raft_term = Some(number(entry)?),
            (b"meta", b"scheduledCompactRev") => self.scheduled = Some(revision(entry)?),
            (b"meta", b"finishedCompactRev") => self.finished = Some(revision(entry)?),
            (b"meta", b"storageVersion") => self.storage_version = version(entry)?,
            (b"cluster", b"clusterVersion") => self.cluster_version = version(entry)?,
            (b"members", id) => {
                let id = std::str::from_utf8(id).ok().and_then(|id| u64::from_str_radix(id, 16).ok());
                let id = id.filter(|_| self.members.len() < MANY_MEMBERS);
                self.members.push(id.ok_or(Fault::Member.at(page))?);
            }
            _ => {}
        }
        Ok(())
    }

    /// A compaction counts from the moment it is scheduled; etcd goes on with it when it starts.
    fn compacted(&self) -> i64 {
        let finished = self.finished.unwrap_or(-1);
        self.scheduled.filter(|scheduled| *scheduled > 0).map_or(finished, |scheduled| scheduled.max(finished))
    }
}

fn short<'e, R: ReadAt + ?Sized>(entry: &'e mut Entry<'_, '_, R>) -> Result<Option<&'e [u8]>, Error> {
    let length = entry.value_size;
    if length <= SHORT { entry.value(0, length) } else { Ok(None) }
}

fn number<R: ReadAt + ?Sized>(entry: &mut Entry<'_, '_, R>) -> Result<u64, Error> {
    let fault = Fault::MetaNumber.at(entry.page);
    let bytes = short(entry)?.and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
    bytes.map(u64::from_be_bytes).ok_or(fault)
}

fn revision<R: ReadAt + ?Sized>(entry: &mut Entry<'_, '_, R>) -> Result<i64, Error> {
    let fault = Fault::MetaNumber.at(entry.page);
    let revision = short(entry)?.and_then(Revision::parse);
    revision.map(|revision| revision.main).ok_or(fault)
}

/// What is no version is none, as for etcd's own tools.
fn version<R: ReadAt + ?Sized>(entry: &mut Entry<'_, '_, R>) -> Result<Option<String>, Error> {
    let text = short(entry)?.and_then(|bytes| std::str::from_utf8(bytes).ok());
    let begins_with_digit = |part: &str| part.starts_with(|c: char| c.is_ascii_digit());
    let is_version = |text: &&str| text.splitn(3, '.').filter(|part| begins_with_digit(part)).count() == 3;
    Ok(text.filter(is_version).filter(|text| text.chars().all(|c| c.is_ascii_graphic())).map(str::to_string))
}
