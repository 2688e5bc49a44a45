//! `common/node/lifecycle_hook.go` and `node/pre_stop.go`. As upstream, a sidecar takes the hook's request at the pod's
//! own address and passes it on to another pod, whose log tells that it came.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::conformance::checks::name;
use crate::conformance::operations::gone;
use crate::conformance::workloads::{PAUSE, SERVER, log, pod, run};
use crate::conformance::{Case, Context, case, eventually};

pub const CASES: &[Case] = &[
    case!(
        "Container Lifecycle Hook when create a pod with lifecycle hook should execute poststart http \
         hook properly",
        post_start
    ),
    case!(
        "Container Lifecycle Hook when create a pod with lifecycle hook should execute prestop http \
         hook properly",
        pre_stop
    ),
    case!("PreStop should call prestop when killing a pod", pre_stop_command),
];

const TARGET: &str = "pod-handle-http-request";

/// Runs the pod that hooks reach in the end, and gives the hook's action.
async fn action(context: &Context, message: &str) -> Result<Value> {
    let target = run(&context.own("v1/pods"), &pod(TARGET, json!({}), SERVER)).await?;
    let ip = target["status"]["podIP"].as_str().context("an address")?;
    let path = format!("/dial?host={ip}&port=8080&request=echo%3Fmsg%3D{message}");
    Ok(json!({"httpGet": {"path": path, "port": 8080}}))
}

async fn run_hooked(context: &Context, lifecycle: Value) -> Result<Value> {
    let mut hooked = pod("pod-with-http-hook", json!({}), PAUSE);
    hooked["spec"]["containers"][0]["lifecycle"] = lifecycle;
    let startup = json!({"httpGet": {"path": "/echo?msg=startup", "port": 8080}});
    hooked["spec"]["initContainers"] = json!([{"name": "container-redirect", "image": SERVER,
        "restartPolicy": "Always", "startupProbe": startup}]);
    run(&context.own("v1/pods"), &hooked).await
}

async fn is_told(context: &Context, message: &str) -> Result<()> {
    let line = format!("GET /echo?msg={message}");
    eventually(&format!("{line:?} in the log"), async || {
        Ok(log(context, TARGET, "").await?.contains(&line).then_some(()))
    })
    .await
}

async fn post_start(context: &Context) -> Result<()> {
    let action = action(context, "poststart").await?;
    let pod = run_hooked(context, json!({"postStart": action})).await?;
    is_told(context, "poststart").await?;
    ends(context, &pod).await
}

async fn pre_stop(context: &Context) -> Result<()> {
    let action = action(context, "prestop").await?;
    let pod = run_hooked(context, json!({"preStop": action})).await?;
    ends(context, &pod).await?;
    is_told(context, "prestop").await
}

/// Upstream's command is a shell's; ours is the program's own.
async fn pre_stop_command(context: &Context) -> Result<()> {
    let target = run(&context.own("v1/pods"), &pod(TARGET, json!({}), SERVER)).await?;
    let ip = target["status"]["podIP"].as_str().context("an address")?;
    let query = format!("dial=host={ip}&port=8080&request=echo%3Fmsg%3Dprestop");
    let mut tester = pod("tester", json!({}), SERVER);
    let command = json!(["server", query]);
    tester["spec"]["containers"][0]["lifecycle"] =
        json!({"preStop": {"exec": {"command": command}}});
    let tester = run(&context.own("v1/pods"), &tester).await?;
    ends(context, &tester).await?;
    is_told(context, "prestop").await
}

async fn ends(context: &Context, pod: &Value) -> Result<()> {
    let pods = context.own("v1/pods");
    pods.delete_with(name(pod), &json!({"gracePeriodSeconds": 15})).await?;
    gone(&pods, name(pod)).await
}
