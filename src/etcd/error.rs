//! What can go wrong between us and the member, each as one sentence that names the setting to change.
//!
//! In: what the socket, rustls, gRPC or etcd said. Out: an [`EtcdError`]. No password is ever in one.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError};
use tonic::Code;

use super::access::{AccessError, Endpoint, EtcdAccess};

/// Why the member could not be asked, or did not answer as it should. Clones share their source.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EtcdError {
    /// The settings' files cannot be used, and there is no connection from before.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The host has no address.
    #[error("the host of {endpoint} cannot be resolved; set etcd-endpoint to a name or an address of the member")]
    Unresolved {
        /// Where the member should be.
        endpoint: Endpoint,
        /// What the resolver said.
        source: Arc<io::Error>,
    },
    /// Nobody takes the connection.
    #[error("no etcd answers at {endpoint} (tried {tried}); see that it runs, and that etcd-endpoint is its URL for clients")]
    Unreachable {
        /// Where the member should be.
        endpoint: Endpoint,
        /// Every address, with a comma between.
        tried: String,
        /// What the last one said.
        source: Arc<io::Error>,
    },
    /// The certificate is for other names.
    #[error(
        "the certificate of {endpoint} is for {}, not for {asked}; set etcd-endpoint to a host it is for, or etcd-server-name to such a name",
        list(.names)
    )]
    WrongName {
        /// The member.
        endpoint: Endpoint,
        /// The name that was looked for.
        asked: String,
        /// The names that it has.
        names: Vec<String>,
    },
    /// The certificate is of another authority.
    #[error("the certificate of {endpoint} is not signed by an authority in {authorities}; set etcd-cacert to the file of etcd's own")]
    Untrusted {
        /// The member.
        endpoint: Endpoint,
        /// Which authorities were looked at.
        authorities: String,
        /// What rustls said.
        source: Arc<rustls::Error>,
    },
    /// The certificate has expired, or this machine's clock is wrong.
    #[error("the certificate of {endpoint} has expired or is not valid yet; renew it, or set the clock of this machine")]
    OutOfDate {
        /// The member.
        endpoint: Endpoint,
        /// What rustls said.
        source: Arc<rustls::Error>,
    },
    /// Another fault of the certificate.
    #[error("the certificate of {endpoint} cannot be used for a server")]
    Certificate {
        /// The member.
        endpoint: Endpoint,
        /// What rustls said.
        source: Arc<rustls::Error>,
    },
    /// The member wants a client certificate, or another one.
    #[error("{endpoint} {}", client_certificate(.given.as_ref()))]
    ClientCertificate {
        /// The member.
        endpoint: Endpoint,
        /// The certificate that it was shown.
        given: Option<PathBuf>,
        /// The alert.
        source: Arc<rustls::Error>,
    },
    /// Not a word of TLS came back.
    #[error("{endpoint} does not speak TLS; let etcd-endpoint begin with http://, or see that it is etcd's URL for clients")]
    NotTls {
        /// The member.
        endpoint: Endpoint,
        /// What rustls said.
        source: Arc<rustls::Error>,
    },
    /// It closed the connection in the handshake, as etcd without TLS does.
    #[error("{endpoint} hung up during the TLS handshake; where etcd serves no TLS, let etcd-endpoint begin with http://")]
    HungUp {
        /// The member.
        endpoint: Endpoint,
        /// What the socket said.
        source: Arc<io::Error>,
    },
    /// The handshake failed otherwise.
    #[error("the TLS handshake with {endpoint} failed")]
    Handshake {
        /// The member.
        endpoint: Endpoint,
        /// What the socket or rustls said.
        source: Arc<io::Error>,
    },
    /// It speaks TLS, and no HTTP/2.
    #[error("{endpoint} speaks TLS, but not as etcd does; set etcd-endpoint to its URL for clients")]
    NotEtcd {
        /// The member, supposedly.
        endpoint: Endpoint,
    },
    /// The connection broke while something was asked.
    #[error("the connection to {endpoint} broke: {why}{}", https_hint(.endpoint))]
    Lost {
        /// The member.
        endpoint: Endpoint,
        /// What the layers of the connection said.
        why: String,
    },
    /// No answer in time.
    #[error("{endpoint} did not answer {what} within {} s", .after.as_secs())]
    Timeout {
        /// The member.
        endpoint: Endpoint,
        /// What was asked.
        what: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// etcd has users, and we named none.
    #[error("{endpoint} asks for a user; set etcd-user and etcd-password-file, to a user with the role root for snapshots")]
    UserWanted {
        /// The member.
        endpoint: Endpoint,
    },
    /// etcd does not take our user.
    #[error("{endpoint} does not accept user {user:?} with this password; correct etcd-user or etcd-password-file")]
    UserRefused {
        /// The member.
        endpoint: Endpoint,
        /// The name.
        user: String,
    },
    /// etcd checks a password only with a quorum.
    #[error(
        "{endpoint} could not check the password of user {user:?} within {} s, for which etcd needs a quorum; \
         a client certificate with the user as its common name needs none",
        .after.as_secs()
    )]
    UserUnchecked {
        /// The member.
        endpoint: Endpoint,
        /// The name.
        user: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// Our user may not do this.
    #[error("{endpoint} does not permit this to {who}; a snapshot needs the role root")]
    Denied {
        /// The member.
        endpoint: Endpoint,
        /// Who we are.
        who: String,
    },
    /// The member is a learner: it has a copy of the data and no vote.
    #[error("{endpoint} is a learner, which answers no linearizable reads; set etcd-endpoint to a voting member")]
    Learner {
        /// The member.
        endpoint: Endpoint,
    },
    /// The member cannot do this now.
    #[error("{endpoint} cannot answer now: {message}")]
    Unavailable {
        /// The member.
        endpoint: Endpoint,
        /// etcd's words.
        message: String,
    },
    /// Any other answer than the one asked for.
    #[error("{endpoint} answered {code:?}: {message}")]
    Answered {
        /// The member.
        endpoint: Endpoint,
        /// The code of gRPC.
        code: Code,
        /// etcd's words.
        message: String,
    },
    /// A snapshot did not come whole.
    #[error("the snapshot of {endpoint} {problem}")]
    Stream {
        /// The member.
        endpoint: Endpoint,
        /// What was wrong with it.
        problem: String,
    },
}

impl EtcdError {
    /// A short word for metric labels.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Access(_) => "settings",
            Self::Unresolved { .. } | Self::Unreachable { .. } | Self::Lost { .. } => "connection",
            Self::WrongName { .. }
            | Self::Untrusted { .. }
            | Self::OutOfDate { .. }
            | Self::Certificate { .. }
            | Self::ClientCertificate { .. }
            | Self::NotTls { .. }
            | Self::HungUp { .. }
            | Self::Handshake { .. }
            | Self::NotEtcd { .. } => "tls",
            Self::Timeout { .. } => "timeout",
            Self::UserWanted { .. } | Self::UserRefused { .. } | Self::UserUnchecked { .. } | Self::Denied { .. } => "auth",
            Self::Learner { .. } => "learner",
            Self::Unavailable { .. } | Self::Answered { .. } => "answer",
            Self::Stream { .. } => "stream",
        }
    }

    /// What a handshake failed with.
    pub(super) fn of_handshake(error: io::Error, access: &EtcdAccess) -> Self {
        let endpoint = access.endpoint.clone();
        let Some(said) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            return Self::Handshake { endpoint, source: Arc::new(error) };
        };
        let source = Arc::new(said.clone());
        match said {
            rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }) => Self::WrongName {
                endpoint,
                asked: access.server_name().to_str().into_owned(),
                names: presented.iter().map(|name| bare_name(name)).collect(),
            },
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => Self::Untrusted {
                endpoint,
                authorities: access.tls.cacert.as_ref().map_or("this system's store".into(), |path| path.display().to_string()),
                source,
            },
            rustls::Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            ) => Self::OutOfDate { endpoint, source },
            rustls::Error::InvalidCertificate(_) => Self::Certificate { endpoint, source },
            rustls::Error::AlertReceived(alert) if is_about_our_certificate(*alert) => {
                Self::ClientCertificate { endpoint, given: access.tls.client.as_ref().map(|files| files.cert.clone()), source }
            }
            rustls::Error::InvalidMessage(_) => Self::NotTls { endpoint, source },
            rustls::Error::NoApplicationProtocol | rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
                Self::NotEtcd { endpoint }
            }
            _ => Self::Handshake { endpoint, source: Arc::new(error) },
        }
    }

    /// What the channel failed with before anything was asked.
    pub(super) fn of_channel(error: &tonic::transport::Error, access: &EtcdAccess) -> Self {
        ours(error).unwrap_or_else(|| Self::Lost { endpoint: access.endpoint.clone(), why: words(error) })
    }

    /// What a request failed with.
    pub(super) fn of_request(error: &etcd_client::Error, access: &EtcdAccess) -> Self {
        let endpoint = access.endpoint.clone();
        let status = match error {
            etcd_client::Error::GRpcStatus(status) => status,
            etcd_client::Error::TransportError(error) => return Self::of_channel(error, access),
            other => return Self::Lost { endpoint, why: other.to_string() },
        };
        // A status that etcd sent has no source; one that the channel made of its failure has.
        if let Some(source) = status.source() {
            return ours(source).unwrap_or_else(|| Self::Lost { endpoint, why: words(source) });
        }
        let message = status.message().trim_start_matches("etcdserver: ").to_owned();
        if is_stale(error) || message == "authentication failed, invalid user ID or password" {
            return match &access.user {
                Some(user) => Self::UserRefused { endpoint, user: user.name.clone() },
                None => Self::UserWanted { endpoint },
            };
        }
        match status.code() {
            _ if message == "rpc not supported for learner" => Self::Learner { endpoint },
            Code::PermissionDenied => Self::Denied { endpoint, who: who(access) },
            Code::Unavailable | Code::DeadlineExceeded => Self::Unavailable { endpoint, message },
            code => Self::Answered { endpoint, code, message },
        }
    }
}

/// Whether etcd wants another token than the one that came with the request, or one at all: it was restarted, its users were
/// changed, the token is old.
pub(super) fn is_stale(error: &etcd_client::Error) -> bool {
    const WORDS: [&str; 3] =
        ["etcdserver: invalid auth token", "etcdserver: user name is empty", "etcdserver: revision of auth store is old"];
    matches!(error, etcd_client::Error::GRpcStatus(status) if status.source().is_none() && WORDS.contains(&status.message()))
}

/// Whether etcd was given a password and knows no users.
pub(super) fn is_without_users(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status) if status.message() == "etcdserver: authentication is not enabled")
}

/// Go's servers send `bad_certificate` up to TLS 1.2 and `certificate_required` from 1.3 on when there is none.
fn is_about_our_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
    )
}

/// Our own error among the sources of one that has passed through the layers of a channel.
fn ours(error: &(dyn Error + 'static)) -> Option<EtcdError> {
    chain(error).find_map(|error| error.downcast_ref::<EtcdError>().cloned())
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// What each layer said, but for what only repeats the one before.
fn words(error: &(dyn Error + 'static)) -> String {
    let mut said: Vec<String> = Vec::new();
    for word in chain(error).map(ToString::to_string) {
        if !said.iter().any(|before| before.contains(&word)) {
            said.push(word);
        }
    }
    said.join(": ")
}

/// `DnsName("a")` and `IpAddress(127.0.0.1)` as rustls shows them, without the wrapping.
fn bare_name(shown: &str) -> String {
    let inner = shown.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(shown).trim_matches('"').to_owned()
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "no name at all (it has no subject alternative names)".into() } else { names.join(", ") }
}

fn client_certificate(given: Option<&PathBuf>) -> String {
    match given {
        None => "asks for a client certificate; set etcd-cert and etcd-key".into(),
        Some(path) => format!(
            "refuses the client certificate {}; set etcd-cert to one that is in date and of the authority in etcd's --trusted-ca-file",
            path.display()
        ),
    }
}

fn https_hint(endpoint: &Endpoint) -> &'static str {
    if endpoint.is_https() { "" } else { "; if etcd serves TLS there, let etcd-endpoint begin with https://" }
}

fn who(access: &EtcdAccess) -> String {
    match (&access.user, &access.tls.client) {
        (Some(user), _) => format!("user {:?}", user.name),
        (None, Some(files)) => format!("the user of the client certificate {}", files.cert.display()),
        (None, None) => "us".into(),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::super::access::EtcdSettings;
    use super::*;

    fn access(user: bool) -> EtcdAccess {
        let mut settings = EtcdSettings { endpoint: "https://a:1".into(), ..EtcdSettings::default() };
        if user {
            (settings.user, settings.password) = ("me".into(), "hunter2".into());
        }
        EtcdAccess::new(&settings).unwrap()
    }

    fn handshake(error: rustls::Error) -> EtcdError {
        EtcdError::of_handshake(io::Error::new(io::ErrorKind::InvalidData, error), &access(false))
    }

    #[test]
    fn an_answer_of_etcd_gets_one_sentence_and_a_category() {
        type Case = (Code, &'static str, bool, &'static str, &'static str);
        let cases: [Case; 8] = [
            (Code::InvalidArgument, "etcdserver: user name is empty", false, "asks for a user", "auth"),
            (Code::Unauthenticated, "etcdserver: invalid auth token", true, "does not accept user \"me\"", "auth"),
            (Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password", true, "does not accept user", "auth"),
            (Code::PermissionDenied, "etcdserver: permission denied", true, "to user \"me\"; a snapshot needs the role root", "auth"),
            (Code::FailedPrecondition, "etcdserver: rpc not supported for learner", false, "is a learner", "learner"),
            (Code::Unavailable, "etcdserver: rpc not supported for learner", false, "is a learner", "learner"),
            (Code::Unavailable, "etcdserver: no leader", false, "cannot answer now: no leader", "answer"),
            (Code::DataLoss, "etcdserver: corrupt cluster", false, "answered DataLoss: corrupt cluster", "answer"),
        ];
        for (code, message, user, sentence, category) in cases {
            let error = EtcdError::of_request(&etcd_client::Error::GRpcStatus(Status::new(code, message)), &access(user));
            assert!(error.to_string().contains(sentence), "{error}");
            assert!(!error.to_string().contains("hunter2"));
            assert_eq!(error.category(), category);
        }
    }

    #[test]
    fn an_alert_is_about_our_certificate_where_it_says_so() {
        let asks = handshake(rustls::Error::AlertReceived(AlertDescription::CertificateRequired));
        assert_eq!(asks.to_string(), "https://a:1 asks for a client certificate; set etcd-cert and etcd-key");
        let other = handshake(rustls::Error::AlertReceived(AlertDescription::HandshakeFailure));
        assert!(matches!(other, EtcdError::Handshake { .. }), "{other}");
    }

    #[test]
    fn names_of_a_certificate_are_shown_bare() {
        for (shown, bare) in [("DnsName(\"a.b\")", "a.b"), ("IpAddress(127.0.0.1)", "127.0.0.1"), ("DirectoryName", "DirectoryName")] {
            assert_eq!(bare_name(shown), bare);
        }
        let nameless = EtcdError::WrongName { endpoint: access(false).endpoint, asked: "a".into(), names: Vec::new() };
        assert!(nameless.to_string().contains("is for no name at all"), "{nameless}");
    }
}
