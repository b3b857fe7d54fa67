//! When to save: an expression as K3s takes it, and the instants that it names.
//!
//! In: an expression in the dialect of robfig/cron v3 `ParseStandard`, and the time zone that holds where it names none. Out: the
//! run after an instant, the run before one, the longest time from one run to the next. It reads no clock. The rules are the
//! reference's, save these: a run in an hour that the clock leaps over comes once, as the clock has leapt (the reference leaves it
//! out); what makes the reference panic or never return is an error or an answer; a list without an item is an error.
//!
//! * `parse` the dialect
//! * `walk` from one run to the next, through the changes of the clock
//! * `noted` what is remembered of it

mod noted;
mod parse;
#[cfg(test)]
mod tests;
mod walk;

use std::fmt;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

pub use self::noted::{Attempt, Claim, Noted, Outcome, Scope};
pub use self::parse::{CronError, CronFault, Field};
use self::walk::Calendar;

/// When to save.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    text: String,
    runs: Runs,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Runs {
    /// At fixed times of a calendar.
    At(Box<Calendar>),
    /// At a distance from the last one, in whole seconds.
    Every(Duration),
}

impl Schedule {
    /// Reads an expression. `zone` is where its times are meant, unless it says so itself.
    pub fn parse(text: &str, zone: &TimeZone) -> Result<Self, CronError> {
        Ok(Self { runs: parse::runs(text, zone)?, text: text.into() })
    }

    /// The first run after an instant; None when there is none within five years.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match &self.runs {
            Runs::At(calendar) => calendar.next(after),
            // The reference counts from the whole second.
            Runs::Every(distance) => Timestamp::from_second(after.as_second()).ok()?.checked_add(*distance).ok(),
        }
    }

    /// The last run at an instant or before it: the slot that has passed. None when there is none within five years, and for
    /// `@every`, whose runs count from the last one.
    pub fn previous(&self, at_or_before: Timestamp) -> Option<Timestamp> {
        match &self.runs {
            Runs::At(calendar) => calendar.previous(at_or_before),
            Runs::Every(_) => None,
        }
    }

    /// The distance of `@every`.
    pub fn every(&self) -> Option<Duration> {
        match &self.runs {
            Runs::At(_) => None,
            Runs::Every(distance) => Some(*distance),
        }
    }

    /// The longest time from one run to the next, for runs in the year after an instant. None when there are not two.
    pub fn interval(&self, from: Timestamp) -> Option<Duration> {
        match &self.runs {
            Runs::At(calendar) => calendar.interval(from),
            Runs::Every(distance) => Some(*distance),
        }
    }

    /// Whether any year has a run.
    pub fn ever_runs(&self) -> bool {
        // After 28 years the days of the week are where they were.
        let from = |years: i64| Timestamp::from_second(946_684_800 + years * 31_557_600).ok();
        (0..28).step_by(4).filter_map(from).any(|from| self.next(from).is_some())
    }
}

/// As it was given.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// From one instant to a later one.
fn distance(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

/// A day of instants, whatever the calendar calls a day.
const DAY: SignedDuration = SignedDuration::from_hours(24);
