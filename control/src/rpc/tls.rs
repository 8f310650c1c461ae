//! Who is at the other end: TLS configurations, both directions, from an identity.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};

use crate::ca::Identity;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("read the PEM of {what}")]
    Pem {
        what: &'static str,
        source: rustls::pki_types::pem::Error,
    },
    #[error("configure TLS")]
    Configure(#[source] rustls::Error),
    #[error("verify clients by the root certificate")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn roots(root_pem: &str) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for der in certificates(root_pem, "the root certificates")? {
        store.add(der).map_err(TlsError::Configure)?;
    }
    Ok(store)
}

/// All in a PEM text: two roots while a new one takes over, a certificate with the one it was signed through.
fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::Pem { what, source })
}

fn key(identity: &Identity) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(|source| TlsError::Pem {
        what: "the node's key",
        source,
    })
}

/// A manager's port: a client without a certificate is let in, for a joining node has none; every method decides by
/// the certificate whom it serves.
pub fn server(identity: &Identity) -> Result<ServerConfig, TlsError> {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots(&identity.root_pem)?), provider())
            .allow_unauthenticated()
            .build()
            .map_err(TlsError::Verifier)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Configure)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            certificates(&identity.cert_pem, "the node's certificate")?,
            key(identity)?,
        )
        .map_err(TlsError::Configure)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// A member calling a manager.
pub fn member(identity: &Identity) -> Result<ClientConfig, TlsError> {
    let mut config = builder()?
        .with_root_certificates(roots(&identity.root_pem)?)
        .with_client_auth_cert(
            certificates(&identity.cert_pem, "the node's certificate")?,
            key(identity)?,
        )
        .map_err(TlsError::Configure)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// A joining node that knows the root already.
pub fn pinned(root_pem: &str) -> Result<ClientConfig, TlsError> {
    let mut config = builder()?
        .with_root_certificates(roots(root_pem)?)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// A joining node that fetches the root: whoever answers is believed, because the digest of what it answers is
/// checked against the token before anything else is said.
pub fn unverified() -> Result<ClientConfig, TlsError> {
    let mut config = builder()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider())))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, TlsError> {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Configure)
}

#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
