//! What `upload` and `save` have in common: files go up, and each end is told.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::terminal::{complain, print};
use super::trouble::Trouble;
use super::{DONE, FAILED, PARTLY};
use crate::controller::by_hand::ByHand;
use crate::controller::outcome::Outcome;
use crate::decide::{Action, Asked, Veto};
use crate::snapshot::{FileName, Upload};

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
    let (mut planned, mut tried) = (BTreeSet::new(), BTreeSet::new());
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
            planned.insert(file.name.clone());
            if *outcome == Outcome::Started {
                tried.insert(file.name.clone());
            }
        }
        if stop.is_cancelled() {
            return Err(Trouble::failed("interrupted: what was begun is gone on with the next time"));
        }
        if hand.next_upload().await {
            continue;
        }
        // An agent of this node may be sending it: then it is waited for, and looked at again.
        let uploads = hand.uploads().await;
        let has_ended = |name: &FileName| matches!(uploads.get(name), Some(Upload::Done | Upload::Failed { .. }));
        if tried.iter().all(has_ended) || Instant::now() >= until {
            break;
        }
        tried.retain(has_ended);
        stop.run_until_cancelled(sleep(PAUSE)).await;
        hand.again();
    }
    let (mut up, mut failed) = (0, 0);
    let mut uploads = hand.uploads().await;
    for name in &planned {
        let why = match uploads.remove(name) {
            Some(Upload::Done) => {
                up += 1;
                print(&format!("Snapshot {name} uploaded.\n"))?;
                continue;
            }
            Some(Upload::Failed { why, .. }) => why,
            Some(Upload::Begun { .. }) => "another process is sending it, or it was begun and is gone on with the next time".into(),
            None => "another process is sending it, or it changed since it was looked at; look again".into(),
        };
        failed += 1;
        complain(&Trouble::failed(format!("{name} is not uploaded")).because(why));
    }
    let code = match (up, failed) {
        (_, 0) => DONE,
        (0, _) => FAILED,
        _ => PARTLY,
    };
    Ok(Sent { planned, code })
}
