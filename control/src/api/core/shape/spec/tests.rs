//! Specs there and back.

use super::*;
use serde_json::json;

fn read(value: &Value) -> model::ServiceSpec {
    let spec: ServiceSpec = serde_json::from_value(value.clone()).unwrap();
    spec.into_model().unwrap()
}

/// Clients read a spec, change a part and send it back: nothing else may change on the way.
#[test]
fn what_is_read_back_is_what_was_stored() {
    let full = json!({
        "Name": "web",
        "Labels": {"a": "b"},
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "busybox", "Labels": {"x": "y"}, "Command": ["a"], "Args": ["b"], "Hostname": "h",
                "Env": ["A=1"], "Dir": "/d", "User": "u", "Groups": ["g"], "TTY": true, "OpenStdin": true,
                "ReadOnly": true, "StopSignal": "SIGINT", "StopGracePeriod": 5, "Hosts": ["1.2.3.4 h"],
                "DNSConfig": {"Nameservers": ["1.1.1.1"], "Search": ["s"], "Options": ["o"]}, "Init": false,
                "Sysctls": {"k": "v"}, "CapabilityAdd": ["CAP_A"], "CapabilityDrop": ["CAP_B"],
                "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}],
                "Mounts": [
                    {"Type": "bind", "Source": "/s", "Target": "/t", "BindOptions": {"Propagation": "shared"}},
                    {"Type": "volume", "Source": "v", "Target": "/v", "VolumeOptions": {
                        "NoCopy": true, "Labels": {"l": "m"}, "DriverConfig": {"Name": "d", "Options": {"o": "p"}},
                    }},
                    {"Type": "tmpfs", "Target": "/tmp", "TmpfsOptions": {"SizeBytes": 7, "Mode": 448}},
                ],
            },
            "Resources": {"Limits": {"NanoCPUs": 1, "MemoryBytes": 2, "Pids": 3}, "Reservations": {"NanoCPUs": 4}},
            "RestartPolicy": {"Condition": "none", "Delay": 1, "MaxAttempts": 2, "Window": 3},
            "Placement": {
                "Constraints": ["node.role==manager"], "MaxReplicas": 2,
                "Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.dc"}}],
                "Platforms": [{"Architecture": "amd64", "OS": "linux"}],
            },
            "Networks": [{"Target": "n", "Aliases": ["w"], "DriverOpts": {"a": "b"}}],
            "LogDriver": {"Name": "json-file", "Options": {"max-size": "1m"}},
            "ForceUpdate": 3,
        },
        "Mode": {"Replicated": {"Replicas": 0}},
        "EndpointSpec": {"Mode": "dnsrr", "Ports": [
            {"Name": "p", "Protocol": "udp", "TargetPort": 53, "PublishedPort": 54, "PublishMode": "host"},
        ]},
    });
    let mut full = full;
    full["UpdateConfig"] = json!({
        "Parallelism": 2, "Delay": 3, "FailureAction": "rollback", "Monitor": 4, "MaxFailureRatio": 0.2,
        "Order": "start-first",
    });
    full["RollbackConfig"] = json!({"Parallelism": 0, "FailureAction": "continue"});
    full["TaskTemplate"]["ContainerSpec"]["Healthcheck"] = json!({
        "Test": ["CMD", "t"], "Interval": 1000000, "Timeout": 2000000, "StartPeriod": 3000000,
        "StartInterval": 4000000, "Retries": 5,
    });
    let bare = json!({"TaskTemplate": {"ContainerSpec": {"Image": "busybox"}}});
    let hollow = json!({
        "TaskTemplate": {
            "ContainerSpec": {"Image": "busybox", "DNSConfig": {}, "Healthcheck": {}}, "Resources": {"Limits": {}, "Reservations": {}},
            "RestartPolicy": {}, "Placement": {}, "LogDriver": {},
        },
        "UpdateConfig": {}, "RollbackConfig": {},
        "EndpointSpec": {},
    });
    for value in [full, bare, hollow] {
        let stored = read(&value);
        assert_eq!(read(&lower(&value)), stored, "whatever the case");
        let shown = serde_json::to_value(ServiceSpec::from(&stored)).unwrap();
        assert_eq!(read(&shown), stored, "{shown}");
    }
}

#[test]
fn what_asks_for_nothing_is_not_refused() {
    let spec = json!({
        "TaskTemplate": {"ContainerSpec": {
            "Image": "busybox",
            "Privileges": {"CredentialSpec": null, "SELinuxContext": null, "NoNewPrivileges": false},
            "Secrets": [], "Configs": [],
        }},
    });
    let spec: ServiceSpec = serde_json::from_value(spec).unwrap();
    assert_eq!(spec.not_built(), None);
}

/// With every name in lower case, but for maps of the user's.
fn lower(value: &Value) -> Value {
    let mut lowered = lower_names(value);
    crate::api::core::case::correct(&mut lowered);
    lowered
}

fn lower_names(value: &Value) -> Value {
    match value {
        Value::Object(members) => members
            .iter()
            .map(|(name, member)| match name.as_str() {
                "Labels" | "Options" | "DriverOpts" | "Sysctls" => (name.to_lowercase(), member.clone()),
                _ => (name.to_lowercase(), lower_names(member)),
            })
            .collect(),
        Value::Array(elements) => elements.iter().map(lower_names).collect(),
        other => other.clone(),
    }
}
