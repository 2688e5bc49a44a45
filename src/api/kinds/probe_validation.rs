//! Validation of a container's probes.

use k8s_openapi::api::core::v1::{Container, Probe};

use super::checks;
use crate::api::field::{Errors, Path};
use crate::api::names;

pub fn validate(errors: &mut Errors, path: &Path, container: &Container) {
    let must_succeed_once =
        [("livenessProbe", &container.liveness_probe), ("startupProbe", &container.startup_probe)];
    for (field, probe) in must_succeed_once {
        let Some(probe) = probe else { continue };
        let path = path.child(field);
        validate_probe(errors, &path, probe);
        if let Some(threshold) = probe.success_threshold.filter(|t| *t != 1) {
            errors.invalid(&path.child("successThreshold"), threshold, "must be 1");
        }
    }
    if let Some(probe) = &container.readiness_probe {
        let path = path.child("readinessProbe");
        validate_probe(errors, &path, probe);
        if let Some(seconds) = probe.termination_grace_period_seconds {
            let path = path.child("terminationGracePeriodSeconds");
            errors.invalid(&path, seconds, "must not be set for readinessProbes");
        }
    }
}

fn validate_probe(errors: &mut Errors, path: &Path, probe: &Probe) {
    let handlers = [
        ("exec", probe.exec.is_some()),
        ("httpGet", probe.http_get.is_some()),
        ("tcpSocket", probe.tcp_socket.is_some()),
        ("grpc", probe.grpc.is_some()),
    ];
    let mut given = handlers.into_iter().filter(|(_, set)| *set);
    if given.next().is_none() {
        errors.required(path, "must specify a handler type");
    }
    for (field, _) in given {
        errors.forbidden(&path.child(field), "may not specify more than 1 handler type");
    }
    if let Some(http) = &probe.http_get {
        let path = path.child("httpGet");
        if http.path.as_deref().unwrap_or_default().is_empty() {
            errors.required(&path.child("path"), "");
        }
        checks::port_number_or_name(errors, &path.child("port"), &http.port);
        let scheme = http.scheme.as_deref().unwrap_or_default();
        if !matches!(scheme, "HTTP" | "HTTPS") {
            errors.not_supported(&path.child("scheme"), scheme, &["HTTP", "HTTPS"]);
        }
        for header in http.http_headers.iter().flatten() {
            let wrong = names::is_http_header_name(&header.name);
            names::report(errors, &path.child("httpHeaders"), &header.name, wrong);
        }
    }
    if let Some(tcp) = &probe.tcp_socket {
        let path = path.child("tcpSocket");
        checks::port_number_or_name(errors, &path.child("port"), &tcp.port);
    }
    let numbers = [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ];
    for (field, number) in numbers {
        checks::nonnegative_if_set(errors, &path.child(field), number);
    }
    if let Some(seconds) = probe.termination_grace_period_seconds.filter(|s| *s <= 0) {
        let path = path.child("terminationGracePeriodSeconds");
        errors.invalid(&path, seconds, "must be greater than 0");
    }
}
