//! Uploads in parts that somebody began and nobody goes on with: after seven days the bucket's leader aborts those under the names of
//! objects that are proven ours, and nothing else. No server lets an upload be that old, so a proxy makes it look so in the server's own
//! list; and the leader looks once a day, so its clock is put forward.

// The values compared are counts of whole things.
#![allow(clippy::float_cmp)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::clock::Clock;
use e2e::operator::{Operator, OperatorSetup};
use e2e::proxy::{Fault, On};
use e2e::snapshots;
use jiff::{SignedDuration, Timestamp};

use crate::common::{complains, complaints, rises};
use crate::invariants::{Foreign, Left, as_found, hears, invariants, uploads_in_parts};
use crate::look::{bucket_becomes, bucket_passes, expected, falls_ill, is_well, value};
use crate::uploads::Uploading;

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const DAYS: i64 = 24;

/// S3's `ListMultipartUploads`.
fn look() -> On {
    On::get().query("uploads")
}

fn abort() -> On {
    On::method("DELETE").query("uploadId")
}

/// A server's list of uploads in which each of these was begun so many hours earlier.
fn begun_earlier(list: &str, hours: &BTreeMap<String, i64>) -> String {
    let mut pieces = list.split("<Upload>");
    let mut aged = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let earlier = hours.iter().find(|(id, _)| piece.contains(&format!("<UploadId>{id}</UploadId>"))).map_or(0, |(_, hours)| *hours);
        let (before, rest) = piece.split_once("<Initiated>").unwrap_or((piece, ""));
        let (begun, after) = rest.split_once("</Initiated>").unwrap_or_default();
        let begun = begun.parse::<Timestamp>().map(|begun| (begun - SignedDuration::from_hours(earlier)).to_string());
        aged = format!("{aged}<Upload>{before}<Initiated>{}</Initiated>{after}", begun.unwrap_or_default());
    }
    aged
}

/// A bucket with two objects of ours, one of a stranger and one of another cluster, and uploads in parts that somebody left there.
struct Scene {
    up: Uploading,
    clock: Clock,
    setup: OperatorSetup,
    ours: [String; 2],
    strangers: String,
    foreign: Foreign,
}

impl Scene {
    async fn new() -> Result<Self> {
        let up = Uploading::new().await?;
        let site = &up.site;
        let clock = Clock::new(site.scratch())?;
        let setup = clock.read_by(up.setup.clone());
        let names: Vec<String> = (0..4).map(|number| site.name(1_700_000_000 + number)).collect();
        let [a, b, strangers, theirs] = <[String; 4]>::try_from(names).unwrap_or_default();
        for name in [&a, &b] {
            site.put_ours(name, snapshots::tiny(1)).await?;
        }
        site.bucket.put(&site.key(&strangers), snapshots::tiny(2)).await?;
        let another = [("k3s-cluster-id", "another"), ("k3s-node-name", site.node.as_str())];
        site.bucket.put_with(&site.key(&theirs), snapshots::tiny(3), &another).await?;
        let foreign = as_found(&site.bucket, [site.key(&strangers), site.key(&theirs)]).await?;
        Ok(Self { ours: [a, b], strangers, foreign, clock, setup, up })
    }

    /// Keys of foreign objects, and one with nothing under it.
    fn not_ours(&self) -> Vec<String> {
        self.foreign.keys().cloned().chain([self.up.site.key(&self.up.site.name(1_700_000_009))]).collect()
    }

    /// Begins an upload under this key and sends a part of it; returns its id.
    async fn begin(&self, key: &str) -> Result<String> {
        let (client, bucket) = (&self.up.site.bucket.client, &self.up.site.bucket.name);
        let begun = client.create_multipart_upload().bucket(bucket).key(key).send().await?;
        let id = begun.upload_id.context("an upload without an id")?;
        let part = client.upload_part().bucket(bucket).key(key).upload_id(&id).part_number(1);
        part.body(vec![7; 1000].into()).send().await.with_context(|| format!("send a part of {key}"))?;
        Ok(id)
    }

    /// From now on these were begun so many hours before.
    fn age(&self, hours: BTreeMap<String, i64>) {
        self.up.s3.when(look(), Fault::rewrite(move |list| begun_earlier(list, &hours)));
    }

    /// Starts it and waits until it leads and has seen what is there.
    async fn start(&self) -> Result<Operator> {
        let mut operator = self.setup.start().await?;
        let records = [&self.ours[0], &self.ours[1], &self.strangers].map(|name| (name, "plausible"));
        bucket_becomes(&mut operator, &self.up.site, &expected(records)).await?;
        bucket_passes(&mut operator, 2).await?;
        Ok(operator)
    }

    async fn left(&self) -> Result<BTreeSet<String>> {
        Ok(uploads_in_parts(&self.up.site.bucket).await?.into_iter().map(|(_, id)| id).collect())
    }

    async fn becomes(&self, operator: &mut Operator, wanted: &BTreeSet<String>) -> Result<()> {
        operator
            .until("exactly these uploads to be left", async |_| {
                let left = self.left().await?;
                ensure!(left == *wanted, "{left:?} instead of {wanted:?}");
                Ok(())
            })
            .await
    }

    /// So often it has looked.
    async fn looks(&self, operator: &mut Operator, times: usize) -> Result<()> {
        operator
            .until(&format!("{times} looks for what was left"), async |_| {
                let looks = self.up.s3.count(&look());
                ensure!(looks == times, "{looks}");
                Ok(())
            })
            .await
    }

    /// The last of these files goes up and has its records, whatever else there is.
    async fn goes_on(&self, operator: &mut Operator, files: &[&String]) -> Result<()> {
        self.up.site.place(files.last().context("a file")?, &snapshots::tiny(9))?;
        let there = [&self.ours[0], &self.ours[1], &self.strangers].map(|name| (name, "plausible"));
        bucket_becomes(operator, &self.up.site, &expected(there.into_iter().chain(files.iter().map(|name| (*name, "whole"))))).await
    }

    /// Everything is as it should be, once those whose uploads stay have taken them away.
    async fn ends_well(self, operator: Operator, local: &[String]) -> Result<()> {
        let site = &self.up.site;
        for (key, id) in uploads_in_parts(&site.bucket).await? {
            site.bucket.client.abort_multipart_upload().bucket(&site.bucket.name).key(key).upload_id(id).send().await?;
        }
        let bucket: Vec<String> = self.ours.iter().chain(local).cloned().collect();
        invariants(operator, &self.setup, site, &Left::new(local, &bucket).foreign(self.foreign)).await
    }
}

async fn aborted(operator: &Operator, outcome: &str) -> Result<u64> {
    value(operator, "actions_total", &[("action", "abort"), ("outcome", outcome)]).await
}

#[tokio::test]
async fn what_was_left_seven_days_ago_goes_under_names_that_are_ours_and_nothing_else_does() -> Result<()> {
    let mut scene = Scene::new().await?;
    let site = &scene.up.site;
    let mut hours = BTreeMap::new();
    let old = scene.begin(&site.key(&scene.ours[0])).await?;
    hours.insert(old.clone(), 7 * DAYS + 1);
    let mut stay = BTreeSet::new();
    for name in &scene.ours {
        let younger = scene.begin(&site.key(name)).await?;
        hours.insert(younger.clone(), 7 * DAYS - 1);
        stay.insert(younger);
    }
    for key in scene.not_ours() {
        let theirs = scene.begin(&key).await?;
        hours.insert(theirs.clone(), 30 * DAYS);
        stay.insert(theirs);
    }
    scene.age(hours.clone());
    let mut operator = scene.start().await?;
    is_well(&mut operator).await?;
    ensure!(scene.up.s3.count(&look()) == 0, "no beat of the first hour costs a request for it");

    scene.clock.advance(HOUR)?;
    scene.becomes(&mut operator, &stay).await?;
    rises(&mut operator, "etcd_snapshot_actions_total", &[("action", "abort"), ("outcome", "done")], 0.0).await?;
    is_well(&mut operator).await?;
    bucket_passes(&mut operator, 2).await?;
    let subject = format!(r#""subject":"{}""#, scene.ours[0]);
    let told = operator
        .log()
        .lines()
        .filter(|line| line.contains(r#""action":"abort""#) && line.contains(r#""level":"INFO""#))
        .collect::<Vec<_>>()
        .join("\n");
    ensure!(told.lines().count() == 1 && told.contains(&subject) && told.contains(r#""reason":"abandoned""#), "{told}");
    ensure!(scene.up.s3.count(&look()) == 1 && scene.up.s3.count(&abort()) == 1, "once a day, and each once");
    ensure!((aborted(&operator, "done").await?, value(&operator, "vetoes_total", &[]).await?) == (1, 0));
    // A day later those of ours are old as well.
    scene.up.s3.clear();
    scene.age(hours.into_iter().map(|(id, hours)| (id, hours + DAYS)).collect());
    scene.clock.advance(DAY)?;
    let not_ours: BTreeSet<String> = {
        let keys = scene.not_ours();
        uploads_in_parts(&scene.up.site.bucket).await?.into_iter().filter(|(key, _)| keys.contains(key)).map(|(_, id)| id).collect()
    };
    scene.becomes(&mut operator, &not_ours).await?;
    rises(&mut operator, "etcd_snapshot_actions_total", &[("action", "abort"), ("outcome", "done")], 2.5).await?;
    is_well(&mut operator).await?;
    ensure!(scene.up.s3.count(&look()) == 2 && not_ours.len() == 3, "{not_ours:?}");
    scene.ends_well(operator, &[]).await
}

#[tokio::test]
async fn a_leader_that_may_not_look_or_not_abort_says_so_and_does_all_else() -> Result<()> {
    let mut scene = Scene::new().await?;
    let old = scene.begin(&scene.up.site.key(&scene.ours[0])).await?;
    let stranger = scene.begin(&scene.up.site.key(&scene.strangers)).await?;
    let (all, stay) = (BTreeSet::from([old.clone(), stranger.clone()]), BTreeSet::from([stranger.clone()]));
    let no_list = scene.up.s3.when(look(), Fault::s3(403, "AccessDenied"));
    let no_abort = scene.up.s3.when(abort(), Fault::s3(403, "AccessDenied"));
    scene.age(BTreeMap::from([(old, 8 * DAYS), (stranger, 8 * DAYS)]));
    let mut operator = scene.start().await?;

    scene.clock.advance(HOUR)?;
    let words = "was refused (403 AccessDenied): the credentials need s3:ListBucketMultipartUploads on the bucket";
    complains(&mut operator, words).await?;
    let first = scene.up.site.name(1_700_000_100);
    scene.goes_on(&mut operator, &[&first]).await?;
    is_well(&mut operator).await?;
    ensure!(complaints(&operator, words).len() == 1 && scene.up.s3.count(&abort()) == 0);
    ensure!(value(&operator, "s3_requests_total", &[("operation", "ListMultipartUploads"), ("outcome", "denied")]).await? == 1);
    ensure!(scene.left().await? == all);

    no_list.remove();
    scene.clock.advance(DAY)?;
    scene.looks(&mut operator, 2).await?;
    let words = "was refused (403 AccessDenied): the credentials need s3:AbortMultipartUpload on the objects of the folder";
    falls_ill(&mut operator, "retention in the bucket", words).await?;
    let notes = hears(&mut operator, &scene.up.site, "ETCDSnapshotRetentionFailedS3", 1).await?;
    ensure!(notes[0].contains(words), "{notes:?}");
    // Each beat is another try.
    rises(&mut operator, "etcd_snapshot_actions_total", &[("action", "abort"), ("outcome", "failed")], 1.5).await?;
    ensure!(value(&operator, "s3_requests_total", &[("operation", "AbortMultipartUpload"), ("outcome", "denied")]).await? > 1);
    let second = scene.up.site.name(1_700_000_101);
    scene.goes_on(&mut operator, &[&first, &second]).await?;
    ensure!(scene.left().await? == all);

    no_abort.remove();
    scene.becomes(&mut operator, &stay).await?;
    is_well(&mut operator).await?;
    rises(&mut operator, "etcd_snapshot_actions_total", &[("action", "abort"), ("outcome", "done")], 0.0).await?;
    ensure!(scene.up.s3.count(&look()) == 2, "what is left to do needs no other look");
    scene.ends_well(operator, &[first, second]).await
}
