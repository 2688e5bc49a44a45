//! What must hold at every moment, checked on each change of the store as it really is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use parking_lot::Mutex;
use wasmfleet::api::ObjectKey;
use wasmfleet::base::Tasks;
use wasmfleet::client::SharedApi;
use wasmfleet::client::cache::{Cache, Changed, View};

/// Violations kept; the first ones tell most.
const MOST_VIOLATIONS: usize = 20;

/// Watches the store itself, without faults in between.
pub struct Truth {
    pub cache: Arc<Cache>,
    state: Mutex<State>,
    /// Whether nothing but our own doing makes pods unavailable.
    calm: bool,
}

#[derive(Default)]
struct State {
    /// The highest `replicas + maxSurge` that each Deployment ever had.
    most: BTreeMap<ObjectKey, i32>,
    /// Deployments that were available once.
    available: BTreeSet<ObjectKey>,
    /// The node of each pod, by uid.
    nodes: BTreeMap<String, String>,
    violations: Vec<String>,
}

impl Truth {
    pub fn start(api: SharedApi, calm: bool, tasks: &Tasks) -> Arc<Truth> {
        let cache = Cache::new();
        let state = Mutex::default();
        let truth = Arc::new(Truth { cache: cache.clone(), state, calm });
        let weak = Arc::downgrade(&truth);
        cache.listen(Box::new(move |change| {
            if let Some(truth) = weak.upgrade() {
                truth.check(change);
            }
        }));
        cache.keep::<Deployment>(api.clone(), "", tasks);
        cache.keep::<ReplicaSet>(api.clone(), "", tasks);
        cache.keep::<Pod>(api.clone(), "", tasks);
        cache.keep::<Node>(api.clone(), "", tasks);
        cache.keep::<Service>(api.clone(), "", tasks);
        cache.keep::<EndpointSlice>(api, "", tasks);
        truth
    }

    pub fn violations(&self) -> Vec<String> {
        self.state.lock().violations.clone()
    }

    fn check(&self, change: &Changed) {
        let view = self.cache.view();
        let mut state = self.state.lock();
        match &*change.resource.resource {
            "deployments" => {
                if let (_, Some(deployment)) = change.typed::<Deployment>() {
                    let (replicas, surge, _) = bounds(deployment);
                    let most = state.most.entry(change.key.clone()).or_default();
                    *most = (*most).max(replicas + surge);
                }
            }
            "replicasets" => {
                if let Some(key) = change.object().and_then(|set| deployment_of(set.meta())) {
                    check_sizes(&mut state, &view, &key);
                }
            }
            "pods" => self.check_pod(&mut state, &view, change),
            "nodes" => check_blocks(&mut state, &view),
            _ => {}
        }
    }

    fn check_pod(&self, state: &mut State, view: &View, change: &Changed) {
        if let (_, Some(pod)) = change.typed::<Pod>() {
            check_node(state, pod);
        }
        let owner = change.object().and_then(|pod| controller(pod.meta()));
        let set = owner.and_then(|name| view.get::<ReplicaSet>(&change.key.namespace, &name));
        let Some(key) = set.and_then(|set| deployment_of(&set.metadata)) else { return };
        let pods = pods_of(view, &key);
        let active = pods.iter().filter(|pod| is_active(pod)).count() as i32;
        let most = state.most.get(&key).copied().unwrap_or(i32::MAX);
        if active > most {
            state.violate(format!("{key} has {active} active pods, more than {most}"));
        }
        let Some(deployment) = view.get_key::<Deployment>(&key) else { return };
        let (replicas, _, unavailable) = bounds(deployment);
        let ready = pods.iter().filter(|pod| is_active(pod) && is_ready(pod)).count() as i32;
        if ready >= replicas {
            state.available.insert(key.clone());
        }
        let deleting = deployment.metadata.deletion_timestamp.is_some();
        if self.calm
            && !deleting
            && state.available.contains(&key)
            && ready < replicas - unavailable
        {
            let least = replicas - unavailable;
            state.violate(format!("{key} has {ready} ready pods, fewer than {least}"));
        }
    }
}

impl State {
    fn violate(&mut self, text: String) {
        if self.violations.len() < MOST_VIOLATIONS {
            self.violations.push(text);
        }
    }
}

fn check_sizes(state: &mut State, view: &View, key: &ObjectKey) {
    let sets = view.in_namespace::<ReplicaSet>(&key.namespace);
    let own = sets.filter(|set| deployment_of(&set.metadata).as_ref() == Some(key));
    let total: i32 = own.filter_map(|set| set.spec.as_ref()?.replicas).sum();
    let most = state.most.get(key).copied().unwrap_or(i32::MAX);
    if total > most {
        state.violate(format!("{key}'s ReplicaSets ask for {total} pods, more than {most}"));
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
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Failed" | "Succeeded"))
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True")
}

/// Replicas, maxSurge and maxUnavailable; simulated Deployments give numbers.
fn bounds(deployment: &Deployment) -> (i32, i32, i32) {
    let spec = deployment.spec.clone().unwrap_or_default();
    let rolling = spec.strategy.and_then(|strategy| strategy.rolling_update);
    let number = |value: Option<IntOrString>| match value {
        Some(IntOrString::Int(number)) => number,
        _ => 0,
    };
    let replicas = spec.replicas.unwrap_or(1);
    match rolling {
        Some(rolling) => (replicas, number(rolling.max_surge), number(rolling.max_unavailable)),
        // Recreate: everything goes at first.
        None => (replicas, 0, replicas),
    }
}
