//! `scheduling/predicates.go`.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::conformance::checks::{is, name};
use crate::conformance::workloads::{
    HTTPD, becomes, is_running, is_true, pause_pod, phase, pod, run,
};
use crate::conformance::{Case, Context, case, eventually};

pub const CASES: &[Case] = &[
    case!(
        "SchedulerPredicates validates resource limits of pods that are allowed to run [Serial]",
        resources
    ),
    case!(
        "SchedulerPredicates validates that NodeSelector is respected if matching [Serial]",
        matching
    ),
    case!(
        "SchedulerPredicates validates that NodeSelector is respected if not matching [Serial]",
        not_matching
    ),
    case!(
        "SchedulerPredicates validates that there exists conflict between pods with same hostPort \
         and protocol but one using 0.0.0.0 hostIP [Serial]",
        host_ports
    ),
];

/// Creates a pod that no node can run, and waits until the scheduler has told so.
async fn is_not_scheduled(context: &Context, pod: &Value) -> Result<()> {
    context.own("v1/pods").create(pod).await?;
    let events = context.own("v1/events");
    eventually(&format!("FailedScheduling of {}", name(pod)), async || {
        let told = |event: &Value| {
            event["involvedObject"]["name"] == name(pod)
                && event["type"] == "Warning"
                && event["reason"] == "FailedScheduling"
        };
        Ok(events.items(&[]).await?.iter().any(told).then_some(()))
    })
    .await
}

/// So many pods of the case are scheduled, and so many are not.
async fn result_is(context: &Context, scheduled: usize, not_scheduled: usize) -> Result<()> {
    let pods = context.own("v1/pods").items(&[]).await?;
    let going: Vec<&Value> =
        pods.iter().filter(|pod| !["Succeeded", "Failed"].contains(&phase(pod))).collect();
    let on_node = going.iter().filter(|pod| pod["spec"]["nodeName"].is_string()).count();
    is(&on_node.into(), scheduled)?;
    is(&(going.len() - on_node).into(), not_scheduled)
}

/// A label that only one node has, which can run pods.
async fn labelled_node(context: &Context) -> Result<(String, String)> {
    let pods = context.own("v1/pods");
    let first = run(&pods, &pause_pod("without-label", json!({}))).await?;
    pods.delete_with("without-label", &json!({"gracePeriodSeconds": 0})).await?;
    let node = first["spec"]["nodeName"].as_str().context("a node")?.to_string();
    let key = format!("kubernetes.io/{}", context.unique("e2e"));
    let nodes = context.all("v1/nodes");
    let labelled =
        nodes.update(&node, |node| node["metadata"]["labels"][&key] = "42".into()).await?;
    is(&labelled["metadata"]["labels"][&key], "42")?;
    Ok((node, key))
}

async fn unlabel(context: &Context, node: &str, key: &str) -> Result<()> {
    let remove = |node: &mut Value| {
        node["metadata"]["labels"].as_object_mut().map(|labels| labels.remove(key));
    };
    context.all("v1/nodes").update(node, remove).await?;
    Ok(())
}

async fn not_matching(context: &Context) -> Result<()> {
    let mut pod = pause_pod("restricted-pod", json!({"name": "restricted"}));
    pod["spec"]["nodeSelector"] = json!({"label": "nonempty"});
    is_not_scheduled(context, &pod).await?;
    result_is(context, 0, 1).await
}

async fn matching(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    let (node, key) = labelled_node(context).await?;
    let mut pod = pause_pod("with-labels", json!({}));
    pod["spec"]["nodeSelector"] = json!({key.as_str(): "42"});
    pods.create(&pod).await?;
    let ran = becomes(&pods, "with-labels", "not pending", |pod| phase(pod) != "Pending").await;
    unlabel(context, &node, &key).await?;
    is(&ran?["spec"]["nodeName"], node)
}

async fn host_ports(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    let (node, key) = labelled_node(context).await?;
    let found = context.all("v1/nodes").get(&node).await?;
    let addresses = found["status"]["addresses"].as_array().context("addresses")?;
    let mut internal = addresses.iter().filter(|address| address["type"] == "InternalIP");
    let ip = internal.next().context("an internal address")?["address"].clone();
    let with_port = |name: &str, ip: Value| {
        let mut pod = pod(name, json!({}), HTTPD);
        pod["spec"]["nodeSelector"] = json!({key.as_str(): "42"});
        let port = json!({"hostPort": 54322, "containerPort": 8080, "protocol": "TCP",
            "hostIP": ip});
        pod["spec"]["containers"][0]["ports"] = json!([port]);
        pod
    };
    let conflict = async || {
        pods.create(&with_port("pod4", "".into())).await?;
        becomes(&pods, "pod4", "not pending", |pod| phase(pod) != "Pending").await?;
        // Upstream waits in vain for it to be scheduled.
        is_not_scheduled(context, &with_port("pod5", ip)).await?;
        result_is(context, 1, 1).await
    };
    let result = conflict().await;
    unlabel(context, &node, &key).await?;
    result
}

/// Thousandths of a CPU.
fn milli(quantity: &Value) -> Result<u64> {
    let Some(text) = quantity.as_str() else { return Ok(0) };
    Ok(match text.strip_suffix('m') {
        Some(milli) => milli.parse()?,
        None => 1000 * text.parse::<u64>()?,
    })
}

async fn resources(context: &Context) -> Result<()> {
    let (pods, nodes) = (context.own("v1/pods"), context.all("v1/nodes"));
    // Upstream labels the nodes with their names, which this label does already.
    let label = "kubernetes.io/hostname";
    let mut free = Vec::new();
    let mut largest = 0;
    for node in nodes.items(&[]).await?.iter().filter(|node| is_true(node, "Ready")) {
        let cpu = milli(&node["status"]["allocatable"]["cpu"])?;
        ensure!(cpu > 0, "no CPU is allocatable: {node}");
        largest = largest.max(cpu);
        let host = node["metadata"]["labels"][label].as_str().context("a host name")?;
        free.push((name(node).to_string(), host.to_string(), cpu));
    }
    for pod in context.all("v1/pods").items(&[]).await? {
        if ["Succeeded", "Failed"].contains(&phase(&pod)) {
            continue;
        }
        let of_pod = |(node, _, _): &&mut (String, String, u64)| pod["spec"]["nodeName"] == *node;
        let Some((_, _, cpu)) = free.iter_mut().find(of_pod) else { continue };
        for container in pod["spec"]["containers"].as_array().into_iter().flatten() {
            *cpu -= milli(&container["resources"]["requests"]["cpu"])?;
        }
    }
    let with_cpu = |name: &str, labels: Value, cpu: u64| {
        let mut pod = pause_pod(name, labels);
        let cpu = json!({"cpu": format!("{cpu}m")});
        pod["spec"]["containers"][0]["resources"] = json!({"limits": cpu, "requests": cpu});
        pod
    };
    for (number, (_, host, cpu)) in free.iter().enumerate() {
        let mut pod = with_cpu(&format!("filler-pod-{number}"), json!({}), cpu * 7 / 10);
        let is_host = json!({"key": label, "operator": "In", "values": [host]});
        pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
            json!({"nodeSelectorTerms": [{"matchExpressions": [is_host]}]});
        pods.create(&pod).await?;
    }
    for number in 0..free.len() {
        is_running(&pods, &format!("filler-pod-{number}")).await?;
    }
    let additional = with_cpu("additional-pod", json!({"name": "additional"}), largest / 2);
    is_not_scheduled(context, &additional).await?;
    result_is(context, free.len(), 1).await
}
