//! Validation of what the scheduler reads: affinity, tolerations, spread constraints.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
    PodAffinityTerm, PodSpec, Toleration, TopologySpreadConstraint, WeightedPodAffinityTerm,
};

use super::{checks, labels, workload_kind};
use crate::api::field::{Errors, Path};
use crate::api::names;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub fn validate(errors: &mut Errors, path: &Path, spec: &PodSpec) {
    if let Some(affinity) = &spec.affinity {
        validate_affinity(errors, &path.child("affinity"), affinity);
    }
    if let Some(reference) = &spec.workload_ref {
        workload_kind::validate_reference(errors, &path.child("workloadRef"), reference);
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    validate_tolerations(errors, &path.child("tolerations"), tolerations);
    let constraints = spec.topology_spread_constraints.as_deref().unwrap_or_default();
    let path = path.child("topologySpreadConstraints");
    let mut seen = BTreeSet::new();
    for (i, constraint) in constraints.iter().enumerate().rev() {
        let path = path.index(i);
        validate_spread(errors, &path, constraint);
        let kind = (&constraint.topology_key, &constraint.when_unsatisfiable);
        if !seen.insert(kind) {
            let kind = format!("{{{}, {}}}", kind.0, kind.1);
            errors.duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), kind);
        }
    }
}

fn validate_spread(errors: &mut Errors, path: &Path, constraint: &TopologySpreadConstraint) {
    const POSITIVE: &str = "must be greater than zero";
    const DO_NOT: &str = "DoNotSchedule";
    if constraint.max_skew <= 0 {
        errors.invalid(&path.child("maxSkew"), constraint.max_skew, POSITIVE);
    }
    if constraint.topology_key.is_empty() {
        errors.required(&path.child("topologyKey"), "can not be empty");
    }
    let action = constraint.when_unsatisfiable.as_str();
    let supported = [DO_NOT, "ScheduleAnyway"];
    if !supported.contains(&action) {
        errors.not_supported(&path.child("whenUnsatisfiable"), action, &supported);
    }
    if let Some(domains) = constraint.min_domains {
        let at = path.child("minDomains");
        if domains <= 0 {
            errors.invalid(&at, domains, POSITIVE);
        }
        if action != DO_NOT {
            let detail =
                format!("can only use minDomains if whenUnsatisfiable={DO_NOT}, not {action}");
            errors.invalid(&at, domains, &detail);
        }
    }
    let policies = [
        ("nodeAffinityPolicy", &constraint.node_affinity_policy),
        ("nodeTaintsPolicy", &constraint.node_taints_policy),
    ];
    for (field, policy) in policies {
        let supported = ["Honor", "Ignore"];
        if let Some(policy) = policy.as_deref().filter(|policy| !supported.contains(policy)) {
            errors.not_supported(&path.child(field), policy, &supported);
        }
    }
    let keys = constraint.match_label_keys.as_deref().unwrap_or_default();
    let at = path.child("matchLabelKeys");
    if !keys.is_empty() && constraint.label_selector.is_none() {
        errors.forbidden(&at, "must not be specified when labelSelector is not set");
    }
    for (i, key) in keys.iter().enumerate() {
        labels::validate_label_key(errors, &at.index(i), key);
    }
    if let Some(selector) = &constraint.label_selector {
        labels::validate_selector(errors, &path.child("labelSelector"), selector);
    }
}

fn validate_affinity(errors: &mut Errors, path: &Path, affinity: &Affinity) {
    if let Some(node) = &affinity.node_affinity {
        validate_node_affinity(errors, &path.child("nodeAffinity"), node);
    }
    if let Some(pod) = &affinity.pod_affinity {
        let path = path.child("podAffinity");
        let terms = pod.required_during_scheduling_ignored_during_execution.as_deref();
        validate_required_terms(errors, &path.child(REQUIRED), terms);
        let terms = pod.preferred_during_scheduling_ignored_during_execution.as_deref();
        validate_pod_terms(errors, &path.child(PREFERRED), terms);
    }
    if let Some(pod) = &affinity.pod_anti_affinity {
        let path = path.child("podAntiAffinity");
        let terms = pod.required_during_scheduling_ignored_during_execution.as_deref();
        validate_required_terms(errors, &path.child(REQUIRED), terms);
        let terms = pod.preferred_during_scheduling_ignored_during_execution.as_deref();
        validate_pod_terms(errors, &path.child(PREFERRED), terms);
    }
}

fn validate_required_terms(errors: &mut Errors, path: &Path, terms: Option<&[PodAffinityTerm]>) {
    for (i, term) in terms.into_iter().flatten().enumerate() {
        validate_pod_term(errors, &path.index(i), term);
    }
}

fn validate_pod_terms(errors: &mut Errors, path: &Path, terms: Option<&[WeightedPodAffinityTerm]>) {
    for (i, term) in terms.into_iter().flatten().enumerate() {
        let path = path.index(i);
        validate_weight(errors, &path, term.weight);
        validate_pod_term(errors, &path.child("podAffinityTerm"), &term.pod_affinity_term);
    }
}

fn validate_pod_term(errors: &mut Errors, path: &Path, term: &PodAffinityTerm) {
    let selectors =
        [("labelSelector", &term.label_selector), ("namespaceSelector", &term.namespace_selector)];
    for (field, selector) in selectors {
        if let Some(selector) = selector {
            labels::validate_selector(errors, &path.child(field), selector);
        }
    }
    for namespace in term.namespaces.iter().flatten() {
        checks::dns_label(errors, &path.child("namespace"), namespace);
    }
    let keys = [
        ("matchLabelKeys", &term.match_label_keys),
        ("mismatchLabelKeys", &term.mismatch_label_keys),
    ];
    for (field, keys) in keys {
        let path = path.child(field);
        let keys = keys.as_deref().unwrap_or_default();
        if !keys.is_empty() && term.label_selector.is_none() {
            errors.forbidden(&path, "must not be specified when labelSelector is not set");
        }
        for (i, key) in keys.iter().enumerate() {
            labels::validate_label_key(errors, &path.index(i), key);
        }
    }
    let (same, other) = (term.match_label_keys.iter(), term.mismatch_label_keys.as_deref());
    let other = other.unwrap_or_default();
    let both = same.flatten().enumerate().filter(|(_, key)| other.contains(key));
    for (i, key) in both {
        let keys = path.child("matchLabelKeys");
        errors.invalid(&keys.index(i), key, "exists in both matchLabelKeys and mismatchLabelKeys");
    }
    let at = path.child("topologyKey");
    if term.topology_key.is_empty() {
        errors.required(&at, "can not be empty");
    }
    labels::validate_label_key(errors, &at, &term.topology_key);
}

fn validate_node_affinity(errors: &mut Errors, path: &Path, affinity: &NodeAffinity) {
    if let Some(required) = &affinity.required_during_scheduling_ignored_during_execution {
        validate_node_selector(errors, &path.child(REQUIRED), required);
    }
    let preferred = affinity.preferred_during_scheduling_ignored_during_execution.as_deref();
    let path = path.child(PREFERRED);
    for (i, term) in preferred.into_iter().flatten().enumerate() {
        let path = path.index(i);
        validate_weight(errors, &path, term.weight);
        validate_term(errors, &path.child("preference"), &term.preference);
    }
}

pub fn validate_node_selector(errors: &mut Errors, path: &Path, selector: &NodeSelector) {
    let terms = path.child("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        errors.required(&terms, "must have at least one node selector term");
    }
    for (i, term) in selector.node_selector_terms.iter().enumerate() {
        validate_term(errors, &terms.index(i), term);
    }
}

fn validate_weight(errors: &mut Errors, path: &Path, weight: i32) {
    if !(1..=100).contains(&weight) {
        errors.invalid(&path.child("weight"), weight, "must be in the range 1-100");
    }
}

fn validate_term(errors: &mut Errors, path: &Path, term: &NodeSelectorTerm) {
    let expressions = path.child("matchExpressions");
    for (i, one) in term.match_expressions.iter().flatten().enumerate() {
        validate_expression(errors, &expressions.index(i), one);
    }
    let fields = path.child("matchFields");
    for (i, one) in term.match_fields.iter().flatten().enumerate() {
        validate_field(errors, &fields.index(i), one);
    }
}

fn validate_expression(errors: &mut Errors, path: &Path, one: &NodeSelectorRequirement) {
    let count = one.values.as_ref().map_or(0, Vec::len);
    let values = path.child("values");
    match one.operator.as_str() {
        "In" | "NotIn" if count == 0 => {
            errors.required(&values, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if count > 0 => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.forbidden(&values, detail);
        }
        "Gt" | "Lt" if count != 1 => {
            let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.required(&values, detail);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
    labels::validate_label_key(errors, &path.child("key"), &one.key);
}

/// `metadata.name` is the only field of a node that terms may use.
fn validate_field(errors: &mut Errors, path: &Path, one: &NodeSelectorRequirement) {
    let values = one.values.as_deref().unwrap_or_default();
    match one.operator.as_str() {
        "In" | "NotIn" if values.len() != 1 => {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node \
                          field selector";
            errors.required(&path.child("values"), detail);
        }
        "In" | "NotIn" => {}
        other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
    if one.key != "metadata.name" {
        errors.invalid(&path.child("key"), &one.key, "not a valid field selector key");
    }
    let path = path.child("values");
    for (i, value) in values.iter().enumerate() {
        checks::dns_subdomain(errors, &path.index(i), value);
    }
}

pub fn validate_tolerations(errors: &mut Errors, path: &Path, tolerations: &[Toleration]) {
    const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
    for (i, toleration) in tolerations.iter().enumerate() {
        let path = path.index(i);
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let (key, operator) = (text(&toleration.key), text(&toleration.operator));
        let (value, effect) = (text(&toleration.value), text(&toleration.effect));
        if !key.is_empty() {
            labels::validate_label_key(errors, &path.child("key"), &key);
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \
                          \"match all values and all keys\"";
            errors.invalid(&path.child("operator"), &operator, detail);
        }
        if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid(&path.child("effect"), &effect, detail);
        }
        match operator.as_str() {
            "" | "Equal" => {
                let wrong = names::is_label_value(&value);
                if !wrong.is_empty() {
                    errors.invalid(&path.child("operator"), &value, &wrong.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.invalid(&path.child("operator"), &value, detail);
            }
            "Exists" => {}
            other => errors.not_supported(&path.child("operator"), other, &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            checks::one_of(errors, &path.child("effect"), &effect, EFFECTS);
        }
    }
}
