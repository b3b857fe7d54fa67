//! Tests of removing a file, on real files: with what stands beside it, killed in between, and refused.

use std::process::Command;

use super::*;
use crate::storage::local::state::State;

impl Place {
    fn sidecar(&self, name: &str) -> PathBuf {
        self.root.path().join(".metadata").join(name)
    }

    /// A verified file with a sidecar, and the directory that has listed it.
    fn with_sidecar(&self, text: &str) -> (Directory, SnapshotFile) {
        let directory = self.open();
        list(&directory);
        self.put(text, &snapshot(1));
        self.put_sidecar(text, &[("provisioning-cluster-spec", "{}")]);
        verify(&directory, text).unwrap();
        let file = file(&directory, text);
        (directory, file)
    }

    /// Whether there is the file, its sidecar, and state.
    fn left(&self, text: &str) -> [bool; 3] {
        [self.path().join(text).symlink_metadata().is_ok(), self.sidecar(text).exists(), !self.state_files().is_empty()]
    }
}

async fn remove(directory: &Directory, file: &SnapshotFile) -> Result<Removed, Failure> {
    directory.remove(file, false).await
}

#[tokio::test]
async fn a_file_goes_with_its_sidecar_and_its_state() {
    let place = Place::new();
    let (directory, file) = place.with_sidecar("a-1");
    place.put("b-1", &snapshot(2));
    place.put_sidecar("b-1", &[("k", "v")]);
    assert_eq!(remove(&directory, &file).await, Ok(Removed::Done));
    assert_eq!(place.left("a-1"), [false; 3]);
    assert_eq!((place.left("b-1")[0], place.left("b-1")[1]), (true, true), "the others stay");
    assert_eq!(remove(&directory, &file).await, Ok(Removed::Absent));
    let listed = list(&directory);
    assert_eq!(listed.failures, []);
    assert_eq!(names(listed), ["b-1"]);

    let without_sidecar = super::file(&directory, "b-1");
    fs::remove_file(place.sidecar("b-1")).unwrap();
    assert_eq!(remove(&directory, &without_sidecar).await, Ok(Removed::Stale), "it was judged with a sidecar");
    assert_eq!(remove(&directory, &super::file(&directory, "b-1")).await, Ok(Removed::Done));
}

#[tokio::test]
async fn what_is_not_the_version_that_was_judged_stays() {
    let place = Place::new();
    let (directory, file) = place.with_sidecar("a-1");
    let path = place.path().join("a-1");
    let other_sidecar = || place.put_sidecar("a-1", &[("another", "one")]);
    let touched = || File::options().write(true).open(&path).unwrap().set_modified(SystemTime::now()).unwrap();
    let renamed = || fs::rename(place.put("other.part", &snapshot(1)), &path).unwrap();
    let emptied = || fs::write(&path, b"").unwrap();
    let a_folder = || fs::remove_file(&path).and_then(|()| fs::create_dir(&path)).unwrap();
    for (at, change) in [&other_sidecar as &dyn Fn(), &touched, &renamed, &emptied, &a_folder].into_iter().enumerate() {
        change();
        assert_eq!(remove(&directory, &file).await, Ok(Removed::Stale), "{at}");
        assert_eq!(place.left("a-1"), [true; 3], "{at}");
    }
    assert!(!fs::read_to_string(place.state("cp1").join("files").join(&place.state_files()[0])).unwrap().contains("removing"));
}

#[test]
fn what_changes_while_its_removal_is_noted_stays() {
    let place = Place::new();
    let (directory, file) = place.with_sidecar("a-1");
    let entered = directory.0.enter_accepted().unwrap();
    directory.0.intend(&file).unwrap();
    place.put("a-1", &snapshot(2));
    assert_eq!(directory.0.remove_file(&entered, &file).unwrap(), Removed::Stale);
    fs::remove_file(place.path().join("a-1")).unwrap();
    assert_eq!(directory.0.remove_file(&entered, &file).unwrap(), Removed::Absent);
}

#[tokio::test]
async fn what_is_gone_already_takes_its_own_sidecar_with_it_and_no_other() {
    let place = Place::new();
    let (directory, file) = place.with_sidecar("a-1");
    fs::remove_file(place.path().join("a-1")).unwrap();
    assert_eq!(remove(&directory, &file).await, Ok(Removed::Absent));
    assert_eq!(place.left("a-1"), [false; 3]);
    // As a save that writes the sidecar first leaves it for a moment.
    place.put_sidecar("a-1", &[("of", "the next one")]);
    assert_eq!(remove(&directory, &file).await, Ok(Removed::Absent));
    list(&directory);
    assert_eq!(place.left("a-1"), [false, true, false]);
}

#[tokio::test]
async fn of_a_symlink_the_link_goes_and_not_what_it_leads_to() {
    let place = Place::new();
    let (directory, _) = place.with_sidecar("a-1");
    place.put("b-1", &snapshot(2));
    for link in ["latest", "moved"] {
        symlink("a-1", place.path().join(link)).unwrap();
    }
    let [latest, moved] = ["latest", "moved"].map(|name| file(&directory, name));
    assert_eq!(remove(&directory, &latest).await, Ok(Removed::Done));
    assert!(!place.left("latest")[0]);
    assert_eq!((place.left("a-1")[0], place.left("a-1")[1]), (true, true));
    fs::remove_file(place.path().join("moved")).unwrap();
    symlink("b-1", place.path().join("moved")).unwrap();
    assert_eq!(remove(&directory, &moved).await, Ok(Removed::Stale));
    assert_eq!(names(list(&directory)), ["a-1", "b-1", "moved"]);
}

#[tokio::test]
async fn nothing_goes_from_another_directory_than_the_one_that_was_listed() {
    let place = Place::new();
    let (directory, file) = place.with_sidecar("a-1");
    // The very same file, in the eyes of a directory that has listed nothing yet.
    assert_eq!(remove(&place.open(), &file).await.unwrap_err().category, "replaced");
    let away = place.root.path().join("away");
    fs::rename(place.path(), &away).unwrap();
    assert_eq!(remove(&directory, &file).await.unwrap_err().category, "missing");
    fs::create_dir(place.path()).unwrap();
    fs::hard_link(away.join("a-1"), place.path().join("a-1")).unwrap();
    assert_eq!(remove(&directory, &file).await.unwrap_err().category, "replaced");
    assert_eq!(place.left("a-1"), [true; 3]);
    assert!(away.join("a-1").exists());
}

/// Removes as far as this step, and is killed.
fn kill_after(steps: usize, directory: &Directory, file: &SnapshotFile) {
    let inner = &directory.0;
    let entered = inner.enter_accepted().unwrap();
    let all: [&dyn Fn(); 4] = [
        &|| inner.intend(file).unwrap(),
        &|| assert_eq!(inner.remove_file(&entered, file).unwrap(), Removed::Done),
        &|| inner.remove_sidecar(&file.name, &file.version).unwrap(),
        &|| inner.state.forget(&file.name).unwrap(),
    ];
    for step in &all[..steps] {
        step();
    }
}

#[test]
fn killed_after_any_step_the_next_listing_finishes_what_was_begun() {
    for steps in 0..=4 {
        for restarted in [false, true] {
            let place = Place::new();
            let (mut directory, file) = place.with_sidecar("a-1");
            kill_after(steps, &directory, &file);
            if restarted {
                drop(directory);
                directory = place.open();
            }
            let listed = list(&directory);
            assert_eq!(listed.failures, []);
            if steps < 2 {
                let listed = complete(listed).remove(&file.name).unwrap();
                assert_eq!(listed, file, "the file was not touched yet, so it stays as it is until it is judged again");
                fs::remove_file(place.path().join("a-1")).unwrap();
                list(&directory);
                assert_eq!(place.left("a-1"), [false, true, false], "that somebody else removes it is not our removal");
            } else {
                assert_eq!(names(listed), [""; 0]);
                assert_eq!(place.left("a-1"), [false; 3], "{steps} {restarted}");
            }
        }
    }
}

#[test]
fn the_sidecar_of_a_removed_file_is_never_that_of_the_next_one_of_its_name() {
    for restarted in [false, true] {
        let place = Place::new();
        let (mut directory, removed) = place.with_sidecar("a-1");
        kill_after(2, &directory, &removed);
        place.put("a-1", &snapshot(2));
        if restarted {
            drop(directory);
            directory = place.open();
        }
        let file = file(&directory, "a-1");
        assert_eq!((file.size, file.version.of_sidecar()), (2 * 512 + 32, None));
        assert_eq!((place.left("a-1")[0], place.left("a-1")[1]), (true, false));
    }
    // But the one that came with it is.
    let place = Place::new();
    let (directory, removed) = place.with_sidecar("a-1");
    kill_after(2, &directory, &removed);
    place.put("a-1", &snapshot(2));
    place.put_sidecar("a-1", &[("its", "own")]);
    verify(&directory, "a-1").unwrap();
    assert_eq!(known(&directory, "a-1").unwrap().metadata, Metadata::Read([("its".into(), "own".into())].into()));
    assert_eq!(place.left("a-1"), [true; 3]);
}

#[test]
fn a_sidecar_without_a_file_stays_where_no_removal_was_noted() {
    let place = Place::new();
    let (directory, _) = place.with_sidecar("etcd-snapshot-cp1-1");
    fs::remove_file(place.path().join("etcd-snapshot-cp1-1")).unwrap();
    list(&directory);
    drop(directory);
    list(&place.open());
    assert_eq!(place.left("etcd-snapshot-cp1-1"), [false, true, false]);
}

#[tokio::test]
async fn a_sidecar_that_a_sibling_directory_shares_stays_until_its_file_goes_as_well() {
    let place = Place::new();
    let (directory, file) = place.with_sidecar("a-1");
    let sibling_path = place.root.path().join("sibling");
    let sibling = Directory::open(sibling_path.clone(), NodeName::new("cp1").unwrap()).unwrap();
    list(&sibling);
    fs::write(sibling_path.join("a-1"), snapshot(1)).unwrap();
    assert_eq!(remove(&directory, &file).await, Ok(Removed::Done));
    assert_eq!(place.left("a-1"), [false, true, false]);
    let file = super::file(&sibling, "a-1");
    assert!(file.version.of_sidecar().is_some());
    assert_eq!(remove(&sibling, &file).await, Ok(Removed::Done));
    assert!(!place.sidecar("a-1").exists());
}

#[tokio::test]
async fn no_agent_removes_what_is_another_ones_on_a_shared_directory() {
    let place = Place::new();
    let (one, two) = (place.open_as("cp1"), place.open_as("cp2"));
    list(&one);
    for name in ["x-cp1-1", "x-cp2-1"] {
        place.put(name, &snapshot(1));
    }
    let alone = complete(list(&one));
    list(&two);
    two.note_beat(Timestamp::now(), Duration::from_mins(10), None).await.unwrap();
    assert_eq!(names(list(&one)), ["x-cp1-1"]);
    assert_eq!(remove(&one, &alone[&name("x-cp2-1")]).await, Ok(Removed::Stale));
    assert_eq!(remove(&one, &alone[&name("x-cp1-1")]).await, Ok(Removed::Done));
    assert_eq!(names(list(&two)), ["x-cp2-1"]);
}

/// What `chattr +i` holds, and lets go in the end.
struct Held(PathBuf);

impl Held {
    /// None where the file system or our rights have no such thing.
    fn new(path: PathBuf) -> Option<Self> {
        let held = Command::new("chattr").arg("+i").arg(&path).output().is_ok_and(|output| output.status.success());
        if !held {
            eprintln!("not shown here: {} cannot be made immutable", path.display());
        }
        held.then_some(Self(path))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg("-i").arg(&self.0).output();
    }
}

#[tokio::test]
async fn what_is_immutable_stays_and_says_what_lets_it_go() {
    let place = Place::new();
    let (directory, file) = place.with_sidecar("a-1");
    let Some(held) = Held::new(place.path().join("a-1")) else { return };
    let failure = remove(&directory, &file).await.unwrap_err();
    assert_eq!(failure.category, "permission");
    let path = place.path();
    let expected = format!("cannot remove {:?}: it is immutable or append-only, which `chattr -i -a` ends: ", path.join("a-1"));
    assert!(failure.message.starts_with(&expected), "{failure}");
    drop(held);
    let held = Held::new(path.clone()).unwrap();
    let failure = remove(&directory, &file).await.unwrap_err();
    assert!(failure.message.contains("a-1\": its folder is immutable"), "{failure}");
    drop(held);
    assert_eq!(directory.0.state.intended(), [], "what did not go is not being removed");
    assert_eq!(super::file(&directory, "a-1"), file);

    // Where only the sidecar is held, it is said until it has gone.
    let held = Held::new(place.sidecar("a-1")).unwrap();
    let failure = remove(&directory, &file).await.unwrap_err();
    assert!(failure.message.contains(".metadata/a-1"), "{failure}");
    assert_eq!(list(&directory).failures, [failure]);
    assert_eq!(place.left("a-1"), [false, true, true]);
    drop(held);
    assert_eq!(list(&directory).failures, []);
    assert_eq!(place.left("a-1"), [false; 3]);
}

/// Where the process of a test that runs itself once more finds its place.
const INSIDE: &str = "ETCD_SNAPSHOT_OPERATOR_TEST_PLACE";

/// Runs one test of this module once more, alone in a mount namespace of its own, after this script has prepared `$1`.
fn once_more(test: &str, place: &Place, script: &str) {
    let test = format!("{}::{test}", module_path!().split_once("::").unwrap().1);
    let script = format!("{{ {script}\n}} >&2 || exit 77\nshift; exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]).arg(place.root.path());
    command.arg(std::env::current_exe().unwrap()).args(["--exact", &test]).env(INSIDE, place.root.path());
    let Ok(output) = command.output() else { return eprintln!("not shown here: there is no unshare") };
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    match output.status.code() {
        Some(0) => assert!(out.contains("1 passed"), "{out}"),
        Some(101) => panic!("{out}{err}"),
        _ => eprintln!("not shown here: {err}"),
    }
}

/// The directory of the place that was prepared, if this is the process that it was prepared for; with its only file.
fn inside() -> Option<(Directory, SnapshotFile)> {
    let root = PathBuf::from(std::env::var_os(INSIDE)?);
    let directory = Directory::open(root.join("snapshots"), NodeName::new("cp1").unwrap()).unwrap();
    let file = complete(list(&directory)).pop_first().unwrap().1;
    Some((directory, file))
}

#[tokio::test]
async fn a_directory_that_is_mounted_read_only_says_so() {
    let Some((directory, file)) = inside() else {
        let place = Place::new();
        place.with_sidecar("a-1");
        let script = "mount --bind $1/snapshots $1/snapshots && mount -o remount,bind,ro $1/snapshots";
        return once_more("a_directory_that_is_mounted_read_only_says_so", &place, script);
    };
    let failure = remove(&directory, &file).await.unwrap_err();
    assert_eq!(failure.category, "permission");
    assert!(failure.message.contains(": its file system is mounted read-only: "), "{failure}");
    assert_eq!(super::file(&directory, "a-1"), file);
}

#[tokio::test]
async fn a_directory_that_may_not_be_written_says_so() {
    let Some((directory, file)) = inside() else {
        let place = Place::new();
        place.with_sidecar("a-1");
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o555)).unwrap();
        // Root may write everywhere until this is taken from it.
        let script = "root=$1; shift; set -- \"$root\" setpriv --bounding-set -dac_override --inh-caps -dac_override -- \"$@\"";
        return once_more("a_directory_that_may_not_be_written_says_so", &place, script);
    };
    let failure = remove(&directory, &file).await.unwrap_err();
    assert_eq!(failure.category, "permission");
    assert!(failure.message.contains(": this process must be allowed to write in its folder: "), "{failure}");
    assert_eq!(super::file(&directory, "a-1"), file);
}

#[tokio::test]
async fn on_a_full_disk_files_still_go() {
    let Some((directory, file)) = inside() else {
        let place = Place::new();
        let script = "mount -t tmpfs -o size=256k none $1";
        return once_more(
            "on_a_full_disk_files_still_go",
            &place,
            &format!(
                "{script} && mkdir $1/snapshots $1/.metadata && head -c 2000 /dev/zero > $1/snapshots/a-1 && echo '{{}}' > $1/.metadata/a-1"
            ),
        );
    };
    let root = directory.path().parent().unwrap();
    let filled = File::create(root.join("filler")).unwrap().write_all(&vec![1; 1 << 20]).unwrap_err();
    assert_eq!(filled.kind(), std::io::ErrorKind::StorageFull);
    let note = directory.note_upload(&file, &directory.storage().id(), crate::snapshot::Upload::Done).await.unwrap_err();
    assert_eq!(note.category, "state");
    assert_eq!(remove(&directory, &file).await, Ok(Removed::Done));
    assert!(!root.join(".metadata/a-1").exists());
    assert_eq!(names(list(&directory)), [""; 0]);
}

#[test]
fn a_state_is_recognised_by_the_path_of_its_directory() {
    let place = Place::new();
    list(&place.open());
    let metadata = place.root.path().join(".metadata");
    assert!(State::is_at(&place.path(), &metadata));
    assert!(!State::is_at(&place.root.path().join("another"), &metadata));
}
