//! `apps/replica_set.go`.

use anyhow::Result;
use serde_json::{Value, json};

use crate::conformance::checks::{counts, is_later, label, name};
use crate::conformance::workloads::{
    AGNHOST, HTTPD, PAUSE, REPLICA_SETS, are_running, controller, list_version, pod, replica_set,
    run, scales, shows, status_is_served, uid,
};
use crate::conformance::{Case, Context, Patch, case, eventually, refused};

pub const CASES: &[Case] = &[
    case!("ReplicaSet Replace and Patch tests", life),
    case!("ReplicaSet Replicaset should have a working scale subresource", scale),
    case!(
        "ReplicaSet should adopt matching pods on creation and release no longer matching pods",
        adoption
    ),
    case!("ReplicaSet should list and delete a collection of ReplicaSets", collection),
    case!("ReplicaSet should validate Replicaset Status endpoints", status),
];

/// A ReplicaSet `test-rs`, whose pods run.
async fn started(context: &Context, replicas: u32, labels: &Value) -> Result<Value> {
    let set = replica_set("test-rs", replicas, labels, "httpd", HTTPD);
    let created = context.own(REPLICA_SETS).create(&set).await?;
    let selector = "name=sample-pod";
    are_running(&context.own("v1/pods"), selector, replicas as usize).await?;
    Ok(created)
}

async fn adoption(context: &Context) -> Result<()> {
    let (pods, sets) = (context.own("v1/pods"), context.own(REPLICA_SETS));
    let labels = json!({"name": "pod-adoption-release"});
    run(&pods, &pod("pod-adoption-release", labels.clone(), AGNHOST)).await?;
    let set = replica_set("pod-adoption-release", 1, &labels, "main", AGNHOST);
    let set = sets.create(&set).await?;
    let is_adopted = |pod: &Value| controller(pod) == Some(uid(&set));
    eventually("the adoption", async || match pods.get("pod-adoption-release").await {
        Ok(pod) => Ok(is_adopted(&pod).then_some(())),
        // Or it was deleted, as one too many.
        gone => refused(gone, 404).map(|_| Some(())),
    })
    .await?;
    let selector = "name=pod-adoption-release";
    let found = eventually("one pod", async || {
        let found = pods.items_labelled(selector).await?;
        Ok((found.len() == 1).then_some(found))
    });
    let first = name(&found.await?[0]).to_string();
    let relabel = |pod: &mut Value| {
        pod["metadata"]["labels"] = json!({"name": "not-matching-name"});
    };
    pods.update(&first, relabel).await?;
    eventually("the release", async || Ok((!is_adopted(&pods.get(&first).await?)).then_some(())))
        .await
}

async fn scale(context: &Context) -> Result<()> {
    started(context, 1, &json!({"name": "sample-pod", "pod": "httpd"})).await?;
    scales(&context.own(REPLICA_SETS), "test-rs").await
}

async fn life(context: &Context) -> Result<()> {
    let sets = context.own(REPLICA_SETS);
    let selector = "test-rs=patched";
    let before = context.all(REPLICA_SETS).list(&[("labelSelector", selector)]).await?;
    let created = started(context, 1, &json!({"name": "sample-pod", "pod": "httpd"})).await?;
    sets.update("test-rs", |set| set["spec"]["replicas"] = 2.into()).await?;
    let container = json!({"name": "test-rs", "image": PAUSE});
    let template = json!({"spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}});
    let patch = json!({"metadata": {"labels": {"test-rs": "patched"}},
        "spec": {"replicas": 3, "template": template}});
    let patched = sets.patch("test-rs", Patch::Strategic, &patch).await?;
    is_later(&patched, &created)?;
    let query = [("labelSelector", selector), ("resourceVersion", list_version(&before))];
    shows(&sets, &query, |event| {
        let set = &event.object;
        let pods = &set["spec"]["template"]["spec"];
        name(set) == "test-rs"
            && label(set, "test-rs") == "patched"
            && set["status"]["readyReplicas"] == 3
            && set["status"]["availableReplicas"] == 3
            && pods["containers"][0]["image"] == PAUSE
            && pods["terminationGracePeriodSeconds"] == 0
    })
    .await
}

async fn collection(context: &Context) -> Result<()> {
    let (sets, everywhere) = (context.own(REPLICA_SETS), context.all(REPLICA_SETS));
    let value = context.unique("e2e");
    let selector = format!("e2e={value}");
    started(context, 3, &json!({"name": "sample-pod", "pod": "httpd", "e2e": value})).await?;
    counts(&everywhere.items_labelled(&selector).await?, 1)?;
    let options = json!({"gracePeriodSeconds": 1});
    sets.delete_collection_with(&[("labelSelector", &selector)], &options).await?;
    counts(&everywhere.items_labelled(&selector).await?, 0)
}

async fn status(context: &Context) -> Result<()> {
    let selector = "name=sample-pod,pod=httpd";
    let before = context.all(REPLICA_SETS).list(&[("labelSelector", selector)]).await?;
    let created = started(context, 1, &json!({"name": "sample-pod", "pod": "httpd"})).await?;
    status_is_served(&context.own(REPLICA_SETS), &created, selector, list_version(&before)).await
}
