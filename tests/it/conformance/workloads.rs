//! Pods that cases need running, what makes them, and waiting for them.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::checks::{annotation, name};
use super::{Collection, Context, Event, eventually};

/// Waits for ever, as upstream's image of this name.
pub const PAUSE: &str = "pause:v1";
/// As upstream's without arguments: says `Paused`, and waits for ever.
pub const AGNHOST: &str = "agnhost:v1";
/// Serves HTTP.
pub const HTTPD: &str = "httpd:v1";
/// Does what its arguments say, and ends.
pub const BUSYBOX: &str = "busybox:v1";
/// Fails once, and succeeds when it is started again over the same directory.
pub const ONCE: &str = "once:v1";
/// Fails, succeeds, and waits for ever, over the same directory.
pub const THRICE: &str = "thrice:v1";
/// Writes texts into files and to its output, and ends.
pub const WORDS: &str = "words:v1";
/// Answers gRPC's health protocol.
pub const GRPC: &str = "grpc:v1";
/// Looks names up, and connects.
pub const NET: &str = "net:v1";
/// A server that remembers: see `examples/guests/rust/agnhost`.
pub const SERVER: &str = "server:v1";
pub const SERVER_NEW: &str = "server:v2";

/// What the images are made of: guests of `cluster/guests.rs`.
pub const IMAGES: &[(&str, &str)] = &[
    (PAUSE, "p1-sleep.wat"),
    (AGNHOST, "p1-agnhost.wat"),
    (HTTPD, "rust-http-p2.wasm"),
    (BUSYBOX, "rust-cmd-p1.wasm"),
    (ONCE, "p1-once.wat"),
    (THRICE, "p1-thrice.wat"),
    (WORDS, "p1-words.wat"),
    (GRPC, "rust-grpc-p2.wasm"),
    (NET, "rust-net-p2.wasm"),
    (SERVER, "rust-agnhost.wasm"),
    (SERVER_NEW, "rust-agnhost.wasm"),
];

pub const REPLICA_SETS: &str = "apps/v1/replicasets";

/// A pod of one container.
pub fn pod(name: &str, labels: Value, image: &str) -> Value {
    json!({"metadata": {"name": name, "labels": labels},
        "spec": {"containers": [{"name": "main", "image": image}]}})
}

/// A pod that waits for ever and ends soon when it is told to.
pub fn pause_pod(name: &str, labels: Value) -> Value {
    let mut pod = pod(name, labels, PAUSE);
    pod["spec"]["terminationGracePeriodSeconds"] = 1.into();
    pod
}

fn template(labels: &Value, container: &str, image: &str) -> Value {
    json!({"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 0,
        "containers": [{"name": container, "image": image}]}})
}

pub fn replica_set(
    name: &str,
    replicas: u32,
    labels: &Value,
    container: &str,
    image: &str,
) -> Value {
    json!({"metadata": {"name": name, "labels": labels}, "spec": {"replicas": replicas,
        "selector": {"matchLabels": labels}, "template": template(labels, container, image)}})
}

pub fn deployment(
    name: &str,
    replicas: u32,
    labels: &Value,
    container: &str,
    image: &str,
) -> Value {
    let mut deployment = replica_set(name, replicas, labels, container, image);
    deployment["spec"]["strategy"]["type"] = "RollingUpdate".into();
    deployment
}

/// Its selector follows from the template.
pub fn replication_controller(
    name: &str,
    replicas: u32,
    labels: &Value,
    container: &str,
    image: &str,
) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas,
        "template": template(labels, container, image)}})
}

pub fn phase(pod: &Value) -> &str {
    pod["status"]["phase"].as_str().unwrap_or_default()
}

pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == kind)
}

pub fn is_true(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|condition| condition["status"] == "True")
}

/// Running, ready, and nobody deletes it.
pub fn serves(pod: &Value) -> bool {
    phase(pod) == "Running" && is_true(pod, "Ready") && !is_ending(pod)
}

pub fn is_ending(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// Looks at an object until it is as wanted.
pub async fn becomes(
    objects: &Collection,
    name: &str,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let what = format!("{name} {what}");
    let found = eventually(&what, async || {
        let object = objects.get(name).await?;
        Ok(wanted(&object).then_some(object))
    });
    match found.await {
        Ok(found) => Ok(found),
        Err(error) => {
            let last = objects.get(name).await.map(|object| object["status"].to_string());
            Err(error.context(format!("its status: {}", last.unwrap_or_default())))
        }
    }
}

/// Until a pod runs; one that ended is an error.
pub async fn is_running(pods: &Collection, name: &str) -> Result<Value> {
    becomes(pods, name, "running", |pod| phase(pod) == "Running").await
}

/// Creates a pod and waits until it is running and ready.
pub async fn run(pods: &Collection, pod: &Value) -> Result<Value> {
    pods.create(pod).await?;
    becomes(pods, name(pod), "running and ready", serves).await
}

/// Until so many pods with this label are there, without those that end, and each is running.
pub async fn are_running(pods: &Collection, selector: &str, count: usize) -> Result<Vec<Value>> {
    eventually(&format!("{count} running pods of {selector}"), async || {
        let mut found = pods.items_labelled(selector).await?;
        found.retain(|pod| !is_ending(pod));
        let running = found.iter().all(|pod| phase(pod) == "Running");
        Ok((found.len() == count && running).then_some(found))
    })
    .await
}

/// Until at least so many pods with this label are running and ready.
pub async fn are_ready(pods: &Collection, selector: &str, count: usize) -> Result<Vec<Value>> {
    eventually(&format!("{count} ready pods of {selector:?}"), async || {
        let mut found = pods.items_labelled(selector).await?;
        found.retain(serves);
        Ok((found.len() >= count).then_some(found))
    })
    .await
}

/// The uid of the owner that controls an object.
pub fn controller(object: &Value) -> Option<&str> {
    let owners = object["metadata"]["ownerReferences"].as_array()?;
    owners.iter().find(|owner| owner["controller"] == true)?["uid"].as_str()
}

pub fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

pub fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}

/// The ReplicaSet of a Deployment's present template, if there is one, and its older ones.
pub async fn replica_sets(
    context: &Context,
    deployment: &Value,
) -> Result<(Option<Value>, Vec<Value>)> {
    let mut sets = context.own(REPLICA_SETS).items(&[]).await?;
    sets.retain(|set| controller(set) == Some(uid(deployment)));
    let is_new = |set: &Value| {
        let mut template = set["spec"]["template"].clone();
        if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
            labels.remove("pod-template-hash");
        }
        template == deployment["spec"]["template"]
    };
    let at = sets.iter().position(is_new);
    let new = at.map(|at| sets.remove(at));
    Ok((new, sets))
}

/// Whether a Deployment and its new ReplicaSet are of this revision and image.
pub async fn has_revision(
    context: &Context,
    deployment: &Value,
    revision: &str,
    image: &str,
) -> Result<bool> {
    let is = |object: &Value| {
        let container = &object["spec"]["template"]["spec"]["containers"][0];
        annotation(object, "deployment.kubernetes.io/revision") == revision
            && container["image"] == image
    };
    let (new, _) = replica_sets(context, deployment).await?;
    Ok(is(deployment) && new.as_ref().is_some_and(is))
}

pub fn is_observed(object: &Value) -> bool {
    number(&object["status"]["observedGeneration"]) >= number(&object["metadata"]["generation"])
}

/// All pods of a Deployment are new, there, and available.
pub fn is_complete(deployment: &Value) -> bool {
    let wanted = number(&deployment["spec"]["replicas"]);
    let status = &deployment["status"];
    let all = ["updatedReplicas", "replicas", "availableReplicas"];
    all.iter().all(|field| number(&status[field]) == wanted) && is_observed(deployment)
}

/// Creates a Deployment and waits for its first revision.
pub async fn deploy(context: &Context, deployment: &Value) -> Result<Value> {
    let deployments = context.own("apps/v1/deployments");
    deployments.create(deployment).await?;
    let image = deployment["spec"]["template"]["spec"]["containers"][0]["image"].as_str();
    is_rolled_out(context, name(deployment), "1", image.context("an image")?).await
}

/// Until a Deployment has this revision and image, and all its pods are available.
pub async fn is_rolled_out(
    context: &Context,
    name: &str,
    revision: &str,
    image: &str,
) -> Result<Value> {
    let deployments = context.own("apps/v1/deployments");
    eventually(&format!("revision {revision} of {name}"), async || {
        let deployment = deployments.get(name).await?;
        Ok(has_revision(context, &deployment, revision, image).await?.then_some(()))
    })
    .await?;
    becomes(&deployments, name, "complete", is_complete).await
}

/// The scale of a workload that has one pod is read, written and patched.
pub async fn scales(objects: &Collection, name: &str) -> Result<()> {
    let at = format!("{name}/scale");
    let mut scale = objects.get(&at).await?;
    ensure!(scale["spec"]["replicas"] == 1 && scale["status"]["replicas"] == 1, "{scale}");
    // Without a version, whatever others wrote.
    scale["metadata"].as_object_mut().context("metadata")?.remove("resourceVersion");
    scale["spec"]["replicas"] = 2.into();
    let answer = objects.replace_at(&at, &scale).await?;
    ensure!(answer["spec"]["replicas"] == 2, "{answer}");
    let object = objects.get(name).await?;
    ensure!(object["spec"]["replicas"] == 2, "{object}");
    let patch = json!({"metadata": {}, "spec": {"replicas": 4}, "status": {"replicas": 0}});
    objects.patch(&at, super::Patch::Strategic, &patch).await?;
    let object = objects.get(name).await?;
    ensure!(object["spec"]["replicas"] == 4, "{object}");
    Ok(())
}

/// The status of a workload is read, written and patched, and a watch from `version` on shows it.
pub async fn status_is_served(
    objects: &Collection,
    created: &Value,
    selector: &str,
    version: &str,
) -> Result<()> {
    let query = [("labelSelector", selector), ("resourceVersion", version)];
    let at = format!("{}/status", name(created));
    let read = objects.get(&at).await?;
    ensure!(uid(&read) == uid(created), "another one: {read}");
    let added = json!({"type": "StatusUpdate", "status": "True", "reason": "E2E",
        "message": "Set from e2e test"});
    let updated = objects.update(&at, |object| {
        let conditions = &mut object["status"]["conditions"];
        if !conditions.is_array() {
            *conditions = json!([]);
        }
        conditions.as_array_mut().expect("a list").push(added.clone());
    });
    updated.await?;
    let is_it = |seen: &Value| {
        name(seen) == name(created)
            && seen["metadata"]["namespace"] == created["metadata"]["namespace"]
            && created["metadata"]["labels"] == seen["metadata"]["labels"]
    };
    let has_update = |seen: &Value| {
        condition(seen, "StatusUpdate").is_some_and(|condition| {
            condition["reason"] == added["reason"] && condition["message"] == added["message"]
        })
    };
    shows(objects, &query, |seen| is_it(&seen.object) && has_update(&seen.object)).await?;
    let patch = json!({"status": {"conditions": [{"type": "StatusPatched", "status": "True"}]}});
    objects.patch(&at, super::Patch::Merge, &patch).await?;
    let has_patch = |seen: &Value| condition(seen, "StatusPatched").is_some();
    shows(objects, &query, |seen| is_it(&seen.object) && has_patch(&seen.object)).await
}

/// A new watch shows such an event, whatever it shows before.
pub async fn shows(
    objects: &Collection,
    query: &[(&str, &str)],
    wanted: impl Fn(&Event) -> bool,
) -> Result<()> {
    let mut watch = objects.watch(query).await?;
    let mut last = None;
    loop {
        let event = watch.next().await.with_context(|| format!("last seen: {last:?}"))?;
        let event = event.with_context(|| format!("the watch ended after {last:?}"))?;
        ensure!(event.kind != "ERROR", "the watch failed: {}", event.object);
        if wanted(&event) {
            return Ok(());
        }
        last = Some(event);
    }
}

pub fn list_version(list: &Value) -> &str {
    list["metadata"]["resourceVersion"].as_str().unwrap_or_default()
}

/// The log of a pod's only container.
pub async fn log(context: &Context, pod: &str, query: &str) -> Result<String> {
    let path = format!("/api/v1/namespaces/{}/pods/{pod}/log?{query}", context.namespace);
    Ok(context.client.send("GET", &path, &[], Vec::new()).await?.ok()?.text())
}

/// Runs a pod to its end, which must be good, and gives its log (upstream's TestContainerOutput).
pub async fn output(context: &Context, pod: &Value) -> Result<String> {
    let pods = context.own("v1/pods");
    pods.create(pod).await?;
    let has_ended = |pod: &Value| ["Failed", "Succeeded"].contains(&phase(pod));
    let ended = becomes(&pods, name(pod), "ended", has_ended).await?;
    let told = log(context, name(pod), "").await?;
    ensure!(phase(&ended) == "Succeeded", "it failed: {}\n{told}", ended["status"]);
    Ok(told)
}
