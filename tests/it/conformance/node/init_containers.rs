//! `common/node/init_container.go` and `common/node/kubelet.go`.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::conformance::checks::{counts, has_lines, holds, is};
use crate::conformance::context::eventually_within;
use crate::conformance::workloads::{
    BUSYBOX, NET, PAUSE, becomes, condition, log, number, output, phase, run, serves,
};
use crate::conformance::{Case, Context, case, eventually};

pub const CASES: &[Case] = &[
    case!("InitContainer should invoke init containers on a RestartNever pod", never),
    case!("InitContainer should invoke init containers on a RestartAlways pod", always),
    case!(
        "InitContainer should not start app containers if init containers fail on a RestartAlways \
         pod",
        always_failing
    ),
    case!(
        "InitContainer should not start app containers and fail the pod if init containers fail on \
         a RestartNever pod",
        never_failing
    ),
    case!(
        "Kubelet when scheduling a busybox command in a pod should print the output to logs",
        output_is_logged
    ),
    case!(
        "Kubelet when scheduling a busybox command that always fails in a pod should have an \
         terminated reason",
        failure_has_reason
    ),
    case!(
        "Kubelet when scheduling a busybox command that always fails in a pod should be possible \
         to delete",
        failure_is_deleted
    ),
    case!(
        "Kubelet when scheduling an agnhost Pod with hostAliases should write entries to /etc/hosts",
        aliases
    ),
    case!(
        "Kubelet when scheduling a read only busybox container should not write to root filesystem \
         [LinuxOnly]",
        root_is_not_written
    ),
];

fn container(name: &str, image: &str, args: &[&str]) -> Value {
    json!({"name": name, "image": image, "args": args})
}

/// Two init containers, the first of which ends with this code, and one more.
fn pod(first: i32, restart: &str, main: Value) -> Value {
    let first = container("init1", BUSYBOX, &[&format!("exit={first}")]);
    json!({"metadata": {"name": "pod-init", "labels": {"name": "foo"}},
        "spec": {"restartPolicy": restart, "containers": [main],
            "initContainers": [first, container("init2", BUSYBOX, &[])]}})
}

fn inits(pod: &Value) -> &[Value] {
    pod["status"]["initContainerStatuses"].as_array().map_or(&[], Vec::as_slice)
}

/// What upstream calls the invariant: while containers initialize, the others wait for it.
fn is_in_order(pod: &Value) -> Result<()> {
    let done = |status: &Value| status["state"]["terminated"]["exitCode"] == 0;
    if inits(pod).iter().all(done) {
        return Ok(());
    }
    let initialized = condition(pod, "Initialized").map(|one| &one["status"]);
    holds(initialized.is_none_or(|status| *status == "False"), "Initialized is False")?;
    for status in pod["status"]["containerStatuses"].as_array().into_iter().flatten() {
        is(&status["state"]["waiting"]["reason"], "PodInitializing")?;
        is(&status["restartCount"], 0)?;
    }
    Ok(())
}

/// Creates a pod and looks at each of its states until it is in the phase.
async fn reaches(context: &Context, pod: &Value, wanted: &str) -> Result<Value> {
    let pods = context.own("v1/pods");
    let mut watch = pods.watch_labelled("name=foo").await?;
    pods.create(pod).await?;
    loop {
        let Some(event) = watch.next().await? else { anyhow::bail!("the watch ended") };
        is_in_order(&event.object)?;
        if phase(&event.object) == wanted {
            return Ok(event.object);
        }
    }
}

fn are_initialized(pod: &Value) -> Result<()> {
    is(&condition(pod, "Initialized").unwrap_or(&Value::Null)["status"], "True")?;
    counts(inits(pod), 2)?;
    for status in inits(pod) {
        is(&status["ready"], true)?;
        is(&status["state"]["terminated"]["exitCode"], 0)?;
    }
    Ok(())
}

async fn never(context: &Context) -> Result<()> {
    let pod = pod(0, "Never", container("run1", BUSYBOX, &[]));
    are_initialized(&reaches(context, &pod, "Succeeded").await?)
}

async fn always(context: &Context) -> Result<()> {
    let mut main = container("run1", PAUSE, &[]);
    main["resources"] = json!({"limits": {"cpu": "100m"}});
    are_initialized(&reaches(context, &pod(0, "Always", main), "Running").await?)
}

async fn always_failing(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    let mut main = container("run1", PAUSE, &[]);
    main["resources"] = json!({"limits": {"cpu": "100m"}});
    pods.create(&pod(1, "Always", main)).await?;
    // Restarts wait for 10, 20 and 40 s.
    let failed = eventually_within(Duration::from_secs(180), "three restarts", async || {
        let pod = pods.get("pod-init").await?;
        is_in_order(&pod)?;
        let [first, second] = inits(&pod) else { return Ok(None) };
        is(&second["state"]["waiting"]["reason"], "PodInitializing")?;
        ensure!(first["state"]["terminated"]["exitCode"] != 0, "the first failed");
        Ok((number(&first["restartCount"]) >= 3).then_some(pod))
    });
    let failed = failed.await?;
    is(&phase(&failed).into(), "Pending")?;
    let initialized = condition(&failed, "Initialized").cloned().unwrap_or_default();
    is(&initialized["status"], "False")?;
    is(&initialized["reason"], "ContainersNotInitialized")?;
    is(&initialized["message"], "containers with incomplete status: [init1 init2]")
}

async fn never_failing(context: &Context) -> Result<()> {
    let mut main = container("run1", BUSYBOX, &[]);
    main["resources"] = json!({"limits": {"cpu": "100m"}});
    // Upstream lets the second fail, after the first was well.
    let mut pod = pod(0, "Never", main);
    pod["spec"]["initContainers"][1]["args"] = json!(["exit=1"]);
    let failed = reaches(context, &pod, "Failed").await?;
    let initialized = condition(&failed, "Initialized").cloned().unwrap_or_default();
    is(&initialized["status"], "False")?;
    is(&initialized["reason"], "ContainersNotInitialized")?;
    is(&initialized["message"], "containers with incomplete status: [init2]")?;
    counts(inits(&failed), 2)?;
    holds(failed["status"]["containerStatuses"][0]["state"]["waiting"].is_object(), "run1 waits")
}

async fn output_is_logged(context: &Context) -> Result<()> {
    let mut pod = json!({"metadata": {"name": "busybox-scheduling"},
        "spec": {"restartPolicy": "Never"}});
    pod["spec"]["containers"] =
        json!([container("main", BUSYBOX, &["Hello World", "sleep=240000"])]);
    run(&context.own("v1/pods"), &pod).await?;
    eventually("its output", async || {
        let told = log(context, "busybox-scheduling", "sinceTime=2020-01-01T00:00:00Z").await?;
        Ok(told.contains("sleep=").then_some(told))
    })
    .await
    .and_then(|told| has_lines(&told, &["arg[1]=Hello World"]))
}

/// A pod whose only container fails.
async fn failing(context: &Context) -> Result<()> {
    let mut pod = json!({"metadata": {"name": "bin-false"}, "spec": {"restartPolicy": "Never"}});
    pod["spec"]["containers"] = json!([container("main", BUSYBOX, &["exit=1"])]);
    context.own("v1/pods").create(&pod).await.map(drop)
}

async fn failure_has_reason(context: &Context) -> Result<()> {
    failing(context).await?;
    let ended = |pod: &Value| {
        let terminated = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
        number(&terminated["exitCode"]) != 0
            && terminated["reason"].as_str().is_some_and(|r| !r.is_empty())
    };
    let pod = becomes(&context.own("v1/pods"), "bin-false", "terminated", ended).await?;
    counts(pod["status"]["containerStatuses"].as_array().map_or(&[], Vec::as_slice), 1)
}

async fn failure_is_deleted(context: &Context) -> Result<()> {
    failing(context).await?;
    context.own("v1/pods").delete("bin-false").await.map(drop)
}

/// A Wasm container has no root filesystem at all: what is not mounted is not there.
async fn root_is_not_written(context: &Context) -> Result<()> {
    let mut main = container("main", BUSYBOX, &["write=/file"]);
    main["securityContext"] = json!({"readOnlyRootFilesystem": true});
    let pod = json!({"metadata": {"name": "busybox-readonly-fs"},
        "spec": {"restartPolicy": "Never", "containers": [main]}});
    let pods = context.own("v1/pods");
    pods.create(&pod).await?;
    becomes(&pods, "busybox-readonly-fs", "failed", |pod| phase(pod) == "Failed").await?;
    let told = log(context, "busybox-readonly-fs", "").await?;
    ensure!(told.contains("writes: "), "the write is what failed: {told}");
    holds(!serves(&pods.get("busybox-readonly-fs").await?), "it does not run")
}

/// Upstream reads /etc/hosts; here programs ask for names, and are answered.
async fn aliases(context: &Context) -> Result<()> {
    let container = container("aliases", NET, &["lookup=foo", "lookup=bar"]);
    let alias = json!({"ip": "123.45.67.89", "hostnames": ["foo", "bar"]});
    let pod = json!({"metadata": {"name": "aliases"}, "spec": {"restartPolicy": "Never",
        "hostAliases": [alias], "containers": [container]}});
    let told = output(context, &pod).await?;
    has_lines(&told, &["lookup=foo: ok 123.45.67.89", "lookup=bar: ok 123.45.67.89"])
}
