//! What makes a pod of a StatefulSet itself: its ordinal, and what follows from it.
//! Source: k8s.io/kubernetes pkg/controller/statefulset/stateful_set_utils.go.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::claims;
use crate::api::kinds::stateful_set::set_volumes;
use crate::controllers::history::REVISION_HASH;
use crate::controllers::ownership::{controller_reference, labels, name};
use crate::controllers::plan::{Write, patch_meta};

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

pub fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", name(&set.metadata))
}

/// The set and the ordinal that a pod's name tells of.
pub fn parent(pod: &ObjectMeta) -> Option<(&str, i32)> {
    let (set, ordinal) = name(pod).rsplit_once('-')?;
    let is_canonical = ordinal.bytes().all(|b| b.is_ascii_digit())
        && (ordinal == "0" || !ordinal.starts_with('0'));
    Some((set, ordinal.parse().ok().filter(|_| is_canonical)?))
}

/// The ordinal of a pod that has the name of one of the set's.
pub fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let (parent, ordinal) = parent(&pod.metadata)?;
    (parent == name(&set.metadata)).then_some(ordinal)
}

fn identity(set: &StatefulSet, ordinal: i32) -> [(&'static str, String); 2] {
    [(POD_NAME, pod_name(set, ordinal)), (POD_INDEX, ordinal.to_string())]
}

/// A pod of a template and the revision that it is of.
pub fn new_pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, at: i32) -> Pod {
    let own = template.metadata.clone().unwrap_or_default();
    let mut labels: BTreeMap<String, String> = own.labels.unwrap_or_default();
    labels.extend(identity(set, at).map(|(key, value)| (key.to_string(), value)));
    labels.insert(REVISION_HASH.into(), revision.into());
    let mut spec = template.spec.clone().unwrap_or_default();
    set_volumes(&mut spec.volumes, claims::volumes(set, at));
    spec.hostname = Some(pod_name(set, at));
    let service = set.spec.as_ref().and_then(|spec| spec.service_name.clone());
    spec.subdomain = service.filter(|service| !service.is_empty()).or(spec.subdomain);
    let metadata = ObjectMeta {
        name: Some(pod_name(set, at)),
        namespace: set.metadata.namespace.clone(),
        labels: Some(labels),
        annotations: own.annotations,
        finalizers: own.finalizers,
        owner_references: Some(vec![controller_reference(set)]),
        ..ObjectMeta::default()
    };
    Pod { metadata, spec: Some(spec), status: None }
}

/// Puts labels back that somebody took from a pod, or that one which was adopted never had.
pub fn repair(set: &StatefulSet, pod: &Pod, at: i32) -> Option<Write> {
    let own = labels(&pod.metadata);
    let wanted = identity(set, at);
    if wanted.iter().all(|(key, value)| own.get(*key) == Some(value)) {
        return None;
    }
    let mut all = own.clone();
    all.extend(wanted.map(|(key, value)| (key.to_string(), value)));
    Some(patch_meta(pod, "labels", all))
}
