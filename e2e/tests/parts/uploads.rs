//! What goes up: which files, under which keys, with what beside them, once; and what is there already.

// The values compared are counts and gauges of whole things.
#![allow(clippy::float_cmp)]

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use e2e::operator::{Operator, OperatorSetup};
use e2e::proxy::{Fault, FaultProxy, On};
use e2e::s3::Bucket;
use e2e::site::Site;
use e2e::snapshots;
use serde_json::{Value, json};

use crate::common::{all_ready, complaints, counted, local_record, rises};
use crate::invariants::{Left, as_found, hears, invariants, sha256, told, uploads_in_parts};
use crate::look::{annotation, bucket_becomes, expected, falls_ill, is_well, value};

/// More than goes up in one request: five parts and a little.
pub const LARGE: usize = 41 * 1024 * 1024;
pub const PARTS: usize = 6;

/// A site whose operator uploads through a proxy.
pub struct Uploading {
    pub site: Site,
    pub s3: FaultProxy,
    pub setup: OperatorSetup,
}

impl Uploading {
    pub async fn new() -> Result<Self> {
        Self::on(Site::new().await?)
    }

    /// From and to what this site has.
    pub fn on(site: Site) -> Result<Self> {
        let s3 = site.s3.proxied()?;
        let setup = site.operator_with_bucket().flag("--etcd-s3-endpoint", s3.endpoint()).flag("--etcd-s3-timeout", "60s");
        Ok(Self { site, s3, setup })
    }

    /// Requests of this method for exactly this snapshot's object.
    pub fn object(&self, method: &str, name: &str) -> On {
        On::method(method).path(&format!("/{}/{}", self.site.bucket.name, self.site.key(name)))
    }

    /// Requests of this method for the sidecar of this snapshot's object.
    pub fn sidecar(&self, method: &str, name: &str) -> On {
        On::method(method).path(&format!("/{}/{}", self.site.bucket.name, self.site.key(&format!(".metadata/{name}"))))
    }
}

/// How the backlog stands: how many files, and how old the oldest is.
pub async fn backlog(operator: &mut Operator, files: f64, oldest: f64) -> Result<()> {
    operator
        .until(&format!("a backlog of {files} files, the oldest of {oldest}"), async |operator| {
            let metrics = operator.metrics().await?;
            let is = (
                metrics.get("etcd_snapshot_upload_backlog_files", &[])?,
                metrics.get("etcd_snapshot_upload_backlog_oldest_timestamp_seconds", &[])?,
            );
            ensure!(is == (files, oldest), "{is:?}");
            Ok(())
        })
        .await
}

pub async fn uploads(operator: &Operator, outcome: &str) -> Result<u64> {
    value(operator, "actions_total", &[("action", "upload"), ("outcome", outcome)]).await
}

/// Content type and user metadata of an object.
async fn shown(bucket: &Bucket, key: &str) -> Result<(String, BTreeMap<String, String>)> {
    let head = bucket.client.head_object().bucket(&bucket.name).key(key).send().await.with_context(|| format!("head {key}"))?;
    let metadata = head.metadata().cloned().unwrap_or_default().into_iter().collect();
    Ok((head.content_type().unwrap_or_default().to_owned(), metadata))
}

#[tokio::test]
async fn a_file_goes_up_as_k3s_would_have_it_and_its_sidecar_tells_what_is_known() -> Result<()> {
    goes_up_as_k3s_would_have_it(Uploading::new().await?).await
}

pub async fn goes_up_as_k3s_would_have_it(up: Uploading) -> Result<()> {
    let site = &up.site;
    let (plain, zip) = (site.name(1_700_000_000), format!("{}.zip", site.name(1_700_000_001)));
    let bytes = snapshots::sized(1, 40_000);
    let packed = snapshots::zipped(&site.name(1_700_000_001), &bytes)?;
    // None of these goes up.
    let (another, damaged, foreign) = (site.name_of_another(1_700_000_002), site.name(1_700_000_003), site.name(1_700_000_004));
    let sidecars = site.snapshots().join("../.metadata");
    std::fs::create_dir_all(&sidecars)?;
    std::fs::write(sidecars.join(&plain), json!({ "note": "before the upgrade" }).to_string())?;
    std::fs::write(sidecars.join(&foreign), json!({ "etcd-snapshot-operator.dev/cluster-id": "another" }).to_string())?;
    for (name, bytes) in [(&plain, &bytes), (&zip, &packed), (&another, &bytes), (&foreign, &bytes)] {
        site.place(name, bytes)?;
    }
    site.place(&damaged, &snapshots::bit_flipped(&bytes))?;

    let mut operator = up.setup.start().await?;
    bucket_becomes(&mut operator, site, &expected([(&plain, "whole"), (&zip, "whole")])).await?;
    is_well(&mut operator).await?;
    backlog(&mut operator, 0.0, 0.0).await?;
    let cluster = site.kubernetes.cluster_id().await?;
    let mut sent = 0;
    for (name, bytes, content_type, extra) in
        [(&plain, &bytes, "application/octet-stream", Some("before the upgrade")), (&zip, &packed, "application/zip", None)]
    {
        let digest = sha256(bytes);
        let ours = BTreeMap::from([("k3s-cluster-id", cluster.as_str()), ("k3s-node-name", site.node.as_str())]);
        let mut with_digest = ours.clone();
        with_digest.insert("etcd-snapshot-sha256", &digest);
        let owned = |all: &BTreeMap<&str, &str>| all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        ensure!(shown(&site.bucket, &site.key(name)).await? == (content_type.to_owned(), owned(&with_digest)));
        ensure!(site.bucket.get(&site.key(name)).await? == *bytes, "{name} has other bytes");
        let key = site.key(&format!(".metadata/{name}"));
        ensure!(shown(&site.bucket, &key).await? == ("application/json".to_owned(), owned(&ours)));
        let sidecar = site.bucket.get(&key).await?;
        sent += bytes.len() + sidecar.len();
        let sidecar: Value = serde_json::from_slice(&sidecar)?;
        let told = |key: &str| sidecar[format!("etcd-snapshot-operator.dev/{key}")].as_str();
        ensure!(told("file-sha256") == Some(&digest) && told("file-size") == Some(&bytes.len().to_string()), "{sidecar}");
        ensure!(told("cluster-id") == Some(&cluster) && told("node") == Some(&site.node), "{sidecar}");
        ensure!(sidecar["note"].as_str() == extra, "{sidecar}");
        ensure!(sidecar.as_object().is_some_and(|all| all.values().all(Value::is_string)), "{sidecar}");
    }
    // What became of it stands in the record of the file, for the leader and for people.
    for name in [&plain, &zip] {
        let record = local_record(site, name).await?;
        let uploads: BTreeMap<String, Value> = serde_json::from_str(annotation(&record, "upload").context("no word of the upload")?)?;
        ensure!(uploads.into_values().collect::<Vec<_>>() == [json!({ "phase": "done" })]);
    }
    for name in [&another, &damaged] {
        ensure!(annotation(&local_record(site, name).await?, "upload").is_none());
    }
    let puts = up.s3.requests().into_iter().filter(|seen| seen.method == "PUT").collect::<Vec<_>>();
    ensure!(puts.len() == 4 && puts.iter().all(|put| put.header("if-none-match") == Some("*") && put.header("content-md5").is_some()));
    ensure!(uploads(&operator, "done").await? == 2 && uploads(&operator, "failed").await? == 0);
    ensure!(value(&operator, "upload_bytes_total", &[]).await? == u64::try_from(sent)?);
    ensure!(value(&operator, "s3_requests_total", &[("operation", "PutObject"), ("outcome", "success")]).await? == 4);
    ensure!(value(&operator, "save_s3_duration_seconds_count", &[("status", "success")]).await? == 2);
    let events = told(site).await?;
    ensure!(!events.iter().any(|(reason, ..)| reason.contains("Failed") || reason.contains("Conflict")), "{events:?}");
    let local = [plain.clone(), zip.clone(), another, damaged, foreign];
    invariants(operator, &up.setup, site, &Left::new(&local, &[plain, zip])).await
}

#[tokio::test]
async fn a_large_file_goes_up_in_parts_and_is_one_object() -> Result<()> {
    goes_up_in_parts(Uploading::new().await?).await
}

pub async fn goes_up_in_parts(up: Uploading) -> Result<()> {
    let site = &up.site;
    let (name, bytes) = (site.name(1_700_000_000), snapshots::sized(1, LARGE));
    site.place(&name, &bytes)?;
    let mut operator = up.setup.start().await?;
    bucket_becomes(&mut operator, site, &expected([(&name, "whole")])).await?;
    ensure!(site.bucket.get(&site.key(&name)).await? == bytes);
    let cluster = site.kubernetes.cluster_id().await?;
    let digest = sha256(&bytes);
    let metadata = [("etcd-snapshot-sha256", digest.as_str()), ("k3s-cluster-id", &cluster), ("k3s-node-name", &site.node)];
    let metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    ensure!(shown(&site.bucket, &site.key(&name)).await? == ("application/octet-stream".to_owned(), metadata));
    let (begun, completed) =
        (up.s3.count(&up.object("POST", &name).query("uploads")), up.s3.count(&up.object("POST", &name).query("uploadId")));
    let parts = up.s3.count(&up.object("PUT", &name).query("partNumber"));
    ensure!((begun, parts, completed) == (1, PARTS, 1), "{begun} begun, {parts} parts, {completed} completed");
    let md5 = |seen: &e2e::proxy::Seen| seen.header("content-md5").is_some();
    ensure!(up.s3.requests().iter().filter(|seen| seen.method == "PUT").all(md5), "a part without its MD5");
    ensure!(uploads_in_parts(&site.bucket).await?.is_empty());
    invariants(operator, &up.setup, site, &Left::new(std::slice::from_ref(&name), std::slice::from_ref(&name))).await
}

#[tokio::test]
async fn what_is_under_the_key_already_is_never_overwritten() -> Result<()> {
    overwrites_nothing(Uploading::new().await?).await
}

pub async fn overwrites_nothing(up: Uploading) -> Result<()> {
    let site = &up.site;
    let cluster = site.kubernetes.cluster_id().await?;
    let name = |number: i64| site.name(1_700_000_000 + number);
    let bytes = snapshots::tiny(1);
    let (digest, other) = (sha256(&bytes), sha256(b"other bytes"));
    let ours = [("k3s-cluster-id", cluster.as_str()), ("k3s-node-name", site.node.as_str())];
    let same = [&ours[..], &[("etcd-snapshot-sha256", digest.as_str())]].concat();
    let changed = [&ours[..], &[("etcd-snapshot-sha256", other.as_str())]].concat();
    let theirs = [("k3s-cluster-id", "another"), ("k3s-node-name", site.node.as_str())];
    // K3s's own, and the very same of an earlier life: done. A stranger's, another cluster's, other bytes: named conflicts.
    let (k3s, again, stranger, another, edited, shorter) = (name(0), name(1), name(2), name(3), name(4), name(5));
    for (name, metadata, body) in [
        (&k3s, &ours[..], bytes.clone()),
        (&again, &same, bytes.clone()),
        (&stranger, &[], bytes.clone()),
        (&another, &theirs, bytes.clone()),
        (&edited, &changed, snapshots::tiny(2)),
        (&shorter, &ours, snapshots::sized(3, 5_000)),
    ] {
        site.bucket.put_with(&site.key(name), body, metadata).await?;
        site.place(name, &bytes)?;
    }
    let objects = [&k3s, &again, &stranger, &another, &edited, &shorter].map(|name| site.key(name));
    let before = as_found(&site.bucket, objects.clone()).await?;

    // Not what the leader has seen decides, but the question before each upload.
    let unlisted = up.s3.when(On::list_objects(), Fault::status(500));
    let mut operator = up.setup.start().await?;
    let conflicts = hears(&mut operator, site, "ETCDSnapshotUploadConflict", 4).await?;
    for (name, why) in [
        (&stranger, "that shows neither a SHA-256 nor a cluster id"),
        (&another, "of cluster another, and this is cluster"),
        (&edited, "with the SHA-256"),
        (&shorter, "of 5152 bytes, and the file has 544"),
    ] {
        let of = |note: &&String| note.contains(name.as_str()) && note.contains(why) && note.contains("it is left as it is");
        ensure!(conflicts.iter().filter(of).count() == 1, "{name}: {conflicts:#?}");
        ensure!(
            complaints(&operator, &format!("{name} ")).iter().filter(|line| line.contains(why)).count() == 1,
            "one complaint about {name}"
        );
        operator
            .until("the record to tell of the conflict", async |_| {
                let record = local_record(site, name).await?;
                ensure!(annotation(&record, "upload").is_some_and(|told| told.contains("failed") && told.contains(why)), "{record:?}");
                Ok(())
            })
            .await?;
    }
    falls_ill(&mut operator, "uploads", "there is another object under this key").await?;
    backlog(&mut operator, 4.0, 1_700_000_002.0).await?;
    unlisted.remove();
    ensure!(uploads(&operator, "done").await? == 2 && uploads(&operator, "failed").await? >= 4);
    let puts = up.s3.count(&On::method("PUT").path(&format!("/{}/folder/etcd-*", site.bucket.name)));
    ensure!(puts == 0 && as_found(&site.bucket, objects.clone()).await? == before, "{puts} PUT of snapshots");
    // Of K3s's own nothing is proven by us; the very same has a sidecar now, and is whole.
    let wanted = [(&k3s, "plausible"), (&again, "whole"), (&stranger, "plausible"), (&edited, "plausible"), (&shorter, "plausible")];
    bucket_becomes(&mut operator, site, &expected(wanted)).await?;

    // Once the stranger's is out of the way, the file goes up.
    site.bucket.delete(&site.key(&stranger)).await?;
    operator
        .until("the file to go up", async |_| {
            let (_, metadata) = shown(&site.bucket, &site.key(&stranger)).await?;
            ensure!(metadata.get("etcd-snapshot-sha256") == Some(&digest));
            Ok(())
        })
        .await?;
    let of_others = as_found(&site.bucket, [site.key(&another)]).await?;
    let local = [k3s, again, stranger, another, edited, shorter];
    let bucket: Vec<String> = local.iter().filter(|name| **name != local[3]).cloned().collect();
    ensure!(hears(&mut operator, site, "ETCDSnapshotUploadConflict", 4).await?.len() == 4, "a conflict is told once");
    invariants(operator, &up.setup, site, &Left::new(&local, &bucket).foreign(of_others).in_vain()).await
}

#[tokio::test]
async fn an_object_that_is_deleted_by_hand_stays_deleted_and_is_told_as_vanished() -> Result<()> {
    let up = Uploading::new().await?;
    let site = &up.site;
    let files: Vec<String> = (0..3).map(|number| site.name(1_700_000_000 + number)).collect();
    for (number, file) in (0..).zip(&files) {
        site.place(file, &snapshots::tiny(number))?;
    }
    let mut operator = up.setup.start().await?;
    all_ready(&mut operator, site, &files, &[]).await?;
    backlog(&mut operator, 0.0, 0.0).await?;
    site.bucket.delete(&site.key(&files[1])).await?;
    let notes = hears(&mut operator, site, "ETCDSnapshotVanished", 1).await?;
    ensure!(notes[0].contains(&files[1]) && notes[0].contains("upload --missing"), "{notes:?}");
    ensure!(counted(&operator, "etcd_snapshot_vanished_total", &[]).await? == 1.0);
    operator.beats(3).await?;
    ensure!(complaints(&operator, "retention would have kept it").len() == 1);
    let there: Vec<String> = [&files[0], &files[2]].into_iter().cloned().collect();
    ensure!(!site.bucket.keys().await?.contains(&site.key(&files[1])), "it came back");
    backlog(&mut operator, 0.0, 0.0).await?;

    // The bucket is emptied: what vanished is counted and told, and nothing goes up by itself. Sidecars last: an object that
    // lost its own is another version, and not known to be good.
    let (sidecars, objects): (Vec<_>, Vec<_>) = site.bucket.keys().await?.into_iter().partition(|key| key.contains("/.metadata/"));
    for key in objects.iter().chain(&sidecars) {
        site.bucket.delete(key).await?;
    }
    hears(&mut operator, site, "ETCDSnapshotVanished", 1 + there.len()).await?;
    ensure!(counted(&operator, "etcd_snapshot_vanished_total", &[]).await? == 3.0);
    bucket_becomes(&mut operator, site, &BTreeMap::new()).await?;
    // What is new goes up all the same.
    let new = site.name(1_700_000_009);
    site.place(&new, &snapshots::tiny(9))?;
    bucket_becomes(&mut operator, site, &expected([(&new, "whole")])).await?;
    let local: Vec<String> = files.iter().chain([&new]).cloned().collect();
    invariants(operator, &up.setup, site, &Left::new(&local, &[new])).await
}

#[tokio::test]
async fn a_new_bucket_gets_what_it_would_keep_and_the_old_one_stays() -> Result<()> {
    let up = Uploading::new().await?;
    let site = &up.site;
    let files: Vec<String> = (0..6).map(|number| site.name(1_700_000_000 + number)).collect();
    for (number, file) in (0..).zip(&files) {
        let path = site.place(file, &snapshots::tiny(number))?;
        snapshots::age(&path, 86_400 - number)?;
    }
    let setup = up.setup.clone().flag("--etcd-s3-retention", "2");
    let mut operator = setup.start().await?;
    let newest = &files[4..];
    bucket_becomes(&mut operator, site, &expected(newest.iter().map(|name| (name, "whole")))).await?;
    backlog(&mut operator, 0.0, 0.0).await?;
    operator.beats(2).await?;
    ensure!(uploads(&operator, "done").await? == 2, "only what the bucket would keep goes up");
    operator.terminate().await?;
    let before = as_found(&site.bucket, site.bucket.keys().await?).await?;

    let other = site.s3.bucket(&format!("{}-other", site.bucket.name)).await?;
    let setup = setup.flag("--etcd-s3-bucket", &other.name).flag("--etcd-s3-retention", "4");
    let mut operator = setup.start().await?;
    operator
        .until("the new bucket to have four", async |_| {
            let records = crate::look::shown(&site.kubernetes.bucket_records(&other.name).await?)?;
            ensure!(records == expected(files[2..].iter().map(|name| (name, "whole"))), "{records:?}");
            Ok(())
        })
        .await?;
    operator.beats(2).await?;
    ensure!(uploads(&operator, "done").await? == 4);
    ensure!(as_found(&site.bucket, site.bucket.keys().await?).await? == before, "the old bucket was touched");
    let record = local_record(site, &files[5]).await?;
    let told: BTreeMap<String, Value> = serde_json::from_str(annotation(&record, "upload").context("no word of the upload")?)?;
    ensure!(told.len() == 2, "one word for each bucket: {told:?}");
    let mut site = up.site;
    site.bucket = other;
    invariants(operator, &setup, &site, &Left::new(&files, &files[2..])).await
}

#[tokio::test]
async fn nothing_goes_up_while_observing_and_all_of_it_later() -> Result<()> {
    let up = Uploading::new().await?;
    let site = &up.site;
    let file = site.name(1_700_000_000);
    site.place(&file, &snapshots::tiny(1))?;
    let mut operator = up.setup.clone().flag("--mode", "observe").start().await?;
    rises(&mut operator, "etcd_snapshot_actions_total", &[("action", "upload"), ("outcome", "vetoed")], 0.0).await?;
    backlog(&mut operator, 1.0, 1_700_000_000.0).await?;
    operator.beats(2).await?;
    ensure!(site.bucket.keys().await?.is_empty() && up.s3.count(&On::writes()) == 0, "{:?}", up.s3.requests());
    ensure!(counted(&operator, "etcd_snapshot_vetoes_total", &[("kind", "observing")]).await? > 0.0);
    operator.terminate().await?;
    let mut operator = up.setup.start().await?;
    bucket_becomes(&mut operator, site, &expected([(&file, "whole")])).await?;
    invariants(operator, &up.setup, site, &Left::new(std::slice::from_ref(&file), std::slice::from_ref(&file))).await
}
