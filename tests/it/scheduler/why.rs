//! Why a pod goes nowhere, or where it goes: what `pods/why` answers, without a server.

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use wasmfleet::api::why::Explanation;
use wasmfleet::scheduler::cycle::{self, Decision};
use wasmfleet::scheduler::plugins::default_framework;
use wasmfleet::scheduler::pod_info::PodInfo;
use wasmfleet::scheduler::profiles::Profiles;
use wasmfleet::scheduler::snapshot::Snapshot;
use wasmfleet::scheduler::why::{self, Gang};

use super::{merge, node, pod, requests};

fn snapshot(nodes: &[Node], pods: &[Pod]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    nodes.iter().for_each(|node| _ = snapshot.set_node(node));
    pods.iter().for_each(|pod| _ = snapshot.set_pod(pod));
    snapshot
}

fn explain(pod: &Pod, snapshot: &mut Snapshot) -> Explanation {
    why::explain(pod, &Gang::Alone, snapshot, &default_framework(), 100)
}

fn on(name: &str, node: &str, spec: Value) -> Pod {
    let mut pod = pod(name, spec);
    pod.spec.as_mut().unwrap().node_name = Some(node.into());
    pod
}

#[test]
fn each_node_tells_which_filter_refused_it_in_the_words_of_the_event() {
    let nodes = [
        node("cordoned", json!({"spec": {"unschedulable": true}})),
        node("full", json!({})),
        node("fuller", json!({})),
        node("tainted", json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}})),
    ];
    let taken = [on("a", "full", requests("1500m")), on("b", "fuller", requests("1900m"))];
    let mut snapshot = snapshot(&nodes, &taken);
    let waiting = pod("p", requests("1"));
    let told = explain(&waiting, &mut snapshot);
    let verdicts: Vec<(&str, &str)> = told
        .nodes
        .iter()
        .map(|verdict| (verdict.node.as_str(), verdict.filter.as_deref().unwrap_or("takes it")))
        .collect();
    let wanted = [
        ("cordoned", "NodeUnschedulable"),
        ("full", "NodeResourcesFit"),
        ("fuller", "NodeResourcesFit"),
        ("tainted", "TaintToleration"),
    ];
    assert_eq!(verdicts, wanted);
    assert_eq!((told.nodes_total, told.nodes_feasible), (4, 0));
    assert_eq!((told.refusals[0].nodes, told.refusals[0].reason.as_str()), (2, "Insufficient cpu"));
    // The cycle itself says the same of the pod.
    let decisions =
        cycle::schedule(vec![PodInfo::of(&waiting)], &mut snapshot, &default_framework());
    let [Decision::Refuse { refusal, .. }] = &decisions[..] else { panic!("{decisions:?}") };
    assert!(
        refusal.message().starts_with(&told.message),
        "{} / {}",
        refusal.message(),
        told.message
    );
    let help = told.help.join("\n");
    assert!(help.contains("full comes nearest, and lacks 500m of cpu"), "{help}");
    assert!(help.contains("uncordon") && help.contains("taints"), "{help}");
    let few = why::explain(&waiting, &Gang::Alone, &mut snapshot, &default_framework(), 1);
    assert_eq!((few.nodes.len(), few.refusals.len()), (1, told.refusals.len()));
}

#[test]
fn nodes_that_take_a_pod_come_first_with_their_scores_and_the_best_is_where_it_goes() {
    let nodes = [
        node("busy", json!({})),
        node("empty", json!({})),
        node(
            "small",
            json!({
        "status": {"allocatable": {"cpu": "100m"}}}),
        ),
    ];
    let mut snapshot = snapshot(&nodes, &[on("a", "busy", requests("1"))]);
    let waiting = pod("p", requests("500m"));
    let told = explain(&waiting, &mut snapshot);
    assert_eq!(told.nodes_feasible, 2);
    assert_eq!((told.message.as_str(), told.help.len()), ("", 0));
    let names: Vec<&str> = told.nodes.iter().map(|verdict| verdict.node.as_str()).collect();
    assert_eq!(names, ["empty", "busy", "small"]);
    for verdict in &told.nodes[..2] {
        let sum: i64 = verdict.scores.iter().map(|score| score.score * score.weight).sum();
        assert_eq!(verdict.total, sum, "{verdict:?}");
    }
    let decisions =
        cycle::schedule(vec![PodInfo::of(&waiting)], &mut snapshot, &default_framework());
    assert!(matches!(&decisions[..], [Decision::Bind { node, .. }] if node == "empty"));
}

#[test]
fn what_is_true_of_the_pod_itself_is_said_first() {
    let told = explain(&pod("p", json!({})), &mut Snapshot::default());
    assert_eq!(told.message, "no nodes available to schedule pods");
    assert!(told.help[0].contains("there are no nodes"), "{:?}", told.help);
    let mut snapshot = snapshot(&[node("a", json!({}))], &[]);
    let mut state = |pod: &Pod| explain(pod, &mut snapshot).state;
    assert_eq!(state(&pod("p", json!({}))), "waits for a node");
    let gated = pod("p", json!({"schedulingGates": [{"name": "quota"}]}));
    let told = state(&gated);
    assert!(told.ends_with("are removed: quota"), "{told}");
    let foreign = pod("p", json!({"schedulerName": "mine"}));
    assert!(state(&foreign).contains("another scheduler, mine"));
    let told = explain(&foreign, &mut snapshot);
    assert!(told.message.ends_with("is named \"mine\": it has default-scheduler"), "{told:?}");
    assert_eq!((told.nodes_total, told.nodes_feasible, told.help.len()), (1, 0, 1));
    // Its own place is not asked alone: the others are told of as well.
    let bound = explain(&on("p", "gone", json!({})), &mut snapshot);
    assert!(bound.state.starts_with("is bound to gone"), "{}", bound.state);
    assert_eq!(bound.nodes_feasible, 1);
    assert_eq!(bound.message, "there is no node \"gone\": nobody runs the pod");
    assert_eq!(explain(&on("p", "a", json!({})), &mut snapshot).message, "");
    let claims = json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]});
    let claims = explain(&pod("p", claims), &mut snapshot);
    assert!(claims.message.contains("persistentvolumeclaim \"c\" not found"), "{}", claims.message);
    assert!(claims.help[0].contains("claims"), "{:?}", claims.help);
}

#[test]
fn what_domains_say_is_told_as_well() {
    let zone = |name: &str, zone: &str| {
        node(name, json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}}))
    };
    let labelled = |mut pod: Pod| {
        pod.metadata.labels = Some([("app".to_string(), "web".to_string())].into());
        pod
    };
    let selector = json!({"matchLabels": {"app": "web"}});
    let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "labelSelector": selector,
        "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}]});
    let nodes = [zone("a", "east"), zone("b", "west")];
    let mut snapshot = snapshot(&nodes, &[labelled(on("one", "a", json!({})))]);
    let waiting = labelled(pod("p", spread));
    let told = explain(&waiting, &mut snapshot);
    assert_eq!(told.nodes_feasible, 1, "{told:?}");
    assert_eq!((told.nodes[0].node.as_str(), told.nodes[0].filter.as_deref()), ("b", None));
    let refused = &told.nodes[1];
    assert_eq!(refused.filter.as_deref(), Some("PodTopologySpread"), "{refused:?}");
    assert!(refused.reasons[0].contains("topology spread constraints"), "{refused:?}");
    // The cycle itself says the same of the pod.
    let decisions =
        cycle::schedule(vec![PodInfo::of(&waiting)], &mut snapshot, &default_framework());
    assert!(
        matches!(&decisions[..], [Decision::Bind { node, .. }] if node == "b"),
        "{decisions:?}"
    );
}

#[test]
fn only_a_node_that_lacks_room_comes_nearest() {
    let nodes = [
        node("small", json!({"status": {"allocatable": {"cpu": "1"}}})),
        node("tainted", json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}})),
    ];
    let lower = json!({"priority": -1});
    let mut taken = requests("600m");
    merge(&mut taken, lower);
    let mut snapshot =
        snapshot(&nodes, &[on("a", "small", taken), on("b", "tainted", requests("1300m"))]);
    let help = |snapshot: &mut Snapshot, cpu: &str| {
        let told = explain(&pod("p", requests(cpu)), snapshot);
        told.help.into_iter().find(|help| help.starts_with("ask for less")).unwrap()
    };
    let leaving = help(&mut snapshot, "800m");
    assert!(leaving.contains("pods of lower priority"), "{leaving}");
    assert!(leaving.ends_with("small comes nearest, and lacks 400m of cpu"), "{leaving}");
    // The other one would lack less of it, and is refused for its taint.
    let larger = help(&mut snapshot, "1800m");
    assert!(larger.contains("larger nodes") && !larger.contains("lower priority"), "{larger}");
    assert!(larger.ends_with("small comes nearest, and lacks 1400m of cpu"), "{larger}");
    let decisions = cycle::schedule(
        vec![PodInfo::of(&pod("p", requests("1800m")))],
        &mut snapshot,
        &default_framework(),
    );
    let [Decision::Refuse { refusal, .. }] = &decisions[..] else { panic!("{decisions:?}") };
    assert!(refusal.told().contains("add larger nodes"), "{}", refusal.told());
    assert!(!refusal.told().contains("lower priority up"), "{}", refusal.told());
}

/// A profile's pods are no other scheduler's.
#[test]
fn a_profiles_pods_wait_for_this_scheduler() {
    let profiles = ["default-scheduler", "packing"].map(|name| (name.into(), default_framework()));
    let profiles = Profiles::new(profiles.into()).unwrap();
    let mut snapshot = snapshot(&[node("a", json!({}))], &[]);
    let packed = pod("p", json!({"schedulerName": "packing"}));
    let told = why::explain(&packed, &Gang::Alone, &mut snapshot, &profiles, 9);
    assert_eq!((told.state.as_str(), told.nodes_feasible), ("waits for a node", 1));
    let foreign = pod("p", json!({"schedulerName": "mine"}));
    let told = why::explain(&foreign, &Gang::Alone, &mut snapshot, &profiles, 9);
    assert!(told.message.ends_with("it has default-scheduler, packing"), "{told:?}");
}

#[test]
fn a_gang_says_for_how_many_there_is_room() {
    let nodes: Vec<Node> = (0..3).map(|n| node(&format!("n{n}"), json!({}))).collect();
    let mut snapshot = snapshot(&nodes, &[]);
    let member = |name: &str| {
        let mut spec = requests("1");
        merge(&mut spec, json!({"workloadRef": {"name": "w", "podGroup": "g"}}));
        pod(name, spec)
    };
    let gang = |count: usize| {
        let one = |n: usize| PodInfo { together: count, ..PodInfo::of(&member(&format!("p{n}"))) };
        Gang::Tried((0..count).map(one).collect())
    };
    let mut told =
        |gang: &Gang| why::explain(&member("p0"), gang, &mut snapshot, &default_framework(), 9);
    let few = told(&gang(8));
    let text = "0/3 nodes are available: 3 Insufficient cpu. pod group n/w/g: there is room for 6 of \
                the 8 pods that are needed at once.";
    assert_eq!((few.message.as_str(), few.nodes_feasible), (text, 3));
    assert!(few.help[0].starts_with("ask for less"), "{:?}", few.help);
    for _ in 0..2 {
        assert_eq!(told(&gang(6)).message, "", "what was tried leaves nothing behind");
    }
    let why = "waiting for the Workload n/w, with its pod group \"g\"";
    let waits = told(&Gang::Waits(why.into(), "create that Workload"));
    assert_eq!(waits.message, format!("0/3 nodes are available: {why}."));
    assert_eq!(waits.help, ["create that Workload"]);
}
