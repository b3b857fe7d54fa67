//! Bringing files into a bucket in one request, and what may be there before or meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::super::{Memory, Store as _};
use super::testing::*;
use super::*;
use crate::snapshot::{Digest, Program, Verdict};

type Headers = BTreeMap<String, String>;

/// The headers of every request of these methods that comes from now on.
fn headers(server: &Server, methods: &'static [&'static str]) -> Arc<Mutex<Vec<Headers>>> {
    let seen: Arc<Mutex<Vec<Headers>>> = Arc::default();
    let log = Arc::clone(&seen);
    server.fail(move |parts| {
        if methods.contains(&kind(parts).as_str()) {
            let of = |(name, value): (&http::HeaderName, &http::HeaderValue)| (name.to_string(), value.to_str().unwrap().to_string());
            log.lock().unwrap().push(parts.headers.iter().map(of).collect());
        }
        None
    });
    seen
}

#[tokio::test]
async fn a_small_file_costs_two_questions_and_two_puts_as_k3s_writes_them() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    let sent = headers(&server, &["PUT"]);
    let going = outgoing("s-cp1-1", &[7; 4128]);
    assert_eq!(upload(&bucket, &going).await, Ok(Uploaded::Sent));
    assert_eq!(server.order(), ["HEAD", "HEAD", "PUT", "PUT"]);
    assert_eq!(fs::read(server.path("f/s-cp1-1")).unwrap(), [7; 4128]);
    assert_eq!(fs::read(server.path("f/.metadata/s-cp1-1")).unwrap(), going.sidecar);
    let sent = sent.lock().unwrap();
    let md5_of = |bytes: &[u8]| source::content_md5(source::md5(bytes));
    for (put, content_type, md5, digest) in [
        (&sent[0], "application/octet-stream", md5_of(&[7; 4128]), Some(going.sha256.to_string())),
        (&sent[1], "application/json", md5_of(&going.sidecar), None),
    ] {
        assert_eq!(put["content-type"], content_type);
        assert_eq!(put["content-md5"], md5);
        assert_eq!(put["if-none-match"], "*");
        let user: BTreeMap<_, _> = put.iter().filter_map(|(key, value)| Some((key.strip_prefix("x-amz-meta-")?, value.as_str()))).collect();
        let mut expected = BTreeMap::from([("k3s-cluster-id", "uid"), ("k3s-node-name", "cp1"), ("k3s-token-hash", "abc")]);
        expected.extend(digest.as_deref().map(|digest| ("etcd-snapshot-sha256", digest)));
        assert_eq!(user, expected);
    }
}

#[tokio::test]
async fn a_zip_is_one_and_what_is_not_known_is_left_out() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    let sent = headers(&server, &["PUT"]);
    for token_hash in [None, Some(String::new())] {
        let name = format!("s-cp1-{}.zip", token_hash.iter().len());
        let going = Outgoing { program: Program::Rke2, token_hash, ..outgoing(&name, &[7; 30]) };
        assert_eq!(upload(&bucket, &going).await, Ok(Uploaded::Sent));
    }
    for put in sent.lock().unwrap().iter() {
        assert!(["application/zip", "application/json"].contains(&put["content-type"].as_str()));
        assert_eq!((put["x-amz-meta-rke2-cluster-id"].as_str(), put["x-amz-meta-rke2-node-name"].as_str()), ("uid", "cp1"));
        assert!(!put.keys().any(|key| key.contains("token-hash")), "{put:?}");
    }
    assert_eq!(sent.lock().unwrap()[0]["content-type"], "application/zip");
}

#[tokio::test]
async fn what_was_uploaded_is_listed_as_whole_and_ours() {
    let server = Server::start().await;
    let bucket = server.bucket(&[("folder", "")]).await;
    let mut going = outgoing("s-cp1-1", &[7; 4128]);
    going.sidecar =
        format!(r#"{{"etcd-snapshot-operator.dev/file-sha256":"{}","etcd-snapshot-operator.dev/file-size":"4128"}}"#, going.sha256).into();
    assert_eq!(upload(&bucket, &going).await, Ok(Uploaded::Sent));
    assert!(server.path("s-cp1-1").exists() && server.path(".metadata/s-cp1-1").exists());
    let listed = bucket.list(&Memory::new()).await;
    let known = listed.inventory.seen()[&going.name].known.clone().unwrap();
    assert_eq!((known.verdict, known.cluster, known.node), (Verdict::Whole, Some(going.cluster), Some(going.node)));
}

/// An object as K3s or we put it, by its user metadata.
async fn put(server: &Server, bucket: &Bucket, bytes: &[u8], metadata: &[(&str, &str)]) {
    server.put(bucket, "f/s-cp1-1", bytes, metadata).await;
    server.order();
}

#[tokio::test]
async fn the_very_same_is_done_and_a_sidecar_that_is_there_is_not_sent_again() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    let going = outgoing("s-cp1-1", &[7; 4128]);
    assert_eq!(upload(&bucket, &going).await, Ok(Uploaded::Sent));
    server.order();
    assert_eq!(upload(&bucket, &going).await, Ok(Uploaded::There));
    assert_eq!(server.order(), ["HEAD", "HEAD"]);

    // Nothing that the file tells of, only what the sidecar says.
    let richer = Outgoing { sidecar: br#"{"note":"y"}"#.to_vec(), ..outgoing("s-cp1-1", &[7; 4128]) };
    assert_eq!(upload(&bucket, &richer).await, Ok(Uploaded::There));
    assert_eq!(server.order(), ["HEAD", "HEAD", "PUT"]);
    assert_eq!(fs::read(server.path("f/.metadata/s-cp1-1")).unwrap(), richer.sidecar);
    fs::remove_file(server.path("f/.metadata/s-cp1-1")).unwrap();
    assert_eq!(upload(&bucket, &richer).await, Ok(Uploaded::There));
    assert_eq!(server.order(), ["HEAD", "HEAD", "PUT"]);
}

#[tokio::test]
async fn an_etag_of_another_key_or_another_shape_proves_nothing() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    let going = outgoing("s-cp1-1", &[7; 4128]);
    upload(&bucket, &going).await.unwrap();
    server.order();
    let md5 = md5_hex(&going.sidecar);
    for (etag, header, value, puts) in [
        (md5.clone(), "x-amz-server-side-encryption", "AES256", 0),
        (md5.clone(), "x-amz-server-side-encryption", "aws:kms", 1),
        (md5.clone(), "x-amz-server-side-encryption", "aws:kms:dsse", 1),
        (md5.clone(), "x-amz-server-side-encryption-aws-kms-key-id", "key", 1),
        (md5.clone(), "x-amz-server-side-encryption-customer-algorithm", "AES256", 1),
        (format!("{md5}-1"), "x-none", "", 1),
        (md5.replace(char::is_numeric, "x"), "x-none", "", 1),
    ] {
        let what = format!("{etag} {header} {value}");
        server.fail(move |parts| {
            let is_sidecar = kind(parts) == "HEAD" && parts.uri.path().contains(".metadata");
            is_sidecar.then(|| {
                let mut answer = answer(200, "");
                answer.headers_mut().insert("etag", format!("\"{etag}\"").parse().unwrap());
                answer.headers_mut().insert(header, value.parse().unwrap());
                answer
            })
        });
        assert_eq!(upload(&bucket, &going).await, Ok(Uploaded::There), "{what}");
        assert_eq!(server.requests().get("PUT").copied().unwrap_or_default(), puts, "{what}");
    }
}

#[tokio::test]
async fn k3s_own_upload_is_taken_as_done_and_keeps_its_own_sidecar() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    let going = outgoing("s-cp1-1", &[7; 4128]);
    put(&server, &bucket, &[7; 4128], &[("k3s-cluster-id", "uid"), ("k3s-node-name", "cp1")]).await;
    server.place("f/.metadata/s-cp1-1", "{}");
    assert_eq!(upload(&bucket, &going).await, Ok(Uploaded::TakenAsDone));
    assert_eq!(server.order(), ["HEAD", "HEAD"]);
    assert_eq!(fs::read(server.path("f/.metadata/s-cp1-1")).unwrap(), b"{}");

    fs::remove_file(server.path("f/.metadata/s-cp1-1")).unwrap();
    assert_eq!(upload(&bucket, &going).await, Ok(Uploaded::TakenAsDone));
    assert_eq!(server.order(), ["HEAD", "HEAD", "PUT"]);
    let listed = bucket.list(&Memory::new()).await;
    assert_eq!(listed.inventory.seen()[&going.name].known.as_ref().unwrap().verdict, Verdict::Plausible);
}

#[tokio::test]
async fn anything_else_under_the_key_is_a_named_conflict_and_stays() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    let other = Digest([1; 32]).to_string();
    let ours = outgoing("s-cp1-1", &[7; 4128]).sha256.to_string();
    let (cluster, node) = (("k3s-cluster-id", "uid"), ("k3s-node-name", "cp1"));
    let long = "x".repeat(65);
    for (bytes, metadata, says) in [
        (4128, vec![], "that shows neither a SHA-256 nor a cluster id".to_string()),
        (4128, vec![node], "that shows neither a SHA-256 nor a cluster id".into()),
        (4128, vec![cluster], "that shows neither a SHA-256 nor a node".into()),
        (4128, vec![("k3s-cluster-id", "another"), node], "of cluster another, and this is cluster uid".into()),
        (4128, vec![("k3s-cluster-id", long.as_str()), node], "of cluster (unreadable), and this is cluster uid".into()),
        (4128, vec![cluster, ("rke2-node-name", "cp2")], "of node cp2, and this is node cp1".into()),
        (4640, vec![cluster, node], "of 4640 bytes, and the file has 4128".into()),
        (4640, vec![cluster, node, ("etcd-snapshot-sha256", &ours)], "of 4640 bytes, and the file has 4128".into()),
        (4128, vec![cluster, node, ("etcd-snapshot-sha256", &other)], format!("with the SHA-256 {other}, and the file has {ours}")),
        (4128, vec![("k3s-cluster-id", "another"), node, ("etcd-snapshot-sha256", &other)], "of cluster another".into()),
    ] {
        put(&server, &bucket, &vec![9; bytes], &metadata).await;
        let error = upload(&bucket, &outgoing("s-cp1-1", &[7; 4128])).await.unwrap_err();
        assert_eq!(error.category(), "conflict", "{error}");
        let begins =
            format!("uploading s3://etc/f/s-cp1-1 at {} is not done: there is another object under this key, {says}", server.endpoint);
        assert!(error.to_string().starts_with(&begins), "{error}");
        assert_eq!(server.order(), ["HEAD"]);
        assert_eq!(fs::read(server.path("f/s-cp1-1")).unwrap(), vec![9; bytes]);
    }
}

#[tokio::test]
async fn another_clusters_equal_object_is_done_and_nothing_of_it_is_touched() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    let going = outgoing("s-cp1-1", &[7; 4128]);
    let digest = going.sha256.to_string();
    put(&server, &bucket, &[7; 4128], &[("k3s-cluster-id", "another"), ("etcd-snapshot-sha256", &digest)]).await;
    assert_eq!(upload(&bucket, &going).await, Ok(Uploaded::There));
    assert_eq!(server.order(), ["HEAD"]);
}

#[tokio::test]
async fn another_clusters_sidecar_keeps_our_file_out() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    server.put(&bucket, "f/.metadata/s-cp1-1", "{}", &[("k3s-cluster-id", "another")]).await;
    server.order();
    let error = upload(&bucket, &outgoing("s-cp1-1", &[7; 4128])).await.unwrap_err();
    assert_eq!(error.category(), "conflict");
    assert!(error.to_string().contains("f/.metadata/s-cp1-1") && error.to_string().contains("another cluster's"), "{error}");
    assert_eq!(server.order(), ["HEAD", "HEAD"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_second_overwrites_nothing() {
    let going = outgoing("s-cp1-1", &[7; 4128]);
    let of = |digest: &str| [("k3s-cluster-id", "uid"), ("etcd-snapshot-sha256", digest)].map(|(k, v)| (k.to_string(), v.to_string()));
    for (bytes, digest, ends) in
        [(&[7; 4128], going.sha256, Ok(Uploaded::There)), (&[9; 4128], Digest([1; 32]), Err("conflict"))] as [(&'static [u8], _, _); 2]
    {
        let server = Server::start().await;
        let bucket = server.bucket(&[]).await;
        let metadata = of(&digest.to_string());
        be_faster(&server, &bucket, "PUT", bytes, &metadata.each_ref().map(|(key, value)| (key.as_str(), value.as_str())));
        assert_eq!(upload(&bucket, &going).await.map_err(|error| error.category()), ends);
        // The one in between is the other's.
        assert_eq!(server.order()[..5], ["HEAD", "HEAD", "PUT", "PUT", "HEAD"]);
        assert_eq!(fs::read(server.path("f/s-cp1-1")).unwrap(), bytes);
    }
}

#[tokio::test]
async fn a_condition_that_did_not_hold_is_decided_by_a_question() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    for (status, code) in [(409, "ConditionalRequestConflict"), (409, "OperationAborted"), (412, "PreconditionFailed"), (412, "")] {
        server.fail(move |parts| (kind(parts) == "PUT").then(|| refusal(status, code)));
        let error = upload(&bucket, &outgoing("s-cp1-1", &[7; 4128])).await.unwrap_err();
        assert_eq!(error.category(), "conflict", "{error}");
        assert!(error.to_string().contains("somebody else is writing or deleting this key"), "{error}");
        assert_eq!(server.order(), ["HEAD", "HEAD", "PUT", "HEAD"]);
    }
}

#[tokio::test]
async fn a_server_without_conditions_is_asked_for_them_once() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    for (status, code) in [(501, "NotImplemented"), (501, "")] {
        let bucket = server.bucket(&[]).await;
        server.fail(move |parts| (kind(parts) == "PUT" && parts.headers.contains_key("if-none-match")).then(|| refusal(status, code)));
        let name = format!("s-cp1-{}", code.len());
        assert_eq!(upload(&bucket, &outgoing(&name, &[7; 4128])).await, Ok(Uploaded::Sent));
        assert_eq!(server.order(), ["HEAD", "HEAD", "PUT", "PUT", "PUT"]);
        assert_eq!(upload(&bucket, &outgoing(&format!("{name}2"), &[7; 4128])).await, Ok(Uploaded::Sent));
        assert_eq!(server.order(), ["HEAD", "HEAD", "PUT", "PUT"]);
    }
    // What cannot be done without a condition either is said.
    server.fail(|parts| (kind(parts) == "PUT").then(|| refusal(501, "NotImplemented")));
    let error = upload(&bucket, &outgoing("s-cp1-9", &[7; 4128])).await.unwrap_err();
    assert!(error.to_string().contains("something that the server cannot do"), "{error}");
}

#[tokio::test]
async fn a_store_that_ignores_conditions_keeps_what_was_there_since_it_is_asked_first() {
    let server = Server::start().await;
    server.ignore_conditions();
    let bucket = server.bucket(&[]).await;
    let going = outgoing("s-cp1-1", &[7; 4128]);
    put(&server, &bucket, &[9; 4128], &[]).await;
    // It would put anything over anything.
    let put_over = bucket.client.put_object().bucket("etc").key("f/else").if_none_match("*");
    server.place("f/else", "there");
    put_over.body(b"over".to_vec().into()).send().await.unwrap();
    server.order();
    assert_eq!(upload(&bucket, &going).await.unwrap_err().category(), "conflict");
    assert_eq!(server.order(), ["HEAD"]);
    assert_eq!(fs::read(server.path("f/s-cp1-1")).unwrap(), [9; 4128]);
}

#[tokio::test]
async fn an_answer_that_was_lost_is_found_by_the_next_question() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    let going = outgoing("s-cp1-1", &[7; 4128]);
    // The SDK asks again by itself, and meets its own object.
    let lost = Mutex::new(false);
    server.lose(move |parts| kind(parts) == "PUT" && !std::mem::replace(&mut *lost.lock().unwrap(), true));
    assert_eq!(upload(&bucket, &going).await, Ok(Uploaded::There));
    assert_eq!(server.order(), ["HEAD", "HEAD", "PUT", "PUT", "HEAD", "PUT"]);

    // The same of the sidecar.
    let going = outgoing("s-cp1-3", &[7; 4128]);
    let lost = Mutex::new(false);
    server.lose(move |parts| {
        let is_sidecar = kind(parts) == "PUT" && parts.uri.path().contains(".metadata");
        is_sidecar && !std::mem::replace(&mut *lost.lock().unwrap(), true)
    });
    assert_eq!(upload(&bucket, &going).await, Ok(Uploaded::Sent));
    assert_eq!(server.order(), ["HEAD", "HEAD", "PUT", "PUT", "PUT", "HEAD"]);
    assert_eq!(fs::read(server.path("f/.metadata/s-cp1-3")).unwrap(), going.sidecar);

    // All of them are lost: the next try knows.
    let going = outgoing("s-cp1-2", &[7; 4128]);
    server.lose(|parts| kind(parts) == "PUT");
    let unconditional = server.bucket(&[]).await;
    unconditional.without_conditions();
    let error = upload(&unconditional, &going).await.unwrap_err();
    assert_eq!(error.category(), "unreachable", "{error}");
    server.heal();
    server.order();
    assert_eq!(upload(&bucket, &going).await, Ok(Uploaded::There));
    assert_eq!(server.order(), ["HEAD", "HEAD", "PUT"]);
}

#[tokio::test]
async fn a_sidecar_that_fails_is_made_up_for_by_the_next_try() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    let going = outgoing("s-cp1-1", &[7; 4128]);
    server.fail(|parts| (kind(parts) == "PUT" && parts.uri.path().contains(".metadata")).then(|| refusal(403, "AccessDenied")));
    let error = upload(&bucket, &going).await.unwrap_err();
    assert_eq!(error.category(), "denied");
    assert!(error.to_string().contains("f/.metadata/s-cp1-1"), "{error}");
    server.heal();
    server.order();
    assert_eq!(upload(&bucket, &going).await, Ok(Uploaded::There));
    assert_eq!(server.order(), ["HEAD", "HEAD", "PUT"]);
}

#[tokio::test]
async fn only_the_bytes_that_were_verified_go_up() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    let verified = outgoing("s-cp1-1", &[7; 4128]);
    for bytes in [vec![8; 4128], vec![7; 4127], vec![]] {
        let going = Outgoing { size: verified.size, sha256: verified.sha256, ..outgoing("s-cp1-1", &bytes) };
        let error = upload(&bucket, &going).await.unwrap_err();
        assert_eq!(error.category(), "changed", "{error}");
        assert!(error.to_string().contains("the file changed while it went up"), "{error}");
        assert_eq!(server.order(), ["HEAD", "HEAD"]);
    }
    // What was appended since is not what was verified, and is not sent.
    let grown = Outgoing { size: verified.size, sha256: verified.sha256, ..outgoing("s-cp1-1", &[7; 5000]) };
    assert_eq!(upload(&bucket, &grown).await, Ok(Uploaded::Sent));
    assert_eq!(fs::read(server.path("f/s-cp1-1")).unwrap(), [7; 4128]);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_said_to_be_that() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    let file = fs::File::options().write(true).open(tempfile::NamedTempFile::new().unwrap().path()).unwrap();
    let error = upload(&bucket, &Outgoing { file, ..outgoing("s-cp1-1", &[7; 4128]) }).await.unwrap_err();
    assert_eq!(error.category(), "local");
    assert!(error.to_string().contains("the file cannot be read"), "{error}");
}

#[tokio::test]
async fn refusals_of_a_put_say_what_to_change_and_show_no_secret() {
    let server = Server::start().await;
    let bucket = server.bucket(&[("session-token", TOKEN)]).await;
    for (status, code, category, says) in [
        (403, "AccessDenied", "denied", "the credentials need s3:PutObject on the objects of the folder"),
        (403, "QuotaExceeded", "full", "the bucket is full"),
        (507, "XMinioStorageFull", "full", "the bucket is full"),
        (400, "XMinioAdminBucketQuotaExceeded", "full", "the bucket is full"),
        (507, "", "full", "the bucket is full"),
        (400, "EntityTooLarge", "too_large", "takes no request of this size"),
        (413, "", "too_large", "let it take 16 MiB"),
        (400, "BadDigest", "server", "other bytes arrived there"),
        (400, "ExpiredToken", "expired", "have expired"),
        (503, "SlowDown", "throttled", "put off"),
        (404, "NoSuchBucket", "no_bucket", "does not exist"),
        (500, "InternalError", "server", "500 InternalError"),
    ] {
        server.fail(move |parts| (kind(parts) == "PUT").then(|| refusal(status, code)));
        let error = upload(&bucket, &outgoing("s-cp1-1", &[7; 4128])).await.unwrap_err();
        let shown = format!("{error} {error:?}");
        assert_eq!(error.category(), category, "{error}");
        assert!(error.to_string().starts_with("uploading s3://etc/f/s-cp1-1 at ") && shown.contains(says), "{error}");
        assert!(![ACCESS_KEY, SECRET_KEY, TOKEN].iter().any(|secret| shown.contains(secret)), "{shown}");
    }
}

/// A line to `to` that carries so many bytes a second towards it.
async fn slow_line(to: &str, bytes_a_second: usize) -> String {
    let to = to.to_string();
    listen(move |mut stream| {
        let to = to.clone();
        async move {
            let server = TcpStream::connect(&to).await.unwrap();
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (stream.split(), server.into_split());
            let forth = async {
                let mut piece = vec![0; bytes_a_second / 50];
                while let Ok(size @ 1..) = from_client.read(&mut piece).await {
                    if to_server.write_all(&piece[..size]).await.is_err() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            let back = tokio::io::copy(&mut from_server, &mut to_client);
            let _ = tokio::join!(forth, back);
        }
    })
    .await
}

#[tokio::test]
async fn a_slow_line_may_take_longer_than_the_timeout() {
    let server = Server::start().await;
    let line = slow_line(&server.endpoint, 2 << 20).await;
    // Eight seconds of bytes, and at most two of them in buffers on the way.
    let bucket = server.bucket(&[("endpoint", &line), ("timeout", "5s")]).await;
    assert_eq!(upload(&bucket, &outgoing("s-cp1-1", &bytes((16 << 10) - 1))).await, Ok(Uploaded::Sent));
    assert_eq!(server.requests()["PUT"], 2);
}

#[tokio::test]
async fn an_upload_that_stands_still_is_given_up_and_not_sent_again_at_once() {
    let server = Server::start().await;
    let bucket = server.bucket(&[("timeout", "2s")]).await;
    for size in [4128, 8 << 20] {
        server.hold(|parts| kind(parts) == "PUT");
        let error = upload(&bucket, &outgoing("s-cp1-1", &vec![7; size])).await.unwrap_err();
        assert_eq!(error.category(), "timeout", "{error}");
        assert!(error.to_string().contains("stood still for as long as etcd-s3-timeout"), "{error}");
        assert_eq!(server.order(), ["HEAD", "HEAD", "PUT"]);
    }
}

#[tokio::test]
async fn bytes_and_repetitions_are_told() {
    let server = Server::start().await;
    let told: Arc<Mutex<Vec<Traffic>>> = Arc::default();
    let log = Arc::clone(&told);
    let observer: Observer = Arc::new(move |seen| log.lock().unwrap().push(seen));
    let bucket = Bucket::new(&server.access(&[]), ClusterId::new("uid").unwrap(), observer).await.unwrap();
    let refused = Mutex::new(0);
    server.fail(move |parts| {
        let mut refused = refused.lock().unwrap();
        if kind(parts) != "PUT" || *refused == 2 {
            return None;
        }
        *refused += 1;
        Some(refusal(503, "SlowDown"))
    });
    let going = outgoing("s-cp1-1", &[7; 4128]);
    assert_eq!(upload(&bucket, &going).await, Ok(Uploaded::Sent));
    let put = |outcome| Traffic::Request { operation: "PutObject", outcome };
    let head = Traffic::Request { operation: "HeadObject", outcome: "not_found" };
    let sent = |bytes| Traffic::Sent { bytes };
    let (file, sidecar) = (sent(4128), sent(going.sidecar.len() as u64));
    let again = Traffic::Retried;
    let expected =
        [head, head, file, put("throttled"), again, file, put("throttled"), again, file, put("success"), sidecar, put("success")];
    assert_eq!(*told.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_refusal_that_comes_before_the_bytes_were_read_is_understood() {
    let server = Server::start().await;
    let bucket = server.bucket(&[]).await;
    server.fail(|parts| (kind(parts) == "PUT").then(|| refusal(403, "AccessDenied")));
    let going = outgoing("s-cp1-1", &bytes(15 << 10));
    for _ in 0..5 {
        assert_eq!(upload(&bucket, &going).await.unwrap_err().category(), "denied");
        assert_eq!(server.order(), ["HEAD", "HEAD", "PUT"]);
    }
}
