//! What containers are told of Services in their environment. Pure.
//!
//! Source: k8s.io/kubernetes pkg/kubelet/envvars/envvars.go (FromServices) and
//! pkg/kubelet/kubelet_pods.go (getServiceEnvVarMap): those of the pod's namespace that have a
//! cluster IP when the container starts, unless the pod says `enableServiceLinks: false`, and
//! always the API's.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};

use super::pod_state::spec;

/// Services of one namespace that a container is told of: each is some 800 bytes of every
/// environment.
const MOST_SERVICES: usize = 500;
/// The API's Service.
const API: (&str, &str) = ("default", "kubernetes");

/// The cluster's Services, as the node's own watch shows them.
#[async_trait::async_trait]
pub trait Services: Send + Sync {
    /// Returns once they were read.
    async fn synced(&self);
    fn in_namespace(&self, namespace: &str) -> Vec<Arc<Service>>;
    fn get(&self, namespace: &str, name: &str) -> Option<Arc<Service>>;
}

/// The variables of a pod's containers, and how many Services were left out because there are too
/// many.
pub fn of(pod: &Pod, services: &dyn Services) -> (Vec<(String, String)>, usize) {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut told = Vec::new();
    if spec(pod).enable_service_links != Some(false) {
        told = services.in_namespace(namespace);
        told.retain(|service| cluster_ip(service).is_some());
        told.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    }
    let left_out = told.len().saturating_sub(MOST_SERVICES);
    told.truncate(MOST_SERVICES);
    // One of the pod's own namespace that is named like the API's stands for it.
    if !told.iter().any(|service| service.metadata.name.as_deref() == Some(API.1)) {
        told.extend(services.get(API.0, API.1));
    }
    (told.iter().flat_map(|service| variables(service)).collect(), left_out)
}

fn cluster_ip(service: &Service) -> Option<&str> {
    let ip = service.spec.as_ref()?.cluster_ip.as_deref()?;
    (!ip.is_empty() && ip != "None").then_some(ip)
}

fn variables(service: &Service) -> Vec<(String, String)> {
    let Some(ip) = cluster_ip(service) else { return Vec::new() };
    let name = variable(service.metadata.name.as_deref().unwrap_or_default());
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let mut list = vec![(format!("{name}_SERVICE_HOST"), ip.to_string())];
    for (at, port) in ports.enumerate() {
        let number = port.port;
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{ip}:{number}", protocol.to_lowercase());
        if at == 0 {
            list.push((format!("{name}_SERVICE_PORT"), number.to_string()));
            list.push((format!("{name}_PORT"), url.clone()));
        }
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            let port_name = variable(port_name);
            list.push((format!("{name}_SERVICE_PORT_{port_name}"), number.to_string()));
        }
        let prefix = format!("{name}_PORT_{number}_{}", protocol.to_uppercase());
        list.extend([
            (prefix.clone(), url),
            (format!("{prefix}_PROTO"), protocol.to_lowercase()),
            (format!("{prefix}_PORT"), number.to_string()),
            (format!("{prefix}_ADDR"), ip.to_string()),
        ]);
    }
    list
}

/// A name as a variable's: no digit in front.
fn variable(name: &str) -> String {
    let name = name.replace(['.', '-'], "_").to_uppercase();
    if name.starts_with(|first: char| first.is_ascii_digit()) { format!("_{name}") } else { name }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    struct Known(Vec<Arc<Service>>);

    #[async_trait::async_trait]
    impl Services for Known {
        async fn synced(&self) {}

        fn in_namespace(&self, namespace: &str) -> Vec<Arc<Service>> {
            let of = |one: &&Arc<Service>| one.metadata.namespace.as_deref() == Some(namespace);
            self.0.iter().filter(of).cloned().collect()
        }

        fn get(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
            let all = self.in_namespace(namespace);
            all.into_iter().find(|one| one.metadata.name.as_deref() == Some(name))
        }
    }

    fn service(namespace: &str, name: &str, ip: &str, ports: Value) -> Arc<Service> {
        let metadata = json!({"namespace": namespace, "name": name});
        let service = json!({"metadata": metadata, "spec": {"clusterIP": ip, "ports": ports}});
        Arc::new(serde_json::from_value(service).unwrap())
    }

    fn told(pod_spec: Value, services: Vec<Arc<Service>>) -> Vec<String> {
        let mut spec = json!({"containers": []});
        spec.as_object_mut().unwrap().extend(pod_spec.as_object().unwrap().clone());
        let pod = json!({"metadata": {"namespace": "n", "name": "p"}, "spec": spec});
        let (list, _) = of(&serde_json::from_value(pod).unwrap(), &Known(services));
        list.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    #[test]
    fn variables_are_kubelets() {
        let ports =
            json!([{"name": "http-x", "port": 80}, {"name": "q", "port": 53, "protocol": "UDP"}]);
        let services = vec![
            service("n", "my-db.1", "127.128.0.9", ports),
            service("n", "headless", "None", json!([{"port": 1}])),
            service("other", "elsewhere", "127.128.0.8", json!([{"port": 1}])),
            service(
                "default",
                "kubernetes",
                "127.128.0.1",
                json!([{"name": "https", "port": 443}]),
            ),
        ];
        let api = [
            "KUBERNETES_SERVICE_HOST=127.128.0.1",
            "KUBERNETES_SERVICE_PORT=443",
            "KUBERNETES_PORT=tcp://127.128.0.1:443",
            "KUBERNETES_SERVICE_PORT_HTTPS=443",
            "KUBERNETES_PORT_443_TCP=tcp://127.128.0.1:443",
            "KUBERNETES_PORT_443_TCP_PROTO=tcp",
            "KUBERNETES_PORT_443_TCP_PORT=443",
            "KUBERNETES_PORT_443_TCP_ADDR=127.128.0.1",
        ];
        let own = [
            "MY_DB_1_SERVICE_HOST=127.128.0.9",
            "MY_DB_1_SERVICE_PORT=80",
            "MY_DB_1_PORT=tcp://127.128.0.9:80",
            "MY_DB_1_SERVICE_PORT_HTTP_X=80",
            "MY_DB_1_PORT_80_TCP=tcp://127.128.0.9:80",
            "MY_DB_1_PORT_80_TCP_PROTO=tcp",
            "MY_DB_1_PORT_80_TCP_PORT=80",
            "MY_DB_1_PORT_80_TCP_ADDR=127.128.0.9",
            "MY_DB_1_SERVICE_PORT_Q=53",
            "MY_DB_1_PORT_53_UDP=udp://127.128.0.9:53",
            "MY_DB_1_PORT_53_UDP_PROTO=udp",
            "MY_DB_1_PORT_53_UDP_PORT=53",
            "MY_DB_1_PORT_53_UDP_ADDR=127.128.0.9",
        ];
        assert_eq!(told(json!({}), services.clone()), [&own[..], &api[..]].concat());
        assert_eq!(told(json!({"enableServiceLinks": false}), services), api);
        let own = vec![service("n", "kubernetes", "127.128.0.7", json!([{"port": 1}]))];
        assert_eq!(told(json!({}), own)[0], "KUBERNETES_SERVICE_HOST=127.128.0.7");
        assert_eq!(variable("1a"), "_1A");
    }

    #[test]
    fn there_is_a_bound() {
        let many = (0..MOST_SERVICES + 3)
            .map(|n| service("n", &format!("s{n}"), "127.128.0.7", json!([{"port": 1}])));
        let pod = json!({"metadata": {"namespace": "n"}, "spec": {"containers": []}});
        let (list, left_out) = of(&serde_json::from_value(pod).unwrap(), &Known(many.collect()));
        assert_eq!((list.len(), left_out), (MOST_SERVICES * 7, 3));
    }
}
