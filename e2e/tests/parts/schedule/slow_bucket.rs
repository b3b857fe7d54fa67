//! A bucket at 1 Mbit/s, and slower than any line: one that takes nothing more. The member feels nothing of it.

use std::time::Duration;

use e2e::hand::Hand;
use e2e::http;
use e2e::metrics::Metrics;
use e2e::proxy::{Fault, On};
use etcd_snapshot_operator::etcd::{EtcdAccess, EtcdSettings, Member};

use super::*;
use crate::boltdb::post;

/// How often the keys are written anew, and the old values compacted away.
const ROUNDS: u64 = 20;
const KEYS: usize = 16;
const VALUE: usize = 100_000;
/// 1 Mbit/s, as long as a test wants, and so much of each request that no whole snapshot goes up meanwhile.
const SLOW: Fault = Fault::Trickle(125_000, 250_000);

/// The streams of snapshots that this member has begun, ended, and closed the read transaction of.
async fn streams(etcd: &Etcd) -> Result<[u64; 3]> {
    let metrics = Metrics::parse(&http::get(etcd.endpoint().trim_start_matches("http://").parse()?, "/metrics").await?.ok()?)?;
    let of_grpc = |name: &str| metrics.sum(name, &[("grpc_method", "Snapshot")]).unwrap_or(0.0);
    let closed = metrics.get("etcd_disk_backend_snapshot_duration_seconds_count", &[])?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts")]
    Ok([of_grpc("grpc_server_started_total"), of_grpc("grpc_server_handled_total"), closed].map(|count| count.round() as u64))
}

/// Writes and compacts, and says by how many bytes the database has grown, which began without any room in it. What is freed is used
/// again, but while somebody reads an old state of it. With `frees` each round waits until there is something to use.
async fn growth(etcd: &Etcd, member: &Member, frees: bool) -> Result<u64> {
    let address = etcd.endpoint().trim_start_matches("http://").parse()?;
    let before = member.status().await?;
    // The keys as they are, and as they were.
    let most = before.db_in_use + 3 * KEYS as u64 * VALUE as u64;
    for round in 0..ROUNDS {
        for key in 0..KEYS {
            let letter = char::from(b'a' + u8::try_from((round + key as u64) % 26)?);
            let put = json!({ "key": format!("key{key:05}"), "value": letter.to_string().repeat(VALUE) });
            post(address, "kv/put", &put).await?;
        }
        let revision = etcd.revision().await?;
        post(address, "kv/compaction", &json!({ "revision": revision.to_string(), "physical": true })).await?;
        if frees {
            e2e::wait::until("what was compacted to be free", async || {
                // Pages become free with the next write.
                post(address, "kv/put", &json!({ "key": "next", "value": "next" })).await?;
                let used = member.status().await?.db_in_use;
                ensure!(used <= most, "{used} bytes are in use, and {most} would be enough");
                Ok(())
            })
            .await?;
        }
    }
    Ok(member.status().await?.db_size - before.db_size)
}

#[tokio::test]
async fn a_bucket_at_a_megabit_a_second_makes_no_member_hold_a_snapshot_open() -> Result<()> {
    let saver = Saver::new().await?;
    crate::save::fill(&saver.etcd, 6).await?;
    let member = Member::new(EtcdAccess::new(&EtcdSettings { endpoint: saver.etcd.endpoint(), ..EtcdSettings::default() })?);
    // Base64 has four letters for three bytes.
    let written = ROUNDS * KEYS as u64 * VALUE as u64 * 3 / 4;
    saver.etcd.etcdctl(["defrag"]).await?;
    // What would be so if a stream waited for somebody.
    let mut stream = member.snapshot(Duration::from_mins(1)).await?;
    stream.next().await?;
    let held_open = growth(&saver.etcd, &member, false).await?;
    drop(stream);
    ensure!(held_open > written / 3, "a transaction that is held open shows: {held_open} of {written}");
    e2e::wait::until("its end", async || {
        let [begun, ended, closed] = streams(&saver.etcd).await?;
        ensure!(begun == ended && ended == closed, "{begun} {ended} {closed}");
        Ok(())
    })
    .await?;
    saver.etcd.etcdctl(["defrag"]).await?;

    // By hand, so that it is one: saved, and hardly anything of it has gone up.
    let s3 = saver.site.s3.proxied()?;
    let line = s3.when(On::writes(), SLOW);
    let [begun, ..] = streams(&saver.etcd).await?;
    let hand = Hand::new("save")?.on(&saver.site).with_kubernetes(&saver.site).flag("--etcd-endpoint", saver.etcd.endpoint());
    let running = hand.with_bucket_at(&saver.site, s3.endpoint()).start()?;
    let going_up = e2e::wait::until("an upload that has begun, and a stream that has ended", async || {
        ensure!(line.hits() > 0, "nothing goes up yet");
        ensure!(streams(&saver.etcd).await? == [begun + 1; 3], "{:?}", streams(&saver.etcd).await?);
        ensure!(snapshots_in(&saver.site.snapshots())?.len() == 1, "{:?}", snapshots_in(&saver.site.snapshots())?);
        Ok(())
    });
    if let Err(error) = going_up.await {
        let _ = running.signal(e2e::process::Signal::TERM);
        let ended = running.ended().await?;
        return Err(error.context(format!("it ended with {:?}\n{}{}", ended.code, ended.out, ended.err)));
    }
    let meanwhile = growth(&saver.etcd, &member, true).await?;
    ensure!(meanwhile < held_open / 2, "the database grew by {meanwhile}, and by {held_open} with a transaction held open");
    ensure!(saver.site.bucket.keys().await?.is_empty(), "{:?}", saver.site.bucket.keys().await?);
    line.release();
    running.ended().await?.with(0)?;
    line.remove();
    ensure!(saver.site.bucket.keys().await?.len() == 2, "{:?}", saver.site.bucket.keys().await?);

    // And on schedule: saves go on and end, one after the other, while nothing goes up.
    let line = s3.when(On::writes(), SLOW);
    let mut operator = saver.operator().flag("--etcd-s3-endpoint", s3.endpoint()).start().await?;
    for _ in 0..3 {
        runs(&mut operator, "done").await?;
    }
    operator
        .until("streams that have all ended while an upload stands still", async |_| {
            let [begun, ended, closed] = streams(&saver.etcd).await?;
            ensure!(line.hits() > 0 && begun == ended && ended == closed, "{begun} {ended} {closed} and {} requests", line.hits());
            Ok(())
        })
        .await?;
    ensure!(saver.site.bucket.keys().await?.len() == 2, "{:?}", saver.site.bucket.keys().await?);
    line.release();
    operator.stop().await;
    Ok(())
}
