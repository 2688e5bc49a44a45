//! PersistentVolume (core/v1).
//!
//! Upstream: pkg/apis/core/validation/validation.go, ValidatePersistentVolume.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeSpec, VolumeNodeAffinity};
use serde_json::Value;

use super::scheduling_validation::validate_node_selector;
use super::{checks, persistent_volume_sources, resources, storage};
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Kind, KindMeta};
use crate::api::table::{self, Column};

/// Labels of nodes by their beta names, and what they are called now.
const BETA_LABELS: &[(&str, &str)] = &[
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
];

impl Kind for PersistentVolume {
    const META: KindMeta = KindMeta {
        singular: "persistentvolume",
        short_names: &["pv"],
        status: true,
        delete_returns_object: true,
        ..DEFAULT_META
    };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        let spec = self.spec.get_or_insert_default();
        checks::default_text(&mut spec.persistent_volume_reclaim_policy, "Retain");
        spec.volume_mode.get_or_insert_with(|| storage::FILESYSTEM.into());
        if let Some(host) = &mut spec.host_path {
            host.type_.get_or_insert_default();
        }
        resources::canonicalize(spec.capacity.as_mut());
        checks::default_text(&mut self.status.get_or_insert_default().phase, "Pending");
    }

    fn validate(&self, errors: &mut Errors) {
        validate_spec(errors, &Path::new("spec"), &self.spec.clone().unwrap_or_default());
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let new = self.spec.clone().unwrap_or_default();
        let old = old.spec.clone().unwrap_or_default();
        let path = Path::new("spec");
        let mut same = persistent_volume_sources::of(&new);
        let before = persistent_volume_sources::of(&old);
        // Who may expand the volume can be told later.
        let secret = "controllerExpandSecretRef";
        if let (Some(new), Some(old)) = (same.get_mut("csi"), before.get("csi"))
            && old.get(secret).is_none()
            && let Some(new) = new.as_object_mut()
        {
            new.remove(secret);
        }
        if same != before {
            let detail = "spec.persistentvolumesource is immutable after creation";
            errors.forbidden(&path.child("persistentvolumesource"), detail);
        }
        // Upstream leaves `spec` out of these two.
        let at = Path::new("volumeMode");
        checks::immutable(errors, &at, &new.volume_mode, &old.volume_mode);
        if old.node_affinity.is_some() && !same_but_for_beta(&new.node_affinity, &old.node_affinity)
        {
            let detail = "field is immutable, except for updating from beta label to GA";
            errors.invalid(&Path::new("nodeAffinity"), &new.node_affinity, detail);
        }
        if old.volume_attributes_class_name.is_some() && new.volume_attributes_class_name.is_none()
        {
            let at = path.child("volumeAttributesClassName");
            errors.forbidden(&at, "update from non-nil value to nil is forbidden");
        }
    }

    fn warnings(&self) -> Vec<String> {
        let spec = self.spec.clone().unwrap_or_default();
        let mut warnings = storage::mode_warnings(spec.volume_mode.as_deref());
        if spec.local.is_none() && spec.host_path.is_none() {
            warnings.push("nodes mount volumes of the types local and hostPath only".into());
        }
        if spec.mount_options.as_ref().is_some_and(|options| !options.is_empty()) {
            warnings.push("spec.mountOptions: a directory has no mount options".into());
        }
        warnings
    }

    /// Free volumes are found by their class, others by the claim that they are for.
    fn index(&self) -> Option<String> {
        let claim = self.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        Some(match claim {
            Some(claim) => of_claim(
                claim.namespace.as_deref().unwrap_or_default(),
                claim.name.as_deref().unwrap_or_default(),
            ),
            None => of_class(class(self)),
        })
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Capacity", "string", "How much the volume holds."),
            Column::new("Access Modes", "string", "How the volume can be mounted."),
            Column::new("Reclaim Policy", "string", "What becomes of it after its claim."),
            Column::new("Status", "string", "Whether it is available, or bound to a claim."),
            Column::new("Claim", "string", "The claim that it is bound to."),
            Column::new("StorageClass", "string", "StorageClass of the pv"),
            Column::new("VolumeAttributesClass", "string", "The class of its attributes."),
            Column::new("Reason", "string", "Why the volume is in a failed state."),
            table::AGE,
            Column::wide("VolumeMode", "string", "Whether it is a filesystem or a block device."),
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let status = self.status.clone().unwrap_or_default();
        let text = |text: Option<String>| text.unwrap_or_default();
        let claim = spec
            .claim_ref
            .as_ref()
            .map(|claim| format!("{}/{}", text(claim.namespace.clone()), text(claim.name.clone())));
        let phase = match self.metadata.deletion_timestamp {
            Some(_) => "Terminating".into(),
            None => text(status.phase),
        };
        let annotations = self.metadata.annotations.as_ref();
        let unset = |text: Option<String>| text.unwrap_or_else(|| "<unset>".into());
        vec![
            table::name(&self.metadata),
            storage::storage_cell(spec.capacity.as_ref()).into(),
            storage::access_modes_cell(spec.access_modes.as_ref()).into(),
            text(spec.persistent_volume_reclaim_policy).into(),
            phase.into(),
            claim.unwrap_or_default().into(),
            storage::class_of(annotations, spec.storage_class_name.as_deref()).into(),
            unset(spec.volume_attributes_class_name).into(),
            text(status.reason).into(),
            table::age(&self.metadata, now),
            unset(spec.volume_mode).into(),
        ]
    }
}

/// Under which free volumes of a class are indexed.
pub fn of_class(class: &str) -> String {
    format!("class/{class}")
}

/// Under which the volumes for a claim are indexed.
pub fn of_claim(namespace: &str, name: &str) -> String {
    format!("claim/{namespace}/{name}")
}

/// The class of a volume; `""` is none.
pub fn class(volume: &PersistentVolume) -> &str {
    let class = volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    storage::class_of(volume.metadata.annotations.as_ref(), class)
}

/// Whether the only change is that of labels from their beta names.
fn same_but_for_beta(new: &Option<VolumeNodeAffinity>, old: &Option<VolumeNodeAffinity>) -> bool {
    let (Some(new), Some(mut old)) = (new, old.clone()) else { return new == old };
    let expressions = |of: &VolumeNodeAffinity| {
        let terms = of.required.iter().flat_map(|selector| selector.node_selector_terms.clone());
        terms.map(|term| term.match_expressions.unwrap_or_default()).collect::<Vec<_>>()
    };
    let renamed = expressions(new);
    let terms = old.required.iter_mut().flat_map(|s| s.node_selector_terms.iter_mut());
    for (term, renamed) in terms.zip(&renamed) {
        for (one, new) in term.match_expressions.iter_mut().flatten().zip(renamed) {
            if BETA_LABELS.contains(&(&one.key, &new.key)) {
                one.key.clone_from(&new.key);
            }
        }
    }
    *new == old
}

fn validate_spec(errors: &mut Errors, path: &Path, spec: &PersistentVolumeSpec) {
    validate_modes(errors, path, spec);
    let capacity = spec.capacity.clone().unwrap_or_default();
    let at = path.child("capacity");
    if capacity.is_empty() {
        errors.required(&at, "");
    }
    if capacity.len() != 1 || !capacity.contains_key(storage::STORAGE) {
        errors.not_supported(&at, &capacity, &[storage::STORAGE]);
    }
    for (name, amount) in &capacity {
        resources::validate_whole_amount(errors, &at.key(name), amount);
        checks::positive(errors, &at.key(name), amount);
    }
    let policy = spec.persistent_volume_reclaim_policy.as_deref().unwrap_or_default();
    if !policy.is_empty() && !storage::RECLAIM_POLICIES.contains(&policy) {
        let at = path.child("persistentVolumeReclaimPolicy");
        errors.not_supported(&at, policy, storage::RECLAIM_POLICIES);
    }
    if let Some(affinity) = &spec.node_affinity {
        let at = path.child("nodeAffinity");
        match &affinity.required {
            Some(selector) => validate_node_selector(errors, &at.child("required"), selector),
            None => {
                errors.required(&at.child("required"), "must specify required node constraints")
            }
        }
    }
    persistent_volume_sources::validate(errors, path, spec);
    if let Some(class) = spec.storage_class_name.as_deref().filter(|class| !class.is_empty()) {
        checks::dns_subdomain(errors, &path.child("storageClassName"), class);
    }
    storage::validate_volume_mode(errors, &path.child("volumeMode"), spec.volume_mode.as_deref());
    validate_attributes_class(errors, path, spec);
}

fn validate_modes(errors: &mut Errors, path: &Path, spec: &PersistentVolumeSpec) {
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    let at = path.child("accessModes");
    if modes.is_empty() {
        errors.required(&at, "");
    }
    storage::validate_access_modes(errors, &at, modes);
}

fn validate_attributes_class(errors: &mut Errors, path: &Path, spec: &PersistentVolumeSpec) {
    let Some(class) = spec.volume_attributes_class_name.as_deref() else { return };
    let at = path.child("volumeAttributesClassName");
    if class.is_empty() {
        errors.required(&at, "an empty string is disallowed");
    }
    storage::validate_attributes_class(errors, &at, Some(class));
    if spec.csi.is_none() {
        let detail = "has to be specified when using volumeAttributesClassName";
        errors.required(&path.child("csi"), detail);
    }
}

/// The volumes that VolumeAttachments have inline: what says where a volume is, and nothing more.
pub fn validate_inline(errors: &mut Errors, path: &Path, spec: &PersistentVolumeSpec) {
    let set = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let refused = [
        ("claimRef", spec.claim_ref.is_some()),
        ("capacity", spec.capacity.as_ref().is_some_and(|capacity| !capacity.is_empty())),
        ("nodeAffinity", spec.node_affinity.is_some()),
        ("storageClassName", set(&spec.storage_class_name)),
    ];
    for (field, _) in refused.into_iter().filter(|(_, set)| *set) {
        let detail = "may not be specified in the context of inline volumes";
        errors.forbidden(&path.child(field), detail);
    }
    if spec.csi.is_none() {
        let detail = "has to be specified in the context of inline volumes";
        errors.required(&path.child("csi"), detail);
    }
    validate_modes(errors, path, spec);
    let policy = spec.persistent_volume_reclaim_policy.as_deref().unwrap_or_default();
    if !matches!(policy, "" | "Retain") {
        let detail = "may only be Retain in the context of inline volumes";
        errors.forbidden(&path.child("persistentVolumeReclaimPolicy"), detail);
    }
    persistent_volume_sources::validate(errors, path, spec);
    if spec.volume_mode.as_deref().is_some_and(|mode| mode != storage::FILESYSTEM) {
        let detail =
            "may not specify volumeMode other than Filesystem in the context of inline volumes";
        errors.forbidden(&path.child("volumeMode"), detail);
    }
    validate_attributes_class(errors, path, spec);
}
