//! Against a real S3 server in this process, and against servers that are none.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use sha2::{Digest as _, Sha256};

use super::super::{Listed, Memory, Store as _};
use super::testing::*;
use super::*;
use crate::snapshot::{Metadata, Verdict};

fn name(text: &str) -> FileName {
    FileName::new(text).unwrap()
}

/// What the records would remember.
fn memory(listed: &Listed) -> Memory {
    let of = |file: &SnapshotFile| Some((file.name.clone(), (file.version.clone(), file.known.clone()?)));
    listed.inventory.seen().values().filter_map(of).collect()
}

fn counts(pairs: &[(&str, usize)]) -> BTreeMap<String, usize> {
    pairs.iter().map(|(kind, count)| ((*kind).to_string(), *count)).collect()
}

fn is_complete(listed: &Listed) -> bool {
    matches!(listed.inventory, Inventory::Complete(_))
}

#[tokio::test]
async fn a_listing_costs_exactly_its_pages() {
    let server = Server::start().await;
    // Of the subfolders one is always `.metadata`, where there are sidecars.
    for (folder, objects, subfolders, lists) in [
        ("e", 0, 0, 1),
        ("a", 1, 0, 1),
        ("b", 999, 0, 1),
        ("c", 999, 1, 1),
        ("d", 1000, 0, 1),
        ("g", 1000, 1, 2),
        ("h", 1001, 0, 2),
        ("i", 1998, 2, 2),
        ("j", 2000, 1, 3),
    ] {
        for object in 0..objects {
            server.place(&format!("{folder}/s-n-{object:04}"), "x");
        }
        for subfolder in 0..subfolders {
            server.place(&format!("{folder}/t{subfolder}/s-n-1"), "x");
        }
        let bucket = server.bucket(&[]).await;
        let (found, failed) = list::folder(&bucket.client, &format!("{folder}/"), &bucket.place).await;
        assert_eq!((found.entries.len(), failed), (objects, None), "{folder}");
        assert_eq!(server.requests(), counts(&[("LIST", lists)]), "{folder}");
    }
}

#[tokio::test]
async fn an_unchanged_bucket_costs_two_lists_and_a_new_object_one_head_and_one_get() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    let bytes = vec![7; 4128];
    let digest = crate::snapshot::Digest(Sha256::digest(&bytes).into()).to_string();
    let ours = [("k3s-cluster-id", "uid"), ("k3s-node-name", "cp1"), ("k3s-token-hash", "abc"), ("etcd-snapshot-sha256", digest.as_str())];
    server.put(&bucket, "f/s-cp1-1", bytes.clone(), &ours).await;
    let sidecar =
        format!(r#"{{"etcd-snapshot-operator.dev/file-sha256":"{digest}","etcd-snapshot-operator.dev/file-size":"4128","note":"x"}}"#);
    server.put(&bucket, "f/.metadata/s-cp1-1", sidecar, &[]).await;
    server.place("f/s-cp1-2", vec![1; 4128]);
    server.place("f/sub/s-cp1-3", vec![1; 4128]);
    server.place("f/.metadata/s-cp1-9", "{}");
    server.requests();

    let first = bucket.list(&Memory::new()).await;
    assert_eq!(first.failures, []);
    assert_eq!(server.requests(), counts(&[("LIST", 2), ("HEAD", 2), ("GET", 1)]));
    let seen = first.inventory.seen();
    assert_eq!(seen.keys().map(FileName::as_str).collect::<Vec<_>>(), ["s-cp1-1", "s-cp1-2"]);
    let known = seen[&name("s-cp1-1")].known.clone().unwrap();
    assert_eq!(known.verdict, Verdict::Whole);
    assert_eq!(known.cluster, ClusterId::new("uid"));
    assert_eq!(known.node.as_ref().unwrap().as_str(), "cp1");
    assert_eq!(known.token_hash.as_deref(), Some("abc"));
    assert_eq!(known.metadata, Metadata::Read([("note".into(), "x".into())].into()));
    assert_eq!(seen[&name("s-cp1-2")].known.as_ref().unwrap().verdict, Verdict::Plausible);

    // Another client is what a restart is; the records know.
    let restarted = server.bucket(&[]).await;
    let second = restarted.list(&memory(&first)).await;
    assert_eq!(server.requests(), counts(&[("LIST", 2)]));
    assert_eq!(second.inventory, first.inventory);
    // And as long as there are no records, the client itself does.
    assert_eq!(bucket.list(&Memory::new()).await.inventory, first.inventory);
    assert_eq!(server.requests(), counts(&[("LIST", 2)]));

    // A new sidecar is a new version of the same content.
    server.place("f/.metadata/s-cp1-2", r#"{"a":"b"}"#);
    let third = bucket.list(&memory(&first)).await;
    assert_eq!(server.requests(), counts(&[("LIST", 2), ("HEAD", 1), ("GET", 1)]));
    let (before, after) = (&seen[&name("s-cp1-2")].version, &third.inventory.seen()[&name("s-cp1-2")].version);
    assert_ne!(before, after);
    assert_eq!(before.of_content(), after.of_content());
}

#[tokio::test]
async fn objects_of_another_cluster_cost_one_head_after_a_restart_and_then_nothing() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    for number in 0..3 {
        server.put(&bucket, &format!("f/s-cp1-{number}"), vec![1; 4128], &[("rke2-cluster-id", "another")]).await;
        server.place(&format!("f/.metadata/s-cp1-{number}"), "{}");
    }
    server.requests();
    for requests in [counts(&[("LIST", 2), ("HEAD", 3)]), counts(&[("LIST", 2)]), counts(&[("LIST", 2)])] {
        let listed = bucket.list(&Memory::new()).await;
        assert!(listed.inventory.seen().values().all(|file| file.known.as_ref().unwrap().cluster == ClusterId::new("another")));
        assert_eq!(server.requests(), requests);
    }
}

#[tokio::test]
async fn what_is_replaced_or_vanishes_while_it_is_read_is_no_failure() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    for number in 1..=4 {
        server.place(&format!("f/s-cp1-{number}"), vec![number; 4128]);
        server.place(&format!("f/.metadata/s-cp1-{number}"), "{}");
    }
    let (replaced, gone) = (server.path("f/s-cp1-1"), server.path("f/s-cp1-2"));
    let (sidecar, gone_sidecar) = (server.path("f/.metadata/s-cp1-3"), server.path("f/.metadata/s-cp1-4"));
    server.fail(move |parts| {
        match (parts.method.as_str(), parts.uri.path()) {
            ("HEAD", "/etc/f/s-cp1-1") => fs::write(&replaced, vec![9; 4128]).unwrap(),
            ("HEAD", "/etc/f/s-cp1-2") => drop(fs::remove_file(&gone)),
            ("GET", "/etc/f/.metadata/s-cp1-3") => fs::write(&sidecar, "[]").unwrap(),
            ("GET", "/etc/f/.metadata/s-cp1-4") => drop(fs::remove_file(&gone_sidecar)),
            _ => {}
        }
        None
    });
    let listed = bucket.list(&Memory::new()).await;
    assert_eq!(listed.failures, []);
    assert!(is_complete(&listed));
    let known: Vec<_> = listed.inventory.seen().values().map(|file| (file.name.as_str(), file.known.is_some())).collect();
    assert_eq!(known, [("s-cp1-1", false), ("s-cp1-3", false), ("s-cp1-4", false)]);
    server.heal();
    let listed = bucket.list(&Memory::new()).await;
    assert!(listed.inventory.seen().values().all(|file| file.known.is_some()));
    assert_eq!(listed.failures.len(), 1, "the sidecar is an array now: {:?}", listed.failures);
}

#[tokio::test]
async fn a_failed_look_costs_only_its_own_object() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    for number in 1..=5 {
        server.place(&format!("f/s-cp1-{number}"), vec![number; 4128]);
        server.place(&format!("f/.metadata/s-cp1-{number}"), "{}");
    }
    server.fail(|parts| match (parts.method.as_str(), parts.uri.path()) {
        ("HEAD", "/etc/f/s-cp1-1") => Some(answer(403, "")),
        ("HEAD", "/etc/f/s-cp1-2") => Some(answer(500, "")),
        ("GET", "/etc/f/.metadata/s-cp1-3") => Some(refusal(403, "AccessDenied")),
        _ => None,
    });
    let listed = bucket.list(&Memory::new()).await;
    assert!(is_complete(&listed));
    let known: Vec<_> = listed.inventory.seen().values().map(|file| file.known.is_some()).collect();
    assert_eq!(known, [false, false, false, true, true]);
    let mut categories: Vec<_> = listed.failures.iter().map(|failure| failure.category).collect();
    categories.sort_unstable();
    assert_eq!(categories, ["denied", "denied", "server"]);
    assert!(listed.failures.iter().any(|failure| failure.message
        == format!(
            "asking for s3://etc/f/s-cp1-1 at {} was refused (403): the credentials need s3:GetObject on the objects of the folder",
            server.endpoint
        )));
    server.heal();
    assert!(bucket.list(&Memory::new()).await.inventory.seen().values().all(|file| file.known.is_some()));
}

#[tokio::test]
async fn a_server_that_is_lost_while_looking_is_not_asked_once_for_each_object() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    for number in 0..200 {
        server.place(&format!("f/s-cp1-{number}"), vec![1; 4128]);
    }
    server.fail(|parts| (parts.method == "HEAD").then(|| answer(504, "")));
    let listed = bucket.list(&Memory::new()).await;
    assert!(is_complete(&listed));
    assert_eq!(listed.inventory.seen().len(), 200);
    let heads = server.requests()["HEAD"];
    assert!(heads < 200 * 3, "{heads}");
    assert!(listed.failures.last().unwrap().message.contains("more objects were not looked into"), "{:?}", listed.failures.last());
}

#[tokio::test]
async fn a_sidecar_that_is_none_is_said_once_and_counts_as_none() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(4 * 1024 * 1024));
    for (number, sidecar) in ["not json", r#"{"a":1}"#, r#"["a"]"#, large.as_str(), ""].iter().enumerate() {
        server.place(&format!("f/s-cp1-{number}"), vec![1; 4128]);
        server.place(&format!("f/.metadata/s-cp1-{number}"), sidecar);
    }
    let listed = bucket.list(&Memory::new()).await;
    assert_eq!(listed.failures.iter().filter(|failure| failure.message.contains("no usable sidecar")).count(), 4, "{:?}", listed.failures);
    assert!(listed.inventory.seen().values().all(|file| file.known.as_ref().unwrap().verdict == Verdict::Plausible));
    assert_eq!(bucket.list(&memory(&listed)).await.failures, []);
    // Four MiB are not fetched to see that they are too many.
    assert_eq!(server.requests()["GET"], 3);
}

#[tokio::test]
async fn a_listing_that_fails_on_its_first_page_saw_nothing() {
    let server = Server::start().await;
    server.place("f/s-cp1-1", vec![1; 4128]);
    let bucket = server.bucket(&[]).await;
    server.fail(|parts| is_object_list(parts).then(|| refusal(403, "AccessDenied")));
    let Inventory::Failed(failure) = bucket.list(&Memory::new()).await.inventory else { panic!() };
    assert_eq!(failure.category, "denied");
    let expected = format!(
        "listing s3://etc/f at {} was refused (403 AccessDenied): the credentials need s3:ListBucket on the bucket",
        server.endpoint
    );
    assert_eq!(failure.message, expected);
    assert_eq!(server.requests(), counts(&[("LIST", 1)]));
}

#[tokio::test]
async fn a_listing_that_fails_later_vouches_only_for_what_was_known() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    for number in 0..1100 {
        server.place(&format!("f/s-cp1-{number:04}"), vec![1; 544]);
    }
    server.place("f/.metadata/s-cp1-0000", r#"{"a":"b"}"#);
    let whole = bucket.list(&Memory::new()).await;
    assert!(is_complete(&whole));
    let mut known = memory(&whole);
    known.remove(&name("s-cp1-0001"));
    let restarted = server.bucket(&[]).await;
    server.place("f/s-cp1-0002", vec![2; 544]);
    for fault in
        [|parts: &http::request::Parts| is_object_list(parts) && parts.uri.query().unwrap().contains("continuation-token"), is_sidecar_list]
    {
        server.requests();
        server.fail(move |parts| fault(parts).then(|| answer(500, "")));
        let listed = restarted.list(&known).await;
        let Inventory::Partial(seen, failure) = &listed.inventory else { panic!("{:?}", listed.inventory) };
        assert_eq!(failure.category, "server");
        assert!(!seen.contains_key(&name("s-cp1-0001")) && !seen.contains_key(&name("s-cp1-0002")));
        assert_eq!(seen[&name("s-cp1-0000")], whole.inventory.seen()[&name("s-cp1-0000")]);
        assert!(seen.len() >= 990, "{}", seen.len());
        assert!(!server.requests().contains_key("HEAD"));
    }
}

#[tokio::test]
async fn names_that_are_no_snapshots_are_left_out_and_other_folders_are_told_of_once() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    let keys = [
        entry("f/", "etag", 0),
        entry("f/s-cp1-1", "old", 4128),
        entry("f/s-cp1-2", "etag", 0),
        entry("f/s-cp1-3.part", "etag", 9),
        entry("f/.hidden", "etag", 9),
        entry("f/sub/s-cp1-4", "etag", 9),
        entry("g/s-cp1-5", "etag", 9),
        entry("s-cp1-6", "etag", 9),
        entry("f/s-cp1-1", "new", 4128),
        entry("f/a &amp; b.zip", "etag", 30),
    ];
    let page = format!("<ListBucketResult><IsTruncated>false</IsTruncated>{}</ListBucketResult>", keys.concat());
    server.fail(move |parts| is_object_list(parts).then(|| answer(200, page.clone())));
    let listed = bucket.list(&Memory::new()).await;
    // None of them is really there.
    assert_eq!(listed.inventory.seen().len(), 0);
    let (folder, failed) = list::folder(&bucket.client, "f/", &bucket.place).await;
    assert_eq!(failed, None);
    let found: Vec<_> = folder.entries.iter().map(|(name, entry)| (name.as_str(), entry.etag.as_str())).collect();
    assert_eq!(found, [("a & b.zip", "etag"), ("s-cp1-1", "new")]);
    assert_eq!(
        listed.failures.iter().map(|failure| failure.message.clone()).collect::<Vec<_>>(),
        [format!("listing s3://etc/f at {} showed keys of other folders, which are left alone: 2", server.endpoint)]
    );
}

#[tokio::test]
async fn an_answer_that_is_no_listing_is_a_failure_and_never_an_empty_bucket() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    let good = page(&["f/s-cp1-1"], None);
    let not_s3 = "is not S3's";
    for (what, body, says) in [
        ("html", "<html><body>Please log in<br></body></html>".to_string(), not_s3),
        ("xhtml", "<html><body>Please log in</body></html>".to_string(), not_s3),
        ("nothing", String::new(), not_s3),
        ("json", "{}".to_string(), not_s3),
        ("another answer of S3", "<ListAllMyBucketsResult></ListAllMyBucketsResult>".to_string(), not_s3),
        ("half", good[..good.len() / 2].to_string(), not_s3),
        ("without its end", good.replace("</ListBucketResult>", ""), not_s3),
        ("a control character", good.replace("s-cp1", "s\u{1}cp1"), not_s3),
        ("no word on more", good.replace("<IsTruncated>false</IsTruncated>", ""), "whether it is complete"),
        ("more without a token", good.replace("false", "true"), "not how to ask for it"),
        ("another count", good.replace("<Name>", "<KeyCount>2</KeyCount><Name>"), "another number of keys"),
        ("no size", good.replace("<Size>4128</Size>", ""), "without a size"),
        ("no ETag", good.replace("\"etag\"", ""), "without an ETag"),
        ("always the same token", page(&["f/s-cp1-1"], Some("t")), "nothing new"),
        ("nothing, but more", page(&[], Some("t")), "nothing new"),
    ] {
        server.fail(move |parts| is_object_list(parts).then(|| answer(200, body.clone())));
        let listed = bucket.list(&Memory::new()).await;
        let failure = listed.inventory.failure().unwrap_or_else(|| panic!("{what}: {:?}", listed.inventory));
        assert_eq!(failure.category, "protocol", "{what}: {failure}");
        assert!(failure.message.contains(says), "{what}: {failure}");
    }
    for endless in [true, false] {
        let pages = AtomicUsize::new(0);
        server.fail(move |parts| {
            let number = pages.fetch_add(1, Ordering::Relaxed);
            let (key, token) = (format!("f/s-cp1-{number}"), if endless { format!("t{number}") } else { "t".into() });
            is_object_list(parts).then(|| answer(200, page(&[&key], Some(&token))))
        });
        server.requests();
        let listed = bucket.list(&Memory::new()).await;
        assert_eq!(listed.inventory.failure().unwrap().category, "protocol");
        assert_eq!(server.requests(), counts(&[("LIST", if endless { 1000 } else { 2 })]));
    }
}

#[tokio::test]
async fn not_there_is_proven_by_a_bucket_that_is() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    server.place("f/s-cp1-1", vec![1; 4128]);
    let listed = bucket.list(&Memory::new()).await;
    server.requests();
    let asked = bucket.ask(&name("s-cp1-1")).await.unwrap().unwrap();
    assert_eq!(asked.of_content(), listed.inventory.seen()[&name("s-cp1-1")].version.of_content());
    assert_eq!(server.requests(), counts(&[("HEAD", 1)]));
    for _ in 0..2 {
        assert_eq!(bucket.ask(&name("s-cp1-2")).await, Ok(None));
    }
    assert_eq!(server.requests(), counts(&[("HEAD", 2), ("HEAD-BUCKET", 1)]));

    // The next pass proves it anew.
    bucket.list(&Memory::new()).await;
    fs::remove_dir_all(server.path("")).unwrap();
    let failure = bucket.ask(&name("s-cp1-2")).await.unwrap_err();
    assert_eq!(failure.category, "no_bucket");
    assert!(failure.message.contains("bucket \"etc\" does not exist"), "{failure}");
    assert_eq!(bucket.list(&Memory::new()).await.inventory.failure().unwrap().category, "no_bucket");
}

#[tokio::test]
async fn a_bucket_that_goes_away_while_it_is_read_empties_nothing() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    server.place("f/s-cp1-1", vec![1; 4128]);
    let path = server.path("");
    server.fail(move |parts| {
        if parts.method == "HEAD" {
            drop(fs::remove_dir_all(&path));
        }
        None
    });
    let listed = bucket.list(&Memory::new()).await;
    let Inventory::Partial(seen, failure) = listed.inventory else { panic!() };
    assert_eq!((seen.len(), failure.category), (0, "no_bucket"));
}

#[tokio::test]
async fn refusals_say_what_to_change_and_show_no_secret() {
    let server = Server::start().await;
    let bucket = server.bucket(&[("session-token", TOKEN)]).await;
    for (status, code, category, says) in [
        (403, "AccessDenied", "denied", "s3:ListBucket"),
        (403, "InvalidAccessKeyId", "credentials", "does not know the access key"),
        (403, "SignatureDoesNotMatch", "credentials", "secret key"),
        (400, "InvalidToken", "credentials", "session token"),
        (400, "ExpiredToken", "expired", "have expired"),
        (403, "RequestTimeTooSkewed", "clock", "clock of this machine"),
        (404, "NoSuchBucket", "no_bucket", "does not exist"),
        (400, "AuthorizationHeaderMalformed", "region", "etcd-s3-region"),
        (301, "PermanentRedirect", "region", "etcd-s3-region"),
        (503, "SlowDown", "throttled", "put off"),
        (429, "TooManyRequests", "throttled", "put off"),
        (500, "InternalError", "server", "500 InternalError"),
        (501, "NotImplemented", "protocol", "cannot do"),
        (418, "Teapot", "protocol", "418 Teapot"),
        (403, "<script>", "denied", "(403)"),
    ] {
        server.fail(move |parts| is_object_list(parts).then(|| refusal(status, code)));
        let listed = bucket.list(&Memory::new()).await;
        let failure = listed.inventory.failure().unwrap();
        assert_eq!(failure.category, category, "{code}: {failure}");
        assert!(failure.message.contains(says) && failure.message.starts_with("listing s3://etc/f at "), "{code}: {failure}");
        let shown = format!("{failure} {failure:?}");
        assert!(![ACCESS_KEY, SECRET_KEY, TOKEN].iter().any(|secret| shown.contains(secret)), "{shown}");
    }
    server.fail(|_| {
        let mut answer = answer(301, "<Error><Code>PermanentRedirect</Code></Error>");
        answer.headers_mut().insert("x-amz-bucket-region", "eu-central-1".parse().unwrap());
        Some(answer)
    });
    let message = bucket.list(&Memory::new()).await.inventory.failure().unwrap().message.clone();
    assert!(message.contains("in region eu-central-1; set etcd-s3-region to it, it is us-east-1"), "{message}");
}

#[tokio::test]
async fn what_may_pass_is_tried_three_times_and_every_request_is_counted() {
    let server = Server::start().await;
    let seen: Arc<Mutex<Vec<(&str, &str)>>> = Arc::default();
    let log = Arc::clone(&seen);
    let observer: Observer = Arc::new(move |seen| {
        if let Traffic::Request { operation, outcome } = seen {
            log.lock().unwrap().push((operation, outcome));
        }
    });
    let bucket = Bucket::new(&server.access(&[]), ClusterId::new("uid").unwrap(), observer).await.unwrap();
    let counted = || seen.lock().unwrap().drain(..).collect::<Vec<_>>();
    for (status, outcome, times) in
        [(503, "throttled", 3), (429, "throttled", 3), (500, "error", 3), (403, "denied", 1), (404, "not_found", 1)]
    {
        server.fail(move |parts| is_object_list(parts).then(|| answer(status, "")));
        bucket.list(&Memory::new()).await;
        assert_eq!(counted(), vec![("ListObjectsV2", outcome); times], "{status}");
        assert_eq!(server.requests(), counts(&[("LIST", times)]));
    }
    server.heal();
    server.place("f/s-cp1-1", vec![1; 4128]);
    server.place("f/.metadata/s-cp1-1", "{}");
    bucket.list(&Memory::new()).await;
    assert_eq!(bucket.ask(&name("s-cp1-2")).await, Ok(None));
    let success = ["ListObjectsV2", "ListObjectsV2", "HeadObject", "GetObject"].map(|operation| (operation, "success"));
    assert_eq!(counted(), [&success[..], &[("HeadObject", "not_found"), ("HeadBucket", "success")]].concat());
    drop(server);
}

#[tokio::test]
async fn wrong_keys_are_told_from_a_real_refusal() {
    let server = Server::start().await;
    for (setting, value, category) in [("access-key", "AKIAWRONG", "credentials"), ("secret-key", "wrong-wrong", "credentials")] {
        let bucket = server.bucket(&[(setting, value)]).await;
        let failure = bucket.list(&Memory::new()).await.inventory.failure().unwrap().clone();
        assert_eq!(failure.category, category, "{failure}");
        assert!(!failure.message.contains(value), "{failure}");
    }
    let bucket = server.bucket(&[("bucket", "missing")]).await;
    let failure = bucket.list(&Memory::new()).await.inventory.failure().unwrap().clone();
    assert_eq!(failure.category, "no_bucket", "{failure}");
}

#[tokio::test]
async fn the_root_of_a_bucket_is_a_folder_too() {
    let server = Server::start().await;
    let bucket = server.bucket(&[("folder", "")]).await;
    server.place("s-cp1-1", vec![1; 4128]);
    server.place(".metadata/s-cp1-1", r#"{"a":"b"}"#);
    server.place("f/s-cp1-2", vec![1; 4128]);
    let listed = bucket.list(&Memory::new()).await;
    assert_eq!(listed.inventory.seen().len(), 1);
    let known = listed.inventory.seen()[&name("s-cp1-1")].known.clone().unwrap();
    assert_eq!(known.metadata, Metadata::Read([("a".into(), "b".into())].into()));
}
