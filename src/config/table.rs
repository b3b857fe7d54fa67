//! Every setting, once: from a row come its flag, its environment variable, its key in a config file or Secret, its help and its default.

/// What a setting's value looks like. Says how the flag behaves and how a config file is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`; the flag may stand alone.
    Switch,
    /// A Go duration, above zero.
    Duration,
    /// A number, zero or more.
    Count,
    /// Anything else.
    Text,
    /// Never shown.
    Secret,
}

/// Where a setting is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Flag only.
    Flag,
    /// Flag and environment.
    Process,
    /// Flag, environment and config file.
    Run,
    /// Flag, environment, config file and S3 Secret.
    RunAndSecret,
    /// Config file only.
    File,
    /// S3 Secret only.
    Secret,
    /// Environment only.
    Environment,
}

impl Reach {
    /// Whether `run` has a flag for it.
    pub fn has_flag(self) -> bool {
        matches!(self, Self::Flag | Self::Process | Self::Run | Self::RunAndSecret)
    }

    /// Whether an environment variable sets it.
    pub fn has_environment(self) -> bool {
        matches!(self, Self::Process | Self::Run | Self::RunAndSecret | Self::Environment)
    }

    /// Whether a config file may hold it.
    pub fn is_in_file(self) -> bool {
        matches!(self, Self::Run | Self::RunAndSecret | Self::File)
    }

    /// Whether the S3 Secret may hold it.
    pub fn is_in_secret(self) -> bool {
        matches!(self, Self::RunAndSecret | Self::Secret)
    }
}

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Its name: the flag without dashes, the key in files and in the Secret.
    pub name: &'static str,
    /// Where it is read from.
    pub reach: Reach,
    /// What its value looks like.
    pub kind: Kind,
    /// The heading in the help.
    pub group: &'static str,
    /// The value's placeholder in the help.
    pub placeholder: &'static str,
    /// The value that holds when none is given.
    pub default: Option<&'static str>,
    /// The default in words, where another setting decides it.
    pub default_in_words: Option<&'static str>,
    /// A second environment variable, read after the one made from the name.
    pub also_environment: Option<&'static str>,
    /// The help, its first sentence standing for it in `-h`.
    pub help: &'static str,
}

impl Setting {
    /// The environment variable: the name in upper case with underscores.
    pub fn environment(&self) -> String {
        self.name.to_uppercase().replace('-', "_")
    }

    const fn new(name: &'static str, reach: Reach, kind: Kind, group: &'static str, placeholder: &'static str, help: &'static str) -> Self {
        Self { name, reach, kind, group, placeholder, default: None, default_in_words: None, also_environment: None, help }
    }

    const fn or(self, default: &'static str) -> Self {
        Self { default: Some(default), ..self }
    }

    const fn or_else(self, words: &'static str) -> Self {
        Self { default_in_words: Some(words), ..self }
    }

    const fn or_environment(self, name: &'static str) -> Self {
        Self { also_environment: Some(name), ..self }
    }
}

/// The setting of this name.
pub fn setting(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

const NODE: &str = "Node and directory";
const SCHEDULE: &str = "Schedule";
const RETENTION: &str = "Retention";
const ETCD: &str = "etcd";
const S3: &str = "S3";
const KUBERNETES: &str = "Kubernetes";
const OBSERVING: &str = "Observing";
const LATER: &str = "";

use Kind::{Count, Duration, Secret, Switch, Text};
use Reach::{File, Flag, Process, Run, RunAndSecret};

/// All of them, in the order of the help.
pub static SETTINGS: &[Setting] = &[
    Setting::new("config", Flag, Text, NODE, "PATH", "YAML file with settings, each key named like its flag without the dashes.\n\
        The files <PATH>.d/*.yaml and *.yml are read after it in the order of their names; of a key that is in several files the last one counts. \
        A config.yaml of K3s or RKE2 can be given as it is: keys that are none of ours are ignored, and \"key+\" replaces like \"key\", \
        since none of our settings takes a list.").or_else("no file"),
    Setting::new("node-name", Run, Text, NODE, "NAME", "Name of this node, as Kubernetes knows it.\n\
        It is in the names of snapshot files and in records. A node cannot be called \"s3\". In a pod, set it from spec.nodeName.").or_else("none, it is required"),
    Setting::new("program", Run, Text, NODE, "k3s|rke2", "Whose words to write in labels, annotations and object metadata: k3s or rke2.\n\
        Records and objects of both are read.").or("k3s"),
    Setting::new("mode", Run, Text, NODE, "manage|observe", "What to do with what is decided: manage acts on it; observe only says what would be done.\n\
        Observing verifies snapshots and serves metrics but writes no record and removes nothing: a dry run, a pause switch, and the way to live beside a K3s \
        that manages its own snapshots.").or("manage"),
    Setting::new("data-dir", Run, Text, NODE, "PATH", "Data directory of K3s or RKE2, an absolute path.\n\
        Only the default of --etcd-snapshot-dir comes from it.").or_else("/var/lib/rancher/<program>"),
    Setting::new("etcd-snapshot-dir", Run, Text, NODE, "PATH", "Directory with the snapshots of this node, an absolute path.\n\
        Sidecars and state are kept in .metadata beside it.").or_else("<data-dir>/server/db/snapshots"),
    Setting::new("etcd-snapshot-reconcile-interval", Run, Duration, NODE, "DURATION", "Time from one beat to the next, above zero, like 10m or 90s.\n\
        At each beat the directory and the bucket are listed and the records are made to agree with them. Changes in the directory are seen at once besides.").or("10m"),
    Setting::new("etcd-snapshot-schedule-cron", Run, Text, SCHEDULE, "CRON", "When to save: minute, hour, day of month, month and day of week, as K3s takes them.\n\
        Also @hourly, @daily, @weekly, @monthly, @yearly and @every DURATION, which counts from the last attempt; with CRON_TZ=ZONE before it, in that time zone. \
        A time that the clock leaps over in spring is run once after the leap; one that comes twice in autumn is run twice. \
        A run that was missed is made up once.").or("0 */12 * * *"),
    Setting::new("etcd-snapshot-timezone", Run, Text, SCHEDULE, "ZONE", "Time zone of --etcd-snapshot-schedule-cron, by its name in the tz database, like Europe/Berlin.").or_else("that of the process: TZ, else /etc/localtime"),
    Setting::new("etcd-snapshot-jitter", Run, Text, SCHEDULE, "DURATION", "Longest wait after a scheduled time; 0 for none.\n\
        Each run waits for a random part of it, so that not all nodes save at one moment, and never for more than half of the time to the next run.").or("5s"),
    Setting::new("schedule-scope", Run, Text, SCHEDULE, "node|cluster", "Who saves on schedule: node means each node for itself, as in K3s; cluster means one node for all.\n\
        The node that does it claims the run by a Lease, healthy followers of etcd first. When the API server does not answer, each node saves for itself. \
        Not with @every, which counts from each node's own last attempt.").or("node"),
    Setting::new("etcd-disable-snapshots", Process, Switch, SCHEDULE, "true|false", "Whether to save on schedule at all; true turns it off.\n\
        In a config file, which may be K3s's own, it says that K3s leaves snapshots to others, and is not read.").or("false"),
    Setting::new("etcd-snapshot-compress", Run, Switch, SCHEDULE, "true|false", "Whether to compress snapshots: a zip file with one entry, as in K3s.").or("false"),
    Setting::new("token-file", Run, Text, SCHEDULE, "PATH", "File with the servers' token, as K3s and RKE2 have one: a hash of it is kept beside each snapshot.\n\
        It tells whether the token has to be rolled back with the snapshot. Read at each save; the token itself goes nowhere.").or_else("none"),
    Setting::new("etcd-snapshot-name", Run, Text, RETENTION, "NAME", "Base name of the snapshot files of this cluster: they are called <NAME>-<node>-<seconds>.\n\
        Retention is about files of this base name and about no others.").or("etcd-snapshot"),
    Setting::new("etcd-snapshot-retention", Run, Count, RETENTION, "COUNT", "How many good snapshots the directory keeps; 0 keeps all.\n\
        A snapshot is good when it was verified whole and nothing is known against the member it came from. Nothing goes before the etcd member has answered once.").or("5"),
    Setting::new("etcd-s3-retention", RunAndSecret, Count, RETENTION, "COUNT", "How many good snapshots of the whole cluster the bucket keeps; 0 keeps all.\n\
        The newest good one of each living node stays as well.").or("5"),
    Setting::new("etcd-s3-adopt-unlabelled", Run, Switch, RETENTION, "true|false", "Whether objects without a cluster id in their metadata count as this cluster's.\n\
        Only safe in a folder that no other cluster uses.").or("false"),
    Setting::new("orphan-grace", Run, Duration, RETENTION, "DURATION", "How long a node must have had no Node object before the records of its directory go.\n\
        Never less than three beats. A node whose agent is at work without a Node object is not gone.").or("1h"),
    Setting::new("etcd-endpoint", Run, Text, ETCD, "URL", "The etcd member of this node, like https://127.0.0.1:2379: exactly one.").or_else("https://127.0.0.1:2379"),
    Setting::new("etcd-host", Run, Text, ETCD, "HOST", "Address or name of the member alone, in place of --etcd-endpoint: HTTPS and port 2379 go without saying.").or_else("none"),
    Setting::new("etcd-cacert", Run, Text, ETCD, "PATH", "PEM file of the authorities that the member's certificate has to be signed by. Read again when it changes.").or_else("the system's certificates"),
    Setting::new("etcd-cert", Run, Text, ETCD, "PATH", "PEM file of the client certificate. Read again when it changes.").or_else("none"),
    Setting::new("etcd-key", Run, Text, ETCD, "PATH", "PEM file of the client certificate's key. Read again when it changes.").or_else("none"),
    Setting::new("etcd-server-name", Run, Text, ETCD, "NAME", "Name that the member's certificate has to have, where it is not the endpoint's.").or_else("the endpoint's host"),
    Setting::new("etcd-user", Run, Text, ETCD, "NAME", "User of etcd, where etcd has users. Snapshots need the role root.").or_else("none"),
    Setting::new("etcd-password-file", Run, Text, ETCD, "PATH", "File with the password of --etcd-user. Read again when it changes.").or_else("the environment variable ETCD_PASSWORD"),
    Setting::new("etcd-password", Reach::Environment, Secret, ETCD, "PASSWORD", "Password of --etcd-user.").or_else("none"),
    Setting::new("etcd-s3", Run, Switch, S3, "true|false", "Whether there is a bucket at all.\n\
        Without it the other settings of S3 are checked and not used, and no Secret is read.").or("false"),
    Setting::new("etcd-s3-config-secret", Run, Text, S3, "NAME", "Secret with settings of S3 in --config-namespace, read again at each beat.\n\
        Its keys are named like the flags. A flag, an environment variable or a config file wins over the same key of the Secret; an empty key is not set. \
        Its etcd-s3-endpoint-ca holds the PEM itself; its etcd-s3-endpoint-ca-name names a ConfigMap each value of which is PEM.").or_else("no Secret"),
    Setting::new("etcd-s3-endpoint", RunAndSecret, Text, S3, "HOST[:PORT]", "S3 server, without a scheme.\n\
        TLS is used unless --etcd-s3-insecure says otherwise.").or("s3.amazonaws.com"),
    Setting::new("etcd-s3-bucket", RunAndSecret, Text, S3, "NAME", "Bucket with the snapshots. It has to exist.").or_else("none, required with --etcd-s3"),
    Setting::new("etcd-s3-folder", RunAndSecret, Text, S3, "PATH", "Folder in the bucket: the keys of snapshots are <folder>/<name>.\n\
        Outer slashes do not count.").or_else("the root of the bucket"),
    Setting::new("etcd-s3-region", RunAndSecret, Text, S3, "REGION", "Region to sign requests for.").or("us-east-1"),
    Setting::new("etcd-s3-bucket-lookup-type", RunAndSecret, Text, S3, "auto|dns|path", "Where the bucket's name stands in a request: dns for the host name, path for the path.\n\
        With auto, Amazon's, Google's and Aliyun's servers get dns and all others path; a bucket with a dot in its name gets path under TLS.").or("auto"),
    Setting::new("etcd-s3-access-key", RunAndSecret, Secret, S3, "KEY", "Access key; better not as a flag, since process lists show it.\n\
        Access key, secret key and session token come from one place, the first that has an access key. \
        Without any, the SDK looks for credentials: shared files, web identity, container and instance roles.")
        .or_environment("AWS_ACCESS_KEY_ID").or_else("credentials of the surroundings"),
    Setting::new("etcd-s3-secret-key", RunAndSecret, Secret, S3, "KEY", "Secret key; better not as a flag, since process lists show it.")
        .or_environment("AWS_SECRET_ACCESS_KEY").or_else("none"),
    Setting::new("etcd-s3-session-token", RunAndSecret, Secret, S3, "TOKEN", "Session token of temporary credentials; better not as a flag, since process lists show it.")
        .or_environment("AWS_SESSION_TOKEN").or_else("none"),
    Setting::new("etcd-s3-endpoint-ca", RunAndSecret, Text, S3, "CA...", "Certificates that the server's has to be signed by, in place of the system's.\n\
        A list with spaces between; each item is base64 of PEM, or the path of a PEM file, which is read again at each beat.").or_else("the system's certificates"),
    Setting::new("etcd-s3-skip-ssl-verify", RunAndSecret, Switch, S3, "true|false", "Whether to take any certificate of the server. Wins over --etcd-s3-endpoint-ca.").or("false"),
    Setting::new("etcd-s3-insecure", RunAndSecret, Switch, S3, "true|false", "Whether to speak plain HTTP instead of TLS.").or("false"),
    Setting::new("etcd-s3-proxy", RunAndSecret, Text, S3, "URL|none", "Proxy in front of the server, with scheme and host, like http://proxy.example.com:3128.\n\
        The word none means no proxy, also where the environment has one.").or_else("HTTPS_PROXY, HTTP_PROXY and NO_PROXY of the environment"),
    Setting::new("etcd-s3-timeout", RunAndSecret, Duration, S3, "DURATION", "Longest time for one request to S3, above zero, like 5m or 90s.\n\
        A listing of many pages may take longer as a whole.").or("5m"),
    Setting::new("namespace", Run, Text, KUBERNETES, "NAME", "Namespace of this release, where its Leases are.")
        .or_environment("POD_NAMESPACE").or_else("that of the kubeconfig"),
    Setting::new("config-namespace", Run, Text, KUBERNETES, "NAME", "Namespace of the S3 Secret and of the ConfigMap that it names.").or("kube-system"),
    Setting::new("http-listen", Run, Text, OBSERVING, "ADDRESS:PORT", "Address for /metrics, /healthz and /readyz.").or("0.0.0.0:9469"),
    Setting::new("metrics-prefix", Run, Text, OBSERVING, "PREFIX", "Prefix under which the duration histograms are shown once more, for dashboards made for K3s (k3s_) or RKE2 (rke2_).").or_else("their own names only"),
    Setting::new("log-format", Run, Text, OBSERVING, "text|json", "Form of the log on standard error: text or json. RUST_LOG sets its level.").or("text"),
    Setting::new("etcd-s3-endpoint-ca-name", Reach::Secret, Text, S3, "NAME", "ConfigMap with certificates."),
    Setting::new("etcd-snapshot-restrictions", File, Text, LATER, "WORDS", "What requests to K3s may not override."),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_setting_is_there_once_and_says_what_holds_without_it() {
        let names: BTreeSet<_> = SETTINGS.iter().map(|setting| setting.name).collect();
        assert_eq!(names.len(), SETTINGS.len());
        for setting in SETTINGS.iter().filter(|setting| setting.reach.has_flag()) {
            assert!(setting.default.is_some() != setting.default_in_words.is_some(), "{}", setting.name);
            assert!(!setting.group.is_empty(), "{}", setting.name);
        }
    }

    #[test]
    fn environment_variables_are_made_from_names() {
        assert_eq!(setting("etcd-snapshot-reconcile-interval").unwrap().environment(), "ETCD_SNAPSHOT_RECONCILE_INTERVAL");
        assert_eq!(setting("etcd-s3").unwrap().environment(), "ETCD_S3");
        assert_eq!(setting("node-name").unwrap().environment(), "NODE_NAME");
        assert!(setting("etcd-s3-buckets").is_none());
    }
}
