//! Node lifecycle: a node whose lease is not renewed is unknown; what is wrong with a node stands on
//! it as taints.
//!
//! ```text
//!   lease renewed ─▶ as the node agent says: Ready True or False
//!   lease quiet for the grace, or held by nobody ─▶ Ready Unknown, its pods not Ready, taints
//!                                                    unreachable
//!   agent tells Ready again ─▶ taints removed
//! ```
//!
//! Heartbeats are judged by how long ago their last change *arrived here*, on the monotonic clock:
//! neither a node's clock nor a jump of ours matters, and after a restart every node has its full
//! grace again. Evicting pods is `taint_eviction`'s; it asks [`is_braked`] first.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, PodCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::ownership::name;
use super::{Controller, Options, Plan, pods};
use crate::api::ObjectKey;
use crate::api::resource::Gvr;
use crate::api::simulated::{lease_name, simulator_of};
use crate::base::planted::planted;
use crate::client::cache::{Changed, View};
use crate::client::event::Notice;

pub const NODE_LEASES: &str = "kube-node-lease";
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
pub const NO_EXECUTE: &str = "NoExecute";
const NO_SCHEDULE: &str = "NoSchedule";
/// Conditions that keep pods away while they are true.
const PRESSURES: &[(&str, &str)] = &[
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
/// Conditions that are unknown with the node.
const TOLD_BY_AGENT: &[&str] = &["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Evictions stop when so many nodes in a hundred are lost, out of at least so many, or when all
/// are: that is a fault of the network or of ours, not of the nodes.
const BRAKE_PERCENT: usize = 55;
const BRAKE_NODES: usize = 3;
/// Pods marked not ready by one plan.
const BURST_PODS: usize = 500;

pub struct NodeLifecycleController {
    grace: Duration,
    startup_grace: Duration,
}

impl NodeLifecycleController {
    pub fn new(options: &Options) -> NodeLifecycleController {
        let (grace, startup_grace) = (options.node_grace, options.node_startup_grace);
        NodeLifecycleController { grace, startup_grace }
    }
}

impl Controller for NodeLifecycleController {
    fn name(&self) -> &'static str {
        "node-lifecycle-controller"
    }

    fn keys(&self, change: &Changed, view: &View) -> Vec<ObjectKey> {
        if change.resource == Gvr::of::<Node>() {
            return vec![change.key.clone()];
        }
        if change.resource == Gvr::of::<Lease>() {
            // A renewal changes nothing but when to look again; the first one and the loss do.
            let (old, new) = change.typed::<Lease>();
            let state = |lease: Option<&Lease>| lease.map(is_released);
            let changed = state(old) != state(new);
            let named = changed && change.key.namespace == NODE_LEASES;
            return named.then(|| ObjectKey::new("", &*change.key.name)).into_iter().collect();
        }
        // A pod that is found ready on a lost node. One that becomes ready there is told of by an agent
        // that lives, and is not contradicted.
        let (old, new) = change.typed::<Pod>();
        let found = new.filter(|_| old.is_none()).filter(|pod| pods::is_ready(pod));
        let node = found.and_then(pods::node_name);
        let node = node.and_then(|node| view.get::<Node>("", node));
        let lost = node.filter(|node| ready(node).is_some_and(|c| c.status == "Unknown"));
        lost.map(|node| ObjectKey::of(&node.metadata)).into_iter().collect()
    }

    fn reads(&self) -> Vec<Gvr> {
        vec![Gvr::of::<Node>(), Gvr::of::<Lease>()]
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(node) = view.get_key::<Node>(key) else { return plan };
        let is_unknown = ready(node).is_some_and(|ready| ready.status == "Unknown");
        let Some(left) = self.left(node, view) else { return plan };
        if left > Duration::ZERO {
            plan.again_after(left);
        } else if !is_unknown {
            // Taints and pods follow when this is seen.
            lose(node, now, &mut plan);
            return plan;
        }
        let mut changed = Node::clone(node);
        if update_taints(&mut changed, now) {
            plan.update(&changed);
        }
        // An agent that renews its lease again tells of its node and its pods next.
        let renewed = !left.is_zero() && view.get::<Lease>(NODE_LEASES, lease(node)).is_some();
        if is_unknown && !renewed {
            mark_pods(view, name(&node.metadata), now, &mut plan);
        }
        plan
    }
}

impl NodeLifecycleController {
    /// How long the node has left until it is taken for lost.
    fn left(&self, node: &Node, view: &View) -> Option<Duration> {
        let name = name(&node.metadata);
        if has_ended(node, view) {
            return Some(Duration::ZERO);
        }
        if let Some(quiet) = view.unchanged_for::<Lease>(NODE_LEASES, lease(node)) {
            return Some(self.grace.saturating_sub(quiet));
        }
        // No lease yet, or none any more: an agent that lives makes one. A simulator has one before
        // its nodes are there, and takes it with it.
        let missing = view.missing_for::<Lease>(NODE_LEASES, lease(node))?;
        if simulator_of(node.metadata.labels.as_ref()).is_some() {
            return Some(self.grace.saturating_sub(missing));
        }
        let quiet = view.unchanged_for::<Node>("", name)?;
        Some(self.startup_grace.saturating_sub(quiet.min(missing)))
    }
}

/// Whether a Lease was held by somebody, and is by nobody now: the end of an agent was seen.
fn is_released(lease: &Lease) -> bool {
    let spec = lease.spec.as_ref();
    spec.is_some_and(|spec| spec.holder_identity.is_none() && spec.renew_time.is_some())
}

fn has_ended(node: &Node, view: &View) -> bool {
    view.get::<Lease>(NODE_LEASES, lease(node)).is_some_and(|lease| is_released(lease))
}

/// The Lease by which a node is alive.
fn lease(node: &Node) -> &str {
    lease_name(name(&node.metadata), node.metadata.labels.as_ref())
}

/// Whether so many nodes are lost, or about to be, that no pod should be evicted for it.
pub fn is_braked(view: &View, grace: Duration) -> bool {
    let mut total = 0;
    let mut lost = 0;
    for node in view.all::<Node>() {
        total += 1;
        lost += usize::from(is_lost(node, view, grace));
    }
    if planted("evictions go on when most nodes are lost") {
        return false;
    }
    let most = total >= BRAKE_NODES && lost * 100 >= total * BRAKE_PERCENT;
    most || (total > 0 && lost == total)
}

/// Whether a node is lost, or about to be: nodes that vanish together are noticed one after another,
/// so half of the grace says enough.
pub fn is_lost(node: &Node, view: &View, grace: Duration) -> bool {
    let quiet = view.unchanged_for::<Lease>(NODE_LEASES, lease(node));
    let fine = ready(node).is_some_and(|ready| ready.status == "True");
    !fine || has_ended(node, view) || quiet.is_some_and(|quiet| quiet > grace / 2)
}

pub fn ready(node: &Node) -> Option<&NodeCondition> {
    condition(node, "Ready")
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|one| one.type_ == kind)
}

/// Everything that the agent told is unknown now.
fn lose(node: &Node, now: Timestamp, plan: &mut Plan) {
    let mut changed = node.clone();
    let status = changed.status.get_or_insert_default();
    let conditions = status.conditions.get_or_insert_default();
    for kind in TOLD_BY_AGENT {
        let old = conditions.iter_mut().find(|condition| condition.type_ == *kind);
        let never = old.is_none();
        let unknown = NodeCondition {
            type_: (*kind).into(),
            status: "Unknown".into(),
            reason: Some(if never { "NodeStatusNeverUpdated" } else { "NodeStatusUnknown" }.into()),
            message: Some(
                if never {
                    "Kubelet never posted node status."
                } else {
                    "Kubelet stopped posting node status."
                }
                .into(),
            ),
            last_heartbeat_time: old.as_ref().and_then(|old| old.last_heartbeat_time.clone()),
            last_transition_time: Some(Time(now)),
        };
        match old {
            Some(old) if old.status == "Unknown" => {}
            Some(old) => *old = unknown,
            None => conditions.push(unknown),
        }
    }
    let text = format!("Node {} status is now: NodeNotReady", name(&node.metadata));
    plan.notices.push(Notice::normal(node, "NodeNotReady", text));
    plan.update_status(&changed);
}

/// The taints that a node's state asks for: key and effect.
fn wanted_taints(node: &Node) -> Vec<(&'static str, &'static str)> {
    let mut wanted = Vec::new();
    match ready(node).map(|ready| ready.status.as_str()) {
        Some("True") => {}
        Some("False") => wanted.extend([(NOT_READY, NO_SCHEDULE), (NOT_READY, NO_EXECUTE)]),
        Some(_) => wanted.extend([(UNREACHABLE, NO_SCHEDULE), (UNREACHABLE, NO_EXECUTE)]),
        // It has not said anything yet.
        None => wanted.push((NOT_READY, NO_SCHEDULE)),
    }
    for (kind, taint) in PRESSURES {
        if condition(node, kind).is_some_and(|condition| condition.status == "True") {
            wanted.push((*taint, NO_SCHEDULE));
        }
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, NO_SCHEDULE));
    }
    wanted
}

fn is_ours(taint: &Taint) -> bool {
    let key = taint.key.as_str();
    [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&key)
        || PRESSURES.iter().any(|(_, taint)| *taint == key)
}

/// Brings the taints that are ours up to date and leaves others alone; answers whether any changed.
fn update_taints(node: &mut Node, now: Timestamp) -> bool {
    let wanted = wanted_taints(node);
    let spec = node.spec.get_or_insert_default();
    let mut taints = spec.taints.take().unwrap_or_default();
    let before = taints.len();
    let is_wanted = |taint: &Taint| wanted.contains(&(taint.key.as_str(), taint.effect.as_str()));
    taints.retain(|taint| !is_ours(taint) || is_wanted(taint));
    let mut changed = taints.len() != before;
    for (key, effect) in &wanted {
        if !taints.iter().any(|taint| taint.key == *key && taint.effect == *effect) {
            taints.push(Taint {
                key: (*key).into(),
                effect: (*effect).into(),
                time_added: Some(Time(now)),
                value: None,
            });
            changed = true;
        }
    }
    spec.taints = Some(taints).filter(|taints| !taints.is_empty());
    changed
}

/// The pods of a lost node are not ready: Services stop sending to them.
fn mark_pods(view: &View, node: &str, now: Timestamp, plan: &mut Plan) {
    let mut ready = view.indexed::<Pod>(node).filter(|pod| pods::is_ready(pod));
    for pod in ready.by_ref().take(BURST_PODS) {
        let mut changed = Pod::clone(pod);
        let status = changed.status.get_or_insert_default();
        for condition in status.conditions.iter_mut().flatten() {
            if condition.type_ == "Ready" {
                *condition = PodCondition {
                    status: "False".into(),
                    reason: Some("NodeNotReady".into()),
                    message: Some("The node does not answer".into()),
                    last_transition_time: Some(Time(now)),
                    ..condition.clone()
                };
            }
        }
        plan.update_status(&changed);
    }
    if ready.next().is_some() {
        plan.again_after(Duration::ZERO);
    }
}
