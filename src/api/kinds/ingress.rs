//! Ingress (networking.k8s.io/v1).
//!
//! Upstream: pkg/apis/networking/validation/validation.go.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::TypedLocalObjectReference;
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, Ingress, IngressBackend, IngressRule, IngressSpec, IngressTLS,
};
use serde_json::Value;

use super::{checks, workload};
use crate::api::field::{Errors, Path};
use crate::api::names;
use crate::api::resource::{DEFAULT_META, Generation, Kind, KindMeta};
use crate::api::table::{self, Column};

/// What named the class before there was a field for it.
pub const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const PATH_TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];
const BAD_SEQUENCES: &[&str] = &["//", "/./", "/../", "%2f", "%2F"];
const BAD_ENDS: &[&str] = &["/..", "/."];
/// How many hosts a table's cell names.
const MAX_SHOWN: usize = 3;

impl Kind for Ingress {
    const META: KindMeta = KindMeta {
        singular: "ingress",
        short_names: &["ing"],
        status: true,
        generation: Generation::Spec,
        ..DEFAULT_META
    };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        self.spec.get_or_insert_default();
        self.status.get_or_insert_default().load_balancer.get_or_insert_default();
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        validate_spec(errors, &path, &self.spec.clone().unwrap_or_default());
    }

    fn validate_create(&self, errors: &mut Errors) {
        let class = self.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_ref());
        let annotations = self.metadata.annotations.as_ref();
        let annotation = annotations.and_then(|all| all.get(CLASS_ANNOTATION));
        if let (Some(class), Some(annotation)) = (class, annotation)
            && class != annotation
        {
            let path = Path::new("annotations");
            let detail = "must match `ingressClassName` when both are specified";
            errors.invalid(&path.child(CLASS_ANNOTATION), annotation, detail);
        }
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        let balancer = self.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let status = Path::new("status");
        let balancer_path = status.child("loadBalancer");
        let path = balancer_path.child("ingress");
        for (i, one) in balancer.iter().flat_map(|b| b.ingress.iter().flatten()).enumerate() {
            let path = path.index(i);
            if let Some(ip) = one.ip.as_deref().filter(|ip| !ip.is_empty()) {
                checks::ip(errors, &path.child("ip"), ip);
            }
            if let Some(name) = one.hostname.as_deref().filter(|name| !name.is_empty()) {
                checks::dns_subdomain(errors, &path.child("hostname"), name);
                checks::no_address(errors, &path.child("hostname"), name);
            }
        }
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = vec![workload::stored_only("Ingress")];
        if self.metadata.annotations.iter().flatten().any(|(key, _)| key == CLASS_ANNOTATION) {
            warnings.push(format!(
                "annotation \"{CLASS_ANNOTATION}\" is deprecated, please use \
                 'spec.ingressClassName' instead"
            ));
        }
        warnings
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Class", "string", "The class of the Ingress."),
            Column::new("Hosts", "string", "The hosts that requests are matched against."),
            Column::new("Address", "string", "Where the Ingress is reached."),
            Column::new("Ports", "string", "The ports that it listens on."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let balancer = self.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let ingress = balancer.and_then(|b| b.ingress.as_deref()).unwrap_or_default();
        let full = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let addresses: std::collections::BTreeSet<String> =
            ingress.iter().filter_map(|one| full(&one.ip).or(full(&one.hostname))).collect();
        let addresses: Vec<String> = addresses.into_iter().collect();
        let ports = if spec.tls.iter().flatten().next().is_some() { "80, 443" } else { "80" };
        vec![
            table::name(&self.metadata),
            checks::or_none(spec.ingress_class_name.as_deref()).into(),
            hosts(spec.rules.as_deref().unwrap_or_default()).into(),
            addresses.join(",").into(),
            ports.into(),
            table::age(&self.metadata, now),
        ]
    }
}

fn validate_spec(errors: &mut Errors, path: &Path, spec: &IngressSpec) {
    let rules = spec.rules.as_deref().unwrap_or_default();
    if rules.is_empty() && spec.default_backend.is_none() {
        errors.invalid(path, rules, "either `defaultBackend` or `rules` must be specified");
    }
    if let Some(backend) = &spec.default_backend {
        validate_backend(errors, &path.child("defaultBackend"), backend);
    }
    let rules_path = path.child("rules");
    for (i, rule) in rules.iter().enumerate() {
        validate_rule(errors, &rules_path.index(i), rule);
    }
    let tls_path = path.child("tls");
    for (i, tls) in spec.tls.iter().flatten().enumerate() {
        validate_tls(errors, &tls_path.index(i), tls);
    }
    if let Some(class) = &spec.ingress_class_name {
        checks::dns_subdomain(errors, &path.child("ingressClassName"), class);
    }
}

fn validate_rule(errors: &mut Errors, path: &Path, rule: &IngressRule) {
    if let Some(host) = rule.host.as_deref().filter(|host| !host.is_empty()) {
        let path = path.child("host");
        checks::no_address(errors, &path, host);
        validate_host(errors, &path, host);
    }
    let Some(http) = &rule.http else { return };
    let path = path.child("http");
    let path = path.child("paths");
    if http.paths.is_empty() {
        errors.required(&path, "");
    }
    for (i, one) in http.paths.iter().enumerate() {
        validate_path(errors, &path.index(i), one);
    }
}

fn validate_path(errors: &mut Errors, path: &Path, one: &HTTPIngressPath) {
    let text = one.path.as_deref().unwrap_or_default();
    let at = path.child("path");
    let exact = match one.path_type.as_str() {
        "" => {
            return errors.required(&path.child("pathType"), "pathType must be specified");
        }
        "Exact" | "Prefix" => true,
        "ImplementationSpecific" => false,
        other => {
            errors.not_supported(&path.child("pathType"), other, PATH_TYPES);
            return validate_backend(errors, &path.child("backend"), &one.backend);
        }
    };
    if !text.starts_with('/') && (exact || !text.is_empty()) {
        errors.invalid(&at, text, "must be an absolute path");
    }
    if exact {
        for bad in BAD_SEQUENCES.iter().filter(|bad| text.contains(**bad)) {
            errors.invalid(&at, text, &format!("must not contain '{bad}'"));
        }
        for bad in BAD_ENDS.iter().filter(|bad| text.ends_with(**bad)) {
            errors.invalid(&at, text, &format!("cannot end with '{bad}'"));
        }
    }
    validate_backend(errors, &path.child("backend"), &one.backend);
}

fn validate_backend(errors: &mut Errors, path: &Path, backend: &IngressBackend) {
    let service = match (&backend.resource, &backend.service) {
        (Some(_), Some(_)) => {
            return errors.invalid(path, "", "cannot set both resource and service backends");
        }
        (None, None) => {
            return errors.invalid(path, "", "resource or service backend is required");
        }
        (Some(resource), None) => {
            return validate_reference(errors, &path.child("resource"), resource);
        }
        (None, Some(service)) => service,
    };
    let at = path.child("service");
    let name = at.child("name");
    if service.name.is_empty() {
        errors.required(&name, "");
    } else {
        names::report(errors, &name, &service.name, names::is_dns1035_label(&service.name));
    }
    let port = service.port.clone().unwrap_or_default();
    let (name, number) = (port.name.unwrap_or_default(), port.number.unwrap_or_default());
    let at = at.child("port");
    match (name.is_empty(), number) {
        (true, 0) => errors.required(path, "port name or number is required"),
        (true, number) => checks::port_number(errors, &at.child("number"), number),
        (false, 0) => {
            names::report(errors, &at.child("name"), &name, names::is_port_name(&name));
        }
        (false, _) => errors.invalid(path, "", "cannot set both port name & port number"),
    }
}

fn validate_reference(errors: &mut Errors, path: &Path, one: &TypedLocalObjectReference) {
    if let Some(group) = &one.api_group {
        checks::dns_subdomain(errors, &path.child("apiGroup"), group);
    }
    checks::path_segment(errors, &path.child("kind"), &one.kind);
    checks::path_segment(errors, &path.child("name"), &one.name);
}

fn validate_tls(errors: &mut Errors, path: &Path, tls: &IngressTLS) {
    let hosts = path.child("hosts");
    for (i, host) in tls.hosts.iter().flatten().enumerate() {
        validate_host(errors, &hosts.index(i), host);
    }
    if let Some(secret) = tls.secret_name.as_deref().filter(|name| !name.is_empty()) {
        checks::dns_subdomain(errors, &path.child("secretName"), secret);
    }
}

fn validate_host(errors: &mut Errors, path: &Path, host: &str) {
    if host.contains('*') {
        names::report(errors, path, host, names::is_wildcard_subdomain(host));
    } else {
        checks::dns_subdomain(errors, path, host);
    }
}

/// `a.example.com,b.example.com + 2 more...`, or `*`.
fn hosts(rules: &[IngressRule]) -> String {
    let named = rules.iter().take(MAX_SHOWN).filter_map(|rule| rule.host.as_deref());
    let named: Vec<&str> = named.filter(|host| !host.is_empty()).collect();
    match (named.is_empty(), rules.len().saturating_sub(MAX_SHOWN)) {
        (true, _) => "*".into(),
        (false, 0) => named.join(","),
        (false, more) => format!("{} + {more} more...", named.join(",")),
    }
}
