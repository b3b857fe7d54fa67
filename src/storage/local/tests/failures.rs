//! Tests of what the state remembers of saves that failed.

use jiff::Timestamp;

use super::*;
use crate::snapshot::{BaseName, FailedSave};

fn failed(file: &str, at: i64) -> FailedSave {
    FailedSave { file: FileName::new(file).unwrap(), at: Timestamp::from_second(at).unwrap(), why: "cut".into() }
}

#[tokio::test]
async fn failed_saves_are_remembered_over_a_restart_until_one_of_their_base_succeeds() {
    let place = Place::new();
    let directory = place.open();
    assert_eq!(directory.failed_saves().await.unwrap(), []);
    let all = [failed("etcd-snapshot-cp1-1", 1), failed("on-demand-cp1-2", 2), failed("etcd-snapshot-cp1-3", 3)];
    for one in all.clone() {
        directory.note_failed_save(one).await.unwrap();
    }
    let again = place.open();
    assert_eq!(again.failed_saves().await.unwrap(), all);
    again.forget_failed_saves(&BaseName::default(), &NodeName::new("cp1").unwrap()).await.unwrap();
    assert_eq!(again.failed_saves().await.unwrap(), [all[1].clone()]);
    for second in 0..50 {
        again.note_failed_save(failed(&format!("etcd-snapshot-cp1-{second}"), second)).await.unwrap();
    }
    let left = again.failed_saves().await.unwrap();
    assert_eq!((left.len(), left.last()), (20, Some(&failed("etcd-snapshot-cp1-49", 49))));
}
