//! Whether a task is what its service now asks for (swarmkit manager/orchestrator/task.go `IsTaskDirty`).

use super::constraint;
use super::state::{is_vip_mode, networks_of, uses_ingress};
use crate::model::*;

/// False if the task must be replaced to follow the service's spec: its template or endpoint differ, except that
/// - a changed placement whose constraints the task's node still meets, and
/// - changed registry credentials once the image is there
///
/// need no new task. Replicas, service labels and the like are no part of the comparison.
pub fn is_up_to_date(service: &Service, task: &Task, node: Option<&Node>) -> bool {
    if task.spec_version == service.spec_version {
        return true;
    }
    endpoint_of(task.endpoint.as_ref()) == endpoint_of(service.spec.endpoint.as_ref())
        && same_networks(service, task)
        && same_template(&service.spec.task, task, node)
}

/// An absent endpoint and one that says nothing are the same.
fn endpoint_of(endpoint: Option<&EndpointSpec>) -> (bool, &[PortConfig]) {
    let ports = endpoint.map_or(&[][..], |e| &e.ports);
    (is_vip_mode(endpoint), ports)
}

/// Networks that stand outside the template are compared with those the task was made with. Apply puts the ingress
/// network first when a port is published through it.
fn same_networks(service: &Service, task: &Task) -> bool {
    if !service.spec.task.networks.is_empty() {
        return true;
    }
    let first = usize::from(uses_ingress(&task.ports));
    let of_task = task.networks.iter().skip(first);
    let asked = networks_of(&service.spec).iter();
    of_task
        .map(|n| (&n.network_id, &n.aliases))
        .eq(asked.map(|n| (&n.target, &n.aliases)))
}

fn same_template(asked: &TaskSpec, task: &Task, node: Option<&Node>) -> bool {
    if *asked == task.spec {
        return true;
    }
    let mut asked = asked.clone();
    let state = task.status.state;
    if (TaskState::Ready as i32..=TaskState::Running as i32).contains(&state) {
        asked
            .container
            .registry_auth
            .clone_from(&task.spec.container.registry_auth);
    }
    if asked.placement != task.spec.placement {
        let met = node.is_some_and(|node| meets(asked.placement.as_ref(), node));
        if met {
            asked.placement.clone_from(&task.spec.placement);
        }
    }
    asked == task.spec
}

fn meets(placement: Option<&Placement>, node: &Node) -> bool {
    let texts = placement.map_or(&[][..], |p| &p.constraints);
    constraint::parse_all(texts).is_some_and(|all| constraint::all_met(&all, node))
}
