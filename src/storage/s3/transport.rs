//! HTTP for the SDK: one pool of connections, requests counted as they are sent, answers bounded.
//!
//! In: the SDK's signed requests. Out: the server's answers. Retries, signatures and deadlines are the SDK's.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::config::{ConfigBag, HttpClient, Intercept, RuntimeComponents, interceptors::BeforeTransmitInterceptorContextMut};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse, Metadata};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::retry::ErrorKind;
use http_body_util::Limited;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::dial::{Dial, DialError};

/// Told of each request that is sent: the operation and what became of it, each from a small fixed set.
/// Outcomes: `success`, `not_found`, `denied`, `throttled`, `error`, `unreachable` (not sent at all), `timeout` (given up).
pub type Observer = Arc<dyn Fn(&'static str, &'static str) + Send + Sync>;

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
}

impl Transport {
    /// A pool of its own.
    pub fn new(dial: Dial, observer: Observer) -> Self {
        let pool = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE).build(dial.clone());
        Self { dial, pool, observer }
    }

    async fn send(self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let operation = request.extension::<Operation>().map_or("Other", |operation| operation.0);
        let mut request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
        if let Some(authorization) = self.dial.proxy_authorization(request.uri()) {
            request.headers_mut().insert(http::header::PROXY_AUTHORIZATION, authorization);
        }
        let mut sent = Sent { observer: &self.observer, operation, outcome: "timeout" };
        match self.pool.request(request).await {
            Ok(response) => {
                sent.outcome = outcome(response.status().as_u16());
                // A snapshot is streamed; everything else is read whole.
                let response = if operation == "GetObject" {
                    response.map(SdkBody::from_body_1_x)
                } else {
                    response.map(|body| SdkBody::from_body_1_x(Limited::new(body, ANSWER_LIMIT)))
                };
                HttpResponse::try_from(response).map_err(|error| ConnectorError::other(error.into(), None))
            }
            Err(error) => {
                let (outcome, error) = classify(error);
                sent.outcome = outcome;
                Err(error)
            }
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
        (self.observer)(self.operation, self.outcome);
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

/// The operation that a request is of, as metrics call it.
#[derive(Clone, Copy)]
struct Operation(&'static str);

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
        const NAMED: [&str; 4] = ["ListObjectsV2", "HeadObject", "GetObject", "HeadBucket"];
        let name = config.load::<Metadata>().map_or("", Metadata::name);
        let name = NAMED.into_iter().find(|named| *named == name).unwrap_or("Other");
        context.request_mut().add_extension(Operation(name));
        Ok(())
    }
}
