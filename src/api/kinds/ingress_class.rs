//! IngressClass (networking.k8s.io/v1).
//!
//! Upstream: pkg/apis/networking/validation/validation.go.

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IngressClass, IngressClassParametersReference};
use serde_json::Value;

use super::{checks, workload};
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Generation, Kind, KindMeta};
use crate::api::table::{self, Column};

const CLUSTER: &str = "Cluster";
const NAMESPACE: &str = "Namespace";
/// Longest name of a controller, in bytes.
const CONTROLLER_MAX_BYTES: usize = 250;

impl Kind for IngressClass {
    const META: KindMeta =
        KindMeta { singular: "ingressclass", generation: Generation::Spec, ..DEFAULT_META };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        let spec = self.spec.get_or_insert_default();
        if let Some(parameters) = &mut spec.parameters {
            parameters.scope.get_or_insert_with(|| CLUSTER.into());
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let spec = self.spec.clone().unwrap_or_default();
        let path = Path::new("spec");
        let at = path.child("controller");
        let controller = spec.controller.unwrap_or_default();
        if controller.len() > CONTROLLER_MAX_BYTES {
            errors.too_long(&at, CONTROLLER_MAX_BYTES);
        }
        checks::domain_prefixed_path(errors, &at, &controller);
        if let Some(parameters) = &spec.parameters {
            validate_parameters(errors, &path.child("parameters"), parameters);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let controller =
            |class: &Self| class.spec.as_ref().and_then(|spec| spec.controller.clone());
        let path = Path::new("spec");
        checks::immutable(errors, &path.child("controller"), &controller(self), &controller(old));
    }

    fn warnings(&self) -> Vec<String> {
        vec![workload::stored_only("IngressClass")]
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Controller", "string", "The controller that handles the class."),
            Column::new("Parameters", "string", "The object that configures the controller."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let parameters = spec.parameters.map(|parameters| {
            let group = parameters.api_group.filter(|group| !group.is_empty());
            let group = group.map(|group| format!(".{group}")).unwrap_or_default();
            format!("{}{group}/{}", parameters.kind, parameters.name)
        });
        vec![
            table::name(&self.metadata),
            spec.controller.unwrap_or_default().into(),
            checks::or_none(parameters.as_deref()).into(),
            table::age(&self.metadata, now),
        ]
    }
}

fn validate_parameters(
    errors: &mut Errors,
    path: &Path,
    parameters: &IngressClassParametersReference,
) {
    if let Some(group) = &parameters.api_group {
        checks::dns_subdomain(errors, &path.child("apiGroup"), group);
    }
    checks::path_segment(errors, &path.child("kind"), &parameters.kind);
    checks::path_segment(errors, &path.child("name"), &parameters.name);
    let namespace = path.child("namespace");
    match (parameters.scope.as_deref(), &parameters.namespace) {
        (None, _) => errors.required(&path.child("scope"), ""),
        (Some(NAMESPACE), None) => {
            errors.required(&namespace, "`parameters.scope` is set to 'Namespace'");
        }
        (Some(NAMESPACE), Some(name)) => checks::dns_label(errors, &namespace, name),
        (Some(CLUSTER), Some(_)) => {
            errors.forbidden(&namespace, "`parameters.scope` is set to 'Cluster'");
        }
        (Some(CLUSTER), None) => {}
        (Some(other), _) => {
            errors.not_supported(&path.child("scope"), other, &[CLUSTER, NAMESPACE]);
        }
    }
}
