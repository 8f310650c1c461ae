//! The JSON of the Engine API (moby api/types/swarm, api/types/network), to and from the model. Which members
//! are left out when empty follows the Go structs there: tools compare what they get with what they sent.

pub mod cluster;
pub mod ingress;
pub mod network;
pub mod node;
pub mod service;
pub mod spec;
pub mod task;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::model::{Meta, Timestamp};

pub type Labels = BTreeMap<String, String>;

/// For `skip_serializing_if`: Go's `omitempty`.
pub fn is_empty<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// RFC 3339 with as many digits of nanoseconds as there are, as Go prints times.
pub fn time(at: Timestamp) -> String {
    match jiff::Timestamp::from_nanosecond(i128::from(at)) {
        Ok(time) if at != 0 => time.to_string(),
        _ => "0001-01-01T00:00:00Z".to_string(),
    }
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct VersionShape {
    pub index: u64,
}

/// `Version`, `CreatedAt` and `UpdatedAt` of every object.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct MetaShape {
    pub version: VersionShape,
    pub created_at: String,
    pub updated_at: String,
}

impl From<&Meta> for MetaShape {
    fn from(meta: &Meta) -> MetaShape {
        MetaShape {
            version: VersionShape { index: meta.version },
            created_at: time(meta.created_at),
            updated_at: time(meta.updated_at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_in_go() {
        assert_eq!(time(1_700_000_000_123_450_000), "2023-11-14T22:13:20.12345Z");
        assert_eq!(time(1_700_000_000_000_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(time(0), "0001-01-01T00:00:00Z");
    }
}
