//! One step of a StatefulSet: which pods are created, deleted or mended next.
//!
//! ```text
//!   ordinals from the first up: missing ─▶ create, ended ─▶ delete   ┐ OrderedReady: one at a time,
//!   ordinals beyond, from the last down ─▶ delete                   ┘ each waits for the one before
//!   then pods of another revision, from the last down to the partition ─▶ delete
//! ```
//!
//! Source: k8s.io/kubernetes pkg/controller/statefulset/stateful_set_control.go.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};

use super::claims::{self, Missing};
use super::identity;
use super::spec::Spec;
use crate::base::planted::planted;
use crate::client::cache::View;
use crate::client::event::Notice;
use crate::controllers::Plan;
use crate::controllers::history::revision_of;
use crate::controllers::pods::{
    available_in, is_finished, is_ready, is_terminating, phase, replaced_in,
};

/// Pods created or deleted by one plan; the rest follows with the next, when these were seen.
const BURST_PODS: usize = 500;

/// A template and the name of its revision.
#[derive(Clone, Copy)]
pub struct Version<'a> {
    pub revision: &'a str,
    pub template: &'a PodTemplateSpec,
}

pub struct Step<'a> {
    pub set: &'a StatefulSet,
    pub spec: &'a Spec,
    pub pods: &'a BTreeMap<i32, &'a Pod>,
    pub current: Version<'a>,
    pub update: Version<'a>,
    pub view: &'a View<'a>,
    pub now: Timestamp,
}

pub fn is_running_and_ready(pod: &Pod) -> bool {
    phase(pod) == "Running" && is_ready(pod)
}

impl Step<'_> {
    pub fn plan(&self, plan: &mut Plan) {
        let mut steps = Plan::nothing();
        let mut new_claims = Vec::new();
        if self.bring_up(&mut steps, &mut new_claims) && self.bring_down(&mut steps) {
            self.update(&mut steps);
        }
        // Who owns a claim is settled before the pod goes, and a claim is there before its pod.
        for (at, pod) in self.pods {
            plan.writes.extend(claims::own(self.view, self.set, self.spec, pod, *at));
        }
        new_claims.iter().for_each(|claim| plan.create(claim));
        plan.then();
        plan.writes.append(&mut steps.writes);
        plan.notices.append(&mut steps.notices);
        if let Some(wait) = steps.again_after {
            plan.again_after(wait);
        }
    }

    /// Plans a pod, and its claims where they are not there.
    fn create(&self, at: i32, plan: &mut Plan, new_claims: &mut Vec<PersistentVolumeClaim>) {
        match claims::missing(self.view, self.set, self.spec, at) {
            Missing::Claims(claims) => {
                new_claims.extend(claims);
                let Version { revision, template } = self.version_for(at);
                plan.create(&identity::new_pod(self.set, template, revision, at));
            }
            Missing::Waits(claim) => {
                let pod = identity::pod_name(self.set, at);
                let text = format!(
                    "create Pod {pod} in StatefulSet {} failed error: pvc {claim} is being deleted",
                    self.set.metadata.name.as_deref().unwrap_or_default()
                );
                plan.notices.push(Notice::warning(self.set, "FailedCreate", text));
            }
        }
    }

    fn is_available(&self, pod: &Pod, plan: &mut Plan) -> bool {
        let wait = available_in(pod, self.spec.min_ready_seconds, self.now);
        let Some(wait) = wait.filter(|_| phase(pod) == "Running") else { return false };
        if !wait.is_zero() {
            plan.again_after(wait);
        }
        wait.is_zero()
    }

    /// Fills the ordinals; answers whether what follows may be looked at.
    fn bring_up(&self, plan: &mut Plan, new_claims: &mut Vec<PersistentVolumeClaim>) -> bool {
        for at in self.spec.ordinals() {
            if plan.writes.len() >= BURST_PODS {
                return false;
            }
            let goes_on = match self.pods.get(&at) {
                None => {
                    self.create(at, plan, new_claims);
                    false
                }
                Some(pod) if is_finished(pod) => {
                    self.replace(pod, plan);
                    false
                }
                Some(pod) if is_terminating(pod) => false,
                Some(pod) => {
                    plan.writes.extend(identity::repair(self.set, pod, at));
                    if phase(pod) == "Pending"
                        && let Missing::Claims(claims) =
                            claims::missing(self.view, self.set, self.spec, at)
                    {
                        new_claims.extend(claims);
                    }
                    is_running_and_ready(pod) && self.is_available(pod, plan)
                }
            };
            let waits = self.spec.is_ordered && !planted("a StatefulSet does not wait");
            if waits && !goes_on {
                return false;
            }
        }
        // What is created or replaced comes first.
        plan.writes.is_empty() && plan.notices.is_empty()
    }

    /// One that ended is deleted; its ordinal is filled when it is gone.
    fn replace(&self, pod: &Pod, plan: &mut Plan) {
        if is_terminating(pod) {
            return;
        }
        match replaced_in(pod, self.now) {
            Duration::ZERO => plan.delete(pod),
            wait => plan.again_after(wait),
        }
    }

    /// Pods of ordinals beyond, or below the first: from the last down.
    fn bring_down(&self, plan: &mut Plan) -> bool {
        let spare = self.pods.iter().rev().filter(|(at, _)| !self.spec.has(**at));
        let spare: Vec<&Pod> = spare.map(|(_, pod)| *pod).collect();
        if !self.spec.is_ordered {
            let living = spare.iter().filter(|pod| !is_terminating(pod));
            living.take(BURST_PODS).for_each(|pod| plan.delete(*pod));
            return spare.is_empty();
        }
        if spare.iter().any(|pod| is_terminating(pod)) {
            return false;
        }
        let Some(last) = spare.first() else { return true };
        // One that is unwell waits for those before it that are (upstream's processCondemned).
        let first_unwell = self.pods.values().find(|pod| !is_running_and_ready(pod));
        if first_unwell.is_none_or(|pod| is_running_and_ready(last) || std::ptr::eq(*pod, *last)) {
            plan.delete(*last);
        }
        false
    }

    fn update(&self, plan: &mut Plan) {
        if self.spec.is_on_delete {
            return;
        }
        let mut unavailable = 0;
        let most = self.spec.unavailable + i32::from(planted("a StatefulSet takes one more away"));
        for at in self.spec.ordinals().rev().filter(|at| *at >= self.spec.partition) {
            let Some(pod) = self.pods.get(&at) else { return };
            let available = !is_terminating(pod) && self.is_available(pod, plan);
            let is_old = revision_of(&pod.metadata) != self.update.revision;
            if is_old && !is_terminating(pod) && (!available || unavailable < most) {
                plan.delete(*pod);
                unavailable += 1;
            } else if !available {
                unavailable += 1;
            }
            if unavailable >= most {
                return;
            }
        }
    }

    /// Below the partition pods keep the revision that the set had.
    fn version_for(&self, at: i32) -> Version<'_> {
        let keeps = !self.spec.is_on_delete && at < self.spec.partition;
        if keeps { self.current } else { self.update }
    }
}
