//! `node/pods.go`, of generations.

use anyhow::Result;
use serde_json::{Value, json};

use crate::conformance::checks::is;
use crate::conformance::workloads::{
    AGNHOST, BUSYBOX, HTTPD, PAUSE, becomes, is_ending, is_running, number, pod, run,
};
use crate::conformance::{Case, Collection, Context, case};

pub const CASES: &[Case] = &[
    case!(
        "Pods Extended (pod generation) Pod Generation custom-set generation on new pods and \
         graceful delete",
        deletion
    ),
    case!(
        "Pods Extended (pod generation) Pod Generation issue 500 podspec updates and verify \
         generation and observedGeneration eventually converge [MinimumKubeletVersion:1.34]",
        many
    ),
    case!(
        "Pods Extended (pod generation) Pod Generation pod generation should start at 1 and \
         increment per update [MinimumKubeletVersion:1.34]",
        updates
    ),
];

async fn is_observed(pods: &Collection, name: &str, generation: i64) -> Result<Value> {
    let what = format!("observed at generation {generation}");
    becomes(pods, name, &what, |pod| number(&pod["status"]["observedGeneration"]) == generation)
        .await
}

async fn updates(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    let mut wanted = pod("pod-generation", json!({}), AGNHOST);
    wanted["spec"]["initContainers"] = json!([{"name": "init-container", "image": BUSYBOX}]);
    is(&run(&pods, &wanted).await?["metadata"]["generation"], 1)?;
    let toleration = json!([{"key": "foo-1", "operator": "Equal", "value": "bar",
        "effect": "NoSchedule"}]);
    let changes: [(&str, Value, i64); 7] = [
        ("", Value::Null, 0),
        ("/spec/tolerations", toleration, 1),
        ("/spec/activeDeadlineSeconds", 5000.into(), 1),
        ("/spec/containers/0/image", HTTPD.into(), 1),
        ("/spec/initContainers/0/image", PAUSE.into(), 1),
        ("/metadata/annotations", json!({"key": "value"}), 0),
        ("/metadata/generation", 1.into(), 0),
    ];
    let mut generation = 1;
    for (pointer, value, more) in changes {
        pods.update("pod-generation", |pod| {
            let Some((parent, field)) = pointer.rsplit_once('/') else { return };
            let parent = pod.pointer_mut(parent).expect("a parent");
            parent[field] = value.clone();
        })
        .await?;
        generation += more;
        let read = pods.get("pod-generation").await?;
        is(&read["metadata"]["generation"], generation)?;
        is_observed(&pods, "pod-generation", generation).await?;
    }
    Ok(())
}

async fn deletion(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    let mut wanted = pod("pod-generation", json!({"time": "now"}), AGNHOST);
    wanted["metadata"]["generation"] = 100.into();
    is(&run(&pods, &wanted).await?["metadata"]["generation"], 1)?;
    is_running(&pods, "pod-generation").await?;
    let mut watch = pods.watch_labelled("time=now").await?;
    let path = format!("{}/pod-generation?gracePeriodSeconds=60", pods.path);
    let answer = context.client.send("DELETE", &path, &[], Vec::new()).await?;
    is(&answer.code.into(), 200)?;
    is(&answer.json()?["metadata"]["generation"], 2)?;
    // Upstream reads the pod, which may be gone by then.
    is(&watch.until("MODIFIED", is_ending).await?["metadata"]["generation"], 2)
}

async fn many(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    let mut wanted = pod("pod-generation", json!({"time": "now"}), AGNHOST);
    wanted["spec"]["activeDeadlineSeconds"] = 5000.into();
    run(&pods, &wanted).await?;
    for _ in 0..499 {
        pods.update("pod-generation", |pod| {
            let deadline = &mut pod["spec"]["activeDeadlineSeconds"];
            *deadline = (number(deadline) - 1).into();
        })
        .await?;
    }
    let read = is_observed(&pods, "pod-generation", 500).await?;
    is(&read["metadata"]["generation"], 500)
}
