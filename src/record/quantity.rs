//! Kubernetes' resource quantities, as far as bytes need them. The API server does not canonicalise quantities in custom
//! resources, so they are printed here as Kubernetes would and compared as numbers.

use serde::{Deserialize, Deserializer, Serialize};

/// A quantity as text, as the record has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Quantity(pub String);

impl Quantity {
    /// Bytes in the canonical decimal form: the largest of k, M, G, T, P, E that leaves a whole number.
    pub fn of_bytes(bytes: u64) -> Self {
        if bytes == 0 {
            return Self("0".into());
        }
        let mut number = bytes;
        let mut suffix = 0;
        while number.is_multiple_of(1000) && suffix < DECIMAL.len() {
            number /= 1000;
            suffix += 1;
        }
        Self(format!("{number}{}", if suffix == 0 { "" } else { DECIMAL[suffix - 1].0 }))
    }

    /// The number of bytes, rounded up as Kubernetes does; None when it is no quantity, negative, or beyond 2⁶³-1.
    pub fn bytes(&self) -> Option<u64> {
        let text = self.0.strip_prefix('+').unwrap_or(&self.0);
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(split);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() + fraction.len() > 60 {
            return None;
        }
        let (base, exponent) = scale(suffix)?;
        if base == 1024 {
            let factor = 1024_u128.pow(exponent.unsigned_abs());
            let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
            let fraction = fraction.trim_end_matches('0');
            let rest = if fraction.is_empty() {
                0
            } else {
                let digits = u32::try_from(fraction.len()).ok().filter(|digits| *digits <= 18)?;
                fraction.parse::<u128>().ok()?.checked_mul(factor)?.div_ceil(10_u128.pow(digits))
            };
            return fit(whole.checked_mul(factor)?.checked_add(rest)?);
        }
        let digits: u128 = format!("{whole}{fraction}")
            .trim_start_matches('0')
            .parse()
            .or_else(|error: std::num::ParseIntError| if *error.kind() == std::num::IntErrorKind::Empty { Ok(0) } else { Err(()) })
            .ok()?;
        let exponent = exponent - i32::try_from(fraction.len()).ok()?;
        let power = |exponent: i32| 10_u128.checked_pow(exponent.unsigned_abs());
        match (digits, exponent) {
            (0, _) => Some(0),
            (_, 0..) => fit(digits.checked_mul(power(exponent)?)?),
            (_, _) => power(exponent).map_or(Some(1), |power| fit(digits.div_ceil(power))),
        }
    }
}

const DECIMAL: [(&str, i32); 6] = [("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const SMALL: [(&str, i32); 3] = [("n", -9), ("u", -6), ("m", -3)];
const BINARY: [(&str, i32); 6] = [("Ki", 1), ("Mi", 2), ("Gi", 3), ("Ti", 4), ("Pi", 5), ("Ei", 6)];

fn scale(suffix: &str) -> Option<(u32, i32)> {
    let among = |table: &[(&str, i32)]| table.iter().find(|(word, _)| *word == suffix).map(|(_, exponent)| *exponent);
    if suffix.is_empty() {
        return Some((10, 0));
    }
    among(&DECIMAL)
        .or_else(|| among(&SMALL))
        .map(|exponent| (10, exponent))
        .or_else(|| among(&BINARY).map(|exponent| (1024, exponent)))
        .or_else(|| {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            Some((10, exponent.parse().ok().filter(|exponent: &i32| exponent.abs() < 100)?))
        })
}

fn fit(bytes: u128) -> Option<u64> {
    u64::try_from(bytes).ok().filter(|bytes| i64::try_from(*bytes).is_ok())
}

/// A quantity may stand in JSON as a number, too.
impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum NumberOrText {
            Number(i64),
            Text(String),
        }
        Ok(Self(match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Number(number) => number.to_string(),
            NumberOrText::Text(text) => text,
        }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Printed by apimachinery 0.36.3 `resource.Quantity`. Where it overflows (`12E` becomes 0), this one refuses.
    const CASES: &str = include_str!("vectors/quantity.json");

    #[test]
    fn bytes_are_printed_as_kubernetes_prints_them() {
        let cases: Value = serde_json::from_str(CASES).unwrap();
        let cases = cases["print"].as_array().unwrap();
        assert!(cases.len() > 20);
        for case in cases {
            assert_eq!(Quantity::of_bytes(case["bytes"].as_u64().unwrap()).0, case["text"].as_str().unwrap());
        }
    }

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        let cases: Value = serde_json::from_str(CASES).unwrap();
        let cases = cases["parse"].as_array().unwrap();
        assert!(cases.len() > 20);
        for case in cases {
            let text = case["text"].as_str().unwrap();
            let bytes = Quantity(text.into()).bytes();
            match case["bytes"].as_i64() {
                // Its overflows are not copied, and a negative number of bytes is none.
                Some(number) if number < 0 || (number == 0 && text.starts_with(|c: char| ('1'..='9').contains(&c))) => {
                    assert_eq!(bytes, None, "{text}");
                }
                Some(number) => assert_eq!(bytes, u64::try_from(number).ok(), "{text}"),
                None => assert_eq!(bytes, None, "{text}"),
            }
        }
    }
}
