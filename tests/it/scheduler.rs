//! The scheduler's cycle: nodes and pods in, decisions out, no cluster.

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use wasmfleet::scheduler::cycle::{self, Decision};
use wasmfleet::scheduler::plugins::default_framework;
use wasmfleet::scheduler::snapshot::{PodInfo, Snapshot};

fn node(name: &str, more: Value) -> Node {
    let mut node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {}, "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "100"}}});
    merge(&mut node, more);
    serde_json::from_value(node).unwrap()
}

fn pod(name: &str, spec: Value) -> Pod {
    let mut pod = json!({"metadata": {"name": name, "namespace": "n", "uid": name},
        "spec": {"containers": [{"name": "c", "image": "hello:v1"}]}});
    merge(&mut pod["spec"], spec);
    serde_json::from_value(pod).unwrap()
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn requests(cpu: &str) -> Value {
    json!({"containers": [{"name": "c", "image": "hello:v1", "resources": {"requests": {"cpu": cpu}}}]})
}

/// One line a pod: `name → node`, or the refusal's message.
fn schedule(nodes: Vec<Node>, pods: Vec<Pod>) -> Vec<String> {
    let mut snapshot = Snapshot::default();
    for node in &nodes {
        snapshot.set_node(node);
    }
    let pods = pods.iter().map(PodInfo::of).collect();
    cycle::schedule(pods, &mut snapshot, &default_framework()).into_iter().map(line).collect()
}

fn line(decision: Decision) -> String {
    match decision {
        Decision::Bind { pod, node } => format!("{} → {node}", pod.key.name),
        Decision::Refuse { pod, refusal } => format!("{}: {}", pod.key.name, refusal.message()),
    }
}

#[test]
fn equal_pods_spread_over_equal_nodes() {
    let nodes = vec![node("a", json!({})), node("b", json!({})), node("c", json!({}))];
    let pods = (0..9).map(|n| pod(&format!("p{n}"), json!({}))).collect();
    let lines = schedule(nodes, pods);
    for name in ["a", "b", "c"] {
        let count = lines.iter().filter(|line| line.ends_with(&format!("→ {name}"))).count();
        assert_eq!(count, 3, "{lines:?}");
    }
}

#[test]
fn a_batch_never_takes_more_than_there_is() {
    let pods = (0..5).map(|n| pod(&format!("p{n}"), requests("900m"))).collect();
    let lines = schedule(vec![node("a", json!({})), node("b", json!({}))], pods);
    assert_eq!(lines.iter().filter(|line| line.contains('→')).count(), 4);
    assert_eq!(lines[4], "p4: 0/2 nodes are available: 2 Insufficient cpu.");
}

#[test]
fn refusals_count_each_reason() {
    let nodes = vec![
        node("cordoned", json!({"spec": {"unschedulable": true}})),
        node(
            "tainted",
            json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}}),
        ),
        node("full", json!({"status": {"allocatable": {"pods": "0"}}})),
        node("small", json!({"status": {"allocatable": {"cpu": "100m"}}})),
    ];
    assert_eq!(
        schedule(nodes, vec![pod("p", requests("1"))]),
        [
            "p: 0/4 nodes are available: 1 Insufficient cpu, 1 Too many pods, 1 node(s) had untolerated \
          taint {k: v}, 1 node(s) were unschedulable."
        ]
    );
    assert_eq!(
        schedule(vec![], vec![pod("p", json!({}))]),
        ["p: no nodes available to schedule pods"]
    );
}

#[test]
fn selectors_affinity_and_tolerations_choose() {
    let nodes = || {
        vec![
            node("plain", json!({})),
            node(
                "arm",
                json!({"metadata": {"labels": {"arch": "arm", "gen": "7"}},
                "spec": {"taints": [{"key": "arm", "effect": "NoSchedule"}]}}),
            ),
        ]
    };
    let tolerations = json!([{"key": "arm", "operator": "Exists"}]);
    let selected = json!({"nodeSelector": {"arch": "arm"}, "tolerations": tolerations});
    assert_eq!(schedule(nodes(), vec![pod("p", selected)]), ["p → arm"]);
    let untolerated = json!({"nodeSelector": {"arch": "arm"}});
    assert_eq!(
        schedule(nodes(), vec![pod("p", untolerated)]),
        [
            "p: 0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) \
          had untolerated taint {arm: }."
        ]
    );
    let term = |expression: Value| {
        json!({"tolerations": tolerations, "affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}}})
    };
    let cases = [
        (json!({"key": "gen", "operator": "Gt", "values": ["6"]}), "p → arm"),
        (json!({"key": "arch", "operator": "In", "values": ["arm"]}), "p → arm"),
        (json!({"key": "arch", "operator": "DoesNotExist"}), "p → plain"),
        (json!({"key": "arch", "operator": "NotIn", "values": ["arm"]}), "p → plain"),
    ];
    for (expression, expected) in cases {
        assert_eq!(
            schedule(nodes(), vec![pod("p", term(expression.clone()))]),
            [expected],
            "{expression}"
        );
    }
    let preferred = json!({"tolerations": tolerations, "affinity": {"nodeAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference":
            {"matchExpressions": [{"key": "arch", "operator": "Exists"}]}}]}}});
    assert_eq!(schedule(nodes(), vec![pod("p", preferred)]), ["p → arm"]);
}

#[test]
fn the_artifact_decides_between_equals_and_does_not_pile_up() {
    let with_image = json!({"status": {"images": [{"names": ["hello:v1"], "sizeBytes": 1000}]}});
    let nodes = vec![node("a", json!({})), node("b", with_image)];
    let pods: Vec<Pod> = (0..20).map(|n| pod(&format!("p{n}"), json!({}))).collect();
    let lines = schedule(nodes, pods);
    assert_eq!(lines[0], "p0 → b");
    let on_a = lines.iter().filter(|line| line.ends_with("→ a")).count();
    assert!((7..=10).contains(&on_a), "{on_a} of 20 pods are on the node without the artifact");
}

#[test]
fn places_are_free_again_when_pods_end_or_bindings_fail() {
    let mut snapshot = Snapshot::default();
    snapshot.set_node(&node("a", json!({"status": {"allocatable": {"pods": "1"}}})));
    let framework = default_framework();
    let decide = |snapshot: &mut Snapshot, name: &str| {
        line(
            cycle::schedule(vec![PodInfo::of(&pod(name, json!({})))], snapshot, &framework)
                .remove(0),
        )
    };
    assert_eq!(decide(&mut snapshot, "p"), "p → a");
    assert_eq!(decide(&mut snapshot, "q"), "q: 0/1 nodes are available: 1 Too many pods.");
    snapshot.forget("p");
    assert_eq!(decide(&mut snapshot, "q"), "q → a");
    let mut bound = pod("q", json!({"nodeName": "a"}));
    assert!(!snapshot.set_pod(&bound), "an assumed pod that is seen bound frees nothing");
    bound.status = serde_json::from_value(json!({"phase": "Succeeded"})).unwrap();
    assert!(snapshot.set_pod(&bound));
    assert_eq!(decide(&mut snapshot, "r"), "r → a");
}
