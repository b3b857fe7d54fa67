//! The way to the server: TLS, proxies, and servers that do not speak what they should.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_credential_types::credential_fn::provide_credentials_fn;
use aws_credential_types::provider::error::CredentialsError;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::super::{Memory, Store as _};
use super::testing::*;
use super::*;

/// A certificate authority, and base64 of its certificate as the setting takes it.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    setting: String,
}

fn setting(certificate: &Certificate) -> String {
    BASE64_STANDARD.encode(certificate.pem())
}

impl Authority {
    fn new() -> Self {
        Self::called("etcd")
    }

    fn called(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let setting = setting(&params.self_signed(&key).unwrap());
        Self { issuer: Issuer::new(params, key), setting }
    }

    fn sign(&self, params: &CertificateParams) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        acceptor(&params.signed_by(&key, &self.issuer).unwrap(), &key)
    }
}

fn named(name: &str) -> CertificateParams {
    CertificateParams::new([name.to_string()]).unwrap()
}

fn acceptor(certificate: &Certificate, key: &KeyPair) -> TlsAcceptor {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// What listing says: nothing when it works, else category and sentence.
async fn listing(access: &S3Access) -> Option<(&'static str, String)> {
    let listed = bucket(access).await.list(&Memory::new()).await;
    assert_eq!(listed.failures, []);
    let failure = listed.inventory.failure()?;
    let shown = format!("{failure} {failure:?}");
    assert!(!["hunter2", ACCESS_KEY, SECRET_KEY].iter().any(|secret| shown.contains(secret)), "{shown}");
    Some((failure.category, failure.message.clone()))
}

async fn fails(access: &S3Access, category: &str, says: &str) {
    let (found, sentence) = listing(access).await.expect("a failure");
    assert_eq!(found, category, "{sentence}");
    assert!(sentence.contains(says), "{sentence}");
}

#[tokio::test]
async fn a_certificate_is_believed_when_its_authority_is_listed() {
    let (authority, other, namesake) = (Authority::new(), Authority::called("other"), Authority::new());
    let server = Server::with_tls(Some(authority.sign(&named("127.0.0.1")))).await;
    server.place("f/s-cp1-1", vec![1; 4128]);
    let tls = |settings: &[(&str, &str)]| server.access(&[&[("insecure", "false")], settings].concat());
    assert_eq!(listing(&tls(&[("endpoint-ca", &authority.setting)])).await, None);
    assert_eq!(listing(&tls(&[("endpoint-ca", &format!("{} {}", other.setting, authority.setting))])).await, None);
    for wrong in [&other, &namesake] {
        fails(&tls(&[("endpoint-ca", &wrong.setting)]), "tls", "give its CA in etcd-s3-endpoint-ca").await;
    }
    assert_eq!(listing(&tls(&[("endpoint-ca", &other.setting), ("skip-ssl-verify", "true")])).await, None);
    assert_eq!(server.requests()["HEAD"], 3);
}

#[tokio::test]
async fn a_listed_certificate_is_believed_itself_but_only_for_its_name_and_time() {
    // What `openssl req -x509` makes: signed by itself, and marked as a CA.
    let own = |name: &str, change: fn(&mut CertificateParams)| {
        let key = KeyPair::generate().unwrap();
        let mut params = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        let certificate = params.self_signed(&key).unwrap();
        (acceptor(&certificate, &key), setting(&certificate))
    };
    for (name, change, says) in [
        ("127.0.0.1", (|_| {}) as fn(&mut CertificateParams), None),
        ("127.0.0.2", |_| {}, Some("is for another name")),
        ("127.0.0.1", |params| params.not_after = rcgen::date_time_ymd(2001, 1, 1), Some("has expired")),
        ("127.0.0.1", |params| params.not_before = rcgen::date_time_ymd(2999, 1, 1), Some("is not valid yet")),
    ] {
        let (acceptor, setting) = own(name, change);
        let server = Server::with_tls(Some(acceptor)).await;
        let access = server.access(&[("insecure", "false"), ("endpoint-ca", &setting)]);
        match says {
            None => assert_eq!(listing(&access).await, None),
            Some(says) => fails(&access, "tls", says).await,
        }
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_and_an_old_one_are_told_apart() {
    let authority = Authority::new();
    let mut old = named("127.0.0.1");
    old.not_after = rcgen::date_time_ymd(2001, 1, 1);
    for (params, says) in [(named("s3.test"), "is for another name; correct etcd-s3-endpoint"), (old, "has expired")] {
        let server = Server::with_tls(Some(authority.sign(&params))).await;
        let access = server.access(&[("insecure", "false"), ("endpoint-ca", &authority.setting)]);
        fails(&access, "tls", says).await;
    }
}

#[tokio::test]
async fn tls_and_plain_ports_are_not_mixed_up_in_silence() {
    let plain = Server::start().await;
    let authority = Authority::new();
    let ca = ("endpoint-ca", authority.setting.as_str());
    fails(&plain.access(&[("insecure", "false"), ca]), "tls", "does not speak TLS; with plain HTTP set etcd-s3-insecure to true").await;
    let tls = Server::with_tls(Some(authority.sign(&named("127.0.0.1")))).await;
    fails(&tls.access(&[]), "tls", "if it speaks TLS, etcd-s3-insecure must not be true").await;
    // Servers written in Go answer such a request in plain words.
    plain.fail(|_| Some(answer(400, "Client sent an HTTP request to an HTTPS server.\n")));
    fails(&plain.access(&[]), "tls", "speaks TLS, and etcd-s3-insecure is true").await;
    let silent = listen(|stream| async move { drop(stream) }).await;
    fails(&access(&[("endpoint", &silent), ca]), "tls", "hung up on TLS").await;
}

#[tokio::test]
async fn a_server_that_is_silent_away_or_breaks_off_is_named() {
    let hole = listen(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    fails(&access(&[("endpoint", &hole), ("insecure", "true"), ("timeout", "300ms")]), "timeout", "etcd-s3-timeout").await;
    let tls = access(&[("endpoint", &hole), ("timeout", "300ms"), ("skip-ssl-verify", "true")]);
    fails(&tls, "timeout", &hole).await;

    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    fails(&access(&[("endpoint", &gone), ("insecure", "true")]), "unreachable", "refused").await;

    let short = page(&["f/s-cp1-1"], None);
    for (headers, category, says) in [
        (format!("content-length: {}\r\n", short.len() + 1), "unreachable", "broke off in the middle"),
        // Without a length the end of the connection is the end of the answer, so only the XML tells.
        ("connection: close\r\n".to_string(), "protocol", "is not S3's"),
    ] {
        let cut = format!("HTTP/1.1 200 OK\r\n{headers}\r\n{}", &short[..short.len() - 10]);
        let cut = listen(move |mut stream| {
            let cut = cut.clone();
            async move {
                head(&mut stream).await;
                stream.write_all(cut.as_bytes()).await.unwrap();
            }
        })
        .await;
        fails(&access(&[("endpoint", &cut), ("insecure", "true")]), category, says).await;
    }
}

#[tokio::test]
async fn an_endless_answer_is_not_kept() {
    let endless = listen(|mut stream| async move {
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n<ListBucketResult>").await.unwrap();
        while stream.write_all(&[b' '; 16384]).await.is_ok() {}
    })
    .await;
    fails(&access(&[("endpoint", &endless), ("insecure", "true")]), "protocol", "too large").await;
}

#[tokio::test]
async fn without_credentials_it_is_said_where_they_could_come_from() {
    let server = Server::start().await;
    let mut bucket = server.bucket(&[]).await;
    for (error, says) in [
        (CredentialsError::not_loaded_no_source as fn() -> CredentialsError, "there are none: set etcd-s3-access-key"),
        (|| CredentialsError::provider_timed_out(Duration::from_secs(5)), "did not answer in time"),
        (|| CredentialsError::provider_error("role/none is not for us"), "role/none is not for us"),
    ] {
        let config = bucket.client.config().to_builder().credentials_provider(provide_credentials_fn(move || async move { Err(error()) }));
        bucket.client = Client::from_conf(config.build());
        let failure = bucket.list(&Memory::new()).await.inventory.failure().unwrap().clone();
        assert_eq!(failure.category, "credentials", "{failure}");
        assert!(failure.message.contains(says), "{failure}");
    }
    assert!(server.requests().is_empty());
}

/// A request's head.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// An HTTP proxy for user `me` with password `hunter2`, through which every name leads to `to`. It writes down whom it was asked for.
async fn http_proxy(to: &str, asked: &Arc<Mutex<Vec<String>>>) -> String {
    let (to, asked) = (to.to_string(), Arc::clone(asked));
    listen(move |mut stream| {
        let (to, asked) = (to.clone(), Arc::clone(&asked));
        async move {
            let head = head(&mut stream).await;
            asked.lock().unwrap().push(head.split(' ').take(2).collect::<Vec<_>>().join(" "));
            let authorization = format!("proxy-authorization: Basic {}", BASE64_STANDARD.encode("me:hunter2"));
            if !head.lines().any(|line| line.eq_ignore_ascii_case(&authorization)) {
                let _ =
                    stream.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
                return;
            }
            let mut server = TcpStream::connect(&to).await.unwrap();
            if head.starts_with("CONNECT ") {
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            } else {
                let (method, rest) = head.split_once(" http://").unwrap();
                let path = &rest[rest.find('/').unwrap()..];
                let once = path.replacen("\r\n", "\r\nconnection: close\r\n", 1);
                server.write_all(format!("{method} {once}").as_bytes()).await.unwrap();
            }
            let _ = copy_bidirectional(&mut stream, &mut server).await;
        }
    })
    .await
}

#[tokio::test]
async fn an_http_proxy_is_given_the_way_but_not_the_contents() {
    let authority = Authority::new();
    let server = Server::with_tls(Some(authority.sign(&named("s3.test")))).await;
    server.place("f/s-cp1-1", vec![1; 4128]);
    let asked = Arc::default();
    let proxy = http_proxy(&server.endpoint, &asked).await;
    let through = |url: &str| access(&[("endpoint", "s3.test:9000"), ("endpoint-ca", &authority.setting), ("proxy", url)]);
    assert_eq!(listing(&through(&format!("http://me:hunter2@{proxy}"))).await, None);
    assert_eq!(std::mem::take(&mut *asked.lock().unwrap()), ["CONNECT s3.test:9000"]);
    fails(
        &through(&format!("http://{proxy}")),
        "unreachable",
        &format!("proxy {proxy} did not let the connection through: tunnel error: proxy authorization required"),
    )
    .await;
    fails(&through(&format!("http://me:hunter2wrong@{proxy}")), "unreachable", "authorization required").await;
    fails(&through("http://me:hunter2@127.0.0.1:1"), "unreachable", "proxy 127.0.0.1:1").await;
}

#[tokio::test]
async fn plain_http_goes_through_a_proxy_with_whole_urls() {
    let server = Server::start().await;
    server.place("f/s-cp1-1", vec![1; 4128]);
    let asked = Arc::default();
    let proxy = http_proxy(&server.endpoint, &asked).await;
    let through = |url: &str| access(&[("endpoint", "s3.test:9000"), ("insecure", "true"), ("proxy", url)]);
    assert_eq!(listing(&through(&format!("http://me:hunter2@{proxy}"))).await, None);
    let urls = std::mem::take(&mut *asked.lock().unwrap());
    assert_eq!(urls.len(), 3);
    assert!(urls[0].starts_with("GET http://s3.test:9000/etc"), "{urls:?}");
    fails(&through(&format!("http://{proxy}")), "unreachable", "user and a password in etcd-s3-proxy").await;
}

#[tokio::test]
async fn the_bucket_is_in_the_host_name_where_that_is_asked_for() {
    let server = Server::start().await;
    let hosts: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&hosts);
    server.fail(move |parts| {
        log.lock().unwrap().push(format!("{} {}", parts.headers["host"].to_str().unwrap(), parts.uri.path()));
        Some(answer(200, page(&[], None)))
    });
    let asked = Arc::default();
    let proxy = format!("http://me:hunter2@{}", http_proxy(&server.endpoint, &asked).await);
    for (lookup, bucket, host) in [
        ("dns", "etc", "etc.s3.test:9000 /"),
        ("path", "etc", "s3.test:9000 /etc"),
        ("auto", "etc", "s3.test:9000 /etc"),
        // As old buckets may be called.
        ("auto", "Old_Bucket", "s3.test:9000 /Old_Bucket"),
    ] {
        let server = [("endpoint", "S3.test:9000"), ("insecure", "true"), ("proxy", proxy.as_str())];
        let access = access(&[&server[..], &[("bucket-lookup-type", lookup), ("bucket", bucket)]].concat());
        assert_eq!(listing(&access).await, None);
        let seen = std::mem::take(&mut *hosts.lock().unwrap());
        assert!(seen.iter().all(|seen| seen.trim_end_matches('/') == host.trim_end_matches('/')), "{lookup}: {seen:?}");
    }
}

#[tokio::test]
async fn a_socks_proxy_is_spoken_to_as_well() {
    let server = Server::start().await;
    let to = server.endpoint.clone();
    let proxy = listen(move |mut stream| {
        let to = to.clone();
        async move {
            let mut greeting = vec![0; 2];
            stream.read_exact(&mut greeting).await.unwrap();
            let mut methods = vec![0; usize::from(greeting[1])];
            stream.read_exact(&mut methods).await.unwrap();
            stream.write_all(&[5, 2]).await.unwrap();
            let mut login = vec![0; 2 + 2 + 1 + 7];
            stream.read_exact(&mut login).await.unwrap();
            let granted = login == *b"\x01\x02me\x07hunter2";
            stream.write_all(&[1, u8::from(!granted)]).await.unwrap();
            let mut request = vec![0; 5 + "s3.test".len() + 2];
            if stream.read_exact(&mut request).await.is_err() || request[5..12] != *b"s3.test" {
                return;
            }
            stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
            let mut server = TcpStream::connect(&to).await.unwrap();
            let _ = copy_bidirectional(&mut stream, &mut server).await;
        }
    })
    .await;
    let through = |url: &str| access(&[("endpoint", "s3.test:9000"), ("insecure", "true"), ("proxy", url)]);
    assert_eq!(listing(&through(&format!("socks5h://me:hunter2@{proxy}"))).await, None);
    fails(&through(&format!("socks5h://me:hunter3@{proxy}")), "unreachable", &format!("proxy {proxy}")).await;
}
