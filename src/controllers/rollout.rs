//! One step of a rollout: which ReplicaSets get which size next, so that there are never more
//! replicas than `replicas + maxSurge` and, by our own doing, never fewer available ones than
//! `replicas - maxUnavailable`.
//!
//! ```text
//!   new ReplicaSet grows as far as maxSurge lets it
//!        │ cannot grow
//!        ▼
//!   old ones shrink: first what is not available anyway, then as far as the available ones allow
//!        │ old ones are empty, new one has its size
//!        ▼
//!   done
//! ```
//!
//! It decides sizes only; conditions are `deployment_status`'s, records `revision`'s.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::proportion::{Bounds, spread};
use super::replica_set::wanted;
use super::revision::Sets;
use crate::base::planted::planted;

/// A size to give to a ReplicaSet.
#[derive(Debug)]
pub struct Scale<'a> {
    pub set: &'a ReplicaSet,
    pub to: i32,
}

impl Scale<'_> {
    pub fn changes_size(&self) -> bool {
        wanted(self.set) != self.to
    }
}

/// Replicas that are available. A status may lag behind a spec that was scaled down, so that it
/// counts pods which are being given up.
fn available(set: &ReplicaSet) -> i32 {
    let told = set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
    told.min(wanted(set))
}

/// Pods that a ReplicaSet has or will have: one that was scaled down has its pods until its status
/// tells otherwise. `None` while its status is about another spec.
fn held(set: &ReplicaSet) -> Option<i32> {
    if planted("a rollout does not wait for pods that are given up") {
        return Some(wanted(set));
    }
    let status = set.status.as_ref();
    let observed = status.and_then(|status| status.observed_generation);
    let seen = observed >= set.metadata.generation;
    seen.then(|| wanted(set).max(status.map_or(0, |status| status.replicas)))
}

/// The size that the newest ReplicaSet gets, created or grown. It waits for ReplicaSets that still
/// give up pods, so that `maxSurge` holds for pods and not for promises.
pub fn new_size(deployment: &Deployment, sets: &Sets) -> i32 {
    let bounds = Bounds::of(deployment);
    if super::proportion::is_recreate(deployment) {
        return bounds.replicas;
    }
    let present = sets.new.map_or(0, wanted);
    let others: Option<i32> = sets.old.iter().map(|set| held(set)).sum();
    let Some(others) = others else { return present };
    let room = bounds.most() - others - sets.new.and_then(held).unwrap_or(present).max(present);
    if room <= 0 {
        return present;
    }
    present + room.min(bounds.replicas - present).max(0)
}

/// The next step of a rolling update.
pub fn rolling<'a>(deployment: &Deployment, sets: &Sets<'a>) -> Vec<Scale<'a>> {
    let bounds = Bounds::of(deployment);
    let Some(new) = sets.new else { return Vec::new() };
    if wanted(new) > bounds.replicas {
        return vec![Scale { set: new, to: bounds.replicas }];
    }
    let grown = new_size(deployment, sets);
    if grown != wanted(new) {
        return vec![Scale { set: new, to: grown }];
    }
    shrink_old(&bounds, new, sets)
}

fn shrink_old<'a>(bounds: &Bounds, new: &ReplicaSet, sets: &Sets<'a>) -> Vec<Scale<'a>> {
    let mut old: Vec<Scale<'a>> =
        sets.old.iter().map(|set| Scale { set, to: wanted(set) }).collect();
    let total: i32 = sets.all().map(wanted).sum();
    let missing_new = wanted(new) - available(new);
    let most = total - bounds.min_available() - missing_new;
    if most <= 0 {
        return Vec::new();
    }
    // Replicas that are not available serve nobody: they go first, and make room where a broken
    // rollout is rolled back.
    let mut given_up = 0;
    for scale in &mut old {
        let cut = (scale.to - available(scale.set)).min(most - given_up).max(0);
        scale.to -= cut;
        given_up += cut;
    }
    let left: i32 = sets.all().map(available).sum();
    let mut spare = (left - bounds.min_available()).min(most - given_up).max(0);
    for scale in &mut old {
        let cut = scale.to.min(spare);
        scale.to -= cut;
        spare -= cut;
    }
    old.retain(Scale::changes_size);
    old
}

/// The next step of Recreate: old replicas go at first; `old_pods_run` holds back the new ones.
pub fn recreate<'a>(
    deployment: &Deployment,
    sets: &Sets<'a>,
    old_pods_run: bool,
) -> Vec<Scale<'a>> {
    let old: Vec<Scale<'a>> = active(&sets.old).map(|set| Scale { set, to: 0 }).collect();
    if !old.is_empty() || old_pods_run {
        return old;
    }
    let replicas = Bounds::of(deployment).replicas;
    let new = sets.new.map(|set| Scale { set, to: replicas });
    new.into_iter().filter(Scale::changes_size).collect()
}

/// The sizes after `spec.replicas` changed while nothing is rolled out, or a rollout is paused or
/// half done: one active ReplicaSet gets all, several get their share.
pub fn resize<'a>(deployment: &Deployment, sets: &Sets<'a>) -> Vec<Scale<'a>> {
    in_room(&Bounds::of(deployment), sets, shares(deployment, sets))
}

fn shares<'a>(deployment: &Deployment, sets: &Sets<'a>) -> Vec<Scale<'a>> {
    let bounds = Bounds::of(deployment);
    let active_sets: Vec<&ReplicaSet> = active(&sets.all().collect::<Vec<_>>()).collect();
    if let Some(only) = only_active_or_latest(sets, &active_sets) {
        return vec![Scale { set: only, to: bounds.replicas }];
    }
    if sets.new.is_some_and(|new| is_saturated(new, &bounds)) {
        return active(&sets.old).map(|set| Scale { set, to: 0 }).collect();
    }
    if super::proportion::is_recreate(deployment) {
        return Vec::new();
    }
    spread(deployment, &active_sets)
}

/// Growth waits for the pods that other ReplicaSets still give up. What is left out of a share comes
/// with the next resize, or with the rollout.
fn in_room<'a>(bounds: &Bounds, sets: &Sets<'a>, mut scales: Vec<Scale<'a>>) -> Vec<Scale<'a>> {
    let mut granted = 0;
    for scale in scales.iter_mut().filter(|scale| scale.to > wanted(scale.set)) {
        let others = sets.all().filter(|set| !std::ptr::eq(*set, scale.set));
        let others: Option<i32> = others.map(held).sum();
        let own = held(scale.set).unwrap_or_else(|| wanted(scale.set));
        let room = others.map_or(0, |others| bounds.most() - others - own - granted);
        let growth = (scale.to - wanted(scale.set)).min(room.max(0));
        // Pods that it has already are no growth.
        scale.to = (wanted(scale.set) + growth).max(own.min(scale.to));
        granted += growth;
    }
    scales
}

fn active<'a, 's>(
    sets: &'s [&'a ReplicaSet],
) -> impl Iterator<Item = &'a ReplicaSet> + use<'a, 's> {
    sets.iter().copied().filter(|set| wanted(set) > 0)
}

fn only_active_or_latest<'a>(sets: &Sets<'a>, active: &[&'a ReplicaSet]) -> Option<&'a ReplicaSet> {
    match active {
        [] => sets.new.or_else(|| sets.old.last().copied()),
        [only] => Some(only),
        _ => None,
    }
}

/// The newest ReplicaSet has its full size and all of it is available.
fn is_saturated(new: &ReplicaSet, bounds: &Bounds) -> bool {
    wanted(new) == bounds.replicas && available(new) == bounds.replicas
}
