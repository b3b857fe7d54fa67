//! Numbers as people read them, and the page that they stand in.

use std::fmt::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// Several measurements of one thing.
#[derive(Debug, Clone, Default)]
pub struct Spread(Vec<Duration>);

impl Spread {
    pub fn new(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        Self(all)
    }

    pub fn median(&self) -> Duration {
        self.at(50)
    }

    /// The measurement that so many of a hundred do not exceed.
    pub fn at(&self, percent: usize) -> Duration {
        let place = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        self.0.get(place).copied().unwrap_or_default()
    }

    /// Median and 99th percentile.
    pub fn tail(&self) -> String {
        format!("p50 {}, p99 {} (of {})", took(self.at(50)), took(self.at(99)), self.0.len())
    }
}

impl fmt::Display for Spread {
    /// Median, least and most.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..] {
            [] => f.write_str("–"),
            [one] => f.write_str(&took(*one)),
            [first, .., last] => write!(f, "{} ({}–{}, {} times)", took(self.median()), took(*first), took(*last), self.0.len()),
        }
    }
}

/// A duration with three digits.
pub fn took(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        ..0.1 => format!("{:.1} ms", seconds * 1000.0),
        ..1.0 => format!("{:.0} ms", seconds * 1000.0),
        ..10.0 => format!("{seconds:.2} s"),
        ..100.0 => format!("{seconds:.1} s"),
        _ => format!("{seconds:.0} s"),
    }
}

/// How many times one is the other.
pub fn times(longer: Duration, shorter: Duration) -> String {
    let ratio = longer.as_secs_f64() / shorter.as_secs_f64().max(1e-9);
    if ratio < 10.0 { format!("{ratio:.2} ×") } else { format!("{ratio:.0} ×") }
}

/// KiB as MiB.
pub fn mebibytes(kibibytes: u64) -> String {
    format!("{}.{} MiB", kibibytes / 1024, kibibytes % 1024 * 10 / 1024)
}

/// One section of the page.
pub struct Section {
    name: &'static str,
    text: String,
}

impl Section {
    /// Begins with the shape of the machine and how busy it is.
    pub fn new(name: &'static str) -> Self {
        eprintln!("== {name}");
        let text = format!("On {}.\n\n| what | measured |\n| --- | --- |\n", machine());
        Self { name, text }
    }

    /// One more line.
    pub fn row(&mut self, what: impl fmt::Display, measured: impl fmt::Display) {
        eprintln!("   {what}: {measured}");
        let _ = writeln!(self.text, "| {what} | {measured} |");
    }

    /// The whole of it, in Markdown.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Puts it into the page, between its two marks.
    pub fn write(&self, page: &Path) -> Result<()> {
        let was = std::fs::read_to_string(page).with_context(|| format!("read {}", page.display()))?;
        let (begin, end) = (format!("<!-- measured: {} -->\n", self.name), format!("<!-- end: {} -->\n", self.name));
        let marks = || format!("{} has no {begin:?} before {end:?}", page.display());
        let (before, rest) = was.split_once(&begin).with_context(marks)?;
        let (_, after) = rest.split_once(&end).with_context(marks)?;
        std::fs::write(page, format!("{before}{begin}{}{end}{after}", self.text)).with_context(|| format!("write {}", page.display()))
    }
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = read("/proc/meminfo");
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let gibibytes = memory.unwrap_or_default().div_ceil(1024 * 1024);
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("?");
    format!("{cores} cores with {gibibytes} GiB of memory; load average {load} before")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(milliseconds: impl IntoIterator<Item = u64>) -> Spread {
        Spread::new(milliseconds.into_iter().map(Duration::from_millis).collect())
    }

    #[test]
    fn a_spread_shows_its_middle_and_its_ends() {
        assert_eq!(spread([30, 10, 20]).to_string(), "20.0 ms (10.0 ms–30.0 ms, 3 times)");
        assert_eq!(spread([1500]).to_string(), "1.50 s");
        assert_eq!(spread(1..=200).tail(), "p50 100 ms, p99 198 ms (of 200)");
    }

    #[test]
    fn a_section_replaces_what_stands_between_its_marks() {
        let dir = crate::process::scratch().unwrap();
        let page = dir.path().join("page.md");
        std::fs::write(&page, "a\n<!-- measured: b -->\nold\n<!-- end: b -->\nc\n").unwrap();
        Section { name: "b", text: "new\n".into() }.write(&page).unwrap();
        assert_eq!(std::fs::read_to_string(&page).unwrap(), "a\n<!-- measured: b -->\nnew\n<!-- end: b -->\nc\n");
        assert!(Section { name: "d", text: String::new() }.write(&page).is_err());
    }
}
