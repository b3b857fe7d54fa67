//! A store that puts everything off for a minute, while there is something to bring there and something to remove from it.

// The values compared are counts and gauges of whole things.
#![allow(clippy::float_cmp)]

use std::collections::BTreeSet;
use std::slice;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::operator::Operator;
use e2e::proxy::{Fault, FaultProxy, On};
use e2e::{ports, snapshots};
use tokio::time::Instant;

use crate::common::{complained_about, complaints, rises, said};
use crate::invariants::{Left, hears, invariants};
use crate::look::{bucket_becomes, bucket_passes, errors, falls_ill, is_well, local_becomes, states, value};
use crate::retention::{hours_ago, place_old, put_good, removed, whole};
use crate::uploads::{Uploading, backlog, uploads};

const WORDS: &str = "was put off by the server (503";

async fn put_off(operator: &Operator, operation: &str) -> Result<u64> {
    value(operator, "s3_requests_total", &[("operation", operation), ("outcome", "throttled")]).await
}

/// The time in a name, as metrics show it.
fn name_time(name: &str) -> Result<f64> {
    let (_, seconds) = name.rsplit_once('-').context("a name without a time")?;
    Ok(seconds.parse()?)
}

#[tokio::test]
async fn a_minute_of_slow_down_costs_nothing_but_that_minute() -> Result<()> {
    let up = Uploading::new().await?;
    let site = &up.site;
    up.age();
    // In front of what makes objects look older, so that nothing looks younger for a moment.
    let front = FaultProxy::http(ports::loopback(up.s3.port()))?;
    let put = async |hours: u64| -> Result<String> {
        let name = site.name(hours_ago(hours)?);
        put_good(site, &site.bucket, &site.node, &name, &snapshots::tiny(hours)).await?;
        Ok(name)
    };
    let mut objects = Vec::new();
    for hours in [30, 29, 28] {
        objects.push(put(hours).await?);
    }
    let first = place_old(site, 27)?;
    objects.push(first.clone());
    let setup = up.setup.clone().flag("--etcd-s3-endpoint", front.endpoint());
    let setup = setup.flag("--etcd-snapshot-retention", "1").flag("--etcd-s3-retention", "4");
    let mut operator = setup.start().await?;
    bucket_becomes(&mut operator, site, &whole(&objects)).await?;
    local_becomes(&mut operator, site, &whole(slice::from_ref(&first))).await?;
    is_well(&mut operator).await?;
    let before = states(&site.bucket_records().await?);

    let (begun, rule) = (Instant::now(), front.when(On::any(), Fault::s3(503, "SlowDown")));
    // One more is to go up, and somebody else has put another one there: two have to go.
    objects.push(put(26).await?);
    let second = place_old(site, 25)?;
    objects.push(second.clone());
    let there = site.bucket.keys().await?;
    falls_ill(&mut operator, "bucket", &format!("listing s3://{}/folder at ", site.bucket.name)).await?;
    falls_ill(&mut operator, "uploads", &format!("asking for s3://{}/{} at ", site.bucket.name, site.key(&second))).await?;
    backlog(&mut operator, 1.0, name_time(&second)?).await?;
    // The directory has its own retention, and does not wait for a bucket.
    local_becomes(&mut operator, site, &whole(slice::from_ref(&second))).await?;
    operator
        .until("a minute of it", async |_| {
            ensure!(begun.elapsed() > Duration::from_mins(1), "{:?}", begun.elapsed());
            Ok(())
        })
        .await?;
    bucket_passes(&mut operator, 1).await?;
    let warned = complaints(&operator, "");
    let about: BTreeSet<String> = complained_about(&operator).into_iter().collect();
    ensure!(warned.len() == about.len() && warned.iter().all(|line| line.contains(WORDS)), "each in one sentence, once: {warned:#?}");
    let errors_said = said(&operator, &["ERROR"], "");
    ensure!(errors_said.is_empty(), "of nobody's: {errors_said:#?}");
    ensure!(put_off(&operator, "ListObjectsV2").await? > 0 && put_off(&operator, "HeadObject").await? > 0);
    ensure!(errors(&operator, "s3").await? > 0 && errors(&operator, "local").await? == 0);
    ensure!(uploads(&operator, "done").await? == 1 && uploads(&operator, "failed").await? > 0);
    ensure!(removed(&operator, "s3", "beyond-retention").await? == 0 && site.bucket.keys().await? == there, "nothing goes on doubt");
    let now = states(&site.bucket_records().await?);
    ensure!(before.iter().all(|record| now.contains(record)), "{before:#?} became {now:#?}");

    rule.remove();
    bucket_becomes(&mut operator, site, &whole(&objects[2..])).await?;
    is_well(&mut operator).await?;
    backlog(&mut operator, 0.0, 0.0).await?;
    rises(&mut operator, "etcd_snapshot_removed_total", &[("storage", "s3"), ("reason", "beyond-retention")], 1.5).await?;
    hears(&mut operator, site, "ETCDSnapshotStorageFailed", 1).await?;
    hears(&mut operator, site, "ETCDSnapshotStorageRecovered", 1).await?;
    invariants(operator, &setup, site, &Left::new(&[second], &objects[2..])).await
}
