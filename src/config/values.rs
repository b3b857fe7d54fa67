//! One parser for each kind of value, whatever place it came from.
//!
//! In: a text that is not empty and has no outer spaces. Out: a value that can be used as it is, or the half of a sentence that says
//! what the text is not and what would be right.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use jiff::tz::TimeZone;

use crate::decide::Mode;
use crate::duration::{self, Fault};
use crate::log::Form;
use crate::schedule::{Schedule, Scope};
use crate::snapshot::{BaseName, NameError, NodeName, Program};

/// What is wrong with a value: the rest of a sentence that begins with the value.
pub type Problem = Cow<'static, str>;

pub(super) fn switch(text: &str) -> Result<bool, Problem> {
    duration::boolean(text).ok_or("is not a boolean; write true or false".into())
}

pub(super) fn time(text: &str) -> Result<Duration, Problem> {
    duration::positive_duration(text).map_err(|fault| match fault {
        Fault::NotADuration => "is not a duration; write it like 5m or 90s".into(),
        Fault::NotPositive => "is not above zero; write it like 5m or 90s".into(),
        Fault::TooLong => "is too long; 292 years are the most".into(),
    })
}

/// A duration that may be zero.
pub(super) fn pause(text: &str) -> Result<Duration, Problem> {
    match duration::positive_duration(text) {
        Err(Fault::NotPositive) if !text.starts_with('-') => Ok(Duration::ZERO),
        Err(Fault::NotPositive) => Err("is below zero; write it like 5s, or 0".into()),
        _ => time(text),
    }
}

/// The times are meant in this zone unless the text names one.
pub(super) fn schedule(text: &str, zone: &TimeZone) -> Result<Schedule, Problem> {
    let schedule = Schedule::parse(text, zone).map_err(|error| Problem::from(error.to_string()))?;
    if schedule.ever_runs() { Ok(schedule) } else { Err("names days that no calendar has; write a day that the month has".into()) }
}

pub(super) fn zone(text: &str) -> Result<TimeZone, Problem> {
    TimeZone::get(text).map_err(|_| "is not a time zone that is known here; write a name of the tz database like Europe/Berlin".into())
}

pub(super) fn scope(text: &str, schedule: &Schedule) -> Result<Scope, Problem> {
    match text {
        "node" => Ok(Scope::Node),
        "cluster" if schedule.every().is_none() => Ok(Scope::Cluster),
        "cluster" => {
            Err("needs a schedule with fixed times, and @every counts from each node's own last attempt; write it like 0 */6 * * *".into())
        }
        _ => Err("is neither node nor cluster".into()),
    }
}

pub(super) fn count(text: &str) -> Result<u32, Problem> {
    text.parse().map_err(|_| "is not a number of snapshots; write 0 or more in digits".into())
}

pub(super) fn node(text: &str) -> Result<NodeName, Problem> {
    // Files about a node are kept in a directory of its name.
    if matches!(text, "." | "..") || text.len() > 253 {
        return Err("is not the name of a node; write it as kubectl get nodes shows it".into());
    }
    NodeName::new(text).map_err(|error| match error {
        NameError::NodeCalledS3 => "cannot be the name of a node: K3s marks the records of a bucket with that word".into(),
        _ => "is not the name of a node; write it as kubectl get nodes shows it".into(),
    })
}

pub(super) fn base_name(text: &str) -> Result<BaseName, Problem> {
    BaseName::new(text).map_err(|_| "cannot be the base name of a snapshot file; write it like etcd-snapshot".into())
}

pub(super) fn program(text: &str) -> Result<Program, Problem> {
    Program::ALL.into_iter().find(|program| program.word() == text).ok_or("is neither k3s nor rke2".into())
}

pub(super) fn mode(text: &str) -> Result<Mode, Problem> {
    match text {
        "manage" => Ok(Mode::Manage),
        "observe" => Ok(Mode::Observe),
        _ => Err("is neither manage nor observe".into()),
    }
}

pub(super) fn log_format(text: &str) -> Result<Form, Problem> {
    match text {
        "text" => Ok(Form::Text),
        "json" => Ok(Form::Json),
        _ => Err("is neither text nor json".into()),
    }
}

/// An absolute path in its shortest spelling, which is what the location of a record is made from.
pub(super) fn directory(text: &str) -> Result<PathBuf, Problem> {
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err("is not an absolute path; write it from the root, with a slash first".into());
    }
    if text.chars().any(char::is_control) || path.components().any(|part| part == Component::ParentDir) {
        return Err("has .. or a control character in it; write the path without".into());
    }
    if path.parent().is_none() {
        return Err("is the root directory; write the path of a directory in it".into());
    }
    Ok(path.components().collect())
}

pub(super) fn namespace(text: &str) -> Result<String, Problem> {
    if is_label(text) { Ok(text.into()) } else { Err("is not the name of a namespace; those have up to 63 of a-z, 0-9 and -".into()) }
}

/// The name of a Secret or a ConfigMap.
pub(super) fn object(text: &str) -> Result<String, Problem> {
    if text.len() <= 253 && text.split('.').all(is_label) {
        Ok(text.into())
    } else {
        Err("is not the name of an object in Kubernetes; those have up to 253 of a-z, 0-9, - and .".into())
    }
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

pub(super) fn listen(text: &str) -> Result<SocketAddr, Problem> {
    text.parse().map_err(|_| "is not an address with a port; write it like 0.0.0.0:9469 or [::]:9469".into())
}

pub(super) fn metrics_prefix(text: &str) -> Result<String, Problem> {
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if starts_well && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        Ok(text.into())
    } else {
        Err("cannot begin the name of a metric; write it like k3s_".into())
    }
}
