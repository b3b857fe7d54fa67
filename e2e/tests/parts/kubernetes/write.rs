//! Writing and deleting records.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use e2e::process::scratch;
use e2e::proxy::{Fault, On, Reply};
use e2e::shared::Shared;
use e2e::wait;
use etcd_snapshot_operator::kubernetes::write::{Written, forget, write};
use etcd_snapshot_operator::record::Record;
use serde_json::json;
use tokio::time::Instant;

use super::{Bench, edit, user_who_may};

const FILE: &str = "etcd-snapshot-cp1-1752319252";

/// The only record of the bench's node.
fn only(bench: &Bench) -> Result<Record> {
    let records = bench.records();
    let [record] = &records[..] else { bail!("{records:?}") };
    Ok((**record).clone())
}

#[tokio::test]
async fn a_record_is_written_once_and_its_writes_wake_nobody() -> Result<()> {
    let api = &Shared::get()?.api;
    let dir = scratch()?;
    let (proxy, kubeconfig) = api.proxied(dir.path())?;
    let (bench, kubernetes) = (Bench::synced(&kubeconfig).await?, api.kubernetes().await?);
    let name = bench.wanted(FILE, 1).name();
    for (turn, outcome) in [(1, Written::Created), (1, Written::Unchanged), (2, Written::Changed), (2, Written::Unchanged)] {
        let wanted = bench.wanted(FILE, turn);
        ensure!(write(&bench.cache, &wanted, None).await? == outcome);
        // At once: the next pass begins before any event has come.
        let record = only(&bench)?;
        ensure!(record.is_untouched && record.version.is_some_and(|version| version.as_str() == format!("{turn}.2.3/-")));
    }
    let object = kubernetes.records().get(name.as_str()).await?;
    ensure!(object.data["status"]["readyToUse"] == true, "{object:?}");
    let managers: Vec<_> = object.metadata.managed_fields.iter().flatten().filter_map(|entry| entry.manager.as_deref()).collect();
    ensure!(managers.iter().all(|manager| *manager == "etcd-snapshot-operator"), "{managers:?}");
    ensure!(proxy.count(&On::method("POST")) == 1 && proxy.count(&On::method("PATCH")) == 1);
    let agent = proxy.requests()[0].header("user-agent").map(str::to_owned);
    ensure!(agent.is_some_and(|agent| agent.starts_with("etcd-snapshot-operator/")));

    ensure!(forget(&bench.cache, &only(&bench)?, None).await? == Written::Deleted);
    ensure!(bench.records().is_empty());
    bench.bystander(&kubernetes, &format!("{name}-other")).await?;
    ensure!(bench.wakes() == 1, "our own writes woke somebody: {}", bench.wakes());
    ensure!(bench.records().len() == 1);
    Ok(())
}

#[tokio::test]
async fn an_edited_record_is_put_right_and_a_deleted_one_comes_back() -> Result<()> {
    let api = &Shared::get()?.api;
    let (bench, kubernetes) = (Bench::synced(&api.kubeconfig()).await?, api.kubernetes().await?);
    let wanted = bench.wanted(FILE, 1);
    let name = wanted.name();
    write(&bench.cache, &wanted, None).await?;

    let edits = json!({ "metadata": { "labels": { "team": "x" } }, "status": { "readyToUse": false, "creationTime": "2026-01-01T00:00:00+99:99", "error": { "message": "by hand" } } });
    edit(&kubernetes, name.as_str(), edits).await?;
    bench.until("the edit", |all| all.iter().any(|record| !record.is_untouched)).await?;
    ensure!(bench.wakes() == 1);
    ensure!(write(&bench.cache, &wanted, None).await? == Written::Changed);
    let object = kubernetes.records().get(name.as_str()).await?;
    ensure!(object.data["status"]["readyToUse"] == true && object.data["status"]["error"].is_null(), "{object:?}");
    ensure!(object.metadata.labels.as_ref().is_some_and(|labels| labels["team"] == "x"), "a foreign label is gone");

    kubernetes.delete_record(name.as_str()).await?;
    bench.until("the deletion", <[_]>::is_empty).await?;
    wait::until("the deletion to wake", async || if bench.wakes() == 2 { Ok(()) } else { bail!("{}", bench.wakes()) }).await?;
    ensure!(write(&bench.cache, &wanted, None).await? == Written::Created);
    ensure!(bench.wakes() == 2);
    Ok(())
}

#[tokio::test]
async fn a_record_that_is_not_what_it_was_is_neither_deleted_nor_written() -> Result<()> {
    let api = &Shared::get()?.api;
    let dir = scratch()?;
    let (proxy, kubeconfig) = api.proxied(dir.path())?;
    let (bench, kubernetes) = (Bench::synced(&kubeconfig).await?, api.kubernetes().await?);
    let wanted = bench.wanted(FILE, 1);
    let name = wanted.name();
    write(&bench.cache, &wanted, None).await?;
    let old = only(&bench)?;

    edit(&kubernetes, name.as_str(), json!({ "metadata": { "labels": { "team": "x" } } })).await?;
    ensure!(forget(&bench.cache, &old, None).await? == Written::Stale, "deleted though it has changed");
    kubernetes.delete_record(name.as_str()).await?;
    ensure!(forget(&bench.cache, &old, None).await? == Written::Stale, "deleted though it is gone");
    super::create(&kubernetes, name.as_str(), bench.node.as_str()).await?;
    ensure!(forget(&bench.cache, &old, None).await? == Written::Stale, "deleted though it is another one");
    ensure!(kubernetes.records().get_opt(name.as_str()).await?.is_some());

    // Somebody writes between our GET and our PATCH.
    bench.until("the other one", |all| all.iter().any(|record| record.uid != old.uid)).await?;
    let held = proxy.when(On::method("PATCH"), Fault::Hold);
    let (cache, wanted) = (bench.cache.clone(), bench.wanted(FILE, 2));
    let writing = tokio::spawn(async move { write(&cache, &wanted, None).await });
    wait::until("the PATCH", async || if held.hits() == 1 { Ok(()) } else { bail!("not yet") }).await?;
    edit(&kubernetes, name.as_str(), json!({ "spec": { "location": "file:///by-hand" } })).await?;
    held.release();
    ensure!(writing.await?? == Written::Stale);
    let object = kubernetes.records().get(name.as_str()).await?;
    ensure!(object.data["spec"]["location"] == "file:///by-hand");

    // A cache that does not know of it finds out by its POST.
    let dark = Bench::start(&dir.path().join("kubeconfig-none")).await;
    ensure!(dark.is_err(), "a kubeconfig that is not there");
    proxy.when(On::get().path("/apis/k3s.cattle.io/v1/etcdsnapshotfiles"), Fault::status(503));
    let dark = Bench::start(&kubeconfig).await?;
    let mut same = dark.wanted(FILE, 3);
    same.object.metadata.name = Some(name.as_str().into());
    ensure!(write(&dark.cache, &same, None).await? == Written::Stale);
    Ok(())
}

#[tokio::test]
async fn a_record_that_a_finalizer_holds_is_left_alone_until_it_is_gone() -> Result<()> {
    let api = &Shared::get()?.api;
    let dir = scratch()?;
    let (proxy, kubeconfig) = api.proxied(dir.path())?;
    let (bench, kubernetes) = (Bench::synced(&kubeconfig).await?, api.kubernetes().await?);
    let wanted = bench.wanted(FILE, 1);
    let name = wanted.name();
    write(&bench.cache, &wanted, None).await?;
    let finalizer = json!({ "metadata": { "finalizers": ["wrangler.cattle.io/managed-etcd-snapshots-controller"] } });
    edit(&kubernetes, name.as_str(), finalizer).await?;
    let held_by = kubernetes.records().get(name.as_str()).await?.metadata.resource_version.context("a version")?;
    bench.until("the finalizer", |all| all.iter().any(|record| record.resource_version == held_by)).await?;

    ensure!(forget(&bench.cache, &only(&bench)?, None).await? == Written::Waiting);
    ensure!(only(&bench)?.terminating);
    ensure!(write(&bench.cache, &bench.wanted(FILE, 2), None).await? == Written::Waiting);
    ensure!(proxy.count(&On::method("PATCH")) == 0);
    ensure!(bench.wakes() == 0, "an annotation of others and our own delete tell nothing: {}", bench.wakes());

    edit(&kubernetes, name.as_str(), json!({ "metadata": { "finalizers": null } })).await?;
    bench.until("the end of it", <[_]>::is_empty).await?;
    wait::until("the end to wake", async || if bench.wakes() == 1 { Ok(()) } else { bail!("{}", bench.wakes()) }).await?;
    ensure!(write(&bench.cache, &bench.wanted(FILE, 2), None).await? == Written::Created);
    Ok(())
}

#[tokio::test]
async fn a_server_with_too_much_to_do_is_asked_again_soon_and_not_for_ever() -> Result<()> {
    let api = &Shared::get()?.api;
    let dir = scratch()?;
    let (proxy, kubeconfig) = api.proxied(dir.path())?;
    let bench = Bench::synced(&kubeconfig).await?;
    let busy = Fault::Reply(Reply::status(429).header("Retry-After", "1").body("Too many requests, please try again later."));
    let once = proxy.when(On::method("POST").times(1), busy.clone());
    ensure!(write(&bench.cache, &bench.wanted(FILE, 1), None).await? == Written::Created);
    ensure!(once.hits() == 1);
    let always = proxy.when(On::method("PATCH"), busy);
    let error = write(&bench.cache, &bench.wanted(FILE, 2), None).await.err().context("it cannot be written")?;
    ensure!((error.category(), always.hits()) == ("throttled", 3), "{error:?} after {}", always.hits());
    // No answer that may have been acted on is repeated.
    always.remove();
    for fault in [Fault::status(503), Fault::LoseAnswer, Fault::kubernetes(500, "InternalError")] {
        let spoiled = proxy.when(On::method("PATCH"), fault);
        let error = write(&bench.cache, &bench.wanted(FILE, 2 + proxy.count(&On::any()) as u64), None).await.err().context("no answer")?;
        ensure!((error.category(), spoiled.hits()) == ("unavailable", 1), "{error:?}");
        spoiled.remove();
    }
    Ok(())
}

#[tokio::test]
async fn nothing_is_sent_after_the_time_to_act() -> Result<()> {
    let api = &Shared::get()?.api;
    let dir = scratch()?;
    let (proxy, kubeconfig) = api.proxied(dir.path())?;
    let bench = Bench::synced(&kubeconfig).await?;
    let wanted = bench.wanted(FILE, 1);
    ensure!(write(&bench.cache, &wanted, Some(Instant::now())).await? == Written::Abandoned);
    ensure!(proxy.count(&On::method("POST")) == 0);
    write(&bench.cache, &wanted, None).await?;
    let record = only(&bench)?;
    ensure!(forget(&bench.cache, &record, Some(Instant::now())).await? == Written::Abandoned);
    ensure!(proxy.count(&On::method("DELETE")) == 0);

    let held = proxy.when(On::get().path("*/etcdsnapshotfiles/*"), Fault::Hold);
    let until = Instant::now() + Duration::from_millis(500);
    ensure!(write(&bench.cache, &bench.wanted(FILE, 2), Some(until)).await? == Written::Abandoned);
    held.release();
    ensure!(Instant::now() >= until && proxy.count(&On::method("PATCH")) == 0);
    Ok(())
}

#[tokio::test]
async fn a_missing_right_is_named() -> Result<()> {
    let api = &Shared::get()?.api;
    let dir = scratch()?;
    let may = json!([{ "apiGroups": ["k3s.cattle.io"], "resources": ["etcdsnapshotfiles"], "verbs": ["get", "list", "watch"] }]);
    let bench = Bench::synced(&user_who_may(api, dir.path(), may).await?).await?;
    let error = write(&bench.cache, &bench.wanted(FILE, 1), None).await.err().context("not allowed")?;
    let failure = error.failure();
    ensure!(failure.category == "forbidden", "{failure}");
    ensure!(failure.message.contains("its role needs verb create on etcdsnapshotfiles.k3s.cattle.io"), "{failure}");
    Ok(())
}
