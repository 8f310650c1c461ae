//! What a service says of its placement beyond what Swarm has fields for, and which of its data stays on a node.

use crate::model::*;

/// `binpack`: fill nodes up by reservations. `spread`, which is Swarm's way, without it.
pub const STRATEGY_LABEL: &str = "skep.placement.strategy";
/// `true`: spread the tasks anew when a node has room for more of them than another.
pub const REBALANCE_LABEL: &str = "skep.rebalance";
/// `true`: a task stays on the node that has the data of its local volumes.
pub const AFFINITY_LABEL: &str = "skep.volume.affinity";

/// Whether nodes are filled up one after the other.
pub fn is_packed(spec: &ServiceSpec) -> bool {
    label(spec, STRATEGY_LABEL) == "binpack"
}

/// Whether running tasks may be moved for the sake of the spread. Nodes that are filled up are uneven on purpose, and a task
/// that stays with its data does not move.
pub fn is_rebalanced(spec: &ServiceSpec) -> bool {
    label(spec, REBALANCE_LABEL) == "true" && !is_packed(spec) && !stays_with_data(spec)
}

/// Whether a task must stay where its local volumes are.
pub fn stays_with_data(spec: &ServiceSpec) -> bool {
    label(spec, AFFINITY_LABEL) == "true" && has_local_data(&spec.task)
}

/// Checks the labels; the error is for the user.
pub fn check_labels(spec: &ServiceSpec) -> Result<(), String> {
    let known: [(&str, [&str; 2]); 3] = [
        (STRATEGY_LABEL, ["spread", "binpack"]),
        (REBALANCE_LABEL, ["true", "false"]),
        (AFFINITY_LABEL, ["true", "false"]),
    ];
    for (name, values) in known {
        let Some(value) = spec.annotations.labels.get(name) else {
            continue;
        };
        if !values.contains(&value.as_str()) {
            let [first, second] = values;
            return Err(format!("label {name}: {value:?} is neither {first} nor {second}"));
        }
    }
    Ok(())
}

fn label<'a>(spec: &'a ServiceSpec, name: &str) -> &'a str {
    spec.annotations.labels.get(name).map_or("", String::as_str)
}

/// Whether the task has data that lies on its node alone: a named volume of the local driver. What the driver's options name (an
/// NFS export, a device) lies elsewhere, and a volume without a name is new with every task.
pub fn has_local_data(task: &TaskSpec) -> bool {
    task.container.mounts.iter().any(|mount| {
        let driver = mount.volume_driver.as_deref().unwrap_or("");
        mount.kind == "volume"
            && !mount.source.is_empty()
            && matches!(driver, "" | "local")
            && mount.volume_driver_options.is_empty()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_checked() {
        let mut spec = ServiceSpec::default();
        assert_eq!(check_labels(&spec), Ok(()));
        spec.annotations
            .labels
            .insert(STRATEGY_LABEL.into(), "binpack".into());
        assert_eq!(check_labels(&spec), Ok(()));
        assert!(is_packed(&spec));
        spec.annotations
            .labels
            .insert(REBALANCE_LABEL.into(), "yes".into());
        assert_eq!(
            check_labels(&spec),
            Err("label skep.rebalance: \"yes\" is neither true nor false".to_string())
        );
    }

    #[test]
    fn local_data_is_in_named_volumes_of_the_local_driver() {
        let has = |kind: &str, source: &str, driver: Option<&str>, options: &[(&str, &str)]| {
            let mut task = TaskSpec::default();
            task.container.mounts.push(Mount {
                kind: kind.into(),
                source: source.into(),
                target: "/data".into(),
                volume_driver: driver.map(Into::into),
                volume_driver_options: options
                    .iter()
                    .map(|(k, v)| (k.to_string(), v.to_string()))
                    .collect(),
                ..Mount::default()
            });
            has_local_data(&task)
        };
        assert!(has("volume", "data", None, &[]));
        assert!(has("volume", "data", Some("local"), &[]));
        assert!(!has("volume", "", None, &[]));
        assert!(!has("bind", "/srv", None, &[]));
        assert!(!has("volume", "data", Some("rexray"), &[]));
        assert!(!has("volume", "data", Some("local"), &[("type", "nfs")]));
    }
}
