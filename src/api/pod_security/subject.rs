//! What is checked: a Pod's annotations and spec, its containers of all kinds in one list; and the
//! words that the checks share.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    ContainerPort, Lifecycle, PodSecurityContext, PodSpec, Probe, SecurityContext,
};

/// A Pod, or a template of Pods.
pub struct Subject<'a> {
    pub annotations: &'a BTreeMap<String, String>,
    pub spec: &'a PodSpec,
    pub containers: Vec<Container<'a>>,
}

/// What checks look at of a container.
pub struct Container<'a> {
    pub name: &'a str,
    pub context: Option<&'a SecurityContext>,
    pub ports: &'a [ContainerPort],
    pub probes: [Option<&'a Probe>; 3],
    pub lifecycle: Option<&'a Lifecycle>,
}

macro_rules! container {
    ($one:expr) => {
        Container {
            name: &$one.name,
            context: $one.security_context.as_ref(),
            ports: $one.ports.as_deref().unwrap_or_default(),
            probes: [&$one.liveness_probe, &$one.readiness_probe, &$one.startup_probe]
                .map(Option::as_ref),
            lifecycle: $one.lifecycle.as_ref(),
        }
    };
}

impl<'a> Subject<'a> {
    pub fn new(annotations: &'a BTreeMap<String, String>, spec: &'a PodSpec) -> Subject<'a> {
        let init = spec.init_containers.iter().flatten().map(|one| container!(one));
        let main = spec.containers.iter().map(|one| container!(one));
        let debug = spec.ephemeral_containers.iter().flatten().map(|one| container!(one));
        Subject { annotations, spec, containers: init.chain(main).chain(debug).collect() }
    }

    pub fn context(&self) -> Option<&PodSecurityContext> {
        self.spec.security_context.as_ref()
    }

    /// The names of the containers whose context is as told; without one, it is `missing`.
    pub fn with(&self, missing: bool, bad: impl Fn(&SecurityContext) -> bool) -> Vec<&str> {
        let containers = self.containers.iter();
        let found = containers.filter(|one| one.context.map_or(missing, &bad));
        found.map(|one| one.name).collect()
    }

    /// Pods for Windows are held to other rules by validation.
    pub fn is_windows(&self) -> bool {
        self.spec.os.as_ref().is_some_and(|os| os.name == "windows")
    }

    /// In a user namespace of its own, root is nobody outside.
    pub fn has_own_users(&self) -> bool {
        self.spec.host_users == Some(false)
    }
}

/// `"a", "b"`.
pub fn quoted<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| format!("\"{item}\"")).collect();
    items.join(", ")
}

/// The same of a set.
pub fn listed(items: &BTreeSet<String>) -> String {
    quoted(items.iter().map(String::as_str))
}

pub fn plural(one: &'static str, many: &'static str, count: usize) -> &'static str {
    if count == 1 { one } else { many }
}

/// `container "a"`, or `containers "a", "b"`.
pub fn containers(names: &[&str]) -> String {
    let word = plural("container", "containers", names.len());
    format!("{word} {}", quoted(names.iter().copied()))
}

/// `pod and container "a"`: who sets something; none if nobody does.
pub fn setters(pod: bool, names: &[&str]) -> Option<String> {
    match (pod, names) {
        (false, []) => None,
        (true, []) => Some("pod".into()),
        (false, names) => Some(containers(names)),
        (true, names) => Some(format!("pod and {}", containers(names))),
    }
}
