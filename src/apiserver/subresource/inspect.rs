//! `pods/profile` and `pods/coredump`: what a node tells of a container's program, passed through
//! as it comes. Both are ours; no other server has them.

use bytes::Bytes;
use futures::TryStreamExt;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response};
use http_body_util::{BodyStream, Full};
use serde_json::Value;

use super::super::Body;
use super::super::request::Query;
use super::super::service::{ApiServer, Call};
use super::super::stream::StreamBody;
use super::log;
use crate::api::ApiError;

pub const PROFILE: &str = "profile";
pub const CORE_DUMP: &str = "coredump";
/// How long a profile is where nobody says.
const DEFAULT_SECONDS: u64 = 10;

impl ApiServer {
    /// # Errors
    /// 400 for options that make no sense and pods on no node, and what the node says.
    pub(in crate::apiserver) async fn inspect(
        &self,
        call: &Call,
        query: &Query,
    ) -> Result<Response<Body>, ApiError> {
        self.authorize(call, "get")?;
        let pod = self.stored(call)?.object;
        let container = log::container_of(&pod, query.get("container"))?;
        let node = pod.at(&["spec", "nodeName"]).and_then(Value::as_str).unwrap_or_default();
        if node.is_empty() {
            let message = format!("pod {} does not have a host assigned", call.name);
            return Err(ApiError::bad_request(message));
        }
        let (part, kind, options) = match call.subresource.as_str() {
            PROFILE => {
                let seconds = query.number("seconds")?.unwrap_or(DEFAULT_SECONDS);
                (PROFILE, "application/json", format!("?seconds={seconds}"))
            }
            _ => (CORE_DUMP, "application/wasm", String::new()),
        };
        let uri = format!("/{part}/{}/{}/{container}{options}", call.namespace, call.name);
        let request = Request::get(uri)
            .body(Full::new(Bytes::new()))
            .map_err(|e| ApiError::bad_request(e.to_string()))?;
        let answer = self.nodes.request(node, request).await?;
        if !answer.status().is_success() {
            return Err(log::refused(answer).await);
        }
        let frames =
            TryStreamExt::map_err(BodyStream::new(answer.into_body()), std::io::Error::other);
        let mut response = Response::new(StreamBody::body(frames));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        Ok(response)
    }
}
