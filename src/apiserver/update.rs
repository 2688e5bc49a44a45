//! Which part of an object each kind of update may change, and what of it makes a new generation.
//! Pure.

use serde_json::Value;

use crate::api::resource::{Generation, KindInfo};
use crate::api::{Object, meta};

const META: &str = "metadata";
const STATUS: &str = "status";

/// The main resource leaves `status` alone.
pub fn main_of(info: &KindInfo, old: &Object, mut object: Object) -> Object {
    if info.meta.status {
        match old.get("status") {
            Some(status) => object.set("status", status.clone()),
            None => {
                object.remove("status");
            }
        }
    }
    meta::keep_system_fields(&mut object, old);
    object
}

/// Subresources that write `status` only: requests for certificates have one for approvals.
pub fn writes_status(subresource: &str) -> bool {
    matches!(subresource, "status" | "approval")
}

/// `/status` leaves everything else alone.
pub fn status_of(old: &Object, mut object: Object) -> Object {
    meta::keep_all_but_status_fields(&mut object, old);
    let kept = old.fields().iter().filter(|(field, _)| !matches!(field.as_str(), META | STATUS));
    let mut merged = Object::default();
    merged.fields_mut().extend(kept.map(|(field, value)| (field.clone(), value.clone())));
    *merged.meta_mut() = std::mem::take(object.meta_mut());
    if let Some(status) = object.remove(STATUS).filter(|status| !status.is_null()) {
        merged.set(STATUS, status);
    }
    merged
}

/// `/finalize` of a Namespace writes `spec.finalizers` only.
pub fn finalizers_of(old: &Object, object: Object) -> Object {
    let finalizers = object.at(&["spec", "finalizers"]).cloned();
    let mut merged = old.clone();
    let spec =
        merged.fields_mut().entry("spec").or_insert_with(|| Value::Object(Default::default()));
    if let Some(spec) = spec.as_object_mut() {
        match finalizers {
            Some(finalizers) => spec.insert("finalizers".into(), finalizers),
            None => spec.remove("finalizers"),
        };
    }
    merged
}

/// The subresource of Pods that adds containers to one that runs.
pub const EPHEMERAL_CONTAINERS: &str = "ephemeralcontainers";

/// `/ephemeralcontainers` of a Pod writes `spec.ephemeralContainers` only.
pub fn ephemeral_containers_of(old: &Object, object: Object) -> Object {
    let field = "ephemeralContainers";
    let list = object.at(&["spec", field]).cloned();
    let mut merged = old.clone();
    if let Some(spec) = merged.fields_mut().get_mut("spec").and_then(Value::as_object_mut) {
        match list {
            Some(list) => spec.insert(field.into(), list),
            None => spec.remove(field),
        };
    }
    merged
}

/// Whether an update raises the generation.
pub fn is_new_generation(rule: Generation, new: &Object, old: &Object) -> bool {
    match rule {
        Generation::None => false,
        Generation::Spec => differs_in_spec(new, old),
        Generation::SpecAndAnnotations => {
            differs_in_spec(new, old) || new.annotations() != old.annotations()
        }
        Generation::AllButMetadata => {
            differs_in_spec(new, old) || new.get("status") != old.get("status")
        }
    }
}

/// Whether anything but metadata and status differs.
fn differs_in_spec(new: &Object, old: &Object) -> bool {
    fn spec(object: &Object) -> impl Iterator<Item = (&String, &Value)> {
        let fields = object.fields().iter();
        fields.filter(|(field, _)| !matches!(field.as_str(), "metadata" | "status"))
    }
    spec(new).count() != spec(old).count()
        || spec(new).any(|(field, value)| old.fields().get(field) != Some(value))
}
