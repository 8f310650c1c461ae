//! Images of tasks: taken as they are on this node, pulled only when they are missing.
//!
//! Swarm asks the registry at every start of a task that names its image by tag. Skep does not: a task restarts
//! while the registry is away, and at once. `docker service update --image` and `--force` with a pinned digest (what
//! the docker CLI sends) still move every node to the same content.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use bollard::auth::DockerCredentials;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;

use super::{Engine, EngineError, READ, failed, within};

/// Longest silence of a pull.
const SILENCE: Duration = Duration::from_secs(60);

impl Engine {
    pub async fn has_image(&self, image: &str) -> Result<bool, EngineError> {
        let docker = self.client("inspect image", image)?;
        match within("inspect image", image, READ, docker.inspect_image(image)).await {
            Ok(_) => Ok(true),
            Err(error) if error.status() == Some(404) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Pulls an image. `auth` is the `X-Registry-Auth` that came with the service.
    ///
    /// # Errors
    /// [`EngineError`]; what was pulled so far stays.
    pub async fn pull(&self, image: &str, auth: Option<&str>) -> Result<(), EngineError> {
        let docker = self.client("pull", image)?;
        let options = CreateImageOptionsBuilder::default()
            .from_image(&with_tag(image))
            .build();
        let mut progress = docker.create_image(Some(options), None, auth.and_then(credentials));
        loop {
            match tokio::time::timeout(SILENCE, progress.next()).await {
                Ok(None) => return Ok(()),
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(source))) => return Err(failed("pull", image, source)),
                Err(_) => {
                    return Err(EngineError::Deadline {
                        operation: "pull",
                        object: image.to_string(),
                        seconds: SILENCE.as_secs(),
                    });
                }
            }
        }
    }
}

/// A name without tag or digest would pull every tag.
fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || last.contains('@') {
        image.to_string()
    } else {
        format!("{image}:latest")
    }
}

/// The header is base64 of JSON; clients differ in the alphabet. What cannot be read is no credential: the registry
/// then says what it wants.
fn credentials(header: &str) -> Option<DockerCredentials> {
    let bytes = URL_SAFE
        .decode(header)
        .or_else(|_| STANDARD.decode(header))
        .ok()?;
    serde_json::from_slice(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_means_latest() {
        assert_eq!(with_tag("busybox"), "busybox:latest");
        assert_eq!(with_tag("reg:5000/shop/web"), "reg:5000/shop/web:latest");
        assert_eq!(with_tag("reg:5000/shop/web:2"), "reg:5000/shop/web:2");
        assert_eq!(with_tag("web@sha256:00"), "web@sha256:00");
    }

    #[test]
    fn the_header_is_read_in_either_alphabet() {
        let json = br#"{"username":"u","password":"p??>"}"#;
        for header in [URL_SAFE.encode(json), STANDARD.encode(json)] {
            assert_eq!(credentials(&header).unwrap().username.as_deref(), Some("u"));
        }
        assert!(credentials("%").is_none());
    }
}
