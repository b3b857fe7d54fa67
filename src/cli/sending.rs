//! What `upload` and `save` have in common: files go up, and each end is told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::terminal::{complain, print};
use super::trouble::Trouble;
use super::{DONE, FAILED, PARTLY};
use crate::controller::by_hand::ByHand;
use crate::controller::outcome::Outcome;
use crate::controller::upload::End;
use crate::decide::{Action, Asked, Veto};
use crate::snapshot::FileName;

/// How long a file that another process is sending is waited for, and how often it is looked at.
const PATIENCE: Duration = Duration::from_mins(5);
const PAUSE: Duration = Duration::from_secs(1);

/// What went up.
pub struct Sent {
    /// What should.
    pub planned: BTreeSet<FileName>,
    /// How it went.
    pub code: u8,
}

/// Sends these, or all that the bucket lacks, and waits for it, also where an agent of this node is faster. Each is tried once.
pub async fn send(hand: &mut ByHand, only: &BTreeSet<FileName>, stop: &CancellationToken) -> Result<Sent, Trouble> {
    if !hand.find_bucket().await? {
        return Err(Trouble::usage("there is no bucket: S3 is turned off"));
    }
    let (mut planned, mut tried, mut ends) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
    let until = Instant::now() + PATIENCE;
    loop {
        hand.ask(Asked::Upload { only: only.clone(), tried: tried.clone() });
        let passed = hand.directory().await;
        if let Some(failure) = passed.incomplete {
            return Err(Trouble::from(failure));
        }
        for (step, outcome) in passed.plan.steps().iter().zip(&passed.outcomes) {
            let Action::Upload(file, _) = &step.action else { continue };
            if step.veto == Some(Veto::K3sAtWork) {
                return Err(Trouble::refused("nothing goes up: K3s is at work on the bucket, and manages its own snapshots"));
            }
            planned.insert(file.name.clone(), file.clone());
            if *outcome == Outcome::Started {
                tried.insert(file.name.clone());
            }
        }
        if stop.is_cancelled() {
            return Err(Trouble::failed("interrupted: what was begun is gone on with the next time"));
        }
        let runs = hand.next_upload().await;
        let ended = hand.upload_ends();
        // A slot is free now.
        let again = runs || !ended.is_empty();
        ends.extend(ended);
        if again {
            continue;
        }
        // An agent of this node is sending it, and may have recorded it before the next pass: so the bucket itself is asked.
        let elsewhere: Vec<_> = planned.values().filter(|file| ends.get(&file.name) == Some(&End::Elsewhere)).collect();
        if elsewhere.is_empty() || Instant::now() >= until {
            break;
        }
        stop.run_until_cancelled(sleep(PAUSE)).await;
        for file in elsewhere {
            hand.send_again(file).await;
        }
    }
    let (mut up, mut failed) = (0, 0);
    for name in planned.keys() {
        let why = match ends.remove(name) {
            Some(End::Done) => {
                up += 1;
                print(&format!("Snapshot {name} uploaded.\n"))?;
                continue;
            }
            Some(End::Failed(failure)) => failure.to_string(),
            Some(End::Elsewhere) => format!("another process has been sending it for {} minutes", PATIENCE.as_secs() / 60),
            Some(End::Left) | None => "it changed since it was looked at; look again".into(),
        };
        failed += 1;
        complain(&Trouble::failed(format!("{name} is not uploaded")).because(why));
    }
    let code = match (up, failed) {
        (_, 0) => DONE,
        (0, _) => FAILED,
        _ => PARTLY,
    };
    Ok(Sent { planned: planned.into_keys().collect(), code })
}
