//! Which nodes a pod may go to, as far as its spec says: terms over labels and names, taints and
//! tolerations. What scheduler and controllers must agree on.
//! Source: k8s.io/component-helpers scheduling/corev1.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration};

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
