//! `apps/daemon_set.go`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::conformance::checks::{counts, holds, is, label, name};
use crate::conformance::workloads::{
    AGNHOST, HTTPD, becomes, controller, is_ending, list_version, number, serves, status_is_served,
    uid,
};
use crate::conformance::{Case, Collection, Context, Patch, case, eventually, refused};

pub const CASES: &[Case] = &[
    case!("Daemon set should list and delete a collection of DaemonSets [Serial]", collection),
    case!("Daemon set should retry creating failed daemon pods [Serial]", retry),
    case!("Daemon set should rollback without unnecessary restarts [Serial]", rollback),
    case!("Daemon set should run and stop complex daemon [Serial]", complex),
    case!("Daemon set should run and stop simple daemon [Serial]", simple),
    case!(
        "Daemon set should update pod when spec was updated and update strategy is RollingUpdate \
         [Serial]",
        update
    ),
    case!("Daemon set should verify changes to a daemon set status [Serial]", status),
];

pub const DAEMON_SETS: &str = "apps/v1/daemonsets";
const NAME: &str = "daemon-set";
const SELECTOR: &str = "daemonset-name=daemon-set";
const COLOR: &str = "daemonset-color";
const HASH: &str = "controller-revision-hash";

pub fn daemon_set(name: &str) -> Value {
    let labels = json!({"daemonset-name": name});
    let container = json!({"name": "app", "image": HTTPD, "ports": [{"containerPort": 9376}]});
    json!({"metadata": {"name": name, "labels": labels}, "spec": {
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]}}}})
}

/// The nodes that serve pods of a DaemonSet, with how many.
async fn served(context: &Context, set: &Value) -> Result<BTreeMap<String, usize>> {
    let mut nodes = BTreeMap::new();
    for pod in context.own("v1/pods").items(&[]).await? {
        if controller(&pod) == Some(uid(set)) && serves(&pod) {
            let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
            *nodes.entry(node.to_string()).or_default() += 1;
        }
    }
    Ok(nodes)
}

async fn nodes(context: &Context) -> Result<BTreeSet<String>> {
    let nodes = context.all("v1/nodes").items(&[]).await?;
    Ok(nodes.iter().map(|node| name(node).to_string()).collect())
}

/// Until exactly one pod serves on each of these nodes, and none elsewhere.
async fn runs_on(context: &Context, set: &Value, nodes: &BTreeSet<String>) -> Result<()> {
    eventually(&format!("pods of {} on {nodes:?}", name(set)), async || {
        let served = served(context, set).await?;
        let once = served.values().all(|count| *count == 1);
        Ok((once && served.keys().eq(nodes)).then_some(()))
    })
    .await
}

/// Creates a DaemonSet and waits until it runs everywhere and says so.
pub async fn started(context: &Context, set: &Value) -> Result<Value> {
    let created = context.own(DAEMON_SETS).create(set).await?;
    let all = nodes(context).await?;
    runs_on(context, &created, &all).await?;
    let says = |set: &Value| {
        let status = &set["status"];
        number(&status["desiredNumberScheduled"]) == all.len() as i64
            && status["desiredNumberScheduled"] == status["currentNumberScheduled"]
            && status["desiredNumberScheduled"] == status["numberReady"]
    };
    becomes(&context.own(DAEMON_SETS), name(set), "scheduled and ready", says).await
}

async fn simple(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    let set = started(context, &daemon_set(NAME)).await?;
    let first = pods.items_labelled(SELECTOR).await?.remove(0);
    pods.delete(name(&first)).await?;
    eventually("the end of the pod", async || {
        Ok(refused(pods.get(name(&first)).await, 404).is_ok().then_some(()))
    })
    .await?;
    runs_on(context, &set, &nodes(context).await?).await
}

async fn color(nodes: &Collection, node: &str, color: Option<&str>) -> Result<()> {
    let patch = json!({"metadata": {"labels": {COLOR: color}}});
    nodes.patch(node, Patch::Merge, &patch).await.map(drop)
}

async fn complex(context: &Context) -> Result<()> {
    let all = context.all("v1/nodes");
    let mut wanted = daemon_set(NAME);
    wanted["spec"]["template"]["spec"]["nodeSelector"] = json!({COLOR: "blue"});
    let set = context.own(DAEMON_SETS).create(&wanted).await?;
    runs_on(context, &set, &BTreeSet::new()).await?;
    let node = nodes(context).await?.pop_first().context("a node")?;
    let (here, nowhere) = (BTreeSet::from([node.clone()]), BTreeSet::new());
    let result = async {
        color(&all, &node, Some("blue")).await?;
        runs_on(context, &set, &here).await?;
        color(&all, &node, Some("green")).await?;
        runs_on(context, &set, &nowhere).await?;
        let patch = json!({"spec": {"template": {"spec": {"nodeSelector": {COLOR: "green"}}},
            "updateStrategy": {"type": "RollingUpdate"}}});
        context.own(DAEMON_SETS).patch(NAME, Patch::Strategic, &patch).await?;
        runs_on(context, &set, &here).await
    }
    .await;
    color(&all, &node, None).await?;
    result
}

async fn retry(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    let set = started(context, &daemon_set(NAME)).await?;
    let first = pods.items_labelled(SELECTOR).await?.remove(0);
    let failed = json!({"status": {"phase": "Failed"}});
    let status = format!("{}/status", name(&first));
    // Its node contradicts, and may be faster than the controller.
    eventually("the end of the failed pod", async || {
        let patched = pods.patch(&status, Patch::Merge, &failed).await;
        Ok(refused(patched, 404).is_ok().then_some(()))
    })
    .await?;
    runs_on(context, &set, &nodes(context).await?).await
}

/// Until so many revisions are there, and all pods have the label of the newest.
async fn has_revisions(context: &Context, count: usize) -> Result<()> {
    let (revisions, pods) = (context.own("apps/v1/controllerrevisions"), context.own("v1/pods"));
    let found = eventually(&format!("{count} revisions"), async || {
        let found = revisions.items_labelled(SELECTOR).await?;
        Ok((found.len() == count).then_some(found))
    })
    .await?;
    let newest = found.iter().max_by_key(|one| number(&one["revision"])).context("a revision")?;
    is(&newest["revision"], count as i64)?;
    let hash = label(newest, HASH);
    holds(hash.is_string(), "the revision has its hash")?;
    for pod in pods.items_labelled(SELECTOR).await?.iter().filter(|pod| !is_ending(pod)) {
        is(label(pod, HASH), hash.clone())?;
    }
    Ok(())
}

fn image(pod: &Value) -> &str {
    pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default()
}

/// Until all pods have an image, while at most one is unavailable.
async fn has_image(context: &Context, wanted: &str) -> Result<()> {
    let all = nodes(context).await?;
    eventually(&format!("pods of {wanted}"), async || {
        let pods = context.own("v1/pods").items_labelled(SELECTOR).await?;
        let unavailable = pods.iter().filter(|pod| !serves(pod)).count();
        ensure!(unavailable <= 1, "{unavailable} pods are unavailable");
        let new = pods.iter().filter(|pod| image(pod) == wanted && serves(pod));
        let new: BTreeSet<_> = new.filter_map(|pod| pod["spec"]["nodeName"].as_str()).collect();
        Ok(all.iter().map(String::as_str).eq(new).then_some(()))
    })
    .await
}

async fn set_image(context: &Context, image: &str) -> Result<()> {
    let change = |set: &mut Value| {
        set["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
    };
    context.own(DAEMON_SETS).update(NAME, change).await.map(drop)
}

async fn update(context: &Context) -> Result<()> {
    started(context, &daemon_set(NAME)).await?;
    has_revisions(context, 1).await?;
    set_image(context, AGNHOST).await?;
    has_image(context, AGNHOST).await?;
    has_revisions(context, 2).await
}

async fn rollback(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    started(context, &daemon_set(NAME)).await?;
    let missing = "foo:non-existent";
    set_image(context, missing).await?;
    let during = eventually("a pod of the new image", async || {
        let found = pods.items_labelled(SELECTOR).await?;
        Ok(found.iter().any(|pod| image(pod) == missing).then_some(found))
    })
    .await?;
    let kept = during.iter().filter(|pod| image(pod) == HTTPD && !is_ending(pod)).map(name);
    let kept: BTreeSet<&str> = kept.collect();
    holds(!kept.is_empty(), "some pods are not updated")?;
    set_image(context, HTTPD).await?;
    has_image(context, HTTPD).await?;
    let after = pods.items_labelled(SELECTOR).await?;
    let after: BTreeSet<&str> = after.iter().map(name).collect();
    holds(kept.is_subset(&after), "what was not updated was not restarted")
}

async fn collection(context: &Context) -> Result<()> {
    started(context, &daemon_set(NAME)).await?;
    let (sets, everywhere) = (context.own(DAEMON_SETS), context.all(DAEMON_SETS));
    counts(&everywhere.items_labelled(SELECTOR).await?, 1)?;
    sets.delete_collection(&[("labelSelector", SELECTOR)]).await?;
    counts(&everywhere.items_labelled(SELECTOR).await?, 0)
}

async fn status(context: &Context) -> Result<()> {
    let before = context.all(DAEMON_SETS).list(&[("labelSelector", SELECTOR)]).await?;
    let created = started(context, &daemon_set(NAME)).await?;
    status_is_served(&context.own(DAEMON_SETS), &created, SELECTOR, list_version(&before)).await
}
