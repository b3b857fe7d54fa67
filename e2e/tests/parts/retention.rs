//! What goes from directory and bucket, what stays, and what no doubt, no clock and no failure makes go.

// The values compared are counts and gauges of whole things.
#![allow(clippy::float_cmp)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use e2e::operator::Operator;
use e2e::proxy::{Fault, FaultProxy, On};
use e2e::s3::Bucket;
use e2e::site::Site;
use e2e::{snapshots, wait};
use serde_json::json;

use crate::common::{all_ready, complaints, counted, rises};
use crate::invariants::{Left, as_found, hears, invariants, sha256, told};
use crate::look::{bucket_becomes, expected, falls_ill, is_well, local_becomes, value, warnings};
use crate::uploads::{Uploading, backlog, uploads};

pub const HOUR: u64 = 3600;

/// Seconds of the Unix clock, this many hours ago.
pub fn hours_ago(hours: u64) -> Result<i64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    Ok(i64::try_from(now - hours * HOUR)?)
}

/// Puts a good snapshot into the directory that was saved and last changed so many hours ago.
pub fn place_old(site: &Site, hours: u64) -> Result<String> {
    let name = site.name(hours_ago(hours)?);
    snapshots::age(&site.place(&name, &snapshots::tiny(hours))?, hours * HOUR)?;
    Ok(name)
}

/// Many of them, oldest first, an hour apart; the newest is a day old.
fn place_many(site: &Site, many: u64) -> Result<Vec<String>> {
    (0..many).map(|number| place_old(site, 24 + many - number)).collect()
}

/// Puts a good object of ours into the bucket, with its sidecar: what another agent of ours would have put there. The next one
/// is of a later second, since a LastModified has whole seconds.
pub async fn put_good(site: &Site, bucket: &Bucket, node: &str, name: &str, bytes: &[u8]) -> Result<()> {
    let (cluster, digest) = (site.kubernetes.cluster_id().await?, sha256(bytes));
    let ours = [("k3s-cluster-id", cluster.as_str()), ("k3s-node-name", node)];
    let key = |key: &str| format!("etcd-snapshot-operator.dev/{key}");
    let manifest = json!({
        key("file-sha256"): digest, key("file-size"): bytes.len().to_string(), key("cluster-id"): cluster, key("node"): node,
    });
    bucket.put_with(&site.key(&format!(".metadata/{name}")), manifest.to_string(), &ours).await?;
    bucket.put_with(&site.key(name), bytes, &[&ours[..], &[("etcd-snapshot-sha256", &digest)]].concat()).await?;
    let begun = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    wait::until("a later second", async || {
        ensure!(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() > begun);
        Ok(())
    })
    .await
}

/// Several of this node, oldest first, an hour apart; the newest is a day old.
async fn put_many(site: &Site, many: u64) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for number in 0..many {
        let name = site.name(hours_ago(24 + many - number)?);
        put_good(site, &site.bucket, &site.node, &name, &snapshots::tiny(number)).await?;
        names.push(name);
    }
    Ok(names)
}

impl Uploading {
    async fn aged() -> Result<Self> {
        let up = Self::new().await?;
        up.age();
        Ok(up)
    }

    /// Every object looks an hour older than it is, so that none was put there just now.
    pub fn age(&self) {
        let older = Fault::Older(Duration::from_hours(1));
        for method in ["GET", "HEAD"] {
            self.s3.when(On::method(method), older.clone());
        }
    }
}

pub async fn removed(operator: &Operator, storage: &str, reason: &str) -> Result<u64> {
    value(operator, "removed_total", &[("storage", storage), ("reason", reason)]).await
}

pub fn whole(names: &[String]) -> std::collections::BTreeMap<String, String> {
    expected(names.iter().map(|name| (name, "whole")))
}

#[tokio::test]
async fn directory_and_bucket_keep_each_its_own_number_and_the_records_follow() -> Result<()> {
    let up = Uploading::aged().await?;
    let site = &up.site;
    let files = place_many(site, 6)?;
    let sidecars = site.snapshots().join("../.metadata");
    std::fs::create_dir_all(&sidecars)?;
    std::fs::write(sidecars.join(&files[0]), r#"{"note":"goes with it"}"#)?;
    let objects = put_many(site, 5).await?;
    // Of a second node that has no agent and no Node object any more: counted, and not the last of a living node.
    let other = format!("other-{}", site.node);
    let theirs = snapshots::name(&other, hours_ago(100)?);
    put_good(site, &site.bucket, &other, &theirs, &snapshots::tiny(7)).await?;

    let setup = up.setup.clone().flag("--etcd-snapshot-retention", "4").flag("--etcd-s3-retention", "3");
    let mut operator = setup.start().await?;
    local_becomes(&mut operator, site, &whole(&files[2..])).await?;
    // Those of the directory are newer by an hour and less than an hour: names of one node, in the order of their times.
    let mut newest: Vec<String> = files[3..].iter().chain(&objects).cloned().collect();
    newest.sort();
    let left = site.bucket.keys().await?;
    operator.beats(3).await?;
    ensure!(left.len() >= 6, "{left:?}");
    is_well(&mut operator).await?;
    ensure!(removed(&operator, "local", "beyond-retention").await? == 2);
    ensure!(!sidecars.join(&files[0]).exists(), "the sidecar of what went stayed");
    let of_files: Vec<_> = told(site)
        .await?
        .into_iter()
        .filter(|(reason, _, note)| reason == "ETCDSnapshotDeleted" && note.contains("beyond-retention"))
        .collect();
    ensure!(
        of_files.iter().filter(|(_, _, note)| files[..2].iter().any(|name| note.contains(name.as_str()))).count() == 2,
        "{of_files:#?}"
    );
    ensure!(counted(&operator, "etcd_snapshot_vanished_total", &[]).await? == 0.0, "what retention removed has not vanished");
    // A new one: the oldest goes for it, here and there, and what went does not come back.
    let new = place_old(site, 1)?;
    let kept: Vec<String> = files[3..].iter().chain([&new]).cloned().collect();
    local_becomes(&mut operator, site, &whole(&kept)).await?;
    operator
        .until("the new one to be in the bucket", async |_| {
            ensure!(site.bucket.keys().await?.contains(&site.key(&new)));
            Ok(())
        })
        .await?;
    backlog(&mut operator, 0.0, 0.0).await?;
    operator.beats(3).await?;
    let there: Vec<String> = site
        .bucket
        .keys()
        .await?
        .iter()
        .filter(|key| !key.contains("/.metadata/"))
        .filter_map(|key| key.strip_prefix("folder/"))
        .map(str::to_owned)
        .collect();
    // The newest three by name, and the newest three by change.
    ensure!((3..=6).contains(&there.len()) && there.contains(&new), "{there:?}");
    let mut by_name: Vec<&String> = newest.iter().chain([&new]).collect();
    by_name.sort();
    ensure!(by_name[by_name.len() - 3..].iter().all(|name| there.contains(name)), "{there:?} without one of {by_name:?}");
    ensure!(removed(&operator, "s3", "beyond-retention").await? > 0);
    for key in site.bucket.keys().await? {
        let of = key.strip_prefix("folder/.metadata/").map(str::to_owned);
        ensure!(of.is_none_or(|name| there.contains(&name)), "{key} is the sidecar of nothing");
    }
    invariants(operator, &setup, site, &Left::new(&kept, &there)).await
}

#[tokio::test]
async fn the_bucket_keeps_the_newest_and_touches_nothing_foreign() -> Result<()> {
    keeps_the_newest_and_touches_nothing_foreign(Uploading::new().await?).await
}

pub async fn keeps_the_newest_and_touches_nothing_foreign(up: Uploading) -> Result<()> {
    up.age();
    let site = &up.site;
    let objects = put_many(site, 5).await?;
    let cluster = site.kubernetes.cluster_id().await?;
    let old = |what: &str| Ok::<_, anyhow::Error>(site.name(hours_ago(1000)?).replace("etcd-snapshot", what));
    // As old as anything, and none of retention's business.
    let theirs = [("k3s-cluster-id", "another-cluster"), ("k3s-node-name", site.node.as_str())];
    let ours = [("k3s-cluster-id", cluster.as_str()), ("k3s-node-name", site.node.as_str())];
    let (another, silent, on_demand) = (site.name(hours_ago(2000)?), site.name(hours_ago(2001)?), old("on-demand")?);
    site.bucket.put_with(&site.key(&another), snapshots::tiny(50), &theirs).await?;
    site.bucket.put_with(&site.key(&format!(".metadata/{another}")), "{}", &theirs).await?;
    site.bucket.put(&site.key(&silent), snapshots::tiny(51)).await?;
    site.bucket.put_with(&site.key(&on_demand), snapshots::tiny(52), &ours).await?;
    let mut foreign = vec![site.key(&another), site.key(&format!(".metadata/{another}")), site.key(&silent), site.key(&on_demand)];
    for key in ["elsewhere/etcd-snapshot-x-1", "etcd-snapshot-x-1", "folder/sub/etcd-snapshot-x-1", "folder/notes.txt"] {
        site.bucket.put_with(key, snapshots::tiny(53), &ours).await?;
        foreign.push(key.to_owned());
    }
    let foreign = as_found(&site.bucket, foreign).await?;
    let setup = up.setup.clone().flag("--etcd-s3-retention", "2");
    let mut operator = setup.start().await?;
    operator
        .until("the oldest to go", async |operator| {
            ensure!(removed(operator, "s3", "beyond-retention").await? == 3);
            Ok(())
        })
        .await?;
    operator.beats(3).await?;
    ensure!(removed(&operator, "s3", "beyond-retention").await? == 3);
    let notes = hears(&mut operator, site, "ETCDSnapshotDeleted", 3).await?;
    ensure!(objects[..3].iter().all(|name| notes.iter().any(|note| note.contains(name.as_str()))), "{notes:?}");
    ensure!(counted(&operator, "etcd_snapshot_vanished_total", &[]).await? == 0.0);
    ensure!(up.s3.count(&On::method("DELETE")) == 6, "three objects and three sidecars");
    invariants(operator, &setup, site, &Left::new(&[], &objects[3..]).foreign(foreign)).await
}

#[tokio::test]
async fn a_first_install_beside_sixty_old_files_removes_none_and_uploads_the_newest() -> Result<()> {
    let up = Uploading::new().await?;
    let site = &up.site;
    let files = place_many(site, 60)?;
    // K3s's own default.
    let setup = up.setup.clone().without("--etcd-snapshot-retention");
    let mut operator = setup.start().await?;
    bucket_becomes(&mut operator, site, &whole(&files[55..])).await?;
    braked(&mut operator, site, 55, 60).await?;
    local_becomes(&mut operator, site, &whole(&files)).await?;
    ensure!(uploads(&operator, "done").await? == 5 && removed(&operator, "local", "beyond-retention").await? == 0);
    // Who takes the cause away is not waited for any longer.
    operator.terminate().await?;
    let setup = setup.flag("--etcd-snapshot-retention", "58").flag("--etcd-s3-retention", "5");
    let mut operator = setup.start().await?;
    local_becomes(&mut operator, site, &whole(&files[2..])).await?;
    is_well(&mut operator).await?;
    ensure!(removed(&operator, "local", "beyond-retention").await? == 2);
    invariants(operator, &setup, site, &Left::new(&files[2..], &files[55..])).await
}

/// The brake holds: said once in log, Event and probe, counted as a veto.
async fn braked(operator: &mut Operator, site: &Site, many: usize, good: usize) -> Result<()> {
    // While files are being verified it says "up to".
    let words = format!("{many} snapshots at once from the directory of node");
    falls_ill(operator, "retention", &words).await?;
    let notes = hears(operator, site, "ETCDSnapshotDeletionBraked", 1).await?;
    ensure!(notes[0].contains(&words) && notes[0].starts_with("retention would remove "), "{notes:?}");
    operator
        .until("all of them to be verified", async |operator| {
            let verified = value(operator, "files", &[("storage", "local"), ("kind", "good")]).await?;
            ensure!(verified == u64::try_from(good)?, "{verified}");
            Ok(())
        })
        .await?;
    ensure!(notes[0].contains("etcd-snapshot-operator prune"), "{notes:?}");
    operator.beats(2).await?;
    ensure!(warnings(operator, &words) == 1 && hears(operator, site, "ETCDSnapshotDeletionBraked", 1).await?.len() == 1);
    ensure!(counted(operator, "etcd_snapshot_vetoes_total", &[("kind", "brake")]).await? >= f64::from(u32::try_from(many)?));
    Ok(())
}

#[tokio::test]
async fn retention_that_is_lowered_from_fifty_to_five_waits_for_a_person() -> Result<()> {
    let site = Site::new().await?;
    let files = place_many(&site, 50)?;
    let fifty = site.operator().flag("--etcd-snapshot-retention", "50");
    let mut operator = fifty.start().await?;
    local_becomes(&mut operator, &site, &whole(&files)).await?;
    is_well(&mut operator).await?;
    operator.terminate().await?;
    let mut operator = site.operator().flag("--etcd-snapshot-retention", "5").start().await?;
    braked(&mut operator, &site, 45, 50).await?;
    operator.terminate().await?;
    let mut operator = fifty.start().await?;
    is_well(&mut operator).await?;
    ensure!(counted(&operator, "etcd_snapshot_vetoes_total", &[("kind", "brake")]).await? == 0.0);
    invariants(operator, &fifty, &site, &Left::new(&files, &[])).await
}

#[tokio::test]
async fn one_failing_delete_costs_only_itself_and_refused_ones_cost_nothing() -> Result<()> {
    let up = Uploading::aged().await?;
    let site = &up.site;
    let objects = put_many(site, 6).await?;
    let setup = up.setup.clone().flag("--etcd-s3-retention", "4");
    // None may be deleted: nothing is lost, and it is said.
    let all = up.s3.when(On::method("DELETE").path("/*/folder/*"), Fault::s3(403, "AccessDenied"));
    let mut operator = setup.start().await?;
    let words = "was refused (403 AccessDenied): the credentials need s3:DeleteObject on the objects of the folder";
    falls_ill(&mut operator, "retention in the bucket", words).await?;
    let notes = hears(&mut operator, site, "ETCDSnapshotRetentionFailedS3", 1).await?;
    ensure!(notes[0].contains(words), "{notes:?}");
    bucket_becomes(&mut operator, site, &whole(&objects)).await?;
    ensure!(removed(&operator, "s3", "beyond-retention").await? == 0);
    ensure!(value(&operator, "actions_total", &[("action", "prune"), ("outcome", "failed")]).await? >= 2);
    // What goes up goes up all the same.
    let new = place_old(site, 2)?;
    operator
        .until("a new one to go up", async |_| {
            ensure!(site.bucket.keys().await?.contains(&site.key(&new)));
            Ok(())
        })
        .await?;
    // Now one alone is held fast.
    let one = up.s3.when(On::method("DELETE").path(&format!("/*/{}", objects[1])), Fault::s3(403, "AccessDenied"));
    all.remove();
    let left: Vec<String> = [&objects[1]].into_iter().chain(&objects[3..]).chain([&new]).cloned().collect();
    bucket_becomes(&mut operator, site, &whole(&left)).await?;
    falls_ill(&mut operator, "retention in the bucket", words).await?;
    ensure!(one.hits() > 0 && removed(&operator, "s3", "beyond-retention").await? == 2);
    one.remove();
    let left: Vec<String> = objects[3..].iter().chain([&new]).cloned().collect();
    bucket_becomes(&mut operator, site, &whole(&left)).await?;
    is_well(&mut operator).await?;
    ensure!(removed(&operator, "s3", "beyond-retention").await? == 3);
    invariants(operator, &setup, site, &Left::new(&[new], &left)).await
}

#[tokio::test]
async fn a_name_in_the_future_is_kept_and_takes_no_place() -> Result<()> {
    let site = Site::new().await?;
    let mut files = place_many(&site, 4)?;
    // A clock that was in 2031 for a moment.
    let future = site.name(1_930_000_000);
    snapshots::age(&site.place(&future, &snapshots::tiny(31))?, 30 * HOUR)?;
    let setup = site.operator().flag("--etcd-snapshot-retention", "2");
    let mut operator = setup.start().await?;
    let removed_by_now = files.drain(..2).collect::<Vec<_>>();
    files.push(future);
    local_becomes(&mut operator, &site, &whole(&files)).await?;
    operator.beats(2).await?;
    ensure!(removed(&operator, "local", "beyond-retention").await? == 2);
    ensure!(removed_by_now.iter().all(|name| !site.snapshots().join(name).exists()));
    // The clock is right again, and what is saved now is the newest.
    let new = place_old(&site, 1)?;
    let left: Vec<String> = [&files[1], &files[2], &new].into_iter().cloned().collect();
    local_becomes(&mut operator, &site, &whole(&left)).await?;
    invariants(operator, &setup, &site, &Left::new(&left, &[])).await
}

#[tokio::test]
async fn until_the_member_has_answered_once_nothing_goes() -> Result<()> {
    let up = Uploading::new().await?;
    let site = &up.site;
    let files = place_many(site, 5)?;
    let etcd = FaultProxy::tcp(site.api.etcd().trim_start_matches("http://").parse()?)?;
    etcd.cut();
    let setup = up.setup.clone().flag("--etcd-endpoint", format!("http://{}", etcd.endpoint())).flag("--etcd-snapshot-retention", "3");
    let mut operator = setup.start().await?;
    falls_ill(&mut operator, "etcd member", &etcd.endpoint()).await?;
    ensure!(operator.get("/readyz").await?.body.contains("until it has answered once, no snapshot is removed"));
    // Nothing else waits for it.
    bucket_becomes(&mut operator, site, &whole(&files[2..])).await?;
    local_becomes(&mut operator, site, &whole(&files)).await?;
    ensure!(operator.metrics().await?.get("etcd_snapshot_member_answers", &[])? == 0.0);
    operator.beats(2).await?;
    ensure!(removed(&operator, "local", "beyond-retention").await? == 0);
    etcd.restore();
    local_becomes(&mut operator, site, &whole(&files[2..])).await?;
    is_well(&mut operator).await?;
    ensure!(operator.metrics().await?.get("etcd_snapshot_member_answers", &[])? == 1.0);
    // Having answered once, it may go away: what it said holds.
    etcd.cut();
    let new = place_old(site, 1)?;
    let left: Vec<String> = files[3..].iter().chain([&new]).cloned().collect();
    local_becomes(&mut operator, site, &whole(&left)).await?;
    etcd.restore();
    let in_bucket: Vec<String> = files[2..].iter().chain([&new]).cloned().collect();
    all_ready(&mut operator, site, &left, &in_bucket).await?;
    ensure!(complaints(&operator, "panicked").is_empty());
    invariants(operator, &setup, site, &Left::new(&left, &in_bucket)).await.context("an object of just now stays for a moment")
}

#[tokio::test]
async fn of_three_damaged_ones_the_oldest_goes_and_no_good_one_for_them() -> Result<()> {
    let site = Site::new().await?;
    let files = place_many(&site, 2)?;
    let mut damaged = Vec::new();
    for hours in [12, 11, 10] {
        let name = site.name(hours_ago(hours)?);
        snapshots::age(&site.place(&name, &snapshots::bit_flipped(&snapshots::tiny(hours)))?, hours * HOUR)?;
        damaged.push(name);
    }
    let setup = site.operator().flag("--etcd-snapshot-retention", "2");
    let mut operator = setup.start().await?;
    let why = "not ready, damaged: its bytes do not match its SHA-256 trailer";
    let left = expected(files.iter().map(|name| (name, "whole")).chain(damaged[1..].iter().map(|name| (name, why))));
    local_becomes(&mut operator, &site, &left).await?;
    operator.beats(2).await?;
    ensure!(removed(&operator, "local", "damaged").await? == 1 && removed(&operator, "local", "beyond-retention").await? == 0);
    rises(&mut operator, "etcd_snapshot_removed_total", &[("storage", "local"), ("reason", "damaged")], 0.0).await?;
    let left: Vec<String> = files.iter().chain(&damaged[1..]).cloned().collect();
    invariants(operator, &setup, &site, &Left::new(&left, &[])).await
}
