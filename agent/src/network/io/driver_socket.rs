//! The Unix socket that dockerd calls the driver on.
//!
//! Every answer is 200; what went wrong stands in `Err` of the body (moby pkg/plugins). A call that is not answered in
//! time is retried by dockerd, so each has to be harmless when it comes twice.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::Uri;
use serde_json::{Value, json};
use tokio::net::UnixListener;

use crate::network::driver::Driver;

#[derive(Debug, thiserror::Error)]
#[error("{operation} the driver's socket {path}: {source}")]
pub struct SocketError {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Binds `<plugin_dir>/skep.sock` and serves `driver` on it for as long as the process lives. The file of a dead
/// process is replaced.
///
/// Call it within a tokio runtime.
///
/// # Errors
/// When the socket cannot be made.
pub fn serve(plugin_dir: &Path, driver: Driver) -> Result<(), SocketError> {
    let path = plugin_dir.join("skep.sock");
    let error = |operation| {
        let path = path.clone();
        move |source| SocketError {
            operation,
            path,
            source,
        }
    };
    fs::create_dir_all(plugin_dir).map_err(error("make the folder of"))?;
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(error("replace")(source)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(error("bind"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(error("set the mode of"))?;
    let router = Router::new().fallback(answer).with_state(driver);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the driver's socket has failed");
        }
    });
    Ok(())
}

async fn answer(State(driver): State<Driver>, uri: Uri, body: Bytes) -> Json<Value> {
    let operation = uri.path().trim_start_matches('/');
    match driver.call(operation, &body).await {
        Ok(value) => {
            tracing::debug!(operation, "driver call");
            Json(value)
        }
        Err(error) => {
            tracing::warn!(operation, %error, "driver call refused");
            Json(json!({ "Err": error.to_string() }))
        }
    }
}
