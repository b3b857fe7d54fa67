//! Bad days of an upload: cut at each of its points, killed at each of its points, refused, put off, lied to. In the end there
//! is one whole object with its sidecar, or none and a sentence that says why.

// The values compared are counts and gauges of whole things.
#![allow(clippy::float_cmp)]

use std::slice;

use anyhow::{Result, ensure};
use e2e::operator::Operator;
use e2e::proxy::{Fault, Handle, On};
use e2e::snapshots;
use e2e::wait;

use crate::common::{all_ready, complaints, counted, local_record, rises};
use crate::invariants::{Left, hears, invariants, told, uploads_in_parts};
use crate::look::{annotation, bucket_becomes, expected, falls_ill, is_well, value};
use crate::uploads::{LARGE, PARTS, Uploading, backlog, uploads};

/// Waits until a rule has spoiled so many requests.
async fn spoils(operator: &mut Operator, rule: &Handle, requests: usize) -> Result<()> {
    operator
        .until(&format!("{requests} requests to be spoiled"), async |_| {
            ensure!(rule.hits() >= requests, "{}", rule.hits());
            Ok(())
        })
        .await
}

impl Uploading {
    /// With one file that goes up in parts.
    pub async fn with_large() -> Result<(Self, String)> {
        let up = Self::new().await?;
        let name = up.place_large()?;
        Ok((up, name))
    }

    fn place_large(&self) -> Result<String> {
        let name = self.site.name(1_700_000_000);
        self.site.place(&name, &snapshots::sized(1, LARGE))?;
        Ok(name)
    }

    pub fn part(&self, name: &str, number: usize) -> On {
        self.object("PUT", name).query_is("partNumber", &number.to_string())
    }

    pub fn begun(&self, name: &str) -> usize {
        self.s3.count(&self.object("POST", name).query("uploads"))
    }

    fn completion(&self, name: &str) -> On {
        self.object("POST", name).query("uploadId")
    }

    /// The file is whole in the bucket, and everything is as it should be.
    pub async fn ends_well(&self, mut operator: Operator, name: &String) -> Result<()> {
        bucket_becomes(&mut operator, &self.site, &expected([(name, "whole")])).await?;
        backlog(&mut operator, 0.0, 0.0).await?;
        is_well(&mut operator).await?;
        invariants(operator, &self.setup, &self.site, &Left::new(slice::from_ref(name), slice::from_ref(name))).await
    }
}

#[tokio::test]
async fn an_upload_that_is_cut_goes_on_where_it_was() -> Result<()> {
    for cut in [3, PARTS] {
        goes_on_where_it_was_cut(Uploading::new().await?, cut).await?;
    }
    Ok(())
}

/// A large file, cut in this part of it.
pub async fn goes_on_where_it_was_cut(up: Uploading, cut: usize) -> Result<()> {
    let name = up.place_large()?;
    // However often it is sent.
    let rule = up.s3.when(up.part(&name, cut), Fault::CutRequest(100_000));
    let mut operator = up.setup.start().await?;
    falls_ill(&mut operator, "uploads", "uploading a part of s3://").await?;
    ensure!(uploads(&operator, "failed").await? > 0 && uploads(&operator, "done").await? == 0);
    backlog(&mut operator, 1.0, 1_700_000_000.0).await?;
    let record = local_record(&up.site, &name).await?;
    ensure!(annotation(&record, "upload").is_some_and(|told| told.contains(r#""phase":"failed""#)), "{record:?}");
    ensure!(value(&operator, "upload_parts_retried_total", &[]).await? > 0, "a part is sent more than once before it is given up");
    ensure!(!up.site.bucket.keys().await?.contains(&up.site.key(&name)), "there is an object");
    // The leader tells of what failed where an object would be.
    bucket_tells_failure(&mut operator, &up, &name).await?;
    rule.remove();
    bucket_becomes(&mut operator, &up.site, &expected([(&name, "whole")])).await?;
    ensure!(up.begun(&name) == 1, "it was begun {} times", up.begun(&name));
    for number in (1..=PARTS).filter(|number| *number < cut) {
        let sent = up.s3.count(&up.part(&name, number));
        ensure!(sent == 1, "part {number} was sent {sent} times");
    }
    up.ends_well(operator, &name).await
}

/// The record of an upload that failed: as K3s shows one.
async fn bucket_tells_failure(operator: &mut Operator, up: &Uploading, name: &str) -> Result<()> {
    operator
        .until("the leader to tell of the failure", async |_| {
            let records = up.site.bucket_records().await?;
            let is_it = |record: &kube::api::DynamicObject| {
                record.data["status"]["readyToUse"] == false
                    && record.data["status"]["error"]["message"].as_str().is_some_and(|why| why.contains("uploading"))
            };
            ensure!(records.len() == 1 && is_it(&records[0]) && records[0].data["spec"]["snapshotName"] == name, "{records:?}");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_sidecar_that_is_refused_comes_later_and_the_file_is_sent_once() -> Result<()> {
    let up = Uploading::new().await?;
    let name = up.site.name(1_700_000_000);
    up.site.place(&name, &snapshots::tiny(1))?;
    let rule = up.s3.when(up.sidecar("PUT", &name), Fault::s3(403, "AccessDenied"));
    let mut operator = up.setup.start().await?;
    falls_ill(&mut operator, "uploads", "was refused (403 AccessDenied): the credentials need s3:PutObject").await?;
    // The leader has seen what there is of it: nothing that is proven.
    bucket_becomes(&mut operator, &up.site, &expected([(&name, "plausible")])).await?;
    operator.beats(2).await?;
    backlog(&mut operator, 1.0, 1_700_000_000.0).await?;
    rule.remove();
    bucket_becomes(&mut operator, &up.site, &expected([(&name, "whole")])).await?;
    ensure!(up.s3.count(&up.object("PUT", &name)) == 1, "the file was sent again");
    up.ends_well(operator, &name).await
}

#[tokio::test]
async fn an_answer_that_is_lost_after_it_succeeded_makes_no_second_object() -> Result<()> {
    // One request, in parts, and the sidecar; once, and as often as it is sent again in one try.
    for (large, times) in [(false, 1), (false, 5), (true, 1), (true, 5)] {
        let (up, name) = if large {
            Uploading::with_large().await?
        } else {
            let up = Uploading::new().await?;
            let name = up.site.name(1_700_000_000);
            up.site.place(&name, &snapshots::tiny(1))?;
            (up, name)
        };
        let on = if large { up.completion(&name) } else { up.object("PUT", &name) };
        let file = up.s3.when(on.times(times), Fault::LoseAnswer);
        let sidecar = up.s3.when(up.sidecar("PUT", &name).times(times), Fault::LoseAnswer);
        let mut operator = up.setup.start().await?;
        bucket_becomes(&mut operator, &up.site, &expected([(&name, "whole")])).await?;
        ensure!(file.hits() >= 1 && sidecar.hits() >= 1, "{} {}", file.hits(), sidecar.hits());
        ensure!(up.begun(&name) == usize::from(large), "it was begun {} times", up.begun(&name));
        ensure!(told(&up.site).await?.iter().all(|(reason, ..)| reason != "ETCDSnapshotUploadConflict"), "it met itself");
        up.ends_well(operator, &name).await?;
    }
    Ok(())
}

/// Where an upload is held when its operator is killed.
#[derive(Debug, Clone, Copy)]
enum At {
    Begin,
    Part(usize),
    PartAnswer(usize),
    Complete,
    CompleteAnswer,
    Sidecar,
    SidecarAnswer,
}

#[tokio::test]
async fn killed_at_each_point_the_next_start_goes_on() -> Result<()> {
    for at in [At::Begin, At::Part(4), At::PartAnswer(PARTS), At::Complete, At::CompleteAnswer, At::Sidecar, At::SidecarAnswer] {
        let (up, name) = Uploading::with_large().await?;
        let (on, fault) = match at {
            // The server never hears of it: an upload that was begun and whose id nobody heard is the leader's, days later.
            At::Begin => (up.object("POST", &name).query("uploads"), Fault::BlackHole),
            At::Part(number) => (up.part(&name, number), Fault::Hold),
            At::PartAnswer(number) => (up.part(&name, number), Fault::HoldAnswer),
            At::Complete => (up.completion(&name), Fault::Hold),
            At::CompleteAnswer => (up.completion(&name), Fault::HoldAnswer),
            At::Sidecar => (up.sidecar("PUT", &name), Fault::Hold),
            At::SidecarAnswer => (up.sidecar("PUT", &name), Fault::HoldAnswer),
        };
        let rule = up.s3.when(on.times(1), fault);
        let mut operator = up.setup.start().await?;
        spoils(&mut operator, &rule, 1).await?;
        if matches!(at, At::PartAnswer(_) | At::Part(_)) {
            // All others have arrived.
            operator
                .until("the other parts", async |_| {
                    let sent = up.s3.count(&up.object("PUT", &name).query("partNumber"));
                    ensure!(sent >= PARTS, "{sent}");
                    Ok(())
                })
                .await?;
        }
        // What the leader has seen by now is in its records: that must not be taken for the whole.
        operator.beats(2).await?;
        operator.kill();
        rule.release();
        let sent = up.s3.count(&up.object("PUT", &name).query("partNumber"));
        let mut operator = up.setup.start().await?;
        bucket_becomes(&mut operator, &up.site, &expected([(&name, "whole")])).await?;
        is_well(&mut operator).await?;
        let (begun, again) = (up.begun(&name), up.s3.count(&up.object("PUT", &name).query("partNumber")) - sent);
        ensure!(begun <= 1 + usize::from(matches!(at, At::Begin)), "{at:?}: it was begun {begun} times");
        let most = match at {
            At::Begin => PARTS,
            At::Part(_) => 3,
            At::PartAnswer(_) => 1,
            _ => 0,
        };
        ensure!(again <= most, "{at:?}: {again} parts were sent again");
        ensure!(up.s3.count(&up.sidecar("PUT", &name)) <= 2, "{at:?}");
        up.ends_well(operator, &name).await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_is_refused_is_said_and_goes_up_when_it_is_not_refused_any_more() -> Result<()> {
    let up = Uploading::new().await?;
    let site = &up.site;
    let first = site.name(1_700_000_000);
    site.place(&first, &snapshots::tiny(0))?;
    let mut operator = up.setup.start().await?;
    bucket_becomes(&mut operator, site, &expected([(&first, "whole")])).await?;
    let mut names = vec![first];
    let snapshots_of = On::method("PUT").path(&format!("/{}/folder/*", site.bucket.name));
    for (number, (status, code, words)) in (1..).zip([
        (403, "AccessDenied", "the credentials need s3:PutObject on the objects of the folder"),
        (403, "RequestTimeTooSkewed", "the clock of this machine and the server's are too far apart; set this machine's"),
        (507, "QuotaExceeded", "the bucket is full"),
        (503, "SlowDown", "was put off by the server (503 SlowDown)"),
        (500, "InternalError", "failed in the server (500 InternalError)"),
        (409, "ConditionalRequestConflict", "somebody else is writing or deleting this key"),
        (412, "PreconditionFailed", "somebody else is writing or deleting this key"),
    ]) {
        let rule = up.s3.when(snapshots_of.clone(), Fault::s3(status, code));
        let name = site.name(1_700_000_000 + number);
        site.place(&name, &snapshots::tiny(u64::try_from(number)?))?;
        falls_ill(&mut operator, "uploads", words).await?;
        backlog(&mut operator, 1.0, 1_700_000_000.0 + f64::from(i32::try_from(number)?)).await?;
        ensure!(local_record(site, &name).await?.data["status"]["readyToUse"] == true, "the file itself is whole");
        ensure!(!site.bucket.keys().await?.contains(&site.key(&name)));
        rule.remove();
        names.push(name);
        bucket_becomes(&mut operator, site, &expected(names.iter().map(|name| (name, "whole")))).await?;
        is_well(&mut operator).await?;
        backlog(&mut operator, 0.0, 0.0).await?;
    }
    ensure!(uploads(&operator, "done").await? == 8 && uploads(&operator, "failed").await? >= 7);
    ensure!(value(&operator, "s3_requests_total", &[("operation", "PutObject"), ("outcome", "throttled")]).await? > 0);
    ensure!(value(&operator, "s3_requests_total", &[("operation", "PutObject"), ("outcome", "denied")]).await? > 0);
    invariants(operator, &up.setup, site, &Left::new(&names, &names)).await
}

#[tokio::test]
async fn a_store_without_conditions_is_asked_before_each_upload_and_said_once() -> Result<()> {
    let up = Uploading::new().await?;
    let site = &up.site;
    // What the store would answer to If-None-Match; without it requests pass.
    let proxy = up.s3.when(On::method("PUT").header("if-none-match"), Fault::s3(501, "NotImplemented"));
    let names: Vec<String> = (0..3).map(|number| site.name(1_700_000_000 + number)).collect();
    site.place(&names[0], &snapshots::tiny(0))?;
    let mut operator = up.setup.start().await?;
    bucket_becomes(&mut operator, site, &expected([(&names[0], "whole")])).await?;
    let hits = proxy.hits();
    ensure!(hits >= 1 && complaints(&operator, "the server does not know If-None-Match").len() == 1);
    // From now on there is no condition, and the question alone keeps what is there.
    site.bucket.put(&site.key(&names[1]), snapshots::tiny(9)).await?;
    for (number, name) in (1..).zip(&names[1..]) {
        site.place(name, &snapshots::tiny(number))?;
    }
    hears(&mut operator, site, "ETCDSnapshotUploadConflict", 1).await?;
    bucket_becomes(&mut operator, site, &expected([(&names[0], "whole"), (&names[1], "plausible"), (&names[2], "whole")])).await?;
    ensure!(proxy.hits() == hits, "it is asked for conditions again and again");
    ensure!(site.bucket.get(&site.key(&names[1])).await? == snapshots::tiny(9), "a stranger's object was overwritten");
    ensure!(complaints(&operator, "the server does not know If-None-Match").len() == 1);
    invariants(operator, &up.setup, site, &Left::new(&names, &names).in_vain()).await
}

#[tokio::test]
async fn a_file_that_changes_while_it_goes_up_leaves_nothing_of_it_there() -> Result<()> {
    let (up, name) = Uploading::with_large().await?;
    let site = &up.site;
    let held = up.s3.when(up.part(&name, 1), Fault::Hold);
    let mut operator = up.setup.start().await?;
    spoils(&mut operator, &held, 1).await?;
    // Not another file under its name: other bytes in the very file that is being read.
    let file = std::fs::File::options().write(true).open(site.snapshots().join(&name))?;
    std::os::unix::fs::FileExt::write_all_at(&file, &[7; 512], u64::try_from(LARGE)? - 4096)?;
    drop(file);
    held.release();
    held.remove();
    falls_or_is_damaged(&mut operator, &up, &name).await?;
    operator.beats(2).await?;
    ensure!(site.bucket.keys().await?.is_empty(), "{:?}", site.bucket.keys().await?);
    wait::until("the parts to be given up", async || {
        let left = uploads_in_parts(&site.bucket).await?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await?;
    ensure!(uploads(&operator, "done").await? == 0);
    backlog(&mut operator, 0.0, 0.0).await?;
    // Whole again, it goes up as what it is now.
    site.place(&name, &snapshots::sized(2, LARGE))?;
    up.ends_well(operator, &name).await
}

/// The damage is seen in the directory.
async fn falls_or_is_damaged(operator: &mut Operator, up: &Uploading, name: &str) -> Result<()> {
    operator
        .until("the damage to be seen", async |_| {
            let record = local_record(&up.site, name).await?;
            ensure!(annotation(&record, "verdict") == Some("damaged"), "{record:?}");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_file_that_is_deleted_while_it_goes_up_takes_its_parts_with_it() -> Result<()> {
    let (up, name) = Uploading::with_large().await?;
    let site = &up.site;
    let rule = up.s3.when(up.part(&name, 4), Fault::CutRequest(1000));
    let mut operator = up.setup.start().await?;
    falls_ill(&mut operator, "uploads", "uploading a part of").await?;
    ensure!(uploads_in_parts(&site.bucket).await?.len() == 1);
    // Who may upload may not be allowed to abort: it is said, and tried again with each beat.
    let kept = up.s3.when(up.object("DELETE", &name).query("uploadId"), Fault::s3(403, "AccessDenied"));
    std::fs::remove_file(site.snapshots().join(&name))?;
    falls_ill(&mut operator, "retention", "was refused (403 AccessDenied): the credentials need s3:AbortMultipartUpload").await?;
    ensure!(value(&operator, "actions_total", &[("action", "abort"), ("outcome", "failed")]).await? > 0);
    ensure!(value(&operator, "s3_requests_total", &[("operation", "AbortMultipartUpload"), ("outcome", "denied")]).await? > 0);
    ensure!(uploads_in_parts(&site.bucket).await?.len() == 1);
    kept.remove();
    operator
        .until("the parts to be given up", async |_| {
            let left = uploads_in_parts(&site.bucket).await?;
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
        .await?;
    rule.remove();
    backlog(&mut operator, 0.0, 0.0).await?;
    rises(&mut operator, "etcd_snapshot_actions_total", &[("action", "abort"), ("outcome", "done")], 0.0).await?;
    is_well(&mut operator).await?;
    invariants(operator, &up.setup, site, &Left::new(&[], &[])).await
}

#[tokio::test]
async fn nobody_elses_upload_in_parts_is_touched() -> Result<()> {
    let (up, name) = Uploading::with_large().await?;
    let site = &up.site;
    let client = &site.bucket.client;
    let begin = async |key: String| -> Result<String> {
        let begun = client.create_multipart_upload().bucket(&site.bucket.name).key(&key).send().await?;
        Ok(begun.upload_id.unwrap_or_default())
    };
    // Under the very key, and under another one.
    let theirs = [begin(site.key(&name)).await?, begin(site.key("elsewhere")).await?];
    let mut operator = up.setup.start().await?;
    bucket_becomes(&mut operator, site, &expected([(&name, "whole")])).await?;
    operator.beats(3).await?;
    let left: Vec<String> = uploads_in_parts(&site.bucket).await?.into_iter().map(|(_, id)| id).collect();
    ensure!(left.len() == 2 && theirs.iter().all(|id| left.contains(id)), "{theirs:?} became {left:?}");
    for (key, id) in uploads_in_parts(&site.bucket).await? {
        client.abort_multipart_upload().bucket(&site.bucket.name).key(key).upload_id(id).send().await?;
    }
    up.ends_well(operator, &name).await
}

#[tokio::test]
async fn a_black_hole_of_a_bucket_holds_up_no_file_and_all_goes_up_after_it() -> Result<()> {
    let up = Uploading::new().await?;
    let site = &up.site;
    let mut files: Vec<String> = vec![site.name(1_700_000_000)];
    site.place(&files[0], &snapshots::tiny(0))?;
    let mut operator = up.setup.clone().flag("--etcd-s3-timeout", "3s").start().await?;
    all_ready(&mut operator, site, &files, &[]).await?;
    up.s3.black_hole();
    for number in 1..6 {
        files.push(site.name(1_700_000_000 + number));
        site.place(&files[usize::try_from(number)?], &snapshots::tiny(u64::try_from(number)?))?;
    }
    backlog(&mut operator, 5.0, 1_700_000_001.0).await?;
    rises(&mut operator, "etcd_snapshot_actions_total", &[("action", "upload"), ("outcome", "failed")], 0.0).await?;
    ensure!(counted(&operator, "etcd_snapshot_files", &[("storage", "local"), ("kind", "good")]).await? == 6.0);
    up.s3.restore();
    all_ready(&mut operator, site, &files, &[]).await?;
    backlog(&mut operator, 0.0, 0.0).await?;
    is_well(&mut operator).await?;
    invariants(operator, &up.setup, site, &Left::new(&files, &files)).await
}
