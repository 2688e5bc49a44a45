//! What the scheduler knows between its cycles, and how changes of the cache get into it.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{
    Namespace, Node, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod,
    ReplicationController, Service,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::scheduling::v1alpha1::Workload;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::budgets::Labels;
use super::class::Classes;
use super::framework::{Frameworks, Wake};
use super::groups::{GroupId, Groups};
use super::pod_info::{self, PodInfo, Wants};
use super::profiles::Profiles;
use super::queue::Queue;
use super::snapshot::Snapshot;
use super::volumes::Step;
use super::{NAME, Options, volumes};
use crate::api::ObjectKey;
use crate::api::resource::Gvr;
use crate::api::selector::Selector;
use crate::base::planted::planted;
use crate::client::cache::Changed;

pub struct State {
    pub snapshot: Snapshot,
    pub queue: Queue,
    /// What cycles found out, for the next ones.
    pub classes: Classes,
    pub profiles: Arc<Profiles>,
    pub groups: Groups,
    /// Pods that wait for others of their group, which was not told yet.
    untold: Vec<String>,
    /// As of which revision Pods are known.
    pub seen: u64,
    /// The pods that need a node as last seen, those whose binding is under way included.
    pub pending: HashMap<String, Pending>,
    /// What pods that came last ask for, and their labels: those of one template share theirs.
    recent: VecDeque<(Arc<Wants>, Arc<Labels>)>,
}

/// Templates whose pods share what they ask for.
const RECENT: usize = 16;

/// What is kept of a pod that needs a node: little, since there may be a million.
#[derive(Clone)]
pub struct Pending {
    created: Timestamp,
    version: Option<String>,
    /// What its status says why it waits, as a number.
    told: Option<u64>,
    nominated: Option<String>,
    /// How often a node was chosen on which volumes are made for its claims.
    pub chosen: u32,
    /// Whether its binding failed once and was tried again at once.
    hurried: bool,
    /// What it asked for when it was seen after it was placed.
    newer: Option<Box<PodInfo>>,
}

impl Pending {
    fn of(pod: &Pod) -> Pending {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let mut refusals =
            conditions.filter(|one| one.type_ == "PodScheduled" && one.status == "False");
        Pending {
            created: created(&pod.metadata),
            version: pod.metadata.resource_version.clone(),
            told: refusals.find_map(|one| one.message.as_deref()).map(number_of),
            nominated: pod_info::nominated_node(pod).map(str::to_string),
            chosen: 0,
            hurried: false,
            newer: None,
        }
    }

    /// Whether its status tells why it waits.
    pub fn tells_any(&self) -> bool {
        self.told.is_some()
    }

    /// Whether its status tells this refusal already.
    pub fn tells(&self, message: &str) -> bool {
        self.told == Some(number_of(message))
    }

    /// The pod as Events name it.
    pub fn reference(&self, pod: &PodInfo) -> ObjectReference {
        let resource_version = self.version.clone();
        ObjectReference { resource_version, ..reference(&pod.key, &pod.uid) }
    }
}

fn number_of(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// A pod as Events name it.
pub fn reference(key: &ObjectKey, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: Some(key.namespace.to_string()),
        name: Some(key.name.to_string()),
        uid: Some(uid.into()),
        ..ObjectReference::default()
    }
}

impl State {
    pub fn new(options: &Options) -> State {
        let retry_anyway = SignedDuration::try_from(options.retry_anyway);
        State {
            snapshot: Snapshot::default(),
            classes: Classes::default(),
            queue: Queue::new(retry_anyway.unwrap_or(SignedDuration::MAX), options.back_off),
            profiles: options.profiles.clone(),
            groups: Groups::default(),
            untold: Vec::new(),
            seen: 0,
            pending: HashMap::new(),
            recent: VecDeque::new(),
        }
    }

    /// Lets a pod that got no node wait; one that is gone does not.
    pub fn put_aside(&mut self, pod: PodInfo, wakes: Vec<Wake>, now: Timestamp) {
        if let Some(seen) = self.pending.get(&pod.uid) {
            self.queue.refuse(pod, seen.created, wakes, now);
        }
    }

    /// Lets a pod that was not looked at come again at once.
    pub fn put_back(&mut self, pod: PodInfo) {
        if let Some(seen) = self.pending.get(&pod.uid) {
            self.queue.put(pod, seen.created);
        }
    }

    /// Lets a pod come again after a back-off, as it is seen now: it may want something else.
    pub fn try_again(&mut self, pod: &PodInfo, now: Timestamp) {
        let Some(seen) = self.pending.get_mut(&pod.uid) else { return };
        let pod = seen.newer.take().map_or_else(|| pod.clone(), |newer| *newer);
        self.snapshot.see_nomination(&pod, seen.nominated.as_deref());
        self.put_aside(pod, Vec::new(), now);
    }

    /// Keeps its node for a pod of a gang that was not bound: others of its gang are, and of use only
    /// with it. The first time it comes at once.
    pub fn keep_for_gang(&mut self, pod: &PodInfo, node: &str, now: Timestamp) {
        if !pod.group.as_ref().is_some_and(|group| self.groups.is_gang(group)) {
            return;
        }
        let Some(seen) = self.pending.get_mut(&pod.uid) else { return };
        let is_first = !std::mem::replace(&mut seen.hurried, true);
        // A nomination ends where it is found that no room can be made, which others are never asked.
        let may_keep = !pod.wants.never_preempts && self.profiles.of(pod).preemption.wanted;
        if may_keep && self.snapshot.nominees().node_of(&pod.uid).is_none() {
            self.snapshot.keep_place(pod, node);
        }
        if is_first {
            self.queue.hurry(&pod.uid, now);
        }
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

    /// Lets a pod wait for what others of its group get.
    pub fn hold(&mut self, pod: PodInfo, wakes: Vec<Wake>, now: Timestamp) {
        if let Some(seen) = self.pending.get(&pod.uid) {
            self.queue.expect(pod, seen.created, wakes, now);
        }
    }

    /// Lets a pod wait for its claims. A node that is chosen for their volumes again was chosen in vain
    /// before: then the pod waits for its back-off too.
    pub fn expect(&mut self, pod: PodInfo, steps: &[Step], now: Timestamp) {
        let Some(seen) = self.pending.get_mut(&pod.uid) else { return };
        let wakes = pod.volumes.wakes();
        if steps.iter().any(|step| matches!(step, Step::Select { .. })) {
            seen.chosen = seen.chosen.saturating_add(1);
            if seen.chosen > 1 {
                self.queue.refuse(pod, seen.created, wakes, now);
                return;
            }
        }
        self.queue.expect(pod, seen.created, wakes, now);
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
        } else if change.resource == Gvr::of::<Workload>() {
            let workload = change.typed::<Workload>().1;
            for group in self.groups.set_workload(&change.key, workload) {
                self.queue.wake(group.wake());
            }
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
            self.groups.remove(uid);
            self.let_go(uid, "");
        }
        let mut waits = false;
        if let Some(pod) = new {
            self.snapshot.set_pod(pod);
            waits = self.queue_pod(pod, now);
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
    fn queue_pod(&mut self, pod: &Pod, now: Timestamp) -> bool {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let needs_node = needs_node(pod, &self.profiles);
        let mut opened = false;
        if let Some(group) = GroupId::of(pod) {
            if needs_node || pod_info::holds_place(pod) {
                // With this one they may be enough.
                opened = self.groups.add(&uid, &group)
                    && self.groups.waits_for(&group).is_none()
                    && self.queue.wake(group.wake());
            } else {
                self.groups.remove(&uid);
            }
        }
        if !needs_node {
            let place = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            self.let_go(&uid, place.unwrap_or_default());
            return opened;
        }
        let info = self.share(PodInfo::of(pod));
        let is_placed = self.snapshot.is_placed(&uid);
        let newer = is_placed.then(|| Box::new(info.clone()));
        let before = self.pending.get(&uid);
        let (chosen, hurried) = before.map_or((0, false), |seen| (seen.chosen, seen.hurried));
        self.pending.insert(uid.clone(), Pending { newer, chosen, hurried, ..Pending::of(pod) });
        if is_placed {
            return false;
        }
        self.snapshot.see_nomination(&info, pod_info::nominated_node(pod));
        let waits_for = info
            .group
            .as_ref()
            .and_then(|group| self.groups.waits_for(group).map(|_| group.wake()));
        match waits_for {
            None => self.queue.put(info, created(&pod.metadata)) || opened,
            Some(wake) => {
                let is_new = self.queue.hold(info, created(&pod.metadata), wake, now);
                if is_new {
                    self.untold.push(uid);
                }
                is_new
            }
        }
    }

    /// A pod that has what is equal in common with those that came before it.
    fn share(&mut self, info: PodInfo) -> PodInfo {
        let same = |(wants, labels): &&(Arc<Wants>, Arc<Labels>)| {
            *wants == info.wants && *labels == info.labels
        };
        if let Some((wants, labels)) = self.recent.iter().find(same).cloned() {
            return PodInfo { wants, labels, ..info };
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((info.wants.clone(), info.labels.clone()));
        info
    }

    /// Those who wait for others of their group, and why, as far as that was not told yet.
    pub fn take_untold(&mut self) -> Vec<(PodInfo, String)> {
        let untold = std::mem::take(&mut self.untold);
        let tell = |uid: String| {
            let pod = self.queue.held(&uid)?;
            let why = self.groups.waits_for(pod.group.as_ref()?)?;
            Some((pod.clone(), why))
        };
        untold.into_iter().filter_map(tell).collect()
    }

    /// Notes how many of each pod's group must be placed at once.
    pub fn set_together(&self, pods: &mut [PodInfo]) {
        let mut known: HashMap<Arc<GroupId>, usize> = HashMap::new();
        for pod in pods {
            let Some(group) = &pod.group else { continue };
            let lacks = known
                .entry(group.clone())
                .or_insert_with(|| self.groups.lacks(group, |uid| self.snapshot.is_placed(uid)));
            // One alone is nothing that must be at once.
            pod.together = if *lacks > 1 { *lacks } else { 0 };
        }
    }
}

fn created(meta: &ObjectMeta) -> Timestamp {
    meta.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}

fn needs_node(pod: &Pod, profiles: &Profiles) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
    spec.node_name.as_deref().unwrap_or_default().is_empty()
        && profiles.has(spec.scheduler_name.as_deref().unwrap_or(NAME))
        && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
        && pod.metadata.deletion_timestamp.is_none()
        && !matches!(phase, "Succeeded" | "Failed")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::scheduler::volumes::ClaimId;

    #[test]
    fn a_pod_whose_node_is_chosen_in_vain_waits_for_its_back_off() {
        let mut state = State::new(&Options::default());
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {}});
        let now = Timestamp::UNIX_EPOCH;
        state.queue_pod(&serde_json::from_value(pod).unwrap(), now);
        let pod = state.queue.take(1).remove(0);
        let (uid, version) = ("c".to_string(), "7".to_string());
        let claim = ClaimId { key: ObjectKey::new("n", "c"), uid, version };
        let choose = [Step::Select { claim }];
        state.expect(pod.clone(), &choose, now);
        assert_eq!(state.queue.next_at(), Some(now));
        // What is waited for longer is not chosen anew.
        state.expect(pod.clone(), &[], now);
        assert_eq!(state.queue.next_at(), Some(now));
        state.expect(pod, &choose, now);
        assert!(state.queue.next_at() > Some(now));
    }
}
