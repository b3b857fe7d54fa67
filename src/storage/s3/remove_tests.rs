//! Removing objects: only what was judged, only what is ours, and the sidecar with it.

use std::fs;

use super::super::{Memory, Removed, Store as _};
use super::testing::*;
use super::*;

const OURS: [(&str, &str); 1] = [("k3s-cluster-id", "uid")];
const THEIRS: [(&str, &str); 1] = [("k3s-cluster-id", "another")];

/// The one object of the folder, as it was listed.
async fn listed(bucket: &Bucket) -> SnapshotFile {
    bucket.list(&Memory::new()).await.inventory.seen().values().next().unwrap().clone()
}

#[tokio::test]
async fn an_object_of_ours_goes_with_its_sidecar_by_one_delete_each() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    server.put(&bucket, "f/s-cp1-1", vec![7; 4128], &OURS).await;
    server.put(&bucket, "f/.metadata/s-cp1-1", "{}", &OURS).await;
    server.place("f/s-cp1-2", vec![7; 4128]);
    let file = listed(&bucket).await;
    server.order();
    assert_eq!(bucket.remove(&file, false).await, Ok(Removed::Done));
    assert_eq!(server.order(), ["HEAD", "DELETE", "HEAD", "DELETE"]);
    assert!(!server.path("f/s-cp1-1").exists() && !server.path("f/.metadata/s-cp1-1").exists());
    assert!(server.path("f/s-cp1-2").exists());
    // Another time there is nothing to do.
    assert_eq!(bucket.remove(&file, false).await, Ok(Removed::Absent));
    assert_eq!(server.order(), ["HEAD", "HEAD-BUCKET", "HEAD"]);
}

#[tokio::test]
async fn what_is_not_the_judged_one_or_not_ours_stays() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    for (metadata, adopting, removed) in [
        (&THEIRS[..], false, Removed::Stale),
        (&THEIRS[..], true, Removed::Stale),
        (&[], false, Removed::Stale),
        (&[], true, Removed::Done),
        (&[("rke2-cluster-id", "uid")], false, Removed::Done),
    ] {
        server.put(&bucket, "f/s-cp1-1", vec![7; 4128], metadata).await;
        let file = listed(&bucket).await;
        server.order();
        assert_eq!(bucket.remove(&file, adopting).await, Ok(removed), "{metadata:?} {adopting}");
        if removed == Removed::Stale {
            assert_eq!(server.order(), ["HEAD"]);
        }
    }
    for (bytes, seconds) in [(vec![8; 4128], 0), (vec![7; 4640], 0), (vec![7; 4128], 2), (vec![7; 4128], -2)] {
        server.put(&bucket, "f/s-cp1-1", vec![7; 4128], &OURS).await;
        let file = listed(&bucket).await;
        server.put(&bucket, "f/s-cp1-1", bytes, &OURS).await;
        change_time(&server, file.modified.as_second() + seconds);
        assert_eq!(bucket.remove(&file, true).await, Ok(Removed::Stale), "{seconds}");
        assert!(server.path("f/s-cp1-1").exists());
    }
}

fn change_time(server: &Server, seconds: i64) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds.try_into().unwrap());
    fs::File::options().write(true).open(server.path("f/s-cp1-1")).unwrap().set_modified(time).unwrap();
}

#[tokio::test]
async fn another_rounding_of_the_time_and_another_sidecar_are_no_other_version() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    for seconds in [-1, 0, 1] {
        server.put(&bucket, "f/s-cp1-1", vec![7; 4128], &OURS).await;
        let file = listed(&bucket).await;
        change_time(&server, file.modified.as_second() + seconds);
        server.put(&bucket, "f/.metadata/s-cp1-1", format!("{{\"a\":\"{seconds}\"}}"), &OURS).await;
        assert_eq!(bucket.remove(&file, false).await, Ok(Removed::Done));
        assert!(!server.path("f/.metadata/s-cp1-1").exists());
    }
}

#[tokio::test]
async fn a_sidecar_goes_only_when_it_can_be_of_this_object() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    for (metadata, with_object, goes) in [
        (&OURS[..], true, true),
        (&OURS, false, true),
        (&[], true, true),
        (&[], false, false),
        (&THEIRS, true, false),
        (&THEIRS, false, false),
    ] {
        server.put(&bucket, "f/s-cp1-1", vec![7; 4128], &OURS).await;
        server.put(&bucket, "f/.metadata/s-cp1-1", "{}", metadata).await;
        let file = listed(&bucket).await;
        if !with_object {
            fs::remove_file(server.path("f/s-cp1-1")).unwrap();
        }
        let removed = if with_object { Removed::Done } else { Removed::Absent };
        assert_eq!(bucket.remove(&file, false).await, Ok(removed));
        assert_eq!(server.path("f/.metadata/s-cp1-1").exists(), !goes, "{metadata:?} {with_object}");
    }
}

#[tokio::test]
async fn a_removal_that_was_cut_is_finished_where_the_object_is_gone_and_the_sidecar_is_ours() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    for (metadata, comes_back, goes) in [(&OURS[..], false, true), (&OURS, true, false), (&[], false, false), (&THEIRS, false, false)] {
        server.put(&bucket, "f/s-cp1-1", vec![7; 4128], &OURS).await;
        server.put(&bucket, "f/.metadata/s-cp1-1", "{}", &OURS).await;
        // Nobody here began to remove this one's object.
        server.put(&bucket, "f/.metadata/s-cp1-2", "{}", &OURS).await;
        let file = listed(&bucket).await;
        let is_sidecars = |path: &str| path.contains("/.metadata/");
        server.fail(move |parts| (kind(parts) == "DELETE" && is_sidecars(parts.uri.path())).then(|| refusal(403, "AccessDenied")));
        bucket.remove(&file, false).await.unwrap_err();
        assert!(!server.path("f/s-cp1-1").exists() && server.path("f/.metadata/s-cp1-1").exists());
        assert!(bucket.finish_removals().await.unwrap_err().to_string().contains("s3:DeleteObject"));
        server.heal();
        server.put(&bucket, "f/.metadata/s-cp1-1", "{}", metadata).await;
        if comes_back {
            server.put(&bucket, "f/s-cp1-1", vec![7; 4128], &OURS).await;
        }
        assert_eq!(bucket.finish_removals().await, Ok(()));
        assert_eq!(server.path("f/.metadata/s-cp1-1").exists(), !goes, "{metadata:?} {comes_back}");
        assert!(server.path("f/.metadata/s-cp1-2").exists());
        server.order();
        assert_eq!((bucket.finish_removals().await, server.order().len()), (Ok(()), 0), "once");
    }
}

#[tokio::test]
async fn an_object_whose_deletion_has_no_answer_takes_its_sidecar_with_it_all_the_same() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    server.put(&bucket, "f/s-cp1-1", vec![7; 4128], &OURS).await;
    server.put(&bucket, "f/.metadata/s-cp1-1", "{}", &OURS).await;
    let file = listed(&bucket).await;
    server.fail(|parts| (kind(parts) == "DELETE").then(|| answer(500, "")));
    bucket.remove(&file, false).await.unwrap_err();
    server.heal();
    fs::remove_file(server.path("f/s-cp1-1")).unwrap();
    assert_eq!(bucket.finish_removals().await, Ok(()));
    assert!(!server.path("f/.metadata/s-cp1-1").exists());
}

#[tokio::test]
async fn a_bucket_that_is_away_has_not_lost_its_objects() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    server.put(&bucket, "f/s-cp1-1", vec![7; 4128], &OURS).await;
    let file = listed(&bucket).await;
    bucket.exists.store(false, Ordering::Relaxed);
    fs::rename(server.path(""), server.path("").with_file_name("gone")).unwrap();
    assert_eq!(bucket.remove(&file, false).await.unwrap_err().category, "no_bucket");
    fs::rename(server.path("").with_file_name("gone"), server.path("")).unwrap();
    assert_eq!(bucket.remove(&file, false).await, Ok(Removed::Done));
}

#[tokio::test]
async fn no_answer_to_the_question_is_no_removal_and_a_refusal_says_what_is_needed() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    server.put(&bucket, "f/s-cp1-1", vec![7; 4128], &OURS).await;
    let file = listed(&bucket).await;
    for status in [403, 500] {
        server.fail(move |parts| (kind(parts) == "HEAD").then(|| answer(status, "")));
        server.order();
        bucket.remove(&file, true).await.unwrap_err();
        assert!(!server.order().contains(&"DELETE".to_string()));
    }
    let locked = |text: &str| format!("<Error><Code>AccessDenied</Code><Message>{text}</Message></Error>");
    for (status, body, category, says) in [
        (403, locked("no"), "denied", "the credentials need s3:DeleteObject on the objects of the folder"),
        (403, locked("Access Denied because object protected by object lock."), "denied", "object lock keeps it in the bucket"),
        (400, locked("Object is WORM protected and cannot be overwritten"), "denied", "object lock keeps it in the bucket"),
        (503, String::new(), "throttled", "put off"),
        (404, "<Error><Code>NoSuchBucket</Code></Error>".into(), "no_bucket", "does not exist"),
    ] {
        server.fail(move |parts| (kind(parts) == "DELETE").then(|| answer(status, body.clone())));
        let failure = bucket.remove(&file, false).await.unwrap_err();
        assert_eq!(failure.category, category, "{failure}");
        assert!(failure.message.starts_with("deleting s3://etc/f/s-cp1-1 at ") && failure.message.contains(says), "{failure}");
    }
    // Somebody else was faster.
    server.fail(|parts| (kind(parts) == "DELETE").then(|| refusal(404, "NoSuchKey")));
    assert_eq!(bucket.remove(&file, false).await, Ok(Removed::Done));
}
