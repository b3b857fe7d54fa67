//! No keys anywhere: a service account's token, as the chart or EKS's webhook puts it into a pod, opens the bucket. The API server
//! signs it, and MinIO believes it and gives credentials for it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use e2e::minio::{AUDIENCE, Minio, ROLE};
use e2e::operator::{Operator, OperatorSetup};
use e2e::proxy::{Fault, On};
use e2e::shared::Shared;
use e2e::site::Site;
use e2e::{ports, snapshots};

use crate::invariants::{Left, invariants};
use crate::look::{bucket_becomes, expected, falls_ill, is_well};
use crate::uploads::Uploading;

/// A site whose operator has a token in place of keys.
struct Identified {
    _server: Minio,
    up: Uploading,
    account: String,
    /// Every token that was ever in the file.
    tokens: Mutex<Vec<String>>,
}

impl Identified {
    async fn new() -> Result<Self> {
        let api = &Shared::get()?.api;
        let server = Minio::trusting(&api.opened_issuer().await?).await?;
        let mut up = Uploading::on(Site::on(api, server.access()).await?)?;
        let account = format!("account-of-{}", up.site.node);
        api.kubectl(&["create", "serviceaccount", &account]).await?;
        let token_file = up.site.scratch().join("token");
        up.setup = up
            .setup
            .without_env("AWS_ACCESS_KEY_ID")
            .without_env("AWS_SECRET_ACCESS_KEY")
            .env("AWS_ROLE_ARN", ROLE)
            .env("AWS_WEB_IDENTITY_TOKEN_FILE", token_file)
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ENDPOINT_URL_STS", format!("http://{}", up.s3.endpoint()));
        Ok(Self { _server: server, up, account, tokens: Mutex::default() })
    }

    fn token_file(&self) -> PathBuf {
        self.up.site.scratch().join("token")
    }

    /// Puts a new token for this audience into the file at once, as kubelet does.
    async fn renew(&self, audience: &str) -> Result<()> {
        let audience = format!("--audience={audience}");
        let token = self.up.site.api.kubectl(&["create", "token", &self.account, &audience]).await?.trim().to_owned();
        let new = self.up.site.scratch().join("token-to-come");
        std::fs::write(&new, &token)?;
        std::fs::rename(&new, self.token_file())?;
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).push(token);
        Ok(())
    }

    /// Neither a token nor what was got for it is in the log, which is at debug; and nobody but us has complained in it.
    fn says_nothing_secret(&self, operator: &Operator, secrets: &[String]) -> Result<()> {
        let log = operator.log();
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        // Of a token, what nobody could know: its signature.
        let signatures = tokens.iter().filter_map(|token| token.rsplit('.').next());
        for secret in signatures.chain(secrets.iter().map(String::as_str)) {
            ensure!(secret.len() > 16 && !log.contains(secret), "the log has {secret:?}");
        }
        ensure!(!log.contains("aws_config"), "the SDK complains for itself");
        Ok(())
    }
}

/// What is asked of the token service.
fn of_tokens() -> On {
    On::method("POST").path("/").without_query("delete")
}

#[tokio::test]
async fn the_token_of_a_service_account_lists_and_fills_a_bucket() -> Result<()> {
    let identified = Identified::new().await?;
    let Uploading { site, s3, setup } = &identified.up;
    identified.renew(AUDIENCE).await?;
    let (local, there) = (site.name(1_700_000_000), site.name(1_700_000_001));
    site.place(&local, &snapshots::tiny(1))?;
    site.put_ours(&there, snapshots::tiny(2)).await?;
    let mut operator = setup.start().await?;
    bucket_becomes(&mut operator, site, &expected([(&local, "whole"), (&there, "plausible")])).await?;
    is_well(&mut operator).await?;
    ensure!(s3.count(&of_tokens()) > 0, "{:?}", s3.requests());
    s3.forget();
    operator.beats(3).await?;
    ensure!(s3.count(&of_tokens()) == 0, "what was got for a token holds for longer than a beat: {:?}", s3.requests());
    ensure!(s3.requests().iter().all(|seen| seen.header("x-amz-security-token").is_some()), "{:?}", s3.requests());
    identified.says_nothing_secret(&operator, &[])?;
    invariants(operator, setup, site, &Left::new(std::slice::from_ref(&local), &[local.clone(), there])).await
}

/// Waits until `/readyz` says this of the bucket. In the log a failure of the same category is no news.
async fn is_ill_with(operator: &mut Operator, words: &str) -> Result<()> {
    operator
        .until(&format!("the bucket to be ill: {words}"), async |operator| {
            let said = operator.get("/readyz").await?.body;
            ensure!(said.lines().any(|line| line.starts_with("ill: bucket: ") && line.contains(words)), "/readyz says {said:?}");
            Ok(())
        })
        .await
}

/// The text between these tags.
fn element<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    answer.split_once(&format!("<{name}>"))?.1.split_once(&format!("</{name}>")).map(|(text, _)| text)
}

#[tokio::test]
async fn the_token_is_read_again_and_a_bad_one_is_said_in_one_sentence() -> Result<()> {
    let identified = Identified::new().await?;
    let Uploading { site, s3, setup } = &identified.up;
    // All credentials have just expired, so each request needs new ones: what else takes hours.
    let secrets = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&secrets);
    s3.when(
        of_tokens(),
        Fault::rewrite(move |answer| {
            let of = ["SecretAccessKey", "SessionToken"].into_iter().filter_map(|name| element(answer, name));
            seen.lock().unwrap_or_else(PoisonError::into_inner).extend(of.map(str::to_owned));
            match element(answer, "Expiration") {
                Some(expiration) => answer.replace(expiration, "2000-01-01T00:00:00Z"),
                None => answer.to_owned(),
            }
        }),
    );
    let mut operator = setup.start().await?;
    falls_ill(&mut operator, "bucket", "the file that AWS_WEB_IDENTITY_TOKEN_FILE names cannot be read (No such file").await?;

    let refused = "refused the token in the file that AWS_WEB_IDENTITY_TOKEN_FILE names";
    identified.renew("somebody-else").await?;
    is_ill_with(&mut operator, refused).await?;

    identified.renew(AUDIENCE).await?;
    let local = site.name(1_700_000_000);
    site.place(&local, &snapshots::tiny(1))?;
    bucket_becomes(&mut operator, site, &expected([(&local, "whole")])).await?;
    is_well(&mut operator).await?;

    // It is not what was read once that goes on to be used.
    std::fs::write(identified.token_file(), "no token at all")?;
    is_ill_with(&mut operator, refused).await?;
    identified.renew(AUDIENCE).await?;
    is_well(&mut operator).await?;
    let secrets = secrets.lock().unwrap_or_else(PoisonError::into_inner).clone();
    ensure!(!secrets.is_empty());
    identified.says_nothing_secret(&operator, &secrets)?;
    invariants(operator, setup, site, &Left::new(std::slice::from_ref(&local), std::slice::from_ref(&local))).await
}

#[tokio::test]
async fn a_role_or_a_token_service_that_is_not_there_is_named() -> Result<()> {
    let identified = Identified::new().await?;
    identified.renew(AUDIENCE).await?;
    let setup = &identified.up.setup;
    let nowhere = format!("http://{}", ports::loopback(ports::free()));
    let ill = |setup: OperatorSetup, words: &'static str| {
        let identified = &identified;
        async move {
            let mut operator = setup.start().await.context("start")?;
            falls_ill(&mut operator, "bucket", words).await?;
            identified.says_nothing_secret(&operator, &[])
        }
    };
    let role = setup.clone().env("AWS_ROLE_ARN", format!("{ROLE}-that-is-not-there"));
    ill(role, "in AWS_ROLE_ARN a role that is there").await?;
    let service = setup.clone().env("AWS_ENDPOINT_URL_STS", nowhere);
    ill(service, "the token service cannot be reached (Connection refused").await?;
    identified.up.s3.when(of_tokens(), Fault::BlackHole);
    ill(setup.clone(), "the token service did not answer within 9s").await
}
