//! The link check: an image of the cluster's own registry whose component imports what its pod does
//! not grant is refused when a Pod, or a template of Pods, is applied. What nothing provides was
//! refused when it was pushed. A limit of memory that is too little for the program to begin with is
//! warned of.
//!
//! A missing image is no error: it may be pushed later. What the programs of a new Pod need of a
//! node's runtime is written on it, for the scheduler.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Admitter, Attributes, Outcome, Verb};
use crate::api::field::{Errors, Path};
use crate::api::kinds::node_features::NEEDS;
use crate::api::quantity::Quantity;
use crate::api::{ApiError, Object};
use crate::apiserver::artifacts::{ImageCheck, ImageError, Record};
use crate::artifact::ArtifactKind;
use crate::artifact::bounds::INSTANCE_BYTES;
use crate::artifact::interfaces::{GRANTS, refusal};

/// Where the kinds of each group have their Pod spec.
pub(super) const POD_SPECS: &[(&str, &str, &[&str])] = &[
    ("", "pods", &["spec"]),
    ("", "podtemplates", &["template", "spec"]),
    ("", "replicationcontrollers", &["spec", "template", "spec"]),
    ("apps", "deployments", &["spec", "template", "spec"]),
    ("apps", "replicasets", &["spec", "template", "spec"]),
    ("apps", "statefulsets", &["spec", "template", "spec"]),
    ("apps", "daemonsets", &["spec", "template", "spec"]),
    ("batch", "jobs", &["spec", "template", "spec"]),
    ("batch", "cronjobs", &["spec", "jobTemplate", "spec", "template", "spec"]),
];

const CONTAINER_LISTS: &[&str] = &["initContainers", "containers", "ephemeralContainers"];

/// Of arguments that the program of a container cannot ask for.
const UNREAD: &str = "reaches nobody: the image is a handler of HTTP requests that imports no \
                      wasi:cli/environment";

pub struct LinkCheck;

impl Admitter for LinkCheck {
    fn admit(
        &self,
        attributes: &Attributes,
        object: &mut Object,
        outcome: &mut Outcome,
    ) -> Result<(), ApiError> {
        let Some(artifacts) = &attributes.server.artifacts else { return Ok(()) };
        let is_new_pod = attributes.is("", "pods") && attributes.verb == Verb::Create;
        if !is_new_pod || object.annotations().contains_key(NEEDS) {
            return Ok(());
        }
        let lists = ["initContainers", "containers"].map(|list| object.at(&["spec", list]));
        let containers = lists.into_iter().flatten().filter_map(Value::as_array).flatten();
        let images: BTreeSet<&str> =
            containers.filter_map(|container| container.get("image")?.as_str()).collect();
        let needed = images.into_iter().flat_map(|image| artifacts.needed_features(image));
        let needed: BTreeSet<String> = needed.collect();
        if needed.is_empty() {
            return Ok(());
        }
        let text = needed.into_iter().collect::<Vec<_>>().join(",");
        let annotations = object.meta_mut().entry("annotations").or_insert_with(|| json!({}));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(NEEDS.into(), text.into());
            outcome.changed = true;
        }
        Ok(())
    }

    fn validate(
        &self,
        attributes: &Attributes,
        object: &Object,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        let Some(artifacts) = &attributes.server.artifacts else { return Ok(()) };
        let row = POD_SPECS.iter().find(|(group, resource, _)| attributes.is(group, resource));
        let Some((_, _, path)) = row.filter(|_| attributes.verb != Verb::Delete) else {
            return Ok(());
        };
        let mut errors = Errors::default();
        let metadata: Vec<&str> =
            path[..path.len() - 1].iter().copied().chain(["metadata", "annotations"]).collect();
        let granted = |object: &Object| -> BTreeSet<&'static str> {
            let map = object.at(&metadata).and_then(Value::as_object);
            let given = |annotation: &str| {
                let text = map.and_then(|map| map.get(annotation)?.as_str()).unwrap_or_default();
                text.split(',').any(|name| !name.trim().is_empty())
            };
            let all = GRANTS.iter().map(|grant| grant.annotation);
            all.filter(|annotation| given(annotation)).collect()
        };
        let (now, before) = (granted(object), attributes.old.map(granted));
        let same_grants = before.as_ref() == Some(&now);
        let root = path.join(".");
        let root = Path::new(&root);
        for list in CONTAINER_LISTS {
            let at: Vec<&str> = path.iter().copied().chain([*list]).collect();
            let old = attributes.old.and_then(|old| old.at(&at));
            let containers = object.at(&at).and_then(Value::as_array);
            for (index, container) in containers.into_iter().flatten().enumerate() {
                let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
                let before = old.and_then(|old| old.get(index));
                let is_same =
                    |field| before.is_some_and(|old| old.get(field) == container.get(field));
                let was_checked = is_same("image") && same_grants;
                let same_memory = is_same("resources");
                if image.is_empty() || (was_checked && same_memory) {
                    continue;
                }
                match artifacts.check_image(image) {
                    Ok(ImageCheck::Known(record)) => {
                        let lists = root.child(list);
                        let at = lists.index(index);
                        if let Some(why) = too_little_memory(&record, container) {
                            let field =
                                at.child("resources").child("limits").child("memory").to_string();
                            warnings.push(format!("{field}: {why}"));
                        }
                        if was_checked {
                            continue;
                        }
                        if let Some(field) = unread(&record, container) {
                            warnings.push(format!("{}: {UNREAD}", at.child(field)));
                        }
                        let mut imports = record.imports.iter();
                        let given = |annotation: &str| now.contains(annotation);
                        if let Some(why) = imports.find_map(|import| refusal(import, given)) {
                            errors.invalid(&at.child("image"), image, &why);
                        }
                    }
                    // What was taken once is not judged again.
                    _ if was_checked => {}
                    Ok(ImageCheck::Files) => {
                        let list = root.child(list);
                        let why = "it is files for volumes, and no program; `wasmctl push FILE \
                                   NAME:TAG` makes an image of a program";
                        errors.invalid(&list.index(index).child("image"), image, why);
                    }
                    Ok(ImageCheck::NoProgram(why)) => {
                        let list = root.child(list);
                        errors.invalid(&list.index(index).child("image"), image, &why);
                    }
                    Ok(ImageCheck::Unknown | ImageCheck::Foreign) => {}
                    Err(ImageError::BadName(why)) => {
                        let list = root.child(list);
                        errors.invalid(&list.index(index).child("image"), image, &why);
                    }
                    // Not the object's fault.
                    Err(error @ ImageError::Unreadable(_)) => {
                        return Err(ApiError::internal(error));
                    }
                }
            }
        }
        if errors.is_empty() {
            return Ok(());
        }
        Err(ApiError::invalid(&attributes.call.info, object.name(), errors.into_vec()))
    }
}

/// A container's limit of memory, as its text and in bytes, where it has one.
fn memory_limit(container: &Value) -> Option<(&str, u64)> {
    let text = container.get("resources")?.get("limits")?.get("memory")?.as_str()?;
    let bytes = u64::try_from(Quantity::parse(text).ok()?.value()).ok()?;
    (bytes > 0).then_some((text, bytes))
}

/// Why no node runs the program of a container within its limit, if that is so. A process ends
/// before its first instruction then, and a handler answers no request.
fn too_little_memory(record: &Record, container: &Value) -> Option<String> {
    let (text, bytes) = memory_limit(container)?;
    let least = record.least_memory_bytes;
    let needed = least.checked_add(INSTANCE_BYTES)?;
    if least == 0 || bytes >= needed {
        return None;
    }
    let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
    let enough = needed.div_ceil(1 << 20);
    Some(format!(
        "container {name} is limited to {text} ({bytes} bytes), and its program cannot run with less \
         than {needed} bytes: its memories and tables begin with {least}, and an instance counts \
         {INSTANCE_BYTES} more; set the limit to {enough}Mi at least, or link the program with a \
         smaller memory"
    ))
}

/// The field of a container with arguments for a handler that reads none.
fn unread(record: &Record, container: &Value) -> Option<&'static str> {
    let mut imports = record.imports.iter();
    if record.kind != Some(ArtifactKind::Http)
        || imports.any(|import| import.starts_with("wasi:cli/environment@"))
    {
        return None;
    }
    let given = |field: &&str| container.get(field).is_some_and(|value| value != &json!([]));
    ["command", "args"].into_iter().find(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_told_of_that_no_handler_can_read() {
        let record = |kind, imports: &[&str]| Record {
            kind: Some(kind),
            imports: imports.iter().map(|one| (*one).to_string()).collect(),
            ..Record::default()
        };
        let deaf = record(ArtifactKind::Http, &["wasi:http/types@0.2.0"]);
        assert_eq!(unread(&deaf, &json!({"command": ["nosuch", "x"]})), Some("command"));
        assert_eq!(unread(&deaf, &json!({"args": ["x"], "command": []})), Some("args"));
        assert_eq!(unread(&deaf, &json!({"image": "web:v1"})), None);
        let hears = record(ArtifactKind::Http, &["wasi:cli/environment@0.2.6"]);
        assert_eq!(unread(&hears, &json!({"args": ["x"]})), None);
        let command = record(ArtifactKind::Command, &[]);
        assert_eq!(unread(&command, &json!({"args": ["x"]})), None);
    }
}
