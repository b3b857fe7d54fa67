//! What can be wrong with settings, said in one sentence that names the setting, the value and where it came from.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::table::setting;
use crate::etcd::AccessError;

/// Where the text of a setting was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `--<name>` on the command line.
    Flag(&'static str),
    /// An environment variable, by its name.
    Environment(String),
    /// A key of a config file.
    File {
        /// The setting's name.
        key: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// A key of the S3 Secret.
    Secret {
        /// The setting's name.
        key: &'static str,
        /// `<namespace>/<name>`.
        secret: String,
    },
    /// What holds when nobody says anything.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(key) => write!(f, "flag --{key}"),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::File { key, path } => write!(f, "key {key} of {}", path.display()),
            Self::Secret { key, secret } => write!(f, "key {key} of Secret {secret}"),
            Self::Default => f.write_str("the default"),
        }
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A setting has a value that means nothing.
    #[error("{setting}: {value} {problem} (from {origin})")]
    Value {
        /// The setting.
        setting: &'static str,
        /// The value, quoted, without credentials.
        value: String,
        /// What is wrong with it, and what would be right.
        problem: String,
        /// Where it came from.
        origin: Origin,
    },
    /// A setting is needed and not there.
    #[error("{0} is not set; give it {places}", places = places(.0))]
    Missing(&'static str),
    /// A flag that somebody typed with nothing in it.
    #[error("flag --{0} is empty; give it a value, or leave it out")]
    Empty(&'static str),
    /// An access key without its secret key.
    #[error(
        "etcd-s3-secret-key is not set where the access key is ({0}); access key, secret key and session token have to come from one place"
    )]
    HalfACredential(Origin),
    /// A CA bundle is none.
    #[error("{setting}: {item} {problem} (from {origin})")]
    Certificate {
        /// The setting.
        setting: &'static str,
        /// Which item of the list, or which value of the ConfigMap.
        item: String,
        /// What is wrong with it.
        problem: String,
        /// Where it came from.
        origin: Origin,
    },
    /// A file of certificates that cannot be read.
    #[error("{setting}: {item} is neither base64 of a PEM certificate nor a file that can be read (from {origin})")]
    CertificateFile {
        /// The setting.
        setting: &'static str,
        /// Which item of the list.
        item: String,
        /// Where it came from.
        origin: Origin,
        /// What the file system said.
        source: io::Error,
    },
    /// The Secret or ConfigMap that a setting names is not there, or was never read.
    #[error("{kind} {name:?} could not be read (named by {origin})")]
    Unread {
        /// `Secret` or `ConfigMap`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Who named it.
        origin: Origin,
    },
    /// The value of a key in a Secret, or of an environment variable, is not text.
    #[error("the value of {0} is not UTF-8")]
    NotText(Origin),
    /// The settings of etcd make no sense, or not together.
    #[error("{problem} (from {origin})")]
    Etcd {
        /// Where the setting that it names came from.
        origin: Origin,
        /// Which setting, and what is wrong with it.
        problem: AccessError,
    },
    /// A config file that cannot be read.
    #[error("config file {path} cannot be read")]
    FileUnreadable {
        /// The file or directory.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// A config file that is not a YAML mapping. The parser's own words are left out: they quote the file, secrets included.
    #[error("config file {path} is not a YAML mapping of settings to values{place}")]
    FileNotYaml {
        /// The file.
        path: PathBuf,
        /// ` (line 3, column 7)`, or nothing.
        place: String,
    },
    /// A setting that is a list or a mapping in a config file.
    #[error("{setting} has to be one value, not a list or a mapping (from {origin})")]
    NotOneValue {
        /// The setting.
        setting: &'static str,
        /// Where it came from.
        origin: Origin,
    },
}

impl ConfigError {
    /// A short word for metric labels.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Value { .. } | Self::Etcd { .. } | Self::NotText(_) | Self::NotOneValue { .. } => "value",
            Self::Missing(_) | Self::Empty(_) => "missing",
            Self::HalfACredential(_) => "credentials",
            Self::Certificate { .. } | Self::CertificateFile { .. } => "certificate",
            Self::Unread { .. } => "unread",
            Self::FileUnreadable { .. } | Self::FileNotYaml { .. } => "file",
        }
    }
}

/// A value as an error may show it: quoted, short, and without what stands before an `@`, which may be a password.
pub fn shown(value: &str) -> String {
    const LONGEST: usize = 80;
    let visible =
        value.rsplit_once('@').filter(|(before, _)| !before.is_empty()).map_or_else(|| value.to_string(), |(_, host)| format!("…@{host}"));
    match visible.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}", format!("{}…", &visible[..end])),
        None => format!("{visible:?}"),
    }
}

/// Where a setting may be given.
fn places(name: &str) -> String {
    let Some(setting) = setting(name) else { return "a value".into() };
    let secret = if setting.reach.is_in_secret() { " or of the S3 Secret" } else { "" };
    format!("with flag --{name}, with environment variable {} or with key {name} of a config file{secret}", setting.environment())
}

/// Something the user should know and that does not keep us from working, as a sentence.
pub type Warning = String;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_value_is_short_and_has_no_credentials() {
        assert_eq!(shown("5 minutes"), "\"5 minutes\"");
        assert_eq!(shown("http://me:pass@word@proxy:3128"), "\"…@proxy:3128\"");
        assert_eq!(shown("@every 5"), "\"@every 5\"");
        assert_eq!(shown("a\nb"), "\"a\\nb\"");
        assert_eq!(shown(&"ä".repeat(100)), format!("\"{}…\"", "ä".repeat(80)));
    }
}
