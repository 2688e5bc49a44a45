//! Rules, bindings and the default roles, fed by hand.

use super::*;
use crate::api::Gvr;
use serde_json::json;

static PODS: Gvr = Gvr::new("", "v1", "pods", true);
static DEPLOYMENTS: Gvr = Gvr::new("apps", "v1", "deployments", true);

fn ask<'a>(
    verb: &'a str,
    resource: &'a Gvr,
    subresource: &'a str,
    (namespace, name): (&'a str, &'a str),
) -> Attributes<'a> {
    Attributes { verb, resource: Some(resource), subresource, namespace, name, path: "" }
}

fn rule(value: serde_json::Value) -> PolicyRule {
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_rule_covers_by_verb_group_resource_and_name() {
    let read = rule(json!({"apiGroups": [""], "resources": ["pods", "*/scale"],
        "resourceNames": ["a"], "verbs": ["get"]}));
    assert!(covers(&read, &ask("get", &PODS, "", ("n", "a"))));
    assert!(!covers(&read, &ask("get", &PODS, "", ("n", "b"))));
    assert!(!covers(&read, &ask("list", &PODS, "", ("n", ""))));
    assert!(!covers(&read, &ask("get", &PODS, "log", ("n", "a"))), "a subresource is named");
    assert!(!covers(&read, &ask("get", &DEPLOYMENTS, "scale", ("n", "a"))), "the group differs");
    let all = rule(json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}));
    assert!(covers(&all, &ask("delete", &PODS, "log", ("n", "a"))));
    let url = rule(json!({"nonResourceURLs": ["/healthz/*", "/version"], "verbs": ["get"]}));
    let path = |path| Attributes { resource: None, path, ..ask("get", &PODS, "", ("", "")) };
    assert!(covers(&url, &path("/healthz/etcd")) && covers(&url, &path("/version")));
    assert!(!covers(&url, &path("/versions")) && !covers(&url, &ask("get", &PODS, "", ("", ""))));
}

fn rules() -> Rules {
    let rules = Rules::default();
    let role = |value| serde_json::from_value(value).unwrap();
    let view = json!({"metadata": {"name": "view"}, "aggregationRule": {"clusterRoleSelectors":
        [{"matchLabels": {"to-view": "true"}}]}});
    rules.take(Change::ClusterRole("view", Some(role(view))));
    let pods = json!({"metadata": {"name": "pods", "labels": {"to-view": "true"}},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]});
    rules.take(Change::ClusterRole("pods", Some(role(pods))));
    rules
}

fn bind(rules: &Rules, namespace: &str, role: &str, subjects: serde_json::Value) {
    let value = json!({"metadata": {"name": "b"}, "subjects": subjects, "roleRef":
        {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}});
    if namespace.is_empty() {
        let binding = serde_json::from_value(value).unwrap();
        rules.take(Change::ClusterRoleBinding("b", Some(binding)));
    } else {
        let key = ObjectKey::new(namespace, "b");
        rules.take(Change::RoleBinding(&key, Some(serde_json::from_value(value).unwrap())));
    }
}

#[test]
fn bindings_hold_where_they_are_and_for_whom_they_name() {
    let rules = rules();
    let ann = User::new("ann", &["dev"]);
    let robot = User::new("system:serviceaccount:n:robot", &[]);
    let get = |place| ask("get", &PODS, "", (place, "x"));
    assert!(!rules.allows(&ann, &get("n")));
    bind(
        &rules,
        "n",
        "view",
        json!([{"kind": "User", "name": "ann"},
        {"kind": "ServiceAccount", "name": "robot", "namespace": "n"}]),
    );
    assert!(rules.allows(&ann, &get("n")), "through the aggregated role");
    assert_eq!(
        rules.reason(&robot, &get("n")).unwrap(),
        r#"RBAC: allowed by RoleBinding "b/n" of ClusterRole "view" to ServiceAccount "robot/n""#
    );
    assert!(rules.allows(&robot, &get("n")));
    assert!(!rules.allows(&ann, &get("m")) && !rules.allows(&ann, &get("")));
    bind(&rules, "", "pods", json!([{"kind": "Group", "name": "dev"}]));
    assert!(rules.allows(&ann, &get("m")) && rules.allows(&ann, &get("")));
    assert!(!rules.allows(&robot, &get("m")));
    // A binding that changes its subjects forgets the old ones.
    bind(&rules, "", "pods", json!([{"kind": "Group", "name": "ops"}]));
    assert!(!rules.allows(&ann, &get("m")) && rules.allows(&ann, &get("n")));
    rules.take(Change::RoleBinding(&ObjectKey::new("n", "b"), None));
    assert!(!rules.allows(&ann, &get("n")) && !rules.allows(&robot, &get("n")));
    assert!(rules.table.read().by_subject.len() == 1, "nothing is left behind");
}

#[test]
fn the_default_roles_gather_each_other() {
    let rules = Rules::default();
    for role in defaults::cluster_roles() {
        let role: ClusterRole = serde_json::from_value(role).unwrap();
        let name = role.metadata.name.clone().unwrap();
        rules.take(Change::ClusterRole(&name, Some(role)));
    }
    for binding in defaults::cluster_role_bindings() {
        let binding: ClusterRoleBinding = serde_json::from_value(binding).unwrap();
        let name = binding.metadata.name.clone().unwrap();
        rules.take(Change::ClusterRoleBinding(&name, Some(binding)));
    }
    let root = User::new("root", &["system:masters"]);
    assert!(rules.allows(&root, &ask("delete", &DEPLOYMENTS, "", ("", ""))));
    let ann = User::new("ann", &["system:authenticated"]);
    let path = Attributes { resource: None, path: "/api/v1", ..ask("get", &PODS, "", ("", "")) };
    assert!(rules.allows(&ann, &path));
    assert!(!rules.allows(&ann, &ask("get", &PODS, "", ("n", "x"))));
    bind(&rules, "n", "admin", json!([{"kind": "User", "name": "ann"}]));
    assert!(rules.allows(&ann, &ask("get", &PODS, "log", ("n", "x"))), "by view");
    assert!(rules.allows(&ann, &ask("patch", &DEPLOYMENTS, "scale", ("n", "x"))), "by edit");
    assert!(!rules.allows(&ann, &ask("get", &PODS, "", ("m", "x"))));
}

#[test]
fn a_role_that_goes_grants_nothing() {
    let rules = rules();
    let ann = User::new("ann", &[]);
    bind(&rules, "", "view", json!([{"kind": "User", "name": "ann"}]));
    assert_eq!(rules.of_user(&ann, "").len(), 1);
    rules.take(Change::ClusterRole("pods", None));
    assert!(!rules.allows(&ann, &ask("get", &PODS, "", ("n", "x"))));
}
