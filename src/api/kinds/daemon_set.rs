//! DaemonSet (apps/v1).

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::workload::{self, ROLLING_UPDATE};
use super::{checks, labels, pod_template};
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Generation, Kind, KindMeta};
use crate::api::table::Column;

const ON_DELETE: &str = "OnDelete";

impl Kind for DaemonSet {
    const META: KindMeta = KindMeta {
        singular: "daemonset",
        short_names: &["ds"],
        categories: &["all"],
        status: true,
        generation: Generation::Spec,
        ..DEFAULT_META
    };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        let spec = self.spec.get_or_insert_default();
        pod_template::set_defaults(&mut spec.template);
        spec.revision_history_limit.get_or_insert(workload::REVISION_HISTORY_LIMIT);
        let strategy = spec.update_strategy.get_or_insert_default();
        if workload::default_strategy(&mut strategy.type_) {
            let rolling = strategy.rolling_update.get_or_insert_default();
            rolling.max_unavailable.get_or_insert(IntOrString::Int(1));
            rolling.max_surge.get_or_insert(IntOrString::Int(0));
        }
        self.status.get_or_insert_default();
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        match &self.spec {
            Some(spec) => validate_spec(errors, &path, spec),
            None => errors.required(&path, ""),
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let selector = |of: &Option<DaemonSetSpec>| of.as_ref().map(|spec| spec.selector.clone());
        let (new, old) = (selector(&self.spec), selector(&old.spec));
        workload::selector_stays(errors, new.as_ref(), old.as_ref());
    }

    fn validate_status_update(&self, old: &Self, errors: &mut Errors) {
        let status = self.status.clone().unwrap_or_default();
        let path = Path::new("status");
        for (field, value) in [
            ("currentNumberScheduled", Some(status.current_number_scheduled)),
            ("numberMisscheduled", Some(status.number_misscheduled)),
            ("desiredNumberScheduled", Some(status.desired_number_scheduled)),
            ("numberReady", Some(status.number_ready)),
            ("updatedNumberScheduled", status.updated_number_scheduled),
            ("numberAvailable", status.number_available),
            ("numberUnavailable", status.number_unavailable),
        ] {
            checks::nonnegative_if_set(errors, &path.child(field), value);
        }
        let observed = path.child("observedGeneration");
        checks::nonnegative_if_set(errors, &observed, status.observed_generation);
        let old_count = old.status.as_ref().and_then(|status| status.collision_count);
        workload::validate_collisions(errors, status.collision_count, old_count);
    }

    fn warnings(&self) -> Vec<String> {
        self.spec.iter().flat_map(|spec| pod_template::warnings(&spec.template)).collect()
    }

    fn columns() -> &'static [Column] {
        workload::columns![
            Column::new("Desired", "integer", "Nodes that should run the pod."),
            Column::new("Current", "integer", "Nodes that run the pod."),
            Column::new("Ready", "integer", "Nodes whose pod is ready."),
            Column::new("Up-to-date", "integer", "Nodes whose pod has the newest template."),
            Column::new("Available", "integer", "Nodes whose pod is available."),
            Column::new("Node Selector", "string", "The nodes that should run the pod."),
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let status = self.status.clone().unwrap_or_default();
        let nodes = spec.template.spec.as_ref().and_then(|s| s.node_selector.clone());
        let own = vec![
            status.desired_number_scheduled.into(),
            status.current_number_scheduled.into(),
            status.number_ready.into(),
            status.updated_number_scheduled.unwrap_or_default().into(),
            status.number_available.unwrap_or_default().into(),
            labels::format_labels(nodes.as_ref()).into(),
        ];
        let selector = labels::format_selector(&spec.selector);
        workload::row(&self.metadata, own, Some(&spec.template), Some(selector), now)
    }
}

fn validate_spec(errors: &mut Errors, path: &Path, spec: &DaemonSetSpec) {
    workload::validate_selector(errors, &path.child("selector"), &spec.selector);
    let template = path.child("template");
    let (pods, selector) = (&spec.template, &spec.selector);
    pod_template::validate_for_selector(errors, &template, pods, selector, "DaemonSet");
    if let Some(strategy) = &spec.update_strategy {
        validate_strategy(errors, &path.child("updateStrategy"), strategy);
    }
    let (min_ready, history) = (spec.min_ready_seconds, spec.revision_history_limit);
    workload::validate_numbers(errors, path, None, min_ready, history);
}

fn validate_strategy(errors: &mut Errors, path: &Path, strategy: &DaemonSetUpdateStrategy) {
    let type_ = strategy.type_.as_deref().unwrap_or_default();
    match type_ {
        ROLLING_UPDATE => {}
        ON_DELETE => return,
        _ => return errors.not_supported(path, strategy, &[ROLLING_UPDATE, ON_DELETE]),
    }
    let path = path.child("rollingUpdate");
    let Some(rolling) = &strategy.rolling_update else { return errors.required(&path, "") };
    let fields = [("maxUnavailable", &rolling.max_unavailable), ("maxSurge", &rolling.max_surge)];
    for (field, value) in fields {
        if let Some(value) = value {
            workload::validate_count_or_percent(errors, &path.child(field), value);
            workload::validate_no_more_than_all(errors, &path.child(field), value);
        }
    }
    let unavailable = workload::count_or_percent(rolling.max_unavailable.as_ref()).unwrap_or(0);
    let surge = workload::count_or_percent(rolling.max_surge.as_ref()).unwrap_or(0);
    if unavailable == 0 && surge == 0 {
        errors.required(&path.child("maxUnavailable"), "cannot be 0 when maxSurge is 0");
    }
    if unavailable > 0 && surge > 0 {
        let detail = "may not be set when maxUnavailable is non-zero";
        errors.invalid(&path.child("maxSurge"), &rolling.max_surge, detail);
    }
}
