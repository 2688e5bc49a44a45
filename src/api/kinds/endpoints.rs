//! Endpoints (core/v1): the older form of what EndpointSlices tell.
//!
//! Upstream: pkg/apis/core/validation/validation.go, ValidateEndpoints.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints};
use serde_json::Value;

use super::checks;
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Kind, KindMeta};
use crate::api::table::{self, Column};

/// How many addresses a table's cell names.
const MAX_SHOWN: usize = 3;

impl Kind for Endpoints {
    const META: KindMeta = KindMeta {
        singular: "endpoints",
        short_names: &["ep"],
        deprecation: "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
        ..DEFAULT_META
    };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        let subsets = self.subsets.iter_mut().flatten();
        for port in subsets.flat_map(|subset| subset.ports.iter_mut().flatten()) {
            checks::default_text(&mut port.protocol, "TCP");
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("subsets");
        for (i, subset) in self.subsets.iter().flatten().enumerate() {
            validate_subset(errors, &path.index(i), subset);
        }
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Endpoints", "string", "The addresses and ports that are ready."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        vec![table::name(&self.metadata), cell(self).into(), table::age(&self.metadata, now)]
    }
}

fn validate_subset(errors: &mut Errors, path: &Path, subset: &EndpointSubset) {
    let ready = subset.addresses.as_deref().unwrap_or_default();
    let unready = subset.not_ready_addresses.as_deref().unwrap_or_default();
    if ready.is_empty() && unready.is_empty() {
        errors.required(path, "must specify `addresses` or `notReadyAddresses`");
    }
    for (field, addresses) in [("addresses", ready), ("notReadyAddresses", unready)] {
        let path = path.child(field);
        for (i, address) in addresses.iter().enumerate() {
            validate_address(errors, &path.index(i), address);
        }
    }
    let ports = subset.ports.as_deref().unwrap_or_default();
    let path = path.child("ports");
    for (i, port) in ports.iter().enumerate() {
        validate_port(errors, &path.index(i), port, ports.len() > 1);
    }
}

fn validate_address(errors: &mut Errors, path: &Path, address: &EndpointAddress) {
    checks::ip(errors, &path.child("ip"), &address.ip);
    checks::endpoint_ip(errors, &path.child("ip"), &address.ip);
    if let Some(hostname) = address.hostname.as_deref().filter(|name| !name.is_empty()) {
        checks::dns_label(errors, &path.child("hostname"), hostname);
    }
    if let Some(node) = &address.node_name {
        checks::dns_subdomain(errors, &path.child("nodeName"), node);
    }
}

fn validate_port(errors: &mut Errors, path: &Path, port: &EndpointPort, needs_name: bool) {
    let name = port.name.as_deref().unwrap_or_default();
    if !name.is_empty() {
        checks::dns_label(errors, &path.child("name"), name);
    } else if needs_name {
        errors.required(&path.child("name"), "");
    }
    checks::port_number(errors, &path.child("port"), port.port);
    let protocol = port.protocol.as_deref().unwrap_or_default();
    checks::one_of(errors, &path.child("protocol"), protocol, checks::PROTOCOLS);
    if let Some(app) = &port.app_protocol {
        checks::qualified_name(errors, &path.child("appProtocol"), app);
    }
}

/// `10.0.0.1:80,10.0.0.2:80 + 3 more...`, or `<none>`.
fn cell(endpoints: &Endpoints) -> String {
    let mut shown = Vec::new();
    let mut count = 0;
    for subset in endpoints.subsets.iter().flatten() {
        let addresses = subset.addresses.as_deref().unwrap_or_default();
        let ports: Vec<Option<i32>> = match subset.ports.as_deref().unwrap_or_default() {
            [] => vec![None],
            ports => ports.iter().map(|port| Some(port.port)).collect(),
        };
        count += ports.len() * addresses.len();
        for port in ports {
            for address in addresses.iter().take(MAX_SHOWN.saturating_sub(shown.len())) {
                shown.push(match port {
                    None => address.ip.clone(),
                    Some(port) if address.ip.contains(':') => format!("[{}]:{port}", address.ip),
                    Some(port) => format!("{}:{port}", address.ip),
                });
            }
        }
    }
    if count == 0 {
        return "<none>".into();
    }
    match count - shown.len() {
        0 => shown.join(","),
        more => format!("{} + {more} more...", shown.join(",")),
    }
}
