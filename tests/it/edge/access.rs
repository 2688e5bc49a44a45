//! The table of who may do what.

use wasmfleet::api::ApiError;
use wasmfleet::api::Gvr;
use wasmfleet::apiserver::User;
use wasmfleet::apiserver::authz::{self, Attributes};
use wasmfleet::apiserver::rbac::{Change, Rules, defaults};

static PODS: Gvr = Gvr::new("", "v1", "pods", true);
static NODES: Gvr = Gvr::new("", "v1", "nodes", false);
static LEASES: Gvr = Gvr::new("coordination.k8s.io", "v1", "leases", true);
static SECRETS: Gvr = Gvr::new("", "v1", "secrets", true);
static SERVICES: Gvr = Gvr::new("", "v1", "services", true);
static ACCOUNTS: Gvr = Gvr::new("", "v1", "serviceaccounts", true);
static DEPLOYMENTS: Gvr = Gvr::new("apps", "v1", "deployments", true);

fn ask<'a>(verb: &'a str, resource: &'a Gvr, what: &'a str) -> Attributes<'a> {
    // namespace/name/subresource
    let mut parts = what.split('/');
    let mut part = || parts.next().unwrap_or_default();
    let (namespace, name, subresource) = (part(), part(), part());
    Attributes { verb, resource: Some(resource), subresource, namespace, name, path: "" }
}

fn path<'a>(verb: &'a str, path: &'a str) -> Attributes<'a> {
    Attributes::of_path(verb, path)
}

/// By the roles that every cluster has.
fn authorize(user: &User, attributes: &Attributes) -> Result<(), ApiError> {
    let rules = Rules::default();
    for role in defaults::cluster_roles() {
        let name = role["metadata"]["name"].as_str().unwrap().to_string();
        rules.take(Change::ClusterRole(&name, Some(serde_json::from_value(role).unwrap())));
    }
    for binding in defaults::cluster_role_bindings() {
        let name = binding["metadata"]["name"].as_str().unwrap().to_string();
        let binding = Some(serde_json::from_value(binding).unwrap());
        rules.take(Change::ClusterRoleBinding(&name, binding));
    }
    authz::authorize(&rules, user, attributes)
}

#[test]
fn masters_may_do_everything() {
    let admin = User::system("admin");
    assert!(authorize(&admin, &ask("delete", &PODS, "n/x")).is_ok());
    assert!(authorize(&admin, &path("post", "/anything")).is_ok());
}

#[test]
fn a_node_is_limited_to_its_own() {
    let node = User::node("n1");
    let allowed = [
        ask("create", &NODES, ""),
        ask("patch", &NODES, "/n1/status"),
        ask("list", &NODES, ""),
        ask("update", &LEASES, "kube-node-lease/n1"),
        ask("create", &LEASES, "kube-node-lease/"),
        ask("watch", &PODS, ""),
        ask("patch", &PODS, "n/x/status"),
        // Mirrors: see `api::static_pods`.
        ask("create", &PODS, "n/"),
        ask("delete", &PODS, "n/x"),
        ask("patch", &SERVICES, "n/x/status"),
        ask("create", &ACCOUNTS, "n/x/token"),
        path("get", "/v2/hello/manifests/latest"),
        path("get", "/wasmfleet/v1/nodes/n1/tunnel"),
    ];
    for attributes in &allowed {
        assert!(authorize(&node, attributes).is_ok(), "{attributes:?}");
    }
    let refused = [
        ask("patch", &NODES, "/n2/status"),
        ask("update", &NODES, "/n2"),
        ask("delete", &NODES, "/n1"),
        ask("update", &LEASES, "kube-node-lease/n2"),
        ask("update", &LEASES, "default/n1"),
        ask("update", &PODS, "n/x"),
        ask("deletecollection", &PODS, "n/"),
        ask("create", &PODS, "n/x/exec"),
        ask("patch", &SERVICES, "n/x"),
        ask("update", &SERVICES, "n/x/status"),
        ask("get", &DEPLOYMENTS, "n/x"),
        ask("list", &SECRETS, "n/"),
        ask("watch", &SECRETS, "n/x"),
        ask("create", &ACCOUNTS, "n/"),
        ask("get", &ACCOUNTS, "n/x"),
        path("put", "/v2/hello/manifests/latest"),
        path("get", "/wasmfleet/v1/nodes/n2/tunnel"),
        path("get", "/wasmfleet/v1/nodes/n1/tunnel/x"),
        path("get", "/metrics"),
    ];
    for attributes in &refused {
        assert!(authorize(&node, attributes).is_err(), "{attributes:?}");
    }
    assert!(authz::node_may_write_pod(&node, "n1"));
    assert!(!authz::node_may_write_pod(&node, "n2"));
    assert!(!authz::node_may_write_pod(&node, ""));
    assert!(authz::node_may_create(&node, &NODES, "n1"));
    assert!(!authz::node_may_create(&node, &NODES, "n2"));
    // The name alone makes no node, nor does the group.
    for user in [User::new("system:node:n1", &[]), User::new("n1", &["system:nodes"])] {
        assert!(authorize(&user, &ask("watch", &PODS, "")).is_err());
    }
}

#[test]
fn the_authenticated_may_discover_and_no_more() {
    let user = User::new("u", &["system:authenticated"]);
    for p in ["/api", "/apis/apps/v1", "/openapi/v3", "/version", "/healthz", "/livez"] {
        assert!(authorize(&user, &path("get", p)).is_ok(), "{p}");
    }
    for p in ["/apix", "/v2/hello/tags/list", "/logs"] {
        assert!(authorize(&user, &path("get", p)).is_err(), "{p}");
    }
    let anonymous = User::new("system:anonymous", &["system:unauthenticated"]);
    assert!(authorize(&anonymous, &path("get", "/readyz")).is_ok());
    assert!(authorize(&anonymous, &path("get", "/api")).is_err());
}

#[test]
fn refusals_have_upstreams_words() {
    let user = User::new("u", &["system:authenticated"]);
    let text = |attributes: &Attributes| authorize(&user, attributes).unwrap_err().message;
    assert_eq!(
        text(&ask("delete", &PODS, "n/x")),
        r#"pods "x" is forbidden: User "u" cannot delete resource "pods" in API group "" in the namespace "n""#
    );
    assert_eq!(
        text(&ask("list", &DEPLOYMENTS, "")),
        r#"deployments.apps is forbidden: User "u" cannot list resource "deployments" in API group "apps" at the cluster scope"#
    );
    assert_eq!(
        text(&ask("update", &PODS, "n/x/status")),
        r#"pods "x" is forbidden: User "u" cannot update resource "pods/status" in API group "" in the namespace "n""#
    );
    assert_eq!(text(&path("get", "/metrics")), r#"forbidden: User "u" cannot get path "/metrics""#);
}
