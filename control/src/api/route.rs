//! Who answers a request.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde_json::Value;

use super::answer::{Answer, bad_request, fail, manager, not_built, ok};
use super::core::find::FindError;
use super::core::query::{Query, decode};
use super::core::version;
use super::pass::{Call, pass};
use super::{Api, containers, events, ingress, logs, networks, nodes, services, swarm, system, tasks};

/// Splits the target and hands the request to whoever answers it.
pub async fn answer(api: &Arc<Api>, request: Request<Incoming>) -> Answer {
    let uri = request.uri().clone();
    let (version, path) = version::split(uri.path()).map_err(|error| bad_request(error.to_string()))?;
    let raw_query = uri.query().unwrap_or("").to_string();
    let query = Query::parse(&raw_query);
    let segments: Vec<String> = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .map(|segment| decode(segment, false))
        .collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let call = Call {
        version,
        path: path.to_string(),
        query: raw_query,
        request,
    };
    let method = call.request.method().clone();
    match (method.as_str(), segments.as_slice()) {
        ("GET" | "HEAD", ["_ping"]) => system::ping(api, &method).await,
        ("GET", ["version"]) => system::version(api).await,
        ("GET", ["info"]) => system::info(api).await,
        ("GET", ["events"]) => events::stream(api, call, &query).await,
        (
            _,
            [
                "swarm" | "nodes" | "services" | "tasks" | "secrets" | "configs",
                ..,
            ],
        ) => swarm_path(api, method.as_str(), &segments, call, &query).await,
        (_, ["skep", "ingress", "addresses", ..]) => ingress_path(api, &method, &segments[3..], call).await,
        ("GET", ["skep", ..]) => page(api, &segments[1..].join("/")).await,
        (_, ["networks", ..]) => networks::answer(api, method.as_str(), &segments, call, &query).await,
        (_, ["containers", ..]) => containers::answer(api, method.as_str(), &segments, call, &query).await,
        _ => pass(api, call).await,
    }
}

/// What the `skep` command reads.
async fn page(api: &Api, path: &str) -> Answer {
    match api.daemon.page(path).await {
        Some(page) => ok(&page),
        None => Err(fail(StatusCode::NOT_FOUND, "page not found")),
    }
}

async fn ingress_path(api: &Api, method: &Method, rest: &[&str], call: Call) -> Answer {
    match (method.as_str(), rest) {
        ("GET", []) => ingress::list(api),
        ("POST", []) => ingress::create(api, call.request.into_body()).await,
        ("DELETE", [address]) => ingress::remove(api, address).await,
        ("POST", [address, "move"]) => ingress::move_to(api, address, call.request.into_body()).await,
        _ => Err(fail(StatusCode::NOT_FOUND, "page not found")),
    }
}

async fn swarm_path(api: &Arc<Api>, method: &str, segments: &[&str], call: Call, query: &Query) -> Answer {
    if method == "GET" {
        // A read sees every write that any manager has answered, or says that there is no leader.
        manager(api.daemon.membership())?.barrier().await?;
    }
    match (method, segments) {
        ("GET", ["swarm"]) => swarm::inspect(api),
        ("POST", ["swarm", "init"]) => swarm::init(api, call.request.into_body()).await,
        ("POST", ["swarm", "join"]) => swarm::join(api, call.request.into_body()).await,
        ("POST", ["swarm", "leave"]) => swarm::leave(api, query).await,
        ("POST", ["swarm", "update"]) => swarm::update(api, call.request.into_body(), query).await,
        ("GET", ["swarm", "unlockkey"]) => swarm::unlock_key(api),
        ("POST", ["swarm", "unlock"]) => swarm::unlock(api, call.request.into_body()).await,
        ("GET", ["nodes"]) => nodes::list(api, query),
        ("GET", ["nodes", id]) => nodes::inspect(api, id).await,
        ("POST", ["nodes", id, "update"]) => nodes::update(api, id, call.request.into_body(), query).await,
        ("DELETE", ["nodes", id]) => nodes::remove(api, id, query).await,
        ("GET", ["services"]) => services::list(api, call.version, query),
        ("POST", ["services", "create"]) => services::create(api, call.version, call.request).await,
        ("GET", ["services", id]) => services::inspect(api, id, query).await,
        ("POST", ["services", id, "update"]) => {
            services::update(api, id, call.version, call.request, query).await
        }
        ("DELETE", ["services", id]) => services::remove(api, id).await,
        ("GET", ["services", id, "logs"]) => logs::service(api, id, call.version, query).await,
        ("GET", ["tasks"]) => tasks::list(api, query),
        ("GET", ["tasks", id]) => tasks::inspect(api, id).await,
        ("GET", ["tasks", id, "logs"]) => logs::task(api, id, call.version, query).await,
        ("GET", ["secrets" | "configs"]) => none_stored(api, query),
        ("POST", ["secrets", "create"]) => Err(not_built("a secret")),
        ("POST", ["configs", "create"]) => Err(not_built("a config")),
        (_, ["secrets", id, ..]) => none_found(api, "secret", id),
        (_, ["configs", id, ..]) => none_found(api, "config", id),
        _ => Err(fail(StatusCode::NOT_FOUND, "page not found")),
    }
}

/// Secrets and configs are not built: there are none. The CLI's stack commands list them.
fn none_stored(api: &Api, query: &Query) -> Answer {
    super::answer::manager(api.daemon.membership())?;
    super::answer::filters(query, &["id", "name", "names", "label"])?;
    ok(&Vec::<Value>::new())
}

fn none_found(api: &Api, kind: &'static str, reference: &str) -> Answer {
    super::answer::manager(api.daemon.membership())?;
    Err(FindError::None {
        kind,
        reference: reference.to_string(),
    }
    .into())
}
