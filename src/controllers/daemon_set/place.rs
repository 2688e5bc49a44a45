//! Where a DaemonSet's pods belong: which nodes they are for, and how a pod is bound to its node
//! before it is scheduled.
//! Source: k8s.io/kubernetes pkg/controller/daemon/{daemon_controller,util/daemonset_util}.go.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, PodTemplateSpec,
    Toleration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::api::placement::{tolerates, wants_node};
use crate::controllers::history::REVISION_HASH;
use crate::controllers::ownership::{controller_reference, labels, name};
use crate::controllers::pods::node_name;

/// What pods of DaemonSets tolerate, whatever their template says: they stay where others leave.
const TOLERATED: &[(&str, &str)] = &[
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// Tolerated by those on the host's network.
const NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// What a node is to a DaemonSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Wanted,
    /// None is created there, and the one that is there stays.
    Kept,
    Unwanted,
}

/// The pod that a DaemonSet's template makes, without its node.
pub fn pod_spec(template: &PodTemplateSpec) -> PodSpec {
    let mut spec = template.spec.clone().unwrap_or_default();
    let network = (spec.host_network == Some(true)).then_some(&NETWORK);
    for (key, effect) in TOLERATED.iter().chain(network) {
        let own = spec.tolerations.get_or_insert_default();
        own.retain(|one| {
            one.key.as_deref() != Some(*key) || one.effect.as_deref() != Some(*effect)
        });
        own.push(Toleration {
            key: Some((*key).into()),
            operator: Some("Exists".into()),
            effect: Some((*effect).into()),
            ..Toleration::default()
        });
    }
    spec
}

pub fn of(spec: &PodSpec, node: &Node) -> Place {
    let node_labels = labels(&node.metadata);
    let this = name(&node.metadata);
    let named = spec.node_name.as_ref().is_none_or(|name| name.is_empty() || name == this);
    if !named || !wants_node(spec, this, node_labels) {
        return Place::Unwanted;
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let untolerated = |effect: &str| {
        let mut hard = taints.iter().filter(|taint| taint.effect == effect);
        hard.any(|taint| !tolerations.iter().any(|one| tolerates(one, taint)))
    };
    match (untolerated("NoExecute"), untolerated("NoSchedule")) {
        (true, _) => Place::Unwanted,
        (false, true) => Place::Kept,
        (false, false) => Place::Wanted,
    }
}

/// A pod for a node; its affinity lets it go nowhere else.
pub fn new_pod(
    set: &DaemonSet,
    template: &PodTemplateSpec,
    spec: &PodSpec,
    hash: &str,
    node: &str,
) -> Pod {
    let own = template.metadata.clone().unwrap_or_default();
    let mut labels = own.labels.unwrap_or_default();
    labels.insert(REVISION_HASH.into(), hash.into());
    let mut spec = spec.clone();
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    let field = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.into()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![field]), match_expressions: None };
    affinity.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
    let metadata = ObjectMeta {
        generate_name: Some(format!("{}-", name(&set.metadata))),
        namespace: set.metadata.namespace.clone(),
        labels: Some(labels),
        annotations: own.annotations,
        finalizers: own.finalizers,
        owner_references: Some(vec![controller_reference(set)]),
        ..ObjectMeta::default()
    };
    Pod { metadata, spec: Some(spec), status: None }
}

/// The node that a pod is on, or is for.
pub fn node_of(pod: &Pod) -> Option<&str> {
    if let Some(node) = node_name(pod) {
        return Some(node);
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let [term] = required.node_selector_terms.as_slice() else { return None };
    let [field] = term.match_fields.as_deref()? else { return None };
    match field.values.as_deref()? {
        [node] if field.key == "metadata.name" && field.operator == "In" => Some(node),
        _ => None,
    }
}
