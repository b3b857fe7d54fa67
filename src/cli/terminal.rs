//! What is shown, and to whom: results to standard output, everything else to standard error.
//!
//! In: text. Out: bytes, in colour where there is a terminal and `NO_COLOR` is not set. A reader that has seen enough is no failure.

use std::env;
use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal as _, Write as _};

use super::trouble::Trouble;

/// Prints a result.
pub fn print(text: &str) -> Result<(), Trouble> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Trouble::failed("the result cannot be written to standard output").because_of(&error))
        }
        _ => Ok(()),
    }
}

/// Says something beside the result.
pub fn say(text: impl Display) {
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Says what somebody should know about the result.
pub fn note(text: impl Display) {
    let text = wrapped(&format!("note: {text}"), width_of_stderr());
    say(format_args!("{}{}", Paint::of_stderr().yellow("note:"), text.strip_prefix("note:").unwrap_or(&text)));
}

/// Says what a verb could not do.
pub fn complain(trouble: &Trouble) {
    let text = wrapped(&format!("error: {}", trouble.shown()), width_of_stderr());
    say(format_args!("{}{}", Paint::of_stderr().red("error:"), text.strip_prefix("error:").unwrap_or(&text)));
}

/// Shows how far something has come, over what was shown before. For terminals only.
pub fn progress(text: &str) {
    let mut err = io::stderr().lock();
    let _ = write!(err, "\r\u{1b}[K{text}").and_then(|()| err.flush());
}

/// Clears what [`progress`] has shown.
pub fn progress_ended() {
    if width_of_stderr().is_some() {
        progress("");
    }
}

/// Lines that end between words; what goes on is indented. In a pipe a sentence stays one line.
fn wrapped(text: &str, width: Option<usize>) -> String {
    let Some(width) = width else { return text.into() };
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let indent = paragraph.len() - paragraph.trim_start().len();
        let mut line = " ".repeat(indent);
        for word in paragraph.split_whitespace() {
            let is_first = line.trim().is_empty();
            if !is_first && line.chars().count() + 1 + word.chars().count() > width {
                lines.push(std::mem::replace(&mut line, " ".repeat(indent + 2) + word));
            } else {
                line = if is_first { line + word } else { line + " " + word };
            }
        }
        lines.push(line);
    }
    lines.join("\n")
}

/// The columns of the terminal that standard output is; None when it is none.
pub fn width() -> Option<usize> {
    columns(io::stdout())
}

/// The columns of the terminal that standard error is; None when it is none.
pub fn width_of_stderr() -> Option<usize> {
    columns(io::stderr())
}

fn columns(stream: impl io::IsTerminal + std::os::fd::AsFd) -> Option<usize> {
    if !stream.is_terminal() {
        return None;
    }
    let columns = rustix::termios::tcgetwinsize(stream).map_or(0, |size| usize::from(size.ws_col));
    // A terminal that does not tell has the width that all once had.
    Some(if columns == 0 { 80 } else { columns })
}

/// Colours, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint(bool);

impl Paint {
    /// For standard output.
    pub fn of_stdout() -> Self {
        Self(io::stdout().is_terminal() && wanted())
    }

    /// For standard error.
    pub fn of_stderr() -> Self {
        Self(io::stderr().is_terminal() && wanted())
    }

    /// Without colours.
    #[cfg(test)]
    pub const PLAIN: Self = Self(false);

    /// What is wrong.
    pub fn red(self, text: impl Display) -> String {
        self.paint("31", text)
    }

    /// What is worth a look.
    pub fn yellow(self, text: impl Display) -> String {
        self.paint("33", text)
    }

    /// What is right.
    pub fn green(self, text: impl Display) -> String {
        self.paint("32", text)
    }

    /// Headings.
    pub fn bold(self, text: impl Display) -> String {
        self.paint("1", text)
    }

    fn paint(self, code: &str, text: impl Display) -> String {
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_string() }
    }
}

fn wanted() -> bool {
    let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Text of somebody else's, without what would move a cursor or change colours.
pub fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Bytes as people say them: three digits and a unit.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut unit = 0;
    let mut scale = 1024_u64;
    while unit + 1 < UNITS.len() && count / scale >= 1000 {
        unit += 1;
        scale *= 1024;
    }
    let tenths = u128::from(count) * 10 / u128::from(scale);
    if tenths < 1000 { format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]) } else { format!("{} {}", tenths / 10, UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_said_with_three_digits_at_most() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (10_240, "10.0 KiB"),
            (102_400, "100 KiB"),
            (1_023_999, "999 KiB"),
            (1_024_000, "0.9 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16383 PiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn a_sentence_is_broken_between_words_on_a_terminal_and_nowhere_else() {
        let text = "error: one two three\n  four fivesixseveneight";
        assert_eq!(wrapped(text, None), text);
        assert_eq!(wrapped(text, Some(12)), "error: one\n  two three\n  four\n    fivesixseveneight");
        assert_eq!(wrapped(text, Some(80)), text);
    }

    #[test]
    fn nothing_of_somebody_elses_moves_the_cursor() {
        assert_eq!(harmless("a\u{1b}[2Jb\nc\u{9b}d"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d");
        assert_eq!((Paint::PLAIN.red("x"), Paint(true).red("x")), ("x".into(), "\u{1b}[31mx\u{1b}[0m".into()));
    }
}
