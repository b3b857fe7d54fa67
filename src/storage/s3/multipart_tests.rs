//! Uploads in parts: cut at every place, gone on with, given up, and found later.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;

use super::testing::*;
use super::*;
use crate::snapshot::{Digest, UploadId};

/// Uploads, and tells which upload in parts was begun.
async fn noting(bucket: &Bucket, going: &Outgoing) -> (Result<Uploaded, S3Error>, Option<UploadId>) {
    let begun = Mutex::new(None);
    let uploaded = bucket
        .upload(going, async |id: UploadId| {
            *begun.lock().unwrap() = Some(id);
            Ok(())
        })
        .await;
    (uploaded, begun.into_inner().unwrap())
}

/// What the server knows of uploads in parts.
async fn begun(bucket: &Bucket) -> Vec<UploadId> {
    let listed = bucket.client.list_multipart_uploads().bucket("etc").send().await.unwrap();
    listed.uploads().iter().map(|upload| UploadId(upload.upload_id().unwrap().into())).collect()
}

fn part_of(parts: &http::request::Parts) -> Option<i32> {
    let number = parts.uri.query()?.split('&').find_map(|pair| pair.strip_prefix("partNumber="))?;
    (kind(parts) == "PART").then(|| number.parse().unwrap())
}

#[tokio::test]
async fn a_large_file_goes_up_in_parts_and_is_looked_at_afterwards() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    let exactly = outgoing("s-cp1-0", &vec![7; 16 * 1024 * 1024]);
    assert_eq!(noting(&bucket, &exactly).await, (Ok(Uploaded::Sent), None));
    assert_eq!(server.order(), ["HEAD", "HEAD", "PUT", "PUT"]);

    let (large, heads) = (bytes(17 << 10), Arc::new(Mutex::new(Vec::new())));
    let log = Arc::clone(&heads);
    server.fail(move |parts| {
        log.lock().unwrap().push((kind(parts), parts.headers.clone()));
        None
    });
    let (uploaded, id) = noting(&bucket, &outgoing("s-cp1-1.zip", &large)).await;
    assert_eq!(uploaded, Ok(Uploaded::Sent));
    assert!(id.is_some());
    assert_eq!(server.order(), ["HEAD", "HEAD", "CREATE", "PART", "PART", "PART", "HEAD", "COMPLETE", "HEAD", "PUT"]);
    assert_eq!(fs::read(server.path("f/s-cp1-1.zip")).unwrap(), large);
    assert_eq!(begun(&bucket).await, []);
    let head = bucket.client.head_object().bucket("etc").key("f/s-cp1-1.zip").send().await.unwrap();
    assert_eq!(head.content_type(), Some("application/zip"));
    assert_eq!(head.metadata().unwrap()["etcd-snapshot-sha256"], outgoing("x", &large).sha256.to_string());
    assert_eq!(head.metadata().unwrap()["k3s-cluster-id"], "uid");
    for (kind, headers) in heads.lock().unwrap().iter() {
        assert_eq!(headers.contains_key("content-md5"), ["PART", "PUT"].contains(&kind.as_str()), "{kind}");
        assert_eq!(headers.contains_key("if-none-match"), ["COMPLETE", "PUT"].contains(&kind.as_str()), "{kind}");
    }
}

#[tokio::test]
async fn an_upload_runs_in_a_task_of_its_own() {
    let server = Server::start().await;
    let bucket = Arc::new(small(&server).await);
    let noted = Arc::new(Mutex::new(None));
    let (uploader, log) = (Arc::clone(&bucket), Arc::clone(&noted));
    let going = outgoing("s-cp1-1", &bytes(17));
    let task = tokio::spawn(async move {
        let note = async |id: UploadId| {
            tokio::task::yield_now().await;
            *log.lock().unwrap() = Some(id);
            Ok(())
        };
        uploader.upload(&going, note).await
    });
    assert_eq!(task.await.unwrap(), Ok(Uploaded::Sent));
    assert!(noted.lock().unwrap().is_some());
}

#[tokio::test]
async fn never_more_than_three_parts_are_under_way() {
    let server = Server::start().await;
    let bucket = small(&server).await;
    let most = Arc::new(AtomicUsize::new(0));
    let (now, seen) = (AtomicUsize::new(0), Arc::clone(&most));
    server.fail(move |parts| {
        match kind(parts).as_str() {
            "PART" => seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst),
            _ => 0,
        };
        None
    });
    // Nothing that was begun here ever ends.
    server.hold(|parts| kind(parts) == "PART");
    let going = outgoing("s-cp1-1", &bytes(80));
    let upload = upload(&bucket, &going);
    tokio::select! {
        _ = upload => panic!("no part was answered"),
        () = async { while most.load(Ordering::SeqCst) < 3 { tokio::task::yield_now().await } } => {}
    }
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn what_was_not_noted_is_not_sent() {
    let server = Server::start().await;
    let bucket = small(&server).await;
    let note = async |_: UploadId| Err(Failure::new("state", "no space left on device"));
    let error = bucket.upload(&outgoing("s-cp1-1", &bytes(17)), note).await.unwrap_err();
    assert_eq!(error.category(), "local");
    assert!(error.to_string().ends_with("its id could not be written down: no space left on device"), "{error}");
    assert_eq!(server.order(), ["HEAD", "HEAD", "CREATE", "ABORT"]);
    assert_eq!(begun(&bucket).await, []);
}

#[tokio::test]
async fn an_upload_cut_at_any_place_is_gone_on_with() {
    let large = bytes(33);
    // At a part, the last one too; or between the parts and the object.
    for cut in [Some(1), Some(3), Some(5), None] {
        let server = Server::start().await;
        let bucket = small(&server).await;
        server.fail(move |parts| {
            let is_cut = if cut.is_some() { part_of(parts) == cut } else { kind(parts) == "COMPLETE" };
            is_cut.then(|| refusal(400, "ExpiredToken"))
        });
        let (failed, id) = noting(&bucket, &outgoing("s-cp1-1", &large)).await;
        assert_eq!(failed.unwrap_err().category(), "expired");
        assert_eq!(begun(&bucket).await, id.iter().cloned().collect::<Vec<_>>(), "it is there for the next try");
        let missing: BTreeSet<i32> = (1..=5).filter(|number| !server.part(id.as_ref().unwrap(), *number).exists()).collect();
        let sent: Arc<Mutex<BTreeSet<i32>>> = Arc::default();
        let log = Arc::clone(&sent);
        server.fail(move |parts| {
            log.lock().unwrap().extend(part_of(parts));
            None
        });
        server.order();
        let going = Outgoing { begun: id, ..outgoing("s-cp1-1", &large) };
        assert_eq!(noting(&bucket, &going).await, (Ok(Uploaded::Sent), None));
        assert!(sent.lock().unwrap().is_subset(&missing), "{sent:?} {missing:?}");
        let order = server.order();
        assert_eq!(order[order.len() - 4..], ["HEAD", "COMPLETE", "HEAD", "PUT"]);
        if cut.is_none() {
            assert_eq!(order[..order.len() - 4], ["HEAD", "HEAD", "LIST-PARTS", "LIST-PARTS", "LIST-PARTS"]);
        }
        assert_eq!(fs::read(server.path("f/s-cp1-1")).unwrap(), large);
        assert_eq!(begun(&bucket).await, []);
    }
}

#[tokio::test]
async fn parts_that_arrived_otherwise_are_sent_again() {
    let server = Server::start().await;
    let bucket = small(&server).await;
    let large = bytes(17);
    server.fail(|parts| (kind(parts) == "COMPLETE").then(|| answer(500, "")));
    let (failed, id) = noting(&bucket, &outgoing("s-cp1-1", &large)).await;
    assert_eq!(failed.unwrap_err().category(), "server");
    let id = id.unwrap();
    // The first is of other bytes, the second of other and fewer.
    fs::write(server.part(&id, 1), vec![0; 8 << 10]).unwrap();
    fs::write(server.part(&id, 2), "x").unwrap();
    server.heal();
    server.order();
    let going = Outgoing { begun: Some(id), ..outgoing("s-cp1-1", &large) };
    assert_eq!(upload(&bucket, &going).await, Ok(Uploaded::Sent));
    assert_eq!(server.order(), ["HEAD", "HEAD", "LIST-PARTS", "LIST-PARTS", "PART", "PART", "HEAD", "COMPLETE", "HEAD", "PUT"]);
    assert_eq!(fs::read(server.path("f/s-cp1-1")).unwrap(), large);
}

#[tokio::test]
async fn an_upload_that_the_server_has_forgotten_begins_anew() {
    let server = Server::start().await;
    let bucket = small(&server).await;
    let going = Outgoing { begun: Some(UploadId("2b6a7bd0-0000-4000-8000-000000000000".into())), ..outgoing("s-cp1-1", &bytes(17)) };
    let (uploaded, id) = noting(&bucket, &going).await;
    assert_eq!(uploaded, Ok(Uploaded::Sent));
    assert!(id.is_some_and(|id| Some(id) != going.begun));
    assert_eq!(server.order(), ["HEAD", "HEAD", "LIST-PARTS", "CREATE", "PART", "PART", "PART", "HEAD", "COMPLETE", "HEAD", "PUT"]);
}

#[tokio::test]
async fn who_may_not_list_parts_uploads_all_the_same() {
    let server = Server::start().await;
    let bucket = small(&server).await;
    let large = bytes(17);
    for (status, code) in [(403, "AccessDenied"), (501, "NotImplemented")] {
        let name = format!("s-cp1-{status}");
        server.fail(|parts| (kind(parts) == "COMPLETE").then(|| answer(500, "")));
        let (_, id) = noting(&bucket, &outgoing(&name, &large)).await;
        server.fail(move |parts| (kind(parts) == "LIST-PARTS").then(|| refusal(status, code)));
        server.order();
        // Every part is sent again, into the same upload.
        let going = Outgoing { begun: id, ..outgoing(&name, &large) };
        assert_eq!(noting(&bucket, &going).await, (Ok(Uploaded::Sent), None));
        assert_eq!(server.order(), ["HEAD", "HEAD", "LIST-PARTS", "PART", "PART", "PART", "HEAD", "COMPLETE", "HEAD", "PUT"]);
        // And when that is not there any more, into another.
        let going = Outgoing { begun: going.begun, ..outgoing(&format!("{name}2"), &large) };
        let (uploaded, id) = noting(&bucket, &going).await;
        assert_eq!((uploaded, id.is_some()), (Ok(Uploaded::Sent), true));
    }
    // Another reason to fail is one.
    server.fail(|parts| (kind(parts) == "LIST-PARTS").then(|| refusal(403, "InvalidAccessKeyId")));
    let going = Outgoing { begun: Some(UploadId("x".into())), ..outgoing("s-cp1-9", &large) };
    assert_eq!(upload(&bucket, &going).await.unwrap_err().category(), "credentials");
}

#[tokio::test]
async fn a_file_that_changes_while_it_goes_up_never_becomes_an_object() {
    let large = bytes(17);
    for (change, at) in
        [((|file| file.write_all(b"changed")) as fn(&mut fs::File) -> std::io::Result<()>, 0), (|file| file.set_len(9 << 10), 0)]
    {
        let server = Server::start().await;
        let bucket = small(&server).await;
        let going = outgoing("s-cp1-1", &large);
        let mut file = going.file.try_clone().unwrap();
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(at)).unwrap();
        let file = Mutex::new(file);
        // After the question, and so before the first part is read.
        server.fail(move |parts| {
            if kind(parts) == "CREATE" {
                change(&mut file.lock().unwrap()).unwrap();
            }
            None
        });
        let error = upload(&bucket, &going).await.unwrap_err();
        assert_eq!(error.category(), "changed", "{error}");
        let requests = server.requests();
        assert!(!requests.contains_key("COMPLETE") && requests["ABORT"] == 1, "{requests:?}");
        assert!(!server.path("f/s-cp1-1").exists());
        assert_eq!(begun(&bucket).await, []);
    }
}

#[tokio::test]
async fn a_file_that_is_deleted_while_it_goes_up_goes_up() {
    let server = Server::start().await;
    let bucket = small(&server).await;
    let large = bytes(17);
    let mut named = tempfile::NamedTempFile::new().unwrap();
    named.write_all(&large).unwrap();
    let going = Outgoing { file: named.reopen().unwrap(), ..outgoing("s-cp1-1", &large) };
    let named = Mutex::new(Some(named));
    server.fail(move |parts| {
        if kind(parts) == "CREATE" {
            named.lock().unwrap().take();
        }
        None
    });
    assert_eq!(upload(&bucket, &going).await, Ok(Uploaded::Sent));
    assert_eq!(fs::read(server.path("f/s-cp1-1")).unwrap(), large);
}

#[tokio::test]
async fn a_lost_answer_to_the_end_of_an_upload_is_a_success() {
    let server = Server::start().await;
    let bucket = small(&server).await;
    let large = bytes(17);
    // The SDK asks again, and the server does not know the upload any more.
    let lost = Mutex::new(false);
    server.lose(move |parts| kind(parts) == "COMPLETE" && !std::mem::replace(&mut *lost.lock().unwrap(), true));
    assert_eq!(upload(&bucket, &outgoing("s-cp1-1", &large)).await, Ok(Uploaded::Sent));
    let order = server.order();
    assert_eq!(order[order.len() - 4..], ["COMPLETE", "COMPLETE", "HEAD", "PUT"]);

    // The next try finds it, and leaves nothing behind.
    server.lose(|parts| kind(parts) == "COMPLETE");
    let (failed, id) = noting(&bucket, &outgoing("s-cp1-2", &large)).await;
    assert_eq!(failed.unwrap_err().category(), "unreachable");
    server.heal();
    server.order();
    let going = Outgoing { begun: id, ..outgoing("s-cp1-2", &large) };
    assert_eq!(upload(&bucket, &going).await, Ok(Uploaded::There));
    assert_eq!(server.order(), ["HEAD", "HEAD", "ABORT", "PUT"]);
}

#[tokio::test]
async fn an_end_that_the_server_took_for_another_write_is_decided_by_a_question() {
    let large = bytes(17);
    for (status, code, category, aborted) in [
        (412, "PreconditionFailed", "conflict", true),
        (409, "ConditionalRequestConflict", "conflict", true),
        (404, "NoSuchUpload", "gone", false),
    ] {
        let server = Server::start().await;
        let bucket = small(&server).await;
        server.fail(move |parts| (kind(parts) == "COMPLETE").then(|| refusal(status, code)));
        let error = upload(&bucket, &outgoing("s-cp1-1", &large)).await.unwrap_err();
        assert_eq!(error.category(), category, "{error}");
        let order = server.order();
        let end = order.iter().position(|kind| kind == "COMPLETE").unwrap();
        assert_eq!(order[end..], ["COMPLETE", "HEAD", "ABORT"][..if aborted { 3 } else { 2 }]);
        assert_eq!(begun(&bucket).await.is_empty(), aborted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_completes_second_overwrites_nothing_and_leaves_nothing() {
    let large = bytes(17);
    let digest = outgoing("x", &large).sha256;
    // Found by the question before the end; or by the condition, when it came even later.
    for (moment, asked) in [("CREATE", vec!["HEAD", "ABORT"]), ("COMPLETE", vec!["HEAD", "COMPLETE", "PUT", "HEAD", "ABORT"])] {
        for (bytes, digest, ends) in [(large.clone(), digest, Ok(Uploaded::There)), (vec![9; 4128], Digest([1; 32]), Err("conflict"))] {
            let server = Server::start().await;
            let bucket = small(&server).await;
            let metadata = [("k3s-cluster-id", "uid"), ("etcd-snapshot-sha256", &digest.to_string())];
            be_faster(&server, &bucket, moment, &bytes, &metadata);
            assert_eq!(upload(&bucket, &outgoing("s-cp1-1", &large)).await.map_err(|error| error.category()), ends, "{moment}");
            let order = server.order();
            let parts = order.iter().rposition(|kind| kind == "PART").unwrap();
            let end = order[parts + 1..].iter().take(asked.len());
            assert_eq!(end.collect::<Vec<_>>(), asked, "{moment}");
            assert_eq!(fs::read(server.path("f/s-cp1-1")).unwrap(), bytes);
            assert_eq!(begun(&bucket).await, []);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_ignores_conditions_keeps_what_came_while_the_parts_went_up() {
    let (large, server) = (bytes(17), Server::start().await);
    server.ignore_conditions();
    let bucket = small(&server).await;
    be_faster(&server, &bucket, "PART", b"a stranger's", &[]);
    let error = upload(&bucket, &outgoing("s-cp1-1", &large)).await.unwrap_err();
    assert_eq!(error.category(), "conflict", "{error}");
    assert_eq!(fs::read(server.path("f/s-cp1-1")).unwrap(), b"a stranger's");
    assert_eq!((server.requests().get("COMPLETE"), begun(&bucket).await), (None, vec![]));
}

#[tokio::test]
async fn a_server_without_conditions_is_asked_what_is_there_before_the_end() {
    let server = Server::start().await;
    let bucket = small(&server).await;
    server.fail(|parts| parts.headers.contains_key("if-none-match").then(|| refusal(501, "NotImplemented")));
    assert_eq!(upload(&bucket, &outgoing("s-cp1-1", &bytes(17))).await, Ok(Uploaded::Sent));
    let order = server.order();
    assert_eq!(order[order.len() - 6..], ["HEAD", "COMPLETE", "HEAD", "COMPLETE", "HEAD", "PUT"]);
    let note = async |_: UploadId| {
        server.place("f/s-cp1-2", "a stranger's");
        Ok(())
    };
    assert_eq!(bucket.upload(&outgoing("s-cp1-2", &bytes(17)), note).await.unwrap_err().category(), "conflict");
    let order = server.order();
    assert_eq!(order[order.len() - 2..], ["HEAD", "ABORT"]);
    assert_eq!(fs::read(server.path("f/s-cp1-2")).unwrap(), b"a stranger's");
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_found_out_by_the_last_question() {
    let large = bytes(17);
    let server = Server::start().await;
    let bucket = small(&server).await;
    // It says that it is done, and something else is there.
    let other = server.path("f/s-cp1-1");
    server.fail(move |parts| {
        let done = "<CompleteMultipartUploadResult><ETag>\"x\"</ETag></CompleteMultipartUploadResult>";
        (kind(parts) == "COMPLETE").then(|| {
            fs::create_dir_all(other.parent().unwrap()).unwrap();
            fs::write(&other, "a stranger's").unwrap();
            answer(200, done)
        })
    });
    assert_eq!(upload(&bucket, &outgoing("s-cp1-1", &large)).await.unwrap_err().category(), "conflict");
    // Or nothing is.
    server.fail(|parts| (kind(parts) == "COMPLETE").then(|| answer(200, "<CompleteMultipartUploadResult/>")));
    let error = upload(&bucket, &outgoing("s-cp1-2", &large)).await.unwrap_err();
    assert!(error.to_string().contains("succeeded, and there is no object"), "{error}");
    // A failure may come after the 200.
    server.fail(|parts| (kind(parts) == "COMPLETE").then(|| refusal(200, "InternalError")));
    let error = upload(&bucket, &outgoing("s-cp1-3", &large)).await.unwrap_err();
    assert_eq!(error.category(), "server", "{error}");
}

#[tokio::test]
async fn refusals_of_uploads_in_parts_name_what_is_needed() {
    let large = bytes(17);
    for (refused, status, code, category, says, aborted) in [
        ("CREATE", 403, "AccessDenied", "denied", "beginning to upload s3://etc/f/s-cp1-1 at ", false),
        ("PART", 403, "AccessDenied", "denied", "s3:PutObject", false),
        ("PART", 503, "SlowDown", "throttled", "uploading a part of", false),
        ("PART", 507, "XMinioStorageFull", "full", "the bucket is full", false),
        ("PART", 413, "", "too_large", "no request of this size", true),
        ("COMPLETE", 400, "EntityTooLarge", "too_large", "completing the upload of", true),
    ] {
        let server = Server::start().await;
        let bucket = small(&server).await;
        server.fail(move |parts| (kind(parts) == refused).then(|| refusal(status, code)));
        let error = upload(&bucket, &outgoing("s-cp1-1", &large)).await.unwrap_err();
        assert_eq!(error.category(), category, "{error}");
        assert!(error.to_string().contains(says) && !error.to_string().contains(SECRET_KEY), "{error}");
        assert_eq!(server.requests().contains_key("ABORT"), aborted, "{refused} {status}");
    }
}

#[tokio::test]
async fn an_upload_that_may_not_be_aborted_stops_nothing() {
    let server = Server::start().await;
    let bucket = small(&server).await;
    let large = bytes(17);
    server.fail(|parts| (kind(parts) == "COMPLETE").then(|| answer(500, "")));
    let (_, id) = noting(&bucket, &outgoing("s-cp1-1", &large)).await;
    server.heal();
    assert_eq!(upload(&bucket, &outgoing("s-cp1-1", &large)).await, Ok(Uploaded::Sent));
    server.fail(|parts| (kind(parts) == "ABORT").then(|| refusal(403, "AccessDenied")));
    let going = Outgoing { begun: id.clone(), ..outgoing("s-cp1-1", &large) };
    assert_eq!(upload(&bucket, &going).await, Ok(Uploaded::There));
    let error = bucket.abort(&going.name, &id.clone().unwrap()).await.unwrap_err();
    let expected = format!(
        "aborting the upload of s3://etc/f/s-cp1-1 at {} was refused (403 AccessDenied): the credentials need s3:AbortMultipartUpload on the objects of the folder",
        server.endpoint
    );
    assert_eq!(error.to_string(), expected);
    server.heal();
    for _ in 0..2 {
        assert_eq!(bucket.abort(&going.name, &id.clone().unwrap()).await, Ok(()));
    }
}

#[tokio::test]
async fn old_uploads_of_these_names_are_found_and_no_others() {
    let server = Server::start().await;
    let bucket = small(&server).await;
    let mut ids = BTreeMap::new();
    for key in ["f/s-cp1-1", "f/s-cp1-2", "f/s-cp1-2", "f/s-cp1-3", "f/sub/s-cp1-1", "g/s-cp1-1", "s-cp1-1"] {
        let begun = bucket.client.create_multipart_upload().bucket("etc").key(key).send().await.unwrap();
        ids.entry(key).or_insert_with(BTreeSet::new).insert(UploadId(begun.upload_id.unwrap()));
    }
    let names: BTreeSet<FileName> = ["s-cp1-1", "s-cp1-2", "s-cp1-9"].into_iter().map(|name| FileName::new(name).unwrap()).collect();
    server.order();
    let now = Timestamp::now();
    let later = now + jiff::SignedDuration::from_secs(5);
    let found = bucket.abandoned(&names, later).await.unwrap();
    let expected = ["f/s-cp1-1", "f/s-cp1-2"].iter().flat_map(|key| ids[key].clone()).collect::<BTreeSet<_>>();
    assert_eq!(found.iter().map(|(_, id)| id.clone()).collect::<BTreeSet<_>>(), expected);
    assert_eq!(found.iter().filter(|(name, _)| name.as_str() == "s-cp1-2").count(), 2);
    // Four of the folder, in pages of two.
    assert_eq!(server.order(), ["LIST-UPLOADS"; 3]);
    let earlier = now - jiff::SignedDuration::from_secs(60);
    assert_eq!(bucket.abandoned(&names, earlier).await, Ok(vec![]));

    server.fail(|_| Some(refusal(403, "AccessDenied")));
    let error = bucket.abandoned(&names, later).await.unwrap_err();
    assert!(error.to_string().ends_with("the credentials need s3:ListBucketMultipartUploads on the bucket"), "{error}");
}
