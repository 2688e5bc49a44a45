//! Security contexts of pods and containers, and the pod's operating system: their values, with
//! upstream's words (pkg/apis/core/validation: ValidateSecurityContext, validateOS).
//!
//! Most of them have no effect on Wasm pods, which the table of fields says. What cannot be right
//! is refused all the same.

use k8s_openapi::api::core::v1::{
    PodSecurityContext, PodSpec, SeccompProfile, SecurityContext, WindowsSecurityContextOptions,
};

use super::{checks, volume_validation};
use crate::api::field::{Errors, Path};

const SYSTEMS: &[&str] = &["linux", "windows"];
const PROFILES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];

pub fn validate(errors: &mut Errors, path: &Path, spec: &PodSpec) {
    if let Some(context) = &spec.security_context {
        validate_pod(errors, &path.child("securityContext"), context);
    }
    let init = spec.init_containers.as_deref().unwrap_or_default();
    for (field, containers) in [("containers", &spec.containers[..]), ("initContainers", init)] {
        let path = path.child(field);
        for (i, container) in containers.iter().enumerate() {
            if let Some(context) = &container.security_context {
                let path = path.index(i);
                validate_container(errors, &path.child("securityContext"), context);
            }
        }
    }
    validate_system(errors, path, spec);
}

fn validate_system(errors: &mut Errors, path: &Path, spec: &PodSpec) {
    let Some(system) = &spec.os else { return };
    let at = path.child("os");
    match system.name.as_str() {
        "" => return errors.required(&at.child("name"), "cannot be empty"),
        "linux" => {}
        "windows" => return,
        other => return errors.not_supported(&at, other, SYSTEMS),
    }
    let pod = spec.security_context.as_ref().and_then(|context| context.windows_options.as_ref());
    no_windows(errors, &path.child("securityContext"), pod);
    let containers = path.child("containers");
    for (i, container) in spec.containers.iter().enumerate() {
        let context = container.security_context.as_ref();
        let path = containers.index(i);
        let options = context.and_then(|context| context.windows_options.as_ref());
        no_windows(errors, &path.child("securityContext"), options);
    }
}

fn no_windows(errors: &mut Errors, path: &Path, options: Option<&WindowsSecurityContextOptions>) {
    if options.is_some() {
        let detail = "windows options cannot be set for a linux pod";
        errors.forbidden(&path.child("windowsOptions"), detail);
    }
}

fn validate_pod(errors: &mut Errors, path: &Path, context: &PodSecurityContext) {
    for (field, id) in [
        ("fsGroup", context.fs_group),
        ("runAsUser", context.run_as_user),
        ("runAsGroup", context.run_as_group),
    ] {
        validate_id(errors, &path.child(field), id);
    }
    let groups = path.child("supplementalGroups");
    for (i, group) in context.supplemental_groups.iter().flatten().enumerate() {
        validate_id(errors, &groups.index(i), Some(*group));
    }
    let choices: [(&str, &Option<String>, &[&str]); 3] = [
        ("fsGroupChangePolicy", &context.fs_group_change_policy, &["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", &context.supplemental_groups_policy, &["Merge", "Strict"]),
        ("seLinuxChangePolicy", &context.se_linux_change_policy, &["MountOption", "Recursive"]),
    ];
    for (field, value, supported) in choices {
        if let Some(value) = value.as_deref().filter(|value| !supported.contains(value)) {
            errors.not_supported(&path.child(field), value, supported);
        }
    }
    validate_seccomp(errors, &path.child("seccompProfile"), context.seccomp_profile.as_ref());
}

fn validate_container(errors: &mut Errors, path: &Path, context: &SecurityContext) {
    for (field, id) in [("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group)] {
        validate_id(errors, &path.child(field), id);
    }
    validate_seccomp(errors, &path.child("seccompProfile"), context.seccomp_profile.as_ref());
    if context.allow_privilege_escalation != Some(false) {
        return;
    }
    if context.privileged == Some(true) {
        let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        errors.invalid(path, context, detail);
    }
    let added = context.capabilities.as_ref().and_then(|capabilities| capabilities.add.as_ref());
    if added.into_iter().flatten().any(|capability| capability == "CAP_SYS_ADMIN") {
        let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` \
                      CAP_SYS_ADMIN";
        errors.invalid(path, context, detail);
    }
}

/// The number of a user or group.
fn validate_id(errors: &mut Errors, path: &Path, id: Option<i64>) {
    if let Some(id) = id.filter(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
        errors.invalid(path, id, &checks::inclusive_range(0, i32::MAX.into()));
    }
}

fn validate_seccomp(errors: &mut Errors, path: &Path, profile: Option<&SeccompProfile>) {
    let Some(profile) = profile else { return };
    let at = path.child("type");
    match profile.type_.as_str() {
        "" => errors.required(&at, "type is required when seccompProfile is set"),
        known if PROFILES.contains(&known) => {}
        other => errors.not_supported(&at, other, PROFILES),
    }
    let at = path.child("localhostProfile");
    match (&profile.localhost_profile, profile.type_ == "Localhost") {
        (None, true) => errors.required(&at, "must be set when seccomp type is Localhost"),
        (Some(local), true) => volume_validation::local_path(errors, &at, local),
        (Some(_), false) => {
            errors.invalid(&at, profile, "can only be set when seccomp type is Localhost");
        }
        (None, false) => {}
    }
}
