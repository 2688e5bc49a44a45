//! RuntimeClass (node.k8s.io/v1).

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::api::node::v1::RuntimeClass;
use serde_json::Value;

use super::{checks, labels, resources, scheduling_validation};
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Kind, KindMeta};
use crate::api::table::{self, Column};

impl Kind for RuntimeClass {
    const META: KindMeta = KindMeta { singular: "runtimeclass", ..DEFAULT_META };

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("handler");
        checks::dns_label(errors, &path, &self.handler);
        // Upstream takes the amounts for limits, also in what it says.
        let limits = self.overhead.as_ref().and_then(|overhead| overhead.pod_fixed.clone());
        let limits = ResourceRequirements { limits, ..ResourceRequirements::default() };
        resources::validate_requirements(errors, &Path::new("overhead"), &limits);
        if let Some(scheduling) = &self.scheduling {
            let path = Path::new("scheduling");
            let path = path.child("nodeSelector");
            labels::validate_labels(errors, &path, scheduling.node_selector.as_ref());
            let path = Path::new("scheduling");
            let path = path.child("tolerations");
            let tolerations = scheduling.tolerations.as_deref().unwrap_or_default();
            scheduling_validation::validate_tolerations(errors, &path, tolerations);
            for (i, one) in tolerations.iter().enumerate() {
                if tolerations[..i].contains(one) {
                    errors.duplicate(&path.index(i), one);
                }
            }
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        checks::immutable(errors, &Path::new("handler"), &self.handler, &old.handler);
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Handler", "string", "The runtime that pods of the class run in."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        vec![
            table::name(&self.metadata),
            self.handler.clone().into(),
            table::age(&self.metadata, now),
        ]
    }
}
