//! FlowSchema (flowcontrol.apiserver.k8s.io/v1).
//!
//! Upstream: pkg/apis/flowcontrol/validation/validation.go.

use jiff::Timestamp;
use k8s_openapi::api::flowcontrol::v1::{
    FlowSchema, FlowSchemaSpec, NonResourcePolicyRule, PolicyRulesWithSubjects, ResourcePolicyRule,
    Subject,
};
use serde_json::{Value, json};

use super::{checks, flow_control, workload};
use crate::api::field::{Errors, Path};
use crate::api::names;
use crate::api::resource::{DEFAULT_META, Generation, Kind, KindMeta};
use crate::api::table::{self, Column};

const DEFAULT_PRECEDENCE: i32 = 1_000;
const MOST_PRECEDENCE: i32 = 10_000;
const EXEMPT: &str = "exempt";
const METHODS: &[&str] = &["ByNamespace", "ByUser"];
const SUBJECTS: &[&str] = &["Group", "ServiceAccount", "User"];
const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

impl Kind for FlowSchema {
    const META: KindMeta = KindMeta {
        singular: "flowschema",
        status: true,
        generation: Generation::Spec,
        ..DEFAULT_META
    };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        let spec = self.spec.get_or_insert_default();
        let precedence = spec.matching_precedence.get_or_insert_default();
        if *precedence == 0 {
            *precedence = DEFAULT_PRECEDENCE;
        }
        self.status.get_or_insert_default();
    }

    fn validate(&self, errors: &mut Errors) {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        let path = Path::new("spec");
        let spec = self.spec.clone().unwrap_or_default();
        validate_spec(errors, &path, name, &spec);
        let fixed = flow_control::fixed_spec::<FlowSchemaSpec>(&mandatory(), name);
        if fixed.is_some_and(|fixed| fixed != spec) {
            flow_control::must_be_fixed(errors, name, &spec);
        }
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        let conditions = self.status.as_ref().and_then(|status| status.conditions.as_ref());
        flow_control::validate_conditions(errors, conditions, |one| one.type_.as_deref());
    }

    fn warnings(&self) -> Vec<String> {
        vec![workload::stored_only("FlowSchema")]
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("PriorityLevel", "string", "The level that its requests get."),
            Column::new("MatchingPrecedence", "string", "Which schema is asked first."),
            Column::new("DistinguisherMethod", "string", "How flows are told apart."),
            table::AGE,
            Column::new("MissingPL", "string", "Whether the level is missing."),
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let method = spec.distinguisher_method.map(|method| method.type_);
        let conditions = self.status.as_ref().and_then(|status| status.conditions.as_ref());
        let mut conditions = conditions.into_iter().flatten();
        let dangling = conditions.find(|one| one.type_.as_deref() == Some("Dangling"));
        let dangling = dangling.and_then(|one| one.status.clone()).unwrap_or_else(|| "?".into());
        vec![
            table::name(&self.metadata),
            spec.priority_level_configuration.name.into(),
            spec.matching_precedence.unwrap_or_default().into(),
            checks::or_none(method.as_deref()).into(),
            table::age(&self.metadata, now),
            dangling.into(),
        ]
    }
}

/// The schemas that every server has (pkg/apis/flowcontrol/bootstrap/default.go).
pub fn mandatory() -> [Value; 2] {
    let group = |name: &str| json!({"kind": "Group", "group": {"name": name}});
    let everything = |subjects: Value| {
        json!([{
            "subjects": subjects,
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"],
                "clusterScope": true, "namespaces": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        }])
    };
    let everybody = json!([group("system:unauthenticated"), group("system:authenticated")]);
    [
        json!({"metadata": {"name": EXEMPT}, "spec": {
            "priorityLevelConfiguration": {"name": EXEMPT}, "matchingPrecedence": 1,
            "rules": everything(json!([group("system:masters")]))}}),
        json!({"metadata": {"name": "catch-all"}, "spec": {
            "priorityLevelConfiguration": {"name": "catch-all"},
            "matchingPrecedence": MOST_PRECEDENCE, "distinguisherMethod": {"type": "ByUser"},
            "rules": everything(everybody)}}),
    ]
}

fn validate_spec(errors: &mut Errors, path: &Path, name: &str, spec: &FlowSchemaSpec) {
    let at = path.child("matchingPrecedence");
    let precedence = spec.matching_precedence.unwrap_or_default();
    if precedence <= 0 {
        errors.invalid(&at, precedence, "must be a positive value");
    }
    if precedence > MOST_PRECEDENCE {
        errors.invalid(&at, precedence, &format!("must not be greater than {MOST_PRECEDENCE}"));
    }
    if precedence == 1 && name != EXEMPT {
        let detail = "only the schema named 'exempt' may have matchingPrecedence 1";
        errors.invalid(&at, precedence, detail);
    }
    if let Some(method) = &spec.distinguisher_method
        && !METHODS.contains(&method.type_.as_str())
    {
        let path = path.child("distinguisherMethod");
        errors.not_supported(&path.child("type"), method, METHODS);
    }
    let at = path.child("priorityLevelConfiguration");
    let level = &spec.priority_level_configuration.name;
    if level.is_empty() {
        errors.required(&at.child("name"), "must reference a priority level");
    } else {
        checks::dns_subdomain(errors, &at.child("name"), level);
    }
    let path = path.child("rules");
    for (i, rule) in spec.rules.iter().flatten().enumerate() {
        validate_rule(errors, &path.index(i), rule);
    }
}

fn validate_rule(errors: &mut Errors, path: &Path, rule: &PolicyRulesWithSubjects) {
    let at = path.child("subjects");
    if rule.subjects.is_empty() {
        errors.required(&at, "subjects must contain at least one value");
    }
    for (i, subject) in rule.subjects.iter().enumerate() {
        validate_subject(errors, &at.index(i), subject);
    }
    let resources = rule.resource_rules.as_deref().unwrap_or_default();
    let others = rule.non_resource_rules.as_deref().unwrap_or_default();
    if resources.is_empty() && others.is_empty() {
        let detail = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.required(path, detail);
    }
    let at = path.child("resourceRules");
    for (i, rule) in resources.iter().enumerate() {
        validate_resource_rule(errors, &at.index(i), rule);
    }
    let at = path.child("nonResourceRules");
    for (i, rule) in others.iter().enumerate() {
        validate_url_rule(errors, &at.index(i), rule);
    }
}

fn validate_subject(errors: &mut Errors, path: &Path, subject: &Subject) {
    let parts = [
        ("ServiceAccount", "serviceAccount", subject.service_account.is_some()),
        ("User", "user", subject.user.is_some()),
        ("Group", "group", subject.group.is_some()),
    ];
    if !SUBJECTS.contains(&subject.kind.as_str()) {
        return errors.not_supported(&path.child("kind"), &subject.kind, SUBJECTS);
    }
    for (kind, field, set) in parts {
        let own = kind == subject.kind;
        if own && !set {
            let detail = format!("{field} is required when subject kind is '{kind}'");
            errors.required(&path.child(field), &detail);
        } else if set && !own {
            let detail = format!("{field} is forbidden when subject kind is not '{kind}'");
            errors.forbidden(&path.child(field), &detail);
        }
    }
    let names = [
        ("user", subject.user.as_ref().map(|user| &user.name)),
        ("group", subject.group.as_ref().map(|group| &group.name)),
    ];
    for (field, name) in names {
        if name.is_some_and(String::is_empty) {
            let path = path.child(field);
            errors.required(&path.child("name"), "");
        }
    }
    if let Some(account) = &subject.service_account {
        let path = path.child("serviceAccount");
        if account.name != "*" {
            checks::object_name(errors, &path.child("name"), &account.name);
        }
        if account.namespace.is_empty() {
            let detail = "must specify namespace for service account";
            errors.required(&path.child("namespace"), detail);
        } else {
            checks::dns_label(errors, &path.child("namespace"), &account.namespace);
        }
    }
}

/// A list that has members, or `*` alone.
fn list(errors: &mut Errors, path: &Path, list: &[String], empty: &str, others: &str) {
    if list.is_empty() {
        errors.required(path, empty);
    } else if list.len() > 1 && list.iter().any(|one| one == "*") {
        errors.invalid(path, list, &format!("if '*' is present, must not specify other {others}"));
    }
}

fn is_all(list: &[String]) -> bool {
    list.iter().any(|one| one == "*")
}

fn validate_verbs(errors: &mut Errors, path: &Path, verbs: &[String]) {
    list(errors, path, verbs, "verbs must contain at least one value", "verbs");
    if !is_all(verbs) && verbs.iter().any(|verb| !VERBS.contains(&verb.as_str())) {
        errors.not_supported(path, verbs, VERBS);
    }
}

fn validate_resource_rule(errors: &mut Errors, path: &Path, rule: &ResourcePolicyRule) {
    validate_verbs(errors, &path.child("verbs"), &rule.verbs);
    let empty = "resource rules must supply at least one api group";
    list(errors, &path.child("apiGroups"), &rule.api_groups, empty, "api groups");
    let empty = "resource rules must supply at least one resource";
    list(errors, &path.child("resources"), &rule.resources, empty, "resources");
    let namespaces = rule.namespaces.as_deref().unwrap_or_default();
    let at = path.child("namespaces");
    if !namespaces.is_empty() || rule.cluster_scope != Some(true) {
        let empty = "resource rules that are not cluster scoped must supply at least one namespace";
        list(errors, &at, namespaces, empty, "namespaces");
    }
    for (i, namespace) in namespaces.iter().enumerate().filter(|_| !is_all(namespaces)) {
        let intro = "each member of this list must be '*' or a DNS-1123 label; ";
        for message in names::is_dns1123_label(namespace) {
            errors.invalid(&at.index(i), namespace, &format!("{intro}{message}"));
        }
    }
}

fn validate_url_rule(errors: &mut Errors, path: &Path, rule: &NonResourcePolicyRule) {
    validate_verbs(errors, &path.child("verbs"), &rule.verbs);
    let at = path.child("nonResourceURLs");
    let urls = &rule.non_resource_urls;
    let empty = "nonResourceURLs must contain at least one value";
    list(errors, &at, urls, empty, "non-resource URLs");
    for (i, url) in urls.iter().enumerate().filter(|_| !is_all(urls)) {
        if let Some(detail) = wrong_url(url) {
            errors.invalid(&at.index(i), url, detail);
        }
    }
}

/// What is wrong with a path that may end with a wildcard.
fn wrong_url(url: &str) -> Option<&'static str> {
    let wildcards = url.matches('*').count();
    match url {
        "" => Some("must not be empty"),
        _ if !url.starts_with('/') => Some("must start with slash"),
        _ if url.contains(' ') => Some("must not contain white-space"),
        _ if url.contains("//") => Some("must not contain double slash"),
        _ if wildcards > 1 || (wildcards == 1 && !url.ends_with("/*")) => {
            Some("wildcard can only do suffix matching")
        }
        _ => None,
    }
}
