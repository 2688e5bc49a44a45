//! Service (core/v1): metadata, defaults and printing. What a spec may hold is in
//! [`super::service_validation`].
//!
//! Cluster IPs are given out by the API server, which alone knows what is taken. Node ports are
//! given out by nobody yet: only those that the user asks for are stored, and nothing listens on
//! them. Here both are only kept across updates, and dropped when the type no longer has them.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ClientIPConfig, Service, ServicePort, ServiceSpec, SessionAffinityConfig,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::{checks, labels, service_addresses, service_validation};
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Kind, KindMeta, NameRule, Subresource};
use crate::api::table::{self, Column};
use crate::api::tags;

/// How long a client sticks to an endpoint with session affinity ClientIP, in seconds.
const DEFAULT_AFFINITY_SECONDS: i32 = 10_800;

const LOAD_BALANCER: &str = "LoadBalancer";

impl Kind for Service {
    const META: KindMeta = KindMeta {
        singular: "service",
        short_names: &["svc"],
        categories: &["all"],
        status: true,
        delete_returns_object: true,
        subresources: &[Subresource {
            name: "proxy",
            group: "",
            version: "v1",
            kind: "ServiceProxyOptions",
            verbs: &["create", "delete", "get", "patch", "update"],
        }],
        name_rule: NameRule::Label1035,
        selectable: &["spec.clusterIP", "spec.type"],
        ..DEFAULT_META
    };

    fn tags(&self) -> Vec<String> {
        tags::of_service(self)
    }

    fn set_defaults(&mut self, old: Option<&Self>) {
        let spec = self.spec.get_or_insert_default();
        set(&mut spec.type_, "ClusterIP");
        set(&mut spec.session_affinity, "None");
        let old = old.and_then(|o| o.spec.as_ref());
        if let Some(old) = old {
            keep_what_was_given(spec, old);
            follow_the_first_address(spec, old);
            drop_what_the_type_lost(spec, old);
        }
        default_affinity(spec);
        for port in spec.ports.iter_mut().flatten() {
            set(&mut port.protocol, "TCP");
            let unset = match &port.target_port {
                None => true,
                Some(IntOrString::Int(number)) => *number == 0,
                Some(IntOrString::String(name)) => name.is_empty(),
            };
            if unset {
                port.target_port = Some(IntOrString::Int(port.port));
            }
        }
        default_policies(spec);
        default_addresses(spec);
        let balances = spec.type_.as_deref() == Some(LOAD_BALANCER);
        let status = self.status.get_or_insert_default();
        let balancer = status.load_balancer.get_or_insert_default();
        for one in balancer.ingress.iter_mut().flatten().filter(|_| balances) {
            if one.ip.as_ref().is_some_and(|ip| !ip.is_empty()) {
                one.ip_mode.get_or_insert_with(|| "VIP".into());
            }
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let annotations = self.metadata.annotations.as_ref();
        service_validation::validate_annotations(errors, annotations, self.spec.as_ref());
        match &self.spec {
            Some(spec) => service_validation::validate(errors, &Path::new("spec"), spec),
            None => errors.required(&Path::new("spec"), ""),
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        if let (Some(new), Some(old)) = (&self.spec, &old.spec) {
            service_addresses::validate_update(errors, new, old);
        }
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        let balancer = self.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let ingress = balancer.and_then(|balancer| balancer.ingress.as_deref());
        let kind = self.spec.as_ref().and_then(|spec| spec.type_.as_deref());
        service_validation::validate_status(errors, kind, ingress.unwrap_or_default());
    }

    fn warnings(&self) -> Vec<String> {
        self.spec.as_ref().map(service_validation::warnings).unwrap_or_default()
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Type", "string", "How the Service is exposed."),
            Column::new("Cluster-IP", "string", "The address of the Service in the cluster."),
            Column::new("External-IP", "string", "The addresses outside the cluster."),
            Column::new("Port(s)", "string", "The ports that the Service exposes."),
            table::AGE,
            Column::wide("Selector", "string", "The labels of the pods that serve."),
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let ports: Vec<String> = spec.ports.iter().flatten().map(port_cell).collect();
        let address = spec.cluster_ips.as_ref().and_then(|ips| ips.first());
        vec![
            table::name(&self.metadata),
            spec.type_.clone().unwrap_or_default().into(),
            checks::or_none(address.map(String::as_str)).into(),
            external_cell(self, &spec).into(),
            checks::or_none(Some(&ports.join(","))).into(),
            table::age(&self.metadata, now),
            labels::format_labels(spec.selector.as_ref()).into(),
        ]
    }

    fn field(&self, field: &str) -> String {
        let spec = self.spec.as_ref();
        let value = match field {
            "spec.clusterIP" => spec.and_then(|s| s.cluster_ip.clone()),
            "spec.type" => spec.and_then(|s| s.type_.clone()),
            _ => None,
        };
        value.unwrap_or_default()
    }
}

/// True if the Service asks for no cluster IP.
pub fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
        || spec.cluster_ips.as_ref().and_then(|ips| ips.first()).is_some_and(|ip| ip == "None")
}

/// NodePort and LoadBalancer Services have ports on each node.
pub fn has_node_ports(spec: &ServiceSpec) -> bool {
    matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"))
}

fn set(field: &mut Option<String>, value: &str) {
    if field.as_deref().unwrap_or_default().is_empty() {
        *field = Some(value.into());
    }
}

fn default_affinity(spec: &mut ServiceSpec) {
    if spec.session_affinity.as_deref() == Some("ClientIP") {
        let config = spec.session_affinity_config.get_or_insert_default();
        let client = config.client_ip.get_or_insert_default();
        client.timeout_seconds.get_or_insert(DEFAULT_AFFINITY_SECONDS);
    } else if spec.session_affinity_config
        == Some(SessionAffinityConfig {
            client_ip: Some(ClientIPConfig { timeout_seconds: Some(DEFAULT_AFFINITY_SECONDS) }),
        })
    {
        // The default of an affinity that was switched off.
        spec.session_affinity_config = None;
    }
}

fn default_policies(spec: &mut ServiceSpec) {
    if spec.type_.as_deref() != Some("ExternalName") {
        set(&mut spec.internal_traffic_policy, "Cluster");
    }
    if has_node_ports(spec) {
        set(&mut spec.external_traffic_policy, "Cluster");
    }
    if spec.type_.as_deref() == Some("LoadBalancer") {
        spec.allocate_load_balancer_node_ports.get_or_insert(true);
    }
}

fn addresses(spec: &ServiceSpec) -> &[String] {
    spec.cluster_ips.as_deref().unwrap_or_default()
}

/// Clients that know `clusterIP` only change and clear both of the fields with it
/// (core/service/strategy.go, NormalizeClusterIPs).
fn follow_the_first_address(new: &mut ServiceSpec, old: &ServiceSpec) {
    let first = |spec: &ServiceSpec| spec.cluster_ip.clone().unwrap_or_default();
    let (address, before) = (first(new), first(old));
    if address == before {
        if addresses(new).is_empty() && !addresses(old).is_empty() {
            new.cluster_ips.clone_from(&old.cluster_ips);
        }
    } else if addresses(new) == addresses(old) {
        new.cluster_ips = Some(address).filter(|address| !address.is_empty()).map(|a| vec![a]);
    }
}

/// Makes `clusterIPs` of `clusterIP` and names the one IP family of the cluster.
fn default_addresses(spec: &mut ServiceSpec) {
    if spec.type_.as_deref() == Some("ExternalName") {
        return;
    }
    // Not the other way round: whoever gives a list gives its first address, too.
    let single = spec.cluster_ip.clone().unwrap_or_default();
    if !single.is_empty() && addresses(spec).is_empty() {
        spec.cluster_ips = Some(vec![single]);
    }
    let two = addresses(spec).len() == 2 || spec.ip_families.as_ref().is_some_and(|f| f.len() == 2);
    set(&mut spec.ip_family_policy, if two { "RequireDualStack" } else { "SingleStack" });
    if spec.ip_families.as_ref().is_none_or(Vec::is_empty) {
        spec.ip_families = Some(vec!["IPv4".into()]);
    }
}

/// On a change of type, clears fields that the user left as they were and that the new type cannot
/// have (core/service/strategy.go, dropTypeDependentFields).
fn drop_what_the_type_lost(new: &mut ServiceSpec, old: &ServiceSpec) {
    let external_name = |s: &ServiceSpec| s.type_.as_deref() == Some("ExternalName");
    if external_name(new) && !external_name(old) {
        if new.cluster_ip == old.cluster_ip && new.cluster_ips == old.cluster_ips {
            (new.cluster_ip, new.cluster_ips) = (None, None);
        }
        if new.ip_families == old.ip_families && new.ip_family_policy == old.ip_family_policy {
            (new.ip_families, new.ip_family_policy) = (None, None);
        }
        if new.internal_traffic_policy == old.internal_traffic_policy {
            new.internal_traffic_policy = None;
        }
    }
    if has_node_ports(old) && !has_node_ports(new) {
        let old_ports = old.ports.iter().flatten();
        let old_ports: HashSet<Option<i32>> = old_ports.map(|p| p.node_port).collect();
        let ports = new.ports.iter_mut().flatten();
        for port in ports.filter(|p| old_ports.contains(&p.node_port)) {
            port.node_port = None;
        }
        if new.external_traffic_policy == old.external_traffic_policy {
            new.external_traffic_policy = None;
        }
    }
    let balancer = |s: &ServiceSpec| s.type_.as_deref() == Some("LoadBalancer");
    if balancer(old) && !balancer(new) {
        if new.allocate_load_balancer_node_ports == old.allocate_load_balancer_node_ports {
            new.allocate_load_balancer_node_ports = None;
        }
        if new.load_balancer_class == old.load_balancer_class {
            new.load_balancer_class = None;
        }
        if new.health_check_node_port == old.health_check_node_port {
            new.health_check_node_port = None;
        }
    }
}

/// An update that does not mention addresses and node ports keeps those it had.
fn keep_what_was_given(new: &mut ServiceSpec, old: &ServiceSpec) {
    let external_name = |s: &ServiceSpec| s.type_.as_deref() == Some("ExternalName");
    if !external_name(new) && !external_name(old) {
        if new.cluster_ip.as_deref().unwrap_or_default().is_empty() {
            new.cluster_ip.clone_from(&old.cluster_ip);
        }
        if addresses(new).is_empty() && new.cluster_ip == old.cluster_ip {
            new.cluster_ips.clone_from(&old.cluster_ips);
        }
    }
    if has_node_ports(new) && has_node_ports(old) {
        fn identity(of: &ServicePort) -> (i32, &str) {
            (of.port, of.protocol.as_deref().unwrap_or("TCP"))
        }
        let old_ports = old.ports.iter().flatten();
        let given: HashMap<_, _> = old_ports.map(|p| (identity(p), p.node_port)).collect();
        for port in new.ports.iter_mut().flatten().filter(|p| p.node_port.unwrap_or(0) == 0) {
            port.node_port = given.get(&identity(port)).copied().flatten();
        }
    }
}

/// `80/TCP` or `80:30080/TCP`.
fn port_cell(port: &ServicePort) -> String {
    let protocol = port.protocol.as_deref().unwrap_or_default();
    match port.node_port.filter(|n| *n > 0) {
        None => format!("{}/{protocol}", port.port),
        Some(node_port) => format!("{}:{node_port}/{protocol}", port.port),
    }
}

fn external_cell(service: &Service, spec: &ServiceSpec) -> String {
    let external = spec.external_ips.clone().unwrap_or_default();
    match spec.type_.as_deref() {
        Some("ExternalName") => spec.external_name.clone().unwrap_or_default(),
        Some("ClusterIP" | "NodePort") => checks::or_none(Some(&external.join(","))).into(),
        Some("LoadBalancer") => {
            let balancer = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
            let ingress = balancer.and_then(|b| b.ingress.as_deref()).unwrap_or_default();
            let mut addresses: Vec<String> =
                ingress.iter().filter_map(|i| i.ip.clone().or(i.hostname.clone())).collect();
            addresses.sort();
            addresses.dedup();
            addresses.extend(external);
            if addresses.is_empty() { "<pending>".into() } else { addresses.join(",") }
        }
        _ => "<unknown>".into(),
    }
}
