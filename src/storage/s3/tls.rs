//! Whom we believe to be the server: the system's roots, the user's own certificates, or anyone.
//!
//! In: what the settings say. Out: rustls's client configuration. Nothing here opens a connection.

use std::sync::Arc;

use hyper_rustls::ConfigBuilderExt as _;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::error::S3Error;

/// Whom to believe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Certificates that lead to a root of the system.
    System,
    /// Certificates that lead to one of these, or are one of these. The system's roots count for nothing, as in K3s.
    Only(Vec<CertificateDer<'static>>),
    /// Any certificate, even a broken one.
    Anyone,
}

/// rustls's configuration for HTTP/1.1. Fails when there is nobody to believe.
pub fn client_config(trust: &Trust) -> Result<ClientConfig, S3Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| S3Error::tls(format!("TLS cannot be set up: {error}")))?;
    Ok(match trust {
        Trust::System => builder
            .with_native_roots()
            .map_err(|error| {
                S3Error::tls(format!(
                    "the system has no CA certificates ({error}): install them, or give the server's own in etcd-s3-endpoint-ca"
                ))
            })?
            .with_no_client_auth(),
        Trust::Only(certificates) => {
            let verifier = Listed::new(certificates, provider)?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth()
        }
        Trust::Anyone => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider))).with_no_client_auth(),
    })
}

/// The usual rules, and besides them: a certificate that the user listed is believed even where it is marked as a CA.
/// That is what `openssl req -x509` makes for a server of one's own, and what Go (and so K3s) accepts.
#[derive(Debug)]
struct Listed {
    usual: Arc<WebPkiServerVerifier>,
    certificates: Vec<CertificateDer<'static>>,
}

impl Listed {
    fn new(certificates: &[CertificateDer<'static>], provider: Arc<CryptoProvider>) -> Result<Self, S3Error> {
        let unusable = |error: &dyn std::fmt::Display| S3Error::tls(format!("etcd-s3-endpoint-ca cannot be used: {error}"));
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate.clone()).map_err(|error| unusable(&error))?;
        }
        let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().map_err(|error| unusable(&error))?;
        Ok(Self { usual, certificates: certificates.to_vec() })
    }
}

impl ServerCertVerifier for Listed {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
        match self.usual.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            Err(Error::InvalidCertificate(time @ (Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }))) => {
                Err(Error::InvalidCertificate(time))
            }
            Err(_) if self.certificates.iter().any(|listed| listed == certificate) => {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            usual => usual,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// Asks nothing: who cannot know the certificate gains nothing from its signature either, and some cannot even be parsed.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
