//! Durations and booleans as Go reads them, since K3s's settings are Go's.
//!
//! In: text. Out: a duration or a boolean, or a [`Fault`] that says in which way the text is none.

use std::time::Duration;

/// Why a text is no duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Not a sequence of numbers with units.
    NotADuration,
    /// Beyond the 292 years that Go can hold.
    TooLong,
    /// Zero or less, where time has to pass.
    NotPositive,
}

/// 2^63 nanoseconds: the magnitude of Go's longest negative duration, one more than that of its longest positive one.
const LIMIT: u64 = 1 << 63;

/// Reads a duration as Go's `time.ParseDuration` does: `300ms`, `1.5h`, `1h30m`. Zero and negative ones are refused.
pub fn positive_duration(text: &str) -> Result<Duration, Fault> {
    match nanoseconds(text)? {
        (false, magnitude) if magnitude > 0 => Ok(Duration::from_nanos(magnitude)),
        _ => Err(Fault::NotPositive),
    }
}

/// Whether it is negative, and how many nanoseconds.
pub fn nanoseconds(text: &str) -> Result<(bool, u64), Fault> {
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok((negative, 0));
    }
    if rest.is_empty() {
        return Err(Fault::NotADuration);
    }
    let mut total = 0_u64;
    while !rest.is_empty() {
        let part;
        (part, rest) = number_and_unit(rest)?;
        total = total.checked_add(part).filter(|total| *total <= LIMIT).ok_or(Fault::TooLong)?;
    }
    if total == LIMIT && !negative {
        return Err(Fault::TooLong);
    }
    Ok((negative, total))
}

/// One number with its unit in nanoseconds, and the text behind it.
fn number_and_unit(text: &str) -> Result<(u64, &str), Fault> {
    let (whole, rest) = split_digits(text);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => split_digits(rest),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(Fault::NotADuration);
    }
    let (unit, rest) = rest.split_at(rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len()));
    let unit = match unit {
        "ns" => 1,
        // U+00B5 is the micro sign, U+03BC the Greek letter.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60 * 1_000_000_000,
        "h" => 3_600 * 1_000_000_000,
        _ => return Err(Fault::NotADuration),
    };
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| Fault::TooLong)? };
    let nanos = whole.checked_mul(unit).and_then(|nanos| nanos.checked_add(part_of(fraction, unit))).ok_or(Fault::TooLong)?;
    if nanos > LIMIT { Err(Fault::TooLong) } else { Ok((nanos, rest)) }
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// The nanoseconds of `0.<digits>` units. Floating point, as in Go: a third of an hour written with 19 digits is 20 minutes.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn part_of(digits: &str, unit: u64) -> u64 {
    let mut numerator = 0_u64;
    let mut scale = 1.0;
    for digit in digits.bytes() {
        let next = numerator.checked_mul(10).and_then(|tens| tens.checked_add(u64::from(digit - b'0')));
        // What no longer fits is far below a nanosecond.
        let Some(next) = next.filter(|next| *next < LIMIT) else { break };
        numerator = next;
        scale *= 10.0;
    }
    (numerator as f64 * (unit as f64 / scale)) as u64
}

/// Reads a boolean as Go's `strconv.ParseBool` does.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanos) in [
            ("1ns", 1),
            ("5s", 5 * SECOND),
            ("+5s", 5 * SECOND),
            ("10m", 600 * SECOND),
            ("1h30m", 5_400 * SECOND),
            ("30m1h", 5_400 * SECOND),
            ("5.0s", 5 * SECOND),
            ("5.6s", 5_600_000_000),
            ("5.s", 5 * SECOND),
            (".5s", SECOND / 2),
            ("1.004s", 1_004_000_000),
            ("100.00100s", 100_001_000_000),
            ("11us", 11_000),
            ("12\u{b5}s", 12_000),
            ("12\u{3bc}s", 12_000),
            ("13ms", 13_000_000),
            ("10.5s4m", 250_500_000_000),
            ("2m3.4s", 123_400_000_000),
            ("1h2m3s4ms5us6ns", 3_723_004_005_006),
            ("39h9m14.425s", 140_954_425_000_000),
            ("52763797000ns", 52_763_797_000),
            ("0.3333333333333333333h", 1_200 * SECOND),
            ("9007199254740993ns", 9_007_199_254_740_993),
            ("9223372036854775807ns", 9_223_372_036_854_775_807),
            ("9223372036854775.807us", 9_223_372_036_854_775_807),
            ("9223372036s854ms775us807ns", 9_223_372_036_854_775_807),
            ("0.100000000000000000000h", 360 * SECOND),
            ("0.830103483285477580700h", 2_988_372_539_827),
        ] {
            assert_eq!(positive_duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
        assert_eq!(nanoseconds("-9223372036854775808ns"), Ok((true, LIMIT)));
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in
            ["", "3", "-", "s", ".", "-.", ".s", "+.s", "5 minutes", "5m ", " 5m", "1d", "5M", "1h 30m", "1e3s", "\u{663}s", "--5s", "00"]
        {
            assert_eq!(positive_duration(text), Err(Fault::NotADuration), "{text:?}");
        }
        for text in ["0", "-0", "+0", "0s", "-5s", "-1.5h", "0.1ns"] {
            assert_eq!(positive_duration(text), Err(Fault::NotPositive), "{text:?}");
        }
        for text in [
            "9223372036854775808ns",
            "9223372036854775.808us",
            "9223372036854ms775us808ns",
            "3000000h",
            "18446744073709551616ns",
            "99999999999999999999999999h",
            "2562047h47m16s854ms775us808ns",
        ] {
            assert_eq!(positive_duration(text), Err(Fault::TooLong), "{text:?}");
        }
    }

    #[test]
    fn booleans_are_read_as_go_reads_them() {
        for text in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(boolean(text), Some(true), "{text}");
        }
        for text in ["0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(boolean(text), Some(false), "{text}");
        }
        for text in ["", "yes", "no", "on", "tRUE", "2", " true", "true "] {
            assert_eq!(boolean(text), None, "{text:?}");
        }
    }
}
