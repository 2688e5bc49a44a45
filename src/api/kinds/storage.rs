//! What the kinds of storage share: access modes, amounts of storage, parameters of classes.
//!
//! Upstream: pkg/apis/core/validation/validation.go, pkg/apis/storage/validation/validation.go.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;

use super::checks;
use super::resources::Amounts;
use crate::api::field::{Errors, Path};

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

/// What is told of each claim and volume.
pub const NOT_MOUNTED: &str = "claims and volumes are bound to each other, but pods cannot mount \
                               them yet";

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
