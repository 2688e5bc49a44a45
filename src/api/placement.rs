//! Which nodes a pod may go to, as far as its spec says: terms over labels and names, taints and
//! tolerations. What scheduler and controllers must agree on.
//! Source: k8s.io/component-helpers scheduling/corev1.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

/// Whether a node is one that a pod asks for, by `nodeSelector` and required node affinity.
pub fn wants_node(spec: &PodSpec, node: &str, labels: &BTreeMap<String, String>) -> bool {
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|one| one.required_during_scheduling_ignored_during_execution.as_ref());
    is_selected(spec.node_selector.iter().flatten(), required, node, labels)
}

/// [`wants_node`], by the two fields: all of the selector, and one of the terms.
pub fn is_selected<'a>(
    mut selector: impl Iterator<Item = (&'a String, &'a String)>,
    required: Option<&NodeSelector>,
    node: &str,
    labels: &BTreeMap<String, String>,
) -> bool {
    let matches = |term: &NodeSelectorTerm| term_matches(term, node, labels);
    selector.all(|(key, value)| labels.get(key) == Some(value))
        && required.is_none_or(|required| required.node_selector_terms.iter().any(matches))
}

/// Whether a node matches a term; an empty term matches nothing.
pub fn term_matches(
    term: &NodeSelectorTerm,
    node: &str,
    labels: &BTreeMap<String, String>,
) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let label =
        |r: &NodeSelectorRequirement| requirement(r, labels.get(&r.key).map(String::as_str));
    let field =
        |r: &NodeSelectorRequirement| requirement(r, (r.key == "metadata.name").then_some(node));
    expressions.iter().all(label) && fields.iter().all(field)
}

fn requirement(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = || value.is_some_and(|value| values.iter().any(|v| v == value));
    let compare = |wanted: fn(&i64, &i64) -> bool| {
        let bound = values.first().and_then(|v| v.parse::<i64>().ok());
        let value = value.and_then(|v| v.parse::<i64>().ok());
        matches!((value, bound), (Some(value), Some(bound)) if wanted(&value, &bound))
    };
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}

/// Whether a toleration tolerates a taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "" | "Equal" => {
            let text = |value: &Option<String>| value.clone().unwrap_or_default();
            !key.is_empty() && text(&toleration.value) == text(&taint.value)
        }
        _ => false,
    }
}
