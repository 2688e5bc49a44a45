//! `apimachinery/custom_resource_definition.go` and `apimachinery/crd_watch.go`.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::crd;
use crate::conformance::operations::{ensure_includes, is_discovered};
use crate::conformance::{Case, Context, Patch, case, eventually};

pub const CASES: &[Case] = &[
    case!(
        "CustomResourceDefinition resources Simple CustomResourceDefinition creating/deleting \
         custom resource definition objects works",
        create_and_delete
    ),
    case!(
        "CustomResourceDefinition resources Simple CustomResourceDefinition listing custom \
         resource definition objects works",
        list
    ),
    case!(
        "CustomResourceDefinition resources Simple CustomResourceDefinition \
         getting/updating/patching custom resource definition status sub-resource works",
        status
    ),
    case!(
        "CustomResourceDefinition resources should include custom resource definition resources \
         in discovery documents",
        discovery
    ),
    case!(
        "CustomResourceDefinition resources custom resource defaulting for requests and from \
         storage works",
        defaulting
    ),
    case!(
        "CustomResourceDefinition Watch CustomResourceDefinition Watch watch on custom resource \
         definition objects",
        watch
    ),
];

async fn create_and_delete(context: &Context) -> Result<()> {
    crd::create_any(context).await?.delete(context).await
}

async fn list(context: &Context) -> Result<()> {
    let label = context.unique("list-test");
    let mut created = Vec::new();
    for _ in 0..10 {
        let versions = json!([crd::version("v1beta1", crd::any())]);
        let mut object = crd::definition(context, "mygroup.example.com", "Cluster", versions);
        object["metadata"]["labels"] = json!({"e2e-list-test-uuid": label});
        created.push(crd::create(context, object).await?);
    }
    let other = crd::create_any(context).await?;
    let definitions = crd::definitions(context);
    let selector = format!("e2e-list-test-uuid={label}");
    let listed = definitions.items_labelled(&selector).await?;
    ensure!(listed.len() == 10, "{} in the list, not 10", listed.len());
    for found in listed {
        let one = created.iter().find(|one| found["metadata"]["name"] == one.name());
        let one = one.with_context(|| format!("not one of ours: {found}"))?;
        ensure!(found["spec"] == one.object["spec"], "another spec: {found}");
    }
    definitions.delete_collection(&[("labelSelector", &selector)]).await?;
    for one in created {
        one.not_shown(context).await?;
    }
    definitions.get(other.name()).await?;
    other.delete(context).await
}

async fn status(context: &Context) -> Result<()> {
    let one = crd::create_any(context).await?;
    let definitions = crd::definitions(context);
    let path = format!("{}/status", one.name());
    let read = definitions.get(&path).await?;
    ensure!(read["spec"] == one.object["spec"], "another spec: {read}");
    let updated = definitions.update(&path, |object| {
        // As Go writes a condition that has only a message.
        let condition = json!({"type": "", "status": "", "lastTransitionTime": null,
            "message": "updated"});
        if let Some(conditions) = object["status"]["conditions"].as_array_mut() {
            conditions.push(condition);
        }
    });
    let updated = updated.await.context("updating")?;
    ensure_includes(&updated["status"]["conditions"], &json!([{"message": "updated"}]))?;
    let patch = json!([{"op": "add", "path": "/status/conditions",
        "value": [{"message": "patched"}]}]);
    let patched = definitions.patch(&path, Patch::Json, &patch).await.context("patching")?;
    ensure_includes(&patched["status"]["conditions"], &json!([{"message": "patched"}]))?;
    one.delete(context).await
}

async fn discovery(context: &Context) -> Result<()> {
    let (resource, kind) =
        ("apiextensions.k8s.io/v1/customresourcedefinitions", "CustomResourceDefinition");
    is_discovered(context, resource, kind, false, &[]).await?;
    let group = context.client.get("/apis/apiextensions.k8s.io").await?;
    ensure!(group["name"] == "apiextensions.k8s.io", "the group's name: {group}");
    let list = context.client.get("/apis/apiextensions.k8s.io/v1").await?;
    ensure!(list["groupVersion"] == "apiextensions.k8s.io/v1", "the version: {list}");
    Ok(())
}

async fn defaulting(context: &Context) -> Result<()> {
    let mut schema = crd::any();
    schema["openAPIV3Schema"]["properties"] =
        json!({"a": {"type": "string"}, "b": {"type": "string"}});
    let versions = json!([crd::version("v1beta1", schema)]);
    let object = crd::definition(context, "mygroup.example.com", "Cluster", versions);
    let one = crd::create(context, object).await?;
    let (definitions, objects) = (crd::definitions(context), context.all(&one.resource("v1beta1")));
    objects.create(&one.instance("v1beta1", "cr-1")).await?;
    let properties = "/spec/versions/0/schema/openAPIV3Schema/properties";
    let patch = json!([{"op": "add", "path": format!("{properties}/a/default"), "value": "A"}]);
    definitions.patch(one.name(), Patch::Json, &patch).await?;
    // Defaulted when it is read, though it is stored without.
    let read = eventually("the default of a", async || {
        let read = objects.get("cr-1").await?;
        Ok(read.get("a").is_some().then_some(read))
    })
    .await?;
    ensure!(read["a"] == "A", "another default: {read}");
    let listed = objects.items(&[]).await?;
    ensure!(listed[0]["a"] == "A", "not in a list: {listed:?}");
    let created = objects.create(&one.instance("v1beta1", "cr-2")).await?;
    ensure!(created["a"] == "A", "no default at creation: {created}");
    let patch = json!([{"op": "remove", "path": format!("{properties}/a/default")},
        {"op": "add", "path": format!("{properties}/b/default"), "value": "B"}]);
    definitions.patch(one.name(), Patch::Json, &patch).await?;
    let read = eventually("the default of b", async || {
        let read = objects.get("cr-2").await?;
        Ok(read.get("b").is_some().then_some(read))
    })
    .await?;
    ensure!(read["b"] == "B" && read["a"] == "A", "a stays, b is defaulted: {read}");
    one.delete(context).await
}

async fn watch(context: &Context) -> Result<()> {
    let versions = json!([crd::version("v1beta1", crd::any())]);
    let object = crd::definition(context, "mygroup.example.com", "Cluster", versions);
    let one = crd::create(context, object).await?;
    let objects = context.all(&one.resource("v1beta1"));
    let watch = async |name: &str| {
        let selector = format!("metadata.name={name}");
        objects.watch(&[("fieldSelector", &selector), ("timeoutSeconds", "600")]).await
    };
    let mut watches = [watch("name1").await?, watch("name2").await?];
    let mut created = Vec::new();
    for name in ["name1", "name2"] {
        let mut object = one.instance("v1beta1", name);
        object["content"] = json!({"key": "value"});
        let answer = objects.create(&object).await?;
        ensure!(answer["metadata"]["uid"].is_string(), "no uid: {answer}");
        ensure!(answer["apiVersion"] == object["apiVersion"], "{answer}");
        ensure!(answer["kind"] == object["kind"], "{answer}");
        created.push(answer);
    }
    let patch = json!([{"op": "add", "path": "/dummy", "value": "test"}]);
    for name in ["name1", "name2"] {
        objects.patch(name, Patch::Json, &patch).await?;
    }
    for name in ["name1", "name2"] {
        objects.delete(name).await?;
    }
    // The whole sequence of each: nothing of the other one is between.
    for (watch, created) in watches.iter_mut().zip(&created) {
        let added: Value = watch.expect("ADDED").await?;
        ensure!(added == *created, "{added}; expected: {created}");
        for kind in ["MODIFIED", "DELETED"] {
            let seen = watch.expect(kind).await?;
            ensure!(seen["metadata"]["name"] == created["metadata"]["name"], "{seen}");
            ensure!(seen["dummy"] == "test", "{seen}");
        }
    }
    one.delete(context).await
}
