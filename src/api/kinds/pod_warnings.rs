//! What a user is told about a pod spec that is accepted: fields without effect, and definitions
//! that hide each other (k8s.io/kubernetes/pkg/api/pod/warnings.go).

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::pod_fields::{self, MAX_WARNINGS};
use super::program_names;
use super::volume_validation::never_mounted;
use crate::api::field::{Errors, Path};

pub fn warnings(spec: &PodSpec, path: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    pod_fields::check(spec, path, &mut Errors::default(), &mut warnings);
    of_definitions(spec, path, &mut warnings);
    warnings
}

/// Those that are not of a field alone; `warnings` has all that are.
pub fn of_definitions(spec: &PodSpec, path: &Path, warnings: &mut Vec<String>) {
    let init = spec.init_containers.as_deref().unwrap_or_default();
    for (field, containers) in [("initContainers", init), ("containers", &spec.containers[..])] {
        let path = path.child(field);
        for (i, container) in containers.iter().enumerate() {
            hidden_variables(container, &path.index(i), warnings);
            foreign_command(container, &path.index(i), warnings);
        }
    }
    duplicate_ports(spec, path, warnings);
    unmounted(spec, path, warnings);
}

/// Pods are refused for them; templates have to be told before.
fn unmounted(spec: &PodSpec, path: &Path, warnings: &mut Vec<String>) {
    let path = path.child("volumes");
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        if let Some(text) = never_mounted(volume).filter(|_| warnings.len() < MAX_WARNINGS) {
            warnings.push(format!("{}.hostPath.type: {text}", path.index(i)));
        }
    }
}

/// Of two variables of one name the later one counts.
fn hidden_variables(container: &Container, path: &Path, warnings: &mut Vec<String>) {
    let mut seen = HashSet::new();
    for (i, variable) in container.env.iter().flatten().enumerate() {
        if warnings.len() >= MAX_WARNINGS {
            return;
        }
        let name = &variable.name;
        if !seen.insert(name) {
            let path = path.child("env");
            warnings.push(format!(
                "{}: hides previous definition of {name:?}, which may be dropped when using apply",
                path.index(i)
            ));
        }
    }
}

/// What a command of a Linux image begins with; others do with a path.
const SHELLS: &[&str] = &["sh", "ash", "bash", "busybox", "dash", "env", "ksh", "zsh"];

/// A command that means a program of a Linux image: it runs no other program than the image's, which
/// takes it for its arguments and may well end without an error.
fn foreign_command(container: &Container, path: &Path, warnings: &mut Vec<String>) {
    let Some(first) = container.command.iter().flatten().next() else { return };
    let image = program_names::of_image(container.image.as_deref().unwrap_or_default());
    let name = first.rsplit('/').next().unwrap_or(first);
    let is_own = program_names::has(&[image.to_string()], name);
    if warnings.len() >= MAX_WARNINGS
        || is_own
        || !(first.starts_with('/') || SHELLS.contains(&name))
    {
        return;
    }
    warnings.push(format!(
        "{}: {first:?} is not run: the program of a Wasm image is its only one, and the command is its \
         name and first arguments",
        path.child("command")
    ));
}

/// The containers of a pod share its address, so that a port can be served only once.
fn duplicate_ports(spec: &PodSpec, path: &Path, warnings: &mut Vec<String>) {
    let containers = path.child("containers");
    let mut seen: HashMap<(i32, &str), (usize, usize)> = HashMap::new();
    for (i, container) in spec.containers.iter().enumerate() {
        let path = containers.index(i);
        for (j, port) in container.ports.iter().flatten().enumerate() {
            let (number, protocol) =
                (port.container_port, port.protocol.as_deref().unwrap_or("TCP"));
            if warnings.len() >= MAX_WARNINGS {
                return;
            }
            match seen.entry((number, protocol)) {
                Entry::Vacant(place) => _ = place.insert((i, j)),
                Entry::Occupied(first) => {
                    let (i, first) = *first.get();
                    let (at, ports) = (containers.index(i), path.child("ports"));
                    let first = at.child("ports").index(first).to_string();
                    let here = ports.index(j);
                    warnings.push(format!("{here}: duplicate port definition with {first}"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_linux_images_are_told_of() {
        let warned = |image: &str, command: &[&str]| {
            let container = Container {
                image: Some(image.into()),
                command: Some(command.iter().map(|word| (*word).to_string()).collect()),
                ..Container::default()
            };
            let mut warnings = Vec::new();
            foreign_command(&container, &Path::new("c"), &mut warnings);
            warnings
        };
        for command in [&["/bin/sh", "-c", "echo hi"][..], &["bash"], &["/usr/bin/tool"]] {
            assert_eq!(warned("web:v1", command).len(), 1, "{command:?}");
        }
        let text = "c.command: \"sh\" is not run: the program of a Wasm image is its only one, and the \
                    command is its name and first arguments";
        assert_eq!(warned("web:v1", &["sh"]), [text]);
        for command in [&[][..], &["web", "--check"], &["/bin/web"], &["/web.wasm"], &["tool"]] {
            assert!(warned("r.io/a/web:v1", command).is_empty(), "{command:?}");
        }
    }
}
