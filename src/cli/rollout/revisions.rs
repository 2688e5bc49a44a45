//! The templates that a workload can go back to: a Deployment's ReplicaSets, and the
//! ControllerRevisions of a DaemonSet or StatefulSet.
//! Source: k8s.io/kubectl pkg/polymorphichelpers/{history,rollback}.go.

use serde_json::{Map, Value, json};

use super::Workload;
use crate::cli::discovery::text;
use crate::cli::three_way::LAST_APPLIED;

const REVISION: &str = "deployment.kubernetes.io/revision";
const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";
/// Annotations that belong to one object and not to a revision; kubectl's list.
const OWN_ANNOTATIONS: &[&str] = &[
    LAST_APPLIED,
    REVISION,
    "deployment.kubernetes.io/revision-history",
    "deployment.kubernetes.io/desired-replicas",
    "deployment.kubernetes.io/max-replicas",
    "deprecated.deployment.rollback.to",
];
const HASH_LABEL: &str = "pod-template-hash";
/// In a ControllerRevision, which is a patch: the template is to be replaced, not merged.
const DIRECTIVE: &str = "$patch";

/// One of them.
#[derive(Debug)]
pub struct Revision {
    pub number: i64,
    pub cause: String,
    pub template: Value,
    /// The object that keeps it.
    source: Value,
}

/// Where they are listed.
pub fn resource(workload: Workload) -> &'static str {
    match workload {
        Workload::Deployment => "replicasets",
        Workload::DaemonSet | Workload::StatefulSet => "controllerrevisions",
    }
}

/// Those of a workload among the listed ones, the oldest first.
pub fn of(workload: Workload, owner: &Value, mut list: Value) -> Vec<Revision> {
    let uid = text(owner, "/metadata/uid");
    let items = match list.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    };
    let is_owned = |item: &Value| {
        let owners = item.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        owners.into_iter().flatten().any(|owner| text(owner, "/uid") == uid)
    };
    let owned = items.into_iter().filter(is_owned);
    let mut revisions: Vec<Revision> = owned.filter_map(|item| read(workload, item)).collect();
    revisions.sort_by_key(|revision| revision.number);
    revisions
}

fn read(workload: Workload, source: Value) -> Option<Revision> {
    let (number, mut template) = match workload {
        Workload::Deployment => {
            (annotation(&source, REVISION).parse().ok()?, source.pointer("/spec/template")?.clone())
        }
        Workload::DaemonSet | Workload::StatefulSet => {
            let template = source.pointer("/data/spec/template")?;
            (source.get("revision").and_then(Value::as_i64)?, template.clone())
        }
    };
    if let Some(fields) = template.as_object_mut() {
        fields.remove(DIRECTIVE);
    }
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(HASH_LABEL);
    }
    let cause = annotation(&source, CHANGE_CAUSE).to_string();
    Some(Revision { number, cause, template, source })
}

/// The revision that is wanted; 0: the one before the present one.
pub fn find<'a>(
    workload: Workload,
    owner: &Value,
    revisions: &'a [Revision],
    wanted: i64,
) -> Option<&'a Revision> {
    if wanted != 0 {
        return revisions.iter().find(|revision| revision.number == wanted);
    }
    let newest = || revisions.last().map_or(0, |revision| revision.number);
    let current = match workload {
        Workload::Deployment => annotation(owner, REVISION).parse().unwrap_or_default(),
        Workload::DaemonSet | Workload::StatefulSet => newest(),
    };
    revisions.iter().rev().find(|revision| revision.number < current)
}

impl Revision {
    pub fn images(&self) -> String {
        let containers = self.template.pointer("/spec/containers").and_then(Value::as_array);
        let images = containers.into_iter().flatten().map(|one| text(one, "/image"));
        images.collect::<Vec<_>>().join(",")
    }

    /// The patch that brings the workload back to it, and the patch's media type.
    pub fn patch(&self, workload: Workload, owner: &Value) -> (&'static str, Value) {
        match workload {
            Workload::Deployment => {
                let patch = json!([
                    {"op": "replace", "path": "/spec/template", "value": self.template},
                    {"op": "add", "path": "/metadata/annotations",
                     "value": annotations_of_revision(owner, &self.source)},
                ]);
                ("application/json-patch+json", patch)
            }
            Workload::DaemonSet | Workload::StatefulSet => {
                let patch = self.source.get("data").cloned().unwrap_or_default();
                ("application/strategic-merge-patch+json", patch)
            }
        }
    }
}

fn annotation<'a>(object: &'a Value, name: &str) -> &'a str {
    let annotations = object.pointer("/metadata/annotations");
    annotations.and_then(|a| a.get(name)).and_then(Value::as_str).unwrap_or_default()
}

/// The annotations of a Deployment that goes back to a ReplicaSet's template: the ReplicaSet's (its
/// change-cause among them), and of the Deployment's those that never follow a revision.
fn annotations_of_revision(deployment: &Value, set: &Value) -> Map<String, Value> {
    let of = |object: &Value, keep: fn(&str) -> bool| -> Map<String, Value> {
        let all = object.pointer("/metadata/annotations").and_then(Value::as_object);
        let kept = all.into_iter().flatten().filter(|(key, _)| keep(key));
        kept.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let mut annotations = of(set, |key| !OWN_ANNOTATIONS.contains(&key));
    annotations.extend(of(deployment, |key| OWN_ANNOTATIONS.contains(&key)));
    annotations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn going_back_takes_the_revisions_annotations_along() {
        let of = |annotations: Value| json!({"metadata": {"annotations": annotations}});
        let deployment = of(json!({CHANGE_CAUSE: "second", "mine": "1", REVISION: "2",
            LAST_APPLIED: "{}"}));
        let set = of(json!({CHANGE_CAUSE: "first", REVISION: "1",
            "deployment.kubernetes.io/desired-replicas": "3"}));
        assert_eq!(
            Value::Object(annotations_of_revision(&deployment, &set)),
            json!({CHANGE_CAUSE: "first", REVISION: "2", LAST_APPLIED: "{}"})
        );
    }

    #[test]
    fn controller_revisions_are_patches() {
        let owner = json!({"metadata": {"uid": "u"}});
        let one = |number: i64, uid: &str, image: &str| {
            json!({"metadata": {"ownerReferences": [{"uid": uid}]}, "revision": number,
                "data": {"spec": {"template": {"$patch": "replace",
                    "spec": {"containers": [{"image": image}]}}}}})
        };
        let list = json!({"items": [one(3, "u", "c"), one(1, "u", "a"), one(9, "other", "x")]});
        let set = Workload::StatefulSet;
        let revisions = of(set, &owner, list);
        let numbers: Vec<i64> = revisions.iter().map(|revision| revision.number).collect();
        assert_eq!(numbers, [1, 3]);
        let before = find(set, &owner, &revisions, 0).unwrap();
        assert_eq!((before.number, &*before.images()), (1, "a"));
        assert!(before.template.get(DIRECTIVE).is_none());
        let (_, patch) = before.patch(set, &owner);
        assert_eq!(patch.pointer("/spec/template/$patch"), Some(&json!("replace")));
        assert!(find(set, &owner, &revisions, 2).is_none());
        assert!(find(set, &owner, &revisions[..1], 0).is_none());
    }
}
