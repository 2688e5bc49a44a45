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
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// For the least number of pods, and for each thousand more.
const LIMIT: Duration = Duration::from_secs(120);
const LIMIT_A_THOUSAND: Duration = Duration::from_secs(60);
/// From all pods Ready to the figure: what controllers looked at last is let go by then.
const REST: Duration = Duration::from_secs(150);

/// Commands that sleep, and HTTP handlers that nobody has asked yet, each on a cluster of its own.
pub async fn measure(pods: usize) -> anyhow::Result<Value> {
    let sleeping = json!({"name": "c", "image": "command:v1", "args": ["sleep=36000000"]});
    let handler = json!({"name": "c", "image": "http:v1", "ports": [{"containerPort": 8080}]});
    Ok(json!({
        "idle_commands": resident(pods, sleeping).await?,
        "declared_http": resident(pods, handler).await?,
    }))
}

async fn resident(pods: usize, container: Value) -> anyhow::Result<Value> {
    let nodes = pods.div_ceil(PODS_A_NODE).max(1);
    let cluster = Cluster::with_nodes(nodes).await?;
    cluster.push_guests().await?;
    // One first: its program is compiled, and what the process needs once is there.
    deploy(&cluster, "first", 1, &container).await?;
    tokio::time::sleep(LOOK_PERIOD).await;
    let before = stats::rss_bytes(cluster.pid())?;
    let seconds = deploy(&cluster, "many", pods, &container).await?;
    let at_once = stats::rss_bytes(cluster.pid())?;
    tokio::time::sleep(REST).await;
    let (rss, cpu) = (stats::rss_bytes(cluster.pid())?, stats::cpu_micros(cluster.pid())?);
    tokio::time::sleep(LOOK_PERIOD * 10).await;
    let cpu = stats::cpu_micros(cluster.pid())? - cpu;
    let of_one = |rss: u64| rss.saturating_sub(before) as f64 / 1024.0 / pods as f64;
    // It is killed: to take so many pods down is another figure.
    drop(cluster);
    Ok(json!({
        "pods": pods,
        "nodes": nodes,
        "seconds_to_ready": seconds,
        "rss_mb_before": before as f64 / 1e6,
        "rss_mb": rss as f64 / 1e6,
        "kib_a_pod": of_one(rss),
        "kib_a_pod_when_all_were_ready": of_one(at_once),
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
