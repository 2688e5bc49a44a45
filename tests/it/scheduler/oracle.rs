//! What the rules say, slowly: every question is answered by looking at all nodes and all pods. It
//! shares no code with the scheduler but the terms of node affinity and the tolerations.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Node, NodeAffinity, NodeSelectorTerm, Pod, PodAffinityTerm, PodSpec, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use wasmfleet::api::placement;
use wasmfleet::api::quantity::Quantity;

pub type Labels = BTreeMap<String, String>;

/// The highest score of a plugin.
const MOST: f64 = 10_000.0;

/// A cluster: nodes, the pods on them, and what tells which pods belong together.
#[derive(Clone, Default)]
pub struct World {
    pub nodes: BTreeMap<String, Node>,
    pub pods: Vec<Pod>,
    pub namespaces: BTreeMap<String, Labels>,
    /// Selectors of Services by namespace and name.
    pub services: BTreeMap<(String, String), Labels>,
}

static NO_LABELS: Labels = Labels::new();

pub fn labels(pod: &Pod) -> &Labels {
    pod.metadata.labels.as_ref().unwrap_or(&NO_LABELS)
}

fn space(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap()
}

fn spec(pod: &Pod) -> &PodSpec {
    pod.spec.as_ref().unwrap()
}

fn is_ending(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn node_labels(node: &Node) -> &Labels {
    node.metadata.labels.as_ref().unwrap_or(&NO_LABELS)
}

fn selects(selector: Option<&LabelSelector>, labels: &Labels) -> bool {
    let Some(selector) = selector else { return false };
    let mut pairs = selector.match_labels.iter().flatten();
    let mut expressions = selector.match_expressions.iter().flatten();
    pairs.all(|(key, value)| labels.get(key) == Some(value))
        && expressions.all(|one| {
            let value = labels.get(&one.key);
            let mut values = one.values.iter().flatten();
            let is_in = values.any(|one| Some(one) == value);
            match one.operator.as_str() {
                "In" => is_in,
                "NotIn" => !is_in,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                other => panic!("{other}"),
            }
        })
}

/// Of the keys that the carrier has, the other has the same value (or another one).
fn agrees(keys: Option<&Vec<String>>, carrier: &Labels, other: &Labels, same: bool) -> bool {
    let mut keys = keys.into_iter().flatten().filter(|key| carrier.contains_key(*key));
    keys.all(|key| (other.get(key) == carrier.get(key)) == same)
}

fn quantity(pod: &Pod, resource: &str) -> f64 {
    let containers = spec(pod).containers.iter();
    let of = |container: &k8s_openapi::api::core::v1::Container| {
        let requests = container.resources.as_ref()?.requests.as_ref()?;
        Some(Quantity::parse(&requests.get(resource)?.0).unwrap().milli() as f64 / 1000.0)
    };
    containers.filter_map(of).sum()
}

fn allocatable(node: &Node, resource: &str) -> f64 {
    let allocatable = node.status.as_ref().unwrap().allocatable.as_ref().unwrap();
    Quantity::parse(&allocatable[resource].0).unwrap().milli() as f64 / 1000.0
}

impl World {
    fn on<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Pod> {
        self.pods.iter().filter(move |pod| spec(pod).node_name.as_deref() == Some(node))
    }

    fn node_of(&self, pod: &Pod) -> Option<&Node> {
        self.nodes.get(spec(pod).node_name.as_deref()?)
    }

    /// The value of a label of the node that a pod is on.
    fn value_of(&self, pod: &Pod, key: &str) -> Option<&String> {
        node_labels(self.node_of(pod)?).get(key)
    }

    fn is_about(&self, carrier: &Pod, term: &PodAffinityTerm, other: &Pod) -> bool {
        let names = term.namespaces.clone().unwrap_or_default();
        let in_space = match (&term.namespace_selector, names.is_empty()) {
            (None, true) => space(other) == space(carrier),
            (selector, _) => {
                let labels = self.namespaces.get(space(other)).unwrap_or(&NO_LABELS);
                names.iter().any(|name| name == space(other)) || selects(selector.as_ref(), labels)
            }
        };
        let (own, others) = (labels(carrier), labels(other));
        in_space
            && selects(term.label_selector.as_ref(), others)
            && agrees(term.match_label_keys.as_ref(), own, others, true)
            && agrees(term.mismatch_label_keys.as_ref(), own, others, false)
    }

    /// Whether a node takes a pod, as all filters have it.
    pub fn fits(&self, pod: &Pod, node: &str) -> bool {
        let node = &self.nodes[node];
        self.admits(pod, node)
            && offers(node, pod)
            && self.has_ports(pod, node)
            && self.has_room(pod, node)
            && self.spreads(pod, node)
            && self.is_near(pod, node)
            && self.is_apart(pod, node)
    }

    fn admits(&self, pod: &Pod, node: &Node) -> bool {
        let cordoned = node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true));
        !cordoned && tolerates(pod, node) && selects_node(pod, node)
    }

    fn has_ports(&self, pod: &Pod, node: &Node) -> bool {
        let name = node.metadata.name.as_deref().unwrap();
        let taken: Vec<Port> = self.on(name).flat_map(ports).collect();
        let is_any = |ip: &str| ip == "0.0.0.0";
        ports(pod).iter().all(|(ip, protocol, port)| {
            let clashes = |(other_ip, other_protocol, other_port): &Port| {
                port == other_port
                    && protocol == other_protocol
                    && (ip == other_ip || is_any(ip) || is_any(other_ip))
            };
            !taken.iter().any(clashes)
        })
    }

    fn has_room(&self, pod: &Pod, node: &Node) -> bool {
        let name = node.metadata.name.as_deref().unwrap();
        let room = |resource: &str| {
            let taken: f64 = self.on(name).map(|one| quantity(one, resource)).sum();
            let wanted = quantity(pod, resource);
            wanted == 0.0 || taken + wanted <= allocatable(node, resource) + 1e-9
        };
        room("cpu") && room("memory") && self.on(name).count() < allocatable(node, "pods") as usize
    }

    fn constraints(&self, pod: &Pod, action: &str) -> Vec<TopologySpreadConstraint> {
        let all = spec(pod).topology_spread_constraints.iter().flatten();
        all.filter(|one| one.when_unsatisfiable == action).cloned().collect()
    }

    fn is_eligible(
        &self,
        pod: &Pod,
        one: &TopologySpreadConstraint,
        keys: &[String],
        node: &Node,
    ) -> bool {
        keys.iter().all(|key| node_labels(node).contains_key(key))
            && (one.node_affinity_policy.as_deref() == Some("Ignore") || selects_node(pod, node))
            && (one.node_taints_policy.as_deref() != Some("Honor") || tolerates(pod, node))
    }

    /// How many pods each domain that matters has.
    fn domains(
        &self,
        pod: &Pod,
        one: &TopologySpreadConstraint,
        keys: &[String],
    ) -> BTreeMap<String, i64> {
        let eligible = |node: &Node| {
            node_labels(node).contains_key(&one.topology_key)
                && self.is_eligible(pod, one, keys, node)
        };
        let mut domains = BTreeMap::new();
        for (name, node) in self.nodes.iter().filter(|(_, node)| eligible(node)) {
            let count = self.on(name).filter(|other| {
                space(other) == space(pod) && !is_ending(other) && is_spread_with(pod, one, other)
            });
            let value = node_labels(node)[&one.topology_key].clone();
            *domains.entry(value).or_default() += count.count() as i64;
        }
        domains
    }

    fn spreads(&self, pod: &Pod, node: &Node) -> bool {
        let hard = self.constraints(pod, "DoNotSchedule");
        let keys: Vec<String> = hard.iter().map(|one| one.topology_key.clone()).collect();
        hard.iter().all(|one| {
            let Some(value) = node_labels(node).get(&one.topology_key).cloned() else {
                return false;
            };
            let domains = self.domains(pod, one, &keys);
            let wanted = one.min_domains.unwrap_or(1) as usize;
            let least = if domains.len() < wanted { None } else { domains.values().min() };
            let own = i64::from(is_spread_with(pod, one, pod));
            let count = domains.get(&value).copied().unwrap_or(0);
            count + own - least.copied().unwrap_or(0) <= i64::from(one.max_skew)
        })
    }

    fn is_near(&self, pod: &Pod, node: &Node) -> bool {
        let terms = near(pod);
        if terms.is_empty() {
            return true;
        }
        let is_all = |other: &&Pod| terms.iter().all(|term| self.is_about(pod, term, other));
        let friends: Vec<&Pod> = self.pods.iter().filter(is_all).collect();
        let own = node_labels(node);
        if !terms.iter().all(|term| own.contains_key(&term.topology_key)) {
            return false;
        }
        let beside = |term: &PodAffinityTerm, friend: &Pod| {
            self.value_of(friend, &term.topology_key) == own.get(&term.topology_key)
        };
        if terms.iter().all(|term| friends.iter().any(|friend| beside(term, friend))) {
            return true;
        }
        let anywhere = friends
            .iter()
            .any(|one| terms.iter().any(|term| self.value_of(one, &term.topology_key).is_some()));
        !anywhere && is_all(&pod)
    }

    fn is_apart(&self, pod: &Pod, node: &Node) -> bool {
        let own = node_labels(node);
        let beside = |key: &str, other: &Pod| {
            own.contains_key(key) && self.value_of(other, key) == own.get(key)
        };
        self.pods.iter().all(|other| {
            let mut mine = apart(pod).iter();
            let mut theirs = apart(other).iter();
            !mine.any(|t| self.is_about(pod, t, other) && beside(&t.topology_key, other))
                && !theirs.any(|t| self.is_about(other, t, pod) && beside(&t.topology_key, other))
        })
    }

    /// The score of each node that takes a pod.
    pub fn scores(&self, pod: &Pod) -> BTreeMap<String, f64> {
        let fitting = self.nodes.keys().filter(|name| self.fits(pod, name));
        let fitting: Vec<&String> = fitting.collect();
        let spread: Vec<Option<f64>> =
            fitting.iter().map(|name| self.crowd(pod, &self.nodes[*name])).collect();
        let liked: Vec<f64> =
            fitting.iter().map(|name| self.liking(pod, &self.nodes[*name])).collect();
        let known = || spread.iter().flatten().copied();
        let (least, most) = (known().fold(f64::MAX, f64::min), known().fold(0.0, f64::max));
        let fewest = liked.iter().copied().fold(f64::MAX, f64::min);
        let greatest = liked.iter().copied().fold(f64::MIN, f64::max);
        let has_soft = !self.soft(pod).is_empty();
        let mut scores = BTreeMap::new();
        for (n, name) in fitting.into_iter().enumerate() {
            let mut score = self.alone(pod, &self.nodes[name]);
            if let (true, Some(crowd)) = (has_soft, spread[n]) {
                let normal = if most <= 0.0 { MOST } else { MOST * (most + least - crowd) / most };
                score += 2.0 * normal;
            }
            if greatest > fewest {
                score += 2.0 * MOST * (liked[n] - fewest) / (greatest - fewest);
            }
            scores.insert(name.clone(), score);
        }
        scores
    }

    /// The scores that look at the node itself.
    fn alone(&self, pod: &Pod, node: &Node) -> f64 {
        let name = node.metadata.name.as_deref().unwrap();
        let taken = |resource: &str| {
            self.on(name).map(|one| quantity(one, resource)).sum::<f64>() + quantity(pod, resource)
        };
        let share = |taken: f64, total: f64| (taken.clamp(0.0, total)) * MOST / total;
        let (cpu, memory) = (allocatable(node, "cpu"), allocatable(node, "memory"));
        let pods = self.on(name).count() as f64 + 1.0;
        let places = allocatable(node, "pods");
        let used_cpu = taken("cpu").max(pods * 0.010);
        let used_memory = taken("memory").max(pods * f64::from(8 << 20));
        let free = share(cpu - used_cpu, cpu)
            + share(memory - used_memory, memory)
            + share(places - pods, places);
        let uneven = (share(taken("cpu"), cpu) - share(taken("memory"), memory)).abs() / 2.0;
        let tainted = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        let soft = tainted.filter(|taint| {
            taint.effect == "PreferNoSchedule"
                && !spec(pod).tolerations.iter().flatten().any(|t| placement::tolerates(t, taint))
        });
        let known = node.status.as_ref().unwrap().images.iter().flatten();
        let known: Vec<&String> = known.flat_map(|image| image.names.iter().flatten()).collect();
        let images: Vec<&String> =
            spec(pod).containers.iter().filter_map(|one| one.image.as_ref()).collect();
        let there = images.iter().filter(|image| known.contains(image)).count();
        let has_images = MOST / 300.0 * there as f64 / images.len().max(1) as f64;
        let terms = node_affinity(pod).and_then(|affinity| {
            affinity.preferred_during_scheduling_ignored_during_execution.as_deref()
        });
        let terms = terms.unwrap_or_default();
        let all: i32 = terms.iter().map(|term| term.weight).sum();
        let met = terms.iter().filter(|term| is_met(&term.preference, node));
        let met: i32 = met.map(|term| term.weight).sum();
        let likes = if all > 0 { MOST * f64::from(met) / f64::from(all) } else { 0.0 };
        has_images + 2.0 * likes + free / 3.0 + MOST - uneven
            + 3.0 * (MOST - soft.count() as f64 * MOST / 4.0).max(0.0)
    }

    /// The soft constraints of a pod, its own or the default ones, and whether they are its own.
    fn soft(&self, pod: &Pod) -> Vec<(TopologySpreadConstraint, bool)> {
        if spec(pod).topology_spread_constraints.as_ref().is_some_and(|all| !all.is_empty()) {
            let own = self.constraints(pod, "ScheduleAnyway");
            return own.into_iter().map(|one| (one, true)).collect();
        }
        let own = labels(pod);
        let mut wanted = Labels::new();
        for ((service_space, _), selector) in &self.services {
            let is_selected = selector.iter().all(|(key, value)| own.get(key) == Some(value));
            if service_space == space(pod) && is_selected {
                wanted.extend(selector.clone());
            }
        }
        if wanted.is_empty() {
            return Vec::new();
        }
        let selector = LabelSelector { match_labels: Some(wanted), match_expressions: None };
        let default = |(key, skew): (&str, i32)| TopologySpreadConstraint {
            topology_key: key.into(),
            max_skew: skew,
            label_selector: Some(selector.clone()),
            ..TopologySpreadConstraint::default()
        };
        let keys = [("kubernetes.io/hostname", 3), ("topology.kubernetes.io/zone", 5)];
        keys.into_iter().map(|one| (default(one), false)).collect()
    }

    /// How crowded a node's domains are; `None` where a key is missing that is needed.
    fn crowd(&self, pod: &Pod, node: &Node) -> Option<f64> {
        let soft = self.soft(pod);
        let own = soft.iter().filter(|(_, own)| *own).map(|(one, _)| one.topology_key.clone());
        let keys: Vec<String> = own.collect();
        let mut crowd = 0.0;
        for (one, is_own) in &soft {
            let Some(value) = node_labels(node).get(&one.topology_key).cloned() else {
                if *is_own { return None } else { continue }
            };
            let domains = self.domains(pod, one, &keys);
            let count = domains.get(&value).copied().unwrap_or(0);
            crowd += count as f64 * (domains.len() as f64 + 2.0).ln();
            crowd += f64::from(one.max_skew - 1);
        }
        Some(crowd)
    }

    /// What the preferred terms of a pod and of all others say about a node.
    fn liking(&self, pod: &Pod, node: &Node) -> f64 {
        let own = node_labels(node);
        let beside = |key: &str, other: &Pod| {
            own.contains_key(key) && self.value_of(other, key) == own.get(key)
        };
        let mut liking = 0;
        for other in &self.pods {
            for (weight, term) in preferences(pod) {
                let counts = self.is_about(pod, term, other) && beside(&term.topology_key, other);
                liking += if counts { weight } else { 0 };
            }
            let required = near(other).iter().map(|term| (1, term));
            for (weight, term) in preferences(other).into_iter().chain(required) {
                let counts = self.is_about(other, term, pod) && beside(&term.topology_key, other);
                liking += if counts { weight } else { 0 };
            }
        }
        f64::from(liking)
    }
}

fn is_spread_with(pod: &Pod, one: &TopologySpreadConstraint, other: &Pod) -> bool {
    selects(one.label_selector.as_ref(), labels(other))
        && agrees(one.match_label_keys.as_ref(), labels(pod), labels(other), true)
}

fn tolerates(pod: &Pod, node: &Node) -> bool {
    let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.all(|taint| {
        taint.effect == "PreferNoSchedule"
            || spec(pod).tolerations.iter().flatten().any(|t| placement::tolerates(t, taint))
    })
}

fn selects_node(pod: &Pod, node: &Node) -> bool {
    let own = node_labels(node);
    let mut selector = spec(pod).node_selector.iter().flatten();
    let required = node_affinity(pod)
        .and_then(|one| one.required_during_scheduling_ignored_during_execution.as_ref());
    selector.all(|(key, value)| own.get(key) == Some(value))
        && required.is_none_or(|one| one.node_selector_terms.iter().any(|term| is_met(term, node)))
}

fn node_affinity(pod: &Pod) -> Option<&NodeAffinity> {
    spec(pod).affinity.as_ref()?.node_affinity.as_ref()
}

fn is_met(term: &NodeSelectorTerm, node: &Node) -> bool {
    placement::term_matches(term, node.metadata.name.as_deref().unwrap(), node_labels(node))
}

/// Address, protocol and number.
type Port = (String, String, i32);

fn ports(pod: &Pod) -> Vec<Port> {
    let ports = spec(pod).containers.iter().flat_map(|one| one.ports.iter().flatten());
    let wanted = ports.filter_map(|port| {
        let ip = port.host_ip.clone().unwrap_or_else(|| "0.0.0.0".into());
        Some((ip, port.protocol.clone().unwrap_or_else(|| "TCP".into()), port.host_port?))
    });
    wanted.collect()
}

/// Whether a node has what a pod's programs need, or tells nothing.
fn offers(node: &Node, pod: &Pod) -> bool {
    let declared = node.status.as_ref().unwrap().declared_features.as_deref().unwrap_or_default();
    let needs = pod.metadata.annotations.as_ref();
    let needs = needs.and_then(|all| all.get("wasmfleet.dev/features"));
    let mut needs = needs.iter().flat_map(|text| text.split(','));
    declared.is_empty() || needs.all(|need| declared.iter().any(|one| one == need))
}

fn near(pod: &Pod) -> &[PodAffinityTerm] {
    let affinity = spec(pod).affinity.as_ref().and_then(|one| one.pod_affinity.as_ref());
    let required =
        affinity.and_then(|one| one.required_during_scheduling_ignored_during_execution.as_deref());
    required.unwrap_or_default()
}

fn apart(pod: &Pod) -> &[PodAffinityTerm] {
    let affinity = spec(pod).affinity.as_ref().and_then(|one| one.pod_anti_affinity.as_ref());
    let required =
        affinity.and_then(|one| one.required_during_scheduling_ignored_during_execution.as_deref());
    required.unwrap_or_default()
}

fn preferences(pod: &Pod) -> Vec<(i32, &PodAffinityTerm)> {
    let Some(affinity) = &spec(pod).affinity else { return Vec::new() };
    let near = affinity.pod_affinity.iter();
    let near = near
        .flat_map(|one| one.preferred_during_scheduling_ignored_during_execution.iter().flatten());
    let apart = affinity.pod_anti_affinity.iter();
    let apart = apart
        .flat_map(|one| one.preferred_during_scheduling_ignored_during_execution.iter().flatten());
    let near = near.map(|one| (one.weight, &one.pod_affinity_term));
    near.chain(apart.map(|one| (-one.weight, &one.pod_affinity_term))).collect()
}
