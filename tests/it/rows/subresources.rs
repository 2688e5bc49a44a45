//! Every subresource of every resource, as far as it is no stream.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::Served;
use super::verbs::{answered, patch};
use crate::api::Cluster;

/// These have tests of their own, with nodes.
const STREAMS: &[&str] = &["attach", "coredump", "exec", "log", "portforward", "profile", "proxy"];

/// `own` is the path of an object that is there.
pub(super) async fn exercise(
    cluster: &Cluster,
    served: &Served,
    own: &str,
    part: &str,
) -> Result<()> {
    let verbs = &served.parts[part];
    let path = format!("{own}/{part}");
    let created = async |body: Value| {
        ensure!(*verbs == ["create"], "verbs {verbs:?}");
        answered(cluster.post(&format!("{path}?dryRun=All"), &body).await, 201)
    };
    match part {
        // The same object, of which another part is written.
        "status" | "approval" | "ephemeralcontainers" | "resize" => {
            ensure!(*verbs == ["get", "patch", "update"], "verbs {verbs:?}");
            let object = answered(cluster.get(&path).await, 200).context("get")?;
            ensure!(object["kind"] == served.kind, "a {}", object["kind"]);
            let same = answered(cluster.put(&path, &object).await, 200).context("update")?;
            ensure!(same == object, "an update without a change changes {object}\nto {same}");
            let annotated = json!({"metadata": {"annotations": { part: "1" }}});
            let changed = patch(cluster, &path, "merge-patch+json", &annotated).await;
            answered(changed, 200).context("patch")?;
            answered(cluster.delete(&path, &json!({})).await, 405).map(drop)
        }
        "scale" => {
            ensure!(*verbs == ["get", "patch", "update"], "verbs {verbs:?}");
            let scale = answered(cluster.get(&path).await, 200).context("get")?;
            let kind = (&scale["apiVersion"], &scale["kind"]);
            ensure!(kind == (&json!("autoscaling/v1"), &json!("Scale")), "{scale}");
            let more = json!({"spec": {"replicas": 2}});
            answered(patch(cluster, &path, "merge-patch+json", &more).await, 200)?;
            let mut scale = answered(cluster.get(&path).await, 200)?;
            ensure!(scale["spec"]["replicas"] == 2, "{scale}");
            scale["spec"]["replicas"] = json!(3);
            answered(cluster.put(&path, &scale).await, 200).context("update")?;
            let object = answered(cluster.get(own).await, 200)?;
            ensure!(object["spec"]["replicas"] == 3, "scaled: {}", object["spec"]);
            let below = json!({"spec": {"replicas": -1}});
            answered(patch(cluster, &path, "merge-patch+json", &below).await, 422).map(drop)
        }
        "token" => created(json!({"spec": {"audiences": ["a"]}})).await.map(drop),
        "binding" => created(json!({"target": {"kind": "Node", "name": "row"}})).await.map(drop),
        "eviction" => created(json!({"metadata": {"name": "row"}})).await.map(drop),
        "finalize" => {
            ensure!(*verbs == ["update"], "verbs {verbs:?}");
            let object = answered(cluster.get(own).await, 200)?;
            answered(cluster.put(&path, &object).await, 200).map(drop)
        }
        // Nobody schedules here.
        "why" => answered(cluster.get(&path).await, 503).map(drop),
        stream if STREAMS.contains(&stream) => Ok(()),
        _ => bail!("no test of the subresource"),
    }
}
