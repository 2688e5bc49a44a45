//! From a Service and its EndpointSlices to the ports to listen on and where each leads. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::api::ObjectKey;
use crate::api::kinds::service_activation::{SCALED_TO_ZERO, holds};

/// Names a slice's Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Upstream's default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_SECONDS: i32 = 10_800;

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRoute {
    /// The cluster IP and port.
    pub address: SocketAddr,
    /// In a stable order, without duplicates.
    pub endpoints: Vec<SocketAddr>,
    /// How long a client stays with its endpoint; `None` without affinity.
    pub affinity: Option<Duration>,
    /// Connections that find no endpoint are held: an autoscaler has the pods at zero.
    pub is_held: bool,
}

/// The key of a Service's slices in the cache's index.
pub fn slice_index(service: &ObjectKey) -> String {
    service.to_string()
}

/// The TCP ports of a Service's cluster IPs. Headless and ExternalName Services have none.
pub fn of_service<'a>(
    service: &Service,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    local_nodes: &BTreeSet<String>,
) -> Vec<PortRoute> {
    let Some(spec) = &service.spec else { return Vec::new() };
    if spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let slices: Vec<&EndpointSlice> = slices.collect();
    let local = (spec.internal_traffic_policy.as_deref() == Some("Local")).then_some(local_nodes);
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let client_ip = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
        let seconds = client_ip.and_then(|c| c.timeout_seconds).unwrap_or(AFFINITY_SECONDS);
        Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
    });
    let ips: Vec<IpAddr> = spec
        .cluster_ips
        .iter()
        .flatten()
        .chain(&spec.cluster_ip)
        .filter_map(|ip| ip.parse().ok())
        .collect();
    let ips: BTreeSet<IpAddr> = ips.into_iter().collect();
    let is_held = holds(service, SCALED_TO_ZERO);
    let mut routes = Vec::new();
    for port in spec.ports.iter().flatten() {
        let Ok(number) = u16::try_from(port.port) else { continue };
        if port.protocol.as_deref().unwrap_or("TCP") != "TCP" {
            continue;
        }
        let endpoints = endpoints(port, &slices, local);
        for ip in &ips {
            let address = SocketAddr::new(*ip, number);
            let endpoints = endpoints.clone();
            routes.push(PortRoute { address, endpoints, affinity, is_held });
        }
    }
    routes
}

/// The ready endpoints of a port; if there are none, those that still serve while they terminate
/// (KEP-1669).
fn endpoints(
    port: &ServicePort,
    slices: &[&EndpointSlice],
    local_nodes: Option<&BTreeSet<String>>,
) -> Vec<SocketAddr> {
    let is_local = |endpoint: &Endpoint| {
        let node = endpoint.node_name.as_deref().unwrap_or_default();
        local_nodes.is_none_or(|nodes| nodes.contains(node))
    };
    let pick = |wanted: fn(&Endpoint) -> bool| {
        let mut found = BTreeSet::new();
        for slice in slices {
            let Some(number) = slice_port(port, slice) else { continue };
            for endpoint in slice.endpoints.iter().filter(|e| wanted(e) && is_local(e)) {
                let ips = endpoint.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok());
                found.extend(ips.map(|ip| SocketAddr::new(ip, number)));
            }
        }
        found
    };
    let ready = pick(|e| e.conditions.as_ref().is_none_or(|c| c.ready.unwrap_or(true)));
    let chosen = if ready.is_empty() {
        pick(|e| {
            let conditions = e.conditions.as_ref();
            conditions.is_some_and(|c| c.serving.unwrap_or(false) && c.terminating.unwrap_or(false))
        })
    } else {
        ready
    };
    chosen.into_iter().collect()
}

/// The number that a Service's port has in a slice: ports are matched by name.
fn slice_port(port: &ServicePort, slice: &EndpointSlice) -> Option<u16> {
    let name = port.name.as_deref().unwrap_or_default();
    let ports = slice.ports.iter().flatten();
    let mut same = ports.filter(|p| p.name.as_deref().unwrap_or_default() == name);
    same.find_map(|p| u16::try_from(p.port?).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(spec: serde_json::Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec})).unwrap()
    }

    fn slice(endpoints: serde_json::Value) -> EndpointSlice {
        serde_json::from_value(json!({"addressType": "IPv4", "metadata": {},
            "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints}))
        .unwrap()
    }

    fn addresses(routes: &[PortRoute]) -> Vec<String> {
        routes.iter().flat_map(|r| r.endpoints.iter().map(ToString::to_string)).collect()
    }

    #[test]
    fn ready_endpoints_then_those_that_still_serve() {
        let service = service(json!({"clusterIP": "127.128.0.9", "clusterIPs": ["127.128.0.9"],
            "ports": [{"name": "http", "port": 80}]}));
        let mut slice = slice(json!([
            {"addresses": ["127.64.0.2"], "conditions": {"ready": true}},
            {"addresses": ["127.64.0.3"],
             "conditions": {"ready": false, "serving": true, "terminating": true}}]));
        let routes = of_service(&service, [&slice].into_iter(), &BTreeSet::new());
        assert_eq!(routes.len(), 1, "one cluster IP named twice is one route");
        assert_eq!(routes[0].address.to_string(), "127.128.0.9:80");
        assert_eq!(addresses(&routes), ["127.64.0.2:8080"]);
        slice.endpoints.remove(0);
        let routes = of_service(&service, [&slice].into_iter(), &BTreeSet::new());
        assert_eq!(addresses(&routes), ["127.64.0.3:8080"]);
    }

    #[test]
    fn local_policy_and_headless() {
        let slice = slice(json!([{"addresses": ["127.64.0.2"], "nodeName": "a"}]));
        let local = service(json!({"clusterIP": "127.128.0.9", "internalTrafficPolicy": "Local",
            "ports": [{"name": "http", "port": 80}]}));
        let nodes = |name: &str| BTreeSet::from([name.to_string()]);
        let of = |service: &Service, node: &str| {
            addresses(&of_service(service, [&slice].into_iter(), &nodes(node)))
        };
        assert_eq!(of(&local, "a"), ["127.64.0.2:8080"]);
        assert!(of(&local, "b").is_empty());
        let headless =
            service(json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}));
        assert!(of_service(&headless, [&slice].into_iter(), &nodes("a")).is_empty());
    }
}
