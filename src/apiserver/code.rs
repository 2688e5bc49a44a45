//! `/wasmfleet/v1/nodes/<name>/code/<digest>`: native code of a program, for a node's own agent.
//!
//! GET: of a program in the cluster's registry that a Pod bound to the node names. POST: of the
//! program that comes along, which a node pulled from elsewhere; who has the bytes may have the code.
//! The answer is a sealed file ([`crate::engine::seal`]), or 202 where it is still being made: the
//! node asks again. What is compiled, when and how, is the service's affair ([`crate::engine::service`]).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;

use super::artifacts::{MAX_BLOB_BYTES, UPLOAD_SILENCE, file_frames};
use super::request::Query;
use super::service::{ApiServer, read_error};
use super::stream::{self, StreamBody};
use super::subresource::method_not_allowed;
use super::{Body, User, authz, reply};
use crate::api::error::{Cause, Reason};
use crate::api::{ApiError, Gvr};
use crate::apiserver::body::RequestBody;
use crate::client::node_paths::{COMPILE_LIMIT, CodeQuery, INVALID_MODULE, code_path};
use crate::engine::cache::CodeFile;
use crate::engine::compile::CompileError;
use crate::engine::service::{CompileService, Program, ServiceError};
use crate::engine::target::Target;
use crate::images::{Reference, digest_hex};
use crate::store::Key;

/// How long a request waits for the compiler; the node's agent gives up after a minute.
const WAIT: Duration = Duration::from_secs(40);
/// Files that are sent at the same time; others wait for their turn.
const MAX_ANSWERS: usize = 64;
/// Programs that are received at the same time: each is a file of up to 256 MiB.
const MAX_UPLOADS: usize = 4;
/// When a node may ask again, in seconds.
const RETRY_SECONDS: u32 = 1;

const PODS: Gvr = Gvr::new("", "v1", "pods", true);

/// The endpoint's state.
pub struct CodeEndpoint {
    service: Arc<CompileService>,
    answers: Arc<Semaphore>,
    uploads: Semaphore,
}

impl CodeEndpoint {
    pub fn new(service: Arc<CompileService>) -> CodeEndpoint {
        let answers = Arc::new(Semaphore::new(MAX_ANSWERS));
        CodeEndpoint { service, answers, uploads: Semaphore::new(MAX_UPLOADS) }
    }
}

/// Whether a path is of this file.
pub fn is_path(path: &str) -> bool {
    node_of(path).is_some()
}

fn node_of(path: &str) -> Option<&str> {
    let (node, _) = path.strip_prefix("/wasmfleet/v1/nodes/")?.split_once('/')?;
    path.starts_with(&code_path(node)).then_some(node)
}

/// Answers a request. It bounds its own time, since compiling may take longer than others may.
///
/// # Errors
/// 403 for all but the node's agent, and for programs that no Pod of the node runs; 404 for what the
/// registry does not have; 422 with the compiler's verdict; 501 for machines that nothing is compiled
/// for, or an engine of another version; 503 when too many wait.
pub async fn respond<B: RequestBody>(
    server: &ApiServer,
    user: Option<User>,
    request: Request<B>,
) -> Result<Response<Body>, ApiError> {
    let user = user.ok_or_else(ApiError::unauthorized)?;
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let verb = head.method.as_str().to_ascii_lowercase();
    server.authorize_user(&user, &authz::Attributes::of_path(&verb, path))?;
    let node = node_of(path).unwrap_or_default();
    if authz::node_name(&user) != Some(node) {
        let message = "only a node's own agent is given code";
        return Err(ApiError::new(403, Reason::Forbidden, message));
    }
    let Some(endpoint) = server.code.get() else { return Ok(reply::no_such_path()) };
    let digest = path.strip_prefix(&code_path(node)).unwrap_or_default();
    let asked = read_query(digest, head.uri.query().unwrap_or_default())?;
    let target = target_of(&asked)?;
    let closed = |error: tokio::sync::AcquireError| ApiError::internal(error);
    let program = match head.method {
        Method::GET => named(server, node, &asked)?,
        Method::POST => {
            let _turn = endpoint.uploads.acquire().await.map_err(closed)?;
            Program::Received(received(endpoint, &asked.digest, body).await?)
        }
        _ => return Err(method_not_allowed()),
    };
    match endpoint.service.code(&asked.digest, target, program, WAIT).await {
        Ok(file) => {
            let place = endpoint.answers.clone().acquire_owned().await.map_err(closed)?;
            Ok(answer(file, place))
        }
        Err(ServiceError::Pending) => Ok(reply::empty(StatusCode::ACCEPTED)),
        Err(error) => Err(refusal(&asked.digest, error)),
    }
}

fn read_query(digest: &str, query: &str) -> Result<CodeQuery, ApiError> {
    if digest_hex(digest).is_none() {
        let message = "a program's digest is sha256: and 64 lower case hexadecimal digits";
        return Err(ApiError::bad_request(message));
    }
    let query = Query::parse(query)?;
    let field = |name: &str| query.get(name).to_string();
    Ok(CodeQuery {
        digest: digest.to_string(),
        triple: field("triple"),
        cpu: field("cpu"),
        settings: field("settings"),
        namespace: field("namespace"),
        pod: field("pod"),
        image: field("image"),
    })
}

fn target_of(asked: &CodeQuery) -> Result<Target, ApiError> {
    let unable = |message: String| ApiError::new(501, Reason::Unknown, message);
    let target = Target::named(&asked.triple, &asked.cpu);
    let target = target.map_err(|error| unable(error.to_string()))?;
    if target.settings_hash() != asked.settings {
        let message = "the node runs another version of the engine than its control plane compiles \
                       for: bring both to the same release";
        return Err(unable(message.into()));
    }
    Ok(target)
}

/// The program of an image in the cluster's registry, if a Pod that is bound to the node names it.
fn named(server: &ApiServer, node: &str, asked: &CodeQuery) -> Result<Program, ApiError> {
    let CodeQuery { digest, namespace, pod, image, .. } = asked;
    let image: Reference = image.parse().map_err(|e| ApiError::bad_request(format!("{e}")))?;
    let forbidden = || {
        let why = format!("no relationship found between node '{node}' and the image");
        ApiError::forbidden(&PODS, pod, why)
    };
    let key = Key::new(&["", "pods", namespace, pod]);
    let entry = server.store.get(&key).map_err(read_error)?.ok_or_else(forbidden)?;
    let stored: PodImages = serde_json::from_slice(&entry.value).map_err(ApiError::internal)?;
    if !stored.spec.runs(node, &image) {
        return Err(forbidden());
    }
    let unknown = || {
        let message = format!("the registry has no program {digest} of {image}");
        ApiError::new(404, Reason::NotFound, message)
    };
    let artifacts = server.artifacts.as_ref().ok_or_else(unknown)?;
    let found =
        artifacts.program(&image.repository, image.version()).map_err(ApiError::internal)?;
    match found {
        Some((wasm_digest, path)) if wasm_digest == *digest => Ok(Program::Kept(path)),
        _ => Err(unknown()),
    }
}

/// What is read of a Pod.
#[derive(Deserialize)]
struct PodImages {
    spec: SpecImages,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SpecImages {
    node_name: String,
    containers: Vec<OneImage>,
    init_containers: Vec<OneImage>,
    ephemeral_containers: Vec<OneImage>,
}

#[derive(Deserialize)]
struct OneImage {
    #[serde(default)]
    image: String,
}

impl SpecImages {
    /// Whether a Pod of the node names the image's repository in the cluster's registry. Its tag may
    /// have meant another digest when the node looked.
    fn runs(&self, node: &str, image: &Reference) -> bool {
        let all = [&self.containers, &self.init_containers, &self.ephemeral_containers];
        let same = |one: &OneImage| {
            one.image
                .parse::<Reference>()
                .is_ok_and(|named| !named.is_foreign() && named.repository == image.repository)
        };
        self.node_name == node && !image.is_foreign() && all.into_iter().flatten().any(same)
    }
}

/// Takes a program in, to a file.
async fn received<B: RequestBody>(
    endpoint: &CodeEndpoint,
    digest: &str,
    body: B,
) -> Result<crate::engine::cache::Incoming, ApiError> {
    let disk = |error: io::Error| ApiError::internal(format!("a program cannot be kept: {error}"));
    let incoming = endpoint.service.incoming().map_err(disk)?;
    let mut file = tokio::fs::File::from_std(incoming.file.try_clone().map_err(disk)?);
    let mut body = std::pin::pin!(body);
    let (mut hash, mut length) = (Sha256::new(), 0);
    loop {
        let frame = tokio::time::timeout(UPLOAD_SILENCE, body.frame())
            .await
            .map_err(|_| ApiError::new(408, Reason::Timeout, "the program did not come in time"))?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| {
            ApiError::bad_request(format!("the program cannot be read: {}", error.into()))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        length += data.len() as u64;
        if length > MAX_BLOB_BYTES {
            let message = format!("a program has {MAX_BLOB_BYTES} bytes at most");
            return Err(ApiError::new(413, Reason::RequestEntityTooLarge, message));
        }
        hash.update(&data);
        file.write_all(&data).await.map_err(disk)?;
    }
    file.flush().await.map_err(disk)?;
    let found = format!("sha256:{}", hex::encode(hash.finalize()));
    if found != digest {
        let message = format!("the program is {found} and not {digest}");
        return Err(ApiError::bad_request(message));
    }
    Ok(incoming)
}

fn answer(file: CodeFile, place: tokio::sync::OwnedSemaphorePermit) -> Response<Body> {
    use std::io::Seek;
    let (length, mut file) = file.into_file();
    if let Err(error) = file.rewind() {
        return reply::status(&ApiError::internal(error));
    }
    let frames = file_frames(tokio::fs::File::from_std(file));
    let mut response = Response::new(stream::holding(StreamBody::body(frames), place));
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response
}

fn refusal(digest: &str, error: ServiceError) -> ApiError {
    let message = error.to_string();
    let verdict = |reason: &str| {
        let cause = Cause { reason: reason.into(), message: message.clone(), field: digest.into() };
        ApiError::new(422, Reason::Invalid, message.clone()).cause(cause)
    };
    match error {
        ServiceError::Compile(CompileError::Invalid(_)) => verdict(INVALID_MODULE),
        ServiceError::Compile(CompileError::Limit(_)) => verdict(COMPILE_LIMIT),
        ServiceError::Compile(CompileError::Internal(_)) => ApiError::internal(message),
        ServiceError::Unable(_) => ApiError::new(501, Reason::Unknown, message),
        ServiceError::Busy | ServiceError::Pending => {
            ApiError::unavailable(message).retry_after(RETRY_SECONDS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_its_node() {
        assert_eq!(node_of("/wasmfleet/v1/nodes/n1/code/sha256:0"), Some("n1"));
        for other in ["/wasmfleet/v1/nodes/n1/tunnel", "/wasmfleet/v1/nodes/n1/codex", "/code/"] {
            assert!(!is_path(other), "{other}");
        }
    }

    #[test]
    fn a_pod_runs_the_images_that_it_names_on_its_node() {
        let pod = serde_json::json!({"metadata": {}, "spec": {"nodeName": "n1",
            "containers": [{"name": "a", "image": "web:v1"}, {"image": "ghcr.io/a/b:v1"}],
            "initContainers": [{"image": "prepare"}]}});
        let pod: PodImages = serde_json::from_value(pod).expect("a pod");
        let runs = |node: &str, image: &str| pod.spec.runs(node, &image.parse().expect("a name"));
        assert!(runs("n1", "web:v1") && runs("n1", "web:v2") && runs("n1", "prepare:x"));
        assert!(!runs("n2", "web:v1"), "another node");
        assert!(!runs("n1", "other:v1"), "another image");
        assert!(!runs("n1", "ghcr.io/a/b:v1"), "another registry's");
    }
}
