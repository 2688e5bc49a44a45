//! `storage/volume_attachment.go`.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::conformance::checks::{
    count_becomes, counts, holds, is, is_later, label, label_patch, name,
};
use crate::conformance::{Case, Collection, Context, Patch, case};

pub const CASES: &[Case] = &[
    case!("VolumeAttachment Conformance should apply changes to a volumeattachment status", status),
    case!(
        "VolumeAttachment Conformance should run through the lifecycle of a VolumeAttachment",
        lifecycle
    ),
];

const ATTACHMENTS: &str = "storage.k8s.io/v1/volumeattachments";

async fn create(context: &Context, attachments: &Collection) -> Result<Value> {
    let id = context.unique("e2e");
    let attachment_name = format!("va-{id}");
    context.remove_later(attachments, &attachment_name);
    let nodes = context.all("v1/nodes").items(&[]).await?;
    let node = name(nodes.first().context("no node")?).to_string();
    let spec = json!({"attacher": "e2e-test.storage.k8s.io", "nodeName": node,
        "source": {"persistentVolumeName": format!("pv-{id}")}});
    let attachment = json!({"metadata": {"name": attachment_name}, "spec": spec,
        "status": {"attached": false}});
    let created = attachments.create(&attachment).await?;
    is(&created["metadata"]["name"], attachment_name)?;
    Ok(created)
}

async fn lifecycle(context: &Context) -> Result<()> {
    let attachments = context.all(ATTACHMENTS);
    let created = create(context, &attachments).await?;
    let first = name(&created);
    let read = attachments.get(first).await?;
    is(&read["metadata"]["name"], first)?;
    let patched = attachments.patch(first, Patch::Merge, &label_patch(first, "patched")).await?;
    is(label(&patched, first), "patched")?;
    is_later(&patched, &read)?;
    let selector = format!("{first}=patched");
    counts(&attachments.items_labelled(&selector).await?, 1)?;
    attachments.delete(first).await?;
    count_becomes(&attachments, &selector, 0).await?;
    let value = context.unique("updated");
    for _ in 0..2 {
        let created = create(context, &attachments).await?;
        let change = |attachment: &mut Value| {
            attachment["metadata"]["labels"] = json!({"va-e2e": value});
        };
        let updated = attachments.update(name(&created), change).await?;
        is(label(&updated, "va-e2e"), value.as_str())?;
    }
    let selector = format!("va-e2e={value}");
    attachments.delete_collection(&[("labelSelector", &selector)]).await?;
    count_becomes(&attachments, &selector, 0).await
}

async fn status(context: &Context) -> Result<()> {
    let attachments = context.all(ATTACHMENTS);
    let created = create(context, &attachments).await?;
    let own_name = name(&created);
    let path = format!("{own_name}/status");
    let patch = label_patch(own_name, "patched");
    is(label(&attachments.patch(own_name, Patch::Merge, &patch).await?, own_name), "patched")?;
    let is_attached = |attachment: &Value| attachment["status"]["attached"] == true;
    holds(!is_attached(&attachments.get(&path).await?), "it is not attached")?;
    let patch = json!({"status": {"attached": true}});
    let patched = attachments.patch(&path, Patch::Merge, &patch).await?;
    holds(is_attached(&patched), "it is attached")?;
    let change = |attachment: &mut Value| attachment["status"]["attached"] = false.into();
    let updated = attachments.update(&path, change).await?;
    holds(!is_attached(&updated), "it is not attached any more")?;
    attachments.delete(own_name).await?;
    count_becomes(&attachments, &format!("{own_name}=patched"), 0).await
}
