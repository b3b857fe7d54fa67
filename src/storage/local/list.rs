//! One listing of the directory, and one look at one name.
//!
//! In: the memory of what was learnt, and the clocks. Out: the inventory, and what cost only itself. Blocking. It reads
//! names, attributes, sidecars and the state, never a snapshot.
//!
//! Only direct children are listed: a location is `<directory>/<name>`. K3s walks into sub-directories and then gives
//! their files a location that does not exist (docs/k3s.md 2.6).

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::{Instant, SystemTime};

use jiff::Timestamp;
use rustix::fs::{AtFlags, CWD, Dir, statat};

use super::Inner;
use super::error::LocalError;
use super::place::{self, DirectoryId, Entered, LARGEST_SIDECAR, Look, Stamp};
use super::state::bounded;
use crate::snapshot::{Complete, Failure, FileName, Inventory, Known, Listing, Manifest, Metadata, NameError, SnapshotFile, Version};
use crate::storage::{Listed, Memory};

/// What one listing gathers beside the files.
struct Pass<'a> {
    memory: &'a Memory,
    failures: Vec<Failure>,
    /// Other agents are at work on this directory: only files of our node are ours.
    shared: bool,
    wall: SystemTime,
    now: Instant,
}

/// What a sidecar says.
#[derive(Default)]
pub(super) struct Sidecar {
    manifest: Manifest,
    pub(super) extra: BTreeMap<String, String>,
}

impl Inner {
    pub(super) fn list(&self, memory: &Memory, wall: SystemTime, now: Instant) -> Listed {
        let mut pass = Pass { memory, failures: Vec::new(), shared: false, wall, now };
        let inventory = self.inventory(&mut pass).unwrap_or_else(|error| Inventory::Failed(error.into()));
        self.note_standing(inventory.failure());
        if let Inventory::Complete(complete) = &inventory {
            self.rest().end(complete.listing());
        }
        self.listed.notify_one();
        Listed { inventory, failures: pass.failures }
    }

    fn inventory(&self, pass: &mut Pass<'_>) -> Result<Inventory, LocalError> {
        let entered = self.enter()?;
        let (names, cut_short) = self.names(&entered, pass)?;
        let now = Timestamp::try_from(pass.wall).unwrap_or(Timestamp::MAX);
        let others = self.state.others(now);
        pass.shared = !others.is_empty();
        self.standing().shared_with = others;
        self.rest().begin();
        let mut listing = Listing::new();
        let mut unseen = None;
        let mut looked = false;
        for name in names {
            match place::look(&entered, &self.path, &name) {
                Ok(Look::File(stamp)) => {
                    looked = true;
                    if let Some(file) = self.file(&name, stamp, pass) {
                        listing.insert(name, file);
                    }
                }
                Ok(Look::Other | Look::Nothing) => looked = true,
                Err(error) => {
                    let failure = Failure::from(error);
                    pass.failures.push(failure.clone());
                    unseen = Some(failure);
                }
            }
        }
        if DirectoryId::at(&self.path).ok() != Some(entered.id) {
            return Err(LocalError::Replaced(self.path.clone()));
        }
        // A directory of which nothing at all can be seen is not an empty one.
        let cut_short = cut_short.or(unseen.clone().filter(|_| !looked));
        self.accept(&entered, listing.is_empty(), pass)?;
        if let Some(failure) = cut_short {
            return Ok(Inventory::Partial(listing, failure));
        }
        let (finished, failures) = self.finish_removals(&entered, &listing);
        pass.failures.extend(failures.into_iter().map(Failure::from));
        for name in finished {
            // It was listed with the sidecar of the file that stood there before.
            if listing.remove(&name).is_some()
                && let Ok(Look::File(stamp)) = place::look(&entered, &self.path, &name)
                && let Some(file) = self.file(&name, stamp, pass)
            {
                listing.insert(name, file);
            }
        }
        if unseen.is_none() && !pass.shared {
            self.forget_all_but(&listing, pass);
        }
        Ok(Inventory::Complete(Complete::vouch(listing)))
    }

    /// All names that a snapshot can have, and why these may not be all.
    fn names(&self, entered: &Entered, pass: &mut Pass<'_>) -> Result<(Vec<FileName>, Option<Failure>), LocalError> {
        let failed = |error: rustix::io::Errno| LocalError::Read { path: self.path.clone(), source: error.into() };
        let mut names = Vec::new();
        let mut directory = Dir::read_from(&entered.directory).map_err(failed)?;
        while let Some(entry) = directory.read() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return Ok((names, Some(failed(error).into()))),
            };
            let nameless = |shown: String| LocalError::Name { shown, path: self.path.clone() };
            match entry.file_name().to_str().map(FileName::new) {
                Ok(Ok(name)) => names.push(name),
                Ok(Err(NameError::NotAName(shown))) => pass.failures.push(nameless(shown).into()),
                Ok(Err(_)) => {}
                Err(_) => pass.failures.push(nameless(entry.file_name().to_string_lossy().into_owned()).into()),
            }
        }
        Ok((names, None))
    }

    /// Makes the directory the one that we know, unless it is empty where another one had snapshots.
    fn accept(&self, entered: &Entered, empty: bool, pass: &mut Pass<'_>) -> Result<(), LocalError> {
        if self.standing().known.is_none() {
            match self.state.noted_directory() {
                Ok(Some(noted)) if noted != entered.id && empty => {
                    return Err(LocalError::Unmounted { path: self.path.clone(), note: self.state.self_path() });
                }
                Ok(_) => {}
                Err(error) if empty => return Err(error),
                Err(error) => pass.failures.push(error.into()),
            }
        }
        let known = self.standing().known.replace(entered.id);
        let note = || if known.is_none() { self.state.note_directory(entered.id) } else { Ok(()) };
        let prepared = self.state.prepare(&[&self.path, &self.metadata]).and_then(|()| note());
        if known.is_none() {
            self.clear_unfinished_save(entered);
        }
        let noted = prepared.and_then(|()| self.state.save());
        if let Err(error) = noted {
            pass.failures.push(error.into());
        }
        Ok(())
    }

    fn forget_all_but(&self, listing: &Listing, pass: &mut Pass<'_>) {
        self.garbled.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| listing.contains_key(name));
        if let Err(error) = self.state.forget_all_but(listing) {
            pass.failures.push(error.into());
        }
    }

    /// One file as this listing found it; None when another agent's.
    fn file(&self, name: &FileName, stamp: Stamp, pass: &mut Pass<'_>) -> Option<SnapshotFile> {
        let (version, sidecar) = self.beside(name, stamp, pass);
        let (base, metadata) = if let Some(Sidecar { manifest, extra }) = sidecar {
            (manifest, Metadata::Read(extra))
        } else {
            let (_, known) = pass.memory.get(name)?;
            (known.manifest.clone(), known.metadata.clone())
        };
        if pass.shared && !self.is_of_our_node(name, &base) {
            return None;
        }
        let known = match self.state.judged(name, version.of_content()) {
            Ok(None) => None,
            Ok(Some(judged)) => {
                let manifest = base.with_digests_of(&judged.digests);
                let token_hash = manifest.token_hash().map(Into::into);
                Some(Known { verdict: judged.verdict, manifest, cluster: None, node: None, token_hash, metadata })
            }
            Err(error) => {
                pass.failures.push(error.into());
                // What a failed look does not show has not changed: else the record would change back and forth.
                remembered(pass.memory, name, &version).cloned()
            }
        };
        let at_rest = self.rest().is_at_rest(name, stamp, pass.wall, pass.now);
        let modified =
            Timestamp::from_nanosecond(stamp.modified).unwrap_or(if stamp.modified < 0 { Timestamp::MIN } else { Timestamp::MAX });
        Some(SnapshotFile { name: name.clone(), size: stamp.size, modified, version, at_rest, known })
    }

    /// The version of a file with its sidecar, and what the sidecar says: None when the memory knows this version already.
    fn beside(&self, name: &FileName, stamp: Stamp, pass: &mut Pass<'_>) -> (Version, Option<Sidecar>) {
        let looked = self.sidecar_stamp(name).and_then(|found| {
            let version = stamp.version(found);
            let sidecar = match found {
                _ if remembered(pass.memory, name, &version).is_some() => None,
                Some(_) => Some(self.sidecar(name)?),
                None => Some(Ok(Sidecar::default())),
            };
            Ok((version, sidecar))
        });
        let mut garbled = self.garbled.lock().unwrap_or_else(PoisonError::into_inner);
        match looked {
            Ok((version, Some(Ok(sidecar)))) => {
                garbled.remove(name);
                (version, Some(sidecar))
            }
            // As if there were none, and said at each listing, also when the memory has this version.
            Ok((version, Some(Err(error)))) => {
                let failure = Failure::from(error);
                pass.failures.push(failure.clone());
                garbled.insert(name.clone(), (version.clone(), failure));
                (version, Some(Sidecar::default()))
            }
            Ok((version, None)) => {
                pass.failures.extend(garbled.get(name).filter(|(known, _)| *known == version).map(|(_, failure)| failure.clone()));
                (version, None)
            }
            Err(error) => {
                pass.failures.push(error.into());
                // What a failed look does not show has not changed.
                let content = stamp.version(None);
                match pass.memory.get(name) {
                    Some((version, _)) if version.of_content() == content.of_content() => (version.clone(), None),
                    _ => (content, Some(Sidecar::default())),
                }
            }
        }
    }

    fn is_of_our_node(&self, name: &FileName, manifest: &Manifest) -> bool {
        name.names_node(&self.node) || manifest.node.as_ref() == Some(&self.node)
    }

    pub(super) fn sidecar_path(&self, name: &FileName) -> PathBuf {
        self.metadata.join(name.as_str())
    }

    fn sidecar_stamp(&self, name: &FileName) -> Result<Option<Stamp>, LocalError> {
        let path = self.sidecar_path(name);
        match statat(CWD, &path, AtFlags::empty()) {
            Ok(stat) => Ok(Stamp::of(&stat)),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
            Err(error) => Err(LocalError::Read { path, source: error.into() }),
        }
    }

    /// What the sidecar says. The outer error is the disk's; the inner one is that it is garbage.
    pub(super) fn sidecar(&self, name: &FileName) -> Result<Result<Sidecar, LocalError>, LocalError> {
        let path = self.sidecar_path(name);
        let garbage = |why: String| LocalError::Sidecar { path: path.clone(), why };
        match bounded(&path, LARGEST_SIDECAR) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(Ok(Sidecar::default())),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Err(garbage(error.to_string()))),
            Err(source) => Err(LocalError::Read { path, source }),
            Ok(bytes) => Ok(match serde_json::from_slice(&bytes) {
                Ok(map) => {
                    let (manifest, extra) = Manifest::from_sidecar(map);
                    Ok(Sidecar { manifest, extra })
                }
                Err(error) => Err(garbage(format!("it should be a JSON object from text to text: {error}"))),
            }),
        }
    }

    /// Looks at one name. None proves that it is not there, or that what is there is none of our snapshots.
    pub(super) fn ask(&self, name: &FileName) -> Result<Option<Version>, LocalError> {
        let entered = self.enter_accepted()?;
        Ok(match self.stands(&entered, name)? {
            Stands::File(version) => Some(version),
            Stands::Nothing | Stands::Other | Stands::OfAnotherNode => None,
        })
    }

    /// Enters the directory that listings have accepted: only that one can prove that something is not in it.
    pub(super) fn enter_accepted(&self) -> Result<Entered, LocalError> {
        let entered = self.enter()?;
        if self.standing().known == Some(entered.id) { Ok(entered) } else { Err(LocalError::Replaced(self.path.clone())) }
    }

    /// What stands under one name now, if the path still leads to this directory after the look.
    pub(super) fn stands(&self, entered: &Entered, name: &FileName) -> Result<Stands, LocalError> {
        let look = place::look(entered, &self.path, name)?;
        if DirectoryId::at(&self.path).ok() != Some(entered.id) {
            return Err(LocalError::Replaced(self.path.clone()));
        }
        let stamp = match look {
            Look::File(stamp) => stamp,
            Look::Other => return Ok(Stands::Other),
            Look::Nothing => return Ok(Stands::Nothing),
        };
        let sidecar = self.sidecar_stamp(name)?;
        let shared = !self.standing().shared_with.is_empty();
        if shared && !name.names_node(&self.node) && !self.is_of_our_node(name, &self.sidecar(name)?.unwrap_or_default().manifest) {
            return Ok(Stands::OfAnotherNode);
        }
        Ok(Stands::File(stamp.version(sidecar)))
    }
}

/// What stands under one name, with its sidecar.
#[derive(Debug)]
pub(super) enum Stands {
    /// A file that a listing would have.
    File(Version),
    /// A file that another node's agent may be answerable for.
    OfAnotherNode,
    /// Something else.
    Other,
    /// Nothing.
    Nothing,
}

/// What the memory knows of exactly this version.
fn remembered<'a>(memory: &'a Memory, name: &FileName, version: &Version) -> Option<&'a Known> {
    memory.get(name).filter(|(known, _)| known == version).map(|(_, known)| known)
}
