//! What a node's agent may say of its own Node (upstream's NodeRestriction): it cannot make pods
//! come to it that are not meant for it, by labels or by the removal of taints, nor tie the Node's
//! life to another object. Of the volumes that were made on it, it writes the finalizer that keeps
//! them until their directory is gone, and nothing else; of Services whose pods were scaled to
//! zero, that it holds a connection. Of Pods it creates the mirrors of its own static pods only,
//! which refer to no other object.
//!
//! That an agent writes only what is its own is decided in [`crate::apiserver::authz`].

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::Value;

use super::{Admitter, Attributes, Verb};
use crate::api::kinds::node_labels;
use crate::api::kinds::service_activation::{AWAITED, SCALED_TO_ZERO};
use crate::api::kinds::static_pod;
use crate::api::kinds::storage::PROVISIONER_FINALIZER;
use crate::api::simulated::SIMULATOR_LABEL;
use crate::api::{ApiError, Gvr, Object, Raw};
use crate::apiserver::authz::{self, Agent};
use crate::apiserver::node_graph::Referent;
use crate::apiserver::service::read_error;
use crate::store::Key;

pub struct NodeRestriction;

impl Admitter for NodeRestriction {
    fn validate(
        &self,
        attributes: &Attributes,
        object: &Object,
        _: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        let call = attributes.call;
        let is_node = call.info.gvr.group.is_empty() && call.info.gvr.resource == "nodes";
        let Some(agent) = authz::agent(&call.user) else { return Ok(()) };
        let node = agent.name();
        if attributes.is("", "persistentvolumes") {
            let is_held = attributes.old.is_some_and(|old| differs_in_hold(old, object));
            let why = format!(
                "node {node:?} may only write the finalizer {PROVISIONER_FINALIZER} of a volume"
            );
            let refused = || Err(ApiError::forbidden(&call.info.gvr, &call.name, why));
            return if is_held { Ok(()) } else { refused() };
        }
        if call.info.gvr.group.is_empty() && call.info.gvr.resource == "services" {
            let tells = attributes.old.is_some_and(|old| tells_of_a_wait(old, object));
            let why = format!(
                "node {node:?} may only set the condition {AWAITED} of a Service that has \
                 {SCALED_TO_ZERO}"
            );
            let refused = || Err(ApiError::forbidden(&call.info.gvr, &call.name, why));
            return if tells { Ok(()) } else { refused() };
        }
        if attributes.is("", "configmaps") && attributes.verb == Verb::Create {
            return bucket_of_a_pod(attributes, node, object);
        }
        if attributes.is("", "pods") && attributes.verb == Verb::Create {
            return mirror_of_its_own(attributes, node, object);
        }
        if !is_node || attributes.verb == Verb::Delete {
            return Ok(());
        }
        let refused = |what: String| {
            let why = format!("node {node:?} is not allowed to {what}");
            Err(ApiError::forbidden(&call.info.gvr, &call.name, why))
        };
        let owners = |object: &Object| {
            let list = object.meta().get("ownerReferences").and_then(Value::as_array);
            list.cloned().unwrap_or_default()
        };
        let before = attributes.old.map(owners).unwrap_or_default();
        if owners(object) != before {
            return refused("modify ownerReferences".into());
        }
        if let Some(old) = attributes.old
            && taints(object) != taints(old)
        {
            return refused("modify taints".into());
        }
        // By it the simulator's Lease counts for the node's.
        let labels = object.labels();
        let simulator = labels.get(SIMULATOR_LABEL).map(String::as_str);
        if simulator != matches!(agent, Agent::Simulator(_)).then_some(node) {
            return refused(format!("have {simulator:?} as its label {SIMULATOR_LABEL}"));
        }
        let labels = forbidden_labels(object, attributes.old);
        if labels.is_empty() {
            return Ok(());
        }
        let list = labels.into_iter().collect::<Vec<_>>().join(", ");
        refused(match attributes.old {
            None => format!("set the following labels: {list}"),
            Some(_) => format!("modify labels: {list}"),
        })
    }
}

/// Whether a volume differs in the provisioner's finalizer only.
fn differs_in_hold(old: &Object, new: &Object) -> bool {
    let without = |object: &Object| {
        let mut object = object.clone();
        let finalizers =
            object.finalizers().into_iter().filter(|one| *one != PROVISIONER_FINALIZER);
        let finalizers: Vec<String> = finalizers.map(str::to_string).collect();
        object.set_meta("finalizers", finalizers);
        for field in ["managedFields", "resourceVersion", "generation"] {
            object.set_meta(field, Value::Null);
        }
        object
    };
    without(old) == without(new)
}

/// Whether a Service differs in the condition only that a connection waits, and may have it.
fn tells_of_a_wait(old: &Object, new: &Object) -> bool {
    let conditions = |object: &Object| {
        let list = object.at(&["status", "conditions"]).and_then(Value::as_array);
        list.cloned().unwrap_or_default()
    };
    let has = |object: &Object, kind: &str| {
        conditions(object).iter().any(|one| one["type"] == kind && one["status"] == "True")
    };
    let without = |object: &Object| {
        let mut others = conditions(object);
        others.retain(|one| one["type"] != AWAITED);
        let mut object = object.clone();
        for field in ["managedFields", "resourceVersion"] {
            object.set_meta(field, Value::Null);
        }
        if let Some(status) = object.fields_mut().get_mut("status").and_then(Value::as_object_mut) {
            status.remove("conditions");
        }
        (object, others)
    };
    has(old, SCALED_TO_ZERO) && has(new, AWAITED) && without(old) == without(new)
}

/// A node makes the buckets of its pods, and no other ConfigMap. Its updates are seen in their URL.
fn bucket_of_a_pod(attributes: &Attributes, node: &str, object: &Object) -> Result<(), ApiError> {
    let (namespace, name) = (attributes.call.namespace.as_str(), object.name());
    if attributes.server.node_graph.refers(node, namespace, Referent::Bucket, name) {
        return Ok(());
    }
    let why = format!("no relationship found between node '{node}' and this object");
    Err(ApiError::forbidden(&attributes.call.info.gvr, name, why))
}

/// Upstream's admitPodCreate, with its words.
fn mirror_of_its_own(attributes: &Attributes, node: &str, object: &Object) -> Result<(), ApiError> {
    let gvr = &attributes.call.info.gvr;
    let refused = |why: String| Err(ApiError::forbidden(gvr, object.name(), why));
    let pod: Pod = object.typed()?;
    if static_pod::mirrors(&pod).is_none() {
        let mirror = static_pod::MIRROR;
        return refused(format!(
            "pod does not have {mirror:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    if pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) != Some(node) {
        let what = "can only create pods with spec.nodeName set to itself";
        return refused(format!("node {node:?} {what}"));
    }
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    let [owner] = owners else {
        let what = "can only create pods with a single owner reference set to itself";
        return refused(format!("node {node:?} {what}"));
    };
    if owner.api_version != "v1" || owner.kind != "Node" || owner.name != node {
        let what = "can only create pods with an owner reference set to itself";
        return refused(format!("node {node:?} {what}"));
    }
    if owner.controller != Some(true) {
        let what = "can only create pods with a controller owner reference set to itself";
        return refused(format!("node {node:?} {what}"));
    }
    if owner.block_owner_deletion == Some(true) {
        let what = "must not set blockOwnerDeletion on an owner reference";
        return refused(format!("node {node:?} {what}"));
    }
    let stored = attributes.server.store.get(&Key::new(&["", "nodes", "", node]));
    let Some(stored) = stored.map_err(read_error)? else {
        return Err(ApiError::not_found(&Gvr::of::<Node>(), node));
    };
    let stored = Raw(stored.value).object()?;
    if stored.uid() != owner.uid {
        let (wanted, given) = (stored.uid(), &owner.uid);
        return refused(format!("node {node} UID mismatch: expected {wanted} got {given}"));
    }
    match static_pod::object_reference(&pod) {
        Some(resource) => {
            refused(format!("node {node:?} can not create pods that reference {resource}"))
        }
        None => Ok(()),
    }
}

fn taints(object: &Object) -> &[Value] {
    let taints = object.at(&["spec", "taints"]).and_then(Value::as_array);
    taints.map(Vec::as_slice).unwrap_or_default()
}

/// The keys of labels that differ and that an agent may not touch.
fn forbidden_labels(new: &Object, old: Option<&Object>) -> BTreeSet<String> {
    let new = new.labels();
    let old = old.map(Object::labels).unwrap_or_default();
    let keys = new.keys().chain(old.keys()).filter(|key| new.get(*key) != old.get(*key));
    keys.filter(|key| node_labels::is_forbidden(key)).cloned().collect()
}
