//! Why a verb did not do what it was told, and the exit code of that.

use std::error::Error;

use super::{FAILED, REFUSED, USAGE};
use crate::config::ConfigError;
use crate::snapshot::Failure;

/// One sentence, the cause below it, and the exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The exit code.
    pub code: u8,
    /// What was tried, and what would be right.
    pub sentence: String,
    /// What came of it, outermost first.
    pub causes: Vec<String>,
}

impl Trouble {
    fn new(code: u8, sentence: impl Into<String>) -> Self {
        Self { code, sentence: sentence.into(), causes: Vec::new() }
    }

    /// It did not work.
    pub fn failed(sentence: impl Into<String>) -> Self {
        Self::new(FAILED, sentence)
    }

    /// The command line or a setting is wrong.
    pub fn usage(sentence: impl Into<String>) -> Self {
        Self::new(USAGE, sentence)
    }

    /// It could be done, and should not.
    pub fn refused(sentence: impl Into<String>) -> Self {
        Self::new(REFUSED, sentence)
    }

    /// With what the file system, the server or the settings said.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// With an error and what is behind it, each cause once.
    #[must_use]
    pub fn because_of(mut self, error: &dyn Error) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            let text = error.to_string();
            if !self.causes.iter().chain([&self.sentence]).any(|said| said.contains(&text)) {
                self.causes.push(text);
            }
            next = error.source();
        }
        self
    }

    /// As it is shown: the sentence, and each cause on a line of its own below it.
    pub fn shown(&self) -> String {
        let lines: Vec<&str> = [&self.sentence].into_iter().chain(&self.causes).map(String::as_str).collect();
        lines.join("\n  ")
    }
}

impl From<ConfigError> for Trouble {
    fn from(error: ConfigError) -> Self {
        Self::usage(error.to_string()).because_of(&error)
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::failed(failure.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once_below_the_sentence() {
        let error = std::io::Error::from_raw_os_error(28);
        let trouble = Trouble::failed("cannot write /x").because_of(&error).because_of(&error);
        assert_eq!(trouble.shown(), "cannot write /x\n  No space left on device (os error 28)");
        assert_eq!(trouble.code, 1);
        assert_eq!([Trouble::usage(""), Trouble::refused("")].map(|trouble| trouble.code), [2, 4]);
    }

    #[test]
    fn a_setting_that_is_missing_is_a_wrong_usage() {
        let trouble = Trouble::from(ConfigError::Missing("etcd-s3-bucket"));
        assert!(trouble.code == 2 && trouble.causes.is_empty() && trouble.sentence.contains("--etcd-s3-bucket"), "{trouble:?}");
    }
}
