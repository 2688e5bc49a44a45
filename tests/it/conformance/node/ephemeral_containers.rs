//! `common/node/ephemeral_containers.go`. Upstream's debugger is a shell; ours is the program whose
//! arguments it prints.

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::conformance::checks::{has_lines, holds, is};
use crate::conformance::workloads::{AGNHOST, BUSYBOX, becomes, is_running, log};
use crate::conformance::{Case, Context, Patch, case};

pub const CASES: &[Case] = &[
    case!("Ephemeral Containers should update the ephemeral containers in an existing pod", update),
    case!("Ephemeral Containers will start an ephemeral container in an existing pod", start),
];

const POD: &str = "ephemeral-containers-target-pod";
const PART: &str = "ephemeral-containers-target-pod/ephemeralcontainers";

fn runs(pod: &Value) -> bool {
    let statuses = pod["status"]["ephemeralContainerStatuses"].as_array();
    let mut statuses = statuses.into_iter().flatten();
    statuses.any(|one| one["name"] == "debugger" && one["state"]["running"].is_object())
}

async fn start(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    let container = json!({"name": "test-container-1", "image": BUSYBOX,
        "command": ["busybox"], "args": ["sleep=10000000"]});
    let pod = json!({"metadata": {"name": POD}, "spec": {"containers": [container]}});
    pods.create(&pod).await?;
    is(&is_running(&pods, POD).await?["metadata"]["generation"], 1)?;
    let debugger = json!({"name": "debugger", "image": BUSYBOX, "stdin": true, "tty": true,
        "command": ["busybox", "polo", "sleep=10000000"]});
    let patch = json!({"spec": {"ephemeralContainers": [debugger]}});
    pods.patch(PART, Patch::Strategic, &patch).await?;
    let running = becomes(&pods, POD, "with a debugger that runs", runs).await?;
    is(&running["metadata"]["generation"], 2)?;
    let told = exec(context, "container=debugger&command=busybox&command=marco").await?;
    ensure!(told.contains("marco"), "exec: {told}");
    has_lines(&log(context, POD, "container=debugger").await?, &["arg[1]=polo"])
}

/// What a command in the pod writes.
async fn exec(context: &Context, query: &str) -> Result<String> {
    let namespace = &context.namespace;
    let path = format!("/api/v1/namespaces/{namespace}/pods/{POD}/exec?stdout=true&{query}");
    let mut socket = context.client.websocket(&path, "v4.channel.k8s.io").await?;
    let mut told = Vec::new();
    while let Some(message) = socket.next().await {
        match message.context("the connection was lost")? {
            Message::Binary(bytes) if bytes.first() == Some(&1) => told.extend(&bytes[1..]),
            Message::Close(_) => break,
            _ => {}
        }
    }
    Ok(String::from_utf8_lossy(&told).into_owned())
}

async fn update(context: &Context) -> Result<()> {
    start(context).await?;
    let pods = context.own("v1/pods");
    let count = |pod: &Value| pod["spec"]["ephemeralContainers"].as_array().map_or(0, Vec::len);
    holds(count(&pods.get(PART).await?) == 1, "there is one ephemeral container")?;
    pods.update(PART, |pod| {
        let more = json!({"name": "debugger2", "image": AGNHOST,
            "imagePullPolicy": "IfNotPresent", "terminationMessagePolicy": "File"});
        if let Some(list) = pod["spec"]["ephemeralContainers"].as_array_mut() {
            list.push(more);
        }
    })
    .await?;
    holds(count(&pods.get(PART).await?) == 2, "there are two ephemeral containers")
}
