//! The rules one by one, and a node that lives through a clock that jumps.

use std::collections::BTreeSet;

use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::*;

/// Each whole hour, in these tests' seconds.
const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn hourly() -> Schedule {
    Schedule::parse("@hourly", &TimeZone::UTC).unwrap()
}

fn every(text: &str) -> Schedule {
    Schedule::parse(&format!("@every {text}"), &TimeZone::UTC).unwrap()
}

fn attempt(slot: i64, at_: i64) -> Attempt {
    Attempt { slot: at(slot), at: at(at_), outcome: Outcome::Saved }
}

fn known(schedule: &Schedule) -> Known<'_> {
    Known {
        schedule,
        noted: Some(Noted { since: at(-10 * DAY), attempt: None }),
        newest_good: None,
        saving: false,
        hold: None,
        jitter: Duration::ZERO,
        rank: 0,
        counted: None,
    }
}

fn noted(since: i64, attempt: impl Into<Option<Attempt>>) -> Noted {
    Noted { since: at(since), attempt: attempt.into() }
}

fn start(slot: i64, made_up: bool, missed: u32) -> Due {
    Due::Start { slot: at(slot), made_up, missed }
}

#[test]
fn the_first_start_saves_at_the_next_slot_and_makes_up_none_that_passed_before_it() {
    let hourly = hourly();
    let first = Known { noted: None, ..known(&hourly) };
    assert_eq!(due(&first, at(10)), Due::Note(Noted { since: at(10), attempt: None }));
    let noted = Known { noted: Some(noted(10, None)), ..first };
    assert_eq!(due(&noted, at(10)), Due::Wait(Some(at(HOUR))));
    assert_eq!(due(&noted, at(HOUR)), start(HOUR, false, 0));
}

#[test]
fn who_finds_good_snapshots_and_no_note_makes_up_what_they_lack() {
    let hourly = hourly();
    let first = Known { noted: None, newest_good: Some(at(-2 * HOUR)), ..known(&hourly) };
    let Due::Note(note) = due(&first, at(10)) else { panic!("no note") };
    assert_eq!(due(&Known { noted: Some(note), ..first }, at(10)), start(0, false, 1));
    let from_the_future = Known { newest_good: Some(at(DAY)), ..first };
    assert_eq!(due(&from_the_future, at(10)), Due::Note(Noted { since: at(10), attempt: None }));
}

#[test]
fn a_slot_is_made_up_while_neither_an_attempt_nor_a_good_snapshot_is_newer() {
    let hourly = hourly();
    let down = Known { noted: Some(noted(-DAY, attempt(-3 * HOUR, -3 * HOUR + 2))), ..known(&hourly) };
    assert_eq!(due(&down, at(600)), start(0, true, 2));
    for answered in [
        Known { newest_good: Some(at(0)), ..down },
        Known { newest_good: Some(at(600)), ..down },
        Known { noted: Some(noted(-DAY, attempt(0, 1))), ..down },
        Known { noted: Some(noted(-DAY, attempt(-HOUR, 5))), ..down },
    ] {
        assert_eq!(due(&answered, at(600)), Due::Wait(Some(at(HOUR))), "{answered:?}");
    }
    let older = Known { newest_good: Some(at(-1)), ..down };
    assert_eq!(due(&older, at(600)), start(0, true, 0));
}

#[test]
fn an_attempt_that_failed_or_died_is_not_repeated() {
    let hourly = hourly();
    for outcome in Outcome::ALL {
        let attempt = Some(Attempt { slot: at(0), at: at(3), outcome });
        let tried = Known { noted: Some(noted(-DAY, attempt)), ..known(&hourly) };
        assert_eq!(due(&tried, at(4)), Due::Wait(Some(at(HOUR))), "{outcome:?}");
    }
}

#[test]
fn a_run_that_meets_a_running_one_is_skipped() {
    let hourly = hourly();
    let busy = Known { saving: true, noted: Some(noted(-DAY, attempt(-HOUR, -HOUR))), ..known(&hourly) };
    assert_eq!(due(&busy, at(1)), Due::Skip(at(0)));
    assert_eq!(due(&busy, at(-1)), Due::Wait(Some(at(0))));
}

#[test]
fn what_is_held_is_counted_once_and_made_up_when_the_hold_ends() {
    let hourly = hourly();
    for why in [Hold::Observing, Hold::K3sAtWork] {
        let held = Known { hold: Some(why), noted: Some(noted(-DAY, attempt(-2 * HOUR, -2 * HOUR))), ..known(&hourly) };
        assert_eq!(due(&held, at(1)), Due::Held { why, slot: Some(at(0)), until: Some(at(HOUR)) });
        let counted = Known { counted: Some(at(0)), ..held };
        assert_eq!(due(&counted, at(1)), Due::Held { why, slot: None, until: Some(at(HOUR)) });
        assert_eq!(due(&Known { hold: None, ..counted }, at(600)), start(0, true, 0));
        assert_eq!(due(&Known { hold: None, ..held }, at(600)), start(0, true, 1));
    }
    let disabled = Known { hold: Some(Hold::Disabled), noted: None, ..known(&hourly) };
    assert_eq!(due(&disabled, at(0)), Due::Held { why: Hold::Disabled, slot: None, until: None });
}

#[test]
fn jitter_and_rank_delay_a_run_by_half_of_the_time_to_the_next_at_most() {
    let hourly = hourly();
    let begins = |jitter, rank| {
        let known = Known { jitter: Duration::from_secs(jitter), rank, ..known(&hourly) };
        let Due::Wait(Some(begin)) = due(&known, at(0)) else { panic!("no wait") };
        assert_eq!(due(&known, begin), start(0, false, 10 * 24 - 1));
        begin.duration_since(at(0)).as_secs()
    };
    assert_eq!((begins(5, 0), begins(5, 1), begins(0, 2), begins(7200, 0), begins(0, 1000)), (5, 125, 240, 1800, 1800));
}

#[test]
fn every_counts_from_the_last_attempt_and_from_a_good_snapshot_that_answers_for_it() {
    let every = every("90m");
    let last = Known { noted: Some(noted(-DAY, attempt(-7 * HOUR, -HOUR))), ..known(&every) };
    assert_eq!(due(&last, at(0)), Due::Wait(Some(at(HOUR / 2))));
    assert_eq!(due(&last, at(HOUR / 2)), start(HOUR / 2, false, 0));
    assert_eq!(due(&last, at(5 * HOUR)), start(HOUR / 2, true, 3));
    let saved = Known { newest_good: Some(at(HOUR)), ..last };
    assert_eq!(due(&saved, at(HOUR)), Due::Wait(Some(at(HOUR * 5 / 2))));
    let by_hand = Known { newest_good: Some(at(60)), ..last };
    assert_eq!(due(&by_hand, at(60)), Due::Wait(Some(at(HOUR / 2))), "what is older than the slot does not put it off");
    let first = Known { noted: Some(noted(0, None)), ..last };
    assert_eq!(due(&first, at(60)), Due::Wait(Some(at(HOUR * 3 / 2))));
}

#[test]
fn a_clock_that_was_set_back_repeats_no_slot_that_comes_next_and_forgets_later_ones() {
    let hourly = hourly();
    let back = |attempt_, now| {
        let known = Known { noted: Some(noted(-DAY, attempt_)), ..known(&hourly) };
        let Due::Note(note) = due(&known, at(now)) else { panic!("no note at {now}") };
        (note, Known { noted: Some(note), ..known })
    };
    // Two seconds back over the slot.
    let (note, after) = back(attempt(HOUR, HOUR + 1), HOUR - 1);
    assert_eq!(note, Noted { since: at(HOUR - 1), attempt: Some(Attempt { at: at(HOUR - 1), ..attempt(HOUR, 0) }) });
    assert_eq!(due(&after, at(HOUR + 2)), Due::Wait(Some(at(2 * HOUR))));
    assert_eq!(due(&after, at(2 * HOUR)), start(2 * HOUR, false, 0));
    // Ten days back: none of that is known to have been.
    let (note, after) = back(attempt(10 * DAY, 10 * DAY), 60);
    assert_eq!(note, Noted { since: at(60), attempt: None });
    assert_eq!(due(&after, at(60)), Due::Wait(Some(at(HOUR))));
    assert_eq!(due(&after, at(HOUR)), start(HOUR, false, 0));
    // The first start by a clock that ran ahead.
    let ahead = Known { noted: Some(noted(DAY, None)), ..known(&hourly) };
    assert_eq!(due(&ahead, at(60)), Due::Note(Noted { since: at(60), attempt: None }));
    // A snapshot from the future answers for nothing.
    let ahead = Known { newest_good: Some(at(DAY)), noted: Some(noted(-DAY, attempt(-HOUR, -HOUR))), ..known(&hourly) };
    assert_eq!(due(&ahead, at(0)), start(0, false, 0));
}

#[test]
fn followers_come_before_the_leader_and_the_only_member_waits_for_nobody() {
    assert_eq!([Role::Follower, Role::Leader, Role::Ill].map(|role| rank(role, Some(3))), [0, 1, 2]);
    assert_eq!([Role::Follower, Role::Leader, Role::Ill].map(|role| rank(role, Some(1))), [0, 0, 0]);
    assert_eq!(rank(Role::Leader, None), 1);
}

#[test]
fn a_slot_is_claimed_when_it_is_free_failed_or_stood_still_for_two_minutes() {
    let hourly = hourly();
    let claim = |slot: i64, outcome, holder: &str| {
        Some(Claim { attempt: Attempt { slot: at(slot), at: at(slot + 1), outcome }, holder: holder.into() })
    };
    let asked = |claim: Option<Claim>, still| turn(&hourly, claim.as_ref(), Duration::from_secs(still), at(0), "us", at(10));
    let take = Turn::Take(Claim { attempt: Attempt { slot: at(0), at: at(10), outcome: Outcome::Begun }, holder: "us".into() });
    for free in [None, claim(-HOUR, Outcome::Begun, "them"), claim(-HOUR, Outcome::Saved, "us"), claim(0, Outcome::Failed, "them")] {
        assert_eq!(asked(free.clone(), 0), take, "{free:?}");
    }
    assert_eq!(asked(claim(0, Outcome::Begun, "them"), 119), Turn::Theirs);
    assert_eq!(asked(claim(0, Outcome::Begun, "them"), 120), take);
    assert_eq!(asked(claim(0, Outcome::Begun, "us"), 500), Turn::Ours);
    assert_eq!(asked(claim(0, Outcome::Failed, "us"), 500), Turn::Theirs);
    let done = Attempt { slot: at(0), at: at(1), outcome: Outcome::Elsewhere };
    assert_eq!(asked(claim(0, Outcome::Saved, "them"), 500), Turn::Done(done));
    assert!(matches!(asked(claim(HOUR, Outcome::Saved, "them"), 0), Turn::Done(Attempt { slot, .. }) if slot == at(HOUR)));
    assert_eq!(asked(claim(9 * DAY, Outcome::Saved, "them"), 0), take, "by a clock that was set back");
}

/// What a node goes through between two looks.
#[derive(Debug, Clone, Copy)]
enum Happens {
    /// Time passes.
    Passes(i64),
    /// The clock is set.
    Jumps(i64),
}

fn life() -> impl Strategy<Value = Vec<Happens>> {
    let happens = prop_oneof![
        6 => (1..2 * HOUR).prop_map(Happens::Passes),
        2 => (1..90_i64).prop_map(Happens::Passes),
        1 => (-5 * DAY..5 * DAY).prop_map(Happens::Jumps),
        1 => (-90..90_i64).prop_map(Happens::Jumps),
    ];
    proptest::collection::vec(happens, 1..60)
}

fn schedules() -> impl Strategy<Value = Schedule> {
    prop_oneof![Just("0 * * * *"), Just("30 */2 * * *"), Just("*/7 * * * *"), Just("@every 90m"), Just("@every 7m")]
        .prop_map(|text| Schedule::parse(text, &TimeZone::UTC).unwrap())
}

/// A node with its disk. It remembers nothing else, so each look could be the first after a kill; and its saves leave nothing
/// that could answer for a slot.
struct Node {
    schedule: Schedule,
    disk: Option<Noted>,
    /// The slots that had an attempt since the clock was last set back over more than one slot, and the latest time since.
    attempted: BTreeSet<Timestamp>,
    latest: Timestamp,
}

impl Node {
    /// Asks until there is nothing to do, and when that ends. No slot may have a second attempt.
    fn look(&mut self, now: Timestamp) -> Timestamp {
        self.latest = self.latest.max(now);
        for _ in 0..4 {
            let known = Known { noted: self.disk, ..known(&self.schedule) };
            match due(&known, now) {
                Due::Note(noted) => self.disk = Some(noted),
                Due::Start { slot, .. } => {
                    let is_new = self.attempted.insert(slot);
                    // With @every a slot is no more than a distance from the attempt before.
                    assert!(slot <= now && (is_new || self.schedule.every().is_some()), "a second attempt of {slot}");
                    let since = self.disk.unwrap().since;
                    self.disk = Some(Noted { since, attempt: Some(Attempt { slot, at: now, outcome: Outcome::Begun }) });
                }
                Due::Wait(Some(until)) => {
                    assert!(until > now, "waits for what has passed");
                    return until;
                }
                other => panic!("{other:?}"),
            }
        }
        panic!("there is always something to do");
    }
}

proptest! {
    #[test]
    fn no_slot_has_two_attempts_and_no_jump_of_the_clock_stops_the_saves(schedule in schedules(), life in life()) {
        let mut now = at(0);
        let mut node = Node { schedule: schedule.clone(), disk: None, attempted: BTreeSet::new(), latest: now };
        for happens in life {
            match happens {
                Happens::Passes(seconds) => {
                    // What comes on time is seen on time.
                    let end = now + SignedDuration::from_secs(seconds);
                    while now < end {
                        now = node.look(now).min(end);
                    }
                    node.look(now);
                }
                Happens::Jumps(seconds) => {
                    now += SignedDuration::from_secs(seconds);
                    if schedule.next(schedule.next(now).unwrap()).unwrap() <= node.latest {
                        node.attempted.clear();
                        node.latest = now;
                    }
                    let attempts = node.attempted.len();
                    node.look(now);
                    prop_assert!(seconds > 0 || node.attempted.len() == attempts, "setting the clock back began a save");
                    // From here on a run begins within two slots, whatever was.
                    let interval = schedule.interval(now).unwrap();
                    let mut later = Node { schedule: schedule.clone(), disk: node.disk, attempted: BTreeSet::new(), latest: now };
                    let first = later.look(now);
                    later.look(first);
                    prop_assert!(first.duration_since(now).unsigned_abs() <= 2 * interval);
                    later.look(schedule.next(first).unwrap());
                    prop_assert!(!later.attempted.is_empty(), "two slots passed without a run");
                }
            }
        }
    }
}
