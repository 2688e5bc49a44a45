//! Job (batch/v1), and what CronJob shares of it.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Affinity, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::labels::Map;
use super::{checks, job_policies, labels, pod_fields, pod_template, pod_validation, workload};
use crate::api::field::{Errors, Path};
use crate::api::names;
use crate::api::resource::{DEFAULT_META, Generation, Kind, KindMeta};
use crate::api::table::Column;

/// Set on the pods of a Job and selected by it (batch/v1 well_known_labels.go).
const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
const JOB_NAME: &str = "batch.kubernetes.io/job-name";
/// The same, as they were called before; both are set.
const OLD_CONTROLLER_UID: &str = "controller-uid";
const OLD_JOB_NAME: &str = "job-name";
const OWN_LABELS: &[&str] = &[CONTROLLER_UID, OLD_CONTROLLER_UID, JOB_NAME, OLD_JOB_NAME];
const BACKOFF_LIMIT: i32 = 6;
const COMPLETION_MODES: &[&str] = &["NonIndexed", "Indexed"];
const REPLACEMENT_POLICIES: &[&str] = &["Failed", "TerminatingOrFailed"];
/// Above so many completions, so much may run or fail where each index has its own limit.
const MANY_COMPLETIONS: i32 = 100_000;
const MAX_OF_MANY: i32 = 10_000;
const MANAGED_BY_MAX_BYTES: usize = 63;
/// Most pods at the same time, and most completions, of an indexed Job.
const MAX_PARALLEL_INDEXED: i32 = 100_000;

impl Kind for Job {
    const META: KindMeta = KindMeta {
        singular: "job",
        categories: &["all"],
        status: true,
        generation: Generation::Spec,
        selectable: &["status.successful"],
        ..DEFAULT_META
    };

    fn set_defaults(&mut self, old: Option<&Self>) {
        let (name, uid) = (self.metadata.name.clone(), self.metadata.uid.clone());
        let spec = self.spec.get_or_insert_default();
        set_defaults(spec);
        // Those of the template, if the Job has none of its own.
        let labels = spec.template.metadata.as_ref().and_then(|meta| meta.labels.clone());
        if old.is_none() && self.metadata.labels.as_ref().is_none_or(|own| own.is_empty()) {
            let mut labels = labels.unwrap_or_default();
            labels.retain(|label, _| !OWN_LABELS.contains(&label.as_str()));
            self.metadata.labels = Some(labels).filter(|labels| !labels.is_empty());
        }
        if spec.manual_selector != Some(true)
            && let (Some(name), Some(uid)) = (name, uid)
            && !name.is_empty()
            && old.is_none()
        {
            select_own_pods(spec, &name, &uid);
        }
        self.status.get_or_insert_default();
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let Some(spec) = &self.spec else { return errors.required(&path, "") };
        validate_spec(errors, &path, spec);
        validate_name(errors, &self.metadata, spec);
        let selector = path.child("selector");
        match &spec.selector {
            None => errors.required(&selector, ""),
            Some(own) => {
                labels::validate_selector(errors, &selector, own);
                let metadata = spec.template.metadata.clone().unwrap_or_default();
                let found = crate::api::selector::Selector::from_typed(Some(own));
                let no_labels = Map::new();
                let labels = metadata.labels.as_ref().unwrap_or(&no_labels);
                if !found.is_ok_and(|selector| selector.matches(labels)) {
                    let path = path.child("template");
                    let path = path.child("metadata");
                    let detail = "`selector` does not match template `labels`";
                    errors.invalid(&path.child("labels"), &metadata.labels, detail);
                }
            }
        }
    }

    fn validate_create(&self, errors: &mut Errors) {
        if let Some(spec) = &self.spec {
            validate_own_selector(errors, &self.metadata, spec);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let (Some(new), Some(old)) = (&self.spec, &old.spec) else { return };
        let path = Path::new("spec");
        checks::immutable(errors, &path.child("selector"), &new.selector, &old.selector);
        let mode = path.child("completionMode");
        checks::immutable(errors, &mode, &new.completion_mode, &old.completion_mode);
        let policy = path.child("podFailurePolicy");
        checks::immutable(errors, &policy, &new.pod_failure_policy, &old.pod_failure_policy);
        let at = path.child("backoffLimitPerIndex");
        let limits = (&new.backoff_limit_per_index, &old.backoff_limit_per_index);
        checks::immutable(errors, &at, limits.0, limits.1);
        checks::immutable(errors, &path.child("managedBy"), &new.managed_by, &old.managed_by);
        let at = path.child("successPolicy");
        checks::immutable(errors, &at, &new.success_policy, &old.success_policy);
        let completions = path.child("completions");
        if new.completion_mode.as_deref() != Some("Indexed") {
            checks::immutable(errors, &completions, &new.completions, &old.completions);
        } else if new.completions != old.completions && new.completions != new.parallelism {
            let detail = "can only be modified in tandem with spec.parallelism";
            errors.invalid(&completions, new.completions, detail);
        }
        let template = template_to_compare(new, old);
        checks::immutable(errors, &path.child("template"), &new.template, &template);
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        let status = self.status.clone().unwrap_or_default();
        let path = Path::new("status");
        for (field, value) in
            [("active", status.active), ("succeeded", status.succeeded), ("failed", status.failed)]
        {
            checks::nonnegative_if_set(errors, &path.child(field), value);
        }
    }

    fn warnings(&self) -> Vec<String> {
        self.spec.iter().flat_map(|spec| pod_template::warnings(&spec.template)).collect()
    }

    fn columns() -> &'static [Column] {
        workload::columns![
            Column::new("Status", "string", "How the job is."),
            Column::new("Completions", "string", "How many pods succeeded of how many."),
            Column::new("Duration", "string", "How long the job took or has been running."),
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let own = vec![
            status_cell(self).into(),
            completions_cell(self).into(),
            duration_cell(self, now).into(),
        ];
        let selector = labels::format_selector(&spec.selector.unwrap_or_default());
        workload::row(&self.metadata, own, Some(&spec.template), Some(selector), now)
    }

    fn field(&self, field: &str) -> String {
        match field {
            "status.successful" => {
                self.status.as_ref().and_then(|s| s.succeeded).unwrap_or(0).to_string()
            }
            _ => String::new(),
        }
    }
}

/// The defaults of a Job's spec, also within a CronJob (pkg/apis/batch/v1/defaults.go).
pub fn set_defaults(spec: &mut JobSpec) {
    if spec.completions.is_none() && spec.parallelism.is_none() {
        spec.completions = Some(1);
    }
    spec.parallelism.get_or_insert(1);
    let per_index = spec.backoff_limit_per_index.is_some();
    spec.backoff_limit.get_or_insert(if per_index { i32::MAX } else { BACKOFF_LIMIT });
    spec.completion_mode.get_or_insert_with(|| COMPLETION_MODES[0].into());
    spec.suspend.get_or_insert(false);
    let policy = if spec.pod_failure_policy.is_some() { 0 } else { 1 };
    spec.pod_replacement_policy.get_or_insert_with(|| REPLACEMENT_POLICIES[policy].into());
    spec.manual_selector.get_or_insert(false);
    job_policies::set_defaults(spec);
    pod_template::set_defaults(&mut spec.template);
}

/// Labels that nobody else's pods have, and the selector of them (job strategy's
/// generateSelector).
fn select_own_pods(spec: &mut JobSpec, name: &str, uid: &str) {
    let metadata = spec.template.metadata.get_or_insert_default();
    let own = metadata.labels.get_or_insert_default();
    // What the user set stays, and is refused where it is another value.
    for (label, value) in own_labels(name, uid) {
        own.entry(label.into()).or_insert_with(|| value.into());
    }
    let selector = spec.selector.get_or_insert_default();
    let labels = selector.match_labels.get_or_insert_default();
    labels.entry(CONTROLLER_UID.into()).or_insert_with(|| uid.into());
}

fn own_labels<'a>(name: &'a str, uid: &'a str) -> [(&'static str, &'a str); 4] {
    [(OLD_CONTROLLER_UID, uid), (OLD_JOB_NAME, name), (CONTROLLER_UID, uid), (JOB_NAME, name)]
}

/// A Job that leaves its selector to the server selects its own pods and no others
/// (validateGeneratedSelector).
fn validate_own_selector(errors: &mut Errors, metadata: &ObjectMeta, spec: &JobSpec) {
    let Some(selector) = spec.selector.as_ref().filter(|_| spec.manual_selector != Some(true))
    else {
        return;
    };
    let (name, uid) = (metadata.name.as_deref(), metadata.uid.as_deref());
    let (name, uid) = (name.unwrap_or_default(), uid.unwrap_or_default());
    if uid.is_empty() {
        errors.required(&Path::new("metadata").child("uid"), "");
    }
    let path = Path::new("spec");
    let template = path.child("template");
    let at = template.child("metadata");
    let at = at.child("labels");
    let labels = spec.template.metadata.as_ref().and_then(|meta| meta.labels.clone());
    let labels = labels.unwrap_or_default();
    for (label, value) in own_labels(name, uid) {
        let detail = format!("must be '{value}'");
        match labels.get(label) {
            None => errors.required(&at.key(label), &detail),
            Some(found) if found != value => errors.invalid(&at.key(label), &labels, &detail),
            Some(_) => {}
        }
    }
    let own: Map =
        own_labels(name, uid).into_iter().map(|(key, value)| (key.into(), value.into())).collect();
    let selector_of = crate::api::selector::Selector::from_typed(Some(selector));
    if selector_of.is_ok_and(|selector| !selector.matches(&own)) {
        errors.invalid(&path.child("selector"), selector, "`selector` not auto-generated");
    }
}

/// Everything but the selector.
pub fn validate_spec(errors: &mut Errors, path: &Path, spec: &JobSpec) {
    let numbers = [
        ("parallelism", spec.parallelism),
        ("completions", spec.completions),
        ("backoffLimit", spec.backoff_limit),
        ("backoffLimitPerIndex", spec.backoff_limit_per_index),
        ("maxFailedIndexes", spec.max_failed_indexes),
        ("ttlSecondsAfterFinished", spec.ttl_seconds_after_finished),
    ];
    for (field, value) in numbers {
        checks::nonnegative_if_set(errors, &path.child(field), value);
    }
    let deadline = path.child("activeDeadlineSeconds");
    checks::nonnegative_if_set(errors, &deadline, spec.active_deadline_seconds);
    let mode = spec.completion_mode.as_deref().unwrap_or_default();
    checks::one_of(errors, &path.child("completionMode"), mode, COMPLETION_MODES);
    let indexed = mode == "Indexed";
    if indexed && spec.completions.is_none() {
        let detail = "when completion mode is Indexed";
        errors.required(&path.child("completions"), detail);
    }
    if indexed && spec.parallelism > Some(MAX_PARALLEL_INDEXED) {
        let detail = format!(
            "must be less than or equal to {MAX_PARALLEL_INDEXED} when completion mode is Indexed"
        );
        errors.invalid(&path.child("parallelism"), spec.parallelism, &detail);
    }
    for (field, set) in [
        ("backoffLimitPerIndex", spec.backoff_limit_per_index),
        ("maxFailedIndexes", spec.max_failed_indexes),
    ] {
        if set.is_some() && !indexed {
            errors.invalid(&path.child(field), set, "requires indexed completion mode");
        }
    }
    if spec.max_failed_indexes.is_some() && spec.backoff_limit_per_index.is_none() {
        let at = path.child("backoffLimitPerIndex");
        errors.required(&at, "when maxFailedIndexes is specified");
    }
    if let Some(policy) = &spec.pod_replacement_policy {
        let path = path.child("podReplacementPolicy");
        let most = if spec.pod_failure_policy.is_some() { 1 } else { REPLACEMENT_POLICIES.len() };
        checks::one_of(errors, &path, policy, &REPLACEMENT_POLICIES[..most]);
    }
    if let Some(manager) = &spec.managed_by {
        let path = path.child("managedBy");
        checks::domain_prefixed_path(errors, &path, manager);
        if manager.len() > MANAGED_BY_MAX_BYTES {
            errors.too_long(&path, MANAGED_BY_MAX_BYTES);
        }
    }
    validate_indexed(errors, path, spec);
    job_policies::validate(errors, path, spec);
    validate_template(errors, &path.child("template"), spec);
}

/// The old template with what may differ: while a Job is suspended, where its pods may run, their
/// labels and annotations (job strategy's validatePodTemplateUpdate).
fn template_to_compare(new: &JobSpec, old: &JobSpec) -> PodTemplateSpec {
    let mut template = old.template.clone();
    if old.suspend != Some(true) {
        return template;
    }
    if let (Some(spec), Some(new)) = (&mut template.spec, &new.template.spec) {
        let affinity = new.affinity.as_ref().and_then(|affinity| affinity.node_affinity.clone());
        if affinity.is_some() || spec.affinity.is_some() {
            let mut changed = spec.affinity.take().unwrap_or_default();
            changed.node_affinity = affinity;
            let is_empty = changed == Affinity::default() && new.affinity.is_none();
            spec.affinity = (!is_empty).then_some(changed);
        }
        spec.node_selector.clone_from(&new.node_selector);
        spec.tolerations.clone_from(&new.tolerations);
        spec.scheduling_gates.clone_from(&new.scheduling_gates);
    }
    let metadata = new.template.metadata.clone().unwrap_or_default();
    let old = template.metadata.get_or_insert_default();
    (old.labels, old.annotations) = (metadata.labels, metadata.annotations);
    if *old == ObjectMeta::default() && new.template.metadata.is_none() {
        template.metadata = None;
    }
    template
}

fn validate_template(errors: &mut Errors, path: &Path, spec: &JobSpec) {
    let metadata = spec.template.metadata.clone().unwrap_or_default();
    labels::validate_labels(errors, &path.child("labels"), metadata.labels.as_ref());
    let path = path.child("spec");
    let Some(pod) = &spec.template.spec else { return errors.required(&path, "") };
    pod_validation::validate(errors, &path, pod);
    pod_fields::check(pod, &path, errors, &mut Vec::new());
    pod_template::refuse_ephemeral_containers(errors, &path, pod);
    let policy = pod.restart_policy.as_deref().unwrap_or_default();
    let at = path.child("restartPolicy");
    match policy {
        "" | "Always" => errors.required(&at, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if spec.pod_failure_policy.is_some() => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.invalid(&at, policy, detail);
        }
        "OnFailure" | "Never" => {}
        other => errors.not_supported(&at, other, &["OnFailure", "Never"]),
    }
}

/// Pods of indexed Jobs are named after it.
fn validate_name(errors: &mut Errors, metadata: &ObjectMeta, spec: &JobSpec) {
    let indexed = spec.completion_mode.as_deref() == Some("Indexed");
    let Some(completions) = spec.completions.filter(|count| indexed && *count > 0) else { return };
    let name = metadata.name.as_deref().unwrap_or_default();
    let longest = format!("{name}-{}", completions - 1);
    if !name.is_empty() && !names::is_dns1123_label(&longest).is_empty() {
        let path = Path::new("metadata");
        let detail = format!("will not able to create pod with invalid DNS label: {longest}");
        errors.invalid(&path.child("name"), name, &detail);
    }
}

/// How many indexes may fail, and how many there may be.
fn validate_indexed(errors: &mut Errors, path: &Path, spec: &JobSpec) {
    let Some(completions) =
        spec.completions.filter(|_| spec.completion_mode.as_deref() == Some("Indexed"))
    else {
        return;
    };
    let failed = path.child("maxFailedIndexes");
    let most_failed = spec.max_failed_indexes;
    if most_failed > Some(completions) {
        errors.invalid(&failed, most_failed, "must be less than or equal to completions");
    }
    if most_failed > Some(MAX_PARALLEL_INDEXED) {
        let detail = format!("must be less than or equal to {MAX_PARALLEL_INDEXED}");
        errors.invalid(&failed, most_failed, &detail);
    }
    if completions <= MANY_COMPLETIONS || spec.backoff_limit_per_index.is_none() {
        return;
    }
    if most_failed.is_none() {
        let detail = format!("must be specified when completions is above {MANY_COMPLETIONS}");
        errors.required(&failed, &detail);
    }
    let parallel = path.child("parallelism");
    for (path, value) in [(&parallel, spec.parallelism), (&failed, most_failed)] {
        if value > Some(MAX_OF_MANY) {
            let detail = format!(
                "must be less than or equal to {MAX_OF_MANY} when completions are above \
                 {MANY_COMPLETIONS} and used with backoff limit per index"
            );
            errors.invalid(path, value, &detail);
        }
    }
}

fn has_condition(job: &Job, type_: &str) -> bool {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == type_ && c.status == "True")
}

fn status_cell(job: &Job) -> &'static str {
    if has_condition(job, "Complete") {
        "Complete"
    } else if has_condition(job, "Failed") {
        "Failed"
    } else if job.metadata.deletion_timestamp.is_some() {
        "Terminating"
    } else if has_condition(job, "Suspended") {
        "Suspended"
    } else if has_condition(job, "FailureTarget") {
        "FailureTarget"
    } else if has_condition(job, "SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn completions_cell(job: &Job) -> String {
    let spec = job.spec.clone().unwrap_or_default();
    let succeeded = job.status.as_ref().and_then(|s| s.succeeded).unwrap_or(0);
    match (spec.completions, spec.parallelism.unwrap_or(0)) {
        (Some(completions), _) => format!("{succeeded}/{completions}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

fn duration_cell(job: &Job, now: Timestamp) -> String {
    let status = job.status.clone().unwrap_or_default();
    let Some(start) = status.start_time else { return String::new() };
    let end = status.completion_time.map_or(now, |end| end.0);
    crate::api::duration::human(end.duration_since(start.0).as_secs())
}
