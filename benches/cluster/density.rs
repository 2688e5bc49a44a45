//! What an idle pod costs in memory: resident bytes of the one process, divided by pods.
//!
//! The process needs as many file descriptors as there are pods and some hundred, and four mappings
//! for each command (`ulimit -n`, vm.max_map_count).

use std::time::{Duration, Instant};

use anyhow::Context;
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::stats;

const NAMESPACE: &str = "default";
/// Pods that one node takes by default.
const PODS_A_NODE: usize = 2000;
/// The most that one can be told to take.
const PODS_A_PROCESS: usize = 4000;
/// More pods than this need more file descriptors than one process has by default on many systems:
/// their nodes are processes of their own.
const PODS_OF_ONE_PROCESS: usize = 16_000;
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// For the least number of pods, and for each thousand more.
const LIMIT: Duration = Duration::from_secs(120);
const LIMIT_A_THOUSAND: Duration = Duration::from_secs(60);
/// From all pods Ready to the figure: the history that watches can go on from is let go by then
/// (`--history-seconds`), and what controllers looked at last.
const REST: Duration = Duration::from_secs(660);

/// Commands that sleep, and HTTP handlers that nobody has asked yet, each on a cluster of its own. Of
/// more than one process can hold, the handlers only.
pub async fn measure(pods: usize) -> anyhow::Result<Value> {
    let sleeping = json!({"name": "c", "image": "command:v1", "args": ["sleep=36000000"]});
    let handler = json!({"name": "c", "image": "http:v1", "ports": [{"containerPort": 8080}]});
    if pods > PODS_OF_ONE_PROCESS {
        let nodes = pods.div_ceil(PODS_A_PROCESS - 1);
        let cluster = Cluster::of_processes(nodes, PODS_A_PROCESS).await?;
        return Ok(json!({"declared_http": resident(&cluster, nodes, pods, handler).await?}));
    }
    let nodes = pods.div_ceil(PODS_A_NODE).max(1);
    let mut report = serde_json::Map::new();
    for (name, container) in [("idle_commands", sleeping), ("declared_http", handler)] {
        let cluster = Cluster::with_nodes(nodes).await?;
        report.insert(name.into(), resident(&cluster, nodes, pods, container).await?);
        // It is killed: to take so many pods down is another figure.
    }
    Ok(report.into())
}

/// Resident bytes, and CPU time, of all processes of a cluster.
struct Looked {
    control_plane: u64,
    agents: u64,
    cpu_micros: u64,
}

fn look(cluster: &Cluster) -> anyhow::Result<Looked> {
    let mut looked = Looked {
        control_plane: stats::rss_bytes(cluster.pid())?,
        agents: 0,
        cpu_micros: stats::cpu_micros(cluster.pid())?,
    };
    for pid in cluster.agent_pids() {
        looked.agents += stats::rss_bytes(pid)?;
        looked.cpu_micros += stats::cpu_micros(pid)?;
    }
    Ok(looked)
}

async fn resident(
    cluster: &Cluster,
    nodes: usize,
    pods: usize,
    container: Value,
) -> anyhow::Result<Value> {
    cluster.push_guests().await?;
    // One on each node first: its program is compiled, and what a process needs once is there.
    deploy(cluster, "first", nodes, &container).await?;
    tokio::time::sleep(LOOK_PERIOD).await;
    let before = look(cluster)?;
    let seconds = deploy(cluster, "many", pods, &container).await?;
    let at_once = look(cluster)?;
    tokio::time::sleep(REST).await;
    let rested = look(cluster)?;
    tokio::time::sleep(LOOK_PERIOD * 10).await;
    let cpu = look(cluster)?.cpu_micros - rested.cpu_micros;
    let sum = |one: &Looked| one.control_plane + one.agents;
    let of_one = |one: &Looked| sum(one).saturating_sub(sum(&before)) as f64 / 1024.0 / pods as f64;
    Ok(json!({
        "pods": pods,
        "nodes": nodes,
        "processes": 1 + cluster.agent_pids().len(),
        "seconds_to_ready": seconds,
        "rss_mb_before": sum(&before) as f64 / 1e6,
        "rss_mb": sum(&rested) as f64 / 1e6,
        "rss_mb_of_agents": rested.agents as f64 / 1e6,
        "kib_a_pod": of_one(&rested),
        "kib_a_pod_when_all_were_ready": of_one(&at_once),
        "cpu_share_of_a_core": cpu as f64 / (LOOK_PERIOD * 10).as_micros() as f64,
    }))
}

/// Seconds until all replicas are ready.
async fn deploy(
    cluster: &Cluster,
    name: &str,
    replicas: usize,
    container: &Value,
) -> anyhow::Result<f64> {
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"bench": name}},
            "template": {"metadata": {"labels": {"bench": name}}, "spec": {
                "terminationGracePeriodSeconds": 0, "containers": [container]}}},
    }))?;
    let begin = Instant::now();
    cluster.client.create(&deployment).await?;
    let thousands = u32::try_from(replicas / 1000)?;
    let ready = async {
        loop {
            let now: Deployment = cluster.client.get(NAMESPACE, name).await?;
            let ready = now.status.and_then(|status| status.ready_replicas).unwrap_or_default();
            if usize::try_from(ready).unwrap_or_default() >= replicas {
                return anyhow::Ok(begin.elapsed().as_secs_f64());
            }
            tokio::time::sleep(LOOK_PERIOD).await;
        }
    };
    let limit = LIMIT + LIMIT_A_THOUSAND * thousands;
    tokio::time::timeout(limit, ready).await.with_context(|| format!("{replicas} pods"))?
}
