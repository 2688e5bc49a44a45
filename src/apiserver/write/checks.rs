//! What a body must have in common with its URL and with the stored object.

use std::borrow::Cow;

use serde_json::Value;

use crate::api::error::Reason;
use crate::api::resource::KindInfo;
use crate::api::{ApiError, Object, meta};
use crate::apiserver::service::{Call, Stored};
use crate::store::Value as StoreValue;

/// The largest object that is stored, in bytes of its JSON: etcd's default bound on a request
/// (`--max-request-bytes`). Bodies may be larger, since much of them may be white space; an object
/// that is larger already may still shrink.
pub const MAX_OBJECT_BYTES: usize = 3 << 19;

/// 413 for a value that is too large to store and larger than the stored one.
pub(in crate::apiserver) fn check_size(
    value: &StoreValue,
    stored_bytes: usize,
) -> Result<(), ApiError> {
    let bytes = value.bytes.len();
    if bytes <= MAX_OBJECT_BYTES || bytes <= stored_bytes {
        return Ok(());
    }
    let message = format!(
        "Request entity too large: the object would have {bytes} bytes, limit is {MAX_OBJECT_BYTES}"
    );
    Err(ApiError::new(413, Reason::RequestEntityTooLarge, message))
}

/// An object from outside, whose system fields have the types that the pipeline reads.
pub(in crate::apiserver) fn body_object(body: Value) -> Result<Object, ApiError> {
    let object = Object::from_value(body)?;
    meta::check_types(&object)?;
    Ok(object)
}

/// The body's type must be the URL's; what is left out is filled in.
pub(in crate::apiserver) fn check_kind(
    info: &KindInfo,
    object: &mut Object,
) -> Result<(), ApiError> {
    let api_version = info.gvr.api_version();
    let wrong_version = !object.api_version().is_empty() && object.api_version() != api_version;
    let wrong_kind = !object.kind().is_empty() && object.kind() != info.kind;
    if wrong_version {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({api_version})",
            object.api_version()
        )));
    }
    if wrong_kind {
        return Err(ApiError::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}",
            object.kind(),
            info.gvr.version,
            info.kind
        )));
    }
    object.set("apiVersion", api_version.into());
    object.set("kind", Value::from(Cow::into_owned(info.kind.clone())));
    Ok(())
}

pub(in crate::apiserver) fn check_namespace(
    call: &Call,
    object: &mut Object,
) -> Result<(), ApiError> {
    let namespace = object.namespace();
    if namespace == call.namespace {
        return Ok(());
    }
    if namespace.is_empty() {
        object.set_meta("namespace", call.namespace.clone());
        return Ok(());
    }
    if !call.info.gvr.namespaced {
        // As upstream: a cluster-scoped object loses it.
        object.meta_mut().remove("namespace");
        return Ok(());
    }
    let message =
        "the namespace of the provided object does not match the namespace sent on the request";
    Err(ApiError::bad_request(message))
}

pub(in crate::apiserver) fn check_name(call: &Call, object: &mut Object) -> Result<(), ApiError> {
    match object.name() {
        name if name == call.name => Ok(()),
        "" => {
            object.set_meta("name", call.name.clone());
            Ok(())
        }
        name => Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.name
        ))),
    }
}

pub(in crate::apiserver) fn check_preconditions(
    call: &Call,
    old: &Stored,
    object: &Object,
) -> Result<(), ApiError> {
    let version = object.resource_version();
    if !version.is_empty() && version != "0" && version != old.object.resource_version() {
        return Err(ApiError::modified(&call.info.gvr, &call.name));
    }
    check_uid(call, object.uid(), &old.object)
}

/// An empty `uid` asks for nothing.
pub(in crate::apiserver) fn check_uid(
    call: &Call,
    uid: &str,
    old: &Object,
) -> Result<(), ApiError> {
    if uid.is_empty() || uid == old.uid() {
        return Ok(());
    }
    let why = format!(
        "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
        old.uid()
    );
    Err(ApiError::conflict(&call.info.gvr, &call.name, why))
}
