//! The certificates that an S3 server's has to be signed by.
//!
//! In: the text of a setting, the PEM of a Secret, the values of a ConfigMap. Out: certificates of which every one is a valid trust
//! anchor, because the S3 client panics at the first that is not. Files are read by the function that is passed in.

use std::collections::BTreeMap;
use std::fmt;
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
#[derive(Clone, PartialEq, Eq)]
pub enum Ca {
    /// A list with spaces between: base64 of PEM, or paths.
    Items(String),
    /// PEM.
    Pem(String),
}

/// Not the text: nobody has looked yet whether there is a private key in it.
impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Items(_) => "Items",
            Self::Pem(_) => "Pem",
        })
    }
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
                    return self.add_certificates(&pem, item).map_err(wrong(format!("item {} (base64)", at + 1)));
                }
                let name = format!("item {} ({})", at + 1, shown(item));
                match read(Path::new(item)) {
                    // Of a file only the path is shown, so it may hold a key beside the certificates.
                    Ok(pem) => certificates(&pem).map(|found| self.push(found, item)).map_err(wrong(name)),
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
        self.add_certificates(pem, &BASE64_STANDARD.encode(pem))
    }

    /// Adds PEM that records will show as a whole.
    fn add_certificates(&mut self, pem: &[u8], text: &str) -> Result<(), String> {
        if String::from_utf8_lossy(pem).contains("PRIVATE KEY-----") {
            return Err("has a private key in it, which records would show; leave only the certificates".into());
        }
        self.push(certificates(pem)?, text);
        Ok(())
    }

    fn push(&mut self, certificates: Vec<CertificateDer<'static>>, text: &str) {
        self.certificates.extend(certificates);
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        self.text.push_str(text);
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

#[cfg(test)]
mod tests {
    use super::super::error::Origin;
    use super::*;

    fn pem() -> String {
        let signed = rcgen::generate_simple_self_signed(vec!["minio".into()]).unwrap();
        signed.cert.pem()
    }

    fn no_file(path: &Path) -> io::Result<Vec<u8>> {
        Err(io::Error::new(io::ErrorKind::NotFound, path.display().to_string()))
    }

    fn setting(ca: Ca) -> Sourced<Ca> {
        Sourced { value: ca, origin: Origin::Flag(SETTING) }
    }

    fn added(ca: Ca, read: &dyn Fn(&Path) -> io::Result<Vec<u8>>) -> Result<Anchors, String> {
        let mut anchors = Anchors::default();
        anchors.add_setting(&setting(ca), read).map(|()| anchors).map_err(|error| error.to_string())
    }

    #[test]
    fn items_are_base64_or_paths_and_are_shown_as_they_are() {
        let (one, two, three) = (pem(), pem(), pem());
        let list = format!("{}  /etc/ca.crt", BASE64_STANDARD.encode(format!("{one}{two}")));
        let read = |path: &Path| if path == Path::new("/etc/ca.crt") { Ok(three.clone().into_bytes()) } else { no_file(path) };
        let anchors = added(Ca::Items(list.clone()), &read).unwrap();
        let expected: Vec<_> =
            [one, two, three.clone()].iter().map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).collect();
        assert_eq!((anchors.certificates, anchors.text), (expected, list.replace("  ", " ")));
        // Base64 in its letters, but of no PEM: a path.
        assert!(
            added(Ca::Items("cacert".into()), &|path: &Path| {
                assert_eq!(path, Path::new("cacert"));
                Ok(three.clone().into())
            })
            .is_ok()
        );
    }

    #[test]
    fn pem_of_secret_and_config_map_is_shown_as_base64_in_one_order() {
        let (one, two, three) = (pem(), pem(), pem());
        let mut anchors = added(Ca::Pem(one.clone()), &no_file).unwrap();
        let bundles = CaBundles::from([("b".to_string(), three.clone().into_bytes()), ("a".to_string(), two.clone().into_bytes())]);
        let map = Sourced { value: "ca".to_string(), origin: Origin::Default };
        anchors.add_bundles(&map, &bundles).unwrap();
        assert_eq!(anchors.certificates.len(), 3);
        assert_eq!(anchors.text, [one, two, three].map(|pem| BASE64_STANDARD.encode(pem)).join(" "));
    }

    #[test]
    fn what_is_no_certificate_is_refused_by_item() {
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let good = pem();
        let not_der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let from = "(from flag --etcd-s3-endpoint-ca)";
        let shows_key = "has a private key in it, which records would show; leave only the certificates";
        for (ca, sentence) in [
            (Ca::Pem("hunter2".into()), "its PEM holds no certificate in PEM"),
            (Ca::Pem(not_der.into()), "its PEM holds something that is not an X.509 certificate (number 1)"),
            (Ca::Pem(format!("{good}{not_der}")), "its PEM holds something that is not an X.509 certificate (number 2)"),
            (Ca::Pem("-----BEGIN CERTIFICATE-----\n%%\n-----END CERTIFICATE-----\n".into()), "its PEM is not valid PEM"),
            (Ca::Pem("-----BEGIN CERTIFICATE-----\nAAAA\n".into()), "its PEM is not valid PEM"),
            (Ca::Pem(format!("{good}{key}")), &format!("its PEM {shows_key}")),
            (Ca::Items(BASE64_STANDARD.encode(format!("{key}{good}"))), &format!("item 1 (base64) {shows_key}")),
            (
                Ca::Items(format!("{} {}", BASE64_STANDARD.encode(&good), BASE64_STANDARD.encode(not_der))),
                "item 2 (base64) holds something that is not an X.509 certificate (number 1)",
            ),
            (Ca::Items("/ca.crt".into()), "item 1 (\"/ca.crt\") is neither base64 of a PEM certificate nor a file that can be read"),
        ] {
            assert_eq!(added(ca, &no_file).unwrap_err(), format!("etcd-s3-endpoint-ca: {sentence} {from}"));
        }
        // A file is shown by its path, so a key beside the certificate is nobody's business.
        assert!(added(Ca::Items("/ca.pem".into()), &|_: &Path| Ok(format!("{key}{good}").into())).is_ok());
        let empty = added(Ca::Items("/ca.pem".into()), &|_: &Path| Ok(Vec::new())).unwrap_err();
        assert_eq!(empty, format!("etcd-s3-endpoint-ca: item 1 (\"/ca.pem\") holds no certificate in PEM {from}"));
    }

    #[test]
    fn a_config_map_is_refused_by_its_key() {
        let map = Sourced { value: "ca".to_string(), origin: Origin::Secret { key: MAP_SETTING, secret: "kube-system/s3".into() } };
        let refused = |bundles: CaBundles| Anchors::default().add_bundles(&map, &bundles).unwrap_err().to_string();
        let from = "(from key etcd-s3-endpoint-ca-name of Secret kube-system/s3)";
        let bad = CaBundles::from([("a".into(), pem().into_bytes()), ("b".into(), vec![0xff])]);
        assert_eq!(refused(bad), format!("etcd-s3-endpoint-ca-name: value \"b\" of ConfigMap \"ca\" holds no certificate in PEM {from}"));
        assert_eq!(refused(CaBundles::new()), format!("etcd-s3-endpoint-ca-name: ConfigMap \"ca\" has no values {from}"));
    }
}
