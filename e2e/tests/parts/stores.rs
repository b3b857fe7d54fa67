//! Stores that are not what a store should be: those that hold fast what they have, and those that heed no condition.

use std::collections::BTreeSet;
use std::slice;

use anyhow::{Result, ensure};
use e2e::operator::Operator;
use e2e::proxy::{Fault, Handle, On, Reply};
use e2e::s3::{Bucket, S3};
use e2e::shared::Shared;
use e2e::site::Site;
use e2e::snapshots;

use crate::common::{complaints, counted, local_record};
use crate::invariants::{Left, as_found, hears, invariants, uploads_in_parts};
use crate::look::{annotation, bucket_becomes, bucket_passes, expected, falls_ill, is_well, value, warnings};
use crate::retention::{HOUR, hours_ago, place_old, removed, whole};
use crate::uploads::{LARGE, PARTS, Uploading, backlog, uploads};

impl Uploading {
    /// To a bucket that locks every object for a day. What is sent there without an MD5 is refused as S3 refuses it.
    async fn locked() -> Result<Self> {
        let mut site = Site::new().await?;
        site.bucket = site.s3.locked_bucket(&format!("{}-locked", site.bucket.name)).await?;
        let up = Self::on(site)?;
        up.age();
        let bare = On::method("PUT").without_header("content-md5");
        up.s3.when(bare, Fault::s3(400, "InvalidRequest"));
        Ok(up)
    }

    /// Lets files go up that were saved so many hours ago, one after the other, so that they change in the bucket in their order.
    async fn one_by_one(&self, operator: &mut Operator, files: &[(u64, usize)]) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for (hours, size) in files {
            let name = self.site.name(hours_ago(*hours)?);
            snapshots::age(&self.site.place(&name, &snapshots::sized(*hours, *size))?, hours * HOUR)?;
            names.push(name);
            bucket_becomes(operator, &self.site, &whole(&names)).await?;
        }
        Ok(names)
    }
}

/// Keys of the data that a bucket with versions still has, and of those that are marked as deleted.
async fn versions(bucket: &Bucket) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
    let listed = bucket.client.list_object_versions().bucket(&bucket.name).send().await?;
    let data = listed.versions().iter().filter_map(|version| version.key().map(str::to_owned)).collect();
    let marked = listed.delete_markers().iter().filter_map(|marker| marker.key().map(str::to_owned)).collect();
    Ok((data, marked))
}

#[tokio::test]
async fn a_bucket_with_object_lock_takes_what_goes_up_and_keeps_the_data_of_what_goes() -> Result<()> {
    let up = Uploading::locked().await?;
    let site = &up.site;
    let setup = up.setup.clone().flag("--etcd-s3-retention", "3");
    let mut operator = setup.start().await?;
    let mut files = up.one_by_one(&mut operator, &[(40, 40_000), (39, LARGE), (38, 5_000)]).await?;
    ensure!(up.s3.count(&up.object("PUT", &files[1]).query("partNumber")) == PARTS, "the large one goes up in parts");
    files.push(place_old(site, 2)?);
    bucket_becomes(&mut operator, site, &whole(&files[1..])).await?;
    ensure!(removed(&operator, "s3", "beyond-retention").await? == 1);
    backlog(&mut operator, 0.0, 0.0).await?;
    is_well(&mut operator).await?;
    let (data, marked) = versions(&site.bucket).await?;
    let of_oldest = BTreeSet::from([site.key(&files[0]), site.key(&format!(".metadata/{}", files[0]))]);
    ensure!(marked == of_oldest && of_oldest.is_subset(&data), "marked are {marked:#?}, and there is {data:#?}");
    ensure!(uploads(&operator, "done").await? == 4 && uploads(&operator, "failed").await? == 0);
    ensure!(counted(&operator, "etcd_snapshot_vanished_total", &[]).await? < 0.5);
    invariants(operator, &setup, site, &Left::new(&files, &files[1..])).await
}

#[tokio::test]
async fn what_object_lock_holds_fast_is_said_once_asked_for_once_a_pass_and_stops_nothing_else() -> Result<()> {
    let up = Uploading::locked().await?;
    let site = &up.site;
    let setup = up.setup.clone().flag("--etcd-s3-retention", "3");
    let mut operator = setup.start().await?;
    let mut files = up.one_by_one(&mut operator, &[(40, 5_000), (39, 5_000), (38, 5_000)]).await?;
    // As servers word it that lock without versions.
    let body = "<Error><Code>AccessDenied</Code><Message>Access Denied because object protected by object lock.</Message></Error>";
    let refusal = Reply::status(403).header("Content-Type", "application/xml").body(body);
    let locked = up.s3.when(up.object("DELETE", &files[0]), Fault::Reply(refusal));
    files.push(place_old(site, 2)?);
    let words = "object lock keeps it in the bucket; it can go when its retention or legal hold has ended";
    falls_ill(&mut operator, "retention in the bucket", words).await?;
    let notes = hears(&mut operator, site, "ETCDSnapshotRetentionFailedS3", 1).await?;
    ensure!(notes[0].starts_with(&format!("deleting s3://{}/{} at ", site.bucket.name, site.key(&files[0]))) && notes[0].contains(words));
    // The new one is there, the old one with its record, too.
    bucket_becomes(&mut operator, site, &whole(&files)).await?;
    let passes = async |operator: &Operator| value(operator, "reconcile_s3_duration_seconds_count", &[]).await;
    let (asked, begun) = (locked.hits(), passes(&operator).await?);
    bucket_passes(&mut operator, 3).await?;
    let (asked, ended) = (locked.hits() - asked, passes(&operator).await? - begun);
    ensure!((2..=ended + 1).contains(&u64::try_from(asked)?), "asked {asked} times in {ended} passes");
    ensure!(warnings(&operator, words) == 1 && hears(&mut operator, site, "ETCDSnapshotRetentionFailedS3", 1).await?.len() == 1);
    ensure!(value(&operator, "actions_total", &[("action", "prune"), ("outcome", "failed")]).await? >= 3);
    ensure!(value(&operator, "s3_requests_total", &[("operation", "DeleteObject"), ("outcome", "denied")]).await? >= 3);
    ensure!(removed(&operator, "s3", "beyond-retention").await? == 0);
    // The lock has ended.
    locked.remove();
    bucket_becomes(&mut operator, site, &whole(&files[1..])).await?;
    is_well(&mut operator).await?;
    invariants(operator, &setup, site, &Left::new(&files, &files[1..])).await
}

/// Waits until the rule holds a request.
async fn holds(operator: &mut Operator, held: &Handle) -> Result<()> {
    operator
        .until("a request to be held", async |_| {
            ensure!(held.hits() > 0);
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_asked_before_whatever_would_overwrite() -> Result<()> {
    let (server, shared) = (S3::start_open().await?, Shared::get()?);
    let up = Uploading::on(Site::on(&shared.api, server.access()).await?)?;
    let site = &up.site;
    let name = |number: i64| site.name(1_700_000_000 + number);
    up.s3.when(On::method("POST").header("if-none-match"), Fault::Unheard("if-none-match"));
    // A test that finds the header kept would show nothing.
    let (fine, theirs, large) = (name(0), name(1), name(2));
    let puts = up.s3.when(On::method("PUT").header("if-none-match").times(2), Fault::Unheard("if-none-match"));
    site.place(&fine, &snapshots::tiny(0))?;
    let mut operator = up.setup.start().await?;
    bucket_becomes(&mut operator, site, &expected([(&fine, "whole")])).await?;
    ensure!(puts.hits() == 2 && complaints(&operator, "If-None-Match").is_empty(), "it hides that it ignores them");
    up.s3.when(On::method("PUT").header("if-none-match"), Fault::Unheard("if-none-match"));

    // What was there before; and what came while the parts of ours went up.
    site.bucket.put(&site.key(&theirs), snapshots::tiny(9)).await?;
    site.place(&theirs, &snapshots::tiny(1))?;
    let held = up.s3.when(up.object("PUT", &large).query_is("partNumber", "1"), Fault::Hold);
    site.place(&large, &snapshots::sized(2, LARGE))?;
    // The rule that takes the condition away is older, and a part has none.
    holds(&mut operator, &held).await?;
    site.bucket.put(&site.key(&large), snapshots::tiny(8)).await?;
    held.release();
    held.remove();
    hears(&mut operator, site, "ETCDSnapshotUploadConflict", 2).await?;
    let told = local_record(site, &large).await?;
    ensure!(annotation(&told, "upload").is_some_and(|told| told.contains("there is another object under this key")), "{told:?}");
    ensure!(
        site.bucket.get(&site.key(&theirs)).await? == snapshots::tiny(9) && site.bucket.get(&site.key(&large)).await? == snapshots::tiny(8)
    );
    ensure!(up.s3.count(&up.object("POST", &large).query("uploadId")) == 0, "it was completed");
    ensure!(uploads_in_parts(&site.bucket).await?.is_empty(), "its parts are left");
    falls_ill(&mut operator, "uploads", "there is another object under this key").await?;
    let foreign = as_found(&site.bucket, [site.key(&theirs), site.key(&large)]).await?;
    let local = [fine.clone(), theirs, large];
    invariants(operator, &up.setup, site, &Left::new(&local, slice::from_ref(&fine)).foreign(foreign).in_vain()).await
}
