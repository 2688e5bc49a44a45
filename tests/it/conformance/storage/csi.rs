//! `storage/csi_inline.go`.

use anyhow::Result;
use serde_json::json;

use crate::conformance::checks::{annotation, counts, holds, is, is_refused};
use crate::conformance::{Case, Collection, Context, Failure, Patch, case};

pub const CASES: &[Case] =
    &[case!("CSIInlineVolumes should support CSIVolumeSource in Pod API", inline_volumes)];

/// It is gone, or goes.
async fn is_deleted(objects: &Collection, name: &str) -> Result<()> {
    match objects.get(name).await {
        Ok(left) => holds(left["metadata"]["deletionTimestamp"].is_string(), "it goes"),
        Err(e) if e.downcast_ref::<Failure>().is_some_and(|f| f.code == 404) => Ok(()),
        Err(e) => Err(e),
    }
}

async fn inline_volumes(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    let csi = json!({"driver": "e2e.example.com", "fsType": "ext4", "readOnly": true});
    let volumes = json!([{"name": "csi-inline-vol1", "csi": {"driver": "e2e.example.com"}},
        {"name": "csi-inline-vol2", "csi": csi}]);
    let name = "pod-csi-inline-volumes";
    let container = json!({"name": name, "image": "busybox:v1", "volumeMounts": [
        {"name": "csi-inline-vol1", "mountPath": "/mnt/vol1"},
        {"name": "csi-inline-vol2", "mountPath": "/mnt/vol2"}]});
    let pod = json!({"metadata": {"name": name},
        "spec": {"volumes": volumes, "containers": [container]}});
    let created = pods.create(&pod).await?;
    is(&is_refused(pods.create(&pod).await, &[409])?.reason.into(), "AlreadyExists")?;
    is(&pods.get(name).await?["metadata"]["uid"], created["metadata"]["uid"].clone())?;
    counts(&pods.items(&[]).await?, 1)?;
    let patch = json!({"metadata": {"annotations": {"patched": "true"}}});
    is(annotation(&pods.patch(name, Patch::Merge, &patch).await?, "patched"), "true")?;
    pods.delete(name).await?;
    is_deleted(&pods, name).await
}
