//! What PersistentVolumes are made of: exactly one source, and what it cannot be without.
//!
//! Upstream: pkg/apis/core/validation/validation.go, ValidatePersistentVolumeSpec.

use k8s_openapi::api::core::v1::{PersistentVolumeSpec, SecretReference};
use serde_json::{Map, Value};

use super::{checks, volume_validation};
use crate::api::field::{Errors, Path};

const ONE_ONLY: &str = "may not specify more than 1 volume type";

/// A kind of volume: its field of the spec, how upstream calls it in what it says, and the fields
/// that must be there.
struct Source {
    field: &'static str,
    shown: &'static str,
    required: &'static [&'static str],
}

const fn source(field: &'static str, required: &'static [&'static str]) -> Source {
    Source { field, shown: field, required }
}

/// In upstream's order: of several, the first one is looked at.
const SOURCES: &[Source] = &[
    source("hostPath", &[]),
    Source { field: "gcePersistentDisk", shown: "persistentDisk", required: &["pdName"] },
    source("awsElasticBlockStore", &["volumeID"]),
    source("glusterfs", &["endpoints", "path"]),
    source("flocker", &[]),
    source("nfs", &["server", "path"]),
    source("rbd", &["monitors", "image"]),
    source("quobyte", &["registry", "volume"]),
    source("cephfs", &["monitors"]),
    source("iscsi", &["targetPortal", "iqn"]),
    source("cinder", &["volumeID"]),
    source("fc", &[]),
    source("flexVolume", &["driver"]),
    source("azureFile", &["secretName", "shareName"]),
    source("vsphereVolume", &["volumePath"]),
    source("photonPersistentDisk", &["pdID"]),
    source("portworxVolume", &["volumeID"]),
    source("azureDisk", &["diskName", "diskURI"]),
    source("scaleIO", &["gateway", "system", "volumeName"]),
    source("local", &[]),
    source("storageos", &[]),
    source("csi", &[]),
];

/// What the volume is made of, by field.
pub fn of(spec: &PersistentVolumeSpec) -> Map<String, Value> {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(spec) else { return Map::new() };
    fields.retain(|name, _| SOURCES.iter().any(|source| source.field == name));
    fields
}

pub fn validate(errors: &mut Errors, path: &Path, spec: &PersistentVolumeSpec) {
    let given = of(spec);
    let mut sources = SOURCES.iter().filter(|source| given.contains_key(source.field));
    let Some(first) = sources.next() else {
        return errors.required(path, "must specify a volume type");
    };
    let at = path.child(first.shown);
    for field in first.required {
        let value = &given[first.field][*field];
        let empty = value.as_str().is_none_or(str::is_empty)
            && value.as_array().is_none_or(|list| list.is_empty());
        if empty {
            errors.required(&at.child(field), "");
        }
    }
    validate_details(errors, path, spec, first.field);
    for other in sources {
        errors.forbidden(&path.child(other.field), ONE_ONLY);
    }
    let recycled = spec.persistent_volume_reclaim_policy.as_deref() == Some("Recycle");
    let root = spec.host_path.as_ref().is_some_and(|host| is_root(&host.path));
    if recycled && root {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        errors.forbidden(&path.child("persistentVolumeReclaimPolicy"), detail);
    }
}

/// As Go's path.Clean sees it.
fn is_root(path: &str) -> bool {
    path.starts_with('/') && path.split('/').all(|part| matches!(part, "" | "." | ".."))
}

/// What is more than fields that must be there.
fn validate_details(errors: &mut Errors, path: &Path, spec: &PersistentVolumeSpec, field: &str) {
    let at = path.child(field);
    match field {
        "hostPath" => {
            let host = spec.host_path.clone().unwrap_or_default();
            volume_validation::required_path(errors, &at.child("path"), &host.path);
        }
        "local" => {
            let local = spec.local.clone().unwrap_or_default();
            volume_validation::required_path(errors, &at.child("path"), &local.path);
            if spec.node_affinity.is_none() {
                let detail = "Local volume requires node affinity";
                errors.required(&path.child("nodeAffinity"), detail);
            }
        }
        "nfs" => {
            let nfs = spec.nfs.clone().unwrap_or_default();
            if !nfs.path.starts_with('/') {
                errors.invalid(&at.child("path"), &nfs.path, "must be an absolute path");
            }
        }
        "flocker" => {
            let flocker = spec.flocker.clone().unwrap_or_default();
            let has = |text: Option<String>| text.is_some_and(|text| !text.is_empty());
            match (has(flocker.dataset_name), has(flocker.dataset_uuid)) {
                (false, false) => {
                    errors.required(&at, "one of datasetName and datasetUUID is required");
                }
                (true, true) => {
                    let detail = "datasetName and datasetUUID can not be specified simultaneously";
                    errors.invalid(&at, "resource", detail);
                }
                _ => {}
            }
        }
        "csi" => validate_csi(errors, &at, spec),
        _ => {}
    }
}

fn validate_csi(errors: &mut Errors, path: &Path, spec: &PersistentVolumeSpec) {
    let csi = spec.csi.clone().unwrap_or_default();
    checks::driver_name(errors, &path.child("driver"), &csi.driver);
    if csi.volume_handle.is_empty() {
        errors.required(&path.child("volumeHandle"), "");
    }
    let secrets = [
        ("controllerPublishSecretRef", &csi.controller_publish_secret_ref),
        ("controllerExpandSecretRef", &csi.controller_expand_secret_ref),
        ("nodePublishSecretRef", &csi.node_publish_secret_ref),
        ("nodeExpandSecretRef", &csi.node_expand_secret_ref),
    ];
    for (field, secret) in secrets {
        if let Some(secret) = secret {
            validate_secret(errors, &path.child(field), secret);
        }
    }
}

fn validate_secret(errors: &mut Errors, path: &Path, secret: &SecretReference) {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    checks::object_name(errors, &path.child("name"), &text(&secret.name));
    let namespace = text(&secret.namespace);
    if namespace.is_empty() {
        errors.required(&path.child("namespace"), "");
    } else {
        checks::dns_label(errors, &path.child("namespace"), &namespace);
    }
}
