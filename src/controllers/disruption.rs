//! PodDisruptionBudgets: how many of a budget's pods may be evicted now. Evictions take from
//! `disruptionsAllowed` by themselves and leave the pod's name in `disruptedPods`; here the numbers
//! follow what became of the pods.
//! Source: k8s.io/kubernetes pkg/controller/disruption.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::ownership::{controller_of, labels, name, namespace};
use super::selecting::{selected, selectors_of};
use super::{Controller, Plan, pods, proportion};
use crate::api::ObjectKey;
use crate::api::kinds::pod_disruption_budget::{set_allowed_condition, set_failed_condition};
use crate::api::resource::Gvr;
use crate::api::selector::Selector;
use crate::base::planted::planted;
use crate::client::cache::{Changed, View};
use crate::client::event::Notice;

/// A pod whose eviction was allowed and that is still there after this time counts again.
const DELETION_LIMIT: Duration = Duration::from_secs(2 * 60);
/// How many owners above a pod are followed to the one that says how many there should be.
const MAX_OWNERS: usize = 4;

pub struct DisruptionController;

impl Controller for DisruptionController {
    fn name(&self) -> &'static str {
        "disruption-controller"
    }

    fn keys(&self, change: &Changed, view: &View) -> Vec<ObjectKey> {
        if change.resource == Gvr::of::<PodDisruptionBudget>() {
            return vec![change.key.clone()];
        }
        let namespace = &change.key.namespace;
        if change.resource == Gvr::of::<Pod>() {
            let (old, new) = change.typed::<Pod>();
            if old.map(counted) == new.map(counted) {
                return Vec::new();
            }
            let pods = [old, new].into_iter().flatten();
            return guarding(view, namespace, pods.map(|pod| labels(&pod.metadata)));
        }
        // Pods of older templates, whose labels others guard, come to mind with the next look at all.
        guarding(view, namespace, asked_for(change).into_iter())
    }

    fn reads(&self) -> Vec<Gvr> {
        vec![Gvr::of::<PodDisruptionBudget>()]
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(budget) = view.get_key::<PodDisruptionBudget>(key) else { return plan };
        let selector = selector_of(budget);
        let guarded: Vec<&Pod> = selected(view, namespace(&budget.metadata), &selector).collect();
        let old = budget.status.clone().unwrap_or_default();
        let disrupted = still_disrupted(&guarded, &old, now, &mut plan);
        let mut status = old.clone();
        match wanted(view, budget, &guarded) {
            Ok((expected, desired)) => {
                let healthy = guarded.iter().filter(|pod| {
                    let named =
                        is_named(&disrupted, pod) && !planted("a budget forgets what it let go");
                    let leaves = pods::is_terminating(pod) || named;
                    let healthy = pods::is_ready(pod) || planted("a budget counts unready pods");
                    !leaves && healthy
                });
                let healthy = count(healthy.count());
                let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
                status.expected_pods = expected;
                status.desired_healthy = desired;
                status.current_healthy = healthy;
                status.disruptions_allowed = allowed;
                status.observed_generation = budget.metadata.generation;
                let none = disrupted.is_empty();
                status.disrupted_pods = (!none).then_some(disrupted);
                set_allowed_condition(&mut status, now);
            }
            Err(why) => {
                status.disruptions_allowed = 0;
                set_failed_condition(&mut status, &why, now);
                if status != old {
                    let told = format!("Failed to calculate the number of expected pods: {why}");
                    let reason = "CalculateExpectedPodCountFailed";
                    plan.notices.push(Notice::warning(&**budget, reason, told));
                }
            }
        }
        if status != old {
            let mut updated = PodDisruptionBudget::clone(budget);
            updated.status = Some(status);
            plan.update_status(&updated);
        }
        plan
    }
}

/// What of a pod budgets look at.
fn counted(pod: &Pod) -> (bool, bool, &BTreeMap<String, String>, Option<&OwnerReference>) {
    let meta = &pod.metadata;
    (pods::is_ready(pod), pods::is_terminating(pod), labels(meta), controller_of(meta))
}

/// The budgets that guard pods with any of these labels.
fn guarding<'l>(
    view: &View,
    namespace: &str,
    pods: impl Iterator<Item = &'l BTreeMap<String, String>>,
) -> Vec<ObjectKey> {
    let mut keys = BTreeSet::new();
    for own in pods {
        let near = selectors_of::<PodDisruptionBudget>(view, namespace, own);
        let guarding = near.filter(|budget| selector_of(budget).matches(own));
        keys.extend(guarding.map(|budget| ObjectKey::of(&budget.metadata)));
    }
    keys.into_iter().collect()
}

/// The labels of the pods of a workload that is asked for another number of replicas than before.
fn asked_for(change: &Changed) -> Option<&BTreeMap<String, String>> {
    fn scale<'c, T>(
        (old, new): (Option<&'c T>, Option<&'c T>),
        replicas: impl Fn(&T) -> Option<i32>,
        template: impl Fn(&'c T) -> Option<&'c PodTemplateSpec>,
    ) -> Option<&'c BTreeMap<String, String>> {
        if old.and_then(&replicas) == new.and_then(&replicas) {
            return None;
        }
        template(new.or(old)?)?.metadata.as_ref()?.labels.as_ref()
    }
    let deployment = scale(
        change.typed::<Deployment>(),
        |one| one.spec.as_ref()?.replicas,
        |one| one.spec.as_ref().map(|spec| &spec.template),
    );
    let set = scale(
        change.typed::<ReplicaSet>(),
        |one| one.spec.as_ref()?.replicas,
        |one| one.spec.as_ref()?.template.as_ref(),
    );
    deployment.or(set)
}

/// An absent selector guards nothing, an empty one every pod of the namespace.
fn selector_of(budget: &PodDisruptionBudget) -> Selector {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    Selector::from_typed(selector).unwrap_or_else(|_| Selector::nothing())
}

fn count(pods: usize) -> i32 {
    i32::try_from(pods).unwrap_or(i32::MAX)
}

fn is_named(disrupted: &BTreeMap<String, Time>, pod: &Pod) -> bool {
    disrupted.contains_key(name(&pod.metadata))
}

/// The pods that are as good as gone: their eviction was allowed not long ago, and its deletion is
/// not seen yet. Plans to look again when that time is over.
fn still_disrupted(
    guarded: &[&Pod],
    old: &PodDisruptionBudgetStatus,
    now: Timestamp,
    plan: &mut Plan,
) -> BTreeMap<String, Time> {
    let mut disrupted = BTreeMap::new();
    let Some(before) = &old.disrupted_pods else { return disrupted };
    for pod in guarded.iter().filter(|pod| !pods::is_terminating(pod)) {
        let Some(since) = before.get(name(&pod.metadata)) else { continue };
        let limit = SignedDuration::try_from(DELETION_LIMIT).unwrap_or(SignedDuration::MAX);
        match Duration::try_from(limit - now.duration_since(since.0)) {
            Ok(left) if !left.is_zero() => {
                plan.again_after(left);
                disrupted.insert(name(&pod.metadata).to_string(), since.clone());
            }
            _ => {
                let told = "Pod was expected by a PodDisruptionBudget to be deleted but it wasn't";
                plan.notices.push(Notice::warning(*pod, "NotDeleted", told));
            }
        }
    }
    disrupted
}

/// How many pods there should be, and how many of them must be healthy.
fn wanted(
    view: &View,
    budget: &PodDisruptionBudget,
    guarded: &[&Pod],
) -> Result<(i32, i32), String> {
    let Some(spec) = &budget.spec else { return Ok((0, 0)) };
    if let Some(most) = &spec.max_unavailable {
        let expected = expected_scale(view, guarded)?;
        return Ok((expected, (expected - proportion::resolve(Some(most), expected, true)).max(0)));
    }
    match &spec.min_available {
        Some(IntOrString::Int(least)) => Ok((count(guarded.len()), *least)),
        Some(percent) => {
            let expected = expected_scale(view, guarded)?;
            Ok((expected, proportion::resolve(Some(percent), expected, true)))
        }
        None => Ok((0, 0)),
    }
}

/// The replicas that the pods' workloads are asked for together. Pods without a controller do not
/// count.
fn expected_scale(view: &View, guarded: &[&Pod]) -> Result<i32, String> {
    let mut scales: BTreeMap<&str, (String, i32)> = BTreeMap::new();
    for pod in guarded {
        let Some(owner) = controller_of(&pod.metadata) else { continue };
        if scales.contains_key(owner.uid.as_str()) {
            continue;
        }
        let scale = scale_above(view, namespace(&pod.metadata), owner, MAX_OWNERS);
        let none = || format!("found no controllers for pod {:?}", name(&pod.metadata));
        scales.insert(&owner.uid, scale.ok_or_else(none)?);
    }
    // Several ReplicaSets may belong to one Deployment.
    let by_top: BTreeMap<String, i32> = scales.into_values().collect();
    Ok(by_top.into_values().fold(0, i32::saturating_add))
}

/// The uid and the replicas of the topmost owner that has a scale.
fn scale_above(
    view: &View,
    namespace: &str,
    owner: &OwnerReference,
    owners_left: usize,
) -> Option<(String, i32)> {
    let resource = view.resource(&owner.api_version, &owner.kind)?;
    let found = view.object(&resource, &ObjectKey::new(namespace, owner.name.as_str()))?;
    if owners_left == 0 || found.meta().uid.as_ref() != Some(&owner.uid) {
        return None;
    }
    let above = controller_of(found.meta());
    let above = above.and_then(|above| scale_above(view, namespace, above, owners_left - 1));
    above.or_else(|| {
        let object = found.erased();
        let replicas = object.at(&["spec", "replicas"]).and_then(Value::as_i64)?;
        Some((owner.uid.clone(), i32::try_from(replicas).ok()?))
    })
}
