//! Pod groups: all of them get nodes, or none keeps one.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::scheduling::v1alpha1::Workload;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use wasmfleet::base::clock::VirtualClock;
use wasmfleet::client::Client;
use wasmfleet::client::cache::Cache;
use wasmfleet::scheduler::class::Classes;
use wasmfleet::scheduler::cycle::{self, Decision};
use wasmfleet::scheduler::framework::Wake;
use wasmfleet::scheduler::groups::UNKNOWN;
use wasmfleet::scheduler::plugins::default_framework;
use wasmfleet::scheduler::pod_info::PodInfo;
use wasmfleet::scheduler::snapshot::Snapshot;
use wasmfleet::scheduler::{Options, Scheduler};

use super::{Slow, line, merge, merged, node, pod, requests};

/// One of a group of which `together` are needed at once.
fn one_of(group: &str, name: &str, cpu: &str, together: usize) -> PodInfo {
    let mut spec = requests(cpu);
    merge(&mut spec, json!({"workloadRef": {"name": "w", "podGroup": group}}));
    PodInfo { together, ..PodInfo::of(&pod(name, spec)) }
}

fn gang(group: &str, count: usize, cpu: &str, together: usize) -> Vec<PodInfo> {
    (0..count).map(|n| one_of(group, &format!("{group}{n}"), cpu, together)).collect()
}

fn nodes(count: usize) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for n in 0..count {
        snapshot.set_node(&node(&format!("n{n}"), json!({})));
    }
    snapshot
}

fn decide(pods: Vec<PodInfo>, snapshot: &mut Snapshot) -> Vec<Decision> {
    cycle::schedule(pods, snapshot, &default_framework())
}

fn bound(decisions: &[Decision]) -> usize {
    decisions.iter().filter(|one| matches!(one, Decision::Bind { .. })).count()
}

#[test]
fn all_or_none() {
    let mut snapshot = nodes(2);
    // Two a node.
    let decisions = decide(gang("a", 5, "1", 5), &mut snapshot);
    assert_eq!(bound(&decisions), 0);
    let taken: i64 = snapshot.nodes().iter().map(|node| node.pods).sum();
    assert_eq!(taken, 0, "nobody keeps a place");
    let text = line(decisions[0].clone());
    assert_eq!(
        text,
        "a0: 0/2 nodes are available: 2 Insufficient cpu. pod group n/w/a: there is room for 4 of the \
         5 pods that are needed at once."
    );
    let Decision::Refuse { refusal, .. } = &decisions[0] else { panic!("{decisions:?}") };
    assert!(refusal.wakes.contains(&Wake::Node) && refusal.wakes.contains(&Wake::PodGone));
    assert!(snapshot.take_freed().is_empty(), "what was only tried wakes nobody");
    assert!(snapshot.topology.take_touched().is_empty());
    assert_eq!(bound(&decide(gang("b", 4, "1", 4), &mut snapshot)), 4);
}

#[test]
fn one_that_is_larger_than_the_cluster_is_in_nobodys_way() {
    let mut snapshot = nodes(2);
    let mut pods = gang("huge", 30, "1", 30);
    pods.extend(gang("fits", 2, "1", 2));
    pods.push(PodInfo::of(&pod("single", requests("1"))));
    pods.extend(gang("late", 2, "1", 2));
    let decisions = decide(pods, &mut snapshot);
    assert_eq!(decisions.len(), 35);
    let bound: Vec<String> = decisions
        .into_iter()
        .filter_map(|one| match one {
            Decision::Bind { pod, .. } => Some(pod.key.name),
            _ => None,
        })
        .collect();
    assert_eq!(
        bound,
        ["fits0", "fits1", "single"],
        "one place is left, which is not enough for two"
    );
}

#[test]
fn more_than_are_needed_may_wait() {
    let mut snapshot = nodes(1);
    let decisions = decide(gang("a", 4, "1", 2), &mut snapshot);
    assert_eq!(bound(&decisions), 2);
    assert_eq!(decisions.len(), 4);
    // Those that are there count, so that one more is enough.
    snapshot.set_node(&node("n9", json!({})));
    assert_eq!(bound(&decide(vec![one_of("a", "a9", "1", 0)], &mut snapshot)), 1);
}

#[test]
fn fewer_than_are_needed_are_told_so() {
    let mut snapshot = nodes(1);
    let decisions = decide(gang("a", 2, "1m", 3), &mut snapshot);
    let text = "a0: 0/1 nodes are available: pod group n/w/a: 2 of the 3 pods wait that are needed at \
                once.";
    assert_eq!(line(decisions[0].clone()), text);
}

#[test]
fn pods_whose_workload_is_gone_wait_for_it() {
    let mut snapshot = nodes(1);
    let decisions = decide(gang("a", 2, "1m", UNKNOWN), &mut snapshot);
    let text =
        "a0: 0/1 nodes are available: waiting for the Workload n/w, with its pod group \"a\".";
    assert_eq!(line(decisions[0].clone()), text);
    let Decision::Refuse { pod, refusal, .. } = &decisions[1] else { panic!("{decisions:?}") };
    assert_eq!(refusal.wakes, [pod.group.as_ref().unwrap().wake()]);
}

/// Pods of one group may differ, and look at each other.
#[test]
fn pods_of_a_group_see_each_other() {
    let mut snapshot = nodes(3);
    let term = json!({"topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": {"app": "x"}}});
    let apart = |count: usize| -> Vec<PodInfo> {
        let one = |n: usize| {
            let spec = json!({"workloadRef": {"name": "w", "podGroup": "apart"},
                "affinity": {"podAntiAffinity":
                    {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}});
            let mut pod = pod(&format!("p{n}"), spec);
            pod.metadata.labels = Some([("app".to_string(), "x".to_string())].into());
            PodInfo { together: count, ..PodInfo::of(&pod) }
        };
        (0..count).map(one).collect()
    };
    let (mut classes, framework) = (Classes::default(), default_framework());
    for _ in 0..3 {
        let decisions = cycle::schedule_with(apart(4), &mut snapshot, &framework, &mut classes);
        assert_eq!(bound(&decisions), 0, "{decisions:?}");
    }
    let decisions = cycle::schedule_with(apart(3), &mut snapshot, &framework, &mut classes);
    assert_eq!(bound(&decisions), 3, "what was tried in vain leaves nothing behind");
}

#[test]
fn volumes_come_before_any_of_them() {
    let mut snapshot = nodes(2);
    let class = json!({"metadata": {"name": "local"}, "provisioner": "p",
        "volumeBindingMode": "WaitForFirstConsumer"});
    let claim = |name: &str| -> Value {
        json!({"metadata": {"name": name, "namespace": "n", "uid": name}, "spec":
            {"storageClassName": "local", "accessModes": ["ReadWriteOnce"],
             "resources": {"requests": {"storage": "1Gi"}}}})
    };
    snapshot.volumes.set_class("local", Some(&serde_json::from_value(class).unwrap()));
    let key = wasmfleet::api::ObjectKey::new("n", "c");
    let typed = serde_json::from_value(claim("c")).unwrap();
    snapshot.volumes.set_claim(&key, Some(&typed));
    let mut with_claim = requests("1");
    let volume = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
    merge(
        &mut with_claim,
        json!({"volumes": volume,
        "workloadRef": {"name": "w", "podGroup": "a"}}),
    );
    let claiming =
        |together: usize| PodInfo { together, ..PodInfo::of(&pod("p", with_claim.clone())) };

    // In vain: the claim is as it was.
    let mut pods = vec![claiming(6)];
    pods.extend(gang("a", 5, "1", 6));
    assert!(decide(pods, &mut snapshot).iter().all(|one| matches!(one, Decision::Refuse { .. })));
    let again = snapshot.volumes.needs(&key, "p", &claiming(1).wants.claims).unwrap();
    assert_eq!(again.unbound[0].selected_node, None);

    let mut pods = vec![claiming(2)];
    pods.extend(gang("a", 1, "1", 2));
    let decisions = decide(pods, &mut snapshot);
    assert!(matches!(&decisions[0], Decision::Provide { steps, .. } if steps.len() == 1));
    let Decision::Hold { wakes, .. } = &decisions[1] else { panic!("{decisions:?}") };
    assert_eq!(*wakes, [wasmfleet::scheduler::volumes::wake_of(&key)]);
}

/// A scheduler over a node for two pods: a gang of two comes, and a pod that is older but is seen
/// later. Answers who is bound after so long, where a binding of one of the gang fails so often.
async fn bound_after(fails: usize, time: Duration) -> Vec<String> {
    let api = Arc::new(Slow {
        gate: Semaphore::new(100),
        bound: Mutex::default(),
        fails: Mutex::new([("g1".to_string(), fails)].into()),
    });
    let cache = Cache::new();
    cache.add::<Node>();
    cache.add::<Pod>();
    cache.add::<Workload>();
    let clock = Arc::new(VirtualClock::new("2026-01-01T00:00:00Z".parse().unwrap()));
    let client = Client::new(api.clone(), "test");
    let scheduler = Scheduler::new(client, &cache, clock, Arc::new(|_, _| {}), Options::default());
    let workload = json!({"metadata": {"name": "w", "namespace": "n"}, "spec": {"podGroups":
        [{"name": "g", "policy": {"gang": {"minCount": 2}}}]}});
    cache.replace::<Workload>(vec![serde_json::from_value(workload).unwrap()], 1);
    cache.replace(vec![node("a", json!({}))], 1);
    let created = |mut pod: Pod, second: u32| {
        let time = json!(format!("2025-01-01T00:00:{second:02}Z"));
        pod.metadata.creation_timestamp = serde_json::from_value(time).unwrap();
        pod
    };
    let reference = json!({"workloadRef": {"name": "w", "podGroup": "g"}});
    let one = |name: &str| created(pod(name, merged(requests("1"), reference.clone())), 30);
    let gang = vec![one("g0"), one("g1")];
    cache.replace(gang.clone(), 2);
    let running = tokio::spawn(async move { scheduler.run().await });
    tokio::time::sleep(Duration::from_millis(1)).await;
    let mut all = gang;
    all.push(created(pod("older", requests("1")), 1));
    cache.replace(all, 3);
    tokio::time::sleep(time).await;
    running.abort();
    api.bound.lock().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn one_whose_binding_fails_comes_at_once_and_keeps_its_place() {
    let soon = bound_after(1, Duration::from_millis(100)).await;
    assert_eq!(soon, ["g0", "g1"], "without a back-off");
    let later = bound_after(3, Duration::from_secs(60)).await;
    assert_eq!(later, ["g0", "g1"], "an older pod of the same priority does not get its place");
}
