//! Members of a service spec that are newer than the API version of the client that sends them: dropped, as moby's
//! daemon/server/router/swarm/helpers.go adjustForAPIVersion does. Answers are the same at every version, as there.

use serde_json::Value;

use super::version::ApiVersion;

/// `(first version that has it, where it is)`; `*` stands for all elements of a list.
const MEMBERS: &[(u32, &[&str])] = &[
    (40, &["TaskTemplate", "ContainerSpec", "Sysctls"]),
    (
        40,
        &[
            "TaskTemplate",
            "ContainerSpec",
            "Privileges",
            "CredentialSpec",
            "Config",
        ],
    ),
    (40, &["TaskTemplate", "ContainerSpec", "Configs", "*", "Runtime"]),
    (40, &["TaskTemplate", "Placement", "MaxReplicas"]),
    (41, &["TaskTemplate", "ContainerSpec", "CapabilityAdd"]),
    (41, &["TaskTemplate", "ContainerSpec", "CapabilityDrop"]),
    (41, &["TaskTemplate", "ContainerSpec", "Ulimits"]),
    (41, &["TaskTemplate", "Resources", "Limits", "Pids"]),
    (41, &["Mode", "ReplicatedJob"]),
    (41, &["Mode", "GlobalJob"]),
    (44, &["TaskTemplate", "ContainerSpec", "Privileges", "Seccomp"]),
    (44, &["TaskTemplate", "ContainerSpec", "Privileges", "AppArmor"]),
    (
        44,
        &["TaskTemplate", "ContainerSpec", "Privileges", "NoNewPrivileges"],
    ),
    (
        44,
        &["TaskTemplate", "ContainerSpec", "Healthcheck", "StartInterval"],
    ),
    (
        46,
        &[
            "TaskTemplate",
            "ContainerSpec",
            "Mounts",
            "*",
            "TmpfsOptions",
            "Options",
        ],
    ),
    (46, &["TaskTemplate", "ContainerSpec", "OomScoreAdj"]),
    (52, &["TaskTemplate", "Resources", "SwapBytes"]),
    (52, &["TaskTemplate", "Resources", "MemorySwappiness"]),
];

/// Drops what a client of `version` cannot mean; without a version nothing is too new.
pub fn adjust(version: Option<ApiVersion>, spec: &mut Value) {
    let Some(version) = version else { return };
    for (minor, path) in MEMBERS {
        let since = ApiVersion {
            major: 1,
            minor: *minor,
        };
        if version < since {
            drop_member(spec, path);
        }
    }
}

fn drop_member(value: &mut Value, path: &[&str]) {
    match (path, value) {
        ([name], Value::Object(members)) => {
            members.remove(*name);
        }
        (["*", rest @ ..], Value::Array(elements)) => {
            elements.iter_mut().for_each(|element| drop_member(element, rest));
        }
        ([name, rest @ ..], Value::Object(members)) => {
            if let Some(member) = members.get_mut(*name) {
                drop_member(member, rest);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn adjusted(version: &str, mut spec: Value) -> Value {
        adjust(ApiVersion::parse(version), &mut spec);
        spec
    }

    #[test]
    fn a_member_is_dropped_before_its_version_and_kept_from_it_on() {
        let mounts = json!([{"Type": "bind"}, {"TmpfsOptions": {"SizeBytes": 1, "Options": [["noexec"]]}}]);
        let spec = json!({
            "Mode": {"ReplicatedJob": {}},
            "TaskTemplate": {
                "ContainerSpec": {"Image": "i", "Mounts": mounts, "OomScoreAdj": 5},
                "Placement": {"MaxReplicas": 2, "Constraints": ["node.role==manager"]},
            },
        });
        assert_eq!(adjusted("1.53", spec.clone()), spec);
        let mut at_40 = spec.clone();
        at_40["Mode"] = json!({});
        at_40["TaskTemplate"]["ContainerSpec"] =
            json!({"Image": "i", "Mounts": [{"Type": "bind"}, {"TmpfsOptions": {"SizeBytes": 1}}]});
        assert_eq!(adjusted("1.40", spec.clone()), at_40);
        at_40["TaskTemplate"]["Placement"] = json!({"Constraints": ["node.role==manager"]});
        assert_eq!(adjusted("1.39", spec.clone()), at_40);
        let mut unversioned = spec.clone();
        adjust(None, &mut unversioned);
        assert_eq!(unversioned, spec);
    }

    #[test]
    fn what_has_another_shape_is_left_to_the_parser() {
        assert_eq!(adjusted("1.24", json!([1])), json!([1]));
        assert_eq!(adjusted("1.24", json!({"Mode": 3})), json!({"Mode": 3}));
    }
}
