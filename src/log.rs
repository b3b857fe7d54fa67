//! The log: text for people, or JSON for machines, on standard error.
//!
//! In: the form, `RUST_LOG`, `NO_COLOR`; by hand how much somebody asks for. Out: one line an event. The crates underneath speak up at `warn`, and kube at
//! `error`, since what it says of a broken watch is no news here: lower levels are many, and at the lowest they show requests
//! with what signs them.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::env;
use std::io::{self, IsTerminal as _};
use std::panic::PanicHookInfo;

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{DefaultFields, Format, Full};
use tracing_subscriber::fmt::{MakeWriter, SubscriberBuilder};
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use crate::snapshot::Failure;

/// The level without `RUST_LOG`.
const DEFAULT: &str = "info";
/// Beginnings of the names of crates underneath, and how much of them is shown unless `RUST_LOG` names the same ones. What aws_config
/// warns of at each try, we say once; and it shows the whole answer of a token service, whatever that has in it.
const QUIET: &str = "aws=warn,aws_config=error,h2=warn,hyper=warn,kube=error,mio=warn,rustls=warn,tower=warn";

/// What a verb by hand logs unasked. What the agent's own parts say of what failed, the verb says itself.
const BY_HAND: &str = "warn,etcd_snapshot_operator::controller=error,etcd_snapshot_operator::kubernetes=error";

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people; in colour on a terminal, unless `NO_COLOR` is set.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why there can be no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `RUST_LOG` is not a filter.
    #[error("RUST_LOG={0:?} is not a filter; write it like info or info,etcd_snapshot_operator=debug")]
    Filter(String, #[source] tracing_subscriber::filter::ParseError),
    /// There is a log already.
    #[error("the log was set up twice")]
    Twice(#[source] TryInitError),
}

/// Sets the process's log up, once. Panics become log lines, too.
pub fn init(form: Form) -> Result<(), LogError> {
    let text = env::var_os("RUST_LOG").map(|text| text.to_string_lossy().into_owned());
    set_up(subscriber(form, filter(text.as_deref())?, is_coloured(), io::stderr))
}

/// The same for a verb by hand: what it does is its result and what it says of it, so without being asked it logs hardly anything.
/// `RUST_LOG` does not count: in a pod it is meant for the agent.
pub fn init_by_hand(verbose: u8) -> Result<(), LogError> {
    set_up(match verbose {
        0 => Box::new(plain(filter(Some(BY_HAND))?, is_coloured(), io::stderr).without_time().with_target(false).finish()),
        1 => subscriber(Form::Text, filter(Some("info"))?, is_coloured(), io::stderr),
        _ => subscriber(Form::Text, filter(Some("debug"))?, is_coloured(), io::stderr),
    })
}

fn set_up(subscriber: Box<dyn Subscriber + Send + Sync>) -> Result<(), LogError> {
    subscriber.try_init().map_err(LogError::Twice)?;
    std::panic::set_hook(Box::new(panicked));
    Ok(())
}

fn is_coloured() -> bool {
    io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// An error with its whole chain, each cause once: what one log line says of it. (Inside the macros of `tracing`, `log` is theirs: write
/// `crate::log::chain`.)
pub fn chain(error: &dyn std::error::Error) -> String {
    Failure::of("", error).message
}

fn filter(text: Option<&str>) -> Result<EnvFilter, LogError> {
    let text = text.map(str::trim).filter(|text| !text.is_empty()).unwrap_or(DEFAULT);
    let is_stricter = text.split(',').any(|part| ["error", "off"].iter().any(|level| part.trim().eq_ignore_ascii_case(level)));
    // Of two directives for one target the later counts.
    let all = if is_stricter { text.to_owned() } else { format!("{DEFAULT},{QUIET},{text}") };
    EnvFilter::builder().parse(all).map_err(|error| LogError::Filter(text.into(), error))
}

fn subscriber<W>(form: Form, filter: EnvFilter, colour: bool, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let plain = plain(filter, colour, writer);
    match form {
        Form::Text => Box::new(plain.finish()),
        Form::Json => Box::new(plain.json().flatten_event(true).with_span_list(false).finish()),
    }
}

fn plain<W>(filter: EnvFilter, colour: bool, writer: W) -> SubscriberBuilder<DefaultFields, Format<Full>, EnvFilter, W>
where
    W: for<'w> MakeWriter<'w> + 'static,
{
    // Where standard error is closed, complaining about it there would be a panic.
    let plain = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).log_internal_errors(false);
    plain.with_writer(writer)
}

fn panicked(panic: &PanicHookInfo<'_>) {
    let why = panic.payload_as_str().unwrap_or("no reason given");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        tracing::error!(place, %backtrace, "a task panicked: {why}");
    } else {
        tracing::error!(place, "a task panicked: {why}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(form: Form, rust_log: Option<&str>, colour: bool, speak: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber(form, filter(rust_log).unwrap(), colour, move || writer.clone());
        tracing::subscriber::with_default(subscriber, speak);
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    fn everybody() {
        tracing::debug!("ours at debug");
        tracing::info!("ours at info");
        tracing::error!("ours at error");
        tracing::info!(target: "kube_client::client", "theirs at info");
        tracing::warn!(target: "aws_sdk_s3", "theirs at warn");
        tracing::warn!(target: "aws_config::meta::credentials::chain", "a whole answer at warn");
    }

    fn heard(rust_log: Option<&str>) -> Vec<String> {
        let text = logged(Form::Text, rust_log, false, everybody);
        text.lines().map(|line| line.rsplit_once(": ").unwrap().1.to_owned()).collect()
    }

    #[test]
    fn other_crates_are_quieter_than_we_are_until_they_are_asked() {
        let usual = ["ours at info", "ours at error", "theirs at warn"];
        for rust_log in [None, Some(""), Some(" "), Some("info")] {
            assert_eq!(heard(rust_log), usual, "{rust_log:?}");
        }
        assert_eq!(heard(Some("debug")), ["ours at debug", "ours at info", "ours at error", "theirs at warn"]);
        assert_eq!(heard(Some("etcd_snapshot_operator=debug")), ["ours at debug", "ours at info", "ours at error", "theirs at warn"]);
        assert_eq!(heard(Some("warn,kube_client=debug,aws=error")), ["ours at error", "theirs at info"]);
        assert_eq!(heard(Some("kube=info")), ["ours at info", "ours at error", "theirs at info", "theirs at warn"]);
        assert_eq!(heard(Some("error")), ["ours at error"]);
        assert!(heard(Some("OFF")).is_empty());
    }

    #[test]
    fn by_hand_what_the_verb_says_itself_is_not_logged_besides() {
        let speak = || {
            tracing::warn!("ours at warn");
            tracing::warn!(target: "etcd_snapshot_operator::controller::voice", "an agent's");
            tracing::error!(target: "etcd_snapshot_operator::controller::report", "a fault");
            tracing::info!("ours at info");
        };
        let text = logged(Form::Text, Some(BY_HAND), false, speak);
        let said: Vec<_> = text.lines().map(|line| line.rsplit_once(": ").unwrap().1).collect();
        assert_eq!(said, ["ours at warn", "a fault"]);
    }

    #[test]
    fn a_filter_that_is_none_is_one_sentence() {
        let error = filter(Some("a=b=c")).unwrap_err();
        assert_eq!(error.to_string(), "RUST_LOG=\"a=b=c\" is not a filter; write it like info or info,etcd_snapshot_operator=debug");
    }

    #[test]
    fn json_is_one_object_a_line_with_the_fields_beside_the_message() {
        let text = logged(Form::Json, None, true, || {
            let span = tracing::info_span!("pass", storage = "local");
            let _inside = span.enter();
            tracing::info!(files = 3, why = "two\nlines", "listed");
        });
        let line: serde_json::Value = serde_json::from_str(text.strip_suffix('\n').unwrap()).unwrap();
        let part = |key: &str| line[key].as_str().unwrap();
        assert_eq!((part("level"), part("message"), part("why")), ("INFO", "listed", "two\nlines"));
        assert_eq!((&line["files"], &line["span"]["storage"]), (&serde_json::json!(3), &serde_json::json!("local")));
        assert!(part("timestamp").ends_with('Z') && part("target").starts_with("etcd_snapshot_operator::"));
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn text_has_colour_only_where_there_is_some_to_see() {
        let speak = || tracing::info!("a \u{1b}[31mname");
        let (plain, coloured) = (logged(Form::Text, None, false, speak), logged(Form::Text, None, true, speak));
        assert!(!plain.contains('\u{1b}'), "{plain:?}");
        assert!(coloured.contains("\u{1b}[") && !coloured.contains("\u{1b}[31m"), "{coloured:?}");
    }

    #[test]
    fn a_chain_is_told_once() {
        let error = filter(Some("a=b=c")).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap();
        assert_eq!(chain(&error), format!("{error}: {cause}"));
    }
}
