//! A real S3 server (SeaweedFS), and a bucket of it.

use std::collections::{BTreeSet, HashMap};
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation};
use aws_sdk_s3::types::{DefaultRetention, ObjectLockConfiguration, ObjectLockEnabled, ObjectLockRetentionMode, ObjectLockRule};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tempfile::TempDir;

use crate::certs::Ca;
use crate::process::{Launch, Process, Signal, scratch, with_free_ports};
use crate::proxy::{FaultProxy, Setup};
use crate::{http, ports, tools, wait};

/// Virtual-host style works for this domain: `bucket.s3.test`, reached through [`S3Access::proxied`] as an HTTP proxy.
pub const DOMAIN: &str = "s3.test";

/// Who may do what; where there is no such file, everybody may do everything.
const IDENTITIES: &str = "s3.json";

/// Where an S3 server is and how to get in: all that a test needs of one that it does not own.
#[derive(Clone, Serialize, Deserialize)]
pub struct S3Access {
    pub port: u16,
    pub access_key: String,
    pub secret_key: String,
}

impl S3Access {
    /// `127.0.0.1:port`, as `--etcd-s3-endpoint` takes it.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The real SDK, for anything that [`Bucket`] has no method for.
    pub fn client(&self) -> Client {
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new(&self.access_key, &self.secret_key, None, None, "tests"))
            .endpoint_url(format!("http://{}", self.endpoint()))
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .force_path_style(true)
            .build();
        Client::from_conf(config)
    }

    /// Makes an empty bucket.
    pub async fn bucket(&self, name: &str) -> Result<Bucket> {
        let client = self.client();
        client.create_bucket().bucket(name).send().await.with_context(|| format!("create bucket {name}"))?;
        Ok(self.existing(name))
    }

    /// Makes an empty bucket with versions, in which each object is locked for a day from when it was put there.
    pub async fn locked_bucket(&self, name: &str) -> Result<Bucket> {
        let client = self.client();
        client.create_bucket().bucket(name).object_lock_enabled_for_bucket(true).send().await.with_context(|| format!("create {name}"))?;
        let day = DefaultRetention::builder().mode(ObjectLockRetentionMode::Compliance).days(1).build();
        let rule = ObjectLockRule::builder().default_retention(day).build();
        let lock = ObjectLockConfiguration::builder().object_lock_enabled(ObjectLockEnabled::Enabled).rule(rule).build();
        client.put_object_lock_configuration().bucket(name).object_lock_configuration(lock).send().await.context("lock the bucket")?;
        Ok(self.existing(name))
    }

    /// A bucket that is there.
    pub fn existing(&self, name: &str) -> Bucket {
        Bucket { client: self.client(), name: name.to_owned(), gone_up: Arc::default() }
    }

    /// A proxy in front of the server. Requests pass unchanged, the `Host` that was signed included.
    pub fn proxied(&self) -> Result<FaultProxy> {
        FaultProxy::start(Setup { upstream: ports::loopback(self.port), serve_tls: None, dial_tls: None, raw: false })
    }

    /// A proxy that speaks TLS to clients, with a certificate of `ca` for 127.0.0.1 and localhost.
    pub fn proxied_with_tls(&self, ca: &Ca) -> Result<FaultProxy> {
        let serve_tls = Some(ca.server(&[])?.tls_server()?);
        FaultProxy::start(Setup { upstream: ports::loopback(self.port), serve_tls, dial_tls: None, raw: false })
    }
}

/// A bucket and a client for it.
#[derive(Clone)]
pub struct Bucket {
    pub client: Client,
    pub name: String,
    gone_up: Arc<Mutex<BTreeSet<String>>>,
}

impl Bucket {
    pub async fn put(&self, key: &str, body: impl Into<Vec<u8>>) -> Result<()> {
        self.put_with(key, body, &[]).await
    }

    /// Puts an object with user metadata, named without `x-amz-meta-`.
    pub async fn put_with(&self, key: &str, body: impl Into<Vec<u8>>, metadata: &[(&str, &str)]) -> Result<()> {
        let metadata: HashMap<String, String> = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let put = self.client.put_object().bucket(&self.name).key(key).set_metadata(Some(metadata)).body(body.into().into());
        put.send().await.with_context(|| format!("put {key}"))?;
        Ok(())
    }

    /// Puts many objects, some at a time.
    pub async fn put_many(&self, objects: impl IntoIterator<Item = (String, Vec<u8>)>, metadata: &[(&str, &str)]) -> Result<()> {
        let slots = Arc::new(tokio::sync::Semaphore::new(32));
        let metadata: Arc<Vec<(String, String)>> = Arc::new(metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
        let mut running = tokio::task::JoinSet::new();
        for (key, body) in objects {
            let slot = Arc::clone(&slots).acquire_owned().await?;
            let (bucket, metadata) = (self.clone(), Arc::clone(&metadata));
            running.spawn(async move {
                let metadata: Vec<(&str, &str)> = metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
                let done = bucket.put_with(&key, body, &metadata).await;
                drop(slot);
                done
            });
        }
        while let Some(done) = running.join_next().await {
            done??;
        }
        Ok(())
    }

    pub async fn get(&self, key: &str) -> Result<Vec<u8>> {
        let got = self.client.get_object().bucket(&self.name).key(key).send().await.with_context(|| format!("get {key}"))?;
        Ok(got.body.collect().await?.to_vec())
    }

    /// The snapshots that operators were seen to have uploaded, and that no test has deleted since: what goes up stays. All
    /// clones know the same.
    pub fn gone_up(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.gone_up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub async fn delete(&self, key: &str) -> Result<()> {
        self.gone_up().retain(|name| !key.ends_with(&format!("/{name}")));
        self.client.delete_object().bucket(&self.name).key(key).send().await.with_context(|| format!("delete {key}"))?;
        Ok(())
    }

    /// All keys, sorted.
    pub async fn keys(&self) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        let mut pages = self.client.list_objects_v2().bucket(&self.name).into_paginator().send();
        while let Some(page) = pages.next().await {
            keys.extend(page.context("list")?.contents.unwrap_or_default().into_iter().filter_map(|object| object.key));
        }
        keys.sort();
        Ok(keys)
    }
}

/// A server that this test owns.
pub struct S3 {
    access: S3Access,
    dir: TempDir,
    others: [u16; 7],
    process: Option<Process>,
}

impl Deref for S3 {
    type Target = S3Access;

    fn deref(&self) -> &S3Access {
        &self.access
    }
}

impl S3 {
    pub fn start() -> impl Future<Output = Result<Self>> {
        Self::start_with(true)
    }

    /// One that asks for no signature, so that a proxy may change what was signed.
    pub fn start_open() -> impl Future<Output = Result<Self>> {
        Self::start_with(false)
    }

    async fn start_with(signed: bool) -> Result<Self> {
        let dir = scratch()?;
        std::fs::create_dir(dir.path().join("data"))?;
        let access = S3Access { port: 0, access_key: "access-key-of-the-tests".into(), secret_key: "secret-key-of-the-tests".into() };
        let identities = json!({ "identities": [{
            "name": "tests",
            "credentials": [{ "accessKey": access.access_key, "secretKey": access.secret_key }],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }] });
        if signed {
            std::fs::write(dir.path().join(IDENTITIES), identities.to_string())?;
        }
        let mut server = Self { access, dir, others: [0; 7], process: None };
        with_free_ports(async || {
            server.access.port = ports::free();
            server.others = std::array::from_fn(|_| ports::free());
            server.launch().await
        })
        .await?;
        Ok(server)
    }

    /// Starts a stopped server again, on its ports and with its objects.
    pub async fn launch(&mut self) -> Result<()> {
        let dir = self.dir.path();
        let mut launch = Launch::new("weed", tools::tool("seaweedfs", "weed")?, dir).args(["-logtostderr", "server", "-filer", "-s3"]);
        let [master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3_grpc] = self.others.map(|port| port.to_string());
        for (name, value) in [
            ("-ip", "127.0.0.1"),
            ("-ip.bind", "127.0.0.1"),
            ("-master.port", &master),
            ("-master.port.grpc", &master_grpc),
            ("-volume.port", &volume),
            ("-volume.port.grpc", &volume_grpc),
            ("-filer.port", &filer),
            ("-filer.port.grpc", &filer_grpc),
            ("-s3.port", &self.access.port.to_string()),
            ("-s3.port.grpc", &s3_grpc),
            // Alone, it need not wait for others before it leads again after a stop.
            ("-master.electionTimeout", "1s"),
            // Two more servers that would listen on fixed ports.
            ("-s3.port.iceberg", "0"),
            ("-s3.port.lance", "0"),
            ("-s3.domainName", DOMAIN),
            // Every bucket takes volumes of its own: many and small ones, as long as there is disk.
            ("-volume.max", "0"),
            ("-master.volumeSizeLimitMB", "64"),
            ("-volume.preStopSeconds", "0"),
        ] {
            launch = launch.flag(name, value);
        }
        launch = launch.arg("-master.telemetry=false").flag("-dir", dir.join("data"));
        if dir.join(IDENTITIES).exists() {
            launch = launch.flag("-s3.config", dir.join(IDENTITIES));
        }
        launch = launch.flag("-filer.localSocket", dir.join("filer.sock")).flag("-s3.localSocket", dir.join("s3.sock"));
        // As it comes it grows seven volumes at a time for each bucket, and a small disk has no room for those of many tests.
        launch = launch.env("WEED_MASTER_VOLUME_GROWTH_COPY_1", "1");
        let mut process = launch.start()?;
        let address = ports::loopback(self.access.port);
        process.until("the S3 server to answer", async || http::get(address, "/healthz").await?.ok()).await?;
        self.process = Some(process);
        // It answers before it can store: its parts have yet to find each other.
        let (client, probe) = (self.access.client(), "probe-of-the-tests");
        wait::until("the S3 server to store an object", async || {
            client.create_bucket().bucket(probe).send().await.ok();
            client.put_object().bucket(probe).key("probe").body(b"probe".to_vec().into()).send().await?;
            client.delete_object().bucket(probe).key("probe").send().await?;
            client.delete_bucket().bucket(probe).send().await?;
            Ok(())
        })
        .await
    }

    /// SIGKILL. Its port refuses connections until [`Self::launch`].
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// SIGSTOP: connections stay, answers do not come. [`Self::resume`] ends it.
    pub fn pause(&mut self) -> Result<()> {
        self.process.as_mut().context("the S3 server is stopped")?.signal(Signal::STOP)
    }

    pub fn resume(&mut self) -> Result<()> {
        self.process.as_mut().context("the S3 server is stopped")?.signal(Signal::CONT)
    }

    /// What a test needs of it without owning it.
    pub fn access(&self) -> &S3Access {
        &self.access
    }
}
