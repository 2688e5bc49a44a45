//! `apps/statefulset.go`.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::conformance::checks::{counts, holds, is, label, name};
use crate::conformance::workloads::{
    HTTPD, PAUSE, becomes, is_ending, is_observed, list_version, number, phase, pod, run, scales,
    serves, status_is_served,
};
use crate::conformance::{Case, Context, Patch, case, eventually};

pub const CASES: &[Case] = &[
    case!(
        "StatefulSet Basic StatefulSet functionality should have a working scale subresource",
        scale
    ),
    case!(
        "StatefulSet Basic StatefulSet functionality should list, patch and delete a collection of \
         StatefulSets",
        collection
    ),
    case!(
        "StatefulSet Basic StatefulSet functionality should perform canary updates and phased \
         rolling updates of template modifications",
        phases
    ),
    case!(
        "StatefulSet Basic StatefulSet functionality Should recreate evicted statefulset",
        refused
    ),
    case!(
        "StatefulSet Basic StatefulSet functionality should validate Statefulset Status endpoints",
        status
    ),
];

pub const SETS: &str = "apps/v1/statefulsets";
pub const SELECTOR: &str = "foo=bar,baz=blah";
pub const REVISION: &str = "controller-revision-hash";

pub fn stateful_set(name: &str, replicas: u32) -> Value {
    let labels = json!({"foo": "bar", "baz": "blah"});
    let container = json!({"name": "webserver", "image": HTTPD});
    json!({"metadata": {"name": name, "labels": labels}, "spec": {
        "replicas": replicas, "serviceName": "test", "selector": {"matchLabels": labels},
        "updateStrategy": {"type": "RollingUpdate"},
        "template": {"metadata": {"labels": labels},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]}}}})
}

/// The headless Service that upstream makes before each test.
pub async fn service(context: &Context) -> Result<()> {
    let service = json!({"metadata": {"name": "test"}, "spec": {"clusterIP": "None",
        "selector": {"foo": "bar", "baz": "blah"}, "ports": [{"port": 80}]}});
    context.own("v1/services").create(&service).await.map(drop)
}

/// Until so many pods are there and serve; in the order of their ordinals.
pub async fn are_ready(context: &Context, count: usize) -> Result<Vec<Value>> {
    eventually(&format!("{count} ready pods"), async || {
        let mut pods = context.own("v1/pods").items_labelled(SELECTOR).await?;
        pods.sort_by_key(|pod| name(pod).to_string());
        Ok((pods.len() == count && pods.iter().all(serves)).then_some(pods))
    })
    .await
}

async fn started(context: &Context, set: &Value) -> Result<Value> {
    service(context).await?;
    let created = context.own(SETS).create(set).await?;
    are_ready(context, number(&set["spec"]["replicas"]) as usize).await?;
    becomes(&context.own(SETS), name(&created), "ready", |set| {
        is_observed(set) && set["status"]["readyReplicas"] == set["spec"]["replicas"]
    })
    .await
}

async fn scale(context: &Context) -> Result<()> {
    started(context, &stateful_set("ss", 1)).await?;
    scales(&context.own(SETS), "ss").await
}

async fn status(context: &Context) -> Result<()> {
    let before = context.all(SETS).list(&[("labelSelector", SELECTOR)]).await?;
    let created = started(context, &stateful_set("ss", 1)).await?;
    let mut watched = created.clone();
    // The controller writes statuses as well.
    watched["metadata"]["resourceVersion"] = Value::Null;
    status_is_served(&context.own(SETS), &watched, SELECTOR, list_version(&before)).await
}

/// A pod of the set is refused by its node until the port of the host that it wants is free.
async fn refused(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    service(context).await?;
    let nodes = context.all("v1/nodes").items(&[]).await?;
    let node = nodes.first().map(name).context("a node")?;
    let port = json!([{"name": "conflict", "hostPort": 21017, "containerPort": 21017}]);
    let mut first = pod("test-pod", json!({}), HTTPD);
    first["spec"]["nodeName"] = node.into();
    first["spec"]["terminationGracePeriodSeconds"] = 1.into();
    first["spec"]["containers"][0]["ports"] = port.clone();
    run(&pods, &first).await?;
    let mut watch = pods.watch_labelled(SELECTOR).await?;
    let mut set = stateful_set("ss", 1);
    set["spec"]["template"]["spec"]["nodeName"] = node.into();
    set["spec"]["template"]["spec"]["containers"][0]["ports"] = port;
    context.own(SETS).create(&set).await?;
    let failed = watch.until("DELETED", |pod| phase(pod) == "Failed").await?;
    is(&failed["metadata"]["name"], "ss-0")?;
    is(&failed["status"]["reason"], "NodePorts")?;
    pods.delete("test-pod").await?;
    are_ready(context, 1).await.map(drop)
}

async fn collection(context: &Context) -> Result<()> {
    let (sets, everywhere) = (context.own(SETS), context.all(SETS));
    let e2e = context.unique("test-ss");
    let mut wanted = stateful_set("test-ss", 1);
    wanted["metadata"]["labels"]["e2e"] = e2e.clone().into();
    started(context, &wanted).await?;
    let container = json!({"name": "webserver", "image": PAUSE});
    let patch = json!({"metadata": {"labels": {"test-ss": "patched"}},
        "spec": {"replicas": 2, "template": {"spec": {"terminationGracePeriodSeconds": 1,
            "containers": [container]}}}});
    let patched = sets.patch("test-ss", Patch::Strategic, &patch).await?;
    is(label(&patched, "test-ss"), "patched")?;
    is(&patched["spec"]["replicas"], 2)?;
    is(&patched["spec"]["template"]["spec"]["containers"][0]["image"], PAUSE)?;
    let pods = are_ready(context, 2).await?;
    holds(pods.iter().all(|pod| !is_ending(pod)), "both stay")?;
    let selector = format!("e2e={e2e}");
    counts(&everywhere.items_labelled(&selector).await?, 1)?;
    sets.delete_collection(&[("labelSelector", &selector)]).await?;
    counts(&everywhere.items_labelled(&selector).await?, 0)
}

/// Until the pods from this ordinal on are of the new revision; the others are of the old one.
async fn is_partitioned(context: &Context, at: usize, old: &str, new: &str) -> Result<()> {
    eventually(&format!("new pods from {at} on"), async || {
        let pods = are_ready(context, 3).await?;
        let split = pods.iter().enumerate().all(|(ordinal, pod)| {
            let (image, revision) = if ordinal < at { (HTTPD, old) } else { (PAUSE, new) };
            label(pod, REVISION) == revision && pod["spec"]["containers"][0]["image"] == image
        });
        Ok(split.then_some(()))
    })
    .await
}

async fn phases(context: &Context) -> Result<()> {
    let (sets, pods) = (context.own(SETS), context.own("v1/pods"));
    let mut wanted = stateful_set("ss2", 3);
    wanted["spec"]["updateStrategy"]["rollingUpdate"] = json!({"partition": 3});
    let set = started(context, &wanted).await?;
    let old = set["status"]["currentRevision"].as_str().unwrap_or_default().to_string();
    is(&set["status"]["updateRevision"], old.as_str())?;
    for pod in are_ready(context, 3).await? {
        is(label(&pod, REVISION), old.as_str())?;
    }
    let change = |set: &mut Value| {
        set["spec"]["template"]["spec"]["containers"][0]["image"] = PAUSE.into();
    };
    sets.update("ss2", change).await?;
    let differs = |set: &Value| {
        is_observed(set) && set["status"]["updateRevision"] != set["status"]["currentRevision"]
    };
    let set = becomes(&sets, "ss2", "of a new revision", differs).await?;
    is(&set["status"]["currentRevision"], old.as_str())?;
    let new = set["status"]["updateRevision"].as_str().unwrap_or_default().to_string();
    is_partitioned(context, 3, &old, &new).await?;
    let partition = async |at: usize| {
        let change = |set: &mut Value| {
            set["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = at.into();
        };
        sets.update("ss2", change).await
    };
    partition(2).await?;
    is_partitioned(context, 2, &old, &new).await?;
    // What is deleted comes back in its own revision.
    pods.delete("ss2-0").await?;
    pods.delete("ss2-2").await?;
    is_partitioned(context, 2, &old, &new).await?;
    for at in [1, 0] {
        partition(at).await?;
        is_partitioned(context, at, &old, &new).await?;
    }
    let is_done = |set: &Value| set["status"]["currentRevision"] == new.as_str();
    becomes(&sets, "ss2", "all new", is_done).await?;
    Ok(())
}
