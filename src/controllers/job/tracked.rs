//! Pods that no Job will count any more: of a Job that is gone or over, or that let them go. They
//! lose the finalizer of Jobs, which nobody else removes.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

use super::{finished, is_managed_elsewhere, owner_key, pods};
use crate::api::ObjectKey;
use crate::api::resource::Gvr;
use crate::client::Target;
use crate::client::cache::{Changed, View};
use crate::controllers::ownership::{controlled_by_kind, uid};
use crate::controllers::plan::Write;
use crate::controllers::{Controller, Plan};

pub struct TrackedPodController;

impl Controller for TrackedPodController {
    fn name(&self) -> &'static str {
        "job-tracking-controller"
    }

    fn keys(&self, change: &Changed, view: &View) -> Vec<ObjectKey> {
        if change.resource == Gvr::of::<Job>() {
            let (old, new) = change.typed::<Job>();
            let Some(job) = new.or(old).filter(|_| new.is_none_or(|job| finished(job).is_some()))
            else {
                return Vec::new();
            };
            let left = view.owned_by::<Pod>(uid(&job.metadata));
            let left = left.filter(|pod| pods::is_tracked(pod));
            return left.map(|pod| ObjectKey::of(&pod.metadata)).collect();
        }
        let tracked = change.typed::<Pod>().1.filter(|pod| pods::is_tracked(pod));
        let free = tracked.filter(|pod| !is_counted(pod, view));
        free.map(|_| change.key.clone()).into_iter().collect()
    }

    fn reads(&self) -> Vec<Gvr> {
        vec![Gvr::of::<Pod>()]
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let pod = view.get_key::<Pod>(key).filter(|pod| pods::is_tracked(pod));
        let Some(pod) = pod.filter(|pod| !is_counted(pod, view)) else { return plan };
        if let (Some(owner), Some(job_key)) =
            (controlled_by_kind::<Job>(&pod.metadata), owner_key(&pod.metadata))
            && view.get_key::<Job>(&job_key).is_none_or(|job| uid(&job.metadata) != owner.uid)
        {
            // The view may be behind; only a live read tells that the Job is gone.
            let target = Target::one::<Job>(&job_key.namespace, &job_key.name);
            plan.writes.push(Write::Absent { target, uid: Some(owner.uid.clone()) });
            plan.then();
        }
        plan.writes.push(pods::untrack(pod));
        plan
    }
}

/// Whether a Job is there that will count the pod.
fn is_counted(pod: &Pod, view: &View) -> bool {
    let Some(owner) = controlled_by_kind::<Job>(&pod.metadata) else { return false };
    let job = owner_key(&pod.metadata).and_then(|key| view.get_key::<Job>(&key));
    job.filter(|job| uid(&job.metadata) == owner.uid).is_some_and(|job| {
        // Who else manages a Job removes what it set.
        is_managed_elsewhere(job) || finished(job).is_none()
    })
}
