//! The state: what only this node needs to remember about its files (docs/design.md 6).
//!
//! In: verdicts, uploads, removals that were begun, and who we are on which directory. Out: the same after a restart. Small JSON files, written atomically,
//! each with `"v":1`; one that cannot be understood is set aside as `<name>.bad-<random>` and rebuilt. What could not be
//! written is kept in memory and written at the next listing.
//!
//! `.metadata/.state/<hex10 of the directory's path>/`: `lock`, held while a process of ours lives;
//! `save.lock`, held while a save runs; `<node>/self.json`; `<node>/saving.json`, while a save gets its name;
//! `<node>/failures.json`; `<node>/schedule.json`; `<node>/files/<32 hex of SHA-256(name)>.json`.

mod files;
mod note;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::note::{Judged, Note};
use super::atomic;
use super::error::LocalError;
use super::place::DirectoryId;
use crate::snapshot::file::hex10;
use crate::snapshot::{ClusterId, FileName, NodeName};

/// The form of the state's files that this version writes, and the only one that it reads.
pub const FORM: u32 = 1;
/// More than any file of the state can have, so that no other file is read for one.
const LARGEST: u64 = 1 << 20;
/// A temporary as old as this is in nobody's use.
pub const ABANDONED: Duration = Duration::from_hours(24);
/// An agent is at work on the directory while its last beat is younger than three intervals, and never less than this:
/// the same rule as for a K3s at work.
const AT_WORK_AT_LEAST: Duration = Duration::from_mins(30);

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct SelfNote {
    v: u32,
    node: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    directory: Option<DirectoryId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_beat: Option<Timestamp>,
    #[serde(default)]
    interval_seconds: u64,
    /// What another version of us keeps here.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// The state of one node on one directory.
#[derive(Debug)]
pub struct State {
    root: PathBuf,
    pub(super) own: PathBuf,
    node: NodeName,
    /// Nothing is written: what is learnt stays in memory.
    read_only: bool,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    notes: BTreeMap<FileName, Note>,
    /// Verdicts, each with the content that it is on, that could not be written yet.
    unsaved: BTreeMap<FileName, (String, Judged)>,
    /// Whether the notes of what went while we were away are read.
    all_read: bool,
    others: Vec<NodeName>,
    lock: Option<File>,
}

impl State {
    /// The state of a node on the directory of this path; touches nothing yet.
    pub fn new(directory: &Path, metadata: &Path, node: &NodeName) -> Self {
        let root = root(directory, metadata);
        Self { own: root.join(folder(node)), root, node: node.clone(), read_only: false, memory: Mutex::default() }
    }

    /// The same for somebody who only looks.
    pub fn read_only(directory: &Path, metadata: &Path, node: &NodeName) -> Self {
        Self { read_only: true, ..Self::new(directory, metadata, node) }
    }

    /// The nodes that ever kept state on this directory.
    pub fn nodes(&self) -> Vec<NodeName> {
        let entries = fs::read_dir(&self.root).into_iter().flatten();
        let note =
            |entry: io::Result<fs::DirEntry>| understood::<SelfNote>(&bounded(&entry.ok()?.path().join("self.json"), LARGEST).ok()?).ok();
        let mut nodes: Vec<_> = entries.filter_map(note).filter_map(|note| NodeName::new(&note.node).ok()).collect();
        nodes.sort();
        nodes
    }

    /// Whether any agent ever had state on this directory.
    pub fn ever_existed(&self) -> bool {
        // Who only looks creates nothing anyway.
        self.read_only || is_there(&self.root)
    }

    /// The same of any directory whose sidecars are in this folder.
    pub fn is_at(directory: &Path, metadata: &Path) -> bool {
        is_there(&root(directory, metadata))
    }

    /// Creates the folders, takes the lock, and removes what a kill left behind; once. Temporaries that another process
    /// of this node may be writing just now, because the lock is not ours alone, stay for a day.
    pub fn prepare(&self, beside: &[&Path]) -> Result<(), LocalError> {
        let mut memory = self.memory();
        if memory.lock.is_some() || self.read_only {
            return Ok(());
        }
        if !self.ever_existed() {
            // Kubelet makes the directories that a pod wants with mode 0755.
            for directory in beside {
                atomic::close_if_empty(directory);
            }
        }
        let files = self.own.join("files");
        atomic::create_directory(&files).map_err(|source| LocalError::Create { path: files.clone(), source })?;
        let path = self.root.join("lock");
        let failed = |source| LocalError::State { verb: "write", path: path.clone(), source };
        let lock = File::options().create(true).append(true).mode(0o600).open(&path).map_err(failed)?;
        let age = if lock.try_lock().is_ok() { Duration::ZERO } else { ABANDONED };
        for directory in [&[self.own.as_path(), &files][..], beside].concat() {
            // What stays costs a little room and is tried again at the next start.
            let _ = atomic::sweep(directory, &self.node, age);
        }
        // A file system without locks has one process a node, as far as we can know.
        let _ = lock.lock_shared();
        memory.lock = Some(lock);
        Ok(())
    }

    /// Of which directory the state is, as far as that was noted.
    pub fn noted_directory(&self) -> Result<Option<DirectoryId>, LocalError> {
        Ok(self.self_note()?.and_then(|note| note.directory))
    }

    /// The last cluster id known.
    pub fn cluster(&self) -> Result<Option<ClusterId>, LocalError> {
        Ok(self.self_note()?.and_then(|note| note.cluster_id).and_then(|id| ClusterId::new(&id)))
    }

    /// Where it is noted which directory this is.
    pub fn self_path(&self) -> PathBuf {
        self.own.join("self.json")
    }

    /// The file that the running save holds a lock on, whichever node's it is.
    pub fn save_lock_path(&self) -> PathBuf {
        self.root.join("save.lock")
    }

    /// Where it is noted which name a save is about to give.
    pub fn saving_path(&self) -> PathBuf {
        self.own.join("saving.json")
    }

    /// Notes which directory this is.
    pub fn note_directory(&self, directory: DirectoryId) -> Result<(), LocalError> {
        self.change_self(|note| note.directory = Some(directory))
    }

    /// Notes a beat, for other agents on this directory and for our own next start. An unknown cluster id leaves the known one.
    pub fn note_beat(&self, now: Timestamp, interval: Duration, cluster: Option<&ClusterId>) -> Result<(), LocalError> {
        self.change_self(|note| {
            note.last_beat = Some(now);
            note.interval_seconds = interval.as_secs().max(1);
            if let Some(cluster) = cluster {
                note.cluster_id = Some(cluster.to_string());
            }
        })
    }

    fn self_note(&self) -> Result<Option<SelfNote>, LocalError> {
        read(&self.self_path(), |note: &SelfNote| note.v == FORM)
    }

    fn change_self(&self, change: impl FnOnce(&mut SelfNote)) -> Result<(), LocalError> {
        if self.read_only {
            return Ok(());
        }
        // A beat and a listing may both have something to note.
        let _one_at_a_time = self.memory();
        let mut note = self.self_note()?.unwrap_or_else(|| SelfNote {
            v: FORM,
            node: String::new(),
            cluster_id: None,
            directory: None,
            last_beat: None,
            interval_seconds: 1,
            rest: Map::new(),
        });
        note.node = self.node.to_string();
        change(&mut note);
        self.write(&self.self_path(), &note)
    }

    /// The other nodes that have an agent at work on this directory. When that cannot be read, it is as it was.
    pub fn others(&self, now: Timestamp) -> Vec<NodeName> {
        let mut memory = self.memory();
        if let Ok(entries) = fs::read_dir(&self.root) {
            let mut others: Vec<NodeName> = entries
                .filter_map(|entry| Some(entry.ok()?.path()).filter(|path| *path != self.own))
                .filter_map(|path| understood::<SelfNote>(&bounded(&path.join("self.json"), LARGEST).ok()?).ok())
                .filter(|note| is_at_work(note, now) && note.node != self.node.as_str())
                .filter_map(|note| NodeName::new(&note.node).ok())
                .collect();
            others.sort();
            memory.others = others;
        }
        memory.others.clone()
    }

    pub fn write(&self, path: &Path, note: &impl Serialize) -> Result<(), LocalError> {
        let failed = |source| LocalError::State { verb: "write", path: path.into(), source };
        let bytes = serde_json::to_vec(note).map_err(|error| failed(error.into()))?;
        let written = match atomic::write(path, &bytes, &self.node) {
            // Somebody removed the state under us.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                atomic::create_directory(path.parent().unwrap_or(path)).and_then(|()| atomic::write(path, &bytes, &self.node))
            }
            written => written,
        };
        written.map_err(failed)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Nothing in it is half-changed when a thread dies.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn root(directory: &Path, metadata: &Path) -> PathBuf {
    metadata.join(".state").join(hex10(&directory.to_string_lossy()))
}

fn is_there(root: &Path) -> bool {
    // In doubt it is: then nothing is created, and nothing removed.
    fs::symlink_metadata(root).map_or_else(|error| error.kind() != io::ErrorKind::NotFound, |_| true)
}

fn is_at_work(note: &SelfNote, now: Timestamp) -> bool {
    let long = Duration::from_secs(note.interval_seconds.saturating_mul(3)).max(AT_WORK_AT_LEAST);
    // A beat from the future is one by a clock that runs ahead of ours, not a promise for all time.
    note.last_beat.is_some_and(|beat| now.duration_since(beat).unsigned_abs() < long)
}

/// The folder of a node: its name, unless that is none for a folder or a lock's. No node's name begins with `=`.
fn folder(node: &NodeName) -> String {
    match node.as_str() {
        name if name == "lock" || name == "save.lock" || name.starts_with(['.', '=']) || name.len() > 200 => format!("={}", hex10(name)),
        name => name.into(),
    }
}

/// Reads a file of the state. One that is not understood is set aside, and then it is as if there were none.
pub(super) fn read<T: DeserializeOwned>(path: &Path, is_ours: impl Fn(&T) -> bool) -> Result<Option<T>, LocalError> {
    let why = match bounded(path, LARGEST) {
        Ok(bytes) => match understood(&bytes) {
            Ok(note) if is_ours(&note) => return Ok(Some(note)),
            Ok(_) => "it is of another version".to_string(),
            Err(error) => error.to_string(),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => error.to_string(),
        Err(source) => return Err(LocalError::State { verb: "read", path: path.into(), source }),
    };
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".bad-{}", atomic::random()));
    fs::rename(path, &aside).map_err(|source| LocalError::State { verb: "set aside", path: path.into(), source })?;
    tracing::warn!(state = %path.display(), set_aside = %Path::new(&aside).display(), why, "the state cannot be read and is rebuilt");
    Ok(None)
}

fn understood<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(bytes)
}

/// Reads a regular file whole; one with more bytes than this is [`io::ErrorKind::InvalidData`].
pub fn bounded(path: &Path, largest: u64) -> io::Result<Vec<u8>> {
    // Opening a pipe or a device for reading could wait for ever.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(largest + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > largest {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it has more than {largest} bytes")));
    }
    Ok(bytes)
}
