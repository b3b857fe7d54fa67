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
    let options = serde_saphyr::options! { duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins, with_snippet: false };
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
