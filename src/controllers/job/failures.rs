//! What a failed pod means: the rules of `podFailurePolicy` (KEP-3329), the failures of one index,
//! and the waits before another pod is tried.
//! Source: k8s.io/kubernetes pkg/controller/job/{pod_failure_policy,backoff_utils,indexed_job_utils}.go.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
    PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::pods::{self, Fate, ended_at, fate};
use crate::controllers::ownership::{annotation, name, namespace};

/// The wait after a first failed pod; doubles with each further one that no success comes between.
const FIRST_WAIT: Duration = Duration::from_secs(10);
const MOST_WAIT: Duration = Duration::from_secs(600);
/// Failures of an index before this pod, those that count and those that a policy ignores.
const COUNTED: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// What a failed pod comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Counts towards the limits.
    Counted,
    Ignored,
    FailsIndex,
    /// With what there is to say about it.
    FailsJob(String),
}

/// What the first rule that matches says.
pub fn verdict(spec: &JobSpec, pod: &Pod) -> Verdict {
    let rules = spec.pod_failure_policy.iter().flat_map(|policy| &policy.rules).enumerate();
    for (at, rule) in rules {
        let Some(what) = matched(rule, pod) else { continue };
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignored,
            "FailIndex" => Verdict::FailsIndex,
            "FailJob" => Verdict::FailsJob(format!("{what} matching FailJob rule at index {at}")),
            _ => Verdict::Counted,
        };
    }
    Verdict::Counted
}

fn matched(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let (space, pod_name) = (namespace(&pod.metadata), name(&pod.metadata));
    if let Some(asked) = &rule.on_exit_codes {
        let (container, code) = exit_code(pod, asked)?;
        return Some(format!(
            "Container {container} for pod {space}/{pod_name} failed with exit code {code}"
        ));
    }
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let has = |asked: &PodFailurePolicyOnPodConditionsPattern| {
        let status = asked.status.as_deref().unwrap_or("True");
        conditions.iter().any(|one| one.type_ == asked.type_ && one.status == status)
    };
    let found = rule.on_pod_conditions.iter().flatten().find(|asked| has(asked))?;
    Some(format!("Pod {space}/{pod_name} has condition {}", found.type_))
}

/// The first container that failed with a code as asked for.
fn exit_code<'p>(
    pod: &'p Pod,
    asked: &PodFailurePolicyOnExitCodesRequirement,
) -> Option<(&'p str, i32)> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().flatten();
    let mut all = all.chain(status.init_container_statuses.iter().flatten());
    let code = |one: &ContainerStatus| {
        let code = one.state.as_ref()?.terminated.as_ref()?.exit_code;
        let listed = asked.values.contains(&code);
        (code != 0 && listed == (asked.operator == "In")).then_some(code)
    };
    let is_meant = |one: &ContainerStatus| {
        asked.container_name.as_ref().is_none_or(|wanted| *wanted == one.name)
    };
    all.find_map(|one| Some((one.name.as_str(), code(one).filter(|_| is_meant(one))?)))
}

/// The failures of an index, kept on its newest pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    pub counted: u32,
    pub ignored: u32,
}

impl Failures {
    /// Those before this pod.
    pub fn before(pod: &Pod) -> Failures {
        let read = |key: &str| {
            annotation(&pod.metadata, key).and_then(|text| text.parse().ok()).unwrap_or(0)
        };
        Failures { counted: read(COUNTED), ignored: read(IGNORED) }
    }

    /// With this failed pod.
    pub fn with(pod: &Pod, spec: &JobSpec) -> Failures {
        let mut failures = Failures::before(pod);
        match verdict(spec, pod) {
            Verdict::Ignored => failures.ignored = failures.ignored.saturating_add(1),
            _ => failures.counted = failures.counted.saturating_add(1),
        }
        failures
    }

    pub fn all(self) -> u32 {
        self.counted.saturating_add(self.ignored)
    }

    pub fn write(self, pod: &mut Pod) {
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(COUNTED.into(), self.counted.to_string());
        if self.ignored > 0 {
            annotations.insert(IGNORED.into(), self.ignored.to_string());
        }
    }
}

/// Whether this failed pod is the last of its index.
pub fn ends_index(spec: &JobSpec, pod: &Pod, limit: i32) -> bool {
    let before = i32::try_from(Failures::before(pod).counted).unwrap_or(i32::MAX);
    match verdict(spec, pod) {
        Verdict::FailsIndex => true,
        Verdict::Ignored => false,
        _ => before >= limit,
    }
}

/// What is left of the wait until another pod is tried, after those that failed since the last
/// success.
pub fn wait(mine: &[&Pod], spec: &JobSpec, now: Timestamp) -> Option<Duration> {
    let ended = |wanted: Fate| {
        mine.iter().filter(move |pod| fate(pod, spec) == wanted).filter_map(|pod| ended_at(pod))
    };
    let last_success = ended(Fate::Succeeded).max();
    let since = |time: &Timestamp| last_success.is_none_or(|success| *time > success);
    let failures: Vec<Timestamp> = ended(Fate::Failed).filter(since).collect();
    let last = *failures.iter().max()?;
    left(u32::try_from(failures.len()).unwrap_or(u32::MAX), last, now)
}

/// The same for an index, whose last pod this is.
pub fn wait_of_index(last: &Pod, spec: &JobSpec, now: Timestamp) -> Option<Duration> {
    left(Failures::with(last, spec).all(), ended_at(last)?, now)
}

fn left(failures: u32, last: Timestamp, now: Timestamp) -> Option<Duration> {
    let doublings = failures.saturating_sub(1).min(16);
    let wait = FIRST_WAIT.saturating_mul(1 << doublings).min(MOST_WAIT);
    // A clock that went back makes nobody wait longer than this.
    let waited = Duration::try_from(now.duration_since(last)).unwrap_or_default();
    Some(wait.saturating_sub(waited)).filter(|left| !left.is_zero())
}

/// The index that a pod of an indexed Job counts for.
pub fn counts_for(pod: &Pod, spec: &JobSpec) -> bool {
    !pods::is_indexed(spec) || pods::index_of(pod, spec).is_some()
}
