//! A second real S3 server (MinIO), since no two of them agree in everything.

use anyhow::Result;
use tempfile::TempDir;

use crate::process::{Launch, Process, scratch, with_free_ports};
use crate::s3::S3Access;
use crate::{http, ports, tools, wait};

/// A running MinIO. Dropping it kills it.
pub struct Minio {
    access: S3Access,
    _process: Process,
    _dir: TempDir,
}

impl Minio {
    pub async fn start() -> Result<Self> {
        with_free_ports(async || {
            let dir = scratch()?;
            let access = S3Access {
                port: ports::free(),
                access_key: "access-key-of-the-tests".into(),
                secret_key: "secret-key-of-the-tests".into(),
            };
            let mut process = Launch::new("minio", tools::tool("minio", "minio")?, dir.path())
                .args(["server", "--quiet", "--address", &access.endpoint(), "--console-address"])
                .arg(ports::loopback(ports::free()).to_string())
                .arg(dir.path().join("data"))
                .env("MINIO_ROOT_USER", &access.access_key)
                .env("MINIO_ROOT_PASSWORD", &access.secret_key)
                .env("MINIO_BROWSER", "off")
                .env("MINIO_UPDATE", "off")
                .start()?;
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
