//! Roles that gather others.

use super::*;

#[test]
fn a_role_that_gathers_others_shows_their_rules() {
    let rule = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]});
    let role = |name: &str, to: &str, rules: &[&Value]| {
        json!({"kind": "ClusterRole", "rules": rules,
            "metadata": {"name": name, "labels": {"to": to}}})
    };
    let gathers = |rules: &[&Value]| {
        let mut role = role("all", "view", rules);
        role["aggregationRule"] =
            json!({"clusterRoleSelectors": [{"matchLabels": {"to": "view"}}]});
        role
    };
    let parts = [role("a", "view", &[&rule]), role("b", "view", &[&rule]), role("c", "x", &[])];
    let plan = |all: Value| {
        let objects = Objects::new(&[&parts[..], &[all]].concat());
        let key = |name| objects.plan("clusterrole-aggregation-controller", name);
        assert!(key("a").is_empty(), "it gathers none");
        objects.text(&key("all"))
    };
    let wanted = r#"{"rules":[{"apiGroups":[""],"resources":["pods"],"verbs":["get"]}]}"#;
    assert_eq!(
        plan(gathers(&[])),
        format!("update clusterroles.rbac.authorization.k8s.io all {wanted}")
    );
    assert_eq!(plan(gathers(&[&rule])), "");
}
