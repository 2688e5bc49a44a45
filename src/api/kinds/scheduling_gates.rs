//! `spec.schedulingGates`: a pod that has some waits, and is told so; what it asks of nodes may become
//! narrower meanwhile. Gates are given when the pod is made, and only taken away after.
//! Source: KEP-3521, KEP-3838 (changes while gated).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Affinity, NodeAffinity, NodeSelectorTerm, PodCondition, PodSpec};
use serde_json::Value;

use crate::api::field::{Errors, Path};
use crate::api::names;

const NOT_YET: &str = "cannot be set until all schedulingGates have been cleared";
const ONLY_ADDITIONS: &str = "only additions to spec.nodeSelector are allowed (no mutations or \
                              deletions)";
const NO_NEW_TERMS: &str = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
const ONLY_MORE: &str = "only additions are allowed (no mutations or deletions)";

/// Whether the pod is not to be scheduled yet.
pub fn is_gated(spec: &PodSpec) -> bool {
    spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty())
}

/// What the status of a new pod with gates says.
pub fn condition() -> PodCondition {
    PodCondition {
        type_: "PodScheduled".into(),
        status: "False".into(),
        reason: Some("SchedulingGated".into()),
        message: Some("Scheduling is blocked due to non-empty scheduling gates".into()),
        ..PodCondition::default()
    }
}

pub fn validate(errors: &mut Errors, path: &Path, spec: &PodSpec) {
    let path = path.child("schedulingGates");
    let mut seen = BTreeSet::new();
    for (i, gate) in spec.scheduling_gates.iter().flatten().enumerate() {
        let path = path.index(i);
        for wrong in names::is_qualified_name(&gate.name) {
            errors.invalid(&path, &gate.name, &wrong);
        }
        if !seen.insert(&gate.name) {
            errors.duplicate(&path, gate.name.clone());
        }
    }
}

pub fn validate_create(errors: &mut Errors, path: &Path, spec: &PodSpec) {
    if is_gated(spec) && spec.node_name.as_ref().is_some_and(|name| !name.is_empty()) {
        errors.forbidden(&path.child("nodeName"), NOT_YET);
    }
}

/// Checks what may change of a pod that has gates, and takes it as it was in `new`, so that the rest
/// can be compared.
pub fn take_changes(errors: &mut Errors, path: &Path, new: &mut PodSpec, old: &PodSpec) {
    let known: BTreeSet<&str> =
        old.scheduling_gates.iter().flatten().map(|gate| gate.name.as_str()).collect();
    for (i, gate) in new.scheduling_gates.iter().flatten().enumerate() {
        if !known.contains(gate.name.as_str()) {
            let detail =
                format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
            errors.forbidden(&path.child("schedulingGates").index(i), &detail);
        }
    }
    new.scheduling_gates.clone_from(&old.scheduling_gates);
    if !is_gated(old) {
        return;
    }
    let (wanted, before) = (new.node_selector.clone(), old.node_selector.as_ref());
    let wanted = wanted.unwrap_or_default();
    if before.into_iter().flatten().any(|(key, value)| wanted.get(key) != Some(value)) {
        errors.invalid(&path.child("nodeSelector"), Value::Null, ONLY_ADDITIONS);
    }
    new.node_selector.clone_from(&old.node_selector);
    let before = old.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let wanted = new.affinity.as_ref().and_then(|affinity| affinity.node_affinity.clone());
    let at = path.child("affinity");
    validate_affinity(errors, &at.child("nodeAffinity"), wanted.as_ref(), before);
    if wanted.is_some() || before.is_some() {
        new.affinity.get_or_insert_default().node_affinity = before.cloned();
    }
    // An affinity that says nothing is none.
    let says_nothing = |spec: &PodSpec| {
        spec.affinity.as_ref().is_none_or(|affinity| *affinity == Affinity::default())
    };
    if says_nothing(new) && says_nothing(old) {
        new.affinity.clone_from(&old.affinity);
    }
}

fn validate_affinity(
    errors: &mut Errors,
    path: &Path,
    new: Option<&NodeAffinity>,
    old: Option<&NodeAffinity>,
) {
    let terms = |affinity: Option<&NodeAffinity>| {
        let required = affinity?.required_during_scheduling_ignored_during_execution.as_ref()?;
        Some(required.node_selector_terms.clone())
    };
    let Some(old) = terms(old).filter(|terms| !terms.is_empty()) else { return };
    let new = terms(new).unwrap_or_default();
    let path = path.child("requiredDuringSchedulingIgnoredDuringExecution");
    let path = path.child("nodeSelectorTerms");
    if new.len() != old.len() {
        return errors.invalid(&path, Value::Null, NO_NEW_TERMS);
    }
    for (i, (new, old)) in new.iter().zip(&old).enumerate() {
        if !only_adds(new, old) {
            errors.invalid(&path.index(i), Value::Null, ONLY_MORE);
        }
    }
}

/// Whether a term begins as it was. One that was empty selects nothing, and is to stay so.
fn only_adds(new: &NodeSelectorTerm, old: &NodeSelectorTerm) -> bool {
    let begins = |new: Option<&Vec<_>>, old: Option<&Vec<_>>| {
        let old = old.map(Vec::as_slice).unwrap_or_default();
        new.map(Vec::as_slice).unwrap_or_default().starts_with(old)
    };
    let was_empty = old.match_expressions.as_ref().is_none_or(Vec::is_empty)
        && old.match_fields.as_ref().is_none_or(Vec::is_empty);
    if was_empty {
        return new == old;
    }
    begins(new.match_expressions.as_ref(), old.match_expressions.as_ref())
        && begins(new.match_fields.as_ref(), old.match_fields.as_ref())
}
