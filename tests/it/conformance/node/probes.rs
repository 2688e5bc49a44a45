//! `common/node/container_probe.go`. Where upstream waits for minutes that a container is not
//! restarted, here one with the same probe, but unwell, is, and is waited for.

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::conformance::checks::{holds, is, name};
use crate::conformance::workloads::{
    GRPC, SERVER, becomes, condition, is_running, is_true, number, run, uid,
};
use crate::conformance::{Case, Context, case, eventually};

pub const CASES: &[Case] = &[
    case!("Probing container should be restarted with a /healthz http liveness probe", unwell),
    case!("Probing container should *not* be restarted with a /healthz http liveness probe", well),
    case!("Probing container should *not* be restarted with a tcp:8080 liveness probe", open),
    case!("Probing container should be restarted with a GRPC liveness probe", grpc_elsewhere),
    case!("Probing container should *not* be restarted with a GRPC liveness probe", grpc),
    case!(
        "Probing container with readiness probe should not be ready before initial delay and never \
         restart",
        delayed
    ),
    case!(
        "Probing container with readiness probe that fails should never be ready and never restart",
        never_ready
    ),
];

/// Seconds before the first look at readiness.
const DELAY: i64 = 10;

fn server(name: &str, args: Value, probes: Value) -> Value {
    let mut container = json!({"name": "main", "image": SERVER, "args": args});
    for (field, probe) in probes.as_object().into_iter().flatten() {
        container[field] = probe.clone();
    }
    json!({"metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}})
}

fn healthz(port: u16) -> Value {
    json!({"httpGet": {"path": "/healthz", "port": port}, "periodSeconds": 1,
        "initialDelaySeconds": 1, "timeoutSeconds": 5, "failureThreshold": 3})
}

fn restarts(pod: &Value) -> i64 {
    number(&pod["status"]["containerStatuses"][0]["restartCount"])
}

/// A pod is restarted because it is unwell two seconds after its start.
async fn one_is_restarted(context: &Context, name: &str) -> Result<()> {
    let pods = context.own("v1/pods");
    let probes = json!({"livenessProbe": healthz(8080)});
    pods.create(&server(name, json!(["healthy=2"]), probes)).await?;
    is_running(&pods, name).await?;
    becomes(&pods, name, "restarted", |pod| restarts(pod) >= 1).await?;
    Ok(())
}

async fn unwell(context: &Context) -> Result<()> {
    one_is_restarted(context, "liveness").await
}

/// Runs a pod that no probe may restart, until another one was.
async fn stays(context: &Context, probe: Value) -> Result<()> {
    let pods = context.own("v1/pods");
    run(&pods, &server("well", json!([]), json!({"livenessProbe": probe}))).await?;
    one_is_restarted(context, "unwell").await?;
    let pod = pods.get("well").await?;
    holds(is_true(&pod, "Ready"), "it serves")?;
    is(&restarts(&pod).into(), 0)
}

async fn well(context: &Context) -> Result<()> {
    stays(context, healthz(8080)).await
}

async fn open(context: &Context) -> Result<()> {
    let mut probe = healthz(8080);
    probe.as_object_mut().expect("an object").remove("httpGet");
    probe["tcpSocket"] = json!({"port": 8080});
    stays(context, probe).await
}

/// A gRPC server at port 5000, and the port of it that is probed.
fn grpc_server(name: &str, probed: u16) -> Value {
    let probe = json!({"grpc": {"port": probed}, "initialDelaySeconds": 1, "periodSeconds": 1,
        "timeoutSeconds": 5, "failureThreshold": 1});
    let mut pod = server(name, json!([]), json!({"livenessProbe": probe}));
    pod["spec"]["containers"][0]["image"] = GRPC.into();
    pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 5000}]);
    pod
}

async fn grpc_elsewhere(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    pods.create(&grpc_server("liveness", 2333)).await?;
    becomes(&pods, "liveness", "restarted", |pod| restarts(pod) >= 1).await.map(drop)
}

async fn grpc(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    run(&pods, &grpc_server("well", 5000)).await?;
    grpc_elsewhere(context).await?;
    let pod = pods.get("well").await?;
    holds(is_true(&pod, "Ready"), "it serves")?;
    is(&restarts(&pod).into(), 0)
}

fn time(value: &Value) -> Result<Timestamp> {
    Ok(value.as_str().context("a time")?.parse()?)
}

async fn delayed(context: &Context) -> Result<()> {
    let mut probe = healthz(8080);
    probe["initialDelaySeconds"] = DELAY.into();
    let pods = context.own("v1/pods");
    let pod = run(&pods, &server("delayed", json!([]), json!({"readinessProbe": probe}))).await?;
    let ready = condition(&pod, "Ready").context("a condition")?;
    let ready = time(&ready["lastTransitionTime"])?;
    let started = &pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"];
    // The API tells whole seconds.
    let waited = ready.duration_since(time(started)?).as_secs();
    holds(waited >= DELAY - 1, &format!("ready after the delay, not after {waited} s"))?;
    is(&restarts(&pod).into(), 0)
}

async fn never_ready(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    let probes = json!({"readinessProbe": healthz(81)});
    let created = pods.create(&server("unready", json!([]), probes)).await?;
    is_running(&pods, name(&created)).await?;
    let about = format!("involvedObject.uid={},reason=Unhealthy", uid(&created));
    eventually("failures of its probe", async || {
        let events = context.own("v1/events").items(&[("fieldSelector", &about)]).await?;
        Ok((!events.is_empty()).then_some(()))
    })
    .await?;
    // A probe that may restart its container did by now.
    one_is_restarted(context, "unwell").await?;
    let pod = pods.get("unready").await?;
    holds(!is_true(&pod, "Ready"), "it is not ready")?;
    is(&restarts(&pod).into(), 0)
}
