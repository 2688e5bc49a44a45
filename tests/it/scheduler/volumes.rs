//! Pods with claims: where their volumes are, or can be.

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use wasmfleet::api::ObjectKey;
use wasmfleet::scheduler::cycle::{self, Decision};
use wasmfleet::scheduler::plugins::default_framework;
use wasmfleet::scheduler::pod_info::PodInfo;
use wasmfleet::scheduler::snapshot::Snapshot;

use super::{line, merge, pod};

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

/// A node that keeps volumes.
fn node(name: &str, more: Value) -> Node {
    let mut keeps = json!({"metadata": {"annotations": {"wasmfleet.dev/volumes-dir": "/d"}}});
    merge(&mut keeps, more);
    super::node(name, keeps)
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

#[test]
fn a_volume_is_made_where_a_node_keeps_volumes_or_nowhere() {
    let [later, _] = classes();
    let simulated = super::node("sim-0", json!({}));
    let nodes = [simulated.clone(), node("real", json!({})), super::node("sim-1", json!({}))];
    let lines = |nodes: &[Node], claim: Value| {
        lines_with(nodes, &[later.clone(), claim], vec![user("p", &["c"])])
    };
    assert_eq!(lines(&nodes, claim("c", json!({}))), ["p ⇢ real: c is made"]);
    let text = "p: 0/1 nodes are available: 1 node(s) keep no volumes of the class \"later\".";
    assert_eq!(lines(std::slice::from_ref(&simulated), claim("c", json!({}))), [text]);
    // Other provisioners know themselves where they make volumes.
    let mut other = later.clone();
    other["provisioner"] = json!("example.com/disks");
    let storage = [other, claim("c", json!({}))];
    let told = lines_with(&[simulated], &storage, vec![user("p", &["c"])]);
    assert_eq!(told, ["p ⇢ sim-0: c is made"]);
    // What is made nowhere is said of the pod, instead of being asked for again and again.
    let block = claim("c", json!({"spec": {"volumeMode": "Block"}}));
    let text = "p: 0/3 nodes are available: 3 node(s) cannot have the volume of \
                persistentvolumeclaim \"c\": block volume provisioning is not supported.";
    assert_eq!(lines(&nodes, block), [text]);
}

/// A node that begins to keep volumes helps those who were refused.
#[test]
fn a_node_that_keeps_volumes_from_now_on_is_asked_again() {
    let mut snapshot = Snapshot::default();
    assert!(snapshot.set_node(&super::node("a", json!({}))));
    assert!(snapshot.set_node(&node("a", json!({}))));
    assert!(!snapshot.set_node(&node("a", json!({}))));
}

#[test]
fn a_pod_goes_to_the_zone_of_its_volume() {
    const ZONE: &str = "topology.kubernetes.io/zone";
    const REGION: &str = "topology.kubernetes.io/region";
    let within = |name: &str, labels: Value| node(name, json!({"metadata": {"labels": labels}}));
    let nodes = [
        within("a", json!({ZONE: "east-1", REGION: "east"})),
        within("b", json!({ZONE: "west-1", REGION: "west"})),
    ];
    let in_zone = |labels: Value| {
        let more = json!({"metadata": {"labels": labels}, "spec": {"nodeAffinity": null}});
        [bound("c", "v"), volume("v", "", more)]
    };
    let place = |nodes: &[Node], labels: Value| {
        lines_with(nodes, &in_zone(labels), vec![user("p", &["c"])]).remove(0)
    };
    assert_eq!(place(&nodes, json!({ZONE: "west-1"})), "p → b");
    assert_eq!(place(&nodes, json!({REGION: "east"})), "p → a");
    assert_eq!(place(&nodes, json!({ZONE: "south__west-1"})), "p → b");
    let text = "p: 0/2 nodes are available: 2 node(s) had no available volume zone.";
    assert_eq!(place(&nodes, json!({ZONE: "south"})), text);
    assert_eq!(place(&nodes, json!({ZONE: "west-1", REGION: "east"})), text);
    // The older label means the newer one of a node; what names an empty zone says nothing.
    let beta = json!({"failure-domain.beta.kubernetes.io/zone": "west-1"});
    assert_eq!(place(&nodes, beta), "p → b");
    assert_eq!(place(&nodes[..1], json!({ZONE: "west-1__"})), "p → a");
    // A node without zones may be anywhere; one of a region alone is in no zone.
    assert_eq!(place(&[node("c", json!({}))], json!({ZONE: "west-1"})), "p → c");
    let region = [within("c", json!({REGION: "west"}))];
    assert!(place(&region, json!({ZONE: "west-1"})).ends_with("no available volume zone."));
    // A claim that has no volume yet asks for no zone.
    let [later, _] = classes();
    let [_, mut free] = in_zone(json!({ZONE: "west-1"}));
    free["spec"]["capacity"]["storage"] = json!("1Mi");
    let storage = [later, claim("c", json!({})), free];
    assert_eq!(lines_with(&nodes, &storage, vec![user("p", &["c"])]), ["p ⇢ a: c is made"]);
    // Volumes whose labels are mended help those who were refused.
    let typed = |labels: Value| serde_json::from_value(in_zone(labels)[1].clone()).unwrap();
    let (_, mut snapshot) = schedule_with(&nodes, &in_zone(json!({ZONE: "south"})), Vec::new());
    assert!(!snapshot.volumes.set_volume("v", Some(&typed(json!({ZONE: "south", "a": "b"})))));
    assert!(snapshot.volumes.set_volume("v", Some(&typed(json!({ZONE: "west-1"})))));
}
