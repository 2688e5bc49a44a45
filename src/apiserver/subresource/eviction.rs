//! `pods/eviction`: a deletion that asks politely. There are no budgets yet, so it is never
//! refused for one.

use serde_json::Value;

use super::super::options;
use super::super::service::{Answer, ApiServer, Call};
use super::super::write::{WriteParams, body_object};
use crate::api::ApiError;

impl ApiServer {
    pub(super) async fn evict(
        &self,
        call: &Call,
        body: Value,
        params: &WriteParams,
    ) -> Result<Answer, ApiError> {
        self.authorize(call, "create")?;
        let eviction = body_object(body)?;
        if !matches!(eviction.kind(), "" | "Eviction") {
            let message = format!("expected an Eviction, not a {}", eviction.kind());
            return Err(ApiError::bad_request(message));
        }
        if !eviction.name().is_empty() && eviction.name() != call.name {
            let message = "name in URL does not match name in Eviction object";
            return Err(ApiError::bad_request(message));
        }
        let mut delete = match eviction.get("deleteOptions") {
            Some(value) => options::delete_options(value)?,
            None => Default::default(),
        };
        delete.dry_run |= params.dry_run;
        self.delete_authorized(call, &delete).await?;
        Ok(created())
    }
}

/// The Status that evictions and bindings answer: 201, in the body as well.
pub(super) fn created() -> Answer {
    let status = "{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\
                  \"status\":\"Success\",\"code\":201}";
    Answer::other(201, status)
}
