//! Workload (scheduling.k8s.io/v1alpha1, KEP-4671): groups of pods that are scheduled together.
//!
//! Upstream: pkg/apis/scheduling/validation/validation.go.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::WorkloadReference;
use k8s_openapi::api::scheduling::v1alpha1::{PodGroup, Workload};

use super::checks;
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Generation, Kind, KindMeta};

const MOST_GROUPS: usize = 8;

impl Kind for Workload {
    const META: KindMeta =
        KindMeta { singular: "workload", generation: Generation::Spec, ..DEFAULT_META };

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        if let Some(reference) = &self.spec.controller_ref {
            let path = path.child("controllerRef");
            if let Some(group) = reference.api_group.as_deref().filter(|group| !group.is_empty()) {
                checks::dns_subdomain(errors, &path.child("apiGroup"), group);
            }
            for (field, value) in [("kind", &reference.kind), ("name", &reference.name)] {
                let path = path.child(field);
                match value.is_empty() {
                    true => errors.required(&path, ""),
                    false => checks::path_segment(errors, &path, value),
                }
            }
        }
        let path = path.child("podGroups");
        let groups = &self.spec.pod_groups;
        if groups.is_empty() {
            errors.required(&path, "must have at least one item");
        }
        if groups.len() > MOST_GROUPS {
            errors.too_many(&path, groups.len(), MOST_GROUPS);
        }
        let mut names = HashSet::new();
        for (i, group) in groups.iter().enumerate() {
            let path = path.index(i);
            validate_group(errors, &path, group);
            if !names.insert(&group.name) {
                errors.duplicate(&path.child("name"), &group.name);
            }
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let path = Path::new("spec");
        let (new, old) = (&self.spec, &old.spec);
        checks::immutable(errors, &path.child("podGroups"), &new.pod_groups, &old.pod_groups);
        if old.controller_ref.is_some() {
            let at = path.child("controllerRef");
            checks::immutable(errors, &at, &new.controller_ref, &old.controller_ref);
        }
    }
}

fn validate_group(errors: &mut Errors, path: &Path, group: &PodGroup) {
    match group.name.is_empty() {
        true => errors.required(&path.child("name"), ""),
        false => checks::dns_label(errors, &path.child("name"), &group.name),
    }
    let at = path.child("policy");
    match (&group.policy.basic, &group.policy.gang) {
        (None, None) => errors.required(&at, "must specify one of: `basic`, `gang`"),
        (Some(_), Some(_)) => {
            let detail = "must specify exactly one of: `basic`, `gang`";
            errors.invalid(&at, "{basic, gang}", detail);
        }
        (_, Some(gang)) if gang.min_count <= 0 => {
            let detail = "must be greater than zero";
            errors.invalid(&at.child("gang").child("minCount"), gang.min_count, detail);
        }
        _ => {}
    }
}

/// `spec.workloadRef` of a pod.
pub fn validate_reference(errors: &mut Errors, path: &Path, reference: &WorkloadReference) {
    match reference.name.is_empty() {
        true => errors.required(&path.child("name"), ""),
        false => checks::dns_subdomain(errors, &path.child("name"), &reference.name),
    }
    match reference.pod_group.is_empty() {
        true => errors.required(&path.child("podGroup"), ""),
        false => checks::dns_label(errors, &path.child("podGroup"), &reference.pod_group),
    }
    if let Some(key) = &reference.pod_group_replica_key {
        checks::dns_label(errors, &path.child("podGroupReplicaKey"), key);
    }
}
