//! ResourceSlice (resource.k8s.io/v1): the devices of a node or of a pool.
//!
//! Upstream: pkg/apis/resource/validation/validation.go.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::resource::v1::{Device, DeviceAttribute, ResourceSlice, ResourceSliceSpec};
use serde_json::Value;

use super::scheduling_validation::validate_node_selector;
use super::{checks, devices, workload};
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Generation, Kind, KindMeta};
use crate::api::table::{self, Column};

/// Most devices of a slice, and most where some have taints or share counters.
const MAX_DEVICES: usize = 128;
const MAX_ADVANCED_DEVICES: usize = 64;
/// Most sets of counters.
const MAX_COUNTER_SETS: usize = 8;
/// Most attributes and capacities of a device together.
const MAX_ATTRIBUTES: usize = 32;
/// Longest text of an attribute, in bytes.
const ATTRIBUTE_MAX_BYTES: usize = 64;
const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];

impl Kind for ResourceSlice {
    const META: KindMeta = KindMeta {
        singular: "resourceslice",
        delete_returns_object: true,
        generation: Generation::Spec,
        selectable: &["spec.nodeName", "spec.driver"],
        ..DEFAULT_META
    };

    fn validate(&self, errors: &mut Errors) {
        validate_spec(errors, &Path::new("spec"), &self.spec);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let path = Path::new("spec");
        let (new, old) = (&self.spec, &old.spec);
        let pool = path.child("pool");
        checks::immutable(errors, &pool.child("name"), &new.pool.name, &old.pool.name);
        checks::immutable(errors, &path.child("driver"), &new.driver, &old.driver);
        checks::immutable(errors, &path.child("nodeName"), &new.node_name, &old.node_name);
    }

    fn warnings(&self) -> Vec<String> {
        vec![workload::stored_only("ResourceSlice")]
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Node", "string", "The node that the devices are on."),
            Column::new("Driver", "string", "The driver of the devices."),
            Column::new("Pool", "string", "The pool that they belong to."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        vec![
            table::name(&self.metadata),
            self.spec.node_name.as_deref().filter(|n| !n.is_empty()).unwrap_or("<unset>").into(),
            self.spec.driver.clone().into(),
            self.spec.pool.name.clone().into(),
            table::age(&self.metadata, now),
        ]
    }

    fn field(&self, field: &str) -> String {
        match field {
            "spec.nodeName" => self.spec.node_name.clone().unwrap_or_default(),
            "spec.driver" => self.spec.driver.clone(),
            _ => String::new(),
        }
    }
}

fn validate_spec(errors: &mut Errors, path: &Path, spec: &ResourceSliceSpec) {
    checks::driver_name(errors, &path.child("driver"), &spec.driver);
    let pool = path.child("pool");
    devices::validate_pool_name(errors, &pool.child("name"), &spec.pool.name);
    if spec.pool.resource_slice_count <= 0 {
        let count = spec.pool.resource_slice_count;
        errors.invalid(&pool.child("resourceSliceCount"), count, "must be greater than zero");
    }
    checks::nonnegative(errors, &pool.child("generation"), spec.pool.generation);
    validate_place(errors, path, spec);
    let devices = spec.devices.as_deref().unwrap_or_default();
    let counters = spec.shared_counters.as_deref().unwrap_or_default();
    if spec.shared_counters.is_some() && spec.devices.is_some() {
        errors.invalid(path, "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let advanced = devices.iter().any(|device| {
        device.taints.iter().flatten().next().is_some()
            || device.consumes_counters.iter().flatten().next().is_some()
    });
    let most = if advanced { MAX_ADVANCED_DEVICES } else { MAX_DEVICES };
    let at = path.child("devices");
    if devices.len() > most {
        return errors.too_many(&at, devices.len(), most);
    }
    let mut names = BTreeSet::new();
    for (i, device) in devices.iter().enumerate() {
        let at = at.index(i);
        validate_device(errors, &at, device);
        if !names.insert(&device.name) {
            errors.duplicate(&at.child("name"), &device.name);
        }
    }
    let at = path.child("sharedCounters");
    if counters.len() > MAX_COUNTER_SETS {
        errors.too_many(&at, counters.len(), MAX_COUNTER_SETS);
    }
    for (i, set) in counters.iter().enumerate() {
        let at = at.index(i);
        devices::label(errors, &at.child("name"), &set.name);
        if set.counters.is_empty() {
            errors.required(&at.child("counters"), "");
        }
        for name in set.counters.keys() {
            let at = at.child("counters");
            checks::dns_label(errors, &at.key(name), name);
        }
    }
}

/// Where the devices can be used: said in exactly one way.
fn validate_place(errors: &mut Errors, path: &Path, spec: &ResourceSliceSpec) {
    const WAYS: &str = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, \
                        `perDeviceNodeSelection` is required";
    let mut set: Vec<&str> = Vec::new();
    match spec.node_name.as_deref() {
        Some("") => {
            let detail = "must be either unset or set to a non-empty string";
            errors.invalid(&path.child("nodeName"), "", detail);
        }
        Some(node) => {
            set.push("`nodeName`");
            checks::dns_subdomain(errors, &path.child("nodeName"), node);
        }
        None => {}
    }
    if let Some(selector) = &spec.node_selector {
        set.push("`nodeSelector`");
        let at = path.child("nodeSelector");
        validate_node_selector(errors, &at, selector);
        if selector.node_selector_terms.len() > 1 {
            let detail = "must have exactly one node selector term";
            errors.invalid(&at.child("nodeSelectorTerms"), &selector.node_selector_terms, detail);
        }
    }
    let flags = [
        ("allNodes", "`allNodes`", spec.all_nodes),
        ("perDeviceNodeSelection", "`perDeviceNodeSelection`", spec.per_device_node_selection),
    ];
    for (field, shown, value) in flags {
        match value {
            Some(true) => set.push(shown),
            Some(false) => {
                let detail = "must be either unset or set to true";
                errors.invalid(&path.child(field), false, detail);
            }
            None => {}
        }
    }
    match set.len() {
        0 => errors.required(path, WAYS),
        1 => {}
        _ => {
            let detail = format!("{WAYS}, but multiple fields are set");
            errors.invalid(path, format!("{{{}}}", set.join(", ")), &detail);
        }
    }
}

fn validate_device(errors: &mut Errors, path: &Path, device: &Device) {
    devices::label(errors, &path.child("name"), &device.name);
    let none = Default::default();
    let attributes = device.attributes.as_ref().unwrap_or(&none);
    let capacities = device.capacity.as_ref().map_or(0, |capacity| capacity.len());
    let count = attributes.len() + capacities;
    if count > MAX_ATTRIBUTES {
        let detail = format!(
            "the total number of attributes and capacities must not exceed {MAX_ATTRIBUTES}"
        );
        errors.invalid(path, count, &detail);
    }
    let at = path.child("attributes");
    for (name, value) in attributes {
        devices::validate_qualified(errors, &at.key(name), name);
        validate_attribute(errors, &at.key(name), value);
    }
    let at = path.child("capacity");
    for name in device.capacity.iter().flatten().map(|(name, _)| name) {
        devices::validate_qualified(errors, &at.key(name), name);
    }
    let at = path.child("taints");
    for (i, taint) in device.taints.iter().flatten().enumerate() {
        let at = at.index(i);
        checks::qualified_name(errors, &at.child("key"), &taint.key);
        checks::one_of(errors, &at.child("effect"), &taint.effect, EFFECTS);
    }
}

fn validate_attribute(errors: &mut Errors, path: &Path, value: &DeviceAttribute) {
    let texts = [("string", &value.string), ("version", &value.version)];
    let set = usize::from(value.int.is_some())
        + usize::from(value.bool.is_some())
        + texts.iter().filter(|(_, text)| text.is_some()).count();
    match set {
        0 => errors.required(path, "exactly one value must be specified"),
        1 => {}
        _ => errors.invalid(path, value, "exactly one value must be specified"),
    }
    for (field, text) in texts {
        if text.as_ref().is_some_and(|text| text.len() > ATTRIBUTE_MAX_BYTES) {
            errors.too_long(&path.child(field), ATTRIBUTE_MAX_BYTES);
        }
    }
}
