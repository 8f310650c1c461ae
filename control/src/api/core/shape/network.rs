//! Overlay networks: as `/networks` has them, and as they stand in a task.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Labels, MetaShape, is_empty, time};
use crate::model;

/// Option that names the VNI, as Swarm's overlay driver has it.
const VNI_OPTION: &str = "com.docker.network.driver.overlay.vxlanid_list";

/// `POST /networks/create`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CreateRequest {
    pub name: String,
    pub driver: String,
    pub scope: String,
    #[serde(rename = "EnableIPv6")]
    pub ipv6: bool,
    #[serde(rename = "IPAM")]
    pub ipam: Option<Ipam>,
    pub internal: bool,
    pub attachable: bool,
    pub ingress: bool,
    pub config_only: bool,
    pub config_from: ConfigFrom,
    pub options: Labels,
    pub labels: Labels,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ConfigFrom {
    pub network: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Ipam {
    pub driver: String,
    pub options: Labels,
    pub config: Vec<IpamConfig>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct IpamConfig {
    #[serde(rename = "Subnet", skip_serializing_if = "is_empty")]
    pub subnet: String,
    #[serde(rename = "IPRange", alias = "Range", skip_serializing_if = "is_empty")]
    pub range: String,
    #[serde(rename = "Gateway", skip_serializing_if = "is_empty")]
    pub gateway: String,
    #[serde(rename = "AuxiliaryAddresses", alias = "AuxAddress", skip_serializing)]
    pub auxiliary: Labels,
}

impl CreateRequest {
    /// The first part of the request that Swarm has and Skep does not build yet, by name.
    pub fn not_built(&self) -> Option<&'static str> {
        let ipam_driver = self.ipam.as_ref().map_or("", |ipam| ipam.driver.as_str());
        let auxiliary = |ipam: &Ipam| ipam.config.iter().any(|config| !config.auxiliary.is_empty());
        if self.driver != "overlay" {
            Some("a swarm-scoped network whose driver is not overlay")
        } else if self.ipv6 {
            Some("an IPv6 overlay network")
        } else if self
            .options
            .get("encrypted")
            .is_some_and(|value| value != "false")
        {
            Some("an encrypted overlay network")
        } else if self.ingress {
            Some("a second ingress network")
        } else if self.config_only || !self.config_from.network.is_empty() {
            Some("a configuration network in the swarm")
        } else if !matches!(ipam_driver, "" | "default") {
            Some("an IPAM driver other than default")
        } else if self.ipam.as_ref().is_some_and(auxiliary) {
            Some("auxiliary addresses in an overlay network")
        } else {
            None
        }
    }

    pub fn into_model(self) -> model::NetworkSpec {
        model::NetworkSpec {
            annotations: model::Annotations {
                name: self.name,
                labels: self.labels,
            },
            driver: Some(model::DriverConfig {
                name: self.driver,
                options: self.options,
            }),
            ipv6: self.ipv6,
            internal: self.internal,
            attachable: self.attachable,
            ingress: self.ingress,
            ipam: self.ipam.map(|ipam| model::IpamOptions {
                driver: (!ipam.driver.is_empty()).then_some(model::DriverConfig {
                    name: ipam.driver,
                    options: ipam.options,
                }),
                configs: ipam
                    .config
                    .into_iter()
                    .map(|config| model::IpamConfig {
                        subnet: config.subnet,
                        range: config.range,
                        gateway: config.gateway,
                    })
                    .collect(),
            }),
        }
    }
}

/// An overlay network as one node knows it, whatever it learnt it from.
#[derive(Clone, Debug, PartialEq)]
pub struct Overlay {
    pub id: String,
    pub name: String,
    pub created: model::Timestamp,
    pub vni: u32,
    pub ipam: Vec<model::IpamConfig>,
    pub internal: bool,
    pub attachable: bool,
    pub ingress: bool,
    pub options: Labels,
    pub labels: Labels,
}

impl From<&model::Network> for Overlay {
    fn from(network: &model::Network) -> Overlay {
        let spec = &network.spec;
        Overlay {
            id: network.id.clone(),
            name: spec.annotations.name.clone(),
            created: network.meta.created_at,
            vni: network.vni,
            ipam: network.ipam.clone(),
            internal: spec.internal,
            attachable: spec.attachable,
            ingress: spec.ingress,
            options: spec
                .driver
                .as_ref()
                .map(|driver| driver.options.clone())
                .unwrap_or_default(),
            labels: spec.annotations.labels.clone(),
        }
    }
}

impl From<&model::NetworkItem> for Overlay {
    fn from(item: &model::NetworkItem) -> Overlay {
        Overlay {
            id: item.network_id.clone(),
            name: item.name.clone(),
            created: 0,
            vni: item.vni,
            ipam: item.ipam.clone(),
            internal: item.internal,
            attachable: item.attachable,
            ingress: item.ingress,
            options: item.options.clone(),
            labels: item.labels.clone(),
        }
    }
}

impl Overlay {
    fn driver_options(&self) -> Labels {
        let mut options = self.options.clone();
        options.insert(VNI_OPTION.to_string(), self.vni.to_string());
        options
    }

    /// As `/networks` answers it (moby api/types/network Inspect). `containers` is the Engine's map for the network's
    /// part on this node.
    pub fn inspect(&self, containers: Option<&Value>) -> Value {
        let configs: Vec<Value> = self
            .ipam
            .iter()
            .map(|config| {
                let mut members = Map::new();
                for (key, value) in [
                    ("Subnet", &config.subnet),
                    ("IPRange", &config.range),
                    ("Gateway", &config.gateway),
                ] {
                    if !value.is_empty() {
                        members.insert(key.to_string(), Value::String(value.clone()));
                    }
                }
                Value::Object(members)
            })
            .collect();
        json!({
            "Name": self.name,
            "Id": self.id,
            "Created": time(self.created),
            "Scope": "swarm",
            "Driver": "overlay",
            "EnableIPv4": true,
            "EnableIPv6": false,
            "IPAM": {"Driver": "default", "Options": null, "Config": configs},
            "Internal": self.internal,
            "Attachable": self.attachable,
            "Ingress": self.ingress,
            "ConfigFrom": {"Network": ""},
            "ConfigOnly": false,
            "Containers": containers,
            "Options": self.driver_options(),
            "Labels": self.labels,
        })
    }
}

/// moby api/types/swarm/network.go Network, in `NetworksAttachments` of a task.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct SwarmNetwork {
    #[serde(rename = "ID")]
    id: String,
    #[serde(flatten)]
    meta: MetaShape,
    spec: Value,
    driver_state: Value,
    #[serde(rename = "IPAMOptions")]
    ipam_options: Value,
}

impl From<&model::Network> for SwarmNetwork {
    fn from(network: &model::Network) -> SwarmNetwork {
        let overlay = Overlay::from(network);
        let mut spec = json!({"Name": overlay.name, "Labels": overlay.labels, "Scope": "swarm"});
        if let Some(driver) = &network.spec.driver {
            spec["DriverConfiguration"] = json!({"Name": driver.name});
            if !driver.options.is_empty() {
                spec["DriverConfiguration"]["Options"] = json!(driver.options);
            }
        }
        for (key, on) in [
            ("Internal", overlay.internal),
            ("Attachable", overlay.attachable),
            ("Ingress", overlay.ingress),
        ] {
            if on {
                spec[key] = Value::Bool(true);
            }
        }
        if let Some(ipam) = &network.spec.ipam {
            spec["IPAMOptions"] = ipam_options(&ipam.configs);
        }
        SwarmNetwork {
            id: network.id.clone(),
            meta: MetaShape::from(&network.meta),
            spec,
            driver_state: json!({"Name": "overlay", "Options": overlay.driver_options()}),
            ipam_options: ipam_options(&network.ipam),
        }
    }
}

fn ipam_options(configs: &[model::IpamConfig]) -> Value {
    let mut options = json!({"Driver": {"Name": "default"}});
    let configs: Vec<Value> = configs
        .iter()
        .map(|config| {
            let mut members = Map::new();
            for (key, value) in [
                ("Subnet", &config.subnet),
                ("Range", &config.range),
                ("Gateway", &config.gateway),
            ] {
                if !value.is_empty() {
                    members.insert(key.to_string(), Value::String(value.clone()));
                }
            }
            Value::Object(members)
        })
        .collect();
    if !configs.is_empty() {
        options["Configs"] = Value::Array(configs);
    }
    options
}
