//! Validation of pod specs (k8s.io/kubernetes/pkg/apis/core/validation.ValidatePodSpec), used for
//! Pods and for the templates of workloads. Containers, volumes and scheduling have files of their
//! own; fields that Wasm pods cannot honour are [`super::pod_fields`]'s.
//!
//! Runs after the defaults.

use k8s_openapi::api::core::v1::PodSpec;

use super::{checks, container_validation, labels, name_service_validation, resources};
use super::{scheduling_gates, scheduling_validation, security_validation, volume_validation};
use crate::api::field::{Errors, Path};

const RESTART_POLICIES: &[&str] = &["Always", "OnFailure", "Never"];
const DNS_POLICIES: &[&str] = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];

pub fn validate(errors: &mut Errors, path: &Path, spec: &PodSpec) {
    if spec.termination_grace_period_seconds.is_none() {
        errors.required(&path.child("terminationGracePeriodSeconds"), "");
    }
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    volume_validation::validate(errors, &path.child("volumes"), volumes);
    container_validation::validate(errors, path, spec);
    let restart = spec.restart_policy.as_deref().unwrap_or_default();
    checks::one_of(errors, &path.child("restartPolicy"), restart, RESTART_POLICIES);
    let dns = spec.dns_policy.as_deref().unwrap_or_default();
    checks::one_of(errors, &path.child("dnsPolicy"), dns, DNS_POLICIES);
    let selector = path.child("nodeSelector");
    labels::validate_labels(errors, &selector, spec.node_selector.as_ref());
    security_validation::validate(errors, path, spec);
    scheduling_validation::validate(errors, path, spec);
    scheduling_gates::validate(errors, path, spec);
    name_service_validation::validate(errors, path, spec);
    validate_names(errors, path, spec);
    validate_overhead(errors, path, spec);
    if let Some(seconds) = spec.active_deadline_seconds
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let detail = checks::inclusive_range(1, i32::MAX.into());
        errors.invalid(&path.child("activeDeadlineSeconds"), seconds, &detail);
    }
    if let Some(policy) = spec.preemption_policy.as_deref() {
        let supported = ["PreemptLowerPriority", "Never"];
        checks::one_of(errors, &path.child("preemptionPolicy"), policy, &supported);
    }
}

fn validate_overhead(errors: &mut Errors, path: &Path, spec: &PodSpec) {
    let path = path.child("overhead");
    for (name, amount) in spec.overhead.iter().flatten() {
        resources::validate_amount(errors, &path.key(name), name, amount);
    }
}

fn validate_names(errors: &mut Errors, path: &Path, spec: &PodSpec) {
    let given = |field: &Option<String>| field.clone().filter(|f| !f.is_empty());
    let subdomains = [
        ("serviceAccountName", &spec.service_account_name),
        ("nodeName", &spec.node_name),
        ("priorityClassName", &spec.priority_class_name),
        ("runtimeClassName", &spec.runtime_class_name),
        ("hostnameOverride", &spec.hostname_override),
    ];
    for (field, value) in subdomains {
        if let Some(value) = given(value) {
            checks::dns_subdomain(errors, &path.child(field), &value);
        }
    }
    for (field, value) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if let Some(value) = given(value) {
            checks::dns_label(errors, &path.child(field), &value);
        }
    }
    let gates = path.child("readinessGates");
    for (i, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let path = gates.index(i);
        checks::qualified_name(errors, &path.child("conditionType"), &gate.condition_type);
    }
}
