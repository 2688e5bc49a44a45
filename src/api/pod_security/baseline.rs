//! The checks of the baseline level: nothing that is known to lead out of a container
//! (pod-security-admission/policy/check_*.go).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{LifecycleHandler, Probe, SELinuxOptions};

use super::subject::{Subject, containers, listed, plural, quoted, setters};
use super::{Check, Violation};

pub(super) const CHECKS: &[Check] = &[
    Check { id: "appArmorProfile", since: &[(0, app_armor)], instead_of: "" },
    Check { id: "capabilities_baseline", since: &[(0, capabilities)], instead_of: "" },
    Check { id: "hostNamespaces", since: &[(0, host_namespaces)], instead_of: "" },
    Check { id: "hostPathVolumes", since: &[(0, host_paths)], instead_of: "" },
    Check { id: "hostPorts", since: &[(0, host_ports)], instead_of: "" },
    Check { id: "hostProbesAndHostLifecycle", since: &[(34, hosts)], instead_of: "" },
    Check { id: "privileged", since: &[(0, privileged)], instead_of: "" },
    Check {
        id: "procMount",
        since: &[(0, proc_mount), (35, proc_mount_of_own_users)],
        instead_of: "",
    },
    Check {
        id: "seLinuxOptions",
        since: &[(0, |pod| se_linux(pod, 3)), (31, |pod| se_linux(pod, 4))],
        instead_of: "",
    },
    Check {
        id: "seccompProfile_baseline",
        since: &[(0, seccomp_annotations), (19, seccomp)],
        instead_of: "",
    },
    Check {
        id: "sysctls",
        since: &[
            (0, |pod| sysctls(pod, 5)),
            (27, |pod| sysctls(pod, 6)),
            (29, |pod| sysctls(pod, 10)),
            (32, |pod| sysctls(pod, 12)),
        ],
        instead_of: "",
    },
    Check { id: "windowsHostProcess", since: &[(0, host_process)], instead_of: "" },
];

const APP_ARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_ANNOTATION: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER_ANNOTATION: &str = "container.seccomp.security.alpha.kubernetes.io/";

const CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// In the order in which versions allowed them.
const SE_LINUX_TYPES: &[&str] =
    &["container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
/// In the order in which versions allowed them.
const SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

fn violation(reason: &'static str, detail: String) -> Option<Violation> {
    Some(Violation { reason, detail })
}

/// The confining profiles: the runtime's own, or one of the node's.
pub(super) fn confines(profile: &str) -> bool {
    matches!(profile, "RuntimeDefault" | "Localhost")
}

fn app_armor(pod: &Subject) -> Option<Violation> {
    let mut values = BTreeSet::new();
    let profile = pod.context().and_then(|context| context.app_armor_profile.as_ref());
    let of_pod = profile.is_some_and(|profile| !confines(&profile.type_));
    values.extend(profile.filter(|_| of_pod).map(|profile| profile.type_.clone()));
    let mut bad = Vec::new();
    for container in &pod.containers {
        let profile = container.context.and_then(|context| context.app_armor_profile.as_ref());
        if let Some(profile) = profile.filter(|profile| !confines(&profile.type_)) {
            bad.push(container.name);
            values.insert(profile.type_.clone());
        }
    }
    let allowed = |value: &str| {
        value.is_empty() || value == "runtime/default" || value.starts_with("localhost/")
    };
    let annotated = pod
        .annotations
        .iter()
        .filter(|(key, value)| key.starts_with(APP_ARMOR_ANNOTATION) && !allowed(value));
    let annotated: Vec<String> = annotated.map(|(key, value)| format!("{key}={value:?}")).collect();
    let mut who: Vec<String> = setters(of_pod, &bad).into_iter().collect();
    if !annotated.is_empty() {
        who.push(plural("annotation", "annotations", annotated.len()).into());
    }
    if who.is_empty() {
        return None;
    }
    let values: Vec<&str> = values.iter().chain(&annotated).map(String::as_str).collect();
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    let (who, values) = (who.join(" and "), quoted(values));
    violation(reason, format!("{who} must not set AppArmor profile type to {values}"))
}

fn capabilities(pod: &Subject) -> Option<Violation> {
    let mut added = BTreeSet::new();
    let bad = pod.containers.iter().filter(|container| {
        let capabilities = container.context.and_then(|context| context.capabilities.as_ref());
        let add = capabilities.into_iter().flat_map(|one| one.add.iter().flatten());
        let other: Vec<_> = add.filter(|one| !CAPABILITIES.contains(&one.as_str())).collect();
        added.extend(other.iter().map(ToString::to_string));
        !other.is_empty()
    });
    let bad: Vec<&str> = bad.map(|container| container.name).collect();
    let who = setters(false, &bad)?;
    let added = listed(&added);
    let detail = format!("{who} must not include {added} in securityContext.capabilities.add");
    violation("non-default capabilities", detail)
}

fn host_namespaces(pod: &Subject) -> Option<Violation> {
    let asked = [
        ("hostNetwork=true", pod.spec.host_network),
        ("hostPID=true", pod.spec.host_pid),
        ("hostIPC=true", pod.spec.host_ipc),
    ];
    let asked: Vec<&str> =
        asked.iter().filter(|(_, set)| *set == Some(true)).map(|(name, _)| *name).collect();
    (!asked.is_empty()).then(|| violation("host namespaces", asked.join(", "))).flatten()
}

fn host_paths(pod: &Subject) -> Option<Violation> {
    let volumes = pod.spec.volumes.iter().flatten().filter(|volume| volume.host_path.is_some());
    let names: Vec<&str> = volumes.map(|volume| volume.name.as_str()).collect();
    if names.is_empty() {
        return None;
    }
    let word = plural("volume", "volumes", names.len());
    violation("hostPath volumes", format!("{word} {}", quoted(names)))
}

fn host_ports(pod: &Subject) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let bad = pod.containers.iter().filter(|container| {
        let set = container.ports.iter().filter_map(|port| port.host_port);
        let set: Vec<String> = set.filter(|port| *port != 0).map(|port| port.to_string()).collect();
        ports.extend(set.iter().cloned());
        !set.is_empty()
    });
    let bad: Vec<&str> = bad.map(|container| container.name).collect();
    let who = setters(false, &bad)?;
    let verb = plural("uses", "use", bad.len());
    let word = plural("hostPort", "hostPorts", ports.len());
    let ports = ports.into_iter().collect::<Vec<_>>().join(", ");
    violation("hostPort", format!("{who} {verb} {word} {ports}"))
}

fn hosts(pod: &Subject) -> Option<Violation> {
    let (mut bad, mut forbidden) = (BTreeSet::new(), BTreeSet::new());
    for container in &pod.containers {
        let of_probes = container.probes.iter().flatten().flat_map(|probe| hosts_of_probe(probe));
        let lifecycle = container.lifecycle;
        let handlers = [
            lifecycle.and_then(|one| one.post_start.as_ref()),
            lifecycle.and_then(|one| one.pre_stop.as_ref()),
        ];
        let of_handlers = handlers.into_iter().flatten().flat_map(hosts_of_handler);
        for host in of_probes.chain(of_handlers).filter(|host| !host.is_empty()) {
            bad.insert(container.name);
            forbidden.insert(host);
        }
    }
    if bad.is_empty() {
        return None;
    }
    let bad: Vec<&str> = bad.into_iter().collect();
    let (who, verb) = (containers(&bad), plural("uses", "use", bad.len()));
    let word = plural("probe or lifecycle host", "probe or lifecycle hosts", forbidden.len());
    let detail = format!("{who} {verb} {word} {}", listed(&forbidden));
    violation("probe or lifecycle host", detail)
}

fn hosts_of_probe(probe: &Probe) -> Vec<String> {
    let http = probe.http_get.as_ref().and_then(|action| action.host.clone());
    let tcp = probe.tcp_socket.as_ref().and_then(|action| action.host.clone());
    http.into_iter().chain(tcp).collect()
}

fn hosts_of_handler(handler: &LifecycleHandler) -> Vec<String> {
    let http = handler.http_get.as_ref().and_then(|action| action.host.clone());
    let tcp = handler.tcp_socket.as_ref().and_then(|action| action.host.clone());
    http.into_iter().chain(tcp).collect()
}

fn privileged(pod: &Subject) -> Option<Violation> {
    let bad = pod.with(false, |context| context.privileged == Some(true));
    let who = setters(false, &bad)?;
    violation("privileged", format!("{who} must not set securityContext.privileged=true"))
}

pub(super) fn proc_mount(pod: &Subject) -> Option<Violation> {
    let mut values = BTreeSet::new();
    let bad = pod.containers.iter().filter(|container| {
        let mount = container.context.and_then(|context| context.proc_mount.clone());
        let bad = mount.filter(|mount| mount != "Default");
        values.extend(bad.clone());
        bad.is_some()
    });
    let bad: Vec<&str> = bad.map(|container| container.name).collect();
    let who = setters(false, &bad)?;
    let values = listed(&values);
    violation("procMount", format!("{who} must not set securityContext.procMount to {values}"))
}

fn proc_mount_of_own_users(pod: &Subject) -> Option<Violation> {
    if pod.has_own_users() { None } else { proc_mount(pod) }
}

fn se_linux(pod: &Subject, types: usize) -> Option<Violation> {
    let (mut found, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut is_bad = |options: Option<&SELinuxOptions>| {
        let Some(options) = options else { return false };
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let type_ = text(&options.type_);
        let (has_user, has_role) =
            (!text(&options.user).is_empty(), !text(&options.role).is_empty());
        let allowed = type_.is_empty() || SE_LINUX_TYPES[..types].contains(&type_.as_str());
        user |= has_user;
        role |= has_role;
        if !allowed {
            found.insert(type_);
        }
        !allowed || has_user || has_role
    };
    let of_pod = is_bad(pod.context().and_then(|context| context.se_linux_options.as_ref()));
    let mut bad = Vec::new();
    for container in &pod.containers {
        if is_bad(container.context.and_then(|context| context.se_linux_options.as_ref())) {
            bad.push(container.name);
        }
    }
    let who = setters(of_pod, &bad)?;
    let mut data = Vec::new();
    if !found.is_empty() {
        data.push(format!("{} {}", plural("type", "types", found.len()), listed(&found)));
    }
    if user {
        data.push("user may not be set".into());
    }
    if role {
        data.push("role may not be set".into());
    }
    let data = data.join("; ");
    let detail = format!("{who} set forbidden securityContext.seLinuxOptions: {data}");
    violation("seLinuxOptions", detail)
}

/// As it was before there was a field.
fn seccomp_annotations(pod: &Subject) -> Option<Violation> {
    let allowed = |value: &str| {
        matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/")
    };
    let of_containers = pod
        .containers
        .iter()
        .map(|container| format!("{SECCOMP_CONTAINER_ANNOTATION}{}", container.name));
    let keys = std::iter::once(SECCOMP_ANNOTATION.to_string()).chain(of_containers);
    let values = keys.filter_map(|key| Some((pod.annotations.get(&key)?, key)));
    let forbidden: BTreeSet<String> = values
        .filter(|(value, _)| !allowed(value))
        .map(|(value, key)| format!("{key}={value:?}"))
        .collect();
    if forbidden.is_empty() {
        return None;
    }
    let word = plural("annotation", "annotations", forbidden.len());
    let list = forbidden.into_iter().collect::<Vec<_>>().join(", ");
    violation("seccompProfile", format!("forbidden {word} {list}"))
}

pub(super) fn seccomp(pod: &Subject) -> Option<Violation> {
    let mut values = BTreeSet::new();
    let profile = pod.context().and_then(|context| context.seccomp_profile.as_ref());
    let of_pod = profile.filter(|profile| !confines(&profile.type_));
    values.extend(of_pod.map(|profile| profile.type_.clone()));
    let mut bad = Vec::new();
    for container in &pod.containers {
        let profile = container.context.and_then(|context| context.seccomp_profile.as_ref());
        if let Some(profile) = profile.filter(|profile| !confines(&profile.type_)) {
            bad.push(container.name);
            values.insert(profile.type_.clone());
        }
    }
    let who = setters(of_pod.is_some(), &bad)?;
    let values = listed(&values);
    let detail = format!("{who} must not set securityContext.seccompProfile.type to {values}");
    violation("seccompProfile", detail)
}

fn sysctls(pod: &Subject, allowed: usize) -> Option<Violation> {
    let set = pod.context().into_iter().flat_map(|context| context.sysctls.iter().flatten());
    let names = set.map(|one| one.name.as_str());
    let bad: Vec<&str> = names.filter(|name| !SYSCTLS[..allowed].contains(name)).collect();
    (!bad.is_empty()).then(|| violation("forbidden sysctls", bad.join(", "))).flatten()
}

fn host_process(pod: &Subject) -> Option<Violation> {
    let options = pod.context().and_then(|context| context.windows_options.as_ref());
    let of_pod = options.is_some_and(|options| options.host_process == Some(true));
    let bad = pod.with(false, |context| {
        context.windows_options.as_ref().is_some_and(|options| options.host_process == Some(true))
    });
    let who = setters(of_pod, &bad)?;
    let detail = format!("{who} must not set securityContext.windowsOptions.hostProcess=true");
    violation("hostProcess", detail)
}
