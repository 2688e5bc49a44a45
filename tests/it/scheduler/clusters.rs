//! Random clusters with every rule: each placement is checked by the slow [`super::oracle`]. Nothing is
//! violated, nobody waits whom a node takes, and the score is within 1 % of the best.

mod gangs;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use wasmfleet::api::ObjectKey;
use wasmfleet::scheduler::class::Classes;
use wasmfleet::scheduler::cycle::{self, Decision};
use wasmfleet::scheduler::framework::Framework;
use wasmfleet::scheduler::plugins::default_framework;
use wasmfleet::scheduler::pod_info::PodInfo;
use wasmfleet::scheduler::snapshot::Snapshot;

use super::merge;
use super::oracle::{Labels, World, labels};

/// What happens to a cluster; a number means one of the pods that are there then.
#[derive(Clone, Debug)]
enum Step {
    Node(Value),
    NodeGone(String),
    /// So many pods of a template come.
    Pods(Value, usize),
    /// The same as a gang of which all are needed.
    Gang(Value, usize),
    Gone(usize),
    Ends(usize),
    Labelled(usize, &'static str),
    Namespace(&'static str, Labels),
    Service(&'static str, Option<Labels>),
}

const SPACES: [&str; 2] = ["n", "m"];
const APPS: [&str; 3] = ["x", "y", "z"];
const FEATURES: [&str; 3] = ["wasi:cli@0.2", "wasi:http@0.2", "wasi:keyvalue@0.2.0-draft"];
const KEYS: [&str; 3] = ["kubernetes.io/hostname", "topology.kubernetes.io/zone", "rack"];

fn pick<T: Copy>(random: &mut StdRng, list: &[T]) -> T {
    *list.choose(random).unwrap()
}

fn random_node(random: &mut StdRng, name: &str) -> Value {
    let mut labels = json!({"kubernetes.io/hostname": name});
    if random.random_bool(0.85) {
        labels["topology.kubernetes.io/zone"] = pick(random, &["a", "b", "c"]).into();
    }
    if random.random_bool(0.6) {
        labels["rack"] = pick(random, &["1", "2", "3", "4"]).into();
    }
    if random.random_bool(0.3) {
        labels["disk"] = "ssd".into();
    }
    let mut spec = json!({"unschedulable": random.random_bool(0.05)});
    if random.random_bool(0.2) {
        let effect = pick(random, &["NoSchedule", "PreferNoSchedule"]);
        spec["taints"] = json!([{"key": "t", "effect": effect}]);
    }
    let pods = random.random_range(3..12).to_string();
    let cpu = pick(random, &["500m", "1", "2"]);
    let mut status = json!({"allocatable": {"cpu": cpu, "memory": "4Gi", "pods": pods}});
    if random.random_bool(0.3) {
        status["images"] = json!([{"names": ["i"], "sizeBytes": 5}]);
    }
    if random.random_bool(0.4) {
        let count = random.random_range(1..=FEATURES.len());
        status["declaredFeatures"] = FEATURES[..count].into();
    }
    json!({"metadata": {"name": name, "labels": labels}, "spec": spec, "status": status})
}

fn random_selector(random: &mut StdRng) -> Value {
    match random.random_range(0..6) {
        0 => json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["x", "y"]}]}),
        1 => json!({"matchExpressions": [{"key": "v", "operator": "DoesNotExist"}]}),
        2 => json!({}),
        _ => json!({"matchLabels": {"app": pick(random, &APPS)}}),
    }
}

fn random_spread(random: &mut StdRng) -> Value {
    let mut list: Vec<Value> = Vec::new();
    for key in KEYS {
        if !random.random_bool(0.4) {
            continue;
        }
        let action = pick(random, &["DoNotSchedule", "ScheduleAnyway"]);
        let mut one = json!({"maxSkew": random.random_range(1..3), "topologyKey": key,
            "whenUnsatisfiable": action, "labelSelector": random_selector(random)});
        if action == "DoNotSchedule" && random.random_bool(0.2) {
            one["minDomains"] = random.random_range(1..5).into();
        }
        if random.random_bool(0.2) {
            one["matchLabelKeys"] = json!(["v"]);
        }
        if random.random_bool(0.2) {
            one["nodeAffinityPolicy"] = pick(random, &["Honor", "Ignore"]).into();
        }
        if random.random_bool(0.2) {
            one["nodeTaintsPolicy"] = pick(random, &["Honor", "Ignore"]).into();
        }
        list.push(one);
    }
    list.into()
}

fn random_term(random: &mut StdRng) -> Value {
    let mut term =
        json!({"topologyKey": pick(random, &KEYS), "labelSelector": random_selector(random)});
    match random.random_range(0..8) {
        0 => term["namespaces"] = json!([pick(random, &SPACES)]),
        1 => term["namespaceSelector"] = json!({}),
        2 => term["namespaceSelector"] = json!({"matchLabels": {"team": "a"}}),
        3 => term["matchLabelKeys"] = json!(["v"]),
        4 => term["mismatchLabelKeys"] = json!(["v"]),
        _ => {}
    }
    term
}

fn random_affinity(random: &mut StdRng) -> Value {
    let mut affinity = json!({});
    for (kind, chance) in [("podAffinity", 0.25), ("podAntiAffinity", 0.35)] {
        if random.random_bool(chance) {
            let count = random.random_range(1..3);
            let terms: Vec<Value> = (0..count).map(|_| random_term(random)).collect();
            affinity[kind]["requiredDuringSchedulingIgnoredDuringExecution"] = terms.into();
        }
        if random.random_bool(chance) {
            let weight = random.random_range(1..101);
            let term = json!([{"weight": weight, "podAffinityTerm": random_term(random)}]);
            affinity[kind]["preferredDuringSchedulingIgnoredDuringExecution"] = term;
        }
    }
    affinity
}

fn random_pod(random: &mut StdRng) -> Value {
    let mut labels = json!({"app": pick(random, &APPS)});
    if random.random_bool(0.3) {
        labels["v"] = pick(random, &["1", "2"]).into();
    }
    let mut spec = json!({"containers": [{"name": "c", "image": "i", "resources":
        {"requests": {"cpu": pick(random, &["0", "50m", "200m"]), "memory": "64Mi"}}}]});
    if random.random_bool(0.5) {
        spec["topologySpreadConstraints"] = random_spread(random);
    }
    if random.random_bool(0.6) {
        spec["affinity"] = random_affinity(random);
    }
    if random.random_bool(0.2) {
        spec["nodeSelector"] = json!({"disk": "ssd"});
    }
    if random.random_bool(0.15) {
        let rack = json!({"key": "rack", "operator": pick(random, &["In", "NotIn"]),
            "values": [pick(random, &["1", "2"])]});
        let ssd = json!({"key": "disk", "operator": "Exists"});
        spec["affinity"]["nodeAffinity"] = json!({
            "requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [{"matchExpressions": [rack]}]},
            "preferredDuringSchedulingIgnoredDuringExecution":
                [{"weight": 30, "preference": {"matchExpressions": [ssd]}},
                 {"weight": 10, "preference": {"matchExpressions": [rack]}}]});
    }
    if random.random_bool(0.1) {
        let port = json!([{"containerPort": 80, "hostPort": pick(random, &[8080, 8081])}]);
        spec["containers"][0]["ports"] = port;
    }
    let mut annotations = json!({});
    if random.random_bool(0.2) {
        let count = random.random_range(1..=FEATURES.len());
        annotations["wasmfleet.dev/features"] = FEATURES[..count].join(",").into();
    }
    if random.random_bool(0.3) {
        spec["tolerations"] = json!([{"key": "t", "operator": "Exists"}]);
    }
    spec["priority"] = pick(random, &[0, 0, 0, 5]).into();
    json!({"metadata": {"namespace": pick(random, &SPACES), "labels": labels,
        "annotations": annotations}, "spec": spec})
}

fn random_steps(seed: u64) -> Vec<Step> {
    let mut random = StdRng::seed_from_u64(seed);
    let random = &mut random;
    let count = random.random_range(1..9);
    let mut steps: Vec<Step> =
        (0..count).map(|n| Step::Node(random_node(random, &format!("n{n}")))).collect();
    for _ in 0..random.random_range(6..20) {
        steps.push(match random.random_range(0..18) {
            0 => {
                let name = format!("n{}", random.random_range(0..count + 2));
                Step::Node(random_node(random, &name))
            }
            1 => Step::NodeGone(format!("n{}", random.random_range(0..count))),
            2 | 3 => Step::Gone(random.random_range(0..40)),
            4 => Step::Ends(random.random_range(0..40)),
            5 => Step::Labelled(random.random_range(0..40), pick(random, &APPS)),
            6 => {
                let team = [("team".to_string(), pick(random, &["a", "b"]).to_string())];
                Step::Namespace(pick(random, &SPACES), team.into())
            }
            7 => {
                let app = [("app".to_string(), pick(random, &APPS).to_string())];
                Step::Service(pick(random, &SPACES), random.random_bool(0.8).then(|| app.into()))
            }
            8 | 9 => Step::Gang(random_pod(random), random.random_range(2..6)),
            _ => Step::Pods(random_pod(random), random.random_range(1..6)),
        });
    }
    steps
}

/// The scheduler's cluster beside the oracle's.
struct Twins {
    world: World,
    snapshot: Snapshot,
    classes: Classes,
    framework: Framework,
    names: usize,
    placed: usize,
    refused: usize,
    preempted: usize,
    gangs: gangs::Tally,
}

impl Twins {
    fn new() -> Twins {
        Twins {
            world: World::default(),
            snapshot: Snapshot::default(),
            classes: Classes::default(),
            framework: default_framework(),
            names: 0,
            placed: 0,
            refused: 0,
            preempted: 0,
            gangs: gangs::Tally::default(),
        }
    }

    fn run(&mut self, steps: &[Step]) -> Result<(), String> {
        for step in steps {
            self.step(step).map_err(|error| format!("{error}\nat {step:?}"))?;
        }
        Ok(())
    }

    /// One of the pods that are there.
    fn one(&mut self, n: usize) -> Option<usize> {
        n.checked_rem(self.world.pods.len())
    }

    fn remove(&mut self, at: usize) {
        let pod = self.world.pods.remove(at);
        self.snapshot.remove_pod(pod.metadata.uid.as_deref().unwrap());
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Node(value) => {
                let name = value["metadata"]["name"].as_str().unwrap().to_string();
                let node: Node = serde_json::from_value(value.clone()).unwrap();
                self.snapshot.set_node(&node);
                self.world.nodes.insert(name, node);
            }
            Step::NodeGone(name) => {
                self.snapshot.remove_node(name);
                self.world.nodes.remove(name);
            }
            Step::Gone(n) => {
                if let Some(at) = self.one(*n) {
                    self.remove(at);
                }
            }
            Step::Ends(n) => {
                if let Some(at) = self.one(*n) {
                    let time = serde_json::from_value(json!("2026-01-01T00:01:00Z")).unwrap();
                    self.world.pods[at].metadata.deletion_timestamp = Some(time);
                    self.snapshot.set_pod(&self.world.pods[at]);
                }
            }
            Step::Labelled(n, app) => {
                if let Some(at) = self.one(*n) {
                    let mut labels = labels(&self.world.pods[at]).clone();
                    labels.insert("app".into(), (*app).into());
                    self.world.pods[at].metadata.labels = Some(labels);
                    self.snapshot.set_pod(&self.world.pods[at]);
                }
            }
            Step::Namespace(name, labels) => {
                self.snapshot.set_namespace(name, Some(labels));
                self.world.namespaces.insert((*name).into(), labels.clone());
            }
            Step::Service(space, selector) => {
                let key = ObjectKey::new(*space, "s");
                self.snapshot.defaults.set_service(&key, selector.as_ref());
                let services = &mut self.world.services;
                services.remove(&(space.to_string(), "s".to_string()));
                if let Some(selector) = selector {
                    services.insert((space.to_string(), "s".to_string()), selector.clone());
                }
            }
            Step::Pods(template, count) => {
                let pods: Vec<Pod> = (0..*count).map(|_| self.named(template)).collect();
                self.decide(&pods)?;
            }
            Step::Gang(template, count) => self.gang(template, *count)?,
        }
        Ok(())
    }

    fn named(&mut self, template: &Value) -> Pod {
        self.names += 1;
        let name = format!("p{}", self.names);
        let mut pod = template.clone();
        merge(&mut pod, json!({"metadata": {"name": name, "uid": name}}));
        serde_json::from_value(pod).unwrap()
    }

    fn decide(&mut self, pods: &[Pod]) -> Result<(), String> {
        let infos = pods.iter().map(PodInfo::of).collect();
        let decisions =
            cycle::schedule_with(infos, &mut self.snapshot, &self.framework, &mut self.classes);
        let by_name: BTreeMap<&str, &Pod> =
            pods.iter().map(|pod| (pod.metadata.name.as_deref().unwrap(), pod)).collect();
        for decision in decisions {
            match decision {
                Decision::Bind { pod, node } => self.bound(by_name[&*pod.key.name], &node)?,
                Decision::Refuse { pod, refusal, .. } => {
                    let fits = self.world.scores(by_name[&*pod.key.name]);
                    if !fits.is_empty() {
                        let why = refusal.message();
                        return Err(format!("{} waits beside {fits:?}: {why}", pod.key.name));
                    }
                    self.refused += 1;
                }
                Decision::Preempt { pod, preemption, .. } => {
                    let waiting = by_name[&*pod.key.name];
                    let fits = self.world.scores(waiting);
                    if !fits.is_empty() {
                        return Err(format!("{} evicts beside {fits:?}", pod.key.name));
                    }
                    for victim in &preemption.victims {
                        let mut all = self.world.pods.iter();
                        let at = all.position(|one| one.metadata.uid.as_ref() == Some(&victim.uid));
                        let at = at.ok_or("a victim is not there")?;
                        if victim.priority >= pod.wants.priority {
                            return Err(format!("{} is as important", victim.key.name));
                        }
                        self.remove(at);
                    }
                    if !self.world.fits(waiting, &preemption.node) {
                        return Err(format!("{} evicts in vain", pod.key.name));
                    }
                    self.preempted += 1;
                    // What else was decided was decided before the victims were gone.
                    self.take_back(pods, &pod.uid);
                    let info = vec![PodInfo::of(waiting)];
                    let (snapshot, classes) = (&mut self.snapshot, &mut self.classes);
                    let decisions = cycle::schedule_with(info, snapshot, &self.framework, classes);
                    return match &decisions[..] {
                        [Decision::Bind { node, .. }] if *node == preemption.node => {
                            self.place(waiting, node);
                            Ok(())
                        }
                        other => Err(format!("a nominee: {other:?}")),
                    };
                }
                other => return Err(format!("{other:?}")),
            }
        }
        Ok(())
    }

    /// Takes the decisions back that the oracle has not seen, but for one pod.
    fn take_back(&mut self, pods: &[Pod], but: &str) {
        for uid in pods.iter().filter_map(|pod| pod.metadata.uid.as_deref()) {
            let is_known =
                self.world.pods.iter().any(|one| one.metadata.uid.as_deref() == Some(uid));
            if !is_known && uid != but {
                self.snapshot.forget(uid);
                self.snapshot.end_nomination(uid, "");
            }
        }
    }

    fn place(&mut self, pod: &Pod, node: &str) {
        let mut pod = pod.clone();
        pod.spec.as_mut().unwrap().node_name = Some(node.into());
        self.snapshot.set_pod(&pod);
        self.world.pods.push(pod);
        self.placed += 1;
    }

    fn bound(&mut self, pod: &Pod, node: &str) -> Result<(), String> {
        let scores = self.world.scores(pod);
        let name = pod.metadata.name.as_deref().unwrap();
        let Some(score) = scores.get(node) else {
            return Err(format!("{name} must not be on {node}, but on {scores:?}"));
        };
        let best = scores.values().copied().fold(f64::MIN, f64::max);
        if *score < best * 0.99 {
            return Err(format!("{name} goes to {node}: {scores:?}"));
        }
        self.place(pod, node);
        Ok(())
    }
}

/// Leaves steps out for as long as it fails.
fn shrink(mut steps: Vec<Step>) -> (Vec<Step>, String) {
    let fails = |steps: &[Step]| Twins::new().run(steps).err();
    let mut error = fails(&steps).unwrap_or_default();
    let mut at = steps.len();
    while at > 0 {
        at -= 1;
        let mut fewer = steps.clone();
        fewer.remove(at);
        if let Some(still) = fails(&fewer) {
            (steps, error) = (fewer, still);
        }
    }
    (steps, error)
}

#[test]
fn every_placement_is_right() {
    let seeds = std::env::var("WASMFLEET_SIM_SEEDS").ok().and_then(|text| text.parse().ok());
    let (mut placed, mut refused, mut preempted) = (0, 0, 0);
    let mut gangs = gangs::Tally::default();
    for seed in 0..seeds.unwrap_or(30) * 5 {
        let steps = random_steps(seed);
        let mut twins = Twins::new();
        if twins.run(&steps).is_err() {
            let (steps, error) = shrink(steps);
            let steps: Vec<String> = steps.iter().map(|step| format!("{step:?}")).collect();
            panic!("seed {seed}: {error}\n{}", steps.join("\n"));
        }
        placed += twins.placed;
        refused += twins.refused;
        preempted += twins.preempted;
        gangs.add(twins.gangs);
    }
    gangs.check();
    assert!(placed > 500 && refused > 100, "{placed} placed, {refused} refused");
    assert!(preempted > 10, "{preempted} preempted");
}
