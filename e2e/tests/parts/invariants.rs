//! The promises of docs/design.md, section 4, against what is really there: every test of what acts ends with [`invariants`].
//!
//! In: an operator, how it was started, and what must be left. Out: an error for each promise that is broken. The operator is
//! ended and started once more on the way, since its next start has to clean up and to find nothing to do.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use e2e::operator::{Operator, OperatorSetup};
use e2e::s3::Bucket;
use e2e::site::Site;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, DynamicObject, ListParams};
use sha2::{Digest as _, Sha256};

use crate::common::{complaints, counted, file, name, ready};
use crate::look::annotation;
use crate::schedule::Saver;

const SIDECARS: &str = "folder/.metadata/";

/// What must be left at the end, exactly.
#[derive(Debug, Default)]
pub struct Left {
    /// Snapshots of the directory.
    pub local: BTreeSet<String>,
    /// Snapshots of the bucket that are ours, whoever put them there.
    pub bucket: BTreeSet<String>,
    /// Objects that are nobody's business, as they were found.
    pub foreign: Foreign,
    /// Uploads that go on failing: the next start tries them again, and nothing comes of it.
    pub in_vain: bool,
}

impl Left {
    /// These, and nothing foreign.
    pub fn new(local: &[String], bucket: &[String]) -> Self {
        Self { local: local.iter().cloned().collect(), bucket: bucket.iter().cloned().collect(), ..Self::default() }
    }

    pub fn foreign(mut self, foreign: Foreign) -> Self {
        self.foreign = foreign;
        self
    }

    pub fn in_vain(mut self) -> Self {
        self.in_vain = true;
        self
    }
}

/// Objects by key, with what anybody would see of a change: ETag, last change, content type and user metadata.
pub type Foreign = BTreeMap<String, String>;

/// What a HEAD of each of these objects shows.
pub async fn as_found(bucket: &Bucket, keys: impl IntoIterator<Item = String>) -> Result<Foreign> {
    let mut found = Foreign::new();
    for key in keys {
        let head = bucket.client.head_object().bucket(&bucket.name).key(&key).send().await.with_context(|| format!("head {key}"))?;
        let metadata: BTreeMap<_, _> = head.metadata().into_iter().flatten().collect();
        found.insert(key, format!("{:?} {:?} {:?} {metadata:?}", head.e_tag(), head.last_modified(), head.content_type()));
    }
    Ok(found)
}

/// Every promise, and that a restart has nothing to do.
pub async fn invariants(mut operator: Operator, setup: &OperatorSetup, site: &Site, left: &Left) -> Result<()> {
    operator.until("exactly what should be left", async |_| holds(site, left).await).await?;
    operator.beats(2).await?;
    holds(site, left).await.context("two beats later")?;
    no_record_lies(site).await?;
    no_mistake(&operator).await?;
    no_secret(&operator, site).await?;
    operator.terminate().await?;

    let mut operator = setup.start().await?;
    operator.ready().await?;
    operator.beats(3).await?;
    holds(site, left).await.context("after a restart")?;
    no_record_lies(site).await?;
    no_mistake(&operator).await?;
    no_secret(&operator, site).await?;
    let removed = counted(&operator, "etcd_snapshot_removed_total", &[]).await?;
    let sent = counted(&operator, "etcd_snapshot_upload_bytes_total", &[]).await?;
    ensure!(removed < 0.5 && (left.in_vain || sent < 0.5), "a restart removed {removed} snapshots and sent {sent} bytes");
    operator.terminate().await?;
    let temporaries = temporaries(site)?;
    ensure!(temporaries.is_empty(), "temporaries are left: {temporaries:?}");
    let uploads = uploads_in_parts(&site.bucket).await?;
    ensure!(uploads.is_empty(), "uploads in parts are left: {uploads:?}");
    Ok(())
}

/// The same after work by hand: an agent that is started then finds everything as it should be, and saves nothing itself. Files that the
/// bucket lacks go up.
pub async fn invariants_by_hand(saver: &Saver, left: &Left) -> Result<()> {
    let setup = saver.idle();
    invariants(setup.start().await?, &setup, &saver.site, left).await
}

/// Nothing of ours is lost, nothing foreign was touched, and nothing else has appeared.
async fn holds(site: &Site, left: &Left) -> Result<()> {
    let local = snapshots_in(&site.snapshots())?;
    ensure!(local == left.local, "the directory holds {local:#?} and should hold {:#?}", left.local);
    let keys: BTreeSet<String> = site.bucket.keys().await?.into_iter().collect();
    let mut wanted: BTreeSet<String> = left.bucket.iter().map(|name| site.key(name)).collect();
    wanted.extend(left.foreign.keys().cloned());
    // A sidecar is there with its snapshot, or not at all.
    let is_ours = |key: &&String| key.strip_prefix(SIDECARS).is_some_and(|name| left.bucket.contains(name));
    let sidecars: BTreeSet<String> = keys.iter().filter(is_ours).cloned().collect();
    ensure!(&keys - &sidecars == wanted, "the bucket holds {keys:#?} and should hold {wanted:#?}");
    let now = as_found(&site.bucket, left.foreign.keys().cloned()).await?;
    ensure!(now == left.foreign, "what is not ours was touched: {:#?} became {now:#?}", left.foreign);
    Ok(())
}

/// The names of a directory's snapshots.
fn snapshots_in(dir: &Path) -> Result<BTreeSet<String>> {
    let names = std::fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names: BTreeSet<String> = names.collect::<Result<_>>()?;
    Ok(names.into_iter().filter(|name| !name.starts_with('.')).collect())
}

/// Promise 1: behind each record that is ready there is a whole snapshot, as large as it says.
async fn no_record_lies(site: &Site) -> Result<()> {
    for record in site.local_records().await?.iter().filter(|record| ready(record)) {
        let bytes = std::fs::read(site.snapshots().join(file(record))).with_context(|| format!("{} is ready", name(record)))?;
        is_as_told(record, &bytes, true)?;
    }
    for record in site.bucket_records().await?.iter().filter(|record| ready(record)) {
        let key = site.key(file(record));
        let bytes = site.bucket.get(&key).await.with_context(|| format!("{} is ready", name(record)))?;
        let whole = annotation(record, "verdict") == Some("whole");
        is_as_told(record, &bytes, whole)?;
        if whole {
            let head = site.bucket.client.head_object().bucket(&site.bucket.name).key(&key).send().await?;
            let told = head.metadata().and_then(|all| all.get("etcd-snapshot-sha256")).cloned();
            ensure!(told.as_ref() == Some(&sha256(&bytes)), "{key} shows the digest {told:?}");
        }
    }
    Ok(())
}

fn is_as_told(record: &DynamicObject, bytes: &[u8], whole: bool) -> Result<()> {
    let size = record.data["status"]["size"].as_str().unwrap_or_default();
    let size = size.strip_suffix('k').map_or_else(|| size.to_owned(), |thousands| format!("{thousands}000"));
    ensure!(size == bytes.len().to_string(), "{} tells of {size} bytes, and there are {}", name(record), bytes.len());
    if whole && !file(record).ends_with(".zip") {
        let (database, trailer) = bytes.split_at(bytes.len() - 32);
        ensure!(Sha256::digest(database).as_slice() == trailer, "{} is ready, and its snapshot is not whole", name(record));
    }
    Ok(())
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// No step was planned that never should be, and nothing panicked.
async fn no_mistake(operator: &Operator) -> Result<()> {
    for kind in ["incomplete", "not-ours", "not-good", "newest-good"] {
        let vetoes = counted(operator, "etcd_snapshot_vetoes_total", &[("kind", kind)]).await?;
        ensure!(vetoes < 0.5, "{vetoes} steps were vetoed as {kind}");
    }
    let panics = complaints(operator, "panicked");
    ensure!(panics.is_empty(), "{panics:#?}");
    Ok(())
}

/// Promise 8.
async fn no_secret(operator: &Operator, site: &Site) -> Result<()> {
    let events: Api<Event> = Api::namespaced(site.kubernetes.client.clone(), "default");
    let mut events = events.list(&ListParams::default()).await?.items;
    events.retain(|event| event.reporting_instance.as_deref() == Some(&site.node));
    let mut shown = vec![
        ("log", operator.log()),
        ("records", format!("{:?}{:?}", site.local_records().await?, site.bucket_records().await?)),
        ("Events", format!("{events:?}")),
    ];
    for path in ["/metrics", "/healthz", "/readyz"] {
        shown.push((path, operator.get(path).await?.body));
    }
    for secret in [site.s3.secret_key.as_str(), site.s3.access_key.as_str(), "admin-of-the-tests"] {
        for (what, text) in &shown {
            ensure!(!text.contains(secret), "a secret is in the {what}");
        }
    }
    Ok(())
}

/// What of ours has no final name.
fn temporaries(site: &Site) -> Result<Vec<PathBuf>> {
    let parent = site.snapshots().join("..");
    let mut folders = vec![parent];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            let is_ours = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".etcd-snapshot-operator-"));
            if path.is_dir() {
                folders.push(path);
            } else if is_ours {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// Key and id of each upload in parts that is neither completed nor aborted.
pub async fn uploads_in_parts(bucket: &Bucket) -> Result<Vec<(String, String)>> {
    let listed = bucket.client.list_multipart_uploads().bucket(&bucket.name).send().await.context("list the uploads in parts")?;
    let of = |upload: &aws_sdk_s3::types::MultipartUpload| {
        (upload.key().unwrap_or_default().to_owned(), upload.upload_id().unwrap_or_default().to_owned())
    };
    Ok(listed.uploads().iter().map(of).collect())
}

/// The Events that operators of this site told, as reason and what they are about, oldest first.
pub async fn told(site: &Site) -> Result<Vec<(String, String, String)>> {
    let events: Api<Event> = Api::namespaced(site.kubernetes.client.clone(), "default");
    let mut events = events.list(&ListParams::default()).await?.items;
    events.retain(|event| event.reporting_instance.as_deref() == Some(&site.node));
    events.sort_by_key(|event| event.event_time.as_ref().map(|time| time.0));
    let parts = |event: Event| {
        let about = event.regarding.and_then(|about| about.name).unwrap_or_default();
        (event.reason.unwrap_or_default(), about, event.note.unwrap_or_default())
    };
    Ok(events.into_iter().map(parts).collect())
}

/// Waits until an Event of this reason has been told, once or more often; returns the notes.
pub async fn heard(operator: &mut Operator, site: &Site, reason: &str) -> Result<Vec<String>> {
    operator
        .until(&format!("an Event {reason}"), async |_| {
            let all = told(site).await?;
            let notes: Vec<String> = all.iter().filter(|(is, ..)| is == reason).map(|(_, _, note)| note.clone()).collect();
            ensure!(!notes.is_empty(), "{all:#?}");
            Ok(notes)
        })
        .await
}

/// Waits until so many Events of this reason have been told; returns their notes.
pub async fn hears(operator: &mut Operator, site: &Site, reason: &str, times: usize) -> Result<Vec<String>> {
    operator
        .until(&format!("{times} Events {reason}"), async |_| {
            let all = told(site).await?;
            let notes: Vec<String> = all.iter().filter(|(is, ..)| is == reason).map(|(_, _, note)| note.clone()).collect();
            ensure!(notes.len() == times, "{all:#?}");
            Ok(notes)
        })
        .await
}
