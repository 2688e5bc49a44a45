//! Who may do what, by URL and verb, before any object is read.
//!
//! `system:masters` may do everything; a node agent may do what the table below lists (the Node
//! authorizer's part that a URL shows; rules that need the object are the functions at the end,
//! for admission); whatever else anyone may do is granted by roles ([`super::rbac`]). What Pods
//! refer to is in [`super::node_graph`].

use super::User;
use super::node_graph::Referent;
use super::rbac::Rules;
use super::user::{SIMULATORS, SYSTEM_MASTERS, SYSTEM_NODES};
use crate::api::error::Reason;
use crate::api::{ApiError, Gvr, simulated};
use crate::client::node_paths::code_path;

/// What a request wants to do. `resource` is `None` for paths outside the resources, whose verb is
/// the method in lower case.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// get, list, watch, create, update, patch, delete, deletecollection.
    pub verb: &'a str,
    pub resource: Option<&'a Gvr>,
    pub subresource: &'a str,
    /// Empty for cluster-scoped kinds and requests over all namespaces.
    pub namespace: &'a str,
    /// Empty for collections.
    pub name: &'a str,
    pub path: &'a str,
}

/// The namespace of the nodes' heartbeats.
pub const NODE_LEASES: &str = "kube-node-lease";

/// Which objects of a resource a row of the table is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Any,
    /// Named like a node of the agent. Creation has no name in its URL: see [`node_may_create`].
    OwnName,
    /// Named like the agent, in [`NODE_LEASES`].
    OwnLease,
}

struct Row {
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    verbs: &'static [&'static str],
    scope: Scope,
}

const READ: &[&str] = &["get", "list", "watch"];
const WRITE_STATUS: &[&str] = &["get", "update", "patch"];
const WRITE_OWN: &[&str] = &["get", "create", "update", "patch"];
const WRITE_EVENTS: &[&str] = &["create", "patch", "update"];

const fn row(
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    verbs: &'static [&'static str],
    scope: Scope,
) -> Row {
    Row { group, resource, subresource, verbs, scope }
}

/// What a node agent may do.
const NODE_TABLE: &[Row] = &[
    row("", "nodes", "", READ, Scope::Any),
    row("", "nodes", "", WRITE_OWN, Scope::OwnName),
    row("", "nodes", "status", WRITE_STATUS, Scope::OwnName),
    row("coordination.k8s.io", "leases", "", WRITE_OWN, Scope::OwnLease),
    row("", "pods", "", READ, Scope::Any),
    // Those bound to it, and creates mirrors of its static pods: see admission/node_restriction.rs.
    row("", "pods", "", &["create", "delete"], Scope::Any),
    row("", "pods", "status", WRITE_STATUS, Scope::Any),
    row("", "services", "", READ, Scope::Any),
    // That a connection is held, and nothing else: see admission/node_restriction.rs.
    row("", "services", "status", &["patch"], Scope::Any),
    row("discovery.k8s.io", "endpointslices", "", READ, Scope::Any),
    // And only those that its Pods refer to: see [`needs_reference`].
    row("", "configmaps", "", &["get", "create", "patch"], Scope::Any),
    row("", "secrets", "", &["get"], Scope::Any),
    row("", "persistentvolumeclaims", "", &["get"], Scope::Any),
    // Also to take the provisioner's finalizer off its own ones: see admission/node_restriction.rs.
    row("", "persistentvolumes", "", &["get", "patch"], Scope::Any),
    // And only for its Pods: see [`super::subresource`].
    row("", "serviceaccounts", "token", &["create"], Scope::Any),
    row("", "namespaces", "", READ, Scope::Any),
    row("", "events", "", WRITE_EVENTS, Scope::Any),
];

/// What a simulator may do. Its nodes run nothing: it sees no object but Nodes and Pods.
const SIMULATOR_TABLE: &[Row] = &[
    row("", "nodes", "", READ, Scope::Any),
    row("", "nodes", "", WRITE_OWN, Scope::OwnName),
    row("", "nodes", "status", WRITE_STATUS, Scope::OwnName),
    row("coordination.k8s.io", "leases", "", WRITE_OWN, Scope::OwnLease),
    row("coordination.k8s.io", "leases", "", &["delete"], Scope::OwnLease),
    // And writes those of its nodes only, as node agents do.
    row("", "pods", "", READ, Scope::Any),
    row("", "pods", "", &["delete"], Scope::Any),
    row("", "pods", "status", WRITE_STATUS, Scope::Any),
];

/// Whom a node's credentials stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agent<'a> {
    /// The agent of the node of this name.
    Node(&'a str),
    /// Many nodes that run nothing ([`simulated`]).
    Simulator(&'a str),
}

impl<'a> Agent<'a> {
    /// The node's name, or the simulator's; their Lease has the same.
    pub fn name(self) -> &'a str {
        match self {
            Agent::Node(name) | Agent::Simulator(name) => name,
        }
    }

    /// Whether a node is the agent's.
    pub fn has(self, node: &str) -> bool {
        match self {
            Agent::Node(name) => name == node,
            Agent::Simulator(name) => simulated::index_of(name, node).is_some(),
        }
    }

    fn allowed(self, attributes: &Attributes<'_>) -> bool {
        match (self, attributes.resource) {
            (Agent::Node(node), None) => path_allowed(node, attributes),
            (Agent::Simulator(_), None) => false,
            (_, Some(resource)) => agent_allowed(self, resource, attributes),
        }
    }
}

impl<'a> Attributes<'a> {
    /// Of a request outside the resources.
    pub fn of_path(verb: &'a str, path: &'a str) -> Attributes<'a> {
        Attributes { verb, resource: None, subresource: "", namespace: "", name: "", path }
    }
}

/// Allows or refuses.
///
/// # Errors
/// 403 with upstream's text.
pub fn authorize(rules: &Rules, user: &User, attributes: &Attributes<'_>) -> Result<(), ApiError> {
    let allowed = user.is_in(SYSTEM_MASTERS)
        || agent(user).is_some_and(|agent| agent.allowed(attributes))
        || rules.allows(user, attributes);
    if allowed { Ok(()) } else { Err(forbidden(user, attributes)) }
}

/// The node whose agent the user is: in the group `system:nodes`, named `system:node:<name>`.
pub fn node_name(user: &User) -> Option<&str> {
    let name = user.name.strip_prefix("system:node:").filter(|name| !name.is_empty())?;
    user.is_in(SYSTEM_NODES).then_some(name)
}

/// Whom a user stands for that has a node's credentials, or a simulator's.
pub fn agent(user: &User) -> Option<Agent<'_>> {
    if let Some(node) = node_name(user) {
        return Some(Agent::Node(node));
    }
    let name = user.name.strip_prefix("system:simulator:").filter(|name| !name.is_empty())?;
    user.is_in(SIMULATORS).then_some(Agent::Simulator(name))
}

/// The node and the kind of an object that a node's agent may read only if a Pod bound to the node
/// refers to it.
pub(super) fn needs_reference<'a>(
    user: &'a User,
    attributes: &Attributes<'_>,
) -> Option<(&'a str, Referent)> {
    let node = node_name(user).filter(|_| !user.is_in(SYSTEM_MASTERS))?;
    let resource = attributes.resource.filter(|resource| resource.group.is_empty())?;
    if !agent_allowed(Agent::Node(node), resource, attributes) {
        return None;
    }
    match &*resource.resource {
        // What it writes are buckets of its Pods; a new one's name is seen by admission
        // (`admission::node_restriction`).
        "configmaps" if attributes.verb == "create" && attributes.name.is_empty() => None,
        "configmaps" if attributes.verb != "get" => Some((node, Referent::Bucket)),
        "configmaps" => Some((node, Referent::ConfigMap)),
        "secrets" => Some((node, Referent::Secret)),
        "persistentvolumeclaims" => Some((node, Referent::Claim)),
        _ => None,
    }
}

/// The node whose agent asks for a volume, and whether it must be one that was made there.
pub(super) fn needs_volume<'a>(
    user: &'a User,
    attributes: &Attributes<'_>,
) -> Option<(&'a str, bool)> {
    let node = node_name(user).filter(|_| !user.is_in(SYSTEM_MASTERS))?;
    let resource = attributes.resource.filter(|resource| resource.group.is_empty())?;
    let is_volume = resource.resource == "persistentvolumes";
    let asks = is_volume && agent_allowed(Agent::Node(node), resource, attributes);
    asks.then_some((node, attributes.verb != "get"))
}

/// Whether a user may write the status of, or delete, a pod that is bound to this node ("" while
/// it is not bound): everyone who passed [`authorize`] but another node's agent.
pub fn node_may_write_pod(user: &User, pod_node_name: &str) -> bool {
    agent(user).is_none_or(|agent| agent.has(pod_node_name))
}

/// Whether a user may create an object of this name where names are only seen in the body: a
/// node's agent creates no Node and no Lease but its own.
pub fn node_may_create(user: &User, resource: &Gvr, name: &str) -> bool {
    let Some(agent) = agent(user) else { return true };
    match (&*resource.group, &*resource.resource) {
        ("", "nodes") => agent.has(name),
        ("coordination.k8s.io", "leases") => agent.name() == name,
        _ => true,
    }
}

/// Nodes pull programs, open their own tunnel, and ask for code of what they run.
fn path_allowed(node: &str, attributes: &Attributes<'_>) -> bool {
    let path = attributes.path;
    let reads = matches!(attributes.verb, "get" | "head")
        && (is_under(path, "/v2") || path == super::nodes::tunnel_path(node));
    reads || matches!(attributes.verb, "get" | "post") && path.starts_with(&code_path(node))
}

/// `/v2` covers `/v2` and `/v2/…`, and not `/v2x`.
fn is_under(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn agent_allowed(agent: Agent<'_>, resource: &Gvr, attributes: &Attributes<'_>) -> bool {
    let (verb, name) = (attributes.verb, attributes.name);
    let creates = verb == "create" && name.is_empty();
    let table = match agent {
        Agent::Node(_) => NODE_TABLE,
        Agent::Simulator(_) => SIMULATOR_TABLE,
    };
    table.iter().any(|row| {
        row.group == resource.group
            && row.resource == resource.resource
            && row.subresource == attributes.subresource
            && row.verbs.contains(&verb)
            && match row.scope {
                Scope::Any => true,
                Scope::OwnName => creates || agent.has(name),
                Scope::OwnLease => {
                    (creates || agent.name() == name) && attributes.namespace == NODE_LEASES
                }
            }
    })
}

/// No Pod of the node refers to the object.
pub(super) fn unrelated(user: &User, attributes: &Attributes<'_>, node: &str) -> ApiError {
    let mut error = forbidden(user, attributes);
    error.message += &format!(": no relationship found between node '{node}' and this object");
    error
}

/// Upstream's words (k8s.io/apiserver/pkg/endpoints/handlers/responsewriters/errors.go).
fn forbidden(user: &User, attributes: &Attributes<'_>) -> ApiError {
    let Attributes { verb, subresource, namespace, name, path, .. } = attributes;
    let user = &user.name;
    let Some(resource) = attributes.resource else {
        let message = format!("forbidden: User {user:?} cannot {verb} path {path:?}");
        return ApiError::new(403, Reason::Forbidden, message);
    };
    let mut what = resource.resource.to_string();
    if !subresource.is_empty() {
        what = format!("{what}/{subresource}");
    }
    let place = match namespace {
        &"" => "at the cluster scope".to_string(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    let group = &*resource.group;
    let why =
        format!("User {user:?} cannot {verb} resource {what:?} in API group {group:?} {place}");
    if !name.is_empty() {
        return ApiError::forbidden(resource, name, why);
    }
    let message = format!("{} is forbidden: {why}", resource.qualified());
    ApiError::new(403, Reason::Forbidden, message).about(resource, "")
}
