//! Errors in the form of the OCI distribution-spec ("Error Codes").

use http::{Response, StatusCode};
use serde_json::json;

use crate::apiserver::{Body, reply};

/// A refused request to the registry.
#[derive(Debug)]
pub(super) struct OciError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

pub(super) type OciResult<T> = Result<T, OciError>;

impl OciError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        OciError { status, code, message: message.into() }
    }

    pub(super) fn bad(code: &'static str, message: impl Into<String>) -> Self {
        OciError::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(super) fn missing(code: &'static str, message: impl Into<String>) -> Self {
        OciError::new(StatusCode::NOT_FOUND, code, message)
    }

    pub(super) fn response(&self) -> Response<Body> {
        if self.status.is_server_error() {
            tracing::error!(message = self.message, "the registry failed");
        }
        let error = json!({"code": self.code, "message": self.message});
        reply::json(self.status, &json!({"errors": [error]}))
    }
}

impl From<std::io::Error> for OciError {
    /// The disk's errors; a full disk has a status of its own.
    fn from(error: std::io::Error) -> Self {
        let status = match error.kind() {
            std::io::ErrorKind::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        OciError::new(status, "UNKNOWN", error.to_string())
    }
}
