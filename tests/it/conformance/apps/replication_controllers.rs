//! `apps/rc.go`.

use anyhow::Result;
use serde_json::{Value, json};

use crate::conformance::checks::{holds, is, label, name, namespace};
use crate::conformance::workloads::{
    HTTPD, becomes, condition, controller, is_observed, number, pod, replication_controller, run,
    uid,
};
use crate::conformance::{Case, Context, Patch, case, eventually, refused};

pub const CASES: &[Case] = &[
    case!("ReplicationController should adopt matching pods on creation", adoption),
    case!("ReplicationController should get and update a ReplicationController scale", scale),
    case!("ReplicationController should release no longer matching pods", release),
    case!(
        "ReplicationController should surface a failure condition on a common issue like exceeded \
         quota",
        failure
    ),
    case!("ReplicationController should test the lifecycle of a ReplicationController", life),
];

const CONTROLLERS: &str = "v1/replicationcontrollers";

fn of(name: &str, replicas: u32) -> Value {
    replication_controller(name, replicas, &json!({"name": name}), "httpd", HTTPD)
}

async fn adoption(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    run(&pods, &pod("pod-adoption", json!({"name": "pod-adoption"}), HTTPD)).await?;
    let created = context.own(CONTROLLERS).create(&of("pod-adoption", 1)).await?;
    eventually("the adoption", async || match pods.get("pod-adoption").await {
        Ok(pod) => Ok((controller(&pod) == Some(uid(&created))).then_some(())),
        // Or it was deleted, as one too many.
        gone => refused(gone, 404).map(|_| Some(())),
    })
    .await
}

async fn release(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    let created = context.own(CONTROLLERS).create(&of("pod-release", 1)).await?;
    let found = eventually("its pod", async || {
        let found = pods.items_labelled("name=pod-release").await?;
        Ok((found.len() == 1).then_some(found))
    });
    let first = name(&found.await?[0]).to_string();
    let relabel = |pod: &mut Value| {
        pod["metadata"]["labels"] = json!({"name": "not-matching-name"});
    };
    pods.update(&first, relabel).await?;
    eventually("the release", async || {
        Ok((controller(&pods.get(&first).await?) != Some(uid(&created))).then_some(()))
    })
    .await
}

async fn has_replicas(context: &Context, name: &str, count: i64) -> Result<Value> {
    let has = |object: &Value| number(&object["status"]["replicas"]) == count;
    becomes(&context.own(CONTROLLERS), name, &format!("of {count} pods"), has).await
}

async fn scale(context: &Context) -> Result<()> {
    let controllers = context.own(CONTROLLERS);
    controllers.create(&of("e2e-rc", 1)).await?;
    has_replicas(context, "e2e-rc", 1).await?;
    let mut scale = controllers.get("e2e-rc/scale").await?;
    is(&scale["status"]["replicas"], 1)?;
    // Without a version, whatever others wrote.
    scale["metadata"].as_object_mut().map(|meta| meta.remove("resourceVersion"));
    scale["spec"]["replicas"] = 2.into();
    controllers.replace_at("e2e-rc/scale", &scale).await?;
    has_replicas(context, "e2e-rc", 2).await?;
    Ok(())
}

async fn failure(context: &Context) -> Result<()> {
    let (controllers, quotas) = (context.own(CONTROLLERS), context.own("v1/resourcequotas"));
    let quota = json!({"metadata": {"name": "condition-test"}, "spec": {"hard": {"pods": "2"}}});
    quotas.create(&quota).await?;
    let is_synced = |quota: &Value| quota["status"]["hard"]["pods"] == "2";
    becomes(&quotas, "condition-test", "synced", is_synced).await?;
    controllers.create(&of("condition-test", 3)).await?;
    let fails =
        |object: &Value| is_observed(object) && condition(object, "ReplicaFailure").is_some();
    becomes(&controllers, "condition-test", "with a failure", fails).await?;
    controllers.update("condition-test", |object| object["spec"]["replicas"] = 2.into()).await?;
    let is_fine =
        |object: &Value| is_observed(object) && condition(object, "ReplicaFailure").is_none();
    becomes(&controllers, "condition-test", "without a failure", is_fine).await?;
    Ok(())
}

async fn life(context: &Context) -> Result<()> {
    let (controllers, selector) = (context.own(CONTROLLERS), "test-rc-static=true");
    let labels = json!({"test-rc-static": "true"});
    let mut watch = controllers.watch_labelled(selector).await?;
    let mut wanted = replication_controller("rc-test", 1, &labels, "rc-test", HTTPD);
    wanted["metadata"]["labels"] = labels;
    controllers.create(&wanted).await?;
    watch.expect("ADDED").await?;
    let has = |object: &Value, replicas: i64, ready: i64| {
        let status = &object["status"];
        number(&status["replicas"]) == replicas && number(&status["readyReplicas"]) == ready
    };
    watch.until("MODIFIED", |object| has(object, 1, 1)).await?;

    let patch = json!({"metadata": {"labels": {"test-rc": "patched"}}});
    let patched = controllers.patch("rc-test", Patch::Strategic, &patch).await?;
    is(label(&patched, "test-rc"), "patched")?;
    watch.until("MODIFIED", |_| true).await?;
    let patch = json!({"status": {"readyReplicas": 0, "availableReplicas": 0}});
    let patched = controllers.patch("rc-test/status", Patch::Strategic, &patch).await?;
    is(&number(&patched["status"]["readyReplicas"]).into(), 0)?;
    watch.until("MODIFIED", |_| true).await?;
    watch.until("MODIFIED", |object| number(&object["status"]["replicas"]) == 1).await?;
    is(&controllers.get("rc-test/status").await?["status"]["replicas"], 1)?;

    let patch = json!({"metadata": {}, "spec": {"replicas": 2}, "status": {"replicas": 0}});
    controllers.patch("rc-test/scale", Patch::Strategic, &patch).await?;
    watch.until("MODIFIED", |_| true).await?;
    watch.until("MODIFIED", |object| has(object, 2, 2)).await?;
    let read = controllers.get("rc-test").await?;
    is(label(&read, "test-rc"), "patched")?;
    let change = |object: &mut Value| {
        object["status"]["availableReplicas"] = 1.into();
        object["status"]["readyReplicas"] = 1.into();
    };
    controllers.update("rc-test/status", change).await?;
    watch.until("MODIFIED", |_| true).await?;

    let found = context.all(CONTROLLERS).items_labelled(selector).await?;
    let is_it = |object: &Value| {
        name(object) == "rc-test"
            && namespace(object) == context.namespace
            && label(object, "test-rc") == "patched"
    };
    holds(found.iter().any(is_it), "it is in the list of all namespaces")?;
    controllers.delete_collection(&[("labelSelector", selector)]).await?;
    watch.until("DELETED", |_| true).await?;
    Ok(())
}
