//! Pods with claims: where their volumes are, or can be.

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use wasmfleet::api::ObjectKey;
use wasmfleet::scheduler::cycle::{self, Decision};
use wasmfleet::scheduler::plugins::default_framework;
use wasmfleet::scheduler::pod_info::PodInfo;
use wasmfleet::scheduler::snapshot::Snapshot;

use super::{line, merge, node, pod};

/// A cluster with storage: claims, volumes and classes by kind.
fn schedule_with(nodes: &[Node], storage: &[Value], pods: Vec<Pod>) -> (Vec<Decision>, Snapshot) {
    let mut snapshot = Snapshot::default();
    for node in nodes {
        snapshot.set_node(node);
    }
    for object in storage {
        let name = object["metadata"]["name"].as_str().unwrap();
        let object = object.clone();
        match object["kind"].as_str().unwrap() {
            "StorageClass" => {
                let class = serde_json::from_value(object).unwrap();
                snapshot.volumes.set_class(name, Some(&class));
            }
            "PersistentVolume" => {
                let volume = serde_json::from_value(object).unwrap();
                snapshot.volumes.set_volume(name, Some(&volume));
            }
            _ => {
                let claim = serde_json::from_value(object).unwrap();
                snapshot.volumes.set_claim(&ObjectKey::new("n", name), Some(&claim));
            }
        }
    }
    let pods = pods.iter().map(PodInfo::of).collect();
    let decisions = cycle::schedule(pods, &mut snapshot, &default_framework());
    (decisions, snapshot)
}

fn lines_with(nodes: &[Node], storage: &[Value], pods: Vec<Pod>) -> Vec<String> {
    schedule_with(nodes, storage, pods).0.into_iter().map(line).collect()
}

fn user(name: &str, claims: &[&str]) -> Pod {
    let volumes: Vec<Value> = claims
        .iter()
        .map(|claim| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}}))
        .collect();
    pod(name, json!({"volumes": volumes}))
}

fn claim(name: &str, more: Value) -> Value {
    let mut claim = json!({"kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "n", "uid": name, "resourceVersion": "7"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "later",
            "resources": {"requests": {"storage": "1Gi"}}}, "status": {"phase": "Pending"}});
    merge(&mut claim, more);
    claim
}

fn bound(name: &str, volume: &str) -> Value {
    claim(
        name,
        json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
            "spec": {"volumeName": volume}, "status": {"phase": "Bound"}}),
    )
}

fn volume(name: &str, node: &str, more: Value) -> Value {
    let term = json!({"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]});
    let mut volume = json!({"kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "later",
            "capacity": {"storage": "2Gi"}, "local": {"path": "/d"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}},
        "status": {"phase": "Available"}});
    merge(&mut volume, more);
    volume
}

fn classes() -> [Value; 2] {
    let class = |name: &str, mode: &str| {
        json!({"kind": "StorageClass", "metadata": {"name": name},
            "provisioner": "wasmfleet.dev/local", "volumeBindingMode": mode})
    };
    [class("later", "WaitForFirstConsumer"), class("now", "Immediate")]
}

#[test]
fn a_pod_waits_for_what_its_claims_lack() {
    let nodes = [node("a", json!({})), node("b", json!({}))];
    let [later, now] = classes();
    let refusal = |storage: &[Value]| {
        let all = [&[later.clone(), now.clone()], storage].concat();
        let line = lines_with(&nodes, &all, vec![user("p", &["c"])]).remove(0);
        line.strip_prefix("p: 0/2 nodes are available: ").unwrap_or(&line).to_string()
    };
    assert_eq!(refusal(&[]), "persistentvolumeclaim \"c\" not found.");
    let immediate = claim("c", json!({"spec": {"storageClassName": "now"}}));
    assert_eq!(refusal(&[immediate]), "pod has unbound immediate PersistentVolumeClaims.");
    let named = claim("c", json!({"spec": {"volumeName": "v"}}));
    assert_eq!(refusal(&[named]), "pod has unbound immediate PersistentVolumeClaims.");
    let ending = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let ending = claim("c", ending);
    assert_eq!(refusal(&[ending]), "persistentvolumeclaim \"c\" is being deleted.");
    let lost = claim("c", json!({"spec": {"volumeName": "v"}, "status": {"phase": "Lost"}}));
    let text = "persistentvolumeclaim \"c\" bound to non-existent persistentvolume \"v\".";
    assert_eq!(refusal(&[lost]), text);
    let text = "2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s).";
    assert_eq!(refusal(&[bound("c", "v")]), text);
    let elsewhere = volume("v", "c", json!({}));
    let text = "2 node(s) didn't match PersistentVolume's node affinity.";
    assert_eq!(refusal(&[bound("c", "v"), elsewhere]), text);
    let there = volume("v", "b", json!({}));
    assert_eq!(refusal(&[bound("c", "v"), there]), "p → b");
}

#[test]
fn a_claim_gets_its_volume_with_its_pods_node() {
    let nodes = [node("a", json!({})), node("b", json!({}))];
    let [later, _] = classes();
    let none = json!({"kind": "StorageClass", "metadata": {"name": "later"},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer"});
    // The smallest that fits on some node; a second claim gets another one there, or none.
    let free = [
        volume("large", "b", json!({"spec": {"capacity": {"storage": "9Gi"}}})),
        volume("small", "b", json!({})),
        volume("tiny", "a", json!({"spec": {"capacity": {"storage": "1Mi"}}})),
    ];
    let claims = [claim("c", json!({})), claim("d", json!({})), claim("e", json!({}))];
    let storage = [&free[..], &claims[..], &[none]].concat();
    let lines = lines_with(&nodes, &storage, vec![user("p", &["c", "d"]), user("q", &["e"])]);
    assert_eq!(
        lines,
        [
            "p ⇢ b: c gets small, d gets large",
            "q: 0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind."
        ]
    );
    // Where a volume can be made, the node is told, and then it is waited for.
    let storage = [later.clone(), claims[0].clone()];
    let cordoned = [node("a", json!({"spec": {"unschedulable": true}})), node("b", json!({}))];
    let (decisions, snapshot) = schedule_with(&cordoned, &storage, vec![user("p", &["c"])]);
    let lines: Vec<String> = decisions.into_iter().map(line).collect();
    assert_eq!(lines, ["p ⇢ b: c is made"]);
    assert!(!snapshot.is_placed("p"), "it has no place yet");
    let selected =
        json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "a"}}});
    let selected = claim("c", selected);
    let lines = lines_with(&nodes, &[later.clone(), selected.clone()], vec![user("p", &["c"])]);
    assert_eq!(lines, ["p ⇢ a: "]);
    // Two pods of one cycle do not send it to two nodes.
    let pods = || vec![user("p", &["c"]), user("q", &["c"])];
    let lines = lines_with(&nodes, &[later.clone(), claims[0].clone()], pods());
    let place =
        |line: &str| line.split_once("⇢ ").unwrap().1.split(':').next().unwrap().to_string();
    assert_eq!(place(&lines[0]), place(&lines[1]));
    // Only within the class's topology.
    let mut narrow = later;
    narrow["allowedTopologies"] = json!([{"matchLabelExpressions": [
        {"key": "kubernetes.io/hostname", "values": ["b"]}]}]);
    let lines = lines_with(&nodes, &[narrow, claims[0].clone()], vec![user("p", &["c"])]);
    assert_eq!(lines, ["p ⇢ b: c is made"]);
}

#[test]
fn a_claim_for_one_pod_alone_keeps_others_away() {
    let nodes = [node("a", json!({}))];
    let alone = json!({"spec": {"accessModes": ["ReadWriteOncePod"]}});
    let mut claim = bound("c", "v");
    merge(&mut claim, alone);
    let storage = [claim, volume("v", "a", json!({}))];
    let pods = vec![user("p", &["c"]), user("q", &["c"])];
    let (decisions, mut snapshot) = schedule_with(&nodes, &storage, pods);
    let lines: Vec<String> = decisions.into_iter().map(line).collect();
    assert_eq!(
        lines,
        [
            "p → a",
            "q: 0/1 nodes are available: 1 node has pod using PersistentVolumeClaim with the same \
             name and ReadWriteOncePod access mode."
        ]
    );
    snapshot.remove_pod("p");
    let again = vec![PodInfo::of(&user("q", &["c"]))];
    let decisions = cycle::schedule(again, &mut snapshot, &default_framework());
    assert_eq!(decisions.into_iter().map(line).collect::<Vec<_>>(), ["q → a"]);
}
