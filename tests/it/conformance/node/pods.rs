//! `common/node/pods.go`.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::conformance::checks::{counts, holds, is, is_refused, label, name};
use crate::conformance::operations::gone;
use crate::conformance::workloads::{
    AGNHOST, BUSYBOX, HTTPD, PAUSE, are_ready, becomes, is_ending, is_running, is_true,
    list_version, phase, pod, run, serves, shows,
};
use crate::conformance::{Case, Context, Patch, case, eventually};

pub const CASES: &[Case] = &[
    case!("Pods should allow activeDeadlineSeconds to be updated", deadline),
    case!("Pods should be submitted and removed", removal),
    case!("Pods should be updated", update),
    case!("Pods should delete a collection of pods", collection),
    case!("Pods should get a host IP", host_ip),
    case!("Pods should patch a pod status", status),
    case!("Pods should run through the lifecycle of Pods and PodStatus", life),
    case!(
        "Pods should support retrieving logs from the container over websockets",
        logs_over_websockets
    ),
];

async fn host_ip(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    run(&pods, &pod("pod-hostip", json!({}), PAUSE)).await?;
    let has_ip = |pod: &Value| pod["status"]["hostIP"].is_string();
    let status = becomes(&pods, "pod-hostip", "with a host IP", has_ip).await?["status"].take();
    let ip = status["hostIP"].as_str().unwrap_or_default();
    ensure!(ip.parse::<IpAddr>().is_ok(), "no address: {ip}");
    is(&status["hostIPs"][0]["ip"], ip)
}

async fn removal(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    let time = context.unique("time");
    let selector = format!("time={time}");
    counts(&pods.items_labelled(&selector).await?, 0)?;
    let mut watch = pods.watch_labelled(&selector).await?;
    let labels = json!({"name": "foo", "time": time});
    pods.create(&pod("pod-submit-remove", labels, PAUSE)).await?;
    counts(&pods.items_labelled(&selector).await?, 1)?;
    watch.expect("ADDED").await?;
    is_running(&pods, "pod-submit-remove").await?;
    pods.delete_with("pod-submit-remove", &json!({"gracePeriodSeconds": 30})).await?;
    let last = watch.until("DELETED", |_| true).await?;
    holds(is_ending(&last), "the deletion's time is told")?;
    holds(!last["spec"]["terminationGracePeriodSeconds"].is_null(), "and its grace")?;
    counts(&pods.items_labelled(&selector).await?, 0)
}

/// A pod that runs, with a label of its own.
async fn labelled(context: &Context, name: &str) -> Result<String> {
    let pods = context.own("v1/pods");
    let time = context.unique("time");
    run(&pods, &pod(name, json!({"name": "foo", "time": time}), PAUSE)).await?;
    counts(&pods.items_labelled(&format!("time={time}")).await?, 1)?;
    Ok(time)
}

async fn update(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    labelled(context, "pod-update").await?;
    let time = context.unique("time");
    pods.update("pod-update", |pod| pod["metadata"]["labels"]["time"] = time.as_str().into())
        .await?;
    is_running(&pods, "pod-update").await?;
    counts(&pods.items_labelled(&format!("time={time}")).await?, 1)
}

async fn deadline(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    labelled(context, "pod-deadline").await?;
    pods.update("pod-deadline", |pod| pod["spec"]["activeDeadlineSeconds"] = 5.into()).await?;
    let has_ended = |pod: &Value| ["Failed", "Succeeded"].contains(&phase(pod));
    let ended = becomes(&pods, "pod-deadline", "ended", has_ended).await?;
    is(&phase(&ended).into(), "Failed")?;
    is(&ended["status"]["reason"], "DeadlineExceeded")
}

async fn collection(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    for number in 1..=3 {
        let name = format!("test-pod-{number}");
        let mut pod = pod(&name, json!({"type": "Testing"}), AGNHOST);
        pod["spec"]["terminationGracePeriodSeconds"] = 1.into();
        pod["spec"]["restartPolicy"] = "Never".into();
        pods.create(&pod).await?;
    }
    are_ready(&pods, "", 3).await?;
    let query = [("labelSelector", "type=Testing")];
    pods.delete_collection_with(&query, &json!({"gracePeriodSeconds": 1})).await?;
    eventually("the end of all pods", async || {
        Ok(pods.items_labelled("type=Testing").await?.is_empty().then_some(()))
    })
    .await
}

async fn status(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    let mut pod = pod("pod-status", json!({"e2e": "pod-status"}), AGNHOST);
    pod["spec"]["terminationGracePeriodSeconds"] = 1.into();
    pods.create(&pod).await?;
    is_running(&pods, "pod-status").await?;
    let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}},
        "status": {"message": "Patched by e2e test", "reason": "E2E"}});
    let patched = pods.patch("pod-status/status", Patch::Merge, &patch).await?;
    is(&patched["status"]["message"], "Patched by e2e test")?;
    is(&patched["status"]["reason"], "E2E")
}

async fn life(context: &Context) -> Result<()> {
    let (pods, selector) = (context.own("v1/pods"), "test-pod-static=true");
    let before = context.all("v1/pods").list(&[("labelSelector", selector)]).await?;
    let mut wanted = pod("pod-test", json!({"test-pod-static": "true"}), AGNHOST);
    wanted["spec"]["terminationGracePeriodSeconds"] = 1.into();
    pods.create(&wanted).await?;
    let is_it = |pod: &Value| name(pod) == "pod-test" && label(pod, "test-pod-static") == "true";
    let query = [("labelSelector", selector), ("resourceVersion", list_version(&before))];
    shows(&pods, &query, |event| is_it(&event.object) && phase(&event.object) == "Running").await?;
    let read = pods.get("pod-test").await?;
    is(&phase(&read).into(), "Running")?;

    let patch = json!({"metadata": {"labels": {"test-pod": "patched"}}, "spec": {
        "terminationGracePeriodSeconds": 1, "containers": [{"name": "main", "image": HTTPD}]}});
    pods.patch("pod-test", Patch::Strategic, &patch).await?;
    let query = [("labelSelector", selector), ("resourceVersion", list_version(&read))];
    shows(&pods, &query, |event| event.kind == "MODIFIED" && is_it(&event.object)).await?;
    let read = pods.get("pod-test").await?;
    is(label(&read, "test-pod"), "patched")?;
    is(&read["spec"]["containers"][0]["image"], HTTPD)?;

    // The new image is started, after which nothing else changes the conditions.
    let runs_new = |pod: &Value| {
        serves(pod) && pod["status"]["containerStatuses"][0]["image"].as_str().is_some_and(is_httpd)
    };
    becomes(&pods, "pod-test", "running the new image", runs_new).await?;
    let ready = ["Ready", "ContainersReady"];
    let mut changed = 0;
    let updated = pods.update("pod-test/status", |pod| {
        changed = 0;
        for condition in pod["status"]["conditions"].as_array_mut().into_iter().flatten() {
            let kind = condition["type"].as_str().unwrap_or_default();
            if ready.contains(&kind) && condition["status"] == "True" {
                condition["status"] = "False".into();
                changed += 1;
            }
        }
    });
    let updated = updated.await?;
    holds(changed == 2, "both conditions were true")?;
    let is_false = |kind: &&str| {
        let condition = crate::conformance::workloads::condition(&updated, kind);
        condition.is_some_and(|condition| condition["status"] == "False")
    };
    holds(ready.iter().all(is_false) && !is_true(&updated, "Ready"), "both are false")?;

    let options = json!({"gracePeriodSeconds": 1});
    pods.delete_collection_with(&[("labelSelector", selector)], &options).await?;
    let query = [("labelSelector", selector), ("resourceVersion", list_version(&updated))];
    let ended = shows(&pods, &query, |event| event.kind == "DELETED" && is_it(&event.object));
    tokio::time::timeout(Duration::from_secs(60), ended).await.context("the deletion")??;
    is_refused(pods.get("pod-test").await, &[404])?;
    gone(&pods, "pod-test").await
}

fn is_httpd(image: &str) -> bool {
    image.ends_with(HTTPD)
}

async fn logs_over_websockets(context: &Context) -> Result<()> {
    let mut pod = pod("pod-logs-websocket", json!({}), BUSYBOX);
    pod["spec"]["containers"][0]["args"] = json!(["container is alive", "sleep=10000000"]);
    run(&context.own("v1/pods"), &pod).await?;
    let namespace = &context.namespace;
    let path = format!("/api/v1/namespaces/{namespace}/pods/pod-logs-websocket/log?container=main");
    // Its output may be on its way yet.
    eventually("the output", async || {
        let mut socket = context.client.websocket(&path, "binary.k8s.io").await?;
        let mut told = Vec::new();
        while let Some(message) = socket.next().await {
            if let Message::Binary(bytes) = message? {
                told.extend_from_slice(&bytes);
            }
        }
        let told = String::from_utf8_lossy(&told).into_owned();
        Ok(told.contains("arg[1]=container is alive\n").then_some(()))
    })
    .await
}
