//! PersistentVolume (core/v1).
//!
//! Upstream: pkg/apis/core/validation/validation.go, ValidatePersistentVolume.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeSpec};
use serde_json::{Map, Value};

use super::scheduling_validation::validate_node_selector;
use super::{checks, resources, storage, volume_validation};
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Kind, KindMeta};
use crate::api::table::{self, Column};

/// Fields of a spec that are no source of a volume.
const NO_SOURCES: &[&str] = &[
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
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
        if sources(&new) != sources(&old) {
            let detail = "spec.persistentvolumesource is immutable after creation";
            errors.forbidden(&path.child("persistentvolumesource"), detail);
        }
        checks::immutable(errors, &path.child("volumeMode"), &new.volume_mode, &old.volume_mode);
        if old.node_affinity.is_some() && new.node_affinity != old.node_affinity {
            let at = path.child("nodeAffinity");
            errors.invalid(&at, &new.node_affinity, "field is immutable");
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

/// Also for the volumes that VolumeAttachments have inline.
pub fn validate_spec(errors: &mut Errors, path: &Path, spec: &PersistentVolumeSpec) {
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    let at = path.child("accessModes");
    if modes.is_empty() {
        errors.required(&at, "");
    }
    storage::validate_access_modes(errors, &at, modes);
    let capacity = spec.capacity.clone().unwrap_or_default();
    let at = path.child("capacity");
    if capacity.is_empty() {
        errors.required(&at, "");
    } else if capacity.len() > 1 || !capacity.contains_key(storage::STORAGE) {
        errors.not_supported(&at, &capacity, &[storage::STORAGE]);
    }
    for (name, amount) in &capacity {
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
    validate_source(errors, path, spec);
    if let Some(class) = spec.storage_class_name.as_deref().filter(|class| !class.is_empty()) {
        checks::dns_subdomain(errors, &path.child("storageClassName"), class);
    }
    storage::validate_volume_mode(errors, &path.child("volumeMode"), spec.volume_mode.as_deref());
    let class = spec.volume_attributes_class_name.as_deref();
    storage::validate_attributes_class(errors, &path.child("volumeAttributesClassName"), class);
}

/// Exactly one source; of the common ones, what they cannot be without.
fn validate_source(errors: &mut Errors, path: &Path, spec: &PersistentVolumeSpec) {
    let named = sources(spec);
    if named.is_empty() {
        errors.required(path, "must specify a volume type");
    }
    for name in named.keys().skip(1) {
        errors.forbidden(&path.child(name), "may not specify more than 1 volume type");
    }
    if let Some(host) = &spec.host_path {
        let path = path.child("hostPath");
        volume_validation::required_path(errors, &path.child("path"), &host.path);
        let recycled = spec.persistent_volume_reclaim_policy.as_deref() == Some("Recycle");
        if recycled && host.path.trim_end_matches('/').is_empty() {
            let detail = "may not be 'recycle' for a hostPath mount of '/'";
            errors.forbidden(&path.child("persistentVolumeReclaimPolicy"), detail);
        }
    }
    if let Some(local) = &spec.local {
        let at = path.child("local");
        volume_validation::required_path(errors, &at.child("path"), &local.path);
        if spec.node_affinity.is_none() {
            let detail = "Local volume requires node affinity";
            errors.required(&path.child("nodeAffinity"), detail);
        }
    }
    if let Some(nfs) = &spec.nfs {
        let path = path.child("nfs");
        if nfs.server.is_empty() {
            errors.required(&path.child("server"), "");
        }
        if nfs.path.is_empty() {
            errors.required(&path.child("path"), "");
        } else if !nfs.path.starts_with('/') {
            errors.invalid(&path.child("path"), &nfs.path, "must be an absolute path");
        }
    }
    if let Some(csi) = &spec.csi {
        let path = path.child("csi");
        checks::driver_name(errors, &path.child("driver"), &csi.driver);
        if csi.volume_handle.is_empty() {
            errors.required(&path.child("volumeHandle"), "");
        }
    }
}

/// What the volume is made of, by field.
fn sources(spec: &PersistentVolumeSpec) -> Map<String, Value> {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(spec) else { return Map::new() };
    fields.retain(|name, _| !NO_SOURCES.contains(&name.as_str()));
    fields
}
