//! What the control plane's cache keeps of objects: only what controllers, scheduler and proxy read.
//! A Pod takes several times its JSON as a typed object, and most of it is for its node.
//!
//! So whoever writes an object back from the cache writes its status, or a patch of its metadata
//! ([`super::plan::patch_meta`]), and never the whole object of a kind that is named here.

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use crate::api::kinds::config_map::ROOT_CA;
use crate::api::kinds::pod_room;
use crate::api::{ApiError, Raw};
use crate::client::cache::Cache;

/// Tells a cache, before it is filled.
pub fn set(cache: &Cache) {
    cache.slim::<Pod>(pod);
    cache.slim::<ConfigMap>(config_map);
    cache.slim::<Secret>(secret);
    cache.read_slim::<ConfigMap>(read_config_map);
    cache.read_slim::<Secret>(read_secret);
}

/// What only the node needs goes, and the room that decoding left in lists.
fn pod(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
    if let Some(spec) = &mut pod.spec {
        // Controllers ask for claims only.
        if let Some(volumes) = &mut spec.volumes {
            volumes.retain(|volume| {
                volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()
            });
        }
        spec.volumes.take_if(|volumes| volumes.is_empty());
        spec.ephemeral_containers = None;
        let init = spec.init_containers.iter_mut().flatten();
        init.chain(&mut spec.containers).for_each(container);
    }
    pod_room::give_back(pod);
}

fn container(container: &mut Container) {
    container.args = None;
    container.command = None;
    container.env = None;
    container.env_from = None;
    container.volume_mounts = None;
    container.volume_devices = None;
    container.lifecycle = None;
    container.liveness_probe = None;
    container.readiness_probe = None;
    container.startup_probe = None;
}

/// Of ConfigMaps, the controllers keep one in step; of the others they only know that they are there.
fn config_map(map: &mut ConfigMap) {
    map.metadata.managed_fields = None;
    if map.metadata.name.as_deref() != Some(ROOT_CA) {
        map.data = None;
        map.binary_data = None;
    }
}

/// A ConfigMap or Secret without its data, which may be a megabyte.
#[derive(Deserialize)]
struct Head {
    metadata: ObjectMeta,
    immutable: Option<bool>,
    r#type: Option<String>,
}

fn read_config_map(raw: &Raw) -> Result<ConfigMap, ApiError> {
    let Head { metadata, immutable, .. } = raw.decode()?;
    if metadata.name.as_deref() == Some(ROOT_CA) {
        return raw.decode();
    }
    Ok(ConfigMap { metadata, immutable, ..ConfigMap::default() })
}

fn read_secret(raw: &Raw) -> Result<Secret, ApiError> {
    let Head { metadata, immutable, r#type: type_ } = raw.decode()?;
    Ok(Secret { metadata, immutable, type_, ..Secret::default() })
}

fn secret(secret: &mut Secret) {
    secret.metadata.managed_fields = None;
    secret.data = None;
    secret.string_data = None;
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::*;

    fn raw(value: &Value) -> Raw {
        Raw(Bytes::from(value.to_string()))
    }

    #[test]
    fn what_is_read_without_data_is_what_slimming_leaves() {
        for name in [ROOT_CA, "other"] {
            let object = raw(&json!({
                "kind": "ConfigMap", "apiVersion": "v1", "immutable": true,
                "metadata": {"name": name, "labels": {"a": "b"}, "managedFields": [{"manager": "m"}]},
                "data": {"a": "b"}, "binaryData": {"c": "AA=="},
            }));
            let mut slim: ConfigMap = object.decode().unwrap();
            config_map(&mut slim);
            let mut read = read_config_map(&object).unwrap();
            config_map(&mut read);
            assert_eq!(read, slim);
        }
        let object = raw(&json!({
            "kind": "Secret", "apiVersion": "v1", "type": "Opaque", "immutable": false,
            "metadata": {"name": "s", "uid": "1"}, "data": {"a": "AA=="},
        }));
        let mut slim: Secret = object.decode().unwrap();
        secret(&mut slim);
        assert_eq!(read_secret(&object).unwrap(), slim);
    }
}
