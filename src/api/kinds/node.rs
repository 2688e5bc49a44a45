//! Node (core/v1).

use std::collections::{BTreeSet, HashSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeStatus, Taint};
use serde_json::Value;

use super::{checks, labels, resources};
use crate::api::field::{Errors, Path};
use crate::api::names;
use crate::api::resource::{DEFAULT_META, Kind, KindMeta, Subresource};
use crate::api::table::{self, Column};

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE_LABEL: &str = "kubernetes.io/role";

impl Kind for Node {
    const META: KindMeta = KindMeta {
        singular: "node",
        short_names: &["no"],
        status: true,
        status_on_create: true,
        selectable: &["spec.unschedulable"],
        subresources: &[Subresource {
            name: "proxy",
            group: "",
            version: "v1",
            kind: "NodeProxyOptions",
            verbs: &["create", "delete", "get", "patch", "update"],
        }],
        ..DEFAULT_META
    };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        self.spec.get_or_insert_default();
        let status = self.status.get_or_insert_default();
        if status.allocatable.is_none() {
            status.allocatable.clone_from(&status.capacity);
        }
        resources::canonicalize(status.capacity.as_mut());
        resources::canonicalize(status.allocatable.as_mut());
    }

    fn validate(&self, errors: &mut Errors) {
        let spec_path = Path::new("spec");
        let Some(spec) = &self.spec else { return };
        let metadata = Path::new("metadata");
        // Upstream names taints under metadata.
        let taints = spec.taints.as_deref().unwrap_or_default();
        validate_taints(errors, &metadata.child("taints"), taints);
        let cidrs = spec.pod_cidrs.as_deref().unwrap_or_default();
        let path = spec_path.child("podCIDRs");
        let mut seen = HashSet::new();
        for (i, cidr) in cidrs.iter().enumerate() {
            checks::cidr(errors, &path.index(i), cidr);
            if !seen.insert(cidr) {
                errors.duplicate(&path.index(i), cidr);
            }
        }
        let families: BTreeSet<bool> = cidrs.iter().map(|c| c.contains(':')).collect();
        if cidrs.len() > 1 && families.len() != cidrs.len() {
            let detail = "may specify no more than one CIDR for each IP family";
            errors.invalid(&path, cidrs, detail);
        }
        validate_amounts(errors, self.status.as_ref());
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let (new, old) =
            (self.spec.clone().unwrap_or_default(), old.spec.clone().unwrap_or_default());
        let spec = Path::new("spec");
        let set = |cidrs: &Option<Vec<String>>| cidrs.clone().unwrap_or_default();
        if !set(&old.pod_cidrs).is_empty() && set(&old.pod_cidrs) != set(&new.pod_cidrs) {
            let detail = "node updates may not change podCIDR except from \"\" to valid";
            errors.forbidden(&spec.child("podCIDRs"), detail);
        }
        let old_id = old.provider_id.as_deref().unwrap_or_default();
        if !old_id.is_empty() && new.provider_id.as_deref() != Some(old_id) {
            let detail = "node updates may not change providerID except from \"\" to valid";
            errors.forbidden(&spec.child("providerID"), detail);
        }
        if new.external_id.unwrap_or_default() != old.external_id.unwrap_or_default() {
            errors.forbidden(&spec.child("externalID"), "may not be updated");
        }
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        let status = Path::new("status");
        let path = status.child("addresses");
        let addresses = self.status.as_ref().and_then(|s| s.addresses.as_deref());
        let addresses = addresses.unwrap_or_default();
        let mut seen = HashSet::new();
        for (i, address) in addresses.iter().enumerate() {
            if !seen.insert((&address.type_, &address.address)) {
                errors.duplicate(&path.index(i), address);
            }
        }
        validate_amounts(errors, self.status.as_ref());
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Status", "string", "The status of the node"),
            Column::new("Roles", "string", "The roles of the node"),
            table::AGE,
            Column::new("Version", "string", "The version that the node agent reports."),
            Column::wide("Internal-IP", "string", "The node's first internal address."),
            Column::wide("External-IP", "string", "The node's first external address."),
            Column::wide("OS-Image", "string", "The operating system that the node reports."),
            Column::wide("Kernel-Version", "string", "The kernel that the node reports."),
            Column::wide("Container-Runtime", "string", "The runtime that the node reports."),
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let status = self.status.clone().unwrap_or_default();
        let info = status.node_info.clone().unwrap_or_default();
        let known = |text: String| if text.is_empty() { "<unknown>".into() } else { text };
        vec![
            table::name(&self.metadata),
            readiness(self, &status).into(),
            roles(self).into(),
            table::age(&self.metadata, now),
            info.kubelet_version.into(),
            address(&status, "InternalIP").into(),
            address(&status, "ExternalIP").into(),
            known(info.os_image).into(),
            known(info.kernel_version).into(),
            known(info.container_runtime_version).into(),
        ]
    }

    fn field(&self, field: &str) -> String {
        match field {
            "spec.unschedulable" => is_unschedulable(self).to_string(),
            _ => String::new(),
        }
    }
}

fn is_unschedulable(node: &Node) -> bool {
    node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or_default()
}

/// `Ready`, `NotReady,SchedulingDisabled`, `Unknown`.
fn readiness(node: &Node, status: &NodeStatus) -> String {
    let mut conditions = status.conditions.iter().flatten();
    let ready = match conditions.find(|c| c.type_ == "Ready") {
        Some(condition) if condition.status == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    if is_unschedulable(node) { format!("{ready},SchedulingDisabled") } else { ready.into() }
}

fn roles(node: &Node) -> String {
    let mut roles = BTreeSet::new();
    for (key, value) in node.metadata.labels.iter().flatten() {
        match key.strip_prefix(ROLE_PREFIX) {
            Some(role) if !role.is_empty() => _ = roles.insert(role),
            None if key == ROLE_LABEL && !value.is_empty() => _ = roles.insert(value),
            _ => {}
        }
    }
    let roles: Vec<&str> = roles.into_iter().collect();
    checks::or_none(Some(&roles.join(","))).into()
}

fn address(status: &NodeStatus, kind: &str) -> String {
    let mut addresses = status.addresses.iter().flatten();
    let found = addresses.find(|a| a.type_ == kind);
    checks::or_none(found.map(|a| a.address.as_str())).into()
}

/// Taints are unique by key and effect.
fn validate_taints(errors: &mut Errors, path: &Path, taints: &[Taint]) {
    const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
    let mut seen = HashSet::new();
    for (i, taint) in taints.iter().enumerate() {
        let path = path.index(i);
        labels::validate_label_key(errors, &path.child("key"), &taint.key);
        let value = taint.value.as_deref().unwrap_or_default();
        let wrong = names::is_label_value(value);
        if !wrong.is_empty() {
            errors.invalid(&path.child("value"), value, &wrong.join(";"));
        }
        checks::one_of(errors, &path.child("effect"), &taint.effect, EFFECTS);
        if !seen.insert((&taint.key, &taint.effect)) {
            let detail = "taints must be unique by key and effect pair";
            errors.duplicate_why(&path, taint, detail);
        }
    }
}

fn validate_amounts(errors: &mut Errors, status: Option<&NodeStatus>) {
    let Some(status) = status else { return };
    let root = Path::new("status");
    for (field, amounts) in [("capacity", &status.capacity), ("allocatable", &status.allocatable)] {
        let path = root.child(field);
        for (name, text) in amounts.iter().flatten() {
            resources::validate_amount(errors, &path.child(name), name, text);
        }
    }
}
