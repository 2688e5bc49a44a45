//! How a Job ends.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{JobSpec, JobStatus, SuccessPolicyRule};
use k8s_openapi::api::core::v1::Pod;

use super::indexes::Indexes;
use super::tally::Tally;
use super::{condition, pods};
use crate::controllers::pods::phase;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub success: bool,
    pub reason: &'static str,
    pub message: String,
}

/// Reasons of a Job's end (batch/v1 JobReason…).
const REASONS: &[&str] = &[
    "CompletionsReached",
    "SuccessPolicy",
    "PodFailurePolicy",
    "BackoffLimitExceeded",
    "DeadlineExceeded",
    "MaxFailedIndexesExceeded",
    "FailedIndexes",
];

fn failure(reason: &'static str, message: impl Into<String>) -> Option<Target> {
    Some(Target { success: false, reason, message: message.into() })
}

/// How it ends, if that is decided: once it was, it stays.
pub fn of(
    spec: &JobSpec,
    status: &JobStatus,
    tally: &Tally,
    active: &[&Pod],
    now: Timestamp,
) -> Option<Target> {
    before(status)
        .or_else(|| failed(spec, status, tally, active, now))
        .or_else(|| failed_indexes(spec, tally))
        .or_else(|| succeeded(spec, tally, active))
}

fn before(status: &JobStatus) -> Option<Target> {
    [("SuccessCriteriaMet", true), ("FailureTarget", false)].into_iter().find_map(
        |(kind, success)| {
            let told = condition(status, kind).filter(|told| told.status == "True")?;
            let reason = REASONS.iter().find(|reason| Some(**reason) == told.reason.as_deref());
            let reason = reason.copied().unwrap_or(if success { REASONS[0] } else { REASONS[3] });
            Some(Target { success, reason, message: told.message.clone().unwrap_or_default() })
        },
    )
}

fn failed(
    spec: &JobSpec,
    status: &JobStatus,
    tally: &Tally,
    active: &[&Pod],
    now: Timestamp,
) -> Option<Target> {
    if let Some(why) = tally.fatal() {
        return failure("PodFailurePolicy", why);
    }
    if is_past_limit(spec, tally, active) {
        return failure("BackoffLimitExceeded", "Job has reached the specified backoff limit");
    }
    let suspended = spec.suspend == Some(true);
    if !suspended && deadline_in(spec, status, now).is_some_and(|wait| wait.is_zero()) {
        return failure("DeadlineExceeded", "Job was active longer than specified deadline");
    }
    None
}

/// Pods that failed, or containers that were started again in the pods that run, beyond the limit.
fn is_past_limit(spec: &JobSpec, tally: &Tally, active: &[&Pod]) -> bool {
    let limit = spec.backoff_limit.unwrap_or(6);
    if i32::try_from(tally.failed()).unwrap_or(i32::MAX) > limit {
        return true;
    }
    let policy = spec.template.spec.as_ref().and_then(|pod| pod.restart_policy.as_deref());
    if policy != Some("OnFailure") {
        return false;
    }
    let restarts = active.iter().filter(|pod| matches!(phase(pod), "Running" | "Pending"));
    let restarts: i32 = restarts.map(|pod| restarts_of(pod)).fold(0, i32::saturating_add);
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

fn restarts_of(pod: &Pod) -> i32 {
    let Some(status) = &pod.status else { return 0 };
    let init = status.init_container_statuses.iter().flatten();
    let all = init.chain(status.container_statuses.iter().flatten());
    all.map(|container| container.restart_count).fold(0, i32::saturating_add)
}

/// With `backoffLimitPerIndex` (KEP-3850).
fn failed_indexes(spec: &JobSpec, tally: &Tally) -> Option<Target> {
    let failed = tally.failed_indexes.len();
    let most = spec.max_failed_indexes.and_then(|most| usize::try_from(most).ok());
    if most.is_some_and(|most| failed > most) {
        let text = "Job has exceeded the specified maximal number of failed indexes";
        return failure("MaxFailedIndexesExceeded", text);
    }
    let all = pods::completions(spec) as usize;
    if failed > 0 && failed + tally.completed.len() >= all {
        return failure("FailedIndexes", "Job has failed indexes");
    }
    None
}

fn succeeded(spec: &JobSpec, tally: &Tally, active: &[&Pod]) -> Option<Target> {
    let success = |reason, message| Some(Target { success: true, reason, message });
    if let Some(rule) = matched(spec, tally) {
        return success("SuccessPolicy", format!("Matched rules at index {rule}"));
    }
    let complete = match spec.completions {
        Some(count) => i32::try_from(tally.succeeded()).unwrap_or(i32::MAX) >= count,
        None => tally.succeeded() > 0,
    };
    // A queue of work is done when those that are at it have ended.
    let text = "Reached expected number of succeeded pods";
    if complete && (spec.completions.is_some() || active.is_empty()) {
        return success("CompletionsReached", text.into());
    }
    None
}

/// How long it may still run; zero for one that ran too long.
pub fn deadline_in(spec: &JobSpec, status: &JobStatus, now: Timestamp) -> Option<Duration> {
    let seconds = spec.active_deadline_seconds?;
    let ran = now.duration_since(status.start_time.as_ref()?.0);
    let left = SignedDuration::from_secs(seconds).checked_sub(ran)?;
    Some(Duration::try_from(left).unwrap_or_default())
}

/// The first rule of the success policy that is fulfilled (KEP-3998).
fn matched(spec: &JobSpec, tally: &Tally) -> Option<usize> {
    let rules = &spec.success_policy.as_ref()?.rules;
    rules.iter().position(|rule| is_fulfilled(rule, tally, pods::completions(spec)))
}

fn is_fulfilled(rule: &SuccessPolicyRule, tally: &Tally, completions: u32) -> bool {
    let wanted = rule.succeeded_indexes.as_deref().map(|text| Indexes::parse(text, completions));
    let done = match &wanted {
        Some(wanted) => tally.completed.common(wanted),
        None => tally.completed.len(),
    };
    match (rule.succeeded_count, &wanted) {
        (Some(count), _) => i32::try_from(done).is_ok_and(|done| done >= count),
        (None, Some(wanted)) => done == wanted.len(),
        (None, None) => false,
    }
}
