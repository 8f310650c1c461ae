//! The root's key at work: making a root, signing node certificates, reading the names in one.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use time::{Duration, OffsetDateTime};

use crate::model::Role;

/// swarmkit ca/certificates.go `RootCAExpiration`.
const ROOT_LIFE: Duration = Duration::days(20 * 365);
/// swarmkit `DefaultNodeCertExpiration`: 90 days.
pub const NODE_LIFE: Duration = Duration::days(90);
/// swarmkit `CertBackdate`: clocks of nodes may differ.
const BACKDATE: Duration = Duration::hours(1);

/// OU of a certificate.
pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Manager => "swarm-manager",
        Role::Worker => "swarm-worker",
    }
}

#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("make the root certificate")]
    MakeRoot(#[source] rcgen::Error),
    #[error("load the root key")]
    LoadRoot(#[source] rcgen::Error),
    #[error("read the certificate signing request")]
    Request(#[source] rcgen::Error),
    #[error("the certificate signing request's key is not ECDSA P-256")]
    KeyType,
    #[error("make a key and a certificate signing request")]
    MakeRequest(#[source] rcgen::Error),
    #[error("sign the certificate of node {node_id}")]
    Sign {
        node_id: String,
        #[source]
        source: rcgen::Error,
    },
}

/// Root certificate and key.
pub struct Authority {
    pub root_pem: String,
    pub root_key_pem: String,
}

/// What the names in a node certificate say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertNames {
    pub node_id: String,
    pub role: Role,
    pub cluster_id: String,
    /// Unix seconds.
    pub not_before: i64,
    /// Unix seconds.
    pub not_after: i64,
}

impl Authority {
    /// A new self-signed root, ECDSA P-256, valid for 20 years.
    pub fn make(now: OffsetDateTime) -> Result<Authority, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::MakeRoot)?;
        let certificate = root_params(now)
            .self_signed(&key)
            .map_err(AuthorityError::MakeRoot)?;
        Ok(Authority {
            root_pem: certificate.pem(),
            root_key_pem: key.serialize_pem(),
        })
    }

    /// The other root's key with this root's signature: a node that trusts only this root verifies by it what the other
    /// one signed. PEM.
    pub fn cross_sign(&self, other: &Authority, now: OffsetDateTime) -> Result<String, AuthorityError> {
        let other_key = KeyPair::from_pem(&other.root_key_pem).map_err(AuthorityError::LoadRoot)?;
        let key = KeyPair::from_pem(&self.root_key_pem).map_err(AuthorityError::LoadRoot)?;
        let issuer = Issuer::from_ca_cert_pem(&self.root_pem, key).map_err(AuthorityError::LoadRoot)?;
        let certificate = root_params(now).signed_by(&other_key, &issuer);
        Ok(certificate.map_err(AuthorityError::MakeRoot)?.pem())
    }

    /// Signs the key of a request. Everything else the request asks for (subject, names, CA flag) is ignored:
    /// the certificate says what the caller decided.
    pub fn sign(
        &self,
        csr_pem: &str,
        node_id: &str,
        cluster_id: &str,
        role: Role,
        now: OffsetDateTime,
        life: Duration,
    ) -> Result<String, AuthorityError> {
        let request = CertificateSigningRequestParams::from_pem(csr_pem).map_err(AuthorityError::Request)?;
        if request.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(AuthorityError::KeyType);
        }
        let sign_error = |source| AuthorityError::Sign {
            node_id: node_id.to_string(),
            source,
        };
        let names = vec![role_name(role).to_string(), node_id.to_string()];
        let mut params = CertificateParams::new(names).map_err(sign_error)?;
        params.not_before = now - BACKDATE;
        params.not_after = now + life;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, node_id);
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, role_name(role));
        params
            .distinguished_name
            .push(DnType::OrganizationName, cluster_id);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::from_pem(&self.root_key_pem).map_err(AuthorityError::LoadRoot)?;
        let issuer = Issuer::from_ca_cert_pem(&self.root_pem, key).map_err(AuthorityError::LoadRoot)?;
        let certificate = params
            .signed_by(&request.public_key, &issuer)
            .map_err(sign_error)?;
        Ok(certificate.pem())
    }
}

fn root_params(now: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = now - BACKDATE;
    params.not_after = now + ROOT_LIFE;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "swarm-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// A fresh key and a request for it: `(key PEM, request PEM)`.
pub fn make_request() -> Result<(String, String), AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::MakeRequest)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request = params
        .serialize_request(&key)
        .map_err(AuthorityError::MakeRequest)?;
    let request_pem = request.pem().map_err(AuthorityError::MakeRequest)?;
    Ok((key.serialize_pem(), request_pem))
}

/// The names in a DER certificate. Checks no signature: TLS did, or our own file is read.
pub fn names(der: &[u8]) -> Option<CertNames> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let only = |mut values: Box<dyn Iterator<Item = &x509_parser::x509::AttributeTypeAndValue<'_>> + '_>| {
        let value = values.next()?.as_str().ok()?.to_string();
        values.next().is_none().then_some(value)
    };
    let role = match only(Box::new(subject.iter_organizational_unit()))?.as_str() {
        "swarm-manager" => Role::Manager,
        "swarm-worker" => Role::Worker,
        _ => return None,
    };
    Some(CertNames {
        node_id: only(Box::new(subject.iter_common_name()))?,
        role,
        cluster_id: only(Box::new(subject.iter_organization()))?,
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
    })
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn a_certificate_says_what_the_authority_decided() {
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let authority = Authority::make(now).unwrap();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut forged = CertificateParams::new(vec!["swarm-manager".to_string()]).unwrap();
        forged
            .distinguished_name
            .push(DnType::OrganizationalUnitName, "swarm-manager");
        forged.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let csr = forged.serialize_request(&key).unwrap().pem().unwrap();
        let pem = authority
            .sign(&csr, "node1", "cluster1", Role::Worker, now, NODE_LIFE)
            .unwrap();
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let read = names(&der).unwrap();
        assert_eq!(
            (read.node_id.as_str(), read.role, read.cluster_id.as_str()),
            ("node1", Role::Worker, "cluster1")
        );
        assert_eq!(read.not_before, 1_800_000_000 - 3600);
        assert_eq!(read.not_after, 1_800_000_000 + 90 * 86400);
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
        assert!(!parsed.is_ca());
        let alternative = parsed.subject_alternative_name().unwrap().unwrap();
        assert_eq!(alternative.value.general_names.len(), 2);
    }

    #[test]
    fn other_keys_and_garbage_are_refused() {
        let now = OffsetDateTime::now_utc();
        let authority = Authority::make(now).unwrap();
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let csr = CertificateParams::default()
            .serialize_request(&key)
            .unwrap()
            .pem()
            .unwrap();
        let sign = |csr: &str| authority.sign(csr, "n", "c", Role::Worker, now, NODE_LIFE);
        assert!(matches!(sign(&csr), Err(AuthorityError::KeyType)));
        assert!(matches!(sign("nonsense"), Err(AuthorityError::Request(_))));
    }
}
