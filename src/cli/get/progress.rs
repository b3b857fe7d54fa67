//! How far a download is, on a terminal: bytes and rate. In a pipe nothing is said.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use crate::cli::terminal;

/// Between two lines.
const OFTEN: Duration = Duration::from_millis(100);

/// One line that is written over and over.
pub struct Progress {
    doing: &'static str,
    from: u64,
    of: u64,
    begun: Instant,
    shown: Option<Instant>,
    width: Option<usize>,
}

impl Progress {
    /// Begins at so many bytes of so many.
    pub fn new(doing: &'static str, from: u64, of: u64) -> Self {
        Self { doing, from, of, begun: Instant::now(), shown: None, width: terminal::width_of_stderr() }
    }

    /// So many bytes are there.
    pub fn at(&mut self, bytes: u64) {
        let Some(width) = self.width else { return };
        if self.shown.is_some_and(|shown| shown.elapsed() < OFTEN) && bytes < self.of {
            return;
        }
        self.shown = Some(Instant::now());
        let took = self.begun.elapsed().as_millis().max(1);
        let rate = u64::try_from(u128::from(bytes.saturating_sub(self.from)) * 1000 / took).unwrap_or(u64::MAX);
        write(line(self.doing, bytes, self.of, rate, width));
    }

    /// Begins what cannot tell how far it is.
    pub fn of_unknown_length(doing: &'static str) -> Self {
        let mut progress = Self::new(doing, 0, 0);
        if progress.width.is_some() {
            progress.shown = Some(Instant::now());
            write(doing);
        }
        progress
    }

    /// Takes the line away.
    pub fn end(self) {
        if self.shown.is_some() {
            write("");
        }
    }
}

fn write(text: impl Display) {
    // Who cannot be told how far it is can still have the result.
    let _ = write!(io::stderr(), "\r\u{1b}[K{text}").and_then(|()| io::stderr().flush());
}

fn line(doing: &str, bytes: u64, of: u64, rate: u64, width: usize) -> String {
    let percent = if of == 0 { 100 } else { u128::from(bytes) * 100 / u128::from(of) };
    let mut text = format!("{doing} {percent:>3} %  {} of {}  {}/s", terminal::bytes(bytes), terminal::bytes(of), terminal::bytes(rate));
    // In the last column some terminals begin a new line.
    text.truncate(width.saturating_sub(1));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_bytes_and_rate_and_fits() {
        let (bytes, of, rate) = (3 << 20, 12 << 20, 1 << 20);
        assert_eq!(line("downloading", bytes, of, rate, 80), "downloading  25 %  3.0 MiB of 12.0 MiB  1.0 MiB/s");
        assert_eq!(line("downloading", bytes, of, rate, 20), "downloading  25 %  ");
        assert_eq!(line("x", 0, 0, 0, 80), "x 100 %  0 B of 0 B  0 B/s");
    }
}
