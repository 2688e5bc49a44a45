//! What a Service's spec may hold and how it may change, with upstream's words, and the warnings
//! about what the proxy does not serve.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::service::{has_node_ports, is_headless};
use super::{checks, labels, service_addresses};
use crate::api::field::{Errors, Path};

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const LOAD_BALANCER: &str = "LoadBalancer";
const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameNode", "PreferSameZone"];
/// Upstream's default of --service-node-port-range.
const NODE_PORTS: RangeInclusive<i32> = 30_000..=32_767;
const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
/// Longest stickiness of session affinity ClientIP, in seconds (one day).
const MAX_AFFINITY_SECONDS: i32 = 86_400;

pub fn validate(errors: &mut Errors, path: &Path, spec: &ServiceSpec) {
    let ports = spec.ports.as_deref().unwrap_or_default();
    let kind = spec.type_.as_deref().unwrap_or_default();
    if ports.is_empty() && !is_headless(spec) && kind != "ExternalName" {
        errors.required(&path.child("ports"), "");
    }
    match kind {
        LOAD_BALANCER | "NodePort" if is_headless(spec) => {
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.invalid(&path.child("clusterIPs").index(0), "None", &detail);
        }
        "ExternalName" => validate_external_name(errors, path, spec),
        _ => {}
    }
    validate_ports(errors, &path.child("ports"), ports, kind);
    labels::validate_labels(errors, &path.child("selector"), spec.selector.as_ref());
    validate_affinity(errors, path, spec);
    service_addresses::validate(errors, path, spec);
    checks::one_of(errors, &path.child("type"), kind, TYPES);
    validate_balancer(errors, path, spec, kind);
    validate_policies(errors, path, spec);
}

/// Where a load balancer is reached; other Services have none.
pub fn validate_status(errors: &mut Errors, kind: Option<&str>, ingress: &[LoadBalancerIngress]) {
    let status = Path::new("status");
    let balancer = status.child("loadBalancer");
    let path = balancer.child("ingress");
    if kind != Some("LoadBalancer") && !ingress.is_empty() {
        let detail = "may only be used when `spec.type` is 'LoadBalancer'";
        return errors.forbidden(&path, detail);
    }
    for (i, one) in ingress.iter().enumerate() {
        let path = path.index(i);
        let at = path.child("ipMode");
        match (one.ip.as_deref().unwrap_or_default(), one.ip_mode.as_deref()) {
            ("", Some(_)) => errors.forbidden(&at, "may not be specified when `ip` is not set"),
            ("", None) => {}
            (ip, mode) => {
                checks::ip(errors, &path.child("ip"), ip);
                match mode {
                    None => errors.required(&at, "must be specified when `ip` is set"),
                    Some("Proxy" | "VIP") => {}
                    Some(other) => errors.not_supported(&at, other, &["Proxy", "VIP"]),
                }
            }
        }
        if let Some(name) = one.hostname.as_deref().filter(|name| !name.is_empty()) {
            let at = path.child("hostname");
            checks::dns_subdomain(errors, &at, name);
            checks::no_address(errors, &at, name);
        }
    }
}

/// What is stored but that the proxy does not serve.
pub fn warnings(spec: &ServiceSpec) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |when: bool, text: &str| {
        if when {
            warnings.push(text.to_string());
        }
    };
    let is = |field: &Option<String>, value: &str| field.as_deref() == Some(value);
    let given = |field: &Option<String>| field.as_ref().is_some_and(|f| !f.is_empty());
    let some = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|l| !l.is_empty());
    warn(has_node_ports(spec), "spec.type: node ports are not served yet; the cluster IP is");
    warn(is(&spec.type_, "LoadBalancer"), "spec.type: no load balancer will be provided");
    warn(is(&spec.type_, "ExternalName"), "spec.externalName: aliases are not resolved yet");
    warn(some(&spec.external_ips), "spec.externalIPs: external addresses are not served");
    warn(given(&spec.load_balancer_ip), "spec.loadBalancerIP: no load balancer will be provided");
    warn(
        some(&spec.load_balancer_source_ranges),
        "spec.loadBalancerSourceRanges: no load balancer will be provided",
    );
    warn(
        is(&spec.session_affinity, "ClientIP"),
        "spec.sessionAffinity: each node agent of a machine remembers clients by itself",
    );
    warn(
        is(&spec.external_traffic_policy, "Local"),
        "spec.externalTrafficPolicy: node ports are not served yet",
    );
    warn(
        given(&spec.traffic_distribution),
        "spec.trafficDistribution: traffic goes to all endpoints alike",
    );
    for (i, port) in spec.ports.iter().flatten().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let text = format!("spec.ports[{i}].protocol: {protocol} is not served yet, only TCP");
        warn(protocol != "TCP", &text);
    }
    warnings
}

fn validate_external_name(errors: &mut Errors, path: &Path, spec: &ServiceSpec) {
    let detail = "may not be set for ExternalName services";
    if spec.cluster_ips.as_ref().is_some_and(|ips| !ips.is_empty())
        || spec.cluster_ip.as_ref().is_some_and(|ip| !ip.is_empty())
    {
        errors.forbidden(&path.child("clusterIPs"), detail);
    }
    if spec.ip_families.as_ref().is_some_and(|f| !f.is_empty()) {
        errors.forbidden(&path.child("ipFamilies"), detail);
    }
    if spec.ip_family_policy.is_some() {
        errors.forbidden(&path.child("ipFamilyPolicy"), detail);
    }
    let name = spec.external_name.as_deref().unwrap_or_default();
    let path = path.child("externalName");
    match name.strip_suffix('.').unwrap_or(name) {
        "" => errors.required(&path, ""),
        name => checks::dns_subdomain(errors, &path, name),
    }
}

fn validate_ports(errors: &mut Errors, path: &Path, ports: &[ServicePort], kind: &str) {
    let (mut seen_names, mut seen_ports) = (BTreeSet::new(), BTreeSet::new());
    let mut seen_node_ports = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = port.name.as_deref().unwrap_or_default();
        if name.is_empty() && ports.len() > 1 {
            errors.required(&path.child("name"), "");
        } else if !name.is_empty() {
            checks::dns_label(errors, &path.child("name"), name);
            if !seen_names.insert(name) {
                errors.duplicate(&path.child("name"), name);
            }
        }
        checks::port_number(errors, &path.child("port"), port.port);
        let protocol = port.protocol.as_deref().unwrap_or_default();
        checks::one_of(errors, &path.child("protocol"), protocol, checks::PROTOCOLS);
        let target = port.target_port.clone().unwrap_or(IntOrString::Int(port.port));
        checks::port_number_or_name(errors, &path.child("targetPort"), &target);
        if let Some(app) = &port.app_protocol {
            checks::qualified_name(errors, &path.child("appProtocol"), app);
        }
        let node_port = port.node_port.unwrap_or(0);
        if node_port != 0 {
            if kind == "ClusterIP" {
                let detail = "may not be used when `type` is 'ClusterIP'";
                errors.forbidden(&path.child("nodePort"), detail);
            }
            // Those of other types are given to nobody.
            if matches!(kind, LOAD_BALANCER | "NodePort") && !NODE_PORTS.contains(&node_port) {
                let detail = format!(
                    "provided port is not in the valid range. The range of valid ports is {}-{}",
                    NODE_PORTS.start(),
                    NODE_PORTS.end()
                );
                errors.invalid(&path.child("nodePort"), node_port, &detail);
            }
            if !seen_node_ports.insert((protocol, node_port)) {
                errors.duplicate(&path.child("nodePort"), node_port);
            }
        }
        if !seen_ports.insert((protocol, port.port)) {
            errors.duplicate(&path, serde_json::json!({"protocol": protocol, "port": port.port}));
        }
    }
}

fn validate_affinity(errors: &mut Errors, path: &Path, spec: &ServiceSpec) {
    let affinity = spec.session_affinity.as_deref().unwrap_or_default();
    checks::one_of(errors, &path.child("sessionAffinity"), affinity, &["ClientIP", "None"]);
    let config_path = path.child("sessionAffinityConfig");
    match (affinity, &spec.session_affinity_config) {
        ("ClientIP", config) => {
            let client = config.as_ref().and_then(|c| c.client_ip.as_ref());
            let client_path = config_path.child("clientIP");
            match client.and_then(|c| c.timeout_seconds) {
                None => errors.required(
                    &client_path.child("timeoutSeconds"),
                    "when session affinity type is ClientIP",
                ),
                Some(seconds) if seconds <= 0 || seconds > MAX_AFFINITY_SECONDS => {
                    let detail =
                        format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}");
                    errors.invalid(&client_path.child("timeoutSeconds"), seconds, &detail);
                }
                Some(_) => {}
            }
        }
        ("None", Some(_)) => {
            errors.forbidden(&config_path, "must not be set when session affinity is None");
        }
        _ => {}
    }
}

fn validate_balancer(errors: &mut Errors, path: &Path, spec: &ServiceSpec, kind: &str) {
    let detail = "may only be used when `type` is 'LoadBalancer'";
    let ranges = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    // Upstream writes this field's name with a capital.
    let ranges_path = path.child("LoadBalancerSourceRanges");
    if kind != "LoadBalancer" {
        if !ranges.is_empty() {
            errors.forbidden(&ranges_path, detail);
        }
        if spec.allocate_load_balancer_node_ports.is_some() {
            errors.forbidden(&path.child("allocateLoadBalancerNodePorts"), detail);
        }
        if spec.load_balancer_class.is_some() {
            errors.forbidden(&path.child("loadBalancerClass"), detail);
        }
    }
    for (i, range) in ranges.iter().enumerate() {
        checks::cidr(errors, &ranges_path.index(i), range.trim());
    }
    let class = spec.load_balancer_class.as_deref().filter(|_| kind == LOAD_BALANCER);
    if let Some(class) = class {
        checks::qualified_name(errors, &path.child("loadBalancerClass"), class);
    }
}

/// What annotations said before there were fields for it.
pub fn validate_annotations(
    errors: &mut Errors,
    annotations: Option<&labels::Map>,
    spec: Option<&ServiceSpec>,
) {
    let Some(annotations) = annotations else { return };
    let metadata = Path::new("metadata");
    let path = metadata.child("annotations");
    if let (Some(hints), Some(mode)) = (annotations.get(HINTS), annotations.get(TOPOLOGY_MODE))
        && hints != mode
    {
        let detail = format!("must match annotations[{HINTS}] when both are specified");
        errors.invalid(&path.key(TOPOLOGY_MODE), mode, &detail);
    }
    let by_field = spec.and_then(|spec| spec.load_balancer_source_ranges.as_ref());
    let ranges = annotations.get(SOURCE_RANGES);
    let Some(ranges) = ranges.filter(|_| by_field.is_none_or(Vec::is_empty)) else { return };
    let path = path.key(SOURCE_RANGES);
    if spec.and_then(|spec| spec.type_.as_deref()) != Some(LOAD_BALANCER) {
        errors.forbidden(&path, "may only be used when `type` is 'LoadBalancer'");
    }
    for range in ranges.split(',').filter(|_| !ranges.trim().is_empty()) {
        checks::cidr(errors, &path, range.trim());
    }
}

fn validate_policies(errors: &mut Errors, path: &Path, spec: &ServiceSpec) {
    const POLICIES: &[&str] = &["Cluster", "Local"];
    let external = spec.external_traffic_policy.as_deref().unwrap_or_default();
    let external_path = path.child("externalTrafficPolicy");
    if has_node_ports(spec) || spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()) {
        if has_node_ports(spec) || !external.is_empty() {
            checks::one_of(errors, &external_path, external, POLICIES);
        }
    } else if !external.is_empty() {
        let detail = "may only be set for externally-accessible services";
        errors.invalid(&external_path, external, detail);
    }
    // Upstream gives one to those that need it and name none.
    let port = spec.health_check_node_port.unwrap_or(0);
    if port != 0 && needs_health_check(spec) {
        checks::port_number(errors, &path.child("healthCheckNodePort"), port);
    } else if port != 0 {
        let detail = "may only be set when `type` is 'LoadBalancer' and \
                      `externalTrafficPolicy` is 'Local'";
        let path = path.child("healthCheckNodePort");
        errors.invalid(&path, spec.health_check_node_port, detail);
    }
    let fields = [
        ("internalTrafficPolicy", &spec.internal_traffic_policy, POLICIES),
        ("trafficDistribution", &spec.traffic_distribution, DISTRIBUTIONS),
    ];
    for (field, value, supported) in fields {
        if let Some(value) = value.as_deref().filter(|value| !supported.contains(value)) {
            errors.not_supported(&path.child(field), value, supported);
        }
    }
}

/// Load balancers ask nodes whether they have endpoints of their own.
pub fn needs_health_check(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() == Some(LOAD_BALANCER)
        && spec.external_traffic_policy.as_deref() == Some("Local")
}
