//! The client of the API server, made from a kubeconfig or from what a pod is given.
//!
//! Making it reads files and sends nothing, so that it works while the API server is away. It retries nothing and logs
//! nothing by itself: who asks also says what failed, and how often.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
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
    /// A context that somebody asked for.
    #[error("the kubeconfig has no context {wanted:?}; it has {there}")]
    Context {
        /// Which one.
        wanted: String,
        /// Those that there are.
        there: String,
    },
}

/// Where the settings come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// These files, the first one's values counting first.
    Files {
        /// Where they are.
        paths: Vec<PathBuf>,
        /// Which context counts; None means the current one.
        context: Option<String>,
    },
    /// The service account of this pod.
    Pod,
}

impl Source {
    /// KUBECONFIG when it is set; else the pod's service account; else `~/.kube/config`. `variable` reads the environment.
    pub fn infer(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, ClientError> {
        Self::named(None, None, variable)
    }

    /// The same where somebody may have named a file or a context. A pod's service account is in no context.
    pub fn named(
        kubeconfig: Option<&Path>,
        context: Option<&str>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ClientError> {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        let files = |paths| Ok(Self::Files { paths, context: context.map(Into::into) });
        if let Some(path) = kubeconfig {
            return files(vec![path.into()]);
        }
        if let Some(paths) = set("KUBECONFIG") {
            return files(std::env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty()).collect());
        }
        if context.is_none() && set("KUBERNETES_SERVICE_HOST").is_some() {
            return Ok(Self::Pod);
        }
        match set("HOME").map(|home| PathBuf::from(home).join(".kube/config")) {
            Some(path) if path.exists() => files(vec![path]),
            _ => Err(match context {
                Some(context) => ClientError::Kubeconfig(format!("there is none to find the context {context:?} in: set KUBECONFIG")),
                None => ClientError::Nothing,
            }),
        }
    }
}

/// A client for `source`. `namespace` is its default one, else the kubeconfig's or the pod's.
pub async fn client(source: &Source, namespace: Option<&str>) -> Result<Client, ClientError> {
    let (mut config, named) = match source {
        Source::Pod => (Config::incluster().map_err(ClientError::InCluster)?, "the service account of this pod".to_string()),
        Source::Files { paths, context } => {
            let mut merged = Kubeconfig::default();
            for path in paths {
                merged = merged.merge(Kubeconfig::read_from(path).map_err(kubeconfig)?).map_err(kubeconfig)?;
            }
            if let Some(wanted) = context.as_ref().filter(|wanted| !merged.contexts.iter().any(|context| context.name == **wanted)) {
                let there: Vec<_> = merged.contexts.iter().map(|context| context.name.as_str()).collect();
                return Err(ClientError::Context { wanted: wanted.clone(), there: there.join(", ") });
            }
            if has_proxy(&merged, context.as_deref()) {
                return Err(ClientError::Proxy);
            }
            let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
            let config = Config::from_custom_kubeconfig(merged, &options).await;
            let names: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
            (config.map_err(kubeconfig)?, names.join(":"))
        }
    };
    if let Some(namespace) = namespace {
        config.default_namespace = namespace.into();
    }
    config.headers.push((USER_AGENT, HeaderValue::from_static(concat!("etcd-snapshot-operator/", env!("CARGO_PKG_VERSION")))));
    build(&config).map_err(|error| match error {
        kube::Error::Auth(error) => ClientError::Unusable(named, format!("no credentials: {}", credentials(&error))),
        error => ClientError::Unusable(named, Failure::of("", &error).message),
    })
}

/// Whether the cluster of this context, else of the current one, is behind a proxy. That of the environment is for other servers, such as
/// the bucket's, and is not used on the way to this one.
fn has_proxy(config: &Kubeconfig, context: Option<&str>) -> bool {
    let context = context.or(config.current_context.as_deref());
    let context = config.contexts.iter().find(|named| Some(named.name.as_str()) == context).and_then(|named| named.context.as_ref());
    let cluster = context.and_then(|context| config.clusters.iter().find(|named| named.name == context.cluster));
    let url = cluster.and_then(|named| named.cluster.as_ref()?.proxy_url.as_ref());
    url.is_some_and(|url| !url.is_empty())
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
        KubeconfigError::ReadConfig(error, path) => format!("{} cannot be read: {error}", path.display()),
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
        let files = |paths: &[&str]| Source::Files { paths: paths.iter().map(PathBuf::from).collect(), context: None };
        assert_eq!(inferred(&[("KUBECONFIG", "/a:/b"), pod, home]), Ok(files(&["/a", "/b"])));
        assert_eq!(inferred(&[("KUBECONFIG", ""), pod, home]), Ok(Source::Pod));
        assert!(inferred(&[home]).unwrap_err().contains("set KUBECONFIG"));
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "").unwrap();
        assert_eq!(inferred(&[home]), Ok(files(&[path.to_str().unwrap()])));
        let named = |kubeconfig: Option<&str>, context| {
            let variables = [("KUBECONFIG", "/a"), pod];
            let variable = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
            Source::named(kubeconfig.map(Path::new), context, variable).unwrap()
        };
        assert_eq!(named(Some("/x:y"), None), files(&["/x:y"]), "a flag names one file");
        let of_context = Source::Files { paths: vec!["/a".into()], context: Some("prod".into()) };
        assert_eq!(named(None, Some("prod")), of_context);
        let in_pod = Source::named(None, Some("prod"), |name| (name == "KUBERNETES_SERVICE_HOST").then(|| "10.96.0.1".into()));
        assert!(matches!(in_pod, Err(ClientError::Kubeconfig(_))), "a service account is no context");
    }

    #[tokio::test]
    async fn a_client_is_made_while_the_server_is_away_and_a_bad_kubeconfig_is_said_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let write = |text: &str| {
            let path = dir.path().join("kubeconfig");
            std::fs::write(&path, text).unwrap();
            Source::Files { paths: vec![path], context: None }
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
        let absent = Source::Files { paths: vec!["/does/not/exist".into()], context: None };
        assert!(matches!(client(&absent, None).await, Err(ClientError::Kubeconfig(_))));
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
