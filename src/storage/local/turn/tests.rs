//! Turns on real directories: names that are taken, kills between two steps, and two at once.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::*;
use crate::snapshot::manifest::PREFIX;

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn open(&self) -> Directory {
        Directory::open(self.path("snapshots"), NodeName::new("cp1").unwrap()).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn names(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(directory)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != ".state");
        names.sort();
        names
    }

    fn saving_note(&self, directory: &Directory) -> PathBuf {
        let note = directory.0.state.saving_path();
        assert!(note.starts_with(self.0.path()));
        note
    }
}

const DATABASE: &[u8] = b"a database";

fn digests() -> Manifest {
    Manifest { file_sha256: Some(Digest(Sha256::digest(DATABASE).into())), file_size: Some(10), ..Manifest::default() }
}

fn sidecar() -> Vec<u8> {
    let keys = digests().to_keys().into_iter().map(|(key, value)| (format!("{PREFIX}{key}"), value));
    serde_json::to_vec(&keys.collect::<std::collections::BTreeMap<_, _>>()).unwrap()
}

fn filled(turn: &Turn) -> Temporary {
    let temporary = turn.temporary().unwrap();
    (&temporary.file).write_all(DATABASE).unwrap();
    temporary
}

fn stems(names: &[&str]) -> Vec<FileName> {
    names.iter().map(|name| FileName::new(name).unwrap()).collect()
}

fn place(turn: &Turn, names: &[&str], ending: &str) -> Result<FileName, LocalError> {
    turn.place(&filled(turn), stems(names), ending, &sidecar(), &digests())
}

#[tokio::test]
async fn a_snapshot_that_was_just_saved_is_at_rest_though_nobody_watches() {
    use crate::storage::Store as _;
    let there = Place::new();
    let directory = there.open();
    let name = place(&directory.turn(Timestamp::UNIX_EPOCH).unwrap(), &["s-cp1-7"], "").unwrap();
    let listed = directory.list(&Memory::new()).await;
    assert!(listed.inventory.seen()[&name].at_rest, "{listed:?}");
}

#[test]
fn a_snapshot_gets_its_name_its_sidecar_and_its_verdict() {
    let there = Place::new();
    let directory = there.open();
    let turn = directory.turn(Timestamp::UNIX_EPOCH).unwrap();
    let name = place(&turn, &["s-cp1-7"], ".zip").unwrap();
    assert_eq!((there.names("snapshots"), there.names(".metadata")), (vec!["s-cp1-7.zip".into()], vec!["s-cp1-7.zip".into()]));
    for path in [there.path("snapshots/s-cp1-7.zip"), there.path(".metadata/s-cp1-7.zip")] {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
    }
    assert!(!there.saving_note(&directory).exists());
    // Also by another process that only has the disk.
    let listed = there.open().0.list(&Memory::new(), SystemTime::now() + Duration::from_mins(1), Instant::now());
    let known = listed.inventory.seen()[&name].known.clone().unwrap();
    assert_eq!((known.verdict, known.manifest), (Verdict::Whole, digests()));
}

#[test]
fn what_has_the_name_already_keeps_it_with_zip_or_without() {
    let there = Place::new();
    let directory = there.open();
    let turn = directory.turn(Timestamp::UNIX_EPOCH).unwrap();
    fs::write(there.path("snapshots/s-1.zip"), "K3s's").unwrap();
    fs::write(there.path(".metadata/s-2"), "K3s's").unwrap();
    std::os::unix::fs::symlink("nowhere", there.path("snapshots/s-3")).unwrap();
    let name = place(&turn, &["s-1", "s-2", "s-3", "s-4"], "").unwrap();
    assert_eq!(name.as_str(), "s-4");
    let error = place(&turn, &["s-1", "s-2", "s-3", "s-4"], ".zip").unwrap_err();
    assert!(matches!(&error, LocalError::Create { source, .. } if source.kind() == io::ErrorKind::AlreadyExists), "{error:?}");
    assert_eq!(fs::read(there.path("snapshots/s-1.zip")).unwrap(), b"K3s's");
    assert_eq!(fs::read(there.path(".metadata/s-2")).unwrap(), b"K3s's");
    assert_eq!(there.names("snapshots"), ["s-1.zip", "s-3", "s-4"]);
    assert_eq!(there.names(".metadata"), ["s-2", "s-4"]);
}

#[test]
fn a_temporary_that_got_no_name_goes() {
    let there = Place::new();
    let directory = there.open();
    let turn = directory.turn(Timestamp::UNIX_EPOCH).unwrap();
    let temporary = filled(&turn);
    assert_eq!(there.names("snapshots").len(), 1);
    assert_eq!(temporary.file.metadata().unwrap().mode() & 0o777, 0o600);
    drop(temporary);
    assert!(there.names("snapshots").is_empty());
}

#[test]
fn one_turn_at_a_time_and_who_has_it_is_told() {
    let there = Place::new();
    let directory = there.open();
    let since = Timestamp::from_second(1_752_319_253).unwrap();
    let turn = directory.turn(since).unwrap();
    // Another process opens it anew.
    for other in [directory.clone(), there.open()] {
        let NoTurn::Busy { by, since: told } = other.turn(Timestamp::UNIX_EPOCH).unwrap_err() else { panic!("busy") };
        assert!(by.contains(&format!("process {}", std::process::id())), "{by}");
        assert_eq!(told, Some(since));
    }
    drop(turn);
    directory.turn(Timestamp::UNIX_EPOCH).unwrap();
}

/// What is there when a save is killed after its sidecar and before its snapshot has a name, or a moment later.
fn killed(there: &Place, directory: &Directory, named: bool) {
    let turn = directory.turn(Timestamp::UNIX_EPOCH).unwrap();
    let temporary = filled(&turn);
    let inode = temporary.file.metadata().unwrap().ino();
    let file_sha256 = digests().file_sha256.unwrap().to_string();
    let note = SavingNote { v: FORM, name: "s-1".into(), file_sha256, inode };
    directory.0.state.write(&there.saving_note(directory), &note).unwrap();
    turn.put_sidecar(&FileName::new("s-1").unwrap(), &sidecar()).unwrap();
    if named {
        turn.put(&temporary, &FileName::new("s-1").unwrap(), &digests()).unwrap();
    }
}

#[test]
fn the_sidecar_of_a_killed_save_goes_at_the_next_start_and_at_the_next_turn() {
    let next: [fn(&Directory); 2] = [
        |directory| {
            directory.turn(Timestamp::UNIX_EPOCH).unwrap();
        },
        |directory| _ = directory.0.list(&Memory::new(), SystemTime::now(), Instant::now()),
    ];
    for next in next {
        let there = Place::new();
        let directory = there.open();
        killed(&there, &directory, false);
        assert_eq!(there.names(".metadata"), ["s-1"]);
        drop(directory);
        let directory = there.open();
        next(&directory);
        assert!(there.names(".metadata").is_empty() && !there.saving_note(&directory).exists());

        killed(&there, &directory, true);
        next(&there.open());
        assert_eq!((there.names(".metadata"), there.names("snapshots")), (vec!["s-1".into()], vec!["s-1".into()]));
    }
}

#[test]
fn a_sidecar_that_is_not_of_the_killed_save_stays() {
    let there = Place::new();
    let directory = there.open();
    killed(&there, &directory, false);
    fs::write(there.path(".metadata/s-1"), r#"{"provisioning-cluster-spec":"x"}"#).unwrap();
    there.open().turn(Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!(there.names(".metadata"), ["s-1"]);
    // And its own goes also where another file has taken the name.
    fs::remove_file(there.path(".metadata/s-1")).unwrap();
    killed(&there, &directory, false);
    fs::write(there.path("snapshots/s-1"), "K3s's").unwrap();
    there.open().turn(Timestamp::UNIX_EPOCH).unwrap();
    assert!(there.names(".metadata").is_empty());
    assert_eq!(fs::read(there.path("snapshots/s-1")).unwrap(), b"K3s's");
}

#[test]
fn no_start_disturbs_a_running_save() {
    let there = Place::new();
    let directory = there.open();
    let turn = directory.turn(Timestamp::UNIX_EPOCH).unwrap();
    let temporary = filled(&turn);
    temporary.file.set_modified(SystemTime::now() - Duration::from_hours(1)).unwrap();
    let note = SavingNote { v: FORM, name: "s-1".into(), file_sha256: digests().file_sha256.unwrap().to_string(), inode: 1 };
    directory.0.state.write(&there.saving_note(&directory), &note).unwrap();
    turn.put_sidecar(&FileName::new("s-1").unwrap(), &sidecar()).unwrap();
    let other = there.open();
    assert!(other.turn(Timestamp::UNIX_EPOCH).is_err());
    let listed = other.0.list(&Memory::new(), SystemTime::now(), Instant::now());
    assert!(listed.inventory.failure().is_none());
    assert_eq!((there.names("snapshots").len(), there.names(".metadata")), (1, vec!["s-1".into()]));
}

#[test]
fn no_turn_is_had_of_a_volume_that_is_not_mounted() {
    let there = Place::new();
    let directory = there.open();
    place(&directory.turn(Timestamp::UNIX_EPOCH).unwrap(), &["s-1"], "").unwrap();
    drop(directory);
    fs::rename(there.path("snapshots"), there.path("away")).unwrap();
    let gone = there.open().turn(Timestamp::UNIX_EPOCH).unwrap_err();
    assert!(matches!(&gone, NoTurn::Directory(failure) if failure.category == "missing"), "{gone:?}");
    fs::create_dir(there.path("snapshots")).unwrap();
    let unmounted = there.open().turn(Timestamp::UNIX_EPOCH).unwrap_err();
    assert!(matches!(&unmounted, NoTurn::Directory(failure) if failure.category == "unmounted"), "{unmounted:?}");
    assert!(there.names("snapshots").is_empty());
}
