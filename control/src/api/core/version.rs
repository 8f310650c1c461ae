//! API versions: our range, the path prefix, what is advertised and what the Engine is asked with.

use std::fmt;

/// Oldest version that is answered. Docker has raised its own floor over the years and broke tools by it.
pub const OLDEST: ApiVersion = ApiVersion { major: 1, minor: 24 };
/// Newest version whose bodies are known here.
pub const NEWEST: ApiVersion = ApiVersion { major: 1, minor: 53 };
/// What is advertised at least: docker CLI 29.0 to 29.2 refuses servers that say less.
pub const ADVERTISED_AT_LEAST: ApiVersion = ApiVersion { major: 1, minor: 44 };

/// `major.minor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    pub major: u32,
    pub minor: u32,
}

impl ApiVersion {
    /// Reads `1.41`.
    pub fn parse(text: &str) -> Option<ApiVersion> {
        let (major, minor) = text.split_once('.')?;
        Some(ApiVersion {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A version outside of [`OLDEST`]`..=`[`NEWEST`]. The texts are those of moby daemon/server/middleware/version.go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutOfRange {
    #[error(
        "client version {0} is too old. Minimum supported API version is {OLDEST}, please upgrade your client to a newer version"
    )]
    TooOld(ApiVersion),
    #[error("client version {0} is too new. Maximum supported API version is {NEWEST}")]
    TooNew(ApiVersion),
}

/// Takes the `/vX.Y` prefix off a path. A first segment that only looks like one is left alone.
pub fn split(path: &str) -> Result<(Option<ApiVersion>, &str), OutOfRange> {
    let Some(rest) = path.strip_prefix("/v") else {
        return Ok((None, path));
    };
    let end = rest.find('/').unwrap_or(rest.len());
    let (text, tail) = rest.split_at(end);
    let Some(version) = ApiVersion::parse(text) else {
        return Ok((None, path));
    };
    if version < OLDEST {
        return Err(OutOfRange::TooOld(version));
    }
    if version > NEWEST {
        return Err(OutOfRange::TooNew(version));
    }
    Ok((Some(version), if tail.is_empty() { "/" } else { tail }))
}

/// What `/_ping` and `/version` say, given what the Engine can (`None`: not known).
pub fn advertised(engine: Option<ApiVersion>) -> ApiVersion {
    match engine {
        Some(engine) => NEWEST.min(engine).max(ADVERTISED_AT_LEAST),
        None => ADVERTISED_AT_LEAST,
    }
}

/// The version to ask the Engine with when a client used `version`.
pub fn for_engine(version: ApiVersion, oldest: ApiVersion, newest: ApiVersion) -> ApiVersion {
    version.min(newest).max(oldest.min(newest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(text: &str) -> ApiVersion {
        ApiVersion::parse(text).unwrap()
    }

    #[test]
    fn prefixes_are_split() {
        assert_eq!(split("/_ping"), Ok((None, "/_ping")));
        assert_eq!(split("/v1.41/nodes/x"), Ok((Some(v("1.41")), "/nodes/x")));
        assert_eq!(split("/volumes"), Ok((None, "/volumes")));
        assert_eq!(split("/version"), Ok((None, "/version")));
        assert_eq!(split("/v1.23/info"), Err(OutOfRange::TooOld(v("1.23"))));
        assert_eq!(
            split("/v1.54/info").unwrap_err().to_string(),
            "client version 1.54 is too new. Maximum supported API version is 1.53"
        );
    }

    #[test]
    fn advertised_and_mapped() {
        assert_eq!(advertised(Some(v("1.41"))), v("1.44"));
        assert_eq!(advertised(Some(v("1.47"))), v("1.47"));
        assert_eq!(advertised(Some(v("1.60"))), v("1.53"));
        assert_eq!(advertised(None), v("1.44"));
        assert_eq!(for_engine(v("1.53"), v("1.12"), v("1.41")), v("1.41"));
        assert_eq!(for_engine(v("1.24"), v("1.40"), v("1.52")), v("1.40"));
        assert_eq!(for_engine(v("1.43"), v("1.24"), v("1.45")), v("1.43"));
    }
}
