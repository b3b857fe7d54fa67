//! Snapshots as bytes: whole ones, real or cheap, and every way to damage them.

use std::io::{Cursor, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};
use zip::write::SimpleFileOptions;

use crate::etcd::Etcd;

const PAGE: usize = 512;

/// `etcdctl snapshot save` of a real member.
pub async fn real(etcd: &Etcd) -> Result<Vec<u8>> {
    let dir = crate::process::scratch()?;
    let path = dir.path().join("snapshot");
    etcd.save(&path).await?;
    std::fs::read(&path).with_context(|| format!("read {}", path.display()))
}

/// A whole snapshot of 544 bytes: it begins like a bbolt file and ends with its SHA-256, and no etcd would restore it.
/// Another number gives other bytes.
pub fn tiny(number: u64) -> Vec<u8> {
    sized(number, PAGE)
}

/// [`tiny`] with a database of at least so many bytes, in whole pages.
pub fn sized(number: u64, database: usize) -> Vec<u8> {
    let mut bytes = vec![0; database.max(1).next_multiple_of(PAGE)];
    // bbolt's first page: its header says "meta", then magic number, version and page size.
    bytes[8] = 4;
    bytes[16..20].copy_from_slice(&0xED0C_DAED_u32.to_le_bytes());
    bytes[20..24].copy_from_slice(&2_u32.to_le_bytes());
    bytes[24..28].copy_from_slice(&4096_u32.to_le_bytes());
    bytes[100..108].copy_from_slice(&number.to_le_bytes());
    with_trailer(bytes)
}

/// Appends the SHA-256 that makes a database file a snapshot.
pub fn with_trailer(mut database: Vec<u8>) -> Vec<u8> {
    let digest = Sha256::digest(&database);
    database.extend_from_slice(&digest);
    database
}

/// One bit in the middle is another.
pub fn bit_flipped(snapshot: &[u8]) -> Vec<u8> {
    let mut bytes = snapshot.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes
}

/// The first half.
pub fn truncated(snapshot: &[u8]) -> Vec<u8> {
    snapshot[..snapshot.len() / 2].to_vec()
}

/// The database alone: a size that no snapshot has.
pub fn without_trailer(snapshot: &[u8]) -> Vec<u8> {
    snapshot[..snapshot.len() - 32].to_vec()
}

/// A zip file as K3s writes one: a single entry, named like the file without `.zip`.
pub fn zipped(entry: &str, snapshot: &[u8]) -> Result<Vec<u8>> {
    zip_of(&[(entry, snapshot)])
}

/// A zip file with these entries, deflated.
pub fn zip_of(entries: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        zip.start_file(*name, SimpleFileOptions::default())?;
        zip.write_all(content)?;
    }
    Ok(zip.finish()?.into_inner())
}

/// A small zip file whose entry inflates to so many MiB of zeros.
pub fn zip_bomb(entry: &str, mebibytes: usize) -> Result<Vec<u8>> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file(entry, SimpleFileOptions::default().large_file(true))?;
    let zeros = vec![0; 1024 * 1024];
    for _ in 0..mebibytes {
        zip.write_all(&zeros)?;
    }
    Ok(zip.finish()?.into_inner())
}

/// `etcd-snapshot-<node>-<seconds>`, the name of a scheduled snapshot.
pub fn name(node: &str, seconds: i64) -> String {
    format!("etcd-snapshot-{node}-{seconds}")
}

/// Puts a file into a directory at once, as the operator and K3s do: written beside it, then renamed into place.
pub fn place(dir: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf> {
    let path = dir.join(name);
    let mut beside = tempfile::Builder::new().prefix(".e2e-").tempfile_in(dir)?;
    beside.write_all(bytes)?;
    beside.persist(&path).with_context(|| format!("put {}", path.display()))?;
    Ok(path)
}

/// Makes a file look as if it had last changed so many seconds ago.
pub fn age(path: &Path, seconds: u64) -> Result<()> {
    let then = std::time::SystemTime::now() - std::time::Duration::from_secs(seconds);
    std::fs::File::options().write(true).open(path)?.set_modified(then).with_context(|| format!("age {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cheap_snapshots_are_whole_pages_with_the_digest_of_them() {
        for snapshot in [tiny(1), sized(2, 5000)] {
            let (database, trailer) = snapshot.split_at(snapshot.len() - 32);
            assert_eq!(database.len() % PAGE, 0);
            assert_eq!(Sha256::digest(database).as_slice(), trailer);
        }
        assert_ne!(tiny(1), tiny(2));
    }

    #[test]
    fn damage_changes_what_it_says() {
        let snapshot = tiny(1);
        assert_ne!(bit_flipped(&snapshot), snapshot);
        assert_eq!(bit_flipped(&snapshot).len(), snapshot.len());
        assert_eq!(truncated(&snapshot).len(), 272);
        assert_eq!(without_trailer(&snapshot).len() % PAGE, 0);
        assert!(zip_bomb("a", 8).unwrap().len() < 20_000);
    }
}
