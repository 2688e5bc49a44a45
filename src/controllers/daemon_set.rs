//! DaemonSet: one pod on each node that it is for.
//!
//! `place` says which nodes those are and binds a pod to its node, `step` what is done next,
//! `history` keeps templates.
//! Source: k8s.io/kubernetes pkg/controller/daemon.

mod place;
mod step;

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use self::place::Place;
use self::step::{Rolling, Spot, by_age};
use super::history::{self, History, revision_of};
use super::ownership::{
    claim, controlled_by_kind, controller_of, labels, name, namespace as namespace_of, uid,
    usable_selector,
};
use super::plan::{Action, Outcome};
use super::pods::{is_finished, is_ready, phase};
use super::{Controller, Plan, namespace};
use crate::api::ObjectKey;
use crate::api::resource::Gvr;
use crate::client::cache::{Changed, View};
use crate::client::event::Notice;

/// Pods created or deleted by one plan; the rest follows with the next, when these were seen.
const BURST_PODS: usize = 250;

pub struct DaemonSetController;

impl Controller for DaemonSetController {
    fn name(&self) -> &'static str {
        "daemonset-controller"
    }

    fn keys(&self, change: &Changed, view: &View) -> Vec<ObjectKey> {
        if change.resource == Gvr::of::<DaemonSet>() {
            return vec![change.key.clone()];
        }
        if change.resource == Gvr::of::<Node>() {
            return keys_of_node(change, view);
        }
        let (old, new) = (change.old.as_ref(), change.new.as_ref());
        let owners = [old, new].into_iter().flatten().filter_map(|one| owner_key(one.meta()));
        let mut keys: Vec<ObjectKey> = owners.collect();
        if let (_, Some(pod)) = change.typed::<Pod>()
            && controller_of(&pod.metadata).is_none()
        {
            keys.extend(matching(pod, view));
        }
        keys.dedup();
        keys
    }

    fn reads(&self) -> Vec<Gvr> {
        vec![Gvr::of::<DaemonSet>(), Gvr::of::<Pod>(), Gvr::of::<ControllerRevision>()]
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(set) = view.get_key::<DaemonSet>(key) else { return plan };
        let Some(spec) = &set.spec else { return plan };
        let Some(selector) = usable_selector(&spec.selector) else {
            let why = "This daemon set is selecting all pods. A non-empty selector is required.";
            plan.notices.push(Notice::warning(&**set, "SelectingAll", why));
            return plan;
        };
        let own_uid = uid(&set.metadata);
        let candidates = view.owned_by::<Pod>(own_uid).chain(view.orphans::<Pod>(&key.namespace));
        let (pods, claimed) = claim(&**set, &selector, candidates.map(|pod| &**pod), &mut plan);
        let revisions = view.owned_by::<ControllerRevision>(own_uid);
        let revisions = revisions.chain(view.orphans(&key.namespace)).map(|one| &**one);
        let (revisions, adopted) = claim(&**set, &selector, revisions, &mut plan);
        if claimed || adopted {
            // They come back by their own change.
            return plan;
        }
        let wants = place::pod_spec(&spec.template);
        let work = Work { set, spec, wants, pods, history: History::of(revisions), view, now };
        work.run(&mut plan);
        plan
    }

    fn settle(&self, view: &View, key: &ObjectKey, outcomes: &[Outcome], _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(set) = view.get_key::<DaemonSet>(key) else { return plan };
        for outcome in outcomes.iter().filter(|one| one.target.resource == Gvr::of::<Pod>()) {
            let pod = outcome.target.name.as_deref().unwrap_or_default();
            plan.notices.push(match (outcome.action, &outcome.result) {
                (Action::Create, Ok(())) => {
                    Notice::normal(&**set, "SuccessfulCreate", format!("Created pod: {pod}"))
                }
                (Action::Delete, Ok(())) => {
                    Notice::normal(&**set, "SuccessfulDelete", format!("Deleted pod: {pod}"))
                }
                (Action::Create, Err(error)) if !namespace::is_refusal_of_ending(error) => {
                    Notice::warning(&**set, "FailedCreate", format!("Error creating: {error}"))
                }
                _ => continue,
            });
        }
        plan
    }
}

fn owner_key(meta: &ObjectMeta) -> Option<ObjectKey> {
    let owner = controlled_by_kind::<DaemonSet>(meta)?;
    Some(ObjectKey::new(namespace_of(meta), owner.name.as_str()))
}

/// The DaemonSets that could adopt an orphan.
fn matching(pod: &Pod, view: &View) -> Vec<ObjectKey> {
    let sets = view.in_namespace::<DaemonSet>(namespace_of(&pod.metadata)).filter(|set| {
        let selector = set.spec.as_ref().and_then(|spec| usable_selector(&spec.selector));
        selector.is_some_and(|selector| selector.matches(labels(&pod.metadata)))
    });
    sets.map(|set| ObjectKey::of(&set.metadata)).collect()
}

/// The DaemonSets to which a change of a node makes a difference. Heartbeats make none.
fn keys_of_node(change: &Changed, view: &View) -> Vec<ObjectKey> {
    let (old, new) = change.typed::<Node>();
    let face = |node: &Node| {
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone());
        (node.metadata.labels.clone(), taints)
    };
    if old.is_some() && old.map(face) == new.map(face) {
        return Vec::new();
    }
    let place = |set: &DaemonSet, node: Option<&Node>| {
        let template = &set.spec.as_ref()?.template;
        Some(node.map_or(Place::Unwanted, |node| place::of(&place::pod_spec(template), node)))
    };
    let sets = view.all::<DaemonSet>().filter(|set| place(set, old) != place(set, new));
    sets.map(|set| ObjectKey::of(&set.metadata)).collect()
}

/// One reconcile.
struct Work<'a> {
    set: &'a DaemonSet,
    spec: &'a DaemonSetSpec,
    /// What its pods ask of nodes.
    wants: PodSpec,
    pods: Vec<&'a Pod>,
    history: History<'a>,
    view: &'a View<'a>,
    now: Timestamp,
}

impl<'a> Work<'a> {
    fn run(&self, plan: &mut Plan) {
        let spots = self.spots();
        let wanted = spots.values().filter(|spot| spot.place == Place::Wanted).count();
        let wanted = i32::try_from(wanted).unwrap_or(i32::MAX);
        let space = namespace_of(&self.set.metadata);
        let is_deleted = self.set.metadata.deletion_timestamp.is_some();
        let collisions = self.set.status.as_ref().and_then(|status| status.collision_count);
        if is_deleted || namespace::is_ending(self.view, space) {
            return;
        }
        let step = self.history.step(
            self.set,
            &self.spec.template,
            collisions.unwrap_or(0),
            history::REVISION_HASH,
            |name| self.view.get::<ControllerRevision>(space, name).is_some(),
            plan,
        );
        let current = match step {
            history::Step::There(current) => current,
            history::Step::Planned => return,
            history::Step::Collision => {
                let mut changed = self.set.clone();
                let status = changed.status.get_or_insert_default();
                status.collision_count = Some(collisions.unwrap_or(0).saturating_add(1));
                return plan.update_status(&changed);
            }
        };
        let hash = history::hash_of(current);
        let data = history::data(&self.spec.template);
        let same = self.history.with(&data).map(history::hash_of).collect();
        let rolling = Rolling::of(self.spec, wanted, same, self.now);
        self.status(&spots, &rolling, plan);
        self.perform(rolling.step(&spots), hash, plan);
        let used: HashSet<&str> = self.pods.iter().map(|pod| revision_of(&pod.metadata)).collect();
        let is_used = |revision: &str| {
            let hash = revision.rsplit_once('-').map_or(revision, |(_, hash)| hash);
            revision == name(&current.metadata) || used.contains(hash)
        };
        self.history.clean_up(self.spec.revision_history_limit, is_used, plan);
    }

    /// Every node, and what is there. Pods of nodes that are gone are left to the pod collector.
    fn spots(&self) -> BTreeMap<&str, Spot<'a>> {
        let nodes = self.view.all::<Node>();
        let mut spots: BTreeMap<&str, Spot<'a>> = nodes
            .map(|node| {
                let place = place::of(&self.wants, node);
                (name(&node.metadata), Spot { place, pods: Vec::new() })
            })
            .collect();
        for pod in &self.pods {
            if let Some(spot) = place::node_of(pod).and_then(|node| spots.get_mut(node)) {
                spot.pods.push(pod);
            }
        }
        spots.values_mut().for_each(|spot| spot.pods.sort_by(|a, b| by_age(a).cmp(&by_age(b))));
        spots
    }

    fn perform(&self, step: step::Step, hash: &str, plan: &mut Plan) {
        for pod in step.ended.iter().take(BURST_PODS) {
            let node = place::node_of(pod).unwrap_or_default();
            let text = format!("{} daemon pod {}", phase(pod), ObjectKey::of(&pod.metadata));
            let text = format!("Found {} on node {node}, will try to kill it", text.to_lowercase());
            plan.notices.push(match phase(pod) {
                "Failed" => Notice::warning(self.set, "FailedDaemonPod", text),
                _ => Notice::normal(self.set, "SucceededDaemonPod", text),
            });
        }
        for node in step.creations.into_iter().take(BURST_PODS) {
            plan.create(&place::new_pod(self.set, &self.spec.template, &self.wants, hash, node));
        }
        step.deletions.into_iter().take(BURST_PODS).for_each(|pod| plan.delete(pod));
        if let Some(wait) = step.again_after {
            plan.again_after(wait);
        }
    }

    fn status(&self, spots: &BTreeMap<&str, Spot>, rolling: &Rolling, plan: &mut Plan) {
        let old = self.set.status.clone().unwrap_or_default();
        let mut status = DaemonSetStatus {
            collision_count: old.collision_count,
            conditions: old.conditions.clone(),
            observed_generation: self.set.metadata.generation,
            ..DaemonSetStatus::default()
        };
        let (mut available, mut updated) = (0, 0);
        for spot in spots.values() {
            let running = spot.pods.iter().filter(|pod| !is_finished(pod));
            let first = spot.pods.first();
            if spot.place != Place::Wanted {
                status.number_misscheduled +=
                    i32::from(spot.place == Place::Unwanted && running.count() > 0);
                continue;
            }
            status.desired_number_scheduled += 1;
            status.current_number_scheduled += i32::from(first.is_some());
            // While one surges, the node is ready if either pod is.
            let any = |is: &dyn Fn(&Pod) -> bool| i32::from(spot.pods.iter().any(|pod| is(pod)));
            status.number_ready += any(&is_ready);
            available += any(&|pod| rolling.is_available(pod));
            updated += any(&|pod| rolling.is_new(pod));
        }
        let some = |count: i32| Some(count).filter(|count| *count > 0);
        status.number_available = some(available);
        status.updated_number_scheduled = some(updated);
        status.number_unavailable = some(status.desired_number_scheduled - available);
        if self.set.status.as_ref() == Some(&status) {
            return;
        }
        let mut changed = self.set.clone();
        changed.status = Some(status);
        plan.update_status(&changed);
    }
}
