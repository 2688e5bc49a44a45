//! Defaults of pod specs (k8s.io/kubernetes/pkg/apis/core/v1/defaults.go): those of every spec,
//! and those that only a Pod gets while a template does not.
//!
//! Idempotent. What depends on other objects (service account, priority) is admission's.

use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, EmptyDirVolumeSource, HTTPGetAction, ObjectFieldSelector,
    PodSpec, Probe, Volume,
};

use super::{ephemeral_containers, persistent_volume_claim, resources};

/// How long a pod may take to end after it was asked to, in seconds.
const GRACE_SECONDS: i64 = 30;
/// The mode of files in volumes: 0644.
const FILE_MODE: i32 = 0o644;
/// How long a projected token is valid, in seconds.
const TOKEN_SECONDS: i64 = 3_600;

/// The defaults of every pod spec.
pub fn set_spec(spec: &mut PodSpec) {
    set(&mut spec.dns_policy, "ClusterFirst");
    set(&mut spec.restart_policy, "Always");
    set(&mut spec.scheduler_name, "default-scheduler");
    spec.security_context.get_or_insert_default();
    spec.termination_grace_period_seconds.get_or_insert(GRACE_SECONDS);
    // `serviceAccount` is the older name of the same field; both are shown.
    if spec.service_account_name.as_deref().unwrap_or_default().is_empty() {
        spec.service_account_name = spec.service_account.clone().filter(|a| !a.is_empty());
    }
    spec.service_account.clone_from(&spec.service_account_name);
    for volume in spec.volumes.iter_mut().flatten() {
        set_volume(volume);
    }
    for container in containers(spec) {
        set_container(container);
    }
    for one in spec.ephemeral_containers.iter_mut().flatten() {
        ephemeral_containers::set_defaults(one, set_container);
    }
}

/// What a Pod gets beyond that: requests that were left out are the limits.
pub fn set_pod(spec: &mut PodSpec) {
    spec.enable_service_links.get_or_insert(true);
    for container in containers(spec) {
        let resources = container.resources.get_or_insert_default();
        for (name, limit) in resources.limits.iter().flatten() {
            let requests = resources.requests.get_or_insert_default();
            requests.entry(name.clone()).or_insert_with(|| limit.clone());
        }
    }
}

fn containers(spec: &mut PodSpec) -> impl Iterator<Item = &mut Container> {
    spec.init_containers.iter_mut().flatten().chain(&mut spec.containers)
}

fn set(field: &mut Option<String>, value: &str) {
    if field.as_deref().unwrap_or_default().is_empty() {
        *field = Some(value.into());
    }
}

/// Zero counts as left out, as with Go's plain integers.
fn set_number(field: &mut Option<i32>, value: i32) {
    if field.unwrap_or(0) == 0 {
        *field = Some(value);
    }
}

fn set_container(container: &mut Container) {
    let policy = pull_policy(container.image.as_deref());
    set(&mut container.image_pull_policy, policy);
    set(&mut container.termination_message_path, "/dev/termination-log");
    set(&mut container.termination_message_policy, "File");
    let resources = container.resources.get_or_insert_default();
    resources::canonicalize(resources.limits.as_mut());
    resources::canonicalize(resources.requests.as_mut());
    for port in container.ports.iter_mut().flatten() {
        set(&mut port.protocol, "TCP");
    }
    for source in container.env.iter_mut().flatten().filter_map(|e| e.value_from.as_mut()) {
        set_field_ref(source.field_ref.as_mut());
    }
    let probes = [
        &mut container.liveness_probe,
        &mut container.readiness_probe,
        &mut container.startup_probe,
    ];
    for probe in probes.into_iter().flatten() {
        set_probe(probe);
    }
    if let Some(lifecycle) = &mut container.lifecycle {
        let hooks = [&mut lifecycle.post_start, &mut lifecycle.pre_stop];
        hooks.into_iter().flatten().for_each(|hook| set_http_get(hook.http_get.as_mut()));
    }
}

/// An image without tag and digest means the tag `latest`.
fn pull_policy(image: Option<&str>) -> &'static str {
    if is_latest(image.unwrap_or_default()) { "Always" } else { "IfNotPresent" }
}

fn is_latest(image: &str) -> bool {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let last = name.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => digest.is_none(),
    }
}

fn set_probe(probe: &mut Probe) {
    set_number(&mut probe.timeout_seconds, 1);
    set_number(&mut probe.period_seconds, 10);
    set_number(&mut probe.success_threshold, 1);
    set_number(&mut probe.failure_threshold, 3);
    set_http_get(probe.http_get.as_mut());
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn set_http_get(http: Option<&mut HTTPGetAction>) {
    if let Some(http) = http {
        set(&mut http.path, "/");
        set(&mut http.scheme, "HTTP");
    }
}

fn set_field_ref(field_ref: Option<&mut ObjectFieldSelector>) {
    if let Some(field_ref) = field_ref {
        set(&mut field_ref.api_version, "v1");
    }
}

fn set_volume(volume: &mut Volume) {
    let named = Volume { name: volume.name.clone(), ..Volume::default() };
    if *volume == named {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(source) = &mut volume.host_path {
        source.type_.get_or_insert_default();
    }
    if let Some(source) = &mut volume.image {
        let policy = pull_policy(source.reference.as_deref());
        set(&mut source.pull_policy, policy);
    }
    let template = volume.ephemeral.as_mut().and_then(|e| e.volume_claim_template.as_mut());
    if let Some(template) = template {
        persistent_volume_claim::set_spec(&mut template.spec);
    }
    if let Some(source) = &mut volume.config_map {
        source.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(source) = &mut volume.secret {
        source.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(source) = &mut volume.downward_api {
        source.default_mode.get_or_insert(FILE_MODE);
        set_files(source.items.as_deref_mut());
    }
    let Some(projected) = &mut volume.projected else { return };
    projected.default_mode.get_or_insert(FILE_MODE);
    for source in projected.sources.iter_mut().flatten() {
        if let Some(token) = &mut source.service_account_token {
            token.expiration_seconds.get_or_insert(TOKEN_SECONDS);
        }
        if let Some(downward) = &mut source.downward_api {
            set_files(downward.items.as_deref_mut());
        }
    }
}

fn set_files(files: Option<&mut [DownwardAPIVolumeFile]>) {
    for file in files.into_iter().flatten() {
        set_field_ref(file.field_ref.as_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::is_latest;

    #[test]
    fn only_latest_images_are_always_pulled() {
        for image in ["hello", "hello:latest", "registry:5000/a/hello", "oci://r.io/hello"] {
            assert!(is_latest(image), "{image}");
        }
        for image in ["hello:v1", "registry:5000/a/hello:v1", "hello@sha256:00", "a:latest2"] {
            assert!(!is_latest(image), "{image}");
        }
    }
}
