//! Bad days of the API server: what can go on goes on, what is wrong is said once, and everything is right again after it
//! without a restart.

// The values compared are counts and gauges of whole things.
#![allow(clippy::float_cmp)]

use std::slice;

use anyhow::{Result, ensure};
use e2e::apiserver::ApiServer;
use e2e::kubernetes::crd_without_bucket_lookup;
use e2e::operator::{Operator, OperatorSetup};
use e2e::proxy::{Fault, FaultProxy, On, Reply};
use e2e::shared::Shared;
use e2e::site::Site;
use e2e::snapshots;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use crate::common::{
    RECORDS, all_ready, complained_about, complains, complaints, counted, edit, local_beats, local_record, name, ready, rises, versions,
    writes,
};

const ACTIONS: &str = "etcd_snapshot_actions_total";

struct Behind {
    site: Site,
    api: FaultProxy,
    setup: OperatorSetup,
}

async fn behind_a_proxy() -> Result<Behind> {
    let site = Site::new().await?;
    let (api, kubeconfig) = site.api.proxied(site.scratch())?;
    let setup = site.operator_with_bucket().env("KUBECONFIG", kubeconfig);
    Ok(Behind { site, api, setup })
}

/// Runs an operator over two files and two objects.
async fn settled(behind: &Behind) -> Result<(Operator, Vec<String>, Vec<String>)> {
    let site = &behind.site;
    let files: Vec<String> = (0..2).map(|number| site.name(1_700_000_000 + number)).collect();
    let objects: Vec<String> = (10..12).map(|number| site.name(1_700_000_000 + number)).collect();
    for (number, file) in (0..).zip(&files) {
        site.place(file, &snapshots::tiny(number))?;
    }
    for (number, object) in (0..).zip(&objects) {
        site.put_ours(object, snapshots::tiny(number)).await?;
    }
    let mut operator = behind.setup.start().await?;
    all_ready(&mut operator, site, &files, &objects).await?;
    operator.beats(1).await?;
    Ok((operator, files, objects))
}

/// The sum of what ended badly.
async fn failed_beats(operator: &Operator) -> Result<f64> {
    counted(operator, "etcd_snapshot_reconcile_duration_seconds_count", &[("status", "error")]).await
}

#[tokio::test]
async fn while_the_api_is_away_files_are_verified_and_its_records_follow() -> Result<()> {
    let behind = behind_a_proxy().await?;
    let site = &behind.site;
    let (mut operator, mut files, objects) = settled(&behind).await?;
    let (local, bucket) = (versions(&site.local_records().await?), versions(&site.bucket_records().await?));
    ensure!(complaints(&operator, "").is_empty(), "{:?}", complaints(&operator, ""));
    behind.api.cut();
    let verified = counted(&operator, ACTIONS, &[("action", "verify"), ("outcome", "done")]).await?;
    let failed = failed_beats(&operator).await?;
    files.push(site.name(1_700_000_002));
    site.place(&files[2], &snapshots::tiny(2))?;
    std::fs::remove_file(site.snapshots().join(files.remove(0)))?;
    rises(&mut operator, ACTIONS, &[("action", "verify"), ("outcome", "done")], verified).await?;
    operator
        .until("the gauges to show the new file and not the old one", async |operator| {
            let good = operator.metrics().await?.get("etcd_snapshot_files", &[("storage", "local"), ("kind", "good")])?;
            ensure!(good == 2.0, "{good}");
            Ok(())
        })
        .await?;
    rises(&mut operator, "etcd_snapshot_reconcile_duration_seconds_count", &[("status", "error")], failed).await?;
    local_beats(&mut operator, 2).await?;
    local_beats(&mut operator, 3).await?;
    // Said once for each thing that does not work, however long it lasts.
    let said = complained_about(&operator);
    let mut once = said.clone();
    once.dedup();
    ensure!(!said.is_empty() && said == once, "{:#?}", complaints(&operator, ""));
    let answer = operator.get("/readyz").await?;
    ensure!(answer.ok()?.contains("ill: records: "), "it stays ready, and says what is ill");
    ensure!(operator.get("/healthz").await?.ok()?.starts_with("healthy"));
    ensure!((versions(&site.local_records().await?), versions(&site.bucket_records().await?)) == (local, bucket.clone()));
    behind.api.restore();
    all_ready(&mut operator, site, &files, &objects).await?;
    let now = versions(&site.bucket_records().await?);
    ensure!(bucket.iter().all(|record| now.contains(record)), "of the bucket only what went up is new: {bucket:?} became {now:?}");
    operator
        .until("it to be well", async |operator| {
            ensure!(operator.get("/readyz").await?.ok()? == "ready\n");
            Ok(())
        })
        .await?;
    let failed = failed_beats(&operator).await?;
    operator.beats(2).await?;
    ensure!(failed_beats(&operator).await? <= failed + 1.0, "beats succeed again");
    Ok(())
}

#[tokio::test]
async fn an_api_server_that_never_answers_holds_up_no_verification() -> Result<()> {
    let behind = behind_a_proxy().await?;
    let (mut operator, mut files, objects) = settled(&behind).await?;
    let verified = counted(&operator, ACTIONS, &[("action", "verify"), ("outcome", "done")]).await?;
    behind.api.black_hole();
    files.push(behind.site.name(1_700_000_002));
    behind.site.place(&files[2], &snapshots::tiny(2))?;
    rises(&mut operator, ACTIONS, &[("action", "verify"), ("outcome", "done")], verified).await?;
    complains(&mut operator, "no answer within 10 s").await?;
    behind.api.restore();
    all_ready(&mut operator, &behind.site, &files, &objects).await
}

#[tokio::test]
async fn an_api_server_that_refuses_now_and_then_is_asked_again() -> Result<()> {
    let behind = behind_a_proxy().await?;
    let site = &behind.site;
    let (mut operator, files, objects) = settled(&behind).await?;
    let spoil = json!({"status": {"readyToUse": false}});
    let record = local_record(site, &files[0]).await?;
    let record = name(&record);

    // 409: somebody was faster. It is no failure: look again.
    let rule = behind.api.when(On::method("PATCH").path(RECORDS).times(2), Fault::kubernetes(409, "Conflict"));
    let failed = failed_beats(&operator).await?;
    edit(site, record, &spoil).await?;
    all_ready(&mut operator, site, &files, &objects).await?;
    ensure!(rule.hits() == 2 && counted(&operator, ACTIONS, &[("action", "write"), ("outcome", "stale")]).await? >= 2.0);
    ensure!(failed_beats(&operator).await? == failed && complaints(&operator, "").is_empty(), "{:?}", complaints(&operator, ""));

    // 410 of a watch and of the list after it: everything is listed anew, and what came meanwhile is seen.
    let watch = behind.api.when(On::get().path(RECORDS).query("watch").times(1), Fault::kubernetes(410, "Expired"));
    let list = behind.api.when(On::get().path(RECORDS).query_is("limit", "500").times(1), Fault::kubernetes(410, "Expired"));
    behind.api.drop_connections();
    operator
        .until("both to be refused", async |_| {
            ensure!((watch.hits(), list.hits()) == (1, 1), "{} {}", watch.hits(), list.hits());
            Ok(())
        })
        .await?;
    edit(site, record, &spoil).await?;
    all_ready(&mut operator, site, &files, &objects).await?;

    // 429: sent again after the time that the server asks for.
    let throttled = json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "reason": "TooManyRequests", "code": 429,
        "message": "by the test", "details": {"retryAfterSeconds": 1},
    });
    let throttled = Reply::status(429).header("Content-Type", "application/json").header("Retry-After", "1").body(throttled.to_string());
    let once = behind.api.when(On::method("PATCH").path(RECORDS).times(1), Fault::Reply(throttled.clone()));
    edit(site, record, &spoil).await?;
    all_ready(&mut operator, site, &files, &objects).await?;
    ensure!(once.hits() == 1 && counted(&operator, ACTIONS, &[("action", "write"), ("outcome", "failed")]).await? == 0.0);
    let always = behind.api.when(On::method("PATCH").path(RECORDS), Fault::Reply(throttled));
    edit(site, record, &spoil).await?;
    complains(&mut operator, "the API server has too much to do").await?;
    rises(&mut operator, ACTIONS, &[("action", "write"), ("outcome", "failed")], 0.0).await?;
    always.remove();
    all_ready(&mut operator, site, &files, &objects).await?;

    // An answer that was lost: the write was done, and is seen to be.
    let unanswered = behind.api.when(On::method("PATCH").path(RECORDS).times(1), Fault::LoseAnswer);
    edit(site, record, &spoil).await?;
    all_ready(&mut operator, site, &files, &objects).await?;
    operator.beats(2).await?;
    ensure!(unanswered.hits() == 1);
    behind.api.forget();
    operator.beats(2).await?;
    ensure!(writes(&behind.api) == 0);
    Ok(())
}

/// The rights of the agent, one rule each: what design and chart promise it needs, and nothing else.
fn rights() -> Vec<Value> {
    let rule = |group: &str, resource: &str, verbs: &[&str]| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
    vec![
        rule("k3s.cattle.io", "etcdsnapshotfiles", &["get", "list", "watch", "create", "patch", "delete"]),
        rule("apiextensions.k8s.io", "customresourcedefinitions", &["get"]),
        rule("", "nodes", &["get", "list"]),
        rule("", "namespaces", &["get"]),
        rule("coordination.k8s.io", "leases", &["get", "create", "update"]),
        rule("events.k8s.io", "events", &["create"]),
    ]
}

/// A user who has these rights from now on.
async fn grant(site: &Site, rules: &[Value]) -> Result<()> {
    let (client, user) = (site.kubernetes.client.clone(), &site.node);
    let force = PatchParams::apply("tests").force();
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": user}, "rules": rules});
    Api::<ClusterRole>::all(client.clone()).patch(user, &force, &Patch::Apply(role)).await?;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    });
    Api::<ClusterRoleBinding>::all(client).patch(user, &force, &Patch::Apply(binding)).await?;
    Ok(())
}

async fn grant_without(site: &Site, verb: &str, resource: &str) -> Result<()> {
    let mut rules = rights();
    let rule = rules.iter_mut().find(|rule| rule["resources"][0] == resource).and_then(|rule| rule["verbs"].as_array_mut());
    if let Some(verbs) = rule {
        verbs.retain(|other| other != verb);
    }
    rules.retain(|rule| rule["verbs"].as_array().is_some_and(|verbs| !verbs.is_empty()));
    grant(site, &rules).await
}

#[tokio::test]
async fn each_missing_right_is_named_and_missed_no_longer_than_it_is_missing() -> Result<()> {
    let site = Site::new().await?;
    grant(&site, &rights()).await?;
    let setup = site.operator_with_bucket().env("KUBECONFIG", site.api.kubeconfig_as(&site.node, site.scratch())?);
    let mut files: Vec<String> = (0..2).map(|number| site.name(1_700_000_000 + number)).collect();
    for file in &files {
        site.place(file, &snapshots::tiny(0))?;
    }
    let mut operator = setup.start().await?;
    all_ready(&mut operator, &site, &files, &[]).await?;
    operator.beats(2).await?;
    ensure!(complaints(&operator, "").is_empty(), "these rights are enough: {:?}", complaints(&operator, ""));
    let needs = |verb: &str, resource: &str| format!("its role needs verb {verb} on {resource}");

    grant_without(&site, "patch", "etcdsnapshotfiles").await?;
    let record = local_record(&site, &files[0]).await?;
    edit(&site, name(&record), &json!({"status": {"readyToUse": false}})).await?;
    complains(&mut operator, &needs("patch", "etcdsnapshotfiles.k3s.cattle.io")).await?;
    rises(&mut operator, ACTIONS, &[("action", "write"), ("outcome", "failed")], 0.0).await?;
    ensure!(operator.get("/readyz").await?.ok()?.contains("needs verb patch"), "the probe says so too");
    grant(&site, &rights()).await?;
    all_ready(&mut operator, &site, &files, &[]).await?;

    grant_without(&site, "create", "etcdsnapshotfiles").await?;
    operator.beats(1).await?;
    files.push(site.name(1_700_000_002));
    site.place(&files[2], &snapshots::tiny(2))?;
    complains(&mut operator, &needs("create", "etcdsnapshotfiles.k3s.cattle.io")).await?;
    grant(&site, &rights()).await?;
    all_ready(&mut operator, &site, &files, &[]).await?;

    grant_without(&site, "delete", "etcdsnapshotfiles").await?;
    operator.beats(1).await?;
    std::fs::remove_file(site.snapshots().join(files.remove(0)))?;
    complains(&mut operator, &needs("delete", "etcdsnapshotfiles.k3s.cattle.io")).await?;
    rises(&mut operator, ACTIONS, &[("action", "forget"), ("outcome", "failed")], 0.0).await?;
    grant(&site, &rights()).await?;
    all_ready(&mut operator, &site, &files, &[]).await?;

    // Nobody can say whether K3s is at work on the bucket: nothing is written on doubt, and the directory goes on.
    operator.terminate().await?;
    grant_without(&site, "list", "nodes").await?;
    let object = site.name(1_700_000_010);
    site.put_ours(&object, snapshots::tiny(0)).await?;
    let mut operator = setup.start().await?;
    complains(&mut operator, &needs("list", "nodes")).await?;
    rises(&mut operator, "etcd_snapshot_vetoes_total", &[("kind", "k3s-at-work")], 0.0).await?;
    operator.beats(2).await?;
    all_ready(&mut operator, &site, &files, &[]).await?;
    grant(&site, &rights()).await?;
    all_ready(&mut operator, &site, &files, slice::from_ref(&object)).await?;

    // Without the Lease nobody leads, and nobody writes a bucket's records; the directory's go on.
    operator.terminate().await?;
    grant_without(&site, "update", "leases").await?;
    site.bucket.delete(&site.key(&object)).await?;
    let mut operator = setup.start().await?;
    complains(&mut operator, &needs("update", "leases.coordination.k8s.io")).await?;
    operator.beats(2).await?;
    ensure!(operator.metrics().await?.get("etcd_snapshot_leader", &[])? == 0.0);
    all_ready(&mut operator, &site, &files, &[object]).await?;
    grant(&site, &rights()).await?;
    all_ready(&mut operator, &site, &files, &[]).await
}

#[tokio::test]
async fn the_crd_may_be_missing_old_changed_and_gone() -> Result<()> {
    let api = ApiServer::start().await?;
    let site = Site::on(api.access(), &Shared::get()?.s3).await?;
    let mut files = vec![site.name(1_700_000_000)];
    let object = [site.name(1_700_000_010)];
    site.place(&files[0], &snapshots::tiny(0))?;
    site.put_ours(&object[0], snapshots::tiny(1)).await?;
    let (proxy, kubeconfig) = site.api.proxied(site.scratch())?;
    let mut operator = site.operator_with_bucket().env("KUBECONFIG", kubeconfig).start().await?;
    let missing = async |operator: &mut Operator, so: f64| {
        operator
            .until("the metric to say whether the CRD is there", async |operator| {
                let now = operator.metrics().await?.get("etcd_snapshot_crd_missing", &[])?;
                ensure!(now == so, "{now}");
                Ok(())
            })
            .await
    };
    missing(&mut operator, 1.0).await?;
    operator
        .until("the probe to say what is waited for", async |operator| {
            let answer = operator.get("/readyz").await?;
            let said = answer.body.contains("waiting for: the CRD etcdsnapshotfiles.k3s.cattle.io to be served");
            ensure!(answer.status == 503 && said, "{answer:?}");
            Ok(())
        })
        .await?;
    rises(&mut operator, ACTIONS, &[("action", "verify"), ("outcome", "done")], 0.0).await?;
    operator.beats(3).await?;
    ensure!(complaints(&operator, "its CRD is not installed").len() <= 3, "{:#?}", complaints(&operator, ""));
    ensure!(operator.get("/healthz").await?.ok()?.starts_with("healthy"));

    // K3s's older one knows no bucketLookup. It is neither wanted there, which would be a write a beat, nor installed.
    site.kubernetes.apply_this_crd(&crd_without_bucket_lookup()?).await?;
    all_ready(&mut operator, &site, &files, &object).await?;
    missing(&mut operator, 0.0).await?;
    operator.ready().await?;
    operator.beats(1).await?;
    proxy.forget();
    operator.beats(3).await?;
    ensure!(writes(&proxy) == 0, "{} writes in idle beats on an old CRD", writes(&proxy));
    let shown = async || -> Result<Vec<Value>> {
        Ok(site.bucket_records().await?.iter().map(|record| record.data["spec"]["s3"]["bucketLookup"].clone()).collect())
    };
    ensure!(shown().await? == [Value::Null, Value::Null]);

    // A newer one has it.
    site.kubernetes.apply_crd().await?;
    operator
        .until("the record to have the new field", async |_| {
            ensure!(shown().await? == ["path", "path"]);
            Ok(())
        })
        .await?;
    operator.beats(1).await?;
    proxy.forget();
    operator.beats(2).await?;
    ensure!(writes(&proxy) == 0, "{} writes in idle beats on a new CRD", writes(&proxy));

    // Gone under a running agent, and all records with it.
    site.kubernetes.remove_crd().await?;
    missing(&mut operator, 1.0).await?;
    let verified = counted(&operator, ACTIONS, &[("action", "verify"), ("outcome", "done")]).await?;
    files.push(site.name(1_700_000_001));
    site.place(&files[1], &snapshots::tiny(2))?;
    rises(&mut operator, ACTIONS, &[("action", "verify"), ("outcome", "done")], verified).await?;
    let text = operator.get("/readyz").await?.ok()?;
    ensure!(text.starts_with("ready\n") && text.contains("is not served any more"), "a rollout that repairs it must not stall: {text}");
    site.kubernetes.apply_crd().await?;
    all_ready(&mut operator, &site, &files, &object).await?;
    missing(&mut operator, 0.0).await?;
    operator.beats(2).await?;
    ensure!(operator.get("/readyz").await?.ok()? == "ready\n");
    ensure!(complaints(&operator, "panicked").is_empty());
    // It never touched the CRD itself.
    let crds = proxy.requests().into_iter().filter(|seen| seen.path.contains("customresourcedefinitions") && seen.method != "GET").count();
    ensure!(crds == 0);
    ensure!(site.local_records().await?.iter().all(ready));
    Ok(())
}
