//! `node/taints.go`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::conformance::checks::is;
use crate::conformance::workloads::{is_running, pause_pod, run};
use crate::conformance::{Case, Collection, Context, case, eventually, refused};

pub const CASES: &[Case] = &[
    case!(
        "NoExecuteTaintManager Multiple Pods evicts pods with minTolerationSeconds [Disruptive] \
         [Serial]",
        two
    ),
    case!(
        "NoExecuteTaintManager Single Pod removing taint cancels eviction [Disruptive] [Serial]",
        removed
    ),
];

const KEY: &str = "kubernetes.io/e2e-evict-taint-key";

/// A pod that bears the taint for so long.
fn tolerant(name: &str, group: &str, seconds: u64) -> Value {
    let mut pod = pause_pod(name, json!({"group": group}));
    pod["spec"]["tolerations"] = json!([{"key": KEY, "value": "evictTaintVal",
        "effect": "NoExecute", "tolerationSeconds": seconds}]);
    pod
}

fn taints(node: &mut Value) -> &mut Vec<Value> {
    let taints = &mut node["spec"]["taints"];
    if !taints.is_array() {
        *taints = json!([]);
    }
    taints.as_array_mut().expect("a list")
}

async fn taint(nodes: &Collection, node: &str) -> Result<()> {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let taint = json!({"key": KEY, "value": "evictTaintVal", "effect": "NoExecute",
        "timeAdded": now});
    let updated = nodes.update(node, |node| taints(node).push(taint.clone())).await?;
    let has = updated["spec"]["taints"].as_array().is_some_and(|taints| {
        taints.iter().any(|taint| taint["key"] == KEY && taint["effect"] == "NoExecute")
    });
    is(&has.into(), true)
}

async fn untaint(nodes: &Collection, node: &str) -> Result<()> {
    nodes.update(node, |node| taints(node).retain(|taint| taint["key"] != KEY)).await?;
    Ok(())
}

async fn removed(context: &Context) -> Result<()> {
    let (pods, nodes) = (context.own("v1/pods"), context.all("v1/nodes"));
    let pod = run(&pods, &tolerant("taint-eviction-4", "taint-eviction-4", 10)).await?;
    let node = pod["spec"]["nodeName"].as_str().context("a node")?;
    let version = pod["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let query = [("labelSelector", "group=taint-eviction-4"), ("resourceVersion", version)];
    let mut watch = pods.watch(&query).await?;
    taint(&nodes, node).await?;
    // It is to be evicted by now, but not yet.
    tokio::time::sleep(Duration::from_secs(1)).await;
    untaint(&nodes, node).await?;
    let eviction = watch.until("DELETED", |_| true);
    let end = tokio::time::timeout(Duration::from_secs(20), eviction).await;
    is(&end.is_err().into(), true)?;
    is(&pods.get("taint-eviction-4").await?["metadata"]["deletionTimestamp"], Value::Null)
}

async fn two(context: &Context) -> Result<()> {
    let (pods, nodes) = (context.own("v1/pods"), context.all("v1/nodes"));
    let first = run(&pods, &tolerant("taint-eviction-b1", "taint-eviction-b", 5)).await?;
    let node = first["spec"]["nodeName"].as_str().context("a node")?;
    let host = nodes.get(node).await?["metadata"]["labels"]["kubernetes.io/hostname"].take();
    let mut second = tolerant("taint-eviction-b2", "taint-eviction-b", 25);
    second["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": host});
    run(&pods, &second).await?;
    is_running(&pods, "taint-eviction-b1").await?;
    taint(&nodes, node).await?;
    let evicted = eventually("the end of both pods", async || {
        for name in ["taint-eviction-b1", "taint-eviction-b2"] {
            match pods.get(name).await {
                Ok(_) => return Ok(None),
                gone => drop(refused(gone, 404)?),
            }
        }
        Ok(Some(()))
    });
    let evicted = evicted.await;
    untaint(&nodes, node).await?;
    evicted
}
