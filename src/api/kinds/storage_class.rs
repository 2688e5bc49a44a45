//! StorageClass (storage.k8s.io/v1).

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::TopologySelectorTerm;
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::Value;

use super::{checks, labels, storage};
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Kind, KindMeta};
use crate::api::table::{self, Column};

/// Marks the class of claims that name none.
pub const DEFAULT_ANNOTATION: &str = "storageclass.kubernetes.io/is-default-class";
const POLICIES: &[&str] = &["Delete", "Retain"];
const BINDING_MODES: &[&str] = &["Immediate", "WaitForFirstConsumer"];

/// What that annotation was called before.
pub const OLD_DEFAULT_ANNOTATION: &str = "storageclass.beta.kubernetes.io/is-default-class";

/// Whether a class is marked as that of claims which name none.
pub fn is_default(class: &StorageClass) -> bool {
    let annotations = class.metadata.annotations.as_ref();
    [DEFAULT_ANNOTATION, OLD_DEFAULT_ANNOTATION]
        .iter()
        .any(|annotation| storage::is_default(annotations, annotation))
}

impl Kind for StorageClass {
    const META: KindMeta = KindMeta {
        singular: "storageclass",
        short_names: &["sc"],
        delete_returns_object: true,
        ..DEFAULT_META
    };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        self.reclaim_policy.get_or_insert_with(|| POLICIES[0].into());
        self.volume_binding_mode.get_or_insert_with(|| BINDING_MODES[0].into());
    }

    fn validate(&self, errors: &mut Errors) {
        storage::validate_provisioner(errors, &Path::new("provisioner"), &self.provisioner);
        storage::validate_parameters(errors, &Path::new("parameters"), self.parameters.as_ref());
        let policy = self.reclaim_policy.as_deref().unwrap_or_default();
        if !policy.is_empty() && !POLICIES.contains(&policy) {
            errors.not_supported(&Path::new("reclaimPolicy"), policy, POLICIES);
        }
        let mode = self.volume_binding_mode.as_deref().unwrap_or_default();
        checks::one_of(errors, &Path::new("volumeBindingMode"), mode, BINDING_MODES);
        let path = Path::new("allowedTopologies");
        // An empty term is as good as none, and so is there already.
        let mut seen = BTreeSet::from([Topology::new()]);
        for (i, term) in self.allowed_topologies.iter().flatten().enumerate() {
            let path = path.index(i);
            let topology = validate_topology(errors, &path, term);
            if !seen.insert(topology) {
                errors.duplicate(&path.child("matchLabelExpressions"), "");
            }
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let changes = [
            ("parameters", self.parameters != old.parameters),
            ("provisioner", self.provisioner != old.provisioner),
            ("reclaimPolicy", self.reclaim_policy != old.reclaim_policy),
        ];
        for (field, _) in changes.into_iter().filter(|(_, changed)| *changed) {
            errors.forbidden(&Path::new(field), &format!("updates to {field} are forbidden."));
        }
        let path = Path::new("volumeBindingMode");
        checks::immutable(errors, &path, &self.volume_binding_mode, &old.volume_binding_mode);
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.provisioner != storage::LOCAL_PROVISIONER {
            return warnings;
        }
        if self.mount_options.as_ref().is_some_and(|options| !options.is_empty()) {
            warnings.push("mountOptions: a directory has no mount options".into());
        }
        if self.parameters.as_ref().is_some_and(|parameters| !parameters.is_empty()) {
            warnings.push(format!("parameters: {} has none", storage::LOCAL_PROVISIONER));
        }
        warnings
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Provisioner", "string", "Who makes volumes of the class."),
            Column::new("ReclaimPolicy", "string", "What becomes of its volumes."),
            Column::new("VolumeBindingMode", "string", "When claims are bound."),
            Column::new("AllowVolumeExpansion", "string", "Whether volumes may grow."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let mut name = self.metadata.name.clone().unwrap_or_default();
        if is_default(self) {
            name.push_str(" (default)");
        }
        vec![
            name.into(),
            self.provisioner.clone().into(),
            self.reclaim_policy.clone().unwrap_or_default().into(),
            self.volume_binding_mode.clone().unwrap_or_default().into(),
            self.allow_volume_expansion.unwrap_or_default().into(),
            table::age(&self.metadata, now),
        ]
    }
}

/// The values that a term allows of each label.
type Topology<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

/// Each label once, with values that are each there once (ValidateTopologySelectorTerm).
fn validate_topology<'a>(
    errors: &mut Errors,
    path: &Path,
    term: &'a TopologySelectorTerm,
) -> Topology<'a> {
    let path = path.child("matchLabelExpressions");
    let mut topology = Topology::new();
    for (i, one) in term.match_label_expressions.iter().flatten().enumerate() {
        let path = path.index(i);
        let at = path.child("values");
        if one.values.is_empty() {
            errors.required(&at, "");
        }
        let mut values = BTreeSet::new();
        for (i, value) in one.values.iter().enumerate() {
            if !values.insert(value.as_str()) {
                errors.duplicate(&at.index(i), value);
            }
        }
        labels::validate_label_key(errors, &path.child("key"), &one.key);
        if topology.insert(&one.key, values).is_some() {
            errors.duplicate(&path.child("key"), &one.key);
        }
    }
    topology
}
