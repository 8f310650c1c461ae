//! Resources that users define (moby api/types/swarm/task.go GenericResource).

use serde::{Deserialize, Serialize};

use crate::api::core::shape::is_empty;
use crate::model;

/// One of the two is given.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct GenericResource {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub named_resource_spec: Option<Named>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discrete_resource_spec: Option<Discrete>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Named {
    #[serde(skip_serializing_if = "is_empty")]
    pub kind: String,
    #[serde(skip_serializing_if = "is_empty")]
    pub value: String,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Discrete {
    #[serde(skip_serializing_if = "is_empty")]
    pub kind: String,
    #[serde(skip_serializing_if = "is_empty")]
    pub value: i64,
}

impl From<&model::GenericResource> for GenericResource {
    fn from(resource: &model::GenericResource) -> GenericResource {
        let kind = resource.kind.clone();
        match &resource.name {
            Some(name) => GenericResource {
                named_resource_spec: Some(Named {
                    kind,
                    value: name.clone(),
                }),
                discrete_resource_spec: None,
            },
            None => GenericResource {
                named_resource_spec: None,
                discrete_resource_spec: Some(Discrete {
                    kind,
                    value: resource.amount,
                }),
            },
        }
    }
}

impl GenericResource {
    /// What is neither is a named resource without a kind, which a service cannot ask for. Of both the amount counts, as in
    /// moby daemon/cluster/convert/service.go.
    pub fn into_model(self) -> model::GenericResource {
        match (self.discrete_resource_spec, self.named_resource_spec) {
            (Some(discrete), _) => model::GenericResource {
                kind: discrete.kind,
                name: None,
                amount: discrete.value,
            },
            (None, named) => {
                let named = named.unwrap_or_default();
                model::GenericResource {
                    kind: named.kind,
                    name: Some(named.value),
                    amount: 0,
                }
            }
        }
    }
}
