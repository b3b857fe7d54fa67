//! From one run to the next, through the changes of the clock.
//!
//! In: the fields of an expression, and an instant. Out: the run after it or before it. The walk goes from one change of the zone's
//! offset to the next; between two of them civil time and instants go at one pace. An hour that comes twice has its runs twice;
//! of the times that a change leaps over, all run once, at the change.

use std::time::Duration;

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::{DAY, distance};

/// How many years one looks ahead or back.
const YEARS: i16 = 5;

/// The fields of an expression, a bit for each number, and where they are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Calendar {
    pub minutes: u64,
    pub hours: u64,
    pub days: u64,
    pub months: u64,
    pub weekdays: u64,
    /// Whether one of the two fields of days suffices: when both name some.
    pub either_day: bool,
    pub zone: TimeZone,
}

impl Calendar {
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let mut offset = self.zone.to_offset(after);
        let here = offset.to_datetime(after);
        let end = first_of(here.year().saturating_add(YEARS).saturating_add(1)).unwrap_or(DateTime::MAX);
        let mut from = minute_of(here).checked_add(SignedDuration::from_mins(1)).ok()?;
        let mut changes = self.zone.following(after);
        loop {
            let change = changes.next();
            let before = change.as_ref().map_or(DateTime::MAX, |change| offset.to_datetime(change.timestamp()));
            if let Some(run) = self.first(from, before.min(end)) {
                return offset.to_timestamp(run).ok();
            }
            let change = change.filter(|_| before < end)?;
            offset = change.offset();
            let since = offset.to_datetime(change.timestamp());
            if self.first(minute_from(before)?, since).is_some() {
                return Some(change.timestamp());
            }
            from = minute_from(since)?;
        }
    }

    pub fn previous(&self, at_or_before: Timestamp) -> Option<Timestamp> {
        let mut offset = self.zone.to_offset(at_or_before);
        let here = offset.to_datetime(at_or_before);
        let begin = first_of(here.year().saturating_sub(YEARS)).unwrap_or(DateTime::MIN);
        let mut until = minute_of(here).checked_add(SignedDuration::from_mins(1)).ok()?;
        let instant = SignedDuration::from_nanos(1);
        let mut changes = self.zone.preceding(at_or_before.checked_add(instant).unwrap_or(at_or_before));
        loop {
            let change = changes.next();
            let since = change.as_ref().map_or(DateTime::MIN, |change| offset.to_datetime(change.timestamp()));
            if let Some(run) = self.last(minute_from(since)?.max(begin), until) {
                return offset.to_timestamp(run).ok();
            }
            let change = change.filter(|_| since > begin)?;
            offset = self.zone.to_offset(change.timestamp().checked_sub(instant).ok()?);
            until = offset.to_datetime(change.timestamp());
            if self.first(minute_from(until)?, since).is_some() {
                return Some(change.timestamp());
            }
        }
    }

    pub fn interval(&self, from: Timestamp) -> Option<Duration> {
        let until = from.checked_add(SignedDuration::from_hours(366 * 24)).ok()?;
        let begin = self.next(from)?;
        // Each day has the same times. What a whole day from one run to the next does not show is longer than a day, or has a
        // change of the clock in it.
        let mut longest = Duration::ZERO;
        let mut run = begin;
        while run < begin.checked_add(DAY).ok()? {
            let next = self.next(run)?;
            longest = longest.max(distance(run, next));
            run = next;
        }
        let around = |at| {
            let last = self.previous(at)?;
            let next = self.next(last)?;
            Some((next, distance(last, next)))
        };
        let mut at = run;
        while at < until {
            let Some((next, long)) = around(at) else { break };
            longest = longest.max(long);
            at = next.max(at).checked_add(DAY).ok()?;
        }
        let changes = self.zone.following(begin).map(|change| change.timestamp()).take_while(|at| *at < until);
        Some(changes.filter_map(around).fold(longest, |longest, (_, long)| longest.max(long)))
    }

    /// The first time in a stretch of civil time, its end left out. The stretch begins at a whole minute.
    fn first(&self, from: DateTime, before: DateTime) -> Option<DateTime> {
        let mut date = from.date();
        while date.at(0, 0, 0, 0) < before {
            if self.has_day(date) {
                let (hour, minute) = if date == from.date() { (from.hour(), from.minute()) } else { (0, 0) };
                let this_hour = first_bit(self.minutes, minute).filter(|_| self.hours >> hour & 1 == 1).map(|minute| (hour, minute));
                let time = this_hour.or_else(|| Some((first_bit(self.hours, hour + 1)?, first_bit(self.minutes, 0)?)));
                if let Some((hour, minute)) = time {
                    return Some(date.at(hour, minute, 0, 0)).filter(|run| *run < before);
                }
            }
            date = date.tomorrow().ok()?;
        }
        None
    }

    /// The last time in a stretch of civil time, its end left out.
    fn last(&self, from: DateTime, before: DateTime) -> Option<DateTime> {
        let end = before.checked_sub(SignedDuration::from_nanos(1)).ok()?;
        let mut date = end.date();
        while date >= from.date() {
            if self.has_day(date) {
                let (hour, minute) = if date == end.date() { (end.hour(), end.minute()) } else { (23, 59) };
                let this_hour = last_bit(self.minutes, minute).filter(|_| self.hours >> hour & 1 == 1).map(|minute| (hour, minute));
                let time = this_hour.or_else(|| Some((last_bit(self.hours, hour - 1)?, last_bit(self.minutes, 59)?)));
                if let Some((hour, minute)) = time {
                    return Some(date.at(hour, minute, 0, 0)).filter(|run| *run >= from);
                }
            }
            date = date.yesterday().ok()?;
        }
        None
    }

    fn has_day(&self, date: Date) -> bool {
        let has = |bits: u64, number: i8| bits >> number & 1 == 1;
        let (day, weekday) = (has(self.days, date.day()), has(self.weekdays, date.weekday().to_sunday_zero_offset()));
        has(self.months, date.month()) && if self.either_day { day || weekday } else { day && weekday }
    }
}

/// The lowest bit that is set, from a place on.
fn first_bit(bits: u64, from: i8) -> Option<i8> {
    (from..60).find(|place| bits >> place & 1 == 1)
}

/// The highest bit that is set, up to a place.
fn last_bit(bits: u64, to: i8) -> Option<i8> {
    (0..=to).rev().find(|place| bits >> place & 1 == 1)
}

fn first_of(year: i16) -> Option<DateTime> {
    Date::new(year, 1, 1).ok().map(|date| date.at(0, 0, 0, 0))
}

fn minute_of(time: DateTime) -> DateTime {
    time.date().at(time.hour(), time.minute(), 0, 0)
}

/// The first whole minute at a time or after it.
fn minute_from(time: DateTime) -> Option<DateTime> {
    let whole = minute_of(time);
    if whole == time { Some(whole) } else { whole.checked_add(SignedDuration::from_mins(1)).ok() }
}
