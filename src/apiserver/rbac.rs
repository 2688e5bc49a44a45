//! Authorization by Role, ClusterRole and their bindings (rbac.authorization.k8s.io/v1).
//!
//! Owns the rules in the form that requests are decided by, kept from commits ([`Rules::take`]),
//! and the decision. Roles that every cluster has are in [`defaults`]. Rules only allow: a request
//! is allowed if any rule of any role that is bound to its user says so. Knows nothing of HTTP.

pub mod defaults;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use parking_lot::RwLock;

use super::User;
use super::authz::Attributes;
use crate::api::ObjectKey;
use crate::api::selector::Selector;

/// The user name of a service account is this, its namespace and its name.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// Every rule of the cluster. Readers never wait for a role to be read: they see the table as it
/// was after the last commit that was taken in.
#[derive(Default)]
pub struct Rules {
    table: RwLock<Table>,
}

#[derive(Default)]
struct Table {
    roles: HashMap<ObjectKey, Arc<Vec<PolicyRule>>>,
    cluster_roles: HashMap<String, ClusterRoleRules>,
    /// Bindings by who they are for; each names where its role is and where it holds.
    by_subject: HashMap<SubjectKey, Vec<Grant>>,
    /// What each binding put into `by_subject`, so that it can be taken out again.
    bindings: HashMap<ObjectKey, HashSet<SubjectKey>>,
}

struct ClusterRoleRules {
    labels: BTreeMap<String, String>,
    own: Vec<PolicyRule>,
    /// Selectors of the roles whose rules are added (aggregationRule).
    aggregates: Vec<Selector>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum SubjectKey {
    User(String),
    Group(String),
}

/// One binding, as one of its subjects sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Grant {
    /// The binding: an empty namespace means a ClusterRoleBinding, which holds everywhere.
    binding: ObjectKey,
    role: RoleKey,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum RoleKey {
    Role(ObjectKey),
    ClusterRole(String),
}

/// A change of one of the four kinds; `None` is a deletion.
pub enum Change<'a> {
    Role(&'a ObjectKey, Option<Role>),
    ClusterRole(&'a str, Option<ClusterRole>),
    RoleBinding(&'a ObjectKey, Option<RoleBinding>),
    ClusterRoleBinding(&'a str, Option<ClusterRoleBinding>),
}

impl Rules {
    /// Takes a committed change in.
    pub fn take(&self, change: Change) {
        let mut table = self.table.write();
        match change {
            Change::Role(key, Some(role)) => {
                table.roles.insert(key.clone(), Arc::new(role.rules.unwrap_or_default()));
            }
            Change::Role(key, None) => {
                table.roles.remove(key);
            }
            Change::ClusterRole(name, Some(role)) => {
                table.cluster_roles.insert(name.to_string(), ClusterRoleRules::of(role));
            }
            Change::ClusterRole(name, None) => {
                table.cluster_roles.remove(name);
            }
            Change::RoleBinding(key, binding) => {
                let parts = binding.map(|b| (b.role_ref, b.subjects.unwrap_or_default()));
                table.bind(key.clone(), parts);
            }
            Change::ClusterRoleBinding(name, binding) => {
                let parts = binding.map(|b| (b.role_ref, b.subjects.unwrap_or_default()));
                table.bind(ObjectKey::new("", name), parts);
            }
        }
    }

    /// Whether a rule allows the request.
    pub fn allows(&self, user: &User, attributes: &Attributes<'_>) -> bool {
        let table = self.table.read();
        table.any_rule(user, attributes.namespace, |rule| covers(rule, attributes))
    }

    /// Every rule that holds for a user in a namespace, for SelfSubjectRulesReview and for the
    /// check that nobody grants what they do not have.
    pub fn of_user(&self, user: &User, namespace: &str) -> Vec<PolicyRule> {
        let mut rules = Vec::new();
        self.table.read().any_rule(user, namespace, |rule| {
            rules.push(rule.clone());
            false
        });
        rules
    }

    /// The rules of a role that a binding names; empty where the role is not there.
    pub fn of_role(&self, namespace: &str, role: &RoleRef) -> Vec<PolicyRule> {
        let mut rules = Vec::new();
        let key = RoleKey::of(namespace, role);
        self.table.read().any_of_role(&key, |rule| {
            rules.push(rule.clone());
            false
        });
        rules
    }
}

impl Table {
    fn bind(&mut self, binding: ObjectKey, parts: Option<(RoleRef, Vec<Subject>)>) {
        for subject in self.bindings.remove(&binding).unwrap_or_default() {
            if let Some(grants) = self.by_subject.get_mut(&subject) {
                grants.retain(|grant| grant.binding != binding);
                if grants.is_empty() {
                    self.by_subject.remove(&subject);
                }
            }
        }
        let Some((role, subjects)) = parts else { return };
        let role = RoleKey::of(&binding.namespace, &role);
        let keys: HashSet<SubjectKey> = subjects.iter().filter_map(SubjectKey::of).collect();
        for key in &keys {
            let grant = Grant { binding: binding.clone(), role: role.clone() };
            self.by_subject.entry(key.clone()).or_default().push(grant);
        }
        self.bindings.insert(binding, keys);
    }

    /// Shows every rule that holds for the user there, until one is found.
    fn any_rule(
        &self,
        user: &User,
        namespace: &str,
        mut found: impl FnMut(&PolicyRule) -> bool,
    ) -> bool {
        let keys = std::iter::once(SubjectKey::User(user.name.clone()))
            .chain(user.groups.iter().map(|group| SubjectKey::Group(group.clone())));
        for key in keys {
            for grant in self.by_subject.get(&key).into_iter().flatten() {
                let place = &grant.binding.namespace;
                let holds = place.is_empty() || (!namespace.is_empty() && place == namespace);
                if holds && self.any_of_role(&grant.role, &mut found) {
                    return true;
                }
            }
        }
        false
    }

    fn any_of_role(&self, role: &RoleKey, mut found: impl FnMut(&PolicyRule) -> bool) -> bool {
        match role {
            RoleKey::Role(key) => self.roles.get(key).is_some_and(|rules| rules.iter().any(found)),
            RoleKey::ClusterRole(name) => self.any_gathered(name, &mut HashSet::new(), &mut found),
        }
    }

    /// The role's own rules, and those of the roles that it gathers, each once.
    fn any_gathered<'a>(
        &'a self,
        name: &'a str,
        seen: &mut HashSet<&'a str>,
        found: &mut impl FnMut(&PolicyRule) -> bool,
    ) -> bool {
        let Some(role) = self.cluster_roles.get(name) else { return false };
        if !seen.insert(name) {
            return false;
        }
        if role.own.iter().any(&mut *found) {
            return true;
        }
        let selected = |other: &ClusterRoleRules| {
            role.aggregates.iter().any(|selector| selector.matches(&other.labels))
        };
        !role.aggregates.is_empty()
            && self.cluster_roles.iter().any(|(other_name, other)| {
                selected(other) && self.any_gathered(other_name, seen, found)
            })
    }
}

impl ClusterRoleRules {
    fn of(role: ClusterRole) -> ClusterRoleRules {
        let aggregation = role.aggregation_rule.unwrap_or_default();
        let selectors = aggregation.cluster_role_selectors.unwrap_or_default();
        let aggregates =
            selectors.iter().filter_map(|one| Selector::from_typed(Some(one)).ok()).collect();
        ClusterRoleRules {
            labels: role.metadata.labels.unwrap_or_default(),
            own: role.rules.unwrap_or_default(),
            aggregates,
        }
    }
}

impl SubjectKey {
    fn of(subject: &Subject) -> Option<SubjectKey> {
        Some(match subject.kind.as_str() {
            "User" => SubjectKey::User(subject.name.clone()),
            "Group" => SubjectKey::Group(subject.name.clone()),
            "ServiceAccount" => {
                let namespace = subject.namespace.as_deref()?;
                SubjectKey::User(format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{}", subject.name))
            }
            _ => return None,
        })
    }
}

impl RoleKey {
    fn of(namespace: &str, role: &RoleRef) -> RoleKey {
        match role.kind.as_str() {
            "Role" => RoleKey::Role(ObjectKey::new(namespace, role.name.clone())),
            _ => RoleKey::ClusterRole(role.name.clone()),
        }
    }
}

/// Whether a rule allows what is asked (pkg/registry/rbac/validation and
/// plugin/pkg/auth/authorizer/rbac).
pub fn covers(rule: &PolicyRule, attributes: &Attributes<'_>) -> bool {
    let has = |list: &[String], wanted: &str| list.iter().any(|one| one == "*" || one == wanted);
    if !has(&rule.verbs, attributes.verb) {
        return false;
    }
    let Some(resource) = attributes.resource else {
        let urls = rule.non_resource_urls.as_deref().unwrap_or_default();
        return urls.iter().any(|url| url_matches(url, attributes.path));
    };
    let groups = rule.api_groups.as_deref().unwrap_or_default();
    if !has(groups, &resource.group) {
        return false;
    }
    let resources = rule.resources.as_deref().unwrap_or_default();
    let resource_fits = if attributes.subresource.is_empty() {
        has(resources, &resource.resource)
    } else {
        let whole = format!("{}/{}", resource.resource, attributes.subresource);
        let any = format!("*/{}", attributes.subresource);
        resources.iter().any(|one| one == "*" || *one == whole || *one == any)
    };
    let names = rule.resource_names.as_deref().unwrap_or_default();
    resource_fits && (names.is_empty() || names.iter().any(|name| name == attributes.name))
}

/// `*`, an exact path, or a prefix that ends with `*`.
fn url_matches(rule: &str, path: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => rule == path,
    }
}

#[cfg(test)]
mod tests {
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
        assert!(
            !covers(&read, &ask("get", &DEPLOYMENTS, "scale", ("n", "a"))),
            "the group differs"
        );
        let all = rule(json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}));
        assert!(covers(&all, &ask("delete", &PODS, "log", ("n", "a"))));
        let url = rule(json!({"nonResourceURLs": ["/healthz/*", "/version"], "verbs": ["get"]}));
        let path = |path| Attributes { resource: None, path, ..ask("get", &PODS, "", ("", "")) };
        assert!(covers(&url, &path("/healthz/etcd")) && covers(&url, &path("/version")));
        assert!(
            !covers(&url, &path("/versions")) && !covers(&url, &ask("get", &PODS, "", ("", "")))
        );
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
        let path =
            Attributes { resource: None, path: "/api/v1", ..ask("get", &PODS, "", ("", "")) };
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
}
