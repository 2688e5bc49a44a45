//! Versions of custom resources: objects are stored in one of them and read in each. Without
//! conversion they differ in `apiVersion` only.

use bytes::Bytes;

use super::write::spliced;
use crate::api::field::{Errors, Path};
use crate::api::resource::KindInfo;
use crate::api::{ApiError, Object, Raw};
use crate::store::Value as StoreValue;

/// How the bytes of an object of this kind and version begin ([`Object::to_json`]'s order).
fn beginning(kind: &str, api_version: &str) -> String {
    format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",")
}

/// Stored bytes in the version of a row.
pub fn shown_raw(info: &KindInfo, raw: Bytes) -> Bytes {
    if info.custom.is_none()
        || raw.starts_with(beginning(&info.kind, &info.gvr.api_version()).as_bytes())
    {
        return raw;
    }
    match Raw(raw.clone()).object() {
        Ok(object) => shown(info, object).to_json().into(),
        Err(_) => raw,
    }
}

/// A stored object in the version of a row.
pub fn shown(info: &KindInfo, mut object: Object) -> Object {
    if info.custom.is_some() {
        object.set("apiVersion", info.gvr.api_version().into());
    }
    object
}

/// What is stored of an object.
pub fn stored_form(info: &KindInfo, object: &Object) -> StoreValue {
    match &info.custom {
        Some(custom) if custom.stored_api_version != object.api_version() => {
            let mut stored = object.clone();
            stored.set("apiVersion", custom.stored_api_version.clone().into());
            spliced(&stored)
        }
        _ => spliced(object),
    }
}

/// Whether stored bytes are of the version that objects are stored in now.
pub fn is_current(info: &KindInfo, raw: &[u8]) -> bool {
    let Some(custom) = &info.custom else { return true };
    raw.starts_with(beginning(&info.kind, &custom.stored_api_version).as_bytes())
}

/// 422 for a replacement that does not say what it replaces.
pub fn unversioned(info: &KindInfo, name: &str) -> ApiError {
    let mut errors = Errors::default();
    let path = Path::new("metadata");
    errors.invalid(&path.child("resourceVersion"), 0, "must be specified for an update");
    ApiError::invalid(info, name, errors.into_vec())
}
