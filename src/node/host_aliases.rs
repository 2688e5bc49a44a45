//! `hostAliases` of a pod: names that mean the given addresses to its programs, before any others do.
//! What may be connected to is decided by the address, as for every name.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::pod_state::spec;
use crate::runtime::Names;

struct HostAliases {
    addresses: BTreeMap<String, Vec<IpAddr>>,
    others: Arc<dyn Names>,
}

/// The names of a pod: its own, and those of the cluster.
pub fn names(pod: &Pod, others: &Arc<dyn Names>) -> Arc<dyn Names> {
    let mut addresses: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for alias in spec(pod).host_aliases.iter().flatten() {
        // Validated when the pod was made.
        let Ok(address) = alias.ip.parse() else { continue };
        for name in alias.hostnames.iter().flatten() {
            addresses.entry(name.to_ascii_lowercase()).or_default().push(address);
        }
    }
    if addresses.is_empty() {
        return others.clone();
    }
    Arc::new(HostAliases { addresses, others: others.clone() })
}

impl Names for HostAliases {
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

    #[test]
    fn aliases_go_before_names_of_the_cluster() {
        let others: Arc<dyn Names> = Arc::new(Others);
        let pod = json!({"spec": {"containers": [], "hostAliases": [
            {"ip": "123.45.67.89", "hostnames": ["Foo", "bar.remote"]},
            {"ip": "10.0.0.1", "hostnames": ["foo"]}, {"ip": "10.0.0.2"}]}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let names = names(&pod, &others);
        let text = |name: &str| {
            let found = names.resolve("default", name)?;
            Some(found.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(text("foo").as_deref(), Some("123.45.67.89 10.0.0.1"));
        assert_eq!(text("bar.remote").as_deref(), Some("123.45.67.89"));
        assert_eq!(text("db").as_deref(), Some("127.128.0.9"));
        assert_eq!(text("none"), None);
        let plain = super::names(&Pod::default(), &others);
        assert!(Arc::ptr_eq(&plain, &others), "no layer where there are none");
    }
}
