//! The part of `network/service.go` that needs no traffic.

use anyhow::Result;
use serde_json::{Value, json};

use crate::conformance::checks::{annotation, counts, holds, label, label_patch, name, namespace};
use crate::conformance::{Case, Context, Patch, case};

pub const CASES: &[Case] = &[
    case!("Services should complete a service status lifecycle", status_lifecycle),
    case!("Services should delete a collection of services", collection),
    case!("Services should find a service from listing all namespaces", find),
];

async fn find(context: &Context) -> Result<()> {
    let services = context.all("v1/services").items(&[]).await?;
    let is_it = |service: &Value| name(service) == "kubernetes" && namespace(service) == "default";
    holds(services.iter().any(is_it), "default/kubernetes is among all Services")
}

async fn status_lifecycle(context: &Context) -> Result<()> {
    let services = context.own("v1/services");
    let service_name = context.unique("test-service");
    let status = format!("{service_name}/status");
    let mut watch = services.watch_labelled("test-service-static=true").await?;
    let port = json!({"name": "http", "protocol": "TCP", "port": 80, "targetPort": 80});
    let spec = json!({"type": "LoadBalancer", "ports": [port],
        "loadBalancerClass": "example.com/internal-vip"});
    let labels = json!({"test-service-static": "true"});
    let service = json!({"metadata": {"name": service_name, "labels": labels}, "spec": spec});
    services.create(&service).await?;
    let is_it = |s: &Value| name(s) == service_name && namespace(s) == context.namespace;
    watch.until("ADDED", |s| is_it(s) && *label(s, "test-service-static") == "true").await?;
    services.get(&status).await?;
    let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}},
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}});
    services.patch(&status, Patch::Merge, &patch).await?;
    let is_patched = |s: &Value| is_it(s) && *annotation(s, "patchedstatus") == "true";
    watch.until("MODIFIED", is_patched).await?;
    let condition = json!({"type": "StatusUpdate", "status": "True", "reason": "E2E",
        "message": "Set from e2e test", "lastTransitionTime": null});
    let change = |service: &mut Value| {
        if let Some(conditions) = service["status"]["conditions"].as_array_mut() {
            conditions.push(condition.clone());
        } else {
            service["status"]["conditions"] = json!([condition]);
        }
    };
    services.update(&status, change).await?;
    let has_condition = |service: &Value| {
        let conditions = service["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|c| {
            c["type"] == "StatusUpdate"
                && c["reason"] == "E2E"
                && c["message"] == "Set from e2e test"
        })
    };
    watch.until("MODIFIED", |s| is_patched(s) && has_condition(s)).await?;
    let patch = label_patch("test-service", "patched");
    services.patch(&service_name, Patch::Strategic, &patch).await?;
    watch.until("MODIFIED", |s| is_it(s) && *label(s, "test-service") == "patched").await?;
    services.delete(&service_name).await?;
    let is_deleted = |s: &Value| is_it(s) && *label(s, "test-service-static") == "true";
    watch.until("DELETED", is_deleted).await.map(drop)
}

async fn collection(context: &Context) -> Result<()> {
    let services = context.own("v1/services");
    for (letter, value, port) in [("a", "delete", 8001), ("b", "delete", 8002), ("c", "keep", 8003)]
    {
        let name = context.unique(&format!("e2e-svc-{letter}"));
        let port = json!({"name": "http", "protocol": "TCP", "port": port, "targetPort": port});
        let metadata = json!({"name": name, "labels": {"e2e-test-service": value}});
        let spec = json!({"type": "ClusterIP", "ports": [port]});
        services.create(&json!({"metadata": metadata, "spec": spec})).await?;
    }
    counts(&services.items(&[]).await?, 3)?;
    services.delete_collection(&[("labelSelector", "e2e-test-service=delete")]).await?;
    counts(&services.items(&[]).await?, 1)
}
