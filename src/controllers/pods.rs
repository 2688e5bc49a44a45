//! What a pod's status means to those who count pods, and which pods to give up first.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition};

use super::ownership::annotation;
use crate::base::planted::planted;

/// A pod with a lower cost is deleted before others, all else being equal.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// A pod that fails is replaced at most this often: upstream's first wait for one of a DaemonSet.
const LEAST_LIFE: SignedDuration = SignedDuration::from_secs(1);
/// A time further ahead than this is no other machine's: our clock was set back, and waiting until
/// it has caught up could take for ever.
const MOST_SKEW: SignedDuration = SignedDuration::from_secs(60);

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Succeeded or Failed: its containers will never run again.
pub fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Counts as a replica.
pub fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_terminating(pod)
}

pub fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

/// Since when a ready pod is ready; `None` for one that is not.
fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|condition| condition.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// How long until a ready pod counts as available: zero for one that does, `None` for one that is
/// not ready.
pub fn available_in(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    if !is_ready(pod) {
        return None;
    }
    if min_ready_seconds <= 0 || planted("minReadySeconds is ignored") {
        return Some(Duration::ZERO);
    }
    let waited = now.duration_since(ready_since(pod)?);
    if waited < -MOST_SKEW {
        return Some(Duration::ZERO);
    }
    let asked = SignedDuration::from_secs(min_ready_seconds.into());
    Some(Duration::try_from(asked - waited).unwrap_or(Duration::ZERO))
}

/// How long until a pod that ended is replaced under its name or on its node: one that fails at
/// once fails again, and must not be created again and again.
pub fn replaced_in(pod: &Pod, now: Timestamp) -> Duration {
    let lived = created(pod).map_or(LEAST_LIFE, |time| now.duration_since(time));
    let lived = lived.max(SignedDuration::ZERO);
    Duration::try_from(LEAST_LIFE.saturating_sub(lived)).unwrap_or(Duration::ZERO)
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.map(|status| status.restart_count).max().unwrap_or_default()
}

fn deletion_cost(pod: &Pod) -> i32 {
    annotation(&pod.metadata, DELETION_COST).and_then(|cost| cost.parse().ok()).unwrap_or_default()
}

/// The pods to give up first come first: not assigned, pending, not ready, cheap, doubled up on a
/// node, ready for a short time, often restarted, young. Times are compared by the order of their
/// magnitude, so that the choice among old pods does not always fall on the same node. `related` are
/// all pods of the same workload, which decide what is doubled up.
/// Source: k8s.io/kubernetes pkg/controller/controller_utils.go, ActivePodsWithRanks.
pub fn rank_for_deletion(pods: &mut [&Pod], related: &[&Pod], now: Timestamp) {
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for pod in related {
        if let (Some(node), true) = (node_name(pod), is_active(pod)) {
            *on_node.entry(node).or_default() += 1;
        }
    }
    let crowd = |pod: &Pod| node_name(pod).and_then(|node| on_node.get(node)).copied().unwrap_or(0);
    pods.sort_by(|a, b| {
        let key = |pod: &Pod| (node_name(pod).is_some(), phase_rank(pod), is_ready(pod));
        key(a)
            .cmp(&key(b))
            .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
            .then_with(|| crowd(b).cmp(&crowd(a)))
            .then_with(|| younger_first(ready_since(a), ready_since(b), now))
            .then_with(|| restarts(b).cmp(&restarts(a)))
            .then_with(|| younger_first(created(a), created(b), now))
            .then_with(|| a.metadata.name.cmp(&b.metadata.name))
    });
}

fn phase_rank(pod: &Pod) -> u8 {
    match phase(pod) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    }
}

pub fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

/// By the logarithm of the age; a pod without the time counts as youngest.
fn younger_first(a: Option<Timestamp>, b: Option<Timestamp>, now: Timestamp) -> Ordering {
    let magnitude = |time: Option<Timestamp>| match time {
        None => 0,
        Some(time) => {
            let seconds = now.duration_since(time).as_secs().max(0).unsigned_abs();
            u64::BITS - seconds.leading_zeros() + 1
        }
    };
    magnitude(a).cmp(&magnitude(b))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_clock_that_was_set_back_holds_nobody_up() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"creationTimestamp": "2026-01-01T10:00:00Z"},
            "status": {"conditions": [{"type": "Ready", "status": "True",
                "lastTransitionTime": "2026-01-01T10:00:00Z"}]},
        }))
        .unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let seconds = Duration::from_secs;
        let waits = |text: &str| available_in(&pod, 10, at(text)).unwrap();
        assert_eq!(waits("2026-01-01T10:00:04Z"), seconds(6));
        assert_eq!(waits("2026-01-01T09:59:58Z"), seconds(12), "two clocks differ");
        assert_eq!(waits("2026-01-01T08:00:00Z"), seconds(0), "ours was set back");
        assert_eq!(replaced_in(&pod, at("2026-01-01T08:00:00Z")), seconds(1));
        assert_eq!(replaced_in(&pod, at("2026-01-01T10:00:05Z")), seconds(0));
    }
}
