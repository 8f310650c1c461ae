//! Bodies of the libnetwork remote driver protocol (moby libnetwork/drivers/remote/api/api.go).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Options of `network create` arrive under this key of [`CreateNetwork::options`].
pub const GENERIC_OPTIONS: &str = "com.docker.network.generic";
/// True for networks without a way out.
pub const INTERNAL_OPTION: &str = "com.docker.network.internal";
/// Published ports of a container in [`ProgramConnectivity::options`].
pub const PORT_MAP_OPTION: &str = "com.docker.network.portmap";

/// `RouteType` of a route without a next hop.
pub const ROUTE_CONNECTED: u8 = 1;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateNetwork {
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    #[serde(default)]
    pub options: Option<Map<String, Value>>,
    #[serde(default, rename = "IPv4Data")]
    pub ipv4_data: Option<Vec<IpamData>>,
}

impl CreateNetwork {
    /// What was given with `--opt`.
    pub fn generic(&self) -> BTreeMap<String, String> {
        let generic = self
            .options
            .as_ref()
            .and_then(|options| options.get(GENERIC_OPTIONS));
        let Some(Value::Object(generic)) = generic else {
            return BTreeMap::new();
        };
        let texts = generic
            .iter()
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_string())));
        texts.collect()
    }

    pub fn internal(&self) -> bool {
        let internal = self
            .options
            .as_ref()
            .and_then(|options| options.get(INTERNAL_OPTION));
        internal.and_then(Value::as_bool).unwrap_or(false)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct IpamData {
    /// CIDR text.
    #[serde(default)]
    pub pool: String,
    /// CIDR text.
    #[serde(default)]
    pub gateway: String,
}

#[derive(Debug, Deserialize)]
pub struct NetworkRef {
    #[serde(rename = "NetworkID")]
    pub network_id: String,
}

#[derive(Debug, Deserialize)]
pub struct EndpointRef {
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateEndpoint {
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    #[serde(default)]
    pub interface: Option<Interface>,
}

/// In a question: what Docker has settled. In an answer: what the driver adds; repeating a settled field is an error.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Interface {
    /// CIDR text.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    #[serde(rename = "AddressIPv6", skip_serializing_if = "String::is_empty")]
    pub address_ipv6: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac_address: String,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreatedEndpoint {
    pub interface: Interface,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Join {
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    /// Path of the container's network namespace: the same for all networks of a container.
    pub sandbox_key: String,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Joined {
    pub interface_name: InterfaceName,
    /// Without it Docker adds docker_gwbridge, whose default route kept client addresses would leave by.
    pub gateway: String,
    pub static_routes: Vec<StaticRoute>,
    /// No docker_gwbridge either when there is no gateway.
    pub disable_gateway_service: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct InterfaceName {
    pub src_name: String,
    pub dst_prefix: String,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct StaticRoute {
    pub destination: String,
    pub route_type: u8,
    pub next_hop: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ProgramConnectivity {
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    #[serde(default)]
    pub options: Option<Map<String, Value>>,
}

/// One `docker run -p` of a container on an overlay.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PortBinding {
    /// IANA protocol number.
    pub proto: u8,
    /// Port in the container.
    pub port: u16,
    /// Address of the node to listen on; empty or 0.0.0.0 is every one.
    #[serde(default, rename = "HostIP")]
    pub host_ip: String,
    /// 0 = any free one.
    #[serde(default)]
    pub host_port: u16,
}

impl ProgramConnectivity {
    /// The published ports; `Err` holds what cannot be read.
    pub fn port_map(&self) -> Result<Vec<PortBinding>, serde_json::Error> {
        match self
            .options
            .as_ref()
            .and_then(|options| options.get(PORT_MAP_OPTION))
        {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(value) => serde_json::from_value(value.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_own_bodies_are_read() {
        let create: CreateNetwork = serde_json::from_str(
            r#"{"NetworkID":"n1","Options":{"com.docker.network.enable_ipv6":false,"com.docker.network.internal":true,
            "com.docker.network.generic":{"com.docker.skep.vni":"4097"}},
            "IPv4Data":[{"AddressSpace":"LocalDefault","Gateway":"10.0.1.1/24","Pool":"10.0.1.0/24"}],"IPv6Data":[]}"#,
        )
        .unwrap();
        assert!(create.internal());
        assert_eq!(create.generic()["com.docker.skep.vni"], "4097");
        assert_eq!(create.ipv4_data.unwrap()[0].gateway, "10.0.1.1/24");

        let endpoint: CreateEndpoint = serde_json::from_str(
            r#"{"NetworkID":"n1","EndpointID":"e1","Interface":{"Address":"10.0.1.3/24","AddressIPv6":"","MacAddress":""},"Options":{}}"#,
        )
        .unwrap();
        assert_eq!(endpoint.interface.unwrap().address, "10.0.1.3/24");
    }

    #[test]
    fn port_map_absent_null_and_given() {
        let body = |options: &str| -> ProgramConnectivity {
            serde_json::from_str(&format!(
                r#"{{"NetworkID":"n","EndpointID":"e","Options":{options}}}"#
            ))
            .unwrap()
        };
        assert!(body("null").port_map().unwrap().is_empty());
        assert!(
            body(r#"{"com.docker.network.portmap":null}"#)
                .port_map()
                .unwrap()
                .is_empty()
        );
        let given = body(
            r#"{"com.docker.network.portmap":[{"Proto":6,"IP":"","Port":80,"HostIP":"","HostPort":8080,"HostPortEnd":8080}]}"#,
        );
        assert_eq!(given.port_map().unwrap()[0].host_port, 8080);
        assert!(body(r#"{"com.docker.network.portmap":"x"}"#).port_map().is_err());
    }
}
