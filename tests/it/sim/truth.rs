//! What must hold at every moment, checked on each change of the store as it really is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use parking_lot::Mutex;
use tokio::time::Instant;
use wasmfleet::api::ObjectKey;
use wasmfleet::api::quantity::Quantity;
use wasmfleet::base::{SharedClock, Tasks};
use wasmfleet::client::SharedApi;
use wasmfleet::client::cache::{Cache, Changed, View};

use super::fakes::{MILLI_CPU, MOST_PODS};

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
        cache.keep::<Namespace>(api.clone(), "", tasks);
        cache.keep::<Deployment>(api.clone(), "", tasks);
        cache.keep::<ReplicaSet>(api.clone(), "", tasks);
        cache.keep::<StatefulSet>(api.clone(), "", tasks);
        cache.keep::<DaemonSet>(api.clone(), "", tasks);
        cache.keep::<Job>(api.clone(), "", tasks);
        cache.keep::<Pod>(api.clone(), "", tasks);
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
                if let (_, Some(deployment)) = change.typed::<Deployment>() {
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
                for pod in [change.typed::<Pod>().1].into_iter().flatten() {
                    check_room(&mut state, &view, pod);
                }
            }
            "nodes" => check_blocks(&mut state, &view),
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
        let sets = view.in_namespace::<ReplicaSet>(&key.namespace);
        let own = sets.filter(|set| deployment_of(&set.metadata).as_ref() == Some(key));
        let sets = own.map(|set| {
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
    let sets = view.in_namespace::<ReplicaSet>(&key.namespace);
    let own = sets.filter(|set| deployment_of(&set.metadata).as_ref() == Some(key));
    own.filter_map(|set| set.spec.as_ref()?.replicas).sum()
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

/// What the pods of a node ask for, and their number.
fn taken(view: &View, node: &str) -> (i64, usize) {
    let holding: Vec<&Arc<Pod>> =
        view.indexed::<Pod>(node).filter(|pod| !is_finished(pod)).collect();
    (holding.iter().map(|pod| milli_cpu(pod)).sum(), holding.len())
}

fn milli_cpu(pod: &Pod) -> i64 {
    let containers = pod.spec.iter().flat_map(|spec| spec.containers.iter());
    let requests = containers.filter_map(|one| one.resources.as_ref()?.requests.as_ref());
    let cpu = requests.filter_map(|requests| Quantity::parse(&requests.get("cpu")?.0).ok());
    cpu.map(|amount| amount.milli()).sum()
}

fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// A pod that waits although a node has room for it.
pub fn waits_in_vain(view: &View) -> Option<String> {
    let waiting = view.all::<Pod>().filter(|pod| is_active(pod) && node_of(pod).is_empty());
    waiting.into_iter().find_map(|pod| {
        let mut nodes = view.all::<Node>();
        let node = nodes.find(|node| {
            let (taken_cpu, pods) = taken(view, node.metadata.name.as_deref().unwrap_or_default());
            takes_pods(node) && taken_cpu + milli_cpu(pod) <= MILLI_CPU && pods < MOST_PODS
        })?;
        Some(format!("{:?} waits beside {:?}", pod.metadata.name, node.metadata.name))
    })
}

fn takes_pods(node: &Node) -> bool {
    let spec = node.spec.as_ref();
    let open = spec.is_none_or(|spec| {
        spec.taints.as_ref().is_none_or(Vec::is_empty) && spec.unschedulable != Some(true)
    });
    open && node.status.as_ref().is_some_and(|status| status.allocatable.is_some())
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

/// Why the cluster has not come to rest as asked; `None` if it has.
pub fn unfinished(view: &View) -> Option<String> {
    for node in view.all::<Node>() {
        let spec = node.spec.as_ref();
        if spec.is_none_or(|spec| spec.pod_cidr.is_none()) {
            return Some(format!("{:?} has no block", node.metadata.name));
        }
        if spec.is_some_and(|spec| spec.taints.as_ref().is_some_and(|t| !t.is_empty())) {
            return Some(format!("{:?} is tainted", node.metadata.name));
        }
    }
    for deployment in view.all::<Deployment>() {
        if let Some(why) = unfinished_deployment(deployment, view) {
            let key = ObjectKey::of(&deployment.metadata);
            return Some(format!("{key}: {why}; status {:?}", deployment.status));
        }
    }
    if let Some(why) = waits_in_vain(view) {
        return Some(why);
    }
    for pod in view.all::<Pod>() {
        if controller(&pod.metadata).is_some_and(|name| {
            view.get::<ReplicaSet>(pod.metadata.namespace.as_deref().unwrap_or(""), &name).is_none()
        }) {
            return Some(format!("pod {:?} outlives its ReplicaSet", pod.metadata.name));
        }
    }
    view.all::<Service>().find_map(|service| unfinished_service(service, view))
}

fn unfinished_deployment(deployment: &Deployment, view: &View) -> Option<String> {
    if deployment.metadata.deletion_timestamp.is_some() {
        return Some("is being deleted".into());
    }
    let (replicas, _, _) = bounds(deployment);
    let status = deployment.status.clone().unwrap_or_default();
    if status.observed_generation != deployment.metadata.generation {
        return Some("not observed".into());
    }
    let key = ObjectKey::of(&deployment.metadata);
    let pods = pods_of(view, &key);
    let ready = pods.iter().filter(|pod| is_active(pod) && is_ready(pod)).count() as i32;
    let active = pods.iter().filter(|pod| is_active(pod)).count() as i32;
    let deleting = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some()).count();
    if (active, ready, deleting) != (replicas, replicas, 0) {
        return Some(format!("{active} active, {ready} ready, {deleting} deleting of {replicas}"));
    }
    let told = [status.replicas, status.updated_replicas, status.available_replicas];
    if told.iter().any(|count| count.unwrap_or(0) != replicas) {
        return Some(format!("counts {told:?} of {replicas}"));
    }
    let sets = view.in_namespace::<ReplicaSet>(&key.namespace);
    let own = sets.filter(|set| deployment_of(&set.metadata).as_ref() == Some(&key));
    let sized = own.filter(|set| set.spec.as_ref().is_some_and(|spec| spec.replicas != Some(0)));
    let sized = sized.count();
    (sized > 1).then(|| format!("{sized} ReplicaSets have pods"))
}

fn unfinished_service(service: &Service, view: &View) -> Option<String> {
    let spec = service.spec.as_ref()?;
    let selector = spec.selector.as_ref()?;
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let pods = view.in_namespace::<Pod>(namespace).filter(|pod| {
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        is_active(pod) && is_ready(pod) && selector.iter().all(|(k, v)| labels.get(k) == Some(v))
    });
    let ips = pods.filter_map(|pod| pod.status.as_ref()?.pod_ip.clone());
    let wanted: BTreeSet<String> = ips.collect();
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let slices = view.in_namespace::<EndpointSlice>(namespace).filter(|slice| {
        let labels = slice.metadata.labels.as_ref();
        labels.and_then(|l| l.get("kubernetes.io/service-name")).is_some_and(|n| n == name)
    });
    let mut found = BTreeSet::new();
    for endpoint in slices.flat_map(|slice| slice.endpoints.iter()) {
        if endpoint.conditions.as_ref().and_then(|one| one.ready) == Some(true) {
            found.extend(endpoint.addresses.iter().cloned());
        }
    }
    (found != wanted).then(|| format!("service {name} has {found:?}, not {wanted:?}"))
}

fn controller(meta: &ObjectMeta) -> Option<String> {
    let mut owners = meta.owner_references.iter().flatten();
    owners.find(|owner| owner.controller == Some(true)).map(|owner| owner.name.clone())
}

fn deployment_of(set: &ObjectMeta) -> Option<ObjectKey> {
    Some(ObjectKey::new(set.namespace.clone().unwrap_or_default(), controller(set)?))
}

pub fn pods_of(view: &View, deployment: &ObjectKey) -> Vec<Arc<Pod>> {
    let sets = view.in_namespace::<ReplicaSet>(&deployment.namespace);
    let own = sets.filter(|set| deployment_of(&set.metadata).as_ref() == Some(deployment));
    let uids: BTreeSet<String> = own.filter_map(|set| set.metadata.uid.clone()).collect();
    let pods = uids.iter().flat_map(|uid| view.owned_by::<Pod>(uid).cloned().collect::<Vec<_>>());
    pods.collect()
}

pub fn is_active(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none() && !is_finished(pod)
}

fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

/// It goes, or its namespace does.
fn is_ending(deployment: &Deployment, view: &View) -> bool {
    let meta = &deployment.metadata;
    let namespace = view.get::<Namespace>("", meta.namespace.as_deref().unwrap_or_default());
    meta.deletion_timestamp.is_some()
        || namespace.is_none_or(|found| found.metadata.deletion_timestamp.is_some())
}

fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True")
}

/// Replicas, maxSurge (rounded up) and maxUnavailable (rounded down, 1 where both are 0).
fn bounds(deployment: &Deployment) -> (i32, i32, i32) {
    let spec = deployment.spec.clone().unwrap_or_default();
    let replicas = spec.replicas.unwrap_or(1);
    let rolling = spec.strategy.and_then(|strategy| strategy.rolling_update);
    // Recreate: everything goes at first.
    let Some(rolling) = rolling else { return (replicas, 0, replicas) };
    let number = |value: Option<IntOrString>, up: bool| match value {
        Some(IntOrString::Int(number)) => number,
        Some(IntOrString::String(percent)) => {
            let percent: i32 = percent.trim_end_matches('%').parse().unwrap();
            (replicas * percent + if up { 99 } else { 0 }) / 100
        }
        None => 0,
    };
    let surge = number(rolling.max_surge, true);
    let unavailable = number(rolling.max_unavailable, false);
    (replicas, surge, if surge == 0 { unavailable.max(1) } else { unavailable })
}
