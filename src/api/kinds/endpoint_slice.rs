//! EndpointSlice (discovery.k8s.io/v1).

use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use serde_json::Value;

use super::{checks, labels};
use crate::api::field::{Errors, Path};
use crate::api::names;
use crate::api::resource::{DEFAULT_META, Generation, Kind, KindMeta};
use crate::api::table::{self, Column};

const ADDRESS_TYPES: &[&str] = &["FQDN", "IPv4", "IPv6"];
/// Most endpoints of a slice.
const MAX_ENDPOINTS: usize = 1_000;
/// Most addresses of an endpoint.
const MAX_ADDRESSES: usize = 100;
/// Most ports of a slice.
const MAX_PORTS: usize = 20_000;
/// Most labels of an endpoint's topology, and most hints of a kind.
const MAX_TOPOLOGY_LABELS: usize = 16;
const MAX_HINTS: usize = 8;
/// How many entries a table's cell names.
const MAX_SHOWN: usize = 3;

impl Kind for EndpointSlice {
    const META: KindMeta =
        KindMeta { singular: "endpointslice", generation: Generation::Spec, ..DEFAULT_META };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        for port in self.ports.iter_mut().flatten() {
            port.name.get_or_insert_default();
            port.protocol.get_or_insert_with(|| "TCP".into());
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("addressType");
        checks::one_of(errors, &path, &self.address_type, ADDRESS_TYPES);
        let path = Path::new("endpoints");
        if self.endpoints.len() > MAX_ENDPOINTS {
            return errors.too_many(&path, self.endpoints.len(), MAX_ENDPOINTS);
        }
        for (i, endpoint) in self.endpoints.iter().enumerate() {
            validate_endpoint(errors, &path.index(i), endpoint, &self.address_type);
        }
        validate_ports(errors, &Path::new("ports"), self.ports.as_deref().unwrap_or_default());
    }

    /// By the Service that the slice is of, as `namespace/name`.
    fn index(&self) -> Option<String> {
        let service = self.metadata.labels.as_ref()?.get("kubernetes.io/service-name")?;
        Some(format!("{}/{service}", self.metadata.namespace.as_deref().unwrap_or_default()))
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let path = Path::new("addressType");
        checks::immutable(errors, &path, &self.address_type, &old.address_type);
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("AddressType", "string", "The type of the addresses."),
            Column::new("Ports", "string", "The ports that each endpoint has."),
            Column::new("Endpoints", "string", "The addresses of the endpoints."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let ports = self.ports.iter().flatten().map(|port| match (&port.port, &port.name) {
            (Some(number), _) => number.to_string(),
            (None, Some(name)) if !name.is_empty() => name.clone(),
            (None, _) => "*".into(),
        });
        let addresses = self.endpoints.iter().flat_map(|e| e.addresses.iter().cloned());
        vec![
            table::name(&self.metadata),
            self.address_type.clone().into(),
            some_and_more(ports).into(),
            some_and_more(addresses).into(),
            table::age(&self.metadata, now),
        ]
    }
}

/// `a,b,c + 2 more...`, or `<unset>`.
fn some_and_more(entries: impl Iterator<Item = String>) -> String {
    let entries: Vec<String> = entries.collect();
    match entries.len() {
        0 => "<unset>".into(),
        n if n > MAX_SHOWN => {
            format!("{} + {} more...", entries[..MAX_SHOWN].join(","), n - MAX_SHOWN)
        }
        _ => entries.join(","),
    }
}

fn validate_endpoint(errors: &mut Errors, path: &Path, endpoint: &Endpoint, address_type: &str) {
    let addresses = path.child("addresses");
    if endpoint.addresses.is_empty() {
        errors.required(&addresses, "must contain at least 1 address");
    } else if endpoint.addresses.len() > MAX_ADDRESSES {
        errors.too_many(&addresses, endpoint.addresses.len(), MAX_ADDRESSES);
    }
    for (i, address) in endpoint.addresses.iter().enumerate() {
        let path = addresses.index(i);
        match address_type {
            "IPv4" => checks::ipv4(errors, &path, address),
            "IPv6" => checks::ipv6(errors, &path, address),
            "FQDN" => checks::full_domain_name(errors, &path, address),
            _ => {}
        }
        checks::endpoint_ip(errors, &path, address);
    }
    if let Some(node) = &endpoint.node_name {
        checks::dns_subdomain(errors, &path.child("nodeName"), node);
    }
    if let Some(hostname) = &endpoint.hostname {
        checks::dns_label(errors, &path.child("hostname"), hostname);
    }
    let topology = endpoint.deprecated_topology.as_ref();
    let at = path.child("deprecatedTopology");
    let count = topology.map_or(0, |labels| labels.len());
    if count > MAX_TOPOLOGY_LABELS {
        errors.too_many(&at, count, MAX_TOPOLOGY_LABELS);
    }
    labels::validate_labels(errors, &at, topology);
    if let Some(hints) = &endpoint.hints {
        let path = path.child("hints");
        let zones = hints.for_zones.iter().flatten().map(|zone| zone.name.as_str()).collect();
        validate_hints(errors, &path.child("forZones"), zones, names::is_label_value);
        let nodes = hints.for_nodes.iter().flatten().map(|node| node.name.as_str()).collect();
        validate_hints(errors, &path.child("forNodes"), nodes, names::is_dns1123_subdomain);
    }
}

/// Names of zones or nodes: few, and each once.
fn validate_hints(
    errors: &mut Errors,
    path: &Path,
    hints: Vec<&str>,
    wrong: fn(&str) -> Vec<String>,
) {
    if hints.len() > MAX_HINTS {
        return errors.too_many(path, hints.len(), MAX_HINTS);
    }
    let mut seen = std::collections::BTreeSet::new();
    for (i, name) in hints.into_iter().enumerate() {
        let path = path.index(i);
        let path = path.child("name");
        if !seen.insert(name) {
            errors.duplicate(&path, name);
        }
        names::report(errors, &path, name, wrong(name));
    }
}

fn validate_ports(errors: &mut Errors, path: &Path, ports: &[EndpointPort]) {
    if ports.len() > MAX_PORTS {
        return errors.too_many(path, ports.len(), MAX_PORTS);
    }
    let mut seen = std::collections::BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() {
            checks::dns_label(errors, &path.child("name"), name);
        }
        if !seen.insert(name) {
            errors.duplicate(&path.child("name"), name);
        }
        let protocol = port.protocol.as_deref().unwrap_or_default();
        checks::one_of(errors, &path.child("protocol"), protocol, checks::PROTOCOLS);
        if let Some(number) = port.port {
            checks::port_number(errors, &path.child("port"), number);
        }
        if let Some(app) = &port.app_protocol {
            checks::qualified_name(errors, &path.child("appProtocol"), app);
        }
    }
}
