//! Asks a server how it is by gRPC's own protocol for that: `grpc.health.v1.Health/Check`, over
//! HTTP/2 in plain text. The two messages are so small that they are written and read by hand.
//!
//! Source: github.com/grpc/grpc doc/health-checking.md and doc/PROTOCOL-HTTP2.md; k8s.io/kubernetes
//! pkg/probe/grpc/grpc.go.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::http_get::drive;

/// An answer is a message of two bytes behind a head of five.
const MOST_ANSWER_BYTES: usize = 4 << 10;
/// Bytes of an answer's head (RFC 9113, SETTINGS_MAX_HEADER_LIST_SIZE).
const MOST_HEAD_BYTES: u32 = 16 << 10;
/// The method's path.
const PATH: &str = "/grpc.health.v1.Health/Check";
/// HealthCheckResponse.ServingStatus, by number.
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const SERVING: u64 = 1;
/// The status code of a call that went well, and of one that the server does not know.
const OK: &str = "0";
const UNIMPLEMENTED: &str = "12";

/// Asks once. The caller bounds the time.
///
/// # Errors
/// Why the service does not count as well.
pub async fn check(address: SocketAddr, service: &str, agent: &str) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| {
        format!("error: failed to connect service at \"{address}\": {error}")
    };
    let stream = TcpStream::connect(address).await.map_err(|error| failed(&error))?;
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .max_header_list_size(MOST_HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(&error))?;
    let request = Request::post(format!("http://{address}{PATH}"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, agent)
        .body(Full::new(request(service)))
        .map_err(|error| failed(&error))?;
    let failed = |error: &dyn std::fmt::Display| format!("error: health rpc probe failed: {error}");
    let talk = async {
        let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
        let (head, body) = response.into_parts();
        if head.status != http::StatusCode::OK {
            return Err(failed(&format_args!("unexpected HTTP status code {}", head.status)));
        }
        let body = Limited::new(body, MOST_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| failed(&error))?;
        // A call without a message has its status in the head.
        let trailers = body.trailers().cloned().unwrap_or(head.headers);
        judge(&trailers, &body.to_bytes())
    };
    drive(talk, connection, |error| failed(&error)).await
}

/// A HealthCheckRequest (field 1, the service's name) behind its head.
fn request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put(message);
    framed.freeze()
}

fn judge(trailers: &HeaderMap, body: &[u8]) -> Result<(), String> {
    let text = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok());
    let message = text("grpc-message").unwrap_or_default();
    match text("grpc-status") {
        Some(OK) => {}
        Some(UNIMPLEMENTED) => {
            return Err(format!(
                "error: this server does not implement the grpc health protocol \
                 (grpc.health.v1.Health): {message}"
            ));
        }
        Some(code) => {
            return Err(format!("error: health rpc probe failed: code {code}: {message}"));
        }
        None => return Err("error: health rpc probe failed: the answer has no status".into()),
    }
    let Some(status) = status(body) else {
        return Err("error: health rpc probe failed: the answer is no HealthCheckResponse".into());
    };
    if status == SERVING {
        return Ok(());
    }
    let name = usize::try_from(status).ok().and_then(|at| STATUSES.get(at));
    let name = name.map_or_else(|| status.to_string(), |name| name.to_string());
    Err(format!("service unhealthy (responded with {name:?})"))
}

/// The status of a HealthCheckResponse (field 1, a number) behind its head. Other fields are none
/// of this protocol's version.
fn status(body: &[u8]) -> Option<u64> {
    let (head, message) = body.split_at_checked(5)?;
    let length = u32::from_be_bytes(head[1..].try_into().ok()?);
    // Compressed ones were not asked for.
    if head[0] != 0 || usize::try_from(length).ok()? != message.len() {
        return None;
    }
    let Some((tag, mut rest)) = message.split_first() else { return Some(0) };
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, more) = rest.split_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        rest = more;
        if byte & 0x80 == 0 {
            return (*tag == 0x08 && rest.is_empty()).then_some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_protocol_buffers() {
        assert_eq!(&request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&request("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = request(&"x".repeat(300));
        assert_eq!(&long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 2]);
        assert_eq!(long.len(), 5 + 303);
        let cases: [(&[u8], Option<u64>); 8] = [
            (&[0, 0, 0, 0, 2, 8, 1], Some(1)),
            (&[0, 0, 0, 0, 0], Some(0)),
            (&[0, 0, 0, 0, 3, 8, 0xac, 2], Some(300)),
            (&[1, 0, 0, 0, 2, 8, 1], None),
            (&[0, 0, 0, 0, 3, 8, 1], None),
            (&[0, 0, 0, 0, 2, 16, 1], None),
            (&[0, 0, 0, 0, 2, 8, 0x80], None),
            (&[0, 0], None),
        ];
        for (bytes, wanted) in cases {
            assert_eq!(status(bytes), wanted, "{bytes:?}");
        }
    }

    #[test]
    fn answers_are_told_in_kubelets_words() {
        let judged = |code: Option<&str>, body: &[u8]| {
            let mut trailers = HeaderMap::new();
            if let Some(code) = code {
                trailers.insert("grpc-status", code.parse().unwrap());
                trailers.insert("grpc-message", "no".parse().unwrap());
            }
            judge(&trailers, body).err().unwrap_or_default()
        };
        let body = |status: u8| [0, 0, 0, 0, 2, 8, status];
        assert_eq!(judged(Some("0"), &body(1)), "");
        let unwell = "service unhealthy (responded with \"NOT_SERVING\")";
        assert_eq!(judged(Some("0"), &body(2)), unwell);
        assert_eq!(judged(Some("0"), &body(9)), "service unhealthy (responded with \"9\")");
        assert!(judged(Some("0"), b"hello").contains("no HealthCheckResponse"));
        assert!(judged(Some("12"), b"").ends_with("(grpc.health.v1.Health): no"));
        assert_eq!(judged(Some("5"), b""), "error: health rpc probe failed: code 5: no");
        assert!(judged(None, &body(1)).contains("no status"));
    }
}
