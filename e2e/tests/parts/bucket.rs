//! What the bucket holds, and what its records say of it: whose it is, what is known of it, and that it is gone.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use e2e::apiserver::ApiServer;
use e2e::proxy::{Fault, On};
use e2e::shared::Shared;
use e2e::site::Site;
use e2e::snapshots;
use e2e::wait;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use kube::api::{DynamicObject, WatchEvent, WatchParams};
use sha2::{Digest as _, Sha256};

use crate::invariants::{Left, as_found, invariants};
use crate::look::{annotation, bucket_becomes, bucket_passes, errors, expected, falls_ill, is_well, shown, states, value};

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

type UserMetadata<'a> = &'a [(&'a str, &'a str)];

/// A sidecar with a manifest and one key of extra metadata.
fn sidecar(sha256: &str, size: usize) -> String {
    let key = |key: &str| format!("etcd-snapshot-operator.dev/{key}");
    serde_json::json!({ key("file-sha256"): sha256, key("file-size"): size.to_string(), "extra": "yes" }).to_string()
}

fn record<'a>(records: &'a [DynamicObject], name: &str) -> Result<&'a DynamicObject> {
    records.iter().find(|record| record.data["spec"]["snapshotName"] == name).with_context(|| format!("no record of {name}"))
}

#[tokio::test]
async fn every_object_has_the_record_that_it_deserves() -> Result<()> {
    let site = Site::new().await?;
    let s3 = site.s3.proxied()?;
    let cluster = site.kubernetes.cluster_id().await?;
    let ours = [("k3s-cluster-id", cluster.as_str()), ("k3s-node-name", site.node.as_str())];
    let bytes = snapshots::tiny(1);
    let (right, wrong) = (sha256(&bytes), sha256(b"other bytes"));
    let with_digest = [&ours[..], &[("etcd-snapshot-sha256", right.as_str())]].concat();
    let rke2 = [("rke2-cluster-id", cluster.as_str()), ("rke2-node-name", "a-node-of-rke2"), ("rke2-token-hash", "abcdef")];
    let name = |what: &str| format!("{what}-{}-1700000000", site.node);
    let damaged = |why: &str| format!("not ready, damaged: {why}");
    let other_bytes = "its manifest tells of other bytes: etcd-snapshot-sha256 in its user metadata is another";
    let objects: Vec<(String, UserMetadata<'_>, Option<String>, String)> = vec![
        (name("plain"), &ours, None, "plausible".into()),
        (name("Odd name_ü"), &ours, None, "plausible".into()),
        (name("whole"), &with_digest, Some(sidecar(&right, bytes.len())), "whole".into()),
        (name("digest-alone"), &with_digest, None, "plausible".into()),
        (name("other-bytes"), &with_digest, Some(sidecar(&wrong, bytes.len())), damaged(other_bytes)),
        (name("other-size"), &ours, Some(sidecar(&right, 4)), damaged("it has 544 bytes, and its manifest tells of 4")),
        (name("of-rke2"), &rke2, None, "plausible".into()),
        (name("silent"), &[], None, "plausible".into()),
    ];
    for (name, metadata, sidecar, _) in &objects {
        if let Some(sidecar) = sidecar {
            site.bucket.put(&site.key(&format!(".metadata/{name}")), sidecar.as_bytes()).await?;
        }
        site.bucket.put_with(&site.key(name), bytes.clone(), metadata).await?;
    }
    site.bucket.put_with(&site.key(&name("silent-and-odd")), vec![7; 545], &[]).await?;
    let odd = damaged("545 bytes cannot be a snapshot: a database is whole pages of 512 bytes, followed by 32 bytes of SHA-256");
    // None of these has a record: another cluster's, empty, below or beside the folder, a sidecar alone, a temporary.
    let theirs = [("k3s-cluster-id", "another-cluster"), ("k3s-node-name", "n")];
    site.bucket.put_with(&site.key(&name("theirs")), bytes.clone(), &theirs).await?;
    site.put_ours(&name("empty"), "").await?;
    for key in ["folder/", "folder/sub/x-n-1", "folderx/x-n-1", "x-n-1", "folder/.metadata/x-n-1", "folder/x-n-1.part"] {
        site.bucket.put_with(key, if key.ends_with('/') { &[][..] } else { &bytes }, &ours).await?;
    }

    let mut wanted = expected(objects.iter().map(|(name, _, _, short)| (name, short)));
    wanted.insert(name("silent-and-odd"), odd);
    let setup = site.operator_with_bucket().flag("--etcd-s3-endpoint", s3.endpoint());
    let mut operator = setup.start().await?;
    bucket_becomes(&mut operator, &site, &wanted).await?;
    is_well(&mut operator).await?;
    let kinds = ["good", "plausible", "damaged", "another-cluster", "unknown", "unverified"];
    let mut counts = BTreeMap::new();
    for kind in kinds {
        counts.insert(kind, value(&operator, "files", &[("storage", "s3"), ("kind", kind)]).await?);
    }
    let rights = BTreeMap::from([("good", 1), ("plausible", 4), ("damaged", 3), ("another-cluster", 1), ("unknown", 1), ("unverified", 0)]);
    ensure!(counts == rights, "{counts:?}");

    let records = site.bucket_records().await?;
    for (name, node, owner) in
        [(name("plain"), site.node.as_str(), "ours"), (name("of-rke2"), "a-node-of-rke2", "ours"), (name("silent"), "s3", "unknown")]
    {
        let record = record(&records, &name)?;
        let is = (record.data["spec"]["nodeName"].as_str(), annotation(record, "owner"));
        ensure!(is == (Some(node), Some(owner)), "{name}: {is:?}");
        let labels = record.metadata.labels.clone().unwrap_or_default();
        ensure!(labels.get("etcd.k3s.cattle.io/snapshot-storage-node").is_some_and(|label| label == "s3"), "{labels:?}");
        ensure!(record.data["spec"]["location"] == format!("s3://{}/folder/{name}", site.bucket.name));
    }
    ensure!(record(&records, &name("whole"))?.data["spec"]["metadata"] == serde_json::json!({ "extra": "yes" }));

    // The bucket is emptied: every record goes, and each only after its object was asked for.
    s3.forget();
    // Sidecars last: an object that lost its own is another version, and asked for once more.
    let (sidecars, objects): (Vec<_>, Vec<_>) = site.bucket.keys().await?.into_iter().partition(|key| key.contains("/.metadata/"));
    for key in objects.iter().chain(&sidecars) {
        site.bucket.delete(key).await?;
    }
    bucket_becomes(&mut operator, &site, &BTreeMap::new()).await?;
    bucket_passes(&mut operator, 2).await?;
    let asked = s3.count(&On::method("HEAD").path(&format!("/{}/folder/*", site.bucket.name)));
    ensure!(asked == wanted.len(), "{asked} HEAD for {} records", wanted.len());
    ensure!(errors(&operator, "s3").await? == 0, "an empty bucket is no failure");
    invariants(operator, &setup, &site, &Left::default()).await
}

#[tokio::test]
async fn a_key_of_three_hundred_characters_has_a_record() -> Result<()> {
    let site = Site::new().await?;
    let folder = "f".repeat(44);
    let name = format!("{:x<1$}-1700000000", format!("etcd-snapshot-{}-", site.node), 244);
    let key = format!("{folder}/{name}");
    ensure!(key.len() == 300);
    site.bucket.put(&format!("{folder}/.metadata/{name}"), r#"{"a":"b"}"#).await?;
    site.bucket.put(&key, snapshots::tiny(1)).await?;
    let setup = site.operator_with_bucket().flag("--etcd-s3-folder", &folder);
    let mut operator = setup.start().await?;
    bucket_becomes(&mut operator, &site, &expected([(&name, "plausible")])).await?;
    is_well(&mut operator).await?;
    let before = states(&site.bucket_records().await?);
    bucket_passes(&mut operator, 2).await?;
    ensure!(states(&site.bucket_records().await?) == before, "it is written again and again");
    ensure!(site.bucket_records().await?[0].data["spec"]["location"] == format!("s3://{}/{key}", site.bucket.name));
    site.bucket.delete(&key).await?;
    bucket_becomes(&mut operator, &site, &BTreeMap::new()).await?;
    site.bucket.delete(&format!("{folder}/.metadata/{name}")).await?;
    invariants(operator, &setup, &site, &Left::default()).await
}

/// The first record of the site's bucket that a watch tells of.
async fn first_of(told: &mut BoxStream<'_, kube::Result<WatchEvent<DynamicObject>>>, site: &Site) -> Result<DynamicObject> {
    loop {
        match told.next().await.context("the watch ended")?? {
            WatchEvent::Added(record) if record.data["spec"]["s3"]["bucket"] == site.bucket.name.as_str() => return Ok(record),
            _ => {}
        }
    }
}

#[tokio::test]
async fn an_object_that_changes_has_the_record_of_what_it_is_now() -> Result<()> {
    let site = Site::new().await?;
    let s3 = site.s3.proxied()?;
    let (name, bytes) = (site.name(1_700_000_000), snapshots::tiny(1));
    let key = site.key(&name);
    // Replaced between its listing and its HEAD.
    site.put_ours(&name, bytes.clone()).await?;
    let held = s3.when(On::method("HEAD").path(&format!("*/{name}")), Fault::Hold);
    let mut told = site.kubernetes.records().watch(&WatchParams::default(), "0").await?.boxed();
    let setup = site.operator_with_bucket().flag("--etcd-s3-endpoint", s3.endpoint());
    let mut operator = setup.start().await?;
    operator
        .until("the HEAD", async |_| {
            ensure!(held.hits() > 0);
            Ok(())
        })
        .await?;
    let larger = snapshots::sized(2, 1024);
    site.put_ours(&name, larger.clone()).await?;
    held.release();
    held.remove();
    let size_becomes = async |operator: &mut e2e::operator::Operator, size: usize| {
        operator
            .until("the record of what is there now", async |_| {
                let records = site.bucket_records().await?;
                let is = record(&records, &name)?;
                let version = annotation(is, "version").unwrap_or_default();
                let said = &is.data["status"]["size"];
                ensure!(said.as_str() == Some(&format!("{size}")) && version.contains(&format!(".{size}.")), "{said} {version}");
                ensure!(shown(&records)? == expected([(&name, "plausible")]));
                Ok(())
            })
            .await
    };
    size_becomes(&mut operator, larger.len()).await?;
    // What was listed and then asked for was never told as one.
    let first = tokio::time::timeout(wait::PATIENCE, first_of(&mut told, &site)).await.context("nobody told of the record")??;
    let said = &first.data["status"]["size"];
    ensure!(said.as_str() == Some(&format!("{}", larger.len())), "the record of what was replaced, of {said} bytes");

    // Replaced between its HEAD and the GET of its sidecar, which is replaced as well.
    let held = s3.when(On::get().path(&format!("*/.metadata/{name}")), Fault::Hold);
    site.bucket.put(&site.key(&format!(".metadata/{name}")), r#"{"is":"first"}"#).await?;
    operator
        .until("the GET", async |_| {
            ensure!(held.hits() > 0);
            Ok(())
        })
        .await?;
    site.bucket.put(&site.key(&format!(".metadata/{name}")), r#"{"is":"the second"}"#).await?;
    site.put_ours(&name, bytes.clone()).await?;
    held.release();
    held.remove();
    size_becomes(&mut operator, bytes.len()).await?;
    operator
        .until("the metadata of the second sidecar", async |_| {
            let records = site.bucket_records().await?;
            let metadata = &record(&records, &name)?.data["spec"]["metadata"];
            ensure!(*metadata == serde_json::json!({ "is": "the second" }), "{metadata}");
            Ok(())
        })
        .await?;
    ensure!(errors(&operator, "s3").await? == 0, "what changes meanwhile is no failure");

    // The same bytes, of another node: one record, under its other name. A LastModified has whole seconds.
    let before = states(&site.bucket_records().await?);
    let modified = async || -> Result<i64> {
        let answer = site.bucket.client.head_object().bucket(&site.bucket.name).key(&key).send().await?;
        Ok(answer.last_modified().context("no LastModified")?.secs())
    };
    let first = modified().await?;
    let cluster = site.kubernetes.cluster_id().await?;
    wait::until("a later second", async || {
        site.bucket.put_with(&key, bytes.clone(), &[("k3s-cluster-id", cluster.as_str()), ("k3s-node-name", "another-node")]).await?;
        ensure!(modified().await? > first);
        Ok(())
    })
    .await?;
    operator
        .until("the record of the other node", async |_| {
            let records = site.bucket_records().await?;
            ensure!(records.len() == 1 && records[0].data["spec"]["nodeName"] == "another-node", "{records:?}");
            ensure!(records[0].metadata.name.as_ref() != Some(&before[0].0));
            Ok(())
        })
        .await?;
    // And of another cluster: none.
    let first = modified().await?;
    wait::until("a later second", async || {
        site.bucket.put_with(&key, bytes.clone(), &[("k3s-cluster-id", "another")]).await?;
        ensure!(modified().await? > first);
        Ok(())
    })
    .await?;
    bucket_becomes(&mut operator, &site, &BTreeMap::new()).await?;
    is_well(&mut operator).await?;
    ensure!(errors(&operator, "s3").await? == 0);
    let foreign = as_found(&site.bucket, site.bucket.keys().await?).await?;
    invariants(operator, &setup, &site, &Left::default().foreign(foreign)).await
}

const MANY: u16 = 2_500;

#[tokio::test]
async fn a_bucket_of_many_pages_is_seen_as_a_whole_or_not_at_all() -> Result<()> {
    // Its own: so many records are other tests' business as well, whoever lists them.
    let api = ApiServer::start().await?;
    api.kubernetes().await?.apply_crd().await?;
    let site = Site::on(&api, &Shared::get()?.s3).await?;
    let s3 = site.s3.proxied()?;
    let name = |number: u16| site.name(1_700_000_000 + i64::from(number));
    let cluster = site.kubernetes.cluster_id().await?;
    let ours = [("k3s-cluster-id", cluster.as_str()), ("k3s-node-name", site.node.as_str())];
    let body = snapshots::tiny(1);
    site.bucket.put_many((0..MANY).map(|number| (site.key(&name(number)), body.clone())), &ours).await?;
    let setup = site.operator_with_bucket().flag("--etcd-s3-endpoint", s3.endpoint());
    let mut operator = setup.start().await?;
    let written = async |operator: &mut e2e::operator::Operator, action: &str, count: u64| {
        let labels = [("action", action), ("outcome", "done")];
        operator
            .until(&format!("{count} {action}"), async |operator| {
                let done = value(operator, "actions_total", &labels).await?;
                ensure!(done == count, "{done} of {count}");
                Ok(())
            })
            .await
    };
    written(&mut operator, "write", u64::from(MANY)).await?;
    ensure!(site.bucket_records().await?.len() == usize::from(MANY));
    is_well(&mut operator).await?;

    // The second page fails, and objects of the first and the last one are gone.
    let rule = s3.when(On::list_objects().query("continuation-token"), Fault::status(500));
    for number in [3, MANY - 3] {
        site.bucket.delete(&site.key(&name(number))).await?;
    }
    falls_ill(&mut operator, "bucket", "failed in the server (500)").await?;
    bucket_passes(&mut operator, 2).await?;
    ensure!(site.bucket_records().await?.len() == usize::from(MANY), "half a listing removed a record");
    ensure!(errors(&operator, "s3").await? > 0);
    ensure!(value(&operator, "files", &[("storage", "s3"), ("kind", "plausible")]).await? == u64::from(MANY), "half a listing was counted");
    rule.remove();
    written(&mut operator, "forget", 2).await?;
    is_well(&mut operator).await?;
    let left = site.bucket_records().await?;
    ensure!(left.len() == usize::from(MANY) - 2 && record(&left, &name(3)).is_err() && record(&left, &name(MANY - 3)).is_err());
    ensure!(value(&operator, "vetoes_total", &[]).await? == 0, "nothing had to be stopped at the last moment");
    let left: Vec<String> = (0..MANY).filter(|number| ![3, MANY - 3].contains(number)).map(name).collect();
    invariants(operator, &setup, &site, &Left::new(&[], &left)).await
}
