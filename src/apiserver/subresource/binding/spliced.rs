//! A stored Pod on its node, made of its bytes: of all that is bound, by the thousand, nothing but the
//! name of the node and the status is looked into.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::set_bound;
use crate::store::Value as StoreValue;

/// An object's fields as they are written.
type Fields<'a> = BTreeMap<&'a str, Cow<'a, str>>;

/// Where a Pod has one of these, more than the binding has to be thought of.
const NEEDS_A_LOOK: &[&str] = &["deletionTimestamp", "managedFields"];

/// What is stored of a Pod that is bound at `now`; an empty `uid` is any. `None` where it may have to
/// be refused, or its fields have owners.
pub(super) fn bound(raw: &[u8], uid: &str, node: &str, now: &str) -> Option<StoreValue> {
    let mut pod = fields(std::str::from_utf8(raw).ok()?)?;
    let (meta, spec) = (pod.get("metadata")?.clone(), pod.get("spec")?.clone());
    let (mut meta, mut spec) = (fields(&meta)?, fields(&spec)?);
    if NEEDS_A_LOOK.iter().any(|field| meta.contains_key(field))
        || ["nodeName", "schedulingGates"].iter().any(|field| spec.contains_key(field))
        || !(uid.is_empty() || serde_json::from_str::<&str>(meta.get("uid")?).ok()? == uid)
    {
        return None;
    }
    meta.remove("resourceVersion");
    spec.insert("nodeName", serde_json::to_string(node).ok()?.into());
    let mut status = match pod.get("status") {
        Some(text) => serde_json::from_str::<Map<String, Value>>(text).ok()?,
        None => Map::new(),
    };
    set_bound(&mut status, now);
    pod.insert("spec", written(&spec).into());
    pod.insert("status", serde_json::to_string(&status).ok()?.into());
    Some(whole(&pod, &meta))
}

fn fields(text: &str) -> Option<Fields<'_>> {
    let fields: BTreeMap<&str, &RawValue> = serde_json::from_str(text).ok()?;
    Some(fields.into_iter().map(|(key, value)| (key, value.get().into())).collect())
}

fn written(fields: &Fields<'_>) -> String {
    let mut out = String::from("{");
    append(&mut out, fields.iter());
    out.push('}');
    out
}

fn append<'f, 'a: 'f>(
    out: &mut String,
    fields: impl Iterator<Item = (&'f &'a str, &'f Cow<'a, str>)>,
) {
    for (key, value) in fields {
        if !out.ends_with('{') {
            out.push(',');
        }
        // Keys that are borrowed have nothing that is escaped.
        out.extend(["\"", key, "\":", value]);
    }
}

/// In the order of [`crate::api::Object::to_json_with_splice`].
fn whole(pod: &Fields<'_>, meta: &Fields<'_>) -> StoreValue {
    let mut out = String::with_capacity(2048);
    out.push('{');
    let head = ["kind", "apiVersion"];
    append(&mut out, head.iter().filter_map(|field| pod.get_key_value(field)));
    out.push_str(if out.len() > 1 { ",\"metadata\":{" } else { "\"metadata\":{" });
    out.push_str("\"resourceVersion\":\"");
    let splice_at = out.len();
    out.push('"');
    append(&mut out, meta.iter());
    out.push('}');
    let rest = pod.iter().filter(|(field, _)| !head.contains(field) && **field != "metadata");
    append(&mut out, rest);
    out.push('}');
    StoreValue { bytes: out.into_bytes().into(), splice_at: Some(splice_at) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::Object;
    use crate::apiserver::write::spliced;

    const NOW: &str = "2026-01-01T00:00:00Z";

    fn pod() -> Value {
        json!({"kind": "Pod", "apiVersion": "v1",
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "resourceVersion": "7",
                "annotations": {"a/b": "\"quoted\" \u{e9}\n"}, "labels": {}},
            "spec": {"containers": [{"name": "c", "args": ["{", "}", ",\"nodeName\":"]}],
                "zone": 1, "priority": -5.5},
            "status": {"phase": "Pending", "nominatedNodeName": "n", "conditions": [
                {"type": "Other", "status": "True"},
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}})
    }

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    #[test]
    fn the_bytes_are_those_of_the_whole_object() {
        let mut bare = pod();
        bare.as_object_mut().unwrap().remove("status");
        for value in [pod(), bare] {
            let raw = object(value.clone()).to_json();
            let binding = object(json!({"metadata": {"name": "p"}}));
            let slow = spliced(&super::super::bound(object(value), "node-1", &binding, NOW));
            let quick = bound(&raw, "u", "node-1", NOW).unwrap();
            assert_eq!(quick.bytes, slow.bytes);
            assert_eq!(quick.splice_at, slow.splice_at);
            assert_eq!(bound(&raw, "", "node-1", NOW).unwrap().bytes, slow.bytes);
        }
    }

    #[test]
    fn what_may_be_refused_or_is_owned_is_left_to_others() {
        let with = |pointer: &str, field: &str, new: Value| {
            let mut value = pod();
            value.pointer_mut(pointer).unwrap()[field] = new;
            bound(&object(value).to_json(), "u", "node-1", NOW).is_some()
        };
        assert!(with("/metadata", "generation", json!(1)));
        assert!(!with("/metadata", "uid", json!("other")));
        assert!(!with("/metadata", "deletionTimestamp", json!(NOW)));
        assert!(!with("/metadata", "managedFields", json!([])));
        assert!(!with("/spec", "nodeName", json!("node-2")));
        assert!(!with("/spec", "schedulingGates", json!([{"name": "g"}])));
        assert!(!with("/spec", "es\"caped", json!(1)));
        assert!(bound(b"{}", "", "n", NOW).is_none());
        assert!(bound(b"no json", "", "n", NOW).is_none());
    }
}
