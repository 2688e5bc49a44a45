//! When a cluster is at rest, as asked.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet,
};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use wasmfleet::api::Kind;
use wasmfleet::api::ObjectKey;
use wasmfleet::api::selector::Selector;
use wasmfleet::client::cache::View;

use super::super::fakes::{MILLI_CPU, MOST_PODS};
use super::jobs::{TRACKING, is_set};
use super::read::*;

/// Why anything is not as asked, of all kinds.
pub fn unsettled(view: &View) -> Option<String> {
    unfinished(view)
        .or_else(|| unfinished_set(view))
        .or_else(|| unfinished_daemons(view))
        .or_else(|| unfinished_jobs(view))
        .or_else(|| view.all::<PodDisruptionBudget>().find_map(|one| uncounted(one, view)))
}

/// Why Deployments, nodes and Services are not as asked; `None` if they are.
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
    if let Some(why) = orphan(view) {
        return Some(why);
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
    let own = sets_of(view, &key).into_iter();
    let sized = own.filter(|set| set.spec.as_ref().is_some_and(|spec| spec.replicas != Some(0)));
    let sized = sized.count();
    (sized > 1).then(|| format!("{sized} ReplicaSets have pods"))
}

pub fn unfinished_service(service: &Service, view: &View) -> Option<String> {
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

/// Why the StatefulSet is not as asked.
pub fn unfinished_set(view: &View) -> Option<String> {
    let set = view.get::<StatefulSet>("default", "db")?;
    let wanted = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let status = set.status.clone().unwrap_or_default();
    let pods: Vec<_> =
        view.in_namespace::<Pod>("default").filter(|pod| ordinal(pod).is_some()).collect();
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let partition = rolling.and_then(|rolling| rolling.partition).unwrap_or(0) as usize;
    let (current, update) = (status.current_revision.clone(), status.update_revision.clone());
    let good = pods.iter().filter(|pod| {
        let labels = pod.metadata.labels.as_ref();
        let own = labels.and_then(|labels| labels.get("controller-revision-hash"));
        let keeps = ordinal(pod).is_some_and(|at| at < partition);
        let due = if keeps { current.as_ref() } else { update.as_ref() };
        is_active(pod) && is_ready(pod) && own == due
    });
    let counts = (good.count(), pods.len());
    let told = (status.replicas, status.ready_replicas.unwrap_or(0), current == update);
    let observed = status.observed_generation == set.metadata.generation;
    let done = counts == (wanted as usize, wanted as usize)
        && (told.0, told.1) == (wanted, wanted)
        && (current == update || partition > 0)
        && observed;
    (!done).then(|| format!("{counts:?} of {wanted}, told {told:?}"))
}

pub fn unfinished_daemons(view: &View) -> Option<String> {
    let set = view.get::<DaemonSet>("default", "agent")?;
    let status = set.status.clone().unwrap_or_default();
    let nodes = view.all::<Node>().count() as i32;
    let told = [
        status.desired_number_scheduled,
        status.current_number_scheduled,
        status.number_ready,
        status.updated_number_scheduled.unwrap_or(0),
        status.number_available.unwrap_or(0),
    ];
    let pods = view.in_namespace::<Pod>("default").filter(|pod| is_daemon(pod)).count() as i32;
    let observed = status.observed_generation == set.metadata.generation;
    let done = told == [nodes; 5] && pods == nodes && observed;
    (!done).then(|| format!("{pods} pods on {nodes} nodes, told {told:?}"))
}

/// Why the Jobs have not come to their end.
pub fn unfinished_jobs(view: &View) -> Option<String> {
    for job in view.all::<Job>() {
        if !is_set(job, "Complete") && !is_set(job, "Failed") {
            return Some(format!("{:?} goes on: {:?}", job.metadata.name, job.status));
        }
    }
    let kept = |pod: &&Arc<Pod>| {
        pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == TRACKING)
    };
    let pod = view.all::<Pod>().find(kept)?;
    Some(format!("{:?} still has its finalizer", pod.metadata.name))
}

/// A budget whose numbers are not those of its pods.
fn uncounted(budget: &PodDisruptionBudget, view: &View) -> Option<String> {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selector = Selector::from_typed(selector).ok()?;
    let guards = |pod: &&Arc<Pod>| {
        pod.metadata.labels.as_ref().is_some_and(|labels| selector.matches(labels))
    };
    let namespace = budget.metadata.namespace.as_deref().unwrap_or_default();
    let pods: Vec<_> = view.in_namespace::<Pod>(namespace).filter(guards).collect();
    let healthy = pods.iter().filter(|pod| is_active(pod) && is_ready(pod)).count() as i32;
    let status = budget.status.clone().unwrap_or_default();
    let told = (status.expected_pods, status.current_healthy, status.disruptions_allowed);
    let right = (pods.len() as i32, healthy, (healthy - status.desired_healthy).max(0));
    (told != right).then(|| format!("{} tells {told:?}, not {right:?}", name_of(budget)))
}

/// What has an owner that is not there.
fn orphan(view: &View) -> Option<String> {
    orphan_of::<Pod>(view)
        .or_else(|| orphan_of::<ReplicaSet>(view))
        .or_else(|| orphan_of::<Job>(view))
        .or_else(|| orphan_of::<ControllerRevision>(view))
        .or_else(|| orphan_of::<EndpointSlice>(view))
}

fn orphan_of<T: Kind>(view: &View) -> Option<String> {
    view.all::<T>().find_map(|object| {
        let meta: &ObjectMeta = object.metadata();
        let namespace = meta.namespace.clone().unwrap_or_default();
        let missing = |uid: &str, key: &ObjectKey, version: &str, kind: &str| {
            let Some(resource) = view.resource(version, kind) else { return false };
            let found = view.object(&resource, key);
            found.is_none_or(|found| found.meta().uid.as_deref() != Some(uid))
        };
        let mut owners = meta.owner_references.iter().flatten();
        let lost = owners.find(|owner| {
            let key = ObjectKey::new(namespace.as_str(), owner.name.as_str());
            missing(&owner.uid, &key, &owner.api_version, &owner.kind)
        })?;
        Some(format!("{} {:?} outlives {} {}", T::KIND, meta.name, lost.kind, lost.name))
    })
}
