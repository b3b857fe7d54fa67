//! Snapshots of other lives of this cluster: from before a restore of etcd, of a clone, of the cluster that was here before.
//! The etcd part of their sidecars is written here, as saving writes it.

// The values compared are counts and gauges of whole things.
#![allow(clippy::float_cmp)]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::apiserver::ApiServer;
use e2e::etcd::{Etcd, Restore};
use e2e::hand::Hand;
use e2e::operator::Operator;
use e2e::proxy::{Fault, FaultProxy, On};
use e2e::shared::Shared;
use e2e::site::Site;
use e2e::snapshots;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use crate::agents::leads;
use crate::common::{counted, file};
use crate::invariants::{Left, as_found, heard, hears, invariants, sha256, told};
use crate::look::{annotation, bucket_becomes, expected, is_well, local_becomes, value};
use crate::retention::{HOUR, hours_ago, place_old, removed, whole};
use crate::uploads::uploads;

/// One moment in the life of an etcd, as a sidecar tells it.
#[derive(Clone, Debug)]
pub struct Moment {
    etcd_cluster: String,
    raft_index: u64,
}

impl Moment {
    /// Where this member is.
    pub async fn of(etcd: &Etcd) -> Result<Self> {
        let status: Value = serde_json::from_str(&etcd.etcdctl(["endpoint", "status", "--write-out", "json"]).await?)?;
        let status = &status[0]["Status"];
        let id = status["header"]["cluster_id"].as_u64().with_context(|| format!("no cluster id in {status}"))?;
        let raft_index = status["raftIndex"].as_u64().with_context(|| format!("no raft index in {status}"))?;
        Ok(Self { etcd_cluster: format!("{id:x}"), raft_index })
    }

    /// The sidecar of a snapshot that was saved then.
    fn sidecar(&self, node: &str, cluster: &str, bytes: &[u8]) -> String {
        let key = |key: &str| format!("etcd-snapshot-operator.dev/{key}");
        json!({
            key("etcd-cluster-id"): self.etcd_cluster, key("raft-index"): self.raft_index.to_string(),
            key("cluster-id"): cluster, key("node"): node,
            key("file-sha256"): sha256(bytes), key("file-size"): bytes.len().to_string(),
        })
        .to_string()
    }

    /// Puts the sidecar of a snapshot that was saved then beside the directory.
    pub async fn write_sidecar(&self, site: &Site, name: &str, bytes: &[u8]) -> Result<()> {
        let sidecars = site.snapshots().join("../.metadata");
        std::fs::create_dir_all(&sidecars)?;
        Ok(std::fs::write(sidecars.join(name), self.sidecar(&site.node, &site.kubernetes.cluster_id().await?, bytes))?)
    }
}

/// Puts a snapshot of that moment into the directory, saved and last changed so many hours ago.
async fn place(site: &Site, hours: u64, moment: &Moment) -> Result<String> {
    let (name, bytes) = (site.name(hours_ago(hours)?), snapshots::tiny(hours));
    moment.write_sidecar(site, &name, &bytes).await?;
    snapshots::age(&site.place(&name, &bytes)?, hours * HOUR)?;
    Ok(name)
}

/// Several of them, oldest first.
async fn place_all(site: &Site, hours: &[u64], moment: &Moment) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for hours in hours {
        names.push(place(site, *hours, moment).await?);
    }
    Ok(names)
}

/// So many writes to the store: a raft index that a restored etcd does not come near soon.
async fn write_much(server: &ApiServer) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(server.kubernetes().await?.client, "default");
    let mut running = tokio::task::JoinSet::new();
    for writer in 0..16 {
        let maps = maps.clone();
        running.spawn(async move {
            let apply = PatchParams::apply("tests").force();
            for number in 0..250 {
                let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": format!("much-{writer}") }, "data": { "number": format!("{number}") } });
                maps.patch(&format!("much-{writer}"), &apply, &Patch::Apply(map)).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(written) = running.join_next().await {
        written??;
    }
    Ok(())
}

/// A server in front of the store that makes every object an hour older, so that none was put there just now.
fn older(site: &Site) -> Result<FaultProxy> {
    let s3 = site.s3.proxied()?;
    for method in ["GET", "HEAD"] {
        s3.when(On::method(method), Fault::Older(Duration::from_secs(HOUR)));
    }
    Ok(s3)
}

async fn server() -> Result<ApiServer> {
    let server = ApiServer::start().await?;
    server.kubernetes().await?.apply_crd().await?;
    Ok(server)
}

/// Whose the records of the bucket say that their objects are.
async fn owners(site: &Site) -> Result<BTreeMap<String, String>> {
    let records = site.bucket_records().await?;
    Ok(records.iter().map(|record| (file(record).to_owned(), annotation(record, "owner").unwrap_or_default().to_owned())).collect())
}

/// Waits until the bucket's records name these owners, by name.
async fn are_of(operator: &mut Operator, site: &Site, wanted: &BTreeMap<String, String>) -> Result<()> {
    operator
        .until("the owners of the objects", async |_| {
            let is = owners(site).await?;
            ensure!(is == *wanted, "{is:#?} instead of {wanted:#?}");
            Ok(())
        })
        .await
}

/// The leader shows that the bucket is contested, or that it is not.
async fn contested(operator: &mut Operator, is: f64) -> Result<()> {
    operator
        .until(&format!("contested to be {is}"), async |operator| {
            let shown = operator.metrics().await?.get("etcd_snapshot_bucket_contested", &[])?;
            ensure!(shown == is, "it is {shown}");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn after_a_restore_under_running_agents_nothing_goes_up_again_and_nothing_goes_until_somebody_has_looked() -> Result<()> {
    let mut server = server().await?;
    let first = Site::on(server.access(), &Shared::get()?.s3).await?;
    let mut second = Site::on(server.access(), &Shared::get()?.s3).await?;
    second.bucket = first.bucket.clone();
    let saved = first.scratch().join("saved");
    server.etcd.save(&saved).await?;
    write_much(&server).await?;
    let s3 = older(&first)?;
    let setup = |site: &Site| {
        site.operator_with_bucket()
            .flag("--etcd-s3-endpoint", s3.endpoint())
            .flag("--etcd-snapshot-retention", "3")
            .flag("--etcd-s3-retention", "6")
    };
    let before = Moment::of(&server.etcd).await?;
    let (old_first, old_second) = (place_all(&first, &[50, 49, 48], &before).await?, place_all(&second, &[47, 46, 45], &before).await?);
    let old = [old_first.clone(), old_second.clone()].concat();
    let (mut a, mut b) = (setup(&first).start().await?, setup(&second).start().await?);
    bucket_becomes(&mut a, &first, &whole(&old)).await?;
    are_of(&mut a, &first, &expected(old.iter().map(|name| (name, "ours")))).await?;
    for operator in [&mut a, &mut b] {
        is_well(operator).await?;
    }
    // One of them leads from here on.
    b.terminate().await?;
    leads(&mut a).await?;
    let mut b = setup(&second).start().await?;
    b.beats(2).await?;
    let objects = as_found(&first.bucket, first.bucket.keys().await?).await?;
    s3.forget();

    server.stop();
    server.etcd.restore(&saved, Restore::default()).await?;
    server.launch().await?;
    are_of(&mut a, &first, &expected(old.iter().map(|name| (name, "another-history")))).await?;
    local_becomes(&mut a, &first, &whole(&old_first)).await?;
    local_becomes(&mut b, &second, &whole(&old_second)).await?;
    let leader_is_first = counted(&a, "etcd_snapshot_leader", &[]).await? == 1.0;
    let (leader, at) = if leader_is_first { (&mut a, &first) } else { (&mut b, &second) };
    contested(leader, 1.0).await?;
    // Told by whoever leads; once more if the answer was lost in the restore.
    let notes = heard(leader, at, "ETCDSnapshotBucketContested").await?;
    let how = "etcd-snapshot-operator prune --take-over --name etcd-snapshot";
    ensure!(notes[0].starts_with("6 objects of the ") && notes[0].contains(how), "{notes:?}");
    let ill = leader.get("/readyz").await?.body;
    ensure!(ill.contains("ill: retention in the bucket: 6 objects") && ill.contains(how), "{ill}");
    leader.beats(3).await?;
    let changes =
        |s3: &FaultProxy| s3.requests().into_iter().filter(|seen| seen.method != "GET" && seen.method != "HEAD").collect::<Vec<_>>();
    ensure!(changes(&s3).is_empty(), "{:?}", changes(&s3));
    ensure!(as_found(&first.bucket, first.bucket.keys().await?).await? == objects, "an object was touched");
    ensure!(value(leader, "files", &[("storage", "s3"), ("kind", "another-history")]).await? == 6);

    // Life goes on: what is saved now goes up, takes the places, and nothing of before goes for it.
    let now = Moment::of(&server.etcd).await?;
    ensure!(now.etcd_cluster == before.etcd_cluster && now.raft_index < before.raft_index, "{now:?} after {before:?}");
    let (new_first, new_second) = (place_all(&first, &[10, 9], &now).await?, place_all(&second, &[8], &now).await?);
    let new = [new_first.clone(), new_second.clone()].concat();
    let owned = |word: &'static str, names: &[String]| names.iter().map(move |name| (name.clone(), word.to_owned())).collect::<Vec<_>>();
    let both: BTreeMap<_, _> = owned("another-history", &old).into_iter().chain(owned("ours", &new)).collect();
    are_of(&mut a, &first, &both).await?;
    for operator in [&mut a, &mut b] {
        operator.beats(3).await?;
        ensure!(counted(operator, "etcd_snapshot_removed_total", &[]).await? == 0.0);
        ensure!(counted(operator, "etcd_snapshot_vanished_total", &[]).await? == 0.0);
    }
    let put: Vec<_> = changes(&s3);
    ensure!(put.len() == 2 * new.len() && put.iter().all(|seen| new.iter().any(|name| seen.path.ends_with(name.as_str()))), "{put:?}");
    ensure!(
        uploads(&a, "done").await? + uploads(&b, "done").await? == 3 + 3,
        "{} and {}",
        uploads(&a, "done").await?,
        uploads(&b, "done").await?
    );

    // Somebody has looked. An ordinary prune leaves another history alone, this one does not.
    let prune = |site: &Site| -> Result<Hand> {
        let hand = Hand::new("prune")?.on(site).with_bucket_at(site, s3.endpoint()).with_kubernetes(site);
        let hand = hand.flag("--name", "etcd-snapshot").flag("--etcd-endpoint", site.api.etcd()).flag("--namespace", "default");
        Ok(hand.flag("--etcd-snapshot-retention", "2").flag("--etcd-s3-retention", "3"))
    };
    prune(&first)?.run().await?.with(0)?.says("there is nothing to delete")?;
    let taken = prune(&first)?.arg("--take-over").run().await?.with(0)?;
    ensure!(
        old.iter().all(|name| taken.out.contains(name.as_str())) && !new.iter().any(|name| taken.out.contains(name.as_str())),
        "{}",
        taken.out
    );
    let (leader, at) = if counted(&a, "etcd_snapshot_leader", &[]).await? == 1.0 { (&mut a, &first) } else { (&mut b, &second) };
    contested(leader, 0.0).await?;
    is_well(leader).await?;
    bucket_becomes(leader, at, &whole(&new)).await?;
    ensure!(counted(leader, "etcd_snapshot_vanished_total", &[]).await? == 0.0);
    invariants(a, &setup(&first), &first, &Left::new(&new_first, &new)).await?;
    let local = [old_second, new_second].concat();
    invariants(b, &setup(&second), &second, &Left::new(&local, &new)).await
}

#[tokio::test]
async fn two_clusters_from_one_snapshot_leave_each_others_objects_alone() -> Result<()> {
    let (one, mut two) = (server().await?, ApiServer::start().await?);
    let first = Site::on(one.access(), &Shared::get()?.s3).await?;
    let saved = first.scratch().join("saved");
    one.etcd.save(&saved).await?;
    two.stop();
    two.etcd.restore(&saved, Restore::default()).await?;
    two.launch().await?;
    let mut second = Site::on(two.access(), &Shared::get()?.s3).await?;
    second.bucket = first.bucket.clone();
    let cluster = first.kubernetes.cluster_id().await?;
    ensure!(second.kubernetes.cluster_id().await? == cluster, "a clone has the cluster id of what it was made from");
    let (of_one, of_two) = (Moment::of(&one.etcd).await?, Moment::of(&two.etcd).await?);
    ensure!(of_one.etcd_cluster != of_two.etcd_cluster);
    // What the clone shows by its objects looks newer by hours: all the same it is not what takes the places.
    let setups = [&first, &second].map(|site| -> Result<_> {
        let s3 = older(site)?;
        let setup = site.operator_with_bucket().flag("--etcd-s3-endpoint", s3.endpoint()).flag("--etcd-s3-retention", "2");
        Ok((s3, setup))
    });
    let [(s3_one, setup_one), (s3_two, setup_two)] = match setups {
        [Ok(one), Ok(two)] => [one, two],
        [Err(error), _] | [_, Err(error)] => return Err(error),
    };
    let files_one = place_all(&first, &[31, 30], &of_one).await?;
    let mut a = setup_one.start().await?;
    bucket_becomes(&mut a, &first, &whole(&files_one)).await?;
    is_well(&mut a).await?;
    let of_first = as_found(&first.bucket, first.bucket.keys().await?).await?;
    let files_two = place_all(&second, &[21, 20], &of_two).await?;
    let mut b = setup_two.start().await?;
    let both = [files_one.clone(), files_two.clone()].concat();
    bucket_becomes(&mut b, &second, &whole(&both)).await?;
    bucket_becomes(&mut a, &first, &whole(&both)).await?;
    for (operator, site) in [(&mut a, &first), (&mut b, &second)] {
        contested(operator, 1.0).await?;
        let notes = hears(operator, site, "ETCDSnapshotBucketContested", 1).await?;
        ensure!(notes[0].contains("from before a restore of etcd, or from a clone of this cluster"), "{notes:?}");
        ensure!(value(operator, "files", &[("storage", "s3"), ("kind", "another-history")]).await? >= 2);
    }
    // Each goes on saving, and has more than it keeps.
    let mut more = Vec::new();
    for (operator, site, moment, hours) in [(&mut a, &first, &of_one, 11), (&mut b, &second, &of_two, 10)] {
        let new = place(site, hours, moment).await?;
        operator
            .until("the new one to go up", async |_| {
                ensure!(site.bucket.keys().await?.contains(&site.key(&new)));
                Ok(())
            })
            .await?;
        more.push(new);
    }
    for operator in [&mut a, &mut b] {
        operator.beats(4).await?;
        ensure!(counted(operator, "etcd_snapshot_vanished_total", &[]).await? == 0.0, "what the other removes of its own has not vanished");
    }
    // Only its own, whatever it did.
    for (s3, site) in [(&s3_one, &first), (&s3_two, &second)] {
        let changes = s3.requests().into_iter().filter(|seen| ["PUT", "POST", "DELETE"].contains(&seen.method.as_str()));
        let foreign: Vec<_> = changes.filter(|seen| !seen.path.contains(&site.node)).collect();
        ensure!(foreign.is_empty(), "{foreign:?}");
    }
    let keys = first.bucket.keys().await?;
    let of_first: BTreeMap<_, _> = of_first.into_iter().filter(|(key, _)| keys.contains(key)).collect();
    let now = as_found(&first.bucket, of_first.keys().cloned()).await?;
    ensure!(now == of_first, "an object of the first cluster was touched");
    // The older one of each may have gone by its own hand, the newest two not.
    for name in more.iter().chain([&files_one[1], &files_two[1]]) {
        ensure!(keys.contains(&first.key(name)), "{name} is not among {keys:?}");
    }
    let there = |names: &[String]| names.iter().filter(|name| keys.contains(&first.key(name))).cloned().collect::<Vec<_>>();
    let left = there(&[both, more.clone()].concat());
    let local = |files: &[String], new: &String| [files, std::slice::from_ref(new)].concat();
    invariants(a, &setup_one, &first, &Left::new(&local(&files_one, &more[0]), &left)).await?;
    invariants(b, &setup_two, &second, &Left::new(&local(&files_two, &more[1]), &left)).await
}

#[tokio::test]
async fn a_cluster_that_is_installed_anew_beside_its_old_directory_and_bucket_begins_with_nothing() -> Result<()> {
    let (before, after) = (server().await?, server().await?);
    let mut site = Site::on(before.access(), &Shared::get()?.s3).await?;
    let s3 = older(&site)?;
    let old = place_all(&site, &[33, 32, 31], &Moment::of(&before.etcd).await?).await?;
    let setup = |site: &Site| {
        let setup = site.operator_with_bucket().flag("--etcd-s3-endpoint", s3.endpoint());
        setup.flag("--etcd-snapshot-retention", "3").flag("--etcd-s3-retention", "3")
    };
    let mut operator = setup(&site).start().await?;
    bucket_becomes(&mut operator, &site, &whole(&old)).await?;
    is_well(&mut operator).await?;
    operator.terminate().await?;
    drop(before);

    (site.api, site.kubernetes) = (after.access().clone(), after.kubernetes().await?);
    let objects = as_found(&site.bucket, site.bucket.keys().await?).await?;
    s3.forget();
    let setup = setup(&site).flag("--etcd-snapshot-retention", "1").flag("--etcd-s3-retention", "1");
    let mut operator = setup.start().await?;
    leads(&mut operator).await?;
    is_well(&mut operator).await?;
    operator.beats(3).await?;
    ensure!(site.local_records().await?.is_empty() && site.bucket_records().await?.is_empty(), "another cluster's has a record");
    ensure!(s3.count(&On::writes()) == 0, "{:?}", s3.requests());
    // It saves its own: two, of which one has a place. Those of before are none of its business.
    let new = [place_old(&site, 3)?, place_old(&site, 2)?];
    bucket_becomes(&mut operator, &site, &whole(&new[1..])).await?;
    local_becomes(&mut operator, &site, &whole(&new[1..])).await?;
    operator.beats(3).await?;
    ensure!(removed(&operator, "local", "beyond-retention").await? == 1);
    contested(&mut operator, 0.0).await?;
    ensure!(value(&operator, "files", &[("storage", "s3"), ("kind", "another-cluster")]).await? == 3);
    let events = told(&site).await?;
    ensure!(!events.iter().any(|(reason, ..)| reason == "ETCDSnapshotVanished" || reason == "ETCDSnapshotBucketContested"), "{events:#?}");
    ensure!(as_found(&site.bucket, objects.keys().cloned()).await? == objects, "an object of the old cluster was touched");
    let local: Vec<String> = old.iter().chain(&new[1..]).cloned().collect();
    invariants(operator, &setup, &site, &Left::new(&local, &new[1..]).foreign(objects)).await
}
