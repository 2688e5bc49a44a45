//! The scheduler's cycle: nodes and pods in, decisions out, no cluster. Its loop is in the simulation
//! too.

mod abuse;
mod clusters;
mod config;
mod domains;
mod features;
mod groups;
mod oracle;
mod preemption;
mod volumes;
mod why;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};
use wasmfleet::api::{ApiError, Object, Raw};
use wasmfleet::base::clock::VirtualClock;
use wasmfleet::client::cache::Cache;
use wasmfleet::client::{
    Api, Client, DeleteOptions, ListOptions, Patch, RawList, Target, WatchOptions, WatchStream,
    WriteOptions,
};
use wasmfleet::scheduler::cycle::{self, Decision};
use wasmfleet::scheduler::framework::{FilterPlugin, Reasons, Wake};
use wasmfleet::scheduler::plugins::default_framework;
use wasmfleet::scheduler::pod_info::PodInfo;
use wasmfleet::scheduler::snapshot::{NodeInfo, Snapshot};
use wasmfleet::scheduler::volumes::Step;
use wasmfleet::scheduler::{Options, Scheduler};

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
        Decision::Provide { pod, node, steps } => {
            let step = |step: &Step| match step {
                Step::Give { claim, volume } => {
                    format!("{} gets {}", claim.key.name, volume.volume)
                }
                Step::Select { claim } => format!("{} is made", claim.key.name),
            };
            let steps: Vec<String> = steps.iter().map(step).collect();
            format!("{} ⇢ {node}: {}", pod.key.name, steps.join(", "))
        }
        Decision::Refuse { pod, mut refusal, .. } => {
            // What is told of preemption has tests of its own.
            refusal.preemption = None;
            format!("{}: {}", pod.key.name, refusal.message())
        }
        Decision::Preempt { pod, preemption, .. } => {
            let victims = preemption.victims.iter().map(|victim| victim.key.name.as_str());
            let victims: Vec<&str> = victims.collect();
            format!("{} ⇒ {}: without {}", pod.key.name, preemption.node, victims.join(", "))
        }
        Decision::PreemptForGang(preemption) => {
            format!("{} pods get room", preemption.members.len())
        }
        Decision::Hold { pod, .. } => format!("{} waits for volumes", pod.key.name),
        Decision::Later { pod } => format!("{} comes later", pod.key.name),
        Decision::Fail { pod, text } => format!("{}: {text}", pod.key.name),
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
          taint(s), 1 node(s) were unschedulable."
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
          had untolerated taint(s)."
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
    assert!(snapshot.forget("p"), "that frees its place");
    assert_eq!(decide(&mut snapshot, "q"), "q → a");
    let mut bound = pod("q", json!({"nodeName": "a"}));
    assert!(!snapshot.set_pod(&bound), "an assumed pod that is seen bound frees nothing");
    bound.status = serde_json::from_value(json!({"phase": "Succeeded"})).unwrap();
    assert!(snapshot.set_pod(&bound));
    assert_eq!(decide(&mut snapshot, "r"), "r → a");
}

#[test]
fn all_shortages_of_a_node_are_told() {
    let small = node("a", json!({"status": {"allocatable": {"cpu": "1", "memory": "1Mi"}}}));
    let wants = json!({"cpu": "2", "memory": "2Mi", "example.com/gpu": "1"});
    let spec = json!({"containers": [{"name": "c", "resources": {"requests": wants}}]});
    assert_eq!(
        schedule(vec![small], vec![pod("p", spec)]),
        ["p: 0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient example.com/gpu, \
          1 Insufficient memory."]
    );
}

#[test]
fn huge_requests_are_added_up_exactly() {
    let huge = json!({"cpu": "9E", "memory": "9E"});
    let container = json!({"name": "c", "image": "i", "resources": {"requests": huge}});
    let spec = json!({"nodeName": "a", "containers": [container.clone(), container]});
    let mut snapshot = Snapshot::default();
    snapshot.set_node(&node("a", json!({})));
    let mut bound = vec![pod("huge", spec.clone()), pod("huger", spec.clone())];
    bound.push(pod("small", merged(requests("1900m"), json!({"nodeName": "a"}))));
    for pod in &bound {
        snapshot.set_pod(pod);
    }
    let framework = default_framework();
    let decide = |snapshot: &mut Snapshot, pod: &Pod| {
        line(cycle::schedule(vec![PodInfo::of(pod)], snapshot, &framework).remove(0))
    };
    let refused = "p: 0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory.";
    assert_eq!(decide(&mut snapshot, &pod("p", merged(spec, json!({"nodeName": ""})))), refused);
    snapshot.remove_pod("huge");
    snapshot.remove_pod("huger");
    let text = decide(&mut snapshot, &pod("q", requests("200m")));
    assert_eq!(
        text, "q: 0/1 nodes are available: 1 Insufficient cpu.",
        "the small one still counts"
    );
    assert_eq!(decide(&mut snapshot, &pod("r", requests("100m"))), "r → a");
}

fn merged(mut into: Value, from: Value) -> Value {
    merge(&mut into, from);
    into
}

#[test]
fn a_new_list_of_images_helps_no_refused_pod() {
    let mut snapshot = Snapshot::default();
    assert!(snapshot.set_node(&node("a", json!({}))));
    let image = json!({"status": {"images": [{"names": ["hello:v1"], "sizeBytes": 1}]}});
    assert!(!snapshot.set_node(&node("a", image)));
    assert_eq!(snapshot.node("a").unwrap().images.len(), 1, "scores see it");
    assert!(snapshot.set_node(&node("a", json!({"spec": {"unschedulable": true}}))));
}

/// Panics over pods of one image.
struct Brittle;

impl FilterPlugin for Brittle {
    fn name(&self) -> &'static str {
        "Brittle"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Reasons> {
        assert!(node.pods == 0 || pod.wants.images != ["bad"], "as it is to be");
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
fn a_plugin_that_panics_costs_only_the_pods_it_panics_over() {
    let mut snapshot = Snapshot::default();
    snapshot.set_node(&node("a", json!({})));
    let mut framework = default_framework();
    framework.filters.push(Box::new(Brittle));
    let bad = json!({"containers": [{"name": "c", "image": "bad"}]});
    let pods = [pod("bad-1", bad.clone()), pod("bad-2", bad), pod("good", json!({}))]
        .map(|pod| PodInfo::of(&pod));
    let decisions = cycle::schedule(pods.to_vec(), &mut snapshot, &framework);
    let lines: Vec<String> = decisions.into_iter().map(line).collect();
    let failed = "the scheduler failed: as it is to be";
    assert_eq!(lines, [format!("bad-1: {failed}"), format!("bad-2: {failed}"), "good → a".into()]);
    assert_eq!(snapshot.nodes()[0].pods, 1, "what was assumed for them is taken back");
}

/// Answers writes when it is let; the rest is not asked for.
struct Slow {
    gate: Semaphore,
    bound: Mutex<Vec<String>>,
    /// How often the bindings of these pods fail.
    fails: Mutex<HashMap<String, usize>>,
}

#[async_trait::async_trait]
impl Api for Slow {
    async fn get(&self, target: &Target) -> Result<Raw, ApiError> {
        Err(ApiError::not_found(&target.resource, ""))
    }

    async fn list(&self, _: &Target, _: &ListOptions) -> Result<RawList, ApiError> {
        Err(ApiError::unavailable("not here"))
    }

    async fn watch(&self, _: &Target, _: &WatchOptions) -> Result<WatchStream, ApiError> {
        Err(ApiError::unavailable("not here"))
    }

    async fn create(
        &self,
        target: &Target,
        object: Object,
        _: &WriteOptions,
    ) -> Result<Raw, ApiError> {
        let name = target.name.clone().unwrap_or_default();
        if let Some(times @ 1..) = self.fails.lock().unwrap().get_mut(&name) {
            *times -= 1;
            return Err(ApiError::unavailable("not now"));
        }
        self.bound.lock().unwrap().push(name);
        Ok(Raw(object.into_value().to_string().into()))
    }

    async fn update(&self, _: &Target, _: Object, _: &WriteOptions) -> Result<Raw, ApiError> {
        Err(ApiError::unavailable("not here"))
    }

    async fn patch(&self, target: &Target, _: Patch, _: &WriteOptions) -> Result<Raw, ApiError> {
        let _pass = self.gate.acquire().await.unwrap();
        Err(ApiError::modified(&target.resource, ""))
    }

    async fn delete(&self, _: &Target, _: &DeleteOptions) -> Result<Raw, ApiError> {
        Err(ApiError::unavailable("not here"))
    }

    async fn get_bytes(&self, _: &str) -> Result<Bytes, ApiError> {
        Err(ApiError::unavailable("not here"))
    }
}

/// A node comes between the decision that nobody takes the pods and the telling of it.
#[tokio::test(start_paused = true)]
async fn no_change_is_missed_between_deciding_and_telling() {
    const PODS: usize = 200;
    let api = Arc::new(Slow {
        gate: Semaphore::new(0),
        bound: Mutex::default(),
        fails: Mutex::default(),
    });
    let cache = Cache::new();
    cache.add::<Node>();
    cache.add::<Pod>();
    let clock = Arc::new(VirtualClock::new("2026-01-01T00:00:00Z".parse().unwrap()));
    let told = Arc::new(Notify::new());
    let telling = told.clone();
    let scheduler = Scheduler::new(
        Client::new(api.clone(), "test"),
        &cache,
        clock,
        Arc::new(move |_, _| telling.notify_one()),
        Options::default(),
    );
    cache.replace((0..PODS).map(|n| pod(&format!("p{n}"), json!({}))).collect(), 1);
    let running = tokio::spawn(async move { scheduler.run().await });
    told.notified().await;
    cache.replace(vec![node("a", json!({"status": {"allocatable": {"pods": "1000"}}}))], 2);
    api.gate.add_permits(PODS);
    // Long enough for every back-off, and far less than the retry without a reason.
    tokio::time::sleep(std::time::Duration::from_secs(15)).await;
    running.abort();
    assert_eq!(api.bound.lock().unwrap().len(), PODS);
}
