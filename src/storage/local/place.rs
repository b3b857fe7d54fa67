//! Which directory the path leads to, and whether that is the one we know.
//!
//! In: the path. Out: an open directory that may be listed, or why not. A listing of the wrong directory would look like
//! snapshots gone, so in doubt there is none.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, open, statat};
use serde::{Deserialize, Serialize};

use super::atomic;
use super::error::LocalError;
use super::state::State;
use crate::snapshot::{FileName, Version};

/// No sidecar of ours or of K3s is larger; a record could not hold it anyway.
pub const LARGEST_SIDECAR: u64 = 4 << 20;

/// Device and inode of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryId {
    device: u64,
    inode: u64,
}

impl DirectoryId {
    /// Of what the path leads to now.
    pub fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::in_stat(&statat(CWD, path, AtFlags::empty())?))
    }

    fn in_stat(stat: &Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }
}

/// Inode, bytes and modification time in nanoseconds: the file's part of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The inode.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since 1970.
    pub modified: i128,
}

impl Stamp {
    /// Of a regular file; None for anything else.
    pub fn of(stat: &Stat) -> Option<Self> {
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let modified = i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec);
        Some(Self { inode: stat.st_ino, size: u64::try_from(stat.st_size).unwrap_or(0), modified }).filter(|_| regular)
    }

    /// The version of a file with this stamp and perhaps a sidecar.
    pub fn version(self, sidecar: Option<Self>) -> Version {
        let token = |stamp: Self| (stamp.inode, stamp.size, stamp.modified);
        Version::local(token(self), sidecar.map(token))
    }

    /// Whether a file with this stamp has the content that the version is of.
    pub fn is_content_of(self, version: &Version) -> bool {
        self.version(None).of_content() == version.of_content()
    }

    /// Whether a sidecar with this stamp is the one that the version is of.
    pub fn is_sidecar_of(self, version: &Version) -> bool {
        self.version(Some(self)).of_sidecar() == version.of_sidecar()
    }
}

/// The directory as it stands just now.
#[derive(Debug)]
pub struct Entered {
    /// For everything that is looked up in it: the path may lead elsewhere a moment later.
    pub directory: OwnedFd,
    /// Which one it is.
    pub id: DirectoryId,
}

/// Opens the directory; creates it, 0700, when neither it nor its state ever existed. `known` is the one that was
/// accepted since we started; another one than that, or what is left of a removed one, is refused.
///
/// A snapshot directory that is itself a symlink is followed: K3s takes such a one for a single file and shows nothing of
/// its content (docs/k3s.md 2.6), while people who move snapshots to a larger disk expect the link to work.
pub fn enter(path: &Path, state: &State, known: Option<DirectoryId>) -> Result<Entered, LocalError> {
    let read = |source: rustix::io::Errno| match source {
        rustix::io::Errno::NOTDIR => LocalError::NotADirectory(path.into()),
        rustix::io::Errno::NOENT => LocalError::Missing(path.into()),
        source => LocalError::Read { path: path.into(), source: source.into() },
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut opened = open(path, flags, Mode::empty());
    // A symlink that leads nowhere did exist.
    let absent = || statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).is_err_and(|error| error == rustix::io::Errno::NOENT);
    if opened.as_ref().is_err_and(|error| *error == rustix::io::Errno::NOENT) && known.is_none() && absent() && !state.ever_existed() {
        atomic::create_directory(path).map_err(|source| LocalError::Create { path: path.into(), source })?;
        opened = open(path, flags, Mode::empty());
    }
    let directory = opened.map_err(read)?;
    let stat = fstat(&directory).map_err(read)?;
    let id = DirectoryId::in_stat(&stat);
    match known {
        _ if stat.st_nlink == 0 => Err(LocalError::Removed(path.into())),
        Some(known) if known != id => Err(LocalError::Replaced(path.into())),
        _ => Ok(Entered { directory, id }),
    }
}

/// What stands under one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// A file that can be a snapshot.
    File(Stamp),
    /// Something else: empty, no regular file, or a symlink that leads out of the directory or nowhere.
    Other,
    /// Nothing.
    Nothing,
}

/// Looks at one name. A symlink to a file of the same directory counts as that file under one more name; K3s lists every
/// symlink with the link's own size, wherever it leads.
pub fn look(entered: &Entered, path: &Path, name: &FileName) -> Result<Look, LocalError> {
    let full = path.join(name.as_str());
    let failed = |source: io::Error| LocalError::Read { path: full.clone(), source };
    let stat_of = |name: &str| match statat(&entered.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(failed(error.into())),
    };
    let Some(mut stat) = stat_of(name.as_str())? else {
        return Ok(Look::Nothing);
    };
    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        let Some(target) = leads_to(path, &full).map_err(failed)? else {
            return Ok(Look::Other);
        };
        let Some(behind) = stat_of(target.as_str())? else {
            return Ok(Look::Other);
        };
        stat = behind;
    }
    Ok(Stamp::of(&stat).filter(|stamp| stamp.size > 0).map_or(Look::Other, Look::File))
}

/// The name in the same directory that a symlink leads to in the end.
fn leads_to(directory: &Path, link: &Path) -> io::Result<Option<FileName>> {
    let target: PathBuf = match link.canonicalize() {
        Ok(target) => target,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => return Err(error),
    };
    let inside = target.parent() == Some(directory.canonicalize()?.as_path());
    let name = target.file_name().and_then(|name| name.to_str()).and_then(|name| FileName::new(name).ok());
    Ok(name.filter(|_| inside))
}
