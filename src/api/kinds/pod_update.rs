//! What may change in the spec of a Pod that exists: images, additions of tolerations, a shorter
//! deadline, and little else.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{Container, PodSpec, Toleration};
use serde_json::{Map, Value};

use super::scheduling_gates;
use crate::api::field::{Errors, Path};

/// Upstream's words; clients look for their beginning.
const MAY_CHANGE: &str = "pod updates may not change fields other than \
    `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
    `spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub fn validate(errors: &mut Errors, path: &Path, new: &PodSpec, old: &PodSpec) {
    let new_init = new.init_containers.as_deref().unwrap_or_default();
    let old_init = old.init_containers.as_deref().unwrap_or_default();
    let lists = [
        ("containers", &new.containers[..], &old.containers[..]),
        ("initContainers", new_init, old_init),
    ];
    for (name, new, old) in lists {
        if new.len() != old.len() {
            let detail = "pod updates may not add or remove containers";
            return errors.forbidden(&path.child(name), detail);
        }
    }
    validate_deadline(errors, path, new, old);
    let (new_list, old_list) = (
        new.tolerations.as_deref().unwrap_or_default(),
        old.tolerations.as_deref().unwrap_or_default(),
    );
    if !only_adds(new_list, old_list) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.forbidden(&path.child("tolerations"), detail);
    }

    let mut rest = new.clone();
    copy_images(&mut rest.containers, &old.containers);
    if let Some(containers) = &mut rest.init_containers {
        copy_images(containers, old_init);
    }
    rest.active_deadline_seconds = old.active_deadline_seconds;
    rest.tolerations.clone_from(&old.tolerations);
    if old.termination_grace_period_seconds.is_some_and(|s| s < 0)
        && rest.termination_grace_period_seconds == Some(1)
    {
        rest.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    scheduling_gates::take_changes(errors, path, &mut rest, old);
    let changed = changed_fields(&rest, old);
    if !changed.is_empty() {
        let detail = format!("{MAY_CHANGE}\nchanged: {}", changed.join(", "));
        errors.forbidden(path, &detail);
    }
}

fn validate_deadline(errors: &mut Errors, path: &Path, new: &PodSpec, old: &PodSpec) {
    let path = path.child("activeDeadlineSeconds");
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (Some(new), Some(old)) if new > old => {
            errors.invalid(&path, new, "must be less than or equal to previous value");
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.invalid(&path, Value::Null, detail);
        }
        _ => {}
    }
}

/// Every old toleration is still there; its seconds may differ.
fn only_adds(new: &[Toleration], old: &[Toleration]) -> bool {
    fn identity(of: &Toleration) -> [Option<&str>; 4] {
        [&of.key, &of.operator, &of.value, &of.effect].map(|field| field.as_deref())
    }
    let new: HashSet<_> = new.iter().map(identity).collect();
    old.iter().all(|old| new.contains(&identity(old)))
}

fn copy_images(new: &mut [Container], old: &[Container]) {
    for (new, old) in new.iter_mut().zip(old) {
        new.image.clone_from(&old.image);
    }
}

/// The names of the spec's fields that differ.
fn changed_fields(new: &PodSpec, old: &PodSpec) -> Vec<String> {
    if new == old {
        return Vec::new();
    }
    let fields = |spec: &PodSpec| match serde_json::to_value(spec).map(prune) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let (new, old) = (fields(new), fields(old));
    let mut names: Vec<&String> = new.keys().chain(old.keys()).collect();
    names.sort();
    names.dedup();
    let differs = |name: &&String| new.get(*name) != old.get(*name);
    names.into_iter().filter(differs).map(|name| format!("spec.{name}")).collect()
}

/// Without what is the same as nothing: nulls, empty texts and empty lists.
fn prune(value: Value) -> Value {
    let nothing = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| (name, prune(value)));
            Value::Object(fields.filter(|(_, value)| !nothing(value)).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(prune).collect()),
        other => other,
    }
}
