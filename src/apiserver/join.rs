//! `POST /wasmfleet/v1/join`: a machine shows the secret of a join token and a certificate request,
//! and is given the client certificate of its node.
//!
//! Nobody is given the certificate of a node that exists: with the token alone, one machine could
//! take another's place and read what its pods read. A machine that lost its key joins again after
//! an administrator has deleted the Node.

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};

use super::pki::{MAX_CSR_BYTES, Pki, PkiError};
use super::service::{ApiServer, read_error};
use super::{Body, User, authn, reply};
use crate::api::error::{Cause, Reason};
use crate::api::simulated::{self, SIMULATOR};
use crate::api::{ApiError, Gvr};
use crate::apiserver::body::RequestBody;
pub use crate::client::join::{JOIN_PATH, JoinRequest, JoinResponse};
use crate::store::Key;

/// Largest request, in bytes.
const MAX_REQUEST_BYTES: usize = 2 * MAX_CSR_BYTES;
/// Longest node name, in characters: it becomes a label's value (`kubernetes.io/hostname`).
const MAX_NODE_NAME: usize = 63;

const NODES: Gvr = Gvr::new("", "v1", "nodes", false);

/// Answers a request to [`JOIN_PATH`]; a server without a CA has no such path.
pub async fn respond<B: RequestBody>(server: &ApiServer, request: Request<B>) -> Response<Body> {
    let Some(pki) = &server.pki else { return reply::no_such_path() };
    match join(server, pki, request).await {
        Ok(answer) => reply::json(StatusCode::CREATED, &answer),
        Err(error) => reply::status(&error),
    }
}

async fn join<B: RequestBody>(
    server: &ApiServer,
    pki: &Pki,
    request: Request<B>,
) -> Result<JoinResponse, ApiError> {
    if request.method() != Method::POST {
        let message = "machines join with POST";
        return Err(ApiError::new(405, Reason::MethodNotAllowed, message));
    }
    // The secret comes first: who has none makes us read no body.
    let secret = authn::bearer_token(request.headers()).unwrap_or_default();
    if !pki.accepts_join_secret(secret) {
        return Err(ApiError::unauthorized());
    }
    let body = Limited::new(request.into_body(), MAX_REQUEST_BYTES).collect().await;
    let body = body
        .map_err(|e| ApiError::bad_request(format!("the request cannot be read: {e}")))?
        .to_bytes();
    let request: JoinRequest =
        serde_json::from_slice(&body).map_err(|e| ApiError::bad_request(e.to_string()))?;
    let user = match request.simulator {
        true => simulator(&request.node)?,
        false => {
            check_node_name(&request.node)?;
            check_is_new(server, &request.node)?;
            User::node(&request.node)
        }
    };
    let certificate = pki.sign_csr(&request.csr, &user).map_err(|error| match error {
        PkiError::BadRequest(_) => invalid("csr", &error.to_string()),
        other => ApiError::internal(other),
    })?;
    tracing::info!(node = request.node, "a machine joined");
    let ca = pki.ca_pem().to_string();
    let cluster_ranges = server.options.cluster_ranges.clone();
    Ok(JoinResponse { certificate, ca, cluster_ranges })
}

/// Simulators may join again: their nodes hold nothing that is anybody's.
fn simulator(name: &str) -> Result<User, ApiError> {
    if simulated::is_simulator_name(name) {
        return Ok(User::simulator(name));
    }
    let detail = format!(
        "Invalid value: {name:?}: a simulator is called {SIMULATOR}, or {SIMULATOR}-… in lower case \
         letters, digits and '-', and not much longer"
    );
    Err(invalid("node", &detail))
}

fn check_is_new(server: &ApiServer, node: &str) -> Result<(), ApiError> {
    let key = Key::new(&["", "nodes", "", node]);
    if server.store.get(&key).map_err(read_error)?.is_none() {
        return Ok(());
    }
    let message = format!(
        "node {node:?} exists already: join under another name, or, if this machine is that node \
         and lost its data directory, delete the Node first (kubectl delete node {node})"
    );
    Err(ApiError::new(409, Reason::AlreadyExists, message).about(&NODES, node))
}

/// An RFC 1123 subdomain (as every Node's name) that fits a label's value.
fn check_node_name(name: &str) -> Result<(), ApiError> {
    let label = |part: &str| {
        let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = part.as_bytes();
        bytes.first().is_some_and(|b| alphanumeric(*b))
            && bytes.last().is_some_and(|b| alphanumeric(*b))
            && bytes.iter().all(|b| alphanumeric(*b) || *b == b'-')
    };
    if simulated::is_reserved(name) {
        let detail = format!(
            "Invalid value: {name:?}: names that begin with {SIMULATOR} are those of simulated \
             nodes; join under another one (--name)"
        );
        return Err(invalid("node", &detail));
    }
    if name.len() <= MAX_NODE_NAME && name.split('.').all(label) {
        return Ok(());
    }
    let detail = format!(
        "a node's name has at most {MAX_NODE_NAME} lower case letters, digits, '-' or '.', and \
         every part begins and ends with a letter or digit"
    );
    Err(invalid("node", &format!("Invalid value: {name:?}: {detail}")))
}

fn invalid(field: &str, detail: &str) -> ApiError {
    let cause =
        Cause { reason: "FieldValueInvalid".into(), message: detail.into(), field: field.into() };
    let message = format!("the join request is invalid: {field}: {detail}");
    ApiError::new(422, Reason::Invalid, message).cause(cause)
}
