//! Records against what other people and K3s do to them.

use std::slice;

use anyhow::{Context as _, Result, ensure};
use e2e::proxy::On;
use e2e::shared::Shared;
use e2e::site::Site;
use e2e::{snapshots, tools};
use jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, DynamicObject, PostParams};
use serde_json::{Value, json};

use crate::common::{RECORDS, all_ready, edit, file, local_record, name, ready, versions, writes};

/// A record that somebody else creates.
async fn create(site: &Site, record: Value) -> Result<DynamicObject> {
    let mut record = record;
    record["apiVersion"] = "k3s.cattle.io/v1".into();
    record["kind"] = "ETCDSnapshotFile".into();
    let record: DynamicObject = serde_json::from_value(record)?;
    Ok(site.kubernetes.records().create(&PostParams::default(), &record).await?)
}

fn hours_ago(hours: i64) -> String {
    let at = Timestamp::now() - SignedDuration::from_hours(hours);
    Timestamp::from_second(at.as_second()).map_or_else(|error| error.to_string(), |at| at.to_string())
}

#[tokio::test]
async fn kubectl_shows_what_is_there_and_explains_it() -> Result<()> {
    let site = Site::new().await?;
    let (whole, damaged) = (site.name(1_700_000_000), site.name(1_700_000_001));
    site.place(&whole, &Shared::get()?.real_snapshot()?)?;
    site.place(&damaged, &snapshots::bit_flipped(&snapshots::tiny(1)))?;
    let mut operator = site.operator().start().await?;
    let damaged = operator
        .until("one ready record and one that says why it is not", async |_| {
            ensure!(ready(&local_record(&site, &whole).await?));
            let record = local_record(&site, &damaged).await?;
            ensure!(record.data["status"]["error"]["message"].is_string(), "{:?}", record.data);
            Ok(record)
        })
        .await?;
    let whole = local_record(&site, &whole).await?;
    let table =
        |text: &str| text.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).count()).collect::<Vec<_>>();
    let get = site.api.kubectl(&["get", "etcdsnapshotfiles", name(&whole), name(&damaged)]).await?;
    for column in ["NAME", "SNAPSHOTNAME", "NODE", "LOCATION", "SIZE", "CREATIONTIME", "READY"] {
        ensure!(get.lines().next().is_some_and(|header| header.contains(column)), "no column {column}:\n{get}");
    }
    ensure!(table(&get) == [7, 7, 7], "a column is not filled:\n{get}");
    ensure!(get.contains("true") && get.contains("false") && get.contains("file:///"), "{get}");
    let wide = site.api.kubectl(&["get", "etcdsnapshotfiles", name(&whole), name(&damaged), "-o", "wide"]).await?;
    ensure!(table(&wide) == [8, 7, 8], "the error of the damaged one, and only its, is the last column:\n{wide}");
    let explained = site.api.kubectl(&["explain", "etcdsnapshotfile.spec"]).await?;
    let sentence = explained.split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(sentence.contains("deleting the record deletes nothing, it comes back"), "{explained}");
    for field in ["snapshotName", "nodeName", "location", "metadata", "s3"] {
        ensure!(explained.contains(field), "{field} is not explained:\n{explained}");
    }
    Ok(())
}

#[tokio::test]
async fn an_edited_record_comes_back_and_what_others_added_stays() -> Result<()> {
    let site = Site::new().await?;
    let file = site.name(1_700_000_000);
    site.place(&file, &snapshots::tiny(0))?;
    let (api, kubeconfig) = site.api.proxied(site.scratch())?;
    let mut operator = site.operator().env("KUBECONFIG", kubeconfig).start().await?;
    all_ready(&mut operator, &site, slice::from_ref(&file), &[]).await?;
    operator.beats(1).await?;
    let before = local_record(&site, &file).await?;
    api.forget();
    let foreign = json!({
        "metadata": {"labels": {"theirs": "label"}, "annotations": {"theirs": "annotation"}},
        "spec": {"location": "file:///elsewhere", "metadata": {"invented": "x"}},
        "status": {"readyToUse": false, "size": "1k", "error": {"message": "edited", "time": "2024-01-01T00:00:00Z"}},
    });
    edit(&site, name(&before), &foreign).await?;
    let after = operator
        .until("the record to say again what is", async |_| {
            let record = local_record(&site, &file).await?;
            ensure!(record.data == before.data, "{:?}", record.data);
            Ok(record)
        })
        .await?;
    let labels = after.metadata.labels.clone().unwrap_or_default();
    let annotations = after.metadata.annotations.clone().unwrap_or_default();
    ensure!(labels.get("theirs").map(String::as_str) == Some("label"), "{labels:?}");
    ensure!(annotations.get("theirs").map(String::as_str) == Some("annotation"), "{annotations:?}");
    ensure!(after.metadata.uid == before.metadata.uid, "it was put right, not made anew");
    operator.beats(2).await?;
    ensure!(writes(&api) == 1, "{} writes for one edit", writes(&api));
    // What is nobody else's business is left alone.
    edit(&site, name(&before), &json!({"metadata": {"annotations": {"theirs": "changed"}}})).await?;
    operator.beats(2).await?;
    ensure!(writes(&api) == 1, "a foreign annotation was taken for an edit");
    Ok(())
}

#[tokio::test]
async fn a_deleted_record_comes_back_at_once_and_so_do_all_of_them() -> Result<()> {
    let site = Site::new().await?;
    let files: Vec<String> = (0..20).map(|number| site.name(1_700_000_000 + number)).collect();
    for (number, file) in (0..).zip(&files) {
        site.place(file, &snapshots::tiny(number))?;
    }
    // A beat that never comes: only the deletion itself can wake it.
    let mut operator = site.operator().flag("--etcd-snapshot-reconcile-interval", "10h").start().await?;
    all_ready(&mut operator, &site, &files, &[]).await?;
    let one = local_record(&site, &files[0]).await?;
    site.kubernetes.delete_record(name(&one)).await?;
    operator
        .until("the record to come back", async |_| {
            ensure!(local_record(&site, &files[0]).await?.metadata.uid != one.metadata.uid);
            Ok(())
        })
        .await?;
    let before = site.local_records().await?;
    for record in &before {
        site.kubernetes.delete_record(name(record)).await?;
    }
    all_ready(&mut operator, &site, &files, &[]).await?;
    operator
        .until("all of them to be new", async |_| {
            let now = site.local_records().await?;
            ensure!(now.iter().all(|record| before.iter().all(|old| old.metadata.uid != record.metadata.uid)));
            Ok(())
        })
        .await?;
    all_ready(&mut operator, &site, &files, &[]).await
}

#[tokio::test]
async fn a_record_that_k3s_holds_is_left_alone_until_it_lets_go() -> Result<()> {
    let site = Site::new().await?;
    let files = [site.name(1_700_000_000), site.name(1_700_000_001)];
    for file in &files {
        site.place(file, &snapshots::tiny(0))?;
    }
    let (api, kubeconfig) = site.api.proxied(site.scratch())?;
    let mut operator = site.operator().env("KUBECONFIG", kubeconfig).start().await?;
    all_ready(&mut operator, &site, &files, &[]).await?;
    let finalizer = json!({"metadata": {"finalizers": ["wrangler.cattle.io/managed-etcd-snapshots-controller"]}});
    for file in &files {
        let record = local_record(&site, file).await?;
        edit(&site, name(&record), &finalizer).await?;
        site.kubernetes.records().delete(name(&record), &DeleteParams::default()).await?;
    }
    // One of the files goes as well; a record that is going needs no second delete.
    std::fs::remove_file(site.snapshots().join(&files[1]))?;
    operator.beats(1).await?;
    api.forget();
    // Wrong as they are now, they would be put right if they counted.
    for record in site.local_records().await? {
        edit(&site, name(&record), &json!({"status": {"readyToUse": false}})).await?;
    }
    let held = site.local_records().await?;
    ensure!(held.len() == 2 && held.iter().all(|record| record.metadata.deletion_timestamp.is_some()));
    operator.beats(3).await?;
    ensure!(writes(&api) == 0, "{:?}", api.requests());
    ensure!(versions(&site.local_records().await?) == versions(&held));
    for record in &held {
        edit(&site, name(record), &json!({"metadata": {"finalizers": null}})).await?;
    }
    all_ready(&mut operator, &site, &files[..1], &[]).await?;
    ensure!(local_record(&site, &files[0]).await?.metadata.uid != held[0].metadata.uid);
    Ok(())
}

#[tokio::test]
async fn a_failed_upload_of_k3s_is_adopted_when_the_object_is_there_and_written_once() -> Result<()> {
    let site = Site::new().await?;
    let file = site.name(1_700_000_000);
    let (api, kubeconfig) = site.api.proxied(site.scratch())?;
    let setup = site.operator_with_bucket().env("KUBECONFIG", kubeconfig);
    // What K3s calls the record, and what it says of the bucket, is what the operator says too.
    site.put_ours(&file, snapshots::tiny(0)).await?;
    let mut operator = setup.start().await?;
    all_ready(&mut operator, &site, &[], slice::from_ref(&file)).await?;
    let healthy = site.bucket_records().await?.pop().context("a record")?;
    operator.terminate().await?;
    site.bucket.delete(&site.key(&file)).await?;
    site.kubernetes.delete_record(name(&healthy)).await?;
    let failed = json!({
        "metadata": {"name": name(&healthy), "labels": {"etcd.k3s.cattle.io/snapshot-storage-node": "s3"}},
        "spec": healthy.data["spec"],
        "status": {"readyToUse": false, "size": "0", "creationTime": hours_ago(0), "error": {"time": hours_ago(0), "message": "upload failed"}},
    });
    let failed = create(&site, failed).await?;

    let mut operator = setup.start().await?;
    operator
        .until("the bucket to be listed", async |operator| {
            ensure!(operator.metrics().await?.get("etcd_snapshot_leader", &[])? > 0.0);
            Ok(())
        })
        .await?;
    operator.beats(3).await?;
    ensure!(versions(&site.bucket_records().await?) == versions(slice::from_ref(&failed)), "a failure is kept for a day");
    api.forget();
    site.put_ours(&file, snapshots::tiny(0)).await?;
    all_ready(&mut operator, &site, &[], slice::from_ref(&file)).await?;
    let adopted = site.bucket_records().await?.pop().context("a record")?;
    ensure!(adopted.metadata.uid == failed.metadata.uid, "it was adopted, not made anew");
    ensure!(adopted.data["status"].get("error").is_none(), "{:?}", adopted.data["status"]);
    ensure!(adopted.data["status"]["creationTime"] == healthy.data["status"]["creationTime"]);
    operator.beats(3).await?;
    ensure!(writes(&api) == 1, "{} writes: {:?}", writes(&api), api.requests());
    ensure!(api.count(&On::method("PATCH").path(RECORDS)) == 1);
    Ok(())
}

#[tokio::test]
async fn failures_that_k3s_noted_stay_for_a_day_and_others_records_for_ever() -> Result<()> {
    let site = Site::new().await?;
    let failure = |kind: &str, at: String, node: &str, s3: Option<&str>| {
        let mut record = json!({
            "metadata": {"name": format!("{kind}-{node}")},
            "spec": {"snapshotName": format!("etcd-snapshot-{node}-1700000000-{kind}"), "nodeName": node, "location": ""},
            "status": {"readyToUse": false, "size": "0", "error": {"time": at, "message": "no space left on device"}},
        });
        if let Some(bucket) = s3 {
            record["spec"]["s3"] = json!({
                "endpoint": site.s3.endpoint(), "bucket": bucket, "prefix": e2e::site::FOLDER, "insecure": true, "region": "us-east-1",
            });
        }
        record
    };
    let (node, other) = (site.node.clone(), format!("other-{}", site.node));
    let bucket = site.bucket.name.as_str();
    let other_bucket = format!("other-{bucket}");
    let young = create(&site, failure("young", hours_ago(0), &node, None)).await?;
    create(&site, failure("old", hours_ago(25), &node, None)).await?;
    let young_s3 = create(&site, failure("young-s3", hours_ago(0), &node, Some(bucket))).await?;
    create(&site, failure("old-s3", hours_ago(25), &node, Some(bucket))).await?;
    // Others' records, however old or wrong they are: nobody here can know what stands behind them.
    let theirs = [
        create(&site, failure("old", hours_ago(25), &other, None)).await?,
        create(&site, failure("elsewhere-s3", hours_ago(25), &node, Some(&other_bucket))).await?,
    ];
    let healthy = |node: &str, s3: Option<&str>| {
        let mut record = failure("healthy", hours_ago(0), node, s3);
        record["metadata"]["name"] = format!("healthy-{}-{node}", s3.unwrap_or("local")).into();
        record["spec"]["location"] = "file:///nowhere/at-all".into();
        record["status"] = json!({"readyToUse": true, "size": "544"});
        record
    };
    let also_theirs = [create(&site, healthy(&other, None)).await?, create(&site, healthy(&node, Some(&other_bucket))).await?];
    // Ours, and nothing stands behind it: it goes.
    create(&site, healthy(&node, None)).await?;
    create(&site, healthy(&node, Some(bucket))).await?;

    let mut operator = site.operator_with_bucket().start().await?;
    operator
        .until("what is over to be gone and what is not to stay", async |_| {
            let names = |records: Vec<DynamicObject>| records.iter().map(|record| name(record).to_owned()).collect::<Vec<_>>();
            let (local, s3) = (names(site.local_records().await?), names(site.bucket_records().await?));
            ensure!(local == [name(&young)] && s3 == [name(&young_s3)], "{local:?} {s3:?}");
            Ok(())
        })
        .await?;
    operator.beats(2).await?;
    let records = site.kubernetes.records();
    for record in theirs.iter().chain(&also_theirs).chain([&young, &young_s3]) {
        let now = records.get(name(record)).await?;
        ensure!(now.metadata.resource_version == record.metadata.resource_version, "{} was touched", name(record));
    }
    Ok(())
}

#[tokio::test]
async fn a_damaged_files_record_stays_however_old_and_goes_with_the_file() -> Result<()> {
    let site = Site::new().await?;
    let damaged = site.name(1_700_000_000);
    let path = site.place(&damaged, &snapshots::truncated(&snapshots::tiny(0)))?;
    // Two days old: older than any failure record.
    let days_ago = std::time::SystemTime::now() - std::time::Duration::from_hours(48);
    std::fs::File::options().write(true).open(&path)?.set_modified(days_ago)?;
    let mut operator = site.operator().start().await?;
    let record = operator
        .until("the record to say what is wrong", async |_| {
            let record = local_record(&site, &damaged).await?;
            ensure!(record.data["status"]["error"]["message"].is_string() && !ready(&record), "{:?}", record.data);
            Ok(record)
        })
        .await?;
    operator.beats(3).await?;
    ensure!(versions(&site.local_records().await?) == versions(slice::from_ref(&record)));
    std::fs::remove_file(path)?;
    all_ready(&mut operator, &site, &[], &[]).await
}

#[test]
fn the_committed_crd_is_what_the_binary_prints() -> Result<()> {
    let printed = std::process::Command::new(tools::operator()?).arg("crd").output()?;
    let committed = std::fs::read(tools::repository(e2e::kubernetes::CRD_FILE))?;
    ensure!(printed.status.success() && printed.stdout == committed);
    Ok(())
}

#[tokio::test]
async fn a_record_under_a_wrong_name_is_replaced_by_the_right_one() -> Result<()> {
    let site = Site::new().await?;
    let snapshot = site.name(1_700_000_000);
    site.place(&snapshot, &snapshots::tiny(0))?;
    let location = format!("file://{}", site.snapshots().join(&snapshot).display());
    let wrong = json!({
        "metadata": {"name": format!("wrong-{}", site.node)},
        "spec": {"snapshotName": snapshot, "nodeName": site.node, "location": location},
        "status": {"readyToUse": true, "size": "544"},
    });
    let wrong = create(&site, wrong).await?;
    let mut operator = site.operator().start().await?;
    operator
        .until("one record under its own name", async |_| {
            let records = site.local_records().await?;
            ensure!(records.len() == 1 && file(&records[0]) == snapshot && ready(&records[0]), "{} records", records.len());
            ensure!(name(&records[0]) != name(&wrong));
            Ok(())
        })
        .await
}
