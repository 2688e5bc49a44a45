//! What the spec of a HorizontalPodAutoscaler may hold.
//!
//! Upstream: pkg/apis/autoscaling/validation/validation.go.

use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HPAScalingRules, HorizontalPodAutoscalerSpec, MetricIdentifier,
    MetricSpec, MetricTarget,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;

use super::resource_metrics::REQUESTS;
use super::{checks, labels};
use crate::api::field::{Errors, Path};
use crate::api::quantity::Quantity;

const SOURCES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];
const TARGETS: &[&str] = &["Utilization", "Value", "AverageValue"];
const SELECT: &[&str] = &["Disabled", "Max", "Min"];
const POLICIES: &[&str] = &["Percent", "Pods"];
/// Longest period of a policy and longest window of stabilization, in seconds.
const MOST_PERIOD_SECONDS: i32 = 1_800;
const MOST_WINDOW_SECONDS: i32 = 3_600;

pub fn validate(errors: &mut Errors, path: &Path, spec: &HorizontalPodAutoscalerSpec) {
    let least = spec.min_replicas.unwrap_or(1);
    if least < 0 {
        let detail = "must be greater than or equal to 0";
        errors.invalid(&path.child("minReplicas"), least, detail);
    }
    let most = path.child("maxReplicas");
    if spec.max_replicas < 1 {
        errors.invalid(&most, spec.max_replicas, "must be greater than 0");
    }
    if spec.max_replicas < least {
        let detail = "must be greater than or equal to `minReplicas`";
        errors.invalid(&most, spec.max_replicas, detail);
    }
    validate_reference(errors, &path.child("scaleTargetRef"), &spec.scale_target_ref);
    let at = path.child("metrics");
    for (i, metric) in spec.metrics.iter().flatten().enumerate() {
        validate_metric(errors, &at.index(i), metric);
    }
    if least == 0 && !spec.metrics.iter().flatten().any(is_known_at_zero) {
        let detail = format!(
            "must specify at least one Object or External metric, or the Pods metric {REQUESTS}, to \
             support scaling to zero replicas"
        );
        errors.forbidden(&at, &detail);
    }
    let path = path.child("behavior");
    let Some(behavior) = &spec.behavior else { return };
    for (field, rules) in [("scaleUp", &behavior.scale_up), ("scaleDown", &behavior.scale_down)] {
        if let Some(rules) = rules {
            validate_rules(errors, &path.child(field), rules);
        }
    }
}

/// Whether a metric means something without pods (KEP-2021). Requests do here: the first one for a
/// Service is held and brings a pod back.
fn is_known_at_zero(metric: &MetricSpec) -> bool {
    let requests = metric.pods.as_ref().is_some_and(|pods| pods.metric.name == REQUESTS);
    requests || metric.object.is_some() || metric.external.is_some()
}

fn validate_reference(errors: &mut Errors, path: &Path, one: &CrossVersionObjectReference) {
    checks::path_segment(errors, &path.child("kind"), &one.kind);
    checks::path_segment(errors, &path.child("name"), &one.name);
    let version = one.api_version.as_deref().unwrap_or_default();
    if version.matches('/').count() > 1 {
        let detail = format!("unexpected GroupVersion string: {version}");
        errors.invalid(&path.child("apiVersion"), version, &detail);
    }
}

fn validate_metric(errors: &mut Errors, path: &Path, metric: &MetricSpec) {
    let kind = path.child("type");
    if metric.type_.is_empty() {
        errors.required(&kind, "must specify a metric source type");
    }
    if !SOURCES.contains(&metric.type_.as_str()) {
        errors.not_supported(&kind, &metric.type_, SOURCES);
    }
    let parts = [
        ("object", "Object", metric.object.is_some()),
        ("external", "External", metric.external.is_some()),
        ("pods", "Pods", metric.pods.is_some()),
        ("resource", "Resource", metric.resource.is_some()),
        ("containerResource", "ContainerResource", metric.container_resource.is_some()),
    ];
    for (field, type_, set) in parts {
        let own = type_ == metric.type_;
        if own && !set {
            let detail = "must populate information for the given metric source";
            errors.required(&path.child(field), detail);
        } else if set && !own {
            let detail = "must populate the given metric source only";
            errors.forbidden(&path.child(field), detail);
        }
    }
    validate_sources(errors, path, metric);
}

fn validate_sources(errors: &mut Errors, path: &Path, metric: &MetricSpec) {
    if let Some(one) = &metric.object {
        let path = path.child("object");
        validate_reference(errors, &path.child("describedObject"), &one.described_object);
        validate_identifier(errors, &path.child("metric"), &one.metric);
        let path = path.child("target");
        validate_target(errors, &path, &one.target);
        if one.target.value.is_none() && one.target.average_value.is_none() {
            let detail = "must set either a target value or averageValue";
            errors.required(&path.child("averageValue"), detail);
        }
    }
    if let Some(one) = &metric.external {
        let path = path.child("external");
        validate_identifier(errors, &path.child("metric"), &one.metric);
        let path = path.child("target");
        validate_target(errors, &path, &one.target);
        match (&one.target.value, &one.target.average_value) {
            (None, None) => {
                let detail = "must set either a target value for metric or a per-pod target";
                errors.required(&path.child("averageValue"), detail);
            }
            (Some(_), Some(_)) => {
                let detail = "may not set both a target value for metric and a per-pod target";
                errors.forbidden(&path.child("value"), detail);
            }
            _ => {}
        }
    }
    if let Some(one) = &metric.pods {
        let path = path.child("pods");
        validate_identifier(errors, &path.child("metric"), &one.metric);
        let path = path.child("target");
        validate_target(errors, &path, &one.target);
        if !one.target.average_value.as_ref().is_some_and(is_positive) {
            let detail = "must specify a positive target averageValue";
            errors.required(&path.child("averageValue"), detail);
        }
    }
    if let Some(one) = &metric.resource {
        let path = path.child("resource");
        validate_resource(errors, &path, &one.name, &one.target);
    }
    if let Some(one) = &metric.container_resource {
        let path = path.child("containerResource");
        validate_resource(errors, &path, &one.name, &one.target);
        if one.container.is_empty() {
            errors.required(&path.child("container"), "must specify a container");
        } else {
            checks::dns_label(errors, &path.child("container"), &one.container);
        }
    }
}

fn validate_resource(errors: &mut Errors, path: &Path, name: &str, target: &MetricTarget) {
    if name.is_empty() {
        errors.required(&path.child("name"), "must specify a resource name");
    }
    let path = path.child("target");
    validate_target(errors, &path, target);
    match (target.average_utilization, &target.average_value) {
        (None, None) => {
            let detail = "must set either a target raw value or a target utilization";
            errors.required(&path.child("averageUtilization"), detail);
        }
        (Some(_), Some(_)) => {
            let detail = "may not set both a target raw value and a target utilization";
            errors.forbidden(&path.child("averageValue"), detail);
        }
        _ => {}
    }
}

fn validate_identifier(errors: &mut Errors, path: &Path, metric: &MetricIdentifier) {
    if metric.name.is_empty() {
        errors.required(&path.child("name"), "must specify a metric name");
    } else {
        checks::path_segment(errors, &path.child("name"), &metric.name);
    }
    if let Some(selector) = &metric.selector {
        labels::validate_selector(errors, &path.child("selector"), selector);
    }
}

fn validate_target(errors: &mut Errors, path: &Path, target: &MetricTarget) {
    let kind = path.child("type");
    if target.type_.is_empty() {
        errors.required(&kind, "must specify a metric target type");
    } else if !TARGETS.contains(&target.type_.as_str()) {
        let detail = "must be either Utilization, Value, or AverageValue";
        errors.invalid(&kind, &target.type_, detail);
    }
    for (field, amount) in [("value", &target.value), ("averageValue", &target.average_value)] {
        if let Some(amount) = amount.as_ref().filter(|amount| !is_positive(amount)) {
            errors.invalid(&path.child(field), &amount.0, "must be positive");
        }
    }
    if let Some(percent) = target.average_utilization.filter(|percent| *percent < 1) {
        errors.invalid(&path.child("averageUtilization"), percent, "must be greater than 0");
    }
}

fn is_positive(amount: &Amount) -> bool {
    Quantity::parse(&amount.0).is_ok_and(|amount| amount.sign() > 0)
}

fn validate_rules(errors: &mut Errors, path: &Path, rules: &HPAScalingRules) {
    let at = path.child("stabilizationWindowSeconds");
    match rules.stabilization_window_seconds {
        Some(seconds) if seconds < 0 => {
            errors.invalid(&at, seconds, "must be greater than or equal to zero");
        }
        Some(seconds) if seconds > MOST_WINDOW_SECONDS => {
            let detail = format!("must be less than or equal to {MOST_WINDOW_SECONDS}");
            errors.invalid(&at, seconds, &detail);
        }
        _ => {}
    }
    let select = rules.select_policy.as_deref().unwrap_or_default();
    if !SELECT.contains(&select) {
        errors.not_supported(&path.child("selectPolicy"), select, SELECT);
    }
    if let Some(tolerance) = &rules.tolerance
        && !Quantity::parse(&tolerance.0).is_ok_and(|tolerance| tolerance.sign() >= 0)
    {
        let detail = "must be greater than or equal to zero";
        errors.invalid(&path.child("tolerance"), &tolerance.0, detail);
    }
    let path = path.child("policies");
    let policies = rules.policies.as_deref().unwrap_or_default();
    if policies.is_empty() {
        errors.required(&path, "must specify at least one Policy");
    }
    for (i, policy) in policies.iter().enumerate() {
        let path = path.index(i);
        if !POLICIES.contains(&policy.type_.as_str()) {
            errors.not_supported(&path.child("type"), &policy.type_, POLICIES);
        }
        if policy.value <= 0 {
            errors.invalid(&path.child("value"), policy.value, "must be greater than zero");
        }
        let at = path.child("periodSeconds");
        if policy.period_seconds <= 0 {
            errors.invalid(&at, policy.period_seconds, "must be greater than zero");
        } else if policy.period_seconds > MOST_PERIOD_SECONDS {
            let detail = format!("must be less than or equal to {MOST_PERIOD_SECONDS}");
            errors.invalid(&at, policy.period_seconds, &detail);
        }
    }
}
