//! The texts under which caches find objects beside their keys ([`Kind::tags`](super::Kind::tags)): pods by
//! their labels, and by whether they are over; what selects pods by a label that each of them has.
//!
//! ```text
//!   a pod {app: web, tier: front}            tags  ns/app=web, ns/tier=front
//!   a Service that selects {app: web, …}     tag   ns/app=web, the first of its pairs
//!   a budget without an equality             tag   ns/
//! ```
//!
//! So neither a pod's change nor a selector's costs anything for what is beside it in the namespace.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The tag of pods whose containers will never run again.
pub const FINISHED: &str = "finished";

/// What controllers put on each of their pods, and no selector of users asks for alone.
const UNTAGGED: &[&str] = &[
    "pod-template-hash",
    "controller-revision-hash",
    "controller-uid",
    "batch.kubernetes.io/controller-uid",
];

/// The tag of a label in a namespace; `None` for one that is not kept.
pub fn label(namespace: &str, key: &str, value: &str) -> Option<String> {
    (!UNTAGGED.contains(&key)).then(|| format!("{namespace}/{key}={value}"))
}

/// The tag of selectors without a label of which there is a tag.
pub fn any(namespace: &str) -> String {
    format!("{namespace}/")
}

fn text(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or_default()
}

pub(super) fn of_pod(pod: &Pod) -> Vec<String> {
    let namespace = text(&pod.metadata.namespace);
    let labels = pod.metadata.labels.iter().flatten();
    let finished = is_finished(pod).then(|| FINISHED.to_string());
    labels.filter_map(|(key, value)| label(namespace, key, value)).chain(finished).collect()
}

/// Whether two versions of a pod have the same tags; most have, and this makes none to know it.
pub(super) fn are_those_of_pod(new: &Pod, old: &Pod) -> bool {
    let (labels, before) = (&new.metadata.labels, &old.metadata.labels);
    labels.iter().flatten().eq(before.iter().flatten()) && is_finished(new) == is_finished(old)
}

fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

pub(super) fn of_service(service: &Service) -> Vec<String> {
    let spec = service.spec.as_ref();
    let selector = spec.and_then(|spec| spec.selector.as_ref());
    // One without a selector selects nothing.
    let selector = selector.filter(|selector| !selector.is_empty());
    selector.map(|selector| of_selector(&service.metadata, Some(selector))).into_iter().collect()
}

pub(super) fn of_budget(budget: &PodDisruptionBudget) -> Vec<String> {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let labels = selector.and_then(|selector| selector.match_labels.as_ref());
    vec![of_selector(&budget.metadata, labels)]
}

fn of_selector(meta: &ObjectMeta, labels: Option<&BTreeMap<String, String>>) -> String {
    let namespace = text(&meta.namespace);
    let mut pairs = labels.into_iter().flatten();
    pairs.find_map(|(key, value)| label(namespace, key, value)).unwrap_or_else(|| any(namespace))
}
