//! `apimachinery/namespace.go`.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::conformance::operations::{ensure_includes, gone, version};
use crate::conformance::workloads::{PAUSE, becomes, condition, is_ending, is_running, pod};
use crate::conformance::{Case, Context, Patch, case, refused};

pub const CASES: &[Case] = &[
    case!(
        "Namespaces should ensure that all services are removed when a namespace is deleted \
         [Serial]",
        services_go
    ),
    case!(
        "Namespaces should ensure that all pods are removed when a namespace is deleted [Serial]",
        pods_go
    ),
    case!("OrderedNamespaceDeletion namespace deletion should delete pod first", pods_go_first),
    case!("Namespaces should patch a Namespace [Serial]", patch),
    case!("Namespaces should apply changes to a namespace status [Serial]", status),
    case!("Namespaces should apply an update to a Namespace [Serial]", update),
    case!("Namespaces should apply a finalizer to a Namespace [Serial]", finalizer),
];

async fn services_go(context: &Context) -> Result<()> {
    let namespaces = context.all("v1/namespaces");
    let name = context.create_namespace("nsdeletetest", json!({})).await?;
    let services = context.within(&name, "v1/services");
    let service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "test-service"},
        "spec": {"selector": {"foo": "bar", "baz": "blah"},
            "ports": [{"port": 80, "targetPort": 80}]}});
    services.create(&service).await?;
    namespaces.delete(&name).await?;
    gone(&namespaces, &name).await?;
    // The same name again: upstream's namespaces get new ones, and could not see it.
    let again = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    namespaces.create(&again).await?;
    refused(services.get("test-service").await, 404)?;
    Ok(())
}

async fn pods_go(context: &Context) -> Result<()> {
    let namespaces = context.all("v1/namespaces");
    let name = context.create_namespace("nsdeletetest", json!({})).await?;
    let pods = context.within(&name, "v1/pods");
    pods.create(&pod("test-pod", json!({}), PAUSE)).await?;
    is_running(&pods, "test-pod").await?;
    namespaces.delete(&name).await?;
    gone(&namespaces, &name).await?;
    let again = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    namespaces.create(&again).await?;
    refused(pods.get("test-pod").await, 404)?;
    Ok(())
}

async fn pods_go_first(context: &Context) -> Result<()> {
    let namespaces = context.all("v1/namespaces");
    let name = context.create_namespace("nsdeletetest", json!({})).await?;
    let (pods, maps) = (context.within(&name, "v1/pods"), context.within(&name, "v1/configmaps"));
    let mut held = pod("test-pod", json!({}), PAUSE);
    held["metadata"]["finalizers"] = json!(["e2e.example.com/finalizer"]);
    pods.create(&held).await?;
    is_running(&pods, "test-pod").await?;
    let map = json!({"metadata": {"name": "test-configmap"}, "data": {"key": "value"}});
    maps.create(&map).await?;
    namespaces.delete(&name).await?;
    becomes(&namespaces, &name, "looked at by its controller", |namespace| {
        namespace["status"]["phase"] == "Terminating"
            && condition(namespace, "NamespaceDeletionContentFailure").is_some()
    })
    .await?;
    becomes(&pods, "test-pod", "ending", is_ending).await?;
    // It is there while the pod is.
    maps.get("test-configmap").await?;
    pods.update("test-pod", |pod| pod["metadata"]["finalizers"] = json!([])).await?;
    gone(&pods, "test-pod").await?;
    gone(&namespaces, &name).await
}

async fn patch(context: &Context) -> Result<()> {
    let namespaces = context.all("v1/namespaces");
    let name = context.create_namespace("nspatchtest", json!({})).await?;
    let created = namespaces.get(&name).await?;
    ensure!(version(&created) > 0, "no version: {created}");
    let patch = json!({"metadata": {"labels": {"testLabel": "testValue"}}});
    let patched = namespaces.patch(&name, Patch::Strategic, &patch).await?;
    ensure!(version(&patched) > version(&created), "no later version: {patched}");
    ensure_includes(&namespaces.get(&name).await?, &patch)
}

fn last(conditions: &Value) -> Result<&Value> {
    conditions.as_array().and_then(|all| all.last()).context("no condition")
}

async fn status(context: &Context) -> Result<()> {
    let (namespaces, name) = (context.all("v1/namespaces"), context.namespace.as_str());
    let path = format!("{name}/status");
    let read = namespaces.get(&path).await?;
    ensure!(read["status"]["phase"] == "Active", "the phase: {read}");
    let condition = json!({"type": "StatusPatch", "status": "True", "reason": "E2E",
        "message": "Patched by an e2e test"});
    let patch = json!({"metadata": {"annotations": {"e2e-patched-ns-status": name}},
        "status": {"conditions": [condition]}});
    let patched = namespaces.patch(&path, Patch::Merge, &patch).await?;
    ensure!(patched["metadata"]["annotations"]["e2e-patched-ns-status"] == name, "{patched}");
    ensure_includes(last(&patched["status"]["conditions"])?, &condition)?;
    let condition = json!({"type": "StatusUpdate", "status": "True", "reason": "E2E",
        "message": "Updated by an e2e test"});
    let updated = namespaces.update(&path, |namespace| {
        if let Some(conditions) = namespace["status"]["conditions"].as_array_mut() {
            conditions.push(condition.clone());
        }
    });
    ensure_includes(last(&updated.await?["status"]["conditions"])?, &condition)
}

async fn update(context: &Context) -> Result<()> {
    let name = context.namespace.as_str();
    let namespaces = context.all("v1/namespaces");
    let updated = namespaces.update(name, |namespace| {
        namespace["metadata"]["labels"][name] = "updated".into();
    });
    let updated = updated.await?;
    ensure!(updated["metadata"]["labels"][name] == "updated", "not updated: {updated}");
    Ok(())
}

async fn finalizer(context: &Context) -> Result<()> {
    const FAKE: &str = "e2e.example.com/fakeFinalizer";
    let namespaces = context.all("v1/namespaces");
    let name = context.create_namespace("e2e-ns", json!({})).await?;
    let has = |namespace: &Value| {
        let finalizers = namespace["spec"]["finalizers"].as_array().into_iter().flatten();
        finalizers.filter(|one| *one == FAKE).count()
    };
    let mut namespace = namespaces.get(&name).await?;
    namespace["spec"]["finalizers"].as_array_mut().context("finalizers")?.push(FAKE.into());
    let added = namespaces.replace_at(&format!("{name}/finalize"), &namespace).await?;
    ensure!(has(&added) == 1, "not added: {added}");
    let mut namespace = namespaces.get(&name).await?;
    namespace["spec"]["finalizers"].as_array_mut().context("finalizers")?.retain(|f| f != FAKE);
    let removed = namespaces.replace_at(&format!("{name}/finalize"), &namespace).await?;
    ensure!(has(&removed) == 0, "not removed: {removed}");
    Ok(())
}
