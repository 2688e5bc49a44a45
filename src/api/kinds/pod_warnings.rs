//! What a user is told about a pod spec that is accepted: fields without effect, and definitions
//! that hide each other (k8s.io/kubernetes/pkg/api/pod/warnings.go).

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::pod_fields;
use crate::api::field::{Errors, Path};

pub fn warnings(spec: &PodSpec, path: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    pod_fields::check(spec, path, &mut Errors::default(), &mut warnings);
    let init = spec.init_containers.as_deref().unwrap_or_default();
    for (field, containers) in [("initContainers", init), ("containers", &spec.containers[..])] {
        let path = path.child(field);
        for (i, container) in containers.iter().enumerate() {
            hidden_variables(container, &path.index(i), &mut warnings);
        }
    }
    duplicate_ports(spec, path, &mut warnings);
    warnings
}

/// Of two variables of one name the later one counts.
fn hidden_variables(container: &Container, path: &Path, warnings: &mut Vec<String>) {
    let env = container.env.as_deref().unwrap_or_default();
    for (i, variable) in env.iter().enumerate() {
        if env[..i].iter().any(|earlier| earlier.name == variable.name) {
            let (path, name) = (path.child("env"), &variable.name);
            warnings.push(format!(
                "{}: hides previous definition of {name:?}, which may be dropped when using apply",
                path.index(i)
            ));
        }
    }
}

/// The containers of a pod share its address, so that a port can be served only once.
fn duplicate_ports(spec: &PodSpec, path: &Path, warnings: &mut Vec<String>) {
    let containers = path.child("containers");
    let mut seen: Vec<(i32, &str, String)> = Vec::new();
    for (i, container) in spec.containers.iter().enumerate() {
        let path = containers.index(i);
        for (j, port) in container.ports.iter().flatten().enumerate() {
            let (number, protocol) =
                (port.container_port, port.protocol.as_deref().unwrap_or("TCP"));
            let here = path.child("ports").index(j).to_string();
            match seen.iter().find(|(n, p, _)| *n == number && *p == protocol) {
                Some((_, _, first)) => {
                    warnings.push(format!("{here}: duplicate port definition with {first}"));
                }
                None => seen.push((number, protocol, here)),
            }
        }
    }
}
