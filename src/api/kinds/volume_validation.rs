//! Validation of a pod's volumes, of the kinds that Wasm pods can have.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, ProjectedVolumeSource, Volume,
    VolumeProjection,
};
use serde_json::Value;

use super::container_validation::{self, PULL_POLICIES};
use super::{checks, labels, persistent_volume_claim, resources};
use crate::api::field::{Errors, Path};

const FILE_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

/// What a hostPath may ask to be there (core/v1 HostPathType).
const HOST_PATH_TYPES: &[&str] = &[
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];

/// Those of them that are directories: a Wasm program is given nothing else.
const DIRECTORY_TYPES: &[&str] = &["", "Directory", "DirectoryOrCreate"];

/// How long the tokens of volumes may be valid, in seconds.
const MIN_TOKEN_SECONDS: i64 = 600;
const MAX_TOKEN_SECONDS: i64 = 1 << 32;

pub fn validate(errors: &mut Errors, path: &Path, volumes: &[Volume]) {
    let mut seen = BTreeSet::new();
    for (i, volume) in volumes.iter().enumerate() {
        let path = path.index(i);
        if volume.name.is_empty() {
            errors.required(&path.child("name"), "");
        } else {
            checks::dns_label(errors, &path.child("name"), &volume.name);
        }
        if !seen.insert(volume.name.as_str()) {
            errors.duplicate(&path.child("name"), &volume.name);
        }
        validate_volume(errors, &path, volume);
    }
}

/// A path inside a volume: relative, without `..`.
pub fn local_path(errors: &mut Errors, path: &Path, value: &str) {
    if value.starts_with('/') {
        errors.invalid(path, value, "must be a relative path");
    }
    if value.split('/').any(|part| part == "..") {
        errors.invalid(path, value, "must not contain '..'");
    }
}

/// A path on a node: required, without `..`.
pub fn required_path(errors: &mut Errors, path: &Path, value: &str) {
    if value.is_empty() {
        errors.required(path, "");
    }
    if value.split('/').any(|part| part == "..") {
        errors.invalid(path, value, "must not contain '..'");
    }
}

/// As [`local_path`], and not of a form that the node keeps for itself.
fn file_path(errors: &mut Errors, path: &Path, value: &str) {
    if value.is_empty() {
        return errors.required(path, "");
    }
    local_path(errors, path, value);
    if value.starts_with("..") && !value.split('/').any(|part| part == "..") {
        errors.invalid(path, value, "must not start with '..'");
    }
}

fn validate_volume(errors: &mut Errors, path: &Path, volume: &Volume) {
    if let Ok(Value::Object(fields)) = serde_json::to_value(volume) {
        let sources = fields.keys().filter(|name| *name != "name");
        for name in sources.skip(1) {
            errors.forbidden(&path.child(name), "may not specify more than 1 volume type");
        }
    }
    if let Some(source) = &volume.config_map {
        let path = path.child("configMap");
        if source.name.is_empty() {
            errors.required(&path.child("name"), "");
        }
        validate_mode(errors, &path.child("defaultMode"), source.default_mode);
        validate_items(errors, &path.child("items"), source.items.as_deref());
    }
    if let Some(source) = &volume.secret {
        let path = path.child("secret");
        if source.secret_name.as_deref().unwrap_or_default().is_empty() {
            errors.required(&path.child("secretName"), "");
        }
        validate_mode(errors, &path.child("defaultMode"), source.default_mode);
        validate_items(errors, &path.child("items"), source.items.as_deref());
    }
    if let Some(source) = &volume.downward_api {
        let path = path.child("downwardAPI");
        validate_mode(errors, &path.child("defaultMode"), source.default_mode);
        validate_files(errors, &path.child("items"), source.items.as_deref());
    }
    if let Some(source) = &volume.csi {
        let path = path.child("csi");
        validate_driver(errors, &path.child("driver"), &source.driver);
        if source.node_publish_secret_ref.as_ref().is_some_and(|secret| secret.name.is_empty()) {
            errors.required(&path.child("nodePublishSecretRef").child("name"), "");
        }
    }
    if let Some(limit) = volume.empty_dir.as_ref().and_then(|e| e.size_limit.as_ref()) {
        let path = path.child("emptyDir");
        resources::validate_amount(errors, &path.child("sizeLimit"), "memory", limit);
    }
    if let Some(source) = &volume.projected {
        validate_projected(errors, &path.child("projected"), source);
    }
    if let Some(source) = &volume.persistent_volume_claim {
        let path = path.child("persistentVolumeClaim");
        if source.claim_name.is_empty() {
            errors.required(&path.child("claimName"), "");
        }
    }
    if let Some(source) = &volume.host_path {
        validate_host_path(errors, &path.child("hostPath"), source);
    }
    if let Some(source) = &volume.image {
        let path = path.child("image");
        if source.reference.as_deref().unwrap_or_default().is_empty() {
            errors.required(&path.child("reference"), "");
        }
        let policy = source.pull_policy.as_deref().unwrap_or_default();
        checks::one_of(errors, &path.child("pullPolicy"), policy, PULL_POLICIES);
    }
    if let Some(source) = &volume.ephemeral {
        let path = path.child("ephemeral");
        let path = path.child("volumeClaimTemplate");
        let Some(template) = &source.volume_claim_template else {
            return errors.required(&path, "");
        };
        let meta = template.metadata.clone().unwrap_or_default();
        let at = path.child("metadata");
        labels::validate_labels(errors, &at.child("labels"), meta.labels.as_ref());
        labels::validate_annotations(errors, &at.child("annotations"), meta.annotations.as_ref());
        persistent_volume_claim::validate_spec(errors, &path.child("spec"), &template.spec);
    }
}

fn validate_host_path(errors: &mut Errors, path: &Path, source: &HostPathVolumeSource) {
    required_path(errors, &path.child("path"), &source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    if !HOST_PATH_TYPES.contains(&kind) {
        errors.not_supported(&path.child("type"), kind, HOST_PATH_TYPES);
    }
}

/// Pods that are made may not ask for what no node ever mounts. Those that are there already, and
/// templates, may keep it.
pub fn validate_create(errors: &mut Errors, path: &Path, volumes: &[Volume]) {
    for (i, volume) in volumes.iter().enumerate() {
        let path = path.index(i);
        if let Some(text) = never_mounted(volume) {
            errors.forbidden(&path.child("hostPath").child("type"), &text);
        }
    }
}

/// Why no node mounts a hostPath of its type; `None`: one may.
pub fn never_mounted(volume: &Volume) -> Option<String> {
    let kind = volume.host_path.as_ref()?.type_.as_deref().unwrap_or_default();
    let is_other = HOST_PATH_TYPES.contains(&kind) && !DIRECTORY_TYPES.contains(&kind);
    is_other.then(|| format!("Wasm containers mount directories only, and no {kind}"))
}

/// The name of a CSI driver (pkg/apis/core/validation ValidateCSIDriverName).
pub fn validate_driver(errors: &mut Errors, path: &Path, driver: &str) {
    const MAX_DRIVER_BYTES: usize = 63;
    if driver.is_empty() {
        return errors.required(path, "");
    }
    if driver.len() > MAX_DRIVER_BYTES {
        let detail = format!("may not be more than {MAX_DRIVER_BYTES} bytes");
        errors.invalid(path, driver, &detail);
    }
    checks::dns_subdomain(errors, path, &driver.to_lowercase());
}

fn validate_projected(errors: &mut Errors, path: &Path, volume: &ProjectedVolumeSource) {
    validate_mode(errors, &path.child("defaultMode"), volume.default_mode);
    let mut seen = BTreeSet::new();
    let sources = path.child("sources");
    for (i, source) in volume.sources.iter().flatten().enumerate() {
        let path = sources.index(i);
        if let Ok(Value::Object(fields)) = serde_json::to_value(source) {
            for name in fields.keys().skip(1) {
                errors.forbidden(&path.child(name), "may not specify more than 1 volume type");
            }
        }
        validate_projection(errors, &path, source);
        for file in projected_paths(source) {
            if !seen.insert(file) {
                errors.invalid(&path.child("path"), file, "conflicting duplicate paths");
            }
        }
    }
}

fn validate_projection(errors: &mut Errors, path: &Path, source: &VolumeProjection) {
    let maps = [
        ("configMap", source.config_map.as_ref().map(|s| (&s.name, &s.items))),
        ("secret", source.secret.as_ref().map(|s| (&s.name, &s.items))),
    ];
    for (field, map) in maps {
        let Some((name, items)) = map else { continue };
        let path = path.child(field);
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        }
        validate_items(errors, &path.child("items"), items.as_deref());
    }
    if let Some(downward) = &source.downward_api {
        let path = path.child("downwardAPI");
        validate_files(errors, &path.child("items"), downward.items.as_deref());
    }
    if let Some(token) = &source.service_account_token {
        let path = path.child("serviceAccountToken");
        file_path(errors, &path.child("path"), &token.path);
        let path = path.child("expirationSeconds");
        match token.expiration_seconds {
            Some(seconds) if seconds < MIN_TOKEN_SECONDS => {
                errors.invalid(&path, seconds, "may not specify a duration less than 10 minutes");
            }
            Some(seconds) if seconds > MAX_TOKEN_SECONDS => {
                let detail = "may not specify a duration larger than 2^32 seconds";
                errors.invalid(&path, seconds, detail);
            }
            _ => {}
        }
    }
}

/// The files that a source names; those of a whole ConfigMap or Secret are not known here.
fn projected_paths(source: &VolumeProjection) -> Vec<&str> {
    let config_map = source.config_map.as_ref().and_then(|s| s.items.as_deref());
    let secret = source.secret.as_ref().and_then(|s| s.items.as_deref());
    let downward = source.downward_api.as_ref().and_then(|s| s.items.as_deref());
    let items = config_map.into_iter().chain(secret).flatten().map(|item| item.path.as_str());
    let token = source.service_account_token.iter().map(|token| token.path.as_str());
    items
        .chain(downward.into_iter().flatten().map(|file| file.path.as_str()))
        .chain(token)
        .collect()
}

fn validate_items(errors: &mut Errors, path: &Path, items: Option<&[KeyToPath]>) {
    for (i, item) in items.into_iter().flatten().enumerate() {
        let path = path.index(i);
        if item.key.is_empty() {
            errors.required(&path.child("key"), "");
        }
        file_path(errors, &path.child("path"), &item.path);
        validate_mode(errors, &path.child("mode"), item.mode);
    }
}

fn validate_files(errors: &mut Errors, path: &Path, files: Option<&[DownwardAPIVolumeFile]>) {
    for (i, file) in files.into_iter().flatten().enumerate() {
        let path = path.index(i);
        file_path(errors, &path.child("path"), &file.path);
        validate_mode(errors, &path.child("mode"), file.mode);
        match (&file.field_ref, &file.resource_field_ref) {
            (Some(field), None) => {
                let path = path.child("fieldRef");
                container_validation::validate_field_ref(errors, &path, field, FILE_FIELDS);
            }
            (None, Some(field)) => {
                let path = path.child("resourceFieldRef");
                if field.container_name.as_deref().unwrap_or_default().is_empty() {
                    errors.required(&path.child("containerName"), "");
                }
                container_validation::validate_resource_ref(errors, &path, field);
            }
            (Some(_), Some(_)) => {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.invalid(&path, "resource", detail);
            }
            (None, None) => {
                errors.required(&path, "one of fieldRef and resourceFieldRef is required");
            }
        }
    }
}

fn validate_mode(errors: &mut Errors, path: &Path, mode: Option<i32>) {
    if let Some(mode) = mode.filter(|m| !(0..=0o777).contains(m)) {
        let detail = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.invalid(path, mode, detail);
    }
}
