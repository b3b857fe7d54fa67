//! A client of one S3 server.
//!
//! In: an [`S3Access`]. Out: the SDK's client, set up for AWS and for everybody else who speaks S3. Nothing is sent here; wrong
//! settings show at the first request, but for those that leave no way to send one.

use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::{ReconnectMode, RetryConfig, RetryPartition};
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{self, BehaviorVersion, Config, Region, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_smithy_runtime_api::client::interceptors::context::InterceptorContext;
use aws_smithy_runtime_api::client::retries::classifiers::{ClassifyRetry, RetryAction};

use super::credentials::surroundings;
use super::dial::Dial;
use super::error::{Place, S3Error};
use super::proxy::Route;
use super::tls::{Trust, client_config};
use super::transport::{NameOperations, Observer, Transport};
use crate::config::{Lookup, Proxy, S3Access};

/// The longest time for TCP, proxy and TLS together.
const CONNECT: Duration = Duration::from_secs(10);
/// An attempt gets a third of a request's time, but not less than this.
const ATTEMPT: Duration = Duration::from_secs(10);
/// With the first one. More is not worth it: the next pass asks again.
const ATTEMPTS: u32 = 3;
/// Before the second attempt, at most; doubled before the third.
const BACKOFF: Duration = Duration::from_millis(200);

/// Makes a client. `observer` is told of each request that it sends.
pub async fn connect(access: &S3Access, observer: Observer) -> Result<(Client, Place), S3Error> {
    let trust = match access {
        S3Access { skip_verify: true, .. } => Trust::Anyone,
        S3Access { ca, .. } if ca.is_empty() => Trust::System,
        S3Access { ca, .. } => Trust::Only(ca.clone()),
    };
    // Plain HTTP must work on machines that have no CA certificates; an https proxy is not believed blindly for it.
    let tls = match client_config(&trust) {
        Err(_) if !access.tls() => client_config(&Trust::Only(Vec::new())),
        tls => tls,
    }?;
    let route = match &access.proxy {
        Proxy::Environment => environment(),
        Proxy::None => Route::direct(),
        Proxy::Url(url) => Route::through(url.expose()),
    };
    let transport = Transport::new(Dial::new(tls, route, CONNECT.min(access.timeout)), observer, access.timeout);
    let in_host = in_host(access);
    let region = Region::new(access.region.clone());
    let config = Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .endpoint_url(endpoint_url(access))
        .region(region.clone())
        .force_path_style(!in_host)
        .http_client(transport)
        .interceptor(NameOperations)
        // Many servers refuse checksums that AWS invented later than they were written.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .retry_config(retries())
        // Of its own: one bucket in trouble must not use up the retries of another.
        .retry_partition(RetryPartition::new(access.storage().id().to_string()))
        .retry_classifier(TooManyRequests)
        .timeout_config(
            TimeoutConfig::builder()
                .operation_timeout(access.timeout)
                .operation_attempt_timeout((access.timeout / ATTEMPTS).max(ATTEMPT).min(access.timeout))
                .build(),
        );
    let config = match &access.keys {
        Some(keys) => config.credentials_provider(Credentials::new(
            keys.access_key.expose(),
            keys.secret_key.expose(),
            keys.session_token.as_ref().map(|token| token.expose().to_string()),
            None,
            "settings",
        )),
        None => config.credentials_provider(surroundings(&region).await?),
    };
    let place = Place {
        endpoint: access.endpoint.to_string(),
        bucket: access.bucket.clone(),
        region: access.region.clone(),
        tls: access.tls(),
        in_host,
    };
    Ok((Client::from_conf(config.build()), place))
}

fn retries() -> RetryConfig {
    let retries = RetryConfig::standard().with_max_attempts(ATTEMPTS).with_initial_backoff(BACKOFF);
    // Our transport lets nobody close its connections, and the SDK would complain of that, as an error, at each answer like 503.
    retries.with_reconnect_mode(ReconnectMode::ReuseAllConnections)
}

/// For requests with bodies: without the SDK's deadlines, since the transport has a better one.
pub fn unhurried() -> config::Builder {
    let none = TimeoutConfig::builder().disable_operation_timeout().disable_operation_attempt_timeout().build();
    Config::builder().timeout_config(none)
}

/// For what may take the server its time: one attempt may use all of it.
pub fn patient(timeout: Duration) -> config::Builder {
    Config::builder().timeout_config(TimeoutConfig::builder().operation_attempt_timeout(timeout).build())
}

fn environment() -> Route {
    Route::environment(|name| std::env::var(name).ok())
}

/// AWS's general endpoint knows old regions only, so it is replaced by that of the region, as K3s does.
fn endpoint_url(access: &S3Access) -> String {
    let url = access.endpoint_url().to_lowercase();
    if !access.endpoint.host().eq_ignore_ascii_case("s3.amazonaws.com") || access.region.is_empty() {
        return url;
    }
    let china = if access.region.starts_with("cn-") { ".cn" } else { "" };
    url.replacen("s3.amazonaws.com", &format!("s3.{}.amazonaws.com{china}", access.region), 1)
}

/// `auto` puts the bucket into the host name where that is known to work: at AWS, Google and Aliyun, and not where a dot in its
/// name would make another name of it than the certificate's. K3s's S3 client has the same rule.
fn in_host(access: &S3Access) -> bool {
    let host = access.endpoint.host().to_lowercase();
    match access.lookup {
        Lookup::Dns => true,
        Lookup::Path => false,
        Lookup::Auto if access.tls() && access.bucket.contains('.') => false,
        Lookup::Auto => {
            let amazon = host.starts_with("s3") && (host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn"));
            amazon || host == "storage.googleapis.com" || host.ends_with(".aliyuncs.com")
        }
    }
}

/// 429 is not among what the SDK waits for.
#[derive(Debug)]
struct TooManyRequests;

impl ClassifyRetry for TooManyRequests {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        match context.response().map(|response| response.status().as_u16()) {
            Some(429) => RetryAction::throttling_error(),
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "TooManyRequests"
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::access;
    use super::*;

    #[test]
    fn the_buckets_name_is_in_the_host_name_where_k3s_has_it_there() {
        for (endpoint, bucket, insecure, expected) in [
            ("s3.amazonaws.com", "etcd", "false", true),
            ("S3.eu-west-1.amazonaws.com", "etcd", "false", true),
            ("s3.dualstack.eu-west-1.amazonaws.com", "etcd", "false", true),
            ("s3.cn-north-1.amazonaws.com.cn", "etcd", "false", true),
            ("s3.amazonaws.com", "etcd.example", "false", false),
            ("s3.amazonaws.com", "etcd.example", "true", true),
            ("storage.googleapis.com", "etcd", "false", true),
            ("oss-cn-hangzhou.aliyuncs.com", "etcd", "false", true),
            ("s3.amazonaws.com.evil.example", "etcd", "false", false),
            ("minio.example", "etcd", "false", false),
            ("127.0.0.1:9000", "etcd", "true", false),
        ] {
            let access = access(&[("endpoint", endpoint), ("bucket", bucket), ("insecure", insecure)]);
            assert_eq!(in_host(&access), expected, "{endpoint} {bucket} {insecure}");
        }
        assert!(in_host(&access(&[("endpoint", "minio.example"), ("bucket-lookup-type", "dns")])));
        assert!(!in_host(&access(&[("endpoint", "s3.amazonaws.com"), ("bucket-lookup-type", "path")])));
    }

    #[test]
    fn the_general_endpoint_of_aws_becomes_that_of_the_region() {
        for (endpoint, region, expected) in [
            ("s3.amazonaws.com", "us-east-1", "https://s3.us-east-1.amazonaws.com"),
            ("S3.amazonaws.com:443", "eu-south-2", "https://s3.eu-south-2.amazonaws.com:443"),
            ("s3.amazonaws.com", "cn-north-1", "https://s3.cn-north-1.amazonaws.com.cn"),
            ("s3.eu-west-1.amazonaws.com", "us-east-1", "https://s3.eu-west-1.amazonaws.com"),
            ("minio.example:9000", "eu-south-2", "https://minio.example:9000"),
        ] {
            assert_eq!(endpoint_url(&access(&[("endpoint", endpoint), ("region", region)])), expected);
        }
    }
}
