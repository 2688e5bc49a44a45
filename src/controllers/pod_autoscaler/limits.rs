//! From what metrics ask for to what is done: windows in which the least or the most that was
//! recommended holds, policies of how fast the number may change, and the bounds.
//! Source: horizontal.go, normalizeDesiredReplicas and normalizeDesiredReplicasWithBehaviors.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingRules, HorizontalPodAutoscalerBehavior, HorizontalPodAutoscalerSpec,
};

use super::Note;
use super::memory::Memory;
use super::replicas::Tolerances;
use super::scale::least;
use crate::api::quantity::Quantity;

/// `--horizontal-pod-autoscaler-tolerance`.
const TOLERANCE: f64 = 0.1;
/// `--horizontal-pod-autoscaler-downscale-stabilization`.
const DOWN_WINDOW_SECONDS: i32 = 300;
/// Without policies a number at most doubles, or comes to this.
const LEAST_UP_LIMIT: i32 = 4;

const READY: Note = ("ReadyForNewScale", "recommended size matches current size");
const UP_STABILIZED: Note = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const DOWN_STABILIZED: Note = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent \
     recommendation",
);
const WITHIN: Note = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_MANY: Note =
    ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: Note =
    ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const UP_LIMIT: Note =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN_LIMIT: Note = (
    "ScaleDownLimit",
    "the desired replica count is decreasing faster than the maximum scale rate",
);

/// What is left of a recommendation.
#[derive(Debug, PartialEq)]
pub struct Limited {
    pub replicas: i32,
    /// For the condition AbleToScale.
    pub able: Note,
    /// For the condition ScalingLimited.
    pub is_limited: bool,
    pub limit: Note,
}

/// How far a measurement may be from its target before anything is done.
pub fn tolerances(spec: &HorizontalPodAutoscalerSpec) -> Tolerances {
    let of = |rules: Option<&HPAScalingRules>| {
        let text = rules.and_then(|rules| rules.tolerance.as_ref());
        let told = text.and_then(|text| Quantity::parse(&text.0).ok());
        told.map_or(TOLERANCE, |told| told.ratio(Quantity::from_value(1)))
    };
    let behavior = spec.behavior.as_ref();
    Tolerances {
        up: of(behavior.and_then(|behavior| behavior.scale_up.as_ref())),
        down: of(behavior.and_then(|behavior| behavior.scale_down.as_ref())),
    }
}

/// Remembers a recommendation, and limits it.
pub fn limit(
    spec: &HorizontalPodAutoscalerSpec,
    memory: &mut Memory,
    now_there: i32,
    wanted: i32,
    now: Timestamp,
) -> Limited {
    let (stable, able) = stabilized(spec.behavior.as_ref(), memory, now_there, wanted, now);
    let (replicas, limit) = match &spec.behavior {
        None => by_bounds(spec, now_there, stable),
        Some(behavior) => by_policies(spec, behavior, memory, now_there, stable, now),
    };
    Limited { replicas, able, is_limited: replicas != stable, limit }
}

/// Whether a request may bring the first replica back, which is remembered as a recommendation then:
/// of it scaling down has to wait its window. A window of scaling up, or a percentage of nothing,
/// does not hold it back: a request is there and waits.
pub fn wake(spec: &HorizontalPodAutoscalerSpec, memory: &mut Memory, now: Timestamp) -> bool {
    let rules = |behavior: &HorizontalPodAutoscalerBehavior| {
        (behavior.scale_up.clone(), behavior.scale_down.clone())
    };
    let (up, down) = spec.behavior.as_ref().map(rules).unwrap_or_default();
    if up.as_ref().and_then(|up| up.select_policy.as_deref()) == Some("Disabled") {
        return false;
    }
    let kept = window(up.as_ref(), 0).max(window(down.as_ref(), DOWN_WINDOW_SECONDS));
    memory.recommend(1, now, kept);
    true
}

fn window(rules: Option<&HPAScalingRules>, default: i32) -> SignedDuration {
    let told = rules.and_then(|rules| rules.stabilization_window_seconds);
    SignedDuration::from_secs(told.unwrap_or(default).into())
}

/// The lowest recommendation within the window of scaling up, and the highest within that of scaling
/// down, hold the number where it is.
fn stabilized(
    behavior: Option<&HorizontalPodAutoscalerBehavior>,
    memory: &mut Memory,
    now_there: i32,
    wanted: i32,
    now: Timestamp,
) -> (i32, Note) {
    let up = window(behavior.and_then(|one| one.scale_up.as_ref()), 0);
    let down = window(behavior.and_then(|one| one.scale_down.as_ref()), DOWN_WINDOW_SECONDS);
    let lowest = memory.within(up, now).map_or(wanted, |(lowest, _)| lowest.min(wanted));
    let highest = memory.within(down, now).map_or(wanted, |(_, highest)| highest.max(wanted));
    memory.recommend(wanted, now, up.max(down));
    let stable = match behavior {
        // Without behavior only a smaller number is held back.
        None => highest,
        Some(_) => now_there.max(lowest).min(highest),
    };
    let note = match stable == wanted {
        true => READY,
        false if behavior.is_some() && wanted >= now_there => UP_STABILIZED,
        false => DOWN_STABILIZED,
    };
    (stable, note)
}

fn by_bounds(spec: &HorizontalPodAutoscalerSpec, now_there: i32, wanted: i32) -> (i32, Note) {
    let up_limit = now_there.saturating_mul(2).max(LEAST_UP_LIMIT);
    let (most, note) = match spec.max_replicas > up_limit {
        true => (up_limit, UP_LIMIT),
        false => (spec.max_replicas, TOO_MANY),
    };
    if wanted < least(spec) {
        (least(spec), TOO_FEW)
    } else if wanted > most {
        (most, note)
    } else {
        (wanted, WITHIN)
    }
}

fn by_policies(
    spec: &HorizontalPodAutoscalerSpec,
    behavior: &HorizontalPodAutoscalerBehavior,
    memory: &Memory,
    now_there: i32,
    wanted: i32,
    now: Timestamp,
) -> (i32, Note) {
    if wanted > now_there {
        let limit = behavior.scale_up.as_ref().map(|rules| up_limit(rules, memory, now_there, now));
        let limit = limit.unwrap_or(i32::MAX).max(now_there);
        let (most, note) = match spec.max_replicas > limit {
            true => (limit, UP_LIMIT),
            false => (spec.max_replicas, TOO_MANY),
        };
        if wanted > most {
            return (most, note);
        }
    } else if wanted < now_there {
        let limit =
            behavior.scale_down.as_ref().map(|rules| down_limit(rules, memory, now_there, now));
        let limit = limit.unwrap_or(i32::MIN).min(now_there);
        let (fewest, note) = match least(spec) < limit {
            true => (limit, DOWN_LIMIT),
            false => (least(spec), TOO_FEW),
        };
        if wanted < fewest {
            return (fewest, note);
        }
    }
    (wanted, WITHIN)
}

/// The number that each policy allows, and the one that counts.
fn allowed(
    rules: &HPAScalingRules,
    memory: &Memory,
    now_there: i32,
    now: Timestamp,
    of: impl Fn(f64, f64, bool) -> f64,
    choose: impl Fn(f64, f64) -> f64,
) -> i32 {
    let each = rules.policies.iter().flatten().map(|policy| {
        let grown = memory.grown(policy.period_seconds, now);
        let began = (i64::from(now_there) - grown) as f64;
        of(began, f64::from(policy.value), policy.type_ == "Percent")
    });
    // Saturates at the ends of i32.
    each.reduce(choose).map_or(now_there, |limit| limit as i32)
}

fn up_limit(rules: &HPAScalingRules, memory: &Memory, now_there: i32, now: Timestamp) -> i32 {
    // Rounded up, so that it grows at all.
    let of = |began: f64, value: f64, is_percent: bool| match is_percent {
        true => (began * (1.0 + value / 100.0)).ceil(),
        false => began + value,
    };
    match rules.select_policy.as_deref() {
        Some("Disabled") => now_there,
        Some("Min") => allowed(rules, memory, now_there, now, of, f64::min),
        _ => allowed(rules, memory, now_there, now, of, f64::max),
    }
}

fn down_limit(rules: &HPAScalingRules, memory: &Memory, now_there: i32, now: Timestamp) -> i32 {
    let of = |began: f64, value: f64, is_percent: bool| match is_percent {
        true => (began * (1.0 - value / 100.0)).trunc(),
        false => began - value,
    };
    // The smallest change leaves the most.
    match rules.select_policy.as_deref() {
        Some("Disabled") => now_there,
        Some("Min") => allowed(rules, memory, now_there, now, of, f64::max),
        _ => allowed(rules, memory, now_there, now, of, f64::min),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::memory::Rescale;
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn spec(least: i32, most: i32, behavior: Value) -> HorizontalPodAutoscalerSpec {
        let target = json!({"kind": "Deployment", "name": "web"});
        serde_json::from_value(json!({"minReplicas": least, "maxReplicas": most,
            "scaleTargetRef": target, "behavior": behavior}))
        .unwrap()
    }

    fn remembered(replicas: i32) -> Memory {
        let mut memory = Memory::default();
        memory.begin("a", replicas, at(0));
        memory
    }

    fn told(limited: &Limited) -> (i32, &str, &str) {
        (limited.replicas, limited.able.0, limited.limit.0)
    }

    #[test]
    fn without_behavior_a_number_doubles_at_most_and_falls_after_five_minutes() {
        let spec = spec(2, 20, json!(null));
        let mut memory = remembered(3);
        let up = limit(&spec, &mut memory, 3, 50, at(15));
        assert_eq!(told(&up), (6, "ReadyForNewScale", "ScaleUpLimit"));
        let most = limit(&spec, &mut memory, 12, 50, at(30));
        assert_eq!(told(&most), (20, "ReadyForNewScale", "TooManyReplicas"));
        let held = limit(&spec, &mut memory, 20, 1, at(45));
        assert_eq!(told(&held), (20, "ScaleDownStabilized", "TooManyReplicas"));
        let few = limit(&spec, &mut memory, 20, 1, at(400));
        assert_eq!(told(&few), (2, "ReadyForNewScale", "TooFewReplicas"));
        let one = limit(&spec, &mut remembered(1), 1, 9, at(15));
        assert_eq!(told(&one), (4, "ReadyForNewScale", "ScaleUpLimit"));
    }

    #[test]
    fn policies_count_what_was_done_within_their_period() {
        let up = json!({"selectPolicy": "Max", "stabilizationWindowSeconds": 0, "policies": [
            {"type": "Pods", "value": 4, "periodSeconds": 60},
            {"type": "Percent", "value": 100, "periodSeconds": 60}]});
        let mut spec = spec(1, 100, json!({"scaleUp": up}));
        let mut memory = remembered(3);
        assert_eq!(limit(&spec, &mut memory, 3, 50, at(1)).replicas, 7);
        memory.rescaled(&Rescale { from: 3, to: 7, why: String::new(), at: at(1) });
        let held = limit(&spec, &mut memory, 7, 50, at(16));
        assert_eq!(told(&held), (7, "ReadyForNewScale", "ScaleUpLimit"));
        assert_eq!(limit(&spec, &mut memory, 7, 50, at(61)).replicas, 14);
        let select = |spec: &mut HorizontalPodAutoscalerSpec, policy: &str| {
            let rules = spec.behavior.as_mut().unwrap().scale_up.as_mut().unwrap();
            rules.select_policy = Some(policy.into());
        };
        select(&mut spec, "Min");
        assert_eq!(limit(&spec, &mut memory, 7, 50, at(76)).replicas, 11);
        select(&mut spec, "Disabled");
        assert_eq!(limit(&spec, &mut memory, 7, 50, at(91)).replicas, 7);
    }

    #[test]
    fn scaling_down_has_policies_of_its_own() {
        let down = json!({"selectPolicy": "Max", "stabilizationWindowSeconds": 0, "policies": [
            {"type": "Pods", "value": 2, "periodSeconds": 60},
            {"type": "Percent", "value": 50, "periodSeconds": 60}]});
        let of = |policy: &str, now: i32| {
            let mut down = down.clone();
            down["selectPolicy"] = policy.into();
            let spec = spec(1, 100, json!({"scaleDown": down}));
            let limited = limit(&spec, &mut remembered(now), now, 1, at(15));
            (limited.replicas, limited.limit.0)
        };
        assert_eq!(of("Max", 11), (5, "ScaleDownLimit"));
        assert_eq!(of("Min", 11), (9, "ScaleDownLimit"));
        assert_eq!(of("Disabled", 11), (11, "ScaleDownLimit"));
        assert_eq!(of("Max", 1), (1, "DesiredWithinRange"));
    }

    #[test]
    fn windows_hold_a_number_in_both_directions() {
        let behavior = json!({"scaleUp": {"stabilizationWindowSeconds": 60, "selectPolicy": "Max",
            "policies": [{"type": "Pods", "value": 100, "periodSeconds": 15}]}});
        let spec = spec(1, 100, behavior);
        let mut memory = remembered(4);
        let held = limit(&spec, &mut memory, 4, 10, at(15));
        assert_eq!(told(&held), (4, "ScaleUpStabilized", "DesiredWithinRange"));
        limit(&spec, &mut memory, 4, 8, at(30));
        assert_eq!(limit(&spec, &mut memory, 4, 10, at(70)).replicas, 8);
        let held = limit(&spec, &mut memory, 8, 2, at(85));
        assert_eq!(told(&held), (8, "ScaleDownStabilized", "DesiredWithinRange"));
    }

    #[test]
    fn nonsense_overflows_nothing() {
        let up = json!({"selectPolicy": "Max", "policies": [
            {"type": "Percent", "value": i32::MAX, "periodSeconds": 60}]});
        let spec = spec(1, i32::MAX, json!({"scaleUp": up}));
        let limited = limit(&spec, &mut remembered(i32::MAX - 1), i32::MAX - 1, i32::MAX, at(15));
        assert_eq!(limited.replicas, i32::MAX);
        let none = super::tests::spec(1, i32::MAX, json!(null));
        assert_eq!(
            limit(&none, &mut remembered(9), i32::MAX - 1, i32::MAX, at(15)).replicas,
            i32::MAX
        );
    }
}
