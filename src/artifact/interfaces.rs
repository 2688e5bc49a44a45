//! The one table of what the host provides to a component: WASI interfaces. What it provides to core
//! modules is in [`super::preview1`].
//!
//! It knows names and versions only; what stands behind a name is the room `runtime`'s. A test
//! there holds that every name in this table is really in its linkers.

/// Interfaces of one WASI package, at one version track: `0.2` stands for every `0.2.x`.
pub struct Package {
    /// `wasi:cli` and the like.
    pub name: &'static str,
    /// `0.2` or `0.3`; versions on one track are compatible by semver. A pre-release is a track of
    /// its own.
    pub track: &'static str,
    pub interfaces: &'static [&'static str],
}

/// What a program may import only if its pod says so.
#[derive(Debug, PartialEq, Eq)]
pub struct Grant {
    /// The package.
    pub package: &'static str,
    /// The pod's annotation that gives it.
    pub annotation: &'static str,
    /// What the annotation's value is.
    pub value: &'static str,
}

/// Every package that needs a grant; all others are given to every pod.
pub const GRANTS: &[Grant] = &[Grant {
    package: "wasi:keyvalue",
    annotation: "wasmfleet.dev/keyvalue",
    value: "the names of the buckets that it may open",
}];

impl Package {
    /// `0.2.x`, or the one version of a pre-release.
    pub fn versions(&self) -> String {
        if self.track.contains('-') { self.track.to_owned() } else { format!("{}.x", self.track) }
    }
}

/// Every interface a component may import.
pub const PACKAGES: &[Package] = &[
    Package {
        name: "wasi:cli",
        track: "0.2",
        interfaces: &[
            "environment",
            "exit",
            "stdin",
            "stdout",
            "stderr",
            "terminal-input",
            "terminal-output",
            "terminal-stdin",
            "terminal-stdout",
            "terminal-stderr",
        ],
    },
    Package { name: "wasi:clocks", track: "0.2", interfaces: &["monotonic-clock", "wall-clock"] },
    Package { name: "wasi:filesystem", track: "0.2", interfaces: &["types", "preopens"] },
    Package { name: "wasi:http", track: "0.2", interfaces: &["types", "outgoing-handler"] },
    Package { name: "wasi:io", track: "0.2", interfaces: &["error", "poll", "streams"] },
    Package {
        name: "wasi:random",
        track: "0.2",
        interfaces: &["random", "insecure", "insecure-seed"],
    },
    Package {
        name: "wasi:sockets",
        track: "0.2",
        interfaces: &[
            "network",
            "instance-network",
            "ip-name-lookup",
            "tcp",
            "tcp-create-socket",
            "udp",
            "udp-create-socket",
        ],
    },
    Package {
        name: "wasi:cli",
        track: "0.3",
        interfaces: &[
            "environment",
            "exit",
            "types",
            "stdin",
            "stdout",
            "stderr",
            "terminal-input",
            "terminal-output",
            "terminal-stdin",
            "terminal-stdout",
            "terminal-stderr",
        ],
    },
    Package {
        name: "wasi:clocks",
        track: "0.3",
        interfaces: &["types", "monotonic-clock", "system-clock"],
    },
    Package { name: "wasi:filesystem", track: "0.3", interfaces: &["types", "preopens"] },
    Package { name: "wasi:http", track: "0.3", interfaces: &["types", "client"] },
    Package {
        name: "wasi:random",
        track: "0.3",
        interfaces: &["random", "insecure", "insecure-seed"],
    },
    Package { name: "wasi:sockets", track: "0.3", interfaces: &["types", "ip-name-lookup"] },
    Package { name: "wasi:config", track: "0.2.0-rc.1", interfaces: &["store"] },
    Package {
        name: "wasi:keyvalue",
        track: "0.2.0-draft",
        interfaces: &["store", "atomics", "batch"],
    },
    Package {
        name: "wasmfleet:workload",
        track: "0.1",
        interfaces: &["lifecycle", "shutdown", "readiness", "identity"],
    },
];

/// An interface's name taken apart: `wasi:cli/run@0.2.6`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterfaceName<'a> {
    pub package: &'a str,
    pub interface: &'a str,
    pub version: &'a str,
}

impl<'a> InterfaceName<'a> {
    /// `None` for names that are no `package/interface@version`.
    pub fn parse(name: &'a str) -> Option<Self> {
        let (path, version) = name.split_once('@')?;
        let (package, interface) = path.split_once('/')?;
        Some(Self { package, interface, version })
    }

    /// `0.2` of `0.2.6`, `1` of `1.4.0`; a pre-release is compatible with itself only.
    pub fn track(&self) -> &'a str {
        if self.version.contains('-') {
            return self.version;
        }
        let mut dots = self.version.match_indices('.').map(|(at, _)| at);
        let first = dots.next();
        let end = if self.version.starts_with("0.") { dots.next() } else { first };
        &self.version[..end.unwrap_or(self.version.len())]
    }
}

/// Whether a component's import of this name is provided (`wasi:clocks/wall-clock@0.2.3`).
pub fn provides(name: &str) -> bool {
    let Some(name) = InterfaceName::parse(name) else { return false };
    PACKAGES.iter().any(|package| {
        package.name == name.package
            && package.track == name.track()
            && package.interfaces.contains(&name.interface)
    })
}

/// What modules of preview 1 are compiled for.
const PREVIEW1_TARGET: &str = "wasm32-wasip1";

/// The worlds of components that run here, with their tracks: what exports such an interface is of
/// that world.
const WORLDS: &[(&str, &str, &str)] = &[
    ("wasi:cli/run", "0.2", "wasi:cli/command@0.2"),
    ("wasi:cli/run", "0.3", "wasi:cli/command@0.3"),
    ("wasi:http/incoming-handler", "0.2", "wasi:http/proxy@0.2"),
    ("wasi:http/handler", "0.3", "wasi:http/service@0.3"),
];

/// What a host of this program offers, by the names of `api/kinds/node_features.rs`: targets, worlds
/// and packages. Sorted.
pub fn offered() -> Vec<String> {
    let packages = PACKAGES.iter().map(|one| format!("{}@{}", one.name, one.track));
    let worlds = WORLDS.iter().map(|(_, _, world)| (*world).to_string());
    let mut all: Vec<String> = packages.chain(worlds).chain([PREVIEW1_TARGET.into()]).collect();
    all.sort();
    all.dedup();
    all
}

/// What of that a program needs: its target or its world, and the packages that it imports. `entry`
/// is the export that a host calls, none of a module.
pub fn needed(entry: Option<&str>, imports: &[String]) -> Vec<String> {
    let Some(entry) = entry else { return vec![PREVIEW1_TARGET.into()] };
    let entry = InterfaceName::parse(entry);
    let world = entry.and_then(|name| {
        let path = format!("{}/{}", name.package, name.interface);
        WORLDS.iter().find(|(export, track, _)| *export == path && *track == name.track())
    });
    let world = world.map(|(_, _, world)| (*world).to_string());
    let packages = imports.iter().filter_map(|import| InterfaceName::parse(import));
    let packages = packages.map(|name| format!("{}@{}", name.package, name.track()));
    let mut all: Vec<String> = packages.chain(world).collect();
    all.sort();
    all.dedup();
    all
}

/// What a pod must say so that its program may import this.
pub fn grant_of(import: &str) -> Option<&'static Grant> {
    let name = InterfaceName::parse(import)?;
    GRANTS.iter().find(|grant| grant.package == name.package)
}

/// Why a pod's program may not import this, and how it may; `None`: it may. `given` says whether
/// the pod has an annotation that is not empty.
pub fn refusal(import: &str, given: impl Fn(&str) -> bool) -> Option<String> {
    let grant = grant_of(import).filter(|grant| !given(grant.annotation))?;
    let Grant { annotation, value, .. } = grant;
    Some(format!(
        "the program imports `{import}`, which its pod does not grant: give the pod the \
         annotation `{annotation}` with {value}"
    ))
}

/// What the host provides, for an error's text: of the import's package when there is one of that
/// name, else the packages.
pub fn describe_provided(import: &str) -> String {
    let package = import.split(['/', '@']).next().unwrap_or(import);
    let near: Vec<String> = PACKAGES
        .iter()
        .filter(|provided| provided.name == package)
        .map(|provided| {
            format!(
                "{}/{{{}}}@{}",
                provided.name,
                provided.interfaces.join(","),
                provided.versions()
            )
        })
        .collect();
    if !near.is_empty() {
        return near.join(" and ");
    }
    let all = PACKAGES.iter().map(|provided| format!("{}@{}", provided.name, provided.versions()));
    let all: Vec<String> = all.collect();
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_one_track_are_compatible() {
        assert!(provides("wasi:cli/environment@0.2.0"));
        assert!(provides("wasi:cli/environment@0.2.12"));
        assert!(provides("wasi:http/types@0.3.2"));
        assert!(!provides("wasi:cli/environment@0.1.0"));
        assert!(!provides("wasi:cli/environment@0.3.0-rc-2025-09-16"));
        assert!(!provides("wasi:cli/nothing@0.2.0"));
        assert!(!provides("wasi:cli/environment"));
        assert!(!provides("environment"));
    }

    #[test]
    fn pre_releases_are_provided_as_they_are() {
        assert!(provides("wasi:config/store@0.2.0-rc.1"));
        assert!(provides("wasi:keyvalue/batch@0.2.0-draft"));
        assert!(!provides("wasi:keyvalue/store@0.2.0-draft2"));
        assert!(provides("wasmfleet:workload/identity@0.1.7"));
        let said = describe_provided("wasi:keyvalue/store@0.2.0-draft2");
        assert_eq!(said, "wasi:keyvalue/{store,atomics,batch}@0.2.0-draft");
    }

    #[test]
    fn a_grant_is_named_where_it_lacks() {
        let import = "wasi:keyvalue/store@0.2.0-draft";
        let text = refusal(import, |_| false).expect("refused");
        assert!(text.contains(import) && text.contains("`wasmfleet.dev/keyvalue`"), "{text}");
        assert_eq!(refusal(import, |annotation| annotation == "wasmfleet.dev/keyvalue"), None);
        assert_eq!(refusal("wasi:cli/environment@0.2.0", |_| false), None);
    }

    #[test]
    fn what_programs_need_is_offered() {
        let offered = offered();
        let imports = ["wasi:io/poll@0.2.3", "wasi:io/streams@0.2.0", "wasi:http/types@0.2.6"];
        let imports = imports.map(String::from);
        let needed = |entry| needed(entry, &imports);
        let handler = needed(Some("wasi:http/incoming-handler@0.2.6"));
        assert_eq!(handler, ["wasi:http/proxy@0.2", "wasi:http@0.2", "wasi:io@0.2"]);
        assert!(handler.iter().all(|one| offered.contains(one)), "{offered:?}");
        assert_eq!(needed(None), ["wasm32-wasip1"]);
        assert!(offered.contains(&"wasi:keyvalue@0.2.0-draft".to_string()));
    }

    #[test]
    fn tracks_follow_semver() {
        let track = |version| InterfaceName { package: "a:b", interface: "c", version }.track();
        assert_eq!(track("0.2.6"), "0.2");
        assert_eq!(track("1.4.0"), "1");
        assert_eq!(track("0.3.0-rc-1"), "0.3.0-rc-1");
        assert_eq!(track("7"), "7");
    }
}
