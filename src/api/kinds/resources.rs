//! Amounts of resources in specs and status: canonical form, validation with upstream's words, and
//! the quality-of-service class that follows from them.
//!
//! Reading quantities is [`Quantity`]'s matter; this file knows which names and amounts are allowed.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as QuantityText;

use super::checks;
use crate::api::field::{Errors, Path};
use crate::api::quantity::Quantity;

/// A list of amounts by resource name, as k8s-openapi has it.
pub type Amounts = BTreeMap<String, QuantityText>;

/// Amounts that were read, by resource name.
pub type Sums = BTreeMap<String, Quantity>;

/// Rewrites amounts as the API shows them (`0.5` becomes `500m`). What cannot be read stays, for
/// validation to name it.
pub fn canonicalize(amounts: Option<&mut Amounts>) {
    for text in amounts.into_iter().flat_map(|a| a.values_mut()) {
        if let Ok(quantity) = Quantity::parse(&text.0) {
            text.0 = quantity.to_string();
        }
    }
}

/// A container's requests and limits.
pub fn validate_requirements(errors: &mut Errors, path: &Path, resources: &ResourceRequirements) {
    let (limits_path, requests_path) = (path.child("limits"), path.child("requests"));
    for (name, text) in resources.limits.iter().flatten() {
        validate_container_name(errors, &limits_path.key(name), name);
        validate_amount(errors, &limits_path.key(name), name, text);
    }
    for (name, text) in resources.requests.iter().flatten() {
        validate_container_name(errors, &requests_path.key(name), name);
        let Some(request) = validate_amount(errors, &requests_path.key(name), name, text) else {
            continue;
        };
        let limit = resources.limits.as_ref().and_then(|l| l.get(name));
        match limit.map(|l| (l, Quantity::parse(&l.0))) {
            Some((limit_text, Ok(limit))) if may_overcommit(name) && request > limit => {
                let detail =
                    format!("must be less than or equal to {name} limit of {}", limit_text.0);
                errors.invalid(&requests_path, &text.0, &detail);
            }
            Some((limit_text, Ok(limit))) if !may_overcommit(name) && request != limit => {
                let detail = format!("must be equal to {name} limit of {}", limit_text.0);
                errors.invalid(&requests_path, &text.0, &detail);
            }
            None if !may_overcommit(name) => {
                let detail = "Limit must be set for non overcommitable resources";
                errors.required(&limits_path, detail);
            }
            _ => {}
        }
    }
}

/// An amount whose whole units are not negative (validateBasicResource).
pub fn validate_whole_amount(errors: &mut Errors, path: &Path, text: &QuantityText) {
    if let Ok(amount) = Quantity::parse(&text.0)
        && amount.value() < 0
    {
        errors.invalid(path, amount.value(), "must be a valid resource quantity");
    }
}

/// One amount: readable, not negative, and whole where only whole ones make sense.
pub fn validate_amount(
    errors: &mut Errors,
    path: &Path,
    name: &str,
    text: &QuantityText,
) -> Option<Quantity> {
    let quantity = match Quantity::parse(&text.0) {
        Ok(quantity) => quantity,
        Err(error) => {
            errors.invalid(path, &text.0, &error.to_string());
            return None;
        }
    };
    if quantity.sign() < 0 {
        errors.invalid(path, &text.0, "must be greater than or equal to 0");
    }
    let whole_only = name == "pods" || name.contains('/') || name.starts_with("hugepages-");
    if whole_only && quantity != Quantity::from_value(quantity.value()) {
        errors.invalid(path, &text.0, "must be an integer");
    }
    Some(quantity)
}

fn validate_container_name(errors: &mut Errors, path: &Path, name: &str) {
    checks::qualified_name(errors, path, name);
    let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage");
    if !name.contains('/') && !standard && !name.starts_with("hugepages-") {
        errors.invalid(path, name, "must be a standard resource type or fully qualified");
        errors.invalid(path, name, "must be a standard resource for containers");
    }
}

/// Requests of extended resources and huge pages cannot differ from their limits.
fn may_overcommit(name: &str) -> bool {
    (!name.contains('/') || name.starts_with("kubernetes.io/")) && !name.starts_with("hugepages-")
}

/// `Guaranteed`, `Burstable` or `BestEffort` (core/v1 PodQOSClass), from CPU and memory.
pub fn qos_class(spec: &PodSpec) -> &'static str {
    let (mut none_set, mut all_equal) = (true, true);
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        for name in ["cpu", "memory"] {
            let request = amount(container, name, |r| r.requests.as_ref());
            let limit = amount(container, name, |r| r.limits.as_ref());
            none_set &= request.is_none() && limit.is_none();
            all_equal &= limit.is_some() && request.or(limit) == limit;
        }
    }
    match (none_set, all_equal) {
        (true, _) => "BestEffort",
        (false, true) => "Guaranteed",
        (false, false) => "Burstable",
    }
}

/// Amounts that can be read.
pub fn sums(amounts: Option<&Amounts>) -> Sums {
    let amounts = amounts.into_iter().flatten();
    amounts
        .filter_map(|(name, text)| Some((name.clone(), Quantity::parse(&text.0).ok()?)))
        .collect()
}

/// Adds one list of amounts to another.
pub fn add(total: &mut Sums, more: &Sums) {
    for (name, amount) in more {
        *total.entry(name.clone()).or_insert(Quantity::ZERO) += *amount;
    }
}

/// What a whole pod asks for in its containers' lists of requests or limits: the sum of containers
/// and sidecars, or what an init container needs beside the sidecars before it, if that is more
/// (KEP-753). Without the overhead.
pub fn pod_sum(spec: &PodSpec, list: fn(&ResourceRequirements) -> Option<&Amounts>) -> Sums {
    let of = |container: &Container| sums(container.resources.as_ref().and_then(list));
    let mut total = Sums::new();
    for container in &spec.containers {
        add(&mut total, &of(container));
    }
    let (mut sidecars, mut most) = (Sums::new(), Sums::new());
    for container in spec.init_containers.iter().flatten() {
        let mut beside = sidecars.clone();
        add(&mut beside, &of(container));
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut total, &of(container));
            sidecars.clone_from(&beside);
        }
        raise(&mut most, &beside);
    }
    raise(&mut total, &most);
    total
}

/// What a pod asks of its node: the [`pod_sum`] of its requests, and its overhead.
pub fn pod_requests(spec: &PodSpec) -> Sums {
    let mut requests = pod_sum(spec, |resources| resources.requests.as_ref());
    add(&mut requests, &sums(spec.overhead.as_ref()));
    requests
}

/// Raises each amount to that of another list.
fn raise(total: &mut Sums, other: &Sums) {
    for (name, amount) in other {
        let entry = total.entry(name.clone()).or_insert(*amount);
        *entry = (*entry).max(*amount);
    }
}

/// A container's amount of a resource; zero counts as not set.
fn amount(
    container: &Container,
    name: &str,
    list: fn(&ResourceRequirements) -> Option<&Amounts>,
) -> Option<Quantity> {
    let text = container.resources.as_ref().and_then(list)?.get(name)?;
    Quantity::parse(&text.0).ok().filter(|q| !q.is_zero())
}
