//! Atomic writes, and the temporaries that a kill in the middle of one leaves behind (docs/design.md 6, *temporaries*).
//!
//! In: a path and its new bytes. Out: the old file or the new one, never half of either, whenever it is killed.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, RenameFlags, linkat, renameat_with, unlinkat};
use rustix::io::Errno;

use crate::snapshot::NodeName;
use crate::snapshot::file::hex10;

/// A temporary is locked by its writer, at once; one that is older than this and not locked is in nobody's use.
const UNLOCKED: Duration = Duration::from_mins(1);

/// Replaces a file by these bytes: mode 0600, on the disk before its name is, and its name on the disk on return.
pub fn write(path: &Path, bytes: &[u8], node: &NodeName) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let (temporary, mut file) = temporary(directory, node)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        // What cannot be removed now goes at the next start.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    File::open(directory)?.sync_all()
}

/// Gives a file its name in the same directory, where nothing has that name yet; else it is
/// [`io::ErrorKind::AlreadyExists`], and both stay as they are.
pub fn rename_new(directory: BorrowedFd<'_>, from: &str, to: &str) -> io::Result<()> {
    match renameat_with(directory, from, directory, to, RenameFlags::NOREPLACE) {
        // The file system cannot do it in one step.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => link_new(directory, from, to),
        done => Ok(done?),
    }
}

/// The same in two steps, each of which leaves a whole file under each name.
fn link_new(directory: BorrowedFd<'_>, from: &str, to: &str) -> io::Result<()> {
    linkat(directory, from, directory, to, AtFlags::empty())?;
    // What is left of the old name is a temporary like others, and goes with them.
    let _ = unlinkat(directory, from, AtFlags::empty());
    Ok(())
}

/// A new file of this node in a directory, under a name that no listing takes for a snapshot. While it is open it is
/// locked, so that no sweep takes it for abandoned.
pub fn temporary(directory: &Path, node: &NodeName) -> io::Result<(PathBuf, File)> {
    loop {
        let path = directory.join(format!("{}{}", prefix(node), random()));
        match OpenOptions::new().write(true).read(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => {
                // A file system without locks has the age alone to go by.
                let _ = file.try_lock();
                return Ok((path, file));
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// Removes the temporaries of this node from a directory, but for those that are locked: somebody is writing them. Unless
/// `age` is zero, which says that nobody can be at work, the young ones stay as well. Where the file system has no locks, so do
/// all that are not older than `age`. Other nodes' stay: on a shared directory they may be at work.
pub fn sweep(directory: &Path, node: &NodeName, age: Duration) -> io::Result<()> {
    let prefix = prefix(node);
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)) {
            continue;
        }
        let age = match File::open(entry.path()).map(|file| file.try_lock()) {
            Ok(Err(TryLockError::WouldBlock)) => continue,
            Ok(Ok(())) => age.min(UNLOCKED),
            Ok(Err(TryLockError::Error(_))) | Err(_) => age,
        };
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        if age.is_zero() || modified.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|old| old > age)) {
            match fs::remove_file(entry.path()) {
                // It was renamed into place just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                done => done?,
            }
        }
    }
    Ok(())
}

/// Creates a directory, with its parents, for root's eyes only.
pub fn create_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Takes a directory from all eyes but root's while nothing is in it; what somebody has filled stays as they want it.
pub fn close_if_empty(path: &Path) {
    if fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none()) {
        // It is somebody else's, if not ours to close.
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
    }
}

fn prefix(node: &NodeName) -> String {
    format!(".etcd-snapshot-operator-{}-", hex10(node.as_str()))
}

/// Sixteen hex digits, other ones each time; for names that must not meet, not for secrets.
pub fn random() -> String {
    format!("{:016x}", RandomState::new().hash_one(std::process::id()))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_write_leaves_the_new_bytes_alone_in_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.json");
        let node = NodeName::new("cp1").unwrap();
        for bytes in [&b"old and long"[..], b"new"] {
            write(&path, bytes, &node).unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(names(directory.path()), ["x.json"]);
        }
        fs::create_dir(directory.path().join("occupied")).unwrap();
        assert!(write(&directory.path().join("occupied"), b"x", &node).is_err());
        assert_eq!(names(directory.path()), ["occupied", "x.json"], "a failed write leaves nothing behind");
    }

    #[test]
    fn a_new_name_never_takes_the_place_of_another_file() {
        for rename in [rename_new, link_new] {
            let directory = tempfile::tempdir().unwrap();
            let opened = File::open(directory.path()).unwrap();
            let path = |name: &str| directory.path().join(name);
            fs::write(path("a"), "a").unwrap();
            fs::write(path("b"), "b").unwrap();
            assert_eq!(rename(opened.as_fd(), "a", "b").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            assert_eq!((fs::read(path("a")).unwrap(), fs::read(path("b")).unwrap()), (b"a".to_vec(), b"b".to_vec()));
            rename(opened.as_fd(), "a", "c").unwrap();
            assert_eq!((names(directory.path()), fs::read(path("c")).unwrap()), (vec!["b".into(), "c".into()], b"a".to_vec()));
        }
    }

    #[test]
    fn a_temporary_that_its_writer_left_is_swept_also_while_others_are_at_work() {
        let directory = tempfile::tempdir().unwrap();
        let node = NodeName::new("cp1").unwrap();
        let (written, file) = temporary(directory.path(), &node).unwrap();
        let (left, abandoned) = temporary(directory.path(), &node).unwrap();
        let minutes_ago = SystemTime::now() - Duration::from_mins(5);
        file.set_modified(minutes_ago).unwrap();
        abandoned.set_modified(minutes_ago).unwrap();
        drop(abandoned);
        sweep(directory.path(), &node, Duration::from_hours(1)).unwrap();
        assert_eq!((written.exists(), left.exists()), (true, false));
        sweep(directory.path(), &node, Duration::ZERO).unwrap();
        assert!(written.exists());
    }

    #[test]
    fn only_own_temporaries_are_swept_and_young_ones_only_when_nobody_can_be_using_them() {
        let directory = tempfile::tempdir().unwrap();
        let (own, other) = (NodeName::new("cp1").unwrap(), NodeName::new("cp2").unwrap());
        let (young, _) = temporary(directory.path(), &own).unwrap();
        let (old, file) = temporary(directory.path(), &own).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_hours(2)).unwrap();
        drop(file);
        let (others, file) = temporary(directory.path(), &other).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        sweep(directory.path(), &own, Duration::from_hours(1)).unwrap();
        assert_eq!((young.exists(), old.exists(), others.exists()), (true, false, true));
        sweep(directory.path(), &own, Duration::ZERO).unwrap();
        assert_eq!((young.exists(), others.exists()), (false, true));
    }
}
