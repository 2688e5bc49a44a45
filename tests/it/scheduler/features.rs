//! Nodes whose runtime has not what a pod's programs import, and what refused pods are told.

use serde_json::json;
use wasmfleet::scheduler::cycle::{self, Decision};
use wasmfleet::scheduler::plugins::default_framework;
use wasmfleet::scheduler::pod_info::PodInfo;
use wasmfleet::scheduler::snapshot::Snapshot;

use super::{line, node, pod, requests};

fn needing(name: &str, features: &str) -> PodInfo {
    let mut one = pod(name, json!({}));
    one.metadata.annotations =
        Some([("wasmfleet.dev/features".to_string(), features.to_string())].into());
    PodInfo::of(&one)
}

fn refusal_of(pod: PodInfo, snapshot: &mut Snapshot) -> String {
    match cycle::schedule(vec![pod], snapshot, &default_framework()).remove(0) {
        Decision::Refuse { refusal, .. } => refusal.told(),
        other => line(other),
    }
}

#[test]
fn a_node_that_lacks_an_interface_is_refused_with_it() {
    let mut snapshot = Snapshot::default();
    let declared = |features: &[&str]| json!({"status": {"declaredFeatures": features}});
    snapshot.set_node(&node("old", declared(&["wasi:cli/command@0.2", "wasi:cli@0.2"])));
    let serving = needing("serving", "wasi:http/proxy@0.2, wasi:cli@0.2");
    let told = refusal_of(serving.clone(), &mut snapshot);
    let reason =
        "0/1 nodes are available: 1 node(s) didn't have the Wasm feature wasi:http/proxy@0.2.";
    assert!(told.starts_with(reason), "{told}");
    assert!(told.contains("What would help: add nodes whose runtime has"), "{told}");
    assert_eq!(refusal_of(needing("plain", "wasi:cli@0.2"), &mut snapshot), "plain → old");
    assert!(snapshot.set_node(&node("old", declared(&["wasi:cli@0.2", "wasi:http/proxy@0.2"]))));
    assert_eq!(refusal_of(serving, &mut snapshot), "serving → old", "its agent was renewed");
    snapshot.remove_node("old");
    snapshot.set_node(&node("silent", json!({})));
    let any = needing("any", "wasi:keyvalue@0.2.0-draft");
    assert_eq!(refusal_of(any, &mut snapshot), "any → silent", "it declares nothing");
}

#[test]
fn refused_pods_are_told_what_would_help() {
    let mut snapshot = Snapshot::default();
    assert_eq!(
        refusal_of(PodInfo::of(&pod("p", json!({}))), &mut snapshot),
        "no nodes available to schedule pods. What would help: there are no nodes: join one \
         (wasmfleet node --help)"
    );
    snapshot.set_node(&node("a", json!({})));
    snapshot.set_node(&node("b", json!({"spec": {"unschedulable": true}})));
    let told = refusal_of(PodInfo::of(&pod("p", requests("5"))), &mut snapshot);
    assert_eq!(
        told,
        "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable. preemption: 0/2 \
         nodes are available: 2 Preemption is not helpful for scheduling. What would help: ask for \
         less, or add larger nodes: none that may be used has so much, even without pods; or let pods \
         onto a node again that was cordoned (wasmctl uncordon NODE)"
    );
}

#[test]
fn advice_leaves_room_in_an_event() {
    let mut snapshot = Snapshot::default();
    for n in 0..12 {
        let label = format!("x{}", "y".repeat(50));
        let taints = json!([{"key": "t", "effect": "NoSchedule"}]);
        let spec = match n % 3 {
            0 => json!({"unschedulable": true}),
            1 => json!({"taints": taints}),
            _ => json!({}),
        };
        let name = format!("n{n}");
        snapshot
            .set_node(&node(&name, json!({"metadata": {"labels": {label: "1"}}, "spec": spec})));
    }
    let wants: serde_json::Map<String, serde_json::Value> =
        (0..8).map(|n| (format!("example.com/{}{n}", "r".repeat(40)), json!("1"))).collect();
    let spec = json!({"containers": [{"name": "c", "resources": {"requests": wants}}]});
    let told = refusal_of(PodInfo::of(&pod("p", spec)), &mut snapshot);
    assert!(told.starts_with("0/12 nodes are available: "), "{told}");
    assert!(told.len() < 1_024 && told.contains("What would help"), "{} {told}", told.len());
}
