//! The rules of `metadata` that hold for every kind: what users may set, what the system keeps,
//! and what is valid (k8s.io/apimachinery/pkg/api/validation/objectmeta.go).
//!
//! Knows no kind and decides nothing about deletion; that is the API server's.

use std::collections::{BTreeMap, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Map, Value};

use super::error::ApiError;
use super::field::{Errors, Path};
use super::names;
use super::object::Object;
use super::resource::{KindInfo, NameRule};

/// Most bytes of all keys and values of annotations together.
pub const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;
/// Longest name after a generated suffix was added, in bytes (a label).
pub const GENERATED_NAME_MAX_BYTES: usize = 63;
/// How many characters a generated name ends with.
pub const GENERATED_SUFFIX_LENGTH: usize = 5;

/// Fields that only the system sets.
const SYSTEM_FIELDS: &[&str] = &[
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "selfLink",
    "managedFields",
    "resourceVersion",
];

type TypeCheck = fn(&Value) -> Result<(), serde_json::Error>;

/// What the pipeline reads or replaces before the kind decodes the object, with its type.
const TYPES: &[(&str, TypeCheck)] = &[
    ("name", fits::<String>),
    ("generateName", fits::<String>),
    ("namespace", fits::<String>),
    ("uid", fits::<String>),
    ("resourceVersion", fits::<String>),
    ("selfLink", fits::<String>),
    ("creationTimestamp", fits::<Time>),
    ("deletionTimestamp", fits::<Time>),
    ("deletionGracePeriodSeconds", fits::<i64>),
    ("generation", fits::<i64>),
    ("managedFields", fits::<Vec<IgnoredAny>>),
];

/// Null is as good as absent, as in Go.
fn fits<T: DeserializeOwned>(value: &Value) -> Result<(), serde_json::Error> {
    Option::<T>::deserialize(value).map(drop)
}

/// 400 for an object from outside whose `kind`, `apiVersion` or `metadata` has another JSON type
/// than it should. Everything after this check may take what it cannot read for absent.
pub fn check_types(object: &Object) -> Result<(), ApiError> {
    let check = |fits: TypeCheck, path: &str, value: Option<&Value>| match value.map(fits) {
        Some(Err(error)) => Err(ApiError::bad_request(format!("{path}: {error}"))),
        _ => Ok(()),
    };
    for field in ["kind", "apiVersion"] {
        check(fits::<String>, field, object.fields().get(field))?;
    }
    match object.fields().get("metadata") {
        None | Some(Value::Null | Value::Object(_)) => {}
        other => check(fits::<Map<String, Value>>, "metadata", other)?,
    }
    for (field, value) in object.meta() {
        if let Some((_, fits)) = TYPES.iter().find(|(name, _)| name == field) {
            check(*fits, &format!("metadata.{field}"), Some(value))?;
        }
    }
    Ok(())
}

/// Takes away what a creator cannot set.
pub fn wipe(object: &mut Object) {
    let meta = object.meta_mut();
    for field in SYSTEM_FIELDS {
        meta.remove(*field);
    }
}

/// Gives an updated object the system's fields of the stored one.
pub fn keep_system_fields(object: &mut Object, old: &Object) {
    let meta = object.meta_mut();
    for field in SYSTEM_FIELDS {
        match old.meta().get(*field) {
            Some(value) => meta.insert((*field).to_string(), value.clone()),
            None => meta.remove(*field),
        };
    }
}

/// Everything but what a write of `/status` may change in metadata: annotations and finalizers.
pub fn keep_all_but_status_fields(object: &mut Object, old: &Object) {
    let kept = |field: &str| object.meta().get(field).filter(|v| !v.is_null()).cloned();
    let changed = [("annotations", kept("annotations")), ("finalizers", kept("finalizers"))];
    *object.meta_mut() = old.meta().clone();
    for (field, value) in changed {
        match value {
            Some(value) => object.set_meta(field, value),
            None => {
                object.meta_mut().remove(field);
            }
        }
    }
}

/// The name that `generateName` leads to with a random suffix.
pub fn generated_name(prefix: &str, suffix: &str) -> String {
    let mut length = prefix.len().min(GENERATED_NAME_MAX_BYTES - GENERATED_SUFFIX_LENGTH);
    while !prefix.is_char_boundary(length) {
        length -= 1;
    }
    format!("{}{suffix}", &prefix[..length])
}

/// All errors of an object's metadata; `old` is the stored object on updates.
pub fn validate(object: &Object, info: &KindInfo, old: Option<&Object>, errors: &mut Errors) {
    let path = Path::new("metadata");
    names_of(object, info, &path, errors);
    validate_labels(&object.labels(), &path.child("labels"), errors);
    validate_annotations(&object.annotations(), &path.child("annotations"), errors);
    validate_finalizers(object, info, old, &path.child("finalizers"), errors);
    validate_owners(object, &path.child("ownerReferences"), errors);
}

fn names_of(object: &Object, info: &KindInfo, path: &Path, errors: &mut Errors) {
    let rule = info.meta.name_rule;
    let prefix = object.meta_text("generateName");
    if !prefix.is_empty() {
        let messages = rule.check(prefix, true);
        names::report(errors, &path.child("generateName"), prefix, messages);
    }
    let name = object.name();
    if name.is_empty() {
        errors.required(&path.child("name"), "name or generateName is required");
    } else {
        names::report(errors, &path.child("name"), name, rule.check(name, false));
    }
    if info.gvr.namespaced {
        let namespace = object.namespace();
        if namespace.is_empty() {
            errors.required(&path.child("namespace"), "");
        } else {
            let messages = NameRule::Label.check(namespace, false);
            names::report(errors, &path.child("namespace"), namespace, messages);
        }
    }
}

/// Keys and values of labels; also for the labels of templates.
pub fn validate_labels(labels: &BTreeMap<String, String>, path: &Path, errors: &mut Errors) {
    for (key, value) in labels {
        names::report(errors, path, key, names::is_qualified_name(key));
        names::report(errors, path, value, names::is_label_value(value));
    }
}

fn validate_annotations(map: &BTreeMap<String, String>, path: &Path, errors: &mut Errors) {
    for key in map.keys() {
        // The rule is that of labels, but upper case letters in the prefix are forgiven.
        names::report(errors, path, key, names::is_qualified_name(&key.to_lowercase()));
    }
    let bytes: usize = map.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > ANNOTATIONS_MAX_BYTES {
        errors.too_long(path, ANNOTATIONS_MAX_BYTES);
    }
}

fn validate_finalizers(
    object: &Object,
    info: &KindInfo,
    old: Option<&Object>,
    path: &Path,
    errors: &mut Errors,
) {
    let finalizers = object.finalizers();
    for (index, finalizer) in finalizers.iter().enumerate() {
        names::report(errors, path, finalizer, names::is_qualified_name(finalizer));
        // Of custom resources upstream only warns.
        let known = finalizer.contains('/') || STANDARD_FINALIZERS.contains(finalizer);
        if !known && info.custom.is_none() && old.is_none() {
            errors.invalid(&path.index(index), finalizer, UNKNOWN_FINALIZER);
        }
    }
    if finalizers.contains(&ORPHAN) && finalizers.contains(&FOREGROUND) {
        let detail = format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set");
        errors.invalid(path, &finalizers, &detail);
    }
    let Some(old) = old.filter(|old| old.deletion_timestamp().is_some()) else { return };
    let before: HashSet<&str> = old.finalizers().into_iter().collect();
    let new: Vec<&str> = finalizers.into_iter().filter(|f| !before.contains(f)).collect();
    if !new.is_empty() {
        let list: Vec<String> = new.iter().map(|f| format!("{f:?}")).collect();
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, \
             found new finalizers []string{{{}}}",
            list.join(", ")
        );
        errors.forbidden(path, &detail);
    }
}

/// Finalizers that have no domain.
pub const STANDARD_FINALIZERS: &[&str] = &["kubernetes", ORPHAN, FOREGROUND];
pub const UNKNOWN_FINALIZER: &str =
    "name is neither a standard finalizer name nor is it fully qualified";

/// Set by an `Orphan` deletion until dependents have lost their reference.
pub const ORPHAN: &str = "orphan";
/// Set by a `Foreground` deletion until dependents are gone.
pub const FOREGROUND: &str = "foregroundDeletion";

fn validate_owners(object: &Object, path: &Path, errors: &mut Errors) {
    let owners = object.meta().get("ownerReferences").and_then(Value::as_array);
    let mut controller: Option<String> = None;
    // Upstream leaves the index out of these paths.
    for owner in owners.into_iter().flatten() {
        let text = |field: &str| owner.get(field).and_then(Value::as_str).unwrap_or_default();
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(field).is_empty() {
                let title = if field == "apiVersion" { "version" } else { field };
                errors.invalid(&path.child(field), "", &format!("{title} must not be empty"));
            }
        }
        if text("apiVersion") == "v1" && text("kind") == "Event" {
            errors.invalid(path, owner, "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner.get("controller").and_then(Value::as_bool) == Some(true) {
            let this = format!("{}/{}", text("kind"), text("name"));
            if let Some(first) = &controller {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in \
                     references for {first} and {this}"
                );
                errors.invalid(path, owners, &detail);
            }
            controller.get_or_insert(this);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    fn errors_of(value: Value, old: Option<Value>) -> Vec<String> {
        let info = KindInfo::of::<ConfigMap>();
        let object = Object::from_value(value).unwrap();
        let old = old.map(|old| Object::from_value(old).unwrap());
        let mut errors = Errors::default();
        validate(&object, &info, old.as_ref(), &mut errors);
        errors.into_vec().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_labels_owners_and_finalizers_are_checked() {
        assert_eq!(
            errors_of(json!({"metadata": {"namespace": "n"}}), None),
            ["metadata.name: Required value: name or generateName is required"]
        );
        let bad = json!({"metadata": {"namespace": "n", "name": "x", "labels": {"a b": "c d"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]}});
        let texts = errors_of(bad, None);
        assert_eq!(texts.len(), 3, "{texts:?}");
        assert!(texts[0].starts_with("metadata.labels: Invalid value: \"a b\""));
        assert!(texts[2].starts_with("metadata.ownerReferences.uid: Invalid value"));
        let old = json!({"metadata": {"namespace": "n", "name": "x", "finalizers": ["a/b"],
            "deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let new =
            json!({"metadata": {"namespace": "n", "name": "x", "finalizers": ["a/b", "a/c"]}});
        assert_eq!(errors_of(new, Some(old)).len(), 1);
    }

    #[test]
    fn generated_names_fit_a_label() {
        assert_eq!(generated_name("web-", "abcde"), "web-abcde");
        assert_eq!(generated_name(&"é".repeat(60), "abcde").len(), 63);
    }
}
