//! Responses of the API server's smaller endpoints.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

use super::{Body, full};
use crate::api::ApiError;

/// A status code alone.
pub fn empty(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = code;
    response
}

/// A body of one content type.
pub fn bytes(
    code: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// One line of JSON.
pub fn json(code: StatusCode, body: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(body) {
        Ok(mut text) => {
            text.push(b'\n');
            bytes(code, "application/json", text)
        }
        Err(error) => status(&ApiError::internal(error)),
    }
}

/// A failure as its `Status`.
pub fn status(error: &ApiError) -> Response<Body> {
    let code = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = bytes(code, "application/json", error.to_json() + "\n");
    if let Some(seconds) = error.retry_after_seconds() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// What upstream answers for a path that nobody serves.
pub fn no_such_path() -> Response<Body> {
    bytes(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n")
}
