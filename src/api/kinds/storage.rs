//! What the kinds of storage share: access modes, amounts of storage, parameters of classes.
//!
//! Upstream: pkg/apis/core/validation/validation.go, pkg/apis/storage/validation/validation.go.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimTemplate, Pod,
    TopologySelectorTerm, Volume,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;

use super::resources::{self, Amounts};
use super::{checks, persistent_volume};
use crate::api::field::{Errors, Path};
use crate::api::quantity::Quantity;

pub const STORAGE: &str = "storage";
pub const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];
pub const FILESYSTEM: &str = "Filesystem";
pub const RECLAIM_POLICIES: &[&str] = &["Delete", "Recycle", "Retain"];
/// Modes and their short forms, in the order of tables.
const ACCESS_MODES: &[(&str, &str)] = &[
    ("ReadWriteOnce", "RWO"),
    ("ReadOnlyMany", "ROX"),
    ("ReadWriteMany", "RWX"),
    ("ReadWriteOncePod", ALONE),
];
const ALONE: &str = "RWOP";
/// Most parameters of a class, and most bytes of them.
const MAX_PARAMETERS: usize = 512;
const PARAMETERS_MAX_BYTES: usize = 256 * 1024;

/// What is told of each claim and volume that is a device.
pub const NO_BLOCKS: &str = "pods cannot use block devices: this is bound, and never mounted";

/// The provisioner of this program: volumes are directories of the nodes that use them.
pub const LOCAL_PROVISIONER: &str = "wasmfleet.dev/local";
/// The class that every cluster begins with.
pub const LOCAL_CLASS: &str = "local";
/// Where a node keeps the volumes that are made on it, told by its agent on its Node.
pub const VOLUMES_DIR: &str = "wasmfleet.dev/volumes-dir";
/// The label by which volumes are tied to a node.
pub const HOSTNAME: &str = "kubernetes.io/hostname";
/// The volume was made by a provisioner.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// The binding is ours, and not what a user wrote.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// The claim's half of the binding is complete.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The node of the first Pod that wants the claim, told by the scheduler.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Who is to make a volume for the claim.
pub const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// Keeps a volume until what it is made of was deleted (sig-storage-lib-external-provisioner).
pub const PROVISIONER_FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";
/// What makes no volumes, by its own word.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// The binding mode in which the first Pod's node decides.
pub const WAIT_FOR_FIRST_CONSUMER: &str = "WaitForFirstConsumer";
/// The access mode of one Pod alone.
pub const READ_WRITE_ONCE_POD: &str = "ReadWriteOncePod";

/// The class of a claim or volume before there was a field for it.
pub const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// Keeps a claim while a Pod uses it, and a volume while it is bound.
pub const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
pub const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";

/// Known modes, and the one that stands alone.
pub fn validate_access_modes(errors: &mut Errors, path: &Path, modes: &[String]) {
    let short = |mode: &String| ACCESS_MODES.iter().find(|(name, _)| name == mode).map(|m| m.1);
    for mode in modes.iter().filter(|mode| short(mode).is_none()) {
        let mut supported: Vec<&str> = ACCESS_MODES.iter().map(|(name, _)| *name).collect();
        supported.sort_unstable();
        errors.not_supported(path, mode, &supported);
    }
    let alone = |mode: &String| short(mode) == Some(ALONE);
    let shared = |mode: &String| short(mode).is_some_and(|short| short != ALONE);
    if modes.iter().any(alone) && modes.iter().any(shared) {
        errors.forbidden(path, "may not use ReadWriteOncePod with other access modes");
    }
}

/// `RWO,RWX`.
pub fn access_modes_cell(modes: Option<&Vec<String>>) -> String {
    let has = |name: &str| modes.into_iter().flatten().any(|mode| mode == name);
    let shown: Vec<&str> =
        ACCESS_MODES.iter().filter(|(name, _)| has(name)).map(|(_, short)| *short).collect();
    shown.join(",")
}

/// The amount of storage among others, which must be more than nothing.
pub fn validate_storage(errors: &mut Errors, path: &Path, amounts: Option<&Amounts>) {
    let path = path.key(STORAGE);
    match amounts.and_then(|amounts| amounts.get(STORAGE)) {
        None => errors.required(&path, ""),
        Some(amount) => checks::positive(errors, &path, amount),
    }
}

/// `8Gi`, or nothing.
pub fn storage_cell(amounts: Option<&Amounts>) -> String {
    let amount = amounts.and_then(|amounts| amounts.get(STORAGE));
    amount.map(|amount| amount.0.clone()).unwrap_or_default()
}

/// The class of a claim or volume; `""` is none.
pub fn class_of<'a>(
    annotations: Option<&'a BTreeMap<String, String>>,
    class: Option<&'a str>,
) -> &'a str {
    let annotation = annotations.and_then(|all| all.get(CLASS_ANNOTATION));
    annotation.map(String::as_str).or(class).unwrap_or_default()
}

/// The node of a volume that this program's provisioner made.
pub fn local_node(volume: &PersistentVolume) -> Option<&str> {
    let annotations = volume.metadata.annotations.as_ref()?;
    if annotations.get(PROVISIONED_BY).map(String::as_str) != Some(LOCAL_PROVISIONER) {
        return None;
    }
    let affinity = volume.spec.as_ref()?.node_affinity.as_ref()?.required.as_ref()?;
    let [term] = affinity.node_selector_terms.as_slice() else { return None };
    let [one] = term.match_expressions.as_deref()? else { return None };
    match one.values.as_deref() {
        Some([node]) if one.key == HOSTNAME && one.operator == "In" => Some(node),
        _ => None,
    }
}

/// What the provisioner of this program gives on no node.
pub fn local_refusal(claim: &PersistentVolumeClaim, class: &StorageClass) -> Option<&'static str> {
    let spec = claim.spec.as_ref()?;
    if spec.selector.is_some() {
        return Some("claim.Spec.Selector is not supported");
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Some("volumes are not filled from a data source");
    }
    if spec.volume_mode.as_deref().is_some_and(|mode| mode != FILESYSTEM) {
        return Some("block volume provisioning is not supported");
    }
    if class.mount_options.as_ref().is_some_and(|options| !options.is_empty()) {
        return Some("the class has mountOptions, and a directory has none");
    }
    if class.parameters.as_ref().is_some_and(|parameters| !parameters.is_empty()) {
        return Some("the class has parameters, and this provisioner knows none");
    }
    None
}

/// Why a volume cannot be the claim's (checkVolumeSatisfyClaim).
pub fn mismatch(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<&'static str> {
    let (Some(wanted), Some(had)) = (&claim.spec, &volume.spec) else { return Some("no spec") };
    let requests = wanted.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    if storage_in(requests) > volume_size(volume) {
        return Some("requested PV is too small");
    }
    let class = wanted.storage_class_name.as_deref();
    if class_of(claim.metadata.annotations.as_ref(), class) != persistent_volume::class(volume) {
        return Some("storageClassName does not match");
    }
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| FILESYSTEM.to_string());
    if mode(&wanted.volume_mode) != mode(&had.volume_mode) {
        return Some("incompatible volumeMode");
    }
    let offered = had.access_modes.as_deref().unwrap_or_default();
    let all = wanted.access_modes.iter().flatten().all(|mode| offered.contains(mode));
    (!all).then_some("incompatible accessMode")
}

/// What a volume holds.
pub fn volume_size(volume: &PersistentVolume) -> Quantity {
    storage_in(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()))
}

fn storage_in(amounts: Option<&Amounts>) -> Quantity {
    resources::sums(amounts).get(STORAGE).copied().unwrap_or(Quantity::ZERO)
}

/// Whether a node with these labels is within one of a class's terms.
pub fn topology_matches(terms: &[TopologySelectorTerm], labels: &BTreeMap<String, String>) -> bool {
    terms.iter().any(|term| {
        let mut all = term.match_label_expressions.iter().flatten();
        all.all(|one| labels.get(&one.key).is_some_and(|value| one.values.contains(value)))
    })
}

/// The name of the claim behind a Pod's volume, if there is one: named, or made for this Pod.
pub fn claim_name<'a>(pod: Option<&str>, volume: &'a Volume) -> Option<Cow<'a, str>> {
    if let Some(claim) = &volume.persistent_volume_claim {
        return Some(Cow::Borrowed(&claim.claim_name));
    }
    volume.ephemeral.as_ref()?;
    Some(Cow::Owned(format!("{}-{}", pod.unwrap_or_default(), volume.name)))
}

/// The names of the claims that a Pod mounts.
pub fn claims_of(pod: &Pod) -> impl Iterator<Item = Cow<'_, str>> {
    let name = pod.metadata.name.as_deref();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(move |volume| claim_name(name, volume))
}

/// What a template makes, without a name.
pub fn claim_of_template(template: &PersistentVolumeClaimTemplate) -> PersistentVolumeClaim {
    PersistentVolumeClaim {
        metadata: template.metadata.clone().unwrap_or_default(),
        spec: Some(template.spec.clone()),
        status: None,
    }
}

/// The class for attributes of volumes, if one is named.
pub fn validate_attributes_class(errors: &mut Errors, path: &Path, class: Option<&str>) {
    if let Some(class) = class.filter(|class| !class.is_empty()) {
        checks::dns_subdomain(errors, path, class);
    }
}

pub fn validate_volume_mode(errors: &mut Errors, path: &Path, mode: Option<&str>) {
    if let Some(mode) = mode
        && !VOLUME_MODES.contains(&mode)
    {
        errors.not_supported(path, mode, VOLUME_MODES);
    }
}

/// What is told of a claim or volume of a mode.
pub fn mode_warnings(mode: Option<&str>) -> Vec<String> {
    let is_block = mode == Some("Block");
    is_block.then(|| NO_BLOCKS.to_string()).into_iter().collect()
}

/// The parameters of a class: names, few and short.
pub fn validate_parameters(
    errors: &mut Errors,
    path: &Path,
    parameters: Option<&BTreeMap<String, String>>,
) {
    let Some(parameters) = parameters else { return };
    // Upstream says it as if they were bytes.
    if parameters.len() > MAX_PARAMETERS {
        return errors.too_long(path, MAX_PARAMETERS);
    }
    if parameters.contains_key("") {
        errors.invalid(path, "", "field can not be empty.");
    }
    let bytes: usize = parameters.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > PARAMETERS_MAX_BYTES {
        errors.too_long(path, PARAMETERS_MAX_BYTES);
    }
}

/// Required: who makes volumes, or changes their attributes.
pub fn validate_provisioner(errors: &mut Errors, path: &Path, provisioner: &str) {
    if provisioner.is_empty() {
        return errors.required(path, "");
    }
    let name = provisioner.to_lowercase();
    checks::qualified_name(errors, path, &name);
}

/// An amount that may be nothing.
pub fn validate_optional_amount(errors: &mut Errors, path: &Path, amount: Option<&Amount>) {
    if let Some(amount) = amount {
        super::resources::validate_amount(errors, path, STORAGE, amount);
    }
}

/// `true` for objects that are marked as the default of their kind.
pub fn is_default(annotations: Option<&BTreeMap<String, String>>, annotation: &str) -> bool {
    annotations.and_then(|all| all.get(annotation)).is_some_and(|value| value == "true")
}
