//! What a beat costs, exactly: an unchanged world costs its listing and nothing else, also after a restart.

use anyhow::{Result, ensure};
use e2e::apiserver::ApiServer;
use e2e::operator::{Operator, OperatorSetup};
use e2e::proxy::{Fault, FaultProxy, On};
use e2e::s3::S3;
use e2e::shared::Shared;
use e2e::site::{FOLDER, Site};
use e2e::snapshots;
use kube::api::DynamicObject;

use crate::agents::{Agent, leads};
use crate::common::{RECORDS, name, versions, writes};
use crate::invariants::{Left, invariants};
use crate::look::{bucket_becomes, expected};
use crate::uploads::{LARGE, PARTS, backlog};

/// Both servers behind proxies that count.
struct Counted {
    s3: FaultProxy,
    api: FaultProxy,
    setup: OperatorSetup,
}

impl Counted {
    fn of(site: &Site, interval: &str) -> Result<Self> {
        let s3 = site.s3.proxied()?;
        let (api, kubeconfig) = site.api.proxied(site.scratch())?;
        let setup = site
            .operator_with_bucket()
            .flag("--etcd-s3-endpoint", s3.endpoint())
            .flag("--etcd-snapshot-reconcile-interval", interval)
            .env("KUBECONFIG", kubeconfig);
        Ok(Self { s3, api, setup })
    }

    fn forget(&self) {
        self.s3.forget();
        self.api.forget();
    }

    fn lists(&self) -> usize {
        self.s3.count(&On::list_objects())
    }

    fn looks(&self) -> usize {
        self.s3.requests().len() - self.lists()
    }

    /// How many requests each pass over the bucket cost, of those that have begun and ended since.
    fn whole_passes(&self) -> Vec<usize> {
        let objects = On::list_objects().query_is("prefix", &format!("{FOLDER}/")).without_query("continuation-token");
        let requests = self.s3.requests();
        let begins: Vec<usize> = (0..requests.len()).filter(|at| objects.is_like(&requests[*at])).collect();
        begins.windows(2).map(|pass| pass[1] - pass[0]).collect()
    }

    /// Requests that change a record.
    fn writes(&self) -> usize {
        writes(&self.api)
    }

    /// Those that change one of these.
    fn patches(&self, records: &[DynamicObject]) -> usize {
        let of = |record: &DynamicObject| self.api.count(&On::method("PATCH").path(&format!("*/etcdsnapshotfiles/{}", name(record))));
        records.iter().map(of).sum()
    }
}

fn ready(record: &DynamicObject) -> bool {
    record.data["status"]["readyToUse"] == true
}

async fn all_ready(operator: &mut Operator, site: &Site, files: usize, objects: usize) -> Result<()> {
    operator
        .until("every snapshot to have a ready record", async |_| {
            let (local, bucket) = (site.local_records().await?, site.bucket_records().await?);
            let done = (local.iter().filter(|r| ready(r)).count(), bucket.iter().filter(|r| ready(r)).count());
            ensure!(done == (files, objects), "{done:?} of {files} and {objects}");
            Ok(())
        })
        .await
}

/// Puts objects with these names, and their sidecars.
async fn fill(site: &Site, names: &[String], metadata: &[(&str, &str)]) -> Result<()> {
    let body = snapshots::tiny(1);
    let objects = names.iter().map(|name| (site.key(name), body.clone()));
    let sidecars = names.iter().map(|name| (site.key(&format!(".metadata/{name}")), br#"{"spec":"x"}"#.to_vec()));
    site.bucket.put_many(objects.chain(sidecars), metadata).await
}

/// A thousand objects with sidecars from a server that shows a hundred in a page: as many pages as ten thousand are in S3's own of a
/// thousand. With `delimiter=/` the folder `.metadata/` takes a place of its own in the first listing: eleven pages and ten.
const OBJECTS: usize = 1000 - FILES;
const PAGE: usize = 100;
const LISTING: usize = (OBJECTS + FILES + 1).div_ceil(PAGE) + (OBJECTS + FILES).div_ceil(PAGE);
/// The last of them go up from the directory.
const FILES: usize = 5;

#[tokio::test]
async fn an_unchanged_beat_over_many_pages_costs_its_listing_and_nothing_else() -> Result<()> {
    // Its own, and one that lets a proxy ask for smaller pages than was signed.
    let (server, shared) = (S3::start_open().await?, Shared::get()?);
    let site = Site::on(&shared.api, server.access()).await?;
    let counted = Counted::of(&site, "3s")?;
    counted.s3.when(On::list_objects(), Fault::Asking("max-keys", PAGE.to_string()));
    let cluster = site.kubernetes.cluster_id().await?;
    let metadata = [("k3s-cluster-id", cluster.as_str()), ("k3s-node-name", site.node.as_str())];
    let objects: Vec<String> = (0..i64::try_from(OBJECTS)?).map(|number| site.name(1_700_000_000 + number)).collect();
    fill(&site, &objects, &metadata).await?;

    let mut operator = counted.setup.start().await?;
    all_ready(&mut operator, &site, 0, OBJECTS).await?;
    ensure!(counted.looks() == 2 * OBJECTS, "the first import asked {} times about {OBJECTS} objects", counted.looks());
    ensure!(counted.writes() == OBJECTS, "{} writes: one an object", counted.writes());

    counted.forget();
    let files: Vec<String> = (0..i64::try_from(FILES)?).map(|number| site.name(1_600_000_000 + number)).collect();
    for (number, name) in (0..).zip(&files) {
        site.place(name, &snapshots::tiny(number))?;
    }
    all_ready(&mut operator, &site, FILES, OBJECTS + FILES).await?;
    operator.beats(2).await?;
    let [puts, heads] = ["PUT", "HEAD"].map(|method| counted.s3.count(&On::method(method)));
    let gets = counted.looks() - puts - heads;
    ensure!((puts, gets) == (2 * FILES, FILES), "{puts} PUT for a file and its sidecar each, {gets} GET for what the leader learns of it");
    // Before each upload one for the file and one for the sidecar; then the leader's, twice where it looked in between.
    ensure!((3 * FILES..=4 * FILES).contains(&heads), "{heads} HEAD");
    let created = counted.api.count(&On::method("POST").path(RECORDS));
    ensure!(created == 2 * FILES, "{created} records were created, one a file and one an object");
    let (local, bucket) = (counted.patches(&site.local_records().await?), counted.patches(&site.bucket_records().await?));
    ensure!(local == 2 * FILES, "{local} changes of the files' records: whole, and gone up");
    ensure!(bucket <= FILES && created + local + bucket == counted.writes(), "{bucket} changes of the objects' records");

    for life in ["unchanged", "restarted"] {
        if life == "restarted" {
            operator.terminate().await?;
            counted.forget();
            operator = counted.setup.start().await?;
        } else {
            operator.beats(1).await?;
            counted.forget();
        }
        let passes = operator
            .until("three whole passes", async |_| {
                let passes = counted.whole_passes();
                ensure!(passes.len() >= 3, "{passes:?}");
                Ok(passes)
            })
            .await?;
        ensure!(LISTING == 21 && passes.iter().all(|requests| *requests == LISTING), "{life}: a pass costs {passes:?} requests");
        ensure!(counted.looks() == 0, "{life}: {} requests beside the listing: {:?}", counted.looks(), counted.s3.requests());
        ensure!(counted.writes() == 0, "{life}: {} writes", counted.writes());
    }
    let in_bucket: Vec<String> = objects.iter().chain(&files).cloned().collect();
    invariants(operator, &counted.setup, &site, &Left::new(&files, &in_bucket)).await
}

/// As many real ones as make eleven pages and ten of S3's own.
const MANY: usize = 10_000;

/// Waits for what takes longer than any one wait has patience for: for each tenth of it.
async fn tenths(operator: &mut Operator, what: &str, mut count: impl AsyncFnMut(&Operator) -> Result<usize>) -> Result<()> {
    for tenth in 1..=10 {
        let wanted = MANY / 10 * tenth;
        operator
            .until(&format!("{wanted} {what}"), async |operator| {
                let now = count(operator).await?;
                ensure!(now >= wanted, "{now}");
                Ok(())
            })
            .await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_unchanged_beat_over_ten_thousand_objects_costs_twenty_one_requests_and_no_write() -> Result<()> {
    // Its own: so many records and objects are other tests' business as well.
    let (api, server) = (ApiServer::start().await?, S3::start().await?);
    api.kubernetes().await?.apply_crd().await?;
    let site = Site::on(&api, &server).await?;
    let counted = Counted::of(&site, "5s")?;
    let cluster = site.kubernetes.cluster_id().await?;
    let ours = [("k3s-cluster-id", cluster.as_str()), ("k3s-node-name", site.node.as_str())];
    let names: Vec<String> = (0..i64::try_from(MANY)?).map(|number| site.name(1_700_000_000 + number)).collect();
    fill(&site, &names, &ours).await?;

    let mut operator = counted.setup.start().await?;
    tenths(&mut operator, "objects to be looked into", async |_| Ok(counted.looks() / 2)).await?;
    tenths(&mut operator, "records", async |_| Ok(counted.writes())).await?;
    operator.beats(1).await?;
    let records = site.bucket_records().await?;
    ensure!(records.len() == MANY && records.iter().all(ready), "{} records", records.len());
    ensure!((counted.looks(), counted.writes()) == (2 * MANY, MANY), "{} looks, {} writes", counted.looks(), counted.writes());
    let before = versions(&records);
    for life in ["unchanged", "restarted"] {
        if life == "restarted" {
            operator.terminate().await?;
            counted.forget();
            operator = counted.setup.start().await?;
        } else {
            operator.beats(1).await?;
            counted.forget();
        }
        let passes = operator
            .until("two whole passes", async |_| {
                let passes = counted.whole_passes();
                ensure!(passes.len() >= 2, "{passes:?}");
                Ok(passes)
            })
            .await?;
        ensure!(passes.iter().all(|requests| *requests == 21), "{life}: a pass costs {passes:?} requests");
        ensure!((counted.looks(), counted.writes()) == (0, 0), "{life}: {} looks, {} writes", counted.looks(), counted.writes());
        ensure!(versions(&site.bucket_records().await?) == before, "{life}: a record was written");
    }
    Ok(())
}

#[tokio::test]
async fn an_upload_costs_two_questions_and_two_writes_and_one_in_parts_two_questions_more() -> Result<()> {
    // Who leads asks about what is there as well: so the one that uploads is another.
    let first = Agent::on(Site::new().await?)?;
    let mut site = Site::new().await?;
    site.bucket = first.site.bucket.clone();
    let second = Agent::on(site)?;
    let mut leader = first.setup.start().await?;
    leads(&mut leader).await?;
    let mut follower = second.setup.start().await?;
    follower.beats(1).await?;
    let mut files = Vec::new();
    let whole_file = ["HEAD", "HEAD", "PUT", "PUT"].as_slice();
    let parts = ["PUT"; PARTS];
    let in_parts = [["HEAD", "HEAD", "POST"].as_slice(), &parts, &["HEAD", "POST", "HEAD", "PUT"]].concat();
    for (number, (size, costs)) in (0..).zip([(5_000, whole_file), (LARGE, &in_parts)]) {
        second.s3.forget();
        files.push(second.site.name(1_700_000_000 + number));
        second.site.place(&files[files.len() - 1], &snapshots::sized(1, size))?;
        bucket_becomes(&mut leader, &first.site, &expected(files.iter().map(|name| (name, "whole")))).await?;
        backlog(&mut follower, 0.0, 0.0).await?;
        follower.beats(2).await?;
        let cost: Vec<String> = second.s3.requests().into_iter().map(|seen| seen.method).collect();
        ensure!(cost == costs, "{size} bytes cost {cost:?}");
    }
    invariants(follower, &second.setup, &second.site, &Left::new(&files, &files)).await?;
    invariants(leader, &first.setup, &first.site, &Left::new(&[], &files)).await
}

#[tokio::test]
async fn a_new_object_costs_one_head_and_one_get_and_one_write() -> Result<()> {
    let site = Site::new().await?;
    let counted = Counted::of(&site, "1s")?;
    let before = site.name(1_700_000_000);
    site.put_ours(&before, snapshots::tiny(0)).await?;
    let mut operator = counted.setup.start().await?;
    all_ready(&mut operator, &site, 0, 1).await?;
    operator.beats(2).await?;
    counted.forget();
    let name = site.name(1_700_000_001);
    site.bucket.put(&format!("{FOLDER}/.metadata/{name}"), r#"{"a":"b"}"#).await?;
    site.put_ours(&name, snapshots::tiny(1)).await?;
    all_ready(&mut operator, &site, 0, 2).await?;
    operator.beats(2).await?;
    let (heads, gets) = (counted.s3.count(&On::method("HEAD")), counted.looks() - counted.s3.count(&On::method("HEAD")));
    ensure!((heads, gets, counted.writes()) == (1, 1, 1), "{heads} HEAD, {gets} GET, {} writes", counted.writes());
    invariants(operator, &counted.setup, &site, &Left::new(&[], &[before, name])).await
}

#[tokio::test]
async fn a_changed_file_costs_a_write_for_each_truth_and_a_changed_sidecar_one() -> Result<()> {
    let site = Site::new().await?;
    let counted = Counted::of(&site, "1s")?;
    // Not one that goes up.
    let name = site.name_of_another(1_700_000_000);
    site.place(&name, &snapshots::tiny(0))?;
    let mut operator = counted.setup.start().await?;
    all_ready(&mut operator, &site, 1, 0).await?;
    operator.beats(2).await?;
    counted.forget();
    site.place(&name, &snapshots::tiny(1))?;
    operator
        .until("the change to be seen, and the file to be whole again", async |_| {
            // The first of them is counted before the record has changed.
            ensure!(counted.writes() >= 2);
            Ok(())
        })
        .await?;
    all_ready(&mut operator, &site, 1, 0).await?;
    operator.beats(2).await?;
    ensure!(counted.writes() == 2, "{} writes for: not ready any more, ready again", counted.writes());

    counted.forget();
    let sidecars = site.snapshots().join("../.metadata");
    std::fs::write(sidecars.join(&name), r#"{"a":"b"}"#)?;
    operator
        .until("the metadata to be in the record", async |_| {
            let records = site.local_records().await?;
            ensure!(records.iter().any(|record| record.data["spec"]["metadata"]["a"] == "b" && ready(record)));
            Ok(())
        })
        .await?;
    operator.beats(2).await?;
    ensure!(counted.writes() == 1, "{} writes for a sidecar", counted.writes());
    Ok(())
}
