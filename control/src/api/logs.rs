//! `/services/{id}/logs` and `/tasks/{id}/logs`.

use super::Api;
use super::answer::{Answer, look_up, manager, not_built};
use super::core::find;
use super::core::query::Query;

pub async fn service(api: &Api, reference: &str, _query: &Query) -> Answer {
    let manager = manager(api.daemon.membership())?;
    look_up(&manager, |state| find::service(state, reference)).await?;
    Err(not_built("the log of a service (docker service logs)"))
}

pub async fn task(api: &Api, reference: &str, _query: &Query) -> Answer {
    let manager = manager(api.daemon.membership())?;
    look_up(&manager, |state| find::task(state, reference)).await?;
    Err(not_built("the log of a task (docker service logs)"))
}
