//! `/events`: the Engine's stream with the swarm's own events in it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::Api;
use super::answer::{Answer, BoxError, bad_request, filters};
use super::core::change::{Event, changes};
use super::core::filter::Filters;
use super::core::query::Query;
use super::core::time::seconds;
use super::networks::twins;
use super::pass::{Call, pass_with, stream as pass_stream};
use crate::core::state::ClusterState;
use crate::daemon::Membership;
use crate::manager::Manager;
use crate::model::Timestamp;

/// Events kept for `since`; as many as moby keeps.
const HISTORY: usize = 256;
/// Lines that wait for a slow client. When it is full the Engine's stream waits; a client that misses more than
/// [`HISTORY`] of the swarm's events is cut off, so that it reads them anew.
const PENDING: usize = 64;
/// How often a node that is no manager looks whether it has become one.
const MEMBERSHIP_PERIOD: Duration = Duration::from_secs(1);
/// Longest line of the Engine that is read.
const LINE_LIMIT: usize = 4 << 20;

const FILTERS: [&str; 15] = [
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
    "builder",
];

/// The times a client asked for.
#[derive(Clone, Copy)]
struct Span {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Span {
    fn holds(self, at: Timestamp) -> bool {
        self.since.is_none_or(|since| at >= since) && self.until.is_none_or(|until| at <= until)
    }
}

/// The swarm's events as this manager saw them.
pub struct EventLog {
    sender: broadcast::Sender<Event>,
    past: Mutex<VecDeque<Event>>,
}

impl EventLog {
    pub fn new() -> EventLog {
        EventLog {
            sender: broadcast::Sender::new(HISTORY),
            past: Mutex::new(VecDeque::new()),
        }
    }

    /// Later events, and those of the past if the client named a time. None is in both, none in neither.
    fn follow(&self, span: Span) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let past = self.past();
        let wants_past = span.since.is_some() || span.until.is_some();
        let old = past.iter().filter(|event| wants_past && span.holds(event.at));
        (old.cloned().collect(), self.sender.subscribe())
    }

    fn tell(&self, event: Event) {
        let mut past = self.past();
        if past.len() == HISTORY {
            past.pop_front();
        }
        past.push_back(event.clone());
        if self.sender.send(event).is_err() {
            tracing::trace!("nobody listens to events");
        }
    }

    fn past(&self) -> std::sync::MutexGuard<'_, VecDeque<Event>> {
        self.past
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Turns state changes into events for as long as this node is a manager, and waits while it is not.
pub async fn watch(api: Arc<Api>) {
    let work = async {
        loop {
            if let Membership::Manager(_, manager) = api.daemon.membership() {
                watch_manager(&api, &manager).await;
            }
            tokio::time::sleep(MEMBERSHIP_PERIOD).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = api.shutdown.cancelled() => {}
    }
}

async fn watch_manager(api: &Api, manager: &Arc<Manager>) {
    let mut states = manager.state();
    let mut seen: Arc<ClusterState> = states.borrow_and_update().clone();
    loop {
        tokio::select! {
            changed = states.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(MEMBERSHIP_PERIOD) => {
                match api.daemon.membership() {
                    Membership::Manager(_, now) if Arc::ptr_eq(&now, manager) => continue,
                    _ => return,
                }
            }
        }
        let state = states.borrow_and_update().clone();
        for event in changes(&seen, &state, now()) {
            api.events.tell(event);
        }
        seen = state;
    }
}

fn now() -> Timestamp {
    let now = jiff::Timestamp::now().as_nanosecond();
    Timestamp::try_from(now).unwrap_or(Timestamp::MAX)
}

/// Answers `/events`. The Engine's stream decides when it ends (`until`).
pub async fn stream(api: &Arc<Api>, mut call: Call, query: &Query) -> Answer {
    let filters = filters(query, &FILTERS)?;
    let time = |key: &str| match query.get(key) {
        "" => Ok(None),
        text => match seconds(text) {
            Some(time) => Ok(Some(time)),
            None => Err(bad_request(format!("invalid value for {key:?}: {text}"))),
        },
    };
    let span = Span {
        since: time("since")?,
        until: time("until")?,
    };
    let known = twins(api.daemon.as_ref());
    let mut engine_query = query.clone();
    if query.has("filters") {
        let mut asked = filters.clone();
        asked.set_if_there("network", |network| known.engine_id(network));
        engine_query.set("filters", asked.encode());
    }
    call.query = engine_query.encode();
    call.request.headers_mut().remove("accept");
    let response = pass_with(api, call, Vec::new()).await?;
    if response.status() != StatusCode::OK {
        return Ok(pass_stream(response));
    }
    let (mut parts, body) = response.into_parts();
    let (sender, receiver) = mpsc::channel(PENDING);
    tokio::spawn(merge(Arc::clone(api), body, filters, span, sender));
    let frames = ReceiverStream::new(receiver).map(|line: Result<Bytes, BoxError>| line.map(Frame::data));
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.remove(hyper::header::TRANSFER_ENCODING);
    parts.headers.remove(hyper::header::CONNECTION);
    parts
        .headers
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(Response::from_parts(
        parts,
        StreamBody::new(frames).boxed_unsync(),
    ))
}

async fn merge(
    api: Arc<Api>,
    mut engine: Incoming,
    filters: Filters,
    span: Span,
    sender: mpsc::Sender<Result<Bytes, BoxError>>,
) {
    let (past, mut swarm) = api.events.follow(span);
    let mut rest = Vec::new();
    for event in past.iter().filter(|event| event.passes(&filters)) {
        if sender.send(Ok(line(event))).await.is_err() {
            return;
        }
    }
    loop {
        tokio::select! {
            () = sender.closed() => return,
            () = api.shutdown.cancelled() => return,
            event = swarm.recv() => match event {
                Ok(event) if span.holds(event.at) && event.passes(&filters) => {
                    if sender.send(Ok(line(&event))).await.is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "an event client was too slow");
                    return;
                }
            },
            frame = engine.frame() => match frame {
                Some(Ok(frame)) => {
                    rest.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                    let lines = engine_lines(&api, &mut rest);
                    if rest.len() > LINE_LIMIT || (!lines.is_empty() && sender.send(Ok(lines)).await.is_err()) {
                        return;
                    }
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "the Docker Engine's events broke off");
                    return;
                }
                None => return,
            },
        }
    }
}

fn line(event: &Event) -> Bytes {
    let mut text = event.shape().to_string();
    text.push('\n');
    Bytes::from(text)
}

/// Takes the whole lines off `rest`, with ids of twin networks replaced and the twins' own life left out.
fn engine_lines(api: &Api, rest: &mut Vec<u8>) -> Bytes {
    let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else {
        return Bytes::new();
    };
    let tail = rest.split_off(end + 1);
    let whole = std::mem::replace(rest, tail);
    let known = twins(api.daemon.as_ref());
    if known.is_empty() {
        return Bytes::from(whole);
    }
    let mut out = Vec::with_capacity(whole.len());
    for text in whole.split_inclusive(|byte| *byte == b'\n') {
        match serde_json::from_slice(text) {
            Ok(mut event) => {
                if known.rewrite_event(&mut event) {
                    out.extend_from_slice(event.to_string().as_bytes());
                    out.push(b'\n');
                }
            }
            Err(_) => out.extend_from_slice(text),
        }
    }
    Bytes::from(out)
}
