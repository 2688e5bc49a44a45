//! Subresources with a meaning of their own. `/status` and `/finalize` are updates like any other
//! ([`super::write`]); the rest is here, one file each.

pub mod binding;
pub mod eviction;
pub mod inspect;
pub mod log;
pub mod scale;
mod token;
pub mod why;

use serde_json::Value;

use super::service::{Answer, ApiServer, Call};
use super::update::{self, EPHEMERAL_CONTAINERS};
use super::write::WriteParams;
use crate::api::ApiError;
use crate::api::error::Reason;

impl ApiServer {
    /// POST to a subresource.
    pub async fn post(
        &self,
        call: &Call,
        body: Value,
        params: &WriteParams,
    ) -> Result<Answer, ApiError> {
        let answer = match call.subresource.as_str() {
            "" if call.info.meta.review => self.review(call, body, params),
            "" => self.create(call, body, params).await,
            // Boxed here and elsewhere: a request's future is as large as its largest part.
            "binding" => Box::pin(self.bind(call, body, params)).await,
            "eviction" => Box::pin(self.evict(call, body, params)).await,
            "token" => Box::pin(self.request_token(call, body, params)).await,
            _ => Err(method_not_allowed()),
        };
        self.settled(call, answer).await
    }

    /// GET of a subresource that is JSON.
    pub async fn get_part(&self, call: &Call, version: &str) -> Result<Answer, ApiError> {
        match call.subresource.as_str() {
            "" => self.get(call, version).await.map(|raw| Answer::object(200, raw)),
            part if update::writes_status(part) || part == EPHEMERAL_CONTAINERS => {
                self.get(call, version).await.map(|raw| Answer::object(200, raw))
            }
            "scale" => self.get_scale(call).await,
            _ => Err(method_not_allowed()),
        }
    }

    /// PUT to a subresource, or to the resource.
    pub async fn put(
        &self,
        call: &Call,
        body: Value,
        params: &WriteParams,
    ) -> Result<Answer, ApiError> {
        let answer = match call.subresource.as_str() {
            "" | "finalize" | EPHEMERAL_CONTAINERS => self.update(call, body, params).await,
            part if update::writes_status(part) => self.update(call, body, params).await,
            "scale" => Box::pin(self.put_scale(call, body, params)).await,
            _ => Err(method_not_allowed()),
        };
        self.settled(call, answer).await
    }
}

/// 405: the resource is there, the verb is not.
pub(super) fn method_not_allowed() -> ApiError {
    let message = "the server does not allow this method on the requested resource";
    ApiError::new(405, Reason::MethodNotAllowed, message)
}
