//! ReplicaSet and ReplicationController: as many pods as asked for, adopted where they match and are
//! nobody's, created from the template otherwise, given up in a sensible order.
//!
//! It counts what the view shows; that its own creations and deletions are shown before it counts
//! again is the driver's barrier. It knows nothing of Deployments, but that sibling ReplicaSets of
//! one owner are one workload when it chooses pods to give up.

use std::marker::PhantomData;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::ownership::{
    claim, controlled_by_kind, controller_of, controller_reference, labels, name,
    namespace as namespace_of, uid,
};
use super::plan::{Action, Outcome};
use super::pods::{available_in, is_active, is_finished, is_ready, is_terminating};
use super::replicated::Replicated;
use super::{Controller, Plan, namespace, pods};
use crate::api::ObjectKey;
use crate::api::resource::{Gvr, Kind};
use crate::base::planted::planted;
use crate::client::cache::{Changed, View};
use crate::client::event::Notice;

/// Pods created or deleted by one plan; the rest follows with the next, when these were seen.
const BURST_PODS: usize = 500;
/// The condition that tells of failed creations or deletions.
const REPLICA_FAILURE: &str = "ReplicaFailure";

pub struct ReplicaController<T>(PhantomData<T>);

impl<T: Replicated> ReplicaController<T> {
    pub fn new() -> ReplicaController<T> {
        ReplicaController(PhantomData)
    }
}

impl<T: Replicated> Controller for ReplicaController<T> {
    fn name(&self) -> &'static str {
        T::CONTROLLER
    }

    fn keys(&self, change: &Changed, view: &View) -> Vec<ObjectKey> {
        if change.resource == Gvr::of::<T>() {
            return vec![change.key.clone()];
        }
        if change.resource != Gvr::of::<Pod>() {
            return Vec::new();
        }
        let mut keys = Vec::new();
        let (old, new) = change.typed::<Pod>();
        for pod in [old, new].into_iter().flatten() {
            keys.extend(owner_key::<T>(&pod.metadata));
        }
        if let Some(pod) = new.filter(|pod| controller_of(&pod.metadata).is_none()) {
            keys.extend(matching::<T>(pod, view));
        }
        keys.dedup();
        keys
    }

    fn reads(&self) -> Vec<Gvr> {
        vec![Gvr::of::<T>(), Gvr::of::<Pod>()]
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(set) = view.get_key::<T>(key) else { return plan };
        let Some(selector) = set.selector() else {
            let why = format!("This {}'s selector is invalid or would select every pod", T::KIND);
            plan.notices.push(Notice::warning(&**set, "InvalidSelector", why));
            return plan;
        };
        let owned = view.owned_by::<Pod>(uid(set.metadata()));
        let candidates = owned.chain(view.orphans::<Pod>(&key.namespace)).map(|pod| &**pod);
        // Finished pods are neither adopted nor released: they are left to the garbage collector.
        let candidates = candidates.filter(|pod| !is_finished(pod));
        let (mine, claimed) = claim(&**set, &selector, candidates, &mut plan);
        let counts =
            |pod: &Pod| is_active(pod) || planted("pods that are ending count as replicas");
        let active: Vec<&Pod> = mine.iter().copied().filter(|pod| counts(pod)).collect();
        if !claimed && set.metadata().deletion_timestamp.is_none() {
            scale(&**set, &active, view, now, &mut plan);
        }
        let satisfied = plan.writes.is_empty();
        let mut changed = T::clone(set);
        changed.set_status(status(&**set, &mine, &active, satisfied, now));
        if set.status() != changed.status() {
            plan.update_status(&changed);
            // The status comes first: it is true and waited for by rollouts even where creations
            // are refused, which would end the group before it.
            plan.writes.rotate_right(1);
        }
        if let Some(wait) = next_available(&**set, &active, now) {
            plan.again_after(wait);
        }
        plan
    }

    fn settle(&self, view: &View, key: &ObjectKey, outcomes: &[Outcome], now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(set) = view.get_key::<T>(key) else { return plan };
        let pods = Gvr::of::<Pod>();
        let mut failure = None;
        let told = |outcome: &&Outcome| {
            let refused = outcome.result.as_ref().is_err_and(namespace::is_refusal_of_ending);
            outcome.target.resource == pods && !refused
        };
        for outcome in outcomes.iter().filter(told) {
            let pod = outcome.target.name.as_deref().unwrap_or_default();
            let (reason, text) = match (outcome.action, &outcome.result) {
                (Action::Create, Ok(())) => ("SuccessfulCreate", format!("Created pod: {pod}")),
                (Action::Delete, Ok(())) => ("SuccessfulDelete", format!("Deleted pod: {pod}")),
                (Action::Create, Err(error)) => {
                    failure = failure.or(Some(("FailedCreate", error)));
                    ("FailedCreate", format!("Error creating: {error}"))
                }
                (Action::Delete, Err(error)) => {
                    failure = failure.or(Some(("FailedDelete", error)));
                    ("FailedDelete", format!("Error deleting: {error}"))
                }
                _ => continue,
            };
            plan.notices.push(match outcome.result {
                Ok(()) => Notice::normal(&**set, reason, text),
                Err(_) => Notice::warning(&**set, reason, text),
            });
        }
        if let Some((reason, error)) = failure {
            tell_failure(&**set, reason, &error.message, now, &mut plan);
        }
        plan
    }
}

/// The one that controls an object, if one does.
fn owner_key<T: Kind>(meta: &ObjectMeta) -> Option<ObjectKey> {
    let owner = controlled_by_kind::<T>(meta)?;
    Some(ObjectKey::new(namespace_of(meta), owner.name.as_str()))
}

/// Those that could adopt an orphan.
fn matching<T: Replicated>(pod: &Pod, view: &View) -> Vec<ObjectKey> {
    let sets = view.in_namespace::<T>(namespace_of(&pod.metadata));
    let matches = sets.filter(|set| {
        set.selector().is_some_and(|selector| selector.matches(labels(&pod.metadata)))
    });
    matches.map(|set| ObjectKey::of(set.metadata())).collect()
}

/// How many pods are asked for.
pub fn wanted(set: &ReplicaSet) -> i32 {
    set.replicas()
}

fn scale<T: Replicated>(set: &T, active: &[&Pod], view: &View, now: Timestamp, plan: &mut Plan) {
    // No validation lets a negative number in: it is damage, and no reason to delete anything.
    let Ok(wanted) = usize::try_from(set.replicas()) else { return };
    if active.len() < wanted {
        if namespace::is_ending(view, namespace_of(set.metadata())) {
            return;
        }
        let pod = new_pod(set);
        for _ in 0..(wanted - active.len()).min(BURST_PODS) {
            plan.create(&pod);
        }
        return;
    }
    let surplus = (active.len() - wanted).min(BURST_PODS);
    if surplus == 0 {
        return;
    }
    let mut ranked = active.to_vec();
    pods::rank_for_deletion(&mut ranked, &workload(set, active, view), now);
    // A rollout that shrinks a set counts on the available pods that its status tells of: whoever is
    // ready, and not for long enough, goes before them (upstream's order knows no such pods).
    ranked.sort_by_key(|pod| is_available(set, pod, now));
    for pod in &ranked[..surplus] {
        plan.delete(*pod);
    }
}

fn is_available<T: Replicated>(set: &T, pod: &Pod, now: Timestamp) -> bool {
    available_in(pod, set.min_ready_seconds(), now).is_some_and(|wait| wait.is_zero())
}

/// The active pods of all siblings of the same owner.
fn workload<'a, T: Kind>(set: &T, own: &[&'a Pod], view: &'a View) -> Vec<&'a Pod> {
    let Some(owner) = controller_of(set.metadata()) else { return own.to_vec() };
    let siblings = view.owned_by::<T>(&owner.uid);
    let pods = siblings.flat_map(|sibling| view.owned_by::<Pod>(uid(sibling.metadata())));
    pods.map(|pod| &**pod).collect()
}

/// A pod of the template, named by the server.
fn new_pod<T: Replicated>(set: &T) -> Pod {
    let template = set.template();
    let template_meta = template.and_then(|template| template.metadata.as_ref());
    let metadata = ObjectMeta {
        generate_name: Some(format!("{}-", name(set.metadata()))),
        namespace: set.metadata().namespace.clone(),
        labels: template_meta.and_then(|meta| meta.labels.clone()),
        annotations: template_meta.and_then(|meta| meta.annotations.clone()),
        finalizers: template_meta.and_then(|meta| meta.finalizers.clone()),
        owner_references: Some(vec![controller_reference(set)]),
        ..ObjectMeta::default()
    };
    Pod { metadata, spec: template.and_then(|template| template.spec.clone()), status: None }
}

fn status<T: Replicated>(
    set: &T,
    mine: &[&Pod],
    active: &[&Pod],
    satisfied: bool,
    now: Timestamp,
) -> ReplicaSetStatus {
    let template_labels = set.template().and_then(|t| t.metadata.as_ref()).map(labels);
    let count = |filter: &dyn Fn(&Pod) -> bool| {
        let counted = active.iter().filter(|pod| filter(pod)).count();
        Some(i32::try_from(counted).unwrap_or(i32::MAX)).filter(|count| *count > 0)
    };
    let fully_labeled = |pod: &Pod| {
        let has = labels(&pod.metadata);
        template_labels
            .is_none_or(|asked| asked.iter().all(|(key, value)| has.get(key) == Some(value)))
    };
    let terminating = mine.iter().filter(|pod| is_terminating(pod) && !is_finished(pod)).count();
    let old = set.status().unwrap_or_default();
    let mut conditions = old.conditions.unwrap_or_default();
    if satisfied {
        conditions.retain(|condition| condition.type_ != REPLICA_FAILURE);
    }
    ReplicaSetStatus {
        replicas: i32::try_from(active.len()).unwrap_or(i32::MAX),
        fully_labeled_replicas: count(&fully_labeled),
        ready_replicas: count(&is_ready),
        available_replicas: count(&|pod| is_available(set, pod, now)),
        terminating_replicas: Some(i32::try_from(terminating).unwrap_or(i32::MAX)),
        observed_generation: set.metadata().generation,
        conditions: Some(conditions).filter(|conditions| !conditions.is_empty()),
    }
}

/// When the next ready pod becomes available.
fn next_available<T: Replicated>(set: &T, active: &[&Pod], now: Timestamp) -> Option<Duration> {
    let min_ready = set.min_ready_seconds();
    let waits = active.iter().filter_map(|pod| available_in(pod, min_ready, now));
    waits.filter(|wait| !wait.is_zero()).min()
}

/// Adds the condition about failed creations or deletions, once for the same message.
fn tell_failure<T: Replicated>(
    set: &T,
    reason: &str,
    message: &str,
    now: Timestamp,
    plan: &mut Plan,
) {
    let mut changed = set.clone();
    let mut status = changed.status().unwrap_or_default();
    let conditions = status.conditions.get_or_insert_default();
    if conditions.iter().any(|c| c.type_ == REPLICA_FAILURE && c.reason.as_deref() == Some(reason))
    {
        return;
    }
    conditions.retain(|condition| condition.type_ != REPLICA_FAILURE);
    conditions.push(ReplicaSetCondition {
        type_: REPLICA_FAILURE.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_transition_time: Some(Time(now)),
    });
    changed.set_status(status);
    plan.update_status(&changed);
}
