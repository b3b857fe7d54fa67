//! What is around a verb by hand: the API server, the cluster, the bucket's settings. Each of them may be missing.
//!
//! In: the settings. Out: what was found, and what a verb has to say of what was not. Nothing is written.

use std::sync::Arc;

use super::trouble::Trouble;
use crate::config::{ApiServer, CaBundles, HandSettings, S3Access, S3Layer, ca_config_map, read_certificates, resolve_s3};
use crate::kubernetes::client::{ClientError, Source, client};
use crate::kubernetes::nodes::cluster_id;
use crate::kubernetes::secret;
use crate::snapshot::{ClusterId, Failure, NodeName};
use crate::storage::local::Directory;
use crate::storage::s3::Observer;

/// How it stands with the API server.
pub enum Kubernetes {
    /// None is named anywhere.
    Nowhere,
    /// It answers.
    There {
        /// For more questions.
        client: kube::Client,
        /// UID of the namespace kube-system.
        cluster: ClusterId,
    },
    /// One is named, and it does not do what it should.
    Away {
        /// For questions that may be answered all the same.
        client: Option<kube::Client>,
        /// Why.
        failure: Failure,
    },
}

impl Kubernetes {
    /// Asks it whose cluster this is.
    pub async fn ask(settings: &HandSettings) -> Result<Self, Trouble> {
        let namespace = settings.namespace()?;
        let source = match source(settings) {
            Ok(source) => source,
            Err(ClientError::Nothing) => return Ok(Self::Nowhere),
            Err(error) => return Ok(Self::Away { client: None, failure: Failure::of("client", &error) }),
        };
        let client = match client(&source, namespace.as_deref()).await {
            Ok(client) => client,
            Err(error) => return Ok(Self::Away { client: None, failure: Failure::of("client", &error) }),
        };
        Ok(match cluster_id(&client).await {
            Ok(cluster) => Self::There { client, cluster },
            Err(error) => Self::Away { failure: error.failure(), client: Some(client) },
        })
    }

    /// For questions.
    pub fn client(&self) -> Option<&kube::Client> {
        match self {
            Self::There { client, .. } | Self::Away { client: Some(client), .. } => Some(client),
            Self::Nowhere | Self::Away { client: None, .. } => None,
        }
    }

    /// The cluster that it told.
    pub fn cluster(&self) -> Option<&ClusterId> {
        match self {
            Self::There { cluster, .. } => Some(cluster),
            Self::Nowhere | Self::Away { .. } => None,
        }
    }

    /// Why it is away.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Away { failure, .. } => Some(failure),
            Self::Nowhere | Self::There { .. } => None,
        }
    }
}

/// Where the API server is.
pub fn source(settings: &HandSettings) -> Result<Source, ClientError> {
    let ApiServer { kubeconfig, context } = settings.api();
    Source::named(kubeconfig.as_deref(), context.as_deref(), |name| std::env::var_os(name))
}

/// The way to the bucket; None when there is no bucket. The Secret is read if the settings name one.
pub async fn bucket(settings: &HandSettings, kubernetes: &Kubernetes) -> Result<Option<S3Access>, Trouble> {
    let layer = settings.s3()?;
    if !layer.is_on() {
        return Ok(None);
    }
    layer.check_certificates(&read_certificates)?;
    let namespace = settings.config_namespace()?;
    let mut secret: Option<S3Layer> = None;
    let mut bundles: Option<CaBundles> = None;
    if let Some(name) = layer.config_secret() {
        let needs = |what: &str| Trouble::failed(format!("the settings of S3 are in {what} {namespace}/{name}, and that cannot be read"));
        let Some(client) = kubernetes.client() else {
            let why = kubernetes.failure().map_or("no API server is named: set KUBECONFIG".into(), ToString::to_string);
            return Err(needs("Secret").because(why).because("give them as flags, in the environment or in a config file"));
        };
        let values = secret::secret(client, &namespace, name).await.map_err(|error| needs("Secret").because_of(&error))?;
        let (read, warnings) = S3Layer::from_secret(&format!("{namespace}/{name}"), &values.0)?;
        warnings.iter().for_each(super::terminal::note);
        if let Some(name) = ca_config_map(&layer, Some(&read)) {
            let map = secret::config_map(client, &namespace, name).await;
            bundles = Some(map.map_err(|error| needs("ConfigMap").because_of(&error))?.0);
        }
        secret = Some(read);
    }
    Ok(resolve_s3(&layer, secret.as_ref(), bundles.as_ref(), &read_certificates)?)
}

/// Nobody counts what a hand asks for.
pub fn nobody() -> Observer {
    Arc::new(|_| {})
}

/// The name of this node, else that of the one agent that kept state on its directory, else the host's.
pub fn node(settings: &HandSettings) -> Result<NodeName, Trouble> {
    if let Some(node) = settings.node()? {
        return Ok(node);
    }
    let host = host()?;
    let known = Directory::read_only(settings.snapshot_dir()?, host.clone()).map(|directory| directory.nodes()).unwrap_or_default();
    Ok(match <[NodeName; 1]>::try_from(known) {
        Ok([only]) => only,
        Err(_) => host,
    })
}

fn host() -> Result<NodeName, Trouble> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    NodeName::new(&host).map_err(|error| Trouble::usage("the host's name cannot be that of a node: give --node-name").because_of(&error))
}
