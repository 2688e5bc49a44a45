//! Who asks.

/// An authenticated caller: the common name and organizations of a client certificate, or what a
/// token stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct User {
    pub name: String,
    pub groups: Vec<String>,
}

/// Members may do everything (k8s.io/apiserver/pkg/authentication/user).
pub const SYSTEM_MASTERS: &str = "system:masters";
/// Node agents.
pub const SYSTEM_NODES: &str = "system:nodes";
/// Everyone who proved who they are.
pub const AUTHENTICATED: &str = "system:authenticated";

impl User {
    pub fn new(name: impl Into<String>, groups: &[&str]) -> User {
        User { name: name.into(), groups: groups.iter().map(|g| g.to_string()).collect() }
    }

    /// A part of the control plane in the same process.
    pub fn system(component: &str) -> User {
        User::new(format!("system:{component}"), &[SYSTEM_MASTERS])
    }

    /// The node agent of a node (authenticated, limited to its node).
    pub fn node(node: &str) -> User {
        User::new(format!("system:node:{node}"), &[SYSTEM_NODES, AUTHENTICATED])
    }

    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}
