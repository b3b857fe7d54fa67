//! The files of an access: read anew at every use, and told apart by what they hold.
//!
//! In: an [`EtcdAccess`]. Out: what its files hold now, with a fingerprint, and the TLS configuration made of it. Nothing is
//! asked of the member. Comparing content catches a file that was renamed into place, written in place, or reached through
//! a link that was turned, on every file system.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use sha2::{Digest as _, Sha256};

use super::access::{AccessError, EtcdAccess, Password};

/// Tells one content of all files from another.
pub(super) type Fingerprint = [u8; 32];

/// What the files of an access hold. It has keys and passwords in it: no Debug.
pub(super) struct Contents {
    pub(super) fingerprint: Fingerprint,
    cacert: Option<Vec<u8>>,
    client: Option<(Vec<u8>, Vec<u8>)>,
    /// The password, in a text that is not empty.
    pub(super) password: Option<String>,
}

impl Contents {
    /// Reads every file that the access names.
    pub(super) async fn read(access: &EtcdAccess) -> Result<Self, AccessError> {
        let cacert = match &access.tls.cacert {
            Some(path) => Some(read("etcd-cacert", path).await?),
            None => None,
        };
        let client = match &access.tls.client {
            Some(files) => Some((read("etcd-cert", &files.cert).await?, read("etcd-key", &files.key).await?)),
            None => None,
        };
        let password = match access.user.as_ref().map(|user| &user.password) {
            Some(Password::File(path)) => Some(password(path, read("etcd-password-file", path).await?)?),
            Some(Password::Value(password)) => Some(password.clone()),
            None => None,
        };
        let mut hash = Sha256::new();
        let parts =
            [cacert.as_deref(), client.as_ref().map(|c| &*c.0), client.as_ref().map(|c| &*c.1), password.as_ref().map(String::as_bytes)];
        for part in parts {
            hash.update(part.map_or(u64::MAX, |part| part.len() as u64).to_be_bytes());
            hash.update(part.unwrap_or_default());
        }
        Ok(Self { fingerprint: hash.finalize().into(), cacert, client, password })
    }

    /// Makes a configuration of certificates that are all valid, and of a key that fits.
    pub(super) fn tls(&self, access: &EtcdAccess) -> Result<Arc<ClientConfig>, AccessError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.expect("the provider has the cipher suites of every version").with_root_certificates(self.roots(access)?);
        let mut config = match (&self.client, &access.tls.client) {
            (Some((cert, key)), Some(files)) => {
                let chain = certificates("etcd-cert", &files.cert, cert)?;
                let wrong = |problem| AccessError::file("etcd-key", &files.key, problem);
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| wrong("holds no private key in PEM".into()))?;
                let fits = builder.with_client_auth_cert(chain, key);
                fits.map_err(|error| wrong(format!("does not fit the certificate in {} ({error})", files.cert.display())))?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![HTTP2.to_vec()];
        Ok(Arc::new(config))
    }

    fn roots(&self, access: &EtcdAccess) -> Result<RootCertStore, AccessError> {
        let mut roots = RootCertStore::empty();
        if let (Some(pem), Some(path)) = (&self.cacert, &access.tls.cacert) {
            for certificate in certificates("etcd-cacert", path, pem)? {
                let added = roots.add(certificate);
                added.map_err(|_| AccessError::file("etcd-cacert", path, "holds something that is not an X.509 certificate"))?;
            }
        } else {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                let problem = "is not set, and this system has no certificates of authorities; name the file of etcd's own";
                return Err(AccessError::Setting { setting: "etcd-cacert", problem: problem.into() });
            }
        }
        Ok(roots)
    }
}

/// The name of HTTP/2, which is what gRPC speaks, in the handshake.
pub(super) const HTTP2: &[u8] = b"h2";

async fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, AccessError> {
    tokio::fs::read(path).await.map_err(|error| AccessError::file(setting, path, format!("cannot be read ({error})")))
}

fn password(path: &Path, bytes: Vec<u8>) -> Result<String, AccessError> {
    let wrong = |problem| AccessError::file("etcd-password-file", path, problem);
    let text = String::from_utf8(bytes).map_err(|_| wrong("holds bytes that are no text in UTF-8"))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() { Err(wrong("is empty")) } else { Ok(line.into()) }
}

fn certificates(setting: &'static str, path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, AccessError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(AccessError::file(setting, path, "holds no certificate in PEM")),
        Ok(found) => Ok(found),
        Err(_) => Err(AccessError::file(setting, path, "is not whole PEM")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::access::EtcdSettings;
    use super::*;

    struct Files {
        dir: tempfile::TempDir,
        access: EtcdAccess,
    }

    impl Files {
        /// A certificate that is its own authority, with its key.
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
            let settings = EtcdSettings {
                cacert: path("ca"),
                cert: path("cert"),
                key: path("key"),
                user: "root".into(),
                password_file: path("password"),
                ..EtcdSettings::default()
            };
            let access = EtcdAccess::new(&settings).unwrap();
            let files = Self { dir, access };
            let signed = rcgen::generate_simple_self_signed(vec!["etcd".into()]).unwrap();
            for (name, content) in [
                ("ca", signed.cert.pem()),
                ("cert", signed.cert.pem()),
                ("key", signed.signing_key.serialize_pem()),
                ("password", "pw\r\n".into()),
            ] {
                files.write(name, &content);
            }
            files
        }

        fn write(&self, name: &str, content: impl AsRef<[u8]>) {
            fs::write(self.dir.path().join(name), content).unwrap();
        }

        async fn contents(&self) -> Result<Contents, AccessError> {
            Contents::read(&self.access).await
        }

        async fn problem(&self) -> String {
            let error = match self.contents().await {
                Ok(contents) => contents.tls(&self.access).expect_err("a problem"),
                Err(error) => error,
            };
            error.to_string().replace(&format!("{}/", self.dir.path().display()), "")
        }
    }

    #[tokio::test]
    async fn every_file_counts_in_the_fingerprint() {
        let files = Files::new();
        let before = files.contents().await.unwrap();
        assert!(before.tls(&files.access).is_ok());
        assert_eq!(before.password.as_deref(), Some("pw"));
        let mut seen = vec![before.fingerprint];
        assert_eq!(files.contents().await.unwrap().fingerprint, seen[0]);
        for name in ["ca", "cert", "key", "password"] {
            let mut content = fs::read(files.dir.path().join(name)).unwrap();
            content.insert(0, b'#');
            files.write(name, content);
            let now = files.contents().await.unwrap().fingerprint;
            assert!(!seen.contains(&now), "{name}");
            seen.push(now);
        }
    }

    #[tokio::test]
    async fn files_that_cannot_be_used_get_one_sentence() {
        let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (name, content, sentence) in [
            ("ca", "", "etcd-cacert: ca holds no certificate in PEM"),
            ("ca", garbage, "etcd-cacert: ca holds something that is not an X.509 certificate"),
            ("cert", "-----BEGIN CERTIFICATE-----\nMIIB", "etcd-cert: cert is not whole PEM"),
            ("key", "", "etcd-key: key holds no private key in PEM"),
            ("key", &*other, "etcd-key: key does not fit the certificate in cert (keys may not be consistent: KeyMismatch)"),
            ("password", "\n", "etcd-password-file: password is empty"),
        ] {
            let files = Files::new();
            files.write(name, content);
            assert_eq!(files.problem().await, sentence);
        }
        let files = Files::new();
        fs::remove_file(files.dir.path().join("ca")).unwrap();
        assert_eq!(files.problem().await, "etcd-cacert: ca cannot be read (No such file or directory (os error 2))");
    }
}
