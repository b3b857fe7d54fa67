//! A real kube-apiserver with an etcd of its own.
//!
//! Its clients show a bearer token instead of a certificate: a proxy in between can then end the TLS connection of the client
//! and make another to the server, and the server still knows who asks.

use std::ops::Deref;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::KeyPair;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::certs::Ca;
use crate::etcd::Etcd;
use crate::http::{self, Answer};
use crate::kubernetes::Kubernetes;
use crate::minio::TrustedIssuer;
use crate::process::{Launch, Process, Signal, scratch, with_free_ports};
use crate::proxy::{FaultProxy, Setup};
use crate::site::unique;
use crate::{ports, tools};

const ADMIN_TOKEN: &str = "admin-of-the-tests";

/// Where an API server is and how to get in: all that a test needs of one that it does not own.
#[derive(Clone, Serialize, Deserialize)]
pub struct ApiAccess {
    port: u16,
    ca: Ca,
    dir: PathBuf,
    etcd: String,
}

impl ApiAccess {
    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// `http://127.0.0.1:port` of the etcd member behind it.
    pub fn etcd(&self) -> &str {
        &self.etcd
    }

    /// Lets everybody see which keys sign the tokens of service accounts, and says where: as an issuer that others may trust.
    pub async fn opened_issuer(&self) -> Result<TrustedIssuer> {
        let role = "--clusterrole=system:service-account-issuer-discovery";
        let open = ["create", "clusterrolebinding", &format!("everybody-{}", unique()), role, "--group=system:unauthenticated"];
        self.kubectl(&open).await?;
        let discovery = format!("https://127.0.0.1:{}/.well-known/openid-configuration", self.port);
        Ok(TrustedIssuer { discovery, ca: self.dir.join("ca.crt") })
    }

    /// A kubeconfig in `dir` that acts as another user, who may do only what RBAC grants.
    pub fn kubeconfig_as(&self, user: &str, dir: &Path) -> Result<PathBuf> {
        let path = dir.join(format!("kubeconfig-as-{}", user.replace(['/', ':'], "-")));
        self.write_kubeconfig(&path, self.port, Some(user))?;
        Ok(path)
    }

    /// A proxy in front of the server, and a kubeconfig in `dir` that goes through it.
    pub fn proxied(&self, dir: &Path) -> Result<(FaultProxy, PathBuf)> {
        let proxy = FaultProxy::start(Setup {
            upstream: ports::loopback(self.port),
            serve_tls: Some(self.ca.server(&[])?.tls_server()?),
            dial_tls: Some(self.ca.trusting_client()?),
            raw: false,
        })?;
        let path = dir.join(format!("kubeconfig-by-{}", proxy.port()));
        self.write_kubeconfig(&path, proxy.port(), None)?;
        Ok((proxy, path))
    }

    /// A client with the administrator's rights.
    pub async fn kubernetes(&self) -> Result<Kubernetes> {
        Kubernetes::connect(&self.kubeconfig()).await
    }

    /// Runs kubectl with the administrator's rights and returns what it printed.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        let mut command = tokio::process::Command::new(tools::tool("kubernetes", "kubectl")?);
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(args).env("HOME", &self.dir).kill_on_drop(true);
        tools::output(command).await
    }

    async fn get(&self, path: &str) -> Result<Answer> {
        let stream = TcpStream::connect(ports::loopback(self.port)).await?;
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = TlsConnector::from(self.ca.trusting_client()?).connect(name, stream).await?;
        http::get_over(stream, path, &format!("Authorization: Bearer {ADMIN_TOKEN}\r\n")).await
    }

    fn write_kubeconfig(&self, path: &Path, port: u16, as_user: Option<&str>) -> Result<()> {
        let ca = self.dir.join("ca.crt");
        let mut user = json!({ "token": ADMIN_TOKEN });
        if let Some(as_user) = as_user {
            user["as"] = as_user.into();
        }
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "tests",
            "clusters": [{ "name": "tests", "cluster": { "server": format!("https://127.0.0.1:{port}"), "certificate-authority": ca } }],
            "users": [{ "name": "tests", "user": user }],
            "contexts": [{ "name": "tests", "context": { "cluster": "tests", "user": "tests" } }],
        });
        std::fs::write(path, serde_json::to_vec_pretty(&config)?).with_context(|| format!("write {}", path.display()))
    }
}

/// A server that this test owns, and may stop, pause and give another past.
pub struct ApiServer {
    access: ApiAccess,
    /// Its store. After a restore, [`Self::restart`]: an API server caches what it read.
    pub etcd: Etcd,
    process: Option<Process>,
    _dir: TempDir,
}

impl Deref for ApiServer {
    type Target = ApiAccess;

    fn deref(&self) -> &ApiAccess {
        &self.access
    }
}

impl ApiServer {
    /// Answers in a few seconds. The CRD is not installed: see [`Kubernetes::apply_crd`].
    pub async fn start() -> Result<Self> {
        let etcd = Etcd::start().await?;
        let dir = scratch()?;
        let ca = Ca::new("authority of the tests")?;
        let serving = ca.server(&["kubernetes.default.svc"])?;
        let accounts = KeyPair::generate()?;
        for (name, content) in [
            ("ca.crt", &ca.cert_pem),
            ("serving.crt", &serving.cert_pem),
            ("serving.key", &serving.key_pem),
            ("service-accounts.key", &accounts.serialize_pem()),
            ("service-accounts.pub", &accounts.public_key_pem()),
            ("tokens.csv", &format!("{ADMIN_TOKEN},admin,admin,system:masters\n")),
        ] {
            std::fs::write(dir.path().join(name), content)?;
        }
        let access = ApiAccess { port: 0, ca, dir: dir.path().to_owned(), etcd: etcd.endpoint() };
        let mut server = Self { access, etcd, process: None, _dir: dir };
        with_free_ports(async || {
            server.access.port = ports::free();
            server.launch().await
        })
        .await?;
        server.access.write_kubeconfig(&server.access.kubeconfig(), server.access.port, None)?;
        Ok(server)
    }

    /// Starts a stopped server again, on its port.
    pub async fn launch(&mut self) -> Result<()> {
        let file = |name| self.access.dir.join(name);
        let launch = Launch::new("kube-apiserver", tools::tool("kubernetes", "kube-apiserver")?, &self.access.dir)
            .flag("--etcd-servers", self.etcd.endpoint())
            .flag("--bind-address", "127.0.0.1")
            .flag("--advertise-address", "127.0.0.1")
            .flag("--secure-port", self.access.port.to_string())
            .flag("--tls-cert-file", file("serving.crt"))
            .flag("--tls-private-key-file", file("serving.key"))
            .flag("--token-auth-file", file("tokens.csv"))
            .flag("--service-account-key-file", file("service-accounts.pub"))
            .flag("--service-account-signing-key-file", file("service-accounts.key"))
            .flag("--service-account-issuer", "https://kubernetes.default.svc")
            .flag("--service-cluster-ip-range", "10.96.0.0/24")
            .flag("--authorization-mode", "RBAC")
            // No Service leads here, and a loopback address cannot be the endpoint of one.
            .flag("--endpoint-reconciler-type", "none");
        let mut process = launch.start()?;
        let access = &self.access;
        process.until("the API server to be ready", async || access.get("/readyz").await?.ok()).await?;
        for namespace in ["default", "kube-system"] {
            let path = format!("/api/v1/namespaces/{namespace}");
            process.until(&format!("namespace {namespace}"), async || access.get(&path).await?.ok()).await?;
        }
        self.process = Some(process);
        Ok(())
    }

    /// SIGKILL: after SIGTERM it would go on answering for up to a minute.
    pub fn stop(&mut self) {
        self.process = None;
    }

    pub async fn restart(&mut self) -> Result<()> {
        self.stop();
        self.launch().await
    }

    /// SIGSTOP: connections stay, answers do not come. [`Self::resume`] ends it.
    pub fn pause(&mut self) -> Result<()> {
        self.process.as_mut().context("the API server is stopped")?.signal(Signal::STOP)
    }

    pub fn resume(&mut self) -> Result<()> {
        self.process.as_mut().context("the API server is stopped")?.signal(Signal::CONT)
    }

    /// What a test needs of it without owning it.
    pub fn access(&self) -> &ApiAccess {
        &self.access
    }
}
