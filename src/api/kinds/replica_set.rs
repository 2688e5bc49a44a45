//! ReplicaSet (apps/v1).

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use serde_json::Value;

use super::workload::{self, Counters};
use super::{checks, labels, pod_template};
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Generation, Kind, KindMeta};
use crate::api::table::{self, Column};

impl Kind for ReplicaSet {
    const META: KindMeta = KindMeta {
        singular: "replicaset",
        short_names: &["rs"],
        categories: &["all"],
        status: true,
        scale: true,
        generation: Generation::Spec,
        selectable: &["status.replicas"],
        ..DEFAULT_META
    };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        let spec = self.spec.get_or_insert_default();
        spec.replicas.get_or_insert(1);
        pod_template::set_defaults(spec.template.get_or_insert_default());
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
        let path = Path::new("spec");
        if let (Some(new), Some(old)) = (&self.spec, &old.spec) {
            let path = path.child("selector");
            labels::validate_selector_unchanged(errors, &path, &new.selector, &old.selector);
        }
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        let status = self.status.clone().unwrap_or_default();
        let counters = Counters {
            replicas: status.replicas,
            fully_labeled: status.fully_labeled_replicas,
            ready: status.ready_replicas,
            available: status.available_replicas,
            observed_generation: status.observed_generation,
            ..Counters::default()
        };
        workload::validate_counters(errors, counters);
    }

    fn warnings(&self) -> Vec<String> {
        let template = self.spec.as_ref().and_then(|s| s.template.as_ref());
        template.map(pod_template::warnings).unwrap_or_default()
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Desired", "integer", "How many pods there should be."),
            Column::new("Current", "integer", "How many pods there are."),
            Column::new("Ready", "integer", "How many pods are ready."),
            table::AGE,
            workload::CONTAINERS,
            workload::IMAGES,
            workload::SELECTOR,
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let status = self.status.clone().unwrap_or_default();
        let (names, images) = pod_template::container_cells(&spec.template.unwrap_or_default());
        vec![
            table::name(&self.metadata),
            spec.replicas.unwrap_or_default().into(),
            status.replicas.into(),
            status.ready_replicas.unwrap_or_default().into(),
            table::age(&self.metadata, now),
            names.into(),
            images.into(),
            labels::format_selector(&spec.selector).into(),
        ]
    }

    fn field(&self, field: &str) -> String {
        match field {
            "status.replicas" => self.status.as_ref().map_or(0, |s| s.replicas).to_string(),
            _ => String::new(),
        }
    }
}

fn validate_spec(errors: &mut Errors, path: &Path, spec: &ReplicaSetSpec) {
    checks::nonnegative_if_set(errors, &path.child("replicas"), spec.replicas);
    let min_ready = path.child("minReadySeconds");
    checks::nonnegative_if_set(errors, &min_ready, spec.min_ready_seconds);
    workload::validate_selector(errors, &path.child("selector"), &spec.selector);
    let template = spec.template.clone().unwrap_or_default();
    let path = path.child("template");
    pod_template::validate_for_selector(errors, &path, &template, &spec.selector, "ReplicaSet");
}
