//! `apps/statefulset.go`, of pods that become unready and ready again. Upstream moves the file away
//! that the probe asks for; our server is asked to answer that it is not there. Where upstream waits
//! for seconds that nothing is scaled, here another StatefulSet, made later, is.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::stateful_sets::{REVISION, SELECTOR, SETS, are_ready, service, stateful_set};
use crate::conformance::checks::{counts, is, label, name};
use crate::conformance::workloads::{
    PAUSE, SERVER, SERVER_NEW, becomes, is_observed, is_true, number, phase,
};
use crate::conformance::{Case, Context, Watch, case, eventually};

pub const CASES: &[Case] = &[
    case!(
        "StatefulSet Basic StatefulSet functionality Scaling should happen in predictable order and \
         halt if any stateful pod is unhealthy [Slow]",
        in_order
    ),
    case!(
        "StatefulSet Basic StatefulSet functionality Burst scaling should run to completion even \
         with unhealthy pods [Slow]",
        at_once
    ),
    case!(
        "StatefulSet Basic StatefulSet functionality should perform rolling updates and roll backs \
         of template modifications",
        updates
    ),
];

/// Of servers whose readiness can be taken away.
fn probed(name: &str, replicas: u32) -> Value {
    let mut set = stateful_set(name, replicas);
    let spec = &mut set["spec"]["template"]["spec"];
    spec["terminationGracePeriodSeconds"] = 0.into();
    spec["containers"][0] = json!({"name": "webserver", "image": SERVER,
        "ports": [{"containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/index.html", "port": 8080}, "periodSeconds": 1,
            "successThreshold": 1, "failureThreshold": 1}});
    set
}

/// `break` or `mend` of a pod.
async fn tell(context: &Context, pod: &str, word: &str) -> Result<()> {
    let path = format!("/api/v1/namespaces/{}/pods/{pod}/proxy/{word}", context.namespace);
    context.client.send("GET", &path, &[], Vec::new()).await?.ok().map(drop)
}

async fn tell_all(context: &Context, word: &str) -> Result<()> {
    for pod in context.own("v1/pods").items_labelled(SELECTOR).await? {
        tell(context, name(&pod), word).await?;
    }
    Ok(())
}

async fn resize(context: &Context, set: &str, replicas: u32) -> Result<()> {
    let change = |set: &mut Value| set["spec"]["replicas"] = replicas.into();
    context.own(SETS).update(set, change).await.map(drop)
}

async fn has_ready(context: &Context, set: &str, count: i64) -> Result<()> {
    let has = |set: &Value| is_observed(set) && number(&set["status"]["readyReplicas"]) == count;
    becomes(&context.own(SETS), set, &format!("with {count} ready"), has).await.map(drop)
}

/// Its pods run and are not ready.
async fn are_unready(context: &Context, count: usize) -> Result<()> {
    eventually(&format!("{count} pods that are not ready"), async || {
        let pods = context.own("v1/pods").items_labelled(SELECTOR).await?;
        let unready = |pod: &Value| phase(pod) == "Running" && !is_true(pod, "Ready");
        Ok((pods.len() == count && pods.iter().all(unready)).then_some(()))
    })
    .await
}

/// A StatefulSet that came later has its pod, so whatever was due before is done.
async fn something_later_is_scaled(context: &Context) -> Result<()> {
    let labels = json!({"later": "yes"});
    let mut set = stateful_set("later", 1);
    set["spec"]["selector"]["matchLabels"] = labels.clone();
    set["spec"]["template"]["metadata"]["labels"] = labels;
    set["spec"]["template"]["spec"]["containers"][0]["image"] = PAUSE.into();
    context.own(SETS).create(&set).await?;
    has_ready(context, "later", 1).await?;
    context.own(SETS).delete("later").await.map(drop)
}

/// The set's pods of these ordinals are told so, in this order.
async fn events_are(watch: &mut Watch, kind: &str, ordinals: [u32; 3]) -> Result<()> {
    for ordinal in ordinals {
        let pod = watch.until(kind, |_| true).await?;
        is(&name(&pod).into(), format!("ss-{ordinal}"))?;
    }
    Ok(())
}

async fn in_order(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    service(context).await?;
    let mut watch = pods.watch_labelled(SELECTOR).await?;
    context.own(SETS).create(&probed("ss", 1)).await?;
    are_ready(context, 1).await?;
    tell_all(context, "break").await?;
    has_ready(context, "ss", 0).await?;
    resize(context, "ss", 3).await?;
    something_later_is_scaled(context).await?;
    counts(&pods.items_labelled(SELECTOR).await?, 1)?;
    tell_all(context, "mend").await?;
    are_ready(context, 3).await?;
    events_are(&mut watch, "ADDED", [0, 1, 2]).await?;

    let mut watch = pods.watch_labelled(SELECTOR).await?;
    tell_all(context, "break").await?;
    has_ready(context, "ss", 0).await?;
    are_unready(context, 3).await?;
    resize(context, "ss", 0).await?;
    something_later_is_scaled(context).await?;
    counts(&pods.items_labelled(SELECTOR).await?, 3)?;
    tell_all(context, "mend").await?;
    are_ready(context, 0).await?;
    events_are(&mut watch, "DELETED", [2, 1, 0]).await
}

async fn at_once(context: &Context) -> Result<()> {
    service(context).await?;
    let mut set = probed("ss", 1);
    set["spec"]["podManagementPolicy"] = "Parallel".into();
    context.own(SETS).create(&set).await?;
    are_ready(context, 1).await?;
    tell_all(context, "break").await?;
    has_ready(context, "ss", 0).await?;
    resize(context, "ss", 3).await?;
    eventually("three pods", async || {
        let pods = context.own("v1/pods").items_labelled(SELECTOR).await?;
        Ok((pods.len() == 3).then_some(()))
    })
    .await?;
    tell_all(context, "mend").await?;
    are_ready(context, 3).await?;
    tell_all(context, "break").await?;
    has_ready(context, "ss", 0).await?;
    are_unready(context, 3).await?;
    resize(context, "ss", 0).await?;
    are_ready(context, 0).await?;
    has_ready(context, "ss", 0).await
}

fn revision<'a>(set: &'a Value, which: &str) -> &'a str {
    set["status"][which].as_str().unwrap_or_default()
}

/// Changes the image while the middle pod is not ready: the last one is replaced first, and the
/// others once that pod is ready again. The new revision.
async fn replaced(context: &Context, image: &str, before: &str) -> Result<String> {
    let sets = context.own(SETS);
    tell(context, "ss2-1", "break").await?;
    has_ready(context, "ss2", 2).await?;
    let change = |set: &mut Value| {
        set["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
    };
    sets.update("ss2", change).await?;
    let set = becomes(&sets, "ss2", "of a new revision", |set| {
        is_observed(set) && revision(set, "updateRevision") != before
    })
    .await?;
    is(&set["status"]["currentRevision"], before)?;
    let new = revision(&set, "updateRevision").to_string();
    // As upstream waits for it; it may be replaced already.
    if label(&context.own("v1/pods").get("ss2-1").await?, REVISION) == before {
        tell(context, "ss2-1", "mend").await?;
    }
    becomes(&sets, "ss2", "all of the new revision", |set| {
        is_observed(set)
            && revision(set, "currentRevision") == new
            && number(&set["status"]["currentReplicas"]) == 3
    })
    .await?;
    let pods = are_ready(context, 3).await?;
    for pod in &pods {
        ensure!(label(pod, REVISION) == new.as_str(), "{} is of an old revision", name(pod));
        is(&pod["spec"]["containers"][0]["image"], image)?;
    }
    Ok(new)
}

async fn updates(context: &Context) -> Result<()> {
    service(context).await?;
    context.own(SETS).create(&probed("ss2", 3)).await?;
    are_ready(context, 3).await?;
    let set = becomes(&context.own(SETS), "ss2", "ready", |set| {
        is_observed(set) && number(&set["status"]["readyReplicas"]) == 3
    })
    .await?;
    let old = revision(&set, "currentRevision").to_string();
    is(&set["status"]["updateRevision"], old.as_str())?;
    for pod in are_ready(context, 3).await? {
        is(label(&pod, REVISION), old.as_str())?;
    }
    let new = replaced(context, SERVER_NEW, &old).await?;
    let back = replaced(context, SERVER, &new).await?;
    is(&back.into(), old)
}
