//! An agent that is killed in the middle of saves, and started again.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use anyhow::bail;

use super::*;

fn random(below: u64) -> u64 {
    RandomState::new().hash_one(()) % below
}

#[tokio::test]
async fn killed_in_the_middle_of_saves_each_slot_has_one_attempt_and_nothing_half_is_left() -> Result<()> {
    let saver = Saver::new().await?;
    crate::save::fill(&saver.etcd, 24).await?;
    let (mut seen, mut cut) = (BTreeSet::new(), 0);
    for round in 0..8 {
        let compress = round % 2 == 1;
        let mut setup = saver.operator().saving("@every 2s");
        if compress {
            setup = setup.switch("--etcd-snapshot-compress");
        }
        let mut operator = setup.start().await?;
        operator
            .until("a save that is under way", async |_| if temporaries(&saver.site)?.is_empty() { bail!("none") } else { Ok(()) })
            .await?;
        tokio::time::sleep(Duration::from_millis(random(400))).await;
        operator.kill();
        operator.until_ended().await.ok();
        cut += usize::from(!temporaries(&saver.site)?.is_empty());
        for slot in slots(&operator) {
            ensure!(seen.insert(slot.clone()), "slot {slot} had two attempts");
        }
        honest(&saver).await?;
    }
    ensure!(cut > 0, "no kill was in the middle of a save");
    let mut last = saver.operator().start().await?;
    runs(&mut last, "done").await?;
    ensure!(slots(&last).into_iter().all(|slot| seen.insert(slot)), "a slot had two attempts");
    ensure!(last.terminate().await?.success());
    ensure!(temporaries(&saver.site)?.is_empty(), "{:?}", temporaries(&saver.site)?);
    honest(&saver).await
}

/// Under a final name is a whole snapshot, and only of those a record says so.
async fn honest(saver: &Saver) -> Result<()> {
    let records = saver.site.local_records().await?;
    let files = saver.files()?;
    for name in &files {
        is_whole(&saver.site.snapshots().join(name))?;
        sidecar(&saver.site, name)?;
    }
    for record in records.iter().filter(|record| ready(record)) {
        ensure!(files.iter().any(|name| name == file(record)), "the record of {} is ready, and there is no file", file(record));
    }
    Ok(())
}
