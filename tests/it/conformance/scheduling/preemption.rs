//! `scheduling/preemption.go`.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::conformance::checks::{holds, is, is_later, is_refused, name};
use crate::conformance::workloads::{
    REPLICA_SETS, becomes, condition, is_ending, is_running, is_true, number, pause_pod, run,
};
use crate::conformance::{Case, Collection, Context, Failure, Patch, case, eventually};

pub const CASES: &[Case] = &[
    case!("SchedulerPreemption validates basic preemption works [Serial]", basic),
    case!(
        "SchedulerPreemption validates lower priority pod preemption by critical pod [Serial]",
        critical
    ),
    case!(
        "SchedulerPreemption validates pod disruption condition is added to the preempted pod \
         [Serial]",
        disruption_condition
    ),
    case!(
        "SchedulerPreemption PreemptionExecutionPath runs ReplicaSets to verify preemption running \
         path [Serial]",
        execution_path
    ),
    case!(
        "SchedulerPreemption PriorityClass endpoints verify PriorityClass endpoints can be operated \
         with different HTTP methods [Serial]",
        methods
    ),
];

const CLASSES: &str = "scheduling.k8s.io/v1/priorityclasses";
const LOW: (&str, i32) = ("sched-preemption-low-priority", 1);
const MEDIUM: (&str, i32) = ("sched-preemption-medium-priority", 100);
const HIGH: (&str, i32) = ("sched-preemption-high-priority", 1000);
/// Of which the nodes have as much as a case says.
const RESOURCE: &str = "scheduling.k8s.io/foo";

/// Creates priority classes that go after the case; some may be there.
async fn create_classes(context: &Context, classes: &[(&str, i32)]) -> Result<()> {
    let all = context.all(CLASSES);
    for (name, value) in classes {
        context.remove_later(&all, name);
        let created = all.create(&json!({"metadata": {"name": name}, "value": value})).await;
        if let Err(error) = created {
            let failure: Failure = error.downcast()?;
            ensure!(failure.code == 409, "{failure}");
        }
    }
    Ok(())
}

/// The names of the nodes that can run pods.
async fn ready_nodes(context: &Context) -> Result<Vec<String>> {
    let mut nodes = context.all("v1/nodes").items(&[]).await?;
    nodes.retain(|node| is_true(node, "Ready") && node["spec"]["unschedulable"] != true);
    Ok(nodes.iter().map(|node| name(node).to_string()).collect())
}

/// Says how much of a resource a node has; null takes it away.
async fn set_resource(nodes: &Collection, node: &str, resource: &str, amount: Value) -> Result<()> {
    let amounts = json!({ resource: amount });
    let patch = json!({"status": {"capacity": amounts, "allocatable": amounts}});
    nodes.patch(&format!("{node}/status"), Patch::Merge, &patch).await?;
    becomes(nodes, node, "with its resource", |node| {
        // However the amount is written.
        let has = |field: &str| node["status"][field][resource].is_null() == amount.is_null();
        has("capacity") && has("allocatable")
    })
    .await
    .map(drop)
}

/// Runs the rest of a case while the nodes have a resource.
async fn with_resource(
    context: &Context,
    nodes: &[String],
    (resource, amount): (&str, &str),
    rest: impl AsyncFnOnce() -> Result<()>,
) -> Result<()> {
    let all = context.all("v1/nodes");
    for node in nodes {
        set_resource(&all, node, resource, amount.into()).await?;
    }
    let result = rest().await;
    for node in nodes {
        set_resource(&all, node, resource, Value::Null).await?;
    }
    result
}

/// A pod of a priority class that asks for some of a resource.
fn asking(name: &str, class: &str, (resource, amount): (&str, &str)) -> Value {
    let mut pod = pause_pod(name, json!({"name": name}));
    let amounts = json!({ resource: amount });
    pod["spec"]["containers"][0]["resources"] = json!({"limits": amounts, "requests": amounts});
    pod["spec"]["priorityClassName"] = class.into();
    pod
}

/// The same, for one node only.
fn on_node(mut pod: Value, node: &str) -> Value {
    let is_node = json!({"key": "metadata.name", "operator": "In", "values": [node]});
    pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
        json!({"nodeSelectorTerms": [{"matchFields": [is_node]}]});
    pod
}

/// Two pods on each node use 4 of its 5; all are of medium priority but the first. Answers with their
/// names.
async fn fill(context: &Context, nodes: &[String]) -> Result<Vec<String>> {
    let pods = context.own("v1/pods");
    let mut names: Vec<String> = Vec::new();
    for (i, node) in nodes.iter().enumerate() {
        for j in 0..2 {
            let class = if names.is_empty() { LOW.0 } else { MEDIUM.0 };
            let pod = on_node(asking(&format!("pod{i}-{j}-{class}"), class, (RESOURCE, "2")), node);
            names.push(name(&pods.create(&pod).await?).to_string());
        }
    }
    holds(names.len() >= 2, "at least two pods")?;
    for name in &names {
        is_running(&pods, name).await?;
    }
    Ok(names)
}

/// The first pod went or goes, and no other.
async fn only_the_first_goes(pods: &Collection, names: &[String]) -> Result<()> {
    let first = pods.items(&[]).await?.into_iter().find(|pod| name(pod) == names[0]);
    holds(first.as_ref().is_none_or(is_ending), "the pod of low priority goes")?;
    for name in &names[1..] {
        holds(!is_ending(&pods.get(name).await?), "no other pod goes")?;
    }
    Ok(())
}

async fn basic(context: &Context) -> Result<()> {
    create_classes(context, &[LOW, MEDIUM, HIGH]).await?;
    let nodes = ready_nodes(context).await?;
    with_resource(context, &nodes, (RESOURCE, "5"), async || {
        let pods = context.own("v1/pods");
        let names = fill(context, &nodes).await?;
        pods.create(&asking("preemptor-pod", HIGH.0, (RESOURCE, "2"))).await?;
        is_running(&pods, "preemptor-pod").await?;
        only_the_first_goes(&pods, &names).await
    })
    .await
}

async fn critical(context: &Context) -> Result<()> {
    create_classes(context, &[LOW, MEDIUM, HIGH]).await?;
    let nodes = ready_nodes(context).await?;
    with_resource(context, &nodes, (RESOURCE, "5"), async || {
        let names = fill(context, &nodes).await?;
        let system = context.within("kube-system", "v1/pods");
        context.remove_later(&system, "critical-pod");
        system.create(&asking("critical-pod", "system-cluster-critical", (RESOURCE, "2"))).await?;
        is_running(&system, "critical-pod").await?;
        only_the_first_goes(&context.own("v1/pods"), &names).await?;
        system.delete_with("critical-pod", &json!({"gracePeriodSeconds": 0})).await.map(drop)
    })
    .await
}

async fn disruption_condition(context: &Context) -> Result<()> {
    create_classes(context, &[LOW, MEDIUM, HIGH]).await?;
    let nodes = ready_nodes(context).await?;
    let node = nodes.first().context("a node")?;
    with_resource(context, std::slice::from_ref(node), (RESOURCE, "1"), async || {
        let pods = context.own("v1/pods");
        let mut victim = on_node(asking("victim-pod", LOW.0, (RESOURCE, "1")), node);
        victim["metadata"]["finalizers"] = json!(["example.com/test-finalizer"]);
        pods.create(&victim).await?;
        is_running(&pods, "victim-pod").await?;
        let preemptor = on_node(asking("preemptor-pod", HIGH.0, (RESOURCE, "1")), node);
        pods.create(&preemptor).await?;
        let going = becomes(&pods, "victim-pod", "going", is_ending).await;
        let patch = json!({"metadata": {"finalizers": null}});
        pods.patch("victim-pod", Patch::Merge, &patch).await?;
        let told = condition(&going?, "DisruptionTarget").cloned();
        is(&told.context("the condition DisruptionTarget")?["status"], "True")
    })
    .await
}

/// Which of three ReplicaSets a pod is of, by its name.
fn set_of(pod: &Value) -> Option<usize> {
    ["rs-pod1", "rs-pod2", "rs-pod3"].iter().position(|set| name(pod).starts_with(set))
}

async fn execution_path(context: &Context) -> Result<()> {
    const CPU: &str = "example.com/fakecpu";
    create_classes(context, &[("p1", 1), ("p2", 2), ("p3", 3), ("p4", 4)]).await?;
    let pods = context.own("v1/pods");
    let first = run(&pods, &pause_pod("without-label", json!({}))).await?;
    pods.delete_with("without-label", &json!({"gracePeriodSeconds": 0})).await?;
    let node = first["spec"]["nodeName"].as_str().context("a node")?.to_string();
    let label = "kubernetes.io/hostname";
    let host = context.all("v1/nodes").get(&node).await?["metadata"]["labels"][label].clone();
    let of_class = |name: &str, class: &str, amount: &str| {
        let mut pod = asking(name, class, (CPU, amount));
        pod["spec"]["nodeSelector"] = json!({ label: host });
        pod
    };
    with_resource(context, std::slice::from_ref(&node), (CPU, "1000"), async || {
        let sets = context.own(REPLICA_SETS);
        let mut watch = pods.watch(&[]).await?;
        for (pod, class, amount) in
            [("pod1", "p1", "200"), ("pod2", "p2", "300"), ("pod3", "p3", "450")]
        {
            let template = of_class(pod, class, amount);
            let set = format!("rs-{pod}");
            sets.create(&json!({"metadata": {"name": set}, "spec": {"replicas": 1,
                "selector": {"matchLabels": template["metadata"]["labels"]},
                "template": {"metadata": {"labels": template["metadata"]["labels"]},
                    "spec": template["spec"]}}}))
                .await?;
            let is_available = |set: &Value| number(&set["status"]["availableReplicas"]) == 1;
            becomes(&sets, &set, "available", is_available).await?;
        }
        pods.create(&of_class("pod4", "p4", "500")).await?;
        becomes(&pods, "pod4", "scheduled", |pod| pod["spec"]["nodeName"].is_string()).await?;
        // The pods of the first two are preempted once, and made anew; that of the third stays.
        let mut seen: BTreeMap<usize, usize> = BTreeMap::new();
        let all_made = |seen: &BTreeMap<usize, usize>| {
            [(0, 2), (1, 2), (2, 1)].iter().all(|(set, count)| seen.get(set) == Some(count))
        };
        while !all_made(&seen) {
            let event = watch.next().await?.context("the watch ended")?;
            if event.kind == "ADDED"
                && let Some(set) = set_of(&event.object)
            {
                *seen.entry(set).or_default() += 1;
            }
        }
        // Upstream waits for a while; here one more pod is decided on after whatever comes.
        pods.create(&of_class("last", "p1", "0")).await?;
        is_running(&pods, "last").await?;
        let is_last = |pod: &Value| name(pod) == "last" && pod["spec"]["nodeName"].is_string();
        loop {
            let event = watch.next().await?.context("the watch ended")?;
            ensure!(
                event.kind != "ADDED" || set_of(&event.object).is_none(),
                "preempted once more: {}",
                event.object
            );
            if is_last(&event.object) {
                break;
            }
        }
        eventually("pod4 running", async || {
            let pod = pods.get("pod4").await?;
            Ok((pod["status"]["phase"] == "Running").then_some(()))
        })
        .await
    })
    .await
}

async fn methods(context: &Context) -> Result<()> {
    let classes = context.all(CLASSES);
    let value = context.unique("e2e");
    let mut made = Vec::new();
    for i in 1..=2 {
        let name = format!("p{i}");
        context.remove_later(&classes, &name);
        let metadata = json!({"name": name, "labels": {"e2e": value}});
        made.push(classes.create(&json!({"metadata": metadata, "value": i})).await?);
    }
    let (first, second) = (name(&made[0]), name(&made[1]));
    // The value cannot change.
    let patched = classes.patch(first, Patch::Strategic, &json!({"value": 10})).await;
    is_refused(patched, &[403, 422])?;
    let mut changed = made[1].clone();
    changed["value"] = 20.into();
    is_refused(classes.replace(&changed).await, &[403, 422])?;
    // The description can.
    let description = json!({"description": "updated description"});
    classes.patch(first, Patch::Strategic, &description).await?;
    let mut changed = made[1].clone();
    changed["description"] = "updated description".into();
    classes.replace(&changed).await?;
    classes.list(&[]).await?;
    for (class, name) in made.iter().zip([first, second]) {
        let live = classes.get(name).await?;
        is(&live["value"], class["value"].clone())?;
        is(&live["description"], "updated description")?;
        is_later(&live, class)?;
    }
    classes.delete_collection(&[("labelSelector", &format!("e2e={value}"))]).await.map(drop)
}
