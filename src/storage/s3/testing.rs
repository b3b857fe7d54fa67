//! A real S3 server for the tests of this module, with a place in front of it to make it fail; and accesses made as users make them.

mod store;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use aws_sdk_s3::primitives::ByteStream;
use http::request::Parts;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::Body;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::multipart::Sizes;
use super::source::md5;
use super::{Bucket, Observer, Outgoing, S3Error, Uploaded};
use crate::config::{Environment, Flags, RunSettings, S3Access, read_certificates, resolve_s3};
use crate::snapshot::{ClusterId, Digest, FileName, NodeName, Program, UploadId};

pub const ACCESS_KEY: &str = "AKIATESTTESTTEST";
pub const SECRET_KEY: &str = "s3cr3t-s3cr3t-s3cr3t";
pub const TOKEN: &str = "t0ken-t0ken-t0ken";

pub type Answer = Response<Body>;

/// What stands in front of the server: it may answer instead, and it may lose an answer.
#[derive(Clone, Default)]
struct Front {
    log: Arc<Mutex<Vec<String>>>,
    fault: Option<Fault>,
    loss: Option<Which>,
    held: Option<Which>,
}

type Fault = Arc<dyn Fn(&Parts) -> Option<Answer> + Send + Sync>;
type Which = Arc<dyn Fn(&Parts) -> bool + Send + Sync>;

/// An S3 server on loopback with one bucket, `etc`.
pub struct Server {
    pub endpoint: String,
    root: TempDir,
    front: Arc<Mutex<Front>>,
    ignores_conditions: Arc<AtomicBool>,
}

impl Server {
    pub async fn start() -> Self {
        Self::with_tls(None).await
    }

    pub async fn with_tls(tls: Option<TlsAcceptor>) -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        let ignores_conditions = Arc::default();
        let mut service = S3ServiceBuilder::new(store::FullStore::new(root.path().into(), Arc::clone(&ignores_conditions)));
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = service.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let server = Self { endpoint, root, front: Arc::default(), ignores_conditions };
        let front = Arc::clone(&server.front);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (service, front, tls) = (service.clone(), Arc::clone(&front), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(TokioIo::new(stream), service, front).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(TokioIo::new(stream), service, front).await;
                            }
                        }
                    }
                });
            }
        });
        server
    }

    /// Where an object is on disk.
    pub fn path(&self, key: &str) -> PathBuf {
        self.root.path().join("etc").join(key)
    }

    /// Where a part of an upload is on disk.
    pub fn part(&self, id: &UploadId, number: i32) -> PathBuf {
        self.root.path().join(format!(".upload_id-{id}.part-{number}"))
    }

    /// Puts an object without user metadata, by the back door.
    pub fn place(&self, key: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Puts an object as an uploader does.
    pub async fn put(&self, bucket: &Bucket, key: &str, bytes: impl Into<Vec<u8>>, metadata: &[(&str, &str)]) {
        let metadata = metadata.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        let body = ByteStream::from(bytes.into());
        bucket.client.put_object().bucket("etc").key(key).body(body).set_metadata(Some(metadata)).send().await.unwrap();
    }

    /// Lets `fault` answer instead of the server where it wants to. It may also change the world before the server answers.
    pub fn fail(&self, fault: impl Fn(&Parts) -> Option<Answer> + Send + Sync + 'static) {
        self.front.lock().unwrap().fault = Some(Arc::new(fault));
    }

    /// Breaks the connection instead of the answers to what `loss` wants, after the server has done it.
    pub fn lose(&self, loss: impl Fn(&Parts) -> bool + Send + Sync + 'static) {
        self.front.lock().unwrap().loss = Some(Arc::new(loss));
    }

    /// Never answers what `held` wants, and reads nothing of it.
    pub fn hold(&self, held: impl Fn(&Parts) -> bool + Send + Sync + 'static) {
        self.front.lock().unwrap().held = Some(Arc::new(held));
    }

    /// From now on it takes `If-None-Match` for a header that means nothing.
    pub fn ignore_conditions(&self) {
        self.ignores_conditions.store(true, Ordering::Relaxed);
    }

    pub fn heal(&self) {
        let mut front = self.front.lock().unwrap();
        (front.fault, front.loss, front.held) = (None, None, None);
    }

    /// The kinds of the requests that came since the last time, in their order.
    pub fn order(&self) -> Vec<String> {
        std::mem::take(&mut *self.front.lock().unwrap().log.lock().unwrap())
    }

    /// How many requests came since the last time, by kind: see [`kind`].
    pub fn requests(&self) -> BTreeMap<String, usize> {
        let mut count = BTreeMap::new();
        for kind in self.order() {
            *count.entry(kind).or_default() += 1;
        }
        count
    }

    /// A bucket client as a user would set it up, with more settings or other values than the usual.
    pub async fn bucket(&self, settings: &[(&str, &str)]) -> Bucket {
        bucket(&self.access(settings)).await
    }

    pub fn access(&self, settings: &[(&str, &str)]) -> S3Access {
        let mut all = vec![("endpoint", self.endpoint.as_str()), ("insecure", "true")];
        all.extend(settings);
        access(&all)
    }
}

pub async fn bucket(access: &S3Access) -> Bucket {
    Bucket::new(access, ClusterId::new("uid").unwrap(), nobody()).await.unwrap()
}

pub fn nobody() -> Observer {
    Arc::new(|_| {})
}

/// An access to bucket `etc`, folder `f`, from settings without their `etcd-s3-`; the last of two with one name wins.
pub fn access(settings: &[(&str, &str)]) -> S3Access {
    let usual =
        [("bucket", "etc"), ("folder", "f"), ("access-key", ACCESS_KEY), ("secret-key", SECRET_KEY), ("proxy", "none"), ("timeout", "30s")];
    let mut variables: BTreeMap<OsString, OsString> = BTreeMap::new();
    variables.insert("NODE_NAME".into(), "n".into());
    variables.insert("ETCD_S3".into(), "true".into());
    for (name, value) in usual.iter().chain(settings) {
        variables.insert(format!("ETCD_S3_{}", name.to_uppercase().replace('-', "_")).into(), (*value).into());
    }
    let environment = Environment::new(variables).unwrap();
    let (settings, _) = RunSettings::new(&Flags::default(), &environment, &[]).unwrap();
    resolve_s3(&settings.s3, None, None, &read_certificates).unwrap().unwrap()
}

async fn serve<I>(io: TokioIo<I>, service: S3Service, front: Arc<Mutex<Front>>)
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let answer = service_fn(move |request: Request<Incoming>| {
        let (service, front) = (service.clone(), front.lock().unwrap().clone());
        let (parts, body) = request.into_parts();
        front.log.lock().unwrap().push(kind(&parts));
        async move {
            if let Some(answer) = front.fault.and_then(|fault| fault(&parts)) {
                return Ok(answer);
            }
            if front.held.is_some_and(|held| held(&parts)) {
                std::future::pending::<()>().await;
            }
            let lost = front.loss.is_some_and(|loss| loss(&parts));
            let answer = service.call(Request::from_parts(parts, body.into())).await.unwrap();
            if lost { Err("lost") } else { Ok(answer) }
        }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, answer).await;
}

/// What a request is: its method, or what it does to uploads in parts, or to the bucket.
pub fn kind(parts: &Parts) -> String {
    let is_bucket = parts.uri.path().trim_matches('/') == "etc";
    let query = parts.uri.query().unwrap_or_default();
    let of_upload = query.contains("uploadId=");
    match (parts.method.as_str(), is_bucket) {
        ("GET", true) if query.contains("uploads") => "LIST-UPLOADS",
        ("GET", true) => "LIST",
        ("HEAD", true) => "HEAD-BUCKET",
        ("POST", false) if of_upload => "COMPLETE",
        ("POST", false) => "CREATE",
        ("PUT", false) if of_upload => "PART",
        ("DELETE", false) if of_upload => "ABORT",
        ("GET", false) if of_upload => "LIST-PARTS",
        (method, _) => method,
    }
    .into()
}

/// Whether this is the listing of the sidecars.
pub fn is_sidecar_list(parts: &Parts) -> bool {
    kind(parts) == "LIST" && parts.uri.query().is_some_and(|query| query.contains("metadata"))
}

/// Whether this is the listing of the objects.
pub fn is_object_list(parts: &Parts) -> bool {
    kind(parts) == "LIST" && !is_sidecar_list(parts)
}

pub fn answer(status: u16, body: impl Into<String>) -> Answer {
    Response::builder().status(status).header("content-type", "application/xml").body(Body::from(body.into())).unwrap()
}

pub fn refusal(status: u16, code: &str) -> Answer {
    answer(status, format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{SECRET_KEY} {TOKEN}</Message></Error>"))
}

/// A page with these keys, and a token if there is more.
pub fn page(keys: &[&str], next: Option<&str>) -> String {
    let contents: String = keys.iter().map(|key| entry(key, "etag", 4128)).collect();
    let next = next.map(|token| format!("<NextContinuationToken>{token}</NextContinuationToken>")).unwrap_or_default();
    let truncated = !next.is_empty();
    format!(
        "<?xml version=\"1.0\"?><ListBucketResult><Name>etc</Name><IsTruncated>{truncated}</IsTruncated>{next}{contents}</ListBucketResult>"
    )
}

pub fn entry(key: &str, etag: &str, size: u64) -> String {
    let time = "2026-11-22T09:00:00.123Z";
    format!("<Contents><Key>{key}</Key><LastModified>{time}</LastModified><ETag>\"{etag}\"</ETag><Size>{size}</Size></Contents>")
}

/// Answers every connection with what `talk` does to it.
pub async fn listen<F>(talk: impl Fn(TcpStream) -> F + Send + 'static) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(talk(stream));
        }
    });
    address
}

/// What goes up under this name: `bytes`, verified, from node `cp1` of cluster `uid`.
pub fn outgoing(name: &str, bytes: &[u8]) -> Outgoing {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Outgoing {
        name: FileName::new(name).unwrap(),
        file,
        size: bytes.len() as u64,
        sha256: Digest(Sha256::digest(bytes).into()),
        sidecar: br#"{"note":"x"}"#.to_vec(),
        program: Program::K3s,
        cluster: ClusterId::new("uid").unwrap(),
        node: NodeName::new("cp1").unwrap(),
        token_hash: Some("abc".into()),
        begun: None,
    }
}

/// A client that sends in parts what is larger than 16 KiB, in parts of 8 KiB.
pub async fn small(server: &Server) -> Bucket {
    Bucket { sizes: Sizes { in_one: 16 << 10, part: 8 << 10 }, ..server.bucket(&[]).await }
}

/// So many KiB and a little more, and no two KiB the same.
pub fn bytes(kib: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..kib).flat_map(|number| u64::try_from(number).unwrap().to_le_bytes().repeat(128)).collect();
    bytes.extend_from_slice(b"end");
    bytes
}

/// MD5 of these bytes, as an ETag has it.
pub fn md5_hex(bytes: &[u8]) -> String {
    md5(bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Uploads without anybody who notes anything.
pub async fn upload(bucket: &Bucket, going: &Outgoing) -> Result<Uploaded, S3Error> {
    bucket.upload(going, async |_| Ok(())).await
}

/// Lets somebody else be faster: when the first request of this kind comes, there is an object at `f/s-cp1-1` before the server sees it.
/// Needs more than one thread.
pub fn be_faster(server: &Server, bucket: &Bucket, moment: &'static str, bytes: &[u8], metadata: &[(&str, &str)]) {
    let (client, done, bytes) = (bucket.client.clone(), Mutex::new(false), bytes.to_vec());
    let metadata: HashMap<String, String> = metadata.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    server.fail(move |parts| {
        if kind(parts) != moment || std::mem::replace(&mut *done.lock().unwrap(), true) {
            return None;
        }
        let put = client.put_object().bucket("etc").key("f/s-cp1-1").body(bytes.clone().into()).set_metadata(Some(metadata.clone()));
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(async { drop(put.send().await.unwrap()) }));
        None
    });
}
