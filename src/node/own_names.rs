//! The names that a pod has of its own, and its programs know before any others: its host name, which
//! means its own address, and `hostAliases`, as kubelet writes them into a pod's `/etc/hosts`. What
//! may be connected to is decided by the address, as for every name.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::pod_state::spec;
use crate::runtime::Names;

/// Longest host name, in bytes.
const MAX_HOST_NAME_BYTES: usize = 63;

/// What a pod's host name is: `spec.hostname`, or as much of the pod's name as fits.
/// Source: k8s.io/kubernetes pkg/kubelet/util/util.go (TruncatePodHostnameIfNeeded).
pub fn host_name(pod: &Pod) -> &str {
    let own = spec(pod).hostname.as_deref().filter(|name| !name.is_empty());
    let name = own.or(pod.metadata.name.as_deref()).unwrap_or_default();
    if name.len() <= MAX_HOST_NAME_BYTES {
        return name;
    }
    name[..name.floor_char_boundary(MAX_HOST_NAME_BYTES)].trim_end_matches(['-', '.'])
}

struct OwnNames {
    addresses: BTreeMap<String, Vec<IpAddr>>,
    others: Arc<dyn Names>,
}

/// The names of a pod at this address: its own, and those of the cluster.
pub fn names(pod: &Pod, ip: IpAddr, others: &Arc<dyn Names>) -> Arc<dyn Names> {
    let mut addresses: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    // The host's network has the host's name.
    if spec(pod).host_network != Some(true) {
        let name = host_name(pod).to_ascii_lowercase();
        if let Some(subdomain) = spec(pod).subdomain.as_deref().filter(|name| !name.is_empty()) {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let whole = format!("{name}.{subdomain}.{namespace}.svc.cluster.local");
            addresses.insert(whole.to_ascii_lowercase(), vec![ip]);
        }
        addresses.insert(name, vec![ip]);
    }
    for alias in spec(pod).host_aliases.iter().flatten() {
        // Validated when the pod was made.
        let Ok(address) = alias.ip.parse() else { continue };
        for name in alias.hostnames.iter().flatten() {
            addresses.entry(name.to_ascii_lowercase()).or_default().push(address);
        }
    }
    Arc::new(OwnNames { addresses, others: others.clone() })
}

impl Names for OwnNames {
    fn resolve(&self, namespace: &str, name: &str) -> Option<Vec<IpAddr>> {
        let own = self.addresses.get(&name.to_ascii_lowercase());
        own.cloned().or_else(|| self.others.resolve(namespace, name))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct Others;
    impl Names for Others {
        fn resolve(&self, _: &str, name: &str) -> Option<Vec<IpAddr>> {
            ["db", "foo"].contains(&name).then(|| vec![[127, 128, 0, 9].into()])
        }
    }

    fn pod(name: &str, spec: serde_json::Value) -> Pod {
        let metadata = json!({"name": name, "namespace": "shop"});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    fn text(pod: &Pod, name: &str) -> Option<String> {
        let names = names(pod, [127, 64, 0, 7].into(), &(Arc::new(Others) as Arc<dyn Names>));
        let found = names.resolve("shop", name)?;
        Some(found.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn aliases_go_before_names_of_the_cluster() {
        let aliases = json!([{"ip": "123.45.67.89", "hostnames": ["Foo", "bar.remote"]},
            {"ip": "10.0.0.1", "hostnames": ["foo"]}, {"ip": "10.0.0.2"}]);
        let pod = pod("web-0", json!({"containers": [], "hostAliases": aliases}));
        let text = |name: &str| text(&pod, name);
        assert_eq!(text("foo").as_deref(), Some("123.45.67.89 10.0.0.1"));
        assert_eq!(text("bar.remote").as_deref(), Some("123.45.67.89"));
        assert_eq!(text("db").as_deref(), Some("127.128.0.9"));
        assert_eq!(text("none"), None);
    }

    #[test]
    fn the_host_name_is_the_pod() {
        let own = Some("127.64.0.7".to_string());
        // As in a hosts file: before a Service of the same name.
        assert_eq!(text(&pod("db", json!({"containers": []})), "db"), own);
        let named = json!({"containers": [], "hostname": "one", "subdomain": "peers"});
        let named = pod("web-0", named);
        for name in ["one", "One", "one.peers.shop.svc.cluster.local"] {
            assert_eq!(text(&named, name), own, "{name}");
        }
        assert_eq!(text(&named, "web-0"), None);
        let of_host = pod("web-0", json!({"containers": [], "hostNetwork": true}));
        assert_eq!(text(&of_host, "web-0"), None);
        let long = format!("{}--.{}", "x".repeat(60), "y".repeat(9));
        assert_eq!(host_name(&pod(&long, json!({"containers": []}))), "x".repeat(60));
    }
}
