//! When a save on schedule begins, and which agent makes it.
//!
//! In: the schedule, what the disk and this process remember, what is under way, now. Out: what to do next. A *slot* is the last
//! scheduled instant that has passed. It has one attempt, which is noted on the disk before the save begins; it is made up while
//! neither an attempt nor a good snapshot is newer than it. While the clock only runs forward, however far it leaps, no slot has two
//! attempts. Setting the clock back starts nothing by itself: the next run is that of the next slot, unless it had its attempt before.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::schedule::{Attempt, Claim, Noted, Outcome, Schedule};

/// How long the next candidate waits for an outcome or a sign of life.
pub const CLAIM_STANDS: Duration = Duration::from_mins(2);
/// A run that begins later than this after its time is made up. A timer is never that late.
const LATE: SignedDuration = SignedDuration::from_mins(1);
/// Missed runs are counted up to here.
const MANY: u32 = 1000;

/// Why there are no saves on schedule just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// `--etcd-disable-snapshots`.
    Disabled,
    /// `--mode observe`.
    Observing,
    /// K3s is at work on this node.
    K3sAtWork,
}

/// What is known when the schedule is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// When to save.
    pub schedule: &'a Schedule,
    /// What the disk remembers; None when it remembers nothing.
    pub noted: Option<Noted>,
    /// The time of the newest good snapshot of ours in the directory.
    pub newest_good: Option<Timestamp>,
    /// Whether a save runs in the directory.
    pub saving: bool,
    /// Why not, if there is a reason.
    pub hold: Option<Hold>,
    /// How long to wait after a slot, drawn once for each.
    pub jitter: Duration,
    /// Our place among those who may save for the whole cluster; 0 where each saves for itself.
    pub rank: u32,
    /// The newest slot that this process has counted as skipped while it was held.
    pub counted: Option<Timestamp>,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Remember this, and ask again.
    Note(Noted),
    /// Ask again at this time, or earlier. None: no run is in sight.
    Wait(Option<Timestamp>),
    /// There are no saves on schedule just now.
    Held {
        /// Why not.
        why: Hold,
        /// A slot that is skipped for it and not yet counted.
        slot: Option<Timestamp>,
        /// When the next one comes.
        until: Option<Timestamp>,
    },
    /// Note an attempt of this slot as skipped, and count it: a save runs.
    Skip(Timestamp),
    /// Note an attempt of this slot as begun, then save.
    Start {
        /// The slot.
        slot: Timestamp,
        /// Whether it is made up.
        made_up: bool,
        /// How many slots before it had no attempt and get none, up to a thousand.
        missed: u32,
    },
}

/// What to do next.
pub fn due(known: &Known, now: Timestamp) -> Due {
    let next = known.schedule.next(now);
    if known.hold == Some(Hold::Disabled) {
        return Due::Held { why: Hold::Disabled, slot: None, until: None };
    }
    // What comes from the future was made by a clock that has been set back since.
    let newest_good = known.newest_good.filter(|good| *good <= now);
    let Some(noted) = known.noted else {
        return Due::Note(Noted { since: newest_good.unwrap_or(now), attempt: None });
    };
    if let Some(noted) = set_back(known.schedule, &noted, now) {
        return Due::Note(noted);
    }
    let tried = noted.attempt.map_or(noted.since, |attempt| attempt.at.max(noted.since));
    let passed = newest_good.unwrap_or(tried).max(tried);
    let slot = if known.schedule.every().is_some() {
        // A good snapshot answers for a slot that it is newer than, and not for one to come.
        known.schedule.next(tried).and_then(|slot| if passed < slot { Some(slot) } else { known.schedule.next(passed) })
    } else {
        let open = |slot: &Timestamp| passed < *slot && noted.attempt.is_none_or(|attempt| attempt.slot < *slot);
        known.schedule.previous(now).filter(open)
    };
    let Some(slot) = slot.filter(|slot| *slot <= now) else {
        return Due::Wait(if known.schedule.every().is_some() { slot } else { next });
    };
    let begin = begin(known, slot);
    if now < begin {
        return Due::Wait(Some(begin));
    }
    let counted = known.counted.filter(|counted| *counted <= now);
    if let Some(why) = known.hold {
        return Due::Held { why, slot: Some(slot).filter(|slot| counted < Some(*slot)), until: next };
    }
    if known.saving {
        return Due::Skip(slot);
    }
    let answered = [counted, noted.attempt.map(|attempt| attempt.slot)].into_iter().flatten().fold(passed, Timestamp::max);
    let missed = missed(known.schedule, answered, slot, now);
    Due::Start { slot, made_up: now.duration_since(begin) > LATE, missed }
}

/// What to remember instead when the clock has been set back since, or the schedule was changed. An attempt of the slot that
/// comes next stays: that slot had it. Of later slots nothing is known, or one would wait until then.
fn set_back(schedule: &Schedule, noted: &Noted, now: Timestamp) -> Option<Noted> {
    let is_near = |attempt: &Attempt| {
        attempt.slot <= now || schedule.every().is_some() || schedule.next(now).is_some_and(|next| attempt.slot <= next)
    };
    let from_the_future = |attempt: Attempt| attempt.at > now || !is_near(&attempt);
    if noted.since <= now && !noted.attempt.is_some_and(from_the_future) {
        return None;
    }
    let attempt = noted.attempt.filter(is_near).map(|attempt| Attempt { at: attempt.at.min(now), ..attempt });
    Some(Noted { since: now, attempt })
}

/// When the run of a slot begins. However long the jitter, it is over well before the next slot.
fn begin(known: &Known, slot: Timestamp) -> Timestamp {
    let room = known.schedule.next(slot).map_or(Duration::MAX, |next| next.duration_since(slot).unsigned_abs() / 2);
    let pause = known.jitter.saturating_add(CLAIM_STANDS.saturating_mul(known.rank)).min(room);
    slot.checked_add(pause).unwrap_or(slot)
}

/// How many slots lie between what is answered for and this one; for `@every`, whose slot is the first, between it and now.
fn missed(schedule: &Schedule, passed: Timestamp, slot: Timestamp, now: Timestamp) -> u32 {
    if let Some(distance) = schedule.every() {
        let missed = now.duration_since(slot).as_secs().unsigned_abs() / distance.as_secs().max(1);
        return u32::try_from(missed).unwrap_or(MANY).min(MANY);
    }
    let slots = std::iter::successors(schedule.next(passed), |slot| schedule.next(*slot));
    (0..MANY).zip(slots.take_while(|between| *between < slot)).fold(0, |count, _| count + 1)
}

/// What our member is to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A follower that nothing is known against.
    Follower,
    /// The leader; or it is not known which of the two.
    Leader,
    /// Without quorum, with an alarm, or without an answer.
    Ill,
}

/// Our place among those who may save for the whole cluster. The others are asked for nothing: who is of one rank races for the
/// Lease. `members` is how many the cluster has, as far as that is known.
pub fn rank(role: Role, members: Option<usize>) -> u32 {
    match role {
        _ if members == Some(1) => 0,
        Role::Follower => 0,
        Role::Leader => 1,
        Role::Ill => 2,
    }
}

/// Whose a slot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Ours, once this claim is written in place of the one that was seen.
    Take(Claim),
    /// Ours: the claim is written.
    Ours,
    /// Somebody else's, who has not said yet what became of it. Ask again later.
    Theirs,
    /// Nobody's: this attempt answers for it. Note it as made elsewhere, so that `@every` and later slots count from it.
    Done(Attempt),
}

/// Whose a slot is, by the claim that is written. `stood_still` is how long it has looked as it does, on our own clock; who saves
/// renews it.
pub fn turn(schedule: &Schedule, claim: Option<&Claim>, stood_still: Duration, slot: Timestamp, us: &str, now: Timestamp) -> Turn {
    let take = Turn::Take(Claim { attempt: Attempt { slot, at: now, outcome: Outcome::Begun }, holder: us.into() });
    // A claim for later than the next slot was made by a clock that has been set back since.
    let counts = |claim: &&Claim| {
        let claimed = claim.attempt.slot;
        claimed >= slot && (claimed <= now || schedule.next(now).is_some_and(|next| claimed <= next))
    };
    let Some(claim) = claim.filter(counts) else { return take };
    match claim.attempt.outcome {
        Outcome::Saved => Turn::Done(Attempt { at: claim.attempt.at.min(now), outcome: Outcome::Elsewhere, ..claim.attempt }),
        Outcome::Begun if claim.holder == us => Turn::Ours,
        Outcome::Begun if stood_still < CLAIM_STANDS => Turn::Theirs,
        // What we could not do is for the others to try.
        _ if claim.holder == us => Turn::Theirs,
        _ => take,
    }
}

#[cfg(test)]
mod tests;
