//! PATCH: read, apply, write, and again if another writer was faster.

use serde_json::Value;

use super::service::{Answer, ApiServer, Call};
use super::subresource::method_not_allowed;
use super::update;
use super::write::{MAX_UPDATE_ATTEMPTS, Updated, WriteParams, body_object};
use crate::api::error::Reason;
use crate::api::patch::{PatchError, json_patch, merge_patch, strategic_merge};
use crate::api::{ApiError, Object};

pub use crate::client::Patch;

/// Conflicts that are listed of one apply.
pub(super) const MAX_CAUSES: usize = 100;

impl ApiServer {
    pub async fn patch(
        &self,
        call: &Call,
        patch: &Patch,
        params: &WriteParams,
    ) -> Result<Answer, ApiError> {
        self.authorize(call, "patch")?;
        if call.info.custom.is_some() && matches!(patch, Patch::Strategic(_)) {
            let message = "the body of the request was in an unknown format - accepted media types \
                           include: application/json-patch+json, application/merge-patch+json, \
                           application/apply-patch+yaml";
            return Err(ApiError::new(415, Reason::UnsupportedMediaType, message));
        }
        let forced = Some(matches!(patch, Patch::Apply { force: true, .. }));
        let params = WriteParams { forced, ..params.clone() };
        let answer = self.patch_authorized(call, patch, &params).await;
        self.settled(call, answer).await
    }

    async fn patch_authorized(
        &self,
        call: &Call,
        patch: &Patch,
        params: &WriteParams,
    ) -> Result<Answer, ApiError> {
        let part = call.subresource.as_str();
        let is_whole = matches!(part, "" | "scale" | update::EPHEMERAL_CONTAINERS);
        if !is_whole && !update::writes_status(part) {
            return Err(method_not_allowed());
        }
        if let Patch::Apply { config, force } = patch {
            if !matches!(part, "" | "status" | "scale") {
                return Err(method_not_allowed());
            }
            return self.apply(call, config, *force, params).await;
        }
        let conditional = names_version(patch);
        for _ in 0..MAX_UPDATE_ATTEMPTS {
            let old = self.stored_as_asked(call).await?;
            let updated = if call.subresource == "scale" {
                self.patch_scale(call, &old, patch, params).await?
            } else {
                let gvr = &call.info.gvr;
                let kind = (&*gvr.group, &*gvr.version, &*call.info.kind);
                let value = patched_part(call, &old.object, patch).into_value();
                let patched = body_object(apply(kind, value, patch)?)?;
                self.replace(call, &old, patched, params).await?
            };
            match updated {
                Updated::Done(answer) => return Ok(answer),
                Updated::Conflict if conditional => break,
                Updated::Conflict => {}
            }
        }
        Err(ApiError::modified(&call.info.gvr, &call.name))
    }
}

/// What of an object a patch is applied to. All of it, but for the rest of one whose status is merged
/// with: that is passed over afterwards, whatever becomes of it.
fn patched_part(call: &Call, object: &Object, patch: &Patch) -> Object {
    let merges = matches!(patch, Patch::Merge(_) | Patch::Strategic(_));
    if !merges || !update::writes_status(&call.subresource) {
        return object.clone();
    }
    let mut part = Object::default();
    for field in ["kind", "apiVersion", "metadata", "status"] {
        if let Some(value) = object.fields().get(field) {
            part.set(field, value.clone());
        }
    }
    part
}

/// The patched value. `kind` is the group, version and kind of `original`.
pub(super) fn apply(
    kind: (&str, &str, &str),
    original: Value,
    patch: &Patch,
) -> Result<Value, ApiError> {
    let patched = match patch {
        Patch::Json(patch) => json_patch(&original, patch),
        Patch::Merge(patch) => merge_patch(&original, patch),
        Patch::Strategic(patch) => strategic_merge(kind, original, patch),
        Patch::Apply { .. } => return Err(method_not_allowed()),
    };
    patched.map_err(|error| refused(&error))
}

/// Without the object's name, as upstream: kubectl shows the message only then.
fn refused(error: &PatchError) -> ApiError {
    let code = error.code();
    ApiError::new(code, Reason::of_code(code), error.to_string())
}

/// Whether the patch itself sets a resource version: then a conflict is the caller's to solve.
fn names_version(patch: &Patch) -> bool {
    match patch {
        Patch::Merge(patch) | Patch::Strategic(patch) => {
            patch.pointer("/metadata/resourceVersion").is_some_and(|v| !v.is_null())
        }
        Patch::Json(patch) => {
            let operations = patch.as_array().into_iter().flatten();
            let mut paths = operations.filter_map(|one| one.get("path").and_then(Value::as_str));
            paths.any(|path| path == "/metadata/resourceVersion")
        }
        Patch::Apply { .. } => false,
    }
}
