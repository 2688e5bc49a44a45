//! PersistentVolumeClaim (core/v1).
//!
//! Upstream: pkg/apis/core/validation/validation.go, ValidatePersistentVolumeClaim.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, TypedLocalObjectReference,
    TypedObjectReference,
};
use serde_json::Value;

use super::{checks, labels, resources, storage};
use crate::api::field::{Errors, Path};
use crate::api::names;
use crate::api::quantity::Quantity;
use crate::api::resource::{DEFAULT_META, Kind, KindMeta};
use crate::api::table::{self, Column};

const CLAIM: &str = "PersistentVolumeClaim";
/// How far a claim's growth is.
const RESIZES: &[&str] = &[
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];

impl Kind for PersistentVolumeClaim {
    const META: KindMeta = KindMeta {
        singular: "persistentvolumeclaim",
        short_names: &["pvc"],
        status: true,
        delete_returns_object: true,
        ..DEFAULT_META
    };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        set_spec(self.spec.get_or_insert_default());
        checks::default_text(&mut self.status.get_or_insert_default().phase, "Pending");
    }

    fn validate(&self, errors: &mut Errors) {
        validate_spec(errors, &Path::new("spec"), &self.spec.clone().unwrap_or_default());
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let path = Path::new("spec");
        let new = self.spec.clone().unwrap_or_default();
        let old_spec = old.spec.clone().unwrap_or_default();
        let (same, before) = but_for_what_may_change(self, old, errors);
        if same != before {
            let detail = "spec is immutable after creation except resources.requests and \
                          volumeAttributesClassName for bound claims";
            errors.forbidden(&path, detail);
        }
        // A claim that cannot grow so much may ask for less again, but for more than it has.
        let held = amount(old.status.as_ref().and_then(|status| status.capacity.as_ref()));
        if requested(&new) < requested(&old_spec) && requested(&new) <= held {
            let path = path.child("resources");
            let path = path.child("requests");
            let detail = "field can not be less than status.capacity";
            errors.forbidden(&path.child(storage::STORAGE), detail);
        }
        // Upstream leaves `spec` out of this one.
        let at = Path::new("volumeMode");
        checks::immutable(errors, &at, &new.volume_mode, &old_spec.volume_mode);
        let to = match new.volume_attributes_class_name.as_deref() {
            None => "nil",
            Some("") => "an empty string",
            Some(_) => return,
        };
        let class = old_spec.volume_attributes_class_name;
        if class.is_some() && class != new.volume_attributes_class_name {
            let detail = format!("update from non-nil value to {to} is forbidden");
            errors.forbidden(&path.child("volumeAttributesClassName"), &detail);
        }
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        let Some(status) = &self.status else { return };
        let path = Path::new("status");
        let at = path.child("capacity");
        for (name, amount) in status.capacity.iter().flatten() {
            resources::validate_whole_amount(errors, &at.key(name), amount);
        }
        let at = path.child("allocatedResourceStatus");
        for (name, resize) in status.allocated_resource_statuses.iter().flatten() {
            validate_resource_key(errors, &at, name);
            if !RESIZES.contains(&resize.as_str()) {
                errors.not_supported(&at, name, RESIZES);
            }
        }
        let at = path.child("allocatedResources");
        for (name, amount) in status.allocated_resources.iter().flatten() {
            if validate_resource_key(errors, &at, name) {
                storage::validate_optional_amount(errors, &at.key(name), Some(amount));
            }
        }
    }

    fn warnings(&self) -> Vec<String> {
        let mode = self.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref());
        storage::mode_warnings(mode)
    }

    /// Claims that name their volume are found by it, others by their class.
    fn index(&self) -> Option<String> {
        let spec = self.spec.as_ref();
        let volume = spec.and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
        if !volume.is_empty() {
            return Some(of_volume(volume));
        }
        let class = spec.and_then(|spec| spec.storage_class_name.as_deref());
        Some(of_class(storage::class_of(self.metadata.annotations.as_ref(), class)))
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Status", "string", "Whether the claim is bound to a volume."),
            Column::new("Volume", "string", "The volume that it is bound to."),
            Column::new("Capacity", "string", "How much that volume holds."),
            Column::new("Access Modes", "string", "How that volume can be mounted."),
            Column::new("StorageClass", "string", "StorageClass of the pvc"),
            Column::new("VolumeAttributesClass", "string", "The class of its attributes."),
            table::AGE,
            Column::wide("VolumeMode", "string", "Whether it is a filesystem or a block device."),
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let status = self.status.clone().unwrap_or_default();
        let phase = match self.metadata.deletion_timestamp {
            Some(_) => "Terminating".into(),
            None => status.phase.unwrap_or_default(),
        };
        let volume = spec.volume_name.unwrap_or_default();
        let (capacity, modes) = match volume.is_empty() {
            true => Default::default(),
            false => (
                storage::storage_cell(status.capacity.as_ref()),
                storage::access_modes_cell(status.access_modes.as_ref()),
            ),
        };
        let annotations = self.metadata.annotations.as_ref();
        let unset = |text: Option<String>| text.unwrap_or_else(|| "<unset>".into());
        vec![
            table::name(&self.metadata),
            phase.into(),
            volume.into(),
            capacity.into(),
            modes.into(),
            storage::class_of(annotations, spec.storage_class_name.as_deref()).into(),
            unset(spec.volume_attributes_class_name).into(),
            table::age(&self.metadata, now),
            unset(spec.volume_mode).into(),
        ]
    }
}

/// Under which claims that wait for a volume of a class are indexed.
pub fn of_class(class: &str) -> String {
    format!("class/{class}")
}

/// Under which claims for a volume are indexed.
pub fn of_volume(name: &str) -> String {
    format!("volume/{name}")
}

/// Also of the templates of claims.
pub fn set_spec(spec: &mut PersistentVolumeClaimSpec) {
    spec.volume_mode.get_or_insert_with(|| storage::FILESYSTEM.into());
    let resources = spec.resources.get_or_insert_default();
    resources::canonicalize(resources.requests.as_mut());
    resources::canonicalize(resources.limits.as_mut());
    // Both name the source (core/persistentvolumeclaim's NormalizeDataSources).
    match (&spec.data_source, &spec.data_source_ref) {
        (Some(TypedLocalObjectReference { api_group, kind, name }), None) => {
            spec.data_source_ref = Some(TypedObjectReference {
                api_group: api_group.clone(),
                kind: kind.clone(),
                name: name.clone(),
                namespace: None,
            });
        }
        (None, Some(TypedObjectReference { api_group, kind, name, namespace }))
            if namespace.as_deref().unwrap_or_default().is_empty() =>
        {
            spec.data_source = Some(TypedLocalObjectReference {
                api_group: api_group.clone(),
                kind: kind.clone(),
                name: name.clone(),
            });
        }
        _ => {}
    }
}

/// Also of the templates of claims.
pub fn validate_spec(errors: &mut Errors, path: &Path, spec: &PersistentVolumeClaimSpec) {
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    let at = path.child("accessModes");
    if modes.is_empty() {
        errors.required(&at, "at least 1 access mode is required");
    }
    if let Some(selector) = &spec.selector {
        labels::validate_selector(errors, &path.child("selector"), selector);
    }
    storage::validate_access_modes(errors, &at, modes);
    let requests = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let at = path.child("resources");
    // Upstream leaves `requests` out of the path.
    storage::validate_storage(errors, &at, requests);
    if let Some(class) = spec.storage_class_name.as_deref().filter(|class| !class.is_empty()) {
        checks::dns_subdomain(errors, &path.child("storageClassName"), class);
    }
    storage::validate_volume_mode(errors, &path.child("volumeMode"), spec.volume_mode.as_deref());
    let class = spec.volume_attributes_class_name.as_deref();
    storage::validate_attributes_class(errors, &path.child("volumeAttributesClassName"), class);
    if let Some(source) = &spec.data_source {
        let group = source.api_group.as_deref();
        validate_data_source(errors, &path.child("dataSource"), group, &source.kind, &source.name);
    }
    if let Some(source) = &spec.data_source_ref {
        let path = path.child("dataSourceRef");
        let group = source.api_group.as_deref();
        validate_data_source(errors, &path, group, &source.kind, &source.name);
        if let Some(namespace) = source.namespace.as_deref().filter(|name| !name.is_empty()) {
            checks::dns_label(errors, &path.child("namespace"), namespace);
        }
    }
    if let (Some(source), Some(reference)) = (&spec.data_source, &spec.data_source_ref) {
        let named = reference.namespace.as_deref().is_some_and(|name| !name.is_empty());
        let same = (&source.api_group, &source.kind, &source.name)
            == (&reference.api_group, &reference.kind, &reference.name);
        let detail = match (named, same) {
            (true, _) => "may not be specified when dataSourceRef.namespace is specified",
            (false, false) => "must match dataSourceRef",
            (false, true) => return,
        };
        errors.invalid(path, serde_json::json!({}), detail);
    }
}

/// Both specs, made the same where the new one may be another.
fn but_for_what_may_change(
    new: &PersistentVolumeClaim,
    old: &PersistentVolumeClaim,
    errors: &mut Errors,
) -> (PersistentVolumeClaimSpec, PersistentVolumeClaimSpec) {
    let annotation = |claim: &PersistentVolumeClaim| {
        let annotations = claim.metadata.annotations.as_ref();
        annotations.and_then(|all| all.get(storage::CLASS_ANNOTATION)).cloned()
    };
    let (new_class, old_class) = (annotation(new), annotation(old));
    let (mut same, mut before) =
        (new.spec.clone().unwrap_or_default(), old.spec.clone().unwrap_or_default());
    if before.volume_name.as_deref().unwrap_or_default().is_empty() {
        before.volume_name.clone_from(&same.volume_name);
    }
    // A class may take the annotation's place; whoever names none gets one later.
    let fits = |class: &Option<String>| class.is_none() || *class == same.storage_class_name;
    let first = before.storage_class_name.is_none() && same.storage_class_name.is_some();
    let replaces = first && old_class.is_some() && fits(&old_class) && fits(&new_class);
    if !replaces && new_class != old_class {
        let metadata = Path::new("metadata");
        let at = metadata.child("annotations");
        let value = new_class.unwrap_or_default();
        errors.invalid(&at.child(storage::CLASS_ANNOTATION), value, "field is immutable");
    }
    if first && fits(&old_class) {
        same.storage_class_name = None;
    }
    let bound = new.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    if bound {
        let amount = |of: &PersistentVolumeClaimSpec| {
            let requests = of.resources.as_ref()?.requests.as_ref()?;
            requests.get(storage::STORAGE).cloned()
        };
        let requests = same.resources.as_mut().and_then(|resources| resources.requests.as_mut());
        if let (Some(requests), Some(amount)) = (requests, amount(&before)) {
            requests.insert(storage::STORAGE.into(), amount);
        }
        if same.volume_attributes_class_name.is_some() {
            same.volume_attributes_class_name.clone_from(&before.volume_attributes_class_name);
        }
    }
    (same, before)
}

/// True for a name that a claim's status may tell of: that of storage, or somebody's own.
fn validate_resource_key(errors: &mut Errors, path: &Path, name: &str) -> bool {
    let wrong = names::is_qualified_name(name);
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    let known = wrong.is_empty() && (!native || name == storage::STORAGE);
    if wrong.is_empty() && !known {
        errors.not_supported(path, name, &[storage::STORAGE]);
    }
    names::report(errors, path, name, wrong);
    known
}

fn validate_data_source(
    errors: &mut Errors,
    path: &Path,
    group: Option<&str>,
    kind: &str,
    name: &str,
) {
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    }
    if kind.is_empty() {
        errors.required(&path.child("kind"), "");
    }
    let group = group.unwrap_or_default();
    if group.is_empty() && kind != CLAIM {
        let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errors.invalid(path, kind, detail);
    }
    if !group.is_empty() {
        checks::dns_subdomain(errors, &path.child("apiGroup"), group);
    }
}

fn requested(spec: &PersistentVolumeClaimSpec) -> Quantity {
    amount(spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
}

/// The amount of storage among others; nothing where there is none.
fn amount(amounts: Option<&resources::Amounts>) -> Quantity {
    let amount = amounts.and_then(|amounts| amounts.get(storage::STORAGE));
    amount.and_then(|amount| Quantity::parse(&amount.0).ok()).unwrap_or(Quantity::ZERO)
}
