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
use crate::api::error::Reason;
use crate::api::{ApiError, Object};

/// Options that are numbers, passed to the node if they are there.
const NUMBERS: &[&str] = &["tailLines", "sinceSeconds", "limitBytes"];
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
        let node = pod.at(&["spec", "nodeName"]).and_then(Value::as_str).unwrap_or_default();
        if node.is_empty() {
            let message = format!("pod {} does not have a host assigned", call.name);
            return Err(ApiError::bad_request(message));
        }
        let options = node_query(query)?;
        let uri = format!("/logs/{}/{}/{container}{options}", call.namespace, call.name);
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
        let text = HeaderValue::from_static("text/plain");
        response.headers_mut().insert(CONTENT_TYPE, text);
        Ok(response)
    }
}

/// The node's refusal with its own text.
async fn refused(answer: Response<hyper::body::Incoming>) -> ApiError {
    let code = answer.status().as_u16();
    let body = http_body_util::Limited::new(answer.into_body(), MAX_ERROR_BYTES).collect().await;
    let bytes = body.map(|body| body.to_bytes()).unwrap_or_default();
    ApiError::from_response(code, &bytes)
}

/// The container that is asked for, or the only one.
fn container_of<'a>(pod: &'a Object, asked: &str) -> Result<&'a str, ApiError> {
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
fn node_query(query: &Query) -> Result<String, ApiError> {
    let mut pairs = Vec::new();
    for key in NUMBERS {
        if let Some(number) = query.number(key)? {
            pairs.push(format!("{key}={number}"));
        }
    }
    for key in FLAGS.iter().filter(|key| query.flag(key)) {
        pairs.push(format!("{key}=true"));
    }
    let since = query.get("sinceTime");
    if !since.is_empty() {
        let time: jiff::Timestamp = since.parse().map_err(|_| {
            ApiError::bad_request(format!("sinceTime is no RFC 3339 time: {since:?}"))
        })?;
        if query.number("sinceSeconds")?.is_some() {
            let message = "at most one of sinceTime or sinceSeconds may be specified";
            return Err(ApiError::new(422, Reason::Invalid, message));
        }
        // A time in UTC has no character that a query would need escaped.
        pairs.push(format!("sinceTime={time}"));
    }
    if query.flag("insecureSkipTLSVerifyBackend") {
        let message = "insecureSkipTLSVerifyBackend is not supported: nodes are reached through \
                       their own tunnel, which is always verified";
        return Err(ApiError::bad_request(message));
    }
    Ok(if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) })
}
