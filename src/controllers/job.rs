//! Job: pods that run to their end, so many at a time and so many in all, or one for each index.
//!
//! ```text
//!   (Suspended) ⇄ running ──▶ SuccessCriteriaMet ──▶ Complete
//!                    └──────▶ FailureTarget ───────▶ Failed     when no pod of it runs any more
//! ```
//!
//! A pod is counted once, whatever happens to it: it has a finalizer until the status names its
//! uid, and the counter rises when the finalizer is gone. `tally` does that sum, `target` decides
//! how it ends, `failures` what a failed pod means, `pods` makes pods.
//! Source: k8s.io/kubernetes pkg/controller/job/job_controller.go.

mod failures;
mod indexes;
mod pods;
mod tally;
mod target;
mod tracked;

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use self::failures::Failures;
use self::tally::Tally;
use self::target::Target;
pub use self::tracked::TrackedPodController;
use super::ownership::{
    claim_kept, controlled_by_kind, controller_of, labels, namespace as namespace_of, uid,
    usable_selector,
};
use super::plan::{Action, Outcome};
use super::pods::{is_active, is_finished, is_ready, is_terminating, rank_for_deletion};
use super::{Controller, Plan, namespace};
use crate::api::ObjectKey;
use crate::api::resource::Gvr;
use crate::base::planted::planted;
use crate::client::Propagation;
use crate::client::cache::{Changed, View};
use crate::client::event::Notice;

/// Pods created or deleted by one plan; the rest follows with the next, when these were seen.
const BURST_PODS: usize = 500;
/// Who acts on a Job whose `spec.managedBy` is not set.
const MANAGER: &str = "kubernetes.io/job-controller";

pub struct JobController;

impl Controller for JobController {
    fn name(&self) -> &'static str {
        "job-controller"
    }

    fn keys(&self, change: &Changed, view: &View) -> Vec<ObjectKey> {
        if change.resource == Gvr::of::<Job>() {
            return vec![change.key.clone()];
        }
        if change.resource != Gvr::of::<Pod>() {
            return Vec::new();
        }
        let (old, new) = change.typed::<Pod>();
        let pods = [old, new].into_iter().flatten();
        let mut keys: Vec<ObjectKey> = pods.filter_map(|pod| owner_key(&pod.metadata)).collect();
        if let Some(pod) = new.filter(|pod| controller_of(&pod.metadata).is_none()) {
            keys.extend(matching(pod, view));
        }
        keys.dedup();
        keys
    }

    fn reads(&self) -> Vec<Gvr> {
        vec![Gvr::of::<Job>(), Gvr::of::<Pod>()]
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(job) = view.get_key::<Job>(key) else { return plan };
        let Some(spec) = &job.spec else { return plan };
        if [spec.parallelism, spec.completions].into_iter().flatten().any(|count| count < 0) {
            // No validation lets it in: it is damage, and no reason to delete anything.
            return plan;
        }
        if let Some(finished) = finished(job) {
            expire(job, spec, finished, now, &mut plan);
            return plan;
        }
        let selector = spec.selector.as_ref().and_then(usable_selector);
        let Some(selector) = selector.filter(|_| !is_managed_elsewhere(job)) else { return plan };
        let owned = view.owned_by::<Pod>(uid(&job.metadata));
        let candidates = owned.chain(view.orphans::<Pod>(&key.namespace)).map(|pod| &**pod);
        // A finished pod that is nobody's is not adopted: nobody knows whether it was counted.
        let candidates =
            candidates.filter(|pod| !is_finished(pod) || controller_of(&pod.metadata).is_some());
        let tracking = Some(pods::TRACKING);
        let (mine, claimed) = claim_kept(&**job, &selector, candidates, tracking, &mut plan);
        if claimed {
            // They come back by their own change.
            return plan;
        }
        let is_ending = namespace::is_ending(view, &key.namespace);
        Pass::new(job, spec, &mine, is_ending, now).run()
    }

    fn settle(&self, view: &View, key: &ObjectKey, outcomes: &[Outcome], _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(job) = view.get_key::<Job>(key) else { return plan };
        for outcome in outcomes.iter().filter(|one| one.target.resource == Gvr::of::<Pod>()) {
            let pod = outcome.target.name.as_deref().unwrap_or_default();
            plan.notices.push(match (outcome.action, &outcome.result) {
                (Action::Create, Ok(())) => {
                    Notice::normal(&**job, "SuccessfulCreate", format!("Created pod: {pod}"))
                }
                (Action::Delete, Ok(())) => {
                    Notice::normal(&**job, "SuccessfulDelete", format!("Deleted pod: {pod}"))
                }
                (Action::Create, Err(error)) if !namespace::is_refusal_of_ending(error) => {
                    Notice::warning(&**job, "FailedCreate", format!("Error creating: {error}"))
                }
                _ => continue,
            });
        }
        plan
    }
}

/// The Job that controls an object, if one does.
fn owner_key(meta: &ObjectMeta) -> Option<ObjectKey> {
    let owner = controlled_by_kind::<Job>(meta)?;
    Some(ObjectKey::new(namespace_of(meta), owner.name.as_str()))
}

/// The Jobs that could adopt an orphan.
fn matching(pod: &Pod, view: &View) -> Vec<ObjectKey> {
    let matches = |job: &&std::sync::Arc<Job>| {
        let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let selector = selector.and_then(usable_selector);
        selector.is_some_and(|selector| selector.matches(labels(&pod.metadata)))
    };
    let jobs = view.in_namespace::<Job>(namespace_of(&pod.metadata));
    jobs.filter(matches).map(|job| ObjectKey::of(&job.metadata)).collect()
}

/// Whether another controller does the work (KEP-4368).
fn is_managed_elsewhere(job: &Job) -> bool {
    let manager = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
    manager.is_some_and(|manager| manager != MANAGER)
}

fn condition<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

fn true_condition<'a>(job: &'a Job, kind: &str) -> Option<&'a JobCondition> {
    condition(job.status.as_ref()?, kind).filter(|condition| condition.status == "True")
}

/// When a Job was complete or failed; `None` for one that goes on.
pub fn finished(job: &Job) -> Option<Timestamp> {
    let told = true_condition(job, "Complete").or_else(|| true_condition(job, "Failed"))?;
    Some(told.last_transition_time.as_ref().map(|time| time.0).unwrap_or_default())
}

pub fn is_complete(job: &Job) -> bool {
    true_condition(job, "Complete").is_some()
}

/// Deletes a finished Job after its time to live, whoever managed it (KEP-592).
fn expire(job: &Job, spec: &JobSpec, finished: Timestamp, now: Timestamp, plan: &mut Plan) {
    let Some(seconds) = spec.ttl_seconds_after_finished else { return };
    if job.metadata.deletion_timestamp.is_some() {
        return;
    }
    let left = SignedDuration::from_secs(seconds.into()) - now.duration_since(finished);
    match Duration::try_from(left) {
        Ok(left) if !left.is_zero() => plan.again_after(left),
        _ => plan.delete_version(job, Propagation::Foreground),
    }
}

/// One look at a Job that goes on.
struct Pass<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    mine: &'a [&'a Pod],
    active: Vec<&'a Pod>,
    /// Pods that are being deleted and have not ended.
    terminating: usize,
    namespace_ends: bool,
    now: Timestamp,
    status: JobStatus,
    /// What is written after the status: at first pods that are made or let go, then deletions.
    work: Plan,
    deletions: Vec<&'a Pod>,
    notices: Vec<Notice>,
}

impl<'a> Pass<'a> {
    fn new(
        job: &'a Job,
        spec: &'a JobSpec,
        mine: &'a [&'a Pod],
        namespace_ends: bool,
        now: Timestamp,
    ) -> Pass<'a> {
        let is_going = |pod: &&&Pod| is_terminating(pod) && !is_finished(pod);
        Pass {
            job,
            spec,
            mine,
            active: mine.iter().copied().filter(|pod| is_active(pod)).collect(),
            terminating: mine.iter().filter(is_going).count(),
            namespace_ends,
            now,
            status: job.status.clone().unwrap_or_default(),
            work: Plan::nothing(),
            deletions: Vec::new(),
            notices: Vec::new(),
        }
    }

    fn run(mut self) -> Plan {
        let mut tally = Tally::of(self.spec, &self.status, self.mine);
        let target = target::of(self.spec, &self.status, &tally, &self.active, self.now);
        let is_deleted = self.job.metadata.deletion_timestamp.is_some();
        for pod in tally.release(target.as_ref(), is_deleted) {
            self.work.writes.push(pods::untrack(pod));
        }
        tally.write(&mut self.status);
        self.count();
        match target {
            Some(target) => self.end(&target, &tally),
            None if is_deleted => {}
            None if self.spec.suspend == Some(true) => self.suspend(),
            None => {
                self.go_on();
                self.scale(&tally);
            }
        }
        self.plan()
    }

    fn count(&mut self) {
        let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let ready = self.active.iter().filter(|pod| is_ready(pod)).count();
        self.status.active = Some(number(self.active.len())).filter(|active| *active > 0);
        self.status.ready = Some(number(ready));
        self.status.terminating = Some(number(self.terminating));
    }

    /// What the status says comes first, so that no pod loses its finalizer before it is named.
    fn plan(mut self) -> Plan {
        let mut plan = Plan::nothing();
        if self.job.status.as_ref() != Some(&self.status) {
            let mut changed = self.job.clone();
            changed.status = Some(std::mem::take(&mut self.status));
            plan.update_status(&changed);
            plan.then();
        }
        plan.writes.append(&mut self.work.writes);
        plan.then();
        self.deletions.iter().for_each(|pod| plan.delete(*pod));
        plan.notices = self.notices;
        plan.again_after = self.work.again_after;
        plan
    }

    fn set_condition(&mut self, kind: &str, status: &str, reason: &str, message: &str) -> bool {
        let conditions = self.status.conditions.get_or_insert_default();
        let condition = JobCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_probe_time: Some(Time(self.now)),
            last_transition_time: Some(Time(self.now)),
        };
        match conditions.iter_mut().find(|old| old.type_ == kind) {
            Some(old) if old.status == status => return false,
            Some(old) => *old = condition,
            None => conditions.push(condition),
        }
        true
    }

    /// Tells how it ends, gives up what still runs, and says so when nothing does.
    fn end(&mut self, target: &Target, tally: &Tally) {
        let Target { success, reason, message } = target;
        let kind = if *success { "SuccessCriteriaMet" } else { "FailureTarget" };
        self.set_condition(kind, "True", reason, message);
        self.deletions.extend(self.active.iter().take(BURST_PODS));
        if self.active.len() + self.terminating > 0 || !tally.is_settled() {
            return;
        }
        if *success {
            self.set_condition("Complete", "True", reason, message);
            self.status.completion_time = Some(Time(self.now));
            self.notices.push(Notice::normal(self.job, "Completed", "Job completed"));
        } else {
            self.set_condition("Failed", "True", reason, message);
            self.notices.push(Notice::warning(self.job, *reason, message.as_str()));
        }
    }

    fn suspend(&mut self) {
        if self.set_condition("Suspended", "True", "JobSuspended", "Job suspended") {
            self.notices.push(Notice::normal(self.job, "Suspended", "Job suspended"));
        }
        let active = std::mem::take(&mut self.active);
        self.give_up(active.iter().copied());
    }

    fn go_on(&mut self) {
        let was_suspended = condition(&self.status, "Suspended").is_some();
        if was_suspended && self.set_condition("Suspended", "False", "JobResumed", "Job resumed") {
            self.notices.push(Notice::normal(self.job, "Resumed", "Job resumed"));
            self.status.start_time = None;
        }
        self.status.start_time.get_or_insert(Time(self.now));
        if let Some(wait) = target::deadline_in(self.spec, &self.status, self.now) {
            self.work.again_after(wait);
        }
        // A pod that was adopted without the finalizer, or lost it, is counted as well.
        let fresh = self.active.iter().filter(|pod| !pods::is_tracked(pod));
        self.work.writes.extend(fresh.map(|pod| pods::track(pod)));
    }

    /// As many pods as may run now. A plan either makes or gives up pods.
    fn scale(&mut self, tally: &Tally) {
        let wanted = self.wanted(tally);
        let surplus = self.surplus(tally, wanted);
        if !surplus.is_empty() {
            return self.give_up(surplus.into_iter());
        }
        let waited_for = if pods::waits_for_end(self.spec) { self.terminating } else { 0 };
        let missing = wanted.saturating_sub(self.active.len() + waited_for).min(BURST_PODS);
        if missing == 0 || self.namespace_ends {
            return;
        }
        let per_index = self.spec.backoff_limit_per_index.is_some();
        let wait = failures::wait(self.mine, self.spec, self.now);
        if let Some(wait) = wait.filter(|_| !per_index) {
            return self.work.again_after(wait);
        }
        if pods::is_indexed(self.spec) {
            tally.free_indexes(missing).into_iter().for_each(|i| self.create_index(i, tally));
        } else {
            let pod = pods::new(self.job, self.spec, None, None);
            (0..missing).for_each(|_| self.work.create(&pod));
        }
    }

    fn create_index(&mut self, index: u32, tally: &Tally) {
        let last = tally.retried.get(&index);
        if let Some(wait) = last.and_then(|pod| failures::wait_of_index(pod, self.spec, self.now)) {
            return self.work.again_after(wait);
        }
        let per_index = self.spec.backoff_limit_per_index.is_some();
        let failures = last.map_or(Failures::default(), |pod| Failures::with(pod, self.spec));
        let failures = Some(failures).filter(|_| per_index);
        self.work.create(&pods::new(self.job, self.spec, Some(index), failures));
    }

    fn wanted(&self, tally: &Tally) -> usize {
        let number = |value: Option<i32>| usize::try_from(value.unwrap_or(0)).unwrap_or(0);
        let parallelism = number(self.spec.parallelism);
        let parallelism = parallelism + usize::from(planted("a Job runs one pod more"));
        let done = tally.succeeded() + tally.failed_indexes.len();
        match self.spec.completions {
            Some(_) => parallelism.min(number(self.spec.completions).saturating_sub(done)),
            // A queue of work: once a pod says that it is empty, no more pods are made.
            None if done > 0 => self.active.len().min(parallelism),
            None => parallelism,
        }
    }

    /// The pods to give up: of an index twice or not the Job's, and what is more than wanted.
    fn surplus(&self, tally: &Tally, wanted: usize) -> Vec<&'a Pod> {
        let mut ranked = self.active.clone();
        rank_for_deletion(&mut ranked, &self.active, self.now);
        let mut surplus = Vec::new();
        if pods::is_indexed(self.spec) {
            let mut seen = BTreeSet::new();
            // From the one that is worth most on.
            let keeps = |pod: &&Pod| match pods::index_of(pod, self.spec) {
                Some(index) => !tally.is_done(index) && seen.insert(index),
                None => false,
            };
            let (kept, rest): (Vec<_>, Vec<_>) = ranked.into_iter().rev().partition(keeps);
            surplus = rest;
            ranked = kept;
            ranked.sort_by_key(|pod| std::cmp::Reverse(pods::index_of(pod, self.spec)));
        }
        surplus.extend_from_slice(&ranked[..ranked.len().saturating_sub(wanted)]);
        surplus
    }

    /// Deletes pods that are not wanted any more, without counting them.
    fn give_up(&mut self, surplus: impl Iterator<Item = &'a Pod>) {
        for pod in surplus.take(BURST_PODS) {
            if pods::is_tracked(pod) {
                self.work.writes.push(pods::untrack(pod));
            }
            self.deletions.push(pod);
        }
    }
}
