//! What must hold of Jobs at every moment: a pod is counted once, no more run than asked for, and none
//! that runs is given up without a reason.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use tokio::time::Instant;
use wasmfleet::api::Gvr;
use wasmfleet::client::cache::{Changed, View, parse_revision};

use super::Truth;
use super::read::*;

pub const TRACKING: &str = "batch.kubernetes.io/job-tracking";
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// For so long a decision of before a Job went on may still be under way.
const RESUMED_AFTER: Duration = Duration::from_secs(60);
/// What lets a Job give up all that runs.
const ENDS: &[&str] = &["SuccessCriteriaMet", "Complete", "FailureTarget", "Failed"];

/// An active pod that lost its finalizer: its Job deletes it next. What was true then.
struct GivenUp {
    pod: String,
    job: String,
    /// When, as the store counts.
    revision: u64,
    /// The Job's active pods with this one, and those that had succeeded.
    active: usize,
    succeeded: usize,
}

/// What became of a Job's pods, by the Job's uid.
#[derive(Default)]
struct Ended {
    succeeded: BTreeSet<String>,
    /// Failed, deleted, or gone without having succeeded.
    failed: BTreeSet<String>,
    told_succeeded: i32,
    suspended: Option<Instant>,
}

/// Sees every change of Jobs and their pods.
#[derive(Default)]
pub struct JobsSeen {
    ended: Mutex<BTreeMap<String, Ended>>,
    /// Those that wait for what the table of Jobs showed then.
    given_up: Mutex<Vec<GivenUp>>,
    violations: Mutex<Vec<String>>,
}

pub fn job_of(meta: &ObjectMeta) -> Option<&str> {
    let mut owners = meta.owner_references.iter().flatten();
    let owner = owners.find(|owner| owner.controller == Some(true) && owner.kind == "Job")?;
    Some(&owner.uid)
}

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn revision_of(meta: &ObjectMeta) -> u64 {
    parse_revision(meta.resource_version.as_deref().unwrap_or_default())
}

fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == TRACKING)
}

pub fn is_set(job: &Job, kind: &str) -> bool {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|one| one.type_ == kind && one.status == "True")
}

impl JobsSeen {
    pub fn start(truth: &Truth) -> Arc<JobsSeen> {
        let seen = Arc::new(JobsSeen::default());
        let (weak, cache) = (Arc::downgrade(&seen), Arc::downgrade(&truth.cache));
        truth.cache.listen(Box::new(move |change| {
            if let (Some(seen), Some(cache)) = (weak.upgrade(), cache.upgrade()) {
                seen.look(change, &cache.view());
            }
        }));
        seen
    }

    fn look(&self, change: &Changed, view: &View) {
        if change.resource.resource == "pods" {
            let (old, new) = change.typed::<Pod>();
            let Some(pod) = new.or(old) else { return };
            let Some(job) = job_of(&pod.metadata) else { return };
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            let mut ended = self.ended.lock();
            let ended = ended.entry(job.to_string()).or_default();
            let goes = new.is_none() || pod.metadata.deletion_timestamp.is_some();
            if phase(pod) == "Succeeded" {
                ended.succeeded.insert(uid.clone());
            }
            if phase(pod) == "Failed" || goes {
                ended.failed.insert(uid);
            }
            let kept = old.is_some_and(|old| is_active(old) && is_tracked(old));
            if kept && !goes && is_active(pod) && !is_tracked(pod) {
                let mine = view.owned_by::<Pod>(job);
                let others = mine.filter(|one| is_active(one) && is_tracked(one)).count();
                self.given_up.lock().push(GivenUp {
                    pod: name_of(pod).into(),
                    job: job.into(),
                    revision: revision_of(&pod.metadata),
                    active: others + 1,
                    succeeded: ended.succeeded.len(),
                });
            }
        } else if change.resource.resource != "jobs" {
            // Nothing else says anything of Jobs.
            return;
        }
        for job in view.all::<Job>() {
            self.check(job, view);
        }
        let seen = view.revision(&Gvr::of::<Job>());
        self.given_up.lock().retain(|one| {
            let waits = one.revision > seen;
            let mut jobs = view.all::<Job>();
            let job = jobs.find(|job| !waits && job.metadata.uid.as_ref() == Some(&one.job));
            if let Some(why) = job.and_then(|job| self.without_reason(one, job)) {
                self.violate(why);
            }
            waits
        });
    }

    /// A running pod goes only where there are more than are wanted, or its Job stops or ends.
    fn without_reason(&self, one: &GivenUp, job: &Job) -> Option<String> {
        let spec = job.spec.as_ref()?;
        let is_indexed = spec.completion_mode.as_deref() == Some("Indexed");
        let suspended = self.ended.lock().get(&one.job).and_then(|ended| ended.suspended);
        let resumed = suspended.is_some_and(|at| at.elapsed() < RESUMED_AFTER);
        let ends = ENDS.iter().any(|kind| is_set(job, kind));
        if is_indexed || resumed || ends || job.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let number = |value: Option<i32>| value.and_then(|value| usize::try_from(value).ok());
        let GivenUp { pod, active, succeeded, .. } = one;
        let parallelism = number(spec.parallelism).unwrap_or(1);
        let most = number(spec.completions).unwrap_or(usize::MAX);
        let spare = *active > parallelism || active + succeeded > most;
        let text = format!(
            "{} gives up {pod}, one of {active} that run, after {succeeded} of {:?} succeeded",
            name_of(job),
            spec.completions
        );
        (!spare).then_some(text)
    }

    fn violate(&self, what: String) {
        let mut violations = self.violations.lock();
        if violations.len() < 10 {
            violations.push(what);
        }
    }

    fn check(&self, job: &Job, view: &View) {
        let (Some(spec), Some(status)) = (&job.spec, &job.status) else { return };
        let uid = job.metadata.uid.clone().unwrap_or_default();
        let mut wrong = Vec::new();
        let pods: Vec<_> = view.owned_by::<Pod>(&uid).filter(|pod| is_active(pod)).collect();
        let most = spec.parallelism.unwrap_or(1);
        if pods.len() as i32 > most {
            wrong.push(format!("{} pods run, more than {most}", pods.len()));
        }
        let label = |pod: &&&Arc<Pod>| pod.metadata.labels.as_ref()?.get(INDEX).cloned();
        let indexes: Vec<String> = pods.iter().filter_map(|pod| label(&pod)).collect();
        if indexes.iter().collect::<BTreeSet<_>>().len() != indexes.len() {
            wrong.push(format!("an index twice in {indexes:?}"));
        }
        if is_set(job, "Complete") && is_set(job, "Failed") {
            wrong.push("complete and failed".into());
        }
        let mut ended = self.ended.lock();
        let ended = ended.entry(uid).or_default();
        let succeeded = status.succeeded.unwrap_or(0);
        if succeeded < ended.told_succeeded {
            wrong.push(format!("{succeeded} succeeded, after {}", ended.told_succeeded));
        }
        ended.told_succeeded = succeeded;
        if spec.suspend == Some(true) {
            ended.suspended = Some(Instant::now());
        }
        // The table of pods may be behind that of Jobs.
        if view.revision(&Gvr::of::<Pod>()) >= revision_of(&job.metadata) {
            let named = status.uncounted_terminated_pods.clone().unwrap_or_default();
            let count = |told: Option<i32>, named: Option<Vec<String>>| {
                told.unwrap_or(0) as usize + named.map_or(0, |list| list.len())
            };
            // What a Job that fails gives up counts as failed before it is deleted.
            ended.failed.extend(named.failed.iter().flatten().cloned());
            let told = count(status.succeeded, named.succeeded);
            if told > ended.succeeded.len() {
                wrong.push(format!("{told} counted of {} that succeeded", ended.succeeded.len()));
            }
            let told = count(status.failed, named.failed);
            if told > ended.failed.len() {
                wrong.push(format!("{told} counted of {} that failed", ended.failed.len()));
            }
        }
        let name = name_of(job);
        wrong.into_iter().for_each(|what| self.violate(format!("{name}: {what}")));
    }

    pub fn violations(&self) -> Vec<String> {
        self.violations.lock().clone()
    }

    pub fn assert_kept(&self) {
        assert_eq!(self.violations(), Vec::<String>::new());
    }
}
