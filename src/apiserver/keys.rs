//! Where objects live in the store: `group / resource / namespace / name`. The version is no part
//! of it, so that all versions of a kind are one object; nor is the form, where the same objects are
//! shown in several ([`crate::api::resource::StoredAs`]).

use crate::api::ObjectKey;
use crate::api::resource::KindInfo;
use crate::store::Key;

/// The key of one object; `namespace` is empty for cluster-scoped kinds.
pub fn object(info: &KindInfo, namespace: &str, name: &str) -> Key {
    let stored = info.stored_gvr();
    Key::new(&[&stored.group, &stored.resource, namespace, name])
}

/// The prefix of a collection; an empty namespace means all of them.
pub fn collection(info: &KindInfo, namespace: &str) -> Key {
    let stored = info.stored_gvr();
    if namespace.is_empty() {
        Key::new(&[&stored.group, &stored.resource])
    } else {
        Key::new(&[&stored.group, &stored.resource, namespace])
    }
}

/// The key of a namespace.
pub fn namespace(name: &str) -> Key {
    Key::new(&["", "namespaces", "", name])
}

/// Namespace and name of a key made by [`object`].
pub fn names(key: &Key) -> Option<ObjectKey> {
    let mut parts = key.parts()?;
    match parts.len() {
        4 => {
            let name = parts.pop()?;
            Some(ObjectKey { namespace: parts.pop()?, name })
        }
        _ => None,
    }
}
