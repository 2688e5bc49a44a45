//! The volume by which a Pod's containers call the API: a token of its account, the cluster's CA
//! and the namespace, mounted in every container that has nothing else there
//! (plugin/pkg/admission/serviceaccount/admission.go).

use serde_json::{Map, Value, json};

use crate::api::kinds::config_map::{ROOT_CA, ROOT_CA_KEY};
use crate::api::meta::GENERATED_SUFFIX_LENGTH;
use crate::base::ids::Ids;

/// Where clients look for their credentials.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// What the volume's name begins with.
const NAME_PREFIX: &str = "kube-api-access-";
/// An hour, and what tells this token from those that users ask for (upstream's number).
const TOKEN_SECONDS: i64 = 3607;
const FILE_MODE: i32 = 0o644;

/// Adds the volume and its mounts to a Pod's spec, unless the account or the Pod does not want it.
pub fn add(spec: &mut Map<String, Value>, account_wants: Option<bool>, ids: &Ids) {
    let pod_wants = spec.get("automountServiceAccountToken").and_then(Value::as_bool);
    if !pod_wants.or(account_wants).unwrap_or(true) {
        return;
    }
    let volumes = spec.get("volumes").and_then(Value::as_array).into_iter().flatten();
    let mut names = volumes.filter_map(|volume| volume.get("name").and_then(Value::as_str));
    let there = names.find(|name| name.starts_with(NAME_PREFIX)).map(str::to_string);
    let name = match &there {
        Some(name) => name.clone(),
        None => format!("{NAME_PREFIX}{}", ids.suffix(GENERATED_SUFFIX_LENGTH)),
    };
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        for container in containers.filter_map(Value::as_object_mut) {
            mounted |= mount(container, &name);
        }
    }
    if mounted && there.is_none() {
        push(spec, "volumes", volume(&name));
    }
}

/// Mounts the volume where nothing is mounted yet.
fn mount(container: &mut Map<String, Value>, volume: &str) -> bool {
    let mounts = container.get("volumeMounts").and_then(Value::as_array).into_iter().flatten();
    let mut paths = mounts.filter_map(|mount| mount.get("mountPath").and_then(Value::as_str));
    if paths.any(|path| path == MOUNT_PATH) {
        return false;
    }
    let mount = json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH});
    push(container, "volumeMounts", mount);
    true
}

/// Adds to a list that may not be there; what is no list is left to validation.
fn push(object: &mut Map<String, Value>, field: &str, item: Value) {
    let list = object.entry(field).or_insert(Value::Null);
    match list {
        Value::Null => *list = json!([item]),
        Value::Array(items) => items.push(item),
        _ => {}
    }
}

fn volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": FILE_MODE, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": ROOT_CA,
            "items": [{"key": ROOT_CA_KEY, "path": ROOT_CA_KEY}]}},
        {"downwardAPI": {"items": [{"path": "namespace",
            "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(mut spec: Value, account_wants: Option<bool>) -> Value {
        add(spec.as_object_mut().unwrap(), account_wants, &Ids::seeded(1));
        spec
    }

    #[test]
    fn every_container_has_the_volume() {
        let own = json!({"name": "own", "mountPath": MOUNT_PATH});
        let spec = added(
            json!({
                "initContainers": [{"name": "i"}],
                "containers": [{"name": "a", "volumeMounts": [{"name": "x", "mountPath": "/x"}]},
                    {"name": "b", "volumeMounts": [own]}],
                "volumes": [{"name": "x", "emptyDir": {}}]}),
            None,
        );
        let name = spec["volumes"][1]["name"].as_str().unwrap();
        assert_eq!(name.len(), NAME_PREFIX.len() + 5);
        let mount = json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH});
        assert_eq!(spec["initContainers"][0]["volumeMounts"], json!([mount]));
        assert_eq!(spec["containers"][0]["volumeMounts"][1], mount);
        assert_eq!(spec["containers"][1]["volumeMounts"], json!([own]));
        // Once more changes nothing.
        assert_eq!(added(spec.clone(), None), spec);
    }

    #[test]
    fn the_pod_decides_before_the_account() {
        let bare = json!({"containers": [{"name": "a"}]});
        let with =
            |pod: bool| json!({"automountServiceAccountToken": pod, "containers": [{"name": "a"}]});
        assert_eq!(added(bare.clone(), Some(false)), bare);
        assert_eq!(added(with(false), Some(true)), with(false));
        assert!(added(with(true), Some(false)).get("volumes").is_some());
        assert!(added(bare, Some(true)).get("volumes").is_some());
        // A volume that nobody needs is not made.
        let own = json!({"containers": [{"volumeMounts": [{"mountPath": MOUNT_PATH}]}]});
        assert_eq!(added(own.clone(), None), own);
    }
}
