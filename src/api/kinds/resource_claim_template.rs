//! ResourceClaimTemplate (resource.k8s.io/v1).

use k8s_openapi::api::resource::v1::ResourceClaimTemplate;

use super::{checks, devices, labels, workload};
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Kind, KindMeta};

impl Kind for ResourceClaimTemplate {
    const META: KindMeta =
        KindMeta { singular: "resourceclaimtemplate", delete_returns_object: true, ..DEFAULT_META };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        devices::default_claim(&mut self.spec.spec);
    }

    fn validate_create(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        if let Some(meta) = &self.spec.metadata {
            let path = path.child("metadata");
            labels::validate_labels(errors, &path.child("labels"), meta.labels.as_ref());
            let annotations = path.child("annotations");
            labels::validate_annotations(errors, &annotations, meta.annotations.as_ref());
        }
        devices::validate_claim(errors, &path.child("spec"), &self.spec.spec);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        checks::immutable(errors, &Path::new("spec"), &self.spec, &old.spec);
    }

    fn warnings(&self) -> Vec<String> {
        vec![workload::stored_only("ResourceClaimTemplate")]
    }
}
