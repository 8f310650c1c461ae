//! Names of JSON members whatever their case, as Go reads them: docker-py writes `replicated` for `Replicated`.

use serde_json::{Map, Value};

/// Every member that a body of ours may have.
const MEMBERS: &[&str] = &[
    "AdvertiseAddr",
    "Aliases",
    "Architecture",
    "Args",
    "Attachable",
    "AutoLockManagers",
    "AuxiliaryAddresses",
    "Availability",
    "BindOptions",
    "CAConfig",
    "CapabilityAdd",
    "CapabilityDrop",
    "Command",
    "Condition",
    "Config",
    "ConfigFrom",
    "ConfigOnly",
    "Configs",
    "Consistency",
    "Constraints",
    "Container",
    "ContainerSpec",
    "CreateMountpoint",
    "DataPathAddr",
    "DataPathPort",
    "DefaultAddrPool",
    "Delay",
    "Dir",
    "Dispatcher",
    "DNSConfig",
    "Driver",
    "DriverConfig",
    "DriverOpts",
    "ElectionTick",
    "EnableIPv6",
    "EncryptionConfig",
    "EndpointConfig",
    "EndpointSpec",
    "Env",
    "ExternalCAs",
    "FailureAction",
    "ForceNewCluster",
    "ForceRotate",
    "ForceUpdate",
    "Gateway",
    "GenericResources",
    "Global",
    "GlobalJob",
    "Groups",
    "Hard",
    "Healthcheck",
    "HeartbeatPeriod",
    "HeartbeatTick",
    "Hostname",
    "Hosts",
    "Image",
    "Ingress",
    "Init",
    "Internal",
    "Interval",
    "IPAM",
    "IPAMConfig",
    "IPRange",
    "IPv4Address",
    "Isolation",
    "JoinToken",
    "KeepOldSnapshots",
    "Labels",
    "Limits",
    "ListenAddr",
    "LogDriver",
    "LogEntriesForSlowFollowers",
    "MaxAttempts",
    "MaxFailureRatio",
    "MaxReplicas",
    "MemoryBytes",
    "MemorySwappiness",
    "Mode",
    "Monitor",
    "Mounts",
    "Name",
    "Nameservers",
    "NanoCPUs",
    "Network",
    "NetworkAttachmentSpec",
    "Networks",
    "NoCopy",
    "NodeCertExpiry",
    "NonRecursive",
    "OomScoreAdj",
    "OpenStdin",
    "Options",
    "Orchestration",
    "Order",
    "OS",
    "Parallelism",
    "Pids",
    "Placement",
    "Platforms",
    "PluginSpec",
    "Ports",
    "Preferences",
    "Privileges",
    "Propagation",
    "Protocol",
    "PublishedPort",
    "PublishMode",
    "Raft",
    "Range",
    "ReadOnly",
    "ReadOnlyForceRecursive",
    "ReadOnlyNonRecursive",
    "RemoteAddrs",
    "Replicas",
    "Replicated",
    "ReplicatedJob",
    "Reservations",
    "Resources",
    "RestartPolicy",
    "Retries",
    "Role",
    "RollbackConfig",
    "Runtime",
    "Scope",
    "Search",
    "Secrets",
    "SigningCACert",
    "SigningCAKey",
    "SizeBytes",
    "SnapshotInterval",
    "Soft",
    "Source",
    "Spec",
    "Spread",
    "SpreadDescriptor",
    "StartInterval",
    "StartPeriod",
    "StopGracePeriod",
    "StopSignal",
    "Subnet",
    "SubnetSize",
    "Subpath",
    "SwapBytes",
    "Sysctls",
    "Target",
    "TargetPort",
    "TaskDefaults",
    "TaskHistoryRetentionLimit",
    "TaskTemplate",
    "Test",
    "Timeout",
    "TmpfsOptions",
    "TTY",
    "Type",
    "Ulimits",
    "UpdateConfig",
    "User",
    "VolumeOptions",
    "Window",
];
/// Members whose value has keys of the user's.
const USER_KEYS: [&str; 5] = ["Labels", "Options", "DriverOpts", "Sysctls", "AuxiliaryAddresses"];

/// Gives known members the case they are known by, except in maps whose keys are the user's.
pub fn correct(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, mut member) in std::mem::take(members) {
                let name = known(&name).map_or(name, str::to_string);
                if !USER_KEYS.contains(&name.as_str()) || member.is_array() {
                    correct(&mut member);
                }
                insert(members, name, member);
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(correct),
        _ => {}
    }
}

/// Of a member given twice in different case the one in the right case counts.
fn insert(members: &mut Map<String, Value>, name: String, member: Value) {
    members.entry(name).or_insert(member);
}

fn known(name: &str) -> Option<&'static str> {
    MEMBERS
        .iter()
        .copied()
        .find(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_are_corrected_and_user_keys_are_left() {
        let mut value = json!({
            "name": "web", "LABELS": {"name": "x"}, "Mode": {"replicated": {"replicas": 2}},
            "tasktemplate": {"ContainerSpec": {"dnsconfig": {"options": ["a"]}, "tty": true}}, "Other": {"name": 1},
        });
        correct(&mut value);
        let expected = json!({
            "Name": "web", "Labels": {"name": "x"}, "Mode": {"Replicated": {"Replicas": 2}},
            "TaskTemplate": {"ContainerSpec": {"DNSConfig": {"Options": ["a"]}, "TTY": true}}, "Other": {"Name": 1},
        });
        assert_eq!(value, expected);
    }
}
