//! `pods/profile` and `pods/coredump`: what a node tells of a container's program, passed through
//! as it comes. Both are ours; no other server has them.

use http::Response;

use super::super::Body;
use super::super::request::Query;
use super::super::service::{ApiServer, Call};
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
        let node = log::node_of(&pod)?;
        let (part, kind, options) = match call.subresource.as_str() {
            PROFILE => {
                let seconds = query.number("seconds")?.unwrap_or(DEFAULT_SECONDS);
                (PROFILE, "application/json", format!("?seconds={seconds}"))
            }
            _ => (CORE_DUMP, "application/wasm", String::new()),
        };
        let uri = format!("/{part}/{}/{}/{container}{options}", call.namespace, call.name);
        self.pass_on(node, &uri, kind).await
    }
}
