//! Certificates of the tests' own authorities.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

/// An authority, as PEM, so that the process that runs the tests can hand it to them.
#[derive(Clone, Serialize, Deserialize)]
pub struct Ca {
    name: String,
    pub cert_pem: String,
    key_pem: String,
}

/// A certificate of a [`Ca`] and its key, as PEM.
#[derive(Clone)]
pub struct Identity {
    pub cert_pem: String,
    pub key_pem: String,
}

impl Ca {
    pub fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let cert_pem = ca_params(name)?.self_signed(&key)?.pem();
        Ok(Self { name: name.to_owned(), cert_pem, key_pem: key.serialize_pem() })
    }

    /// A server certificate for 127.0.0.1 and these other names.
    pub fn server(&self, names: &[&str]) -> Result<Identity> {
        let mut all = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        all.extend(names.iter().map(ToString::to_string));
        let mut params = CertificateParams::new(all)?;
        params.distinguished_name.push(DnType::CommonName, "a server of the tests");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(&params)
    }

    /// A client certificate, for servers that ask for one.
    pub fn client(&self, common_name: &str) -> Result<Identity> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params)
    }

    /// Any certificate that rcgen can describe: expired, for other names, without names.
    pub fn sign(&self, params: &CertificateParams) -> Result<Identity> {
        let key = KeyPair::generate()?;
        let issuer = Issuer::new(ca_params(&self.name)?, KeyPair::from_pem(&self.key_pem)?);
        let cert: Certificate = params.signed_by(&key, &issuer)?;
        Ok(Identity { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
    }

    /// A client that trusts this authority alone.
    pub fn trusting_client(&self) -> Result<Arc<rustls::ClientConfig>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.cert_pem.as_bytes()).context("the authority's own certificate")?)?;
        Ok(Arc::new(rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
    }
}

impl Identity {
    /// A TLS server with this certificate that asks clients for none and speaks HTTP/1.1 only.
    pub fn tls_server(&self) -> Result<Arc<rustls::ServerConfig>> {
        let certs = CertificateDer::pem_slice_iter(self.cert_pem.as_bytes()).collect::<Result<Vec<_>, _>>().context("certificate")?;
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).context("key")?;
        let mut config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(certs, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

// The same name gives the same parameters: that is all a signature needs to know of the authority's certificate.
fn ca_params(name: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}
