//! The aggregated form: every group with every resource in one document
//! (k8s.io/api/apidiscovery/v2).

use serde_json::{Map, Value, json};

use super::{groups, rows, subresources};
use crate::api::registry::Registry;
use crate::api::resource::KindInfo;

/// The list for `/api` (the core group alone) or `/apis` (all others).
pub(super) fn list(registry: &Registry, core: bool) -> Value {
    let items: Vec<Value> = groups(registry)
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .into_iter()
                .map(|version| {
                    let resources: Vec<Value> =
                        rows(registry, group, version).into_iter().map(resource).collect();
                    json!({"version": version, "freshness": "Current", "resources": resources})
                })
                .collect();
            // The core group has no name.
            let metadata = match group {
                "" => json!({"creationTimestamp": null}),
                group => json!({"name": group, "creationTimestamp": null}),
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    })
}

fn resource(info: &KindInfo) -> Value {
    let scope = if info.gvr.namespaced { "Namespaced" } else { "Cluster" };
    let mut entry = Map::new();
    entry.insert("resource".into(), json!(info.gvr.resource));
    entry.insert("responseKind".into(), kind(&info.gvr.group, &info.gvr.version, &info.kind));
    entry.insert("scope".into(), json!(scope));
    entry.insert("singularResource".into(), json!(info.singular));
    entry.insert("verbs".into(), json!(info.verbs()));
    for (key, list) in [("shortNames", &info.short_names), ("categories", &info.categories)] {
        if !list.is_empty() {
            entry.insert(key.into(), json!(list));
        }
    }
    let subs: Vec<Value> = subresources(info)
        .into_iter()
        .map(|sub| {
            let kind = kind(sub.group, sub.version, sub.kind);
            json!({"subresource": sub.name, "responseKind": kind, "verbs": sub.verbs})
        })
        .collect();
    if !subs.is_empty() {
        entry.insert("subresources".into(), Value::Array(subs));
    }
    Value::Object(entry)
}

fn kind(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}
