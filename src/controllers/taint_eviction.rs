//! Taint eviction: pods leave a node with a NoExecute taint that they do not tolerate, at once or
//! when the seconds of their toleration are over. Lost nodes are emptied one after the other
//! ([`super::eviction_rate`]), and when most are lost at once nobody is evicted for it: mass absence
//! is no evidence for mass deletion.
//! Source: k8s.io/kubernetes pkg/controller/tainteviction.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::eviction_rate::{EvictionRate, Leave};
use super::node_lifecycle::{NO_EXECUTE, NOT_READY, UNREACHABLE, is_braked};
use super::ownership::name;
use super::{Controller, Options, Plan, pods};
use crate::api::ObjectKey;
use crate::api::placement::tolerates;
use crate::api::resource::Gvr;
use crate::base::planted::planted;
use crate::client::cache::{Changed, View};
use crate::client::event::Notice;

/// Pods evicted from a node by one plan.
const BURST_PODS: usize = 100;
/// While evictions are stopped, they are looked at again this often.
const BRAKED_AGAIN: Duration = Duration::from_secs(10);

pub struct TaintEvictionController {
    grace: Duration,
    rate: EvictionRate,
}

impl TaintEvictionController {
    pub fn new(options: &Options) -> TaintEvictionController {
        TaintEvictionController { grace: options.node_grace, rate: EvictionRate::default() }
    }
}

impl Controller for TaintEvictionController {
    fn name(&self) -> &'static str {
        "taint-eviction-controller"
    }

    fn keys(&self, change: &Changed, view: &View) -> Vec<ObjectKey> {
        if change.resource == Gvr::of::<Node>() {
            let (old, new) = change.typed::<Node>();
            let taints = |node: Option<&Node>| node.and_then(|n| n.spec.as_ref()?.taints.clone());
            let differ = old.is_none() || taints(old) != taints(new);
            return differ.then(|| change.key.clone()).into_iter().collect();
        }
        let (old, new) = change.typed::<Pod>();
        let Some(node) = new.and_then(pods::node_name) else { return Vec::new() };
        let tolerations = |pod: &Pod| pod.spec.as_ref().and_then(|s| s.tolerations.clone());
        let same = old.is_some_and(|old| {
            pods::node_name(old) == Some(node) && Some(tolerations(old)) == new.map(tolerations)
        });
        let node = view.get::<Node>("", node).filter(|node| !same && has_no_execute(node));
        node.map(|node| ObjectKey::of(&node.metadata)).into_iter().collect()
    }

    fn reads(&self) -> Vec<Gvr> {
        vec![Gvr::of::<Node>(), Gvr::of::<Pod>()]
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(node) = view.get_key::<Node>(key).filter(|node| has_no_execute(node)) else {
            self.rate.forget(&key.name);
            return plan;
        };
        let mut due: Vec<(&Pod, bool)> = Vec::new();
        let mut waits = false;
        for pod in view.indexed::<Pod>(name(&node.metadata)).filter(|pod| pods::is_active(pod)) {
            match leaves(pod, node, now) {
                Leaves::Never => {}
                Leaves::In(wait, _) if wait > Duration::ZERO => {
                    plan.again_after(wait);
                    waits = true;
                }
                Leaves::In(_, node_lost) => due.push((pod, node_lost)),
            }
        }
        if due.iter().any(|(_, node_lost)| *node_lost)
            && let Some(wait) = self.wait(node, view, now, &mut plan)
        {
            due.retain(|(_, node_lost)| !node_lost);
            plan.again_after(wait);
        }
        if due.len() > BURST_PODS {
            plan.again_after(Duration::ZERO);
            due.truncate(BURST_PODS);
        }
        if waits && no_execute(node).any(|taint| taint.time_added.is_none()) {
            plan.update(&timed(node, now));
        }
        evict(&due, now, &mut plan);
        plan
    }
}

impl TaintEvictionController {
    /// How long the pods of a lost node stay, beyond what they tolerate. That they stay for as long as
    /// most nodes are lost is told once, and its end too.
    fn wait(&self, node: &Node, view: &View, now: Timestamp, plan: &mut Plan) -> Option<Duration> {
        let leave = match is_braked(view, self.grace) {
            true => Leave::Stopped,
            false => self.rate.ask(node, view, self.grace, now),
        };
        let is_stopped = leave == Leave::Stopped;
        if self.rate.note_stopped(name(&node.metadata), is_stopped) {
            plan.notices.push(told_of_stop(node, is_stopped));
        }
        match leave {
            Leave::Now => None,
            Leave::After(wait) => Some(wait),
            Leave::Stopped => Some(BRAKED_AGAIN),
        }
    }
}

fn told_of_stop(node: &Node, is_stopped: bool) -> Notice {
    let node_name = name(&node.metadata);
    if is_stopped {
        let text = format!(
            "Pods of node {node_name} are not evicted: most nodes of the cluster or of its zone are \
             lost, which is a fault of the network more likely than of the nodes"
        );
        return Notice::warning(node, "EvictionsStopped", text);
    }
    let text = format!("Pods of node {node_name} are evicted again: most nodes are there");
    Notice::normal(node, "EvictionsResumed", text)
}

/// The node whose taints tell since when they are there, which `kubectl taint` leaves out: the
/// seconds of tolerations count from then on.
fn timed(node: &Node, now: Timestamp) -> Node {
    let mut node = node.clone();
    let taints = node.spec.iter_mut().flat_map(|spec| spec.taints.iter_mut().flatten());
    for taint in taints.filter(|taint| taint.effect == NO_EXECUTE) {
        taint.time_added.get_or_insert(Time(now));
    }
    node
}

/// When a pod leaves.
enum Leaves {
    Never,
    /// After this time; and whether only for the loss of the node.
    In(Duration, bool),
}

fn no_execute(node: &Node) -> impl Iterator<Item = &Taint> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.filter(|taint| taint.effect == NO_EXECUTE)
}

fn has_no_execute(node: &Node) -> bool {
    no_execute(node).next().is_some()
}

fn leaves(pod: &Pod, node: &Node, now: Timestamp) -> Leaves {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref());
    let tolerations = tolerations.unwrap_or_default();
    let (mut lost, mut other) = (None, None);
    for taint in no_execute(node) {
        let Some(wait) = tolerated_for(taint, tolerations, now) else { continue };
        let is_loss = [NOT_READY, UNREACHABLE].contains(&taint.key.as_str());
        let slot: &mut Option<Duration> = if is_loss { &mut lost } else { &mut other };
        *slot = Some(slot.map_or(wait, |before| before.min(wait)));
    }
    match (lost, other) {
        (None, None) => Leaves::Never,
        // A reason beside the loss of the node counts where it is due no later.
        (Some(lost), Some(other)) if lost < other => Leaves::In(lost, true),
        (_, Some(other)) => Leaves::In(other, false),
        (Some(lost), None) => Leaves::In(lost, true),
    }
}

/// How long a taint is still tolerated; `None` for ever.
fn tolerated_for(taint: &Taint, tolerations: &[Toleration], now: Timestamp) -> Option<Duration> {
    let mut matching = tolerations.iter().filter(|one| tolerates(one, taint)).peekable();
    if matching.peek().is_none() {
        return Some(Duration::ZERO);
    }
    let seconds = matching.filter_map(|one| one.toleration_seconds).min()?;
    let seconds = if planted("tolerationSeconds are not waited for") { 0 } else { seconds };
    let since = taint.time_added.as_ref().map_or(now, |time| time.0);
    let left = SignedDuration::from_secs(seconds.max(0)) - now.duration_since(since);
    Some(Duration::try_from(left).unwrap_or(Duration::ZERO))
}

/// Says why on each pod, then deletes it.
fn evict(due: &[(&Pod, bool)], now: Timestamp, plan: &mut Plan) {
    if due.is_empty() {
        return;
    }
    for (pod, _) in due {
        if pods::condition(pod, "DisruptionTarget").is_some() {
            continue;
        }
        let mut changed = Pod::clone(pod);
        let status = changed.status.get_or_insert_default();
        status.conditions.get_or_insert_default().push(PodCondition {
            type_: "DisruptionTarget".into(),
            status: "True".into(),
            reason: Some("DeletionByTaintManager".into()),
            message: Some("Taint manager: deleting due to NoExecute taint".into()),
            last_transition_time: Some(Time(now)),
            ..PodCondition::default()
        });
        plan.update_status(&changed);
    }
    plan.then();
    for (pod, _) in due {
        plan.delete(*pod);
        let key = ObjectKey::of(&pod.metadata);
        let text = format!("Marking for deletion Pod {key}");
        plan.notices.push(Notice::normal(*pod, "TaintManagerEviction", text));
    }
}
