//! The link check: an image of the cluster's own registry whose component imports what its pod does
//! not grant is refused when a Pod, or a template of Pods, is applied. What nothing provides was
//! refused when it was pushed.
//!
//! A missing image is no error: it may be pushed later. What the programs of a new Pod need of a
//! node's runtime is written on it, for the scheduler.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Admitter, Attributes, Outcome, Verb};
use crate::api::field::{Errors, Path};
use crate::api::kinds::node_features::NEEDS;
use crate::api::{ApiError, Object};
use crate::apiserver::artifacts::{ImageCheck, ImageError, Record};
use crate::artifact::ArtifactKind;
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
                let before = old.and_then(|old| old.get(index)?.get("image")?.as_str());
                if image.is_empty() || (before == Some(image) && same_grants) {
                    continue;
                }
                match artifacts.check_image(image) {
                    Ok(ImageCheck::Known(record)) => {
                        if let Some(field) = unread(&record, container) {
                            let list = root.child(list);
                            let at = list.index(index);
                            warnings.push(format!("{}: {UNREAD}", at.child(field)));
                        }
                        let mut imports = record.imports.iter();
                        let given = |annotation: &str| now.contains(annotation);
                        if let Some(why) = imports.find_map(|import| refusal(import, given)) {
                            let list = root.child(list);
                            errors.invalid(&list.index(index).child("image"), image, &why);
                        }
                    }
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
