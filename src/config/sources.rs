//! Where the text of each setting comes from, and which place wins.
//!
//! In: flags, environment variables, config files, the data of a Secret. Out: for each setting the text that counts, with its origin.
//! The rule: flags, then environment, then files, each setting by itself and an empty text counting as none; but access key, secret key
//! and session token come from one place, the first that has an access key. The environment is two places: variables made from a
//! setting's name and, after them, the others (`AWS_ACCESS_KEY_ID`, `POD_NAMESPACE`).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

use jiff::tz::TimeZone;

use super::error::{ConfigError, Origin, Warning, shown};
use super::file::{self, ConfigFile};
use super::flags::Flags;
use super::nearest::nearest;
use super::table::{Kind, SETTINGS, Setting, setting};
use super::values::{self, Problem};

/// The three that come from one place, the one that decides first.
const CREDENTIALS: [&str; 3] = ["etcd-s3-access-key", "etcd-s3-secret-key", "etcd-s3-session-token"];

/// The environment variables that some setting is read from, and the time zone of the process.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    zone: Option<TimeZone>,
}

impl Environment {
    /// What the variable made from a setting's name holds.
    pub fn get(&self, setting: &Setting) -> Option<&str> {
        self.variables.get(&setting.environment()).map(String::as_str)
    }

    /// Picks them out of `variables`. Of the others nothing is kept, and nothing has to be UTF-8.
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, ConfigError> {
        let ours: Vec<String> = SETTINGS.iter().filter(|setting| setting.reach.has_environment()).flat_map(variable_names).collect();
        let mut kept = BTreeMap::new();
        for (name, value) in variables {
            let Some(name) = name.to_str().filter(|name| ours.iter().any(|our| our == name)) else { continue };
            let Ok(value) = value.into_string() else { return Err(ConfigError::NotText(Origin::Environment(name.into()))) };
            kept.insert(name.to_string(), value);
        }
        Ok(Self { variables: kept, zone: None })
    }

    /// The same in another time zone.
    #[must_use]
    pub fn in_zone(self, zone: TimeZone) -> Self {
        Self { zone: Some(zone), ..self }
    }

    /// The time zone of the process; UTC when nobody said.
    pub(super) fn zone(&self) -> TimeZone {
        self.zone.clone().unwrap_or(TimeZone::UTC)
    }
}

fn variable_names(setting: &Setting) -> impl Iterator<Item = String> {
    [Some(setting.environment()), setting.also_environment.map(str::to_string)].into_iter().flatten()
}

/// The names only: a value may be a secret key.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

/// The text of a setting and where it was found.
#[derive(Clone)]
struct Given {
    text: String,
    origin: Origin,
}

/// A value and where its text was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sourced<T> {
    /// The value.
    pub value: T,
    /// Where its text was found.
    pub origin: Origin,
}

/// The text of each setting that is set. An empty one is not.
#[derive(Clone, Default)]
pub struct Texts(BTreeMap<&'static str, Given>);

/// The origins only: a text may be a secret key.
impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(name, given)| (name, &given.origin))).finish()
    }
}

impl Texts {
    /// Flags, environment and files, already merged; with warnings about what was found there.
    pub fn collect(flags: &Flags, environment: &Environment, files: &[ConfigFile]) -> Result<(Self, Vec<Warning>), ConfigError> {
        let (mut on_line, mut by_name, mut by_other_name, mut in_files) =
            (Self::default(), Self::default(), Self::default(), Self::default());
        let mut warnings = Vec::new();
        for setting in SETTINGS {
            if let Some(text) = flags.get(setting.name) {
                on_line.put(setting, text, Origin::Flag(setting.name));
                if setting.kind == Kind::Secret && !text.is_empty() {
                    warnings.push(format!(
                        "flag --{} is seen by everyone who can list the processes of this node; use the environment, a config file or a Secret",
                        setting.name
                    ));
                }
            }
            for (layer, name) in [&mut by_name, &mut by_other_name].into_iter().zip(variable_names(setting)) {
                if let Some(text) = environment.variables.get(&name) {
                    layer.put(setting, text, Origin::Environment(name));
                }
            }
        }
        for file in files {
            let (values, about_keys) = file::values(file)?;
            warnings.extend(about_keys);
            for (key, text) in values {
                in_files.put(setting(key).expect("keys of the table"), &text, Origin::File { key, path: file.path.clone() });
            }
        }
        let merged = Self::first_wins([on_line, by_name, by_other_name, in_files], &mut warnings);
        merged.check_kinds()?;
        Ok((merged, warnings))
    }

    /// The data of the Secret called `secret` (`<namespace>/<name>`).
    pub fn of_secret(secret: &str, data: &BTreeMap<String, Vec<u8>>) -> Result<(Self, Vec<Warning>), ConfigError> {
        let mut texts = Self::default();
        let mut warnings = Vec::new();
        for (key, value) in data {
            if let Some(setting) = setting(key).filter(|setting| setting.reach.is_in_secret()) {
                let origin = Origin::Secret { key: setting.name, secret: secret.into() };
                let Ok(text) = str::from_utf8(value) else { return Err(ConfigError::NotText(origin)) };
                texts.put(setting, text, origin);
            } else if setting(key).is_some() {
                warnings.push(format!("key {key} of Secret {secret} is not used: it is not read from there"));
            } else {
                let known = SETTINGS.iter().filter(|setting| setting.reach.is_in_secret()).map(|setting| setting.name);
                let hint = nearest(key, known).map(|name| format!("; did you mean {name}?")).unwrap_or_default();
                warnings.push(format!("unknown key {key} in Secret {secret}{hint}"));
            }
        }
        let texts = Self::first_wins([texts], &mut warnings);
        texts.check_kinds()?;
        Ok((texts, warnings))
    }

    /// What holds when nobody says anything.
    pub fn of_defaults() -> Self {
        let mut texts = Self::default();
        for setting in SETTINGS {
            if let Some(default) = setting.default {
                texts.put(setting, default, Origin::Default);
            }
        }
        texts
    }

    /// What is set here, else what is set there. Credentials have no defaults, so none are mixed.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        for (name, given) in other.0 {
            self.0.entry(name).or_insert(given);
        }
        self
    }

    /// The text of a setting, if it is set: for what parses several together.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|given| given.text.as_str())
    }

    /// Where the text of a setting was found; what is not set has its default.
    pub fn origin(&self, name: &str) -> Origin {
        self.0.get(name).map_or(Origin::Default, |given| given.origin.clone())
    }

    /// The value of a setting, if it is set.
    pub fn parse<T>(&self, name: &'static str, parse: impl FnOnce(&str) -> Result<T, Problem>) -> Result<Option<Sourced<T>>, ConfigError> {
        let Some(given) = self.0.get(name) else { return Ok(None) };
        match parse(&given.text) {
            Ok(value) => Ok(Some(Sourced { value, origin: given.origin.clone() })),
            Err(problem) => {
                let is_secret = setting(name).is_some_and(|setting| setting.kind == Kind::Secret);
                let value = if is_secret { "its value".into() } else { shown(&given.text) };
                Err(ConfigError::Value { setting: name, value, problem: problem.into_owned(), origin: given.origin.clone() })
            }
        }
    }

    /// The value of a setting that has a default or cannot be done without.
    pub fn require<T>(&self, name: &'static str, parse: impl FnOnce(&str) -> Result<T, Problem>) -> Result<Sourced<T>, ConfigError> {
        self.parse(name, parse)?.ok_or(ConfigError::Missing(name))
    }

    fn put(&mut self, setting: &Setting, text: &str, origin: Origin) {
        let text = text.trim();
        if !text.is_empty() {
            self.0.insert(setting.name, Given { text: text.into(), origin });
        }
    }

    fn first_wins<const N: usize>(layers: [Self; N], warnings: &mut Vec<Warning>) -> Self {
        let chosen = layers.iter().position(|layer| layer.0.contains_key(CREDENTIALS[0]));
        let mut merged = Self::default();
        for (at, mut layer) in layers.into_iter().enumerate() {
            if chosen != Some(at) {
                for name in CREDENTIALS {
                    let left_out = layer.0.remove(name);
                    // A full set that a better place overrides is no mistake; half a set that nothing can complete is one.
                    if let (None, Some(given)) = (chosen, left_out) {
                        warnings.push(format!("{} is not used: no access key comes from the same place", given.origin));
                    }
                }
            }
            merged = merged.or(layer);
        }
        merged
    }

    /// Values of settings that nothing reads here are checked as well: a typing error in them should not wait for its day.
    fn check_kinds(&self) -> Result<(), ConfigError> {
        for setting in SETTINGS {
            match setting.kind {
                Kind::Switch => drop(self.parse(setting.name, values::switch)?),
                Kind::Duration => drop(self.parse(setting.name, values::time)?),
                Kind::Count => drop(self.parse(setting.name, values::count)?),
                Kind::Text | Kind::Secret => {}
            }
        }
        Ok(())
    }
}
