//! `apimachinery/garbage_collector.go`. Where upstream waits for half a minute whether something is
//! deleted that must not be, here something that must be deleted comes later, and is waited for.

use anyhow::Result;
use serde_json::{Value, json};

use crate::conformance::checks::{counts, is, name};
use crate::conformance::operations::gone;
use crate::conformance::workloads::{
    PAUSE, REPLICA_SETS, becomes, controller, deployment, is_ending, number, pause_pod,
    replication_controller, uid,
};
use crate::conformance::{Case, Context, Patch, case, eventually};

pub const CASES: &[Case] = &[
    case!("Garbage collector should delete pods created by rc when not orphaning", pods_go),
    case!(
        "Garbage collector should orphan pods created by rc if delete options say so [Serial]",
        pods_stay
    ),
    case!("Garbage collector should delete RS created by deployment when not orphaning", sets_go),
    case!(
        "Garbage collector should orphan RS created by deployment when \
         deleteOptions.PropagationPolicy is Orphan",
        sets_stay
    ),
    case!(
        "Garbage collector should keep the rc around until all its pods are deleted if the \
         deleteOptions says so [Serial]",
        owner_waits
    ),
    case!(
        "Garbage collector should not delete dependents that have both valid owner and owner \
         that's waiting for dependents to be deleted [Serial]",
        other_owner_keeps
    ),
    case!("Garbage collector should not be blocked by dependency circle", circle),
];

const CONTROLLERS: &str = "v1/replicationcontrollers";
const DEPLOYMENTS: &str = "apps/v1/deployments";
/// Upstream: 10 to 100, as many as the nodes take.
const MANY: u32 = 40;

fn options(policy: &str, owner: &Value) -> Value {
    json!({"propagationPolicy": policy, "preconditions": {"uid": uid(owner)}})
}

fn owner_of(replicas: u32, name: &str) -> Value {
    replication_controller(name, replicas, &json!({"gctest": name}), "pause", PAUSE)
}

/// Creates one and waits until its status has all of its pods.
async fn full(context: &Context, name: &str, replicas: u32) -> Result<Value> {
    let controllers = context.own(CONTROLLERS);
    controllers.create(&owner_of(replicas, name)).await?;
    let has_all = |one: &Value| number(&one["status"]["replicas"]) == i64::from(replicas);
    becomes(&controllers, name, "with its pods", has_all).await
}

/// What was deleted before this came to its end is through the garbage collector by then.
async fn something_later_is_collected(context: &Context) -> Result<()> {
    let (maps, selector) = (context.own("v1/configmaps"), "gctest=later");
    let owner = maps.create(&json!({"metadata": {"name": "later-owner"}})).await?;
    let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "later-owner",
        "uid": uid(&owner)});
    let dependent = json!({"metadata": {"name": "later", "labels": {"gctest": "later"},
        "ownerReferences": [reference]}});
    maps.create(&dependent).await?;
    maps.delete_with("later-owner", &options("Background", &owner)).await?;
    eventually("what is collected last", async || {
        Ok(maps.items_labelled(selector).await?.is_empty().then_some(()))
    })
    .await
}

async fn pods_go(context: &Context) -> Result<()> {
    let (controllers, pods) = (context.own(CONTROLLERS), context.own("v1/pods"));
    let created = controllers.create(&owner_of(2, "simpletest")).await?;
    // One is enough: it may go before it has all.
    eventually("a pod", async || Ok((!pods.items(&[]).await?.is_empty()).then_some(()))).await?;
    controllers.delete_with("simpletest", &options("Background", &created)).await?;
    eventually("the end of both", async || {
        let left = controllers.items(&[]).await?.len() + pods.items(&[]).await?.len();
        Ok((left == 0).then_some(()))
    })
    .await
}

async fn pods_stay(context: &Context) -> Result<()> {
    let (controllers, pods) = (context.own(CONTROLLERS), context.own("v1/pods"));
    let owner = full(context, "simpletest", MANY).await?;
    controllers.delete_with("simpletest", &options("Orphan", &owner)).await?;
    gone(&controllers, "simpletest").await?;
    something_later_is_collected(context).await?;
    let left = pods.items(&[]).await?;
    counts(&left, MANY as usize)?;
    for pod in &left {
        is(&is_ending(pod).into(), false)?;
    }
    Ok(())
}

/// Creates a Deployment of two pods, and waits for its ReplicaSet.
async fn deployed(context: &Context) -> Result<Value> {
    let wanted = deployment("simpletest", 2, &json!({"gctest": "rs"}), "pause", PAUSE);
    let created = context.own(DEPLOYMENTS).create(&wanted).await?;
    let sets = context.own(REPLICA_SETS);
    eventually("a ReplicaSet", async || Ok((!sets.items(&[]).await?.is_empty()).then_some(())))
        .await?;
    Ok(created)
}

async fn sets_go(context: &Context) -> Result<()> {
    let created = deployed(context).await?;
    let deployments = context.own(DEPLOYMENTS);
    deployments.delete_with("simpletest", &options("Background", &created)).await?;
    eventually("the end of all", async || {
        let mut left = 0;
        for resource in [DEPLOYMENTS, REPLICA_SETS, "v1/pods"] {
            left += context.own(resource).items(&[]).await?.len();
        }
        Ok((left == 0).then_some(()))
    })
    .await
}

async fn sets_stay(context: &Context) -> Result<()> {
    let created = deployed(context).await?;
    let (deployments, pods) = (context.own(DEPLOYMENTS), context.own("v1/pods"));
    eventually("two pods", async || Ok((pods.items(&[]).await?.len() == 2).then_some(()))).await?;
    deployments.delete_with("simpletest", &options("Orphan", &created)).await?;
    gone(&deployments, "simpletest").await?;
    something_later_is_collected(context).await?;
    let sets = context.own(REPLICA_SETS).items(&[]).await?;
    counts(&sets, 1)?;
    is(&controller(&sets[0]).into(), Value::Null)?;
    counts(&pods.items(&[]).await?, 2)
}

async fn owner_waits(context: &Context) -> Result<()> {
    let (controllers, pods) = (context.own(CONTROLLERS), context.own("v1/pods"));
    let owner = full(context, "simpletest", MANY).await?;
    controllers.delete_with("simpletest", &options("Foreground", &owner)).await?;
    gone(&controllers, "simpletest").await?;
    counts(&pods.items(&[]).await?, 0)
}

async fn other_owner_keeps(context: &Context) -> Result<()> {
    let (controllers, pods) = (context.own(CONTROLLERS), context.own("v1/pods"));
    let leaving = full(context, "to-be-deleted", MANY).await?;
    let staying = full(context, "to-stay", 0).await?;
    let reference = json!({"apiVersion": "v1", "kind": "ReplicationController",
        "name": "to-stay", "uid": uid(&staying)});
    let half = MANY as usize / 2;
    let patch = json!({"metadata": {"ownerReferences": [reference]}});
    for pod in pods.items(&[]).await?.iter().take(half) {
        pods.patch(name(pod), Patch::Strategic, &patch).await?;
    }
    controllers.delete_with("to-be-deleted", &options("Foreground", &leaving)).await?;
    gone(&controllers, "to-be-deleted").await?;
    let left = pods.items(&[]).await?;
    counts(&left, half)?;
    for pod in &left {
        is(&is_ending(pod).into(), false)?;
        is(&pod["metadata"]["ownerReferences"], json!([reference]))?;
    }
    Ok(())
}

async fn circle(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    let mut created = Vec::new();
    for name in ["pod1", "pod2", "pod3"] {
        created.push(pods.create(&pause_pod(name, json!({}))).await?);
    }
    for (at, owner) in [(0, 2), (1, 0), (2, 1)] {
        let owner = &created[owner];
        let reference = json!({"apiVersion": "v1", "kind": "Pod", "name": name(owner),
            "uid": uid(owner), "controller": true, "blockOwnerDeletion": true});
        let patch = json!({"metadata": {"ownerReferences": [reference]}});
        let patched = pods.patch(name(&created[at]), Patch::Strategic, &patch).await?;
        is(&patched["metadata"]["ownerReferences"], json!([reference]))?;
    }
    pods.delete_with("pod1", &options("Foreground", &created[0])).await?;
    eventually("the end of all three", async || Ok(pods.items(&[]).await?.is_empty().then_some(())))
        .await
}
