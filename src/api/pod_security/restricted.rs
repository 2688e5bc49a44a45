//! The checks of the restricted level: what a hardened Pod says of itself
//! (pod-security-admission/policy/check_*.go).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Volume;
use serde_json::Value;

use super::baseline::{confines, proc_mount, seccomp};
use super::subject::{Subject, containers, listed, plural, quoted, setters};
use super::{Check, Violation};

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "allowPrivilegeEscalation",
        since: &[(8, escalation), (25, |pod| not_on_windows(pod, escalation))],
        instead_of: "",
    },
    Check {
        id: "capabilities_restricted",
        since: &[(22, capabilities), (25, |pod| not_on_windows(pod, capabilities))],
        instead_of: "capabilities_baseline",
    },
    Check { id: "procMount_restricted", since: &[(35, proc_mount)], instead_of: "procMount" },
    Check { id: "restrictedVolumes", since: &[(0, volumes)], instead_of: "hostPathVolumes" },
    Check {
        id: "runAsNonRoot",
        since: &[(0, non_root), (35, |pod| not_with_own_users(pod, non_root))],
        instead_of: "",
    },
    Check {
        id: "runAsUser",
        since: &[(23, user), (35, |pod| not_with_own_users(pod, user))],
        instead_of: "",
    },
    Check {
        id: "seccompProfile_restricted",
        since: &[(19, profile), (25, |pod| not_on_windows(pod, profile))],
        instead_of: "seccompProfile_baseline",
    },
];

/// The kinds of volumes that need no privilege.
const VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

type Look = fn(&Subject) -> Option<Violation>;

fn not_on_windows(pod: &Subject, look: Look) -> Option<Violation> {
    if pod.is_windows() { None } else { look(pod) }
}

fn not_with_own_users(pod: &Subject, look: Look) -> Option<Violation> {
    if pod.has_own_users() { None } else { look(pod) }
}

fn escalation(pod: &Subject) -> Option<Violation> {
    let bad = pod.with(true, |context| context.allow_privilege_escalation != Some(false));
    let who = setters(false, &bad)?;
    let detail = format!("{who} must set securityContext.allowPrivilegeEscalation=false");
    Some(Violation { reason: "allowPrivilegeEscalation != false", detail })
}

fn capabilities(pod: &Subject) -> Option<Violation> {
    let (mut keeping, mut adding, mut added) = (Vec::new(), Vec::new(), BTreeSet::new());
    for container in &pod.containers {
        let found = container.context.and_then(|context| context.capabilities.clone());
        let found = found.unwrap_or_default();
        if !found.drop.iter().flatten().any(|one| one == "ALL") {
            keeping.push(container.name);
        }
        let add = found.add.into_iter().flatten().filter(|one| one != "NET_BIND_SERVICE");
        let add: Vec<String> = add.collect();
        if !add.is_empty() {
            adding.push(container.name);
            added.extend(add);
        }
    }
    let mut details = Vec::new();
    if !keeping.is_empty() {
        let who = containers(&keeping);
        details.push(format!("{who} must set securityContext.capabilities.drop=[\"ALL\"]"));
    }
    if !adding.is_empty() {
        let (who, added) = (containers(&adding), listed(&added));
        details.push(format!("{who} must not include {added} in securityContext.capabilities.add"));
    }
    if details.is_empty() {
        return None;
    }
    Some(Violation { reason: "unrestricted capabilities", detail: details.join("; ") })
}

fn volumes(pod: &Subject) -> Option<Violation> {
    let (mut bad, mut kinds) = (Vec::new(), BTreeSet::new());
    for volume in pod.spec.volumes.iter().flatten() {
        if let Some(kind) = restricted_kind(volume) {
            bad.push(volume.name.as_str());
            kinds.insert(kind);
        }
    }
    if bad.is_empty() {
        return None;
    }
    let word = plural("volume", "volumes", bad.len());
    let verb = plural("uses", "use", bad.len());
    let what = plural("restricted volume type", "restricted volume types", kinds.len());
    let detail = format!("{word} {} {verb} {what} {}", quoted(bad), listed(&kinds));
    Some(Violation { reason: "restricted volume types", detail })
}

/// The kind of a volume that is none of the allowed ones: the one field beside its name.
fn restricted_kind(volume: &Volume) -> Option<String> {
    let value = serde_json::to_value(volume).unwrap_or(Value::Null);
    let fields = value.as_object().into_iter().flatten().map(|(field, _)| field.as_str());
    let mut kinds = fields.filter(|field| *field != "name").peekable();
    if kinds.clone().any(|kind| VOLUMES.contains(&kind)) {
        return None;
    }
    Some(kinds.next().unwrap_or("unknown").to_string())
}

fn non_root(pod: &Subject) -> Option<Violation> {
    let reason = "runAsNonRoot != true";
    let of_pod = pod.context().and_then(|context| context.run_as_non_root);
    let refusing = pod.with(false, |context| context.run_as_non_root == Some(false));
    if let Some(who) = setters(of_pod == Some(false), &refusing) {
        let detail = format!("{who} must not set securityContext.runAsNonRoot=false");
        return Some(Violation { reason, detail });
    }
    let silent = pod.with(true, |context| context.run_as_non_root.is_none());
    if of_pod == Some(true) || silent.is_empty() {
        return None;
    }
    let who = containers(&silent);
    let detail = format!("pod or {who} must set securityContext.runAsNonRoot=true");
    Some(Violation { reason, detail })
}

fn user(pod: &Subject) -> Option<Violation> {
    let of_pod = pod.context().is_some_and(|context| context.run_as_user == Some(0));
    let bad = pod.with(false, |context| context.run_as_user == Some(0));
    let who = setters(of_pod, &bad)?;
    Some(Violation { reason: "runAsUser=0", detail: format!("{who} must not set runAsUser=0") })
}

fn profile(pod: &Subject) -> Option<Violation> {
    let bad = seccomp(pod);
    if bad.is_some() {
        return bad;
    }
    let of_pod = pod.context().and_then(|context| context.seccomp_profile.as_ref());
    let silent = pod.with(true, |context| context.seccomp_profile.is_none());
    if of_pod.is_some_and(|profile| confines(&profile.type_)) || silent.is_empty() {
        return None;
    }
    let who = containers(&silent);
    let detail = format!(
        "pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
         \"Localhost\""
    );
    Some(Violation { reason: "seccompProfile", detail })
}
