//! Tests of the directory as a whole, on real files.

use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use rustix::fs::{CWD, Mode, mkfifoat};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use zip::write::{SimpleFileOptions, ZipWriter};

use super::*;
use crate::snapshot::manifest::PREFIX;
use crate::snapshot::{Known, Listing, Metadata};

/// A folder with the snapshot directory and its `.metadata` in it.
struct Place {
    root: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.root.path().join("snapshots")
    }

    fn open(&self) -> Directory {
        self.open_as("cp1")
    }

    fn open_as(&self, node: &str) -> Directory {
        Directory::open(self.path(), NodeName::new(node).unwrap()).unwrap()
    }

    /// Writes a file that nobody has touched for a minute.
    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, bytes).unwrap();
        let minute_ago = SystemTime::now() - Duration::from_mins(1);
        File::options().write(true).open(&path).unwrap().set_modified(minute_ago).unwrap();
        path
    }

    fn put_sidecar(&self, name: &str, pairs: &[(&str, &str)]) {
        let map: BTreeMap<_, _> = pairs.iter().copied().collect();
        fs::write(self.root.path().join(".metadata").join(name), serde_json::to_vec(&map).unwrap()).unwrap();
    }

    fn state(&self, node: &str) -> PathBuf {
        self.root.path().join(".metadata/.state").join(crate::snapshot::file::hex10(self.path().to_str().unwrap())).join(node)
    }

    fn state_files(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(self.state("cp1").join("files")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Begins like bbolt's database, has so many pages, and its trailer.
fn snapshot(pages: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..pages * 512).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect();
    bytes[16..20].copy_from_slice(&0xED0C_DAED_u32.to_le_bytes());
    let digest = Sha256::digest(&bytes);
    bytes.extend_from_slice(&digest);
    bytes
}

fn zipped(entries: &[&[u8]]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (at, bytes) in entries.iter().enumerate() {
        writer.start_file(at.to_string(), SimpleFileOptions::default()).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn name(text: &str) -> FileName {
    FileName::new(text).unwrap()
}

fn list_with(directory: &Directory, memory: &Memory) -> Listed {
    directory.0.list(memory, SystemTime::now(), Instant::now())
}

fn list(directory: &Directory) -> Listed {
    list_with(directory, &Memory::new())
}

fn complete(listed: Listed) -> Listing {
    match listed.inventory {
        Inventory::Complete(complete) => complete.listing().clone(),
        other => panic!("{other:?}"),
    }
}

fn names(listed: Listed) -> Vec<String> {
    complete(listed).into_keys().map(|name| name.to_string()).collect()
}

fn failed(listed: &Listed) -> &'static str {
    match &listed.inventory {
        Inventory::Failed(failure) => failure.category,
        other => panic!("{other:?}"),
    }
}

fn file(directory: &Directory, text: &str) -> SnapshotFile {
    complete(list(directory)).remove(&name(text)).unwrap()
}

fn known(directory: &Directory, text: &str) -> Option<Known> {
    file(directory, text).known
}

fn verify(directory: &Directory, text: &str) -> Result<Verdict, NotVerified> {
    directory.verify(&file(directory, text), || true)
}

fn why(directory: &Directory, text: &str) -> String {
    match verify(directory, text) {
        Ok(Verdict::Damaged(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// The memory that a caller has after it has recorded a listing.
fn memory_of(listing: &Listing) -> Memory {
    let known = |file: &SnapshotFile| Some(Known { metadata: Metadata::InRecord(Some(7)), ..file.known.clone()? });
    listing.values().filter_map(|file| Some((file.name.clone(), (file.version.clone(), known(file)?)))).collect()
}

#[test]
fn what_was_made_for_it_with_mode_0755_is_closed_while_it_is_empty() {
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for (there, expected) in [(None, 0o700), (Some("a-1"), 0o755)] {
        let place = Place { root: tempfile::tempdir().unwrap() };
        let metadata = place.root.path().join(".metadata");
        for made in [&place.path(), &metadata] {
            fs::create_dir(made).unwrap();
            fs::set_permissions(made, fs::Permissions::from_mode(0o755)).unwrap();
            if let Some(name) = there {
                fs::write(made.join(name), "{}").unwrap();
            }
        }
        list(&place.open());
        assert_eq!((mode(&place.path()), mode(&metadata)), (expected, expected), "{there:?}");
    }
}

#[test]
fn it_is_created_only_when_neither_it_nor_its_state_ever_existed() {
    let place = Place { root: tempfile::tempdir().unwrap() };
    let directory = place.open();
    assert_eq!(fs::metadata(place.path()).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(names(list(&directory)), [""; 0]);
    assert_eq!(fs::metadata(place.root.path().join(".metadata")).unwrap().permissions().mode() & 0o777, 0o700);

    place.put("a-1", &snapshot(1));
    let away = place.root.path().join("away");
    fs::rename(place.path(), &away).unwrap();
    for directory in [directory, place.open()] {
        assert_eq!(failed(&list(&directory)), "missing");
        assert!(!place.path().exists(), "never created again");
        assert!(!directory.was_replaced(), "a restart would not help");
        fs::rename(&away, place.path()).unwrap();
        assert_eq!(names(list(&directory)), ["a-1"], "it recovers");
        fs::rename(place.path(), &away).unwrap();
    }
}

#[test]
fn a_path_that_cannot_be_a_directory_says_so() {
    let place = Place::new();
    fs::write(place.path(), "x").unwrap();
    let directory = place.open();
    let listed = list(&directory);
    assert_eq!(failed(&listed), "not-a-directory");
    assert!(listed.inventory.failure().unwrap().message.contains("is not a directory"));
    fs::remove_file(place.path()).unwrap();
    assert_eq!(names(list(&directory)), [""; 0], "it recovers");

    fs::remove_dir(place.path()).unwrap();
    symlink("nowhere", place.path()).unwrap();
    assert_eq!(failed(&list(&Directory::open(place.path(), NodeName::new("cp1").unwrap()).unwrap())), "missing");
    for unusable in ["snapshots", "/", "/a/../b"] {
        assert!(matches!(Directory::open(unusable.into(), NodeName::new("cp1").unwrap()), Err(LocalError::NotUsable(_))), "{unusable}");
    }
}

#[test]
fn it_lists_what_can_be_a_snapshot_and_nothing_else() {
    let place = Place::new();
    let directory = place.open();
    let longest = "n".repeat(255);
    let listed_names = ["UPPER_case-1", "etcd-snapshot-cp1-1752319252.zip", "with space", &longest, "Ä"];
    for name in listed_names {
        place.put(name, b"x");
    }
    for hidden in ["x.part", ".hidden", "x.zip.part", ".etcd-snapshot-operator-0123456789-00"] {
        place.put(hidden, b"x");
    }
    place.put("empty-1", b"");
    fs::create_dir(place.path().join("folder-1")).unwrap();
    fs::write(place.path().join("folder-1/inside-1"), b"x").unwrap();
    mkfifoat(CWD, place.path().join("pipe-1"), Mode::RUSR).unwrap();
    fs::write(place.root.path().join("outside-1"), b"x").unwrap();
    fs::write(place.root.path().join("with space"), b"x").unwrap();
    for (link, target) in [
        ("out-1", "../outside-1"),
        ("out-to-a-name-of-ours-1", "../with space"),
        ("deeper-1", "folder-1/inside-1"),
        ("dangling-1", "nothing"),
        ("to-part-1", "x.part"),
        ("to-folder-1", "folder-1"),
        ("to-empty-1", "empty-1"),
        ("latest", "UPPER_case-1"),
    ] {
        symlink(target, place.path().join(link)).unwrap();
    }
    let listed = list(&directory);
    assert_eq!(listed.failures, []);
    let listing = complete(listed);
    let mut expected = listed_names.to_vec();
    expected.push("latest");
    expected.sort_unstable();
    assert_eq!(listing.keys().map(FileName::as_str).collect::<Vec<_>>(), expected);
    assert_eq!(listing[&name("latest")].version, listing[&name("UPPER_case-1")].version, "the target's");
}

#[test]
fn what_cannot_be_looked_at_costs_only_itself_and_says_so() {
    let place = Place::new();
    let directory = place.open();
    place.put("a-1", b"x");
    symlink("loop-1", place.path().join("loop-1")).unwrap();
    fs::write(place.path().join(std::ffi::OsString::from_vec(b"bad\xff-1".to_vec())), b"x").unwrap();
    place.put("two\nlines-1", b"x");
    for _ in 0..2 {
        let listed = list(&directory);
        let mut categories: Vec<_> = listed.failures.iter().map(|failure| failure.category).collect();
        categories.sort_unstable();
        assert_eq!(categories, ["io", "name", "name"], "at each listing");
        assert!(listed.failures.iter().any(|failure| failure.message.contains("loop-1")));
        assert!(listed.failures.iter().any(|failure| failure.message.contains("bad\u{fffd}-1")));
        assert_eq!(names(listed), ["a-1"]);
    }
    fs::remove_file(place.path().join("a-1")).unwrap();
    assert!(matches!(list(&directory).inventory, Inventory::Partial(..)), "one of which nothing is seen is not empty");
}

#[test]
fn a_snapshot_directory_that_is_a_symlink_is_followed() {
    let place = Place::new();
    fs::create_dir(place.root.path().join("elsewhere")).unwrap();
    symlink("elsewhere", place.path()).unwrap();
    let directory = place.open();
    place.put("a-1", &snapshot(1));
    assert_eq!(names(list(&directory)), ["a-1"]);
    assert_eq!(verify(&directory, "a-1"), Ok(Verdict::Whole));
}

#[test]
fn verifying_tells_whole_from_damaged_and_notes_it() {
    let place = Place::new();
    let directory = place.open();
    let bytes = snapshot(600);
    let archive = zipped(&[&bytes]);
    let mut flipped = bytes.clone();
    flipped[9000] ^= 1;
    place.put("raw-1", &bytes);
    place.put("packed-1.zip", &archive);
    place.put("truncated-1", &bytes[..bytes.len() - 512]);
    place.put("flipped-1", &flipped);
    place.put("half-1.zip", &archive[..archive.len() / 2]);
    place.put("two-1.zip", &zipped(&[&bytes, &bytes]));
    place.put("text-1", b"hello");
    assert!(known(&directory, "raw-1").is_none(), "not looked into yet");

    assert_eq!(verify(&directory, "raw-1"), Ok(Verdict::Whole));
    assert_eq!(verify(&directory, "packed-1.zip"), Ok(Verdict::Whole));
    assert!(why(&directory, "truncated-1").contains("do not match"));
    assert!(why(&directory, "flipped-1").contains("do not match"));
    assert!(why(&directory, "half-1.zip").contains("cut off"));
    assert!(why(&directory, "two-1.zip").contains("2 entries"));
    assert!(why(&directory, "text-1").contains("5 bytes cannot be"));

    let sha = |bytes: &[u8]| Some(crate::snapshot::Digest(Sha256::digest(bytes).into()));
    for (name, stored) in [("raw-1", &bytes), ("packed-1.zip", &archive)] {
        let known = known(&directory, name).unwrap();
        assert_eq!(known.verdict, Verdict::Whole);
        assert_eq!((known.manifest.file_sha256, known.manifest.file_size), (sha(stored), Some(stored.len() as u64)));
        assert_eq!((known.manifest.db_sha256, known.manifest.db_size), (sha(&bytes[..600 * 512]), Some(600 * 512)));
        assert_eq!(known.metadata, Metadata::Read(BTreeMap::new()));
    }
    assert!(matches!(known(&directory, "half-1.zip").unwrap().verdict, Verdict::Damaged(why) if why.contains("cut off")));
    let state = fs::metadata(place.state("cp1").join("files").join(&place.state_files()[0])).unwrap();
    assert_eq!(state.permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_restart_reads_no_snapshot_again() {
    let place = Place::new();
    let directory = place.open();
    let path = place.put("a-1", &snapshot(4));
    verify(&directory, "a-1").unwrap();
    let before = file(&directory, "a-1");
    drop(directory);
    // Other bytes under the same inode, size and time: only who reads them would know.
    let times = fs::metadata(&path).unwrap().modified().unwrap();
    let mut same = File::options().write(true).open(&path).unwrap();
    same.write_all(b"not a snapshot").unwrap();
    same.set_modified(times).unwrap();
    assert_eq!(file(&place.open(), "a-1"), before);
    // And one nanosecond later it is another version, of which nothing is known.
    same.set_modified(times + Duration::from_nanos(1)).unwrap();
    assert_eq!(known(&place.open(), "a-1"), None);
}

#[test]
fn what_changes_before_or_while_it_is_read_has_no_verdict() {
    let place = Place::new();
    let directory = place.open();
    let path = place.put("a-1", &snapshot(2000));
    let seen = file(&directory, "a-1");

    // Replaced by a rename, in the middle.
    let other = place.put("other.part", &snapshot(3));
    let replaced = || !other.exists() || fs::rename(&other, &path).is_ok();
    assert_eq!(directory.verify(&seen, replaced), Err(NotVerified::Stale));
    assert_eq!(place.state_files(), [""; 0], "nothing is noted");
    // Another version already when it begins.
    assert_eq!(directory.verify(&seen, || true), Err(NotVerified::Stale));
    // Another one when it is opened, and the one that was listed again when that was read.
    let seen = file(&directory, "a-1");
    let listed = place.root.path().join("listed");
    fs::rename(&path, &listed).unwrap();
    place.put("a-1", b"damaged");
    let restored = || !listed.exists() || fs::rename(&listed, &path).is_ok();
    assert_eq!(directory.verify(&seen, restored), Err(NotVerified::Stale));
    restored();
    // Written in place, in the middle.
    let seen = file(&directory, "a-1");
    let appended = || File::options().append(true).open(&path).unwrap().write_all(b"x").is_ok();
    assert_eq!(directory.verify(&seen, appended), Err(NotVerified::Stale));
    // Gone; and a pipe in its place, which must not hold us.
    let seen = file(&directory, "a-1");
    fs::remove_file(&path).unwrap();
    assert_eq!(directory.verify(&seen, || true), Err(NotVerified::Stale));
    mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
    assert_eq!(directory.verify(&seen, || true), Err(NotVerified::Stale));
    fs::remove_file(&path).unwrap();
    // What cannot be opened is a failure of the disk, and no verdict.
    symlink("a-1", &path).unwrap();
    assert!(
        matches!(directory.verify(&seen, || true), Err(NotVerified::Failed(failure)) if failure.category == "io" && failure.message.contains("a-1"))
    );
    // Told to stop.
    place.put("b-1", &snapshot(2));
    place.put("c-1.zip", &zipped(&[&snapshot(2)]));
    for name in ["b-1", "c-1.zip"] {
        let seen = list(&directory).inventory.seen()[&FileName::new(name).unwrap()].clone();
        assert_eq!(directory.verify(&seen, || false), Err(NotVerified::Stopped));
    }
    assert_eq!(place.state_files(), [""; 0]);
}

#[test]
fn a_sidecar_changes_the_version_and_not_the_verdict() {
    let place = Place::new();
    let directory = place.open();
    list(&directory);
    let bytes = snapshot(4);
    place.put("a-1", &bytes);
    verify(&directory, "a-1").unwrap();
    let without = file(&directory, "a-1");

    let cluster = format!("{PREFIX}cluster-id");
    place.put_sidecar("a-1", &[("provisioning-cluster-spec", "{}"), (&cluster, "uid")]);
    let listing = complete(list(&directory));
    let with = &listing[&name("a-1")];
    assert_ne!(with.version, without.version);
    assert_eq!(with.version.of_content(), without.version.of_content());
    let known = with.known.clone().unwrap();
    assert_eq!(known.verdict, Verdict::Whole);
    assert_eq!(known.manifest.cluster, ClusterId::new("uid"));
    assert!(known.manifest.db_sha256.is_some(), "what was read stands beside what the sidecar says");
    assert_eq!(known.metadata, Metadata::Read([("provisioning-cluster-spec".into(), "{}".into())].into()));

    // Of a version that the caller has recorded, the sidecar is not read again.
    let memory = memory_of(&listing);
    let sidecar = place.root.path().join(".metadata/a-1");
    let times = fs::metadata(&sidecar).unwrap().modified().unwrap();
    let mut same = File::options().write(true).open(&sidecar).unwrap();
    same.write_all(b"garbage").unwrap();
    same.set_modified(times).unwrap();
    let again = complete(list_with(&directory, &memory)).remove(&name("a-1")).unwrap();
    assert_eq!(again.known.unwrap(), Known { metadata: Metadata::InRecord(Some(7)), ..known.clone() });
    assert_eq!(again.version, with.version);

    // A sidecar that cannot be looked at has not changed.
    fs::remove_file(&sidecar).unwrap();
    symlink("a-1", &sidecar).unwrap();
    let listed = list_with(&directory, &memory);
    assert_eq!(listed.failures.len(), 1);
    assert_eq!(complete(listed)[&name("a-1")].version, with.version);
    // Nor does it stand in the way where nothing is remembered.
    assert_eq!(file(&directory, "a-1"), without);
}

#[test]
fn a_sidecar_of_other_bytes_says_nothing() {
    let place = Place::new();
    let directory = place.open();
    list(&directory);
    place.put("a-1", &snapshot(4));
    verify(&directory, "a-1").unwrap();
    let (quorum, sha) = (format!("{PREFIX}quorum"), format!("{PREFIX}file-sha256"));
    place.put_sidecar("a-1", &[(&quorum, "true"), (&sha, &"00".repeat(32))]);
    assert_eq!(known(&directory, "a-1").unwrap().manifest.quorum, None);
}

#[test]
fn a_garbage_sidecar_is_said_at_each_listing_and_is_as_none() {
    let place = Place::new();
    let directory = place.open();
    list(&directory);
    place.put("a-1", &snapshot(4));
    verify(&directory, "a-1").unwrap();
    let sidecar = place.root.path().join(".metadata/a-1");
    for garbage in ["{", "[]", "{\"a\":1}", &"x".repeat((4 << 20) + 1)] {
        fs::write(&sidecar, garbage).unwrap();
        let mut memory = Memory::new();
        for _ in 0..2 {
            let listed = list_with(&directory, &memory);
            assert_eq!(listed.failures.iter().map(|failure| failure.category).collect::<Vec<_>>(), ["sidecar"]);
            let listing = complete(listed);
            assert_eq!(listing[&name("a-1")].known.as_ref().unwrap().verdict, Verdict::Whole);
            memory = memory_of(&listing);
        }
    }
    fs::remove_file(&sidecar).unwrap();
    assert_eq!(list(&directory).failures, []);
}

#[test]
fn a_directory_that_is_replaced_under_us_is_never_listed() {
    let place = Place::new();
    let directory = place.open();
    place.put("a-1", b"x");
    list(&directory);
    let away = place.root.path().join("away");
    fs::rename(place.path(), &away).unwrap();
    fs::create_dir(place.path()).unwrap();
    place.put("b-1", b"x");
    assert_eq!(failed(&list(&directory)), "replaced");
    assert!(directory.was_replaced(), "a restart helps");
    assert_eq!(names(list(&place.open())), ["b-1"], "after a restart it is accepted");
    fs::remove_dir_all(place.path()).unwrap();
    fs::rename(&away, place.path()).unwrap();
    assert_eq!(names(list(&directory)), ["a-1"]);
    assert!(!directory.was_replaced());
}

#[test]
fn what_is_left_of_a_removed_directory_is_never_listed() {
    let place = Place::new();
    let removed = place.root.path().join("removed");
    fs::create_dir(&removed).unwrap();
    let held = File::open(&removed).unwrap();
    // As a bind mount of a removed directory looks: there, with no link left.
    symlink(format!("/proc/self/fd/{}", held.as_raw_fd()), place.path()).unwrap();
    let directory = place.open();
    assert_eq!(names(list(&directory)), [""; 0]);
    fs::remove_dir(&removed).unwrap();
    assert_eq!(held.metadata().unwrap().nlink(), 0);
    let listed = list(&directory);
    assert_eq!(failed(&listed), "replaced");
    assert!(listed.inventory.failure().unwrap().message.contains("was removed"));
    assert!(directory.was_replaced());
}

#[test]
fn an_empty_directory_that_is_not_the_one_noted_is_an_unmounted_one() {
    let place = Place::new();
    list(&place.open());
    place.put("a-1", b"x");
    let mounted = place.root.path().join("mounted");
    fs::rename(place.path(), &mounted).unwrap();
    fs::create_dir(place.path()).unwrap();

    let directory = place.open();
    for _ in 0..2 {
        let listed = list(&directory);
        assert_eq!(failed(&listed), "unmounted");
        assert!(listed.inventory.failure().unwrap().message.contains("self.json"), "it says what to do if it is meant");
        assert!(!directory.was_replaced(), "a restart would not help");
    }
    assert!(fs::remove_dir(place.path()).is_ok());
    fs::rename(&mounted, place.path()).unwrap();
    assert_eq!(names(list(&directory)), ["a-1"], "it recovers when the volume is back");

    // Another one that is not empty is accepted, and noted: then it may be empty.
    fs::rename(place.path(), &mounted).unwrap();
    fs::create_dir(place.path()).unwrap();
    let path = place.put("b-1", b"x");
    assert_eq!(names(list(&place.open())), ["b-1"]);
    fs::remove_file(path).unwrap();
    assert_eq!(names(list(&place.open())), [""; 0]);
}

#[test]
fn only_the_directory_itself_proves_that_a_file_is_not_there() {
    let place = Place::new();
    let directory = place.open();
    place.put("a-1", b"x");
    assert!(directory.0.ask(&name("b-1")).is_err(), "nothing was listed yet");
    let listed = file(&directory, "a-1");
    assert_eq!(directory.0.ask(&name("a-1")).unwrap(), Some(listed.version.clone()));
    assert_eq!(directory.0.ask(&name("b-1")).unwrap(), None);
    place.put("a-1", b"");
    assert_eq!(directory.0.ask(&name("a-1")).unwrap(), None, "what would not be listed is no snapshot");
    place.put_sidecar("b-1", &[]);
    place.put("b-1", b"x");
    assert_ne!(directory.0.ask(&name("b-1")).unwrap().unwrap().as_str(), listed.version.as_str());
    fs::remove_file(place.path().join("b-1")).unwrap();
    symlink("b-1", place.path().join("b-1")).unwrap();
    assert!(directory.0.ask(&name("b-1")).is_err(), "a failed look proves nothing");

    let away = place.root.path().join("away");
    fs::rename(place.path(), &away).unwrap();
    assert!(directory.0.ask(&name("c-1")).is_err());
    fs::create_dir(place.path()).unwrap();
    assert!(directory.0.ask(&name("c-1")).is_err());
}

#[test]
fn a_state_that_is_not_understood_is_set_aside_and_rebuilt() {
    let place = Place::new();
    let path = place.put_after_listing("a-1", &snapshot(4));
    let directory = place.open();
    verify(&directory, "a-1").unwrap();
    let state = place.state("cp1").join("files").join(&place.state_files()[0]);
    let sound = fs::read(&state).unwrap();
    let later = String::from_utf8(sound.clone()).unwrap().replace("\"v\":1", "\"v\":2");
    for garbage in [&b"{\"v\":1,"[..], b"", later.as_bytes(), &sound[..sound.len() - 1]] {
        fs::write(&state, garbage).unwrap();
        let directory = place.open();
        assert_eq!(known(&directory, "a-1"), None);
        assert!(!state.exists());
        assert_eq!(verify(&directory, "a-1"), Ok(Verdict::Whole));
        assert_eq!(fs::read(&state).unwrap(), sound);
    }
    assert_eq!(place.state_files().iter().filter(|name| name.contains(".bad-")).count(), 4);

    fs::write(place.state("cp1").join("self.json"), "{").unwrap();
    assert_eq!(names(list(&place.open())), ["a-1"]);
    assert!(place.state("cp1").join("self.json").exists());
    assert!(path.exists());
}

impl Place {
    fn put_after_listing(&self, name: &str, bytes: &[u8]) -> PathBuf {
        list(&self.open());
        self.put(name, bytes)
    }
}

#[test]
fn what_a_kill_left_behind_goes_at_the_next_start_and_not_before() {
    let place = Place::new();
    let (own, other) = (NodeName::new("cp1").unwrap(), NodeName::new("cp2").unwrap());
    let directory = place.open();
    list(&directory);
    let folders = [place.path(), place.root.path().join(".metadata"), place.state("cp1"), place.state("cp1").join("files")];
    let left: Vec<_> = folders.iter().map(|folder| atomic::temporary(folder, &own).unwrap().0).collect();
    let others = atomic::temporary(&place.path(), &other).unwrap().0;
    let state = || left.iter().filter(|path| path.exists()).count();
    list(&directory);
    assert_eq!(state(), 4);
    list(&place.open());
    assert_eq!(state(), 4, "a process that lives may be writing them");
    drop(directory);
    list(&place.open());
    assert_eq!(state(), 0);
    assert!(others.exists());
}

#[test]
fn a_state_that_cannot_be_written_costs_no_verdict_and_is_said() {
    let place = Place::new();
    let directory = place.open();
    fs::create_dir(place.root.path().join(".metadata")).unwrap();
    fs::write(place.root.path().join(".metadata/.state"), "in the way").unwrap();
    place.put("a-1", &snapshot(4));
    assert_eq!(verify(&directory, "a-1"), Ok(Verdict::Whole));
    let listed = list(&directory);
    assert!(!listed.failures.is_empty());
    assert_eq!(complete(listed)[&name("a-1")].known.as_ref().unwrap().verdict, Verdict::Whole);
    fs::remove_file(place.root.path().join(".metadata/.state")).unwrap();
    assert_eq!(list(&directory).failures, []);
    drop(directory);
    assert_eq!(known(&place.open(), "a-1").unwrap().verdict, Verdict::Whole, "it was written when that was possible");
}

#[test]
fn the_state_of_a_file_that_is_gone_is_forgotten() {
    let place = Place::new();
    let directory = place.open();
    list(&directory);
    for name in ["a-1", "b-1", "c-1"] {
        place.put(name, &snapshot(1));
        verify(&directory, name).unwrap();
    }
    fs::remove_file(place.path().join("a-1")).unwrap();
    assert_eq!(place.state_files().len(), 3);
    list(&directory);
    assert_eq!(place.state_files().len(), 2);
    drop(directory);
    fs::remove_file(place.path().join("b-1")).unwrap();
    symlink("loop-1", place.path().join("loop-1")).unwrap();
    let directory = place.open();
    list(&directory);
    assert_eq!(place.state_files().len(), 2, "a listing with a hole proves nothing");
    fs::remove_file(place.path().join("loop-1")).unwrap();
    list(&directory);
    assert_eq!(place.state_files().len(), 1);
    assert_eq!(known(&directory, "c-1").unwrap().verdict, Verdict::Whole);
}

#[tokio::test]
async fn a_shared_directory_is_divided_by_node_names() {
    let place = Place::new();
    let (one, two) = (place.open_as("cp1"), place.open_as("cp2"));
    for name in ["etcd-snapshot-cp1-1", "etcd-snapshot-cp2-1", "imported-1", "nobody-1"] {
        place.put(name, &snapshot(1));
    }
    list(&one);
    place.put_sidecar("imported-1", &[(&format!("{PREFIX}node"), "cp1")]);
    verify(&one, "imported-1").unwrap();
    let alone = complete(list(&one));
    assert_eq!(alone.len(), 4);
    assert_eq!(one.shared_with(), []);
    list(&two);

    let (interval, now) = (Duration::from_mins(10), Timestamp::now());
    two.note_beat(now, interval, ClusterId::new("uid").as_ref()).await.unwrap();
    assert_eq!(names(list(&one)), ["etcd-snapshot-cp1-1", "imported-1"]);
    assert_eq!(names(list_with(&one, &memory_of(&alone))), ["etcd-snapshot-cp1-1", "imported-1"], "as far as it is remembered, too");
    assert_eq!(one.shared_with(), [NodeName::new("cp2").unwrap()]);
    assert!(one.0.ask(&name("imported-1")).unwrap().is_some());
    assert_eq!(one.0.ask(&name("etcd-snapshot-cp2-1")).unwrap(), None);

    for (beat, shared) in [(-1790, true), (-1810, false), (1790, true), (1810, false)] {
        two.note_beat(now + jiff::SignedDuration::from_secs(beat), interval, None).await.unwrap();
        assert_eq!(names(list(&one)).len() == 2, shared, "{beat}");
    }
    two.note_beat(now - jiff::SignedDuration::from_secs(10_000), Duration::from_hours(1), None).await.unwrap();
    assert_eq!(names(list(&one)).len(), 2, "three intervals of the other one");
    fs::write(place.state("cp2").join("self.json"), "{").unwrap();
    assert_eq!(names(list(&one)).len(), 4);
    assert!(place.state("cp2").join("self.json").exists(), "what is another node's is left alone");
}

#[tokio::test]
async fn a_beat_remembers_the_cluster_and_keeps_what_it_does_not_know() {
    let place = Place::new();
    let directory = place.open();
    assert_eq!(directory.remembered_cluster(), Ok(None));
    list(&directory);
    directory.note_beat(Timestamp::UNIX_EPOCH, Duration::from_secs(1), ClusterId::new("uid").as_ref()).await.unwrap();
    directory.note_beat(Timestamp::UNIX_EPOCH, Duration::from_secs(1), None).await.unwrap();
    assert_eq!(directory.remembered_cluster(), Ok(ClusterId::new("uid")));
    let path = place.state("cp1").join("self.json");
    let mut note: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!((&note["v"], &note["node"]), (&1.into(), &"cp1".into()));
    note["history"] = "later".into();
    fs::write(&path, note.to_string()).unwrap();
    let directory = place.open();
    assert_eq!(directory.remembered_cluster(), Ok(ClusterId::new("uid")));
    list(&directory);
    directory.note_beat(Timestamp::now(), Duration::from_secs(1), None).await.unwrap();
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&fs::read(&path).unwrap()).unwrap()["history"], "later");
}

/// A watch that counts its wakes.
struct Watch {
    wakes: tokio::sync::mpsc::UnboundedReceiver<()>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Watch {
    async fn of(directory: &Directory) -> Self {
        let (sender, wakes) = tokio::sync::mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let (directory, token) = (directory.clone(), stop.clone());
        let wake = move || {
            let _ = sender.send(());
        };
        let task = tokio::spawn(async move { directory.watch(wake, token).await });
        let mut watch = Self { wakes, stop, task };
        watch.wake().await;
        watch
    }

    async fn wake(&mut self) {
        tokio::time::timeout(Duration::from_secs(30), self.wakes.recv()).await.expect("no wake").unwrap();
        while self.wakes.try_recv().is_ok() {}
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

async fn look(directory: &Directory) -> Listing {
    complete(directory.list(&Memory::new()).await)
}

#[tokio::test]
async fn a_file_that_is_moved_into_place_or_closed_wakes_and_is_at_rest() {
    let place = Place::new();
    let directory = place.open();
    look(&directory).await;
    let mut watch = Watch::of(&directory).await;
    fs::write(place.path().join("x.part"), b"x").unwrap();
    fs::rename(place.path().join("x.part"), place.path().join("moved-1")).unwrap();
    watch.wake().await;
    assert!(look(&directory).await[&name("moved-1")].at_rest);
    fs::write(place.path().join("closed-1"), b"x").unwrap();
    // The wake may be that of its creation.
    while !look(&directory).await.get(&name("closed-1")).is_some_and(|file| file.at_rest) {
        watch.wake().await;
    }
    place.put_sidecar("moved-1", &[]);
    watch.wake().await;
    fs::remove_file(place.path().join("moved-1")).unwrap();
    watch.wake().await;
    assert_eq!(look(&directory).await.len(), 1);
    watch.end().await;
}

#[tokio::test]
async fn a_file_written_in_place_wakes_once_more_when_it_has_come_to_rest() {
    let place = Place::new();
    let directory = place.open();
    look(&directory).await;
    let mut watch = Watch::of(&directory).await;
    let mut open = File::create(place.path().join("open-1")).unwrap();
    open.write_all(b"x").unwrap();
    watch.wake().await;
    assert!(!look(&directory).await[&name("open-1")].at_rest);
    assert!(directory.next_rest().is_some());
    // Nobody closes it: only the watch's own clock is left to wake.
    while !look(&directory).await[&name("open-1")].at_rest {
        watch.wake().await;
    }
    assert_eq!(directory.next_rest(), None);
    watch.end().await;
}

#[tokio::test]
async fn the_sidecars_are_watched_as_soon_as_they_have_a_place() {
    let place = Place::new();
    let directory = place.open();
    let mut watch = Watch::of(&directory).await;
    look(&directory).await;
    watch.wake().await;
    place.put_sidecar("a-1", &[]);
    watch.wake().await;
    watch.end().await;
}

#[tokio::test]
async fn the_watch_follows_a_directory_that_goes_and_comes_back() {
    let place = Place::new();
    let directory = place.open();
    look(&directory).await;
    let mut watch = Watch::of(&directory).await;
    let away = place.root.path().join("away");
    fs::rename(place.path(), &away).unwrap();
    watch.wake().await;
    assert_eq!(failed(&directory.list(&Memory::new()).await), "missing");
    fs::rename(&away, place.path()).unwrap();
    look(&directory).await;
    watch.wake().await;
    place.put("a-1", b"x");
    watch.wake().await;
    assert!(look(&directory).await.contains_key(&name("a-1")));
    watch.end().await;
}

mod failures;
mod open;
mod remove;
mod schedule;
mod uploads;
