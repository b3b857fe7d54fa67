//! The dialect of robfig/cron v3 `ParseStandard`: five fields, names, `?`, `5/15`, descriptors, `@every`, `TZ=` and `CRON_TZ=`.
//!
//! In: an expression. Out: a set of bits for each field, or what is wrong with which field, as the rest of a sentence that begins
//! with the expression.

use std::fmt;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::Runs;
use super::walk::Calendar;
use crate::duration;

/// One of the five fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// 0 to 59.
    Minute,
    /// 0 to 23.
    Hour,
    /// 1 to 31.
    Day,
    /// 1 to 12, or a name.
    Month,
    /// 0 to 6 from Sunday on, or a name.
    Weekday,
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Field {
    fn range(self) -> (u32, u32) {
        match self {
            Self::Minute => (0, 59),
            Self::Hour => (0, 23),
            Self::Day => (1, 31),
            Self::Month => (1, 12),
            Self::Weekday => (0, 6),
        }
    }

    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Month => &MONTHS,
            Self::Weekday => &WEEKDAYS,
            _ => &[],
        }
    }

    fn number(self, text: &str) -> Option<u32> {
        let named = (self.range().0..).zip(self.names()).find(|(_, name)| name.eq_ignore_ascii_case(text));
        named.map(|(number, _)| number).or_else(|| text.parse().ok())
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day of month",
            Self::Month => "month",
            Self::Weekday => "day of week",
        })
    }
}

/// What is wrong with an item of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CronFault {
    /// Neither a number nor a name.
    NotANumber,
    /// Not within the field's range.
    Outside,
    /// From a higher to a lower one.
    Backwards,
    /// More than `low-high/step`.
    Form,
    /// A step of zero, or none.
    Step,
    /// Nothing at all.
    Nothing,
}

/// Why an expression is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// Nothing at all.
    #[error("is empty; write five fields like \"0 */12 * * *\", or a word like @daily")]
    Empty,
    /// More or fewer than five fields.
    #[error("has {0} fields; write five: minute, hour, day of month, month, day of week")]
    Fields(usize),
    /// One field is wrong.
    #[error("has {item:?} as its {field}, {why}", why = why(*.field, *.fault))]
    Item {
        /// The field.
        field: Field,
        /// The item of it.
        item: String,
        /// What is wrong with it.
        fault: CronFault,
    },
    /// A word that is none.
    #[error("begins with {0:?}; the words are @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly and @every")]
    Word(String),
    /// `@every` without a duration.
    #[error("has {0:?} behind @every, which is not a duration; write it like @every 12h or @every 1h30m")]
    Every(String),
    /// A time zone that is not known.
    #[error("has the time zone {0:?}, which is not known here; write a name of the tz database like Europe/Berlin")]
    Zone(String),
    /// A time zone and nothing behind it.
    #[error("has a time zone and nothing behind it; write the five fields after it, like CRON_TZ=Europe/Berlin 0 2 * * *")]
    ZoneAlone,
}

fn why(field: Field, fault: CronFault) -> String {
    let (low, high) = field.range();
    let right = match field.names() {
        [first, .., last] => format!("write {low} to {high} or {first} to {last}"),
        _ => format!("write {low} to {high}"),
    };
    match fault {
        CronFault::NotANumber => format!("which is no number; {right}"),
        CronFault::Outside => format!("which is outside of its range; {right}"),
        CronFault::Backwards => "which runs backwards; write the lower one first, or two ranges with a comma between".into(),
        CronFault::Form => "which is more than a range and a step; write it like 10-40/5".into(),
        CronFault::Step => "whose step is no number above zero; write it like */5".into(),
        CronFault::Nothing => format!("which names none; {right}, or *"),
    }
}

/// What an expression says.
pub(super) fn runs(text: &str, zone: &TimeZone) -> Result<Runs, CronError> {
    let (zone, text) = match text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) {
        Some(rest) => {
            let (name, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            let named = named(name, zone)?;
            (named, Some(rest.trim()).filter(|rest| !rest.is_empty()).ok_or(CronError::ZoneAlone)?)
        }
        None => (zone.clone(), text),
    };
    if let Some(distance) = text.strip_prefix("@every ") {
        return every(distance).map(Runs::Every).ok_or_else(|| CronError::Every(short(distance)));
    }
    let fields = match text {
        "" => return Err(CronError::Empty),
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ if text.starts_with('@') => return Err(CronError::Word(short(text))),
        _ => text,
    };
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let &[minute, hour, day, month, weekday] = fields.as_slice() else { return Err(CronError::Fields(fields.len())) };
    let ((days, any_day), (weekdays, any_weekday)) = (set(day, Field::Day)?, set(weekday, Field::Weekday)?);
    Ok(Runs::At(Box::new(Calendar {
        minutes: set(minute, Field::Minute)?.0,
        hours: set(hour, Field::Hour)?.0,
        days,
        months: set(month, Field::Month)?.0,
        weekdays,
        either_day: !any_day && !any_weekday,
        zone,
    })))
}

/// Go knows three names that are in no database.
fn named(name: &str, local: &TimeZone) -> Result<TimeZone, CronError> {
    match name {
        "" | "UTC" => Ok(TimeZone::UTC),
        "Local" => Ok(local.clone()),
        _ => TimeZone::get(name).map_err(|_| CronError::Zone(short(name))),
    }
}

/// As the reference: whole seconds, one at least.
fn every(text: &str) -> Option<Duration> {
    let (negative, nanoseconds) = duration::nanoseconds(text).ok()?;
    let seconds = if negative { 0 } else { nanoseconds / 1_000_000_000 };
    Some(Duration::from_secs(seconds.max(1)))
}

/// A bit for each number of a field that is meant, and whether it is every one by a bare `*` or `?`.
fn set(text: &str, field: Field) -> Result<(u64, bool), CronError> {
    let mut all = (0, false);
    for item in text.split(',').filter(|item| !item.is_empty()) {
        let (bits, any) = item_set(item, field).map_err(|fault| CronError::Item { field, item: short(item), fault })?;
        all = (all.0 | bits, all.1 | any);
    }
    if all.0 == 0 { Err(CronError::Item { field, item: short(text), fault: CronFault::Nothing }) } else { Ok(all) }
}

fn item_set(item: &str, field: Field) -> Result<(u64, bool), CronFault> {
    let (lowest, highest) = field.range();
    let (range, step) = match item.split_once('/') {
        Some((range, step)) if !step.contains('/') => (range, Some(step)),
        Some(_) => return Err(CronFault::Form),
        None => (item, None),
    };
    let (low, high) = match range.split_once('-') {
        Some((low, high)) if !high.contains('-') => (low, Some(high)),
        Some(_) => return Err(CronFault::Form),
        None => (range, None),
    };
    let is_any = matches!(low, "*" | "?");
    let number = |text| field.number(text).ok_or(CronFault::NotANumber);
    let (low, high) = match (is_any, high) {
        // Whatever stands behind the hyphen, as in the reference.
        (true, _) => (lowest, highest),
        (false, Some(high)) => (number(low)?, number(high)?),
        // A number with a step goes on to the end.
        (false, None) if step.is_some() => (number(low)?, highest),
        (false, None) => (number(low)?, number(low)?),
    };
    let step = match step {
        Some(step) => step.parse::<usize>().ok().filter(|step| *step > 0).ok_or(CronFault::Step)?,
        None => 1,
    };
    if low < lowest || low > highest || high > highest {
        return Err(CronFault::Outside);
    }
    if low > high {
        return Err(CronFault::Backwards);
    }
    Ok(((low..=high).step_by(step).fold(0, |bits, number| bits | 1 << number), is_any && step == 1))
}

/// As much of a text as an error needs.
fn short(text: &str) -> String {
    const LONGEST: usize = 40;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}
