//! What objects count for in ResourceQuotas: which quotas look at an object (scopes), and what it
//! adds to their names. Admission charges by it and the quota controller counts by it, so that both
//! always mean the same. Pure.
//! Source: k8s.io/kubernetes pkg/quota/v1/evaluator/core.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use super::resources::{self, Sums};
use crate::api::quantity::Quantity;
use crate::api::resource::Gvr;

/// The resources that quotas count. The quota controller must keep each of them.
pub const COUNTED: &[Gvr] = &[
    Gvr::of::<core::ConfigMap>(),
    Gvr::of::<Pod>(),
    Gvr::of::<core::ReplicationController>(),
    Gvr::of::<ResourceQuota>(),
    Gvr::of::<core::Secret>(),
    Gvr::of::<Service>(),
    Gvr::of::<core::ServiceAccount>(),
    Gvr::of::<Deployment>(),
    Gvr::of::<ReplicaSet>(),
    Gvr::of::<EndpointSlice>(),
    Gvr::of::<Lease>(),
    Gvr::of::<PodDisruptionBudget>(),
];

/// Counted by their plain names too, as they were before there was `count/`.
const PLAIN_NAMES: &[&str] =
    &["configmaps", "pods", "replicationcontrollers", "resourcequotas", "secrets", "services"];
/// Amounts of containers that count under their own name, and with `requests.` and `limits.`.
const AMOUNTS: &[&str] = &["cpu", "memory", "ephemeral-storage"];
/// What every container must say where a quota bounds it.
const DEMANDED: &[&str] =
    &["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];

/// The resource whose objects add to a name of a quota; `None` for names that nothing adds to.
pub fn counted_by(name: &str) -> Option<&'static Gvr> {
    let find = |qualified: &str| COUNTED.iter().find(|gvr| gvr.qualified() == qualified);
    if let Some(qualified) = name.strip_prefix("count/") {
        return find(qualified);
    }
    if PLAIN_NAMES.contains(&name) {
        return find(name);
    }
    if matches!(name, "services.nodeports" | "services.loadbalancers") {
        return find("services");
    }
    let requested = name.strip_prefix("requests.");
    let amount = requested.or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
    let of_pods = AMOUNTS.contains(&amount)
        || requested.unwrap_or(name).starts_with("hugepages-")
        || requested.is_some_and(|extended| extended.contains('/'));
    of_pods.then(|| find("pods")).flatten()
}

/// What any object of a resource counts for.
pub fn of_object(resource: &Gvr) -> Sums {
    let one = Quantity::from_value(1);
    let qualified = resource.qualified();
    let mut usage = Sums::from([(format!("count/{qualified}"), one)]);
    // A finished Pod is counted as an object only.
    if qualified != "pods" && PLAIN_NAMES.contains(&qualified.as_str()) {
        usage.insert(qualified, one);
    }
    usage
}

pub fn of_pod(pod: &Pod) -> Sums {
    let mut usage = of_object(&Gvr::of::<Pod>());
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let (Some(spec), false) = (&pod.spec, matches!(phase, Some("Succeeded" | "Failed"))) else {
        return usage;
    };
    usage.insert("pods".into(), Quantity::from_value(1));
    let mut requests = resources::pod_sum(spec, |r| r.requests.as_ref());
    let mut limits = resources::pod_sum(spec, |r| r.limits.as_ref());
    for (name, amount) in resources::sums(spec.overhead.as_ref()) {
        *requests.entry(name.clone()).or_insert(Quantity::ZERO) += amount;
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

pub fn of_service(service: &Service) -> Sums {
    let mut usage = of_object(&Gvr::of::<Service>());
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

/// Whether a quota looks at a Pod.
pub fn selects_pod(quota: &ResourceQuota, pod: &Pod) -> bool {
    let Some(spec) = &quota.spec else { return true };
    let listed = spec.scopes.iter().flatten().all(|scope| in_scope(scope, "Exists", &[], pod));
    let selector = spec.scope_selector.as_ref().and_then(|s| s.match_expressions.as_ref());
    listed
        && selector.into_iter().flatten().all(|term| {
            let values = term.values.as_deref().unwrap_or_default();
            in_scope(&term.scope_name, &term.operator, values, pod)
        })
}

/// Whether a quota looks at Pods only: scopes say nothing about other objects.
pub fn is_scoped(quota: &ResourceQuota) -> bool {
    let Some(spec) = &quota.spec else { return false };
    let selector = spec.scope_selector.as_ref().and_then(|s| s.match_expressions.as_ref());
    spec.scopes.as_ref().is_some_and(|scopes| !scopes.is_empty())
        || selector.is_some_and(|terms| !terms.is_empty())
}

fn in_scope(scope: &str, operator: &str, values: &[String], pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let best_effort = || resources::qos_class(spec) == "BestEffort";
    match scope {
        "Terminating" => spec.active_deadline_seconds.is_some(),
        "NotTerminating" => spec.active_deadline_seconds.is_none(),
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "PriorityClass" => {
            let class = spec.priority_class_name.as_ref().filter(|class| !class.is_empty());
            let named = class.is_some_and(|class| values.contains(class));
            match operator {
                "In" => named,
                "NotIn" => !named,
                "DoesNotExist" => class.is_none(),
                _ => class.is_some(),
            }
        }
        // Pods here have no affinity to others, and there are no volumes with classes.
        _ => false,
    }
}

/// What a Pod's containers leave out although a quota bounds it:
/// `must specify cpu for: main; memory for: main,other`.
pub fn left_out<'a>(pod: &Pod, bounded: impl Iterator<Item = &'a String>) -> Option<String> {
    let spec = pod.spec.as_ref()?;
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
