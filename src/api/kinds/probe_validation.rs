//! Validation of a container's probes and lifecycle hooks, and of what both may ask.

use k8s_openapi::api::core::v1::{
    Container, ExecAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction,
};

use super::{checks, program_names};
use crate::api::field::{Errors, Path};
use crate::api::names;

pub fn validate(errors: &mut Errors, path: &Path, container: &Container) {
    let must_succeed_once =
        [("livenessProbe", &container.liveness_probe), ("startupProbe", &container.startup_probe)];
    for (field, probe) in must_succeed_once {
        let Some(probe) = probe else { continue };
        let path = path.child(field);
        validate_probe(errors, &path, probe, container);
        if let Some(threshold) = probe.success_threshold.filter(|t| *t != 1) {
            errors.invalid(&path.child("successThreshold"), threshold, "must be 1");
        }
    }
    if let Some(probe) = &container.readiness_probe {
        let path = path.child("readinessProbe");
        validate_probe(errors, &path, probe, container);
        if let Some(seconds) = probe.termination_grace_period_seconds {
            let path = path.child("terminationGracePeriodSeconds");
            errors.invalid(&path, seconds, "must not be set for readinessProbes");
        }
    }
}

fn validate_probe(errors: &mut Errors, path: &Path, probe: &Probe, of: &Container) {
    let handlers = [
        ("exec", probe.exec.is_some()),
        ("httpGet", probe.http_get.is_some()),
        ("tcpSocket", probe.tcp_socket.is_some()),
        ("grpc", probe.grpc.is_some()),
    ];
    one_of_them(errors, path, &handlers);
    validate_exec(errors, path, probe.exec.as_ref(), of);
    validate_http_get(errors, path, probe.http_get.as_ref());
    validate_tcp_socket(errors, path, probe.tcp_socket.as_ref());
    if let Some(grpc) = &probe.grpc {
        checks::port_number(errors, &path.child("grpc").child("port"), grpc.port);
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

fn one_of_them(errors: &mut Errors, path: &Path, handlers: &[(&str, bool)]) {
    let mut given = handlers.iter().filter(|(_, set)| *set);
    if given.next().is_none() {
        errors.required(path, "must specify a handler type");
    }
    for (field, _) in given {
        errors.forbidden(&path.child(field), "may not specify more than 1 handler type");
    }
}

/// A Wasm container has no shell: whoever names another program than its own is told at once, and not
/// by a container that never gets ready.
fn validate_exec(errors: &mut Errors, path: &Path, exec: Option<&ExecAction>, of: &Container) {
    let Some(exec) = exec else { return };
    let exec_path = path.child("exec");
    let path = exec_path.child("command");
    let Some(asked) = exec.command.iter().flatten().next() else {
        return errors.required(&path, "");
    };
    let names = program_names::of(of);
    if !program_names::has(&names, asked) {
        let own = names.first().map(String::as_str).unwrap_or_default();
        let detail = format!(
            "there is no other program to run in a Wasm container than its own; to run that once \
             more, with other arguments, begin with {own:?}"
        );
        errors.forbidden(&path, &detail);
    }
}

fn validate_http_get(errors: &mut Errors, path: &Path, http: Option<&HTTPGetAction>) {
    let Some(http) = http else { return };
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

fn validate_tcp_socket(errors: &mut Errors, path: &Path, tcp: Option<&TCPSocketAction>) {
    if let Some(tcp) = tcp {
        let path = path.child("tcpSocket");
        checks::port_number_or_name(errors, &path.child("port"), &tcp.port);
    }
}

/// The hooks of a container; `grace_seconds` is the pod's grace period, where it names a valid one.
pub fn validate_hooks(
    errors: &mut Errors,
    path: &Path,
    container: &Container,
    grace_seconds: Option<i64>,
) {
    let Some(lifecycle) = &container.lifecycle else { return };
    let path = path.child("lifecycle");
    for (field, hook) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
        if let Some(hook) = hook {
            validate_hook(errors, &path.child(field), hook, (container, grace_seconds));
        }
    }
}

fn validate_hook(
    errors: &mut Errors,
    path: &Path,
    hook: &LifecycleHandler,
    (of, grace): (&Container, Option<i64>),
) {
    let handlers = [
        ("exec", hook.exec.is_some()),
        ("httpGet", hook.http_get.is_some()),
        ("tcpSocket", hook.tcp_socket.is_some()),
        ("sleep", hook.sleep.is_some()),
    ];
    one_of_them(errors, path, &handlers);
    validate_exec(errors, path, hook.exec.as_ref(), of);
    validate_http_get(errors, path, hook.http_get.as_ref());
    validate_tcp_socket(errors, path, hook.tcp_socket.as_ref());
    // KEP-3960. A grace period that is wrong itself is another error's.
    let Some((sleep, grace)) = hook.sleep.as_ref().zip(grace.filter(|grace| *grace >= 0)) else {
        return;
    };
    if !(0..=grace).contains(&sleep.seconds) {
        let detail =
            format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.invalid(&path.child("sleep"), sleep.seconds, &detail);
    }
}
