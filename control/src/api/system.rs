//! `/_ping`, `/version` and `/info`: answers that both the Engine and Skep have a part in.

use hyper::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, PRAGMA};
use hyper::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::Api;
use super::answer::{Answer, empty_body, full_body, json as json_answer, ok};
use super::core::version::{ApiVersion, OLDEST, advertised};
use crate::daemon::Membership;

/// What `/_ping` and `/version` say, and every answer's `Api-Version`. Does not wait for the Engine.
pub fn advertised_now(api: &Api) -> ApiVersion {
    advertised(api.engine.last_range().map(|range| range.newest))
}

/// Asks the Engine for its versions if that was long ago; while it is down the last answer counts.
async fn refresh(api: &Api) {
    if let Err(error) = api.engine.range().await {
        tracing::debug!(%error, "asking the Engine for its version");
    }
}

/// Answers even while the Engine is down: swarm paths work then, and clients only ask for the version here.
pub async fn ping(api: &Api, method: &Method) -> Answer {
    refresh(api).await;
    let mut response = Response::new(if method == Method::HEAD {
        empty_body()
    } else {
        full_body("OK")
    });
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static("no-cache, no-store, must-revalidate"),
    );
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    headers.insert("Builder-Version", HeaderValue::from_static("1"));
    headers.insert(
        "Swarm",
        HeaderValue::from_static(swarm_header(&api.daemon.membership())),
    );
    if method == Method::HEAD {
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    Ok(response)
}

fn swarm_header(membership: &Membership) -> &'static str {
    match membership {
        Membership::Inactive => "inactive",
        Membership::Pending { .. } => "pending",
        Membership::Locked { .. } => "locked",
        Membership::Worker(_) => "active/worker",
        Membership::Manager(..) => "active/manager",
    }
}

pub async fn version(api: &Api) -> Answer {
    refresh(api).await;
    let api_version = advertised_now(api).to_string();
    let skep =
        json!({"Name": "Skep", "Version": env!("CARGO_PKG_VERSION"), "Details": {"ApiVersion": api_version}});
    let mut version = match api.engine.get("/version").await {
        Ok((_, version)) => version,
        Err(error) => {
            tracing::debug!(%error, "/version without the Engine's part");
            json!({
                "Platform": {"Name": "Skep"},
                "Version": env!("CARGO_PKG_VERSION"),
                "Os": "linux",
                "Arch": go_arch(),
                "Components": [],
            })
        }
    };
    version["ApiVersion"] = Value::String(api_version.clone());
    version["MinAPIVersion"] = Value::String(OLDEST.to_string());
    if let Some(components) = version["Components"].as_array_mut() {
        for component in components.iter_mut().filter(|c| c["Name"] == "Engine") {
            component["Details"]["ApiVersion"] = Value::String(api_version.clone());
            component["Details"]["MinAPIVersion"] = Value::String(OLDEST.to_string());
        }
        components.push(skep);
    }
    ok(&version)
}

fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The Engine's answer with our `Swarm`.
pub async fn info(api: &Api) -> Answer {
    let (status, mut info) = api.engine.get("/info").await?;
    if status != StatusCode::OK {
        return json_answer(status, &info);
    }
    info["Swarm"] = super::swarm::info(api);
    // moby daemon/server/router/system: the CLI shows these only.
    if let Some(told) = info["Swarm"]["Warnings"].as_array().cloned() {
        match info["Warnings"].as_array_mut() {
            Some(warnings) => warnings.extend(told),
            None => info["Warnings"] = Value::Array(told),
        }
    }
    ok(&info)
}
