//! Tests of opening a file that is to be copied elsewhere.

use std::io::Read;

use super::*;

#[tokio::test]
async fn it_is_read_with_what_its_sidecar_says_now() {
    let place = Place::new();
    let directory = place.open();
    list(&directory);
    let bytes = snapshot(3);
    place.put("a-1", &bytes);
    let seen = file(&directory, "a-1");
    place.put_sidecar("a-1", &[("k", "v"), (&format!("{PREFIX}quorum"), "true")]);
    let mut opened = directory.read(&seen).await.unwrap();
    let mut read = Vec::new();
    opened.file.read_to_end(&mut read).unwrap();
    assert_eq!((read, opened.extra), (bytes, [("k".into(), "v".into())].into()));

    for nothing in ["{", "[]"] {
        fs::write(place.root.path().join(".metadata/a-1"), nothing).unwrap();
        assert_eq!(directory.read(&seen).await.unwrap().extra, [].into());
    }
    fs::remove_file(place.root.path().join(".metadata/a-1")).unwrap();
    assert_eq!(directory.read(&seen).await.unwrap().extra, [].into());
    symlink("a-1", place.root.path().join(".metadata/a-1")).unwrap();
    assert!(matches!(directory.read(&seen).await, Err(NotRead::Failed(failure)) if failure.message.contains(".metadata/a-1")));
}

#[tokio::test]
async fn what_is_not_what_was_judged_is_not_read() {
    let place = Place::new();
    let directory = place.open();
    list(&directory);
    let path = place.put("a-1", &snapshot(3));
    let seen = file(&directory, "a-1");
    let is_stale = async || matches!(directory.read(&seen).await, Err(NotRead::Stale));
    assert!(!is_stale().await);
    File::options().write(true).open(&path).unwrap().set_modified(SystemTime::now()).unwrap();
    assert!(is_stale().await, "touched");
    fs::remove_file(&path).unwrap();
    assert!(is_stale().await, "gone");
    mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
    assert!(is_stale().await, "a pipe, which must not hold us");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(is_stale().await, "a folder");

    fs::rename(place.path(), place.root.path().join("away")).unwrap();
    fs::create_dir(place.path()).unwrap();
    assert!(matches!(directory.read(&seen).await, Err(NotRead::Failed(failure)) if failure.category == "replaced"));
}

#[tokio::test]
async fn of_two_that_would_send_a_file_one_has_it() {
    let place = Place::new();
    let (one, other) = (place.open(), place.open());
    list(&one);
    list(&other);
    place.put("a-1", &snapshot(3));
    let seen = file(&one, "a-1");
    let (first, second) = (one.read(&seen).await.unwrap(), other.read(&file(&other, "a-1")).await.unwrap());
    assert!(first.claim() && !second.claim());
    assert!(first.claim(), "it stays its own");
    drop(first);
    assert!(second.claim());
}
