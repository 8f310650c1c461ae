//! Which roots nodes trust and which one signs, also while a new root takes over.

use ring::digest::{SHA256, digest as sha};

use crate::model::Cluster;

/// SHA-256 of a root's PEM text, or of several.
pub fn digest(pem: &str) -> Vec<u8> {
    sha(&SHA256, pem.as_bytes()).as_ref().to_vec()
}

/// PEM of what nodes trust: both roots during a rotation, so that no moment exists in which two nodes refuse each other.
pub fn trusted(cluster: &Cluster) -> String {
    match &cluster.root_rotation {
        Some(rotation) => format!("{}{}", cluster.root_ca_cert, rotation.ca_cert),
        None => cluster.root_ca_cert.clone(),
    }
}

/// PEM of the root whose key signs certificates now.
pub fn signing(cluster: &Cluster) -> &str {
    match &cluster.root_rotation {
        Some(rotation) => &rotation.ca_cert,
        None => &cluster.root_ca_cert,
    }
}
