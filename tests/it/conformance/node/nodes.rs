//! `node/node_lifecycle.go`, `common/node/lease.go`, and the quality of service of
//! `node/pods.go`.

use anyhow::Result;
use serde_json::json;

use crate::conformance::checks::{counts, is, is_later, is_refused, label, label_patch};
use crate::conformance::operations::gone;
use crate::conformance::{Case, Context, Patch, case};

pub const CASES: &[Case] = &[
    case!("Lease lease API should be available", leases),
    case!("Node Lifecycle should run through the lifecycle of a node", node_lifecycle),
    case!(
        "Pods Extended Pods Set QOS Class should be set on Pods with matching resource requests \
         and limits for memory and cpu",
        qos_class
    ),
];

async fn leases(context: &Context) -> Result<()> {
    let leases = context.own("coordination.k8s.io/v1/leases");
    let spec = |holder: &str, lasts: u32, acquired: u32, renewed: u32, transitions: u32| {
        let time = |s: u32| format!("0001-01-01T00:{:02}:{:02}.000000Z", s / 60, s % 60);
        json!({"holderIdentity": holder, "leaseDurationSeconds": lasts,
            "acquireTime": time(acquired), "renewTime": time(renewed),
            "leaseTransitions": transitions})
    };
    let first = spec("holder", 30, 2, 5, 0);
    let lease = json!({"metadata": {"name": "lease"}, "spec": first});
    let mut lease = leases.create(&lease).await?;
    is(&leases.get("lease").await?["spec"], first.clone())?;
    lease["spec"] = spec("holder2", 30, 20, 50, 1);
    leases.replace(&lease).await?;
    is(&leases.get("lease").await?["spec"], lease["spec"].clone())?;
    let third = spec("holder3", 60, 50, 70, 2);
    leases.patch("lease", Patch::Strategic, &json!({"spec": third})).await?;
    is(&leases.get("lease").await?["spec"], third)?;
    let labels = json!({"deletecollection": "true"});
    leases
        .create(&json!({"metadata": {"name": "lease2", "labels": labels}, "spec": first}))
        .await?;
    counts(&leases.items(&[]).await?, 2)?;
    leases.delete_collection(&[("labelSelector", "deletecollection=true")]).await?;
    counts(&leases.items(&[]).await?, 1)?;
    leases.delete("lease").await?;
    is_refused(leases.get("lease").await, &[404])?;
    context.all("coordination.k8s.io/v1/leases").list(&[]).await.map(drop)
}

async fn node_lifecycle(context: &Context) -> Result<()> {
    let nodes = context.all("v1/nodes");
    let name = context.unique("e2e-fake-node");
    context.remove_later(&nodes, &name);
    let ready = json!({"type": "Ready", "status": "True", "reason": "E2E",
        "message": "Set from e2e test"});
    let node = json!({"metadata": {"name": name}, "spec": {"unschedulable": true},
        "status": {"phase": "Running", "conditions": [ready]}});
    let created = nodes.create(&node).await?;
    is(&created["metadata"]["name"], name.as_str())?;
    is(&nodes.get(&name).await?["metadata"]["name"], name.as_str())?;
    let patch = label_patch(&name, "patched");
    let patched = nodes.patch(&name, Patch::Strategic, &patch).await?;
    is(label(&patched, &name), "patched")?;
    is_later(&patched, &created)?;
    counts(&nodes.items_labelled(&format!("{name}=patched")).await?, 1)?;
    let updated =
        nodes.update(&name, |node| node["metadata"]["labels"][&name] = "updated".into()).await?;
    is(label(&updated, &name), "updated")?;
    nodes.delete(&name).await?;
    gone(&nodes, &name).await
}

async fn qos_class(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    let name = context.unique("pod-qos-class");
    let amounts = json!({"cpu": "100m", "memory": "100Mi"});
    let container = json!({"name": "agnhost", "image": "agnhost:v1", "args": ["pause"],
        "resources": {"limits": amounts, "requests": amounts}});
    let pod = json!({"metadata": {"name": name, "labels": {"name": name}},
        "spec": {"containers": [container]}});
    pods.create(&pod).await?;
    is(&pods.get(&name).await?["status"]["qosClass"], "Guaranteed")
}
