//! DeleteOptions as they come in a body, checked.

use serde::Deserialize;
use serde_json::Value;

use crate::api::ApiError;
use crate::api::error::Reason;
use crate::client::{DeleteOptions, Propagation};

/// meta/v1 DeleteOptions. Unknown fields are ignored, as upstream does.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Body {
    grace_period_seconds: Option<i64>,
    propagation_policy: Option<String>,
    orphan_dependents: Option<bool>,
    preconditions: Option<Preconditions>,
    dry_run: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

/// Reads a body; null is no options.
pub fn delete_options(body: &Value) -> Result<DeleteOptions, ApiError> {
    if body.is_null() {
        return Ok(DeleteOptions::default());
    }
    let kind = body.get("kind").and_then(Value::as_str).unwrap_or_default();
    if !matches!(kind, "" | "DeleteOptions") {
        return Err(ApiError::bad_request(format!("expected DeleteOptions, not a {kind}")));
    }
    let body = Body::deserialize(body).map_err(|e| ApiError::bad_request(e.to_string()))?;
    let preconditions = body.preconditions.unwrap_or_default();
    let dry_run = body.dry_run.unwrap_or_default();
    Ok(DeleteOptions {
        grace_period_seconds: body.grace_period_seconds,
        propagation_policy: propagation(
            body.propagation_policy.as_deref(),
            body.orphan_dependents,
        )?,
        uid: preconditions.uid.filter(|uid| !uid.is_empty()),
        resource_version: preconditions.resource_version.filter(|v| !v.is_empty()),
        dry_run: is_dry_run(dry_run.iter().map(String::as_str))?,
        fence: None,
    })
}

/// The policy, or what the older `orphanDependents` means.
pub fn propagation(
    policy: Option<&str>,
    orphan_dependents: Option<bool>,
) -> Result<Option<Propagation>, ApiError> {
    match (policy.filter(|p| !p.is_empty()), orphan_dependents) {
        (Some(_), Some(_)) => {
            let message = "orphanDependents and deletionPropagation cannot be both set";
            Err(invalid(message.into()))
        }
        (Some("Background"), None) => Ok(Some(Propagation::Background)),
        (Some("Foreground"), None) => Ok(Some(Propagation::Foreground)),
        (Some("Orphan"), None) => Ok(Some(Propagation::Orphan)),
        (Some(other), None) => Err(invalid(format!(
            "propagationPolicy: Unsupported value: {other:?}: supported values: \
             \"Background\", \"Foreground\", \"Orphan\""
        ))),
        (None, Some(true)) => Ok(Some(Propagation::Orphan)),
        (None, Some(false)) => Ok(Some(Propagation::Background)),
        (None, None) => Ok(None),
    }
}

/// `All` is the only value there is.
pub fn is_dry_run<'a>(values: impl Iterator<Item = &'a str>) -> Result<bool, ApiError> {
    let mut dry_run = false;
    for value in values {
        if value != "All" {
            let detail = format!("dryRun: Unsupported value: {value:?}: supported values: \"All\"");
            return Err(invalid(detail));
        }
        dry_run = true;
    }
    Ok(dry_run)
}

fn invalid(detail: String) -> ApiError {
    ApiError::new(422, Reason::Invalid, format!("options are invalid: {detail}"))
}
