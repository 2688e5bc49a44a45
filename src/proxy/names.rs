//! What a Service's name means, for who looks it up from inside the cluster. Pure.
//!
//! The forms are those of the Kubernetes DNS specification: `svc` and `svc.ns` (as its search list
//! makes them up), `svc.ns.svc` and `svc.ns.svc.cluster.local`; before each of them, the hostname of a
//! pod whose subdomain is the Service. A headless Service is its ready endpoints. ExternalName
//! Services have no address here.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::routes::slice_index;
use crate::api::ObjectKey;
use crate::client::cache::View;

/// What every name of the cluster ends with.
const DOMAIN: &str = ".cluster.local";

/// The addresses of a name as a pod of `namespace` means it; empty: it is the cluster's, and there
/// is no such thing or it has no address now; `None`: it is none of the cluster's names.
pub fn resolve(view: &View, namespace: &str, name: &str) -> Option<Vec<IpAddr>> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let bare = name.strip_suffix(DOMAIN);
    let labels: Vec<&str> = bare.unwrap_or(&name).split('.').collect();
    match (labels.as_slice(), bare) {
        ([service], None) => addresses(view, namespace, service),
        // A name of two or three parts may just as well be the world's. In the order of a pod's
        // search list.
        ([host, service], None) => {
            hosts(view, namespace, service, host).or_else(|| addresses(view, service, host))
        }
        ([service, namespace, "svc"], _) => {
            Some(addresses(view, namespace, service).unwrap_or_default())
        }
        ([host, service, namespace], None) => hosts(view, namespace, service, host),
        ([host, service, namespace, "svc"], _) => {
            Some(hosts(view, namespace, service, host).unwrap_or_default())
        }
        ([.., "svc"], _) | (_, Some(_)) => Some(Vec::new()),
        _ => None,
    }
}

fn addresses(view: &View, namespace: &str, name: &str) -> Option<Vec<IpAddr>> {
    let key = ObjectKey::new(namespace, name);
    let service = view.get_key::<Service>(&key)?;
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return Some(Vec::new());
    }
    let ips = cluster_ips(spec);
    if !ips.is_empty() {
        return Some(ips.into_iter().collect());
    }
    Some(endpoints(view, &key, spec, |_| true))
}

/// The pods of a Service that have this hostname; `None` where there are none.
fn hosts(view: &View, namespace: &str, service: &str, host: &str) -> Option<Vec<IpAddr>> {
    let key = ObjectKey::new(namespace, service);
    let spec = view.get_key::<Service>(&key)?.spec.as_ref()?;
    let is_host = |endpoint: &Endpoint| endpoint.hostname.as_deref() == Some(host);
    Some(endpoints(view, &key, spec, is_host)).filter(|found| !found.is_empty())
}

fn endpoints(
    view: &View,
    service: &ObjectKey,
    spec: &ServiceSpec,
    is_wanted: impl Fn(&Endpoint) -> bool,
) -> Vec<IpAddr> {
    let unready_too = spec.publish_not_ready_addresses == Some(true);
    let slices = view.indexed::<EndpointSlice>(&slice_index(service));
    let endpoints = slices.flat_map(|slice| &slice.endpoints);
    let wanted =
        endpoints.filter(|endpoint| is_wanted(endpoint) && (unready_too || is_ready(endpoint)));
    let found: BTreeSet<IpAddr> =
        wanted.flat_map(|endpoint| &endpoint.addresses).filter_map(|ip| ip.parse().ok()).collect();
    found.into_iter().collect()
}

fn cluster_ips(spec: &ServiceSpec) -> BTreeSet<IpAddr> {
    let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    all.filter_map(|ip| ip.parse().ok()).collect()
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().is_none_or(|conditions| conditions.ready.unwrap_or(true))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::client::cache::Cache;

    fn service(namespace: &str, name: &str, spec: serde_json::Value) -> Service {
        let metadata = json!({"namespace": namespace, "name": name});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    fn slice(namespace: &str, service: &str, endpoints: serde_json::Value) -> EndpointSlice {
        let labels = json!({"kubernetes.io/service-name": service});
        let metadata =
            json!({"namespace": namespace, "name": format!("{service}-1"), "labels": labels});
        let slice = json!({"addressType": "IPv4", "metadata": metadata, "endpoints": endpoints});
        serde_json::from_value(slice).unwrap()
    }

    #[test]
    fn names_of_services_in_all_their_forms() {
        let cache = Cache::new();
        cache.add::<Service>();
        cache.add::<EndpointSlice>();
        let endpoints = json!([
            {"addresses": ["127.64.0.3"], "conditions": {"ready": true}},
            {"addresses": ["127.64.0.2"], "hostname": "db-0"},
            {"addresses": ["127.64.0.4"], "conditions": {"ready": false}}]);
        let headless = json!({"clusterIP": "None", "clusterIPs": ["None"]});
        let unready = json!({"clusterIP": "None", "publishNotReadyAddresses": true});
        let services = vec![
            service("a", "web", json!({"clusterIP": "127.128.0.9", "clusterIPs": ["127.128.0.9"]})),
            service("a", "svc", json!({"clusterIP": "127.128.0.8"})),
            service("a", "peers", headless),
            service("b", "all", unready),
            service("b", "out", json!({"type": "ExternalName", "externalName": "example.com"})),
        ];
        cache.replace(services, 1);
        let slices = vec![slice("a", "peers", endpoints.clone()), slice("b", "all", endpoints)];
        cache.replace(slices, 1);
        let of = |name: &str| {
            let view = cache.view();
            resolve(&view, "a", name)
                .map(|ips| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        let some = |text: &str| Some(text.to_string());
        for web in ["web", "web.a", "web.a.svc", "Web.a.svc.cluster.local."] {
            assert_eq!(of(web), some("127.128.0.9"), "{web}");
        }
        assert_eq!(of("svc"), some("127.128.0.8"));
        assert_eq!(of("peers"), some("127.64.0.2 127.64.0.3"));
        assert_eq!(of("all.b"), some("127.64.0.2 127.64.0.3 127.64.0.4"));
        for pod in ["db-0.peers", "db-0.peers.a", "db-0.peers.a.svc.cluster.local", "db-0.all.b"] {
            assert_eq!(of(pod), some("127.64.0.2"), "{pod}");
        }
        for none in
            ["out.b", "web.b.svc", "x.web.a.svc", "db-1.peers.a.svc", "nothing.a.svc.cluster.local"]
        {
            assert_eq!(of(none), some(""), "{none}");
        }
        for other in
            ["all", "web.b", "db-1.peers", "example.com", "www.example.com", "cluster.local", ""]
        {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
