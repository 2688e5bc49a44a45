//! What the scheduler knows between its cycles, and how changes of the cache get into it.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{
    Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, Service,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::class::Classes;
use super::framework::Wake;
use super::pod_info::{self, PodInfo};
use super::queue::Queue;
use super::snapshot::Snapshot;
use super::{NAME, Options, volumes};
use crate::api::resource::Gvr;
use crate::api::selector::Selector;
use crate::base::planted::planted;
use crate::client::cache::{AnyObject, Changed};

pub struct State {
    pub snapshot: Snapshot,
    pub queue: Queue,
    /// What cycles found out, for the next ones.
    pub classes: Classes,
    /// The pods that need a node as last seen, those whose binding is under way included.
    pub pending: HashMap<String, Arc<dyn AnyObject>>,
}

impl State {
    pub fn new(options: Options) -> State {
        let retry_anyway = SignedDuration::try_from(options.retry_anyway);
        State {
            snapshot: Snapshot::default(),
            classes: Classes::default(),
            queue: Queue::new(retry_anyway.unwrap_or(SignedDuration::MAX)),
            pending: HashMap::new(),
        }
    }

    /// Lets a pod that got no node wait; one that is gone does not.
    pub fn put_aside(&mut self, pod: PodInfo, wakes: Vec<Wake>, now: Timestamp) {
        if let Some(seen) = self.pending.get(&pod.uid) {
            self.queue.refuse(pod, created(seen.meta()), wakes, now);
        }
    }

    /// Lets a pod that was not looked at come again at once.
    pub fn put_back(&mut self, pod: PodInfo) {
        if let Some(seen) = self.pending.get(&pod.uid) {
            self.queue.put(pod, created(seen.meta()));
        }
    }

    /// Lets a pod come again after a back-off, as it is seen now: it may want something else.
    pub fn try_again(&mut self, uid: &str, now: Timestamp) {
        let seen = self.pending.get(uid).and_then(|pod| pod.as_any().downcast_ref::<Pod>());
        let Some(seen) = seen else { return };
        let (pod, nominated) = (PodInfo::of(seen), pod_info::nominated_node(seen));
        self.snapshot.see_nomination(&pod, nominated);
        self.put_aside(pod, Vec::new(), now);
    }

    /// Tells those who wait that places became free (nominees whose node it is at once), or that
    /// there are more or fewer of the pods that they look at.
    pub fn wake_freed(&mut self, now: Timestamp) -> bool {
        let mut woke = false;
        for tally in self.snapshot.topology.take_touched() {
            woke |= self.queue.wake(Wake::Tally(tally));
        }
        let freed = self.snapshot.take_freed();
        if freed.is_empty() {
            return woke;
        }
        if !planted("a place that became free wakes nobody") {
            self.queue.wake(Wake::PodGone);
        }
        for node in freed {
            let nominees = self.snapshot.nominees().on(&node);
            nominees.for_each(|(uid, _)| self.queue.hurry(uid, now));
        }
        true
    }

    /// Lets a pod wait for its claims.
    pub fn expect(&mut self, pod: PodInfo, now: Timestamp) {
        if let Some(seen) = self.pending.get(&pod.uid) {
            let wakes = pod.volumes.wakes();
            self.queue.expect(pod, created(seen.meta()), wakes, now);
        }
    }

    /// Takes a change of what is neither node nor pod in; answers whether it was one.
    fn take_in_other(&mut self, change: &Changed) -> bool {
        let volumes = &mut self.snapshot.volumes;
        if change.resource == Gvr::of::<PersistentVolumeClaim>() {
            volumes.set_claim(&change.key, change.typed::<PersistentVolumeClaim>().1);
            self.queue.wake(volumes::wake_of(&change.key));
        } else if change.resource == Gvr::of::<PersistentVolume>() {
            if volumes.set_volume(&change.key.name, change.typed::<PersistentVolume>().1) {
                self.queue.wake(Wake::Volume);
            }
        } else if change.resource == Gvr::of::<StorageClass>() {
            volumes.set_class(&change.key.name, change.typed::<StorageClass>().1);
            self.queue.wake(Wake::Volume);
        } else if change.resource == Gvr::of::<PodDisruptionBudget>() {
            let budget = change.typed::<PodDisruptionBudget>().1;
            self.snapshot.budgets.set(&change.key, budget);
        } else if change.resource == Gvr::of::<Namespace>() {
            let new = change.typed::<Namespace>().1;
            let labels = new.map(|new| new.metadata.labels.clone().unwrap_or_default());
            if !self.snapshot.set_namespace(&change.key.name, labels.as_ref()) {
                return false;
            }
            self.queue.wake(Wake::Namespace);
        } else {
            return false;
        }
        true
    }

    /// Takes a change in of what tells which pods belong together. It changes scores only, so that
    /// nobody who was refused need look.
    fn take_in_selector(&mut self, change: &Changed) {
        let (key, defaults) = (&change.key, &mut self.snapshot.defaults);
        let typed = |selector: Option<&LabelSelector>| Selector::from_typed(selector).ok();
        if change.resource == Gvr::of::<Service>() {
            let spec = change.typed::<Service>().1.and_then(|new| new.spec.as_ref());
            defaults.set_service(key, spec.and_then(|spec| spec.selector.as_ref()));
        } else if change.resource == Gvr::of::<ReplicaSet>() {
            let spec = change.typed::<ReplicaSet>().1.and_then(|new| new.spec.as_ref());
            let selector = spec.and_then(|spec| typed(Some(&spec.selector)));
            defaults.set_controller("ReplicaSet", key, selector);
        } else if change.resource == Gvr::of::<StatefulSet>() {
            let spec = change.typed::<StatefulSet>().1.and_then(|new| new.spec.as_ref());
            let selector = spec.and_then(|spec| typed(Some(&spec.selector)));
            defaults.set_controller("StatefulSet", key, selector);
        } else if change.resource == Gvr::of::<ReplicationController>() {
            let spec = change.typed::<ReplicationController>().1.and_then(|new| new.spec.as_ref());
            let labels = spec.and_then(|spec| spec.selector.as_ref());
            let selector = labels.and_then(|labels| Selector::from_map(labels).ok());
            defaults.set_controller("ReplicationController", key, selector);
        }
    }

    /// Takes a change in; answers whether the loop should look.
    pub fn take_in(&mut self, change: &Changed, now: Timestamp) -> bool {
        if self.take_in_other(change) {
            return true;
        }
        if change.resource == Gvr::of::<Node>() {
            let (_, new) = change.typed::<Node>();
            match new {
                Some(node) => {
                    if !self.snapshot.set_node(node) {
                        return false;
                    }
                    self.queue.wake(Wake::Node);
                }
                None => {
                    self.snapshot.remove_node(&change.key.name);
                    self.queue.wake(Wake::NodeGone);
                }
            }
            return true;
        }
        if change.resource != Gvr::of::<Pod>() {
            self.take_in_selector(change);
            return false;
        }
        let (old, new) = change.typed::<Pod>();
        if let Some(old) = old
            && old.metadata.uid != new.and_then(|new| new.metadata.uid.clone())
        {
            let uid = old.metadata.uid.as_deref().unwrap_or_default();
            self.snapshot.remove_pod(uid);
            self.let_go(uid, "");
        }
        let mut waits = false;
        if let (Some(pod), Some(shared)) = (new, &change.new) {
            self.snapshot.set_pod(pod);
            waits = self.queue_pod(pod, shared);
        }
        self.wake_freed(now) || waits
    }

    /// A pod needs no node any more.
    fn let_go(&mut self, uid: &str, place: &str) {
        self.snapshot.end_nomination(uid, place);
        self.queue.forget(uid);
        self.pending.remove(uid);
    }

    /// Queues a pod that needs a node, forgets one that does not.
    fn queue_pod(&mut self, pod: &Pod, shared: &Arc<dyn AnyObject>) -> bool {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if !needs_node(pod) {
            let place = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            self.let_go(&uid, place.unwrap_or_default());
            return false;
        }
        self.pending.insert(uid.clone(), shared.clone());
        if self.snapshot.is_placed(&uid) {
            return false;
        }
        let info = PodInfo::of(pod);
        self.snapshot.see_nomination(&info, pod_info::nominated_node(pod));
        self.queue.put(info, created(&pod.metadata))
    }
}

fn created(meta: &ObjectMeta) -> Timestamp {
    meta.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}

fn needs_node(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
    spec.node_name.as_deref().unwrap_or_default().is_empty()
        && spec.scheduler_name.as_deref().unwrap_or(NAME) == NAME
        && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
        && pod.metadata.deletion_timestamp.is_none()
        && !matches!(phase, "Succeeded" | "Failed")
}
