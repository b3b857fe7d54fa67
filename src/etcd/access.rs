//! How to reach the one member: its address, the certificates, the user.
//!
//! In: the texts of the settings. Out: an [`EtcdAccess`] that can only be wrong in what its files hold. Nothing is read or
//! asked here, and no password shows in Debug.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use rustls::pki_types::ServerName;

/// etcd's port for clients.
const CLIENT_PORT: u16 = 2379;

/// The settings as they were written. An empty one counts as not set.
#[derive(Clone, Default)]
pub struct EtcdSettings {
    /// `etcd-endpoint`: `https://host[:port]` or `http://host[:port]`.
    pub endpoint: String,
    /// `etcd-host`: an address or a name alone, in place of the endpoint.
    pub host: String,
    /// `etcd-cacert`: file of the authorities that the member's certificate has to be signed by.
    pub cacert: String,
    /// `etcd-cert`: file of the client certificate.
    pub cert: String,
    /// `etcd-key`: file of the client certificate's key.
    pub key: String,
    /// `etcd-server-name`: the name that the member's certificate has to have, where it is not the endpoint's.
    pub server_name: String,
    /// `etcd-user`.
    pub user: String,
    /// `etcd-password`.
    pub password: String,
    /// `etcd-password-file`: file of the password.
    pub password_file: String,
}

/// All that is needed to reach one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdAccess {
    /// Where it listens for clients.
    pub endpoint: Endpoint,
    /// How it is known and how we are, where the endpoint has TLS.
    pub tls: TlsFiles,
    /// Who we are, where that does not follow from the client certificate.
    pub user: Option<User>,
}

/// The files of TLS. They are read when a connection is made, and again when they change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsFiles {
    /// Authorities in PEM. None: those of the system.
    pub cacert: Option<PathBuf>,
    /// The client certificate, in PEM.
    pub client: Option<ClientFiles>,
    /// The name to look for in the member's certificate. None: the endpoint's host.
    pub server_name: Option<ServerName<'static>>,
}

/// A certificate and its key, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFiles {
    /// The certificate, and those between it and the authority.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// A user of etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The password.
    pub password: Password,
}

/// Where the password is.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// In a file, without the line's end. It is read like the certificates.
    File(PathBuf),
    /// Here.
    Value(String),
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Value(_) => f.write_str("Value(…)"),
        }
    }
}

/// Why the settings, or the files that they name, cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// A setting has a value that means nothing here.
    #[error("{setting}: {problem}")]
    Setting {
        /// The setting.
        setting: &'static str,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// A file that a setting names cannot be read or used.
    #[error("{setting}: {} {problem}", path.display())]
    File {
        /// The setting.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl AccessError {
    pub(super) fn file(setting: &'static str, path: &Path, problem: impl Into<String>) -> Self {
        Self::File { setting, path: path.into(), problem: problem.into() }
    }
}

fn wrong<T>(setting: &'static str, problem: impl Into<String>) -> Result<T, AccessError> {
    Err(AccessError::Setting { setting, problem: problem.into() })
}

impl EtcdAccess {
    /// Looks at all settings together. Without endpoint and host, the member is the one on this machine.
    pub fn new(settings: &EtcdSettings) -> Result<Self, AccessError> {
        let endpoint = match (set(&settings.endpoint), set(&settings.host)) {
            (Some(_), Some(_)) => return wrong("etcd-host", "etcd-endpoint is set as well; set one of them"),
            (Some(endpoint), None) => Endpoint::parse(endpoint)?,
            (None, Some(host)) => Endpoint::of_host(host)?,
            (None, None) => Endpoint { https: true, host: "127.0.0.1".into(), port: CLIENT_PORT },
        };
        let tls = TlsFiles::new(settings)?;
        if !endpoint.https {
            let given = [("etcd-cacert", &settings.cacert), ("etcd-cert", &settings.cert), ("etcd-server-name", &settings.server_name)];
            if let Some((setting, _)) = given.into_iter().find(|(_, text)| set(text).is_some()) {
                return wrong(setting, format!("has no meaning for {endpoint}; let etcd-endpoint begin with https:// or leave it out"));
            }
        }
        Ok(Self { endpoint, tls, user: User::new(settings)? })
    }

    /// The name that the member's certificate has to have.
    pub(super) fn server_name(&self) -> ServerName<'static> {
        self.tls.server_name.clone().unwrap_or_else(|| self.endpoint.server_name())
    }
}

impl TlsFiles {
    fn new(settings: &EtcdSettings) -> Result<Self, AccessError> {
        let client = match (set(&settings.cert), set(&settings.key)) {
            (Some(_), None) => return wrong("etcd-key", "is not set, and etcd-cert is; a certificate is of no use without its key"),
            (None, Some(_)) => return wrong("etcd-cert", "is not set, and etcd-key is; a key is of no use without its certificate"),
            (Some(cert), Some(key)) => Some(ClientFiles { cert: cert.into(), key: key.into() }),
            (None, None) => None,
        };
        let server_name = match set(&settings.server_name) {
            None => None,
            Some(name) => match ServerName::try_from(name.to_owned()) {
                Ok(name) => Some(name),
                Err(_) => return wrong("etcd-server-name", format!("{name:?} is neither a DNS name nor an IP address")),
            },
        };
        Ok(Self { cacert: set(&settings.cacert).map(PathBuf::from), client, server_name })
    }
}

impl User {
    fn new(settings: &EtcdSettings) -> Result<Option<Self>, AccessError> {
        let password = match (set(&settings.password), set(&settings.password_file)) {
            (Some(_), Some(_)) => return wrong("etcd-password-file", "etcd-password is set as well; set one of them"),
            (Some(password), None) => Some(Password::Value(password.into())),
            (None, Some(path)) => Some(Password::File(path.into())),
            (None, None) => None,
        };
        match (set(&settings.user), password) {
            (None, None) => Ok(None),
            (Some(name), Some(password)) => Ok(Some(Self { name: name.into(), password })),
            (Some(_), None) => wrong("etcd-user", "has no password; set etcd-password-file"),
            (None, Some(_)) => wrong("etcd-user", "is not set, and its password is"),
        }
    }
}

fn set(text: &str) -> Option<&str> {
    Some(text.trim()).filter(|text| !text.is_empty())
}

/// Scheme, host and port of one member.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    https: bool,
    /// A DNS name or an IP address, without brackets.
    host: String,
    port: u16,
}

impl Endpoint {
    /// Reads `http[s]://host[:port]`; without a port it is etcd's, 2379. The text is never repeated where it may hold a password.
    pub fn parse(text: &str) -> Result<Self, AccessError> {
        const SETTING: &str = "etcd-endpoint";
        if text.contains('@') {
            return wrong(SETTING, "has a user in it; name the user in etcd-user");
        }
        if text.contains([',', ' ']) {
            return wrong(SETTING, format!("{text:?} names more than one; a snapshot is taken from exactly one member"));
        }
        let (https, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            Some((scheme, _)) => return wrong(SETTING, format!("{text:?} begins with {scheme}://; it has to be https:// or http://")),
            None => return wrong(SETTING, format!("{text:?} has to begin with https:// or http://")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return wrong(SETTING, format!("{text:?} has a path; it has to end after the port"));
        }
        let (host, port) = match split_port(rest) {
            Ok((host, port)) => (host, port.unwrap_or(CLIENT_PORT)),
            Err(problem) => return wrong(SETTING, format!("{text:?} {problem}")),
        };
        if ServerName::try_from(host).is_err() {
            return wrong(SETTING, format!("{text:?} has neither a DNS name nor an IP address after its scheme"));
        }
        Ok(Self { https, host: host.into(), port })
    }

    /// `https://<host>:2379`, for a host alone: a name, or an address with or without the brackets of IPv6.
    pub fn of_host(text: &str) -> Result<Self, AccessError> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if ServerName::try_from(bare).is_err() {
            return wrong("etcd-host", "has to be a DNS name or an IP address alone; scheme and port can be given with etcd-endpoint");
        }
        Ok(Self { https: true, host: bare.into(), port: CLIENT_PORT })
    }

    /// Whether it speaks TLS.
    pub fn is_https(&self) -> bool {
        self.https
    }

    /// A DNS name or an IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn server_name(&self) -> ServerName<'static> {
        ServerName::try_from(self.host.clone()).expect("looked at when the endpoint was read")
    }
}

/// Splits `host`, `host:port`, `[v6]`, `[v6]:port`.
fn split_port(text: &str) -> Result<(&str, Option<u16>), &'static str> {
    let (host, port) = match text.strip_prefix('[') {
        Some(bracketed) => {
            let (host, rest) = bracketed.split_once(']').ok_or("has a bracket that is not closed")?;
            if host.parse::<Ipv6Addr>().is_err() {
                return Err("has no IPv6 address in its brackets");
            }
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or("has more than a port after its brackets")?) })
        }
        None => match text.split_once(':') {
            Some((_, rest)) if rest.contains(':') => return Err("has an IPv6 address without brackets; write [address]:port"),
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = port.map(|port| port.parse().ok().filter(|port| *port != 0).ok_or("has a port that is no number from 1 to 65535"));
    Ok((host, port.transpose()?))
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        match self.host.parse() {
            Ok(IpAddr::V6(address)) => write!(f, "{scheme}://[{address}]:{}", self.port),
            _ => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Result<String, String> {
        Endpoint::parse(text).map(|endpoint| endpoint.to_string()).map_err(|error| error.to_string())
    }

    fn access(change: impl Fn(&mut EtcdSettings)) -> Result<EtcdAccess, String> {
        let mut settings = EtcdSettings::default();
        change(&mut settings);
        EtcdAccess::new(&settings).map_err(|error| error.to_string())
    }

    #[test]
    fn an_endpoint_is_completed() {
        for (text, complete) in [
            ("https://127.0.0.1:2379", "https://127.0.0.1:2379"),
            ("http://localhost:1/", "http://localhost:1"),
            ("https://etcd.example.com", "https://etcd.example.com:2379"),
            ("https://[::1]:2380", "https://[::1]:2380"),
            ("https://[fd00:0:0::1]", "https://[fd00::1]:2379"),
        ] {
            assert_eq!(endpoint(text).unwrap(), complete);
        }
        for (host, complete) in [("10.0.0.1", "https://10.0.0.1:2379"), ("::1", "https://[::1]:2379"), ("[::1]", "https://[::1]:2379")] {
            assert_eq!(Endpoint::of_host(host).unwrap().to_string(), complete);
        }
        assert_eq!(access(|_| ()).unwrap().endpoint.to_string(), "https://127.0.0.1:2379");
    }

    #[test]
    fn a_wrong_endpoint_gets_one_sentence() {
        for (text, sentence) in [
            ("127.0.0.1:2379", "\"127.0.0.1:2379\" has to begin with https:// or http://"),
            ("unix:///x", "\"unix:///x\" begins with unix://; it has to be https:// or http://"),
            ("https://a:1,https://b:1", "\"https://a:1,https://b:1\" names more than one; a snapshot is taken from exactly one member"),
            ("https://me:hunter2@a", "has a user in it; name the user in etcd-user"),
            ("https://a/v3", "\"https://a/v3\" has a path; it has to end after the port"),
            ("https://::1", "\"https://::1\" has an IPv6 address without brackets; write [address]:port"),
            ("https://[::1", "\"https://[::1\" has a bracket that is not closed"),
            ("https://[a]", "\"https://[a]\" has no IPv6 address in its brackets"),
            ("https://[::1]2379", "\"https://[::1]2379\" has more than a port after its brackets"),
            ("https://a:0", "\"https://a:0\" has a port that is no number from 1 to 65535"),
            ("https://a:x", "\"https://a:x\" has a port that is no number from 1 to 65535"),
            ("https://", "\"https://\" has neither a DNS name nor an IP address after its scheme"),
        ] {
            assert_eq!(endpoint(text).unwrap_err(), format!("etcd-endpoint: {sentence}"));
        }
        for host in ["https://a", "a:2379", "[::1]:2379", "a b", "me:hunter2@a"] {
            let sentence = "etcd-host: has to be a DNS name or an IP address alone; scheme and port can be given with etcd-endpoint";
            assert_eq!(Endpoint::of_host(host).unwrap_err().to_string(), sentence, "{host}");
        }
    }

    #[test]
    fn settings_that_do_not_fit_together_get_one_sentence() {
        type Change = fn(&mut EtcdSettings);
        let cases: [(Change, &str); 8] = [
            (|s| (s.endpoint, s.host) = ("https://a".into(), "b".into()), "etcd-host: etcd-endpoint is set as well; set one of them"),
            (|s| s.cert = "c".into(), "etcd-key: is not set, and etcd-cert is; a certificate is of no use without its key"),
            (|s| s.key = "k".into(), "etcd-cert: is not set, and etcd-key is; a key is of no use without its certificate"),
            (
                |s| (s.endpoint, s.cacert) = ("http://a:1".into(), "ca".into()),
                "etcd-cacert: has no meaning for http://a:1; let etcd-endpoint begin with https:// or leave it out",
            ),
            (|s| s.server_name = "a:1".into(), "etcd-server-name: \"a:1\" is neither a DNS name nor an IP address"),
            (|s| s.user = "root".into(), "etcd-user: has no password; set etcd-password-file"),
            (|s| s.password = "hunter2".into(), "etcd-user: is not set, and its password is"),
            (
                |s| (s.user, s.password, s.password_file) = ("root".into(), "hunter2".into(), "f".into()),
                "etcd-password-file: etcd-password is set as well; set one of them",
            ),
        ];
        for (change, sentence) in cases {
            assert_eq!(access(change).unwrap_err(), sentence);
        }
    }

    #[test]
    fn no_password_shows() {
        let access = access(|s| (s.user, s.password) = ("root".into(), "hunter2".into())).unwrap();
        let shown = format!("{access:?}");
        assert!(shown.contains("root") && !shown.contains("hunter2"), "{shown}");
    }
}
