//! Config files: YAML mappings, K3s's own among them.
//!
//! In: a path, or the text of a file. Out: the text of each key that is a setting of ours, and warnings about keys that look as if
//! they were. Reading is done in [`read`] alone; the rest is pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::{DuplicateKeyPolicy, NonFiniteFloatPolicy};

use super::error::{ConfigError, Origin, Warning};
use super::nearest::nearest;
use super::table::{Kind, SETTINGS, setting};

/// One config file as it was read.
#[derive(Clone)]
pub struct ConfigFile {
    /// Where it is.
    pub path: PathBuf,
    /// What is in it.
    pub text: String,
}

/// The path only: the text may hold a secret key.
impl fmt::Debug for ConfigFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ConfigFile").field(&self.path).finish()
    }
}

/// Reads `path` and then the files of `<path>.d` that end in `.yaml` or `.yml`, in the order of their names, as K3s does.
/// The file itself may be missing when the directory has some.
pub fn read(path: &Path) -> Result<Vec<ConfigFile>, ConfigError> {
    let mut directory = path.as_os_str().to_owned();
    directory.push(".d");
    let mut paths = yaml_files(Path::new(&directory))?;
    if paths.is_empty() || fs::exists(path).map_err(|source| unreadable(path, source))? {
        paths.insert(0, path.to_owned());
    }
    paths
        .into_iter()
        .map(|path| match fs::read_to_string(&path) {
            Ok(text) => Ok(ConfigFile { path, text }),
            Err(source) => Err(unreadable(&path, source)),
        })
        .collect()
}

fn yaml_files(directory: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(unreadable(directory, source)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|source| unreadable(directory, source))?.path();
        let is_yaml = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("yaml") || end.eq_ignore_ascii_case("yml"));
        if is_yaml && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn unreadable(path: &Path, source: io::Error) -> ConfigError {
    ConfigError::FileUnreadable { path: path.to_owned(), source }
}

/// The text of each key of one file that is a setting of ours, by the setting's name.
pub type Values = BTreeMap<&'static str, String>;

/// Picks our settings out of one file.
pub fn values(file: &ConfigFile) -> Result<(Values, Vec<Warning>), ConfigError> {
    let shapes: BTreeMap<String, Shape> = parse(file, Shapes)?;
    let mut wanted = BTreeSet::new();
    let mut warnings = Vec::new();
    for (key, shape) in &shapes {
        match setting(name_of(key)).filter(|setting| setting.reach.is_in_file()) {
            Some(_) if *shape == Shape::Nothing => {}
            Some(_) if *shape == Shape::One => drop(wanted.insert(key.clone())),
            Some(setting) => {
                let origin = Origin::File { key: setting.name, path: file.path.clone() };
                return Err(ConfigError::NotOneValue { setting: setting.name, origin });
            }
            None => warnings.extend(unknown(key, file)),
        }
    }
    let texts = parse(file, Texts(&wanted))?;
    let values = texts.into_iter().filter_map(|(key, text)| Some((setting(name_of(&key))?, text)));
    Ok((values.map(|(setting, text)| (setting.name, plain_boolean(setting.kind, text))).collect(), warnings))
}

/// `key+` adds to a list in K3s; of a single value the later one counts, which is what `key` does.
fn name_of(key: &str) -> &str {
    key.strip_suffix('+').unwrap_or(key)
}

/// K3s's parser follows YAML 1.1, to which these are booleans.
fn plain_boolean(kind: Kind, text: String) -> String {
    match text.to_lowercase().as_str() {
        "y" | "yes" | "on" if kind == Kind::Switch => "true".into(),
        "n" | "no" | "off" if kind == Kind::Switch => "false".into(),
        _ => text,
    }
}

/// A warning when a key that we do not know starts as ours do.
fn unknown(key: &str, file: &ConfigFile) -> Option<Warning> {
    if !(key.starts_with("etcd-snapshot-") || key.starts_with("etcd-s3")) {
        return None;
    }
    let path = file.path.display();
    if setting(name_of(key)).is_some() {
        return Some(format!("key {key} of {path} is not used: it belongs into the S3 Secret"));
    }
    let known = SETTINGS.iter().filter(|setting| setting.reach.is_in_file()).map(|setting| setting.name);
    let hint = nearest(name_of(key), known).map(|name| format!("; did you mean {name}?")).unwrap_or_default();
    Some(format!("unknown key {key} in {path}{hint}"))
}

fn parse<T: Default>(file: &ConfigFile, seed: impl for<'de> DeserializeSeed<'de, Value = T>) -> Result<T, ConfigError> {
    // The parser takes a file of nothing but comments for an error; to K3s it is one without settings.
    if file.text.lines().all(|line| matches!(line.trim(), "" | "---" | "...") || line.trim_start().starts_with('#')) {
        return Ok(T::default());
    }
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    };
    serde_saphyr::with_deserializer_from_str_with_options(&file.text, options, |deserializer| seed.deserialize(deserializer)).map_err(
        |error| {
            let place = error.location().map(|at| format!(" (line {}, column {})", at.line(), at.column()));
            ConfigError::FileNotYaml { path: file.path.clone(), place: place.unwrap_or_default() }
        },
    )
}

/// What stands behind a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Nothing,
    One,
    Many,
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfAny;
        impl<'de> Visitor<'de> for OfAny {
            type Value = Shape;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_unit<E>(self) -> Result<Shape, E> {
                Ok(Shape::Nothing)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Shape, E> {
                Ok(Shape::One)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Shape, E> {
                Ok(Shape::One)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Shape, E> {
                Ok(Shape::One)
            }
            fn visit_i128<E>(self, _: i128) -> Result<Shape, E> {
                Ok(Shape::One)
            }
            fn visit_u128<E>(self, _: u128) -> Result<Shape, E> {
                Ok(Shape::One)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Shape, E> {
                Ok(Shape::One)
            }
            fn visit_str<E>(self, _: &str) -> Result<Shape, E> {
                Ok(Shape::One)
            }
            fn visit_bytes<E>(self, _: &[u8]) -> Result<Shape, E> {
                Ok(Shape::One)
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Shape::Many)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Shape, A::Error> {
                while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Shape::Many)
            }
        }
        deserializer.deserialize_any(OfAny)
    }
}

/// First reading: the shape of every key's value.
struct Shapes;

impl<'de> DeserializeSeed<'de> for Shapes {
    type Value = BTreeMap<String, Shape>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        BTreeMap::deserialize(deserializer)
    }
}

/// Second reading: the values of these keys letter by letter, since a node may be called `007` and a bucket `1e3`.
struct Texts<'a>(&'a BTreeSet<String>);

impl<'de> DeserializeSeed<'de> for Texts<'_> {
    type Value = BTreeMap<String, String>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Texts<'_> {
    type Value = BTreeMap<String, String>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping of settings to values")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut texts = BTreeMap::new();
        while let Some(key) = entries.next_key::<String>()? {
            if self.0.contains(&key) {
                texts.insert(key, entries.next_value()?);
            } else {
                entries.next_value::<IgnoredAny>()?;
            }
        }
        Ok(texts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> ConfigFile {
        ConfigFile { path: "/etc/rancher/k3s/config.yaml".into(), text: text.into() }
    }

    fn picked(text: &str) -> Vec<(&'static str, String)> {
        let (values, warnings) = values(&file(text)).unwrap();
        assert_eq!(warnings, Vec::<Warning>::new(), "{text}");
        values.into_iter().collect()
    }

    fn refused(text: &str) -> String {
        values(&file(text)).unwrap_err().to_string()
    }

    #[test]
    fn a_config_file_of_k3s_can_be_given_as_it_is() {
        let text = r#"
# servers
write-kubeconfig-mode: "0644"
cluster-init: true
token: K10secret::server:hunter2
tls-san:
  - k3s.example.com
  - 10.0.0.10
node-label+:
  - role=control-plane
kubelet-arg: [ "max-pods=200", 'v=2' ]
disable: [traefik, servicelb]
node-name: cp1
node-ip: 10.0.0.1
data-dir: /data/k3s
mode: observe
selinux: yes
nested: { deep: [ { er: 1e999 }, .inf, ~ ] }
etcd-expose-metrics: true
etcd-disable-snapshots: true
etcd-arg:
- quota-backend-bytes=8589934592
etcd-snapshot-schedule-cron: "0 */6 * * *"
etcd-snapshot-retention: 7
etcd-snapshot-compress: true
etcd-snapshot-dir: &dir /backup/snapshots
etcd-snapshot-name: nightly
etcd-s3: on
etcd-s3-bucket: etcd
etcd-s3-folder: ~
etcd-s3-region: ""
etcd-s3-timeout: 10m0s
"#;
        let expected = [
            ("data-dir", "/data/k3s"),
            ("etcd-s3", "true"),
            ("etcd-s3-bucket", "etcd"),
            ("etcd-s3-region", ""),
            ("etcd-s3-timeout", "10m0s"),
            ("etcd-snapshot-compress", "true"),
            ("etcd-snapshot-dir", "/backup/snapshots"),
            ("etcd-snapshot-name", "nightly"),
            ("etcd-snapshot-retention", "7"),
            ("etcd-snapshot-schedule-cron", "0 */6 * * *"),
            ("mode", "observe"),
            ("node-name", "cp1"),
        ];
        assert_eq!(picked(text), expected.map(|(key, text)| (key, text.to_string())));
    }

    #[test]
    fn values_are_taken_letter_by_letter() {
        for (written, text) in
            [("007", "007"), ("1e3", "1e3"), ("0x10", "0x10"), ("1_000", "1_000"), ("no", "no"), ("'~'", "~"), ("1.10", "1.10")]
        {
            assert_eq!(picked(&format!("node-name: {written}")), [("node-name", text.to_string())], "{written}");
        }
        assert_eq!(picked("node-name: null\nmode:\n"), []);
        assert_eq!(picked("node-name: a\nnode-name: b\n"), [("node-name", "b".to_string())]);
        assert_eq!(picked("etcd-s3-bucket+: b\n"), [("etcd-s3-bucket", "b".to_string())]);
        for nothing in ["", "\n", "# nothing\n", "---\n# nothing\n", "{}"] {
            assert_eq!(picked(nothing), [], "{nothing:?}");
        }
    }

    #[test]
    fn a_key_that_looks_like_ours_draws_a_warning() {
        let text = "etcd-s3-buket: b\netcd-snapshot-retension: 5\netcd-s3-endpoint-ca-name: m\netcd-s3-zzzzzzzzzzzz: 1\nnode-nam: x\n";
        let (values, warnings) = values(&file(text)).unwrap();
        assert!(values.is_empty());
        let path = "/etc/rancher/k3s/config.yaml";
        assert_eq!(
            warnings,
            [
                format!("unknown key etcd-s3-buket in {path}; did you mean etcd-s3-bucket?"),
                format!("key etcd-s3-endpoint-ca-name of {path} is not used: it belongs into the S3 Secret"),
                format!("unknown key etcd-s3-zzzzzzzzzzzz in {path}"),
                format!("unknown key etcd-snapshot-retension in {path}; did you mean etcd-snapshot-retention?"),
            ]
        );
    }

    #[test]
    fn what_is_no_config_file_is_refused_in_one_sentence_without_its_content() {
        let path = "/etc/rancher/k3s/config.yaml";
        for text in ["hunter2", "- hunter2", "etcd-s3-secret-key: [hunter2", "a: b: hunter2", "a: 1\n---\nb: 2\n", "a: \"hunter2"] {
            let Err(error) = values(&file(text)) else { panic!("{text:?} was taken") };
            let sentence = error.to_string();
            assert!(
                sentence.starts_with(&format!("config file {path} is not a YAML mapping of settings to values")),
                "{text:?}: {sentence}"
            );
            assert!(!sentence.contains("hunter2") && sentence.lines().count() == 1, "{text:?}: {sentence}");
        }
        assert_eq!(refused("a: 1\nb: [\n"), format!("config file {path} is not a YAML mapping of settings to values (line 2, column 4)"));
        for text in ["etcd-s3-secret-key: [hunter2]", "etcd-s3-secret-key: {a: hunter2}"] {
            let sentence =
                format!("etcd-s3-secret-key has to be one value, not a list or a mapping (from key etcd-s3-secret-key of {path})");
            assert_eq!(refused(text), sentence);
        }
    }

    #[test]
    fn files_are_read_in_the_order_of_k3s() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("config.yaml");
        let error = read(&main).unwrap_err();
        assert_eq!(error.to_string(), format!("config file {} cannot be read", main.display()));
        assert_eq!(error.category(), "file");

        let more = dir.path().join("config.yaml.d");
        fs::create_dir_all(more.join("30-dir.yaml")).unwrap();
        for name in ["20-b.yaml", "10-a.yml", "README.md", "15-c.YAML", "40.yaml.bak"] {
            fs::write(more.join(name), name).unwrap();
        }
        let names = |files: Vec<ConfigFile>| -> Vec<String> {
            files.into_iter().map(|file| file.path.file_name().unwrap().to_str().unwrap().to_string()).collect()
        };
        assert_eq!(names(read(&main).unwrap()), ["10-a.yml", "15-c.YAML", "20-b.yaml"]);
        fs::write(&main, "a: 1").unwrap();
        assert_eq!(names(read(&main).unwrap()), ["config.yaml", "10-a.yml", "15-c.YAML", "20-b.yaml"]);
        fs::write(more.join("20-b.yaml"), [0xff]).unwrap();
        assert_eq!(read(&main).unwrap_err().to_string(), format!("config file {} cannot be read", more.join("20-b.yaml").display()));
    }
}
