//! Forms of an object: it is stored in one of them and read in each
//! ([`crate::api::resource::StoredAs`]), with the defaults that a schema got after it was stored.

use bytes::Bytes;

use super::conversion::by_webhook;
use super::write::spliced;
use crate::api::field::{Errors, Path};
use crate::api::resource::KindInfo;
use crate::api::{ApiError, Object, Raw};
use crate::store::Value as StoreValue;

/// How the bytes of an object of this kind and version begin ([`Object::to_json`]'s order).
fn beginning(kind: &str, api_version: &str) -> String {
    format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",")
}

/// Whether bytes are of a row's own form.
pub fn is_own(info: &KindInfo, raw: &[u8]) -> bool {
    raw.starts_with(beginning(&info.kind, &info.gvr.api_version()).as_bytes())
}

/// Stored bytes in the form of a row. What a webhook converts has been converted before
/// ([`super::conversion`]).
pub fn shown_raw(info: &KindInfo, raw: Bytes) -> Bytes {
    if (info.stored.is_none() || is_own(info, &raw)) && info.rules.is_complete(&raw) {
        return raw;
    }
    let Ok(object) = Raw(raw.clone()).object() else { return raw };
    let shown = shown(info, object.clone());
    if shown == object { raw } else { shown.to_json().into() }
}

/// A stored object in the form of a row.
pub fn shown(info: &KindInfo, object: Object) -> Object {
    let object = match &info.stored {
        Some(stored) if by_webhook(info).is_none() => stored.shown(object, info.gvr.api_version()),
        _ => object,
    };
    info.rules.complete(object)
}

/// What is stored of an object.
pub fn stored_form(info: &KindInfo, object: &Object) -> StoreValue {
    match &info.stored {
        Some(stored) if stored.gvr.api_version() != object.api_version() => {
            spliced(&stored.stored(object.clone()))
        }
        _ => spliced(object),
    }
}

/// Whether stored bytes are of the version that objects are stored in now.
pub fn is_current(info: &KindInfo, raw: &[u8]) -> bool {
    let Some(stored) = &info.stored else { return true };
    raw.starts_with(beginning(&info.kind, &stored.gvr.api_version()).as_bytes())
}

/// Stored bytes as a row's rules read them: its own form, where that differs in more than the
/// version.
pub fn readable(info: &KindInfo, raw: &Bytes) -> Bytes {
    match &info.stored {
        Some(stored) if stored.shape.is_some() => shown_raw(info, raw.clone()),
        _ => raw.clone(),
    }
}

/// 422 for a replacement that does not say what it replaces.
pub fn unversioned(info: &KindInfo, name: &str) -> ApiError {
    let mut errors = Errors::default();
    let path = Path::new("metadata");
    errors.invalid(&path.child("resourceVersion"), 0, "must be specified for an update");
    ApiError::invalid(info, name, errors.into_vec())
}
