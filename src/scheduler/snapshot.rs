//! What the scheduler knows of nodes and pods, reduced to what decisions need, and kept up to date
//! by changes: nothing is counted anew in a cycle.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::api::core::v1::{
    Container, Node, NodeSelector, Pod, PreferredSchedulingTerm, Taint, Toleration,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;

use super::volumes::{ClaimRef, Needs, Volumes};
use crate::api::ObjectKey;
use crate::api::kinds::storage;
use crate::api::quantity::Quantity;

/// An amount of a resource, wide enough for the sum of any number of what a quantity can say.
pub type Amount = i128;

/// Amounts that pods ask for and nodes have. CPU in thousandths of a core, all else in whole units.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Resources {
    pub milli_cpu: Amount,
    pub memory_bytes: Amount,
    /// Extended resources and the rest by name.
    pub others: BTreeMap<String, Amount>,
}

/// A pod as far as scheduling cares. Pods with equal `wants` get equal answers.
#[derive(Clone, Debug, PartialEq)]
pub struct PodInfo {
    pub key: ObjectKey,
    pub uid: String,
    pub wants: std::sync::Arc<Wants>,
    /// What its claims ask of a node, as a cycle found it.
    pub volumes: std::sync::Arc<Needs>,
}

/// The part of a pod's spec that filters and scores read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wants {
    pub node_name: String,
    pub requests: Resources,
    pub node_selector: BTreeMap<String, String>,
    pub required_affinity: Option<NodeSelector>,
    pub preferred_affinity: Vec<PreferredSchedulingTerm>,
    pub tolerations: Vec<Toleration>,
    pub images: Vec<String>,
    pub priority: i32,
    /// The claims that it mounts.
    pub claims: Vec<ClaimRef>,
}

/// A node as far as scheduling cares, with what its pods have taken.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeInfo {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub allocatable: Resources,
    /// How many pods it may run.
    pub allocatable_pods: i64,
    pub requested: Resources,
    pub pods: i64,
    /// Names of images on the node → their size in bytes.
    pub images: BTreeMap<String, i64>,
}

/// All nodes and the pods placed on them.
#[derive(Clone, Default)]
pub struct Snapshot {
    nodes: Vec<NodeInfo>,
    by_name: HashMap<String, usize>,
    /// Where each counted pod is and what it takes; by uid.
    placed: HashMap<String, Placed>,
    /// Usage of nodes that are not known (yet), so that a node that returns has it.
    strays: HashMap<String, BTreeSet<String>>,
    pub volumes: Volumes,
}

#[derive(Clone)]
struct Placed {
    node: String,
    requests: Resources,
    claims: Vec<ObjectKey>,
    /// Placed by us and not yet seen bound.
    assumed: bool,
}

impl Resources {
    fn add(&mut self, other: &Resources, sign: Amount) {
        self.milli_cpu += sign * other.milli_cpu;
        self.memory_bytes += sign * other.memory_bytes;
        for (name, amount) in &other.others {
            *self.others.entry(name.clone()).or_default() += sign * amount;
        }
    }

    fn max(&mut self, other: &Resources) {
        self.milli_cpu = self.milli_cpu.max(other.milli_cpu);
        self.memory_bytes = self.memory_bytes.max(other.memory_bytes);
        for (name, amount) in &other.others {
            let mine = self.others.entry(name.clone()).or_default();
            *mine = (*mine).max(*amount);
        }
    }

    /// Reads a map of quantities; what cannot be read counts as 0 (the API validates them).
    pub fn read(map: Option<&BTreeMap<String, WireQuantity>>) -> Resources {
        let mut resources = Resources::default();
        for (name, amount) in map.into_iter().flatten() {
            let Ok(amount) = Quantity::parse(&amount.0) else { continue };
            match name.as_str() {
                "cpu" => resources.milli_cpu = amount.milli().into(),
                "memory" => resources.memory_bytes = amount.value().into(),
                "pods" => {}
                other => {
                    resources.others.insert(other.into(), amount.value().into());
                }
            }
        }
        resources
    }
}

impl PodInfo {
    pub fn of(pod: &Pod) -> PodInfo {
        PodInfo {
            key: ObjectKey::of(&pod.metadata),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            wants: std::sync::Arc::new(Wants::of(pod)),
            volumes: std::sync::Arc::default(),
        }
    }

    /// The claims that it mounts.
    fn claims(&self) -> Vec<ObjectKey> {
        let space = self.key.namespace.as_str();
        let claims = self.wants.claims.iter();
        claims.map(|claim| ObjectKey::new(space, claim.name.as_str())).collect()
    }
}

impl Wants {
    fn of(pod: &Pod) -> Wants {
        let Some(spec) = &pod.spec else { return Wants::default() };
        let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
        Wants {
            node_name: spec.node_name.clone().unwrap_or_default(),
            requests: requests(pod),
            node_selector: spec.node_selector.clone().unwrap_or_default(),
            required_affinity: affinity
                .and_then(|a| a.required_during_scheduling_ignored_during_execution.clone()),
            preferred_affinity: affinity
                .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.clone())
                .unwrap_or_default(),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            images: spec.containers.iter().filter_map(|c| c.image.clone()).collect(),
            priority: spec.priority.unwrap_or_default(),
            claims: claims(pod),
        }
    }
}

/// The claims that a pod mounts.
fn claims(pod: &Pod) -> Vec<ClaimRef> {
    let name = pod.metadata.name.as_deref();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let claims = volumes.filter_map(|volume| {
        let is_ephemeral = volume.persistent_volume_claim.is_none();
        let name = storage::claim_name(name, volume)?.into_owned();
        Some(ClaimRef { name, is_ephemeral })
    });
    claims.collect()
}

/// A pod's effective request: the sum of its containers and sidecars, or the most that an init
/// container needs beside the sidecars before it, if that is more (KEP-753).
fn requests(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let of = |c: &Container| {
        Resources::read(c.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
    };
    let mut total = Resources::default();
    for container in &spec.containers {
        total.add(&of(container), 1);
    }
    let (mut sidecars, mut most) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let request = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&request, 1);
            total.add(&request, 1);
            most.max(&sidecars);
        } else {
            let mut beside = sidecars.clone();
            beside.add(&request, 1);
            most.max(&beside);
        }
    }
    total.max(&most);
    total.add(&Resources::read(spec.overhead.as_ref()), 1);
    total
}

/// Whether a pod holds its place: bound and not finished.
pub fn holds_place(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
    let bound =
        pod.spec.as_ref().is_some_and(|s| s.node_name.as_deref().is_some_and(|n| !n.is_empty()));
    bound && !matches!(phase, "Succeeded" | "Failed")
}

impl NodeInfo {
    fn of(node: &Node) -> NodeInfo {
        let spec = node.spec.as_ref();
        let status = node.status.as_ref();
        let allocatable = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        let pods = allocatable.and_then(|a| a.get("pods"));
        NodeInfo {
            name: node.metadata.name.clone().unwrap_or_default(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: spec.and_then(|s| s.taints.clone()).unwrap_or_default(),
            unschedulable: spec.and_then(|s| s.unschedulable).unwrap_or_default(),
            allocatable: Resources::read(allocatable),
            allocatable_pods: pods
                .and_then(|q| Quantity::parse(&q.0).ok())
                .map_or(0, |quantity| quantity.value()),
            images: images(node),
            ..NodeInfo::default()
        }
    }

    /// Whether filters say the same about both, as far as pods do not matter.
    fn filters_alike(&self, other: &NodeInfo) -> bool {
        self.labels == other.labels
            && self.taints == other.taints
            && self.unschedulable == other.unschedulable
            && self.allocatable == other.allocatable
            && self.allocatable_pods == other.allocatable_pods
    }

    fn take(&mut self, requests: &Resources, sign: i64) {
        self.requested.add(requests, sign.into());
        self.pods += sign;
    }
}

fn images(node: &Node) -> BTreeMap<String, i64> {
    let list = node.status.as_ref().and_then(|s| s.images.as_ref());
    let mut images = BTreeMap::new();
    for image in list.into_iter().flatten() {
        for name in image.names.iter().flatten() {
            images.insert(name.clone(), image.size_bytes.unwrap_or_default());
        }
    }
    images
}

impl Snapshot {
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.by_name.get(name).map(|n| &self.nodes[*n])
    }

    /// Takes a node's new state; what its pods have taken stays. Answers whether a pod that was
    /// refused may fit now: a new list of images, say, only changes scores.
    pub fn set_node(&mut self, node: &Node) -> bool {
        let mut info = NodeInfo::of(node);
        match self.by_name.get(&info.name) {
            Some(n) => {
                let old = &mut self.nodes[*n];
                info.requested = old.requested.clone();
                info.pods = old.pods;
                let changed = !old.filters_alike(&info);
                *old = info;
                changed
            }
            None => {
                for uid in self.strays.remove(&info.name).unwrap_or_default() {
                    if let Some(placed) = self.placed.get(&uid) {
                        info.take(&placed.requests, 1);
                    }
                }
                self.by_name.insert(info.name.clone(), self.nodes.len());
                self.nodes.push(info);
                true
            }
        }
    }

    pub fn remove_node(&mut self, name: &str) {
        let Some(n) = self.by_name.remove(name) else { return };
        self.nodes.swap_remove(n);
        if let Some(moved) = self.nodes.get(n) {
            self.by_name.insert(moved.name.clone(), n);
        }
        let left = self.placed.iter().filter(|(_, placed)| placed.node == name);
        let uids: BTreeSet<String> = left.map(|(uid, _)| uid.clone()).collect();
        if !uids.is_empty() {
            self.strays.insert(name.to_string(), uids);
        }
    }

    /// Takes a pod's new state. Answers whether a place became free.
    pub fn set_pod(&mut self, pod: &Pod) -> bool {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
        if !holds_place(pod) {
            // An assumed pod is not bound yet in what we see; it keeps its place until the bind
            // fails or is seen.
            let assumed = self.placed.get(uid).is_some_and(|placed| placed.assumed);
            return !(assumed && node.is_empty()) && self.remove_pod(uid);
        }
        if let Some(placed) = self.placed.get_mut(uid)
            && placed.node == node
        {
            placed.assumed = false;
            return false;
        }
        let freed = self.remove_pod(uid);
        let space = pod.metadata.namespace.as_deref().unwrap_or_default();
        let claims = claims(pod).into_iter().map(|claim| ObjectKey::new(space, claim.name));
        let claims = claims.collect();
        let placed = Placed { node: node.into(), requests: requests(pod), claims, assumed: false };
        self.place(uid, placed);
        freed
    }

    /// Counts a pod on a node before the bind is seen.
    pub fn assume(&mut self, pod: &PodInfo, node: &str) {
        self.remove_pod(&pod.uid);
        let (requests, claims) = (pod.wants.requests.clone(), pod.claims());
        self.place(&pod.uid, Placed { node: node.into(), requests, claims, assumed: true });
    }

    /// Takes an assumption back; answers whether that made a place free.
    pub fn forget(&mut self, uid: &str) -> bool {
        self.placed.get(uid).is_some_and(|placed| placed.assumed) && self.remove_pod(uid)
    }

    /// Whether a pod is counted on some node.
    pub fn is_placed(&self, uid: &str) -> bool {
        self.placed.contains_key(uid)
    }

    fn place(&mut self, uid: &str, placed: Placed) {
        match self.by_name.get(&placed.node) {
            Some(n) => self.nodes[*n].take(&placed.requests, 1),
            None => {
                self.strays.entry(placed.node.clone()).or_default().insert(uid.to_string());
            }
        }
        self.volumes.count_users(&placed.claims, true);
        self.placed.insert(uid.to_string(), placed);
    }

    /// Removes a pod; answers whether it was counted.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(placed) = self.placed.remove(uid) else { return false };
        self.volumes.count_users(&placed.claims, false);
        match self.by_name.get(&placed.node) {
            Some(n) => self.nodes[*n].take(&placed.requests, -1),
            None => {
                if let Some(uids) = self.strays.get_mut(&placed.node) {
                    uids.remove(uid);
                    if uids.is_empty() {
                        self.strays.remove(&placed.node);
                    }
                }
            }
        }
        true
    }
}
