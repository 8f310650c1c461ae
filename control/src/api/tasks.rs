//! `/tasks`.

use std::sync::Arc;

use super::Api;
use super::answer::{Answer, bad_request, filters, look_up, manager, ok};
use super::core::find;
use super::core::query::Query;
use super::core::shape::task::{TaskShape, is_task_state, task_shape, task_state_text};
use crate::core::dirty;
use crate::core::state::{ClusterState, task_name};
use crate::daemon::ApiError;
use crate::model::Task;

const FILTERS: [&str; 8] = [
    "id",
    "name",
    "label",
    "service",
    "node",
    "desired-state",
    "runtime",
    "_up-to-date",
];

pub fn list(api: &Api, query: &Query) -> Answer {
    let manager = manager(api.daemon.membership())?;
    let filters = filters(query, &FILTERS)?;
    if let Some(bad) = filters
        .get("desired-state")
        .iter()
        .find(|text| !is_task_state(&text.to_ascii_lowercase()))
    {
        return Err(bad_request(format!("Invalid desired-state filter: '{bad}'")));
    }
    let state = manager.state().borrow().clone();
    let services = ids(filters.get("service"), |reference| {
        Ok(find::service(&state, reference)?.id.clone())
    })?;
    let nodes = ids(filters.get("node"), |reference| {
        Ok(find::node(&state, reference)?.id.clone())
    })?;
    let tasks = state.tasks.values().filter(|task| {
        let among = |ids: &[String], id: &String| ids.is_empty() || ids.contains(id);
        filters.prefix("id", &task.id)
            && filters.prefix("name", &task_name(task))
            && filters.labels("label", &task.service.labels)
            && among(&services, &task.service_id)
            && among(&nodes, &task.node_id)
            && filters.any("desired-state", |word| {
                word.eq_ignore_ascii_case(task_state_text(task.desired_state()))
            })
            && filters.exact("runtime", "container")
            && (!filters.has("_up-to-date") || up_to_date(&state, task))
    });
    let shapes: Vec<TaskShape> = tasks.map(|task| task_shape(&state, task)).collect();
    ok(&shapes)
}

fn ids(
    references: &[String],
    find: impl Fn(&str) -> Result<String, ApiError>,
) -> Result<Vec<String>, ApiError> {
    references.iter().map(|reference| find(reference)).collect()
}

/// Whether the task was made by the service's present spec: what `docker service create` and `update` wait for.
fn up_to_date(state: &ClusterState, task: &Arc<Task>) -> bool {
    let node = state.nodes.get(&task.node_id).map(Arc::as_ref);
    state
        .services
        .get(&task.service_id)
        .is_some_and(|service| dirty::is_up_to_date(service, task, node))
}

pub async fn inspect(api: &Api, reference: &str) -> Answer {
    let manager = manager(api.daemon.membership())?;
    let (state, task) = look_up(&manager, |state| find::task(state, reference)).await?;
    ok(&task_shape(&state, &task))
}
