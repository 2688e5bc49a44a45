//! How much one control plane carries: 5,000 simulated nodes, 150,000 pods, 10,000 Services; what that
//! takes of memory and, at rest, of CPU, what a list of everything costs, and how soon the pods of a
//! lost node run elsewhere.

use std::time::{Duration, Instant};

use anyhow::Context;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio::task::JoinSet;
use wasmfleet::api::Object;
use wasmfleet::client::{Api, ListOptions, Target, WriteOptions};

use crate::pods::{self, CLIENTS, Seen};
use crate::report::{Report, number};
use crate::rig::{Rig, Used};
use crate::templates::{CAPACITY, Template};
use crate::workloads::{Nodes, Pods};

const NODES: usize = 5000;
const PODS: usize = 150_000;
const SERVICES: usize = 10_000;
/// Pods of the node that is lost.
const LOST_PODS: usize = 100;
const NAMESPACE: &str = "sched-0";
/// What was written rests this long before the idle minute.
const REST: Duration = Duration::from_secs(120);
const IDLE: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(300);

pub async fn measure(report: &mut Report, smoke: bool) -> anyhow::Result<()> {
    let (less, quicker) = if smoke { (100, 30) } else { (1, 1) };
    let mut rig = Rig::start().await?;
    let plain = |report: &mut Report, what: &str, value: f64, aim: &str| {
        report.row(&format!("envelope: {what}"), number(value), None, "-".into(), aim);
    };
    let begin = Instant::now();
    rig.add_nodes(Nodes { count: NODES / less, zones: 3, named: false }).await?;
    plain(report, "s until all nodes are registered", begin.elapsed().as_secs_f64(), "");
    rig.make_namespace(NAMESPACE).await?;
    let seen = Seen::watch(&rig.remote, "init").await?;
    services(&rig, SERVICES / less).await?;
    let count = PODS / less;
    let pods = Pods { count, template: Template::Light, namespaces: (NAMESPACE, 1) };
    let (used, begin) = (rig.used()?, Instant::now());
    pods::create(&rig, &pods, "init", None).await?;
    seen.wait_running(count).await?;
    let after = rig.used()?;
    plain(report, "pods/s running", count as f64 / begin.elapsed().as_secs_f64(), "≥ 2500");
    let a_pod = |of: fn(&Used) -> u64| (of(&after) - of(&used)) as f64 / count as f64;
    plain(report, "CPU µs a pod, server", a_pod(|used| used.server), "");
    plain(report, "CPU µs a pod, simulator", a_pod(|used| used.simulators), "");
    let begin = Instant::now();
    let listed = rig.remote.list(&Target::all::<Pod>(None), &ListOptions::default()).await?;
    plain(report, "s a LIST of all pods", begin.elapsed().as_secs_f64(), "");
    anyhow::ensure!(listed.items.len() >= count, "{} pods are listed", listed.items.len());
    drop(listed);
    tokio::time::sleep(REST / quicker).await;
    let (server, simulators) = rig.resident()?;
    plain(report, "MB resident, server", server as f64 / 1e6, "≤ 4000");
    plain(report, "MB resident, simulator", simulators as f64 / 1e6, "");
    let (used, idle) = (rig.used()?, IDLE / quicker);
    tokio::time::sleep(idle).await;
    let after = rig.used()?;
    let percent =
        |of: fn(&Used) -> u64| (of(&after) - of(&used)) as f64 * 100.0 / idle.as_micros() as f64;
    plain(report, "% of a core at rest, server", percent(|used| used.server), "");
    plain(report, "% of a core at rest, simulator", percent(|used| used.simulators), "≤ 10");
    let seconds = lose_a_node(&mut rig, LOST_PODS / less.min(10)).await?;
    plain(report, "s from a node's loss (grace of 4) to its pods running", seconds, "≤ 5.1");
    Ok(())
}

/// Services that no pod is behind, so that what is measured is what they take themselves.
async fn services(rig: &Rig, count: usize) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    for client in 0..CLIENTS.min(count) {
        let mut connection = rig.connect().await?;
        tasks.spawn(async move {
            let path = format!("/api/v1/namespaces/{NAMESPACE}/services");
            for n in (client..count).step_by(CLIENTS) {
                let body = json!({"metadata": {"name": format!("service-{n}")}, "spec": {
                    "selector": {"app": format!("app-{n}")}, "ports": [{"port": 8080}]}});
                let answer = connection.post(&path, body.to_string().as_bytes()).await?;
                let text = String::from_utf8_lossy(answer.body);
                anyhow::ensure!(answer.status == 201, "answered {}: {text}", answer.status);
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// A Deployment whose pods are on one node, which is switched off: seconds until as many run
/// elsewhere.
async fn lose_a_node(rig: &mut Rig, replicas: usize) -> anyhow::Result<f64> {
    let lost = rig.simulate("sim-lost", 1, CAPACITY, &["--labels", "bench=lost"]).await?;
    let seen = Seen::watch(&rig.remote, "lost").await?;
    let preferred = json!([{"weight": 100, "preference": {"matchExpressions":
        [{"key": "bench", "operator": "In", "values": ["lost"]}]}}]);
    let gone = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0});
    let deployment = json!({"metadata": {"name": "lost", "namespace": NAMESPACE}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": "lost"}},
        "template": {"metadata": {"labels": {"app": "lost"}}, "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "pause", "image": "pause:v1"}],
            "tolerations": [gone("node.kubernetes.io/unreachable"),
                gone("node.kubernetes.io/not-ready")],
            "affinity": {"nodeAffinity":
                {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}}}}});
    let target = Target::all::<Deployment>(Some(NAMESPACE));
    let object = Object::from_value(deployment)?;
    rig.remote.create(&target, object, &WriteOptions::default()).await?;
    seen.wait_running(replicas).await?;
    let on_lost = async || {
        let options = ListOptions {
            field_selector: "spec.nodeName=sim-lost-0".into(),
            ..ListOptions::default()
        };
        rig.remote.list(&Target::all::<Pod>(None), &options).await.map(|list| list.items.len())
    };
    let there = on_lost().await?;
    anyhow::ensure!(there > 0, "no pod went to the node that is to be lost");
    let begin = Instant::now();
    rig.kill(lost)?;
    let wait = tokio::time::timeout(LIMIT, seen.wait_running(replicas + there)).await;
    wait.with_context(|| format!("{there} pods were lost"))??;
    Ok(begin.elapsed().as_secs_f64())
}
