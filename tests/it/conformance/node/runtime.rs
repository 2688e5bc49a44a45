//! `common/node/runtime.go`.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::conformance::checks::is;
use crate::conformance::context::eventually_within;
use crate::conformance::operations::gone;
use crate::conformance::workloads::{THRICE, WORDS, becomes, is_true, number, phase};
use crate::conformance::{Case, Context, case};

pub const CASES: &[Case] = &[
    case!(
        "Container Runtime blackbox test when starting a container that exits should run with the \
         expected status",
        exits
    ),
    case!(
        "Container Runtime blackbox test on terminated container should report termination message \
         if TerminationMessagePath is set as non-root user and at a non-default path",
        message_elsewhere
    ),
    case!(
        "Container Runtime blackbox test on terminated container should report termination message \
         from log output if TerminationMessagePolicy FallbackToLogsOnError is set",
        message_from_log
    ),
    case!(
        "Container Runtime blackbox test on terminated container should report termination message \
         as empty when pod succeeds and TerminationMessagePolicy FallbackToLogsOnError is set",
        message_of_success
    ),
    case!(
        "Container Runtime blackbox test on terminated container should report termination message \
         from file when pod succeeds and TerminationMessagePolicy FallbackToLogsOnError is set",
        message_from_file
    ),
];

/// What a container that fails, succeeds, and then stays comes to, by the pod's restart policy.
async fn exits(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    for (name, policy, last_phase, state, restarts, ready) in [
        ("terminate-cmd-rpa", "Always", "Running", "running", 2, true),
        ("terminate-cmd-rpof", "OnFailure", "Succeeded", "terminated", 1, false),
        ("terminate-cmd-rpn", "Never", "Failed", "terminated", 0, false),
    ] {
        let container = json!({"name": name, "image": THRICE,
            "volumeMounts": [{"name": "restart-count", "mountPath": "/restart-count"}]});
        let volume = json!({"name": "restart-count", "emptyDir": {"medium": "Memory"}});
        let pod = json!({"metadata": {"name": name}, "spec": {"restartPolicy": policy,
            "terminationGracePeriodSeconds": 0, "containers": [container], "volumes": [volume]}});
        pods.create(&pod).await?;
        let status = |pod: &Value| pod["status"]["containerStatuses"][0].clone();
        // Two back-offs of 10 and 20 seconds are among them.
        let what = format!("{restarts} restarts of {name}, {last_phase}");
        let found = eventually_within(Duration::from_secs(120), &what, async || {
            let pod = pods.get(name).await?;
            let is_there = number(&status(&pod)["restartCount"]) == restarts
                && phase(&pod) == last_phase
                && is_true(&pod, "Ready") == ready;
            Ok(is_there.then_some(pod))
        });
        let found = found.await?;
        is(&status(&found)["state"][state].is_object().into(), true)?;
        pods.delete(name).await?;
        gone(&pods, name).await?;
    }
    Ok(())
}

/// A container that leaves words comes to this phase with this message.
async fn message_is(
    context: &Context,
    args: &[&str],
    fields: Value,
    last_phase: &str,
    message: Value,
) -> Result<()> {
    let pods = context.own("v1/pods");
    let mut container = fields;
    container["name"] = "termination-message-container".into();
    container["image"] = WORDS.into();
    container["args"] = json!(args);
    let pod = json!({"metadata": {"name": "words"},
        "spec": {"restartPolicy": "Never", "containers": [container]}});
    pods.create(&pod).await?;
    let ended = |pod: &Value| phase(pod) == last_phase;
    let pod = becomes(&pods, "words", last_phase, ended).await?;
    let state = &pod["status"]["containerStatuses"][0]["state"];
    is(&state["terminated"].is_object().into(), true)?;
    is(&state["terminated"]["message"], message)?;
    pods.delete("words").await?;
    Ok(())
}

fn falling_back() -> Value {
    json!({"terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError"})
}

async fn message_elsewhere(context: &Context) -> Result<()> {
    let fields = json!({"terminationMessagePath": "/dev/termination-custom-log",
        "securityContext": {"runAsUser": 10000}});
    let args = ["0", "termination-custom-log", "DONE"];
    message_is(context, &args, fields, "Succeeded", "DONE".into()).await
}

async fn message_from_log(context: &Context) -> Result<()> {
    message_is(context, &["1", "-", "DONE"], falling_back(), "Failed", "DONE".into()).await
}

async fn message_of_success(context: &Context) -> Result<()> {
    message_is(context, &["0", "-", "DONE"], falling_back(), "Succeeded", Value::Null).await
}

async fn message_from_file(context: &Context) -> Result<()> {
    let args = ["0", "termination-log", "OK", "-", "DONE\n"];
    message_is(context, &args, falling_back(), "Succeeded", "OK".into()).await
}
