//! `apps/deployment.go`.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::conformance::checks::{holds, is, label, name, namespace};
use crate::conformance::workloads::{
    AGNHOST, HTTPD, PAUSE, REPLICA_SETS, are_running, becomes, deploy, deployment, has_revision,
    is_complete, is_observed, is_rolled_out, list_version, number, replica_set, replica_sets,
    scales, shows, status_is_served,
};
use crate::conformance::{Case, Context, Event, Patch, case, eventually};

pub const CASES: &[Case] = &[
    case!("Deployment Deployment should have a working scale subresource", scale),
    case!("Deployment RecreateDeployment should delete old pods and create new ones", recreate),
    case!("Deployment RollingUpdateDeployment should delete old pods and create new ones", rolling),
    case!("Deployment deployment should delete old replica sets", clean_up),
    case!("Deployment deployment should support proportional scaling", proportional),
    case!("Deployment deployment should support rollover", rollover),
    case!("Deployment should run the lifecycle of a Deployment", life),
    case!("Deployment should validate Deployment Status endpoints", status),
];

const DEPLOYMENTS: &str = "apps/v1/deployments";

async fn scale(context: &Context) -> Result<()> {
    let labels = json!({"name": "httpd"});
    deploy(context, &deployment("test-new-deployment", 1, &labels, "httpd", HTTPD)).await?;
    scales(&context.own(DEPLOYMENTS), "test-new-deployment").await
}

async fn status(context: &Context) -> Result<()> {
    let selector = "e2e=testing";
    let before = context.all(DEPLOYMENTS).list(&[("labelSelector", selector)]).await?;
    let labels = json!({"name": "httpd", "e2e": "testing"});
    let created = deploy(context, &deployment("status", 1, &labels, "httpd", HTTPD)).await?;
    status_is_served(&context.own(DEPLOYMENTS), &created, selector, list_version(&before)).await
}

/// Another container, in place of the one that is there.
fn change(deployment: &mut Value, container: &str, image: &str) {
    let first = &mut deployment["spec"]["template"]["spec"]["containers"][0];
    first["name"] = container.into();
    first["image"] = image.into();
}

async fn recreate(context: &Context) -> Result<()> {
    let deployments = context.own(DEPLOYMENTS);
    let labels = json!({"name": "sample-pod-3"});
    let mut wanted = deployment("test-recreate-deployment", 1, &labels, "agnhost", AGNHOST);
    wanted["spec"]["strategy"]["type"] = "Recreate".into();
    deploy(context, &wanted).await?;
    let updated =
        deployments.update(name(&wanted), |deployment| change(deployment, "httpd", HTTPD)).await?;
    let version = list_version(&updated).to_string();
    let field = format!("metadata.name={}", name(&wanted));
    let query = [("fieldSelector", field.as_str()), ("resourceVersion", version.as_str())];
    let mut watch = deployments.watch(&query).await?;
    loop {
        let event = watch.next().await?.context("the watch ended")?.object;
        let status = &event["status"];
        let (replicas, new) = (number(&status["replicas"]), number(&status["updatedReplicas"]));
        ensure!(new == 0 || replicas == new, "new pods run beside old pods: {status}");
        let wanted = number(&event["spec"]["replicas"]);
        if replicas == wanted && new == wanted && is_observed(&event) {
            return Ok(());
        }
    }
}

/// A ReplicaSet of one pod that runs, which a Deployment of `name` adopts.
async fn adoptable(context: &Context, set: &str, name: &str, annotations: Value) -> Result<()> {
    let labels = json!({"name": name, "pod": "httpd"});
    let mut object = replica_set(set, 1, &labels, "httpd", HTTPD);
    object["metadata"]["annotations"] = annotations;
    context.own(REPLICA_SETS).create(&object).await?;
    are_running(&context.own("v1/pods"), &format!("name={name}"), 1).await?;
    Ok(())
}

async fn rolling(context: &Context) -> Result<()> {
    let revision = json!({"deployment.kubernetes.io/revision": "3546343826724305832"});
    adoptable(context, "test-rolling-update-controller", "sample-pod", revision).await?;
    let labels = json!({"name": "sample-pod"});
    let wanted = deployment("test-rolling-update-deployment", 1, &labels, "agnhost", AGNHOST);
    context.own(DEPLOYMENTS).create(&wanted).await?;
    let done = is_rolled_out(context, name(&wanted), "3546343826724305833", AGNHOST).await?;
    let (_, old) = replica_sets(context, &done).await?;
    holds(old.len() == 1, "it has the one old ReplicaSet that it adopted")
}

async fn clean_up(context: &Context) -> Result<()> {
    let (deployments, pods) = (context.own(DEPLOYMENTS), context.own("v1/pods"));
    adoptable(context, "test-cleanup-controller", "cleanup-pod", json!({})).await?;
    let before = pods.list(&[]).await?;
    let mut watch = pods.watch(&[("resourceVersion", list_version(&before))]).await?;
    let labels = json!({"name": "cleanup-pod"});
    let mut wanted = deployment("test-cleanup-deployment", 1, &labels, "agnhost", AGNHOST);
    wanted["spec"]["revisionHistoryLimit"] = 0.into();
    deployments.create(&wanted).await?;
    // Upstream waits for no old ones, which is so before the Deployment adopts any.
    is_rolled_out(context, name(&wanted), "1", AGNHOST).await?;
    eventually("the end of the old ReplicaSet", async || {
        let deployment = deployments.get(name(&wanted)).await?;
        Ok(replica_sets(context, &deployment).await?.1.is_empty().then_some(()))
    })
    .await?;
    let mut added = 0;
    while let Ok(event) = tokio::time::timeout(Duration::from_secs(1), watch.next()).await {
        let Event { kind, object } = event?.context("the watch ended")?;
        if kind == "ADDED" {
            added += 1;
            is(&object["spec"]["containers"][0]["name"], "agnhost")?;
        }
    }
    holds(added == 1, "one pod was created, the new one")
}

async fn is_replicas(context: &Context, set: &str, count: i64) -> Result<()> {
    let set = context.own(REPLICA_SETS).get(set).await?;
    is(&number(&set["spec"]["replicas"]).into(), count)?;
    is(&number(&set["status"]["replicas"]).into(), count)
}

async fn rollover(context: &Context) -> Result<()> {
    let (deployments, old) = (context.own(DEPLOYMENTS), "test-rollover-controller");
    adoptable(context, old, "rollover-pod", json!({})).await?;
    let is_ready = |set: &Value| set["status"]["readyReplicas"] == set["spec"]["replicas"];
    becomes(&context.own(REPLICA_SETS), old, "ready", is_ready).await?;
    // There is no such image, so that it does not end.
    let (labels, missing) = (json!({"name": "rollover-pod"}), "redis-slave:nonexistent");
    let mut wanted = deployment("test-rollover-deployment", 1, &labels, "redis-slave", missing);
    wanted["spec"]["strategy"]["rollingUpdate"] = json!({"maxUnavailable": 0, "maxSurge": 1});
    wanted["spec"]["minReadySeconds"] = 10.into();
    deployments.create(&wanted).await?;
    let has_begun = |deployment: &Value| {
        is_observed(deployment) && number(&deployment["status"]["updatedReplicas"]) >= 1
    };
    let begun = becomes(&deployments, name(&wanted), "begun", has_begun).await?;
    holds(has_revision(context, &begun, "1", missing).await?, "it has the first revision")?;
    let (first, _) = replica_sets(context, &begun).await?;
    let first = first.context("a new ReplicaSet")?;
    is_replicas(context, old, 1).await?;
    is_replicas(context, name(&first), 1).await?;

    let updated = deployments
        .update(name(&wanted), |deployment| change(deployment, "agnhost", AGNHOST))
        .await?;
    let generation = number(&updated["metadata"]["generation"]);
    let is_seen =
        |deployment: &Value| number(&deployment["status"]["observedGeneration"]) >= generation;
    becomes(&deployments, name(&wanted), "observed", is_seen).await?;
    eventually("the second revision", async || {
        let deployment = deployments.get(name(&wanted)).await?;
        Ok(has_revision(context, &deployment, "2", AGNHOST).await?.then_some(()))
    })
    .await?;
    eventually("the end of the rollover", async || {
        let deployment = deployments.get(name(&wanted)).await?;
        let (new, mut sets) = replica_sets(context, &deployment).await?;
        sets.extend(new);
        let created: i64 = sets.iter().map(|set| number(&set["spec"]["replicas"])).sum();
        ensure!(created <= 2, "{created} replicas, of one and one more");
        let available = number(&deployment["status"]["availableReplicas"]);
        ensure!(available >= 1, "none is available: {}", deployment["status"]);
        Ok(is_complete(&deployment).then_some(()))
    })
    .await?;
    is_replicas(context, old, 0).await?;
    is_replicas(context, name(&first), 0).await
}

/// Until a ReplicaSet is asked for so many pods, and then until it has them, if it is to.
async fn is_sized(context: &Context, set: &str, count: i64, has_them: bool) -> Result<()> {
    let sets = context.own(REPLICA_SETS);
    let is_asked = |set: &Value| is_observed(set) && number(&set["spec"]["replicas"]) == count;
    becomes(&sets, set, &format!("asked for {count} pods"), is_asked).await?;
    if has_them {
        let has = |set: &Value| is_observed(set) && number(&set["status"]["replicas"]) == count;
        becomes(&sets, set, &format!("with {count} pods"), has).await?;
    }
    Ok(())
}

async fn proportional(context: &Context) -> Result<()> {
    let (deployments, sets) = (context.own(DEPLOYMENTS), context.own(REPLICA_SETS));
    let labels = json!({"name": "httpd"});
    let mut wanted = deployment("webserver-deployment", 10, &labels, "httpd", HTTPD);
    wanted["spec"]["strategy"]["rollingUpdate"] = json!({"maxUnavailable": 2, "maxSurge": 3});
    deployments.create(&wanted).await?;
    becomes(&deployments, name(&wanted), "observed", is_observed).await?;
    are_running(&context.own("v1/pods"), "name=httpd", 10).await?;
    let done = becomes(&deployments, name(&wanted), "complete", is_complete).await?;
    let (first, _) = replica_sets(context, &done).await?;
    let first = first.context("the first ReplicaSet")?;

    // A rollout that stops half-way, since there is no such image.
    let updated = deployments
        .update(name(&wanted), |deployment| change(deployment, "httpd", "webserver:404"))
        .await?;
    let generation = number(&updated["metadata"]["generation"]);
    let is_seen =
        |deployment: &Value| number(&deployment["status"]["observedGeneration"]) >= generation;
    becomes(&deployments, name(&wanted), "observed", is_seen).await?;
    let is_available = |set: &Value| number(&set["status"]["availableReplicas"]) == 8;
    becomes(&sets, name(&first), "with 8 available pods", is_available).await?;
    is_sized(context, name(&first), 8, true).await?;
    let (second, _) = replica_sets(context, &deployments.get(name(&wanted)).await?).await?;
    let second = second.context("the second ReplicaSet")?;
    is(&number(&second["status"]["availableReplicas"]).into(), 0)?;
    is_sized(context, name(&second), 5, true).await?;
    let status = deployments.get(name(&wanted)).await?["status"].take();
    holds(number(&status["availableReplicas"]) >= 8, "8 pods are available")?;

    // Of 20 more, each gets its part: 8 + 20 * 8/13 and 5 + 20 * 5/13.
    deployments.update(name(&wanted), |it| it["spec"]["replicas"] = 30.into()).await?;
    is_sized(context, name(&first), 20, false).await?;
    is_sized(context, name(&second), 13, false).await
}

const LIFE: &str = "test-deployment-static=true";

async fn life(context: &Context) -> Result<()> {
    let (deployments, everywhere) = (context.own(DEPLOYMENTS), context.all(DEPLOYMENTS));
    let before = everywhere.list(&[("labelSelector", LIFE)]).await?;
    let mut query = vec![("labelSelector", LIFE), ("resourceVersion", list_version(&before))];
    let labels = json!({"test-deployment-static": "true"});
    let mut wanted = deployment("test-deployment", 2, &labels, "test-deployment", AGNHOST);
    deployments.create(&wanted).await?;
    let is_it = |object: &Value| {
        name(object) == "test-deployment" && label(object, "test-deployment-static") == "true"
    };
    let is_ready = |object: &Value, count: i64| {
        is_it(object) && number(&object["status"]["readyReplicas"]) == count
    };
    let image =
        |object: &Value| object["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    let is_modified = |event: &Event| event.kind == "MODIFIED" && is_it(&event.object);
    shows(&deployments, &query, |event| event.kind == "ADDED" && is_it(&event.object)).await?;
    shows(&deployments, &query, |event| is_ready(&event.object, 2)).await?;

    let container = json!({"name": "test-deployment", "image": PAUSE,
        "command": ["/bin/sleep", "100000"]});
    let template = json!({"spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}});
    let patch = json!({"metadata": {"labels": {"test-deployment": "patched"}},
        "spec": {"replicas": 1, "template": template}});
    deployments.patch("test-deployment", Patch::Strategic, &patch).await?;
    shows(&deployments, &query, is_modified).await?;
    let is_scaled = |event: &Event| is_ready(&event.object, 1) && image(&event.object) == PAUSE;
    shows(&deployments, &query, is_scaled).await?;
    let list = everywhere.list(&[("labelSelector", LIFE)]).await?;
    let found = list["items"].as_array().context("items")?;
    let is_own = |object: &Value| is_it(object) && namespace(object) == context.namespace;
    holds(found.iter().any(is_own), "it is in the list of all namespaces")?;
    query[1].1 = list_version(&list);

    // As it was created, which is written over what it became.
    wanted["metadata"]["labels"]["test-deployment"] = "updated".into();
    change(&mut wanted, "test-deployment", HTTPD);
    deployments.replace(&wanted).await?;
    shows(&deployments, &query, is_modified).await?;
    let is_updated = |read: &Value| -> Result<()> {
        is(&image(read), HTTPD)?;
        is(label(read, "test-deployment"), "updated")
    };
    is_updated(&deployments.get("test-deployment/status").await?)?;
    shows(&deployments, &query, |event| is_ready(&event.object, 2)).await?;
    let patch = json!({"metadata": {"labels": {"test-deployment": "patched-status"}},
        "status": {"readyReplicas": 0}});
    // Refused while more pods are available than that are ready; upstream does not look either.
    let _ = deployments.patch("test-deployment/status", Patch::Strategic, &patch).await;
    shows(&deployments, &query, is_modified).await?;
    is_updated(&deployments.get("test-deployment/status").await?)?;
    let is_back = |event: &Event| is_ready(&event.object, 2) && image(&event.object) == HTTPD;
    shows(&deployments, &query, is_back).await?;

    let options = json!({"gracePeriodSeconds": 0});
    deployments.delete_collection_with(&[("labelSelector", LIFE)], &options).await?;
    shows(&deployments, &query, |event| event.kind == "DELETED" && is_it(&event.object)).await
}
