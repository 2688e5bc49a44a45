//! Pod templates of workloads: defaults, validation, and the cells that tables show of them.

use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::labels::{self, Map};
use super::{pod_defaults, pod_fields, pod_grants, pod_validation, pod_warnings};
use crate::api::field::{Errors, Path};
use crate::api::selector::Selector;

pub fn set_defaults(template: &mut PodTemplateSpec) {
    pod_defaults::set_spec(template.spec.get_or_insert_default());
}

/// The template of a workload whose pods run for ever. `kind` is named in one text.
pub fn validate_for_selector(
    errors: &mut Errors,
    path: &Path,
    template: &PodTemplateSpec,
    selector: &LabelSelector,
    kind: &str,
) {
    let metadata = template.metadata.clone().unwrap_or_default();
    // An absent selector matches nothing, so both errors are shown for it, as upstream does.
    let typed = (!labels::is_empty_selector(selector)).then_some(selector);
    let no_labels = Map::new();
    let template_labels = metadata.labels.as_ref().unwrap_or(&no_labels);
    if !Selector::from_typed(typed).is_ok_and(|s| s.matches(template_labels)) {
        let path = path.child("metadata");
        let detail = "`selector` does not match template `labels`";
        errors.invalid(&path.child("labels"), &metadata.labels, detail);
    }
    // Upstream leaves `metadata` out of these two paths.
    labels::validate_labels(errors, &path.child("labels"), metadata.labels.as_ref());
    let annotations = path.child("annotations");
    labels::validate_annotations(errors, &annotations, metadata.annotations.as_ref());
    let path = path.child("spec");
    let Some(spec) = &template.spec else { return errors.required(&path, "") };
    pod_validation::validate(errors, &path, spec);
    pod_fields::check(spec, &path, errors, &mut Vec::new());
    refuse_ephemeral_containers(errors, &path, spec);
    let policy = spec.restart_policy.as_deref().unwrap_or_default();
    if policy != "Always" {
        errors.not_supported(&path.child("restartPolicy"), policy, &["Always"]);
    }
    if spec.active_deadline_seconds.is_some() {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.forbidden(&path.child("activeDeadlineSeconds"), &detail);
    }
}

/// Such containers are added to pods that run (ValidatePodTemplateSpec).
pub fn refuse_ephemeral_containers(errors: &mut Errors, path: &Path, spec: &PodSpec) {
    if spec.ephemeral_containers.iter().flatten().next().is_some() {
        let detail = "ephemeral containers not allowed in pod template";
        errors.forbidden(&path.child("ephemeralContainers"), detail);
    }
}

/// What of the template of a workload has no effect, or is refused of its pods.
pub fn warnings(template: &PodTemplateSpec) -> Vec<String> {
    warnings_at(&Path::new("spec").child("template"), template)
}

/// The same of a template that stands elsewhere.
pub fn warnings_at(path: &Path, template: &PodTemplateSpec) -> Vec<String> {
    let spec = template.spec.as_ref();
    let mut warnings =
        spec.map(|s| pod_warnings::warnings(s, &path.child("spec"))).unwrap_or_default();
    let annotations = template.metadata.as_ref().and_then(|meta| meta.annotations.as_ref());
    let at = path.child("metadata");
    pod_grants::warnings(&mut warnings, &at.child("annotations"), annotations);
    warnings
}

/// The names and the images of the containers, each joined by commas.
pub fn container_cells(template: &PodTemplateSpec) -> (String, String) {
    let containers = template.spec.as_ref().map(|s| &s.containers[..]).unwrap_or_default();
    let names: Vec<&str> = containers.iter().map(|c| c.name.as_str()).collect();
    let images: Vec<&str> =
        containers.iter().map(|c| c.image.as_deref().unwrap_or_default()).collect();
    (names.join(","), images.join(","))
}
