//! HorizontalPodAutoscaler (autoscaling/v2): metadata, defaults and printing. What a spec may hold is
//! in [`super::autoscaling_validation`]; the older version is [`super::horizontal_pod_autoscaler_v1`].
//!
//! Upstream: pkg/apis/autoscaling/v2/defaults.go.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscaler, MetricSpec, MetricTarget,
    MetricValueStatus, ResourceMetricSource,
};
use serde_json::Value;

use super::resource_metrics::REQUESTS;
use super::{autoscaling_validation, checks};
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Kind, KindMeta};
use crate::api::table::{self, Column};

/// What pods use of their CPU requests where an autoscaler does not say, in percent.
pub const DEFAULT_CPU_PERCENT: i32 = 80;
/// The resources that nodes measure (metrics.k8s.io).
const MEASURED: &[&str] = &["cpu", "memory"];
/// How many metrics a table's cell shows.
const MAX_SHOWN: usize = 2;

impl Kind for HorizontalPodAutoscaler {
    const META: KindMeta = KindMeta {
        singular: "horizontalpodautoscaler",
        short_names: &["hpa"],
        categories: &["all"],
        status: true,
        unconditional_update: false,
        ..DEFAULT_META
    };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        let spec = self.spec.get_or_insert_default();
        spec.min_replicas.get_or_insert(1);
        if spec.metrics.as_ref().is_none_or(Vec::is_empty) {
            spec.metrics = Some(vec![cpu_metric(DEFAULT_CPU_PERCENT)]);
        }
        if let Some(behavior) = &mut spec.behavior {
            let up = behavior.scale_up.get_or_insert_default();
            default_rules(up, &[("Pods", 4), ("Percent", 100)]);
            up.stabilization_window_seconds.get_or_insert(0);
            default_rules(behavior.scale_down.get_or_insert_default(), &[("Percent", 100)]);
        }
        self.status.get_or_insert_default();
    }

    fn validate(&self, errors: &mut Errors) {
        let spec = self.spec.clone().unwrap_or_default();
        autoscaling_validation::validate(errors, &Path::new("spec"), &spec);
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        let status = self.status.clone().unwrap_or_default();
        let path = Path::new("status");
        let current = path.child("currentReplicas");
        checks::nonnegative_if_set(errors, &current, status.current_replicas);
        checks::nonnegative(errors, &path.child("desiredReplicas"), status.desired_replicas);
    }

    fn warnings(&self) -> Vec<String> {
        let metrics = self.spec.iter().flat_map(|spec| spec.metrics.iter().flatten().enumerate());
        let unmeasured = metrics.filter_map(|(i, metric)| Some((i, unmeasured(metric)?)));
        let warn = |(i, why): (usize, String)| format!("spec.metrics[{i}]: {why}");
        unmeasured.map(warn).collect()
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Reference", "string", "What is scaled."),
            Column::new("Targets", "string", "The metrics as they are and should be."),
            Column::new("MinPods", "string", "The fewest replicas."),
            Column::new("MaxPods", "string", "The most replicas."),
            Column::new("Replicas", "string", "The present replicas."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let status = self.status.clone().unwrap_or_default();
        let target = &spec.scale_target_ref;
        vec![
            table::name(&self.metadata),
            format!("{}/{}", target.kind, target.name).into(),
            targets(self).into(),
            spec.min_replicas.map_or("<unset>".into(), |count| count.to_string()).into(),
            spec.max_replicas.into(),
            status.current_replicas.unwrap_or_default().into(),
            table::age(&self.metadata, now),
        ]
    }
}

/// Why the controller will have nothing to look at; `None` for what nodes measure.
fn unmeasured(metric: &MetricSpec) -> Option<String> {
    let other = |resource: &str| {
        (!resource.is_empty() && !MEASURED.contains(&resource))
            .then(|| format!("nodes measure {}, and no {resource}", MEASURED.join(" and ")))
    };
    if let Some(one) = &metric.resource {
        return other(&one.name);
    }
    if let Some(one) = &metric.container_resource {
        return other(&one.name);
    }
    if let Some(one) = &metric.pods {
        let is_measured = one.metric.name == REQUESTS && one.metric.selector.is_none();
        let other = || format!("of pods this cluster measures {REQUESTS}, which has no labels");
        return (!is_measured).then(other);
    }
    Some(format!("this cluster serves no {} metrics: no number follows from it", metric.type_))
}

/// The one metric that autoscalers had at first.
pub fn cpu_metric(percent: i32) -> MetricSpec {
    let target = MetricTarget {
        type_: "Utilization".into(),
        average_utilization: Some(percent),
        ..MetricTarget::default()
    };
    MetricSpec {
        type_: "Resource".into(),
        resource: Some(ResourceMetricSource { name: "cpu".into(), target }),
        ..MetricSpec::default()
    }
}

fn default_rules(rules: &mut HPAScalingRules, policies: &[(&str, i32)]) {
    rules.select_policy.get_or_insert_with(|| "Max".into());
    rules.policies.get_or_insert_with(|| {
        let policy = |(type_, value): &(&str, i32)| HPAScalingPolicy {
            type_: (*type_).into(),
            value: *value,
            period_seconds: 15,
        };
        policies.iter().map(policy).collect()
    });
}

/// `cpu: 20%/80%, 5/10 (avg) + 1 more...`
fn targets(autoscaler: &HorizontalPodAutoscaler) -> String {
    let metrics = autoscaler.spec.as_ref().and_then(|spec| spec.metrics.as_deref());
    let metrics = metrics.unwrap_or_default();
    let status = autoscaler.status.as_ref().and_then(|status| status.current_metrics.as_deref());
    let status = status.unwrap_or_default();
    let shown: Vec<String> = metrics
        .iter()
        .take(MAX_SHOWN)
        .enumerate()
        .map(|(i, metric)| {
            let now = status.get(i).filter(|now| now.type_ == metric.type_);
            let resource = |name: &str, target: &MetricTarget, now: Option<&MetricValueStatus>| {
                format!("{name}: {}", ratio(target, now, ""))
            };
            if let Some(one) = &metric.resource {
                let now = now.and_then(|now| now.resource.as_ref()).map(|now| &now.current);
                resource(&one.name, &one.target, now)
            } else if let Some(one) = &metric.container_resource {
                let now = now.and_then(|now| now.container_resource.as_ref());
                resource(&one.name, &one.target, now.map(|now| &now.current))
            } else if let Some(one) = &metric.pods {
                let now = now.and_then(|now| now.pods.as_ref()).map(|now| &now.current);
                ratio(&one.target, now, "")
            } else if let Some(one) = &metric.object {
                let now = now.and_then(|now| now.object.as_ref()).map(|now| &now.current);
                ratio(&one.target, now, " (avg)")
            } else if let Some(one) = &metric.external {
                let now = now.and_then(|now| now.external.as_ref()).map(|now| &now.current);
                ratio(&one.target, now, " (avg)")
            } else {
                "<unknown type>".into()
            }
        })
        .collect();
    match (shown.is_empty(), metrics.len() - shown.len()) {
        (true, _) => "<none>".into(),
        (false, 0) => shown.join(", "),
        (false, more) => format!("{} + {more} more...", shown.join(", ")),
    }
}

/// `current/wanted`; `average` is said after averages of values.
fn ratio(target: &MetricTarget, now: Option<&MetricValueStatus>, average: &str) -> String {
    const UNKNOWN: &str = "<unknown>";
    if let Some(wanted) = &target.average_value {
        let now = now.and_then(|now| now.average_value.as_ref());
        return format!("{}/{}{average}", now.map_or(UNKNOWN, |now| &now.0), wanted.0);
    }
    if let Some(wanted) = &target.value {
        let now = now.and_then(|now| now.value.as_ref());
        return format!("{}/{}", now.map_or(UNKNOWN, |now| &now.0), wanted.0);
    }
    let percent = |value: Option<i32>, none: &str| match value {
        Some(value) => format!("{value}%"),
        None => none.to_string(),
    };
    let now = percent(now.and_then(|now| now.average_utilization), UNKNOWN);
    format!("{now}/{}", percent(target.average_utilization, "<auto>"))
}
