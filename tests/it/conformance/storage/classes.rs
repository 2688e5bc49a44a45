//! `storage/storageclass.go`, `storage/volumeattributesclass.go` and `storage/csi_node.go`: kinds
//! of the cluster that upstream leads through the same life.

use anyhow::Result;
use serde_json::{Value, json};

use crate::conformance::checks::{count_becomes, counts, is, is_later, label, label_patch, name};
use crate::conformance::{Case, Context, Patch, case};

pub const CASES: &[Case] = &[
    case!("CSINodes CSI Conformance should run through the lifecycle of a csinode", csi_node),
    case!(
        "StorageClasses CSI Conformance should run through the lifecycle of a StorageClass",
        storage_class
    ),
    case!(
        "VolumeAttributesClass [FeatureGate:VolumeAttributesClass] should run through the \
         lifecycle of a VolumeAttributesClass",
        attributes_class
    ),
];

async fn storage_class(context: &Context) -> Result<()> {
    let class = json!({"provisioner": "e2e-fake-provisioner"});
    life(context, "storage.k8s.io/v1/storageclasses", class).await
}

async fn attributes_class(context: &Context) -> Result<()> {
    let class = json!({"driverName": "e2e-fake-csi-driver", "parameters": {"foo": "bar"}});
    life(context, "storage.k8s.io/v1/volumeattributesclasses", class).await
}

async fn csi_node(context: &Context) -> Result<()> {
    life(context, "storage.k8s.io/v1/csinodes", json!({"spec": {"drivers": []}})).await
}

async fn life(context: &Context, resource: &str, mut object: Value) -> Result<()> {
    let objects = context.all(resource);
    object["metadata"]["generateName"] = "e2e-".into();
    let created = objects.create(&object).await?;
    let first = name(&created);
    context.remove_later(&objects, first);
    is(&objects.get(first).await?["metadata"]["name"], first)?;
    let patched = objects.patch(first, Patch::Strategic, &label_patch(first, "patched")).await?;
    is(label(&patched, first), "patched")?;
    is_later(&patched, &created)?;
    let selector = format!("{first}=patched");
    counts(&objects.items_labelled(&selector).await?, 1)?;
    objects.delete(first).await?;
    count_becomes(&objects, &selector, 0).await?;

    object["metadata"]["generateName"] = "e2e-v2-".into();
    let created = objects.create(&object).await?;
    let second = name(&created);
    context.remove_later(&objects, second);
    is(&objects.get(second).await?["metadata"]["name"], second)?;
    let change = |object: &mut Value| object["metadata"]["labels"] = json!({second: "updated"});
    is(label(&objects.update(second, change).await?, second), "updated")?;
    let selector = format!("{second}=updated");
    counts(&objects.items_labelled(&selector).await?, 1)?;
    objects.delete_collection(&[("labelSelector", &selector)]).await?;
    count_becomes(&objects, &selector, 0).await
}
