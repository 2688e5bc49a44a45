//! Role, ClusterRole, RoleBinding and ClusterRoleBinding (rbac.authorization.k8s.io/v1).
//! `apiserver/rbac.rs` decides by them.

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::{checks, labels};
use crate::api::field::{Errors, Path};
use crate::api::names;
use crate::api::resource::{DEFAULT_META, Kind, KindMeta, NameRule};
use crate::api::table::{self, Column};

const GROUP: &str = "rbac.authorization.k8s.io";
const META: KindMeta = KindMeta { name_rule: NameRule::PathSegment, ..DEFAULT_META };

const ROLE_COLUMNS: &[Column] =
    &[table::NAME, Column::new("Created At", "date", "When the object was created.")];
const BINDING_COLUMNS: &[Column] = &[
    table::NAME,
    Column::new("Role", "string", "The role that is granted."),
    table::AGE,
    Column::wide("Users", "string", "Users who get the role."),
    Column::wide("Groups", "string", "Groups that get the role."),
    Column::wide("ServiceAccounts", "string", "Service accounts that get the role."),
];

impl Kind for Role {
    const META: KindMeta = KindMeta { singular: "role", ..META };

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("rules");
        for (i, rule) in self.rules.iter().flatten().enumerate() {
            validate_rule(errors, &path.index(i), rule, true);
        }
    }

    fn columns() -> &'static [Column] {
        ROLE_COLUMNS
    }

    fn row(&self, _now: Timestamp) -> Vec<Value> {
        role_row(&self.metadata)
    }
}

impl Kind for ClusterRole {
    const META: KindMeta = KindMeta { singular: "clusterrole", ..META };

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("rules");
        for (i, rule) in self.rules.iter().flatten().enumerate() {
            validate_rule(errors, &path.index(i), rule, false);
        }
        let Some(aggregation) = &self.aggregation_rule else { return };
        let path = Path::new("aggregationRule");
        let path = path.child("clusterRoleSelectors");
        let selectors = aggregation.cluster_role_selectors.as_deref().unwrap_or_default();
        if selectors.is_empty() {
            errors.required(
                &path,
                "at least one clusterRoleSelector required if aggregationRule is non-nil",
            );
        }
        for (i, selector) in selectors.iter().enumerate() {
            labels::validate_selector(errors, &path.index(i), selector);
        }
    }

    fn columns() -> &'static [Column] {
        ROLE_COLUMNS
    }

    fn row(&self, _now: Timestamp) -> Vec<Value> {
        role_row(&self.metadata)
    }
}

impl Kind for RoleBinding {
    const META: KindMeta = KindMeta { singular: "rolebinding", ..META };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        default_binding(&mut self.role_ref, &mut self.subjects);
        // A service account without a namespace is of the binding's own.
        let own = self.metadata.namespace.clone();
        for subject in self.subjects.iter_mut().flatten() {
            let empty = subject.namespace.as_deref().unwrap_or_default().is_empty();
            if subject.kind == "ServiceAccount" && empty {
                subject.namespace.clone_from(&own);
            }
        }
    }

    fn validate(&self, errors: &mut Errors) {
        validate_role_ref(errors, &self.role_ref, &["Role", "ClusterRole"]);
        validate_subjects(errors, self.subjects.as_deref().unwrap_or_default(), true);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        role_ref_unchanged(errors, &self.role_ref, &old.role_ref);
    }

    fn columns() -> &'static [Column] {
        BINDING_COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        binding_row(&self.metadata, &self.role_ref, self.subjects.as_deref(), now)
    }
}

impl Kind for ClusterRoleBinding {
    const META: KindMeta = KindMeta { singular: "clusterrolebinding", ..META };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        default_binding(&mut self.role_ref, &mut self.subjects);
    }

    fn validate(&self, errors: &mut Errors) {
        validate_role_ref(errors, &self.role_ref, &["ClusterRole"]);
        validate_subjects(errors, self.subjects.as_deref().unwrap_or_default(), false);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        role_ref_unchanged(errors, &self.role_ref, &old.role_ref);
    }

    fn columns() -> &'static [Column] {
        BINDING_COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        binding_row(&self.metadata, &self.role_ref, self.subjects.as_deref(), now)
    }
}

fn role_row(meta: &ObjectMeta) -> Vec<Value> {
    let created = meta.creation_timestamp.as_ref();
    let created = created.map(|t| t.0.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    vec![table::name(meta), created.unwrap_or_default().into()]
}

fn binding_row(
    meta: &ObjectMeta,
    role: &RoleRef,
    subjects: Option<&[Subject]>,
    now: Timestamp,
) -> Vec<Value> {
    let of = |kind: &str| -> Value {
        let found = subjects.into_iter().flatten().filter(|subject| subject.kind == kind);
        let names = found.map(|subject| match (kind, &subject.namespace) {
            ("ServiceAccount", Some(namespace)) => format!("{namespace}/{}", subject.name),
            _ => subject.name.clone(),
        });
        names.collect::<Vec<_>>().join(", ").into()
    };
    vec![
        table::name(meta),
        format!("{}/{}", role.kind, role.name).into(),
        table::age(meta, now),
        of("User"),
        of("Group"),
        of("ServiceAccount"),
    ]
}

/// Upstream: pkg/apis/rbac/v1/defaults.go.
fn default_binding(role: &mut RoleRef, subjects: &mut Option<Vec<Subject>>) {
    if role.api_group.is_empty() {
        role.api_group = GROUP.into();
    }
    for subject in subjects.iter_mut().flatten() {
        let named = matches!(subject.kind.as_str(), "User" | "Group");
        if named && subject.api_group.as_deref().unwrap_or_default().is_empty() {
            subject.api_group = Some(GROUP.into());
        }
    }
}

/// Upstream: pkg/apis/rbac/validation/validation.go.
fn validate_rule(errors: &mut Errors, path: &Path, rule: &PolicyRule, namespaced: bool) {
    if rule.verbs.is_empty() {
        errors.required(&path.child("verbs"), "verbs must contain at least one value");
    }
    let urls = rule.non_resource_urls.as_deref().unwrap_or_default();
    let groups = rule.api_groups.as_deref().unwrap_or_default();
    let resources = rule.resources.as_deref().unwrap_or_default();
    let names = rule.resource_names.as_deref().unwrap_or_default();
    if !urls.is_empty() {
        let path = path.child("nonResourceURLs");
        if namespaced {
            errors.invalid(&path, urls, "namespaced rules cannot apply to non-resource URLs");
        }
        if !groups.is_empty() || !resources.is_empty() || !names.is_empty() {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            errors.invalid(&path, urls, detail);
        }
        return;
    }
    if groups.is_empty() {
        let detail = "resource rules must supply at least one api group";
        errors.required(&path.child("apiGroups"), detail);
    }
    if resources.is_empty() {
        let detail = "resource rules must supply at least one resource";
        errors.required(&path.child("resources"), detail);
    }
}

fn validate_role_ref(errors: &mut Errors, role: &RoleRef, kinds: &[&str]) {
    let path = Path::new("roleRef");
    if role.api_group != GROUP {
        errors.not_supported(&path.child("apiGroup"), &role.api_group, &[GROUP]);
    }
    if !kinds.contains(&role.kind.as_str()) {
        errors.not_supported(&path.child("kind"), &role.kind, kinds);
    }
    if role.name.is_empty() {
        errors.required(&path.child("name"), "");
    } else {
        let messages = NameRule::PathSegment.check(&role.name, false);
        names::report(errors, &path.child("name"), &role.name, messages);
    }
}

fn role_ref_unchanged(errors: &mut Errors, new: &RoleRef, old: &RoleRef) {
    if new != old {
        errors.invalid(&Path::new("roleRef"), new, "cannot change roleRef");
    }
}

fn validate_subjects(errors: &mut Errors, subjects: &[Subject], namespaced: bool) {
    let path = Path::new("subjects");
    for (i, subject) in subjects.iter().enumerate() {
        let path = path.index(i);
        if subject.name.is_empty() {
            errors.required(&path.child("name"), "");
        }
        let group = subject.api_group.as_deref().unwrap_or_default();
        match subject.kind.as_str() {
            "ServiceAccount" => {
                if !subject.name.is_empty() {
                    checks::dns_subdomain(errors, &path.child("name"), &subject.name);
                }
                if !group.is_empty() {
                    errors.not_supported(&path.child("apiGroup"), group, &[""]);
                }
                if !namespaced && subject.namespace.as_deref().unwrap_or_default().is_empty() {
                    errors.required(&path.child("namespace"), "");
                }
            }
            "User" | "Group" => {
                if group != GROUP {
                    errors.not_supported(&path.child("apiGroup"), group, &[GROUP]);
                }
            }
            other => {
                let kinds = ["ServiceAccount", "User", "Group"];
                errors.not_supported(&path.child("kind"), other, &kinds);
            }
        }
    }
}
