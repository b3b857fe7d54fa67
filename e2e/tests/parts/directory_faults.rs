//! Bad days of the directory: missing, replaced, unmounted, unreadable, shared; and days on which nothing may be written.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Result, ensure};
use e2e::apiserver::ApiServer;
use e2e::operator::Operator;
use e2e::shared::Shared;
use e2e::site::Site;
use e2e::snapshots;
use e2e::wait;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};

use crate::look::{annotation, errors, expected, falls_ill, is_well, local_becomes, said, shown, states, value, warnings};

/// A site whose directory has two whole snapshots, and their records.
async fn with_two_snapshots() -> Result<(Site, Operator, Vec<(String, String)>)> {
    let site = Site::new().await?;
    for number in 0..2 {
        site.place(&site.name(1_700_000_000 + number), &snapshots::tiny(1))?;
    }
    let mut operator = site.operator().start().await?;
    let wanted = expected([(site.name(1_700_000_000), "whole"), (site.name(1_700_000_001), "whole")]);
    local_becomes(&mut operator, &site, &wanted).await?;
    is_well(&mut operator).await?;
    let before = states(&site.local_records().await?);
    Ok((site, operator, before))
}

/// It is ill with these words, its beats fail, and no record was touched.
async fn fails_and_keeps(operator: &mut Operator, site: &Site, words: &str, before: &[(String, String)]) -> Result<()> {
    falls_ill(operator, "directory", words).await?;
    ensure!(errors(operator, "local").await? > 0, "the beat's pass over the directory should count as an error");
    let now = states(&site.local_records().await?);
    ensure!(now == before, "records were touched: {before:?} became {now:?}");
    Ok(())
}

#[tokio::test]
async fn a_directory_that_never_was_is_made_for_its_owner_alone() -> Result<()> {
    let site = Site::new().await?;
    let dir = site.scratch().join("never/was/snapshots");
    let mut operator = site.operator().flag("--etcd-snapshot-dir", &dir).start().await?;
    operator.ready().await?;
    ensure!(fs::metadata(&dir)?.mode() & 0o7777 == 0o700, "{:o}", fs::metadata(&dir)?.mode());
    snapshots::place(&dir, &site.name(1_700_000_000), &snapshots::tiny(1))?;
    local_becomes(&mut operator, &site, &expected([(site.name(1_700_000_000), "whole")])).await?;
    is_well(&mut operator).await
}

#[tokio::test]
async fn a_directory_that_goes_away_takes_no_record_with_it() -> Result<()> {
    let (site, mut operator, before) = with_two_snapshots().await?;
    let (dir, aside) = (site.snapshots(), site.scratch().join("aside"));
    let missing = "is not there, and it was once; it is not created again";

    // While it is looked at: missing, then another one in its place, then itself again.
    fs::rename(&dir, &aside)?;
    fails_and_keeps(&mut operator, &site, missing, &before).await?;
    ensure!(!dir.exists(), "it was made anew");
    fs::create_dir(&dir)?;
    fails_and_keeps(&mut operator, &site, "was replaced by another one under us", &before).await?;
    let health = operator.get("/healthz").await?;
    ensure!(health.status == 503 && health.body.contains("the snapshot directory was replaced"), "{health:?}");
    fs::remove_dir(&dir)?;
    fs::rename(&aside, &dir)?;
    is_well(&mut operator).await?;
    operator.until("health", async |operator| operator.get("/healthz").await?.ok()).await?;

    // While nobody looks: missing.
    operator.terminate().await?;
    fs::rename(&dir, &aside)?;
    let mut operator = site.operator().start().await?;
    fails_and_keeps(&mut operator, &site, missing, &before).await?;
    ensure!(operator.get("/readyz").await?.status == 503, "ready without a directory");
    ensure!(operator.get("/healthz").await?.status == 200, "a restart does not help");
    // An empty one in its place, as a mount point is whose volume is not mounted.
    fs::create_dir(&dir)?;
    fails_and_keeps(&mut operator, &site, "has no snapshots and is not the directory that had some (is its volume mounted?)", &before)
        .await?;
    ensure!(operator.get("/healthz").await?.status == 200, "a restart does not help");
    fs::remove_dir(&dir)?;
    fs::rename(&aside, &dir)?;
    is_well(&mut operator).await?;
    ensure!(states(&site.local_records().await?) == before);

    // And what is removed from the directory itself is gone.
    fs::remove_file(dir.join(site.name(1_700_000_000)))?;
    local_becomes(&mut operator, &site, &expected([(site.name(1_700_000_001), "whole")])).await
}

#[tokio::test]
async fn a_directory_that_is_a_file_is_said_until_it_is_one() -> Result<()> {
    let site = Site::new().await?;
    fs::remove_dir(site.snapshots())?;
    fs::write(site.snapshots(), "not a directory")?;
    let mut operator = site.operator().start().await?;
    fails_and_keeps(&mut operator, &site, "is not a directory", &[]).await?;
    ensure!(operator.get("/readyz").await?.status == 503);
    fs::remove_file(site.snapshots())?;
    fs::create_dir(site.snapshots())?;
    site.place(&site.name(1_700_000_000), &snapshots::tiny(1))?;
    local_becomes(&mut operator, &site, &expected([(site.name(1_700_000_000), "whole")])).await?;
    is_well(&mut operator).await
}

#[tokio::test]
async fn what_cannot_be_read_costs_only_itself() -> Result<()> {
    let site = Site::new().await?;
    let (locked, open, sidecar) = (site.name(1_700_000_000), site.name(1_700_000_001), site.snapshots().join("../.metadata"));
    let mode = |path: &Path, mode: u32| fs::set_permissions(path, Permissions::from_mode(mode));
    let path = site.place(&locked, &snapshots::tiny(1))?;
    mode(&path, 0o000)?;
    site.place(&open, &snapshots::tiny(2))?;
    let mut operator = site.operator().bound_by_modes().start().await?;
    let half = expected([(&locked, "not ready, unverified"), (&open, "whole")]);
    local_becomes(&mut operator, &site, &half).await?;
    operator
        .until("the file to be tried", async |operator| {
            let failed = value(operator, "actions_total", &[("action", "verify"), ("outcome", "failed")]).await?;
            ensure!(failed > 0);
            Ok(())
        })
        .await?;
    operator.beats(2).await?;
    ensure!(warnings(&operator, &format!("cannot read {path:?}: Permission denied")) == 1, "one warning");
    ensure!(value(&operator, "files", &[("storage", "local"), ("kind", "unverified")]).await? == 1);
    mode(&path, 0o600)?;
    local_becomes(&mut operator, &site, &expected([(&locked, "whole"), (&open, "whole")])).await?;
    is_well(&mut operator).await?;

    // A sidecar that cannot be read changes nothing about its file.
    let before = states(&site.local_records().await?);
    fs::write(sidecar.join(&open), r#"{"a":"b"}"#)?;
    mode(&sidecar.join(&open), 0o000)?;
    falls_ill(&mut operator, "directory", "Permission denied").await?;
    let found = shown(&site.local_records().await?)?;
    ensure!(found == expected([(&locked, "whole"), (&open, "whole")]), "{found:?}");
    ensure!(states(&site.local_records().await?).iter().any(|state| before.contains(state)));
    mode(&sidecar.join(&open), 0o600)?;
    is_well(&mut operator).await?;
    // One that is garbage is said as well.
    fs::write(sidecar.join(&locked), "garbage")?;
    falls_ill(&mut operator, "directory", "it should be a JSON object from text to text").await?;
    fs::remove_file(sidecar.join(&locked))?;
    is_well(&mut operator).await?;

    // The directory itself.
    let before = states(&site.local_records().await?);
    mode(&site.snapshots(), 0o000)?;
    fails_and_keeps(&mut operator, &site, "Permission denied", &before).await?;
    mode(&site.snapshots(), 0o700)?;
    is_well(&mut operator).await
}

#[tokio::test]
async fn two_agents_on_one_directory_touch_each_its_own_nodes_files() -> Result<()> {
    let (site, mut first, _) = with_two_snapshots().await?;
    let other = Site::new().await?.called(format!("{}-b", site.node));
    site.place(&other.name(1_700_000_000), &snapshots::tiny(2))?;
    let own = |site: &Site| expected([(site.name(1_700_000_000), "whole"), (site.name(1_700_000_001), "whole")]);
    // Alone, it has a record for whatever is there.
    first
        .until("a third record", async |_| {
            ensure!(site.local_records().await?.len() == 3);
            Ok(())
        })
        .await?;

    let mut second = other.operator().flag("--etcd-snapshot-dir", site.snapshots()).start().await?;
    local_becomes(&mut second, &other, &expected([(other.name(1_700_000_000), "whole")])).await?;
    local_becomes(&mut first, &site, &own(&site)).await?;
    site.place(&other.name(1_700_000_001), &snapshots::tiny(3))?;
    site.place("of-nobody-known", &snapshots::tiny(4))?;
    local_becomes(&mut second, &other, &own(&other)).await?;
    for (operator, site) in [(&mut first, &site), (&mut second, &other)] {
        operator.beats(3).await?;
        let words = "other nodes' agents are at work on the same directory: only files that name this node are ours";
        ensure!(warnings(operator, words) == 1, "{} said it {} times", site.node, warnings(operator, words));
        let found = shown(&site.local_records().await?)?;
        ensure!(found == own(site), "{found:?}");
    }
    // Each forgets its own and leaves the other's.
    fs::remove_file(site.snapshots().join(site.name(1_700_000_000)))?;
    local_becomes(&mut first, &site, &expected([(site.name(1_700_000_001), "whole")])).await?;
    second.beats(2).await?;
    ensure!(shown(&other.local_records().await?)? == own(&other));
    Ok(())
}

#[tokio::test]
async fn observing_verifies_and_writes_no_record() -> Result<()> {
    let (site, mut operator, before) = with_two_snapshots().await?;
    site.put_ours(&site.name(1_700_000_000), snapshots::tiny(1)).await?;
    operator.terminate().await?;
    fs::remove_file(site.snapshots().join(site.name(1_700_000_000)))?;
    site.place(&site.name(1_700_000_002), &snapshots::tiny(1))?;
    site.place(&site.name(1_700_000_003), &snapshots::truncated(&snapshots::tiny(1)))?;
    let (api, kubeconfig) = site.api.proxied(site.scratch())?;
    let mut operator = site.operator_with_bucket().flag("--mode", "observe").env("KUBECONFIG", kubeconfig).start().await?;
    operator
        .until("the files to be judged and the bucket to be looked at", async |operator| {
            let done = value(operator, "actions_total", &[("action", "verify"), ("outcome", "done")]).await?;
            let objects = value(operator, "files", &[("storage", "s3"), ("kind", "plausible")]).await?;
            ensure!((done, objects) == (2, 1), "{done} verified, {objects} objects");
            Ok(())
        })
        .await?;
    operator.beats(2).await?;
    for (action, storage) in [("write", "local and s3"), ("forget", "local")] {
        let vetoed = value(&operator, "actions_total", &[("action", action), ("outcome", "vetoed")]).await?;
        ensure!(vetoed > 0, "no {action} of {storage} was vetoed");
        ensure!(value(&operator, "actions_total", &[("action", action), ("outcome", "done")]).await? == 0);
    }
    ensure!(value(&operator, "vetoes_total", &[("kind", "observing")]).await? > 0);
    ensure!(operator.get("/readyz").await?.ok()? == "ready\nobserve mode: nothing is written\n");
    let wrote = api.count(&e2e::proxy::On::writes().path("*/etcdsnapshotfiles*"));
    ensure!(wrote == 0, "{wrote} requests to change a record");
    ensure!(states(&site.local_records().await?) == before && site.bucket_records().await?.is_empty());
    // As if it had managed all the time.
    operator.terminate().await?;
    let mut operator = site.operator().start().await?;
    operator
        .until("the records", async |_| {
            ensure!(site.local_records().await?.len() == 3);
            Ok(())
        })
        .await?;
    ensure!(value(&operator, "actions_total", &[("action", "verify")]).await? == 0, "what it verified it remembered");
    Ok(())
}

#[tokio::test]
async fn while_k3s_is_at_work_nothing_is_written() -> Result<()> {
    // Its own, since a Node of K3s keeps every agent of a cluster from its bucket.
    let api = ApiServer::start().await?;
    let kubernetes = api.kubernetes().await?;
    kubernetes.apply_crd().await?;
    let site = Site::on(&api, &Shared::get()?.s3).await?;
    for node in [site.node.as_str(), "another"] {
        kubernetes.create_node(node).await?;
    }
    let nodes: Api<Node> = Api::all(kubernetes.client.clone());
    let at_work = async |node: &str, since: Option<String>| -> Result<()> {
        let patch = serde_json::json!({ "metadata": { "annotations": { "etcd.rke2.cattle.io/local-snapshots-timestamp": since } } });
        nodes.patch(node, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    };
    let now = || Some(jiff::Timestamp::now().to_string());
    site.place(&site.name(1_700_000_000), &snapshots::tiny(1))?;
    site.put_ours(&site.name(1_700_000_000), snapshots::tiny(1)).await?;
    at_work(&site.node, now()).await?;
    let mut operator = site.operator_with_bucket().start().await?;
    let vetoed = async |operator: &mut Operator, which: [bool; 2]| {
        operator
            .until("what is vetoed", async |operator| {
                let said = operator.get("/readyz").await?.ok()?;
                let says = |of: &str| said.contains(&format!("{of}: K3s is at work: nothing is written until "));
                ensure!([says("directory"), says("bucket")] == which, "{said}");
                Ok(())
            })
            .await
    };
    vetoed(&mut operator, [true, true]).await?;
    operator.beats(3).await?;
    ensure!(kubernetes.records_where(|_| true).await?.is_empty(), "a record was written");
    ensure!(value(&operator, "vetoes_total", &[("kind", "k3s-at-work")]).await? > 0);
    ensure!(value(&operator, "actions_total", &[("action", "verify"), ("outcome", "done")]).await? == 1, "files are verified all the same");

    // Another node's K3s minds the bucket, and not our directory.
    at_work("another", now()).await?;
    at_work(&site.node, None).await?;
    vetoed(&mut operator, [false, true]).await?;
    let whole = expected([(site.name(1_700_000_000), "whole")]);
    local_becomes(&mut operator, &site, &whole).await?;
    operator.beats(2).await?;
    ensure!(site.bucket_records().await?.is_empty(), "a record of the bucket was written");
    ensure!(annotation(&site.local_records().await?[0], "node").is_none(), "its Node is there");

    // Long ago is not at work.
    at_work("another", Some("2020-01-02T03:04:05Z".into())).await?;
    crate::look::bucket_becomes(&mut operator, &site, &expected([(site.name(1_700_000_000), "plausible")])).await?;
    is_well(&mut operator).await?;
    ensure!(errors(&operator, "local").await? + errors(&operator, "s3").await? == 0, "a veto is no error");
    wait::until("the log to tell of the writes", async || {
        ensure!(said(&operator, "done") > 0);
        Ok(())
    })
    .await
}
