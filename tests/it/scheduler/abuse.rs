//! Clusters and pods that nobody should make: nodes that lie about what they have, spread rules that
//! contradict each other, and a million pods that wait for nothing.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use wasmfleet::api::ObjectKey;
use wasmfleet::scheduler::class::Classes;
use wasmfleet::scheduler::cycle::{self, Decision};
use wasmfleet::scheduler::framework::Wake;
use wasmfleet::scheduler::plugins::default_framework;
use wasmfleet::scheduler::pod_info::PodInfo;
use wasmfleet::scheduler::queue::{LIMITS, Queue};
use wasmfleet::scheduler::snapshot::Snapshot;

use crate::alone::{is_alone, resident_bytes};

use super::{line, merge, merged, node, pod, requests};

fn decide(snapshot: &mut Snapshot, pods: &[Pod]) -> Vec<Decision> {
    let pods = pods.iter().map(PodInfo::of).collect();
    cycle::schedule(pods, snapshot, &default_framework())
}

/// How many of the decisions gave a node pods.
fn placed(decisions: &[Decision], on: &str) -> usize {
    let is_on = |one: &&Decision| matches!(one, Decision::Bind { node, .. } if node == on);
    decisions.iter().filter(is_on).count()
}

fn amounts(cpu: &str, memory: &str, pods: &str) -> Value {
    json!({"status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": pods}}})
}

#[test]
fn a_node_that_lies_about_its_capacity_harms_itself_alone() {
    let mut snapshot = Snapshot::default();
    snapshot.set_node(&node("honest", json!({})));
    snapshot.set_node(&node("boasts", amounts("9E", "9E", "9223372036854775807")));
    snapshot.set_node(&node("owes", amounts("-3", "-9E", "-5")));
    snapshot.set_node(&node("rubbish", amounts("many", "1e999999", "")));
    let pods: Vec<Pod> = (0..50).map(|n| pod(&format!("p{n}"), requests("1"))).collect();
    let decisions = decide(&mut snapshot, &pods);
    // What it says is believed; the others get no more than they have.
    assert_eq!(placed(&decisions, "owes") + placed(&decisions, "rubbish"), 0);
    assert!(placed(&decisions, "honest") <= 2, "{decisions:?}");
    assert!(placed(&decisions, "boasts") >= 48, "{decisions:?}");
    for decision in decisions {
        let Decision::Bind { pod: info, node } = decision else { panic!("{decision:?}") };
        let mut bound = pod(&info.key.name, merged(requests("1"), json!({"nodeName": node})));
        bound.metadata.uid = Some(info.uid);
        snapshot.set_pod(&bound);
    }
    // Then it tells the truth: nobody is moved, nobody comes, and the numbers are still right.
    snapshot.set_node(&node("boasts", amounts("1", "4Gi", "3")));
    let text = line(decide(&mut snapshot, &[pod("late", requests("3"))]).remove(0));
    assert!(text.starts_with("late: 0/4 nodes are available:"), "{text}");
    for part in ["Insufficient cpu", "Too many pods"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // A pod of a higher priority takes the place of one elsewhere, not that of dozens there.
    let high = pod("high", merged(requests("1"), json!({"priority": 9})));
    match decide(&mut snapshot, &[high]).remove(0) {
        Decision::Bind { node, .. } => assert_eq!(node, "honest"),
        Decision::Preempt { preemption, .. } => {
            assert_eq!((&*preemption.node, preemption.victims.len()), ("honest", 1));
        }
        other => panic!("{other:?}"),
    }
}

/// At most one more in a zone than in another, counted with others; and the same of hosts, counted
/// alone.
fn overlapping(name: &str, app: &str) -> Pod {
    let constraint = |key: &str, apps: &[&str]| {
        json!({"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchExpressions":
                [{"key": "app", "operator": "In", "values": apps}]}})
    };
    let spread = json!([
        constraint("topology.kubernetes.io/zone", &["x", "y"]),
        constraint("kubernetes.io/hostname", &["x"])
    ]);
    let mut pod = pod(name, json!({"topologySpreadConstraints": spread}));
    pod.metadata.labels = Some([("app".to_string(), app.to_string())].into());
    pod
}

#[test]
fn spread_rules_that_overlap_are_both_kept_and_are_in_nobodys_way() {
    let mut snapshot = Snapshot::default();
    for (name, zone) in [("a1", "a"), ("b1", "b"), ("b2", "b"), ("b3", "b")] {
        let label = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}});
        snapshot.set_node(&node(name, label));
    }
    // The third zone b could only take once zone a has more, whose one host may not have two before
    // each host has one.
    let mut pods: Vec<Pod> = (0..12).map(|n| overlapping(&format!("x{n}"), "x")).collect();
    pods.push(pod("other", json!({})));
    let decisions = decide(&mut snapshot, &pods);
    let of_x = |decisions: &[Decision]| {
        let counts = ["a1", "b1", "b2", "b3"].map(|on| placed(decisions, on));
        (counts[0], counts[1] + counts[2] + counts[3])
    };
    assert!(line(decisions[12].clone()).starts_with("other → "), "{decisions:?}");
    assert_eq!(of_x(&decisions[..12]), (1, 2));
    let refused: Vec<&Decision> =
        decisions[..12].iter().filter(|one| matches!(one, Decision::Refuse { .. })).collect();
    assert_eq!(refused.len(), 9);
    let Decision::Refuse { refusal, .. } = refused[0] else { unreachable!() };
    let text = "0/4 nodes are available: 4 node(s) didn't match pod topology spread constraints.";
    assert!(refusal.told().starts_with(text), "{}", refusal.told());
    assert!(refusal.told().contains("maxSkew"), "{}", refusal.told());
    assert!(refusal.wakes.iter().any(|wake| matches!(wake, Wake::Tally(_))), "{refusal:?}");
    // One that only the first rule counts makes room for one more in the other zone, and that for
    // another one here.
    let mut y = pod("y", json!({"nodeName": "a1"}));
    y.metadata.labels = Some([("app".to_string(), "y".to_string())].into());
    snapshot.set_pod(&y);
    let again: Vec<Pod> = (3..12).map(|n| overlapping(&format!("again{n}"), "x")).collect();
    let (a, b) = of_x(&decide(&mut snapshot, &again));
    assert!(b >= 1 && (1 + 1 + a).abs_diff(2 + b) <= 1, "{a} and {b} more");
}

const PENDING: usize = 1_000_000;
/// Of the scheduler's queue; uid, name and namespace are some 60 of them.
const MOST_BYTES_EACH: usize = 1024;
const BATCH: usize = 4096;

/// A pod that wants what no node has; those of one template share what they want.
fn tiny(n: usize, like: &PodInfo) -> PodInfo {
    let uid = format!("00000000-0000-0000-0000-{n:012}");
    PodInfo { key: ObjectKey::new("n", format!("tiny-{n}")), uid, ..like.clone() }
}

/// One turn of the scheduler's loop over its queue. Answers which pods got a node.
fn turn(
    queue: &mut Queue,
    snapshot: &mut Snapshot,
    classes: &mut Classes,
    now: Timestamp,
) -> Vec<String> {
    queue.advance(now);
    let pods = queue.take(BATCH);
    let mut bound = Vec::new();
    for decision in cycle::schedule_with(pods, snapshot, &default_framework(), classes) {
        match decision {
            Decision::Bind { pod, .. } => bound.push(pod.key.name),
            Decision::Refuse { pod, refusal, .. } => queue.refuse(pod, now, refusal.wakes, now),
            other => panic!("{other:?}"),
        }
    }
    bound
}

#[test]
fn a_million_pods_that_wait_cost_little_and_keep_nobody_out() {
    let name = "scheduler::abuse::a_million_pods_that_wait_cost_little_and_keep_nobody_out";
    if !is_alone(name) {
        return;
    }
    let mut snapshot = Snapshot::default();
    for n in 0..3 {
        snapshot.set_node(&node(&format!("n{n}"), json!({})));
    }
    let (mut classes, begin) = (Classes::default(), Timestamp::UNIX_EPOCH);
    let mut queue = Queue::new(SignedDuration::from_mins(5), LIMITS);
    let mut spec = requests("1m");
    merge(&mut spec, json!({"nodeSelector": {"planet": "another"}}));
    let like = PodInfo::of(&pod("tiny", spec));
    let refused =
        match cycle::schedule(vec![like.clone()], &mut snapshot, &default_framework()).remove(0) {
            Decision::Refuse { refusal, .. } => refusal,
            other => panic!("{other:?}"),
        };
    let before = resident_bytes();
    for n in 0..PENDING {
        queue.refuse(tiny(n, &like), begin, refused.wakes.clone(), begin);
    }
    let each = (resident_bytes() - before) / PENDING;
    println!("{each} bytes for each of {PENDING} pods");
    assert!(each < MOST_BYTES_EACH, "{each} bytes for a pod that waits");
    // Nothing wakes them: a pod that comes is alone.
    queue.put(PodInfo::of(&pod("first", requests("100m"))), begin);
    assert_eq!(turn(&mut queue, &mut snapshot, &mut classes, begin), ["first"]);
    // A node that changes wakes them all; those that come meanwhile are looked at all the same.
    queue.wake(Wake::Node);
    let now = begin + SignedDuration::try_from(Duration::from_secs(30)).unwrap();
    for n in 0..3 {
        let name = format!("second-{n}");
        queue.put(PodInfo::of(&pod(&name, requests("100m"))), now);
        assert_eq!(turn(&mut queue, &mut snapshot, &mut classes, now), [name]);
    }
    assert!(!queue.is_empty(), "most of them were not looked at yet");
    // And whoever is gone costs nothing.
    for n in 0..PENDING {
        queue.forget(&tiny(n, &like).uid);
    }
    assert!(queue.is_empty() && queue.next_at().is_none());
    // One class of pods is remembered.
    assert!(Arc::strong_count(&like.wants) < 10, "nothing of them is kept");
}
