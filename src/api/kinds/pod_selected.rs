//! The parts of a Pod that selectors see, read without the rest: each write of a Pod is looked at for
//! each watch that has a field selector.

use k8s_openapi::api::core::v1::{Pod, PodIP, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

/// A stored Pod; becomes a [`Pod`] that has nothing but what is here.
#[derive(Deserialize)]
pub(super) struct Selected {
    #[serde(default)]
    metadata: Metadata,
    spec: Option<Spec>,
    status: Option<Status>,
}

#[derive(Default, Deserialize)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
    restart_policy: Option<String>,
    scheduler_name: Option<String>,
    service_account_name: Option<String>,
    host_network: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIP>>,
    nominated_node_name: Option<String>,
}

impl From<Selected> for Pod {
    fn from(from: Selected) -> Pod {
        let Selected { metadata, spec, status } = from;
        Pod {
            metadata: ObjectMeta {
                name: metadata.name,
                namespace: metadata.namespace,
                ..ObjectMeta::default()
            },
            spec: spec.map(|spec| PodSpec {
                node_name: spec.node_name,
                restart_policy: spec.restart_policy,
                scheduler_name: spec.scheduler_name,
                service_account_name: spec.service_account_name,
                host_network: spec.host_network,
                ..PodSpec::default()
            }),
            status: status.map(|status| PodStatus {
                phase: status.phase,
                pod_ip: status.pod_ip,
                pod_ips: status.pod_ips,
                nominated_node_name: status.nominated_node_name,
                ..PodStatus::default()
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::resource::Kind;

    /// Whatever is selectable is read.
    #[test]
    fn each_selectable_field_has_the_value_of_the_whole_pod() {
        let pod = json!({"metadata": {"name": "p", "namespace": "ns", "labels": {"a": "b"}},
            "spec": {"nodeName": "n", "restartPolicy": "Never", "schedulerName": "s",
                "serviceAccountName": "a", "hostNetwork": true, "containers": [{"name": "c"}]},
            "status": {"phase": "Running", "podIP": "127.64.0.2", "nominatedNodeName": "m",
                "podIPs": [{"ip": "127.64.0.2"}, {"ip": "::1"}], "conditions": []}});
        let raw = pod.to_string();
        let (whole, part): (Pod, Pod) =
            (serde_json::from_str(&raw).unwrap(), Pod::selected(raw.as_bytes()).unwrap());
        for field in Pod::META.selectable {
            assert!(!whole.field(field).is_empty(), "{field} has no value here");
            assert_eq!(part.field(field), whole.field(field), "{field}");
        }
        assert_eq!(part.metadata.name, whole.metadata.name);
        assert_eq!(part.metadata.namespace, whole.metadata.namespace);
    }
}
