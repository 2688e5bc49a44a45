//! Preemption: clusters in, victims out; the rules one by one.

mod gangs;
mod random;
mod rounds;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use wasmfleet::api::ObjectKey;
use wasmfleet::scheduler::cycle::{self, Decision};
use wasmfleet::scheduler::plugins::default_framework;
use wasmfleet::scheduler::pod_info::PodInfo;
use wasmfleet::scheduler::snapshot::Snapshot;

use super::{line, merge, merged, node, pod, requests};

/// A pod that waits, and asks for some hundredths of a CPU.
fn waits(name: &str, priority: i32, centi_cpu: i64) -> Pod {
    pod(name, merged(requests(&format!("{}m", centi_cpu * 10)), json!({"priority": priority})))
}

/// The same on a node, since a second.
fn runs(name: &str, on: &str, priority: i32, centi_cpu: i64, second: u32) -> Pod {
    let mut pod = waits(name, priority, centi_cpu);
    pod.spec.as_mut().unwrap().node_name = Some(on.into());
    let start = format!("2026-01-01T00:00:{second:02}Z");
    pod.status =
        Some(serde_json::from_value(json!({"phase": "Running", "startTime": start})).unwrap());
    pod
}

/// What a victim looks like from its eviction to its end.
fn leaves(mut pod: Pod) -> Pod {
    let condition = json!({"type": "DisruptionTarget", "status": "True",
        "reason": "PreemptionByScheduler"});
    let mut status = serde_json::to_value(&pod.status).unwrap();
    merge(&mut status, json!({"conditions": [condition]}));
    pod.status = serde_json::from_value(status).unwrap();
    let time = serde_json::from_value(json!("2026-01-01T00:01:00Z")).unwrap();
    pod.metadata.deletion_timestamp = Some(time);
    pod
}

/// Nodes of one CPU.
fn cluster(nodes: &[&str], pods: &[Pod]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for name in nodes {
        let allocatable = json!({"status": {"allocatable": {"cpu": "1"}}});
        snapshot.set_node(&node(name, allocatable));
    }
    for pod in pods {
        snapshot.set_pod(pod);
    }
    snapshot
}

fn decide(snapshot: &mut Snapshot, pods: &[Pod]) -> Vec<Decision> {
    let pods = pods.iter().map(PodInfo::of).collect();
    cycle::schedule(pods, snapshot, &default_framework())
}

fn lines(snapshot: &mut Snapshot, pods: &[Pod]) -> Vec<String> {
    decide(snapshot, pods).into_iter().map(line).collect()
}

/// The whole text of a refusal.
fn refusal(snapshot: &mut Snapshot, pod: Pod) -> String {
    match decide(snapshot, &[pod]).remove(0) {
        Decision::Refuse { refusal, .. } => refusal.message(),
        other => panic!("{other:?}"),
    }
}

fn set_budget(snapshot: &mut Snapshot, name: &str, app: &str, allowed: i32) {
    let budget = json!({"metadata": {"name": name, "namespace": "n"},
        "spec": {"selector": {"matchLabels": {"app": app}}},
        "status": {"disruptionsAllowed": allowed, "currentHealthy": 0, "desiredHealthy": 0,
            "expectedPods": 0}});
    let budget = serde_json::from_value(budget).unwrap();
    snapshot.budgets.set(&ObjectKey::new("n", name), Some(&budget));
}

fn labelled(mut pod: Pod, app: &str) -> Pod {
    pod.metadata.labels = Some([("app".to_string(), app.to_string())].into());
    pod
}

#[test]
fn no_more_go_than_must_and_the_least_important_first() {
    let pods = [
        runs("mid", "a", 5, 40, 1),
        runs("old", "a", 1, 30, 1),
        runs("young", "a", 1, 30, 2),
        runs("peer", "b", 9, 60, 1),
    ];
    for (centi_cpu, wanted) in [
        (30, "p ⇒ a: without young"),
        (31, "p ⇒ a: without old, young"),
        (61, "p ⇒ a: without mid, young"),
        (100, "p ⇒ a: without mid, old, young"),
    ] {
        let mut snapshot = cluster(&["a"], &pods[..3]);
        assert_eq!(lines(&mut snapshot, &[waits("p", 9, centi_cpu)]), [wanted]);
    }
    let mut snapshot = cluster(&["a", "b"], &pods);
    assert_eq!(lines(&mut snapshot, &[waits("p", 9, 40)]), ["p → b"], "what is free comes first");
}

#[test]
fn a_refusal_says_why_nobody_goes() {
    let pods = [runs("low", "a", 1, 80, 1), runs("high", "b", 9, 80, 1)];
    let mut snapshot = cluster(&["a", "b", "c"], &pods);
    snapshot.set_node(&node("c", json!({"spec": {"unschedulable": true}})));
    let start = "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu. \
                 preemption: ";
    let none = "0/3 nodes are available: 1 Preemption is not helpful for scheduling, \
                2 No preemption victims found for incoming pod.";
    assert_eq!(refusal(&mut snapshot, waits("p", 1, 50)), format!("{start}{none}"));
    let large = "0/3 nodes are available: 3 Preemption is not helpful for scheduling.";
    assert_eq!(refusal(&mut snapshot, waits("p", 9, 101)), format!("{start}{large}"));
    let mut never = waits("p", 9, 50);
    never.spec.as_mut().unwrap().preemption_policy = Some("Never".into());
    let never = refusal(&mut snapshot, never);
    assert_eq!(never, format!("{start}not eligible due to preemptionPolicy=Never."));
    // One that stays leaves too little.
    snapshot.set_pod(&runs("high-too", "a", 9, 20, 1));
    snapshot.remove_pod("high");
    snapshot.set_pod(&runs("high", "b", 9, 100, 1));
    let some = "0/3 nodes are available: 1 Insufficient cpu, 1 No preemption victims found for \
                incoming pod, 1 Preemption is not helpful for scheduling.";
    assert_eq!(refusal(&mut snapshot, waits("p", 9, 90)), format!("{start}{some}"));
}

#[test]
fn the_rules_of_the_choice_each_in_its_turn() {
    // The better node is always b, though a comes first.
    let cases: [(&str, Vec<Pod>); 5] = [
        (
            "the fewest budgets exceeded",
            vec![labelled(runs("x", "a", 1, 90, 9), "kept"), runs("y", "b", 2, 90, 1)],
        ),
        (
            "the lowest highest priority",
            vec![runs("x", "a", 3, 90, 9), runs("y", "b", 2, 50, 1), runs("z", "b", 2, 50, 1)],
        ),
        (
            "the smallest sum",
            vec![
                runs("w", "a", 2, 50, 9),
                runs("x", "a", 1, 50, 9),
                runs("y", "b", 2, 50, 1),
                runs("z", "b", 0, 50, 1),
            ],
        ),
        (
            "the fewest, also of negative priorities",
            vec![runs("w", "a", -5, 50, 9), runs("x", "a", -5, 50, 9), runs("y", "b", -5, 90, 1)],
        ),
        ("the latest start", vec![runs("x", "a", 1, 90, 1), runs("y", "b", 1, 90, 2)]),
    ];
    for (rule, pods) in cases {
        let mut snapshot = cluster(&["a", "b"], &pods);
        set_budget(&mut snapshot, "kept", "kept", 0);
        let line = lines(&mut snapshot, &[waits("p", 9, 95)]).remove(0);
        assert!(line.starts_with("p ⇒ b"), "{rule}: {line}");
    }
}

#[test]
fn a_budget_is_kept_within_a_node_and_within_a_cycle() {
    let kept = |name: &str, on: &str, priority| labelled(runs(name, on, priority, 50, 1), "kept");
    // Of two, the more important one goes where the other's budget allows nothing.
    let pods = [kept("low", "a", 1), runs("mid", "a", 2, 50, 1)];
    let mut snapshot = cluster(&["a"], &pods);
    set_budget(&mut snapshot, "kept", "kept", 0);
    assert_eq!(lines(&mut snapshot, &[waits("p", 9, 50)]), ["p ⇒ a: without mid"]);
    // What one pod uses up the next one has not, although the budget's status says nothing yet.
    let pods = [kept("x", "a", 1), kept("y", "b", 1), runs("z", "c", 5, 50, 1)];
    let mut snapshot = cluster(&["a", "b", "c"], &pods);
    set_budget(&mut snapshot, "kept", "kept", 1);
    let wanted = [waits("p", 9, 60), waits("q", 9, 60), waits("r", 9, 60)];
    assert_eq!(
        lines(&mut snapshot, &wanted),
        ["p ⇒ a: without x", "q ⇒ c: without z", "r ⇒ b: without y"],
        "where there is no choice, a budget is exceeded"
    );
}

#[test]
fn room_is_kept_for_a_nominee() {
    let victim = runs("low", "a", 1, 100, 1);
    let mut snapshot = cluster(&["a"], std::slice::from_ref(&victim));
    assert_eq!(lines(&mut snapshot, &[waits("p", 5, 60)]), ["p ⇒ a: without low"]);
    assert_eq!(snapshot.nominees().node_of("p"), Some("a"));
    // Until the victim is gone nothing more is done for it, whether its end is seen or not.
    let waiting = "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to a \
                   terminating pod on the nominated node.";
    assert_eq!(refusal(&mut snapshot, waits("p", 5, 60)), waiting);
    snapshot.set_pod(&leaves(victim));
    assert_eq!(refusal(&mut snapshot, waits("p", 5, 60)), waiting);
    snapshot.remove_pod("low");
    let refused = "0/1 nodes are available: 1 Insufficient cpu.";
    let pods = [waits("peer", 5, 50), waits("small", 5, 40)];
    let wanted = [format!("peer: {refused}"), "small → a".into()];
    assert_eq!(lines(&mut snapshot, &pods), wanted, "beside the nominee is room for one");
    snapshot.remove_pod("small");
    assert_eq!(lines(&mut snapshot, &[waits("lower", 4, 50)]), [format!("lower: {refused}")]);
    assert_eq!(lines(&mut snapshot, &[waits("p", 5, 60)]), ["p → a"]);
    assert!(snapshot.nominees().is_empty());
}

#[test]
fn a_nominee_gives_way_to_a_higher_priority() {
    let mut snapshot = cluster(&["a"], &[runs("low", "a", 1, 100, 1)]);
    assert_eq!(lines(&mut snapshot, &[waits("p", 5, 60)]), ["p ⇒ a: without low"]);
    match decide(&mut snapshot, &[waits("vip", 9, 70)]).remove(0) {
        Decision::Preempt { preemption, .. } => {
            assert!(preemption.victims[0].is_leaving, "it is told once");
            assert_eq!(preemption.displaced[0].uid, "p");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(snapshot.nominees().node_of("p"), None);
    snapshot.remove_pod("low");
    assert!(!snapshot.take_freed().is_empty(), "others are told of it");
    let refused = "p: 0/1 nodes are available: 1 Insufficient cpu.";
    assert_eq!(lines(&mut snapshot, &[waits("p", 5, 60)]), [refused]);
    // One for whom nothing can be done is a nominee no more.
    snapshot.set_pod(&runs("top", "a", 20, 100, 1));
    match decide(&mut snapshot, &[waits("vip", 9, 70)]).remove(0) {
        Decision::Refuse { ends_nomination, .. } => assert!(ends_nomination),
        other => panic!("{other:?}"),
    }
    assert!(snapshot.nominees().is_empty());
}

#[test]
fn ports_and_claims_of_victims_are_free_again() {
    let with_port = |mut pod: Pod, ip: &str| {
        let port = json!([{"containerPort": 80, "hostPort": 80, "hostIP": ip}]);
        pod.spec.as_mut().unwrap().containers[0].ports = serde_json::from_value(port).unwrap();
        pod
    };
    let taken = with_port(runs("low", "a", 1, 10, 1), "");
    let mut snapshot = cluster(&["a"], &[taken, runs("other", "a", 1, 10, 1)]);
    let message = refusal(&mut snapshot, with_port(waits("p", 1, 10), "127.0.0.1"));
    let text = "1 node(s) didn't have free ports for the requested pod ports";
    assert!(message.starts_with(&format!("0/1 nodes are available: {text}.")), "{message}");
    let decided = lines(&mut snapshot, &[with_port(waits("p", 2, 10), "127.0.0.1")]);
    assert_eq!(decided, ["p ⇒ a: without low"]);
    // A claim that one pod alone may have.
    let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
    let with_claim = |mut pod: Pod| {
        pod.spec.as_mut().unwrap().volumes = serde_json::from_value(volumes.clone()).unwrap();
        pod
    };
    let user = with_claim(runs("low", "a", 1, 10, 1));
    let mut snapshot = cluster(&["a", "b"], &[user, runs("other", "a", 1, 10, 1)]);
    let claim = json!({"metadata": {"name": "c", "namespace": "n", "uid": "c",
        "annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
        "spec": {"accessModes": ["ReadWriteOncePod"], "volumeName": "v"},
        "status": {"phase": "Bound"}});
    let claim = serde_json::from_value(claim).unwrap();
    snapshot.volumes.set_claim(&ObjectKey::new("n", "c"), Some(&claim));
    let volume = json!({"metadata": {"name": "v"}, "spec": {}});
    snapshot.volumes.set_volume("v", Some(&serde_json::from_value(volume).unwrap()));
    let decided = lines(&mut snapshot, &[with_claim(waits("p", 2, 10))]);
    assert_eq!(decided, ["p ⇒ a: without low"]);
}

#[test]
fn equal_pods_of_one_cycle_get_each_their_own_room() {
    const NODES: usize = 300;
    let mut snapshot = Snapshot::default();
    for n in 0..NODES {
        let name = format!("n{n}");
        snapshot.set_node(&node(&name, json!({"status": {"allocatable": {"cpu": "1"}}})));
        for m in 0..2 {
            snapshot.set_pod(&runs(&format!("low-{n}-{m}"), &name, 1, 50, 1));
        }
    }
    let pods: Vec<Pod> = (0..2 * NODES + 1).map(|n| waits(&format!("p{n}"), 5, 50)).collect();
    let mut rooms: BTreeMap<String, usize> = BTreeMap::new();
    let mut refused = 0;
    for decision in decide(&mut snapshot, &pods) {
        match decision {
            Decision::Preempt { preemption, .. } => {
                let going = preemption.victims.iter().filter(|victim| !victim.is_leaving);
                assert_eq!(going.count(), 1);
                *rooms.entry(preemption.node).or_default() += 1;
            }
            Decision::Refuse { .. } => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((rooms.len(), refused), (NODES, 1));
    assert!(rooms.values().all(|count| *count == 2));
}
