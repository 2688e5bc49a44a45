//! Pods that nobody will end any more: bound to a node that is gone for a while, being deleted
//! without ever having had a node, or left on a node that was declared out of service; and finished
//! pods beyond a number, oldest first.
//! Source: k8s.io/kubernetes pkg/controller/podgc.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};

use super::node_lifecycle::ready;
use super::plan::Write;
use super::pods::{self, is_finished, is_terminating, node_name};
use super::{Controller, Limits, Options, Plan};
use crate::api::resource::Gvr;
use crate::api::{ObjectKey, tags};
use crate::client::Target;
use crate::client::cache::{Changed, View};

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// A node that is gone may come back (its agent registers it again) before its pods are taken for
/// lost.
const QUARANTINE: Duration = Duration::from_secs(40);
/// Finished pods are counted this often.
const COUNT_EVERY: Duration = Duration::from_secs(20);
/// Finished pods deleted by one plan.
const BURST_PODS: usize = 500;
/// The one key of [`TerminatedPodController`].
const FINISHED_PODS: &str = "finished-pods";

/// Removes pods that no node agent will remove.
pub struct LostPodController;

impl Controller for LostPodController {
    fn name(&self) -> &'static str {
        "pod-garbage-collector-controller"
    }

    fn keys(&self, change: &Changed, view: &View) -> Vec<ObjectKey> {
        if change.resource == Gvr::of::<Node>() {
            let (_, new) = change.typed::<Node>();
            if new.is_some_and(|node| !is_out_of_service(node)) {
                return Vec::new();
            }
            let pods = view.indexed::<Pod>(&change.key.name);
            return pods.map(|pod| ObjectKey::of(&pod.metadata)).collect();
        }
        let (_, new) = change.typed::<Pod>();
        let lost = new.is_some_and(|pod| is_lost(pod, view));
        lost.then(|| change.key.clone()).into_iter().collect()
    }

    fn reads(&self) -> Vec<Gvr> {
        vec![Gvr::of::<Pod>()]
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(pod) = view.get_key::<Pod>(key).filter(|pod| is_lost(pod, view)) else {
            return plan;
        };
        let missing =
            node_name(pod).and_then(|node| Some((node, view.missing_for::<Node>("", node)?)));
        if let Some((node, missing)) = missing {
            if missing < QUARANTINE {
                plan.again_after(QUARANTINE - missing);
                return plan;
            }
            // The view may be behind; only a live read tells that a node is gone.
            let target = Target::one::<Node>("", node);
            plan.writes.push(Write::Absent { target, uid: None });
            plan.then();
        }
        plan.delete_now(&**pod);
        plan
    }
}

fn is_lost(pod: &Pod, view: &View) -> bool {
    let Some(node) = node_name(pod) else { return is_terminating(pod) };
    match view.get::<Node>("", node) {
        None => true,
        Some(node) => is_terminating(pod) && is_out_of_service(node),
    }
}

/// A person said so, and the node does not contradict.
fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.into_iter().any(|taint| taint.key == OUT_OF_SERVICE)
        && ready(node).is_none_or(|ready| ready.status != "True")
}

/// Keeps the number of finished pods bounded.
pub struct TerminatedPodController {
    kept: usize,
}

impl TerminatedPodController {
    pub fn new(options: &Options) -> TerminatedPodController {
        TerminatedPodController { kept: options.terminated_pods_kept }
    }
}

impl Controller for TerminatedPodController {
    fn name(&self) -> &'static str {
        "terminated-pod-collector-controller"
    }

    fn keys(&self, change: &Changed, view: &View) -> Vec<ObjectKey> {
        let (old, new) = change.typed::<Pod>();
        let finishes = new.is_some_and(is_finished) && !old.is_some_and(is_finished);
        let many = finishes && view.count::<Pod>() > self.kept;
        many.then(|| ObjectKey::new("", FINISHED_PODS)).into_iter().collect()
    }

    fn reads(&self) -> Vec<Gvr> {
        vec![Gvr::of::<Pod>()]
    }

    fn reconcile(&self, view: &View, _key: &ObjectKey, _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        if view.count_tagged::<Pod>(tags::FINISHED) <= self.kept {
            return plan;
        }
        let finished = view.tagged::<Pod>(tags::FINISHED).map(|pod| &**pod);
        let mut finished: Vec<&Pod> = finished.filter(|pod| !pods::is_terminating(pod)).collect();
        let surplus = finished.len().saturating_sub(self.kept);
        finished.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
        for pod in finished.into_iter().take(surplus.min(BURST_PODS)) {
            plan.delete_now(pod);
        }
        if surplus > BURST_PODS {
            plan.again_after(COUNT_EVERY);
        }
        plan
    }

    fn limits(&self) -> Limits {
        Limits { workers: 1, ..Limits::default() }
    }
}
