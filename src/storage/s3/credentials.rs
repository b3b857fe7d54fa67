//! Credentials that no setting has: of the surroundings, and for a pod that is mostly web identity, its service account's token.
//!
//! In: the environment, and what a source came up with. Out: a source of credentials; and for one that has none a sentence which
//! names the variable to change. Nothing that a token service wrote is passed on but its code, and never the token.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, Region};
use aws_sdk_s3::error::{ProvideErrorMetadata as _, SdkError};
use aws_sdk_sts::operation::assume_role_with_web_identity::AssumeRoleWithWebIdentityError;

use super::dial::Dial;
use super::error::{Category, S3Error, as_code, chain};
use super::proxy::Route;
use super::tls::{Trust, client_config};
use super::transport::{Transport, find};

/// The longest time for TCP, proxy and TLS together.
const CONNECT: Duration = Duration::from_secs(5);
/// For all attempts. Less than any attempt of the request that waits for it, so that it is known whose answer is missing.
const PATIENCE: Duration = Duration::from_secs(9);

/// Web identity where its two variables are set; else the SDK's chain: environment, profile, container, instance. Either asks
/// other servers than the bucket's, so it has connections of its own: what the settings say of that one does not hold for them.
pub async fn surroundings(of_bucket: &Region) -> Result<SharedCredentialsProvider, S3Error> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let region = region(variable).unwrap_or_else(|| of_bucket.clone());
    let dial = Dial::new(client_config(&Trust::System)?, Route::environment(variable), CONNECT);
    let transport = Transport::new(dial, Arc::new(|_| {}), PATIENCE);
    let timeout = TimeoutConfig::builder().operation_timeout(PATIENCE).build();
    let (Some(token_file), Some(role)) = (variable("AWS_WEB_IDENTITY_TOKEN_FILE"), variable("AWS_ROLE_ARN")) else {
        let config = ProviderConfig::without_region().with_region(Some(region.clone()));
        let config = config.with_timeout_config(timeout).with_http_client(transport);
        return Ok(SharedCredentialsProvider::new(DefaultCredentialsChain::builder().region(region).configure(config).build().await));
    };
    // It reads AWS_ENDPOINT_URL_STS and the like.
    let config = aws_config::defaults(BehaviorVersion::v2026_01_12()).region(region).no_credentials();
    let config = config.timeout_config(timeout).http_client(transport).load().await;
    Ok(SharedCredentialsProvider::new(WebIdentity {
        service: aws_sdk_sts::Client::new(&config),
        token_file: token_file.into(),
        role,
        session: variable("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| env!("CARGO_PKG_NAME").to_owned()),
    }))
}

/// Credentials for a token in a file, which somebody else renews: it is read each time that new ones are needed. The SDK's own
/// takes no answer without the ARN of a role, and other servers than AWS's leave it out.
#[derive(Debug)]
struct WebIdentity {
    service: aws_sdk_sts::Client,
    token_file: PathBuf,
    role: String,
    session: String,
}

impl WebIdentity {
    async fn credentials(&self) -> provider::Result {
        let token = tokio::fs::read_to_string(&self.token_file).await;
        let token = token.map_err(|error| CredentialsError::provider_error(Unread(error)))?;
        let ask = self.service.assume_role_with_web_identity().role_arn(&self.role).role_session_name(&self.session);
        let answer = ask.web_identity_token(token.trim()).send().await.map_err(CredentialsError::provider_error)?;
        let given = answer.credentials.ok_or_else(|| CredentialsError::unhandled("the token service answered without any"))?;
        let until = SystemTime::try_from(given.expiration).map_err(CredentialsError::unhandled)?;
        Ok(Credentials::new(given.access_key_id, given.secret_access_key, Some(given.session_token), Some(until), "web identity"))
    }
}

impl ProvideCredentials for WebIdentity {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.credentials())
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
#[error("the token cannot be read")]
struct Unread(#[source] io::Error);

/// Whose token service is asked: that of where this process runs, if anybody has said where, since a bucket may be far away.
fn region(variable: impl Fn(&str) -> Option<String>) -> Option<Region> {
    ["AWS_REGION", "AWS_DEFAULT_REGION"].into_iter().find_map(variable).map(Region::new)
}

/// The second half of a sentence.
pub fn missing(error: &CredentialsError) -> (Category, String) {
    let ways = "set etcd-s3-access-key and etcd-s3-secret-key, or give this pod a role (web identity with AWS_ROLE_ARN and \
                AWS_WEB_IDENTITY_TOKEN_FILE, container, instance) or a profile";
    let source = error.source();
    if let Some(refusal) = source.and_then(find::<SdkError<AssumeRoleWithWebIdentityError>>) {
        return without_identity(refusal);
    }
    if let Some(Unread(why)) = source.and_then(find) {
        let rest = format!("is not possible without credentials: the file that AWS_WEB_IDENTITY_TOKEN_FILE names cannot be read ({why})");
        return (Category::Credentials, rest);
    }
    let rest = match error {
        CredentialsError::CredentialsNotLoaded(_) => format!("is not possible without credentials, and there are none: {ways}"),
        CredentialsError::ProviderTimedOut(_) => format!("is not possible: the source of credentials did not answer in time; {ways}"),
        error => format!("is not possible: the source of credentials failed ({})", chain(error)),
    };
    (Category::Credentials, rest)
}

fn without_identity(refusal: &SdkError<AssumeRoleWithWebIdentityError>) -> (Category, String) {
    const WHERE: &str = "correct AWS_ENDPOINT_URL_STS or AWS_REGION, or open the way to it";
    let (category, rest) = match refusal {
        SdkError::ServiceError(service) => refused(service.raw().status().as_u16(), service.err().code()),
        SdkError::TimeoutError(_) => (Category::Credentials, format!("did not answer within {PATIENCE:?}; {WHERE}")),
        SdkError::ResponseError(_) => (Category::Credentials, format!("brought an answer that is none of STS; {WHERE}")),
        error => (Category::Credentials, format!("cannot be reached ({}); {WHERE}", reason(error))),
    };
    (category, format!("is not possible without credentials: the token service {rest}"))
}

/// Why a connection could not be made, without the levels above it that say that it could not be.
fn reason(error: &SdkError<AssumeRoleWithWebIdentityError>) -> String {
    if let Some(tls) = find::<rustls::Error>(error) {
        return tls.to_string();
    }
    let mut lowest: &dyn StdError = error;
    while let Some(source) = lowest.source() {
        lowest = source;
    }
    lowest.to_string()
}

fn refused(status: u16, code: Option<&str>) -> (Category, String) {
    const TOKEN: &str = "the token in the file that AWS_WEB_IDENTITY_TOKEN_FILE names";
    let code = as_code(code);
    let said = code.map_or_else(|| status.to_string(), |code| format!("{status} {code}"));
    match code.unwrap_or_default() {
        "ExpiredToken" | "ExpiredTokenException" => (
            Category::Expired,
            format!("refused {TOKEN} ({said}): it has expired; let it be renewed there, as kubelet does with a projected one"),
        ),
        "AccessDenied" => (
            Category::Credentials,
            format!("did not let the token have the role ({said}): correct AWS_ROLE_ARN, or which service accounts the role trusts"),
        ),
        _ if status >= 500 => (Category::Credentials, format!("failed ({said})")),
        _ => (
            Category::Credentials,
            format!(
                "refused {TOKEN} ({said}): give it the audience and the issuer that the service trusts, and in AWS_ROLE_ARN a role that is there"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_service_is_that_of_where_the_pod_runs() {
        let told = |variables: &[(&str, &str)]| {
            let find = |name: &str| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned());
            region(find).map(|region| region.to_string())
        };
        assert_eq!(told(&[("AWS_REGION", "eu-west-1"), ("AWS_DEFAULT_REGION", "us-east-1")]).as_deref(), Some("eu-west-1"));
        assert_eq!(told(&[("AWS_DEFAULT_REGION", "us-east-1")]).as_deref(), Some("us-east-1"));
        assert_eq!(told(&[]), None);
    }

    #[test]
    fn what_the_token_service_says_becomes_what_to_change() {
        for (status, code, category, says) in [
            (400, Some("ExpiredTokenException"), Category::Expired, "(400 ExpiredTokenException): it has expired"),
            (403, Some("AccessDenied"), Category::Credentials, "correct AWS_ROLE_ARN"),
            (400, Some("InvalidIdentityToken"), Category::Credentials, "(400 InvalidIdentityToken): give it the audience"),
            (400, Some("the token eyJ.x.y is bad"), Category::Credentials, "(400): give it the audience"),
            (503, None, Category::Credentials, "failed (503)"),
        ] {
            let (is, rest) = refused(status, code);
            assert!(is == category && rest.contains(says), "{rest}");
        }
    }
}
