//! The pods of a Job: how they are made, what became of them, and the finalizer that keeps them
//! until they are counted.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::failures::Failures;
use crate::controllers::ownership::{annotation, controller_reference, name};
use crate::controllers::plan::{Write, patch_meta};
use crate::controllers::pods::{is_terminating, phase};

/// On pods that are not counted yet (batch/v1 JobTrackingFinalizer).
pub const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// A pod's index, as annotation and as label (batch/v1 JobCompletionIndexAnnotation).
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Told to each container of an indexed Job.
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// What became of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Open,
    Succeeded,
    Failed,
}

/// A pod that is being deleted counts as failed at once, unless the Job is to wait for how it ends.
/// One whose deletion has no grace left has ended: its node said so, or is lost.
pub fn fate(pod: &Pod, spec: &JobSpec) -> Fate {
    match phase(pod) {
        "Succeeded" => Fate::Succeeded,
        "Failed" => Fate::Failed,
        _ if !is_terminating(pod) => Fate::Open,
        _ if waits_for_end(spec) && pod.metadata.deletion_grace_period_seconds != Some(0) => {
            Fate::Open
        }
        _ => Fate::Failed,
    }
}

/// Whether a pod is replaced only once it has ended.
pub fn waits_for_end(spec: &JobSpec) -> bool {
    spec.pod_failure_policy.is_some() || spec.pod_replacement_policy.as_deref() == Some("Failed")
}

pub fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

pub fn completions(spec: &JobSpec) -> u32 {
    u32::try_from(spec.completions.unwrap_or(0)).unwrap_or(0)
}

/// The index of a pod, if the Job, as it is now, has it.
pub fn index_of(pod: &Pod, spec: &JobSpec) -> Option<u32> {
    annotation(&pod.metadata, INDEX)?.parse().ok().filter(|index| *index < completions(spec))
}

pub fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == TRACKING)
}

/// Removes the finalizer.
pub fn untrack(pod: &Pod) -> Write {
    let mut finalizers = pod.metadata.finalizers.clone().unwrap_or_default();
    finalizers.retain(|finalizer| finalizer != TRACKING);
    patch_meta(pod, "finalizers", finalizers)
}

/// Adds it.
pub fn track(pod: &Pod) -> Write {
    let mut finalizers = pod.metadata.finalizers.clone().unwrap_or_default();
    finalizers.push(TRACKING.into());
    patch_meta(pod, "finalizers", finalizers)
}

/// When the last container of a pod ended, else when its conditions changed last or it was deleted.
pub fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let ends = status.container_statuses.iter().flatten().filter_map(|container| {
        let state = container.state.as_ref()?.terminated.as_ref()?;
        state.finished_at.as_ref().map(|time| time.0)
    });
    let told = status.conditions.iter().flatten();
    let told = told.filter_map(|c| c.last_transition_time.as_ref().map(|time| time.0));
    let deleted = pod.metadata.deletion_timestamp.as_ref().map(|time| time.0);
    ends.max().or(deleted).or_else(|| told.max())
}

/// A pod of the template, named by the server.
pub fn new(job: &Job, spec: &JobSpec, index: Option<u32>, failures: Option<Failures>) -> Pod {
    let own = spec.template.metadata.clone().unwrap_or_default();
    let job_name = name(&job.metadata);
    let mut finalizers = own.finalizers.unwrap_or_default();
    finalizers.push(TRACKING.into());
    let prefix = match index {
        Some(index) => format!("{job_name}-{index}-"),
        None => format!("{job_name}-"),
    };
    let metadata = ObjectMeta {
        generate_name: Some(prefix),
        namespace: job.metadata.namespace.clone(),
        labels: own.labels,
        annotations: own.annotations,
        finalizers: Some(finalizers),
        owner_references: Some(vec![controller_reference(job)]),
        ..ObjectMeta::default()
    };
    let mut pod = Pod { metadata, spec: spec.template.spec.clone(), status: None };
    if let Some(index) = index {
        set_index(&mut pod, job_name, index);
    }
    if let Some(failures) = failures {
        failures.write(&mut pod);
    }
    pod
}

fn set_index(pod: &mut Pod, job_name: &str, index: u32) {
    let meta = &mut pod.metadata;
    meta.annotations.get_or_insert_default().insert(INDEX.into(), index.to_string());
    meta.labels.get_or_insert_default().insert(INDEX.into(), index.to_string());
    let Some(spec) = &mut pod.spec else { return };
    spec.hostname = Some(format!("{job_name}-{index}"));
    let inits = spec.init_containers.iter_mut().flatten();
    inits.chain(&mut spec.containers).for_each(tell_index);
}

fn tell_index(container: &mut Container) {
    let variables = container.env.get_or_insert_default();
    if variables.iter().any(|variable| variable.name == INDEX_VARIABLE) {
        return;
    }
    let field = ObjectFieldSelector {
        field_path: format!("metadata.labels['{INDEX}']"),
        ..ObjectFieldSelector::default()
    };
    let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    variables.push(EnvVar {
        name: INDEX_VARIABLE.into(),
        value_from: Some(source),
        ..EnvVar::default()
    });
}
