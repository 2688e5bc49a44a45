//! Request bodies: JSON, YAML or protobuf, within a size, into one JSON value.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::api::error::Reason;
use crate::api::{ApiError, proto, strict};

/// The largest body (upstream's limit for writes of resources).
pub const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// What a request may bring.
pub trait RequestBody:
    http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send
{
}

impl<B> RequestBody for B where
    B: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send
{
}

/// A decoded body.
pub struct Decoded {
    pub value: Value,
    /// The paths of keys that are there twice.
    pub duplicates: Vec<String>,
}

/// How long a body may take at first, and how fast it must come then: who sends less keeps a place
/// among the requests in flight for nothing.
const BODY_GRACE: Duration = Duration::from_secs(10);
const BODY_BYTES_PER_SECOND: u64 = 32 << 10;

/// Reads a whole body.
///
/// # Errors
/// 413 for more than [`MAX_BODY_BYTES`], 400 for a body that ends early, 408 for one that comes too
/// slowly.
pub async fn read<B: RequestBody>(body: B) -> Result<Bytes, ApiError> {
    let begin = Instant::now();
    let mut body = pin!(Limited::new(body, MAX_BODY_BYTES));
    let mut whole = Bytes::new();
    let mut parts: Vec<u8> = Vec::new();
    loop {
        let received = (whole.len() + parts.len()) as u64;
        let deadline = begin + BODY_GRACE + Duration::from_secs(received / BODY_BYTES_PER_SECOND);
        let frame = match timeout_at(deadline, body.frame()).await {
            Ok(Some(frame)) => frame.map_err(unreadable)?,
            Ok(None) if parts.is_empty() => return Ok(whole),
            Ok(None) => return Ok(parts.into()),
            Err(_) => {
                let message = "the body of the request comes too slowly";
                return Err(ApiError::new(408, Reason::Timeout, message));
            }
        };
        // Most bodies are one frame, which is not copied.
        match frame.into_data() {
            Ok(data) if received == 0 => whole = data,
            Ok(data) => {
                parts.extend_from_slice(&std::mem::take(&mut whole));
                parts.extend_from_slice(&data);
            }
            Err(_) => {}
        }
    }
}

fn unreadable(error: Box<dyn std::error::Error + Send + Sync>) -> ApiError {
    if error.is::<LengthLimitError>() {
        let message = format!("Request entity too large: limit is {MAX_BODY_BYTES}");
        return ApiError::new(413, Reason::RequestEntityTooLarge, message);
    }
    ApiError::bad_request(format!("the body cannot be read: {error}"))
}

/// The media type without its parameters; JSON if there is none.
pub fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    match value.split(';').next().unwrap_or_default().trim() {
        "" => "application/json",
        media => media,
    }
}

/// Decodes an object by its media type. An empty body is null.
pub fn decode(media: &str, body: &[u8]) -> Result<Decoded, ApiError> {
    if body.is_empty() {
        return Ok(Decoded { value: Value::Null, duplicates: Vec::new() });
    }
    match media {
        "application/json" => json(body),
        "application/yaml" | "application/x-yaml" | "text/yaml" => yaml(body),
        PROTOBUF => match proto::decode(body) {
            Ok(value) => Ok(Decoded { value, duplicates: Vec::new() }),
            Err(error @ proto::ProtoError::TooLarge) => {
                let reason = Reason::RequestEntityTooLarge;
                Err(ApiError::new(413, reason, error.to_string()))
            }
            Err(error) => Err(ApiError::bad_request(error.to_string())),
        },
        other => Err(unsupported(other, &["application/json", "application/yaml", PROTOBUF])),
    }
}

/// JSON with its duplicate keys.
pub fn json(body: &[u8]) -> Result<Decoded, ApiError> {
    match strict::parse(body) {
        Ok(parsed) => Ok(Decoded { value: parsed.value, duplicates: parsed.duplicates }),
        Err(error) => Err(ApiError::bad_request(format!("the body is not valid JSON: {error}"))),
    }
}

/// One YAML document, which may be JSON, with its duplicate keys.
pub fn yaml(body: &[u8]) -> Result<Decoded, ApiError> {
    match strict::parse_yaml(body) {
        Ok(parsed) => Ok(Decoded { value: parsed.value, duplicates: parsed.duplicates }),
        Err(error) => Err(ApiError::bad_request(format!("the body is not valid YAML: {error}"))),
    }
}

/// 415 with the types that would do.
pub fn unsupported(media: &str, supported: &[&str]) -> ApiError {
    let message = format!(
        "the body of the request was in an unknown format ({media}) - accepted media types \
         include: {}",
        supported.join(", ")
    );
    ApiError::new(415, Reason::UnsupportedMediaType, message)
}
