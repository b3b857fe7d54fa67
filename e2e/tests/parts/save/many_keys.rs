//! Many small keys: what the sidecar says of them is what the version's own tool and the member say.

use tokio::task::JoinSet;

use super::versions::same_as_told;
use super::*;

/// Operations of one transaction; etcd takes 128 of them.
const AT_ONCE: usize = 125;
/// Transactions that are under way at a time.
const BESIDE: usize = 8;

async fn put_many(etcd: &Etcd, keys: usize) -> Result<()> {
    let address = address(etcd)?;
    let key = |number: usize| format!("k{number:07}");
    let mut running = JoinSet::new();
    for first in (0..keys).step_by(AT_ONCE) {
        let end = (first + AT_ONCE).min(keys);
        let puts: Vec<Value> = (first..end).map(|at| json!({ "requestPut": { "key": key(at), "value": key(at / 7) } })).collect();
        if running.len() >= BESIDE {
            running.join_next().await.context("one is running")???;
        }
        running.spawn(async move { post(address, "kv/txn", &json!({ "success": puts })).await });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(())
}

async fn counted_as_etcd_counts_them(set: &str, keys: usize) -> Result<()> {
    let place = Place::new()?;
    let etcd = Etcd::start_version(set).await?;
    put_many(&etcd, keys).await?;
    let (source, directory) = (at(&etcd)?, place.open()?);
    let save = async || -> Result<Saved> {
        let saved = Save::of(&source, &directory).run().await?;
        same_as_told(set, &etcd, &place, &saved, &place.path().join(saved.file.as_str())).await?;
        Ok(saved)
    };
    let all = save().await?;
    ensure!(all.facts.live_keys == u64::try_from(keys)?, "{:?}", all.facts);
    // Some of them go, are compacted away, and what they took is given back.
    post(address(&etcd)?, "kv/deleterange", &json!({ "key": "k0000000", "range_end": "k0000500" })).await?;
    let revision = etcd.revision().await?;
    post(address(&etcd)?, "kv/compaction", &json!({ "revision": revision.to_string(), "physical": true })).await?;
    etcd.etcdctl(["defrag"]).await?;
    let fewer = save().await?;
    ensure!(fewer.facts.live_keys == all.facts.live_keys - 500 && fewer.size <= all.size, "{:?}", fewer.facts);
    Ok(())
}

#[tokio::test]
async fn fifty_thousand_keys_of_etcd_3_4_are_counted_as_it_counts_them() -> Result<()> {
    counted_as_etcd_counts_them("etcd-3.4", 50_000).await
}

#[tokio::test]
async fn fifty_thousand_keys_of_etcd_3_5_are_counted_as_it_counts_them() -> Result<()> {
    counted_as_etcd_counts_them("etcd-3.5", 50_000).await
}

#[tokio::test]
async fn a_million_keys_of_etcd_3_6_are_counted_as_it_counts_them() -> Result<()> {
    counted_as_etcd_counts_them("etcd-3.6", 1_000_000).await
}

#[tokio::test]
async fn fifty_thousand_keys_of_etcd_3_7_are_counted_as_it_counts_them() -> Result<()> {
    counted_as_etcd_counts_them("etcd-3.7", 50_000).await
}
