//! What the sections share: an API server and an S3 server of the benchmark's own, a way to the latter that can be long, and
//! operators on them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aws_sdk_s3::Client;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use kube::api::{DeleteParams, DynamicObject, ListParams};

use super::Scale;
use crate::apiserver::ApiServer;
use crate::metrics::Metrics;
use crate::operator::{Operator, OperatorSetup};
use crate::proxy::{Fault, FaultProxy, On};
use crate::s3::{S3, S3Access};
use crate::site::Site;
use crate::wait;

/// What a distant store adds to every request.
pub const DISTANCE: Duration = Duration::from_millis(20);
/// How long anything may take before the benchmark gives up.
const PATIENCE: Duration = Duration::from_mins(20);
const REMOVALS: usize = 32;

pub struct World {
    pub scale: Scale,
    pub api: ApiServer,
    pub site: Site,
    /// The way to the S3 server. Always the same one: a bucket at another address is another storage.
    pub s3: FaultProxy,
    _s3: S3,
}

impl World {
    pub async fn start(scale: Scale) -> Result<Self> {
        let (api, s3) = tokio::try_join!(ApiServer::start(), S3::start())?;
        api.kubernetes().await?.apply_crd().await?;
        let site = Site::on(api.access(), s3.access()).await?;
        let way = s3.proxied()?;
        Ok(Self { scale, api, site, s3: way, _s3: s3 })
    }

    /// An operator as it is installed, but that saves nothing and lets nothing go: nothing but what is measured is to happen.
    pub fn operator(&self, interval: &str) -> OperatorSetup {
        quiet(self.site.operator(), interval, &self.api)
    }

    /// The same with the bucket.
    pub fn operator_with_bucket(&self, interval: &str) -> OperatorSetup {
        quiet(self.site.operator_with_bucket(), interval, &self.api).flag("--etcd-s3-endpoint", self.s3.endpoint())
    }

    /// From now on the S3 server is so far.
    pub fn move_s3(&self, way: Way) {
        self.s3.clear();
        if way == Way::Distant {
            self.s3.when(On::any(), Fault::Delay(DISTANCE));
        }
    }

    /// A client of the S3 server for peers.
    pub fn client(&self) -> Client {
        S3Access { port: self.s3.port(), ..self.site.s3.clone() }.client()
    }

    /// Every record that there is.
    pub async fn records(&self) -> Result<Vec<DynamicObject>> {
        self.site.kubernetes.records_where(|_| true).await
    }

    /// Deletes these records.
    pub async fn delete(&self, names: impl IntoIterator<Item = String>) -> Result<()> {
        let records = self.site.kubernetes.records();
        stream::iter(names)
            .map(|name| {
                let records = &records;
                async move { records.delete(&name, &DeleteParams::default()).await.map(drop) }
            })
            .buffer_unordered(REMOVALS)
            .try_collect::<()>()
            .await?;
        Ok(())
    }

    /// Deletes every record.
    pub async fn delete_all(&self) -> Result<()> {
        let names: Vec<String> = self.records().await?.into_iter().filter_map(|record| record.metadata.name).collect();
        self.delete(names).await?;
        ensure!(self.site.kubernetes.records().list(&ListParams::default().limit(1)).await?.items.is_empty(), "records are left");
        Ok(())
    }
}

/// How far the S3 server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Near,
    Distant,
}

impl Way {
    pub fn word(self) -> &'static str {
        match self {
            Self::Near => "S3 on loopback",
            Self::Distant => "20 ms added to every S3 request",
        }
    }
}

fn quiet(setup: OperatorSetup, interval: &str, api: &ApiServer) -> OperatorSetup {
    setup
        .flag("--etcd-snapshot-reconcile-interval", interval)
        .flag("--etcd-endpoint", api.etcd.endpoint())
        .flag("--etcd-snapshot-retention", "0")
        .flag("--etcd-s3-retention", "0")
        .switch("--etcd-disable-snapshots")
        .env("RUST_LOG", "info")
}

/// Looks until `look` succeeds, for as long as it takes.
pub async fn until<T>(operator: &mut Operator, what: &str, mut look: impl AsyncFnMut(&Operator) -> Result<T>) -> Result<T> {
    let seen = wait::until_within(PATIENCE, what, async || {
        if let Some(ended) = operator.ended() {
            return Ok(Err(anyhow::anyhow!("the operator has ended ({ended}): {}", operator.log())));
        }
        look(operator).await.map(Ok)
    });
    seen.await?.with_context(|| format!("waited for {what}"))
}

/// A series of one scrape, 0 when it is not there.
pub fn value(metrics: &Metrics, name: &str, labels: &[(&str, &str)]) -> f64 {
    metrics.sum(&format!("etcd_snapshot_{name}"), labels).unwrap_or(0.0)
}

/// Waits until so many records were written since the start.
pub async fn written(operator: &mut Operator, count: u32) -> Result<()> {
    until(operator, "the records to be written", async |operator| {
        let done = value(&operator.metrics().await?, "actions_total", &[("action", "write"), ("outcome", "done")]);
        ensure!(done >= f64::from(count), "{done} of {count}");
        Ok(())
    })
    .await
}
