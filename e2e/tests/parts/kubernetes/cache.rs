//! What the cache knows, and when it does not.

use anyhow::{Context as _, Result, bail, ensure};
use e2e::apiserver::ApiServer;
use e2e::etcd::Restore;
use e2e::kubernetes::crd_without_bucket_lookup;
use e2e::process::scratch;
use e2e::proxy::{Fault, On, Reply};
use e2e::shared::Shared;
use e2e::wait;
use etcd_snapshot_operator::kubernetes::write::{Written, write};
use serde_json::{Value, json};

use super::{Bench, create, user_who_may};

const RECORDS: &str = "/apis/k3s.cattle.io/v1/etcdsnapshotfiles";

fn lists() -> On {
    On::get().path(RECORDS).without_query("watch").query_is("limit", "500").without_query("continue")
}

fn watches() -> On {
    On::get().path(RECORDS).query("watch")
}

fn with_list_metadata(body: &str, key: &str, value: &str) -> String {
    let mut list: Value = serde_json::from_str(body).expect("a list");
    list["metadata"][key] = json!(value);
    list.to_string()
}

#[tokio::test]
async fn a_watch_that_ends_is_never_resumed_and_nothing_is_missed() -> Result<()> {
    let api = &Shared::get()?.api;
    let dir = scratch()?;
    let (proxy, kubeconfig) = api.proxied(dir.path())?;
    let (bench, kubernetes) = (Bench::synced(&kubeconfig).await?, api.kubernetes().await?);
    let name = |n: usize| format!("local-{}-{n}", bench.node);
    let mut expected = 0;

    // The line is cut, and what happens meanwhile is in the next list.
    proxy.cut();
    create(&kubernetes, &name(expected), bench.node.as_str()).await?;
    wait::until("the failure to be known", async || bench.cache.health().failure.context("none")).await?;
    ensure!(bench.cache.records().is_some(), "what was known is still known");
    proxy.restore();
    expected += 1;
    bench.until("the record of the bad minute", |all| all.len() == expected).await?;
    ensure!(bench.wakes() == expected);

    // The server ends the watch in good order, gives it up, answers nonsense, refuses it.
    let gone = r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}"#;
    for fault in [
        Fault::Reply(Reply::status(200).header("Content-Type", "application/json")),
        Fault::Reply(Reply::status(200).header("Content-Type", "application/json").body(format!("{gone}\n"))),
        Fault::Reply(Reply::status(200).header("Content-Type", "application/json").body("<html>\n")),
        Fault::kubernetes(410, "Expired"),
        Fault::status(500),
    ] {
        let spoiled = proxy.when(watches().times(1), fault);
        proxy.drop_connections();
        wait::until("the watch to end", async || if spoiled.hits() == 1 { Ok(()) } else { bail!("not yet") }).await?;
        create(&kubernetes, &name(expected), bench.node.as_str()).await?;
        expected += 1;
        bench.until("the next record", |all| all.len() == expected).await?;
    }
    bench.is_synced().await?;
    let (listed, watched) = (proxy.count(&lists()), proxy.count(&watches()));
    ensure!(listed >= watched && watched >= 7, "{watched} watches after {listed} lists: one was resumed");
    for n in 0..expected {
        kubernetes.delete_record(&name(n)).await?;
    }
    bench.until("all to be gone", <[_]>::is_empty).await
}

#[tokio::test]
async fn a_list_that_fails_half_way_is_no_list() -> Result<()> {
    let api = &Shared::get()?.api;
    let dir = scratch()?;
    let (proxy, kubeconfig) = api.proxied(dir.path())?;
    // Every list claims to have a second page, and that one never comes.
    let more = proxy.when(lists(), Fault::rewrite(|body| with_list_metadata(body, "continue", "more")));
    let second = On::get().path(RECORDS).query_is("continue", "more");
    let tries =
        [Fault::status(500), Fault::kubernetes(410, "Expired"), Fault::Drop].map(|fault| proxy.when(second.clone().times(1), fault));
    let last = proxy.when(second, Fault::Hold);
    let bench = Bench::start(&kubeconfig).await?;
    wait::until("three tries", async || if last.hits() == 1 { Ok(()) } else { bail!("{}", last.hits()) }).await?;
    ensure!(tries.iter().all(|tried| tried.hits() == 1));
    ensure!(bench.cache.records().is_none() && !bench.cache.health().synced);
    more.remove();
    proxy.clear();
    last.release();
    bench.is_synced().await
}

#[tokio::test]
async fn a_server_that_is_away_at_the_start_is_waited_for() -> Result<()> {
    let api = &Shared::get()?.api;
    let dir = scratch()?;
    let (proxy, kubeconfig) = api.proxied(dir.path())?;
    proxy.cut();
    let bench = Bench::start(&kubeconfig).await?;
    let failure = wait::until("the failure to be known", async || bench.cache.health().failure.context("none")).await?;
    ensure!(failure.category == "unavailable" && bench.cache.records().is_none(), "{failure}");
    let error = write(&bench.cache, &bench.wanted("etcd-snapshot-cp1-1", 1), None).await.err().context("it cannot be written")?;
    ensure!(error.category() == "unavailable", "{error:?}");
    proxy.restore();
    bench.is_synced().await
}

#[tokio::test]
async fn a_missing_right_to_watch_leaves_a_cache_that_lists() -> Result<()> {
    let api = &Shared::get()?.api;
    let dir = scratch()?;
    let may = json!([{ "apiGroups": ["k3s.cattle.io"], "resources": ["etcdsnapshotfiles"], "verbs": ["get", "list"] }]);
    let (bench, kubernetes) = (Bench::start(&user_who_may(api, dir.path(), may).await?).await?, api.kubernetes().await?);
    let failure = wait::until("the failure to be known", async || bench.cache.health().failure.context("none")).await?;
    ensure!(failure.message.contains("verb watch on etcdsnapshotfiles.k3s.cattle.io"), "{failure}");
    create(&kubernetes, &format!("local-{}", bench.node), bench.node.as_str()).await?;
    bench.until("the record", |all| all.len() == 1).await?;
    // Nobody may look at the CRD either: then records go without the field.
    ensure!(!bench.cache.has_bucket_lookup());
    let nothing = Bench::start(&user_who_may(api, dir.path(), json!([])).await?).await?;
    let failure = wait::until("the failure to be known", async || nothing.cache.health().failure.context("none")).await?;
    ensure!(failure.category == "forbidden" && nothing.cache.records().is_none(), "{failure}");
    Ok(())
}

#[tokio::test]
async fn a_list_older_than_what_was_seen_throws_the_cache_away() -> Result<()> {
    let api = &Shared::get()?.api;
    let dir = scratch()?;
    let (proxy, kubeconfig) = api.proxied(dir.path())?;
    let (bench, kubernetes) = (Bench::synced(&kubeconfig).await?, api.kubernetes().await?);
    ensure!(!bench.cache.check().await?);
    let old = Fault::rewrite(|body| with_list_metadata(body, "resourceVersion", "1"));
    proxy.when(On::get().path(RECORDS).query_is("limit", "1").times(1), old);
    let held = proxy.when(lists(), Fault::Hold);
    let before = bench.woken.lock().unwrap().len();
    ensure!(bench.cache.check().await?);
    ensure!(bench.cache.records().is_none() && !bench.cache.health().synced);
    held.release();
    bench.is_synced().await?;
    ensure!(bench.woken.lock().unwrap()[before..].contains(&None), "everybody looks again");
    ensure!(!bench.cache.check().await?);
    bench.bystander(&kubernetes, &format!("local-{}", bench.node)).await
}

/// The answer of a real restore: with a revision that falls, and with one that jumps.
#[tokio::test]
async fn after_a_restore_the_cache_holds_what_was_restored() -> Result<()> {
    let dir = scratch()?;
    let mut api = ApiServer::start().await?;
    let kubernetes = api.kubernetes().await?;
    kubernetes.apply_crd().await?;
    let bench = Bench::synced(&api.kubeconfig()).await?;
    for how in [Restore::default(), Restore { bump_revision: Some(1_000_000_000) }] {
        let keep = bench.wanted("etcd-snapshot-cp1-1", 1);
        write(&bench.cache, &keep, None).await?;
        let saved = dir.path().join("saved");
        api.etcd.save(&saved).await?;
        ensure!(write(&bench.cache, &bench.wanted("etcd-snapshot-cp1-1", 2), None).await? == Written::Changed);
        for later in 2..20 {
            ensure!(write(&bench.cache, &bench.wanted(&format!("etcd-snapshot-cp1-{later}"), 1), None).await? == Written::Created);
        }
        api.stop();
        api.etcd.restore(&saved, how).await?;
        api.launch().await?;
        let is_back = |version: &str| version == "1.2.3/-";
        bench.until("the past", |all| all.len() == 1 && all[0].version.as_ref().is_some_and(|version| is_back(version.as_str()))).await?;
        bench.is_synced().await?;
        ensure!(!bench.cache.check().await?);
        ensure!(write(&bench.cache, &keep, None).await? == Written::Unchanged, "{how:?}");
    }
    Ok(())
}

/// Its lists come from a cache of its own, which knows nothing of a restore; its answers to GET and to writes do not.
#[tokio::test]
async fn an_api_server_that_hides_a_restore_is_named_until_it_is_restarted() -> Result<()> {
    let dir = scratch()?;
    let mut api = ApiServer::start().await?;
    api.kubernetes().await?.apply_crd().await?;
    let bench = Bench::synced(&api.kubeconfig()).await?;
    let saved = dir.path().join("saved");
    api.etcd.save(&saved).await?;
    for later in 0..20 {
        write(&bench.cache, &bench.wanted(&format!("etcd-snapshot-cp1-{later}"), 1), None).await?;
    }
    api.etcd.restore(&saved, Restore::default()).await?;
    let after = bench.wanted("etcd-snapshot-cp1-0", 2);
    wait::until("a write after the restore", async || {
        let written = write(&bench.cache, &after, None).await?;
        ensure!(written == Written::Created, "{written:?}");
        Ok(())
    })
    .await?;
    let failure = wait::until("the doubt", async || bench.cache.health().failure.context("none")).await?;
    ensure!(failure.category == "stale" && failure.message.contains("restart it"), "{failure}");
    api.restart().await?;
    bench.until("the past", |all| all.len() == 1).await?;
    bench.is_synced().await?;
    ensure!(write(&bench.cache, &after, None).await? == Written::Unchanged);
    Ok(())
}

#[tokio::test]
async fn a_crd_may_come_go_and_change() -> Result<()> {
    let api = ApiServer::start().await?;
    let kubernetes = api.kubernetes().await?;
    let bench = Bench::start(&api.kubeconfig()).await?;
    let missing = async || {
        let health = bench.cache.health();
        let known = bench.cache.records().is_some();
        ensure!(health.crd_missing && !health.synced && !known, "{health:?}");
        Ok(())
    };
    wait::until("the CRD to be missed", missing).await?;
    let wanted = bench.wanted("etcd-snapshot-cp1-1", 1);
    let error = write(&bench.cache, &wanted, None).await.err().context("no CRD")?;
    ensure!(error.category() == "crd_missing", "{error:?}");

    kubernetes.apply_this_crd(&crd_without_bucket_lookup()?).await?;
    bench.is_synced().await?;
    ensure!(!bench.cache.health().crd_missing && !bench.cache.has_bucket_lookup());
    ensure!(write(&bench.cache, &wanted, None).await? == Written::Created);
    kubernetes.apply_crd().await?;
    wait::until("the new CRD", async || {
        bench.cache.check().await?;
        ensure!(bench.cache.has_bucket_lookup());
        Ok(())
    })
    .await?;

    kubernetes.remove_crd().await?;
    wait::until("the CRD to be missed again", missing).await?;
    kubernetes.apply_crd().await?;
    bench.is_synced().await?;
    ensure!(bench.records().is_empty());
    ensure!(write(&bench.cache, &wanted, None).await? == Written::Created);
    Ok(())
}

#[tokio::test]
async fn more_records_than_a_page_are_all_known() -> Result<()> {
    let api = ApiServer::start().await?;
    api.kubernetes().await?.apply_crd().await?;
    let dir = scratch()?;
    let (proxy, kubeconfig) = api.proxied(dir.path())?;
    let first = Bench::synced(&api.kubeconfig()).await?;
    for files in (0..1001).collect::<Vec<_>>().chunks(50) {
        let writes = files.iter().map(|n| {
            let (cache, wanted) = (first.cache.clone(), first.wanted(&format!("etcd-snapshot-cp1-{n}"), 1));
            tokio::spawn(async move { write(&cache, &wanted, None).await })
        });
        for written in writes.collect::<Vec<_>>() {
            ensure!(written.await?? == Written::Created);
        }
    }
    let mut second = Bench::synced(&kubeconfig).await?;
    second.node = first.node.clone();
    ensure!(second.records().len() == 1001 && first.records() == second.records());
    ensure!(proxy.count(&lists()) == 1 && proxy.count(&On::get().path(RECORDS).query("continue")) == 2);
    Ok(())
}
