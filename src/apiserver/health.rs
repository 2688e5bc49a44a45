//! `/version` and the health paths, which are open to everyone.

use http::{Response, StatusCode};

use super::request::Query;
use super::service::ApiServer;
use super::{Body, full};
use crate::api::error::ApiError;

/// The version of Kubernetes' API that is served; build metadata after `+` does not count as a
/// pre-release, which Helm's version ranges would refuse.
pub const GIT_VERSION: &str = "v1.35.0+wasm.1";

/// The names of the checks, as paths below the health paths.
const CHECKS: &[&str] = &["ping", "store", SHUTDOWN];
/// Of readiness only: a server that is about to stop is alive.
const SHUTDOWN: &str = "shutdown";

/// `/version` as one line of JSON.
pub fn version() -> String {
    format!(
        "{{\"major\":\"1\",\"minor\":\"35\",\"gitVersion\":\"{GIT_VERSION}\",\"gitCommit\":\"\",\
         \"gitTreeState\":\"clean\",\"buildDate\":\"1970-01-01T00:00:00Z\",\
         \"goVersion\":\"none\",\"compiler\":\"rustc\",\"platform\":\"{}/{}\"}}",
        std::env::consts::OS,
        platform()
    )
}

/// The architecture as Go names it.
fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Whether a path is one of health.
pub fn is_health(path: &str) -> bool {
    check_of(path).is_some()
}

/// The endpoint and the check, "" for all of them.
fn check_of(path: &str) -> Option<(&str, &str)> {
    let mut parts = path.strip_prefix('/')?.split('/');
    let endpoint = parts.next().filter(|e| matches!(*e, "healthz" | "livez" | "readyz"))?;
    let check = parts.next().unwrap_or_default();
    let known = check.is_empty() || checks(endpoint).any(|known| known == check);
    (known && parts.next().is_none()).then_some((endpoint, check))
}

fn checks(endpoint: &str) -> impl Iterator<Item = &'static str> {
    let is_ready = endpoint == "readyz";
    CHECKS.iter().copied().filter(move |check| is_ready || *check != SHUTDOWN)
}

/// `ok`, or which checks failed.
pub fn respond(server: &ApiServer, path: &str, query: &Query) -> Response<Body> {
    let Some((endpoint, wanted)) = check_of(path) else {
        return super::reply::no_such_path();
    };
    let mut lines = String::new();
    let mut healthy = true;
    for check in checks(endpoint).filter(|check| wanted.is_empty() || *check == wanted) {
        match run(server, check) {
            Ok(()) => lines.push_str(&format!("[+]{check} ok\n")),
            Err(error) => {
                healthy = false;
                tracing::warn!(check, error = %error, "a health check failed");
                lines.push_str(&format!("[-]{check} failed: reason withheld\n"));
            }
        }
    }
    let result = if healthy { "passed" } else { "failed" };
    let text = match healthy && !query.flag("verbose") {
        true => "ok".to_string(),
        false => format!("{lines}{endpoint} check {result}\n"),
    };
    let mut response = text_response(text);
    if !healthy {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    response
}

pub(super) fn run(server: &ApiServer, check: &str) -> Result<(), ApiError> {
    match check {
        SHUTDOWN if server.is_draining() => Err(ApiError::unavailable("the server stops")),
        "store" => {
            if let Some(why) = server.store.failure() {
                return Err(ApiError::internal(format!("the store takes no more writes: {why}")));
            }
            let key = super::keys::namespace("default");
            server.store.get(&key).map(|_| ()).map_err(super::service::read_error)
        }
        _ => Ok(()),
    }
}

pub(super) fn text_response(text: String) -> Response<Body> {
    let mut response = Response::new(full(text));
    let media = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, media);
    response
}
