//! ReplicaSet (apps/v1).

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use serde_json::Value;

use super::workload::{self, Counters};
use super::{labels, pod_template};
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Generation, Kind, KindMeta};
use crate::api::table::Column;

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
        let selector = |of: &Option<ReplicaSetSpec>| of.as_ref().map(|spec| spec.selector.clone());
        let (new, old) = (selector(&self.spec), selector(&old.spec));
        workload::selector_stays(errors, new.as_ref(), old.as_ref());
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        let status = self.status.clone().unwrap_or_default();
        let counters = Counters {
            replicas: status.replicas,
            fully_labeled: status.fully_labeled_replicas,
            ready: status.ready_replicas,
            available: status.available_replicas,
            terminating: status.terminating_replicas,
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
        workload::replica_columns()
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let status = self.status.clone().unwrap_or_default();
        let own = vec![
            spec.replicas.unwrap_or_default().into(),
            status.replicas.into(),
            status.ready_replicas.unwrap_or_default().into(),
        ];
        let selector = labels::format_selector(&spec.selector);
        workload::row(&self.metadata, own, spec.template.as_ref(), Some(selector), now)
    }

    fn field(&self, field: &str) -> String {
        match field {
            "status.replicas" => self.status.as_ref().map_or(0, |s| s.replicas).to_string(),
            _ => String::new(),
        }
    }
}

fn validate_spec(errors: &mut Errors, path: &Path, spec: &ReplicaSetSpec) {
    workload::validate_numbers(errors, path, spec.replicas, spec.min_ready_seconds, None);
    workload::validate_selector(errors, &path.child("selector"), &spec.selector);
    let template = spec.template.clone().unwrap_or_default();
    let path = path.child("template");
    pod_template::validate_for_selector(errors, &path, &template, &spec.selector, "ReplicaSet");
}
