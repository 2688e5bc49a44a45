//! Which pods a node takes, and what it tells of the others.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use wasmfleet::client::{Patch, Target, WriteOptions};
use wasmfleet::runtime::fake::{FakeEnd, Script};

use super::harness::{Rig, summary};

const RUNS: &str = "Running ready web:running/0";

fn asks(requests: Value) -> Value {
    let resources = json!({"requests": requests, "limits": requests});
    json!({"restartPolicy": "Never",
        "containers": [{"name": "web", "image": "hello:v1", "resources": resources}]})
}

fn message(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.message.as_deref()).unwrap()
}

/// Writes the Node's status as anybody may who is allowed to, and waits until that shows.
async fn tell_status(rig: &Rig, status: Value) {
    let target = Target::one::<Node>("", "n1").subresource("status");
    let patch = Patch::Merge(json!({ "status": status }));
    let told = rig.api.patch(&target, patch, &WriteOptions::default()).await.unwrap();
    let told: Node = told.decode().unwrap();
    // Or what the node answered to it.
    let revision =
        |node: &Node| -> Option<u64> { node.metadata.resource_version.as_ref()?.parse().ok() };
    rig.until(|view| {
        let node = view.get::<Node>("", "n1")?;
        (revision(node) >= revision(&told)).then_some(())
    })
    .await;
}

fn allocatable(node: &Node, resource: &str) -> Option<String> {
    let amounts = node.status.as_ref()?.allocatable.as_ref()?;
    Some(amounts.get(resource)?.0.clone())
}

async fn shows(rig: &Rig, resource: &str, amount: &str) {
    rig.until(|view| {
        let node = view.get::<Node>("", "n1")?;
        (allocatable(node, resource).as_deref() == Some(amount)).then_some(())
    })
    .await;
}

async fn patch_node(rig: &Rig, patch: Value) {
    rig.client.patch::<Node>("", "n1", Patch::Merge(patch)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_fails_as_a_kubelet_says_it() {
    let rig = Rig::start().await;
    rig.create("big", asks(json!({"cpu": "5"}))).await;
    let pod = rig.pod_is("big", "Failed (OutOfcpu) unready").await;
    let wanted = "Pod was rejected: Node didn't have enough resource: cpu, requested: 5000, used: 0, \
                  capacity: 2000";
    assert_eq!(message(&pod), wanted);
    assert!(rig.has_told("OutOfcpu"));
    rig.create("a", asks(json!({"cpu": "1500m"}))).await;
    rig.pod_is("a", RUNS).await;
    rig.create("b", asks(json!({"cpu": "600m"}))).await;
    let pod = rig.pod_is("b", "Failed (OutOfcpu) unready").await;
    assert!(message(&pod).ends_with("requested: 600, used: 1500, capacity: 2000"));
    // Gone for the API at once, whatever still ends here.
    rig.delete("a", Some(0)).await;
    rig.create("c", asks(json!({"cpu": "2"}))).await;
    rig.pod_is("c", RUNS).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_told_to_have_ended_takes_nothing() {
    let rig = Rig::start().await;
    rig.runtime.script_default(Script::ends(Duration::from_secs(1), FakeEnd::Exit(0)));
    for round in 0..5 {
        let name = format!("job-{round}");
        rig.create(&name, asks(json!({"cpu": "2"}))).await;
        rig.pod_is(&name, "Succeeded unready web:Completed=0/0").await;
    }
}

#[tokio::test(start_paused = true)]
async fn labels_and_taints_of_the_node_decide_once() {
    let rig = Rig::start().await;
    let picky = || json!({"nodeSelector": {"x": "y"}, "containers": [{"name": "web", "image": "hello:v1"}]});
    rig.create("a", picky()).await;
    let pod = rig.pod_is("a", "Failed (NodeAffinity) unready").await;
    let wanted = "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node \
                  affinity/selector";
    assert_eq!(message(&pod), wanted);
    // Who bound the pod may know of the label before the node does.
    patch_node(&rig, json!({"metadata": {"labels": {"x": "y"}}})).await;
    rig.create("b", picky()).await;
    rig.pod_is("b", RUNS).await;
    let taints = json!([{"key": "k", "effect": "NoExecute"}]);
    patch_node(&rig, json!({"metadata": {"labels": {"x": null}}, "spec": {"taints": taints}}))
        .await;
    // The node has seen it once it answers to what was written after it.
    tell_status(&rig, json!({"allocatable": {"cpu": "100"}})).await;
    shows(&rig, "cpu", "2").await;
    rig.create("c", json!({"containers": [{"name": "web", "image": "hello:v1"}]})).await;
    rig.pod_is("c", "Failed (TaintToleration) unready").await;
    assert_eq!(summary(&*rig.pod("b", |_| true).await), RUNS, "it was taken before");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_starts_again_refuses_new_pods_only() {
    let mut rig = Rig::start().await;
    let mut spec = asks(json!({"cpu": "1500m"}));
    spec["restartPolicy"] = "Always".into();
    spec["nodeSelector"] = json!({"x": "y"});
    patch_node(&rig, json!({"metadata": {"labels": {"x": "y"}}})).await;
    rig.create("old", spec).await;
    rig.pod_is("old", RUNS).await;
    rig.stop_agent().await;
    patch_node(&rig, json!({"metadata": {"labels": {"x": null}}})).await;
    for name in ["a-new", "new", "z-new"] {
        rig.create(name, asks(json!({"cpu": "1"}))).await;
    }
    rig.start_agent();
    rig.pod_is("old", "Running ready web:running/1").await;
    for name in ["a-new", "new", "z-new"] {
        rig.pod_is(name, "Failed (OutOfcpu) unready").await;
    }
}

#[tokio::test(start_paused = true)]
async fn resources_that_an_administrator_adds_are_kept_and_counted() {
    let mut rig = Rig::start().await;
    tell_status(&rig, json!({"capacity": {"example.com/dongle": "4"}})).await;
    shows(&rig, "example.com/dongle", "4").await;
    rig.create("a", asks(json!({"example.com/dongle": "3"}))).await;
    rig.pod_is("a", RUNS).await;
    rig.create("b", asks(json!({"example.com/dongle": "2"}))).await;
    rig.pod_is("b", "Failed (OutOfexample.com/dongle) unready").await;
    // What the node has itself is not for others to tell.
    let began = rig.clock.now();
    tell_status(&rig, json!({"allocatable": {"cpu": "100"}, "capacity": {"memory": "1"}})).await;
    shows(&rig, "cpu", "2").await;
    let took = rig.clock.now().duration_since(began).as_secs();
    assert!(took <= 5, "{took} s");
    rig.restart_agent().await;
    rig.pod_is("a", "Failed unready web:ContainerStatusUnknown=137/0").await;
    rig.create("c", asks(json!({"example.com/dongle": "4"}))).await;
    rig.pod_is("c", RUNS).await;
    // Nothing is written for its own sake.
    let revision = || async {
        let node = rig.client.get::<Node>("", "n1").await.unwrap();
        assert_eq!(allocatable(&node, "example.com/dongle").as_deref(), Some("4"));
        node.metadata.resource_version
    };
    rig.clock.sleep(Duration::from_secs(5)).await;
    let before = revision().await;
    rig.clock.sleep(Duration::from_secs(100)).await;
    assert_eq!(revision().await, before);
}
