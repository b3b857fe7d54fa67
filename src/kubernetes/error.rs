//! One request to the API server: how long it may take, and what its failure means in one sentence.
//!
//! A request ends after [`REQUEST_TIMEOUT`], or at its deadline when that comes first. Nothing is retried here but a 429,
//! which the server did not execute.

use std::fmt;
use std::future::pending;
use std::time::Duration;

use kube::client::{AuthError, UpgradeConnectionError};
use kube::core::Status;
use tokio::time::{Instant, sleep, timeout_at};

use crate::snapshot::Failure;

/// The longest that one request may take, waiting for a throttling server included.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a request is sent at most when the server throttles it.
const ATTEMPTS: u32 = 3;
/// How long to wait when a throttling server does not say.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest text of the server's that is repeated in a sentence, in bytes.
const LONGEST_MESSAGE: usize = 500;

/// What a request does: `get Secret kube-system/s3`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doing {
    /// The verb as RBAC has it.
    pub verb: &'static str,
    /// Plural and group, as RBAC has them.
    pub resource: &'static str,
    /// Which one; empty for all.
    pub name: String,
}

impl Doing {
    /// A request about one object, or about all when `name` is empty.
    pub fn new(verb: &'static str, resource: &'static str, name: impl Into<String>) -> Self {
        Self { verb, resource, name: name.into() }
    }
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if self.name.is_empty() { Ok(()) } else { write!(f, " {}", self.name) }
    }
}

/// A request that did not work.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing}")]
pub struct Error {
    /// What was asked for.
    pub doing: Doing,
    /// Why not.
    #[source]
    pub cause: Cause,
}

/// Why a request did not work.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// 403.
    #[error("not allowed: its role needs {right} ({message})")]
    Forbidden {
        /// The right that is missing: `verb list on nodes`.
        right: String,
        /// The server's words.
        message: String,
    },
    /// 401.
    #[error("the API server does not accept the credentials")]
    Unauthorized,
    /// Credentials could not be had in the first place.
    #[error("no credentials: {0}")]
    Credentials(String),
    /// 404 of one object, or of the namespace it would be in.
    #[error("it does not exist ({0})")]
    NotFound(String),
    /// 404 of the whole resource.
    #[error("the API server does not serve {0}: its CRD is not installed")]
    NotServed(&'static str),
    /// 409: it has changed, or it exists already.
    #[error("something else was faster: {0}")]
    Conflict(String),
    /// 410: a list or watch that is too old to go on.
    #[error("it has to be listed anew")]
    Expired,
    /// 429, also after waiting.
    #[error("the API server has too much to do")]
    Throttled,
    /// 400, 413, 422 and other refusals.
    #[error("the API server refuses it: {0}")]
    Invalid(String),
    /// 5xx.
    #[error("the API server answers {code}: {message}")]
    Unavailable {
        /// The HTTP status.
        code: u16,
        /// The server's words.
        message: String,
    },
    /// No connection, or a broken one.
    #[error("the API server cannot be reached: {0}")]
    Unreachable(String),
    /// No answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The deadline of the caller came first. Before that nothing was sent, or it is not known what became of it.
    #[error("the time to act was over")]
    Deadline,
    /// Not what the API promises. The answer itself is not repeated: it may hold anything.
    #[error("the answer is not what it should be: {0}")]
    Unreadable(String),
}

impl Error {
    /// The cause in one word, from a fixed set.
    pub fn category(&self) -> &'static str {
        match &self.cause {
            Cause::Forbidden { .. } => "forbidden",
            Cause::Unauthorized | Cause::Credentials(_) => "unauthorized",
            Cause::NotFound(_) => "not_found",
            Cause::NotServed(_) => "crd_missing",
            Cause::Conflict(_) => "conflict",
            Cause::Expired => "expired",
            Cause::Throttled => "throttled",
            Cause::Invalid(_) => "invalid",
            Cause::Unavailable { .. } | Cause::Unreachable(_) => "unavailable",
            Cause::Timeout(_) => "timeout",
            Cause::Deadline => "deadline",
            Cause::Unreadable(_) => "unreadable",
        }
    }

    /// The whole sentence, with the category.
    pub fn failure(&self) -> Failure {
        Failure::of(self.category(), self)
    }

    pub(super) fn from_kube(doing: Doing, error: kube::Error) -> Self {
        let cause = match error {
            kube::Error::Api(status) => cause(&doing, &status),
            kube::Error::SerdeError(error) => Cause::Unreadable(format!("line {} column {}", error.line(), error.column())),
            kube::Error::FromUtf8(_) => Cause::Unreadable("not UTF-8".into()),
            kube::Error::Auth(error) => Cause::Credentials(credentials(&error)),
            kube::Error::Service(error) => match error.downcast::<AuthError>() {
                Ok(error) => Cause::Credentials(credentials(&error)),
                Err(error) => Cause::Unreachable(cut(&Failure::of("", &*error).message)),
            },
            // Of the answer to an upgrade that is refused there is only the number.
            kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(code)) => {
                cause(&doing, &Status::failure("no more is said", "").with_code(code.as_u16()))
            }
            kube::Error::BuildRequest(error) => Cause::Invalid(cut(&error.to_string())),
            error => Cause::Unreachable(cut(&Failure::of("", &error).message)),
        };
        Self { doing, cause }
    }
}

fn cause(doing: &Doing, status: &Status) -> Cause {
    let message = cut(&status.message);
    match status.code {
        401 => Cause::Unauthorized,
        403 => Cause::Forbidden { right: format!("verb {} on {}", doing.verb, doing.resource), message },
        // The server names the object that is not there; of a path that is not there it knows nothing to name.
        404 if status.details.is_some() => Cause::NotFound(message),
        // While a CRD goes, nothing can be created.
        404 | 405 => Cause::NotServed(doing.resource),
        409 => Cause::Conflict(message),
        410 => Cause::Expired,
        429 => Cause::Throttled,
        code @ 500.. => Cause::Unavailable { code, message },
        _ => Cause::Invalid(message),
    }
}

/// The output of a credentials helper may be a credential, and so may its arguments and its environment.
pub(super) fn credentials(error: &AuthError) -> String {
    match error {
        AuthError::AuthExecRun { out, .. } => format!("the helper failed with {}", out.status),
        AuthError::AuthExecParse(_) | AuthError::ParseTokenKey(_) => "the helper's answer makes no sense".into(),
        error => cut(&error.to_string()),
    }
}

fn cut(text: &str) -> String {
    let text = text.trim();
    text[..text.floor_char_boundary(LONGEST_MESSAGE)].to_string()
}

/// Sends a request, within its time and before `until`.
pub(super) async fn call<T, F>(doing: Doing, until: Option<Instant>, request: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = kube::Result<T>>,
{
    call_within(doing, REQUEST_TIMEOUT, until, request).await
}

/// The same with another time.
pub(super) async fn call_within<T, F>(doing: Doing, time: Duration, until: Option<Instant>, request: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = kube::Result<T>>,
{
    let now = Instant::now();
    let own_end = now + time;
    let end = until.map_or(own_end, |until| until.min(own_end));
    if end <= now {
        return Err(Error { doing, cause: Cause::Deadline });
    }
    let patient = async {
        for _ in 1..ATTEMPTS {
            match request().await {
                Err(kube::Error::Api(status)) if status.code == 429 && Instant::now() + pause(&status) < end => {
                    sleep(pause(&status)).await;
                    // It may have been a longer one: the time to send anything is over, and the timeout says so.
                    if Instant::now() >= end {
                        pending::<()>().await;
                    }
                }
                answer => return answer,
            }
        }
        request().await
    };
    match timeout_at(end, patient).await {
        Ok(answer) => answer.map_err(|error| Error::from_kube(doing, error)),
        Err(_) => Err(Error { doing, cause: if end < own_end { Cause::Deadline } else { Cause::Timeout(time) } }),
    }
}

fn pause(status: &Status) -> Duration {
    let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    if seconds == 0 { PAUSE } else { Duration::from_secs(seconds.into()) }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use kube::core::response::StatusDetails;

    use super::*;

    fn doing() -> Doing {
        Doing::new("patch", "etcdsnapshotfiles.k3s.cattle.io", "x")
    }

    fn status(code: u16) -> Status {
        Status::failure("words of the server", "Reason").with_code(code)
    }

    fn sentence(code: u16, found: bool) -> (&'static str, String) {
        let mut status = status(code);
        status.details = found.then(|| StatusDetails {
            name: "x".into(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after_seconds: 0,
        });
        let error = Error::from_kube(doing(), kube::Error::Api(status.boxed()));
        (error.category(), error.failure().message)
    }

    #[test]
    fn each_answer_has_its_category_and_its_sentence() {
        let begin = "cannot patch etcdsnapshotfiles.k3s.cattle.io x: ";
        for (code, found, category, end) in [
            (401, false, "unauthorized", "the API server does not accept the credentials"),
            (403, false, "forbidden", "not allowed: its role needs verb patch on etcdsnapshotfiles.k3s.cattle.io (words of the server)"),
            (404, true, "not_found", "it does not exist (words of the server)"),
            (404, false, "crd_missing", "the API server does not serve etcdsnapshotfiles.k3s.cattle.io: its CRD is not installed"),
            (409, false, "conflict", "something else was faster: words of the server"),
            (410, false, "expired", "it has to be listed anew"),
            (413, false, "invalid", "the API server refuses it: words of the server"),
            (422, false, "invalid", "the API server refuses it: words of the server"),
            (429, false, "throttled", "the API server has too much to do"),
            (503, false, "unavailable", "the API server answers 503: words of the server"),
        ] {
            assert_eq!(sentence(code, found), (category, format!("{begin}{end}")));
        }
    }

    #[test]
    fn a_long_answer_is_cut_between_characters() {
        let long = "ä".repeat(400);
        assert_eq!(cut(&long).len(), LONGEST_MESSAGE);
        assert_eq!(cut(&format!("x{long}")).len(), LONGEST_MESSAGE - 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttled_request_is_sent_again_as_long_as_its_time_lasts() {
        for (pause, until, sent) in [(0, None, 3), (4, None, 3), (6, None, 2), (60, None, 1), (1, Some(Duration::from_millis(1500)), 2)] {
            let (count, begun) = (Cell::new(0), Instant::now());
            let mut throttled = status(429);
            throttled.details = serde_json::from_value(serde_json::json!({"retryAfterSeconds": pause})).unwrap();
            let answer: Result<(), _> = call(doing(), until.map(|time| begun + time), async || {
                count.set(count.get() + 1);
                Err(kube::Error::Api(throttled.clone().boxed()))
            })
            .await;
            assert_eq!((answer.unwrap_err().category(), count.get()), ("throttled", sent), "{pause} s");
            assert!(begun.elapsed() < REQUEST_TIMEOUT);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_slept_longer_than_the_server_asked_for_sends_nothing_after_its_deadline() {
        let count = Cell::new(0);
        let mut asking = std::pin::pin!(call(doing(), Some(Instant::now() + Duration::from_secs(5)), async || {
            count.set(count.get() + 1);
            Err::<(), _>(kube::Error::Api(status(429).boxed()))
        }));
        tokio::time::timeout(PAUSE / 2, &mut asking).await.unwrap_err();
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!((asking.await.unwrap_err().category(), count.get()), ("deadline", 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_ends_at_its_deadline_and_is_not_sent_after_it() {
        for (until, category, sent) in [(None, "timeout", 1), (Some(3), "deadline", 1), (Some(30), "timeout", 1), (Some(0), "deadline", 0)]
        {
            let (count, begun) = (Cell::new(0), Instant::now());
            let until = until.map(Duration::from_secs);
            let answer: Result<(), _> = call(doing(), until.map(|time| begun + time), async || {
                count.set(count.get() + 1);
                std::future::pending().await
            })
            .await;
            assert_eq!((answer.unwrap_err().category(), count.get()), (category, sent));
            assert_eq!(begun.elapsed(), until.unwrap_or(REQUEST_TIMEOUT).min(REQUEST_TIMEOUT));
        }
    }
}
