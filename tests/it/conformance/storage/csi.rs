//! `storage/csi_inline.go` and `storage/csistoragecapacity.go`.

use anyhow::Result;
use serde_json::{Value, json};

use crate::conformance::checks::{
    annotation, counts, holds, is, is_later, is_refused, label, label_patch, name,
};
use crate::conformance::operations::is_discovered;
use crate::conformance::{Case, Collection, Context, Failure, Patch, Watch, case};

pub const CASES: &[Case] = &[
    case!("CSIInlineVolumes should run through the lifecycle of a CSIDriver", drivers),
    case!("CSIInlineVolumes should support CSIVolumeSource in Pod API", inline_volumes),
    case!("CSIStorageCapacity should support CSIStorageCapacities API operations", capacities),
];

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

async fn drivers(context: &Context) -> Result<()> {
    let drivers = context.all("storage.k8s.io/v1/csidrivers");
    let value = context.unique("csi");
    let selector = format!("e2e-test={value}");
    let driver = |modes: &[&str]| {
        let name = context.unique("inline-driver");
        context.remove_later(&drivers, &name);
        json!({"metadata": {"name": name, "labels": {"e2e-test": value}},
            "spec": {"volumeLifecycleModes": modes, "fsGroupPolicy": "ReadWriteOnceWithFSType"}})
    };
    let (one, two) = (driver(&["Ephemeral"]), driver(&["Persistent", "Ephemeral"]));
    let (first, second) = (drivers.create(&one).await?, drivers.create(&two).await?);
    is(&is_refused(drivers.create(&one).await, &[409])?.reason.into(), "AlreadyExists")?;
    for created in [&first, &second] {
        let read = drivers.get(name(created)).await?;
        is(&read["metadata"]["uid"], created["metadata"]["uid"].clone())?;
    }
    let second = name(&second);
    let patched = drivers.patch(second, Patch::Strategic, &label_patch(second, "patched")).await?;
    is(label(&patched, second), "patched")?;
    let change = |driver: &mut Value| driver["metadata"]["labels"][second] = "updated".into();
    is(label(&drivers.update(second, change).await?, second), "updated")?;
    counts(&drivers.items_labelled(&selector).await?, 2)?;
    drivers.delete(name(&first)).await?;
    is_deleted(&drivers, name(&first)).await?;
    drivers.delete_collection(&[("labelSelector", &format!("{second}=updated"))]).await?;
    is_deleted(&drivers, second).await
}

async fn capacities(context: &Context) -> Result<()> {
    const CAPACITIES: &str = "storage.k8s.io/v1/csistoragecapacities";
    is_discovered(context, CAPACITIES, "CSIStorageCapacity", true, &[]).await?;
    let (capacities, everywhere) = (context.own(CAPACITIES), context.all(CAPACITIES));
    let value = context.unique("csc");
    let selector = format!("test={value}");
    let query = [("labelSelector", selector.as_str())];
    let capacity = |i: u32| {
        json!({"metadata": {"name": format!("{value}-csc{i}"), "labels": {"test": value}},
            "storageClassName": "e2e.example.com"})
    };
    let created = capacities.create(&capacity(1)).await?;
    let own_name = name(&created);
    is(&is_refused(capacities.create(&capacity(1)).await, &[409])?.reason.into(), "AlreadyExists")?;
    capacities.create(&capacity(2)).await?;
    let mut watches = [capacities.watch(&query).await?, everywhere.watch(&query).await?];
    capacities.create(&capacity(3)).await?;
    is(&capacities.get(own_name).await?["metadata"]["uid"], created["metadata"]["uid"].clone())?;
    counts(&capacities.items(&query).await?, 3)?;
    counts(&everywhere.items(&query).await?, 3)?;
    let patch = json!({"metadata": {"annotations": {"patched": "true"}}});
    let mut patched = capacities.patch(own_name, Patch::Merge, &patch).await?;
    is(annotation(&patched, "patched"), "true")?;
    is_later(&patched, &created)?;
    patched["metadata"]["annotations"]["updated"] = "true".into();
    is(annotation(&capacities.replace(&patched).await?, "updated"), "true")?;
    for watch in &mut watches {
        changes_show(watch).await?;
    }
    capacities.delete(own_name).await?;
    is_refused(capacities.get(own_name).await, &[404])?;
    counts(&capacities.items(&query).await?, 2)?;
    capacities.delete_collection(&query).await?;
    counts(&capacities.items(&query).await?, 0)
}

async fn changes_show(watch: &mut Watch) -> Result<()> {
    watch.until("ADDED", |c| name(c).ends_with("csc3")).await?;
    for key in ["patched", "updated"] {
        watch.until("MODIFIED", |c| *annotation(c, key) == "true").await?;
    }
    Ok(())
}
