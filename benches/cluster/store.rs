//! Durable writes through the whole API, beside what the disk itself can do.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};
use wasmfleet::client::{DeleteOptions, ListOptions};

use crate::cluster::Cluster;
use crate::stats;

const ROUND: Duration = Duration::from_secs(3);
const VALUE_BYTES: usize = 1024;

/// Creates of 1 KiB ConfigMaps a second, by 1 and by 64 clients.
pub async fn writes(cluster: &Cluster) -> anyhow::Result<Value> {
    let one = round(cluster, 1).await?;
    let many = round(cluster, 64).await?;
    Ok(json!({"clients_1": one, "clients_64": many, "value_bytes": VALUE_BYTES}))
}

async fn round(cluster: &Cluster, clients: usize) -> anyhow::Result<Value> {
    let fdatasync = stats::fdatasync_rate()?;
    let cpu = stats::cpu_micros(cluster.pid())?;
    let begin = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..clients {
        let client = cluster.client.clone();
        tasks.spawn(async move {
            let mut times = Vec::new();
            while begin.elapsed() < ROUND {
                let map: ConfigMap = serde_json::from_value(json!({
                    "metadata": {"name": format!("w{clients}-{n}-{}", times.len()),
                        "namespace": "default", "labels": {"bench": "writes"}},
                    "data": {"value": "x".repeat(VALUE_BYTES)}}))?;
                let start = Instant::now();
                client.create(&map).await?;
                times.push(start.elapsed());
            }
            anyhow::Ok(times)
        });
    }
    let mut times = Vec::new();
    while let Some(task) = tasks.join_next().await {
        times.extend(task??);
    }
    let passed = begin.elapsed().as_secs_f64();
    let cpu = stats::cpu_micros(cluster.pid())? - cpu;
    let count = times.len() as f64;
    remove(cluster).await?;
    Ok(json!({"writes_per_second": count / passed, "cpu_us_a_write": cpu as f64 / count,
        "fdatasync_per_second_before": fdatasync, "latency": stats::latencies(times)}))
}

async fn remove(cluster: &Cluster) -> anyhow::Result<()> {
    let options = ListOptions { label_selector: "bench=writes".into(), ..ListOptions::default() };
    for map in cluster.client.list::<ConfigMap>(Some("default"), &options).await? {
        let name = map.metadata.name.unwrap_or_default();
        cluster.client.delete::<ConfigMap>("default", &name, &DeleteOptions::default()).await?;
    }
    Ok(())
}
