//! One error for everything that the API can refuse: the Kubernetes `Status` of a failure.

use serde::{Deserialize, Serialize};

use super::field::FieldError;
use super::resource::{Gvr, KindInfo};

/// A refused request. Its JSON is exactly the `Status` that clients expect
/// (k8s.io/apimachinery/pkg/apis/meta/v1.Status), in upstream's key order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The HTTP code.
    pub code: u16,
    pub reason: Reason,
    pub message: String,
    /// Boxed, since results that hold an error are passed everywhere.
    pub details: Option<Box<Details>>,
    /// The token with which an expired paged list goes on at the newest revision.
    pub continue_token: Option<String>,
}

/// The machine-readable reasons (metav1.StatusReason).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    NotAcceptable,
    UnsupportedMediaType,
    AlreadyExists,
    Conflict,
    Gone,
    Expired,
    RequestEntityTooLarge,
    Invalid,
    TooManyRequests,
    InternalError,
    ServiceUnavailable,
    Timeout,
    #[serde(other)]
    Unknown,
}

/// What the failure is about (metav1.StatusDetails).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Details {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The plural resource for most reasons, the kind for `Invalid`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// One of several causes (metav1.StatusCause).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cause {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// The wire form, read and written.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    kind: std::borrow::Cow<'a, str>,
    #[serde(default)]
    api_version: std::borrow::Cow<'a, str>,
    #[serde(default)]
    metadata: StatusMeta,
    #[serde(default)]
    status: std::borrow::Cow<'a, str>,
    #[serde(default)]
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    details: Option<Box<Details>>,
    #[serde(default)]
    code: u16,
}

#[derive(Default, Serialize, Deserialize)]
struct StatusMeta {
    #[serde(rename = "continue", default, skip_serializing_if = "Option::is_none")]
    continue_token: Option<String>,
}

impl ApiError {
    pub fn new(code: u16, reason: Reason, message: impl Into<String>) -> ApiError {
        ApiError { code, reason, message: message.into(), details: None, continue_token: None }
    }

    pub fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(400, Reason::BadRequest, message)
    }

    pub fn unauthorized() -> ApiError {
        ApiError::new(401, Reason::Unauthorized, "Unauthorized")
    }

    /// `pods "x" is forbidden: <why>`.
    pub fn forbidden(resource: &Gvr, name: &str, why: impl std::fmt::Display) -> ApiError {
        let message = format!("{} {name:?} is forbidden: {why}", resource.qualified());
        ApiError::new(403, Reason::Forbidden, message).about(resource, name)
    }

    /// `deployments.apps "x" not found`.
    pub fn not_found(resource: &Gvr, name: &str) -> ApiError {
        let message = format!("{} {name:?} not found", resource.qualified());
        ApiError::new(404, Reason::NotFound, message).about(resource, name)
    }

    pub fn already_exists(resource: &Gvr, name: &str) -> ApiError {
        let message = format!("{} {name:?} already exists", resource.qualified());
        ApiError::new(409, Reason::AlreadyExists, message).about(resource, name)
    }

    /// `Operation cannot be fulfilled on configmaps "x": <why>`.
    pub fn conflict(resource: &Gvr, name: &str, why: impl std::fmt::Display) -> ApiError {
        let message =
            format!("Operation cannot be fulfilled on {} {name:?}: {why}", resource.qualified());
        ApiError::new(409, Reason::Conflict, message).about(resource, name)
    }

    /// The optimistic lock failed; upstream's words, which clients compare.
    pub fn modified(resource: &Gvr, name: &str) -> ApiError {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        ApiError::conflict(resource, name, why)
    }

    /// 422 with one cause a field error.
    pub fn invalid(kind: &KindInfo, name: &str, errors: Vec<FieldError>) -> ApiError {
        ApiError::invalid_of(&kind.gvr.group, &kind.kind, name, errors)
    }

    /// 422 for options of a request, which are no kind of the registry: `ListOptions`, say.
    pub fn invalid_options(kind: &str, errors: Vec<FieldError>) -> ApiError {
        ApiError::invalid_of("meta.k8s.io", kind, "", errors)
    }

    fn invalid_of(group: &str, kind: &str, name: &str, errors: Vec<FieldError>) -> ApiError {
        let title = if group.is_empty() { kind.to_string() } else { format!("{kind}.{group}") };
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let list = match &texts[..] {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let causes = errors
            .into_iter()
            .map(|e| Cause { reason: e.kind.reason().into(), message: e.body(), field: e.field })
            .collect();
        let mut error =
            ApiError::new(422, Reason::Invalid, format!("{title} {name:?} is invalid: {list}"));
        error.details = Some(Box::new(Details {
            name: name.into(),
            group: group.into(),
            kind: kind.into(),
            causes,
            ..Details::default()
        }));
        error
    }

    /// A watch or a page is older than the history kept.
    pub fn expired(message: impl Into<String>) -> ApiError {
        ApiError::new(410, Reason::Expired, message)
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> ApiError {
        ApiError::new(429, Reason::TooManyRequests, message).retry_after(retry_after_seconds)
    }

    pub fn internal(message: impl std::fmt::Display) -> ApiError {
        let message = format!("Internal error occurred: {message}");
        ApiError::new(500, Reason::InternalError, message)
    }

    pub fn unavailable(message: impl Into<String>) -> ApiError {
        ApiError::new(503, Reason::ServiceUnavailable, message).retry_after(1)
    }

    /// Adds the resource and name to the details.
    pub fn about(mut self, resource: &Gvr, name: &str) -> ApiError {
        let details = self.details.get_or_insert_default();
        details.name = name.into();
        details.group = resource.group.to_string();
        details.kind = resource.resource.to_string();
        self
    }

    pub fn cause(mut self, cause: Cause) -> ApiError {
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    pub fn retry_after(mut self, seconds: u32) -> ApiError {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    pub fn is_not_found(&self) -> bool {
        self.reason == Reason::NotFound
    }

    pub fn is_conflict(&self) -> bool {
        self.reason == Reason::Conflict
    }

    pub fn is_already_exists(&self) -> bool {
        self.reason == Reason::AlreadyExists
    }

    pub fn is_expired(&self) -> bool {
        matches!(self.reason, Reason::Expired | Reason::Gone)
    }

    /// The seconds for the `Retry-After` header.
    pub fn retry_after_seconds(&self) -> Option<u32> {
        self.details.as_ref().map(|d| d.retry_after_seconds).filter(|s| *s > 0)
    }

    /// The `Status` as one line of JSON without the final newline.
    pub fn to_json(&self) -> String {
        let status = Status {
            kind: "Status".into(),
            api_version: "v1".into(),
            metadata: StatusMeta { continue_token: self.continue_token.clone() },
            status: "Failure".into(),
            message: self.message.clone(),
            // The unknown reason is none at all (metav1.StatusReasonUnknown).
            reason: Some(self.reason).filter(|reason| *reason != Reason::Unknown),
            details: self.details.clone(),
            code: self.code,
        };
        serde_json::to_string(&status)
            .unwrap_or_else(|e| format!("{{\"message\":{:?}}}", e.to_string()))
    }

    /// Reads a `Status`; anything else becomes an error with the messages of a registry's errors
    /// (distribution-spec, "Error Codes"), or else with the body's text.
    pub fn from_response(code: u16, body: &[u8]) -> ApiError {
        match serde_json::from_slice::<Status>(body) {
            Ok(status) if status.kind == "Status" => ApiError {
                code: if status.code == 0 { code } else { status.code },
                reason: status.reason.unwrap_or(Reason::Unknown),
                message: status.message,
                details: status.details,
                continue_token: status.metadata.continue_token,
            },
            _ => {
                let text = registry_messages(body)
                    .unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
                let text = text.trim().chars().take(1024).collect::<String>();
                ApiError::new(code, Reason::of_code(code), text)
            }
        }
    }
}

/// What a registry's errors say; `None` where it is nothing.
fn registry_messages(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        errors: Vec<Error>,
    }
    #[derive(Deserialize)]
    struct Error {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Body { errors } = serde_json::from_slice(body).ok()?;
    let texts: Vec<String> = errors
        .into_iter()
        .map(|Error { code, message }| if message.is_empty() { code } else { message })
        .filter(|text| !text.is_empty())
        .collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

impl Reason {
    /// The reason that fits a bare HTTP code.
    pub fn of_code(code: u16) -> Reason {
        match code {
            400 => Reason::BadRequest,
            401 => Reason::Unauthorized,
            403 => Reason::Forbidden,
            404 => Reason::NotFound,
            405 => Reason::MethodNotAllowed,
            406 => Reason::NotAcceptable,
            409 => Reason::Conflict,
            410 => Reason::Gone,
            413 => Reason::RequestEntityTooLarge,
            415 => Reason::UnsupportedMediaType,
            422 => Reason::Invalid,
            429 => Reason::TooManyRequests,
            500 => Reason::InternalError,
            503 => Reason::ServiceUnavailable,
            504 => Reason::Timeout,
            _ => Reason::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn already_exists_is_upstreams_body() {
        let gvr = Gvr::new("", "v1", "configmaps", true);
        let error = ApiError::already_exists(&gvr, "x");
        let text = concat!(
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","#,
            r#""message":"configmaps \"x\" already exists","reason":"AlreadyExists","#,
            r#""details":{"name":"x","kind":"configmaps"},"code":409}"#,
        );
        assert_eq!(error.to_json(), text);
        assert_eq!(ApiError::from_response(409, error.to_json().as_bytes()), error);
    }

    #[test]
    fn a_registry_s_errors_are_told_in_its_words() {
        let message = |body: &str| ApiError::from_response(404, body.as_bytes()).message;
        let unknown = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"there is no v1 of x"}]}"#;
        assert_eq!(message(unknown), "there is no v1 of x");
        let two = r#"{"errors":[{"code":"DENIED"},{"code":"A","message":"b","detail":{}}]}"#;
        assert_eq!(message(two), "DENIED; b");
        assert_eq!(message(r#"{"errors":[]}"#), r#"{"errors":[]}"#);
        assert_eq!(message(" not found\n"), "not found");
    }
}
