//! Twin networks in the Docker Engine.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bollard::errors::Error as DockerError;
use bollard::models::{Ipam, IpamConfig, Network, NetworkCreateRequest};
use bollard::query_parameters::ListNetworksOptionsBuilder;
use bollard::{API_DEFAULT_VERSION, Docker};
use ipnet::IpNet;
use skep_control::model::NetworkItem;

use crate::network::core::ledger::{NETWORK_OPTION, VNI_OPTION};

/// Label of a twin: its overlay's id. The API hides networks that bear it.
pub const TWIN_LABEL: &str = "com.docker.skep.network";
/// Name of our driver: that of its socket.
pub const DRIVER: &str = "skep";
/// Seconds.
const DEADLINE: u64 = 30;

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("connect to Docker at {path}: {source}")]
    Connect { path: PathBuf, source: DockerError },
    #[error("{operation} network {network} in Docker: {source}")]
    Call {
        operation: &'static str,
        network: String,
        source: DockerError,
    },
    #[error("network {network} has no subnet yet")]
    NoSubnet { network: String },
    #[error(
        "subnet {subnet} of network {network} overlaps {other_subnet} of this node's network {other} (driver {driver})"
    )]
    Overlap {
        network: String,
        subnet: IpNet,
        other: String,
        other_subnet: IpNet,
        driver: String,
    },
    #[error("this node has a network of its own named {network} already (driver {driver})")]
    Name { network: String, driver: String },
    /// Passes when the last container of the removed network has gone.
    #[error("a removed network in the way of {network} still has containers on this node")]
    Leaving { network: String },
}

/// A twin as the Engine has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Twin {
    pub engine_id: String,
    pub network_id: String,
    pub name: String,
}

/// A connection to the node's Docker Engine.
#[derive(Debug)]
pub struct Engine {
    docker: Docker,
}

impl Engine {
    /// Connects and agrees on a version of the API.
    ///
    /// # Errors
    /// When the Engine does not answer.
    pub async fn connect(socket: &Path) -> Result<Self, EngineError> {
        let error = |source| EngineError::Connect {
            path: socket.to_path_buf(),
            source,
        };
        let text = socket.to_string_lossy();
        let docker = Docker::connect_with_unix(&text, DEADLINE, API_DEFAULT_VERSION).map_err(error)?;
        let docker = docker.negotiate_version().await.map_err(error)?;
        Ok(Self { docker })
    }

    /// All twins.
    ///
    /// # Errors
    /// When the Engine refuses.
    pub async fn twins(&self) -> Result<Vec<Twin>, EngineError> {
        let filters = HashMap::from([("label", vec![TWIN_LABEL])]);
        let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
        let networks = self.docker.list_networks(Some(options)).await;
        let networks = networks.map_err(call("list", "twin"))?;
        let twins = networks.into_iter().filter_map(|network| {
            Some(Twin {
                network_id: network.labels?.remove(TWIN_LABEL)?,
                engine_id: network.id?,
                name: network.name.unwrap_or_default(),
            })
        });
        Ok(twins.collect())
    }

    /// Makes the twin of an overlay; answers its Engine id.
    ///
    /// # Errors
    /// A clash of subnet or name with another network of the node, or what the Engine refuses.
    pub async fn create_twin(&self, network: &NetworkItem) -> Result<String, EngineError> {
        let all = self
            .docker
            .list_networks(None)
            .await
            .map_err(call("list networks before making", &network.name))?;
        refuse_clash(network, &all)?;
        let created = self.docker.create_network(twin_request(network)).await;
        Ok(created.map_err(call("make", &network.name))?.id)
    }

    /// Removes a network; answers `false` if containers still use it.
    ///
    /// # Errors
    /// When the Engine refuses for another reason.
    pub async fn remove(&self, twin: &Twin) -> Result<bool, EngineError> {
        match self.docker.remove_network(&twin.engine_id).await {
            Ok(()) | Err(DockerError::DockerResponseServerError { status_code: 404, .. }) => Ok(true),
            // "has active endpoints" (moby daemon/network.go, errdefs Forbidden).
            Err(DockerError::DockerResponseServerError {
                status_code: 403 | 409,
                ..
            }) => Ok(false),
            Err(source) => Err(call("remove", &twin.name)(source)),
        }
    }
}

fn call(operation: &'static str, network: &str) -> impl FnOnce(DockerError) -> EngineError {
    let network = network.to_string();
    move |source| EngineError::Call {
        operation,
        network,
        source,
    }
}

fn twin_request(network: &NetworkItem) -> NetworkCreateRequest {
    let config = network.ipam.iter().map(|ipam| IpamConfig {
        subnet: Some(ipam.subnet.clone()),
        gateway: ipam
            .gateway
            .split('/')
            .next()
            .map(ToString::to_string)
            .filter(|gateway| !gateway.is_empty()),
        ..Default::default()
    });
    NetworkCreateRequest {
        name: network.name.clone(),
        driver: Some(DRIVER.to_string()),
        internal: Some(network.internal),
        ipam: Some(Ipam {
            driver: Some("default".to_string()),
            config: Some(config.collect()),
            ..Default::default()
        }),
        options: Some(HashMap::from([
            (NETWORK_OPTION.to_string(), network.network_id.clone()),
            (VNI_OPTION.to_string(), network.vni.to_string()),
        ])),
        labels: Some(HashMap::from([(
            TWIN_LABEL.to_string(),
            network.network_id.clone(),
        )])),
        ..Default::default()
    }
}

/// Docker would refuse an overlap without saying with what, and take a name twice.
fn refuse_clash(network: &NetworkItem, others: &[Network]) -> Result<(), EngineError> {
    let no_subnet = || EngineError::NoSubnet {
        network: network.name.clone(),
    };
    let ipam = network.ipam.first().ok_or_else(no_subnet)?;
    let subnet: IpNet = ipam.subnet.parse().map_err(|_| no_subnet())?;
    for other in others {
        let name = other.name.clone().unwrap_or_default();
        let driver = other.driver.clone().unwrap_or_default();
        let configs = other
            .ipam
            .iter()
            .filter_map(|ipam| ipam.config.as_ref())
            .flatten();
        let subnets = configs.filter_map(|config| config.subnet.as_ref()?.parse::<IpNet>().ok());
        for other_subnet in subnets {
            if subnet.contains(&other_subnet.addr()) || other_subnet.contains(&subnet.addr()) {
                let network = network.name.clone();
                return Err(EngineError::Overlap {
                    network,
                    subnet,
                    other: name,
                    other_subnet,
                    driver,
                });
            }
        }
        if name == network.name {
            return Err(EngineError::Name {
                network: name,
                driver,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_control::model::IpamConfig as ModelIpam;

    fn overlay(subnet: &str) -> NetworkItem {
        NetworkItem {
            name: "app".to_string(),
            ipam: vec![ModelIpam {
                subnet: subnet.to_string(),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    fn bridge(name: &str, subnet: &str) -> Network {
        let config = IpamConfig {
            subnet: Some(subnet.to_string()),
            ..Default::default()
        };
        Network {
            name: Some(name.to_string()),
            driver: Some("bridge".to_string()),
            ipam: Some(Ipam {
                config: Some(vec![config]),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn a_clash_names_the_other_network() {
        let error = refuse_clash(&overlay("10.0.1.0/24"), &[bridge("lan", "10.0.0.0/16")]).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("10.0.0.0/16 of this node's network lan (driver bridge)")
        );
        let error = refuse_clash(&overlay("10.0.1.0/24"), &[bridge("app", "10.9.0.0/16")]).unwrap_err();
        assert!(matches!(error, EngineError::Name { .. }));
        assert!(refuse_clash(&overlay("10.0.1.0/24"), &[bridge("lan", "10.9.0.0/16")]).is_ok());
    }
}
