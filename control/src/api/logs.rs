//! `/services/{id}/logs` and `/tasks/{id}/logs`, whichever nodes the tasks are or were on. A log that cannot be read hides
//! none of the others: the stream ends with Swarm's warning.

mod gather;
mod source;

use std::sync::Arc;

use futures_util::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::Response;
use hyper::body::Frame;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Api;
use super::answer::{Answer, bad_request, look_up, manager};
use super::core::find;
use super::core::query::{Query, encode};
use super::core::time::seconds;
use super::core::version::ApiVersion;
use crate::daemon::{ApiError, Membership};
use gather::{Gather, Selector};

pub use source::container_log;

/// Pieces that wait for a slow client, of all tasks together; the Engines' streams wait when it is full.
const PENDING: usize = 32;
/// From here on framed logs have a content type of their own.
const MULTIPLEXED: ApiVersion = ApiVersion { major: 1, minor: 42 };

pub async fn service(api: &Arc<Api>, reference: &str, version: Option<ApiVersion>, query: &Query) -> Answer {
    let manager = manager(api.daemon.membership())?;
    checked(query)?;
    let (_, service) = look_up(&manager, |state| find::service(state, reference)).await?;
    let tty = service.spec.task.container.tty;
    stream(api, Selector::Service(service.id.clone()), tty, version, query)
}

pub async fn task(api: &Arc<Api>, reference: &str, version: Option<ApiVersion>, query: &Query) -> Answer {
    let manager = manager(api.daemon.membership())?;
    checked(query)?;
    let (_, task) = look_up(&manager, |state| find::task(state, reference)).await?;
    let tty = task.spec.container.tty;
    stream(api, Selector::Task(task.id.clone()), tty, version, query)
}

/// moby daemon/server/router/swarm/helpers.go swarmLogs and daemon/cluster/services.go ServiceLogs.
fn checked(query: &Query) -> Result<(), ApiError> {
    if !query.flag("stdout") && !query.flag("stderr") {
        return Err(bad_request("must specify at least one of 'stdout' or 'stderr'"));
    }
    let since = query.get("since");
    if !since.is_empty() && seconds(since).is_none() {
        return Err(bad_request(format!("invalid value for \"since\": {since}")));
    }
    match query.get("tail") {
        "" | "all" => Ok(()),
        number => match number.parse::<i64>() {
            Ok(0..) => Ok(()),
            Ok(_) => Err(bad_request("negative tail values not supported")),
            Err(_) => Err(bad_request("tail value must be a positive integer or \"all\"")),
        },
    }
}

fn stream(
    api: &Arc<Api>,
    selector: Selector,
    tty: bool,
    version: Option<ApiVersion>,
    query: &Query,
) -> Answer {
    let Membership::Manager(member, manager) = api.daemon.membership() else {
        // It was one a moment ago.
        return Err(ApiError::from(crate::manager::ControlError::Stopped));
    };
    let (sender, receiver) = mpsc::channel(PENDING);
    let gather = Gather {
        api: Arc::clone(api),
        manager,
        own_node: member.node_id,
        selector,
        query: engine_query(query),
        details: query.flag("details"),
        timestamps: query.flag("timestamps"),
        follow: query.flag("follow"),
        tty,
        sender,
    };
    tokio::spawn(gather.run());
    let frames = ReceiverStream::new(receiver).map(|piece| piece.map(Frame::data));
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let content_type = if !tty && version.is_none_or(|version| version >= MULTIPLEXED) {
        "application/vnd.docker.multiplexed-stream"
    } else {
        "application/vnd.docker.raw-stream"
    };
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    Ok(response)
}

/// What the Engines are asked with.
fn engine_query(query: &Query) -> String {
    let keys = [
        "follow",
        "stdout",
        "stderr",
        "since",
        "timestamps",
        "tail",
        "details",
    ];
    let parts = keys
        .into_iter()
        .filter(|key| query.has(key))
        .map(|key| format!("{key}={}", encode(query.get(key))));
    parts.collect::<Vec<_>>().join("&")
}
