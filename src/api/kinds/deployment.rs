//! Deployment (apps/v1).

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::workload::{self, Counters, ROLLING_UPDATE};
use super::{checks, labels, pod_template};
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Generation, Kind, KindMeta};
use crate::api::table::Column;

const RECREATE: &str = "Recreate";
/// How long a rollout may stand still before it is reported as failed, in seconds.
const PROGRESS_DEADLINE_SECONDS: i32 = 600;

impl Kind for Deployment {
    const META: KindMeta = KindMeta {
        singular: "deployment",
        short_names: &["deploy"],
        categories: &["all"],
        status: true,
        scale: true,
        generation: Generation::SpecAndAnnotations,
        ..DEFAULT_META
    };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        let spec = self.spec.get_or_insert_default();
        pod_template::set_defaults(&mut spec.template);
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(workload::REVISION_HISTORY_LIMIT);
        spec.progress_deadline_seconds.get_or_insert(PROGRESS_DEADLINE_SECONDS);
        let strategy = spec.strategy.get_or_insert_default();
        if workload::default_strategy(&mut strategy.type_) {
            let rolling = strategy.rolling_update.get_or_insert_default();
            rolling.max_surge.get_or_insert_with(quarter);
            rolling.max_unavailable.get_or_insert_with(quarter);
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
        let selector = |of: &Option<DeploymentSpec>| of.as_ref().map(|spec| spec.selector.clone());
        let (new, old) = (selector(&self.spec), selector(&old.spec));
        workload::selector_stays(errors, new.as_ref(), old.as_ref());
    }

    fn validate_status_update(&self, old: &Self, errors: &mut Errors) {
        let status = self.status.clone().unwrap_or_default();
        let counters = Counters {
            replicas: status.replicas.unwrap_or_default(),
            updated: status.updated_replicas,
            ready: status.ready_replicas,
            available: status.available_replicas,
            terminating: status.terminating_replicas,
            observed_generation: status.observed_generation,
            ..Counters::default()
        };
        workload::validate_counters(errors, counters);
        let path = Path::new("status");
        let unavailable = path.child("unavailableReplicas");
        checks::nonnegative_if_set(errors, &unavailable, status.unavailable_replicas);
        let old_count = old.status.as_ref().and_then(|s| s.collision_count);
        workload::validate_collisions(errors, status.collision_count, old_count);
    }

    fn warnings(&self) -> Vec<String> {
        self.spec.as_ref().map(|s| pod_template::warnings(&s.template)).unwrap_or_default()
    }

    fn columns() -> &'static [Column] {
        workload::columns![
            Column::new("Ready", "string", "Number of the pod with ready state"),
            Column::new("Up-to-date", "string", "How many pods have the desired template."),
            Column::new("Available", "string", "How many pods have been ready for long enough."),
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let status = self.status.clone().unwrap_or_default();
        let ready = status.ready_replicas.unwrap_or_default();
        let own = vec![
            format!("{ready}/{}", spec.replicas.unwrap_or_default()).into(),
            status.updated_replicas.unwrap_or_default().into(),
            status.available_replicas.unwrap_or_default().into(),
        ];
        let selector = labels::format_selector(&spec.selector);
        workload::row(&self.metadata, own, Some(&spec.template), Some(selector), now)
    }
}

fn quarter() -> IntOrString {
    IntOrString::String("25%".into())
}

fn validate_spec(errors: &mut Errors, path: &Path, spec: &DeploymentSpec) {
    let (min_ready, history) = (spec.min_ready_seconds, spec.revision_history_limit);
    workload::validate_numbers(errors, path, spec.replicas, min_ready, history);
    workload::validate_selector(errors, &path.child("selector"), &spec.selector);
    let template = path.child("template");
    // Upstream's text names ReplicaSet for Deployments, too.
    pod_template::validate_for_selector(
        errors,
        &template,
        &spec.template,
        &spec.selector,
        "ReplicaSet",
    );
    if let Some(strategy) = &spec.strategy {
        validate_strategy(errors, &path.child("strategy"), strategy);
    }
    if let Some(deadline) = spec.progress_deadline_seconds {
        let path = path.child("progressDeadlineSeconds");
        checks::nonnegative(errors, &path, deadline);
        if deadline <= min_ready.unwrap_or_default() {
            errors.invalid(&path, deadline, "must be greater than minReadySeconds");
        }
    }
}

fn validate_strategy(errors: &mut Errors, path: &Path, strategy: &DeploymentStrategy) {
    let rolling_path = path.child("rollingUpdate");
    match strategy.type_.as_deref().unwrap_or_default() {
        RECREATE if strategy.rolling_update.is_some() => {
            let detail = "may not be specified when strategy `type` is 'Recreate'";
            errors.forbidden(&rolling_path, detail);
        }
        RECREATE => {}
        ROLLING_UPDATE => {
            let rolling = strategy.rolling_update.clone().unwrap_or_default();
            let (surge, unavailable) =
                (rolling.max_surge.as_ref(), rolling.max_unavailable.as_ref());
            let unavailable_path = rolling_path.child("maxUnavailable");
            if let Some(unavailable) = unavailable {
                workload::validate_count_or_percent(errors, &unavailable_path, unavailable);
            }
            if let Some(surge) = surge {
                let path = rolling_path.child("maxSurge");
                workload::validate_count_or_percent(errors, &path, surge);
            }
            // What cannot be read is nothing.
            let none = |value| workload::count_or_percent(value).unwrap_or(0) == 0;
            if none(surge) && none(unavailable) {
                let detail = "may not be 0 when `maxSurge` is 0";
                errors.invalid(&unavailable_path, unavailable, detail);
            }
            if let Some(unavailable) = unavailable {
                workload::validate_no_more_than_all(errors, &unavailable_path, unavailable);
            }
        }
        _ => errors.not_supported(path, strategy, &[RECREATE, ROLLING_UPDATE]),
    }
}
