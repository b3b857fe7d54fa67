//! The whole way from the places where settings are given to what comes out.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::file::ConfigFile;
use super::*;
use crate::decide::Mode;
use crate::log::Form;
use crate::schedule::Scope;
use crate::snapshot::Program;

/// What is given where.
#[derive(Debug, Clone, Default)]
struct Given {
    flags: Vec<(&'static str, String)>,
    environment: Vec<(String, String)>,
    files: Vec<String>,
    secret: Vec<(String, String)>,
}

impl Given {
    fn flag(mut self, name: &'static str, text: &str) -> Self {
        self.flags.push((name, text.into()));
        self
    }

    fn variable(mut self, name: &str, text: &str) -> Self {
        self.environment.push((name.into(), text.into()));
        self
    }

    fn file(mut self, text: &str) -> Self {
        self.files.push(text.into());
        self
    }

    fn secret(mut self, key: &str, text: &str) -> Self {
        self.secret.push((key.into(), text.into()));
        self
    }

    fn sources(&self) -> (Flags, Environment, Vec<ConfigFile>) {
        let flags = self.flags.iter().cloned().collect();
        let environment = Environment::new(self.environment.iter().map(|(name, text)| (name.into(), text.into()))).unwrap();
        let files =
            self.files.iter().enumerate().map(|(at, text)| ConfigFile { path: PathBuf::from(format!("/{at}.yaml")), text: text.clone() });
        (flags, environment, files.collect())
    }

    fn run(&self) -> Result<(RunSettings, Vec<Warning>), ConfigError> {
        let (flags, environment, files) = self.sources();
        RunSettings::new(&flags, &environment, &files)
    }

    fn secret_layer(&self) -> Result<(S3Layer, Vec<Warning>), ConfigError> {
        let data: BTreeMap<_, _> = self.secret.iter().map(|(key, text)| (key.clone(), text.clone().into_bytes())).collect();
        S3Layer::from_secret("kube-system/s3", &data)
    }

    fn s3(&self) -> Result<Option<S3Access>, ConfigError> {
        let no_file = |_: &Path| Err(io::ErrorKind::NotFound.into());
        resolve_s3(&self.run()?.0.s3, Some(&self.secret_layer()?.0), None, &no_file)
    }
}

/// Enough for a run with S3 on and its Secret read.
fn enough() -> Given {
    Given::default().flag("node-name", "cp1").flag("etcd-s3", "true").flag("etcd-s3-config-secret", "s3").file("etcd-s3-bucket: etcd")
}

type Put = fn(Given, &str) -> Given;

#[test]
fn of_two_places_the_earlier_wins_unless_it_is_empty() {
    let places: [Put; 5] = [
        |given, text| given.flag("etcd-s3-region", text),
        |given, text| given.variable("ETCD_S3_REGION", text),
        |given, text| given.file("").file(&format!("etcd-s3-region: \"{text}\"")),
        |given, text| given.file(&format!("etcd-s3-region: \"{text}\"")),
        |given, text| given.secret("etcd-s3-region", text),
    ];
    let region = |given: Given| given.s3().unwrap().unwrap().region;
    for (at, first) in places.iter().enumerate() {
        assert_eq!(region(first(enough(), "r1")), "r1", "place {at} alone");
        assert_eq!(region(first(enough(), "")), "us-east-1", "place {at} alone and empty");
        for (later_at, later) in places.iter().enumerate().skip(at + 1) {
            // Files are given in the order in which they are read, the last one winning.
            let both = |text: &str| match (at, later_at) {
                (2, 3) => enough().file("etcd-s3-region: r2").file(&format!("etcd-s3-region: \"{text}\"")),
                _ => later(first(enough(), text), "r2"),
            };
            assert_eq!(region(both("r1")), "r1", "{at} over {later_at}");
            for empty in ["", " "] {
                assert_eq!(region(both(empty)), "r2", "{at} empty, {later_at} counts");
            }
        }
    }
}

#[test]
fn credentials_come_from_the_first_place_with_an_access_key() {
    let places: [Put; 4] = [
        |given, mark| given.flag("etcd-s3-access-key", &format!("a{mark}")).flag("etcd-s3-secret-key", &format!("s{mark}")),
        |given, mark| given.variable("ETCD_S3_ACCESS_KEY", &format!("a{mark}")).variable("ETCD_S3_SECRET_KEY", &format!("s{mark}")),
        |given, mark| given.variable("AWS_ACCESS_KEY_ID", &format!("a{mark}")).variable("AWS_SECRET_ACCESS_KEY", &format!("s{mark}")),
        |given, mark| given.file(&format!("etcd-s3-access-key: a{mark}\netcd-s3-secret-key: s{mark}")),
    ];
    let keys = |given: Given| {
        let keys = given.s3().unwrap().unwrap().keys.unwrap();
        (keys.access_key.expose().to_string(), keys.secret_key.expose().to_string(), keys.session_token)
    };
    let of = |mark| (format!("a{mark}"), format!("s{mark}"), None);
    for (at, first) in places.iter().enumerate() {
        // A token lying about elsewhere is of other credentials.
        for token in [Given::secret as fn(Given, &str, &str) -> Given, Given::variable] {
            let name = if at == 2 { "ETCD_S3_SESSION_TOKEN" } else { "AWS_SESSION_TOKEN" };
            assert_eq!(keys(token(first(enough(), "1"), name, "t")), of(1), "{at}");
        }
        for later in &places[at + 1..] {
            assert_eq!(keys(later(first(enough(), "1"), "2")), of(1), "{at}");
        }
        assert_eq!(keys(first(enough().secret("etcd-s3-access-key", "a3").secret("etcd-s3-secret-key", "s3"), "1")), of(1), "{at}");
    }
    let half = enough().flag("etcd-s3-access-key", "a1").variable("AWS_SECRET_ACCESS_KEY", "s2").s3().unwrap_err();
    assert_eq!(
        half.to_string(),
        "etcd-s3-secret-key is not set where the access key is (flag --etcd-s3-access-key); \
         access key, secret key and session token have to come from one place"
    );
    let (_, warnings) = enough().variable("AWS_SECRET_ACCESS_KEY", "s2").run().unwrap();
    assert_eq!(warnings, ["environment variable AWS_SECRET_ACCESS_KEY is not used: no access key comes from the same place"]);
}

#[test]
fn a_run_has_the_defaults_of_k3s() {
    let (settings, warnings) = Given::default().variable("NODE_NAME", "CP-1.example.com").run().unwrap();
    assert_eq!(warnings, Vec::<Warning>::new());
    assert_eq!((settings.node.as_str(), settings.program, settings.mode), ("CP-1.example.com", Program::K3s, Mode::Manage));
    assert_eq!(settings.data_dir, Path::new("/var/lib/rancher/k3s"));
    assert_eq!(settings.snapshot_dir, Path::new("/var/lib/rancher/k3s/server/db/snapshots"));
    assert_eq!(settings.interval, Duration::from_mins(10));
    assert_eq!((settings.namespace, settings.config_namespace.as_str()), (None, "kube-system"));
    assert_eq!(
        (settings.http_listen.to_string().as_str(), settings.metrics_prefix, settings.log_format),
        ("0.0.0.0:9469", None, Form::Text)
    );
    assert!(!settings.s3.is_on());
}

#[test]
fn directories_follow_program_and_data_dir() {
    let dirs = |given: Given| {
        let settings = given.flag("node-name", "cp1").run().unwrap().0;
        (settings.data_dir.display().to_string(), settings.snapshot_dir.display().to_string())
    };
    let of = |data: &str, snapshots: &str| (data.to_string(), snapshots.to_string());
    let rke2 = Given::default().file("program: rke2");
    assert_eq!(dirs(rke2.clone()), of("/var/lib/rancher/rke2", "/var/lib/rancher/rke2/server/db/snapshots"));
    assert_eq!(dirs(rke2.variable("DATA_DIR", "/data//x/./")), of("/data/x", "/data/x/server/db/snapshots"));
    assert_eq!(dirs(Given::default().flag("etcd-snapshot-dir", "/backup/")), of("/var/lib/rancher/k3s", "/backup"));
}

#[test]
fn namespaces_modes_and_the_rest_are_read() {
    let given = Given::default()
        .variable("NODE_NAME", "cp1")
        .variable("POD_NAMESPACE", "backup")
        .file("mode: observe\nlog-format: json\nmetrics-prefix: k3s_\nhttp-listen: \"[::1]:1\"\nnamespace: of-file\netcd-snapshot-reconcile-interval: 1h30m");
    let (settings, warnings) = given.run().unwrap();
    assert_eq!((settings.namespace.as_deref(), settings.mode, settings.log_format), (Some("backup"), Mode::Observe, Form::Json));
    assert_eq!((settings.metrics_prefix.as_deref(), settings.http_listen.to_string().as_str()), (Some("k3s_"), "[::1]:1"));
    assert_eq!((settings.interval, warnings), (Duration::from_mins(90), Vec::<Warning>::new()));
    assert_eq!(given.flag("namespace", "release").run().unwrap().0.namespace.as_deref(), Some("release"));
    let (_, warnings) = Given::default().flag("node-name", "cp1").flag("etcd-snapshot-reconcile-interval", "1h").run().unwrap();
    assert_eq!(warnings, Vec::<Warning>::new(), "a default draws no warning");
}

#[test]
fn retention_and_the_member_have_their_defaults_and_their_sentences() {
    let of = |given: Given| given.flag("node-name", "cp1").run();
    let (settings, _) = of(Given::default()).unwrap();
    assert_eq!((settings.base.as_str(), settings.retention, settings.adopt_unlabelled), ("etcd-snapshot", 5, false));
    assert_eq!(settings.orphan_grace, Duration::from_hours(1));
    assert_eq!(settings.etcd, crate::etcd::EtcdAccess::new(&crate::etcd::EtcdSettings::default()).unwrap());
    let (settings, _) = of(Given::default().flag("orphan-grace", "1s").flag("etcd-snapshot-reconcile-interval", "40m")).unwrap();
    assert_eq!(settings.orphan_grace, Duration::from_hours(2), "never under three beats");
    for (given, sentence) in [
        (
            Given::default().flag("etcd-snapshot-name", "a/b"),
            "etcd-snapshot-name: \"a/b\" cannot be the base name of a snapshot file; write it like etcd-snapshot (from flag --etcd-snapshot-name)",
        ),
        (
            Given::default().file("etcd-cert: /c.pem"),
            "etcd-key: is not set, and etcd-cert is; a certificate is of no use without its key (from the default)",
        ),
        (
            Given::default().variable("ETCD_USER", "root").variable("ETCD_PASSWORD", "hunter2").flag("etcd-password-file", "/p"),
            "etcd-password-file: etcd-password is set as well; set one of them (from flag --etcd-password-file)",
        ),
    ] {
        let error = of(given).unwrap_err();
        assert_eq!((error.to_string().as_str(), error.category()), (sentence, "value"));
    }
}

#[test]
fn a_bad_value_gets_one_sentence_with_setting_value_and_place() {
    let of_a_node = "is not the name of a node; write it as kubectl get nodes shows it";
    let duration = "is not a duration; write it like 5m or 90s";
    let directory = "is not an absolute path; write it from the root, with a slash first";
    for (setting, text, problem) in [
        ("node-name", "s3", "cannot be the name of a node: K3s marks the records of a bucket with that word"),
        ("node-name", "a/b", of_a_node),
        ("node-name", "..", of_a_node),
        ("node-name", "a b", of_a_node),
        ("program", "k8s", "is neither k3s nor rke2"),
        ("mode", "dry-run", "is neither manage nor observe"),
        ("log-format", "xml", "is neither text nor json"),
        ("data-dir", "data", directory),
        ("etcd-snapshot-dir", "./snapshots", directory),
        ("etcd-snapshot-dir", "/a/../b", "has .. or a control character in it; write the path without"),
        ("etcd-snapshot-dir", "/", "is the root directory; write the path of a directory in it"),
        ("etcd-snapshot-reconcile-interval", "10", duration),
        ("etcd-snapshot-reconcile-interval", "0s", "is not above zero; write it like 5m or 90s"),
        ("etcd-snapshot-reconcile-interval", "-1m", "is not above zero; write it like 5m or 90s"),
        ("etcd-snapshot-reconcile-interval", "300y", duration),
        ("etcd-snapshot-reconcile-interval", "9999999h", "is too long; 292 years are the most"),
        ("namespace", "Backup", "is not the name of a namespace; those have up to 63 of a-z, 0-9 and -"),
        ("config-namespace", "-a", "is not the name of a namespace; those have up to 63 of a-z, 0-9 and -"),
        ("http-listen", ":9469", "is not an address with a port; write it like 0.0.0.0:9469 or [::]:9469"),
        ("metrics-prefix", "1k3s", "cannot begin the name of a metric; write it like k3s_"),
        ("etcd-s3", "maybe", "is not a boolean; write true or false"),
        ("etcd-s3-config-secret", "a_b", "is not the name of an object in Kubernetes; those have up to 253 of a-z, 0-9, - and ."),
    ] {
        for (given, place) in [
            (Given::default().flag(setting, text), format!("flag --{setting}")),
            (
                Given::default().variable(&setting.to_uppercase().replace('-', "_"), text),
                format!("environment variable {}", setting.to_uppercase().replace('-', "_")),
            ),
            (Given::default().file(&format!("{setting}: {text:?}")), format!("key {setting} of /0.yaml")),
        ] {
            let given = if setting == "node-name" { given } else { given.flag("node-name", "cp1") };
            let error = given.run().unwrap_err();
            assert_eq!((error.to_string(), error.category()), (format!("{setting}: {text:?} {problem} (from {place})"), "value"));
        }
    }
}

#[test]
fn a_bad_value_of_s3_gets_the_same_sentence_from_the_secret() {
    for (setting, text, problem) in [
        ("etcd-s3-timeout", "5 minutes", "is not a duration; write it like 5m or 90s"),
        ("etcd-s3-timeout", "0", "is not above zero; write it like 5m or 90s"),
        ("etcd-s3-endpoint", "https://minio:9000", "has a scheme; write minio:9000"),
        ("etcd-s3-endpoint", "minio/etcd", "has a path; write host or host:port, and the folder in etcd-s3-folder"),
        (
            "etcd-s3-bucket",
            "a/b",
            "is not the name of a bucket; those have 3 to 63 letters, digits, dots and dashes; the folder goes into etcd-s3-folder",
        ),
        ("etcd-s3-folder", "a/../b", "has .. or a control character in it; write the folder without"),
        ("etcd-s3-region", "us east", "is not the name of a region; write it like us-east-1"),
        ("etcd-s3-bucket-lookup-type", "virtual", "is none of auto, dns and path"),
        ("etcd-s3-proxy", "proxy:3128", "is not the URL of a proxy; write it like http://proxy.example.com:3128, or none"),
        ("etcd-s3-insecure", "yes", "is not a boolean; write true or false"),
        ("etcd-s3-skip-ssl-verify", "2", "is not a boolean; write true or false"),
    ] {
        let sentence = |place: &str| format!("{setting}: {text:?} {problem} (from {place})");
        let run = Given::default().flag("node-name", "cp1").flag(setting, text).run().unwrap_err();
        assert_eq!(run.to_string(), sentence(&format!("flag --{setting}")));
        let secret = Given::default().secret(setting, text).secret_layer().unwrap_err();
        assert_eq!(secret.to_string(), sentence(&format!("key {setting} of Secret kube-system/s3")));
    }
    let retention = Given::default().secret("etcd-s3-retention", "-1").secret_layer().unwrap_err().to_string();
    assert_eq!(
        retention,
        "etcd-s3-retention: \"-1\" is not a number of snapshots; write 0 or more in digits (from key etcd-s3-retention of Secret kube-system/s3)"
    );
    let key = Given::default().secret("etcd-s3-access-key", "hun\nter2").secret_layer().unwrap_err().to_string();
    assert_eq!(
        key,
        "etcd-s3-access-key: its value has a character in it that no request can carry (from key etcd-s3-access-key of Secret kube-system/s3)"
    );
    let ca = Given::default().secret("etcd-s3-endpoint-ca", "/etc/ca.crt");
    let error = Given { secret: ca.secret, ..enough() }.s3().unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), error.category()),
        ("etcd-s3-endpoint-ca: its PEM holds no certificate in PEM (from key etcd-s3-endpoint-ca of Secret kube-system/s3)", "certificate")
    );
    let ca = enough().flag("etcd-s3-endpoint-ca", "/etc/ca.crt").s3().unwrap_err();
    assert!(ca.source().is_some(), "{ca}");
}

#[test]
fn settings_of_later_features_are_checked_in_files() {
    for (text, problem) in [
        ("etcd-snapshot-retention: five", "\"five\" is not a number of snapshots; write 0 or more in digits"),
        ("etcd-snapshot-compress: maybe", "\"maybe\" is not a boolean; write true or false"),
    ] {
        let setting = text.split(':').next().unwrap();
        let error = Given::default().flag("node-name", "cp1").file(text).run().unwrap_err().to_string();
        assert_eq!(error, format!("{setting}: {problem} (from key {setting} of /0.yaml)"));
    }
}

#[test]
fn the_schedule_is_k3s_s_unless_somebody_says_otherwise() {
    let run = |given: Given| given.flag("node-name", "cp1").run().unwrap().0;
    let settings = run(Given::default());
    assert_eq!(settings.schedule.map(|schedule| schedule.to_string()).as_deref(), Some("0 */12 * * *"));
    assert_eq!((settings.jitter, settings.scope, settings.compress), (Duration::from_secs(5), Scope::Node, false));
    let given = Given::default().file("etcd-snapshot-schedule-cron: '0 2 * * *'\netcd-snapshot-compress: yes\nschedule-scope: cluster");
    let settings = run(given.variable("ETCD_SNAPSHOT_TIMEZONE", "Asia/Tokyo").flag("etcd-snapshot-jitter", "0"));
    let next = settings.schedule.and_then(|schedule| schedule.next("2026-11-25T00:00:00Z".parse().unwrap())).unwrap();
    assert_eq!(next.to_string(), "2026-11-25T17:00:00Z");
    assert_eq!((settings.jitter, settings.scope, settings.compress), (Duration::ZERO, Scope::Cluster, true));
    let (flags, environment, files) = Given::default().flag("node-name", "cp1").sources();
    let (settings, _) = RunSettings::new(&flags, &environment.in_zone(TimeZone::get("Asia/Kathmandu").unwrap()), &files).unwrap();
    let next = settings.schedule.and_then(|schedule| schedule.next("2026-11-25T00:00:00Z".parse().unwrap())).unwrap();
    assert_eq!(next.to_string(), "2026-11-25T06:15:00Z");
}

#[test]
fn the_schedule_is_turned_off_by_flag_or_environment_and_not_by_a_file_of_k3s() {
    let is_off = |given: Given| {
        let (settings, warnings) = given.flag("node-name", "cp1").run().unwrap();
        assert_eq!(warnings, Vec::<String>::new());
        settings.schedule.is_none()
    };
    assert!(is_off(Given::default().flag("etcd-disable-snapshots", "true")));
    assert!(is_off(Given::default().variable("ETCD_DISABLE_SNAPSHOTS", "true")));
    assert!(!is_off(Given::default().file("etcd-disable-snapshots: true")));
    assert!(!is_off(Given::default().file("etcd-disable-snapshots: true").flag("etcd-disable-snapshots", "false")));
}

#[test]
fn a_schedule_that_is_none_stops_the_start_with_its_field_and_the_reason() {
    let cron = "etcd-snapshot-schedule-cron";
    for (setting, text, problem) in [
        (cron, "0 24 * * *", "has \"24\" as its hour, which is outside of its range; write 0 to 23"),
        (cron, "@every day", "has \"day\" behind @every, which is not a duration; write it like @every 12h or @every 1h30m"),
        (cron, "0 0 31 4 *", "names days that no calendar has; write a day that the month has"),
        ("etcd-snapshot-timezone", "Berlin", "is not a time zone that is known here; write a name of the tz database like Europe/Berlin"),
        ("etcd-snapshot-jitter", "-5s", "is below zero; write it like 5s, or 0"),
        ("etcd-snapshot-jitter", "5", "is not a duration; write it like 5m or 90s"),
        ("schedule-scope", "all", "is neither node nor cluster"),
    ] {
        let error = Given::default().flag("node-name", "cp1").flag(setting, text).run().unwrap_err();
        assert_eq!(error.to_string(), format!("{setting}: {text:?} {problem} (from flag --{setting})"));
        // Also while it is turned off: a typing error should not wait for its day.
        let off = Given::default().flag("node-name", "cp1").flag(setting, text).flag("etcd-disable-snapshots", "true");
        assert_eq!((off.run().unwrap_err().to_string(), error.category()), (error.to_string(), "value"));
    }
    let every =
        Given::default().flag("node-name", "cp1").flag("schedule-scope", "cluster").variable("ETCD_SNAPSHOT_SCHEDULE_CRON", "@every 1h");
    assert_eq!(
        every.run().unwrap_err().to_string(),
        "schedule-scope: \"cluster\" needs a schedule with fixed times, and @every counts from each node's own last attempt; \
         write it like 0 */6 * * * (from flag --schedule-scope)"
    );
}

#[test]
fn what_is_missing_is_named_with_the_places_to_give_it() {
    let error = Given::default().run().unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), error.category()),
        (
            "node-name is not set; give it with flag --node-name, with environment variable NODE_NAME or with key node-name of a config file",
            "missing"
        )
    );
    assert_eq!(
        Given::default().flag("node-name", "cp1").flag("etcd-s3", "true").run().unwrap_err().to_string(),
        "etcd-s3-bucket is not set; give it with flag --etcd-s3-bucket, with environment variable ETCD_S3_BUCKET \
         or with key etcd-s3-bucket of a config file or of the S3 Secret"
    );
}

#[test]
fn what_is_not_text_is_named_by_its_place() {
    use std::os::unix::ffi::OsStringExt as _;
    let bad = || std::ffi::OsString::from_vec(vec![0xff]);
    let error = Environment::new([("OTHER".into(), bad()), (bad(), "x".into()), ("NODE_NAME".into(), bad())]).unwrap_err();
    assert_eq!(error.to_string(), "the value of environment variable NODE_NAME is not UTF-8");
    let error = S3Layer::from_secret("kube-system/s3", &BTreeMap::from([("etcd-s3-bucket".into(), vec![0xff])])).unwrap_err();
    assert_eq!(error.to_string(), "the value of key etcd-s3-bucket of Secret kube-system/s3 is not UTF-8");
}

#[test]
fn keys_of_a_secret_that_are_none_draw_warnings() {
    let given = Given::default().secret("etcd-s3-secret", "hunter2").secret("etcd-s3", "true").secret("username", "x");
    assert_eq!(
        given.secret_layer().unwrap().1,
        [
            "key etcd-s3 of Secret kube-system/s3 is not used: it is not read from there",
            "unknown key etcd-s3-secret in Secret kube-system/s3; did you mean etcd-s3-secret-key?",
            "unknown key username in Secret kube-system/s3",
        ]
    );
}

#[test]
fn a_secret_on_the_command_line_draws_a_warning() {
    let (_, warnings) = enough().flag("etcd-s3-access-key", "a").flag("etcd-s3-secret-key", "s").run().unwrap();
    let told = |name| {
        format!("flag --{name} is seen by everyone who can list the processes of this node; use the environment, a config file or a Secret")
    };
    assert_eq!(warnings, [told("etcd-s3-access-key"), told("etcd-s3-secret-key")]);
}

/// Puts a secret somewhere, or spoils something beside it, so that errors are made as well.
fn put(given: Given, choice: u8, secret: &str) -> Given {
    match choice {
        0 => given.flag("etcd-s3-access-key", secret),
        1 => given.flag("etcd-s3-secret-key", secret),
        2 => given.flag("etcd-s3-session-token", &format!("{secret}\u{1}")),
        3 => given.variable("AWS_ACCESS_KEY_ID", secret).variable("AWS_SECRET_ACCESS_KEY", secret),
        4 => given.variable("ETCD_S3_SECRET_KEY", secret),
        5 => given.file(&format!("etcd-s3-access-key: {secret}\netcd-s3-secret-key: {secret}\netcd-s3-session-token: {secret}")),
        6 => given.file(&format!("etcd-s3-secret-key: [{secret}]")),
        7 => given.file(&format!("etcd-s3-secret-key: \"{secret}")),
        8 => given.secret("etcd-s3-access-key", secret).secret("etcd-s3-secret-key", secret),
        9 => given.secret("etcd-s3-secret-key", &format!("{secret}\u{7}")).secret("etcd-s3-access-key", secret),
        10 => given.flag("etcd-s3-proxy", &format!("http://me:{secret}@proxy:3128")),
        11 => given.secret("etcd-s3-proxy", &format!("ftp://me:{secret}@proxy:3128")),
        12 => given.flag("etcd-s3-endpoint", &format!("https://me:{secret}@minio")),
        13 => given.variable("ETCD_S3_TIMEOUT", "soon"),
        14 => given.secret("etcd-s3-secret-kye", secret),
        15 => given.secret("etcd-s3-endpoint-ca", secret),
        _ => given.flag("etcd-s3-insecure", "maybe"),
    }
}

proptest! {
    #[test]
    fn no_secret_is_ever_shown(secret in "[A-Za-z0-9+]{16,40}", choices in proptest::collection::btree_set(0_u8..17, 1..5)) {
        let given = choices.into_iter().fold(enough(), |given, choice| put(given, choice, &secret));
        let (flags, environment, files) = given.sources();
        let told = |error: &ConfigError| format!("{error} {error:?} {:?}", error.source());
        let shown = [
            format!("{flags:?} {environment:?} {files:?}"),
            given.run().map_or_else(|error| told(&error), |run| format!("{run:?} {run:#?}")),
            given.secret_layer().map_or_else(|error| told(&error), |layer| format!("{layer:?}")),
            given.s3().map_or_else(|error| told(&error), |access| format!("{access:?} {:?}", access.as_ref().map(|access| &access.keys))),
        ]
        .join(" ");
        prop_assert!(!shown.contains(&secret), "{secret} in {shown}");
    }
}
