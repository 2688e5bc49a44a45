//! Writes what a pod's claims get: a free volume, or the node on which one is made.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use serde_json::json;

use super::volumes::Step;
use crate::api::ApiError;
use crate::api::kinds::storage::{BOUND_BY_CONTROLLER, SELECTED_NODE};
use crate::client::{Client, Patch};

/// Performs one step, at the versions that were seen.
pub async fn perform(client: &Client, step: &Step, node: &str) -> Result<(), ApiError> {
    match step {
        Step::Select { claim } => {
            let patch = Patch::Merge(json!({"metadata": {
                "uid": claim.uid, "resourceVersion": claim.version,
                "annotations": {SELECTED_NODE: node}}}));
            let (space, name) = (&claim.key.namespace, &claim.key.name);
            client.patch::<PersistentVolumeClaim>(space, name, patch).await.map(drop)
        }
        Step::Give { claim, volume } => {
            let reference = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": claim.key.namespace, "name": claim.key.name, "uid": claim.uid,
                "resourceVersion": claim.version});
            let patch = Patch::Merge(json!({
                "metadata": {"uid": volume.uid, "resourceVersion": volume.version,
                    "annotations": {BOUND_BY_CONTROLLER: "yes"}},
                "spec": {"claimRef": reference}}));
            client.patch::<PersistentVolume>("", &volume.volume, patch).await.map(drop)
        }
    }
}
