//! The client of the API server, made from a kubeconfig or from what a pod is given.
//!
//! Making it reads files and sends nothing, so that it works while the API server is away. It retries nothing and logs
//! nothing by itself: who asks also says what failed, and how often.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderValue;
use http::header::USER_AGENT;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

use super::error::credentials;
use crate::snapshot::Failure;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that is silent for this long is probed, so that a watch on a dead one ends.
const PROBE_AFTER: Duration = Duration::from_secs(30);
const PROBES: u32 = 3;

/// Why there is no client. All of it stands in files and the environment; waiting does not help.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The file that KUBECONFIG or the home directory names.
    #[error("cannot use the kubeconfig: {0}")]
    Kubeconfig(String),
    /// What a pod is given.
    #[error("cannot use the service account of this pod (is automountServiceAccountToken off?)")]
    InCluster(#[source] kube::config::InClusterError),
    /// Neither is there.
    #[error("no API server is named: set KUBECONFIG, or run in a pod with a service account")]
    Nothing,
    /// TLS or credentials in them.
    #[error("cannot make a client from {0}: {1}")]
    Unusable(String, String),
    /// `proxy-url` in a kubeconfig.
    #[error("the kubeconfig has a proxy-url, which is not supported")]
    Proxy,
}

/// Where the settings come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// These files, the first one's values counting first.
    Files(Vec<PathBuf>),
    /// The service account of this pod.
    Pod,
}

impl Source {
    /// KUBECONFIG when it is set; else the pod's service account; else `~/.kube/config`. `variable` reads the environment.
    pub fn infer(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Result<Self, ClientError> {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        if let Some(paths) = set("KUBECONFIG") {
            return Ok(Self::Files(std::env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty()).collect()));
        }
        if set("KUBERNETES_SERVICE_HOST").is_some() {
            return Ok(Self::Pod);
        }
        match set("HOME").map(|home| PathBuf::from(home).join(".kube/config")) {
            Some(path) if path.exists() => Ok(Self::Files(vec![path])),
            _ => Err(ClientError::Nothing),
        }
    }
}

/// A client for `source`. `namespace` is its default one, else the kubeconfig's or the pod's.
pub async fn client(source: &Source, namespace: Option<&str>) -> Result<Client, ClientError> {
    let (mut config, named) = match source {
        Source::Pod => (Config::incluster().map_err(ClientError::InCluster)?, "the service account of this pod".to_string()),
        Source::Files(paths) => {
            let mut merged = Kubeconfig::default();
            for path in paths {
                merged = merged.merge(Kubeconfig::read_from(path).map_err(kubeconfig)?).map_err(kubeconfig)?;
            }
            let config = Config::from_custom_kubeconfig(merged, &KubeConfigOptions::default()).await;
            let names: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
            (config.map_err(kubeconfig)?, names.join(":"))
        }
    };
    if let Some(namespace) = namespace {
        config.default_namespace = namespace.into();
    }
    if config.proxy_url.is_some() {
        return Err(ClientError::Proxy);
    }
    config.headers.push((USER_AGENT, HeaderValue::from_static(concat!("etcd-snapshot-operator/", env!("CARGO_PKG_VERSION")))));
    build(&config).map_err(|error| match error {
        kube::Error::Auth(error) => ClientError::Unusable(named, format!("no credentials: {}", credentials(&error))),
        error => ClientError::Unusable(named, Failure::of("", &error).message),
    })
}

/// A client where no API server is named: each request fails at once and says so.
pub fn nowhere() -> Client {
    let refuse = |_: http::Request<Body>| async { Err::<http::Response<Body>, BoxError>(ClientError::Nothing.into()) };
    Client::new(tower::service_fn(refuse), "default")
}

/// What is wrong with the file. The parser's own sentence shows the lines around, and a kubeconfig holds tokens and keys.
fn kubeconfig(error: KubeconfigError) -> ClientError {
    ClientError::Kubeconfig(match error {
        KubeconfigError::Parse(error) => {
            let place = error.location().map(|at| format!(" (line {}, column {})", at.line(), at.column()));
            format!("it is not YAML of a kubeconfig{}", place.unwrap_or_default())
        }
        error => Failure::of("", &error).message,
    })
}

fn build(config: &Config) -> Result<Client, kube::Error> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_keepalive(Some(PROBE_AFTER));
    tcp.set_keepalive_interval(Some(PROBE_AFTER / PROBES));
    tcp.set_keepalive_retries(Some(PROBES));
    let tls = config.rustls_https_connector_with_connector(tcp)?;
    let http: legacy::Client<_, Body> = legacy::Client::builder(TokioExecutor::new()).build(tls);

    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, &config.default_namespace))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn inferred(variables: &[(&str, &str)]) -> Result<Source, String> {
        Source::infer(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value)))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_named_kubeconfig_counts_before_the_pod_and_the_pod_before_the_home() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(".kube/config");
        let home = ("HOME", home.path().to_str().unwrap());
        let pod = ("KUBERNETES_SERVICE_HOST", "10.96.0.1");
        assert_eq!(inferred(&[("KUBECONFIG", "/a:/b"), pod, home]), Ok(Source::Files(vec!["/a".into(), "/b".into()])));
        assert_eq!(inferred(&[("KUBECONFIG", ""), pod, home]), Ok(Source::Pod));
        assert!(inferred(&[home]).unwrap_err().contains("set KUBECONFIG"));
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "").unwrap();
        assert_eq!(inferred(&[home]), Ok(Source::Files(vec![path])));
    }

    #[tokio::test]
    async fn a_client_is_made_while_the_server_is_away_and_a_bad_kubeconfig_is_said_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let write = |text: &str| {
            let path = dir.path().join("kubeconfig");
            std::fs::write(&path, text).unwrap();
            Source::Files(vec![path])
        };
        let config = |more: &str, user: &str| {
            format!(
                "{{clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:1'{more}}}}}], users: [{{name: u, user: {{{user}}}}}],
                contexts: [{{name: c, context: {{cluster: c, user: u, namespace: backup}}}}], current-context: c}}"
            )
        };
        let good = client(&write(&config("", "token: t")), None).await.unwrap();
        assert_eq!(good.default_namespace(), "backup");
        assert_eq!(client(&write(&config("", "")), Some("other")).await.unwrap().default_namespace(), "other");
        for (text, sentence) in [
            (config(", proxy-url: 'http://p:1'", ""), "proxy-url"),
            (config("", "tokenFile: /does/not/exist"), "/does/not/exist"),
            ("{]".into(), "cannot use the kubeconfig"),
        ] {
            let error = client(&write(&text), None).await.err().unwrap();
            let failure = Failure::of("", &error);
            assert!(failure.message.contains(sentence), "{failure}");
        }
        assert!(matches!(client(&Source::Files(vec!["/does/not/exist".into()]), None).await, Err(ClientError::Kubeconfig(_))));
        // Whatever is wrong, what is secret in it is not repeated.
        let helper = "exec: {apiVersion: client.authentication.k8s.io/v1, command: sh, args: ['-c', 'echo hush; exit 3'], \
            interactiveMode: Never, env: [{name: KEY, value: hush}]}";
        for (text, sentence) in [
            (config("", helper), "no credentials: the helper failed with exit status: 3"),
            (config("", "token: hush, : ]"), "it is not YAML of a kubeconfig (line 1,"),
            (config("", "token: [hush]"), "it is not YAML of a kubeconfig (line 1,"),
        ] {
            let error = client(&write(&text), None).await.err().unwrap();
            let failure = Failure::of("", &error);
            assert!(failure.message.contains(sentence) && !failure.message.contains("hush"), "{failure}");
        }
    }
}
