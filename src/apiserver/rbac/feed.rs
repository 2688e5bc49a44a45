//! Keeps the rules as the store has them: all of them at the start, then each that a commit of this
//! server touches, before the commit is answered.

use std::sync::LazyLock;

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde::de::DeserializeOwned;

use super::{Change, Rules};
use crate::api::ObjectKey;
use crate::store::{Key, Op, ReadError, SharedStore};

/// How many objects are read at once when the rules are filled.
const PAGE: usize = 500;

static GROUP: LazyLock<Key> = LazyLock::new(|| Key::new(&["rbac.authorization.k8s.io"]));

impl Rules {
    /// Reads everything stored. For the time before the first request.
    pub fn fill(&self, store: &SharedStore) -> Result<(), ReadError> {
        let mut after: Option<Key> = None;
        loop {
            let page = store.list(&GROUP, after.as_ref(), PAGE, None)?;
            for entry in &page.entries {
                self.take_stored(&entry.key, Some(&entry.value));
            }
            match page.entries.last() {
                Some(last) if page.more => after = Some(last.key.clone()),
                _ => return Ok(()),
            }
        }
    }

    /// The keys of roles and bindings that a commit changes.
    pub fn touched(ops: &[Op]) -> Vec<Key> {
        let keys = ops.iter().filter_map(|op| match op {
            Op::Put { key, .. } | Op::Delete { key, .. } => Some(key),
            Op::Check { .. } => None,
        });
        keys.filter(|key| key.starts_with(&GROUP)).cloned().collect()
    }

    /// Takes in what the store has at these keys now.
    pub fn refresh(&self, store: &SharedStore, keys: &[Key]) {
        let _turn = self.turn.lock();
        for key in keys {
            let entry = store.get(key).unwrap_or_else(|error| {
                // Rules only allow, so to forget one is safe.
                tracing::error!(%error, "a role or a binding cannot be read");
                None
            });
            self.take_stored(key, entry.as_ref().map(|entry| &*entry.value));
        }
    }

    fn take_stored(&self, key: &Key, json: Option<&[u8]>) {
        let parts = key.parts().and_then(|parts| <[String; 4]>::try_from(parts).ok());
        let Some([_, resource, namespace, name]) = parts else { return };
        let key = ObjectKey::new(namespace, name);
        match resource.as_str() {
            "roles" => self.take(Change::Role(&key, decoded::<Role>(json))),
            "clusterroles" => {
                self.take(Change::ClusterRole(&key.name, decoded::<ClusterRole>(json)));
            }
            "rolebindings" => self.take(Change::RoleBinding(&key, decoded::<RoleBinding>(json))),
            "clusterrolebindings" => {
                let binding = decoded::<ClusterRoleBinding>(json);
                self.take(Change::ClusterRoleBinding(&key.name, binding));
            }
            _ => {}
        }
    }
}

fn decoded<T: DeserializeOwned>(json: Option<&[u8]>) -> Option<T> {
    serde_json::from_slice(json?)
        .inspect_err(|error| tracing::error!(%error, "a stored role or binding grants nothing"))
        .ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::api::Gvr;
    use crate::apiserver::User;
    use crate::apiserver::authz::Attributes;
    use crate::store::memory::MemoryStore;
    use crate::store::{Expect, Value};
    use serde_json::json;

    #[tokio::test]
    async fn rules_are_as_the_store_has_them() {
        let store: SharedStore = Arc::new(MemoryStore::default());
        let group = "rbac.authorization.k8s.io";
        let put = |resource: &str, name: &str, value: serde_json::Value| Op::Put {
            key: Key::new(&[group, resource, "", name]),
            value: Value::plain(value.to_string()),
            expect: Expect::Any,
        };
        let ops = vec![
            put(
                "clusterroles",
                "pods",
                json!({"metadata": {"name": "pods"}, "rules":
                    [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}),
            ),
            put(
                "clusterrolebindings",
                "b",
                json!({"metadata": {"name": "b"}, "subjects": [{"kind": "User", "name": "ann"}],
                    "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "pods"}}),
            ),
        ];
        let keys = Rules::touched(&ops);
        assert_eq!(keys.len(), 2);
        store.commit(ops).await.unwrap();
        let (filled, told) = (Rules::default(), Rules::default());
        filled.fill(&store).unwrap();
        told.refresh(&store, &keys);
        static PODS: Gvr = Gvr::new("", "v1", "pods", true);
        let ann = User::new("ann", &[]);
        let get = Attributes { resource: Some(&PODS), name: "x", ..Attributes::of_path("get", "") };
        assert!(filled.allows(&ann, &get) && told.allows(&ann, &get));
        let delete = Op::Delete { key: keys[1].clone(), expect: Expect::Any, last: None };
        store.commit(vec![delete]).await.unwrap();
        told.refresh(&store, &keys);
        assert!(!told.allows(&ann, &get));
    }
}
