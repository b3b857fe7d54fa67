//! A scrape of `/metrics`, to ask for single values.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

/// The samples of one scrape.
#[derive(Debug, Clone)]
pub struct Metrics {
    samples: Vec<Sample>,
}

#[derive(Debug, Clone)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// Reads the Prometheus text format.
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = lines.map(|line| sample(line).with_context(|| format!("not a sample: {line}")));
        Ok(Self { samples: samples.collect::<Result<_>>()? })
    }

    /// The sum over all series of this name that have these labels; None when there is no such series.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut values = self.matching(name, labels).peekable();
        values.peek()?;
        Some(values.sum())
    }

    /// [`Self::sum`], and an error that shows what there is of that name when there is no such series.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        self.sum(name, labels).with_context(|| {
            let there: Vec<&Sample> = self.samples.iter().filter(|sample| sample.name == name).collect();
            format!("no series {name} {labels:?}; there are {there:?}")
        })
    }

    /// How many series have this name and these labels.
    pub fn series(&self, name: &str, labels: &[(&str, &str)]) -> usize {
        self.matching(name, labels).count()
    }

    /// Every value of every label, to look for what must not be in one.
    pub fn label_values(&self) -> impl Iterator<Item = &str> {
        self.samples.iter().flat_map(|sample| sample.labels.values().map(String::as_str))
    }

    fn matching(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = f64> {
        let has = |sample: &&Sample| labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|is| is == value));
        self.samples.iter().filter(move |sample| sample.name == name).filter(has).map(|sample| sample.value)
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (series, rest) = match line.split_once('{') {
        Some((name, rest)) => (name, Some(rest)),
        None => (line, None),
    };
    let Some(mut rest) = rest else {
        let mut words = series.split_whitespace();
        return Some(Sample { name: words.next()?.to_owned(), labels: BTreeMap::new(), value: words.next()?.parse().ok()? });
    };
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(value) = rest.strip_prefix('}') {
            return Some(Sample { name: series.to_owned(), labels, value: value.split_whitespace().next()?.parse().ok()? });
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let (value, after) = unquote(quoted)?;
        labels.insert(name.to_owned(), value);
        rest = after;
    }
}

fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_found_by_name_and_labels() {
        let text =
            "# HELP a help\n# TYPE a counter\na{x=\"1\",y=\"b, \\\"c\\\"\"} 2\na{x=\"2\",y=\"d\"} 3.5\nb 7 1234\nh_bucket{le=\"+Inf\"} 4\n";
        let metrics = Metrics::parse(text).unwrap();
        assert_eq!(metrics.sum("a", &[]), Some(5.5));
        assert_eq!(metrics.sum("a", &[("y", "b, \"c\"")]), Some(2.0));
        assert_eq!(metrics.sum("a", &[("x", "3")]), None);
        assert_eq!(metrics.sum("b", &[]), Some(7.0));
        assert_eq!(metrics.series("h_bucket", &[("le", "+Inf")]), 1);
        assert!(Metrics::parse("a{x=\"1} 2").is_err());
    }
}
