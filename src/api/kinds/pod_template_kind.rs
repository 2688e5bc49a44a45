//! PodTemplate (v1): a template that stands for itself.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodTemplate;
use serde_json::Value;

use super::{labels, pod_fields, pod_template, pod_validation};
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Generation, Kind, KindMeta};
use crate::api::table::{self, Column};

impl Kind for PodTemplate {
    const META: KindMeta = KindMeta {
        singular: "podtemplate",
        generation: Generation::Spec,
        delete_returns_object: true,
        ..DEFAULT_META
    };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        pod_template::set_defaults(self.template.get_or_insert_default());
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("template");
        let template = self.template.clone().unwrap_or_default();
        let metadata = template.metadata.unwrap_or_default();
        labels::validate_labels(errors, &path.child("labels"), metadata.labels.as_ref());
        let spec_path = path.child("spec");
        let Some(spec) = &template.spec else { return errors.required(&spec_path, "") };
        pod_validation::validate(errors, &spec_path, spec);
        pod_fields::check(spec, &spec_path, errors, &mut Vec::new());
        pod_template::refuse_ephemeral_containers(errors, &spec_path, spec);
    }

    fn warnings(&self) -> Vec<String> {
        let path = Path::new("template");
        self.template.iter().flat_map(|one| pod_template::warnings_at(&path, one)).collect()
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Containers", "string", "Names of each container in the template."),
            Column::new("Images", "string", "Images of each container in the template."),
            Column::new("Pod Labels", "string", "The labels of pods of the template."),
        ];
        COLUMNS
    }

    fn row(&self, _now: Timestamp) -> Vec<Value> {
        let template = self.template.clone().unwrap_or_default();
        let (names, images) = pod_template::container_cells(&template);
        let labels = template.metadata.and_then(|meta| meta.labels);
        vec![
            table::name(&self.metadata),
            names.into(),
            images.into(),
            labels::format_labels(labels.as_ref()).into(),
        ]
    }
}
