//! Which protocol a connection switches to: the first of ours that the client offers.

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::api::ApiError;
use crate::api::error::Reason;
use crate::apiserver::{Body, reply, websocket};

/// Subprotocols of commands over WebSocket, best first: the fifth ends single channels, the fourth
/// tells the outcome as a Status, those before it as text
/// (k8s.io/apimachinery/pkg/util/remotecommand).
const CHANNELS: &[&str] = &[
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
];
/// The same over SPDY.
const SPDY_COMMANDS: &[&str] = &["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io"];
/// Ports over WebSocket: channels, or SPDY inside of messages (KEP-4006).
const PORT_CHANNELS: &[&str] = &["v4.channel.k8s.io"];
const TUNNELED: &str = "SPDY/3.1+portforward.k8s.io";
const SPDY_PORTS: &[&str] = &["portforward.k8s.io"];

const SPDY: &str = "SPDY/3.1";
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";

/// What was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Channels(&'static str),
    /// SPDY in the messages of a WebSocket.
    Tunneled,
    Spdy(&'static str),
}

/// For exec and attach.
pub fn of_command(headers: &HeaderMap) -> Result<Wire, ApiError> {
    if websocket::is_requested(headers) {
        return channels(headers, CHANNELS);
    }
    spdy(headers, SPDY_COMMANDS)
}

/// For port-forward.
pub fn of_ports(headers: &HeaderMap) -> Result<Wire, ApiError> {
    if !websocket::is_requested(headers) {
        return spdy(headers, SPDY_PORTS);
    }
    if websocket::offered(headers).any(|offered| offered == TUNNELED) {
        return Ok(Wire::Tunneled);
    }
    channels(headers, PORT_CHANNELS)
}

fn channels(headers: &HeaderMap, ours: &[&'static str]) -> Result<Wire, ApiError> {
    let offered: Vec<&str> = websocket::offered(headers).collect();
    match ours.iter().find(|name| offered.contains(*name)) {
        Some(name) => Ok(Wire::Channels(name)),
        // Who offers nothing speaks the first version, as it was before there were names.
        None if offered.is_empty() && ours.contains(&"channel.k8s.io") => Ok(Wire::Channels("")),
        None => Err(nothing_in_common(&offered, ours)),
    }
}

fn spdy(headers: &HeaderMap, ours: &[&'static str]) -> Result<Wire, ApiError> {
    let lists = |name: &str, word: &str| {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|it| it.trim().eq_ignore_ascii_case(word))
    };
    if !lists("connection", "upgrade") || !lists("upgrade", SPDY) {
        let message = "Upgrade request required: this is served over WebSocket and SPDY/3.1 only";
        return Err(ApiError::bad_request(message));
    }
    let values = headers.get_all(STREAM_PROTOCOL).into_iter().filter_map(|v| v.to_str().ok());
    let offered: Vec<&str> = values.flat_map(|v| v.split(',')).map(str::trim).collect();
    match ours.iter().find(|name| offered.contains(*name)) {
        Some(name) => Ok(Wire::Spdy(name)),
        None => Err(nothing_in_common(&offered, ours)),
    }
}

fn nothing_in_common(offered: &[&str], ours: &[&str]) -> ApiError {
    let message = format!(
        "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server \
         accepts {ours:?}"
    );
    ApiError::new(403, Reason::Forbidden, message)
}

impl Wire {
    /// The answer that switches.
    pub fn accept(self, headers: &HeaderMap) -> Result<Response<Body>, ApiError> {
        match self {
            Wire::Channels(name) => websocket::accept(headers, (!name.is_empty()).then_some(name)),
            Wire::Tunneled => websocket::accept(headers, Some(TUNNELED)),
            Wire::Spdy(name) => {
                let mut response = reply::empty(StatusCode::SWITCHING_PROTOCOLS);
                let answer = response.headers_mut();
                answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
                answer.insert(UPGRADE, HeaderValue::from_static(SPDY));
                answer.insert(STREAM_PROTOCOL, HeaderValue::from_static(name));
                Ok(response)
            }
        }
    }

    /// Whether the outcome is told as a Status, and not as text.
    pub fn tells_status(self) -> bool {
        matches!(self, Wire::Channels(name) | Wire::Spdy(name)
            if name.starts_with("v5") || name.starts_with("v4"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn websocket(protocols: &'static str) -> HeaderMap {
        let handshake = [("connection", "Upgrade"), ("upgrade", "websocket")];
        headers(&[&handshake[..], &[("sec-websocket-protocol", protocols)]].concat())
    }

    #[test]
    fn the_best_of_what_is_offered_is_spoken() {
        let of = |protocols| of_command(&websocket(protocols));
        assert_eq!(of("v5.channel.k8s.io"), Ok(Wire::Channels("v5.channel.k8s.io")));
        let headlamp = "v4.channel.k8s.io, v3.channel.k8s.io, channel.k8s.io";
        assert_eq!(of(headlamp), Ok(Wire::Channels("v4.channel.k8s.io")));
        assert_eq!(of("v9.channel.k8s.io").unwrap_err().code, 403);
        let kubectl = "SPDY/3.1+portforward.k8s.io";
        assert_eq!(of_ports(&websocket(kubectl)), Ok(Wire::Tunneled));
        assert_eq!(of_ports(&websocket("v5.channel.k8s.io")).unwrap_err().code, 403);
    }

    #[test]
    fn older_clients_speak_spdy() {
        let upgrade = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
        let all = [
            ("x-stream-protocol-version", "v5.channel.k8s.io"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
        ];
        let asked = headers(&[&upgrade[..], &all].concat());
        assert_eq!(of_command(&asked), Ok(Wire::Spdy("v4.channel.k8s.io")));
        assert_eq!(of_command(&headers(&upgrade)).unwrap_err().code, 403);
        assert_eq!(of_command(&headers(&[])).unwrap_err().code, 400);
    }
}
