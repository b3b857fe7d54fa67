//! The dialect and the walk, held against what the reference printed and against a walk that looks at each minute.

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde::Deserialize;

use super::parse::runs;
use super::walk::Calendar;
use super::{CronError, CronFault, Field, Runs, Schedule};

#[derive(Deserialize)]
struct Case {
    expr: String,
    from: Option<Timestamp>,
    #[serde(default)]
    next: Vec<String>,
    error: Option<String>,
}

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn utc(text: &str) -> Schedule {
    Schedule::parse(text, &TimeZone::UTC).unwrap()
}

fn calendar(text: &str, zone: &TimeZone) -> Calendar {
    match runs(text, zone) {
        Ok(Runs::At(calendar)) => *calendar,
        other => panic!("{text}: {other:?}"),
    }
}

/// Whether the clock on the wall shows a time of the expression, seconds aside.
fn shows(calendar: &Calendar, time: jiff::civil::DateTime) -> bool {
    let has = |bits: u64, number: i8| bits & (1 << number) != 0;
    let day = has(calendar.days, time.day());
    let weekday = has(calendar.weekdays, time.weekday().to_sunday_zero_offset());
    let date = if calendar.either_day { day | weekday } else { day & weekday };
    date && has(calendar.months, time.month()) && has(calendar.hours, time.hour()) && has(calendar.minutes, time.minute())
}

/// Whether the clock leaps forward at this instant, over a time of the expression.
fn leaps_over_one(calendar: &Calendar, at: Timestamp) -> bool {
    let before = calendar.zone.to_offset(at - SignedDuration::from_nanos(1)).to_datetime(at);
    let since = calendar.zone.to_offset(at).to_datetime(at);
    let minutes = (0..).map(|minutes| before + SignedDuration::from_mins(minutes));
    minutes.take_while(|time| *time < since).any(|time| shows(calendar, time))
}

#[test]
fn the_runs_are_those_of_the_reference_and_those_that_the_clock_leaps_over() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("vectors/cron.json")).unwrap();
    assert_eq!(cases.len(), 682);
    let mut leapt = BTreeMap::<_, u32>::new();
    let mut wrong = BTreeMap::<_, u32>::new();
    for Case { expr, from, next, error } in cases {
        let parsed = Schedule::parse(&expr, &TimeZone::UTC);
        let (Ok(schedule), Some(from)) = (parsed.as_ref(), from) else {
            assert!(error.is_some() && parsed.is_err(), "{expr}: {parsed:?}, the reference says {error:?}");
            continue;
        };
        if next == ["never"] {
            assert_eq!(schedule.next(from), None, "{expr} from {from}");
            continue;
        }
        let theirs: BTreeSet<Timestamp> = next.iter().map(|run| at(run)).collect();
        let ours = std::iter::successors(schedule.next(from), |run| schedule.next(*run));
        let ours: BTreeSet<Timestamp> = ours.take_while(|run| Some(run) <= theirs.last()).collect();
        for run in ours.symmetric_difference(&theirs) {
            let Runs::At(calendar) = &schedule.runs else { panic!("{expr} from {from}: {run}") };
            let place = calendar.zone.iana_name().unwrap().to_string();
            let (is_ours, shown) = (ours.contains(run), shows(calendar, calendar.zone.to_datetime(*run)));
            if is_ours && !shown && leaps_over_one(calendar, *run) {
                *leapt.entry(place).or_default() += 1;
            } else {
                assert_eq!(is_ours, shown, "{expr} from {from}: {run}");
                *wrong.entry(place).or_default() += 1;
            }
        }
    }
    let places =
        [("Africa/Casablanca", 2), ("America/New_York", 2), ("America/Sao_Paulo", 3), ("Australia/Lord_Howe", 3), ("Europe/Berlin", 2)];
    assert_eq!(leapt, places.map(|(place, runs)| (place.to_string(), runs)).into());
    // The changes by half an hour make the reference leave out what the clock shows, and run what it does not show.
    assert_eq!(wrong, [("Australia/Lord_Howe".to_string(), 10)].into());
}

#[test]
fn an_hour_that_is_leapt_over_is_run_once_and_one_that_comes_twice_is_run_twice() {
    let berlin = zone("Europe/Berlin");
    let runs = |text: &str, from: &str, count| {
        let schedule = Schedule::parse(text, &berlin).unwrap();
        let mut run = at(from);
        let runs = std::iter::from_fn(|| {
            run = schedule.next(run)?;
            Some(run.to_string())
        });
        runs.take(count).collect::<Vec<_>>()
    };
    assert_eq!(runs("30 2 * * *", "2026-03-28T12:00:00Z", 2), ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
    assert_eq!(runs("*/20 2 * * *", "2026-03-28T12:00:00Z", 2), ["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"]);
    assert_eq!(runs("0 2,3 * * *", "2026-03-29T00:59:59Z", 2), ["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"]);
    assert_eq!(runs("30 2 * * *", "2026-10-24T12:00:00Z", 3), ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-26T01:30:00Z"]);
}

#[test]
fn a_day_that_a_zone_skipped_ends_the_search() {
    let apia = |text: &str| Schedule::parse(text, &zone("Pacific/Apia")).unwrap();
    // The thirtieth of December 2011 was none there.
    let from = at("2011-12-29T12:00:00Z");
    let leapt = at("2011-12-30T10:00:00Z");
    assert_eq!(apia("0 12 30 12 *").next(from), Some(leapt));
    assert_eq!(apia("0 12 30 12 *").previous(at("2012-06-01T00:00:00Z")), Some(leapt));
    assert_eq!(apia("0 2 * * *").next(at("2011-12-29T12:00:00Z")), Some(leapt));
    assert_eq!(apia("0 2 * * *").next(leapt), Some(at("2011-12-30T12:00:00Z")));
}

#[test]
fn what_never_runs_has_no_next_run_and_no_last_one() {
    for (text, runs) in
        [("0 0 30 2 *", false), ("0 0 31 2,4,6,9,11 *", false), ("0 0 29 2 *", true), ("0 0 30 2 1", true), ("@every 1h", true)]
    {
        assert_eq!(utc(text).ever_runs(), runs, "{text}");
    }
    let never = utc("0 0 30 2 *");
    assert_eq!((never.next(at("2026-01-01T00:00:00Z")), never.previous(at("2026-01-01T00:00:00Z"))), (None, None));
    assert_eq!(never.interval(at("2026-01-01T00:00:00Z")), None);
}

#[test]
fn at_the_ends_of_time_there_is_an_answer() {
    for text in ["* * * * *", "0 0 29 2 *", "@every 1h"] {
        for (zone, edge) in
            [(TimeZone::UTC, Timestamp::MAX), (zone("Asia/Tokyo"), Timestamp::MAX), (zone("America/New_York"), Timestamp::MIN)]
        {
            let schedule = Schedule::parse(text, &zone).unwrap();
            assert!(schedule.next(edge).is_none_or(|next| next > edge));
            assert!(schedule.previous(edge).is_none_or(|last| last <= edge));
            let _ = schedule.interval(edge);
        }
    }
}

#[test]
fn the_interval_is_the_longest_time_without_a_run() {
    let hours = |text: &str, place: &str| {
        let schedule = Schedule::parse(text, &zone(place)).unwrap();
        schedule.interval(at("2026-01-01T00:00:00Z")).unwrap().as_secs_f64() / 3600.0
    };
    for (text, utc, berlin) in [
        ("0 */12 * * *", 12.0, 13.0),
        ("* * * * *", 1.0 / 60.0, 1.0 / 60.0),
        ("0 0,1,20 * * *", 19.0, 20.0),
        ("0 9-17 * * MON-FRI", 64.0, 65.0),
        ("@weekly", 168.0, 169.0),
        ("@yearly", 8760.0, 8760.0),
        ("0 0 29 2 *", 35064.0, 35064.0),
        ("@every 90m", 1.5, 1.5),
    ] {
        assert!((hours(text, "UTC") - utc).abs() < 1e-9, "{text}: {}", hours(text, "UTC"));
        assert!((hours(text, "Europe/Berlin") - berlin).abs() < 1e-9, "{text} in Berlin: {}", hours(text, "Europe/Berlin"));
    }
    // Only one hour of the year makes it so.
    let odd_hours = Schedule::parse("30 1-23/2 * * *", &zone("Europe/Berlin")).unwrap();
    assert_eq!(odd_hours.interval(at("2026-01-01T10:00:00Z")).unwrap().as_secs(), 3 * 3600);
}

#[test]
fn an_error_says_which_field_what_is_wrong_and_what_would_be_right() {
    let said = |text: &str| Schedule::parse(text, &TimeZone::UTC).unwrap_err().to_string();
    for (text, sentence) in [
        ("", "is empty; write five fields like \"0 */12 * * *\", or a word like @daily"),
        ("0 0 * *", "has 4 fields; write five: minute, hour, day of month, month, day of week"),
        ("60 * * * *", "has \"60\" as its minute, which is outside of its range; write 0 to 59"),
        ("0 0 15W * *", "has \"15W\" as its day of month, which is no number; write 1 to 31"),
        ("0 0 * foo *", "has \"foo\" as its month, which is no number; write 1 to 12 or jan to dec"),
        ("0 0 * * 7", "has \"7\" as its day of week, which is outside of its range; write 0 to 6 or sun to sat"),
        ("0 22-4 * * *", "has \"22-4\" as its hour, which runs backwards; write the lower one first, or two ranges with a comma between"),
        ("1-2-3 * * * *", "has \"1-2-3\" as its minute, which is more than a range and a step; write it like 10-40/5"),
        ("*/0 * * * *", "has \"*/0\" as its minute, whose step is no number above zero; write it like */5"),
        (", * * * *", "has \",\" as its minute, which names none; write 0 to 59, or *"),
        ("@dayly", "begins with \"@dayly\"; the words are @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly and @every"),
        ("@every 5", "has \"5\" behind @every, which is not a duration; write it like @every 12h or @every 1h30m"),
        (
            "CRON_TZ=Nowhere/Land 0 0 * * *",
            "has the time zone \"Nowhere/Land\", which is not known here; write a name of the tz database like Europe/Berlin",
        ),
        ("CRON_TZ=UTC", "has a time zone and nothing behind it; write the five fields after it, like CRON_TZ=Europe/Berlin 0 2 * * *"),
    ] {
        assert_eq!(said(text), sentence, "{text}");
    }
    let long = Schedule::parse(&format!("0 0 * * {}", "ä".repeat(1000)), &TimeZone::UTC);
    let item = format!("{}…", "ä".repeat(40));
    assert_eq!(long, Err(CronError::Item { field: Field::Weekday, item, fault: CronFault::NotANumber }));
}

#[test]
fn a_zone_in_the_expression_wins_and_without_one_the_given_zone_holds() {
    let tokyo = zone("Asia/Tokyo");
    let next = |text: &str| Schedule::parse(text, &tokyo).unwrap().next(at("2026-01-01T00:00:00Z")).unwrap().to_string();
    assert_eq!(next("0 12 * * *"), "2026-01-01T03:00:00Z");
    assert_eq!(next("TZ=Local 0 12 * * *"), "2026-01-01T03:00:00Z");
    assert_eq!(next("CRON_TZ=UTC   0 12 * * *"), "2026-01-01T12:00:00Z");
    assert_eq!(next("TZ= @daily"), "2026-01-02T00:00:00Z");
    assert_eq!(utc("CRON_TZ=UTC 0 12 * * *").to_string(), "CRON_TZ=UTC 0 12 * * *");
}

/// A field, from numbers that may lie outside.
fn field(low: u32, high: u32) -> impl Strategy<Value = String> {
    let item = prop_oneof![
        3 => Just("*".to_string()),
        3 => (low..=high).prop_map(|number| number.to_string()),
        1 => (low..=high, low..=high).prop_map(|(one, other)| format!("{}-{}", one.min(other), one.max(other))),
        1 => (2..9_u32).prop_map(|step| format!("*/{step}")),
        1 => (low..=high, 1..9_u32).prop_map(|(number, step)| format!("{number}/{step}")),
    ];
    proptest::collection::vec(item, 1..3).prop_map(|items| items.join(","))
}

fn expression() -> impl Strategy<Value = String> {
    (field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 6))
        .prop_map(|(minute, hour, day, month, weekday)| format!("{minute} {hour} {day} {month} {weekday}"))
}

/// Zones whose clocks change by an hour, by half of one, by a day, by 44 minutes and 30 seconds, at midnight; and stretches in which they do.
fn stretches() -> impl Strategy<Value = (&'static str, i64)> {
    let around = |zone: &'static str, change: &str| {
        let change = at(change).as_second();
        (-86_400_i64..43_200).prop_map(move |seconds| (zone, change + seconds))
    };
    prop_oneof![
        around("Europe/Berlin", "2026-03-29T01:00:00Z"),
        around("Europe/Berlin", "2026-10-25T01:00:00Z"),
        around("Australia/Lord_Howe", "2026-04-04T15:00:00Z"),
        around("Australia/Lord_Howe", "2026-10-03T15:30:00Z"),
        around("Pacific/Apia", "2011-12-30T10:00:00Z"),
        around("Africa/Monrovia", "1972-01-07T00:44:30Z"),
        around("America/Santiago", "2026-04-05T03:00:00Z"),
        around("America/Santiago", "2026-09-06T04:00:00Z"),
        around("UTC", "2028-02-29T00:00:00Z"),
    ]
}

/// The runs of two days, found by looking at each instant at which a minute or an offset may begin.
fn walked(calendar: &Calendar, from: Timestamp, until: Timestamp) -> Vec<Timestamp> {
    let mut offset = calendar.zone.to_offset(from);
    let mut runs = Vec::new();
    for second in (from.as_second() + 1..=until.as_second()).filter(|second| second % 30 == 0) {
        let at = Timestamp::from_second(second).unwrap();
        let before = std::mem::replace(&mut offset, calendar.zone.to_offset(at));
        let time = offset.to_datetime(at);
        if time.second() == 0 && shows(calendar, time) || before != offset && leaps_over_one(calendar, at) {
            runs.push(at);
        }
    }
    runs
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_runs_are_those_of_a_walk_from_minute_to_minute(text in expression(), (place, from) in stretches()) {
        let (zone, from) = (zone(place), Timestamp::from_second(from).unwrap());
        let end = from + SignedDuration::from_hours(48);
        let (schedule, expected) = (Schedule::parse(&text, &zone).unwrap(), walked(&calendar(&text, &zone), from, end));
        let forth: Vec<_> = std::iter::successors(schedule.next(from), |run| schedule.next(*run)).take_while(|run| *run <= end).collect();
        prop_assert_eq!(&forth, &expected, "{} in {} from {}", text, place, from);
        let before = |run: &Timestamp| schedule.previous(*run - SignedDuration::from_nanos(1));
        let mut back: Vec<_> = std::iter::successors(schedule.previous(end), before).take_while(|run| *run > from).collect();
        back.reverse();
        prop_assert_eq!(&back, &expected, "{} in {} back to {}", text, place, from);
    }

    #[test]
    fn no_text_makes_it_panic(text in "(TZ=|CRON_TZ=)?(UTC|Local|[A-Z/]{0,5})?[ @*?/,0-9a-z-]{0,40}", any in any::<String>()) {
        for text in [text, any] {
            if let Ok(schedule) = Schedule::parse(&text, &TimeZone::UTC) {
                let now = at("2026-11-25T12:00:00Z");
                prop_assert!(schedule.next(now).is_none_or(|next| next > now));
                prop_assert!(schedule.previous(now).is_none_or(|last| last <= now));
            }
        }
    }

    #[test]
    fn no_five_fields_make_it_panic(fields in proptest::collection::vec("[*?/,0-9a-zA-Z+-]{1,8}", 5)) {
        let _ = Schedule::parse(&fields.join(" "), &TimeZone::UTC);
    }
}
