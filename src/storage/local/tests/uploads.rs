//! Tests of what the state remembers of uploads, on real files.

use super::*;
use crate::snapshot::file::short_hex;
use crate::snapshot::{StorageId, Upload, UploadId, Uploads};

fn bucket() -> StorageId {
    Storage::s3("minio.example.com", true, "b", "").id()
}

fn begun(id: &str) -> Upload {
    Upload::Begun { id: UploadId(id.into()) }
}

fn failed(since: i64, at: i64, why: &str) -> Upload {
    let time = |second| Timestamp::from_second(second).unwrap();
    Upload::Failed { since: time(since), at: time(at), why: why.into() }
}

fn to_bucket(upload: Upload) -> Uploads {
    [(bucket(), upload)].into()
}

async fn uploads(directory: &Directory) -> BTreeMap<FileName, Uploads> {
    directory.uploads(&complete(list(directory))).await
}

async fn upload(directory: &Directory, text: &str) -> Option<Upload> {
    uploads(directory).await.get(&name(text)).map(|uploads| uploads[&bucket()].clone())
}

async fn abandoned(directory: &Directory) -> Vec<String> {
    let all = directory.abandoned_uploads(&complete(list(directory)), &bucket()).await;
    all.into_iter().map(|(name, id)| format!("{name} {id}")).collect()
}

/// A directory with one verified file.
fn with_file(place: &Place) -> (Directory, SnapshotFile) {
    let directory = place.open();
    list(&directory);
    place.put("a-1", &snapshot(1));
    verify(&directory, "a-1").unwrap();
    let file = file(&directory, "a-1");
    (directory, file)
}

fn note_path(place: &Place, text: &str) -> PathBuf {
    place.state("cp1").join("files").join(format!("{}.json", short_hex(text, 32)))
}

fn touch(path: &Path) {
    File::options().write(true).open(path).unwrap().set_modified(SystemTime::now()).unwrap();
}

#[tokio::test]
async fn an_upload_is_remembered_of_its_content_and_of_its_bucket_alone() {
    let place = Place::new();
    let (directory, file) = with_file(&place);
    assert_eq!(uploads(&directory).await, [].into());
    let another = Storage::s3("minio.example.com", true, "b", "folder").id();
    directory.note_upload(&file, &bucket(), begun("1")).await.unwrap();
    directory.note_upload(&file, &another, Upload::Done).await.unwrap();
    let expected = [(name("a-1"), [(bucket(), begun("1")), (another, Upload::Done)].into())].into();
    assert_eq!(uploads(&directory).await, expected);
    drop(directory);
    let directory = place.open();
    assert_eq!(uploads(&directory).await, expected, "after a restart");
    place.put_sidecar("a-1", &[("k", "v")]);
    assert_eq!(uploads(&directory).await, expected, "a new sidecar makes no new bytes");
    assert_eq!(known(&directory, "a-1").unwrap().verdict, Verdict::Whole, "beside the verdict");
    verify(&directory, "a-1").unwrap();
    assert_eq!(uploads(&directory).await, expected, "whose renewal takes nothing away");

    touch(&place.path().join("a-1"));
    assert_eq!(uploads(&directory).await, [].into());
    assert_eq!(known(&directory, "a-1"), None);
}

#[tokio::test]
async fn the_form_on_the_disk_is_the_one_that_was_agreed_on() {
    let place = Place::new();
    let (directory, file) = with_file(&place);
    for (id, upload) in [("1111111111", begun("1")), ("2222222222", Upload::Done), ("3333333333", failed(5, 7, "403"))] {
        directory.note_upload(&file, &StorageId::remembered(id), upload).await.unwrap();
    }
    let note: serde_json::Value = serde_json::from_slice(&fs::read(note_path(&place, "a-1")).unwrap()).unwrap();
    let expected = serde_json::json!({
        "1111111111": {"phase": "begun", "id": "1"},
        "2222222222": {"phase": "done"},
        "3333333333": {"phase": "failed", "since": "1970-01-01T00:00:05Z", "at": "1970-01-01T00:00:07Z", "why": "403"},
    });
    assert_eq!((&note["v"], &note["verdict"], &note["uploads"]), (&1.into(), &"whole".into(), &expected));
    assert_eq!(note["version"], file.version.of_content());
}

#[tokio::test]
async fn what_fails_for_one_reason_fails_since_it_did_first() {
    let place = Place::new();
    let (directory, file) = with_file(&place);
    let note = async |upload| {
        directory.note_upload(&file, &bucket(), upload).await.unwrap();
        super::uploads::upload(&directory, "a-1").await.unwrap()
    };
    assert_eq!(note(failed(5, 5, "403")).await, failed(5, 5, "403"));
    assert_eq!(note(failed(8, 8, "403")).await, failed(5, 8, "403"));
    assert_eq!(note(failed(9, 9, "full")).await, failed(9, 9, "full"), "another reason");
    assert_eq!(note(failed(2, 2, "full")).await, failed(2, 2, "full"), "a clock that was set back");
    assert_eq!(note(Upload::Done).await, Upload::Done);
    assert_eq!(note(failed(20, 20, "full")).await, failed(20, 20, "full"), "it succeeded in between");
}

#[tokio::test]
async fn a_begun_upload_outlives_its_file_until_it_was_aborted() {
    let place = Place::new();
    let (directory, file) = with_file(&place);
    directory.note_upload(&file, &bucket(), begun("1")).await.unwrap();
    directory.note_upload(&file, &StorageId::remembered("0000000000"), Upload::Done).await.unwrap();
    fs::remove_file(place.path().join("a-1")).unwrap();
    let expected = [(name("a-1"), to_bucket(begun("1")))].into();
    for _ in 0..2 {
        assert_eq!(uploads(&directory).await, expected);
    }
    drop(directory);
    let directory = place.open();
    for _ in 0..2 {
        assert_eq!(uploads(&directory).await, expected, "after a restart");
    }
    directory.forget_upload(&name("a-1"), &StorageId::remembered("0000000000")).await.unwrap();
    assert_eq!(uploads(&directory).await, expected, "of another bucket");
    directory.forget_upload(&name("a-1"), &bucket()).await.unwrap();
    assert_eq!(uploads(&directory).await, [].into());
    assert_eq!(place.state_files(), [""; 0], "then nothing is left");
}

#[tokio::test]
async fn a_file_that_is_removed_keeps_what_has_to_be_aborted() {
    let place = Place::new();
    let (directory, file) = with_file(&place);
    directory.note_upload(&file, &bucket(), begun("1")).await.unwrap();
    assert_eq!(directory.remove(&file, false).await, Ok(Removed::Done));
    assert_eq!(upload(&directory, "a-1").await, Some(begun("1")));
    directory.forget_upload(&name("a-1"), &bucket()).await.unwrap();
    list(&directory);
    assert_eq!(place.state_files(), [""; 0]);
}

#[tokio::test]
async fn forgetting_takes_what_was_begun_and_nothing_else() {
    let place = Place::new();
    let (directory, file) = with_file(&place);
    for kept in [Upload::Done, failed(1, 1, "x")] {
        directory.note_upload(&file, &bucket(), kept.clone()).await.unwrap();
        directory.forget_upload(&file.name, &bucket()).await.unwrap();
        assert_eq!(upload(&directory, "a-1").await, Some(kept));
    }
    directory.note_upload(&file, &bucket(), begun("1")).await.unwrap();
    directory.forget_upload(&file.name, &bucket()).await.unwrap();
    assert_eq!(uploads(&directory).await, [].into());
    directory.forget_upload(&name("never-1"), &bucket()).await.unwrap();
    assert_eq!(known(&directory, "a-1").unwrap().verdict, Verdict::Whole);
    assert_eq!(place.state_files().len(), 1);
}

#[tokio::test]
async fn a_begun_upload_of_other_bytes_is_never_gone_on_with_and_is_not_lost() {
    let place = Place::new();
    let (directory, file) = with_file(&place);
    directory.note_upload(&file, &bucket(), begun("old")).await.unwrap();
    touch(&place.path().join("a-1"));
    assert_eq!((upload(&directory, "a-1").await, abandoned(&directory).await), (None, vec!["a-1 old".into()]));
    verify(&directory, "a-1").unwrap();
    let file = super::file(&directory, "a-1");
    directory.note_upload(&file, &bucket(), begun("new")).await.unwrap();
    drop(directory);
    let directory = place.open();
    assert_eq!((upload(&directory, "a-1").await, abandoned(&directory).await), (Some(begun("new")), vec!["a-1 old".into()]));
    assert_eq!(directory.abandoned_uploads(&Listing::new(), &StorageId::remembered("x")).await, []);

    // Neither one that failed, nor one that another one took the place of, is known to be aborted.
    directory.note_upload(&file, &bucket(), begun("new")).await.unwrap();
    directory.note_upload(&file, &bucket(), begun("newer")).await.unwrap();
    directory.note_upload(&file, &bucket(), failed(1, 1, "x")).await.unwrap();
    assert_eq!(abandoned(&directory).await, ["a-1 new", "a-1 newer", "a-1 old"]);
    directory.note_upload(&file, &bucket(), begun("last")).await.unwrap();
    directory.note_upload(&file, &bucket(), Upload::Done).await.unwrap();
    for id in ["new", "newer", "old"] {
        directory.forget_abandoned_upload(&file.name, &bucket(), &UploadId(id.into())).await.unwrap();
    }
    assert_eq!((upload(&directory, "a-1").await, abandoned(&directory).await), (Some(Upload::Done), vec![]));
}

#[tokio::test]
async fn notes_of_before_uploads_are_read_and_garbled_uploads_cost_only_themselves() {
    let place = Place::new();
    let (directory, file) = with_file(&place);
    drop(directory);
    let path = note_path(&place, "a-1");
    let old = format!(r#"{{"v":1,"name":"a-1","version":"{}","verdict":"whole","digests":{{}}}}"#, file.version.of_content());
    fs::write(&path, &old).unwrap();
    let directory = place.open();
    assert_eq!(known(&directory, "a-1").unwrap().verdict, Verdict::Whole);
    assert_eq!(uploads(&directory).await, [].into());
    drop(directory);

    let garbled = r#","uploads":{"a":{"phase":"begun"},"b":{"phase":"later"},"c":7,"d":{"phase":"failed","since":"x","at":"y","why":""},"e":{"phase":"done"}}}"#;
    fs::write(&path, old.trim_end_matches('}').to_string() + "}" + garbled).unwrap();
    let directory = place.open();
    assert_eq!(known(&directory, "a-1").unwrap().verdict, Verdict::Whole);
    assert_eq!(uploads(&directory).await, [(name("a-1"), [(StorageId::remembered("e"), Upload::Done)].into())].into());
    drop(directory);

    // The whole of it garbled is set aside, and the file is read again.
    fs::write(&path, old.trim_end_matches('}').to_string() + r#"},"uploads":7}"#).unwrap();
    assert_eq!(known(&place.open(), "a-1"), None);
    assert_eq!(place.state_files().iter().filter(|name| name.contains(".bad-")).count(), 1);
}

#[tokio::test]
async fn a_note_of_an_upload_alone_is_no_verdict() {
    let place = Place::new();
    let (directory, _) = with_file(&place);
    place.put("b-1", &snapshot(2));
    let file = super::file(&directory, "b-1");
    directory.note_upload(&file, &bucket(), Upload::Done).await.unwrap();
    drop(directory);
    let directory = place.open();
    assert_eq!((known(&directory, "b-1"), upload(&directory, "b-1").await), (None, Some(Upload::Done)));
    assert_eq!(verify(&directory, "b-1"), Ok(Verdict::Whole));
    assert_eq!(upload(&directory, "b-1").await, Some(Upload::Done));
}

#[tokio::test]
async fn what_cannot_be_noted_is_a_failure_at_once() {
    let place = Place::new();
    let (directory, file) = with_file(&place);
    let files = place.state("cp1").join("files");
    fs::rename(&files, place.root.path().join("aside")).unwrap();
    fs::write(&files, "in the way").unwrap();
    let failure = directory.note_upload(&file, &bucket(), begun("1")).await.unwrap_err();
    assert_eq!(failure.category, "state");
    fs::remove_file(&files).unwrap();
    assert_eq!(uploads(&directory).await, [].into(), "nor is it in memory");
    // And a state that somebody removed is made anew, verdict and all.
    directory.note_upload(&file, &bucket(), begun("1")).await.unwrap();
    drop(directory);
    let directory = place.open();
    assert_eq!(known(&directory, "a-1").unwrap().verdict, Verdict::Whole);
    assert_eq!(upload(&directory, "a-1").await, Some(begun("1")));
}

#[tokio::test]
async fn agents_that_share_a_directory_remember_apart() {
    let place = Place::new();
    let (one, two) = (place.open_as("cp1"), place.open_as("cp2"));
    list(&one);
    for text in ["x-cp1-1", "x-cp2-1"] {
        place.put(text, &snapshot(1));
    }
    let file = file(&one, "x-cp1-1");
    one.note_upload(&file, &bucket(), begun("1")).await.unwrap();
    assert_eq!(uploads(&two).await, [].into());
    two.note_beat(Timestamp::now(), Duration::from_mins(10), None).await.unwrap();
    fs::remove_file(place.path().join("x-cp1-1")).unwrap();
    assert_eq!(names(list(&one)), [""; 0]);
    drop(one);
    let one = place.open_as("cp1");
    assert_eq!(upload(&one, "x-cp1-1").await, Some(begun("1")), "also of a file that went while another agent was here");
    assert_eq!(uploads(&two).await, [].into());
}

#[tokio::test]
async fn two_processes_of_one_node_do_not_undo_each_others_notes() {
    let place = Place::new();
    let (directory, file) = with_file(&place);
    let by_hand = place.open();
    assert_eq!(uploads(&by_hand).await, [].into());
    by_hand.note_upload(&file, &bucket(), Upload::Done).await.unwrap();
    let another = StorageId::remembered("0000000000");
    directory.note_upload(&file, &another, Upload::Done).await.unwrap();
    let expected = [(file.name.clone(), [(bucket(), Upload::Done), (another, Upload::Done)].into())].into();
    assert_eq!(uploads(&directory).await, expected);
}

#[tokio::test]
async fn ten_thousand_notes_are_read_once() {
    let place = Place::new();
    let directory = place.open();
    list(&directory);
    for number in 0..10_000 {
        let text = format!("etcd-snapshot-cp1-{number}");
        fs::write(place.path().join(&text), b"x").unwrap();
        let stat = fs::metadata(place.path().join(&text)).unwrap();
        let content = format!("{}.1.{}", stat.ino(), i128::from(stat.mtime()) * 1_000_000_000 + i128::from(stat.mtime_nsec()));
        let note = format!(
            r#"{{"v":1,"name":"{text}","version":"{content}","verdict":"whole","digests":{{}},"uploads":{{"{}":{{"phase":"done"}}}}}}"#,
            bucket()
        );
        fs::write(note_path(&place, &text), note).unwrap();
    }
    let listing = complete(list(&directory));
    let known = directory.uploads(&listing).await;
    assert_eq!(known.len(), 10_000);
    assert!(known.values().all(|uploads| *uploads == to_bucket(Upload::Done)));
    // Whatever asked the disk once more would find nothing.
    let files = place.state("cp1").join("files");
    fs::rename(&files, place.root.path().join("aside")).unwrap();
    let again = complete(list(&directory));
    assert_eq!(again.values().filter(|file| file.is_good()).count(), 10_000);
    assert!(directory.uploads(&again).await == known);
    assert!(!files.exists(), "and nothing was written");
}
