//! `spec.nodeSelector` and `spec.affinity.nodeAffinity`: required terms filter, preferred ones
//! score by their weight.

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};

use crate::scheduler::framework::{FilterPlugin, MAX_SCORE, Reasons, ScorePlugin, Wake};
use crate::scheduler::snapshot::{NodeInfo, PodInfo};

pub struct NodeAffinity;

/// Terms are alternatives; an empty term matches nothing.
fn term_matches(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let label =
        |r: &NodeSelectorRequirement| requirement(r, node.labels.get(&r.key).map(String::as_str));
    let field = |r: &NodeSelectorRequirement| {
        requirement(r, (r.key == "metadata.name").then_some(node.name.as_str()))
    };
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

impl FilterPlugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Reasons> {
        let wants = &pod.wants;
        let selected =
            wants.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value));
        let required = wants.required_affinity.as_ref();
        let affine = required
            .is_none_or(|r| r.node_selector_terms.iter().any(|term| term_matches(term, node)));
        if selected && affine {
            return Ok(());
        }
        Err(vec!["node(s) didn't match Pod's node affinity/selector".into()])
    }

    fn woken_by(&self) -> &'static [Wake] {
        &[Wake::Node]
    }
}

impl ScorePlugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    /// The share of the weights of all preferred terms that match.
    fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let preferred = &pod.wants.preferred_affinity;
        let total: i64 = preferred.iter().map(|term| i64::from(term.weight)).sum();
        if total <= 0 {
            return 0;
        }
        let matching = preferred.iter().filter(|term| term_matches(&term.preference, node));
        matching.map(|term| i64::from(term.weight)).sum::<i64>() * MAX_SCORE / total
    }
}
