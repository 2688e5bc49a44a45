//! `spec.nodeSelector` and `spec.affinity.nodeAffinity`: required terms filter, preferred ones
//! score by their weight.

use k8s_openapi::api::core::v1::NodeSelectorTerm;

use crate::api::placement;
use crate::scheduler::framework::{FilterPlugin, MAX_SCORE, Reasons, ScorePlugin, Wake};
use crate::scheduler::pod_info::PodInfo;
use crate::scheduler::snapshot::NodeInfo;

pub struct NodeAffinity;

/// Terms are alternatives.
fn term_matches(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    placement::term_matches(term, &node.name, &node.labels)
}

impl FilterPlugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Reasons> {
        let wants = &pod.wants;
        let (selector, required) = (wants.node_selector.iter(), wants.required_affinity.as_ref());
        if placement::is_selected(selector, required, &node.name, &node.labels) {
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
