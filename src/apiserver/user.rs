//! Who asks.

use std::collections::BTreeMap;

/// An authenticated caller: the common name and organizations of a client certificate, or what a
/// token stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct User {
    pub name: String,
    pub groups: Vec<String>,
    /// Empty where who vouches for the user gives none, as certificates do.
    pub uid: String,
    /// What who vouches for the user adds; nothing here decides by it.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Members may do everything (k8s.io/apiserver/pkg/authentication/user).
pub const SYSTEM_MASTERS: &str = "system:masters";
/// Node agents.
pub const SYSTEM_NODES: &str = "system:nodes";
/// Processes that stand for simulated nodes.
pub const SIMULATORS: &str = "system:simulators";
/// All service accounts; those of a namespace are in the group with its name behind a colon, too.
pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
/// What namespace and name, with a colon between them, follow in a service account's user name.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";
/// Everyone who proved who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Everyone who did not, and the name that they have.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
pub const ANONYMOUS: &str = "system:anonymous";

impl User {
    pub fn new(name: impl Into<String>, groups: &[&str]) -> User {
        let groups = groups.iter().map(|g| g.to_string()).collect();
        User { name: name.into(), groups, ..User::default() }
    }

    /// A part of the control plane in the same process.
    pub fn system(component: &str) -> User {
        User::new(format!("system:{component}"), &[SYSTEM_MASTERS])
    }

    /// The node agent of a node (authenticated, limited to its node).
    pub fn node(node: &str) -> User {
        User::new(format!("system:node:{node}"), &[SYSTEM_NODES, AUTHENTICATED])
    }

    /// The simulator of this name (authenticated, limited to its nodes).
    pub fn simulator(name: &str) -> User {
        User::new(format!("system:simulator:{name}"), &[SIMULATORS, AUTHENTICATED])
    }

    /// A service account (authenticated).
    pub fn service_account(namespace: &str, name: &str) -> User {
        let name = format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}");
        let [all, own] = service_account_groups(namespace);
        User::new(name, &[&all, &own, AUTHENTICATED])
    }

    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// What every service account of a namespace is in.
pub fn service_account_groups(namespace: &str) -> [String; 2] {
    [SERVICE_ACCOUNTS.to_owned(), format!("{SERVICE_ACCOUNTS}:{namespace}")]
}
