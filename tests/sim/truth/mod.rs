//! What must hold at every moment, checked on each change of the store as it really is.

mod housekeeping;
pub mod jobs;
pub mod read;
pub mod rest;
pub mod sets;
pub mod terms;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet,
};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use parking_lot::Mutex;
use tokio::time::Instant;
use wasmfleet::api::ObjectKey;
use wasmfleet::base::{SharedClock, Tasks};
use wasmfleet::client::cache::{Cache, Changed, View};
use wasmfleet::client::{SharedApi, election};

use self::housekeeping::{check_budgets, check_bystander, check_cordons, check_starts};
use self::read::*;
use super::fakes::{MILLI_CPU, MOST_PODS};

pub use self::read::{is_active, is_ready};
pub use self::rest::{unfinished, waits_in_vain};

/// Violations kept; the first ones tell most.
const MOST_VIOLATIONS: usize = 20;

/// Watches the store itself, without faults in between.
pub struct Truth {
    pub cache: Arc<Cache>,
    state: Mutex<State>,
    /// Whether nothing but our own doing makes pods unavailable.
    calm: bool,
    clock: SharedClock,
}

/// A bound that was lowered holds once it was kept for so long: until then decisions of before may
/// be under way.
const LOWERED_AFTER: Duration = Duration::from_secs(30);

/// An object that went.
#[derive(Clone, Debug)]
pub struct Gone {
    pub name: String,
    pub uid: String,
    /// The uids of its owners.
    pub owners: Vec<String>,
    /// When, as the store counts.
    pub revision: u64,
}

/// The pods that a Deployment may have.
struct Most {
    /// `replicas + maxSurge`: the present one, or a higher one of before that is not worked off.
    pods: i32,
    /// Since when the present one is kept.
    kept_since: Option<Instant>,
}

#[derive(Default)]
struct State {
    most: BTreeMap<ObjectKey, Most>,
    gone: Vec<Gone>,
    /// Deployments that were available once.
    available: BTreeSet<ObjectKey>,
    /// The node of each pod, by uid.
    nodes: BTreeMap<String, String>,
    /// The highest priority for which each node was ever being made free.
    nominated: BTreeMap<String, i32>,
    /// Since when each node is closed.
    cordoned: BTreeMap<String, Instant>,
    /// Budgets whose pods were enough once.
    guarded: BTreeSet<ObjectKey>,
    violations: Vec<String>,
}

impl Truth {
    pub fn start(api: SharedApi, clock: SharedClock, calm: bool, tasks: &Tasks) -> Arc<Truth> {
        let cache = Cache::new();
        let state = Mutex::default();
        let truth = Arc::new(Truth { cache: cache.clone(), state, calm, clock });
        let weak = Arc::downgrade(&truth);
        cache.listen(Box::new(move |change| {
            if let Some(truth) = weak.upgrade() {
                truth.check(change);
            }
        }));
        let leaders = format!("metadata.namespace={}", election::NAMESPACE);
        cache.keep::<Namespace>(api.clone(), "", tasks);
        cache.keep::<Deployment>(api.clone(), "", tasks);
        cache.keep::<ReplicaSet>(api.clone(), "", tasks);
        cache.keep::<StatefulSet>(api.clone(), "", tasks);
        cache.keep::<DaemonSet>(api.clone(), "", tasks);
        cache.keep::<Job>(api.clone(), "", tasks);
        cache.keep::<CronJob>(api.clone(), "", tasks);
        cache.keep::<ControllerRevision>(api.clone(), "", tasks);
        cache.keep::<PodDisruptionBudget>(api.clone(), "", tasks);
        cache.keep::<Pod>(api.clone(), "", tasks);
        cache.keep::<Lease>(api.clone(), &leaders, tasks);
        cache.keep::<Node>(api.clone(), "", tasks);
        cache.keep::<Service>(api.clone(), "", tasks);
        cache.keep::<PersistentVolumeClaim>(api.clone(), "", tasks);
        cache.keep::<PersistentVolume>(api.clone(), "", tasks);
        cache.keep::<EndpointSlice>(api, "", tasks);
        truth
    }

    pub fn violations(&self) -> Vec<String> {
        self.state.lock().violations.clone()
    }

    /// What went, in the order in which it is known; the order of kinds is in the revisions.
    pub fn gone(&self) -> Vec<Gone> {
        self.state.lock().gone.clone()
    }

    fn check(&self, change: &Changed) {
        let view = self.cache.view();
        let mut state = self.state.lock();
        if let (Some(old), None) = (&change.old, &change.new) {
            let meta = old.meta();
            let owners = meta.owner_references.iter().flatten().map(|owner| owner.uid.clone());
            state.gone.push(Gone {
                name: change.key.name.clone(),
                uid: meta.uid.clone().unwrap_or_default(),
                owners: owners.collect(),
                revision: view.revision(&change.resource),
            });
        }
        match &*change.resource.resource {
            "deployments" => {
                let (old, new) = change.typed::<Deployment>();
                let uid = |one: &Deployment| one.metadata.uid.clone();
                if old.map(uid) != new.map(uid) {
                    // Of one that had the name before nothing holds.
                    state.most.remove(&change.key);
                    state.available.remove(&change.key);
                }
                if let Some(deployment) = new {
                    state.allow(&change.key, deployment);
                }
            }
            "replicasets" => {
                if let Some(key) = change.object().and_then(|set| deployment_of(set.meta())) {
                    check_sizes(&mut state, &view, &key);
                }
            }
            "pods" => {
                self.check_pod(&mut state, &view, change);
                check_bystander(&mut state, change);
                // However many schedulers there are.
                for pod in [change.typed::<Pod>().1].into_iter().flatten() {
                    check_room(&mut state, &view, pod);
                }
                check_budgets(&mut state, &view, change);
                check_cordons(&mut state, change);
            }
            "nodes" => {
                check_blocks(&mut state, &view);
                state.see_cordon(change);
            }
            "jobs" => check_starts(&mut state, &view),
            _ => {}
        }
    }

    fn check_pod(&self, state: &mut State, view: &View, change: &Changed) {
        if let (_, Some(pod)) = change.typed::<Pod>() {
            check_node(state, pod);
            check_preemption(state, pod);
        }
        let owner = change.object().and_then(|pod| controller(pod.meta()));
        let set = owner.and_then(|name| view.get::<ReplicaSet>(&change.key.namespace, &name));
        let Some(key) = set.and_then(|set| deployment_of(&set.metadata)) else { return };
        let pods = pods_of(view, &key);
        let active = pods.iter().filter(|pod| is_active(pod)).count() as i32;
        let Some(deployment) = view.get_key::<Deployment>(&key) else { return };
        let most = state.lower(&key, deployment, active.max(asked(view, &key)));
        if active > most {
            let text = format!("{key} has {active} active pods, more than {most}");
            state.violate(format!("{text}; {}", self.picture(view, &key)));
        }
        if !self.calm || is_ending(deployment, view) {
            return;
        }
        if is_recreate(deployment) {
            return check_generations(state, &key, &pods);
        }
        let (replicas, _, unavailable) = bounds(deployment);
        let wait = deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        let available = |pod: &&Arc<Pod>| is_active(pod) && self.is_available(pod, wait);
        let available = pods.iter().filter(available).count() as i32;
        if available >= replicas {
            state.available.insert(key.clone());
        }
        let least = replicas - unavailable;
        if state.available.contains(&key) && available < least {
            state.violate(format!("{key} has {available} available pods, fewer than {least}"));
        }
    }

    /// A Deployment's sizes, for those who look for a fault.
    fn picture(&self, view: &View, key: &ObjectKey) -> String {
        let sets = sets_of(view, key).into_iter().map(|set| {
            let uid = set.metadata.uid.as_deref().unwrap_or_default();
            let pods: Vec<_> = view.owned_by::<Pod>(uid).collect();
            let active = pods.iter().filter(|pod| is_active(pod)).count();
            let asked = set.spec.as_ref().and_then(|spec| spec.replicas);
            let status = set.status.as_ref().map(|s| (s.replicas, s.observed_generation));
            let seen = (set.metadata.generation, status);
            format!(
                "{:?} asks {asked:?}, {active}/{} pods, {seen:?}",
                set.metadata.name,
                pods.len()
            )
        });
        let sets = sets.collect::<Vec<_>>().join("; ");
        let spec = view.get_key::<Deployment>(key).and_then(|one| one.spec.clone());
        let asked = spec.map(|spec| (spec.replicas, spec.paused));
        format!("at {} asks {asked:?}: {sets}", self.clock.now())
    }

    fn is_available(&self, pod: &Pod, min_ready_seconds: i32) -> bool {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let mut ready = conditions.filter(|one| one.type_ == "Ready" && one.status == "True");
        ready.next().and_then(|one| one.last_transition_time.as_ref()).is_some_and(|since| {
            self.clock.now().duration_since(since.0).as_secs() >= min_ready_seconds.into()
        })
    }
}

impl State {
    /// A higher bound holds at once.
    fn allow(&mut self, key: &ObjectKey, deployment: &Deployment) {
        let (replicas, surge, _) = bounds(deployment);
        let new = || Most { pods: replicas + surge, kept_since: None };
        let most = self.most.entry(key.clone()).or_insert_with(new);
        if most.pods <= replicas + surge {
            *most = new();
        }
    }

    /// A lower bound holds once it was kept for a while; answers with the one that holds now.
    fn lower(&mut self, key: &ObjectKey, deployment: &Deployment, pods: i32) -> i32 {
        let (replicas, surge, _) = bounds(deployment);
        let Some(most) = self.most.get_mut(key) else { return i32::MAX };
        if pods > replicas + surge {
            most.kept_since = None;
        } else if most.kept_since.get_or_insert_with(Instant::now).elapsed() > LOWERED_AFTER {
            most.pods = replicas + surge;
        }
        most.pods
    }

    fn more_than_allowed(&self, key: &ObjectKey, pods: i32) -> Option<i32> {
        self.most.get(key).map(|most| most.pods).filter(|most| pods > *most)
    }

    fn violate(&mut self, text: String) {
        if self.violations.len() < MOST_VIOLATIONS {
            self.violations.push(text);
        }
    }
}

/// The pods that a Deployment's ReplicaSets ask for.
fn asked(view: &View, key: &ObjectKey) -> i32 {
    sets_of(view, key).iter().filter_map(|set| set.spec.as_ref()?.replicas).sum()
}

fn check_sizes(state: &mut State, view: &View, key: &ObjectKey) {
    let total = asked(view, key);
    if let Some(most) = state.more_than_allowed(key, total) {
        state.violate(format!("{key}'s ReplicaSets ask for {total} pods, more than {most}"));
    }
}

/// With Recreate, pods of two templates never live side by side.
fn check_generations(state: &mut State, key: &ObjectKey, pods: &[Arc<Pod>]) {
    let hashes = pods
        .iter()
        .filter(|pod| !is_finished(pod))
        .filter_map(|pod| pod.metadata.labels.as_ref()?.get("pod-template-hash").cloned());
    let hashes: BTreeSet<String> = hashes.collect();
    if hashes.len() > 1 {
        state.violate(format!("{key} is recreated and has pods of {hashes:?}"));
    }
}

/// Pods of a node never ask for more than it has.
fn check_room(state: &mut State, view: &View, pod: &Pod) {
    let node = node_of(pod);
    if node.is_empty() || is_finished(pod) {
        return;
    }
    let (milli_cpu, pods) = taken(view, node);
    if milli_cpu > MILLI_CPU || pods > MOST_PODS {
        state.violate(format!("{node} is overfull: {milli_cpu} m CPU, {pods} pods"));
    }
}

fn check_node(state: &mut State, pod: &Pod) {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else { return };
    let first = state.nodes.entry(uid.clone()).or_insert_with(|| node.clone()).clone();
    if first != node {
        state.violate(format!("pod {uid} was on {first} and is on {node}"));
    }
}

/// Nobody goes but for a pod of a higher priority, which is told its node before.
fn check_preemption(state: &mut State, pod: &Pod) {
    let spec = pod.spec.clone().unwrap_or_default();
    let priority = spec.priority.unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    if let Some(node) = wasmfleet::scheduler::pod_info::nominated_node(pod) {
        let highest = state.nominated.entry(node.into()).or_insert(priority);
        *highest = priority.max(*highest);
        if spec.preemption_policy.as_deref() == Some("Never") {
            state.violate(format!("{node} is made free for {name}, which never preempts"));
        }
    }
    let told = wasmfleet::scheduler::pod_info::is_preempted(pod);
    let highest = state.nominated.get(node_of(pod)).copied();
    if told && highest.is_none_or(|highest| highest <= priority) {
        state.violate(format!("{name} of priority {priority} was evicted for one of {highest:?}"));
    }
}

fn check_blocks(state: &mut State, view: &View) {
    let mut seen = BTreeSet::new();
    for node in view.all::<Node>() {
        let block = node.spec.as_ref().and_then(|spec| spec.pod_cidr.clone());
        if let Some(block) = block.filter(|block| !seen.insert(block.clone())) {
            state.violate(format!("two nodes have the block {block}"));
        }
    }
}
