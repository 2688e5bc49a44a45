//! Rules about domains, one by one: spread constraints, pod affinity and anti-affinity, what is spread
//! by default, and what wakes who waits for other pods.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use wasmfleet::api::ObjectKey;
use wasmfleet::scheduler::class::Classes;
use wasmfleet::scheduler::cycle::{self, Decision};
use wasmfleet::scheduler::framework::{FilterPlugin, Reasons, Refusal, Wake};
use wasmfleet::scheduler::plugins::default_framework;
use wasmfleet::scheduler::pod_info::PodInfo;
use wasmfleet::scheduler::snapshot::{NodeInfo, Snapshot};

use super::{line, merge, merged, node, pod};

const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";

/// A node of a zone, or of none.
fn zoned(name: &str, zone: &str) -> Node {
    match zone {
        "" => node(name, json!({})),
        zone => node(name, json!({"metadata": {"labels": {ZONE: zone}}})),
    }
}

fn cluster(nodes: &[(&str, &str)]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for (name, zone) in nodes {
        snapshot.set_node(&zoned(name, zone));
    }
    snapshot
}

fn labelled(name: &str, app: &str, spec: Value) -> Pod {
    let mut pod = pod(name, spec);
    pod.metadata.labels = Some([("app".to_string(), app.to_string())].into());
    pod
}

fn runs(name: &str, app: &str, on: &str, spec: Value) -> Pod {
    labelled(name, app, merged(spec, json!({"nodeName": on})))
}

fn spread(constraint: Value) -> Value {
    let mut one = json!({"maxSkew": 1, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "x"}}});
    merge(&mut one, constraint);
    json!({"topologySpreadConstraints": [one]})
}

fn term(app: &str, key: &str) -> Value {
    json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}})
}

fn required(kind: &str, term: Value) -> Value {
    json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
}

fn lines(snapshot: &mut Snapshot, pods: &[Pod]) -> Vec<String> {
    let pods = pods.iter().map(PodInfo::of).collect();
    cycle::schedule(pods, snapshot, &default_framework()).into_iter().map(line).collect()
}

fn refusal(snapshot: &mut Snapshot, pod: &Pod) -> Refusal {
    let pods = vec![PodInfo::of(pod)];
    match cycle::schedule(pods, snapshot, &default_framework()).remove(0) {
        Decision::Refuse { mut refusal, .. } => {
            refusal.preemption = None;
            refusal
        }
        other => panic!("{other:?}"),
    }
}

/// Pods by the zone that they went to.
fn by_zone(lines: &[String], zones: &[(&str, &str)]) -> BTreeMap<String, usize> {
    let zones: BTreeMap<&str, &str> = zones.iter().copied().collect();
    let mut counts = BTreeMap::new();
    for line in lines {
        let (_, node) = line.split_once(" → ").unwrap_or_else(|| panic!("{line}"));
        *counts.entry(zones[node].to_string()).or_default() += 1;
    }
    counts
}

#[test]
fn zones_get_the_same_number_whatever_nodes_they_have() {
    let nodes = [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("c1", "c")];
    let mut snapshot = cluster(&nodes);
    let pods: Vec<Pod> =
        (0..30).map(|n| labelled(&format!("p{n}"), "x", spread(json!({})))).collect();
    let lines = lines(&mut snapshot, &pods);
    assert_eq!(by_zone(&lines, &nodes), [("a", 10), ("b", 10), ("c", 10)].map(own).into());
}

fn own((zone, count): (&str, usize)) -> (String, usize) {
    (zone.into(), count)
}

#[test]
fn a_constraint_refuses_in_kube_schedulers_words() {
    let mut snapshot = cluster(&[("a", "a"), ("b", "b"), ("none", "")]);
    snapshot.set_node(&node(
        "b",
        json!({"metadata": {"labels": {ZONE: "b"}}, "status": {"allocatable": {"pods": "0"}}}),
    ));
    snapshot.set_pod(&runs("there", "x", "a", json!({})));
    let refused = refusal(&mut snapshot, &labelled("p", "x", spread(json!({}))));
    assert_eq!(
        refused.message(),
        "0/3 nodes are available: 1 Too many pods, 1 node(s) didn't match pod topology spread \
         constraints, 1 node(s) didn't match pod topology spread constraints (missing required \
         label)."
    );
    assert!(refused.wakes.iter().any(|wake| matches!(wake, Wake::Tally(_))));
    assert!(refused.wakes.contains(&Wake::NodeGone));
}

#[test]
fn every_field_of_a_constraint_counts() {
    let zones = [("a", "a"), ("b", "b"), ("c", "")];
    let places = |there: &[(&str, &str)], constraint: Value, more: Value| {
        let mut snapshot = cluster(&zones);
        for (n, (app, on)) in there.iter().enumerate() {
            snapshot.set_pod(&runs(&format!("there{n}"), app, on, json!({})));
        }
        let pod = labelled("p", "x", merged(spread(constraint), more));
        lines(&mut snapshot, &[pod]).remove(0)
    };
    let refused = |text: String| text.contains("0/3 nodes are available");
    let nothing = json!({});
    assert_eq!(places(&[("x", "a")], json!({}), nothing.clone()), "p → b");
    assert_eq!(places(&[("y", "a")], json!({}), json!({"nodeSelector": {HOST: "a"}})), "p → a");
    // The other zone is empty, and matters as long as the pod's own selector does not.
    let to_a = json!({"nodeSelector": {HOST: "a"}});
    let ignores = json!({"nodeAffinityPolicy": "Ignore"});
    assert_eq!(places(&[("x", "a")], json!({}), to_a.clone()), "p → a");
    assert!(refused(places(&[("x", "a")], ignores, to_a.clone())));
    let wide = json!({"maxSkew": 2, "nodeAffinityPolicy": "Ignore"});
    assert_eq!(places(&[("x", "a")], wide, to_a), "p → a");
    // Three zones are wanted and there are two: the fewest are 0.
    let there = [("x", "a"), ("x", "b")];
    assert!(refused(places(&there, json!({"minDomains": 3}), nothing.clone())));
    assert!(!refused(places(&there, json!({"minDomains": 2}), nothing.clone())));
    let softly = json!({"whenUnsatisfiable": "ScheduleAnyway"});
    assert_eq!(places(&[("x", "a"), ("x", "a")], softly, nothing), "p → b");
}

#[test]
fn label_keys_narrow_the_selector() {
    let mut snapshot = cluster(&[("a", "a"), ("b", "b")]);
    let of = |name: &str, revision: &str, spec: Value| {
        let mut pod = labelled(name, "x", spec);
        pod.metadata.labels.as_mut().unwrap().insert("v".into(), revision.into());
        pod
    };
    let on_a = json!({"nodeName": "a"});
    snapshot.set_pod(&of("old1", "1", on_a.clone()));
    snapshot.set_pod(&of("old2", "1", on_a));
    let spread = merged(spread(json!({"matchLabelKeys": ["v"]})), json!({}));
    let narrowed = merged(
        spread,
        json!({"nodeSelector": {HOST: "a"},
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": ZONE,
            "whenUnsatisfiable": "DoNotSchedule", "matchLabelKeys": ["v"],
            "nodeAffinityPolicy": "Ignore", "labelSelector": {"matchLabels": {"app": "x"}}}]}),
    );
    assert_eq!(lines(&mut snapshot, &[of("p", "2", narrowed.clone())]), ["p → a"]);
    assert!(refusal(&mut snapshot, &of("q", "1", narrowed)).message().contains("spread"));
    let mut apart = term("x", ZONE);
    apart["mismatchLabelKeys"] = json!(["v"]);
    let apart = required("podAntiAffinity", apart);
    assert_eq!(lines(&mut snapshot, &[of("r", "1", apart)]), ["r → b"], "2 is on a");
}

#[test]
fn leaving_pods_count_for_affinity_and_not_for_spreading() {
    let mut snapshot = cluster(&[("a", "a"), ("b", "b")]);
    let mut leaving = runs("leaving", "x", "a", json!({}));
    snapshot.set_pod(&leaving);
    snapshot.set_pod(&runs("there", "x", "b", json!({})));
    leaving.metadata.deletion_timestamp =
        Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
    snapshot.set_pod(&leaving);
    assert_eq!(lines(&mut snapshot, &[labelled("p", "x", spread(json!({})))]), ["p → a"]);
    let apart = required("podAntiAffinity", term("x", HOST));
    assert!(refusal(&mut snapshot, &labelled("q", "y", apart)).message().contains("2 node(s)"));
}

#[test]
fn pods_of_a_service_or_controller_are_spread_by_default() {
    let nodes = [("a1", "a"), ("a2", "a"), ("b1", "b")];
    let mut snapshot = cluster(&nodes);
    let app = [("app".to_string(), "x".to_string())].into();
    snapshot.defaults.set_service(&ObjectKey::new("n", "s"), Some(&app));
    // One node has many others, and still gets its share.
    for n in 0..20 {
        snapshot.set_pod(&runs(&format!("other{n}"), "y", "b1", json!({})));
    }
    let pods: Vec<Pod> = (0..6).map(|n| labelled(&format!("p{n}"), "x", json!({}))).collect();
    let spread = lines(&mut snapshot, &pods);
    assert_eq!(by_zone(&spread, &nodes)["b"], 2, "{spread:?}");
    let mut alone = cluster(&nodes);
    for n in 0..20 {
        alone.set_pod(&runs(&format!("other{n}"), "y", "b1", json!({})));
    }
    let others = lines(&mut alone, &pods);
    assert_eq!(by_zone(&others, &nodes).get("b"), None, "{others:?}");
}

#[test]
fn the_first_of_those_that_want_to_be_together_goes_anywhere() {
    let nodes = [("a1", "a"), ("b1", "b"), ("b2", "b"), ("none", "")];
    let mut snapshot = cluster(&nodes);
    let near = required("podAffinity", term("x", ZONE));
    let pods: Vec<Pod> = (0..6).map(|n| labelled(&format!("p{n}"), "x", near.clone())).collect();
    let placed = lines(&mut snapshot, &pods);
    assert_eq!(by_zone(&placed, &nodes).len(), 1, "{placed:?}");
    // Another one waits for what is nowhere, until it is somewhere.
    let wants = labelled("q", "y", required("podAffinity", term("z", ZONE)));
    let refused = refusal(&mut snapshot, &wants);
    assert_eq!(
        refused.message(),
        "0/4 nodes are available: 4 node(s) didn't match pod affinity rules."
    );
    let touched = |snapshot: &mut Snapshot| {
        let touched = snapshot.topology.take_touched();
        let waits = |wake: &Wake| matches!(wake, Wake::Tally(one) if touched.contains(one));
        refused.wakes.iter().any(waits)
    };
    touched(&mut snapshot);
    snapshot.set_pod(&runs("other", "y", "b1", json!({})));
    assert!(!touched(&mut snapshot), "that is none of its business");
    snapshot.set_pod(&runs("friend", "z", "b1", json!({})));
    assert!(touched(&mut snapshot));
    assert_eq!(by_zone(&lines(&mut snapshot, &[wants]), &nodes), [own(("b", 1))].into());
}

#[test]
fn those_that_are_there_keep_others_away() {
    let mut snapshot = cluster(&[("a", "a"), ("b", "b")]);
    let shy = required("podAntiAffinity", term("y", HOST));
    snapshot.set_pod(&runs("shy", "x", "a", shy.clone()));
    assert_eq!(lines(&mut snapshot, &[labelled("p", "y", json!({}))]), ["p → b"]);
    snapshot.set_pod(&runs("shy2", "x", "b", shy));
    let refused = refusal(&mut snapshot, &labelled("q", "y", json!({})));
    assert_eq!(
        refused.message(),
        "0/2 nodes are available: 2 node(s) didn't satisfy existing pods anti-affinity rules."
    );
    let apart = required("podAntiAffinity", term("x", HOST));
    let refused = refusal(&mut snapshot, &labelled("r", "z", apart));
    assert_eq!(
        refused.message(),
        "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules."
    );
}

#[test]
fn one_a_host_and_no_more() {
    let nodes: Vec<String> = (0..100).map(|n| format!("n{n:03}")).collect();
    let nodes: Vec<(&str, &str)> = nodes.iter().map(|name| (name.as_str(), "z")).collect();
    let mut snapshot = cluster(&nodes);
    let apart = required("podAntiAffinity", term("x", HOST));
    let pods: Vec<Pod> = (0..101).map(|n| labelled(&format!("p{n}"), "x", apart.clone())).collect();
    let mut placed = lines(&mut snapshot, &pods);
    let last = placed.pop().unwrap();
    assert!(last.contains("100 node(s) didn't match pod anti-affinity rules"), "{last}");
    let mut on: Vec<&str> = placed.iter().filter_map(|line| line.split(" → ").nth(1)).collect();
    on.sort();
    on.dedup();
    assert_eq!(on.len(), 100);
}

#[test]
fn namespaces_are_named_or_selected() {
    let mut snapshot = cluster(&[("a", "a"), ("b", "b")]);
    let team = [("team".to_string(), "t".to_string())].into();
    let mut friend = runs("friend", "x", "b", json!({}));
    friend.metadata.namespace = Some("m".into());
    snapshot.set_pod(&friend);
    let with = |more: Value| {
        let term = merged(term("x", HOST), more);
        labelled("p", "y", required("podAffinity", term))
    };
    let go = |snapshot: &mut Snapshot, pod: &Pod| {
        let text = lines(snapshot, std::slice::from_ref(pod)).remove(0);
        snapshot.forget("p");
        text
    };
    let selected = with(json!({"namespaceSelector": {"matchLabels": {"team": "t"}}}));
    assert!(go(&mut snapshot, &with(json!({}))).contains("affinity rules"));
    assert_eq!(go(&mut snapshot, &with(json!({"namespaces": ["m"]}))), "p → b");
    assert_eq!(go(&mut snapshot, &with(json!({"namespaceSelector": {}}))), "p → b");
    assert!(go(&mut snapshot, &selected).contains("affinity rules"));
    assert!(snapshot.set_namespace("m", Some(&team)), "who waits looks again");
    assert_eq!(go(&mut snapshot, &selected), "p → b");
    snapshot.set_namespace("m", None);
    assert!(go(&mut snapshot, &selected).contains("affinity rules"));
}

#[test]
fn preferences_of_both_sides_are_weighed() {
    let liked = |kind: &str, weight: i32, app: &str| {
        let one = json!([{"weight": weight, "podAffinityTerm": term(app, HOST)}]);
        json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": one}}})
    };
    let nodes = [("a", "a"), ("b", "b"), ("c", "c")];
    let decide = |there: &[Pod], pod: Pod| {
        let mut snapshot = cluster(&nodes);
        for one in there {
            snapshot.set_pod(one);
        }
        lines(&mut snapshot, &[pod]).remove(0)
    };
    let friend = runs("friend", "x", "b", json!({}));
    let near = labelled("p", "y", liked("podAffinity", 10, "x"));
    assert_eq!(decide(std::slice::from_ref(&friend), near), "p → b");
    let far = labelled("p", "y", liked("podAntiAffinity", 10, "x"));
    assert_ne!(decide(&[friend], far), "p → b");
    let plain = || labelled("p", "y", json!({}));
    let wanting = runs("there", "x", "c", required("podAffinity", term("y", HOST)));
    assert_eq!(decide(&[wanting], plain()), "p → c", "a required term is a wish to others");
    let liking = runs("there", "x", "c", liked("podAffinity", 1, "y"));
    let disliking = runs("other", "x", "c", liked("podAntiAffinity", 2, "y"));
    assert_eq!(decide(std::slice::from_ref(&liking), plain()), "p → c");
    assert_ne!(decide(&[liking, disliking], plain()), "p → c");
}

#[test]
fn pods_leave_for_one_that_spreads_or_must_be_apart() {
    let important = json!({"priority": 9});
    let mut snapshot = cluster(&[("a", "a"), ("b", "b")]);
    for (name, on) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b")] {
        snapshot.set_pod(&runs(name, "x", on, json!({})));
    }
    let apart = merged(required("podAntiAffinity", term("x", HOST)), important.clone());
    let text = lines(&mut snapshot, &[labelled("p", "y", apart)]).remove(0);
    assert!(text == "p ⇒ a: without a1, a2" || text == "p ⇒ b: without b1, b2", "{text}");
    let mut snapshot = cluster(&[("a", "a"), ("b", "b")]);
    snapshot.set_node(&node(
        "b",
        json!({"metadata": {"labels": {ZONE: "b"}}, "spec": {"unschedulable": true}}),
    ));
    snapshot.set_pod(&runs("a1", "x", "a", json!({})));
    let spread = merged(spread(json!({})), important);
    assert_eq!(
        lines(&mut snapshot, &[labelled("p", "x", spread)]),
        ["p ⇒ a: without a1"],
        "the empty zone takes nobody, and still is the least"
    );
}

/// Pods of a StatefulSet differ in their labels, and are of one class all the same.
#[test]
fn what_was_found_out_is_used_again_and_mended() {
    let mut snapshot = Snapshot::default();
    for n in 0..300 {
        let zone = ["a", "b", "c"][n % 3];
        snapshot.set_node(&zoned(&format!("n{n:03}"), zone));
    }
    let framework = default_framework();
    let mut classes = Classes::default();
    let hosts = json!({"topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "x"}}},
        {"maxSkew": 1, "topologyKey": HOST, "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "x"}}}]});
    let mut placed: BTreeMap<String, usize> = BTreeMap::new();
    for n in 0..600 {
        let mut pod = labelled(&format!("p{n}"), "x", hosts.clone());
        pod.metadata.labels.as_mut().unwrap().insert("pod-name".into(), format!("p{n}"));
        let pods = vec![PodInfo::of(&pod)];
        let decisions = cycle::schedule_with(pods, &mut snapshot, &framework, &mut classes);
        let [Decision::Bind { node, .. }] = &decisions[..] else { panic!("{decisions:?}") };
        *placed.entry(node.clone()).or_default() += 1;
        if n == 299 {
            assert!(placed.values().all(|count| *count == 1) && placed.len() == 300);
        }
    }
    assert!(placed.values().all(|count| *count == 2));
    assert_eq!(classes.len(), 1, "they share one class");
}

/// Counts the questions to nodes.
struct Counting(Arc<AtomicUsize>);

impl FilterPlugin for Counting {
    fn name(&self) -> &'static str {
        "Counting"
    }

    fn filter(&self, _: &PodInfo, _: &NodeInfo) -> Result<(), Reasons> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn depends_on_pods(&self) -> bool {
        true
    }

    fn woken_by(&self) -> &'static [Wake] {
        &[]
    }
}

#[test]
fn a_decision_asks_only_the_nodes_that_changed() {
    const NODES: usize = 300;
    const PODS: usize = 400;
    let mut snapshot = Snapshot::default();
    for n in 0..NODES {
        snapshot.set_node(&zoned(&format!("n{n:03}"), ["a", "b", "c"][n % 3]));
    }
    let asked = Arc::new(AtomicUsize::new(0));
    let mut framework = default_framework();
    framework.filters.push(Box::new(Counting(asked.clone())));
    // Two workloads, whose pods come by turns.
    let pod = |n: usize| match n % 2 {
        0 => labelled(&format!("p{n}"), "x", spread(json!({}))),
        _ => labelled(&format!("p{n}"), "y", required("podAntiAffinity", term("y", HOST))),
    };
    let pods = (0..PODS).map(|n| PodInfo::of(&pod(n))).collect();
    let decisions = cycle::schedule(pods, &mut snapshot, &framework);
    assert!(decisions.iter().all(|one| matches!(one, Decision::Bind { .. })));
    // Each class asks all nodes once, and then the node of each placement.
    let most = 2 * NODES + 2 * PODS;
    let asked = asked.load(Ordering::Relaxed);
    assert!(asked <= most, "{asked} questions");
}
