//! `apps/rc.go` and `apps/replica_set.go`: each replica answers with its own name.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::conformance::checks::name;
use crate::conformance::workloads::{REPLICA_SETS, SERVER, are_running};
use crate::conformance::{Case, Context, case, eventually};

pub const CASES: &[Case] = &[
    case!("ReplicaSet should serve a basic image on each replica with a public image", set),
    case!(
        "ReplicationController should serve a basic image on each replica with a public image",
        controller
    ),
];

const REPLICAS: usize = 2;

fn template() -> Value {
    let who = json!({"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}});
    let container = json!({"name": "serve", "image": SERVER, "args": ["port=9376"],
        "env": [who], "ports": [{"containerPort": 9376}]});
    json!({"metadata": {"labels": {"name": "my-hostname"}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}})
}

async fn answers(context: &Context) -> Result<()> {
    let pods = are_running(&context.own("v1/pods"), "name=my-hostname", REPLICAS).await?;
    for pod in pods {
        let path = format!("/api/v1/namespaces/{}/pods/{}/proxy/", context.namespace, name(&pod));
        let answer = eventually("an answer", async || {
            let answer = context.client.send("GET", &path, &[], Vec::new()).await?;
            Ok((answer.code == 200).then(|| answer.text()))
        });
        let answer = answer.await?;
        ensure!(answer == name(&pod), "{} answers {answer:?}", name(&pod));
    }
    Ok(())
}

async fn set(context: &Context) -> Result<()> {
    let selector = json!({"matchLabels": {"name": "my-hostname"}});
    let set = json!({"metadata": {"name": "my-hostname"},
        "spec": {"replicas": REPLICAS, "selector": selector, "template": template()}});
    context.own(REPLICA_SETS).create(&set).await?;
    answers(context).await
}

async fn controller(context: &Context) -> Result<()> {
    let controller = json!({"metadata": {"name": "my-hostname"},
        "spec": {"replicas": REPLICAS, "template": template()}});
    context.own("v1/replicationcontrollers").create(&controller).await?;
    answers(context).await
}
