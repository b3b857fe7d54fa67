//! Brings one object: downloads it, verifies it, unpacks it, and gives it its name.
//!
//! In: an object that was found. Out: a snapshot that was read to its end and matches its own digest; or no file at all, but for what a
//! later run can take up.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::progress::Progress;
use super::target::{self, Target, shown};
use crate::cli::terminal::note;
use crate::cli::trouble::Trouble;
use crate::snapshot::manifest::PREFIX;
use crate::snapshot::verify::verify;
use crate::snapshot::{Digest, FileName, Manifest, Metadata, NodeName, Verdict};
use crate::storage::s3::Bucket;
use crate::storage::s3::download::{Found, NotDownloaded};
use crate::storage::zip;

/// Bytes hashed at a time.
const PIECE: usize = 256 * 1024;
/// How often an object that changes under us is begun anew.
const PATIENCE: usize = 3;

/// What to do with it.
#[derive(Debug, Clone)]
pub struct Order {
    /// The directory it goes to.
    pub to: PathBuf,
    /// The archive stays one.
    pub keep_zip: bool,
    /// The snapshot directory of this node, if it is known.
    pub snapshot_dir: Option<PathBuf>,
    /// Who we are, for temporaries.
    pub node: NodeName,
}

/// A snapshot that is here.
#[derive(Debug)]
pub struct Brought {
    /// Where it is.
    pub path: PathBuf,
    /// What was brought, as it was found.
    pub found: Found,
    /// Digests and sizes of what is here.
    pub digests: Manifest,
    /// It was here before.
    pub was_here: bool,
}

/// Brings the object of this name.
pub async fn bring(bucket: &Bucket, mut found: Found, order: &Order, stop: &CancellationToken) -> Result<Brought, Trouble> {
    let path = target::place(&order.to, &found.file.name, order.keep_zip);
    if path.symlink_metadata().is_ok() {
        return was_here(path, found, stop).await;
    }
    let mut second_chance = true;
    for _ in 0..PATIENCE {
        let mut target = Target::open(path.clone(), bucket.storage(), &found)?;
        let took_up = target.at > 0;
        target.check_room(needed(&found, &target, order))?;
        match download(bucket, &found, &mut target, stop).await {
            Ok(()) => {}
            Err(NotDownloaded::Changed) => {
                target.discard();
                let name = &found.file.name;
                note(format_args!("{name} changed while it was downloaded: it is downloaded anew"));
                found = bucket.find(name).await.map_err(|error| Trouble::from(error.failure()))?.ok_or_else(|| gone(bucket, name))?;
                continue;
            }
            Err(error) => return Err(not_brought(error, &found, &target)),
        }
        let progress = Progress::of_unknown_length("verifying");
        let verified = verified(&target, found.clone(), order.keep_zip, stop.clone()).await;
        progress.end();
        match verified {
            Ok((digests, unpacked)) => return finish(target, found, digests, unpacked.as_deref(), order),
            Err(NotWhole::Damaged(why)) if took_up && second_chance => {
                // What an earlier run left may be what is damaged.
                note(format_args!("what an earlier get left here is worth nothing ({why}): it is downloaded anew"));
                second_chance = false;
                target.begin_anew().map_err(|error| Trouble::failed("cannot begin anew").because_of(&error))?;
            }
            Err(NotWhole::Damaged(why)) => {
                target.discard();
                let name = &found.file.name;
                let trouble = Trouble::failed(format!("{name} in {} is damaged: {why}", bucket.storage()));
                return Err(trouble.because("nothing was left here; ls shows others, and --latest takes the newest good one"));
            }
            Err(NotWhole::Io(error)) => {
                target.discard_unpacked();
                let trouble = Trouble::failed(format!("cannot verify what was downloaded to {}", shown(target.directory())));
                return Err(trouble.because_of(&error).because("the same command again goes on from here"));
            }
        }
    }
    Err(Trouble::failed(format!("{} changed {PATIENCE} times while it was downloaded", found.file.name)))
}

/// Nothing is there any more.
pub fn gone(bucket: &Bucket, name: &FileName) -> Trouble {
    Trouble::failed(format!("there is no {name} in {}", bucket.storage())).because("ls shows what is there")
}

/// Bytes that have to fit: what is missing, and what it unpacks to.
fn needed(found: &Found, target: &Target, order: &Order) -> u64 {
    let missing = found.file.size - target.at.min(found.file.size);
    let unpacks = found.file.name.is_compressed() && !order.keep_zip;
    let database = found.file.known.as_ref().and_then(|known| known.manifest.db_size).filter(|_| unpacks);
    missing.saturating_add(database.unwrap_or(0))
}

async fn download(bucket: &Bucket, found: &Found, target: &mut Target, stop: &CancellationToken) -> Result<(), NotDownloaded> {
    let file = target.file().map_err(NotDownloaded::Write)?;
    let mut file = tokio::fs::File::from_std(file);
    let mut progress = Progress::new("downloading", target.at, found.file.size);
    let done = tokio::select! {
        done = bucket.download(found, target.at, &mut file, |so_far| progress.at(so_far)) => done,
        () = stop.cancelled() => Err(NotDownloaded::Write(io::ErrorKind::Interrupted.into())),
    };
    // What has come is kept, however it ended.
    let kept = tokio::io::AsyncWriteExt::flush(&mut file).await;
    progress.end();
    done.and(kept.map_err(NotDownloaded::Write))
}

fn not_brought(error: NotDownloaded, found: &Found, target: &Target) -> Trouble {
    let name = &found.file.name;
    let again = "the same command again goes on from here";
    match error {
        NotDownloaded::Write(error) if error.kind() == io::ErrorKind::Interrupted => {
            Trouble::failed(format!("interrupted: {name} is here in part")).because(again)
        }
        NotDownloaded::Write(error) => {
            Trouble::failed(format!("{name} cannot be written to {}", shown(target.directory()))).because_of(&error).because(again)
        }
        error => Trouble::failed(format!("{name} was not downloaded to its end")).because_of(&error).because(again),
    }
}

/// Why there is no snapshot.
enum NotWhole {
    Damaged(String),
    Io(io::Error),
}

/// Reads what was downloaded to its end; unpacks it into a second temporary if that is wanted.
async fn verified(target: &Target, found: Found, keep_zip: bool, stop: CancellationToken) -> Result<(Manifest, Option<PathBuf>), NotWhole> {
    let file = target.file().map_err(NotWhole::Io)?;
    let second = if found.file.name.is_compressed() && !keep_zip { Some(target.unpacked().map_err(NotWhole::Io)?) } else { None };
    let reading = spawn_blocking(move || {
        let go_on = || !stop.is_cancelled();
        read(file, &found, second.as_ref().map(|(_, file)| file), &go_on).map(|digests| (digests, second.map(|(path, _)| path)))
    });
    reading.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// The digests of the snapshot: of what it was unpacked to, else of the file itself.
fn read(mut file: File, found: &Found, unpack: Option<&File>, go_on: &impl Fn() -> bool) -> Result<Manifest, NotWhole> {
    let size = found.file.size;
    file.rewind().map_err(NotWhole::Io)?;
    let told = found.file.known.as_ref().and_then(|known| known.manifest.file_sha256);
    let check = |sha256: Digest| match [found.sha256, told].into_iter().flatten().find(|told| *told != sha256) {
        Some(told) => Err(NotWhole::Damaged(format!("its SHA-256 is {sha256}, and {told} was uploaded"))),
        None => Ok(()),
    };
    if !found.file.name.is_compressed() {
        let verified = verify(&file, size, go_on).map_err(NotWhole::Io)?;
        whole(verified.verdict)?;
        verified.sha256.map_or(Ok(()), check)?;
        return Ok(Manifest { file_sha256: verified.sha256, file_size: Some(size), db_sha256: verified.db_sha256, ..Manifest::default() });
    }
    let sha256 = hash(&file, go_on).map_err(NotWhole::Io)?;
    check(sha256)?;
    file.rewind().map_err(NotWhole::Io)?;
    let archive = BufReader::with_capacity(PIECE, &file);
    let unpacked = match unpack {
        Some(into) => zip::unpack_into(archive, size, into, go_on),
        None => zip::verify(archive, size, go_on),
    };
    let unpacked = unpacked.map_err(NotWhole::Io)?;
    whole(unpacked.verified.verdict)?;
    let (file_sha256, file_size) = match unpack {
        Some(into) => (unpacked.verified.sha256, into.metadata().map_err(NotWhole::Io)?.len()),
        None => (Some(sha256), size),
    };
    let db_sha256 = unpacked.verified.db_sha256;
    Ok(Manifest { file_sha256, file_size: Some(file_size), db_sha256, db_size: unpacked.db_size, ..Manifest::default() })
}

fn whole(verdict: Verdict) -> Result<(), NotWhole> {
    match verdict {
        Verdict::Damaged(why) => Err(NotWhole::Damaged(why)),
        Verdict::Whole | Verdict::Plausible => Ok(()),
    }
}

fn hash(mut file: impl Read, go_on: &impl Fn() -> bool) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; PIECE];
    loop {
        if !go_on() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match file.read(&mut piece)? {
            0 => return Ok(Digest(hash.finalize().into())),
            got => hash.update(&piece[..got]),
        }
    }
}

fn finish(target: Target, found: Found, digests: Manifest, unpacked: Option<&Path>, order: &Order) -> Result<Brought, Trouble> {
    if let Some(sidecar) = sidecar(&found, &digests, unpacked.is_some()) {
        let place = target::sidecar_place(&target.path, order.snapshot_dir.as_deref());
        target::write_sidecar(&place, &sidecar, &order.node)?;
    }
    let path = target.finish(unpacked)?;
    Ok(Brought { path, found, digests, was_here: false })
}

/// The sidecar of what is here: that of the object, with what unpacking changed; None when the object has none.
fn sidecar(found: &Found, digests: &Manifest, unpacked: bool) -> Option<Vec<u8>> {
    let known = found.file.known.as_ref()?;
    let mut manifest = known.manifest.clone();
    let extra = match &known.metadata {
        Metadata::Read(extra) => extra.clone(),
        Metadata::InRecord(_) => return None,
    };
    if manifest.is_empty() && extra.is_empty() {
        return None;
    }
    if unpacked && !manifest.is_empty() {
        (manifest.file_sha256, manifest.file_size) = (digests.file_sha256, digests.file_size);
        manifest.rest.remove("compression");
    }
    let ours = manifest.to_keys().into_iter().map(|(key, value)| (format!("{PREFIX}{key}"), value));
    let all: std::collections::BTreeMap<String, String> = extra.into_iter().chain(ours).collect();
    serde_json::to_vec(&all).ok()
}

/// A file of that name: the same snapshot is as good as brought, and any other is left alone.
async fn was_here(path: PathBuf, found: Found, stop: &CancellationToken) -> Result<Brought, Trouble> {
    let other = |why: &str| {
        let trouble = Trouble::refused(format!("{} is there already and is not replaced", shown(&path)));
        trouble.because(why).because("name another directory with --to, or take the file away")
    };
    if !path.is_file() {
        return Err(other("it is no file"));
    }
    let known = found.file.known.as_ref().map(|known| known.manifest.clone()).unwrap_or_default();
    let (reading, stop) = (path.clone(), stop.clone());
    let read = spawn_blocking(move || of_file(&reading, &|| !stop.is_cancelled()));
    let digests = match read.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())) {
        Ok(digests) => digests,
        Err(NotWhole::Damaged(why)) => return Err(other(&format!("it is not the snapshot in the bucket: {why}"))),
        Err(NotWhole::Io(error)) => return Err(other(&error.to_string())),
    };
    let is_same = match (known.db_sha256, found.sha256) {
        (Some(db), _) => digests.db_sha256 == Some(db),
        (None, Some(sha256)) => digests.file_sha256 == Some(sha256),
        (None, None) => false,
    };
    if is_same {
        Ok(Brought { path, found, digests, was_here: true })
    } else {
        Err(other("it is a whole snapshot, and not known to be this one"))
    }
}

fn of_file(path: &Path, go_on: &impl Fn() -> bool) -> Result<Manifest, NotWhole> {
    let file = File::open(path).map_err(NotWhole::Io)?;
    let size = file.metadata().map_err(NotWhole::Io)?.len();
    let is_zip = path.extension().is_some_and(|extension| extension == "zip");
    let (verified, sha256) = if is_zip {
        let sha256 = hash(&file, go_on).map_err(NotWhole::Io)?;
        (&file).rewind().map_err(NotWhole::Io)?;
        (zip::verify(BufReader::with_capacity(PIECE, &file), size, go_on).map_err(NotWhole::Io)?.verified, Some(sha256))
    } else {
        let verified = verify(&file, size, go_on).map_err(NotWhole::Io)?;
        let sha256 = verified.sha256;
        (verified, sha256)
    };
    whole(verified.verdict)?;
    Ok(Manifest { file_sha256: sha256, file_size: Some(size), db_sha256: verified.db_sha256, ..Manifest::default() })
}
