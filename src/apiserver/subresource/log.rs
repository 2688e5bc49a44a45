//! `pods/log`: the node agent's answer, passed through as it comes.

use bytes::Bytes;
use futures::TryStreamExt;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response};
use http_body_util::{BodyExt, BodyStream, Full};
use serde_json::Value;

use super::super::Body;
use super::super::request::Query;
use super::super::service::{ApiServer, Call};
use super::super::stream::StreamBody;
use crate::api::error::{Cause, Reason};
use crate::api::field::{Errors, Path};
use crate::api::{ApiError, Object};

/// Options that are numbers, passed to the node if they are there, and the least each may be
/// (ValidatePodLogOptions in k8s.io/kubernetes/pkg/apis/core/validation).
const NUMBERS: &[(&str, i64)] = &[("tailLines", 0), ("sinceSeconds", 1), ("limitBytes", 1)];
/// Values of `stream`.
const STREAMS: &[&str] = &["All", "Stderr", "Stdout"];
/// Options that are yes or no.
const FLAGS: &[&str] = &["follow", "previous", "timestamps"];
/// The most of a node's error text that is passed on.
const MAX_ERROR_BYTES: usize = 4096;

impl ApiServer {
    pub(in crate::apiserver) async fn log(
        &self,
        call: &Call,
        query: &Query,
    ) -> Result<Response<Body>, ApiError> {
        self.authorize(call, "get")?;
        let pod = self.stored(call)?.object;
        let container = container_of(&pod, query.get("container"))?;
        let node = node_of(&pod)?;
        let options = node_query(query, &call.name)?;
        let uri = format!("/logs/{}/{}/{container}{options}", call.namespace, call.name);
        self.pass_on(node, &uri, "text/plain").await
    }

    /// What a node answers, passed through as it comes.
    pub(super) async fn pass_on(
        &self,
        node: &str,
        uri: &str,
        kind: &'static str,
    ) -> Result<Response<Body>, ApiError> {
        let request = Request::get(uri)
            .body(Full::new(Bytes::new()))
            .map_err(|e| ApiError::bad_request(e.to_string()))?;
        let answer = self.nodes.request(node, request).await?;
        if !answer.status().is_success() {
            return Err(refused(answer).await);
        }
        let frames =
            TryStreamExt::map_err(BodyStream::new(answer.into_body()), std::io::Error::other);
        let mut response = Response::new(StreamBody::body(frames));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        Ok(response)
    }
}

/// The node that a Pod runs on.
pub(in crate::apiserver) fn node_of(pod: &Object) -> Result<&str, ApiError> {
    let node = pod.at(&["spec", "nodeName"]).and_then(Value::as_str).unwrap_or_default();
    if node.is_empty() {
        let message = format!("pod {} does not have a host assigned", pod.name());
        return Err(ApiError::bad_request(message));
    }
    Ok(node)
}

/// The node's refusal with its own text.
pub(in crate::apiserver) async fn refused(answer: Response<hyper::body::Incoming>) -> ApiError {
    let code = answer.status().as_u16();
    let body = http_body_util::Limited::new(answer.into_body(), MAX_ERROR_BYTES).collect().await;
    let bytes = body.map(|body| body.to_bytes()).unwrap_or_default();
    ApiError::from_response(code, &bytes)
}

/// The container that is asked for, or the only one.
pub(in crate::apiserver) fn container_of<'a>(
    pod: &'a Object,
    asked: &str,
) -> Result<&'a str, ApiError> {
    let names = |list: &str| -> Vec<&'a str> {
        let list = pod.at(&["spec", list]).and_then(Value::as_array);
        let containers = list.into_iter().flatten();
        containers.filter_map(|c| c.get("name").and_then(Value::as_str)).collect()
    };
    let (main, init) = (names("containers"), names("initContainers"));
    let all: Vec<&str> = [&main[..], &init[..], &names("ephemeralContainers")[..]].concat();
    if let Some(found) = all.iter().copied().find(|name| *name == asked) {
        return Ok(found);
    }
    match main.as_slice() {
        [only] if asked.is_empty() => Ok(only),
        _ if asked.is_empty() => {
            let mut message = format!(
                "a container name must be specified for pod {}, choose one of: [{}]",
                pod.name(),
                main.join(" ")
            );
            if !init.is_empty() {
                message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(ApiError::bad_request(message))
        }
        _ => Err(ApiError::bad_request(format!(
            "container {asked} is not valid for pod {}",
            pod.name()
        ))),
    }
}

/// The checked options, as the node agent takes them.
fn node_query(query: &Query, pod: &str) -> Result<String, ApiError> {
    let mut pairs = Vec::new();
    let mut errors = Errors::default();
    for (key, least) in NUMBERS {
        let Some(number) = number(query, key)? else { continue };
        if number < *least {
            let detail = match least {
                0 => "must be greater than or equal to 0",
                _ => "must be greater than 0",
            };
            errors.invalid(&Path::new(key), number, detail);
        }
        pairs.push(format!("{key}={number}"));
    }
    for key in FLAGS.iter().filter(|key| query.flag(key)) {
        pairs.push(format!("{key}=true"));
    }
    let since = query.get("sinceTime");
    if !since.is_empty() {
        let time: jiff::Timestamp = since.parse().map_err(|_| {
            ApiError::bad_request(format!("sinceTime is no RFC 3339 time: {since:?}"))
        })?;
        if !query.get("sinceSeconds").is_empty() {
            let detail = "at most one of `sinceTime` or `sinceSeconds` may be specified";
            errors.forbidden(&Path::ROOT, detail);
        }
        // A time in UTC has no character that a query would need escaped.
        pairs.push(format!("sinceTime={time}"));
    }
    let stream = query.get("stream");
    if !stream.is_empty() {
        if !STREAMS.contains(&stream) {
            errors.not_supported(&Path::new("stream"), stream, STREAMS);
        } else if stream != "All" && !query.get("tailLines").is_empty() {
            let detail = "`tailLines` and specific `stream` are mutually exclusive for now";
            errors.forbidden(&Path::ROOT, detail);
        }
        pairs.push(format!("stream={stream}"));
    }
    // insecureSkipTLSVerifyBackend asks for less than there is: tunnels are always verified.
    if !errors.is_empty() {
        return Err(invalid(pod, errors));
    }
    Ok(if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) })
}

/// As a Go client writes it; upstream decodes options before it validates them.
fn number(query: &Query, key: &str) -> Result<Option<i64>, ApiError> {
    match query.get(key) {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            ApiError::bad_request(format!("the query parameter {key} is no number: {text:?}"))
        }),
    }
}

/// PodLogOptions are no kind of the registry.
fn invalid(pod: &str, errors: Errors) -> ApiError {
    let errors = errors.into_vec();
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let list = if let [one] = &texts[..] { one.clone() } else { format!("[{}]", texts.join(", ")) };
    let message = format!("PodLogOptions {pod:?} is invalid: {list}");
    let mut error = ApiError::new(422, Reason::Invalid, message);
    for one in errors {
        let reason = one.kind.reason().into();
        error = error.cause(Cause { reason, message: one.body(), field: one.field });
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked_before_a_node_is_asked() {
        let ask = |query: &str| node_query(&Query::parse(query).unwrap(), "p");
        assert_eq!(ask("").unwrap(), "");
        let all = "tailLines=0&sinceSeconds=5&follow=1&previous=False&stream=All&pretty=true";
        assert_eq!(ask(all).unwrap(), "?tailLines=0&sinceSeconds=5&follow=true&stream=All");
        assert_eq!(ask("stream=Stderr").unwrap(), "?stream=Stderr");
        for bad in [
            "sinceSeconds=0",
            "limitBytes=0",
            "tailLines=-1",
            "stream=stdout",
            "stream=Stdout&tailLines=3",
            "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z",
        ] {
            assert_eq!(ask(bad).unwrap_err().code, 422, "{bad}");
        }
        assert_eq!(
            ask("limitBytes=0").unwrap_err().message,
            "PodLogOptions \"p\" is invalid: limitBytes: Invalid value: 0: must be greater than 0"
        );
        for bad in ["tailLines=x", "sinceTime=yesterday"] {
            assert_eq!(ask(bad).unwrap_err().code, 400, "{bad}");
        }
    }
}
