//! What objects say, as those read them who check: who owns a pod, whether it serves, what a
//! Deployment allows.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use wasmfleet::api::quantity::Quantity;
use wasmfleet::api::{Kind, ObjectKey};
use wasmfleet::client::cache::View;

pub fn name_of<T: Kind>(object: &T) -> &str {
    object.metadata().name.as_deref().unwrap_or_default()
}

pub fn owner_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

pub fn controller(meta: &ObjectMeta) -> Option<String> {
    owner_of(meta).map(|owner| owner.name.clone())
}

pub fn deployment_of(set: &ObjectMeta) -> Option<ObjectKey> {
    Some(ObjectKey::new(set.namespace.clone().unwrap_or_default(), controller(set)?))
}

/// The ReplicaSets that a Deployment owns: not those of one that had its name before.
pub fn sets_of<'a>(view: &'a View, deployment: &ObjectKey) -> Vec<&'a Arc<ReplicaSet>> {
    let deployment = view.get_key::<Deployment>(deployment);
    let Some(uid) = deployment.and_then(|one| one.metadata.uid.as_deref()) else {
        return Vec::new();
    };
    let own = |set: &&Arc<ReplicaSet>| owner_of(&set.metadata).is_some_and(|one| one.uid == uid);
    view.owned_by::<ReplicaSet>(uid).filter(own).collect()
}

pub fn pods_of(view: &View, deployment: &ObjectKey) -> Vec<Arc<Pod>> {
    let sets = sets_of(view, deployment);
    let uids = sets.iter().filter_map(|set| set.metadata.uid.as_deref());
    uids.flat_map(|uid| view.owned_by::<Pod>(uid).cloned()).collect()
}

pub fn is_active(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none() && !is_finished(pod)
}

pub fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

/// It goes, or its namespace does.
pub fn is_ending(deployment: &Deployment, view: &View) -> bool {
    let meta = &deployment.metadata;
    let namespace = view.get::<Namespace>("", meta.namespace.as_deref().unwrap_or_default());
    meta.deletion_timestamp.is_some()
        || namespace.is_none_or(|found| found.metadata.deletion_timestamp.is_some())
}

pub fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True")
}

/// Replicas, maxSurge (rounded up) and maxUnavailable (rounded down, 1 where both are 0).
pub fn bounds(deployment: &Deployment) -> (i32, i32, i32) {
    let spec = deployment.spec.clone().unwrap_or_default();
    let replicas = spec.replicas.unwrap_or(1);
    let rolling = spec.strategy.and_then(|strategy| strategy.rolling_update);
    // Recreate: everything goes at first.
    let Some(rolling) = rolling else { return (replicas, 0, replicas) };
    let number = |value: Option<IntOrString>, up: bool| match value {
        Some(IntOrString::Int(number)) => number,
        Some(IntOrString::String(percent)) => {
            let percent: i32 = percent.trim_end_matches('%').parse().unwrap();
            (replicas * percent + if up { 99 } else { 0 }) / 100
        }
        None => 0,
    };
    let surge = number(rolling.max_surge, true);
    let unavailable = number(rolling.max_unavailable, false);
    (replicas, surge, if surge == 0 { unavailable.max(1) } else { unavailable })
}

/// What the pods of a node ask for, and their number.
pub fn taken(view: &View, node: &str) -> (i64, usize) {
    let holding: Vec<&Arc<Pod>> =
        view.indexed::<Pod>(node).filter(|pod| !is_finished(pod)).collect();
    (holding.iter().map(|pod| milli_cpu(pod)).sum(), holding.len())
}

pub fn milli_cpu(pod: &Pod) -> i64 {
    let containers = pod.spec.iter().flat_map(|spec| spec.containers.iter());
    let requests = containers.filter_map(|one| one.resources.as_ref()?.requests.as_ref());
    let cpu = requests.filter_map(|requests| Quantity::parse(&requests.get("cpu")?.0).ok());
    cpu.map(|amount| amount.milli()).sum()
}

pub fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

pub fn takes_pods(node: &Node) -> bool {
    let spec = node.spec.as_ref();
    let open = spec.is_none_or(|spec| {
        spec.taints.as_ref().is_none_or(Vec::is_empty) && spec.unschedulable != Some(true)
    });
    open && node.status.as_ref().is_some_and(|status| status.allocatable.is_some())
}

/// The ordinal of a pod of the StatefulSet `db`.
pub fn ordinal(pod: &Pod) -> Option<usize> {
    name_of(pod).strip_prefix("db-")?.parse().ok()
}

/// Whether it is one of the DaemonSet `agent`.
pub fn is_daemon(pod: &Pod) -> bool {
    name_of(pod).starts_with("agent-")
}
