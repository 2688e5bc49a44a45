//! Tunnels to nodes: a node agent dials out, the connection is turned around, and the API server
//! sends requests (logs, exec, metrics) to the node over it.
//!
//! On the tunnel the API server speaks HTTP/2 as the client, the node as the server. This file
//! knows who holds a tunnel and how to send a request; what the requests mean is between the
//! subresources and the node agent.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, UPGRADE};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::{Body, User, authz, reply};
use crate::api::error::Reason;
use crate::api::{ApiError, simulated};
use crate::client::node_paths::GRACE_HEADER;
pub use crate::client::node_paths::{TUNNEL_PROTOCOL, tunnel_path};

/// How long a request waits for a node that is not connected.
const TUNNEL_WAIT: Duration = Duration::from_secs(5);
/// How long a node may take to begin its answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// For the HTTP/2 handshake on a new tunnel, and for the switch of protocols before it.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// A silent node is pinged this often, and is gone when it does not answer within the limit.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_LIMIT: Duration = Duration::from_secs(10);
/// Ends of tunnels that are told and not yet looked at; those beyond are not told.
const MAX_ENDS: usize = 1024;
/// Nodes that can be connected at the same time.
const MAX_TUNNELS: usize = 10_000;
/// Bytes in flight of one answer: a reader that is slow holds no more.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

type Sender = http2::SendRequest<Body>;

/// The tunnels of all connected nodes; cheap to clone.
#[derive(Clone, Default)]
pub struct Tunnels(Arc<Shared>);

#[derive(Default)]
struct Shared {
    table: Mutex<Table>,
    /// Wakes requests that wait for a node.
    attached: Notify,
    /// Told the names of nodes whose tunnels end.
    ends: Mutex<Option<mpsc::Sender<String>>>,
}

#[derive(Default)]
struct Table {
    /// By node: the number of the tunnel and its sending side.
    tunnels: HashMap<String, (u64, Sender)>,
    /// Counts tunnels, so that the newer of two is known.
    last: u64,
}

impl Tunnels {
    /// Takes a byte stream on whose other end a node serves HTTP/2. A newer tunnel of a node
    /// replaces the older one, whose requests in flight are finished. Must be called in a tokio
    /// runtime; returns at once, requests wait for the handshake.
    pub fn attach(&self, node: &str, io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let number = {
            let mut table = self.0.table.lock();
            table.last += 1;
            table.last
        };
        let (shared, node) = (self.0.clone(), node.to_string());
        tokio::spawn(async move {
            let handshake = builder().handshake(TokioIo::new(io));
            let (sender, connection) = match tokio::time::timeout(HANDSHAKE_LIMIT, handshake).await
            {
                Ok(Ok(parts)) => parts,
                Ok(Err(error)) => return tracing::warn!(node, %error, "a tunnel failed"),
                Err(_) => return tracing::warn!(node, "a tunnel's handshake took too long"),
            };
            if !shared.insert(&node, number, sender) {
                return;
            }
            tracing::debug!(node, number, "a tunnel is open");
            let end = connection.await;
            let is_silent = end.as_ref().is_err_and(hyper::Error::is_timeout);
            if shared.remove(&node, number) && !is_silent {
                shared.tell_end(&node);
            }
            match end {
                Ok(()) => tracing::debug!(node, number, "a tunnel was closed"),
                Err(error) => tracing::debug!(node, number, %error, "a tunnel was lost"),
            }
        });
    }

    /// Sends a request to a node and waits for the head of its answer. Only the path, the headers
    /// and the body of the request matter.
    ///
    /// # Errors
    /// 503 when the node is not connected (after a wait of a few seconds), 502 when the tunnel
    /// breaks, 504 when the node does not answer in time.
    pub async fn request(
        &self,
        node: &str,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, ApiError> {
        self.request_streaming(node, request.map(|b| b.map_err(|never| match never {}).boxed()))
            .await
    }

    /// [`Tunnels::request`] with a body that is still being made: both directions flow at the same
    /// time (exec, port-forward).
    ///
    /// # Errors
    /// As [`Tunnels::request`].
    pub async fn request_streaming(
        &self,
        node: &str,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, ApiError> {
        *request.uri_mut() = tunnel_uri(request.uri())?;
        request.headers_mut().remove(http::header::HOST);
        let deadline = Instant::now() + TUNNEL_WAIT;
        loop {
            let mut sender = self.sender(node, deadline).await?;
            let sent = tokio::time::timeout(ANSWER_LIMIT, sender.try_send_request(request)).await;
            match sent {
                Ok(Ok(response)) => return Ok(response),
                // The tunnel closed before it took the request: another may be on its way.
                Ok(Err(mut error)) => match error.take_message() {
                    Some(back) if Instant::now() < deadline => request = back,
                    _ => return Err(broken(node, &error.into_error())),
                },
                Err(_) => {
                    let message = format!("node {node:?} did not answer within {ANSWER_LIMIT:?}");
                    return Err(ApiError::new(504, Reason::Timeout, message));
                }
            }
        }
    }

    /// Whether a node holds a tunnel now.
    pub fn is_connected(&self, node: &str) -> bool {
        self.0.sender(node).is_some()
    }

    /// How many nodes hold one.
    pub fn connected(&self) -> usize {
        self.0.table.lock().tunnels.len()
    }

    /// The names of nodes whose tunnel breaks or is closed from their side, from now on; not of those
    /// that fell silent, that dialled again meanwhile, or that were detached.
    pub fn ends(&self) -> mpsc::Receiver<String> {
        let (sender, ends) = mpsc::channel(MAX_ENDS);
        *self.0.ends.lock() = Some(sender);
        ends
    }

    /// Closes a node's tunnel, of a node that was deleted for instance.
    pub fn detach(&self, node: &str) {
        self.0.table.lock().tunnels.remove(node);
    }

    /// The open tunnel of a node, waited for until `deadline`.
    async fn sender(&self, node: &str, deadline: Instant) -> Result<Sender, ApiError> {
        if simulated::is_reserved(node) {
            let message = format!("node {node:?} is simulated: it runs nothing that could answer");
            return Err(ApiError::unavailable(message));
        }
        loop {
            let attached = self.0.attached.notified();
            let mut attached = std::pin::pin!(attached);
            // Registered before the look, so that a tunnel in between is not missed.
            attached.as_mut().enable();
            if let Some(sender) = self.0.sender(node) {
                return Ok(sender);
            }
            if tokio::time::timeout_at(deadline, attached).await.is_err() {
                let message = format!("node {node:?} is not connected to the control plane");
                return Err(ApiError::unavailable(message));
            }
        }
    }
}

impl Shared {
    /// Enters a tunnel unless a newer one is there; returns whether it was entered.
    fn insert(&self, node: &str, number: u64, sender: Sender) -> bool {
        let mut table = self.table.lock();
        match table.tunnels.get(node) {
            Some((newer, _)) if *newer > number => return false,
            None if table.tunnels.len() >= MAX_TUNNELS => {
                tracing::warn!(node, "refused: {MAX_TUNNELS} nodes are connected already");
                return false;
            }
            _ => {}
        }
        table.tunnels.insert(node.to_string(), (number, sender));
        drop(table);
        self.attached.notify_waiters();
        true
    }

    /// Removes a tunnel that ended; whether it was the node's.
    fn remove(&self, node: &str, number: u64) -> bool {
        let mut table = self.table.lock();
        let is_own = table.tunnels.get(node).is_some_and(|(present, _)| *present == number);
        if is_own {
            table.tunnels.remove(node);
        }
        is_own
    }

    fn tell_end(&self, node: &str) {
        if let Some(ends) = &*self.ends.lock() {
            // One that nobody has time for is told by its Lease.
            let _ = ends.try_send(node.to_string());
        }
    }

    fn sender(&self, node: &str) -> Option<Sender> {
        let table = self.table.lock();
        let (_, sender) = table.tunnels.get(node)?;
        (!sender.is_closed()).then(|| sender.clone())
    }
}

fn builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_LIMIT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    builder
}

/// HTTP/2 wants an absolute URI; the authority has no meaning on a tunnel.
fn tunnel_uri(uri: &http::Uri) -> Result<http::Uri, ApiError> {
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    http::Uri::builder()
        .scheme("http")
        .authority("node")
        .path_and_query(path)
        .build()
        .map_err(|e| ApiError::bad_request(format!("not a path: {e}")))
}

fn broken(node: &str, error: &hyper::Error) -> ApiError {
    let message = format!("the tunnel to node {node:?} broke: {error}");
    ApiError::new(502, Reason::InternalError, message)
}

/// Answers `GET /wasmfleet/v1/nodes/<name>/tunnel`: switches protocols and attaches the tunnel.
/// The answer says how long the node may be silent.
/// Only the agent of that node may; `user` has passed [`authz::authorize`] for the path.
///
/// # Errors
/// 403 for another user, 400 when the request asks for no upgrade, 426 for another protocol.
pub fn accept_tunnel<B>(
    tunnels: &Tunnels,
    grace: Duration,
    user: &User,
    mut request: Request<B>,
) -> Result<Response<Body>, ApiError> {
    let node = authz::node_name(user).filter(|node| tunnel_path(node) == request.uri().path());
    let Some(node) = node.map(str::to_string) else {
        let message = "only a node's own agent opens its tunnel";
        return Err(ApiError::new(403, Reason::Forbidden, message));
    };
    let lists = |header, word: &str| {
        let values = request.headers().get_all(header).into_iter().filter_map(|v| v.to_str().ok());
        values.flat_map(|v| v.split(',')).any(|v| v.trim().eq_ignore_ascii_case(word))
    };
    if !lists(UPGRADE, TUNNEL_PROTOCOL) || !lists(CONNECTION, "upgrade") {
        let message = format!("a tunnel needs HTTP/1.1 with `Upgrade: {TUNNEL_PROTOCOL}`");
        return Err(ApiError::new(426, Reason::BadRequest, message));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let tunnels = tunnels.clone();
    tokio::spawn(async move {
        match tokio::time::timeout(HANDSHAKE_LIMIT, upgrade).await {
            Ok(Ok(io)) => tunnels.attach(&node, TokioIo::new(io)),
            Ok(Err(error)) => tracing::warn!(node, %error, "a tunnel was not opened"),
            Err(_) => tracing::warn!(node, "a tunnel was not opened in time"),
        }
    });
    let mut response = reply::empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(CONNECTION, http::HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, http::HeaderValue::from_static(TUNNEL_PROTOCOL));
    headers.insert(GRACE_HEADER, grace.as_secs().into());
    Ok(response)
}
