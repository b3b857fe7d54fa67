//! The state: what only this node needs to remember about its files (docs/design.md 6).
//!
//! In: verdicts, and who we are on which directory. Out: the same after a restart. Small JSON files, written atomically,
//! each with `"v":1`; one that cannot be understood is set aside as `<name>.bad-<random>` and rebuilt. What could not be
//! written is kept in memory and written at the next listing.
//!
//! `.metadata/.state/<hex10 of the directory's path>/`: `lock`, held while a process of ours lives;
//! `<node>/self.json`; `<node>/files/<32 hex of SHA-256(name)>.json`.

use std::collections::{BTreeMap, BTreeSet};
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

use super::atomic;
use super::error::LocalError;
use super::place::DirectoryId;
use crate::snapshot::file::{hex10, short_hex};
use crate::snapshot::{ClusterId, FileName, Listing, Manifest, NodeName, Verdict};

/// The form of the state's files that this version writes, and the only one that it reads.
const FORM: u32 = 1;
/// More than any file of the state can have, so that no other file is read for one.
const LARGEST: u64 = 1 << 20;
/// How many files' state one listing forgets at most.
const FORGOTTEN_AT_ONCE: usize = 200;
/// A temporary as old as this is in nobody's use.
const ABANDONED: Duration = Duration::from_hours(24);
/// An agent is at work on the directory while its last beat is younger than three intervals, and never less than this:
/// the same rule as for a K3s at work.
const AT_WORK_AT_LEAST: Duration = Duration::from_mins(30);

/// What verifying one content showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// The part of the version without the sidecar's.
    pub content: String,
    /// Whole or damaged.
    pub verdict: Verdict,
    /// Digests and sizes; nothing else.
    pub digests: Manifest,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct FileNote {
    v: u32,
    name: String,
    version: String,
    verdict: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(default)]
    digests: BTreeMap<String, String>,
}

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
    own: PathBuf,
    node: NodeName,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    files: BTreeMap<FileName, Judged>,
    unsaved: BTreeSet<FileName>,
    /// Whether the files of what went while we were away are gone.
    swept: bool,
    others: Vec<NodeName>,
    lock: Option<File>,
}

impl State {
    /// The state of a node on the directory of this path; touches nothing yet.
    pub fn new(directory: &Path, metadata: &Path, node: &NodeName) -> Self {
        let root = metadata.join(".state").join(hex10(&directory.to_string_lossy()));
        Self { own: root.join(folder(node)), root, node: node.clone(), memory: Mutex::default() }
    }

    /// Whether any agent ever had state on this directory.
    pub fn ever_existed(&self) -> bool {
        // In doubt it did: then nothing is created.
        fs::symlink_metadata(&self.root).map_or_else(|error| error.kind() != io::ErrorKind::NotFound, |_| true)
    }

    /// Creates the folders, takes the lock, and removes what a kill left behind; once. Temporaries that another process
    /// of this node may be writing just now, because the lock is not ours alone, stay for a day.
    pub fn prepare(&self, beside: &[&Path]) -> Result<(), LocalError> {
        let mut memory = self.memory();
        if memory.lock.is_some() {
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

    /// What verifying this content showed; None when that is not known.
    pub fn judged(&self, name: &FileName, content: &str) -> Result<Option<Judged>, LocalError> {
        let mut memory = self.memory();
        if !memory.files.contains_key(name) {
            let found = read(&self.path_of(name), |note: &FileNote| note.v == FORM && note.name == name.as_str())?;
            if let Some(judged) = found.and_then(FileNote::judged) {
                memory.files.insert(name.clone(), judged);
            }
        }
        Ok(memory.files.get(name).filter(|judged| judged.content == content).cloned())
    }

    /// Notes what verifying showed: from now on in memory, and on the disk as soon as it can be written.
    pub fn note(&self, name: &FileName, judged: Judged) {
        let mut memory = self.memory();
        memory.files.insert(name.clone(), judged);
        memory.unsaved.insert(name.clone());
        drop(memory);
        // The next listing tries again and reports it.
        let _ = self.save();
    }

    /// Writes what is only in memory yet.
    pub fn save(&self) -> Result<(), LocalError> {
        let mut memory = self.memory();
        while let Some(name) = memory.unsaved.first().cloned() {
            if let Some(judged) = memory.files.get(&name) {
                self.write(&self.path_of(&name), &FileNote::of(&name, judged))?;
            }
            memory.unsaved.remove(&name);
        }
        Ok(())
    }

    /// Forgets files that a complete listing of everything that is ours does not have; some of them, when there are many.
    pub fn forget_all_but(&self, listing: &Listing) -> Result<(), LocalError> {
        let mut memory = self.memory();
        let mut gone: Vec<PathBuf> = Vec::new();
        if memory.swept {
            gone.extend(memory.files.keys().filter(|name| !listing.contains_key(name)).map(|name| self.path_of(name)));
        } else {
            let files = self.own.join("files");
            let kept: BTreeSet<PathBuf> = listing.keys().map(|name| self.path_of(name)).collect();
            let failed = |source| LocalError::State { verb: "read", path: files.clone(), source };
            let entries = match fs::read_dir(&files) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                entries => entries.map_err(failed)?,
            };
            for entry in entries {
                let path = entry.map_err(failed)?.path();
                if path.extension().is_some_and(|extension| extension == "json") && !kept.contains(&path) {
                    gone.push(path);
                }
            }
        }
        let all = gone.len() <= FORGOTTEN_AT_ONCE;
        for path in gone.into_iter().take(FORGOTTEN_AT_ONCE) {
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(LocalError::State { verb: "remove", path, source }),
                _ => {}
            }
        }
        memory.swept = all;
        if all {
            memory.files.retain(|name, _| listing.contains_key(name));
            memory.unsaved.retain(|name| listing.contains_key(name));
        }
        Ok(())
    }

    fn path_of(&self, name: &FileName) -> PathBuf {
        self.own.join("files").join(format!("{}.json", short_hex(name.as_str(), 32)))
    }

    fn write(&self, path: &Path, note: &impl Serialize) -> Result<(), LocalError> {
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

impl FileNote {
    fn of(name: &FileName, judged: &Judged) -> Self {
        let (verdict, why) = match &judged.verdict {
            Verdict::Whole => ("whole", None),
            Verdict::Plausible => ("plausible", None),
            Verdict::Damaged(why) => ("damaged", Some(why.clone())),
        };
        let digests = judged.digests.to_keys();
        Self { v: FORM, name: name.to_string(), version: judged.content.clone(), verdict: verdict.into(), why, digests }
    }

    fn judged(self) -> Option<Judged> {
        let verdict = match self.verdict.as_str() {
            "whole" => Verdict::Whole,
            "damaged" => Verdict::Damaged(self.why.unwrap_or_default()),
            _ => return None,
        };
        Some(Judged { content: self.version, verdict, digests: Manifest::from_keys(self.digests) })
    }
}

fn is_at_work(note: &SelfNote, now: Timestamp) -> bool {
    let long = Duration::from_secs(note.interval_seconds.saturating_mul(3)).max(AT_WORK_AT_LEAST);
    // A beat from the future is one by a clock that runs ahead of ours, not a promise for all time.
    note.last_beat.is_some_and(|beat| now.duration_since(beat).unsigned_abs() < long)
}

/// The folder of a node: its name, unless that is none for a folder or the lock's. No node's name begins with `=`.
fn folder(node: &NodeName) -> String {
    match node.as_str() {
        name if name == "lock" || name.starts_with(['.', '=']) || name.len() > 200 => format!("={}", hex10(name)),
        name => name.into(),
    }
}

/// Reads a file of the state. One that is not understood is set aside, and then it is as if there were none.
fn read<T: DeserializeOwned>(path: &Path, is_ours: impl Fn(&T) -> bool) -> Result<Option<T>, LocalError> {
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
