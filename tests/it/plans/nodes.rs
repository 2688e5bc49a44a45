//! What is planned about nodes and the pods on them.

use super::*;

fn node(name: &str, ready: &str) -> Value {
    json!({"kind": "Node", "metadata": {"name": name}, "spec": {},
        "status": {"conditions": [{"type": "Ready", "status": ready}]}})
}

#[tokio::test(start_paused = true)]
async fn a_quiet_node_is_lost_and_a_cordoned_one_is_tainted() {
    let lease =
        json!({"kind": "Lease", "metadata": {"name": "n1", "namespace": "kube-node-lease"}});
    let objects = Objects::new(&[node("n1", "True"), lease]);
    objects.check("node-lifecycle-controller", "n1", "again after 40s");
    tokio::time::advance(Duration::from_secs(41)).await;
    let text = objects.text(&objects.plan("node-lifecycle-controller", "n1"));
    assert!(text.contains("Kubelet stopped posting node status."), "{text}");
    assert!(text.ends_with("event NodeNotReady: Node n1 status is now: NodeNotReady"), "{text}");
    let mut lost = node("n1", "Unknown");
    lost["spec"]["unschedulable"] = json!(true);
    let objects = Objects::new(&[lost, pod("a", "n1", "True")]);
    let text = objects.text(&objects.plan("node-lifecycle-controller", "n1"));
    for key in ["unreachable", "unschedulable"] {
        assert!(text.contains(&format!("node.kubernetes.io/{key}")), "{text}");
    }
    assert!(text.contains("update pods default/a status"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_lease_nobody_holds_is_lost_at_once() {
    let lease = |holder: Value| {
        json!({"kind": "Lease", "metadata": {"name": "n1", "namespace": "kube-node-lease"},
            "spec": {"holderIdentity": holder, "renewTime": "2026-01-01T00:59:58.000000Z"}})
    };
    let objects = Objects::new(&[node("n1", "True"), lease(json!("n1"))]);
    objects.check("node-lifecycle-controller", "n1", "again after 40s");
    let objects = Objects::new(&[node("n1", "True"), lease(Value::Null)]);
    let text = objects.text(&objects.plan("node-lifecycle-controller", "n1"));
    assert!(text.ends_with("event NodeNotReady: Node n1 status is now: NodeNotReady"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn simulated_nodes_live_by_their_simulators_lease() {
    let lease =
        json!({"kind": "Lease", "metadata": {"name": "sim", "namespace": "kube-node-lease"}});
    let mut simulated = node("sim-7", "True");
    simulated["metadata"]["labels"] = json!({"wasmfleet.dev/simulator": "sim"});
    let objects = Objects::new(&[simulated.clone(), lease]);
    objects.check("node-lifecycle-controller", "sim-7", "again after 40s");
    tokio::time::advance(Duration::from_secs(41)).await;
    let text = objects.text(&objects.plan("node-lifecycle-controller", "sim-7"));
    assert!(text.contains("Kubelet stopped posting node status."), "{text}");
    // One that ended in good order took the Lease with it.
    let objects = Objects::new(&[simulated.clone()]);
    objects.check("node-lifecycle-controller", "sim-7", "again after 40s");
    tokio::time::advance(Duration::from_secs(41)).await;
    let text = objects.text(&objects.plan("node-lifecycle-controller", "sim-7"));
    assert!(text.contains("Kubelet stopped posting node status."), "{text}");
    // Their pods have addresses of another range.
    let objects = Objects::new(&[simulated, node("n1", "True")]);
    let text = objects.text(&objects.plan("node-ipam-controller", "nodes"));
    assert!(text.contains("update nodes n1") && !text.contains("sim-7"), "{text}");
}

#[test]
fn pods_leave_a_tainted_node_when_their_toleration_is_over() {
    let mut lost = node("n1", "Unknown");
    lost["spec"]["taints"] = json!([{"key": "node.kubernetes.io/unreachable",
        "effect": "NoExecute", "timeAdded": "2026-01-01T00:58:00Z"}]);
    let tolerating = |name: &str, seconds: Value| {
        let mut pod = pod(name, "n1", "False");
        pod["spec"]["tolerations"] = json!([{"key": "node.kubernetes.io/unreachable",
            "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]);
        pod
    };
    let all = [
        lost.clone(),
        node("n2", "True"),
        pod("none", "n1", "False"),
        tolerating("long", json!(300)),
        tolerating("over", json!(60)),
        tolerating("ever", Value::Null),
    ];
    let objects = Objects::new(&all);
    let plan = objects.plan("taint-eviction-controller", "n1");
    let text = objects.text(&plan);
    assert!(text.contains("then\ndelete pods default/none\ndelete pods default/over\n"), "{text}");
    assert!(text.ends_with("again after 180s"), "{text}");
    assert!(!text.contains("ever"), "{text}");
    // Two of three nodes are lost: that is no reason to evict.
    let braked =
        [lost.clone(), node("n2", "Unknown"), node("n3", "True"), pod("none", "n1", "False")];
    let braked = Objects::new(&braked);
    let controller = named("taint-eviction-controller");
    let text = braked.text(&braked.plan_by(&*controller, "n1"));
    assert!(text.starts_with("event EvictionsStopped: "), "{text}");
    assert!(text.ends_with("\nagain after 10s") && text.lines().count() == 2, "{text}");
    // It is told once, and so is its end.
    assert_eq!(braked.text(&braked.plan_by(&*controller, "n1")), "again after 10s");
    let back =
        Objects::new(&[lost, node("n2", "True"), node("n3", "True"), pod("none", "n1", "False")]);
    let text = back.text(&back.plan_by(&*controller, "n1"));
    assert!(text.contains("delete pods default/none"), "{text}");
    assert!(text.contains("event EvictionsResumed: "), "{text}");
    assert!(!back.text(&back.plan_by(&*controller, "n1")).contains("Evictions"), "{text}");
}

/// `kubectl taint` leaves the time out.
#[test]
fn a_taint_gets_the_time_that_a_toleration_counts_from() {
    let mut tainted = node("n1", "True");
    tainted["spec"]["taints"] = json!([{"key": "k", "effect": "NoExecute"}]);
    let mut short = pod("short", "n1", "True");
    short["spec"]["tolerations"] = json!([{"key": "k", "operator": "Exists",
        "effect": "NoExecute", "tolerationSeconds": 5}]);
    Objects::new(&[tainted, short]).check(
        "taint-eviction-controller",
        "n1",
        r#"update nodes n1 {"spec":{"taints":[{"effect":"NoExecute","key":"k","timeAdded":"2026-01-01T01:00:00Z"}]}}
           again after 5s"#,
    );
}

#[test]
fn each_node_gets_a_block_of_its_own() {
    let mut first = node("a", "True");
    first["spec"]["podCIDR"] = json!("127.64.0.0/20");
    let objects = Objects::new(&[first, node("b", "True"), node("c", "True")]);
    objects.check(
        "node-ipam-controller",
        "nodes",
        r#"
        update nodes b {"spec":{"podCIDR":"127.64.16.0/20","podCIDRs":["127.64.16.0/20"]}}
        update nodes c {"spec":{"podCIDR":"127.64.32.0/20","podCIDRs":["127.64.32.0/20"]}}
        "#,
    );
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_a_missing_node_goes_after_a_live_check() {
    let objects =
        Objects::new(&[pod("a", "n1", "True"), pod("b", "n2", "True"), node("n2", "True")]);
    tokio::time::advance(Duration::from_secs(40)).await;
    objects.check(
        "pod-garbage-collector-controller",
        "default/a",
        "check absence of nodes n1\nthen\ndelete pods default/a",
    );
    objects.check("pod-garbage-collector-controller", "default/b", "");
}

/// Whether a pod leaves a lost node of a cluster with these other nodes.
fn leaves_with(others: &[Value]) -> bool {
    let mut lost = node("n1", "Unknown");
    lost["spec"]["taints"] = json!([{"key": "node.kubernetes.io/unreachable",
        "effect": "NoExecute", "timeAdded": "2026-01-01T00:58:00Z"}]);
    let mut all = vec![lost, pod("a", "n1", "False")];
    all.extend(others.iter().cloned());
    let objects = Objects::new(&all);
    let text = objects.text(&objects.plan("taint-eviction-controller", "n1"));
    let stays = text.starts_with("event EvictionsStopped: ") && text.ends_with("again after 10s");
    assert!(stays || text.contains("delete pods default/a"), "{text}");
    !stays
}

#[test]
fn nobody_is_evicted_when_every_node_is_lost() {
    assert!(!leaves_with(&[]), "the only node");
    assert!(!leaves_with(&[node("n2", "Unknown")]), "both nodes");
    assert!(leaves_with(&[node("n2", "True")]), "one of two nodes: its pods go to the other");
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_lease_is_deleted_has_its_grace() {
    let lease =
        json!({"kind": "Lease", "metadata": {"name": "n1", "namespace": "kube-node-lease"}});
    let objects = Objects::new(&[node("n1", "True"), lease]);
    tokio::time::advance(Duration::from_secs(39)).await;
    objects.cache.replace::<Lease>(Vec::new(), 6);
    objects.check("node-lifecycle-controller", "n1", "again after 60s");
    tokio::time::advance(Duration::from_secs(61)).await;
    let text = objects.text(&objects.plan("node-lifecycle-controller", "n1"));
    assert!(text.contains("NodeNotReady"), "{text}");
}

#[test]
fn every_pod_of_a_lost_node_is_marked_in_the_end() {
    let mut lost = node("n1", "Unknown");
    lost["spec"]["taints"] = json!([
        {"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"},
        {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]);
    let mut all = vec![lost];
    all.extend((0..501).map(|n| pod(&format!("p{n}"), "n1", "True")));
    let objects = Objects::new(&all);
    let plan = objects.plan("node-lifecycle-controller", "n1");
    assert_eq!(plan.writes.len(), 500);
    assert_eq!(plan.again_after, Some(Duration::ZERO));
}

/// The node's agent may register it again.
#[tokio::test(start_paused = true)]
async fn the_pods_of_a_deleted_node_have_a_grace() {
    let objects = Objects::new(&[pod("a", "n1", "True"), node("n1", "True")]);
    tokio::time::advance(Duration::from_secs(3600)).await;
    objects.check("pod-garbage-collector-controller", "default/a", "");
    objects.cache.replace::<Node>(Vec::new(), 6);
    objects.check("pod-garbage-collector-controller", "default/a", "again after 40s");
    tokio::time::advance(Duration::from_secs(30)).await;
    objects.check("pod-garbage-collector-controller", "default/a", "again after 10s");
    let back: Node = serde_json::from_value(node("n1", "True")).unwrap();
    objects.cache.replace(vec![back], 7);
    tokio::time::advance(Duration::from_secs(30)).await;
    objects.check("pod-garbage-collector-controller", "default/a", "");
}

/// An agent that is back is not contradicted: it tells that its pods are ready, and then its node.
#[test]
fn a_lost_node_that_renews_its_lease_keeps_its_ready_pods() {
    let mut lost = node("n1", "Unknown");
    lost["spec"]["taints"] = json!([
        {"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"},
        {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]);
    let lease =
        json!({"kind": "Lease", "metadata": {"name": "n1", "namespace": "kube-node-lease"}});
    let objects = Objects::new(&[lost, lease, pod("a", "n1", "True")]);
    let plan = objects.plan("node-lifecycle-controller", "n1");
    assert!(plan.writes.is_empty(), "{}", objects.text(&plan));
}

/// A lost node of a zone, with a pod that leaves it at once.
fn lost_in(zone: &str, name: &str) -> [Value; 2] {
    let mut node = node(name, "Unknown");
    node["metadata"]["labels"] = json!({"topology.kubernetes.io/zone": zone});
    node["spec"]["taints"] = json!([{"key": "node.kubernetes.io/unreachable",
        "effect": "NoExecute", "timeAdded": "2026-01-01T00:58:00Z"}]);
    [node, pod(&format!("on-{name}"), name, "False")]
}

fn fine_in(zone: &str, name: &str) -> Value {
    let mut node = node(name, "True");
    node["metadata"]["labels"] = json!({"topology.kubernetes.io/zone": zone});
    node
}

/// What becomes of a node's pods, so many seconds later.
fn emptied(objects: &Objects, controller: &dyn Controller, node: &str, seconds: i64) -> String {
    let now: Timestamp = NOW.parse().unwrap();
    let now = now + jiff::SignedDuration::from_secs(seconds);
    let plan = controller.reconcile(&objects.cache.view(), &ObjectKey::new("", node), now);
    match plan.again_after {
        Some(wait) => format!("waits {}s", wait.as_secs()),
        None if plan.writes.iter().any(|write| matches!(write, Write::Delete { .. })) => {
            "goes".into()
        }
        None => "stays".into(),
    }
}

#[test]
fn lost_nodes_of_a_zone_are_emptied_one_after_the_other() {
    let mut all: Vec<Value> = Vec::new();
    for (zone, name) in [("a", "a1"), ("a", "a2"), ("b", "b1")] {
        all.extend(lost_in(zone, name));
    }
    all.extend(["a3", "a4"].map(|name| fine_in("a", name)));
    all.extend(["b2", "b3", "b4"].map(|name| fine_in("b", name)));
    let objects = Objects::new(&all);
    let controller = named("taint-eviction-controller");
    let at = |node: &str, seconds| emptied(&objects, &*controller, node, seconds);
    assert_eq!(at("a1", 0), "goes");
    assert_eq!(at("a2", 1), "waits 9s");
    assert_eq!(at("b1", 1), "goes", "another zone has a pace of its own");
    assert_eq!(at("a1", 2), "goes", "what was begun is finished");
    assert_eq!(at("a2", 10), "goes");
    // Back, and lost again: it stands in line again.
    let back: Node = serde_json::from_value(fine_in("a", "a1")).unwrap();
    let view = objects.cache.view();
    let others: Vec<Node> = view.all::<Node>().map(|node| Node::clone(node)).collect();
    drop(view);
    let mut nodes: Vec<Node> =
        others.iter().filter(|one| one.metadata.name.as_deref() != Some("a1")).cloned().collect();
    nodes.push(back);
    objects.cache.replace(nodes, 6);
    assert_eq!(at("a1", 11), "stays");
    objects.cache.replace(others, 7);
    assert_eq!(at("a1", 12), "waits 8s");
}

#[test]
fn a_zone_that_is_mostly_lost_is_emptied_slowly_or_not_at_all() {
    let cluster = |lost: usize, fine: usize| {
        let mut all: Vec<Value> = Vec::new();
        (0..lost).for_each(|n| all.extend(lost_in("a", &format!("l{n}"))));
        all.extend((0..fine).map(|n| fine_in("a", &format!("f{n}"))));
        // So that the cluster as a whole is well.
        all.extend((0..200).map(|n| fine_in("b", &format!("b{n}"))));
        Objects::new(&all)
    };
    let second = |objects: &Objects| {
        let controller = named("taint-eviction-controller");
        let first = emptied(objects, &*controller, "l0", 0);
        (first, emptied(objects, &*controller, "l1", 0))
    };
    let told = |first: &str, second: &str| (first.to_string(), second.to_string());
    assert_eq!(second(&cluster(2, 1)), told("goes", "waits 10s"), "two are few");
    assert_eq!(
        second(&cluster(3, 2)),
        told("waits 10s", "waits 10s"),
        "a small zone is left alone"
    );
    assert_eq!(second(&cluster(40, 20)), told("goes", "waits 100s"), "a large one is slow");
    assert_eq!(second(&cluster(4, 0)), told("goes", "waits 10s"), "a zone that is gone as a whole");
}
