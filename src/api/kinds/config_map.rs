//! ConfigMap (core/v1).

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::{checks, pod_grants};
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Kind, KindMeta};
use crate::api::table::{self, Column};

/// Most bytes of all values of a ConfigMap or Secret together.
pub const DATA_MAX_BYTES: usize = 1024 * 1024;

/// The ConfigMap of each namespace with the certificates that pods verify the API server by, and its
/// key.
pub const ROOT_CA: &str = "kube-root-ca.crt";
pub const ROOT_CA_KEY: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";

const FROZEN: &str = "field is immutable when `immutable` is set";

/// The certificates' ConfigMap as it is made for a namespace.
pub fn root_ca(namespace: &str, certificates: &str) -> ConfigMap {
    let why = "The certificates by which pods verify the API server.";
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(ROOT_CA.into()),
            namespace: Some(namespace.into()),
            annotations: Some(BTreeMap::from([(DESCRIPTION.into(), why.into())])),
            ..ObjectMeta::default()
        },
        data: Some(root_ca_data(certificates)),
        ..ConfigMap::default()
    }
}

pub fn root_ca_data(certificates: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(ROOT_CA_KEY.into(), certificates.into())])
}

impl Kind for ConfigMap {
    const META: KindMeta = KindMeta { singular: "configmap", short_names: &["cm"], ..DEFAULT_META };

    fn validate(&self, errors: &mut Errors) {
        let (data_path, binary_path) = (Path::new("data"), Path::new("binaryData"));
        let mut bytes = 0;
        for (key, value) in self.data.iter().flatten() {
            let path = data_path.key(key);
            checks::config_map_key(errors, &path, key);
            if self.binary_data.as_ref().is_some_and(|b| b.contains_key(key)) {
                errors.invalid(&path, key, "duplicate of key present in binaryData");
            }
            bytes += value.len();
        }
        for (key, value) in self.binary_data.iter().flatten() {
            checks::config_map_key(errors, &binary_path.key(key), key);
            bytes += value.0.len();
        }
        // A bucket of `wasi:keyvalue`, whose keys programs choose: they count, too.
        let name = self.metadata.name.as_deref().unwrap_or_default();
        if name.starts_with(pod_grants::BUCKET_PREFIX) {
            let keys = self.binary_data.iter().flatten().map(|(key, _)| key.len());
            bytes += keys.clone().sum::<usize>();
            if keys.clone().count() > pod_grants::BUCKET_MAX_KEYS {
                errors.too_many(&binary_path, keys.count(), pod_grants::BUCKET_MAX_KEYS);
            }
        }
        if bytes > DATA_MAX_BYTES {
            errors.too_long(&Path::ROOT, DATA_MAX_BYTES);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        if old.immutable != Some(true) {
            return;
        }
        if self.immutable != Some(true) {
            errors.forbidden(&Path::new("immutable"), FROZEN);
        }
        if self.data.as_ref().filter(|d| !d.is_empty())
            != old.data.as_ref().filter(|d| !d.is_empty())
        {
            errors.forbidden(&Path::new("data"), FROZEN);
        }
        if self.binary_data.as_ref().filter(|d| !d.is_empty())
            != old.binary_data.as_ref().filter(|d| !d.is_empty())
        {
            errors.forbidden(&Path::new("binaryData"), FROZEN);
        }
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] =
            &[table::NAME, Column::new("Data", "string", "The number of keys."), table::AGE];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let count = self.data.as_ref().map_or(0, |d| d.len())
            + self.binary_data.as_ref().map_or(0, |d| d.len());
        vec![table::name(&self.metadata), Value::from(count), table::age(&self.metadata, now)]
    }
}
