//! Which ports of the host the node's pods say that they have. A node serves none of them, but it
//! runs no two pods that want the same one: whoever comes second, past the scheduler, is refused by
//! [`super::admission`].
//!
//! Source: the scheduler's NodePorts.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use super::pod_state::spec;

/// Every address of the host.
const ANY: &str = "0.0.0.0";

/// The ports of pods that have some, by uid.
#[derive(Default)]
pub struct HostPorts(Mutex<HashMap<String, Vec<Port>>>);

#[derive(PartialEq, Eq)]
struct Port {
    ip: String,
    protocol: String,
    number: i32,
}

impl Port {
    fn excludes(&self, other: &Port) -> bool {
        let same = self.number == other.number && self.protocol == other.protocol;
        same && (self.ip == other.ip || self.ip == ANY || other.ip == ANY)
    }
}

impl HostPorts {
    /// Gives a pod its ports; `false` if another pod has one of them.
    pub fn claim(&self, pod: &Pod) -> bool {
        let wanted = wanted(pod);
        if wanted.is_empty() {
            return true;
        }
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let mut taken = self.0.lock();
        let others = taken.iter().filter(|(other, _)| **other != uid);
        let is_free = !others
            .flat_map(|(_, ports)| ports)
            .any(|port| wanted.iter().any(|wanted| wanted.excludes(port)));
        if is_free {
            taken.insert(uid, wanted);
        }
        is_free
    }

    /// Gives a pod its ports, whoever else has them.
    pub fn hold(&self, pod: &Pod) {
        let wanted = wanted(pod);
        if !wanted.is_empty() {
            self.0.lock().insert(pod.metadata.uid.clone().unwrap_or_default(), wanted);
        }
    }

    /// They are free for others once the pod ended.
    pub fn release(&self, uid: &str) {
        self.0.lock().remove(uid);
    }
}

/// Containers' ports, and those of sidecars.
fn wanted(pod: &Pod) -> Vec<Port> {
    let inits = spec(pod).init_containers.iter().flatten();
    let sidecars = inits.filter(|one| one.restart_policy.as_deref() == Some("Always"));
    let ports =
        spec(pod).containers.iter().chain(sidecars).flat_map(|one| one.ports.iter().flatten());
    let wanted = ports.filter_map(|port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        let ip = port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| ANY.into());
        Some(Port { ip, protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()), number })
    });
    wanted.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_port_is_one_pods_until_it_is_released() {
        let pod = |uid: &str, port: serde_json::Value| -> Pod {
            let containers = json!([{"name": "c", "image": "i", "ports": [port]}]);
            serde_json::from_value(
                json!({"metadata": {"uid": uid}, "spec": {"containers": containers}}),
            )
            .unwrap()
        };
        let ports = HostPorts::default();
        let port = |ip: &str| json!({"containerPort": 1, "hostPort": 80, "hostIP": ip});
        assert!(ports.claim(&pod("a", port("10.0.0.1"))));
        assert!(ports.claim(&pod("a", port("10.0.0.1"))), "its own");
        assert!(ports.claim(&pod("b", port("10.0.0.2"))), "another address");
        let udp = json!({"containerPort": 1, "hostPort": 80, "protocol": "UDP"});
        assert!(ports.claim(&pod("c", udp)), "another protocol");
        assert!(!ports.claim(&pod("d", port(""))), "every address");
        assert!(ports.claim(&pod("d", json!({"containerPort": 80}))), "none of the host");
        ports.release("a");
        assert!(!ports.claim(&pod("d", port("0.0.0.0"))));
        ports.release("b");
        assert!(ports.claim(&pod("d", port("0.0.0.0"))));
    }
}
