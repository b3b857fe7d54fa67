//! K3s's own way of doing the same (docs/k3s.md 3.6, 4.3, 4.4), with the same clients and against the same servers.
//!
//! It asks one thing after the other, so what a thousand objects take is what a sample takes, times their number: of the HEADs,
//! GETs and writes only a sample is made. What K3s does besides (Events, the legacy ConfigMap, limits of its client) is left
//! out, in its favour.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aws_sdk_s3::Client;
use kube::api::{Api, DynamicObject, ListParams, PostParams};

use super::world::World;
use crate::site::FOLDER;

/// Records in a page.
const PAGE: u32 = 20;

/// What something takes, and how much of it was really done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Estimate {
    pub time: Duration,
    pub requests: u32,
}

impl std::ops::Add for Estimate {
    type Output = Self;

    fn add(self, more: Self) -> Self {
        Self { time: self.time + more.time, requests: self.requests + more.requests }
    }
}

/// K3s on a node.
pub struct K3s<'a> {
    world: &'a World,
    client: Client,
    records: Api<DynamicObject>,
}

impl<'a> K3s<'a> {
    pub fn new(world: &'a World) -> Self {
        Self { world, client: world.client(), records: world.site.kubernetes.records() }
    }

    /// Lists the prefix with all below it, then one HEAD an object, sidecars too, and one GET a sidecar.
    pub async fn gather(&self) -> Result<Estimate> {
        let bucket = &self.world.site.bucket.name;
        let begun = Instant::now();
        let (mut keys, mut lists) = (Vec::new(), 0);
        let mut pages = self.client.list_objects_v2().bucket(bucket).prefix(FOLDER).into_paginator().send();
        while let Some(page) = pages.next().await {
            lists += 1;
            keys.extend(page.context("list")?.contents.unwrap_or_default().into_iter().filter_map(|object| object.key));
        }
        let listed = Estimate { time: begun.elapsed(), requests: lists };
        let (sidecars, snapshots): (Vec<String>, Vec<String>) = keys.into_iter().partition(|key| key.contains("/.metadata/"));
        let count = u32::try_from(snapshots.len())?;
        ensure!(sidecars.len() == snapshots.len() && count == self.world.scale.objects, "{count} objects, {} sidecars", sidecars.len());
        let sample = |keys: &[String]| self.sample(keys.to_vec());
        let looked = self.each(2 * count, [sample(&snapshots), sample(&sidecars)].concat(), async |key| {
            self.client.head_object().bucket(bucket).key(key).send().await.map(drop).map_err(Into::into)
        });
        let looked = looked.await?;
        let read = self.each(count, sample(&sidecars), async |key| {
            let answer = self.client.get_object().bucket(bucket).key(key).send().await?;
            answer.body.collect().await?;
            Ok(())
        });
        Ok(listed + looked + read.await?)
    }

    /// Lists the records of this node and of the bucket, in pages of 20.
    pub async fn compare(&self, expected: u32) -> Result<Estimate> {
        let begun = Instant::now();
        let selector = format!("etcd.k3s.cattle.io/snapshot-storage-node in ({},s3)", self.world.site.node);
        let mut page = ListParams::default().labels(&selector).limit(PAGE);
        let (mut requests, mut seen) = (0, 0);
        loop {
            let list = self.records.list(&page).await?;
            requests += 1;
            seen += list.items.len();
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => break,
            }
        }
        ensure!(seen == usize::try_from(expected)?, "{seen} records of {expected}");
        Ok(Estimate { time: begun.elapsed(), requests })
    }

    /// One GET and one POST a record.
    pub async fn create(&self, records: &[DynamicObject]) -> Result<Estimate> {
        let count = u32::try_from(records.len())?;
        let sample = self.sample(records.to_vec());
        let names: Vec<String> = sample.iter().filter_map(|record| record.metadata.name.clone()).collect();
        let created = self.each(count, sample, async |record| {
            let name = record.metadata.name.as_deref().context("a name")?;
            ensure!(self.records.get_opt(name).await?.is_none(), "{name} is there");
            self.records.create(&PostParams::default(), &record).await?;
            Ok(())
        });
        let created = created.await?;
        self.world.delete(names).await?;
        Ok(Estimate { requests: 2 * created.requests, ..created })
    }

    /// As many of these, evenly spread, as the scale says.
    fn sample<T>(&self, all: Vec<T>) -> Vec<T> {
        let step = (all.len() / usize::try_from(self.world.scale.sample).unwrap_or(1).max(1)).max(1);
        all.into_iter().step_by(step).collect()
    }

    /// Does it to each of a sample, one after the other, and calculates what `count` of them take.
    async fn each<T>(&self, count: u32, sample: Vec<T>, mut work: impl AsyncFnMut(T) -> Result<()>) -> Result<Estimate> {
        let done = u32::try_from(sample.len())?;
        let begun = Instant::now();
        for one in sample {
            work(one).await?;
        }
        Ok(Estimate { time: begun.elapsed().mul_f64(f64::from(count) / f64::from(done.max(1))), requests: count })
    }
}
