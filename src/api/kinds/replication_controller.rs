//! ReplicationController (v1): what ReplicaSet came from.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ReplicationController;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

use super::workload::{self, Counters};
use super::{labels, pod_template};
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Generation, Kind, KindMeta};
use crate::api::table::Column;

impl Kind for ReplicationController {
    const META: KindMeta = KindMeta {
        singular: "replicationcontroller",
        short_names: &["rc"],
        categories: &["all"],
        status: true,
        scale: true,
        generation: Generation::Spec,
        selectable: &["status.replicas"],
        ..DEFAULT_META
    };

    /// The selector and the object's own labels default to the template's labels.
    fn set_defaults(&mut self, _old: Option<&Self>) {
        let spec = self.spec.get_or_insert_default();
        spec.replicas.get_or_insert(1);
        let template = spec.template.get_or_insert_default();
        pod_template::set_defaults(template);
        let labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone());
        if let Some(labels) = labels.filter(|labels| !labels.is_empty()) {
            if spec.selector.as_ref().is_none_or(|selector| selector.is_empty()) {
                spec.selector = Some(labels.clone());
            }
            if self.metadata.labels.as_ref().is_none_or(|own| own.is_empty()) {
                self.metadata.labels = Some(labels);
            }
        }
        self.status.get_or_insert_default();
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let Some(spec) = &self.spec else { return errors.required(&path, "") };
        workload::validate_numbers(errors, &path, spec.replicas, spec.min_ready_seconds, None);
        let selector =
            LabelSelector { match_labels: spec.selector.clone(), match_expressions: None };
        if labels::is_empty_selector(&selector) {
            errors.required(&path.child("selector"), "");
        }
        labels::validate_labels(errors, &path.child("selector"), spec.selector.as_ref());
        let template = spec.template.clone().unwrap_or_default();
        let kind = "ReplicationController";
        let path = path.child("template");
        pod_template::validate_for_selector(errors, &path, &template, &selector, kind);
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
        let template = self.spec.as_ref().and_then(|spec| spec.template.as_ref());
        template.into_iter().flat_map(pod_template::warnings).collect()
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
        let selector = labels::format_labels(spec.selector.as_ref());
        workload::row(&self.metadata, own, spec.template.as_ref(), Some(selector), now)
    }

    fn field(&self, field: &str) -> String {
        match field {
            "status.replicas" => self.status.as_ref().map_or(0, |s| s.replicas).to_string(),
            _ => String::new(),
        }
    }
}
