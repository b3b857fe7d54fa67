//! What our etcd member says of its history: asked after each listing, and remembered while the member is away.
//!
//! In: the member, and when the beat began. Out: [`Member`] for decisions. A raft index that falls means that etcd was
//! restored: then the records are listed anew, for they live in the etcd that was restored (docs/design.md 3).

use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::shared::Shared;
use crate::etcd::{self, EtcdAccess};
use crate::health::Part;
use crate::snapshot::{Failure, History, Member};

/// How long a pass waits for the member at most. It has deadlines of its own for each question; this is for all of them.
const ANSWER: Duration = Duration::from_secs(10);
const ABOUT: &str = "asking the etcd member for its history";

/// Asks the member.
pub struct Historian {
    member: etcd::Member,
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    last: Option<History>,
    /// The beat in which the member did not answer: passes that are woken before the next one do not wait for it again.
    unanswered: Option<Timestamp>,
}

impl Historian {
    /// Connects to nothing yet.
    pub fn new(access: EtcdAccess) -> Self {
        Self { member: etcd::Member::new(access), heard: Mutex::default() }
    }

    /// The member itself.
    pub fn member(&self) -> &etcd::Member {
        &self.member
    }

    /// Asks now. One question at a time: an answer that overtakes an older one would look like a fall.
    pub async fn ask(&self, shared: &Shared, beat: Timestamp) -> Member {
        let mut heard = self.heard.lock().await;
        if heard.unanswered != Some(beat) {
            let answer = match timeout(ANSWER, self.member.history()).await {
                Ok(Ok(Some(history))) => Ok(history),
                Ok(Ok(None)) => {
                    Err(Failure::new("no_quorum", format!("the etcd member at {} has no quorum", self.member.access().endpoint)))
                }
                Ok(Err(error)) => Err(Failure::of(error.category(), &error)),
                Err(_) => Err(Failure::new(
                    "timeout",
                    format!("the etcd member at {} gave no answer within {} s", self.member.access().endpoint, ANSWER.as_secs()),
                )),
            };
            let failure = answer.as_ref().err();
            heard.unanswered = failure.map(|_| beat);
            shared.voice.hear(ABOUT, failure);
            shared.metrics.member_answers(failure.is_none());
            let waits = if heard.last.is_none() { "; until it has answered once, no snapshot is removed" } else { "" };
            shared.health.ill(Part::Member, failure.map(|failure| format!("{failure}{waits}")));
            if let Ok(history) = answer {
                if let Some(before) = heard.last.as_ref().filter(|before| before.is_broken_by(&history)) {
                    tracing::warn!(?before, now = ?history, "the etcd member is in another history than before, as after a restore: all records are listed anew");
                    shared.cache.throw_away();
                }
                heard.last = Some(history);
            }
        }
        heard.last.clone().map_or(Member::Silent, Member::At)
    }
}
