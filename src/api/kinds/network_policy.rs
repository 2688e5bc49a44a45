//! NetworkPolicy (networking.k8s.io/v1).
//!
//! Upstream: pkg/apis/networking/validation/validation.go.

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::{checks, labels};
use crate::api::field::{Errors, Path};
use crate::api::names::{self, Network};
use crate::api::resource::{DEFAULT_META, Generation, Kind, KindMeta};
use crate::api::table::{self, Column};

const INGRESS: &str = "Ingress";
const EGRESS: &str = "Egress";

impl Kind for NetworkPolicy {
    const META: KindMeta = KindMeta {
        singular: "networkpolicy",
        short_names: &["netpol"],
        generation: Generation::Spec,
        ..DEFAULT_META
    };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        let spec = self.spec.get_or_insert_default();
        spec.pod_selector.get_or_insert_default();
        if spec.policy_types.as_ref().is_none_or(Vec::is_empty) {
            let egress = spec.egress.iter().flatten().next().map(|_| EGRESS.to_string());
            spec.policy_types = Some([INGRESS.to_string()].into_iter().chain(egress).collect());
        }
        let ingress = spec.ingress.iter_mut().flatten().flat_map(|rule| rule.ports.iter_mut());
        let egress = spec.egress.iter_mut().flatten().flat_map(|rule| rule.ports.iter_mut());
        for port in ingress.chain(egress).flatten() {
            port.protocol.get_or_insert_with(|| "TCP".into());
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let spec = self.spec.clone().unwrap_or_default();
        let path = Path::new("spec");
        if let Some(selector) = &spec.pod_selector {
            labels::validate_selector(errors, &path.child("podSelector"), selector);
        }
        let ingress = path.child("ingress");
        for (i, rule) in spec.ingress.iter().flatten().enumerate() {
            let path = ingress.index(i);
            validate_ports(errors, &path.child("ports"), rule.ports.as_deref());
            validate_peers(errors, &path.child("from"), rule.from.as_deref());
        }
        let egress = path.child("egress");
        for (i, rule) in spec.egress.iter().flatten().enumerate() {
            let path = egress.index(i);
            validate_ports(errors, &path.child("ports"), rule.ports.as_deref());
            validate_peers(errors, &path.child("to"), rule.to.as_deref());
        }
        let types = spec.policy_types.unwrap_or_default();
        let path = path.child("policyTypes");
        if types.len() > 2 {
            return errors.invalid(&path, &types, "may not specify more than two policyTypes");
        }
        for (i, one) in types.iter().enumerate() {
            if ![INGRESS, EGRESS].contains(&one.as_str()) {
                errors.not_supported(&path.index(i), one, &[INGRESS, EGRESS]);
            }
        }
    }

    fn warnings(&self) -> Vec<String> {
        vec![
            "network policies are not enforced by this release: it is stored, and nothing follows"
                .into(),
        ]
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Pod-Selector", "string", "The pods that the policy is about."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let selector = self.spec.as_ref().and_then(|spec| spec.pod_selector.clone());
        vec![
            table::name(&self.metadata),
            labels::format_selector(&selector.unwrap_or_default()).into(),
            table::age(&self.metadata, now),
        ]
    }
}

fn validate_ports(errors: &mut Errors, path: &Path, ports: Option<&[NetworkPolicyPort]>) {
    for (i, port) in ports.unwrap_or_default().iter().enumerate() {
        let path = path.index(i);
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        if !checks::PROTOCOLS.contains(&protocol) {
            errors.not_supported(&path.child("protocol"), protocol, &["TCP", "UDP", "SCTP"]);
        }
        if let Some(port) = &port.port {
            checks::port_number_or_name(errors, &path.child("port"), port);
        }
        let Some(end) = port.end_port else { continue };
        let path = path.child("endPort");
        match &port.port {
            Some(IntOrString::Int(first)) => {
                if end < *first {
                    errors.invalid(&path, end, "must be greater than or equal to `port`");
                }
                checks::port_number(errors, &path, end);
            }
            Some(IntOrString::String(_)) => {
                errors.invalid(&path, end, "may not be specified when `port` is non-numeric");
            }
            None => {
                errors.invalid(&path, end, "may not be specified when `port` is not specified");
            }
        }
    }
}

fn validate_peers(errors: &mut Errors, path: &Path, peers: Option<&[NetworkPolicyPeer]>) {
    for (i, peer) in peers.unwrap_or_default().iter().enumerate() {
        let path = path.index(i);
        if let Some(selector) = &peer.pod_selector {
            labels::validate_selector(errors, &path.child("podSelector"), selector);
        }
        if let Some(selector) = &peer.namespace_selector {
            labels::validate_selector(errors, &path.child("namespaceSelector"), selector);
        }
        let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
        match &peer.ip_block {
            Some(block) => {
                validate_block(errors, &path.child("ipBlock"), block);
                if selects {
                    errors.forbidden(&path, "may not specify both ipBlock and another peer");
                }
            }
            None if !selects => errors.required(&path, "must specify a peer"),
            None => {}
        }
    }
}

fn validate_block(errors: &mut Errors, path: &Path, block: &IPBlock) {
    let at = path.child("cidr");
    if block.cidr.is_empty() {
        return errors.required(&at, "");
    }
    checks::cidr(errors, &at, &block.cidr);
    let Some(network) = Network::parse(&block.cidr) else { return };
    let path = path.child("except");
    for (i, except) in block.except.iter().flatten().enumerate() {
        let path = path.index(i);
        checks::cidr(errors, &path, except);
        let Some(inner) = names::Network::parse(except) else { continue };
        if !network.contains(inner.address) || network.bits >= inner.bits {
            errors.invalid(&path, except, "must be a strict subset of `cidr`");
        }
    }
}
