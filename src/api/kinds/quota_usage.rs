//! What objects count for in ResourceQuotas: which quotas look at an object (scopes), and what it
//! adds to their names. Admission charges by it and the quota controller counts by it, so that both
//! always mean the same. Pure.
//! Source: k8s.io/kubernetes pkg/quota/v1/evaluator/core.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, Pod, PodAffinityTerm, PodSpec, ResourceQuota,
    ScopedResourceSelectorRequirement, Service,
};

use super::resources::{self, Sums};
use super::storage;
use crate::api::quantity::Quantity;
use crate::api::{ApiError, Object};

/// Counted by their plain names too, as they were before there was `count/`.
const PLAIN_NAMES: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];
/// Amounts of containers that count under their own name, and with `requests.` and `limits.`.
const AMOUNTS: &[&str] = &["cpu", "memory", "ephemeral-storage"];
/// What every container must say where a quota bounds it.
const DEMANDED: &[&str] =
    &["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];
/// Between a storage class and what is counted of its claims.
const OF_CLASS: &str = ".storageclass.storage.k8s.io/";
const STORAGE: &str = "requests.storage";
const CLAIMS: &str = "persistentvolumeclaims";

/// The group and the plural of a resource.
pub type Counted<'a> = (&'a str, &'a str);

pub const PODS: Counted<'static> = ("", "pods");
pub const SERVICES: Counted<'static> = ("", "services");
pub const PERSISTENT_VOLUME_CLAIMS: Counted<'static> = ("", CLAIMS);

/// What an object counts for where a quota looks at it.
pub struct Usage {
    pub sums: Sums,
    subject: Subject,
}

/// What scopes look at.
enum Subject {
    Pod(Box<Pod>),
    Claim(Box<PersistentVolumeClaim>),
    Other,
}

/// The resource whose objects add to a name of a quota; `None` for names that nothing adds to.
pub fn counted_by(name: &str) -> Option<Counted<'_>> {
    if let Some(qualified) = name.strip_prefix("count/") {
        let (resource, group) = qualified.split_once('.').unwrap_or((qualified, ""));
        return Some((group, resource));
    }
    if PLAIN_NAMES.contains(&name) {
        return Some(("", name));
    }
    if matches!(name, "services.nodeports" | "services.loadbalancers") {
        return Some(SERVICES);
    }
    let of_class = name.split_once(OF_CLASS).map(|(_, what)| what);
    if name == STORAGE || matches!(of_class, Some(STORAGE | CLAIMS)) {
        return Some(PERSISTENT_VOLUME_CLAIMS);
    }
    let requested = name.strip_prefix("requests.");
    let amount = requested.or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
    let of_pods = AMOUNTS.contains(&amount)
        || requested.unwrap_or(name).starts_with("hugepages-")
        || requested.is_some_and(|extended| extended.contains('/'));
    of_pods.then_some(PODS)
}

/// What any object of a resource counts for.
pub fn of_any(resource: Counted) -> Sums {
    let one = Quantity::from_value(1);
    let (group, plural) = resource;
    let count = match group {
        "" => format!("count/{plural}"),
        group => format!("count/{plural}.{group}"),
    };
    let mut usage = Sums::from([(count, one)]);
    // A finished Pod is counted as an object only.
    if group.is_empty() && plural != "pods" && PLAIN_NAMES.contains(&plural) {
        usage.insert(plural.to_string(), one);
    }
    usage
}

impl Usage {
    pub fn of(resource: Counted, object: &Object) -> Result<Usage, ApiError> {
        Ok(match resource {
            PODS => {
                let pod: Pod = object.typed()?;
                Usage { sums: of_pod(&pod), subject: Subject::Pod(Box::new(pod)) }
            }
            SERVICES => Usage { sums: of_service(&object.typed()?), subject: Subject::Other },
            PERSISTENT_VOLUME_CLAIMS => {
                let claim: PersistentVolumeClaim = object.typed()?;
                Usage { sums: of_claim(&claim), subject: Subject::Claim(Box::new(claim)) }
            }
            other => Usage { sums: of_any(other), subject: Subject::Other },
        })
    }

    /// Whether a quota looks at the object.
    pub fn is_in(&self, quota: &ResourceQuota) -> bool {
        match &self.subject {
            Subject::Pod(pod) => selects_pod(quota, pod),
            Subject::Claim(claim) => all_terms(quota, |term| class_of_claim(term, claim)),
            // Scopes say nothing about other objects, and leave them out.
            Subject::Other => !is_scoped(quota),
        }
    }

    /// What the object leaves out although a quota bounds it.
    pub fn left_out<'a>(&self, bounded: impl Iterator<Item = &'a String>) -> Option<String> {
        match &self.subject {
            Subject::Pod(pod) => left_out(pod.spec.as_ref()?, bounded),
            _ => None,
        }
    }
}

pub fn of_pod(pod: &Pod) -> Sums {
    let mut usage = of_any(PODS);
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let (Some(spec), false) = (&pod.spec, matches!(phase, Some("Succeeded" | "Failed"))) else {
        return usage;
    };
    usage.insert("pods".into(), Quantity::from_value(1));
    let requests = resources::pod_requests(spec);
    let mut limits = resources::pod_sum(spec, |r| r.limits.as_ref());
    for (name, amount) in resources::sums(spec.overhead.as_ref()) {
        // What has no limit gets none by its overhead.
        if let Some(limit) = limits.get_mut(&name) {
            *limit += amount;
        }
    }
    for (name, amount) in requests {
        if AMOUNTS.contains(&name.as_str()) || name.starts_with("hugepages-") {
            usage.insert(name.clone(), amount);
        }
        usage.insert(format!("requests.{name}"), amount);
    }
    let limits = limits.into_iter().filter(|(name, _)| AMOUNTS.contains(&name.as_str()));
    usage.extend(limits.map(|(name, amount)| (format!("limits.{name}"), amount)));
    usage
}

fn of_service(service: &Service) -> Sums {
    let mut usage = of_any(SERVICES);
    let Some(spec) = &service.spec else { return usage };
    let kind = spec.type_.as_deref().unwrap_or_default();
    let balanced = kind == "LoadBalancer";
    let on_nodes =
        kind == "NodePort" || balanced && spec.allocate_load_balancer_node_ports.unwrap_or(true);
    if balanced {
        usage.insert("services.loadbalancers".into(), Quantity::from_value(1));
    }
    if on_nodes {
        let ports = spec.ports.as_ref().map_or(0, |ports| ports.len());
        let ports = Quantity::from_value(i64::try_from(ports).unwrap_or(i64::MAX));
        usage.insert("services.nodeports".into(), ports);
    }
    usage
}

fn of_claim(claim: &PersistentVolumeClaim) -> Sums {
    let mut usage = of_any(PERSISTENT_VOLUME_CLAIMS);
    let Some(spec) = &claim.spec else { return usage };
    let annotations = claim.metadata.annotations.as_ref();
    let class = storage::class_of(annotations, spec.storage_class_name.as_deref());
    let class = Some(class).filter(|class| !class.is_empty());
    let requests = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let storage = resources::sums(requests).get("storage").copied();
    if let Some(class) = class {
        usage.insert(format!("{class}{OF_CLASS}{CLAIMS}"), Quantity::from_value(1));
    }
    if let Some(storage) = storage {
        usage.insert(STORAGE.into(), storage);
        if let Some(class) = class {
            usage.insert(format!("{class}{OF_CLASS}{STORAGE}"), storage);
        }
    }
    usage
}

/// Whether a quota looks at a Pod.
pub fn selects_pod(quota: &ResourceQuota, pod: &Pod) -> bool {
    all_terms(quota, |term| pod.spec.as_ref().is_some_and(|spec| pod_in_scope(term, spec)))
}

/// Whether a quota looks at some objects only.
pub fn is_scoped(quota: &ResourceQuota) -> bool {
    !all_terms(quota, |_| false)
}

/// Whether every term of a quota's scopes is met. A plain scope must exist.
fn all_terms(
    quota: &ResourceQuota,
    meets: impl Fn(&ScopedResourceSelectorRequirement) -> bool,
) -> bool {
    let Some(spec) = &quota.spec else { return true };
    let mut plain = spec.scopes.iter().flatten().map(|scope| ScopedResourceSelectorRequirement {
        scope_name: scope.clone(),
        operator: "Exists".into(),
        values: None,
    });
    let selector = spec.scope_selector.as_ref().and_then(|s| s.match_expressions.as_ref());
    plain.all(|term| meets(&term)) && selector.into_iter().flatten().all(meets)
}

fn pod_in_scope(term: &ScopedResourceSelectorRequirement, spec: &PodSpec) -> bool {
    let best_effort = || resources::qos_class(spec) == "BestEffort";
    let terminating = spec.active_deadline_seconds.is_some_and(|seconds| seconds >= 0);
    match term.scope_name.as_str() {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "PriorityClass" => names_one(term, spec.priority_class_name.as_deref()),
        "CrossNamespacePodAffinity" => crosses_namespaces(spec),
        _ => false,
    }
}

fn class_of_claim(term: &ScopedResourceSelectorRequirement, claim: &PersistentVolumeClaim) -> bool {
    let spec = claim.spec.as_ref();
    let class = spec.and_then(|spec| spec.volume_attributes_class_name.as_deref());
    term.scope_name == "VolumeAttributesClass" && names_one(term, class)
}

/// Whether the name of a class is as a term asks.
fn names_one(term: &ScopedResourceSelectorRequirement, class: Option<&str>) -> bool {
    let class = class.filter(|class| !class.is_empty());
    let named = || {
        let mut values = term.values.iter().flatten();
        class.is_some_and(|class| values.any(|value| value == class))
    };
    match term.operator.as_str() {
        "In" => named(),
        "NotIn" => !named(),
        "DoesNotExist" => class.is_none(),
        _ => class.is_some(),
    }
}

/// Whether a Pod wants to be near, or far from, Pods of other namespaces.
fn crosses_namespaces(spec: &PodSpec) -> bool {
    let affinity = spec.affinity.clone().unwrap_or_default();
    let (near, far) = (affinity.pod_affinity, affinity.pod_anti_affinity);
    let near = near.into_iter().flat_map(|near| {
        let wished = near.preferred_during_scheduling_ignored_during_execution;
        let wished = wished.into_iter().flatten().map(|wish| wish.pod_affinity_term);
        let needed = near.required_during_scheduling_ignored_during_execution;
        needed.into_iter().flatten().chain(wished)
    });
    let far = far.into_iter().flat_map(|far| {
        let wished = far.preferred_during_scheduling_ignored_during_execution;
        let wished = wished.into_iter().flatten().map(|wish| wish.pod_affinity_term);
        let needed = far.required_during_scheduling_ignored_during_execution;
        needed.into_iter().flatten().chain(wished)
    });
    let crosses = |term: PodAffinityTerm| {
        term.namespace_selector.is_some()
            || term.namespaces.is_some_and(|namespaces| !namespaces.is_empty())
    };
    near.chain(far).any(crosses)
}

/// What a Pod's containers leave out although a quota bounds it:
/// `must specify cpu for: main; memory for: main,other`.
fn left_out<'a>(spec: &PodSpec, bounded: impl Iterator<Item = &'a String>) -> Option<String> {
    let containers = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut bounded: Vec<&str> = bounded.map(String::as_str).collect();
    bounded.retain(|name| DEMANDED.contains(name));
    bounded.sort_unstable();
    let mut texts = Vec::new();
    for name in bounded {
        let mut lacking: Vec<&str> = containers()
            .filter(|container| {
                let resources = container.resources.clone().unwrap_or_default();
                let (amounts, amount) = match name.strip_prefix("limits.") {
                    Some(amount) => (resources.limits, amount),
                    None => (resources.requests, name.strip_prefix("requests.").unwrap_or(name)),
                };
                !amounts.is_some_and(|amounts| amounts.contains_key(amount))
            })
            .map(|container| container.name.as_str())
            .collect();
        lacking.sort_unstable();
        if !lacking.is_empty() {
            texts.push(format!("{name} for: {}", lacking.join(",")));
        }
    }
    (!texts.is_empty()).then(|| format!("must specify {}", texts.join("; ")))
}

/// What changes from one usage to another, by name; amounts may be negative.
pub fn difference(before: &Sums, after: &Sums) -> Sums {
    let names: BTreeMap<&String, ()> =
        before.keys().chain(after.keys()).map(|name| (name, ())).collect();
    let of = |sums: &Sums, name: &String| sums.get(name).copied().unwrap_or(Quantity::ZERO);
    let changes = names.into_keys().map(|name| (name.clone(), of(after, name) - of(before, name)));
    changes.filter(|(_, change)| !change.is_zero()).collect()
}
