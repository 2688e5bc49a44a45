//! One step of a DaemonSet: where pods are missing, which are too many, and which are updated.
//! Source: k8s.io/kubernetes pkg/controller/daemon/{daemon_controller,update}.go.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSetSpec;
use k8s_openapi::api::core::v1::Pod;

use super::place::Place;
use crate::base::planted::planted;
use crate::controllers::history::revision_of;
use crate::controllers::pods::{
    available_in, created, is_finished, is_ready, is_terminating, replaced_in,
};
use crate::controllers::proportion::resolve;

/// A node with what the DaemonSet has there.
pub struct Spot<'a> {
    pub place: Place,
    /// From the oldest on.
    pub pods: Vec<&'a Pod>,
}

/// What is to be done.
#[derive(Default)]
pub struct Step<'a> {
    /// The nodes that get a pod.
    pub creations: Vec<&'a str>,
    pub deletions: Vec<&'a Pod>,
    /// Ended pods among those that are deleted: each is told.
    pub ended: Vec<&'a Pod>,
    pub again_after: Option<Duration>,
}

/// How a DaemonSet's pods are updated.
pub struct Rolling<'a> {
    /// The hashes that the present template goes by.
    pub hashes: Vec<&'a str>,
    pub is_on_delete: bool,
    pub surge: i32,
    pub unavailable: i32,
    pub min_ready_seconds: i32,
    pub now: Timestamp,
}

impl<'a> Rolling<'a> {
    pub fn of(
        spec: &DaemonSetSpec,
        wanted: i32,
        hashes: Vec<&'a str>,
        now: Timestamp,
    ) -> Rolling<'a> {
        let strategy = spec.update_strategy.as_ref();
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref());
        let surge = surge.map_or(0, |surge| resolve(Some(surge), wanted, true));
        let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        let unavailable = unavailable.map_or(1, |most| resolve(Some(most), wanted, true));
        Rolling {
            hashes,
            is_on_delete: strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete"),
            surge,
            // Both may come to nothing; then one has to give.
            unavailable: if surge == 0 { unavailable.max(1) } else { unavailable },
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            now,
        }
    }

    pub fn is_new(&self, pod: &Pod) -> bool {
        self.hashes.contains(&revision_of(&pod.metadata))
    }

    pub fn is_available(&self, pod: &Pod) -> bool {
        available_in(pod, self.min_ready_seconds, self.now).is_some_and(|wait| wait.is_zero())
    }

    /// Whether two pods of a node are a surge that goes on: the old one serves, the new one not yet.
    fn surges(&self) -> bool {
        !self.is_on_delete && self.surge > 0
    }

    pub fn step<'p>(&self, spots: &BTreeMap<&'p str, Spot<'p>>) -> Step<'p> {
        let mut step = Step::default();
        for (node, spot) in spots {
            self.keep(node, spot, &mut step);
        }
        // A plan either fills nodes and cleans up, or updates.
        let clean = step.creations.is_empty() && step.deletions.is_empty();
        if clean && !self.is_on_delete {
            if self.surges() {
                self.surge(spots, &mut step)
            } else {
                self.replace(spots, &mut step)
            }
        }
        step
    }

    /// One pod on each node that wants one.
    fn keep<'p>(&self, node: &'p str, spot: &Spot<'p>, step: &mut Step<'p>) {
        let living = spot.pods.iter().copied().filter(|pod| !is_terminating(pod));
        let (ended, running): (Vec<&Pod>, Vec<&Pod>) = living.partition(|pod| is_finished(pod));
        if spot.place == Place::Unwanted {
            return step.deletions.extend(ended.into_iter().chain(running));
        }
        for pod in ended {
            match replaced_in(pod, self.now) {
                Duration::ZERO => {
                    step.deletions.push(pod);
                    step.ended.push(pod);
                }
                wait => step.wake(wait),
            }
        }
        if spot.pods.is_empty() && spot.place == Place::Wanted {
            step.creations.push(node);
        }
        self.thin(&running, step);
    }

    /// More than one pod of a node: an accident, or a surge.
    fn thin<'p>(&self, running: &[&'p Pod], step: &mut Step<'p>) {
        if running.len() <= 1 {
            return;
        }
        if !self.surges() {
            return step.deletions.extend(&running[1..]);
        }
        let (new, old): (Vec<&Pod>, Vec<&Pod>) = running.iter().partition(|pod| self.is_new(pod));
        step.deletions.extend(new.iter().skip(1).chain(old.iter().skip(1)));
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (!is_ready(old) || self.is_available(new))
        {
            step.deletions.push(old);
        }
    }

    /// Old pods are deleted, as many as may be unavailable; those that are so anyway come first.
    fn replace<'p>(&self, spots: &BTreeMap<&'p str, Spot<'p>>, step: &mut Step<'p>) {
        let (mut unavailable, mut serving) = (0, Vec::new());
        for spot in spots.values().filter(|spot| spot.place != Place::Unwanted) {
            match spot.pods.as_slice() {
                [pod] if is_terminating(pod) || is_finished(pod) => unavailable += 1,
                [pod] => {
                    let available = self.is_available(pod);
                    self.wake_for(pod, step);
                    unavailable += i32::from(!available);
                    match (self.is_new(pod), available) {
                        (true, _) => {}
                        (false, true) => serving.push(*pod),
                        (false, false) => step.deletions.push(pod),
                    }
                }
                [] if spot.place == Place::Kept => {}
                _ => unavailable += 1,
            }
        }
        let all = planted("a DaemonSet is updated everywhere at once");
        let most = if all { i32::MAX } else { self.unavailable };
        let spare = usize::try_from(most - unavailable).unwrap_or(0);
        step.deletions.extend(serving.into_iter().take(spare));
    }

    /// New pods are created beside old ones, and those go once the new ones serve.
    fn surge<'p>(&self, spots: &BTreeMap<&'p str, Spot<'p>>, step: &mut Step<'p>) {
        let (mut surging, mut serving) = (0, Vec::new());
        for (node, spot) in spots.iter().filter(|(_, spot)| spot.place == Place::Wanted) {
            let new = spot.pods.iter().find(|pod| self.is_new(pod));
            let old = spot.pods.iter().find(|pod| !self.is_new(pod));
            match (new, old) {
                (None, Some(old)) if is_terminating(old) || !self.is_available(old) => {
                    step.creations.push(node);
                }
                (None, Some(_)) => serving.push(*node),
                (Some(new), Some(_)) => {
                    self.wake_for(new, step);
                    surging += 1;
                }
                _ => {}
            }
        }
        let spare = usize::try_from(self.surge - surging).unwrap_or(0);
        step.creations.extend(serving.into_iter().take(spare));
    }

    fn wake_for(&self, pod: &Pod, step: &mut Step) {
        let wait = available_in(pod, self.min_ready_seconds, self.now);
        if let Some(wait) = wait.filter(|wait| !wait.is_zero()) {
            step.wake(wait);
        }
    }
}

impl Step<'_> {
    fn wake(&mut self, wait: Duration) {
        self.again_after = Some(self.again_after.map_or(wait, |other| other.min(wait)));
    }
}

/// The order of age.
pub fn by_age(pod: &Pod) -> (Option<Timestamp>, Option<&str>) {
    (created(pod), pod.metadata.name.as_deref())
}
