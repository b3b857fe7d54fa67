//! Where a snapshot is brought to: a temporary beside its place that a later run can take up, and the one rename that makes it a snapshot.
//!
//! In: a directory and an object. Out: a file of mode 0600 under its name, once somebody has verified it; before that only hidden files.
//! Nothing that is there is ever replaced. All of it blocks.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with, statvfs};
use serde::{Deserialize, Serialize};

use crate::cli::terminal;
use crate::cli::trouble::Trouble;
use crate::snapshot::file::hex10;
use crate::snapshot::{FileName, NodeName, Storage};
use crate::storage::local::atomic;
use crate::storage::s3::download::Found;

/// Of which object a temporary is.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    v: u32,
    name: String,
    etag: String,
    size: u64,
}

/// The place of one snapshot.
#[derive(Debug)]
pub struct Target {
    /// Where the snapshot will be.
    pub path: PathBuf,
    temporary: PathBuf,
    note: PathBuf,
    file: File,
    /// How many bytes an earlier run brought.
    pub at: u64,
}

/// Where a snapshot of this name goes in a directory: under its own name, less `.zip` when it is unpacked.
pub fn place(directory: &Path, name: &FileName, keep_zip: bool) -> PathBuf {
    let name = name.as_str();
    directory.join(if keep_zip { name } else { name.strip_suffix(".zip").unwrap_or(name) })
}

impl Target {
    /// Takes up what an earlier run left of this very object, else begins anew. One process at a time.
    pub fn open(path: PathBuf, storage: &Storage, found: &Found) -> Result<Self, Trouble> {
        let directory = path.parent().unwrap_or(Path::new("."));
        let beside = format!(".etcd-snapshot-operator-get-{}", hex10(&format!("{}\n{}", storage.id(), found.file.name)));
        let temporary = directory.join(&beside);
        let note = directory.join(format!("{beside}.json"));
        let cannot = |error: &io::Error| Trouble::failed(format!("cannot write into {}", shown(directory))).because_of(error);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(no_follow());
        let mut file = options.open(&temporary).map_err(|error| cannot(&error))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                return Err(Trouble::failed(format!("another get is bringing {} to {}", found.file.name, shown(directory))));
            }
            // A file system without locks has one get at a time, as far as we can know.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let wanted = Note { v: 1, name: found.file.name.to_string(), etag: found.etag.clone(), size: found.file.size };
        let length = file.metadata().map_err(|error| cannot(&error))?.len();
        let is_same = fs::read(&note).is_ok_and(|bytes| serde_json::from_slice(&bytes).is_ok_and(|note: Note| note == wanted));
        let at = if is_same && length <= wanted.size { length } else { 0 };
        if !is_same || at == 0 {
            file.set_len(0).map_err(|error| cannot(&error))?;
            write_note(&note, &wanted).map_err(|error| cannot(&error))?;
        }
        file.seek(SeekFrom::Start(at)).map_err(|error| cannot(&error))?;
        Ok(Self { path, temporary, note, file, at })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    /// What is brought is written here.
    pub fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Fails when so many more bytes cannot fit.
    pub fn check_room(&self, bytes: u64) -> Result<(), Trouble> {
        // Who cannot be asked has room until writing says otherwise.
        let Ok(room) = statvfs(self.directory()) else { return Ok(()) };
        let free = room.f_bavail.saturating_mul(room.f_frsize);
        if free >= bytes {
            return Ok(());
        }
        let (needs, has) = (terminal::bytes(bytes), terminal::bytes(free));
        Err(Trouble::failed(format!("{} has {has} free, and {needs} are needed", shown(self.directory())))
            .because("name another directory with --to"))
    }

    /// Begins anew: what was brought is worth nothing.
    pub fn begin_anew(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.at = 0;
        Ok(())
    }

    /// A second temporary beside the first, for what is unpacked.
    pub fn unpacked(&self) -> io::Result<(PathBuf, File)> {
        let path = self.unpacked_path();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600).custom_flags(no_follow());
        let file = options.open(&path)?;
        Ok((path, file))
    }

    /// Gives the verified bytes their name. `unpacked` is where they are, when that is not the first temporary.
    pub fn finish(self, unpacked: Option<&Path>) -> Result<PathBuf, Trouble> {
        let cannot = |error: &io::Error| Trouble::failed(format!("cannot give {} its name", shown(&self.path))).because_of(error);
        let from = unpacked.unwrap_or(&self.temporary);
        File::open(from).and_then(|file| file.sync_all()).map_err(|error| cannot(&error))?;
        rename(from, &self.path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Trouble::refused(format!("{} is there already and is not replaced", shown(&self.path))),
            _ => cannot(&error),
        })?;
        File::open(self.directory()).and_then(|directory| directory.sync_all()).map_err(|error| cannot(&error))?;
        if unpacked.is_some() {
            let _ = fs::remove_file(&self.temporary);
        }
        let _ = fs::remove_file(&self.note);
        Ok(self.path)
    }

    /// Leaves nothing behind.
    pub fn discard(self) {
        self.discard_unpacked();
        for path in [&self.temporary, &self.note] {
            let _ = fs::remove_file(path);
        }
    }

    /// Leaves nothing of what was unpacked behind.
    pub fn discard_unpacked(&self) {
        let _ = fs::remove_file(self.unpacked_path());
    }

    fn unpacked_path(&self) -> PathBuf {
        let mut path = self.temporary.clone().into_os_string();
        path.push("-unpacked");
        path.into()
    }
}

/// Puts a sidecar where the snapshot's agent looks for it: beside the snapshot directory, and in `.metadata` inside any other directory.
pub fn sidecar_place(path: &Path, snapshot_dir: Option<&Path>) -> PathBuf {
    let directory = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default();
    let is_snapshot_dir =
        snapshot_dir.is_some_and(|dir| dir.canonicalize().ok().is_some_and(|dir| Some(dir) == directory.canonicalize().ok()));
    match snapshot_dir.and_then(Path::parent).filter(|_| is_snapshot_dir) {
        Some(parent) => parent.join(".metadata").join(name),
        None => directory.join(".metadata").join(name),
    }
}

/// Writes a sidecar, 0600, in place of an older one: the snapshot that that one was of is not there.
pub fn write_sidecar(path: &Path, bytes: &[u8], node: &NodeName) -> Result<(), Trouble> {
    let written = match path.parent() {
        Some(parent) => atomic::create_directory(parent).and_then(|()| atomic::write(path, bytes, node)),
        None => atomic::write(path, bytes, node),
    };
    written.map_err(|error| Trouble::failed(format!("cannot write the sidecar {}", shown(path))).because_of(&error))
}

fn write_note(path: &Path, note: &Note) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(no_follow());
    serde_json::to_writer(options.open(path)?, note).map_err(Into::into)
}

/// A rename that replaces nothing, also where the file system has no such rename.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::io::Errno;
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        renamed => Ok(renamed?),
    }
}

/// Somebody may have put a link where a temporary goes.
fn no_follow() -> i32 {
    OFlags::NOFOLLOW.bits().cast_signed()
}

/// A path as sentences have it.
pub fn shown(path: &Path) -> String {
    terminal::harmless(&path.display().to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    use jiff::Timestamp;

    use super::*;
    use crate::snapshot::{Known, Manifest, Metadata, SnapshotFile, Verdict, Version};

    fn found(etag: &str) -> Found {
        let known = Known {
            verdict: Verdict::Whole,
            manifest: Manifest::default(),
            cluster: None,
            node: None,
            token_hash: None,
            metadata: Metadata::Read(BTreeMap::new()),
        };
        let file = SnapshotFile {
            name: FileName::new("s-n-1.zip").unwrap(),
            size: 10,
            modified: Timestamp::UNIX_EPOCH,
            version: Version::remembered("v"),
            at_rest: true,
            known: Some(known),
        };
        Found { file, etag: etag.into(), sha256: None, program: None, fault: None }
    }

    fn names(directory: &Path) -> Vec<String> {
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn what_an_earlier_run_brought_is_taken_up_of_the_same_object_only() {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::s3("h", true, "b", "f");
        let open = |etag: &str| Target::open(directory.path().join("s-n-1"), &storage, &found(etag));
        let target = open("a").unwrap();
        target.file().unwrap().write_all(b"1234").unwrap();
        assert!(open("a").unwrap_err().sentence.contains("another get is bringing s-n-1.zip"));
        drop(target);
        assert_eq!(open("a").unwrap().at, 4);
        assert_eq!(open("b").unwrap().at, 0, "another object");
        open("b").unwrap().file().unwrap().write_all(b"too many bytes").unwrap();
        assert_eq!(open("b").unwrap().at, 0);
        open("b").unwrap().discard();
        assert_eq!(names(directory.path()), Vec::<String>::new());
    }

    #[test]
    fn what_is_there_is_not_replaced_and_what_is_new_is_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s-n-1");
        let storage = Storage::s3("h", true, "b", "f");
        let target = Target::open(path.clone(), &storage, &found("a")).unwrap();
        target.file().unwrap().write_all(b"new").unwrap();
        target.finish(None).unwrap();
        assert_eq!(
            (fs::metadata(&path).unwrap().permissions().mode() & 0o777, names(directory.path())),
            (0o600, vec!["s-n-1".to_string()])
        );
        let target = Target::open(path.clone(), &storage, &found("a")).unwrap();
        let refusal = target.finish(None).unwrap_err();
        assert_eq!((refusal.code, fs::read(&path).unwrap()), (4, b"new".to_vec()));
    }

    #[test]
    fn a_sidecar_is_where_whoever_looks_for_it_looks() {
        let root = tempfile::tempdir().unwrap();
        let snapshots = root.path().join("db/snapshots");
        fs::create_dir_all(&snapshots).unwrap();
        let of = |path: PathBuf| sidecar_place(&path, Some(&snapshots));
        assert_eq!(of(snapshots.join("s")), root.path().join("db/.metadata/s"));
        assert_eq!(of(root.path().join("s")), root.path().join(".metadata/s"));
    }

    #[test]
    fn more_than_fits_is_refused_before_it_is_brought() {
        let directory = tempfile::tempdir().unwrap();
        let target = Target::open(directory.path().join("s"), &Storage::s3("h", true, "b", "f"), &found("a")).unwrap();
        assert!(target.check_room(1).is_ok());
        assert!(target.check_room(u64::MAX).unwrap_err().sentence.contains(" free, and 16383 PiB are needed"));
    }
}
