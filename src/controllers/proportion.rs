//! The arithmetic of rolling out: how many replicas may be more and fewer than asked for, and how a
//! change of size is spread over the ReplicaSets of a rollout that is under way.
//! Source: k8s.io/kubernetes pkg/controller/deployment/util/deployment_util.go.

use std::cmp::Reverse;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::ownership::annotation;
use super::replica_set::wanted;
use super::revision::MAX_REPLICAS;
use super::rollout::Scale;
use crate::base::planted::planted;

/// The default of `maxSurge` and `maxUnavailable`, in percent.
const DEFAULT_PERCENT: i64 = 25;

/// How far a rolling update may go above and below the number of replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub replicas: i32,
    pub max_surge: i32,
    pub max_unavailable: i32,
}

impl Bounds {
    pub fn of(deployment: &Deployment) -> Bounds {
        let spec = deployment.spec.as_ref();
        let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1).max(0);
        if is_recreate(deployment) {
            return Bounds { replicas, max_surge: 0, max_unavailable: 0 };
        }
        let strategy = spec.and_then(|spec| spec.strategy.as_ref());
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref());
        let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        let mut max_surge = resolve(surge, replicas, true);
        let mut max_unavailable = resolve(unavailable, replicas, false);
        if max_surge == 0 && max_unavailable == 0 {
            // Both may round to 0; then one has to give, or nothing could move.
            max_unavailable = 1;
        }
        if planted("a rollout surges by one more") {
            max_surge += 1;
        }
        if planted("a rollout takes one more away") {
            max_unavailable += 1;
        }
        Bounds { replicas, max_surge, max_unavailable: max_unavailable.min(replicas) }
    }

    pub fn most(&self) -> i32 {
        self.replicas.saturating_add(self.max_surge)
    }

    pub fn min_available(&self) -> i32 {
        self.replicas - self.max_unavailable
    }
}

pub fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

/// An absolute number, or a percentage of `total`. What cannot be read counts as 0: validation does
/// not let it in.
pub fn resolve(value: Option<&IntOrString>, total: i32, up: bool) -> i32 {
    let percent = match value {
        Some(IntOrString::Int(number)) => return (*number).max(0),
        Some(IntOrString::String(text)) => {
            text.strip_suffix('%').and_then(|number| number.parse().ok()).unwrap_or(0)
        }
        None => DEFAULT_PERCENT,
    };
    let hundredths = i64::from(total) * percent.max(0);
    let scaled = if up { (hundredths + 99) / 100 } else { hundredths / 100 };
    i32::try_from(scaled).unwrap_or(i32::MAX)
}

/// Spreads the difference between what a Deployment may have and what its active ReplicaSets have:
/// each gets its share of the change, rounded, and the largest takes what is left over.
pub fn spread<'a>(deployment: &Deployment, active: &[&'a ReplicaSet]) -> Vec<Scale<'a>> {
    let bounds = Bounds::of(deployment);
    let total: i32 = active.iter().map(|set| wanted(set)).sum();
    let allowed = if bounds.replicas > 0 { bounds.most() } else { 0 };
    let to_add = allowed - total;
    let mut sets = active.to_vec();
    if to_add > 0 {
        sets.sort_by_key(|set| (Reverse(wanted(set)), Reverse(age_key(set))));
    } else {
        sets.sort_by_key(|set| (Reverse(wanted(set)), age_key(set)));
    }
    let mut added = 0;
    let mut scales = Vec::new();
    for set in sets {
        let share = share(set, deployment, &bounds, to_add, added);
        added += share;
        scales.push(Scale { set, to: wanted(set) + share });
    }
    if let Some(first) = scales.first_mut() {
        first.to = (first.to + to_add - added).max(0);
    }
    scales
}

/// Creation time and name: the order of age.
pub fn age_key(set: &ReplicaSet) -> (Option<jiff::Timestamp>, &str) {
    let created = set.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (created, set.metadata.name.as_deref().unwrap_or_default())
}

/// One ReplicaSet's share of a change, at most what is left of it.
fn share(set: &ReplicaSet, d: &Deployment, bounds: &Bounds, to_add: i32, added: i32) -> i32 {
    let left = to_add - added;
    if wanted(set) == 0 || to_add == 0 || left == 0 {
        return 0;
    }
    let fraction = fraction(set, d, bounds);
    if to_add > 0 { fraction.min(left) } else { fraction.max(left) }
}

/// By how much a ReplicaSet changes if it keeps its part of the whole.
fn fraction(set: &ReplicaSet, deployment: &Deployment, bounds: &Bounds) -> i32 {
    let size = wanted(set);
    if bounds.replicas == 0 {
        return -size;
    }
    let before = annotation(&set.metadata, MAX_REPLICAS)
        .and_then(|text| text.parse::<i32>().ok())
        .filter(|before| *before > 0)
        .or_else(|| deployment.status.as_ref()?.replicas)
        .filter(|before| *before > 0);
    // Without a size before, the part cannot be told; the leftover goes to the largest.
    let Some(before) = before else { return 0 };
    let scaled = f64::from(size) * f64::from(bounds.most()) / f64::from(before);
    // The result of a rounded quotient of i32s that fits: `as` saturates where it does not.
    (scaled.round() as i32) - size
}
