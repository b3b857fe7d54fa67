//! The notes of the files: read once each, then known from memory; changed on the disk first.
//!
//! Another process of this node, a verb by hand, may change a note as well. So a change begins with what the disk has.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::note::{Form, Judged, Note};
use super::{FORM, LocalError, Memory, State, read};
use crate::snapshot::file::short_hex;
use crate::snapshot::{FileName, Listing, StorageId, Upload, UploadId, Version};

/// How many files' notes one listing forgets at most.
const FORGOTTEN_AT_ONCE: usize = 200;

impl State {
    /// What verifying this content showed; None when that is not known.
    pub fn judged(&self, name: &FileName, content: &str) -> Result<Option<Judged>, LocalError> {
        let mut memory = self.memory();
        if let Some((_, judged)) = memory.unsaved.get(name).filter(|(of, _)| of == content) {
            return Ok(Some(judged.clone()));
        }
        if !memory.notes.contains_key(name)
            && let Some((_, note)) = self.read_note(&self.path_of(name))?
        {
            memory.notes.insert(name.clone(), note);
        }
        Ok(memory.notes.get(name).filter(|note| note.content == content).and_then(|note| note.judged.clone()))
    }

    /// Notes what verifying showed: from now on in memory, and on the disk as soon as it can be written.
    pub fn note(&self, name: &FileName, content: &str, judged: Judged) {
        self.memory().unsaved.insert(name.clone(), (content.into(), judged));
        // The next listing tries again and reports it.
        let _ = self.save();
    }

    /// Writes what is only in memory yet.
    pub fn save(&self) -> Result<(), LocalError> {
        let mut memory = self.memory();
        while let Some((name, (content, judged))) = memory.unsaved.first_key_value().map(|(name, one)| (name.clone(), one.clone())) {
            self.change(&mut memory, &name, |note| {
                note.turn_to(&content);
                note.judged = Some(judged);
            })?;
            memory.unsaved.remove(&name);
        }
        Ok(())
    }

    /// Notes how far an upload of this content has come, on the disk on return.
    pub fn note_upload(&self, name: &FileName, content: &str, to: &StorageId, upload: Upload) -> Result<(), LocalError> {
        self.change(&mut self.memory(), name, |note| {
            note.turn_to(content);
            note.upload(to, upload);
        })
    }

    /// Forgets a multipart upload that was begun, now that there is none; without `which`, whichever is gone on with.
    pub fn forget_begun(&self, name: &FileName, to: &StorageId, which: Option<&UploadId>) -> Result<(), LocalError> {
        self.change(&mut self.memory(), name, |note| note.forget_begun(to, which))
    }

    /// The notes that tell of uploads, from memory alone: it has what the listings have looked up.
    pub fn of_uploads(&self) -> Vec<(FileName, Note)> {
        let memory = self.memory();
        let tells = |(_, note): &(&FileName, &Note)| !note.uploads.is_empty() || !note.abandoned.is_empty();
        memory.notes.iter().filter(tells).map(|(name, note)| (name.clone(), note.clone())).collect()
    }

    /// Notes that this version of a file is about to be removed. On a full disk it is remembered in memory alone: what is
    /// removed then is what makes room.
    pub fn intend(&self, name: &FileName, version: &Version) -> Result<(), LocalError> {
        let mut memory = self.memory();
        match self.change(&mut memory, name, |note| note.removing = Some(version.clone())) {
            Err(LocalError::State { source, .. }) if is_full(&source) => {
                memory.notes.entry(name.clone()).or_default().removing = Some(version.clone());
                Ok(())
            }
            noted => noted,
        }
    }

    /// What was about to be removed.
    pub fn intended(&self) -> Vec<(FileName, Version)> {
        // Who only looks finishes nothing.
        if self.read_only {
            return Vec::new();
        }
        self.memory().notes.iter().filter_map(|(name, note)| Some((name.clone(), note.removing.clone()?))).collect()
    }

    /// Notes that nothing of this file is about to be removed any more.
    pub fn take_back(&self, name: &FileName) -> Result<(), LocalError> {
        self.change(&mut self.memory(), name, |note| note.removing = None)
    }

    /// Forgets a file that was removed, but for what is left to do.
    pub fn forget(&self, name: &FileName) -> Result<(), LocalError> {
        let mut memory = self.memory();
        memory.unsaved.remove(name);
        self.change(&mut memory, name, |note| {
            note.removing = None;
            if !note.is_pending() {
                *note = Note::default();
            }
        })
    }

    /// Forgets files that a complete listing of everything that is ours does not have; some of them, when there are many.
    pub fn forget_all_but(&self, listing: &Listing) -> Result<(), LocalError> {
        if self.read_only {
            return Ok(());
        }
        let mut memory = self.memory();
        memory.unsaved.retain(|name, _| listing.contains_key(name));
        let is_gone = |(name, note): &(&FileName, &Note)| !listing.contains_key(*name) && !note.is_pending();
        let gone: Vec<FileName> = memory.notes.iter().filter(is_gone).map(|(name, _)| name.clone()).take(FORGOTTEN_AT_ONCE).collect();
        for name in gone {
            remove(&self.path_of(&name))?;
            memory.notes.remove(&name);
        }
        Ok(())
    }

    /// Reads the notes of files that this listing does not have, once.
    pub fn read_rest(&self, listing: &Listing) -> Result<(), LocalError> {
        let mut memory = self.memory();
        if memory.all_read {
            return Ok(());
        }
        let files = self.own.join("files");
        let failed = |source| LocalError::State { verb: "read", path: files.clone(), source };
        let entries = match fs::read_dir(&files) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(failed)?,
        };
        let read: BTreeSet<PathBuf> = listing.keys().chain(memory.notes.keys()).map(|name| self.path_of(name)).collect();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "json")
                && !read.contains(&path)
                && let Some((name, note)) = self.read_note(&path)?
            {
                memory.notes.insert(name, note);
            }
        }
        memory.all_read = true;
        Ok(())
    }

    /// Changes what is remembered of one file: on the disk, then in memory.
    fn change(&self, memory: &mut Memory, name: &FileName, change: impl FnOnce(&mut Note)) -> Result<(), LocalError> {
        let path = self.path_of(name);
        // Somebody may have removed the state under us; that takes nothing from what is known.
        let read = self.read_note(&path)?.map(|(_, note)| note);
        let before = read.clone().or_else(|| memory.notes.get(name).cloned());
        let mut note = before.clone().unwrap_or_default();
        change(&mut note);
        if self.read_only {
            memory.notes.insert(name.clone(), note);
            return Ok(());
        }
        if note.is_empty() {
            remove(&path)?;
            memory.notes.remove(name);
            return Ok(());
        }
        if read.as_ref() != Some(&note) {
            self.write(&path, &Form::of(name, &note))?;
        }
        memory.notes.insert(name.clone(), note);
        Ok(())
    }

    fn read_note(&self, path: &Path) -> Result<Option<(FileName, Note)>, LocalError> {
        let name = |form: &Form| FileName::new(&form.name).ok().filter(|name| self.path_of(name) == path);
        let form = read(path, |form: &Form| form.v == FORM && name(form).is_some())?;
        Ok(form.and_then(|form| Some((name(&form)?, form.note()))))
    }

    fn path_of(&self, name: &FileName) -> PathBuf {
        self.own.join("files").join(format!("{}.json", short_hex(name.as_str(), 32)))
    }
}

fn remove(path: &Path) -> Result<(), LocalError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(LocalError::State { verb: "remove", path: path.into(), source }),
        _ => Ok(()),
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
