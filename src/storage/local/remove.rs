//! Removes one file of the directory, and then what stood beside it.
//!
//! In: a file as it was judged. Out: what became of it. Blocking. It never goes by the path alone: the directory is the one
//! that listings have accepted, and file and sidecar are asked for again right before each of them goes. A file whose
//! sidecar changed is another version, and stays. Of a symlink the link goes, never what it leads to.
//!
//! **Killed in between**, a sidecar would stay without its file, and would be taken for that of a later file of the same
//! name. Whose it is cannot be told from the outside: K3s writes the file first and the sidecar after it, a save of ours
//! may do it the other way round, and the sidecars of sibling directories are in one folder. So the version that is to go
//! is noted in the state before the file is touched, and each listing finishes what is noted: where that content is gone,
//! exactly the sidecar of that version goes. Any other sidecar stays, with or without a file.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags, fsync, open, statat, statx, unlinkat};
use rustix::io::Errno;

use super::Inner;
use super::error::LocalError;
use super::list::Stands;
use super::place::{Entered, Look, Stamp, look};
use super::state::State;
use crate::snapshot::{FileName, Listing, SnapshotFile, Version};
use crate::storage::Removed;

impl Inner {
    pub(super) fn remove(&self, file: &SnapshotFile) -> Result<Removed, LocalError> {
        let entered = self.enter_accepted()?;
        let removed = match self.stands(&entered, &file.name)? {
            Stands::File(version) if version == file.version => {
                self.intend(file)?;
                let removed = self.remove_file(&entered, file);
                if matches!(removed, Ok(Removed::Stale) | Err(LocalError::Remove { .. })) {
                    // It still stands there. Where this cannot be written the next listing does it.
                    let _ = self.state.take_back(&file.name);
                }
                removed?
            }
            Stands::Nothing => Removed::Absent,
            Stands::File(_) | Stands::Other | Stands::OfAnotherNode => Removed::Stale,
        };
        if removed != Removed::Stale {
            self.remove_sidecar(&file.name, &file.version)?;
            // What stays of the state is forgotten after the next complete listing, which says so when it cannot.
            let _ = self.state.forget(&file.name);
        }
        Ok(removed)
    }

    /// Notes that this version goes, so that its sidecar cannot outlive it.
    pub(super) fn intend(&self, file: &SnapshotFile) -> Result<(), LocalError> {
        match file.version.of_sidecar() {
            Some(_) => self.state.intend(&file.name, &file.version),
            None => Ok(()),
        }
    }

    /// Asks once more, since noting the intent took its time, and removes the file or link itself.
    pub(super) fn remove_file(&self, entered: &Entered, file: &SnapshotFile) -> Result<Removed, LocalError> {
        match self.stands(entered, &file.name)? {
            Stands::File(version) if version == file.version => {}
            Stands::Nothing => return Ok(Removed::Absent),
            _ => return Ok(Removed::Stale),
        }
        let gone = unlink(&entered.directory, &self.path, &file.name)?;
        Ok(if gone { Removed::Done } else { Removed::Absent })
    }

    /// Removes the sidecar of exactly this version, unless a sibling directory has a file of that name: they share it.
    pub(super) fn remove_sidecar(&self, name: &FileName, version: &Version) -> Result<(), LocalError> {
        if version.of_sidecar().is_none() || self.sibling_has(name)? {
            return Ok(());
        }
        let failed = |error: Errno| LocalError::Read { path: self.sidecar_path(name), source: error.into() };
        let folder = match open(&self.metadata, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            folder => folder.map_err(failed)?,
        };
        let found = match statat(&folder, name.as_str(), AtFlags::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            found => Stamp::of(&found.map_err(failed)?),
        };
        if found.is_some_and(|stamp| stamp.is_sidecar_of(version)) {
            unlink(&folder, &self.metadata, name)?;
        }
        Ok(())
    }

    /// Whether another directory beside ours, one that has a state of ours, too, has something of this name.
    fn sibling_has(&self, name: &FileName) -> Result<bool, LocalError> {
        let Some(parent) = self.path.parent() else { return Ok(false) };
        let failed = |source| LocalError::Read { path: parent.into(), source };
        for entry in fs::read_dir(parent).map_err(failed)? {
            let sibling = entry.map_err(failed)?.path();
            if sibling == self.path || !State::is_at(&sibling, &self.metadata) {
                continue;
            }
            match statat(CWD, sibling.join(name.as_str()), AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                // In doubt it has.
                _ => return Ok(true),
            }
        }
        Ok(false)
    }

    /// Ends the removals that were noted and not finished. The names whose sidecar may have gone; and what failed.
    pub(super) fn finish_removals(&self, entered: &Entered, listing: &Listing) -> (Vec<FileName>, Vec<LocalError>) {
        let mut failures: Vec<LocalError> = self.state.read_rest(listing).err().into_iter().collect();
        let mut finished = Vec::new();
        for (name, version) in self.state.intended() {
            let ended = match look(entered, &self.path, &name) {
                Ok(Look::File(stamp)) if stamp.is_content_of(&version) => self.state.take_back(&name),
                Ok(_) => self.remove_sidecar(&name, &version).and_then(|()| {
                    finished.push(name.clone());
                    self.state.take_back(&name)
                }),
                // The listing says so itself.
                Err(_) => Ok(()),
            };
            failures.extend(ended.err());
        }
        (finished, failures)
    }
}

/// Removes one name from a folder, on the disk on return. False: it was not there.
fn unlink(folder: impl AsFd, path: &Path, name: &FileName) -> Result<bool, LocalError> {
    let full = path.join(name.as_str());
    match unlinkat(&folder, name.as_str(), AtFlags::empty()) {
        Err(Errno::NOENT) => return Ok(false),
        Err(error) => {
            let hint = hint(error, &folder, name);
            return Err(LocalError::Remove { path: full, hint, source: error.into() });
        }
        Ok(()) => {}
    }
    fsync(&folder).map_err(|error| LocalError::Sync { path: path.into(), source: error.into() })?;
    Ok(true)
}

/// What would let the file go; nothing where that cannot be told.
fn hint(error: Errno, folder: impl AsFd, name: &FileName) -> &'static str {
    let held = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
    let is_held =
        |name: &str, flags| statx(&folder, name, flags, StatxFlags::empty()).is_ok_and(|stat| stat.stx_attributes.intersects(held));
    match error {
        Errno::PERM if is_held(name.as_str(), AtFlags::SYMLINK_NOFOLLOW) => ": it is immutable or append-only, which `chattr -i -a` ends",
        Errno::PERM if is_held("", AtFlags::EMPTY_PATH) => ": its folder is immutable or append-only, which `chattr -i -a` ends",
        Errno::PERM | Errno::ACCESS => ": this process must be allowed to write in its folder",
        Errno::ROFS => ": its file system is mounted read-only",
        _ => "",
    }
}
