//! From a pod's container to the runtime's [`ContainerSpec`]: arguments, environment, mounts,
//! limits. Pure but for subPath mounts, which look at the volume.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, ContainerStateTerminated, Pod, Volume, VolumeMount,
};
use sha2::{Digest, Sha256};

use super::env::{self, Env};
use super::pod_state::spec;
use super::{own_names, workload};
use crate::api::kinds::{pod_grants, program_names};
use crate::api::quantity::Quantity;
use crate::runtime::Mount;
use crate::volumes::{self, Context, VolumeError, sub_path};

/// The port of HTTP handlers that declare none.
const DEFAULT_HTTP_PORT: u16 = 8080;

/// What a container is run with.
pub struct Recipe {
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    /// Of an HTTP handler: the TCP ports that it is served on.
    pub http_ports: Vec<u16>,
    pub memory_limit_bytes: u64,
    pub cpu_limit_millicores: Option<u64>,
    pub cpu_request_millicores: Option<u64>,
    pub allowed_hosts: Vec<String>,
    /// What `wasi:config/store` answers with.
    pub config: BTreeMap<String, String>,
}

/// Works out a recipe (blocking where a mount has a subPath). `pod_dir` holds the volumes, `links`
/// are the variables of Services.
pub fn recipe(
    context: &Context,
    container: &Container,
    links: Vec<(String, String)>,
    pod_dir: &Path,
    default_memory_bytes: u64,
) -> Result<Recipe, VolumeError> {
    let env = env::build(context, container, links)?;
    let mounts = mounts(context, container, pod_dir, &env)?;
    let args = arguments(container, &env);
    let memory = limit(container, "memory")?.map(|quantity| quantity.value());
    let cpu = limit(container, "cpu")?.map(|quantity| quantity.milli());
    let requested_cpu = request(container, "cpu").map(|quantity| quantity.milli());
    let positive = |n: i64| u64::try_from(n).ok().filter(|n| *n > 0);
    let host_name = match spec(context.pod).host_network {
        Some(true) => context.node_name,
        _ => own_names::host_name(context.pod),
    };
    Ok(Recipe {
        args,
        env: env.into_list(host_name),
        mounts,
        http_ports: http_ports(container),
        memory_limit_bytes: memory.and_then(positive).unwrap_or(default_memory_bytes),
        cpu_limit_millicores: cpu.and_then(positive),
        cpu_request_millicores: requested_cpu.and_then(positive),
        allowed_hosts: allowed_hosts(context.pod),
        config: workload::config(context)?,
    })
}

fn limit(container: &Container, resource: &str) -> Result<Option<Quantity>, VolumeError> {
    let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
    let Some(text) = limits.and_then(|limits| limits.get(resource)) else { return Ok(None) };
    let parsed = Quantity::parse(&text.0);
    parsed.map(Some).map_err(|e| VolumeError::Invalid(format!("limits.{resource}: {e}")))
}

/// Says of a container that was ended for its memory whose limit that was, where its spec has none.
pub fn tell_default_limit(exit: &mut ContainerStateTerminated, container: &Container) {
    let is_unlimited = !matches!(limit(container, "memory"), Ok(Some(_)));
    if exit.reason.as_deref() == Some("OOMKilled") && is_unlimited {
        let message = exit.message.get_or_insert_default();
        message.push_str(" (the default for containers without resources.limits.memory)");
    }
}

/// What is requested; requests that are left out are made from the limits when the pod is made.
fn request(container: &Container, resource: &str) -> Option<Quantity> {
    let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
    Quantity::parse(&requests?.get(resource)?.0).ok()
}

/// The TCP ports that a container declares, each once, or 8080.
fn http_ports(container: &Container) -> Vec<u16> {
    let is_tcp = |port: &&ContainerPort| port.protocol.as_deref().unwrap_or("TCP") == "TCP";
    let declared = container.ports.iter().flatten().filter(is_tcp);
    let mut ports: Vec<u16> = Vec::with_capacity(1);
    for port in declared.filter_map(|port| u16::try_from(port.container_port).ok()) {
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    if ports.is_empty() {
        ports.push(DEFAULT_HTTP_PORT);
    }
    ports
}

/// A Wasm program has no entry point to replace: `command` is its name and first arguments.
fn arguments(container: &Container, env: &Env) -> Vec<String> {
    let mut list: Vec<String> =
        container.command.iter().flatten().map(|text| env::expand(text, env)).collect();
    if list.is_empty() {
        let image = container.image.as_deref().unwrap_or_default();
        list.push(program_names::of_image(image).to_string());
    }
    list.extend(container.args.iter().flatten().map(|text| env::expand(text, env)));
    list
}

fn allowed_hosts(pod: &Pod) -> Vec<String> {
    let hosts = pod_grants::names(pod.metadata.annotations.as_ref(), pod_grants::ALLOWED_HOSTS);
    hosts.into_iter().map(str::to_string).collect()
}

fn mounts(
    context: &Context,
    container: &Container,
    pod_dir: &Path,
    env: &Env,
) -> Result<Vec<Mount>, VolumeError> {
    let mut mounts: Vec<Mount> = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let found =
            spec(context.pod).volumes.iter().flatten().find(|volume| volume.name == mount.name);
        let Some(volume) = found else {
            return Err(VolumeError::Missing(format!("volume {:?} not found", mount.name)));
        };
        let made = one_mount(context, container, (mount, volume), pod_dir, env)?;
        // Single files below one directory share its preopen.
        if !mounts.contains(&made) {
            mounts.push(made);
        }
    }
    Ok(mounts)
}

fn one_mount(
    context: &Context,
    container: &Container,
    (mount, volume): (&VolumeMount, &Volume),
    pod_dir: &Path,
    env: &Env,
) -> Result<Mount, VolumeError> {
    let place = volumes::place(pod_dir, volume, context)?;
    let read_only = mount.read_only == Some(true) || place.read_only;
    let expr = mount.sub_path_expr.as_ref();
    let expanded = expr.map(|text| env::expand_known(text, env)).transpose()?;
    let sub_path = expanded.as_ref().or(mount.sub_path.as_ref()).filter(|path| !path.is_empty());
    let Some(sub_path) = sub_path else {
        let guest_path = mount.mount_path.clone();
        let volumes::Place { root: host_path, sub_path, .. } = place;
        return Ok(Mount { host_path, sub_path, guest_path, read_only });
    };
    let parent = mount.mount_path.trim_end_matches('/').rsplit_once('/').map_or("", |(p, _)| p);
    let copies = pod_dir.join("subpaths").join(&container.name).join(short_hash(parent));
    let within = sub_path.trim_end_matches('/');
    volumes::check_path(within)?;
    // Where the volume is itself below a root that others mount too, links lead no further than
    // that.
    let whole = place.sub_path.join(within);
    let whole = whole.to_str().ok_or_else(|| VolumeError::Invalid("not UTF-8".into()))?;
    let found =
        sub_path::resolve((&place.root, place.is_shared), whole, &mount.mount_path, &copies)?;
    let is_copy = found.host_path == copies;
    Ok(Mount {
        host_path: found.host_path,
        sub_path: found.sub_path,
        guest_path: found.guest_path,
        read_only: read_only || is_copy,
    })
}

/// A directory's name for a path of any length.
fn short_hash(text: &str) -> String {
    hex::encode(&Sha256::digest(text)[..8])
}

/// The `.dockerconfigjson` of fetched pull secrets, or the `.dockercfg` of older ones.
pub fn docker_configs(pod: &Pod, objects: &volumes::Objects) -> Vec<Bytes> {
    let names = spec(pod).image_pull_secrets.iter().flatten().map(|reference| &reference.name);
    let secrets = names.filter_map(|name| objects.secrets.get(name));
    let configs = secrets.filter_map(|secret| {
        let data = secret.data.as_ref()?;
        data.get(".dockerconfigjson").or_else(|| data.get(".dockercfg"))
    });
    configs.map(|bytes| Bytes::from(bytes.0.clone())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_limit_that_nobody_wrote_is_told_as_the_default() {
        let told = |resources: serde_json::Value, reason: &str| {
            let container = json!({"name": "c", "resources": resources});
            let mut exit = ContainerStateTerminated {
                reason: Some(reason.into()),
                message: Some("out of memory".into()),
                ..ContainerStateTerminated::default()
            };
            tell_default_limit(&mut exit, &serde_json::from_value(container).unwrap());
            exit.message.unwrap()
        };
        let default = "out of memory (the default for containers without resources.limits.memory)";
        assert_eq!(told(json!({}), "OOMKilled"), default);
        assert_eq!(told(json!({"limits": {"memory": "1Mi"}}), "OOMKilled"), "out of memory");
        assert_eq!(told(json!({}), "Error"), "out of memory");
    }
}
