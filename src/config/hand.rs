//! The settings of a verb by hand.
//!
//! In: flags, environment and config files, as for a run. Out: [`HandSettings`], which parses a setting when a verb asks for it: what a
//! verb does not need is neither demanded nor complained about. Pure.

use std::path::PathBuf;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use jiff::tz::TimeZone;

use super::error::{ConfigError, Warning};
use super::file::ConfigFile;
use super::flags::Flags;
use super::run::{self, RunSettings};
use super::s3::S3Layer;
use super::sources::{Environment, Texts};
use super::table::setting;
use super::values;
use crate::etcd::EtcdAccess;
use crate::snapshot::{BaseName, NodeName, Program};

/// Which API server somebody in front of a terminal means, in kubectl's own words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct ApiServer {
    /// File that says where the API server is and who asks.
    ///
    /// Without it: KUBECONFIG, else in a pod its service account, else ~/.kube/config.
    #[arg(long, value_name = "PATH", help_heading = "Kubernetes")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig, in place of its current one.
    #[arg(long, value_name = "NAME", help_heading = "Kubernetes", value_parser = NonEmptyStringValueParser::new())]
    pub context: Option<String>,
}

/// What somebody in front of a terminal has set.
#[derive(Debug, Clone)]
pub struct HandSettings {
    given: Texts,
    texts: Texts,
    zone: TimeZone,
    api: ApiServer,
}

/// Settings that say on what a verb works, and how much it leaves. Whoever types one of them with nothing in it, as a script does whose
/// variable is not set, does not mean the default.
const NEVER_EMPTY: [&str; 13] = [
    "config",
    "node-name",
    "data-dir",
    "etcd-snapshot-dir",
    "etcd-endpoint",
    "etcd-host",
    "etcd-snapshot-retention",
    "etcd-s3-retention",
    "etcd-s3-endpoint",
    "etcd-s3-bucket",
    "etcd-s3-config-secret",
    "namespace",
    "config-namespace",
];

impl HandSettings {
    /// Decides which place wins, setting by setting.
    pub fn new(flags: &Flags, environment: &Environment, files: &[ConfigFile]) -> Result<(Self, Vec<Warning>), ConfigError> {
        if let Some(name) = NEVER_EMPTY.into_iter().find(|name| flags.get(name).is_some_and(|text| text.trim().is_empty())) {
            return Err(ConfigError::Empty(name));
        }
        let (given, warnings) = Texts::collect(flags, environment, files)?;
        let texts = given.clone().or(Texts::of_defaults());
        Ok((Self { given, texts, zone: environment.zone(), api: ApiServer::default() }, warnings))
    }

    /// With this API server.
    #[must_use]
    pub fn with_api(self, api: ApiServer) -> Self {
        Self { api, ..self }
    }

    /// Which API server.
    pub fn api(&self) -> &ApiServer {
        &self.api
    }

    /// This node, where it is named.
    pub fn node(&self) -> Result<Option<NodeName>, ConfigError> {
        Ok(self.texts.parse("node-name", values::node)?.map(|node| node.value))
    }

    /// Whose words to write.
    pub fn program(&self) -> Result<Program, ConfigError> {
        Ok(self.texts.require("program", values::program)?.value)
    }

    /// The directory with the snapshots of this node.
    pub fn snapshot_dir(&self) -> Result<PathBuf, ConfigError> {
        Ok(run::directories(&self.texts, self.program()?)?.1)
    }

    /// Whether somebody said which directory that is.
    pub fn names_a_directory(&self) -> bool {
        ["etcd-snapshot-dir", "data-dir"].iter().any(|name| self.given.text(name).is_some())
    }

    /// Whether somebody said which etcd member there is.
    pub fn names_an_etcd(&self) -> bool {
        ["etcd-endpoint", "etcd-host"].iter().any(|name| self.given.text(name).is_some())
    }

    /// Namespace of the agents; None means the kubeconfig's.
    pub fn namespace(&self) -> Result<Option<String>, ConfigError> {
        Ok(self.texts.parse("namespace", values::namespace)?.map(|name| name.value))
    }

    /// Namespace of the S3 Secret and of the ConfigMap that it names.
    pub fn config_namespace(&self) -> Result<String, ConfigError> {
        Ok(self.texts.require("config-namespace", values::namespace)?.value)
    }

    /// The settings of S3; they may say that there is no bucket.
    pub fn s3(&self) -> Result<S3Layer, ConfigError> {
        let layer = S3Layer::new(&self.given)?;
        layer.check()?;
        Ok(layer)
    }

    /// The etcd member of this node.
    pub fn etcd(&self) -> Result<EtcdAccess, ConfigError> {
        run::etcd(&self.texts)
    }

    /// Everything, as an agent on this node has it; with this base name.
    pub fn run(&self, node: NodeName, base: &BaseName) -> Result<RunSettings, ConfigError> {
        Ok(RunSettings { base: base.clone(), ..RunSettings::of(&self.texts, node, self.s3()?, self.zone.clone())? })
    }

    /// How many good snapshots the directory keeps; 0 means all.
    pub fn retention(&self) -> Result<u32, ConfigError> {
        Ok(self.texts.require("etcd-snapshot-retention", values::count)?.value)
    }
}

/// Where the config file of the program is that this node runs.
pub(super) fn default_config(flags: &Flags, environment: &Environment) -> PathBuf {
    let named = flags.get("program").or_else(|| environment.get(setting("program")?)).and_then(|text| values::program(text).ok());
    PathBuf::from(format!("/etc/rancher/{}/config.yaml", named.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(flags: &[(&'static str, &str)]) -> HandSettings {
        let flags: Flags = flags.iter().map(|(name, text)| (*name, (*text).to_string())).collect();
        HandSettings::new(&flags, &Environment::default(), &[]).unwrap().0
    }

    #[test]
    fn nothing_is_demanded_before_it_is_asked_for() {
        let settings = settings(&[]);
        assert_eq!((settings.node().unwrap(), settings.s3().unwrap().is_on()), (None, false));
        assert_eq!(settings.snapshot_dir().unwrap(), PathBuf::from("/var/lib/rancher/k3s/server/db/snapshots"));
        assert!(!settings.names_a_directory());
    }

    #[test]
    fn what_is_wrong_is_said_by_whoever_asks() {
        let settings = settings(&[("node-name", "s3"), ("etcd-snapshot-dir", "here"), ("etcd-s3", "true")]);
        assert!(settings.node().unwrap_err().to_string().contains("K3s marks"));
        assert!(settings.snapshot_dir().unwrap_err().to_string().contains("not an absolute path"));
        assert!(matches!(settings.s3().unwrap_err(), ConfigError::Missing("etcd-s3-bucket")));
        assert_eq!(settings.config_namespace().unwrap(), "kube-system");
    }

    #[test]
    fn what_says_where_is_not_typed_with_nothing_in_it_and_what_may_be_left_out_is() {
        let new = |name: &'static str, text: &str| {
            let flags: Flags = [(name, text.to_string())].into_iter().collect();
            HandSettings::new(&flags, &Environment::default(), &[]).map(|_| ()).map_err(|error| error.to_string())
        };
        for name in NEVER_EMPTY {
            assert!(setting(name).is_some(), "{name}");
            assert_eq!(new(name, " "), Err(format!("flag --{name} is empty; give it a value, or leave it out")));
        }
        for name in ["etcd-s3-folder", "etcd-s3-session-token", "etcd-s3-region", "etcd-s3-proxy", "etcd-s3"] {
            assert_eq!(new(name, ""), Ok(()), "{name}");
        }
        // An empty variable is one that is not set, as everywhere.
        let environment = Environment::new([("ETCD_SNAPSHOT_DIR".into(), "".into())]).unwrap();
        assert!(HandSettings::new(&Flags::default(), &environment, &[]).is_ok());
    }

    #[test]
    fn the_config_file_is_that_of_the_program() {
        let of = |flags: &[(&'static str, &str)]| {
            default_config(&flags.iter().map(|(name, text)| (*name, (*text).to_string())).collect(), &Environment::default())
        };
        assert_eq!(of(&[]), PathBuf::from("/etc/rancher/k3s/config.yaml"));
        assert_eq!(of(&[("program", "rke2")]), PathBuf::from("/etc/rancher/rke2/config.yaml"));
    }
}
