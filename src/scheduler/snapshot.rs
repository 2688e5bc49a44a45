//! What the scheduler knows of nodes and of the pods on them, reduced to what decisions need, and
//! kept up to date by changes: nothing is counted anew in a cycle.

mod nominations;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};

use super::budgets::{Budgets, Labels};
use super::changes::{Change, Changes};
use super::nominees::Nominees;
use super::pod_info::{self, HostPort, PodInfo};
use super::resources::Resources;
use super::topology::defaults::Defaults;
use super::topology::domains::{Domains, Keys};
use super::topology::{Footprint, KindId, TallyId, Topology};
use super::volumes::Volumes;
use crate::api::ObjectKey;
use crate::api::kinds::storage::VOLUMES_DIR;
use crate::api::quantity::Quantity;
use crate::base::planted::planted;

/// A node as far as scheduling cares, with what its pods have taken. Cheap to clone: a cycle asks
/// what would be if pods of it were not there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeInfo {
    pub name: Arc<str>,
    pub labels: Arc<Labels>,
    pub taints: Arc<Vec<Taint>>,
    pub unschedulable: bool,
    pub allocatable: Arc<Resources>,
    /// How many pods it may run.
    pub allocatable_pods: i64,
    pub requested: Resources,
    pub pods: i64,
    /// The ports of the node that its pods have.
    pub ports: Vec<HostPort>,
    /// Names of images on the node → their size in bytes.
    pub images: Arc<BTreeMap<String, i64>>,
    /// What its runtime offers to programs; nothing is known of nodes that declare nothing.
    pub features: Arc<Vec<String>>,
    /// Whether volumes can be made on it by the provisioner of this program.
    pub keeps_volumes: bool,
}

/// All nodes, the pods placed on them, and the nominees.
#[derive(Clone, Default)]
pub struct Snapshot {
    nodes: Vec<NodeInfo>,
    by_name: HashMap<Arc<str>, usize>,
    /// Where each counted pod is and what it takes; by uid.
    placed: HashMap<Arc<str>, Placed>,
    /// The counted pods of each node, the lowest priority first; of nodes that are not known (yet)
    /// too, so that a node that returns has them.
    residents: HashMap<Arc<str>, BTreeSet<(i32, Arc<str>)>>,
    /// Each set of labels once: the pods of a workload share theirs.
    labels: HashSet<Arc<Labels>>,
    nominees: Nominees,
    /// Nodes on which a place, or room for a nominee, became free.
    freed: BTreeSet<Arc<str>>,
    pub volumes: Volumes,
    pub budgets: Budgets,
    /// What pods mean to each other.
    pub topology: Topology,
    pub defaults: Defaults,
    keys: Keys,
    pub changes: Changes,
}

/// What wakes those who wait: places that became free, and other numbers of pods.
pub struct Signals {
    freed: BTreeSet<Arc<str>>,
    touched: HashSet<TallyId>,
}

/// A pod that is counted on a node.
#[derive(Clone, Debug)]
pub struct Placed {
    pub node: Arc<str>,
    pub key: ObjectKey,
    pub priority: i32,
    /// When its node took it on.
    pub started: Option<Timestamp>,
    pub labels: Arc<Labels>,
    pub kind: KindId,
    pub requests: Resources,
    pub ports: Vec<HostPort>,
    pub claims: Vec<ObjectKey>,
    /// Its deletion is seen.
    pub is_ending: bool,
    /// It was told to make room, or is about to be.
    pub is_preempted: bool,
    /// Placed by us and not yet seen bound.
    is_assumed: bool,
}

impl NodeInfo {
    fn of(node: &Node) -> NodeInfo {
        let spec = node.spec.as_ref();
        let status = node.status.as_ref();
        let allocatable = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        let pods = allocatable.and_then(|a| a.get("pods"));
        let annotations = node.metadata.annotations.as_ref();
        NodeInfo {
            name: node.metadata.name.as_deref().unwrap_or_default().into(),
            labels: Arc::new(node.metadata.labels.clone().unwrap_or_default()),
            taints: Arc::new(spec.and_then(|s| s.taints.clone()).unwrap_or_default()),
            unschedulable: spec.and_then(|s| s.unschedulable).unwrap_or_default(),
            allocatable: Arc::new(Resources::read(allocatable)),
            allocatable_pods: pods
                .and_then(|q| Quantity::parse(&q.0).ok())
                .map_or(0, |quantity| quantity.value()),
            images: Arc::new(images(node)),
            features: Arc::new(
                status.and_then(|s| s.declared_features.clone()).unwrap_or_default(),
            ),
            keeps_volumes: annotations.is_some_and(|all| all.contains_key(VOLUMES_DIR)),
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
            && self.features == other.features
            && self.keeps_volumes == other.keeps_volumes
    }

    /// Counts a pod in.
    pub fn take(&mut self, requests: &Resources, ports: &[HostPort]) {
        self.requested.add(requests, 1);
        self.pods += 1;
        self.ports.extend_from_slice(ports);
    }

    /// Counts a pod out.
    pub fn give_back(&mut self, requests: &Resources, ports: &[HostPort]) {
        self.requested.add(requests, -1);
        self.pods -= 1;
        for port in ports {
            if let Some(at) = self.ports.iter().position(|taken| taken == port) {
                self.ports.swap_remove(at);
            }
        }
    }
}

static NO_LABELS: Labels = Labels::new();

/// A node's index where there are many of them.
fn index_of(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
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
        self.index(name).map(|n| &self.nodes[n])
    }

    /// Where a node is among [`Snapshot::nodes`], until nodes come or go.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.index(name)
    }

    fn index(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The node as a pod may use it: what nominees of its priority or a higher one need is taken.
    /// More of what is taken never makes a filter content, so that this one look is enough.
    pub fn for_pod(&self, index: usize, pod: &PodInfo) -> Cow<'_, NodeInfo> {
        let mut node = Cow::Borrowed(&self.nodes[index]);
        if self.nominees.is_empty() {
            return node;
        }
        for nominee in self.nominees_before(index, pod) {
            node.to_mut().take(&nominee.wants.requests, &nominee.wants.ports);
        }
        node
    }

    /// Takes the labels of a namespace, or its end. Answers whether that may help a refused pod.
    pub fn set_namespace(&mut self, name: &str, labels: Option<&Labels>) -> bool {
        let changed = self.topology.set_namespace(name, labels);
        if changed {
            self.changes.begin_anew();
        }
        changed
    }

    /// The domains that a label divides the nodes into.
    pub fn domains(&mut self, key: &str) -> Arc<Domains> {
        self.keys.get(key, self.changes.generation(), &self.nodes)
    }

    /// Takes a node's new state; what its pods have taken stays. Answers whether a pod that was
    /// refused may fit now: a new list of images, say, only changes scores.
    pub fn set_node(&mut self, node: &Node) -> bool {
        let mut info = NodeInfo::of(node);
        let Some(n) = self.index(&info.name) else {
            for (_, uid) in self.residents.get(&info.name).into_iter().flatten() {
                if let Some(placed) = self.placed.get(uid) {
                    info.take(&placed.requests, &placed.ports);
                }
            }
            let index = self.nodes.len();
            self.by_name.insert(info.name.clone(), index);
            self.nodes.push(info);
            self.count_residents(index, true);
            self.changes.begin_anew();
            return true;
        };
        let old = &mut self.nodes[n];
        info.requested = std::mem::take(&mut old.requested);
        info.ports = std::mem::take(&mut old.ports);
        info.pods = old.pods;
        let changed = !old.filters_alike(&info);
        if old.labels != info.labels || old.taints != info.taints {
            self.changes.begin_anew();
        } else if changed || old.images != info.images {
            self.changes.add(Change::Renewed(index_of(n)));
        }
        *old = info;
        changed
    }

    pub fn remove_node(&mut self, name: &str) {
        let Some(n) = self.by_name.remove(name) else { return };
        // The last node gets the index of the one that goes.
        let last = self.nodes.len() - 1;
        self.count_residents(n, false);
        if last != n {
            self.count_residents(last, false);
        }
        self.nodes.swap_remove(n);
        if let Some(moved) = self.nodes.get(n) {
            self.by_name.insert(moved.name.clone(), n);
            self.count_residents(n, true);
        }
        self.changes.begin_anew();
    }

    /// Counts the pods of a node in or out, for those whom they mean something to.
    fn count_residents(&mut self, index: usize, is_there: bool) {
        let residents = self.residents.get(&self.nodes[index].name).into_iter().flatten();
        for placed in residents.filter_map(|(_, uid)| self.placed.get(uid)) {
            self.topology.count(placed.kind, index_of(index), is_there);
        }
    }

    fn count_kind(&mut self, kind: KindId, index: usize, is_there: bool) {
        let node = index_of(index);
        let tallies = self.topology.count(kind, node, is_there);
        if !tallies.is_empty() {
            self.changes.add(Change::Counted { tallies, node, is_there });
        }
    }

    /// Counts a pod as one of another kind, if it is one now.
    fn set_kind(&mut self, uid: &str, footprint: Footprint) {
        let Some(placed) = self.placed.get_mut(uid) else { return };
        if self.topology.is(placed.kind, &footprint) {
            return;
        }
        let kind = self.topology.add(footprint);
        let before = std::mem::replace(&mut placed.kind, kind);
        if let Some(n) = self.by_name.get(&placed.node).copied() {
            self.count_kind(before, n, false);
            self.count_kind(kind, n, true);
        }
        self.topology.remove(before);
    }

    /// Takes a pod's new state. Answers whether a place became free.
    pub fn set_pod(&mut self, pod: &Pod) -> bool {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
        if !pod_info::holds_place(pod) {
            // An assumed pod is not bound yet in what we see; it keeps its place until the bind
            // fails or is seen.
            let assumed = self.placed.get(uid).is_some_and(|placed| placed.is_assumed);
            return !(assumed && node.is_empty()) && self.remove_pod(uid);
        }
        let is_ending = pod.metadata.deletion_timestamp.is_some();
        let labels = pod.metadata.labels.as_ref();
        let started = pod.status.as_ref().and_then(|status| Some(status.start_time.as_ref()?.0));
        let is_there = self.placed.get(uid).is_some_and(|placed| &*placed.node == node);
        let mut freed = false;
        if !is_there {
            freed = self.remove_pod(uid);
            let space = pod.metadata.namespace.as_deref().unwrap_or_default();
            let claims = pod_info::claims(pod).into_iter();
            let labels = self.shared(labels.unwrap_or(&NO_LABELS));
            let placed = Placed {
                node: node.into(),
                key: ObjectKey::of(&pod.metadata),
                priority: pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or_default(),
                started: None,
                kind: self.topology.add(pod_info::footprint(pod, labels.clone())),
                labels,
                requests: pod_info::requests(pod),
                ports: pod_info::host_ports(pod),
                claims: claims.map(|claim| ObjectKey::new(space, claim.name)).collect(),
                is_ending: false,
                is_preempted: false,
                is_assumed: false,
            };
            self.place(uid, placed);
        }
        let labels = self.shared(labels.unwrap_or(&NO_LABELS));
        if is_there {
            self.set_kind(uid, pod_info::footprint(pod, labels.clone()));
        }
        if let Some(placed) = self.placed.get_mut(uid) {
            placed.is_assumed = false;
            placed.started = started;
            // Until its end is seen, what was decided about it holds.
            placed.is_preempted = match is_ending {
                true => pod_info::is_preempted(pod),
                false => placed.is_preempted && !placed.is_ending,
            };
            placed.is_ending = is_ending;
            let before = std::mem::replace(&mut placed.labels, labels);
            self.unshare(before);
        }
        freed
    }

    /// The one copy of these labels.
    fn shared(&mut self, labels: &Labels) -> Arc<Labels> {
        if let Some(shared) = self.labels.get(labels) {
            return shared.clone();
        }
        let shared = Arc::new(labels.clone());
        self.labels.insert(shared.clone());
        shared
    }

    fn unshare(&mut self, labels: Arc<Labels>) {
        let is_shared = self.labels.get(&labels).is_some_and(|one| Arc::ptr_eq(one, &labels));
        // One in the set, one here.
        if is_shared && Arc::strong_count(&labels) <= 2 {
            self.labels.remove(&labels);
        }
    }

    /// Counts a pod on a node before the bind is seen. A nominee is none any more.
    pub fn assume(&mut self, pod: &PodInfo, node: &str) {
        self.remove_pod(&pod.uid);
        self.end_nomination(&pod.uid, node);
        let labels = self.shared(&pod.labels);
        let placed = Placed {
            node: node.into(),
            key: pod.key.clone(),
            priority: pod.wants.priority,
            started: None,
            kind: self.topology.add(Footprint { labels: labels.clone(), ..pod.footprint() }),
            labels,
            requests: pod.wants.requests.clone(),
            ports: pod.wants.ports.clone(),
            claims: pod.claims(),
            is_ending: false,
            is_preempted: false,
            is_assumed: true,
        };
        if !planted("a place is given away until its pod is seen there") {
            self.place(&pod.uid, placed);
        }
    }

    /// Takes an assumption back; answers whether that made a place free.
    pub fn forget(&mut self, uid: &str) -> bool {
        self.placed.get(uid).is_some_and(|placed| placed.is_assumed) && self.remove_pod(uid)
    }

    /// Takes what would wake others aside, until it is given back or left out.
    pub fn take_signals(&mut self) -> Signals {
        Signals { freed: std::mem::take(&mut self.freed), touched: self.topology.take_touched() }
    }

    /// Gives back what was taken aside, beside what came since.
    pub fn add_signals(&mut self, signals: Signals) {
        self.freed.extend(signals.freed);
        self.topology.touch(signals.touched);
    }

    /// Whether a pod is counted on some node.
    pub fn is_placed(&self, uid: &str) -> bool {
        self.placed.contains_key(uid)
    }

    fn place(&mut self, uid: &str, placed: Placed) {
        if let Some(n) = self.index(&placed.node) {
            self.nodes[n].take(&placed.requests, &placed.ports);
            self.changes.add(Change::Taken(index_of(n)));
            self.count_kind(placed.kind, n, true);
        }
        self.volumes.count_users(&placed.claims, true);
        let uid: Arc<str> = uid.into();
        let residents = self.residents.entry(placed.node.clone()).or_default();
        residents.insert((placed.priority, uid.clone()));
        self.placed.insert(uid, placed);
    }

    /// Removes a pod; answers whether it was counted.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some((_, placed)) = self.take_away(uid) else { return false };
        self.topology.remove(placed.kind);
        self.unshare(placed.labels);
        self.freed.insert(placed.node);
        true
    }

    /// Takes a pod out that [`Snapshot::put_back`] brings back.
    pub fn take_away(&mut self, uid: &str) -> Option<(Arc<str>, Placed)> {
        let (uid, placed) = self.placed.remove_entry(uid)?;
        self.volumes.count_users(&placed.claims, false);
        if let Some(n) = self.index(&placed.node) {
            self.nodes[n].give_back(&placed.requests, &placed.ports);
            self.changes.add(Change::Taken(index_of(n)));
            self.count_kind(placed.kind, n, false);
        }
        if let Some(residents) = self.residents.get_mut(&placed.node) {
            residents.remove(&(placed.priority, uid.clone()));
            if residents.is_empty() {
                self.residents.remove(&placed.node);
            }
        }
        Some((uid, placed))
    }

    /// Brings a pod back that was taken away.
    pub fn put_back(&mut self, uid: &str, placed: Placed) {
        self.place(uid, placed);
    }

    /// The pods of a node whose priority is below this one, with their uids.
    pub fn residents_below(
        &self,
        node: &str,
        priority: i32,
    ) -> impl Iterator<Item = (&Arc<str>, &Placed)> {
        let residents = self.residents.get(node).into_iter().flatten();
        let equals = planted("pods go for those of their own priority");
        let lower =
            residents.take_while(move |(one, _)| *one < priority || (equals && *one == priority));
        lower.filter_map(|(_, uid)| self.placed.get_key_value(uid))
    }

    /// The nodes on which something became free since the last call.
    pub fn take_freed(&mut self) -> BTreeSet<Arc<str>> {
        std::mem::take(&mut self.freed)
    }
}
