//! What the control plane's cache keeps of objects: only what controllers, scheduler and proxy read.
//! A Pod takes several times its JSON as a typed object, and most of it is for its node.
//!
//! So whoever writes an object back from the cache writes its status, or a patch of its metadata
//! ([`super::plan::patch_meta`]), and never the whole object of a kind that is named here.

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret};

use crate::api::kinds::config_map::ROOT_CA;
use crate::client::cache::Cache;

/// Tells a cache, before it is filled.
pub fn set(cache: &Cache) {
    cache.slim::<Pod>(pod);
    cache.slim::<ConfigMap>(config_map);
    cache.slim::<Secret>(secret);
}

/// What only the node needs goes, and the room that decoding left in lists.
fn pod(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
    if let Some(spec) = &mut pod.spec {
        // Controllers ask for claims only.
        if let Some(volumes) = &mut spec.volumes {
            volumes.retain(|volume| volume.persistent_volume_claim.is_some());
        }
        spec.volumes.take_if(|volumes| volumes.is_empty());
        spec.ephemeral_containers = None;
        spec.containers.shrink_to_fit();
        let init = spec.init_containers.iter_mut().flatten();
        init.chain(&mut spec.containers).for_each(container);
        spec.tolerations.iter_mut().for_each(Vec::shrink_to_fit);
    }
    if let Some(status) = &mut pod.status {
        status.conditions.iter_mut().for_each(Vec::shrink_to_fit);
        status.pod_ips.iter_mut().for_each(Vec::shrink_to_fit);
    }
    pod.metadata.owner_references.iter_mut().for_each(Vec::shrink_to_fit);
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
    container.ports.iter_mut().for_each(Vec::shrink_to_fit);
}

/// Of ConfigMaps, the controllers keep one in step; of the others they only know that they are there.
fn config_map(map: &mut ConfigMap) {
    map.metadata.managed_fields = None;
    if map.metadata.name.as_deref() != Some(ROOT_CA) {
        map.data = None;
        map.binary_data = None;
    }
}

fn secret(secret: &mut Secret) {
    secret.metadata.managed_fields = None;
    secret.data = None;
    secret.string_data = None;
}
