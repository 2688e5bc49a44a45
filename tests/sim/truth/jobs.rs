//! What must hold of Jobs at every moment: a pod is counted once, and no more run than asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use wasmfleet::client::cache::{Changed, View, parse_revision};

use super::Truth;
use super::read::*;

pub const TRACKING: &str = "batch.kubernetes.io/job-tracking";
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// What became of a Job's pods, by the Job's uid.
#[derive(Default)]
struct Ended {
    succeeded: BTreeSet<String>,
    /// Failed, deleted, or gone without having succeeded.
    failed: BTreeSet<String>,
    told_succeeded: i32,
}

/// Sees every change of Jobs and their pods.
#[derive(Default)]
pub struct JobsSeen {
    ended: Mutex<BTreeMap<String, Ended>>,
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
        } else if change.resource.resource != "jobs" {
            // Nothing else says anything of Jobs.
            return;
        }
        for job in view.all::<Job>() {
            self.check(job, view);
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
        // The table of pods may be behind that of Jobs.
        let version = parse_revision(job.metadata.resource_version.as_deref().unwrap_or_default());
        let pods = wasmfleet::api::Gvr::of::<Pod>();
        if view.revision(&pods) >= version {
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
        let mut violations = self.violations.lock();
        if violations.len() < 10 {
            let name = name_of(job);
            violations.extend(wrong.into_iter().map(|what| format!("{name}: {what}")));
        }
    }

    pub fn violations(&self) -> Vec<String> {
        self.violations.lock().clone()
    }

    pub fn assert_kept(&self) {
        assert_eq!(self.violations(), Vec::<String>::new());
    }
}
