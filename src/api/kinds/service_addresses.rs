//! Addresses of Services: cluster IPs and their families, external ones, and how they may change.
//! This cluster has IPv4 only.
//!
//! Upstream: pkg/apis/core/validation/validation.go, ValidateServiceClusterIPsRelatedFields and
//! ValidateServiceUpdate; what the cluster's ranges allow is pkg/registry/core/service/storage/alloc.go.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use k8s_openapi::api::core::v1::ServiceSpec;

use super::checks;
use super::service::is_headless;
use super::service_validation::needs_health_check;
use crate::api::field::{Errors, Path};

const NONE: &str = "None";
const SINGLE: &str = "SingleStack";
const FAMILIES: &[&str] = &["IPv4", "IPv6"];
const POLICIES: &[&str] = &["PreferDualStack", "RequireDualStack", SINGLE];
const STAYS: &str = "may not change once set";

pub fn validate(errors: &mut Errors, path: &Path, spec: &ServiceSpec) {
    if !is_alias(spec) {
        validate_cluster(errors, path, spec);
    }
    let at = path.child("externalIPs");
    for (i, ip) in spec.external_ips.iter().flatten().enumerate() {
        checks::ip(errors, &at.index(i), ip);
        checks::non_special_ip(errors, &at.index(i), ip);
    }
}

fn is_alias(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() == Some("ExternalName")
}

fn addresses(spec: &ServiceSpec) -> &[String] {
    spec.cluster_ips.as_deref().unwrap_or_default()
}

fn families(spec: &ServiceSpec) -> &[String] {
    spec.ip_families.as_deref().unwrap_or_default()
}

fn validate_cluster(errors: &mut Errors, path: &Path, spec: &ServiceSpec) {
    let (ips, at) = (addresses(spec), path.child("clusterIPs"));
    match (spec.cluster_ip.as_deref().unwrap_or_default(), ips.first()) {
        ("", Some(_)) => {
            errors.invalid(&at, ips, "must be empty when `clusterIP` is not specified");
        }
        (single, Some(first)) if first != single => {
            errors.invalid(&at, ips, "first value must match `clusterIP`");
        }
        _ => {}
    }
    validate_families(errors, path, spec);
    let before = errors.len();
    for (i, ip) in ips.iter().enumerate() {
        if i == 0 && ip == NONE {
            if ips.len() > 1 {
                errors.invalid(&at, ips, "'None' must be the first and only value");
            }
            continue;
        }
        checks::ip(errors, &at.index(i), ip);
    }
    let readable = errors.len() == before;
    if ips.len() > 2 {
        errors.invalid(&at, ips, "may only hold up to 2 values");
    }
    if !readable {
        return;
    }
    let is_v6: Vec<bool> = ips.iter().map(|ip| ip.parse::<Ipv6Addr>().is_ok()).collect();
    if ips.len() > 1 && !(is_v6.contains(&true) && is_v6.contains(&false)) {
        errors.invalid(&at, ips, "may specify no more than one IP for each IP family");
    }
    if is_headless(spec) {
        return;
    }
    for (i, (ip, family)) in ips.iter().zip(families(spec)).enumerate() {
        let is_v6 = matches!(ip.parse(), Ok(IpAddr::V6(_)));
        if FAMILIES.contains(&family.as_str()) && is_v6 != (family == "IPv6") {
            let detail = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
            errors.invalid(&at.index(i), ip, &detail);
        }
    }
}

/// Families that are known and that this cluster has, and a policy that fits them.
fn validate_families(errors: &mut Errors, path: &Path, spec: &ServiceSpec) {
    let at = path.child("ipFamilies");
    let mut seen = BTreeSet::new();
    for (i, family) in families(spec).iter().enumerate() {
        if !FAMILIES.contains(&family.as_str()) {
            errors.not_supported(&at.index(i), family, FAMILIES);
        } else if family == "IPv6" {
            errors.invalid(&at.index(i), family, "not configured on this cluster");
        }
        if !seen.insert(family) {
            errors.duplicate(&at.index(i), family);
        }
    }
    let at = path.child("ipFamilyPolicy");
    let Some(policy) = spec.ip_family_policy.as_deref() else { return };
    if !POLICIES.contains(&policy) {
        errors.not_supported(&at, policy, POLICIES);
    }
    if policy == "RequireDualStack" {
        let detail = "this cluster is not configured for dual-stack services";
        errors.invalid(&at, policy, detail);
    }
    let lists = [("clusterIPs", addresses(spec).len()), ("ipFamilies", families(spec).len())];
    for (field, _) in lists.into_iter().filter(|(_, count)| *count == 2 && policy == SINGLE) {
        let detail = format!(
            "must be RequireDualStack or PreferDualStack when multiple '{field}' are specified"
        );
        errors.invalid(&at, policy, &detail);
    }
}

/// What was given stays, unless the type changes from or to ExternalName; a second address may come
/// and go.
pub fn validate_update(errors: &mut Errors, new: &ServiceSpec, old: &ServiceSpec) {
    let path = Path::new("spec");
    if !is_alias(new) && !is_alias(old) {
        let headless = (is_headless(new), is_headless(old));
        if headless != (true, true) {
            addresses_stay(errors, &path, new, old);
        }
        if headless == (false, false) {
            families_stay(errors, &path, new, old);
        }
    }
    let balances = |spec: &ServiceSpec| spec.type_.as_deref() == Some("LoadBalancer");
    if balances(new) && balances(old) && new.load_balancer_class != old.load_balancer_class {
        errors.invalid(&path.child("loadBalancerClass"), &new.load_balancer_class, STAYS);
    }
    let port = |spec: &ServiceSpec| spec.health_check_node_port.unwrap_or(0);
    if needs_health_check(new) && needs_health_check(old) && port(new) != port(old) {
        errors.forbidden(&path.child("healthCheckNodePort"), "field is immutable");
    }
}

fn addresses_stay(errors: &mut Errors, path: &Path, new: &ServiceSpec, old: &ServiceSpec) {
    let (ips, before) = (addresses(new), addresses(old));
    let at = path.child("clusterIPs");
    if ips.is_empty() && !before.is_empty() {
        errors.invalid(&at.index(0), ips, "primary clusterIP can not be unset");
    }
    // Of lists of another length only the first must be the same.
    let compared = if ips.len() == before.len() { ips.len() } else { 1 };
    for (i, (ip, before)) in ips.iter().zip(before).enumerate().take(compared) {
        if ip != before {
            errors.invalid(&at.index(i), ips, STAYS);
        }
    }
    if ips.len() == 1 && before.len() > 1 {
        released(errors, path, new, "clusterIP");
    }
}

fn families_stay(errors: &mut Errors, path: &Path, new: &ServiceSpec, old: &ServiceSpec) {
    let (list, before) = (families(new), families(old));
    let at = path.child("ipFamilies");
    if list.len() < before.len() && addresses(new).is_empty() {
        errors.invalid(&at.index(0), list, "primary ipFamily can not be unset");
    }
    // Upstream shows the addresses where the lists are of another length.
    let same_length = list.len() == before.len();
    let (compared, shown) = if same_length { (list.len(), list) } else { (1, addresses(new)) };
    for _ in list.iter().zip(before).take(compared).filter(|(new, old)| new != old) {
        errors.invalid(&at.index(0), shown, STAYS);
    }
    if list.len() == 1 && before.len() > 1 {
        released(errors, path, new, "ipFamily");
    }
}

/// Who gives up a second address or family says that one is enough.
fn released(errors: &mut Errors, path: &Path, new: &ServiceSpec, what: &str) {
    if new.ip_family_policy.as_deref() != Some(SINGLE) {
        let detail = format!("must be set to 'SingleStack' when releasing the secondary {what}");
        errors.invalid(&path.child("ipFamilyPolicy"), &new.ip_family_policy, &detail);
    }
}
