//! The plain form: one document a level (metav1 APIVersions, APIGroupList, APIGroup,
//! APIResourceList).

use serde_json::{Map, Value, json};

use super::{groups, rows, subresources};
use crate::api::registry::Registry;
use crate::api::resource::KindInfo;

/// `/api`.
pub(super) fn core_versions(registry: &Registry, server: &str) -> Value {
    let versions = groups(registry).into_iter().find(|(group, _)| group.is_empty());
    json!({
        "kind": "APIVersions",
        "versions": versions.map(|(_, versions)| versions).unwrap_or_default(),
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server}],
    })
}

/// `/apis`.
pub(super) fn group_list(registry: &Registry) -> Value {
    let named = groups(registry).into_iter().filter(|(group, _)| !group.is_empty());
    let list: Vec<Value> =
        named.map(|(group, versions)| Value::Object(group_fields(group, &versions))).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list})
}

/// `/apis/<group>`; `None` for a group that nobody serves.
pub(super) fn group(registry: &Registry, group: &str) -> Option<Value> {
    let (_, versions) =
        groups(registry).into_iter().find(|(name, _)| *name == group && !name.is_empty())?;
    let mut fields = group_fields(group, &versions);
    fields.insert("kind".into(), "APIGroup".into());
    fields.insert("apiVersion".into(), "v1".into());
    Some(Value::Object(fields))
}

fn group_fields(group: &str, versions: &[&str]) -> Map<String, Value> {
    let version =
        |version: &&str| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    let list: Vec<Value> = versions.iter().map(version).collect();
    let mut fields = Map::new();
    fields.insert("name".into(), group.into());
    fields.insert("preferredVersion".into(), list.first().cloned().unwrap_or_default());
    fields.insert("versions".into(), Value::Array(list));
    fields
}

/// `/api/v1` and `/apis/<group>/<version>`; `None` for a version that nobody serves.
pub(super) fn resources(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let rows = rows(registry, group, version);
    let group_version = rows.first()?.gvr.api_version();
    let resources: Vec<Value> = rows.into_iter().flat_map(entries).collect();
    let mut document = json!({
        "kind": "APIResourceList",
        "groupVersion": group_version,
        "resources": resources,
    });
    // Upstream's core list has no apiVersion.
    if let (Value::Object(fields), false) = (&mut document, group.is_empty()) {
        fields.insert("apiVersion".into(), "v1".into());
    }
    Some(document)
}

/// A resource, then its subresources as `pods/status`.
fn entries(info: &KindInfo) -> Vec<Value> {
    let mut entry = Map::new();
    entry.insert("name".into(), json!(info.gvr.resource));
    entry.insert("singularName".into(), json!(info.singular));
    entry.insert("namespaced".into(), json!(info.gvr.namespaced));
    entry.insert("kind".into(), json!(info.kind));
    entry.insert("verbs".into(), json!(info.verbs()));
    for (key, list) in [("shortNames", &info.short_names), ("categories", &info.categories)] {
        if !list.is_empty() {
            entry.insert(key.into(), json!(list));
        }
    }
    let mut entries = vec![Value::Object(entry)];
    for sub in subresources(info) {
        let mut entry = Map::new();
        entry.insert("name".into(), format!("{}/{}", info.gvr.resource, sub.name).into());
        entry.insert("singularName".into(), "".into());
        entry.insert("namespaced".into(), info.gvr.namespaced.into());
        // Only what differs from the list's own group version is written.
        if sub.group != info.gvr.group || sub.version != info.gvr.version {
            entry.insert("group".into(), sub.group.into());
            entry.insert("version".into(), sub.version.into());
        }
        entry.insert("kind".into(), sub.kind.into());
        entry.insert("verbs".into(), json!(sub.verbs));
        entries.push(Value::Object(entry));
    }
    entries
}
