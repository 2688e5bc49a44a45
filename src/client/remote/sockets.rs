//! WebSockets to the API: exec, attach, port-forward.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::{REQUEST_TIMEOUT, Remote, in_time, refusal, unreachable_};
use crate::api::ApiError;

/// A WebSocket to the API server.
pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

impl Remote {
    /// Opens a WebSocket and answers with the subprotocol that was agreed to.
    ///
    /// # Errors
    /// What the server answers instead of a switch, and an answer that is no handshake.
    pub async fn websocket(
        &self,
        path: &str,
        protocols: &[&str],
    ) -> Result<(Socket, String), ApiError> {
        let key = STANDARD.encode(rand::random::<[u8; 16]>());
        let offered = protocols.join(", ");
        let headers = [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", key.as_str()),
            ("sec-websocket-protocol", offered.as_str()),
        ];
        let head = self.open(Method::GET, path, &headers, Bytes::new());
        let response = in_time(REQUEST_TIMEOUT, head).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refusal(response).await);
        }
        let text = |name| {
            let value = response.headers().get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_string()
        };
        let protocol = text(header::SEC_WEBSOCKET_PROTOCOL);
        let accepted = text(header::SEC_WEBSOCKET_ACCEPT) == derive_accept_key(key.as_bytes());
        if !accepted || !protocols.contains(&protocol.as_str()) {
            return Err(ApiError::internal("the server's answer is no handshake of WebSocket"));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|e| unreachable_(&e))?;
        let io = TokioIo::new(upgraded);
        Ok((WebSocketStream::from_raw_socket(io, Role::Client, None).await, protocol))
    }
}
