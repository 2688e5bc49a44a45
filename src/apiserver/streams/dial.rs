//! One request to a node whose body goes on while its answer comes: a two-way stream of bytes
//! through the tunnel. HTTP/2 holds back whoever is faster than the other end.

use bytes::Bytes;
use futures::StreamExt;
use http::Request;
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc;

use crate::api::ApiError;
use crate::apiserver::nodes::Tunnels;
use crate::apiserver::stream::StreamBody;
use crate::apiserver::subresource::log;

/// Pieces on their way to the node, beside HTTP/2's window.
const PIECES: usize = 4;

/// Both directions. Dropped, the request is given up, and the node ends what it did for it.
pub struct Dialled {
    pub to: mpsc::Sender<Bytes>,
    pub from: FromNode,
}

/// What the node sends.
pub struct FromNode(Incoming);

impl FromNode {
    /// The next bytes; `None` at the end, or when the tunnel breaks.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Ok(data) = self.0.frame().await?.ok()?.into_data() {
                return Some(data);
            }
        }
    }
}

/// # Errors
/// What the node answers, and those of [`Tunnels::request_streaming`].
pub async fn dial(nodes: &Tunnels, node: &str, path: &str) -> Result<Dialled, ApiError> {
    let (to, pieces) = mpsc::channel(PIECES);
    let pieces = futures::stream::unfold(pieces, |mut pieces: mpsc::Receiver<Bytes>| async {
        let piece = pieces.recv().await?;
        Some((Ok(Frame::data(piece)), pieces))
    });
    let request = Request::post(path)
        .body(StreamBody::body(pieces.boxed()))
        .map_err(|error| ApiError::bad_request(error.to_string()))?;
    let answer = nodes.request_streaming(node, request).await?;
    if !answer.status().is_success() {
        return Err(log::refused(answer).await);
    }
    Ok(Dialled { to, from: FromNode(answer.into_body()) })
}
