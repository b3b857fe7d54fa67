//! HTTP for the SDK: one pool of connections, requests counted as they are sent, answers bounded.
//!
//! In: the SDK's signed requests. Out: the server's answers. Retries, signatures and deadlines are the SDK's, but for uploads, whose
//! deadline moves on as long as their bytes do.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::config::{ConfigBag, HttpClient, Intercept, RuntimeComponents, interceptors::BeforeTransmitInterceptorContextMut};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse, Metadata};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::retries::RequestAttempts;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::retry::ErrorKind;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::body::{Pieces, Progress};
use super::dial::{Dial, DialError};

/// What can be seen of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// One has ended. Both words are from small fixed sets.
    Request {
        /// S3's own name for it.
        operation: &'static str,
        /// `success`, `not_found`, `denied`, `throttled`, `error`, `unreachable` (not sent at all) or `timeout` (given up).
        outcome: &'static str,
    },
    /// Bytes of a file or sidecar were given to the connection; what is sent again counts again.
    Sent {
        /// How many.
        bytes: u64,
    },
    /// A file or a part of one is sent once more.
    Retried,
}

/// Told of everything that can be seen.
pub type Observer = Arc<dyn Fn(Traffic) + Send + Sync>;

/// Bytes of an answer that is held in memory as a whole: far more than a page of a thousand objects needs.
const ANSWER_LIMIT: usize = 32 * 1024 * 1024;
/// A pooled connection that idles for longer is closed by many servers at the moment it is used again.
const IDLE: Duration = Duration::from_secs(20);

/// HTTP over connections that a [`Dial`] makes.
#[derive(Clone)]
pub struct Transport {
    dial: Dial,
    pool: Client<Dial, SdkBody>,
    observer: Observer,
    patience: Duration,
}

/// An answer; or what metrics call its failure, and the failure.
type Answered = Result<Response<SdkBody>, (&'static str, ConnectorError)>;

impl Transport {
    /// A pool of its own. An upload whose bytes stand still for longer than `patience` is given up.
    pub fn new(dial: Dial, observer: Observer, patience: Duration) -> Self {
        let pool = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE).build(dial.clone());
        Self { dial, pool, observer, patience }
    }

    async fn send(self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let Operation { name: operation, again } = request.extension().copied().unwrap_or(Operation { name: "Other", again: false });
        let is_upload = UPLOADS.contains(&operation);
        if is_upload && again {
            (self.observer)(Traffic::Retried);
        }
        let mut request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
        if let Some(authorization) = self.dial.proxy_authorization(request.uri()) {
            request.headers_mut().insert(http::header::PROXY_AUTHORIZATION, authorization);
        }
        let mut sent = Sent { observer: &self.observer, operation, outcome: "timeout" };
        let answered = match operation {
            _ if is_upload => self.upload(request).await,
            // A snapshot is streamed; everything else is read whole.
            "GetObject" => self.pool.request(request).await.map(|answer| answer.map(SdkBody::from_body_1_x)).map_err(classify),
            _ => {
                let bounded = |body| SdkBody::from_body_1_x(Limited::new(body, ANSWER_LIMIT));
                self.pool.request(request).await.map(|answer| answer.map(bounded)).map_err(classify)
            }
        };
        match answered {
            Ok(answer) => {
                sent.outcome = outcome(answer.status().as_u16());
                HttpResponse::try_from(answer).map_err(|error| ConnectorError::other(error.into(), None))
            }
            Err((outcome, error)) => {
                sent.outcome = outcome;
                Err(error)
            }
        }
    }

    /// Sends a body for as long as it moves, and reads the whole answer, which has to come in the same patience.
    async fn upload(&self, request: Request<SdkBody>) -> Answered {
        let progress = Progress::new(Arc::clone(&self.observer));
        let request = request.map(|body| SdkBody::from_body_1_x(Pieces::new(body, Arc::clone(&progress))));
        let exchange = async {
            let (head, body) = self.pool.request(request).await.map_err(classify)?.into_parts();
            let body = Limited::new(body, ANSWER_LIMIT).collect().await;
            let body = body.map_err(|error| ("error", ConnectorError::other(error, Some(ErrorKind::TransientError))))?;
            Ok(Response::from_parts(head, SdkBody::from(body.to_bytes())))
        };
        tokio::select! {
            answered = exchange => answered,
            // Not sent again at once: the next pass goes on with what has arrived.
            stalled = progress.stalled(self.patience) => Err(("timeout", ConnectorError::other(stalled.into(), None))),
        }
    }
}

fn outcome(status: u16) -> &'static str {
    match status {
        100..=399 => "success",
        401 | 403 => "denied",
        404 => "not_found",
        429 | 503 => "throttled",
        _ => "error",
    }
}

/// Sorts out what the SDK may try again: whatever another attempt could change.
fn classify(error: hyper_util::client::legacy::Error) -> (&'static str, ConnectorError) {
    match find::<DialError>(&error) {
        Some(DialError::Timeout(_)) => ("unreachable", ConnectorError::timeout(error.into())),
        Some(DialError::Server(_)) => ("unreachable", ConnectorError::io(error.into())),
        Some(DialError::Tls(_) | DialError::Proxy { .. }) => ("unreachable", ConnectorError::other(error.into(), None)),
        None if find::<hyper::Error>(&error).is_some_and(hyper::Error::is_parse) => ("error", ConnectorError::other(error.into(), None)),
        // The connection broke: the sentence calls that unreachable, too.
        None => ("unreachable", ConnectorError::other(error.into(), Some(ErrorKind::TransientError))),
    }
}

/// The first error of this type in the chain; `io::Error` hides what it carries from its own chain.
pub fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        let carried = error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref());
        next = carried.map(|error| error as &(dyn StdError + 'static)).or_else(|| error.source());
    }
    None
}

/// Counts when it goes, so that a request which is given up is counted too.
struct Sent<'a> {
    observer: &'a Observer,
    operation: &'static str,
    outcome: &'static str,
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        (self.observer)(Traffic::Request { operation: self.operation, outcome: self.outcome });
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("dial", &self.dial).finish_non_exhaustive()
    }
}

impl HttpConnector for Transport {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::new(self.clone().send(request))
    }
}

impl HttpClient for Transport {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

/// The operations that carry the bytes of a file or sidecar.
const UPLOADS: [&str; 2] = ["PutObject", "UploadPart"];

/// The operation that a request is of, as metrics call it, and whether it was sent before.
#[derive(Debug, Clone, Copy)]
struct Operation {
    name: &'static str,
    again: bool,
}

/// Writes on each request which operation it is of.
#[derive(Debug)]
pub struct NameOperations;

impl Intercept for NameOperations {
    fn name(&self) -> &'static str {
        "NameOperations"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        const NAMED: [&str; 12] = [
            "ListObjectsV2",
            "HeadObject",
            "GetObject",
            "HeadBucket",
            "PutObject",
            "CreateMultipartUpload",
            "UploadPart",
            "CompleteMultipartUpload",
            "AbortMultipartUpload",
            "ListParts",
            "ListMultipartUploads",
            "DeleteObject",
        ];
        let name = config.load::<Metadata>().map_or("", Metadata::name);
        let name = NAMED.into_iter().find(|named| *named == name).unwrap_or("Other");
        let again = config.load::<RequestAttempts>().is_some_and(|attempts| attempts.attempts() > 1);
        context.request_mut().add_extension(Operation { name, again });
        Ok(())
    }
}
