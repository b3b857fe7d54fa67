//! What can go wrong with a bucket, each said in one sentence that tells what to change.
//!
//! In: whatever the SDK, TLS, a proxy or the server came up with. Out: an [`S3Error`]. Nothing that the server or the SDK wrote is
//! passed on but codes and names of known shape, so no key, token or password gets into a sentence.

use std::error::Error as StdError;
use std::fmt;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::body::Stalled;
use super::dial::DialError;
use super::transport::find;
use crate::snapshot::Failure;

/// The kinds of trouble; each is a value of a metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Category {
    /// 403: the credentials are known and may not do this.
    Denied,
    /// The bucket does not exist.
    NoBucket,
    /// No connection, or one that broke.
    Unreachable,
    /// TLS or its certificates.
    Tls,
    /// No answer in time.
    Timeout,
    /// The server asks for fewer requests, also after we waited.
    Throttled,
    /// The credentials are past their time.
    Expired,
    /// None, wrong or unusable credentials.
    Credentials,
    /// The clocks here and there are too far apart.
    Clock,
    /// The bucket lives in another region.
    Region,
    /// The server failed.
    Server,
    /// An answer that is not S3.
    Protocol,
    /// Another object is under the key, or somebody is writing it.
    Conflict,
    /// The file is not the one any more that was verified.
    Changed,
    /// The bucket is full.
    Full,
    /// The server takes nothing of this size.
    TooLarge,
    /// The multipart upload is not known there any more.
    Gone,
    /// The file cannot be read, or the state not written, on this node.
    Local,
}

impl Category {
    /// The label's value.
    pub fn word(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::NoBucket => "no_bucket",
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Throttled => "throttled",
            Self::Expired => "expired",
            Self::Credentials => "credentials",
            Self::Clock => "clock",
            Self::Region => "region",
            Self::Server => "server",
            Self::Protocol => "protocol",
            Self::Conflict => "conflict",
            Self::Changed => "changed",
            Self::Full => "full",
            Self::TooLarge => "too_large",
            Self::Gone => "gone",
            Self::Local => "local",
        }
    }
}

/// A request that failed, or that cannot even be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct S3Error {
    category: Category,
    sentence: String,
}

impl S3Error {
    /// A kind of trouble and its sentence.
    pub fn new(category: Category, sentence: impl Into<String>) -> Self {
        Self { category, sentence: sentence.into() }
    }

    /// TLS cannot be set up.
    pub fn tls(sentence: impl Into<String>) -> Self {
        Self::new(Category::Tls, sentence)
    }

    /// What kind of trouble.
    pub fn category(&self) -> &'static str {
        self.category.word()
    }

    /// Whether it is of this kind.
    pub fn is(&self, category: Category) -> bool {
        self.category == category
    }

    /// Whether every other request would fail in the same way and cost as much time.
    pub fn is_of_the_way(&self) -> bool {
        matches!(self.category, Category::Unreachable | Category::Timeout | Category::Tls)
    }

    /// As the rest of the operator passes it on.
    pub fn failure(&self) -> Failure {
        Failure::new(self.category(), self.sentence.as_str())
    }
}

/// What was asked, and of whom: the first half of a sentence.
#[derive(Debug, Clone)]
pub struct Asked<'a> {
    /// `listing`, `asking for`, `reading`, `uploading`, `deleting` …
    pub doing: &'static str,
    /// The key, or the prefix.
    pub key: &'a str,
    /// The permission it takes.
    pub permission: &'static str,
    /// Of whom.
    pub place: &'a Place,
}

/// Where requests go, as sentences name it.
#[derive(Debug, Clone)]
pub struct Place {
    /// `host[:port]` as in the settings.
    pub endpoint: String,
    /// The bucket's name.
    pub bucket: String,
    /// The region that requests are signed for.
    pub region: String,
    /// Whether TLS is spoken.
    pub tls: bool,
    /// Whether the bucket's name is part of the host name.
    pub in_host: bool,
}

impl fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { bucket, endpoint, .. } = self.place;
        write!(f, "{} {} at {endpoint}", self.doing, format!("s3://{bucket}/{}", self.key).trim_end_matches('/'))
    }
}

impl Asked<'_> {
    /// The sentence for what the SDK returned.
    pub fn failed<E: ProvideErrorMetadata + StdError + Send + Sync + 'static>(&self, error: &SdkError<E, HttpResponse>) -> S3Error {
        match error {
            SdkError::ServiceError(service) => self.refused(service.raw(), service.err().code()),
            SdkError::TimeoutError(_) => self.say(Category::Timeout, "had no answer within etcd-s3-timeout"),
            SdkError::ResponseError(response) if response.raw().status().as_u16() >= 300 => self.refused(response.raw(), None),
            SdkError::ResponseError(_) => self.garbled(error),
            _ => self.undelivered(error),
        }
    }

    /// An answer that came, and is not what S3 answers.
    pub fn garbled(&self, error: &(dyn StdError + 'static)) -> S3Error {
        if find::<hyper::Error>(error).is_some() {
            return self.say(Category::Unreachable, "broke off in the middle of the answer");
        }
        if find::<http_body_util::LengthLimitError>(error).is_some() {
            return self.say(Category::Protocol, "brought an answer too large to be one of S3");
        }
        self.say(Category::Protocol, NOT_S3)
    }

    /// A sentence that begins with what was asked.
    pub fn say(&self, category: Category, rest: impl fmt::Display) -> S3Error {
        S3Error::new(category, format!("{self} {rest}"))
    }

    fn refused(&self, response: &HttpResponse, code: Option<&str>) -> S3Error {
        let status = response.status().as_u16();
        let code = as_code(code);
        let said = code.map_or_else(|| status.to_string(), |code| format!("{status} {code}"));
        let Place { bucket, endpoint, region, tls, .. } = self.place;
        let body = String::from_utf8_lossy(response.body().bytes().unwrap_or_default());
        let (category, rest) = match (code.unwrap_or_default(), status) {
            _ if status >= 400 && self.doing == DELETING && tells_of_a_lock(&body) => (
                Category::Denied,
                format!("was refused ({said}): object lock keeps it in the bucket; it can go when its retention or legal hold has ended"),
            ),
            (_, 400) if !tls && body.to_ascii_uppercase().contains("HTTPS") => {
                (Category::Tls, format!("was refused ({said}): {endpoint} speaks TLS, and etcd-s3-insecure is true"))
            }
            ("NoSuchBucket", _) | ("" | "NotFound", 404) => (
                Category::NoBucket,
                format!("failed ({said}): bucket {bucket:?} does not exist there; nothing is created, make it or correct etcd-s3-bucket"),
            ),
            ("NoSuchUpload", _) => {
                (Category::Gone, format!("failed ({said}): the upload in parts is not known there any more; the next try begins anew"))
            }
            ("InvalidBucketName", _) => {
                (Category::NoBucket, format!("was refused ({said}): {bucket:?} cannot be the name of a bucket there"))
            }
            ("InvalidAccessKeyId" | "NotSignedUp", _) => {
                (Category::Credentials, format!("was refused ({said}): the server does not know the access key"))
            }
            ("SignatureDoesNotMatch", _) => (
                Category::Credentials,
                format!(
                    "was refused ({said}): the secret key does not belong to the access key, or the region {region} is not the server's"
                ),
            ),
            ("InvalidToken" | "InvalidSecurity", _) => {
                (Category::Credentials, format!("was refused ({said}): the session token does not belong to the access key"))
            }
            ("ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "RequestExpired", _) => (
                Category::Expired,
                format!("was refused ({said}): the credentials have expired; renew access key, secret key and session token together"),
            ),
            ("RequestTimeTooSkewed", _) => (
                Category::Clock,
                format!("was refused ({said}): the clock of this machine and the server's are too far apart; set this machine's"),
            ),
            (
                "PermanentRedirect"
                | "TemporaryRedirect"
                | "Redirect"
                | "AuthorizationHeaderMalformed"
                | "IllegalLocationConstraintException"
                | "InvalidRegion",
                _,
            )
            | (_, 301 | 302 | 307 | 308) => (Category::Region, self.elsewhere(response, &body, &said)),
            ("SlowDown" | "SlowDownRead" | "Throttling" | "ThrottlingException" | "TooManyRequests" | "RequestLimitExceeded", _)
            | (_, 429 | 503) => (Category::Throttled, format!("was put off by the server ({said}), several times")),
            (
                "QuotaExceeded" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded" | "InsufficientStorage" | "InsufficientCapacity",
                _,
            )
            | (_, 507) => (
                Category::Full,
                format!("was refused ({said}): the bucket is full; make room there, raise its quota or lower etcd-s3-retention"),
            ),
            ("EntityTooLarge", _) | (_, 413) => (
                Category::TooLarge,
                format!("was refused ({said}): the server, or a proxy before it, takes no request of this size; let it take 16 MiB"),
            ),
            ("BadDigest" | "InvalidDigest" | "XAmzContentSHA256Mismatch", _) => {
                (Category::Server, format!("was refused ({said}): other bytes arrived there than were sent"))
            }
            ("PreconditionFailed" | "ConditionalRequestConflict" | "OperationAborted", _) | (_, 409 | 412) => {
                (Category::Conflict, format!("was refused ({said}): somebody else is writing or deleting this key; the next try decides"))
            }
            ("RequestTimeout", _) | (_, 408 | 504) => (Category::Timeout, format!("took too long for the server ({said})")),
            ("NotImplemented", _) | (_, 501 | 405) => (Category::Protocol, format!("is something that the server cannot do ({said})")),
            (_, 407) => {
                (Category::Unreachable, format!("was refused by the proxy ({said}): it wants a user and a password in etcd-s3-proxy"))
            }
            (_, 401 | 403) => (Category::Denied, format!("was refused ({said}): the credentials need {}", self.permission)),
            ("", 200..=299) => (Category::Protocol, NOT_S3.into()),
            // It may also come after a 200, when an upload in parts ends.
            ("InternalError", _) | (_, 500..) => (Category::Server, format!("failed in the server ({said})")),
            _ => (Category::Protocol, format!("was refused ({said})")),
        };
        self.say(category, rest)
    }

    fn elsewhere(&self, response: &HttpResponse, body: &str, said: &str) -> String {
        let element = || body.split_once("<Region>").and_then(|(_, rest)| rest.split_once("</Region>")).map(|(region, _)| region);
        let region = response.headers().get("x-amz-bucket-region").or_else(element);
        let region = region
            .filter(|region| !region.is_empty() && region.len() <= 40 && region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
        match region {
            Some(region) if region != self.place.region => {
                format!("was refused ({said}): the bucket is in region {region}; set etcd-s3-region to it, it is {}", self.place.region)
            }
            _ => format!(
                "was refused ({said}): the bucket is in another region than {}, or behind another endpoint; correct etcd-s3-region or etcd-s3-endpoint",
                self.place.region
            ),
        }
    }

    fn undelivered(&self, error: &(dyn StdError + 'static)) -> S3Error {
        let Place { endpoint, tls, .. } = self.place;
        if let Some(credentials) = find::<CredentialsError>(error) {
            let (category, rest) = super::credentials::missing(credentials);
            return self.say(category, rest);
        }
        if find::<Stalled>(error).is_some() {
            let stood = "stood still for as long as etcd-s3-timeout: neither did bytes move nor did the answer come";
            return self.say(Category::Timeout, stood);
        }
        match (find::<DialError>(error), find::<rustls::Error>(error)) {
            (Some(DialError::Timeout(after)), _) => {
                return self.say(
                    Category::Timeout,
                    format!("had no connection within {after:?}: is {endpoint} right, and is the way to it open?"),
                );
            }
            // Its certificate is not the server's.
            (Some(dial @ DialError::Proxy { source, .. }), _) => {
                return self.say(Category::Unreachable, format!("failed: {dial}: {}", chain(source.as_ref())));
            }
            (_, Some(tls)) => return self.say(Category::Tls, self.tls(tls)),
            (Some(DialError::Tls(source)), _) => {
                return self.say(Category::Tls, format!("failed: the server hung up on TLS ({})", chain(source.as_ref())));
            }
            (Some(DialError::Server(source)), _) => {
                return self.say(Category::Unreachable, format!("failed: no connection: {}", chain(source.as_ref())));
            }
            (None, None) => {}
        }
        match find::<hyper::Error>(error) {
            Some(http) if http.is_parse() => {
                let advice = if *tls { "" } else { "; if it speaks TLS, etcd-s3-insecure must not be true" };
                self.say(Category::Tls, format!("failed: {endpoint} does not answer in HTTP{advice}"))
            }
            Some(http) => self.say(Category::Unreachable, format!("failed: the connection broke ({})", chain(http))),
            None => self.say(Category::Protocol, format!("cannot be done: {}", chain(error))),
        }
    }

    fn tls(&self, error: &rustls::Error) -> String {
        use rustls::{CertificateError as Bad, Error as Tls};
        let Place { endpoint, in_host, .. } = self.place;
        match error {
            Tls::InvalidMessage(_) => format!("failed: {endpoint} does not speak TLS; with plain HTTP set etcd-s3-insecure to true"),
            // With a bad signature a CA of the right name is listed, and its key is another.
            Tls::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => format!(
                "failed: nobody trusted has signed the certificate of {endpoint}; give its CA in etcd-s3-endpoint-ca (or any certificate is taken with etcd-s3-skip-ssl-verify)"
            ),
            Tls::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
                let advice = if *in_host { ", or set etcd-s3-bucket-lookup-type to path" } else { "" };
                format!("failed: the certificate of {endpoint} is for another name; correct etcd-s3-endpoint{advice}")
            }
            Tls::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
                format!("failed: the certificate of {endpoint} has expired, or the clock of this machine is wrong")
            }
            Tls::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
                format!("failed: the certificate of {endpoint} is not valid yet, or the clock of this machine is wrong")
            }
            other => format!("failed: TLS with {endpoint}: {other}"),
        }
    }
}

/// What [`Asked::doing`] is for a removal.
pub const DELETING: &str = "deleting";

/// Servers have no code of their own for it.
fn tells_of_a_lock(body: &str) -> bool {
    let body = body.to_ascii_lowercase();
    ["object lock", "objectlock", "object is locked", "worm", "legal hold", "retention"].iter().any(|word| body.contains(word))
}

/// Whether the server does not know the condition that was sent.
pub fn is_unsupported<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    status(error) == Some(501) || code(error) == Some("NotImplemented")
}

/// Whether the condition did not hold, or another write was met.
pub fn is_met<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    matches!(status(error), Some(409 | 412))
}

/// A code, if it has the shape of one.
pub fn as_code(code: Option<&str>) -> Option<&str> {
    code.filter(|code| !code.is_empty() && code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// The code of a refusal.
pub fn code<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Option<&str> {
    error.as_service_error().and_then(ProvideErrorMetadata::code)
}

/// The status of an answer.
pub fn status<E>(error: &SdkError<E, HttpResponse>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

const NOT_S3: &str = "brought an answer that is not S3's: is etcd-s3-endpoint the S3 API, and not a console or a login page?";

/// An error with its sources, each once.
pub fn chain(error: &(dyn StdError + 'static)) -> String {
    Failure::of("", error).message
}
