//! Says each failure when it begins, when its reason changes, and when it ends; not on each pass.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::snapshot::Failure;

/// What has changed about a failure since it was last heard of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// It is new, or its reason is another one now.
    Begun,
    /// It is as it was.
    Same,
    /// It has ended.
    Ended,
    /// There was none and there is none.
    Quiet,
}

/// Remembers what was said.
#[derive(Debug, Default)]
pub struct Voice {
    said: Mutex<BTreeMap<String, Failure>>,
}

impl Voice {
    /// Takes the present state of one thing, and logs its turn: a warning, an info when it has ended, debug in between.
    pub fn hear(&self, about: &str, failure: Option<&Failure>) -> Turn {
        let turn = self.turn(about, failure);
        match (&turn, failure) {
            (Turn::Begun, Some(failure)) => tracing::warn!(about, category = failure.category, "{failure}"),
            (Turn::Same, Some(failure)) => tracing::debug!(about, category = failure.category, "still: {failure}"),
            (Turn::Ended, _) => tracing::info!(about, "well again"),
            _ => {}
        }
        turn
    }

    /// What is wrong with one thing, as far as was heard.
    pub fn failing(&self, about: &str) -> Option<Failure> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).get(about).cloned()
    }

    /// Forgets, without a word, what is not there any more and can neither fail nor recover.
    pub fn forget(&self, is_gone: impl Fn(&str) -> bool) {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).retain(|about, _| !is_gone(about));
    }

    fn turn(&self, about: &str, failure: Option<&Failure>) -> Turn {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        match failure {
            Some(failure) => match said.insert(about.into(), failure.clone()) {
                Some(before) if before.category == failure.category => Turn::Same,
                _ => Turn::Begun,
            },
            None if said.remove(about).is_some() => Turn::Ended,
            None => Turn::Quiet,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_said_when_it_begins_changes_and_ends() {
        let voice = Voice::default();
        let denied = Failure::new("denied", "403");
        let away = Failure::new("unreachable", "no route");
        let turns = [Some(&denied), Some(&denied), Some(&away), Some(&away), None, None].map(|failure| voice.hear("s3", failure));
        assert_eq!(turns, [Turn::Begun, Turn::Same, Turn::Begun, Turn::Same, Turn::Ended, Turn::Quiet]);
        assert_eq!(voice.hear("local", None), Turn::Quiet);
        voice.hear("s3", Some(&denied));
        assert_eq!((voice.failing("s3"), voice.failing("local")), (Some(denied), None));
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let voice = Voice::default();
        let denied = Failure::new("denied", "403");
        for about in ["file a", "file b"] {
            voice.hear(about, Some(&denied));
        }
        voice.forget(|about| about == "file a");
        assert_eq!(["file a", "file b"].map(|about| voice.hear(about, None)), [Turn::Quiet, Turn::Ended]);
    }
}
