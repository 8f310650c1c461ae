//! Passing a request on to the node's Engine: bodies stream both ways, hijacked connections are joined.

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;

use super::Api;
use super::answer::{Answer, Body, empty_body};
use super::core::version::{ApiVersion, for_engine};
use super::io::engine::EngineError;
use crate::daemon::ApiError;

/// A request with its target split up.
pub struct Call {
    /// Prefix of the client, if it sent one.
    pub version: Option<ApiVersion>,
    /// Without prefix, as the client encoded it.
    pub path: String,
    /// Undecoded, without `?`.
    pub query: String,
    pub request: Request<Incoming>,
}

/// Passes a request on unchanged but for the version prefix.
pub async fn pass(api: &Api, call: Call) -> Answer {
    let target = target(api, call.version, &call.path, &call.query).await?;
    let (mut parts, body) = call.request.into_parts();
    let client = parts.extensions.remove::<OnUpgrade>();
    let wants_upgrade = parts.headers.contains_key(UPGRADE);
    let mut request = Request::new(body.map_err(Into::into).boxed_unsync());
    *request.method_mut() = parts.method;
    *request.uri_mut() = target;
    *request.headers_mut() = engine_headers(parts.headers, wants_upgrade);
    let response = api.engine.send(request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(join(api, client, response));
    }
    Ok(stream(response))
}

/// Passes a request on with another body (and no upgrade).
pub async fn pass_with(api: &Api, call: Call, body: Vec<u8>) -> Result<Response<Incoming>, ApiError> {
    let target = target(api, call.version, &call.path, &call.query).await?;
    let (parts, _) = call.request.into_parts();
    let mut request = Request::new(super::answer::full_body(body));
    *request.method_mut() = parts.method;
    *request.uri_mut() = target;
    let mut headers = engine_headers(parts.headers, false);
    headers.remove(CONTENT_LENGTH);
    *request.headers_mut() = headers;
    Ok(api.engine.send(request).await?)
}

/// The answer of the Engine as the client gets it: framing headers are the connection's own.
pub fn stream(response: Response<Incoming>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(CONNECTION);
    parts.headers.remove(TRANSFER_ENCODING);
    Response::from_parts(parts, body.map_err(Into::into).boxed_unsync())
}

async fn target(
    api: &Api,
    version: Option<ApiVersion>,
    path: &str,
    query: &str,
) -> Result<hyper::Uri, EngineError> {
    let mut text = String::new();
    if let Some(version) = version {
        let range = api.engine.range().await?;
        text = format!("/v{}", for_engine(version, range.oldest, range.newest));
    }
    text.push_str(path);
    if !query.is_empty() {
        text.push('?');
        text.push_str(query);
    }
    text.parse()
        .map_err(|source: hyper::http::uri::InvalidUri| EngineError::Build {
            path: path.to_string(),
            source: source.into(),
        })
}

fn engine_headers(mut headers: HeaderMap, upgrade: bool) -> HeaderMap {
    if !upgrade {
        headers.remove(CONNECTION);
    }
    headers.remove(TRANSFER_ENCODING);
    headers.insert(HOST, HeaderValue::from_static("docker"));
    headers
}

/// Answers 101 and copies both ways until both sides have ended; the end of one side is passed on as the end of
/// that direction only (`echo x | docker exec -i` ends its input first).
fn join(api: &Api, client: Option<OnUpgrade>, mut response: Response<Incoming>) -> Response<Body> {
    let engine = hyper::upgrade::on(&mut response);
    let stop = api.shutdown.clone();
    tokio::spawn(async move {
        let Some(client) = client else {
            tracing::warn!("the Docker Engine upgraded a connection whose client cannot");
            return;
        };
        let (client, engine) = match tokio::try_join!(client, engine) {
            Ok(both) => both,
            Err(error) => {
                tracing::debug!(%error, "upgrading a connection");
                return;
            }
        };
        let (mut client, mut engine) = (TokioIo::new(client), TokioIo::new(engine));
        tokio::select! {
            done = tokio::io::copy_bidirectional(&mut client, &mut engine) => {
                if let Err(error) = done {
                    tracing::debug!(%error, "a hijacked connection ended");
                }
            }
            () = stop.cancelled() => {}
        }
    });
    let (parts, _) = response.into_parts();
    Response::from_parts(parts, empty_body())
}
