//! Which writes go on while the store's disk is full, besides deletions: what a deletion takes on its
//! way (its mark, finalizers that go, the last status of a pod that ends), and the Leases without
//! which the controllers that delete would stop and nodes would count as lost.

use std::borrow::Cow;

use serde::Deserialize;

use crate::store::{Key, Vital};

/// Tells these writes for [`crate::store::Store::set_vital`].
pub fn vital() -> Vital {
    let leases = Key::new(&["coordination.k8s.io", "leases"]);
    Box::new(move |key, object| key.starts_with(&leases) || is_marked(object))
}

/// Whether an object is marked for deletion.
fn is_marked(object: &[u8]) -> bool {
    serde_json::from_slice::<Marked<'_>>(object)
        .is_ok_and(|object| object.metadata.deletion_timestamp.is_some())
}

#[derive(Deserialize)]
struct Marked<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow, default)]
    deletion_timestamp: Option<Cow<'a, str>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deletions_and_leases_go_on() {
        let vital = vital();
        let pod = Key::new(&["", "pods", "default", "a"]);
        let lease = Key::new(&["coordination.k8s.io", "leases", "kube-node-lease", "n"]);
        let marked = br#"{"metadata":{"name":"a","deletionTimestamp":"2026-01-01T00:00:00Z"}}"#;
        let inner = br#"{"metadata":{"name":"a"},"spec":{"deletionTimestamp":"x"}}"#;
        assert!(vital(&pod, marked));
        assert!(!vital(&pod, inner));
        assert!(!vital(&pod, b"{"));
        assert!(vital(&lease, inner));
    }
}
