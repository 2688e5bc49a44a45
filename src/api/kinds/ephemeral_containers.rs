//! Ephemeral containers of a Pod (`kubectl debug`): defaults, validation, and what may change
//! through `pods/ephemeralcontainers` (k8s.io/kubernetes/pkg/apis/core/validation, the functions of
//! that name). Fields that they may not have are rows of [`super::pod_field_rows`].

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, PodSpec};

use super::container_validation;
use crate::api::field::{Errors, Path};

/// The container that it is, whose target apart.
pub fn as_container(one: &EphemeralContainer) -> Container {
    let one = one.clone();
    Container {
        args: one.args,
        command: one.command,
        env: one.env,
        env_from: one.env_from,
        image: one.image,
        image_pull_policy: one.image_pull_policy,
        lifecycle: one.lifecycle,
        liveness_probe: one.liveness_probe,
        name: one.name,
        ports: one.ports,
        readiness_probe: one.readiness_probe,
        resize_policy: one.resize_policy,
        resources: one.resources,
        restart_policy: one.restart_policy,
        restart_policy_rules: one.restart_policy_rules,
        security_context: one.security_context,
        startup_probe: one.startup_probe,
        stdin: one.stdin,
        stdin_once: one.stdin_once,
        termination_message_path: one.termination_message_path,
        termination_message_policy: one.termination_message_policy,
        tty: one.tty,
        volume_devices: one.volume_devices,
        volume_mounts: one.volume_mounts,
        working_dir: one.working_dir,
    }
}

/// Sets a container's defaults by `set`.
pub fn set_defaults(one: &mut EphemeralContainer, set: impl Fn(&mut Container)) {
    let mut container = as_container(one);
    set(&mut container);
    one.image_pull_policy = container.image_pull_policy;
    one.termination_message_path = container.termination_message_path;
    one.termination_message_policy = container.termination_message_policy;
    one.resources = container.resources;
    one.env = container.env;
}

/// Those of a spec whose other containers have these names.
pub fn validate<'a>(
    errors: &mut Errors,
    path: &Path,
    spec: &'a PodSpec,
    seen: &mut BTreeSet<&'a str>,
    volumes: &BTreeSet<&str>,
) {
    let others: BTreeSet<&str> = seen.clone();
    let list = path.child("ephemeralContainers");
    for (i, one) in spec.ephemeral_containers.iter().flatten().enumerate() {
        let path = list.index(i);
        container_validation::validate_container(errors, &path, &as_container(one), volumes);
        if !seen.insert(one.name.as_str()) {
            errors.duplicate(&path.child("name"), &one.name);
        }
        let target = one.target_container_name.as_deref().unwrap_or_default();
        if !target.is_empty() && !others.contains(target) {
            errors.not_found(&path.child("targetContainerName"), target);
        }
        let mounts = path.child("volumeMounts");
        for (i, mount) in one.volume_mounts.iter().flatten().enumerate() {
            let path = mounts.index(i);
            let fields = [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)];
            for (field, value) in fields {
                if value.as_deref().is_some_and(|value| !value.is_empty()) {
                    let detail = "cannot be set for an Ephemeral Container";
                    errors.forbidden(&path.child(field), detail);
                }
            }
        }
    }
}

/// What is there stays as it is.
pub fn validate_update(errors: &mut Errors, path: &Path, new: &PodSpec, old: &PodSpec) {
    let path = path.child("ephemeralContainers");
    let find = |name: &str| {
        let mut all = new.ephemeral_containers.iter().flatten();
        all.find(|one| one.name == name)
    };
    for before in old.ephemeral_containers.iter().flatten() {
        let name = &before.name;
        match find(name) {
            None => {
                let detail = format!("existing ephemeral containers {name:?} may not be removed\n");
                errors.forbidden(&path, &detail);
            }
            Some(after) if after != before => {
                let detail = format!("existing ephemeral containers {name:?} may not be changed\n");
                errors.forbidden(&path, &detail);
            }
            Some(_) => {}
        }
    }
}
