//! How fast pods run: created one by one, at a rate, and by a Deployment.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::sync::{Mutex, Notify};
use wasmfleet::client::{DeleteOptions, Target, WatchEvent, WatchOptions};

use crate::cluster::Cluster;
use crate::stats;

const NAMESPACE: &str = "default";
const LIMIT: Duration = Duration::from_secs(120);

/// When pods were first seen Running, and those that were deleted.
#[derive(Default)]
struct Seen {
    running: Mutex<HashMap<String, Instant>>,
    gone: Mutex<HashMap<String, Instant>>,
    change: Notify,
}

impl Seen {
    /// Watches pods from now on until the returned handle is aborted.
    async fn watch(cluster: &Cluster) -> anyhow::Result<(Arc<Seen>, tokio::task::JoinHandle<()>)> {
        let seen = Arc::new(Seen::default());
        let options = WatchOptions::default();
        let target = Target::all::<Pod>(Some(NAMESPACE));
        let mut events = cluster.client.api.watch(&target, &options).await?;
        let notes = seen.clone();
        let task = tokio::spawn(async move {
            while let Some(Ok(event)) = events.next().await {
                let now = Instant::now();
                let Some(Ok(pod)) = event.raw().map(|raw| raw.decode::<Pod>()) else { continue };
                let name = pod.metadata.name.unwrap_or_default();
                let phase = pod.status.and_then(|s| s.phase).unwrap_or_default();
                if matches!(event, WatchEvent::Deleted(_)) {
                    notes.gone.lock().await.insert(name, now);
                } else if phase == "Running" {
                    notes.running.lock().await.entry(name).or_insert(now);
                }
                notes.change.notify_waiters();
            }
        });
        Ok((seen, task))
    }

    async fn wait(&self, what: &str, done: impl AsyncFn(&Seen) -> bool) -> anyhow::Result<()> {
        let work = async {
            loop {
                let changed = self.change.notified();
                if done(self).await {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(LIMIT, work).await.with_context(|| format!("waiting for {what}"))
    }
}

fn pod(name: &str) -> anyhow::Result<Pod> {
    pod_of("http:v1", name)
}

fn pod_of(image: &str, name: &str) -> anyhow::Result<Pod> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"bench": "pods"}},
        "spec": {"terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": image, "ports": [{"containerPort": 8080}]}]},
    }))?)
}

/// POST → Running seen by a watch, the next pod only when the one before runs.
pub async fn one_by_one(cluster: &Cluster, count: usize) -> anyhow::Result<Value> {
    // The first start compiles; these figures are about code that is compiled.
    run_one(cluster, "warm-up").await?;
    let mut times = Vec::new();
    let (seen, task) = Seen::watch(cluster).await?;
    for n in 0..count {
        let name = format!("one-{n}");
        let begin = Instant::now();
        cluster.client.create(&pod(&name)?).await?;
        seen.wait(&name, async |seen| seen.running.lock().await.contains_key(&name)).await?;
        times.push(seen.running.lock().await[&name] - begin);
    }
    remove_all(cluster, &seen, count).await?;
    task.abort();
    Ok(stats::latencies(times))
}

/// The push of a program that nobody has seen → Running of its first pod: with the compiler's work.
pub async fn cold(cluster: &Cluster, count: usize) -> anyhow::Result<Value> {
    let mut times = Vec::new();
    let (seen, task) = Seen::watch(cluster).await?;
    for n in 0..count {
        let (image, name) = (format!("cold:v{n}"), format!("cold-{n}"));
        let begin = Instant::now();
        cluster.push_unknown(&image).await?;
        cluster.client.create(&pod_of(&image, &name)?).await?;
        seen.wait(&name, async |seen| seen.running.lock().await.contains_key(&name)).await?;
        times.push(seen.running.lock().await[&name] - begin);
    }
    remove_all(cluster, &seen, count).await?;
    task.abort();
    Ok(stats::latencies(times))
}

async fn run_one(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    let (seen, task) = Seen::watch(cluster).await?;
    cluster.client.create(&pod(name)?).await?;
    seen.wait(name, async |seen| seen.running.lock().await.contains_key(name)).await?;
    cluster.client.delete::<Pod>(NAMESPACE, name, &DeleteOptions::default()).await?;
    seen.wait(name, async |seen| seen.gone.lock().await.contains_key(name)).await?;
    task.abort();
    Ok(())
}

/// The same at a fixed rate, whatever the answers take (open loop).
pub async fn at_rate(cluster: &Cluster, count: usize, per_second: u32) -> anyhow::Result<Value> {
    let (seen, task) = Seen::watch(cluster).await?;
    let mut timer = tokio::time::interval(Duration::from_secs(1) / per_second);
    let mut begins = Vec::new();
    let mut creates = tokio::task::JoinSet::new();
    for n in 0..count {
        timer.tick().await;
        let name = format!("rate-{n}");
        begins.push((name.clone(), Instant::now()));
        let (client, pod) = (cluster.client.clone(), pod(&name)?);
        creates.spawn(async move { client.create(&pod).await });
    }
    while let Some(created) = creates.join_next().await {
        created??;
    }
    seen.wait("all pods", async |seen| seen.running.lock().await.len() >= count).await?;
    let running = seen.running.lock().await.clone();
    let times = begins.iter().map(|(name, begin)| running[name] - *begin).collect();
    remove_all(cluster, &seen, count).await?;
    task.abort();
    Ok(stats::latencies(times))
}

async fn remove_all(cluster: &Cluster, seen: &Seen, count: usize) -> anyhow::Result<()> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=bench%3Dpods");
    let answer = cluster.remote.send(http::Method::DELETE, &path, &[], "").await?;
    anyhow::ensure!(answer.status.is_success(), "deletecollection answered {}", answer.status);
    seen.wait("pods to go", async |seen| seen.gone.lock().await.len() >= count).await
}

/// A Deployment's replicas, from POST to all Running.
pub async fn deployment(cluster: &Cluster, replicas: usize) -> anyhow::Result<Value> {
    let (seen, task) = Seen::watch(cluster).await?;
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": {"name": "many", "namespace": NAMESPACE},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"bench": "pods"}},
            "template": {"metadata": {"labels": {"bench": "pods"}},
                "spec": {"terminationGracePeriodSeconds": 0,
                    "containers": [{"name": "c", "image": "http:v1"}]}}},
    }))?;
    let cpu = stats::cpu_micros(cluster.pid())?;
    let begin = Instant::now();
    cluster.client.create(&deployment).await?;
    seen.wait("all replicas", async |seen| seen.running.lock().await.len() >= replicas).await?;
    let passed = begin.elapsed().as_secs_f64();
    let cpu = stats::cpu_micros(cluster.pid())? - cpu;
    let rss = stats::rss_bytes(cluster.pid())?;
    cluster.client.delete::<Deployment>(NAMESPACE, "many", &DeleteOptions::default()).await?;
    seen.wait("replicas to go", async |seen| seen.gone.lock().await.len() >= replicas).await?;
    task.abort();
    Ok(json!({"seconds": passed, "pods_per_second": replicas as f64 / passed,
        "cpu_ms_a_pod": cpu as f64 / 1e3 / replicas as f64, "rss_mb_with_all": rss as f64 / 1e6}))
}
