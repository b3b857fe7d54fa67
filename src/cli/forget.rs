//! `prune --forget-storage`: the records of a bucket that nobody looks after any more.
//!
//! In: the records, and which bucket is meant. Out: its records are gone; no object is asked for or touched. It keeps off the bucket of
//! the settings in force, whose records an agent would only write again, and off all while K3s is at work and keeps its own.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::hand::{interrupted, unless_stopped};
use super::removing::{How, confirmed};
use super::terminal::{self, note, print};
use super::trouble::Trouble;
use super::{DONE, FAILED, PARTLY};
use crate::controller::by_hand::ByHand;
use crate::controller::outcome::Outcome;
use crate::record::Record;
use crate::snapshot::Storage;

/// Forgets them; the exit code.
pub async fn forget(hand: &mut ByHand, meant: &str, how: How, stop: &CancellationToken) -> Result<u8, Trouble> {
    let records = hand.records().await?;
    let storage = named(&records, meant)?;
    // Settings that cannot be read may be those of this very bucket.
    if hand.find_bucket().await? && hand.bucket_in_force().as_ref() == Some(&storage) {
        return Err(Trouble::refused(format!("{storage} is the bucket of the settings in force, and its records are kept"))
            .because("turn S3 off, or name another bucket, in the settings of all agents first"));
    }
    if hand.k3s_is_at_work() {
        return Err(Trouble::refused("nothing is forgotten: K3s is at work and keeps its own records"));
    }
    let all: Vec<&Arc<Record>> = records.iter().filter(|record| !record.terminating && record.storage.as_ref() == Some(&storage)).collect();
    let would = format!("{} records of {storage} would be forgotten. No object is touched.", all.len());
    if how.dry_run {
        print(&format!("{would}\n"))?;
        return Ok(DONE);
    }
    if !how.yes && io::stdin().is_terminal() && io::stderr().is_terminal() {
        terminal::say(would);
        if !unless_stopped(stop, confirmed()).await.inspect_err(|_| terminal::say(""))? {
            note("nothing is forgotten");
            return Ok(DONE);
        }
    }
    let (mut gone, mut left) = (0, 0);
    for record in all {
        if stop.is_cancelled() {
            return Err(interrupted());
        }
        match hand.forget(record).await {
            Outcome::Done => gone += 1,
            Outcome::Failed(failure) => {
                left += 1;
                terminal::complain(
                    &Trouble::failed(format!("record {} is not forgotten", record.name.as_str())).because(failure.to_string()),
                );
            }
            _ => {
                left += 1;
                let sentence = format!("record {} is not forgotten: it changed since it was looked at; look again", record.name.as_str());
                terminal::complain(&Trouble::failed(sentence));
            }
        }
    }
    print(&format!("{gone} records of {storage} forgotten.\n"))?;
    Ok(match (gone, left) {
        (_, 0) => DONE,
        (0, _) => FAILED,
        _ => PARTLY,
    })
}

/// The one bucket that is meant: by the name that Events and the log use, or by the shorter one of `ls` where only one is called that.
fn named(records: &[Arc<Record>], meant: &str) -> Result<Storage, Trouble> {
    let buckets: BTreeSet<&Storage> =
        records.iter().filter_map(|record| record.storage.as_ref()).filter(|storage| matches!(storage, Storage::S3 { .. })).collect();
    let meant = meant.trim_end_matches('/');
    let is_meant = |storage: &&&Storage| {
        let whole = storage.to_string();
        let short = whole.split_once(" at ").map_or(whole.as_str(), |(short, _)| short);
        whole == meant || short.trim_end_matches('/') == meant
    };
    let found: Vec<&&Storage> = buckets.iter().filter(is_meant).collect();
    let list = |all: &mut dyn Iterator<Item = &&Storage>| all.map(ToString::to_string).collect::<Vec<_>>();
    match found[..] {
        [one] => Ok((*one).clone()),
        [] => {
            let trouble = Trouble::failed(format!("there are no records of {}", terminal::harmless(meant)));
            let there = list(&mut buckets.iter());
            let there =
                if there.is_empty() { "there are none of any bucket".into() } else { format!("there are some of {}", there.join(", ")) };
            Err(trouble.because(there))
        }
        _ => {
            let names = list(&mut found.into_iter()).join("\" or \"");
            Err(Trouble::usage(format!("--forget-storage should say which one: \"{names}\"")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{FAILED, USAGE};
    use crate::record::api::ETCDSnapshotFile;
    use crate::record::cached::cached;
    use crate::snapshot::Program;

    fn record(name: &str, endpoint: &str, bucket: &str, folder: &str) -> Arc<Record> {
        let location = if folder.is_empty() { format!("s3://{bucket}/x") } else { format!("s3://{bucket}/{folder}/x") };
        let object: ETCDSnapshotFile = serde_json::from_value(serde_json::json!({
            "metadata": { "name": name },
            "spec": {
                "snapshotName": "x", "nodeName": "s3", "location": location,
                "s3": { "endpoint": endpoint, "bucket": bucket, "prefix": folder },
            },
        }))
        .unwrap();
        Arc::new(cached(&object, Program::K3s))
    }

    #[test]
    fn a_bucket_is_named_as_it_is_shown_and_no_other_is_meant() {
        let all = [record("a", "minio:9000", "etcd", "prod"), record("b", "minio:9000", "etcd", ""), record("c", "other", "etcd", "")];
        let of = |meant: &str| named(&all, meant);
        assert_eq!(of("s3://etcd/prod").unwrap(), Storage::s3("minio:9000", true, "etcd", "prod"));
        assert_eq!(of("s3://etcd/prod/").unwrap(), of("s3://etcd/prod at minio:9000").unwrap());
        assert_eq!(of("s3://etcd/ at other").unwrap(), Storage::s3("other", true, "etcd", ""));

        let which = of("s3://etcd").unwrap_err();
        assert_eq!(which.code, USAGE);
        assert!(which.sentence.contains("\"s3://etcd/ at minio:9000\" or \"s3://etcd/ at other\""), "{}", which.sentence);
        let none = of("s3://etc").unwrap_err();
        assert_eq!(none.code, FAILED);
        assert!(none.shown().contains("there are some of s3://etcd/ at minio:9000, "), "{}", none.shown());
        assert!(named(&[], "s3://etcd").unwrap_err().shown().contains("none of any bucket"));
    }
}
