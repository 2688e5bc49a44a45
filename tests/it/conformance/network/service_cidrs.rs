//! `network/service_cidrs.go`.

use anyhow::Result;
use serde_json::{Value, json};

use crate::conformance::checks::{annotation, counts, holds, is};
use crate::conformance::{Case, Context, Patch, case};

pub const CASES: &[Case] = &[
    case!("ServiceCIDR and IPAddress API should support IPAddress API operations", addresses),
    case!("ServiceCIDR and IPAddress API should support ServiceCIDR API operations", ranges),
];

fn mark_updated(object: &mut Value) {
    object["metadata"]["annotations"]["updated"] = "true".into();
}

async fn ranges(context: &Context) -> Result<()> {
    let ranges = context.all("networking.k8s.io/v1/servicecidrs");
    ranges.get("kubernetes").await?;
    let patch = json!({"metadata": {"annotations": {"patched": "true"}}});
    let patched = ranges.patch("kubernetes", Patch::Merge, &patch).await?;
    is(annotation(&patched, "patched"), "true")?;
    is(annotation(&ranges.update("kubernetes", mark_updated).await?, "updated"), "true")?;
    holds(!ranges.items(&[]).await?.is_empty(), "there is the default range")?;
    ranges.watch(&[]).await?.until("ADDED", |_| true).await.map(drop)
}

async fn addresses(context: &Context) -> Result<()> {
    let addresses = context.all("networking.k8s.io/v1/ipaddresses");
    let parent = json!({"group": "mygroup", "resource": "myresources", "namespace": "foo",
        "name": "bar"});
    for (name, kind) in
        [("255.255.255.255", "broadcast"), ("fe80::42:1dff:fe84:f9e2", "link-local")]
    {
        context.remove_later(&addresses, name);
        let metadata = json!({"name": name, "labels": {"type": kind}});
        addresses.create(&json!({"metadata": metadata, "spec": {"parentRef": parent}})).await?;
    }
    let patch = json!({"metadata": {"annotations": {"patched": "true"}}});
    let patched = addresses.patch("255.255.255.255", Patch::Merge, &patch).await?;
    is(annotation(&patched, "patched"), "true")?;
    let updated = addresses.update("255.255.255.255", mark_updated).await?;
    is(annotation(&updated, "updated"), "true")?;
    addresses.get("255.255.255.255").await?;
    counts(&addresses.items_labelled("type=broadcast").await?, 1)?;
    let mut watch = addresses.watch(&[("labelSelector", "type=broadcast")]).await?;
    watch.until("ADDED", |_| true).await?;
    addresses.delete("255.255.255.255").await?;
    watch.until("DELETED", |_| true).await?;
    addresses.delete_collection(&[("labelSelector", "type=link-local")]).await?;
    counts(&addresses.items_labelled("type=link-local").await?, 0)
}
