//! WebSocket (RFC 6455): its handshake, and watches over it: the same events, one in each text
//! message; and logs, in pieces. What else is spoken over it is in [`super::streams`].
//!
//! Dashboards watch this way. As upstream does, a subprotocol is agreed to if one is offered and
//! changes nothing; a browser, which cannot set headers, may hand its bearer token as one
//! (k8s.io/apiserver/pkg/authentication/request/websocket). Clients have nothing to say.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{SinkExt, StreamExt};
use http::header::{
    AUTHORIZATION, CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::{Body, full};
use crate::api::ApiError;
use crate::base::tasks::Stop;

/// The prefix of a subprotocol that is a bearer token in base64url.
const BEARER: &str = "base64url.bearer.authorization.k8s.io.";
/// For the switch of protocols after the answer.
const SWITCH_LIMIT: Duration = Duration::from_secs(10);
/// A client that takes no message for so long is gone.
const SEND_LIMIT: Duration = Duration::from_secs(30);
/// For the closing handshake.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// What a client may send in one message, and how many messages: it has nothing to say.
const MAX_MESSAGE_BYTES: usize = 64 << 10;
const MAX_MESSAGES: usize = 1000;

/// Lines of a watch, in batches.
pub type Lines = BoxStream<'static, Bytes>;

/// Whether a request wants to switch to WebSocket.
pub fn is_requested(headers: &HeaderMap) -> bool {
    let is = |value: &HeaderValue, word: &str| {
        let text = value.to_str().unwrap_or_default();
        text.split(',').any(|part| part.trim().eq_ignore_ascii_case(word))
    };
    headers.get_all(UPGRADE).iter().any(|value| is(value, "websocket"))
        && headers.get_all(CONNECTION).iter().any(|value| is(value, "upgrade"))
}

/// Turns a bearer token that came as a subprotocol into a header, as all others have it.
pub fn take_bearer(headers: &mut HeaderMap) {
    if headers.contains_key(AUTHORIZATION) || !is_requested(headers) {
        return;
    }
    let token = offered(headers).find_map(|protocol| {
        let bytes = URL_SAFE_NO_PAD.decode(protocol.strip_prefix(BEARER)?).ok()?;
        HeaderValue::from_str(&format!("Bearer {}", String::from_utf8(bytes).ok()?)).ok()
    });
    if let Some(token) = token {
        headers.insert(AUTHORIZATION, token);
    }
}

pub fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).map(str::trim).filter(|protocol| !protocol.is_empty())
}

/// The answer to a handshake; `protocol`: the one of the offered subprotocols that is agreed to.
///
/// # Errors
/// 400 for a handshake that is none.
pub fn accept(headers: &HeaderMap, protocol: Option<&str>) -> Result<Response<Body>, ApiError> {
    let key = headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
    if STANDARD.decode(key).map(|nonce| nonce.len()) != Ok(16) {
        return Err(ApiError::bad_request("Sec-WebSocket-Key is missing or is no 16 bytes"));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(ApiError::bad_request("only version 13 of WebSocket is spoken"));
    }
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let accept = HeaderValue::from_str(&derive_accept_key(key)).map_err(ApiError::internal)?;
    answer.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(protocol) = protocol.and_then(|text| HeaderValue::from_str(text).ok()) {
        answer.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok(response)
}

/// The connection after its switch; `None` when that fails or takes too long.
pub async fn switched(upgrade: OnUpgrade) -> Option<TokioIo<hyper::upgrade::Upgraded>> {
    timeout(SWITCH_LIMIT, upgrade).await.ok()?.ok().map(TokioIo::new)
}

/// The server's end of a WebSocket, with messages of at most so many bytes.
pub async fn socket(upgrade: OnUpgrade, max_message_bytes: usize) -> Option<Socket> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(max_message_bytes))
        .max_frame_size(Some(max_message_bytes));
    let io = switched(upgrade).await?;
    Some(WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await)
}

/// A close on both sides, so that nobody takes the end for a fault.
pub async fn close(mut socket: Socket) {
    let close = async {
        // Without this code clients take an end for a failure.
        let normal = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
        let _ = socket.close(Some(normal)).await;
        while let Some(Ok(_)) = socket.next().await {}
        socket.get_mut().shutdown().await
    };
    let _ = timeout(CLOSE_LIMIT, close).await;
}

/// Switches protocols and sends the lines, until they end, the client leaves, or the server stops.
///
/// # Errors
/// 400 for a handshake that is none.
pub fn respond(
    headers: &HeaderMap,
    upgrade: Option<OnUpgrade>,
    stop: Option<Stop>,
    lines: Lines,
) -> Result<Response<Body>, ApiError> {
    let protocol = offered(headers).find(|protocol| !protocol.starts_with(BEARER));
    let response = accept(headers, protocol)?;
    let upgrade = upgrade.ok_or_else(no_upgrade)?;
    let batches = lines.map(|batch| messages(batch).collect()).boxed();
    tokio::spawn(async move {
        if let Some(socket) = socket(upgrade, MAX_MESSAGE_BYTES).await {
            send(socket, batches, stop).await;
        }
    });
    Ok(response)
}

/// Subprotocols of plain bytes: as they are, and as text in base64
/// (k8s.io/apiserver/pkg/util/wsstream).
const BINARY: &str = "binary.k8s.io";
const BASE64: &str = "base64.binary.k8s.io";

/// Switches protocols and sends bytes as they come, until they end, the client leaves, or the
/// server stops.
///
/// # Errors
/// 400 for a handshake that is none.
pub fn respond_bytes(
    headers: &HeaderMap,
    upgrade: Option<OnUpgrade>,
    stop: Option<Stop>,
    pieces: Lines,
) -> Result<Response<Body>, ApiError> {
    let protocol = offered(headers).find(|offered| [BINARY, BASE64].contains(offered));
    let as_text = protocol == Some(BASE64);
    let response = accept(headers, protocol)?;
    let upgrade = upgrade.ok_or_else(no_upgrade)?;
    let message = move |piece: Bytes| match as_text {
        true => Message::Text(STANDARD.encode(piece).into()),
        false => Message::Binary(piece),
    };
    let batches = pieces.map(move |piece| vec![message(piece)]).boxed();
    tokio::spawn(async move {
        if let Some(socket) = socket(upgrade, MAX_MESSAGE_BYTES).await {
            send(socket, batches, stop).await;
        }
    });
    Ok(response)
}

/// The connection is HTTP/2, or none at all.
pub fn no_upgrade() -> ApiError {
    ApiError::bad_request("this connection cannot switch protocols: it needs HTTP/1.1")
}

pub type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

async fn send(
    mut socket: Socket,
    mut batches: BoxStream<'static, Vec<Message>>,
    stop: Option<Stop>,
) {
    let stopped = async {
        match &stop {
            Some(stop) => stop.wait().await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(stopped);
    let mut heard = 0;
    loop {
        tokio::select! {
            biased;
            () = &mut stopped => break,
            batch = batches.next() => {
                let Some(batch) = batch else { break };
                for message in batch {
                    if !matches!(timeout(SEND_LIMIT, socket.send(message)).await, Ok(Ok(()))) {
                        return;
                    }
                }
            }
            // Reading also answers pings and takes part in the closing handshake.
            message = socket.next() => {
                heard += 1;
                match message {
                    Some(Ok(message)) if !message.is_close() && heard <= MAX_MESSAGES => {}
                    _ => break,
                }
            }
        }
    }
    close(socket).await;
}

/// One message for each line. Stored objects are compact JSON: they have no line breaks.
fn messages(batch: Bytes) -> impl Iterator<Item = Message> {
    let mut rest = batch;
    std::iter::from_fn(move || {
        let end = rest.iter().position(|byte| *byte == b'\n')? + 1;
        Some(rest.split_to(end))
    })
    .filter_map(|line| Utf8Bytes::try_from(line).ok().map(Message::Text))
}
