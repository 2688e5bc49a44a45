//! The part of `storage/persistent_volumes.go` that mounts nothing.

use anyhow::Result;
use serde_json::{Value, json};

use crate::conformance::checks::{
    count_becomes, counts, holds, is, is_later, label, label_patch, name,
};
use crate::conformance::{Case, Context, Patch, case};

pub const CASES: &[Case] = &[
    case!("PersistentVolumes CSI Conformance should apply changes to a pv/pvc status", status),
    case!(
        "PersistentVolumes CSI Conformance should run through the lifecycle of a PV and a PVC",
        lifecycle
    ),
];

const VOLUMES: &str = "v1/persistentvolumes";
const CLAIMS: &str = "v1/persistentvolumeclaims";

/// A volume of a driver that is not there, and a claim for it.
async fn create_pair(context: &Context) -> Result<(Value, Value)> {
    let (volumes, claims) = (context.all(VOLUMES), context.own(CLAIMS));
    let class = &context.namespace;
    let spec = json!({"persistentVolumeReclaimPolicy": "Retain", "capacity": {"storage": "2Gi"},
        "csi": {"driver": context.unique("e2e-driver"), "volumeHandle": "e2e-conformance"},
        "accessModes": ["ReadWriteOnce"], "storageClassName": class});
    let metadata = json!({"generateName": format!("{class}-"), "labels": {"e2e-pv-pool": class},
        "annotations": {"pv.beta.kubernetes.io/gid": "777"}});
    let volume = volumes.create(&json!({"metadata": metadata, "spec": spec})).await?;
    context.remove_later(&volumes, name(&volume));
    let spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": class,
        "resources": {"requests": {"storage": "2Gi"}}});
    let claim = json!({"metadata": {"generateName": "pvc-"}, "spec": spec});
    Ok((volume, claims.create(&claim).await?))
}

async fn lifecycle(context: &Context) -> Result<()> {
    let (volumes, claims) = (context.all(VOLUMES), context.own(CLAIMS));
    let pool = format!("e2e-pv-pool={}", context.namespace);
    create_pair(context).await?;
    let found = volumes.items_labelled(&pool).await?;
    counts(&found, 1)?;
    let volume = &found[0];
    let found = claims.items(&[]).await?;
    counts(&found, 1)?;
    let claim = &found[0];
    for (objects, object) in [(&volumes, volume), (&claims, claim)] {
        let own_name = name(object);
        let patch = label_patch(own_name, "patched");
        let patched = objects.patch(own_name, Patch::Strategic, &patch).await?;
        is(label(&patched, own_name), "patched")?;
        is_later(&patched, object)?;
        let read = objects.get(own_name).await?;
        is(&read["metadata"]["uid"], patched["metadata"]["uid"].clone())?;
    }
    claims.delete(name(claim)).await?;
    count_becomes(&claims, "", 0).await?;
    volumes.delete(name(volume)).await?;
    count_becomes(&volumes, &pool, 0).await?;

    let (volume, claim) = create_pair(context).await?;
    let (volume, claim) = (name(&volume), name(&claim));
    let change = |object: &mut Value| object["metadata"]["labels"][volume] = "updated".into();
    is(label(&volumes.update(volume, change).await?, volume), "updated")?;
    let change = |object: &mut Value| object["metadata"]["labels"] = json!({claim: "updated"});
    is(label(&claims.update(claim, change).await?, claim), "updated")?;
    let selector = format!("{claim}=updated");
    counts(&context.all(CLAIMS).items_labelled(&selector).await?, 1)?;
    claims.delete_collection(&[("labelSelector", &selector)]).await?;
    count_becomes(&claims, &selector, 0).await?;
    let selector = format!("{volume}=updated");
    volumes.delete_collection(&[("labelSelector", &selector)]).await?;
    count_becomes(&volumes, &selector, 0).await
}

async fn status(context: &Context) -> Result<()> {
    let (volumes, claims) = (context.all(VOLUMES), context.own(CLAIMS));
    create_pair(context).await?;
    let found = volumes.items_labelled(&format!("e2e-pv-pool={}", context.namespace)).await?;
    counts(&found, 1)?;
    let volume = format!("{}/status", name(&found[0]));
    let found = claims.items(&[]).await?;
    counts(&found, 1)?;
    let claim = format!("{}/status", name(&found[0]));
    let has_phase = |object: &Value, phases: &[&str]| {
        let phase = object["status"]["phase"].as_str().unwrap_or_default();
        holds(phases.contains(&phase), &format!("{phase:?} is one of {phases:?}"))
    };
    has_phase(&claims.get(&claim).await?, &["Pending", "Bound"])?;
    has_phase(&volumes.get(&volume).await?, &["Available", "Bound", "Pending"])?;
    let condition = |kind: &str, reason: &str| json!({"type": kind, "status": "True", "reason": reason, "message": "Set from e2e test"});
    let has = |claim: &Value, kind: &str, reason: &str| {
        let conditions = claim["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|c| c["type"] == kind).unwrap_or_default();
        is(&found["reason"], reason)?;
        is(&found["message"], "Set from e2e test")
    };
    let patch =
        json!({"status": {"conditions": [condition("StatusPatched", "E2E patchedStatus")]}});
    let patched = claims.patch(&claim, Patch::Merge, &patch).await?;
    has(&patched, "StatusPatched", "E2E patchedStatus")?;
    let patch = json!({"status": {"message": "StatusPatched", "reason": "E2E patchStatus"}});
    let patched = volumes.patch(&volume, Patch::Merge, &patch).await?;
    is(&patched["status"]["reason"], "E2E patchStatus")?;
    is(&patched["status"]["message"], "StatusPatched")?;
    let change = |claim: &mut Value| {
        if let Some(conditions) = claim["status"]["conditions"].as_array_mut() {
            conditions.push(condition("StatusUpdated", "E2E updateStatus"));
        }
    };
    has(&claims.update(&claim, change).await?, "StatusUpdated", "E2E updateStatus")?;
    let change = |volume: &mut Value| {
        volume["status"]["reason"] = "E2E updateStatus".into();
        volume["status"]["message"] = "StatusUpdated".into();
    };
    let updated = volumes.update(&volume, change).await?;
    is(&updated["status"]["reason"], "E2E updateStatus")?;
    is(&updated["status"]["message"], "StatusUpdated")
}
