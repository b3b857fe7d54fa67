//! A real S3 server for the tests of this module, with a place in front of it to make it fail; and accesses made as users make them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use aws_sdk_s3::primitives::ByteStream;
use http::request::Parts;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::dto;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, S3, S3Request, S3Response, S3Result};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::{Bucket, Observer};
use crate::config::{Environment, Flags, RunSettings, S3Access, read_certificates, resolve_s3};
use crate::snapshot::ClusterId;

pub const ACCESS_KEY: &str = "AKIATESTTESTTEST";
pub const SECRET_KEY: &str = "s3cr3t-s3cr3t-s3cr3t";
pub const TOKEN: &str = "t0ken-t0ken-t0ken";

pub type Answer = Response<Body>;
type Fault = Arc<dyn Fn(&Parts) -> Option<Answer> + Send + Sync>;

/// The file system as s3s-fs serves it, but with the ETags that it leaves out of listings.
struct WithEtags(FileSystem);

#[async_trait::async_trait]
impl S3 for WithEtags {
    async fn list_objects_v2(&self, request: S3Request<dto::ListObjectsV2Input>) -> S3Result<S3Response<dto::ListObjectsV2Output>> {
        let bucket = request.input.bucket.clone();
        let mut listed = self.0.list_objects_v2(request).await?;
        for object in listed.output.contents.iter_mut().flatten() {
            let key = object.key.clone().unwrap_or_default();
            let input = dto::HeadObjectInput::builder().bucket(bucket.clone()).key(key).build().map_err(s3s::S3Error::internal_error)?;
            object.e_tag = self.0.head_object(internal(input)).await?.output.e_tag;
        }
        Ok(listed)
    }

    async fn head_object(&self, request: S3Request<dto::HeadObjectInput>) -> S3Result<S3Response<dto::HeadObjectOutput>> {
        self.0.head_object(request).await
    }

    async fn get_object(&self, request: S3Request<dto::GetObjectInput>) -> S3Result<S3Response<dto::GetObjectOutput>> {
        self.0.get_object(request).await
    }

    async fn put_object(&self, request: S3Request<dto::PutObjectInput>) -> S3Result<S3Response<dto::PutObjectOutput>> {
        self.0.put_object(request).await
    }

    async fn head_bucket(&self, request: S3Request<dto::HeadBucketInput>) -> S3Result<S3Response<dto::HeadBucketOutput>> {
        self.0.head_bucket(request).await
    }
}

fn internal<T>(input: T) -> S3Request<T> {
    S3Request {
        input,
        method: http::Method::HEAD,
        uri: http::Uri::default(),
        headers: http::HeaderMap::new(),
        extensions: http::Extensions::new(),
        credentials: None,
        region: None,
        service: None,
        trailing_headers: None,
    }
}

/// An S3 server on loopback with one bucket, `etc`.
pub struct Server {
    pub endpoint: String,
    root: TempDir,
    log: Arc<Mutex<Vec<String>>>,
    fault: Arc<Mutex<Option<Fault>>>,
}

impl Server {
    pub async fn start() -> Self {
        Self::with_tls(None).await
    }

    pub async fn with_tls(tls: Option<TlsAcceptor>) -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        let mut service = S3ServiceBuilder::new(WithEtags(FileSystem::new(root.path()).unwrap()));
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = service.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let server = Self { endpoint, root, log: Arc::default(), fault: Arc::default() };
        let (log, fault) = (Arc::clone(&server.log), Arc::clone(&server.fault));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (service, log, fault, tls) = (service.clone(), Arc::clone(&log), Arc::clone(&fault), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(TokioIo::new(stream), service, log, fault).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(TokioIo::new(stream), service, log, fault).await;
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
        *self.fault.lock().unwrap() = Some(Arc::new(fault));
    }

    pub fn heal(&self) {
        *self.fault.lock().unwrap() = None;
    }

    /// How many requests came since the last time, by kind: LIST, HEAD, GET, HEAD-BUCKET, other methods.
    pub fn requests(&self) -> BTreeMap<String, usize> {
        let mut count = BTreeMap::new();
        for kind in self.log.lock().unwrap().drain(..) {
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
    Arc::new(|_, _| {})
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

async fn serve<I>(io: TokioIo<I>, service: S3Service, log: Arc<Mutex<Vec<String>>>, fault: Arc<Mutex<Option<Fault>>>)
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let answer = service_fn(move |request: Request<Incoming>| {
        let (service, fault) = (service.clone(), fault.lock().unwrap().clone());
        let (parts, body) = request.into_parts();
        log.lock().unwrap().push(kind(&parts));
        async move {
            if let Some(answer) = fault.and_then(|fault| fault(&parts)) {
                return Ok::<_, Infallible>(answer);
            }
            Ok(service.call(Request::from_parts(parts, body.into())).await.unwrap())
        }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, answer).await;
}

fn kind(parts: &Parts) -> String {
    let is_bucket = parts.uri.path().trim_matches('/') == "etc";
    match (parts.method.as_str(), is_bucket) {
        ("GET", true) => "LIST".into(),
        ("HEAD", true) => "HEAD-BUCKET".into(),
        (method, _) => method.into(),
    }
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
