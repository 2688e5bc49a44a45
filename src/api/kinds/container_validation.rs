//! Validation of containers and init containers: names, ports, environment, mounts; probes and
//! hooks are in [`super::probe_validation`].

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector, PodSpec,
    ResourceFieldSelector, VolumeMount,
};

use super::{checks, ephemeral_containers, probe_validation, resources, volume_validation};
use crate::api::field::{Errors, Path};
use crate::api::names;

pub const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const RESTART_POLICIES: &[&str] = &["Always", "OnFailure", "Never"];
const MESSAGE_POLICIES: &[&str] = &["File", "FallbackToLogsOnError"];
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCE_FIELDS: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// All containers of a spec; names are unique over all lists.
pub fn validate(errors: &mut Errors, path: &Path, spec: &PodSpec) {
    let volumes: BTreeSet<&str> = spec.volumes.iter().flatten().map(|v| v.name.as_str()).collect();
    let grace = spec.termination_grace_period_seconds;
    let containers = path.child("containers");
    if spec.containers.is_empty() {
        errors.required(&containers, "");
    }
    let mut seen = BTreeSet::new();
    for (i, container) in spec.containers.iter().enumerate() {
        let path = containers.index(i);
        validate_container(errors, &path, container, &volumes);
        if !seen.insert(container.name.as_str()) {
            errors.duplicate(&path.child("name"), &container.name);
        }
        probe_validation::validate(errors, &path, container);
        probe_validation::validate_hooks(errors, &path, container, grace);
    }
    let init_containers = path.child("initContainers");
    for (i, container) in spec.init_containers.iter().flatten().enumerate() {
        let path = init_containers.index(i);
        validate_container(errors, &path, container, &volumes);
        if !seen.insert(container.name.as_str()) {
            errors.duplicate(&path.child("name"), &container.name);
        }
        if container.restart_policy.as_deref() == Some("Always") {
            probe_validation::validate(errors, &path, container);
            probe_validation::validate_hooks(errors, &path, container, grace);
            continue;
        }
        let detail = "may not be set for init containers without restartPolicy=Always";
        let forbidden = [
            ("lifecycle", container.lifecycle.is_some()),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
        ];
        for (field, _) in forbidden.into_iter().filter(|(_, set)| *set) {
            errors.forbidden(&path.child(field), detail);
        }
    }
    ephemeral_containers::validate(errors, path, spec, &mut seen, &volumes);
}

pub(super) fn validate_container(
    errors: &mut Errors,
    path: &Path,
    container: &Container,
    volumes: &BTreeSet<&str>,
) {
    if container.name.is_empty() {
        errors.required(&path.child("name"), "");
    } else {
        checks::dns_label(errors, &path.child("name"), &container.name);
    }
    if container.image.as_deref().unwrap_or_default().is_empty() {
        errors.required(&path.child("image"), "");
    }
    if let Some(policy) = &container.restart_policy {
        checks::one_of(errors, &path.child("restartPolicy"), policy, RESTART_POLICIES);
    }
    let policy = container.termination_message_policy.as_deref().unwrap_or_default();
    checks::one_of(errors, &path.child("terminationMessagePolicy"), policy, MESSAGE_POLICIES);
    let ports = container.ports.as_deref().unwrap_or_default();
    validate_ports(errors, &path.child("ports"), ports);
    let env = path.child("env");
    for (i, variable) in container.env.iter().flatten().enumerate() {
        validate_variable(errors, &env.index(i), variable);
    }
    let env_from = path.child("envFrom");
    for (i, source) in container.env_from.iter().flatten().enumerate() {
        validate_env_from(errors, &env_from.index(i), source);
    }
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    validate_mounts(errors, &path.child("volumeMounts"), mounts, volumes);
    let policy = container.image_pull_policy.as_deref().unwrap_or_default();
    checks::one_of(errors, &path.child("imagePullPolicy"), policy, PULL_POLICIES);
    if let Some(requirements) = &container.resources {
        resources::validate_requirements(errors, &path.child("resources"), requirements);
    }
}

fn validate_ports(errors: &mut Errors, path: &Path, ports: &[ContainerPort]) {
    let mut seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            let wrong = names::is_port_name(name);
            if wrong.is_empty() && !seen.insert(name) {
                errors.duplicate(&path.child("name"), name);
            }
            names::report(errors, &path.child("name"), name, wrong);
        }
        match port.container_port {
            0 => errors.required(&path.child("containerPort"), ""),
            number => checks::port_number(errors, &path.child("containerPort"), number),
        }
        let protocol = port.protocol.as_deref().unwrap_or_default();
        checks::one_of(errors, &path.child("protocol"), protocol, checks::PROTOCOLS);
    }
}

fn validate_variable(errors: &mut Errors, path: &Path, variable: &EnvVar) {
    let name = &variable.name;
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    } else {
        names::report(errors, &path.child("name"), name, names::is_env_var_name(name));
    }
    let Some(source) = &variable.value_from else { return };
    let path = path.child("valueFrom");
    let sources = validate_source(errors, &path, source);
    let has_value = variable.value.as_ref().is_some_and(|v| !v.is_empty());
    let detail = match sources {
        0 => {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or \
             `secretKeyRef`"
        }
        _ if has_value => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    errors.invalid(&path, "", detail);
}

/// Answers with how many sources are given.
fn validate_source(errors: &mut Errors, path: &Path, source: &EnvVarSource) -> usize {
    let mut sources = 0;
    if let Some(field) = &source.field_ref {
        sources += 1;
        validate_field_ref(errors, &path.child("fieldRef"), field, ENV_FIELDS);
    }
    if let Some(field) = &source.resource_field_ref {
        sources += 1;
        validate_resource_ref(errors, &path.child("resourceFieldRef"), field);
    }
    let keys = [
        ("configMapKeyRef", source.config_map_key_ref.as_ref().map(|r| (&r.name, &r.key))),
        ("secretKeyRef", source.secret_key_ref.as_ref().map(|r| (&r.name, &r.key))),
    ];
    for (field, reference) in keys {
        let Some((name, key)) = reference else { continue };
        sources += 1;
        let path = path.child(field);
        checks::dns_subdomain(errors, &path.child("name"), name);
        match key.as_str() {
            "" => errors.required(&path.child("key"), ""),
            key => checks::config_map_key(errors, &path.child("key"), key),
        }
    }
    // Refused by the table of fields, with a reason.
    sources + usize::from(source.file_key_ref.is_some())
}

/// A field of the pod: a plain one of `supported`, or one label or annotation.
pub fn validate_field_ref(
    errors: &mut Errors,
    path: &Path,
    field: &ObjectFieldSelector,
    supported: &[&str],
) {
    let field_path = field.field_path.as_str();
    let path = path.child("fieldPath");
    if field_path.is_empty() {
        return errors.required(&path, "");
    }
    let subscript = field_path.strip_suffix("']").and_then(|f| f.split_once("['"));
    match subscript {
        Some(("metadata.annotations", key)) => {
            checks::qualified_name(errors, &path, &key.to_lowercase());
        }
        Some(("metadata.labels", key)) => checks::qualified_name(errors, &path, key),
        Some((other, _)) => errors.invalid(&path, other, "does not support subscript"),
        None if supported.contains(&field_path) => {}
        None => errors.not_supported(&path, field_path, supported),
    }
}

pub fn validate_resource_ref(errors: &mut Errors, path: &Path, field: &ResourceFieldSelector) {
    match field.resource.as_str() {
        "" => errors.required(&path.child("resource"), ""),
        resource if !RESOURCE_FIELDS.contains(&resource) => {
            errors.not_supported(&path.child("resource"), resource, RESOURCE_FIELDS);
        }
        resource => {
            let Some(divisor) = field.divisor.as_ref().filter(|d| !d.0.is_empty() && d.0 != "0")
            else {
                return;
            };
            let supported: &[&str] = if resource.ends_with(".cpu") {
                &["1m", "1"]
            } else {
                &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"]
            };
            if !supported.contains(&divisor.0.as_str()) {
                errors.not_supported(&path.child("divisor"), &divisor.0, supported);
            }
        }
    }
}

fn validate_env_from(errors: &mut Errors, path: &Path, source: &EnvFromSource) {
    if let Some(prefix) = source.prefix.as_deref().filter(|p| !p.is_empty()) {
        names::report(errors, &path.child("prefix"), prefix, names::is_env_var_name(prefix));
    }
    let references = [
        ("configMapRef", source.config_map_ref.as_ref().map(|r| &r.name)),
        ("secretRef", source.secret_ref.as_ref().map(|r| &r.name)),
    ];
    let mut sources = 0;
    for (field, name) in references {
        let Some(name) = name else { continue };
        sources += 1;
        let path = path.child(field);
        match name.as_str() {
            "" => errors.required(&path.child("name"), ""),
            name => checks::dns_subdomain(errors, &path.child("name"), name),
        }
    }
    match sources {
        0 => errors.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"),
        1 => {}
        _ => errors.invalid(path, "", "may not have more than one field specified at a time"),
    }
}

fn validate_mounts(
    errors: &mut Errors,
    path: &Path,
    mounts: &[VolumeMount],
    volumes: &BTreeSet<&str>,
) {
    let mut seen = BTreeSet::new();
    for (i, mount) in mounts.iter().enumerate() {
        let path = path.index(i);
        if mount.name.is_empty() {
            errors.required(&path.child("name"), "");
        }
        if !volumes.contains(mount.name.as_str()) {
            errors.not_found(&path.child("name"), &mount.name);
        }
        let mount_path = mount.mount_path.as_str();
        if mount_path.is_empty() {
            errors.required(&path.child("mountPath"), "");
        }
        if !seen.insert(mount_path) {
            errors.invalid(&path.child("mountPath"), mount_path, "must be unique");
        }
        if let Some(sub_path) = mount.sub_path.as_deref().filter(|p| !p.is_empty()) {
            volume_validation::local_path(errors, &path.child("subPath"), sub_path);
        }
        if let Some(expr) = mount.sub_path_expr.as_deref().filter(|p| !p.is_empty()) {
            let path = path.child("subPathExpr");
            if mount.sub_path.as_deref().is_some_and(|p| !p.is_empty()) {
                errors.invalid(&path, expr, "subPathExpr and subPath are mutually exclusive");
            }
            volume_validation::local_path(errors, &path, expr);
        }
    }
}
