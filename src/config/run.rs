//! The settings of one run.
//!
//! In: flags, environment and config files. Out: [`RunSettings`], valid as a whole, with warnings; or the one sentence that says what is
//! wrong. Pure.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::error::{ConfigError, Warning};
use super::file::ConfigFile;
use super::flags::Flags;
use super::s3::S3Layer;
use super::sources::{Environment, Texts};
use super::values;
use crate::decide::Mode;
use crate::etcd::{AccessError, EtcdAccess, EtcdSettings};
use crate::log::Form;
use crate::schedule::{Schedule, Scope};
use crate::snapshot::{BaseName, NodeName, Program};

/// What stays the same for one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunSettings {
    /// This node.
    pub node: NodeName,
    /// Whose words to write.
    pub program: Program,
    /// What to do with decisions.
    pub mode: Mode,
    /// The data directory of K3s or RKE2, absolute.
    pub data_dir: PathBuf,
    /// The directory with the snapshots of this node, absolute.
    pub snapshot_dir: PathBuf,
    /// Time from one beat to the next, above zero.
    pub interval: Duration,
    /// Namespace of the Leases; None means the kubeconfig's.
    pub namespace: Option<String>,
    /// Namespace of the S3 Secret and of the ConfigMap that it names.
    pub config_namespace: String,
    /// Where `/metrics` is served.
    pub http_listen: SocketAddr,
    /// Prefix under which the duration histograms are shown once more.
    pub metrics_prefix: Option<String>,
    /// Form of the log.
    pub log_format: Form,
    /// The etcd member of this node.
    pub etcd: EtcdAccess,
    /// Base name of the snapshot files of this cluster.
    pub base: BaseName,
    /// How many good snapshots the directory keeps; 0 means all.
    pub retention: u32,
    /// Whether objects that show no cluster id count as ours.
    pub adopt_unlabelled: bool,
    /// How long a node must have had no Node object before its records go; never less than three beats.
    pub orphan_grace: Duration,
    /// When to save; None when snapshots on schedule are turned off.
    pub schedule: Option<Schedule>,
    /// The longest wait after a scheduled time.
    pub jitter: Duration,
    /// Who saves on schedule.
    pub scope: Scope,
    /// Whether snapshots are compressed.
    pub compress: bool,
    /// The file with the servers' token, of which the hash is kept.
    pub token_file: Option<PathBuf>,
    /// The settings of S3, to be resolved at each beat.
    pub s3: S3Layer,
}

impl RunSettings {
    /// Decides which place wins, setting by setting.
    pub fn new(flags: &Flags, environment: &Environment, files: &[ConfigFile]) -> Result<(Self, Vec<Warning>), ConfigError> {
        let (given, warnings) = Texts::collect(flags, environment, files)?;
        let s3 = S3Layer::new(&given)?;
        s3.check()?;
        let texts = given.or(Texts::of_defaults());
        let node = texts.require("node-name", values::node)?.value;
        Ok((Self::of(&texts, node, s3, environment.zone())?, warnings))
    }

    /// What these texts, the defaults among them, come to on this node. `zone` is the process's.
    pub(super) fn of(texts: &Texts, node: NodeName, s3: S3Layer, zone: TimeZone) -> Result<Self, ConfigError> {
        let program = texts.require("program", values::program)?.value;
        let (data_dir, snapshot_dir) = directories(texts, program)?;
        let interval = texts.require("etcd-snapshot-reconcile-interval", values::time)?.value;
        let zone = texts.parse("etcd-snapshot-timezone", values::zone)?.map_or(zone, |zone| zone.value);
        let schedule = texts.require("etcd-snapshot-schedule-cron", |text| values::schedule(text, &zone))?.value;
        let scope = texts.require("schedule-scope", |text| values::scope(text, &schedule))?.value;
        let disabled = texts.require("etcd-disable-snapshots", values::switch)?.value;
        Ok(Self {
            node,
            program,
            mode: texts.require("mode", values::mode)?.value,
            data_dir,
            snapshot_dir,
            interval,
            namespace: texts.parse("namespace", values::namespace)?.map(|name| name.value),
            config_namespace: texts.require("config-namespace", values::namespace)?.value,
            http_listen: texts.require("http-listen", values::listen)?.value,
            metrics_prefix: texts.parse("metrics-prefix", values::metrics_prefix)?.map(|prefix| prefix.value),
            log_format: texts.require("log-format", values::log_format)?.value,
            etcd: etcd(texts)?,
            base: texts.require("etcd-snapshot-name", values::base_name)?.value,
            retention: texts.require("etcd-snapshot-retention", values::count)?.value,
            adopt_unlabelled: texts.require("etcd-s3-adopt-unlabelled", values::switch)?.value,
            orphan_grace: texts.require("orphan-grace", values::time)?.value.max(interval.saturating_mul(3)),
            schedule: Some(schedule).filter(|_| !disabled),
            jitter: texts.require("etcd-snapshot-jitter", values::pause)?.value,
            scope,
            compress: texts.require("etcd-snapshot-compress", values::switch)?.value,
            token_file: texts.text("token-file").map(PathBuf::from),
            s3,
        })
    }
}

/// The data directory and the snapshot directory.
pub(super) fn directories(texts: &Texts, program: Program) -> Result<(PathBuf, PathBuf), ConfigError> {
    let data_dir = match texts.parse("data-dir", values::directory)? {
        Some(dir) => dir.value,
        None => PathBuf::from(format!("/var/lib/rancher/{program}")),
    };
    let snapshot_dir = match texts.parse("etcd-snapshot-dir", values::directory)? {
        Some(dir) => dir.value,
        None => data_dir.join("server/db/snapshots"),
    };
    Ok((data_dir, snapshot_dir))
}

/// What is wrong is said of the setting that it names.
pub(super) fn etcd(texts: &Texts) -> Result<EtcdAccess, ConfigError> {
    let text = |name: &'static str| texts.text(name).unwrap_or_default().to_string();
    let settings = EtcdSettings {
        endpoint: text("etcd-endpoint"),
        host: text("etcd-host"),
        cacert: text("etcd-cacert"),
        cert: text("etcd-cert"),
        key: text("etcd-key"),
        server_name: text("etcd-server-name"),
        user: text("etcd-user"),
        password: text("etcd-password"),
        password_file: text("etcd-password-file"),
    };
    EtcdAccess::new(&settings).map_err(|problem| {
        let (AccessError::Setting { setting, .. } | AccessError::File { setting, .. }) = &problem;
        ConfigError::Etcd { origin: texts.origin(setting), problem }
    })
}
