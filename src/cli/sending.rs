//! What `upload` and `save` have in common: files go up, and each end is told.

use std::collections::{BTreeMap, BTreeSet};

use tokio_util::sync::CancellationToken;

use super::terminal::{complain, print};
use super::trouble::Trouble;
use super::{DONE, FAILED, PARTLY};
use crate::controller::by_hand::ByHand;
use crate::controller::outcome::Outcome;
use crate::decide::{Action, Veto};
use crate::snapshot::FileName;

/// What went up.
pub struct Sent {
    /// What should.
    pub planned: BTreeSet<FileName>,
    /// How it went.
    pub code: u8,
}

/// Sends what is asked for, and waits for it.
pub async fn send(hand: &mut ByHand, stop: &CancellationToken) -> Result<Sent, Trouble> {
    if !hand.find_bucket().await? {
        return Err(Trouble::usage("there is no bucket: S3 is turned off"));
    }
    let mut ends: BTreeMap<FileName, Option<String>> = BTreeMap::new();
    loop {
        let passed = hand.directory().await;
        if let Some(failure) = passed.incomplete {
            return Err(Trouble::from(failure));
        }
        for (step, outcome) in passed.plan.steps().iter().zip(&passed.outcomes) {
            let Action::Upload(file, _) = &step.action else { continue };
            if step.veto == Some(Veto::K3sAtWork) {
                return Err(Trouble::refused("nothing goes up: K3s is at work on the bucket, and manages its own snapshots"));
            }
            let failed = match outcome {
                Outcome::Failed(failure) => Some(failure.to_string()),
                _ => None,
            };
            ends.insert(file.name.clone(), failed);
        }
        if stop.is_cancelled() {
            return Err(Trouble::failed("interrupted: what was begun is gone on with the next time"));
        }
        if !hand.next_upload().await {
            break;
        }
    }
    let (mut up, mut failed) = (0, 0);
    for (name, why) in hand.ended_uploads().await.into_iter().filter(|(name, _)| ends.contains_key(name)) {
        match why {
            None => {
                up += 1;
                print(&format!("Snapshot {name} uploaded.\n"))?;
            }
            Some(why) => {
                failed += 1;
                complain(&Trouble::failed(format!("{name} is not uploaded")).because(why));
            }
        }
    }
    let code = match (up, failed) {
        (_, 0) => DONE,
        (0, _) => FAILED,
        _ => PARTLY,
    };
    Ok(Sent { planned: ends.into_keys().collect(), code })
}
