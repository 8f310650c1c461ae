//! `/services/{id}/logs` and `/tasks/{id}/logs`: of tasks on this node, by the Engine. The log of a task elsewhere is
//! not read yet: a line says so in its place, and hides none of the others.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, Response, StatusCode};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Api;
use super::answer::{Answer, BoxError, bad_request, empty_body, look_up, manager, not_built};
use super::core::find;
use super::core::log::{Rewriter, STDERR, Style, details};
use super::core::query::{Query, encode};
use super::core::version::ApiVersion;
use crate::core::state::ClusterState;
use crate::daemon::{ApiError, Membership};
use crate::model::Task;

/// Pieces that wait for a slow client, of all tasks together; the Engine's streams wait when it is full.
const PENDING: usize = 32;
/// From here on framed logs have a content type of their own.
const MULTIPLEXED: ApiVersion = ApiVersion { major: 1, minor: 42 };

pub async fn service(api: &Arc<Api>, reference: &str, version: Option<ApiVersion>, query: &Query) -> Answer {
    let manager = manager(api.daemon.membership())?;
    let (state, service) = look_up(&manager, |state| find::service(state, reference)).await?;
    let tasks = state.tasks.values().filter(|task| task.service_id == service.id);
    stream(
        api,
        &state,
        tasks.cloned().collect(),
        service.spec.task.container.tty,
        version,
        query,
    )
}

pub async fn task(api: &Arc<Api>, reference: &str, version: Option<ApiVersion>, query: &Query) -> Answer {
    let manager = manager(api.daemon.membership())?;
    let (state, task) = look_up(&manager, |state| find::task(state, reference)).await?;
    let tty = task.spec.container.tty;
    stream(api, &state, vec![task], tty, version, query)
}

fn checked(query: &Query) -> Result<(), ApiError> {
    if !query.flag("stdout") && !query.flag("stderr") {
        return Err(bad_request("must specify at least one of 'stdout' or 'stderr'"));
    }
    match query.get("tail") {
        "" | "all" => Ok(()),
        number => match number.parse::<i64>() {
            Ok(0..) => Ok(()),
            Ok(_) => Err(bad_request("negative tail values not supported")),
            Err(_) => Err(bad_request(format!("invalid value for tail: {number:?}"))),
        },
    }
}

fn stream(
    api: &Arc<Api>,
    state: &ClusterState,
    tasks: Vec<Arc<Task>>,
    tty: bool,
    version: Option<ApiVersion>,
    query: &Query,
) -> Answer {
    checked(query)?;
    let Membership::Manager(member, _) = api.daemon.membership() else {
        return Err(not_built("the log of a task from a node that is no manager"));
    };
    let (here, elsewhere): (Vec<_>, Vec<_>) = tasks
        .into_iter()
        .filter(|task| !task.node_id.is_empty() && task.status.container.is_some())
        .partition(|task| task.node_id == member.node_id);
    if here.is_empty() && !elsewhere.is_empty() {
        return Err(not_built(
            "the log of a task on another node (ask that node's docker logs)",
        ));
    }
    let with_details = query.flag("details");
    let style = |task: &Task| Style {
        details: if with_details {
            details(task)
        } else {
            String::new()
        },
        timestamps: query.flag("timestamps"),
        tty,
    };
    let (sender, receiver) = mpsc::channel(PENDING);
    let mut notices = Vec::new();
    for task in elsewhere {
        let node = state
            .nodes
            .get(&task.node_id)
            .and_then(|node| node.description.as_ref());
        let name = node.map_or(task.node_id.as_str(), |description| &description.hostname);
        let text = format!(
            "warning: incomplete log stream: this task's log is on node {name} and is not read from here yet\n"
        );
        let plain = Style {
            timestamps: false,
            ..style(&task)
        };
        plain.write(STDERR, text.as_bytes(), &mut notices);
    }
    for task in here {
        let container = task
            .status
            .container
            .as_ref()
            .map_or("", |container| &container.container_id);
        let path = format!("/containers/{}/logs?{}", encode(container), engine_query(query));
        tokio::spawn(follow(
            Arc::clone(api),
            path,
            Rewriter::new(style(&task)),
            sender.clone(),
        ));
    }
    drop(sender);
    let first = futures_util::stream::iter((!notices.is_empty()).then(|| Ok(Bytes::from(notices))));
    let frames = first
        .chain(ReceiverStream::new(receiver))
        .map(|piece: Result<Bytes, BoxError>| piece.map(Frame::data));
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

/// What of a query the Engine is asked with: everything but `details`, which are ours.
fn engine_query(query: &Query) -> String {
    let parts = ["follow", "stdout", "stderr", "since", "timestamps", "tail"]
        .into_iter()
        .filter(|key| query.has(key))
        .map(|key| format!("{key}={}", encode(query.get(key))));
    parts.collect::<Vec<_>>().join("&")
}

/// Copies one container's log. A container that is gone (an old task's) has none.
async fn follow(
    api: Arc<Api>,
    path: String,
    rewriter: Rewriter,
    sender: mpsc::Sender<Result<Bytes, BoxError>>,
) {
    let request = match Request::get(&path).header(HOST, "docker").body(empty_body()) {
        Ok(request) => request,
        Err(error) => {
            tracing::warn!(%error, path, "asking for a log");
            return;
        }
    };
    match api.engine.send(request).await {
        Ok(response) if response.status() == StatusCode::OK => {
            tokio::select! {
                () = copy(response.into_body(), rewriter, &sender) => {}
                () = sender.closed() => {}
                () = api.shutdown.cancelled() => {}
            }
        }
        Ok(response) => tracing::debug!(status = %response.status(), path, "no log"),
        Err(error) => {
            if sender.send(Err(error.into())).await.is_err() {
                tracing::debug!("the reader of a log went away");
            }
        }
    }
}

async fn copy(mut body: Incoming, mut rewriter: Rewriter, sender: &mpsc::Sender<Result<Bytes, BoxError>>) {
    while let Some(frame) = body.frame().await {
        let piece = match frame {
            Ok(frame) => rewriter.take(frame.data_ref().map_or(&[][..], |data| data)),
            Err(error) => {
                tracing::debug!(%error, "a log broke off");
                break;
            }
        };
        if !piece.is_empty() && sender.send(Ok(Bytes::from(piece))).await.is_err() {
            return;
        }
    }
    let rest = rewriter.end();
    if !rest.is_empty() && sender.send(Ok(Bytes::from(rest))).await.is_err() {
        tracing::debug!("the reader of a log went away");
    }
}
