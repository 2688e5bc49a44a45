//! Pod (core/v1): metadata, the rules of change, and what selectors see. The spec's defaults,
//! policy, validation and the table's row have files of their own.

use std::collections::HashSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodSpec, PodStatus};
use serde_json::Value;

use super::{checks, ephemeral_containers, pod_columns, pod_defaults, pod_fields, pod_grants};
use super::{
    pod_selected, pod_update, pod_validation, pod_warnings, resources, scheduling_gates,
    static_pod, volume_validation,
};
use crate::api::Object;
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Generation, Kind, KindMeta, Subresource};
use crate::api::table::Column;
use crate::api::tags;

const fn core_subresource(
    name: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
) -> Subresource {
    Subresource { name, group: "", version: "v1", kind, verbs }
}

impl Kind for Pod {
    const META: KindMeta = KindMeta {
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        status: true,
        subresources: &[
            core_subresource("attach", "PodAttachOptions", &["create", "get"]),
            core_subresource("binding", "Binding", &["create"]),
            // Ours, as profile and why are.
            core_subresource("coredump", "Pod", &["get"]),
            core_subresource("ephemeralcontainers", "Pod", &["get", "patch", "update"]),
            Subresource {
                name: "eviction",
                group: "policy",
                version: "v1",
                kind: "Eviction",
                verbs: &["create"],
            },
            core_subresource("exec", "PodExecOptions", &["create", "get"]),
            core_subresource("log", "Pod", &["get"]),
            core_subresource("portforward", "PodPortForwardOptions", &["create", "get"]),
            core_subresource("profile", "Pod", &["get"]),
            core_subresource(
                "proxy",
                "PodProxyOptions",
                &["create", "delete", "get", "patch", "update"],
            ),
            core_subresource("why", "Pod", &["get"]),
        ],
        generation: Generation::Spec,
        delete_returns_object: true,
        selectable: &[
            "spec.nodeName",
            "spec.host",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
        ..DEFAULT_META
    };

    fn set_defaults(&mut self, old: Option<&Self>) {
        let spec = self.spec.get_or_insert_default();
        pod_defaults::set_spec(spec);
        pod_defaults::set_pod(spec);
        // The class is given once; writers of the status need not repeat it.
        if let Some(old) = old.and_then(|o| o.status.as_ref()) {
            let status = self.status.get_or_insert_default();
            if status.qos_class.is_none() {
                status.qos_class.clone_from(&old.qos_class);
            }
        }
    }

    fn prepare_create(&mut self) {
        let mut spec = self.spec.clone().unwrap_or_default();
        pod_defaults::set_pod(&mut spec);
        let gated = scheduling_gates::is_gated(&spec);
        self.status = Some(PodStatus {
            conditions: gated.then(|| vec![scheduling_gates::condition()]),
            phase: Some("Pending".into()),
            qos_class: Some(resources::qos_class(&spec).into()),
            ..PodStatus::default()
        });
    }

    fn validate(&self, errors: &mut Errors) {
        pod_grants::validate(errors, self.metadata.annotations.as_ref());
        let path = Path::new("spec");
        let Some(spec) = &self.spec else { return errors.required(&path, "") };
        static_pod::validate(errors, self.metadata.annotations.as_ref(), spec);
        pod_validation::validate(errors, &path, spec);
        // Templates may hold such images, as they always could.
        let containers = path.child("containers");
        for (i, container) in spec.containers.iter().enumerate() {
            let image = container.image.as_deref().unwrap_or_default();
            if image != image.trim() {
                let detail = "must not have leading or trailing whitespace";
                errors.invalid(&containers.index(i).child("image"), image, detail);
            }
        }
    }

    fn validate_create(&self, errors: &mut Errors) {
        pod_grants::validate_create(errors, self.metadata.annotations.as_ref());
        if let Some(spec) = &self.spec {
            let (path, volumes) = (Path::new("spec"), spec.volumes.as_deref());
            let volumes = volumes.unwrap_or_default();
            volume_validation::validate_create(errors, &path.child("volumes"), volumes);
            scheduling_gates::validate_create(errors, &Path::new("spec"), spec);
        }
        let debug = self.spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_ref());
        if debug.is_some_and(|list| !list.is_empty()) {
            let path = Path::new("spec");
            errors.forbidden(&path.child("ephemeralContainers"), "cannot be set on create");
        }
    }

    fn validate_ephemeral_containers_update(&self, old: &Self, errors: &mut Errors) {
        if static_pod::mirrors(self).is_some() {
            return errors
                .forbidden(&Path::new("spec"), "static pods do not support ephemeral containers");
        }
        if let (Some(new), Some(old)) = (&self.spec, &old.spec) {
            ephemeral_containers::validate_update(errors, &Path::new("spec"), new, old);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let (new, before) = (&self.metadata.annotations, &old.metadata.annotations);
        pod_grants::validate_update(errors, new.as_ref(), before.as_ref());
        static_pod::validate_update(errors, self, old);
        if let (Some(new), Some(old)) = (&self.spec, &old.spec) {
            pod_update::validate(errors, &Path::new("spec"), new, old);
        }
    }

    fn validate_status_update(&self, old: &Self, errors: &mut Errors) {
        let path = Path::new("status");
        let empty = PodStatus::default();
        let new = self.status.as_ref().unwrap_or(&empty);
        let old_status = old.status.as_ref().unwrap_or(&empty);
        if old_status.qos_class.is_some() {
            let path = path.child("qosClass");
            checks::immutable(errors, &path, &new.qos_class, &old_status.qos_class);
        }
        let ips: Vec<&str> = new.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
        validate_ips(errors, &path.child("podIPs"), &ips);
        let ips: Vec<&str> = new.host_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
        validate_ips(errors, &path.child("hostIPs"), &ips);
        if ips.first().is_some_and(|first| new.host_ip.as_deref() != Some(*first)) {
            let path = path.child("hostIPs");
            let path = path.index(0);
            errors.invalid(&path.child("ip"), ips[0], "must be equal to `hostIP`");
        }
        if let Some(node) = new.nominated_node_name.as_deref().filter(|n| !n.is_empty()) {
            checks::dns_subdomain(errors, &path.child("nominatedNodeName"), node);
        }
        let Some(spec) = &old.spec else { return };
        let lists = [
            ("containerStatuses", &new.container_statuses, &old_status.container_statuses),
            (
                "initContainerStatuses",
                &new.init_container_statuses,
                &old_status.init_container_statuses,
            ),
        ];
        for (name, new, old) in lists {
            let (new, old) =
                (new.as_deref().unwrap_or_default(), old.as_deref().unwrap_or_default());
            validate_transitions(errors, &path.child(name), spec, new, old);
        }
    }

    fn check_fields(&self, rendered: &Object, errors: &mut Errors, warnings: &mut Vec<String>) {
        if let Some(spec) = rendered.get("spec").and_then(Value::as_object) {
            pod_fields::check_rendered(spec, &Path::new("spec"), errors, warnings);
        }
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(spec) = &self.spec {
            pod_warnings::of_definitions(spec, &Path::new("spec"), &mut warnings);
        }
        let root = Path::new("metadata");
        let annotations = self.metadata.annotations.as_ref();
        pod_grants::warnings(&mut warnings, &root.child("annotations"), annotations);
        warnings
    }

    fn columns() -> &'static [Column] {
        pod_columns::COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        pod_columns::row(self, now)
    }

    fn field(&self, field: &str) -> String {
        let (spec, status) = (self.spec.as_ref(), self.status.as_ref());
        let value = match field {
            "spec.nodeName" | "spec.host" => spec.and_then(|s| s.node_name.clone()),
            "spec.restartPolicy" => spec.and_then(|s| s.restart_policy.clone()),
            "spec.schedulerName" => spec.and_then(|s| s.scheduler_name.clone()),
            "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()),
            "spec.hostNetwork" => {
                Some(spec.and_then(|s| s.host_network).unwrap_or_default().to_string())
            }
            "status.phase" => status.and_then(|s| s.phase.clone()),
            "status.podIP" => status.and_then(|s| s.pod_ip.clone()),
            "status.podIPs" => {
                let ips = status.and_then(|s| s.pod_ips.as_deref()).unwrap_or_default();
                Some(ips.iter().map(|ip| ip.ip.as_str()).collect::<Vec<_>>().join(","))
            }
            "status.nominatedNodeName" => status.and_then(|s| s.nominated_node_name.clone()),
            _ => None,
        };
        value.unwrap_or_default()
    }

    fn selected(raw: &[u8]) -> serde_json::Result<Pod> {
        serde_json::from_slice::<pod_selected::Selected>(raw).map(Pod::from)
    }

    fn pod_spec(&mut self) -> Option<&mut Option<PodSpec>> {
        Some(&mut self.spec)
    }

    fn index(&self) -> Option<String> {
        self.spec.as_ref()?.node_name.clone().filter(|n| !n.is_empty())
    }

    fn tags(&self) -> Vec<String> {
        tags::of_pod(self)
    }

    fn has_tags_of(&self, old: &Self) -> bool {
        tags::are_those_of_pod(self, old)
    }
}

/// One address of each family at most, each once.
fn validate_ips(errors: &mut Errors, path: &Path, ips: &[&str]) {
    for (i, ip) in ips.iter().enumerate() {
        checks::ip(errors, &path.index(i), ip);
        if ips[..i].contains(ip) {
            errors.duplicate(&path.index(i), ip);
        }
    }
    let v6 = ips.iter().filter(|ip| ip.contains(':')).count();
    if v6 > 1 || ips.len() - v6 > 1 {
        let detail = "may specify no more than one IP for each IP family";
        errors.invalid(path, ips, detail);
    }
}

/// A container that ended for good stays ended: by its own restart policy, where it has one (KEP-5307,
/// KEP-753), or by the pod's.
fn validate_transitions(
    errors: &mut Errors,
    path: &Path,
    spec: &PodSpec,
    new: &[ContainerStatus],
    old: &[ContainerStatus],
) {
    let containers = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let policy_of = |name: &str| {
        let own = containers().find(|one| one.name == name).map(|one| &one.restart_policy);
        let policy = own.into_iter().flatten().next().or(spec.restart_policy.as_ref());
        policy.map_or("Always", String::as_str)
    };
    let ended = |c: &ContainerStatus| c.state.as_ref().and_then(|s| s.terminated.clone());
    let alive: HashSet<&str> =
        new.iter().filter(|n| ended(n).is_none()).map(|n| n.name.as_str()).collect();
    for (i, old) in old.iter().enumerate() {
        let Some(terminated) = ended(old) else { continue };
        match policy_of(&old.name) {
            "Always" => continue,
            "OnFailure" if terminated.exit_code != 0 => continue,
            _ => {}
        }
        if alive.contains(old.name.as_str()) {
            let detail = "may not be transitioned to non-terminated state";
            errors.forbidden(&path.index(i).child("state"), detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_ended_for_good_stays_ended() {
        let spec = |pod: &str| -> PodSpec {
            let container =
                |name: &str, own: Option<&str>| json!({"name": name, "restartPolicy": own});
            let containers = [container("plain", None), container("own", Some("OnFailure"))];
            let inits = [container("sidecar", Some("Always"))];
            let spec =
                json!({"restartPolicy": pod, "containers": containers, "initContainers": inits});
            serde_json::from_value(spec).expect("a spec")
        };
        let status = |name: &str, state: Value| -> ContainerStatus {
            let status = json!({"name": name, "state": state, "image": "", "imageID": "",
                "ready": false, "restartCount": 0});
            serde_json::from_value(status).expect("a status")
        };
        let is_allowed = |pod: &str, name: &str, code: i32| {
            let mut errors = Errors::default();
            let old = [status(name, json!({"terminated": {"exitCode": code}}))];
            let new = [status(name, json!({"running": {}}))];
            validate_transitions(&mut errors, &Path::new("status"), &spec(pod), &new, &old);
            errors.is_empty()
        };
        for (pod, name, after_success, after_failure) in [
            ("Always", "plain", true, true),
            ("OnFailure", "plain", false, true),
            ("Never", "plain", false, false),
            ("Always", "own", false, true),
            ("Never", "own", false, true),
            ("Never", "sidecar", true, true),
        ] {
            let allowed = [is_allowed(pod, name, 0), is_allowed(pod, name, 1)];
            assert_eq!(allowed, [after_success, after_failure], "{pod} {name}");
        }
    }
}
