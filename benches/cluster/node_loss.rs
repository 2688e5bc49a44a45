//! A node that dies with its pods: from kill -9 to the control plane's notice, and to every pod
//! running on another one. Control plane and nodes are processes of their own.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use wasmfleet::client::remote::Remote;
use wasmfleet::client::{Client, ListOptions};
use wasmfleet::images::layout::Interfaces;
use wasmfleet::images::push;

use crate::launch::launch;
use crate::{program, stats};

const NAMESPACE: &str = "default";
/// A node is given up four heartbeats after its last one.
const HEARTBEAT_SECONDS: u32 = 1;
const GRACE_SECONDS: u32 = 4;
const LOOK_PERIOD: Duration = Duration::from_millis(20);
const LIMIT: Duration = Duration::from_secs(300);

/// A node's process, killed when it is dropped.
struct Agent(Child);

impl Agent {
    fn start(dir: &Path, server: &str, name: &str, pods: usize) -> anyhow::Result<Agent> {
        let child = Command::new(program::path())
            .args(["node", "--server", server, "--name", name])
            .args(["--heartbeat-seconds", &HEARTBEAT_SECONDS.to_string()])
            .args(["--max-pods", &(pods + 10).to_string()])
            .arg("--data-dir")
            .arg(dir.join(name))
            .arg("--token-file")
            .arg(dir.join("data/join-token"))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Agent(child))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Already ended, perhaps.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub async fn measure(pods: usize) -> anyhow::Result<Value> {
    let dir = tempfile::tempdir()?;
    let grace = GRACE_SECONDS.to_string();
    let (child, config) = launch(dir.path(), &["server", "--node-grace-seconds", &grace]).await?;
    let plane = Agent(child);
    let url = config.cluster_url.to_string();
    let remote = Remote::new(config)?;
    let client = Client::new(Arc::new(remote.clone()), "bench");
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/guests/built");
    let wasm = std::fs::read(built.join("rust-cmd-p2.wasm"))?;
    push::push(&remote, &"command:v1".parse()?, wasm.into(), Interfaces::default()).await?;

    let lost = Agent::start(dir.path(), &url, "lost", pods)?;
    until("the first node", async || is_ready(&client, "lost").await).await?;
    client.create(&deployment(pods)?).await?;
    until("all pods", async || Ok(ready(&client).await? >= pods)).await?;
    let _other = Agent::start(dir.path(), &url, "other", pods)?;
    until("the other node", async || is_ready(&client, "other").await).await?;

    let cpu = stats::cpu_micros(plane.0.id())?;
    let begin = Instant::now();
    drop(lost);
    until("the loss", async || Ok(!is_ready(&client, "lost").await?)).await?;
    let noticed = begin.elapsed();
    // They are marked as not ready first, whole node by whole node.
    until("the loss of the pods", async || Ok(ready(&client).await? < pods)).await?;
    until("the replacements", async || Ok(ready(&client).await? >= pods)).await?;
    let replaced = begin.elapsed();
    let cpu = stats::cpu_micros(plane.0.id())? - cpu;
    let there = client.list::<Pod>(Some(NAMESPACE), &ListOptions::default()).await?;
    let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let moved = there.iter().filter(|pod| node(pod).as_deref() == Some("other")).count();
    anyhow::ensure!(moved >= pods, "{moved} of {pods} pods are on the other node");
    Ok(json!({
        "pods": pods,
        "node_grace_seconds": GRACE_SECONDS,
        "seconds_to_notice": noticed.as_secs_f64(),
        "seconds_from_notice_to_all_replaced": (replaced - noticed).as_secs_f64(),
        "control_plane_cpu_ms_a_pod": cpu as f64 / 1e3 / pods as f64,
    }))
}

/// Pods that leave a lost node at once.
fn deployment(pods: usize) -> anyhow::Result<Deployment> {
    let tolerate = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0});
    let keys = ["node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"];
    let container = json!({"name": "c", "image": "command:v1", "args": ["sleep=36000000"]});
    Ok(serde_json::from_value(json!({
        "metadata": {"name": "many", "namespace": NAMESPACE},
        "spec": {"replicas": pods, "selector": {"matchLabels": {"bench": "loss"}},
            "template": {"metadata": {"labels": {"bench": "loss"}}, "spec": {
                "terminationGracePeriodSeconds": 0, "tolerations": keys.map(tolerate),
                "containers": [container]}}},
    }))?)
}

async fn ready(client: &Client) -> anyhow::Result<usize> {
    let now: Deployment = client.get(NAMESPACE, "many").await?;
    let ready = now.status.and_then(|status| status.ready_replicas).unwrap_or_default();
    Ok(usize::try_from(ready).unwrap_or_default())
}

async fn is_ready(client: &Client, node: &str) -> anyhow::Result<bool> {
    let node = match client.get::<Node>("", node).await {
        Err(error) if error.is_not_found() => return Ok(false),
        node => node?,
    };
    let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
    Ok(conditions.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
}

async fn until(what: &str, done: impl AsyncFn() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let look = async {
        while !done().await? {
            tokio::time::sleep(LOOK_PERIOD).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(LIMIT, look).await.with_context(|| format!("waiting for {what}"))?
}
