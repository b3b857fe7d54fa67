//! The certificates that an S3 server's has to be signed by.
//!
//! In: the text of a setting, the PEM of a Secret, the values of a ConfigMap. Out: certificates of which every one is a valid trust
//! anchor, because the S3 client panics at the first that is not. Files are read by the function that is passed in.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::error::{ConfigError, shown};
use super::sources::Sourced;

/// The values of a ConfigMap, `data` and `binaryData` alike, by their keys. Each is a bundle in PEM.
pub type CaBundles = BTreeMap<String, Vec<u8>>;

/// How a setting gives certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ca {
    /// A list with spaces between: base64 of PEM, or paths.
    Items(String),
    /// PEM.
    Pem(String),
}

/// Certificates, and the text that stands for them in `spec.s3.endpointCA`: paths and base64 of PEM with spaces between, as in K3s.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Anchors {
    /// The certificates in the order in which they were found.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The text.
    pub text: String,
}

const SETTING: &str = "etcd-s3-endpoint-ca";
const MAP_SETTING: &str = "etcd-s3-endpoint-ca-name";

impl Anchors {
    /// Adds what the setting gives.
    pub fn add_setting(&mut self, ca: &Sourced<Ca>, read: &dyn Fn(&Path) -> io::Result<Vec<u8>>) -> Result<(), ConfigError> {
        let wrong = |item: String| move |problem| ConfigError::Certificate { setting: SETTING, item, problem, origin: ca.origin.clone() };
        match &ca.value {
            Ca::Pem(pem) => self.add_pem(pem.as_bytes()).map_err(wrong("its PEM".into())),
            Ca::Items(list) => list.split_whitespace().enumerate().try_for_each(|(at, item)| {
                if let Some(pem) = base64_of_pem(item) {
                    return self.add_certificates(&pem, item.into()).map_err(wrong(format!("item {} (base64)", at + 1)));
                }
                let name = format!("item {} ({})", at + 1, shown(item));
                match read(Path::new(item)) {
                    // Of a file only the path is shown, so it may hold a key beside the certificates.
                    Ok(pem) => certificates(&pem).map(|found| self.push(found, item.into())).map_err(wrong(name)),
                    Err(source) => Err(ConfigError::CertificateFile { setting: SETTING, item: name, origin: ca.origin.clone(), source }),
                }
            }),
        }
    }

    /// Adds every value of the ConfigMap called `map`.
    pub fn add_bundles(&mut self, map: &Sourced<String>, bundles: &CaBundles) -> Result<(), ConfigError> {
        let wrong =
            |item: String, problem: String| ConfigError::Certificate { setting: MAP_SETTING, item, problem, origin: map.origin.clone() };
        if bundles.is_empty() {
            return Err(wrong(format!("ConfigMap {:?}", map.value), "has no values".into()));
        }
        bundles.iter().try_for_each(|(key, pem)| {
            self.add_pem(pem).map_err(|problem| wrong(format!("value {key:?} of ConfigMap {:?}", map.value), problem))
        })
    }

    fn add_pem(&mut self, pem: &[u8]) -> Result<(), String> {
        self.add_certificates(pem, BASE64_STANDARD.encode(pem))
    }

    /// Adds PEM that records will show as a whole.
    fn add_certificates(&mut self, pem: &[u8], text: String) -> Result<(), String> {
        if String::from_utf8_lossy(pem).contains("PRIVATE KEY-----") {
            return Err("has a private key in it, which records would show; leave only the certificates".into());
        }
        self.push(certificates(pem)?, text);
        Ok(())
    }

    fn push(&mut self, certificates: Vec<CertificateDer<'static>>, text: String) {
        self.certificates.extend(certificates);
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        self.text.push_str(&text);
    }
}

/// PEM has a dash-delimited headline. Base64 of anything else is rather a path that happens to look like it.
fn base64_of_pem(item: &str) -> Option<Vec<u8>> {
    BASE64_STANDARD.decode(item).ok().filter(|bytes| bytes.windows(BEGIN.len()).any(|window| window == BEGIN))
}

const BEGIN: &[u8] = b"-----BEGIN ";

/// Whether a text is PEM itself and not a list of items.
pub(super) fn is_pem(text: &str) -> bool {
    text.contains("-----BEGIN ")
}

/// The certificates in a PEM text, at least one, each a valid trust anchor. Other sections are skipped.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| "is not valid PEM".to_string())?;
    if found.is_empty() {
        return Err("holds no certificate in PEM".into());
    }
    for (at, certificate) in found.iter().enumerate() {
        RootCertStore::empty()
            .add(certificate.clone())
            .map_err(|_| format!("holds something that is not an X.509 certificate (number {})", at + 1))?;
    }
    Ok(found)
}
