//! ResourceQuota (v1).

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ResourceQuota, ResourceQuotaSpec, ScopedResourceSelectorRequirement,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as RawQuantity;
use serde_json::Value;

use super::{checks, quota_usage};
use crate::api::field::{Errors, Path};
use crate::api::names;
use crate::api::quantity::Quantity;
use crate::api::resource::{DEFAULT_META, Kind, KindMeta};
use crate::api::table::{self, Column};

const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

/// Names without a domain that quotas may have, beside `count/…` and huge pages.
const STANDARD: &[&str] = &[
    "configmaps",
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];
/// Those that are whole numbers.
const WHOLE: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];
const OF_PODS: &[&str] =
    &["cpu", "limits.cpu", "limits.memory", "memory", "pods", "requests.cpu", "requests.memory"];
const OF_CLAIMS: &[&str] = &["persistentvolumeclaims", "requests.storage"];
/// Scopes that exclude each other.
const CONFLICTS: &[[&str; 2]] =
    &[["BestEffort", "NotBestEffort"], ["NotTerminating", "Terminating"]];

impl Kind for ResourceQuota {
    const META: KindMeta = KindMeta {
        singular: "resourcequota",
        short_names: &["quota"],
        status: true,
        delete_returns_object: true,
        ..DEFAULT_META
    };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        self.spec.get_or_insert_default();
        self.status.get_or_insert_default();
    }

    fn validate(&self, errors: &mut Errors) {
        let Some(spec) = &self.spec else { return };
        let path = Path::new("spec");
        validate_amounts(errors, &path.child("hard"), spec.hard.as_ref());
        validate_scopes(errors, &path.child("scopes"), spec);
        let selector = spec.scope_selector.as_ref();
        let terms = selector.and_then(|selector| selector.match_expressions.as_deref());
        let path = path.child("scopeSelector");
        let path = path.child("matchExpressions");
        let terms = terms.unwrap_or_default();
        // Upstream leaves the index out of these paths.
        for term in terms {
            validate_term(errors, &path, spec, term);
        }
        if excludes_itself(|scope| terms.iter().any(|term| term.scope_name == scope)) {
            errors.invalid(&path, &spec.scopes, "conflicting scopes");
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        fn scopes(quota: &ResourceQuota) -> BTreeSet<&String> {
            quota.spec.iter().flat_map(|spec| spec.scopes.iter().flatten()).collect()
        }
        let path = Path::new("spec");
        checks::immutable(errors, &path.child("scopes"), &scopes(self), &scopes(old));
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        let Some(status) = &self.status else { return };
        let path = Path::new("status");
        validate_amounts(errors, &path.child("hard"), status.hard.as_ref());
        validate_amounts(errors, &path.child("used"), status.used.as_ref());
    }

    fn warnings(&self) -> Vec<String> {
        let hard = self.spec.iter().flat_map(|spec| spec.hard.iter().flatten());
        let unknown = hard.filter(|(name, _)| quota_usage::counted_by(name).is_none());
        let told = |name: &String| format!("spec.hard[{name}]: is not counted, and bounds nothing");
        unknown.map(|(name, _)| told(name)).collect()
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Request", "string", "What is used of requests and counts."),
            Column::new("Limit", "string", "What is used of limits."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let status = self.status.clone().unwrap_or_default();
        let (hard, used) = (status.hard.unwrap_or_default(), status.used.unwrap_or_default());
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (name, most) in &hard {
            let used = used.get(name).map_or("0", |used| used.0.as_str());
            let cell = format!("{name}: {used}/{}", most.0);
            if name.starts_with("limits.") { limits.push(cell) } else { requests.push(cell) }
        }
        vec![
            table::name(&self.metadata),
            requests.join(", ").into(),
            limits.join(", ").into(),
            table::age(&self.metadata, now),
        ]
    }
}

fn validate_scopes(errors: &mut Errors, path: &Path, spec: &ResourceQuotaSpec) {
    let scopes = spec.scopes.as_deref().unwrap_or_default();
    for scope in scopes {
        if !SCOPES.contains(&scope.as_str()) {
            errors.invalid(path, scopes, "unsupported scope");
        }
        for _ in 0..misfits(scope, spec) {
            errors.invalid(path, scopes, "unsupported scope applied to resource");
        }
    }
    if excludes_itself(|wanted| scopes.iter().any(|scope| scope == wanted)) {
        errors.invalid(path, scopes, "conflicting scopes");
    }
}

fn excludes_itself(has: impl Fn(&str) -> bool) -> bool {
    CONFLICTS.iter().any(|pair| pair.iter().all(|scope| has(scope)))
}

/// How many of the quota's names count what the scope cannot choose among.
fn misfits(scope: &str, spec: &ResourceQuotaSpec) -> usize {
    let allowed: &[&str] = match scope {
        "BestEffort" => &["pods"],
        "VolumeAttributesClass" => OF_CLAIMS,
        scope if SCOPES.contains(&scope) => OF_PODS,
        _ => return 0,
    };
    let names = spec.hard.iter().flatten().map(|(name, _)| name.as_str());
    names.filter(|name| STANDARD.contains(name) && !allowed.contains(name)).count()
}

fn validate_term(
    errors: &mut Errors,
    path: &Path,
    spec: &ResourceQuotaSpec,
    term: &ScopedResourceSelectorRequirement,
) {
    let scope = term.scope_name.as_str();
    if !SCOPES.contains(&scope) {
        errors.invalid(&path.child("scopeName"), scope, "unsupported scope");
    }
    for _ in 0..misfits(scope, spec) {
        errors.invalid(path, &spec.scope_selector, "unsupported scope applied to resource");
    }
    let by_name = matches!(scope, "PriorityClass" | "VolumeAttributesClass");
    let operator = path.child("operator");
    if SCOPES.contains(&scope) && !by_name && term.operator != "Exists" {
        let detail = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
                      ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
                      ResourceQuotaScopeNotBestEffort or \
                      ResourceQuotaScopeCrossNamespacePodAffinity";
        errors.invalid(&operator, &term.operator, detail);
    }
    let values = term.values.as_deref().unwrap_or_default();
    let at = path.child("values");
    match term.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => errors.required(
            &at,
            "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
        ),
        "Exists" | "DoesNotExist" if !values.is_empty() => errors.invalid(
            &at,
            values,
            "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
        ),
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => errors.invalid(&operator, other, "not a valid selector operator"),
    }
}

fn validate_amounts(
    errors: &mut Errors,
    path: &Path,
    amounts: Option<&BTreeMap<String, RawQuantity>>,
) {
    for (name, amount) in amounts.into_iter().flatten() {
        let path = path.key(name);
        checks::qualified_name(errors, &path, name);
        let huge = name.strip_prefix("requests.").unwrap_or(name).starts_with("hugepages-");
        let standard = huge || STANDARD.contains(&name.as_str());
        if !name.contains('/') && !standard && names::is_qualified_name(name).is_empty() {
            let detail = "must be a standard resource type or fully qualified";
            errors.invalid(&path, name, detail);
            errors.invalid(&path, name, "must be a standard resource for quota");
        }
        // Extended resources (helper.IsExtendedResourceName), counts of objects among them.
        let extended = name.contains('/')
            && !name.contains("kubernetes.io/")
            && !name.starts_with("requests.");
        let whole = WHOLE.contains(&name.as_str()) || extended;
        match Quantity::parse(&amount.0) {
            Ok(found) if whole && found != Quantity::from_value(found.value()) => {
                errors.invalid(&path, &amount.0, "must be an integer");
            }
            Ok(found) if found.sign() >= 0 => {}
            Ok(_) => errors.invalid(&path, &amount.0, "must be greater than or equal to 0"),
            Err(error) => errors.invalid(&path, &amount.0, &error.to_string()),
        }
    }
}
