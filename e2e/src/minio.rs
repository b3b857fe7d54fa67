//! A second real S3 server (MinIO), since no two of them agree in everything. It is a token service as well: for the token of a
//! service account it gives credentials of a role, as AWS does on EKS.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::process::{Launch, Process, scratch, with_free_ports};
use crate::s3::S3Access;
use crate::{http, ports, tools, wait};

/// For whom a token must be meant that opens [`ROLE`].
pub const AUDIENCE: &str = "sts.amazonaws.com";
/// The role that a [`TrustedIssuer`]'s tokens open, which may do everything. MinIO makes its last part of the audience's SHA-1.
pub const ROLE: &str = "arn:minio:iam:::role/oxnUw3DAuQF1uggjXGxI2AmW8IA";

/// Whose tokens a MinIO believes.
pub struct TrustedIssuer {
    /// Where the issuer describes itself.
    pub discovery: String,
    /// The authority of its certificate.
    pub ca: PathBuf,
}

/// A running MinIO. Dropping it kills it.
pub struct Minio {
    access: S3Access,
    _process: Process,
    _dir: TempDir,
}

impl Minio {
    pub async fn start() -> Result<Self> {
        Self::start_with(None).await
    }

    /// One that gives credentials of [`ROLE`] for tokens of this issuer for [`AUDIENCE`].
    pub async fn trusting(issuer: &TrustedIssuer) -> Result<Self> {
        Self::start_with(Some(issuer)).await
    }

    async fn start_with(issuer: Option<&TrustedIssuer>) -> Result<Self> {
        with_free_ports(async || {
            let dir = scratch()?;
            let certificates = dir.path().join("certs");
            std::fs::create_dir_all(certificates.join("CAs"))?;
            let access = S3Access {
                port: ports::free(),
                access_key: "access-key-of-the-tests".into(),
                secret_key: "secret-key-of-the-tests".into(),
            };
            let mut launch = Launch::new("minio", tools::tool("minio", "minio")?, dir.path())
                .args(["server", "--quiet", "--address", &access.endpoint(), "--console-address"])
                .arg(ports::loopback(ports::free()).to_string())
                .flag("--certs-dir", &certificates)
                .arg(dir.path().join("data"))
                .env("MINIO_ROOT_USER", &access.access_key)
                .env("MINIO_ROOT_PASSWORD", &access.secret_key)
                .env("MINIO_BROWSER", "off")
                .env("MINIO_UPDATE", "off");
            if let Some(issuer) = issuer {
                std::fs::copy(&issuer.ca, certificates.join("CAs/issuer.crt")).context("copy the issuer's authority")?;
                launch = launch
                    .env("MINIO_IDENTITY_OPENID_CONFIG_URL", &issuer.discovery)
                    .env("MINIO_IDENTITY_OPENID_CLIENT_ID", AUDIENCE)
                    .env("MINIO_IDENTITY_OPENID_ROLE_POLICY", "readwrite");
            }
            let mut process = launch.start()?;
            let address = ports::loopback(access.port);
            process.until("MinIO to be ready", async || http::get(address, "/minio/health/ready").await?.ok()).await?;
            let client = access.client();
            wait::until("MinIO to answer as a store", async || Ok(client.list_buckets().send().await?)).await?;
            Ok(Self { access, _process: process, _dir: dir })
        })
        .await
    }

    pub fn access(&self) -> &S3Access {
        &self.access
    }
}
