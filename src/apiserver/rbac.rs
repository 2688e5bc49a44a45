//! Authorization by Role, ClusterRole and their bindings (rbac.authorization.k8s.io/v1).
//!
//! Owns the rules in the form that requests are decided by, and the decision. Rules only allow: a
//! request is allowed if any rule of any role that is bound to its user says so. How they are kept
//! from commits is in [`feed`], what one set of rules lacks of another in [`escalation`], the roles
//! that every cluster has in [`defaults`] and [`reconcile`]. Knows nothing of HTTP.

pub mod defaults;
pub mod escalation;
mod feed;
pub mod reconcile;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use parking_lot::{Mutex, RwLock};

use super::User;
use super::authz::Attributes;
use super::user::SERVICE_ACCOUNT_PREFIX;
use crate::api::ObjectKey;
use crate::api::selector::Selector;

/// Every rule of the cluster. Readers never wait for a role to be read: they see the table as it
/// was after the last commit that was taken in.
#[derive(Default)]
pub struct Rules {
    table: RwLock<Table>,
    /// Held while stored objects are read and taken in, so that an older one never comes last.
    turn: Mutex<()>,
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
    /// Empty for a role that gathers others: what it says itself is a copy of theirs, for display.
    own: Vec<PolicyRule>,
    /// Selectors of the roles whose rules it gathers (aggregationRule).
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
        table.any_rule(user, attributes.namespace, |_, _, rule| covers(rule, attributes))
    }

    /// Which binding allows the request, in upstream's words; `None` if none does.
    pub fn reason(&self, user: &User, attributes: &Attributes<'_>) -> Option<String> {
        let mut reason = None;
        self.table.read().any_rule(user, attributes.namespace, |subject, grant, rule| {
            let fits = covers(rule, attributes);
            if fits {
                reason = Some(format!("RBAC: allowed by {grant} to {subject}"));
            }
            fits
        });
        reason
    }

    /// Every rule that holds for a user in a namespace, for SelfSubjectRulesReview and for the
    /// check that nobody grants what they do not have.
    pub fn of_user(&self, user: &User, namespace: &str) -> Vec<PolicyRule> {
        let mut rules = Vec::new();
        self.table.read().any_rule(user, namespace, |_, _, rule| {
            rules.push(rule.clone());
            false
        });
        rules
    }

    /// The rules of a role that a binding names; `None` where the role is not there.
    pub fn of_role(&self, namespace: &str, role: &RoleRef) -> Option<Vec<PolicyRule>> {
        let mut rules = Vec::new();
        let key = RoleKey::of(namespace, role);
        let table = self.table.read();
        let there = match &key {
            RoleKey::Role(key) => table.roles.contains_key(key),
            RoleKey::ClusterRole(name) => table.cluster_roles.contains_key(name),
        };
        table.any_of_role(&key, |rule| {
            rules.push(rule.clone());
            false
        });
        there.then_some(rules)
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
        mut found: impl FnMut(&SubjectKey, &Grant, &PolicyRule) -> bool,
    ) -> bool {
        let keys = std::iter::once(SubjectKey::User(user.name.clone()))
            .chain(user.groups.iter().map(|group| SubjectKey::Group(group.clone())));
        for key in keys {
            for grant in self.by_subject.get(&key).into_iter().flatten() {
                let place = &grant.binding.namespace;
                let holds = place.is_empty() || (!namespace.is_empty() && place == namespace);
                if holds && self.any_of_role(&grant.role, |rule| found(&key, grant, rule)) {
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
        let own = match role.aggregation_rule {
            Some(_) => Vec::new(),
            None => role.rules.unwrap_or_default(),
        };
        let aggregation = role.aggregation_rule.unwrap_or_default();
        let selectors = aggregation.cluster_role_selectors.unwrap_or_default();
        let aggregates =
            selectors.iter().filter_map(|one| Selector::from_typed(Some(one)).ok()).collect();
        ClusterRoleRules { labels: role.metadata.labels.unwrap_or_default(), own, aggregates }
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

/// As upstream tells of a binding (plugin/pkg/auth/authorizer/rbac/rbac.go).
impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ObjectKey { namespace, name } = &self.binding;
        match namespace.as_str() {
            "" => write!(f, "ClusterRoleBinding {name:?} of ")?,
            namespace => write!(f, "RoleBinding \"{name}/{namespace}\" of ")?,
        }
        match &self.role {
            RoleKey::Role(key) => write!(f, "Role {:?}", key.name),
            RoleKey::ClusterRole(name) => write!(f, "ClusterRole {name:?}"),
        }
    }
}

impl fmt::Display for SubjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            SubjectKey::Group(name) => return write!(f, "Group {name:?}"),
            SubjectKey::User(name) => name,
        };
        let account = name.strip_prefix(SERVICE_ACCOUNT_PREFIX).and_then(|n| n.split_once(':'));
        match account {
            Some((namespace, name)) => write!(f, "ServiceAccount \"{name}/{namespace}\""),
            None => write!(f, "User {name:?}"),
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
mod tests;
