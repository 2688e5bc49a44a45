//! Admission webhooks: the defaults and the validation that both kinds of configurations share
//! (pkg/apis/admissionregistration/validation and v1/defaults.go).
//!
//! A mutating webhook has one field more than a validating one, so both are looked at as mutating
//! ones. How they are called is in `apiserver/webhooks`.

use std::collections::HashSet;

use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MutatingWebhook, RuleWithOperations, ServiceReference, ValidatingWebhook,
    WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

use super::labels;
use crate::api::cel::admission::webhook_env;
use crate::api::cel::{Program, Type};
use crate::api::field::{Errors, Path};
use crate::api::names;
use crate::api::resource::{DEFAULT_META, Generation, KindMeta};
use crate::api::table::{self, Column};

/// The port of a webhook's Service if it names none.
pub(super) const SERVICE_PORT: i32 = 443;
/// How long a webhook may take if it does not say, in seconds, and how long at most.
const TIMEOUT_SECONDS: i32 = 10;
const MAX_TIMEOUT_SECONDS: i32 = 30;
/// Most conditions of one webhook (upstream's bound).
const MAX_CONDITIONS: usize = 64;
/// The versions of AdmissionReview that the server speaks.
pub const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];

const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];
const MATCH_POLICIES: &[&str] = &["Equivalent", "Exact"];
const SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun"];
const REINVOCATION_POLICIES: &[&str] = &["IfNeeded", "Never"];
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];

pub const META: KindMeta =
    KindMeta { categories: &["api-extensions"], generation: Generation::Spec, ..DEFAULT_META };

pub const COLUMNS: &[Column] = &[
    table::NAME,
    Column::new("Webhooks", "integer", "How many webhooks the configuration has."),
    table::AGE,
];

/// A validating webhook, as the mutating one that has the same fields.
pub fn of_validating(hook: ValidatingWebhook) -> MutatingWebhook {
    MutatingWebhook {
        admission_review_versions: hook.admission_review_versions,
        client_config: hook.client_config,
        failure_policy: hook.failure_policy,
        match_conditions: hook.match_conditions,
        match_policy: hook.match_policy,
        name: hook.name,
        namespace_selector: hook.namespace_selector,
        object_selector: hook.object_selector,
        reinvocation_policy: None,
        rules: hook.rules,
        side_effects: hook.side_effects,
        timeout_seconds: hook.timeout_seconds,
    }
}

/// The way back.
pub fn to_validating(hook: MutatingWebhook) -> ValidatingWebhook {
    ValidatingWebhook {
        admission_review_versions: hook.admission_review_versions,
        client_config: hook.client_config,
        failure_policy: hook.failure_policy,
        match_conditions: hook.match_conditions,
        match_policy: hook.match_policy,
        name: hook.name,
        namespace_selector: hook.namespace_selector,
        object_selector: hook.object_selector,
        rules: hook.rules,
        side_effects: hook.side_effects,
        timeout_seconds: hook.timeout_seconds,
    }
}

/// What both kinds default.
pub fn set_defaults(hook: &mut MutatingWebhook) {
    hook.failure_policy.get_or_insert_with(|| "Fail".into());
    hook.match_policy.get_or_insert_with(|| "Equivalent".into());
    hook.namespace_selector.get_or_insert_with(LabelSelector::default);
    hook.object_selector.get_or_insert_with(LabelSelector::default);
    hook.timeout_seconds.get_or_insert(TIMEOUT_SECONDS);
    for rule in hook.rules.iter_mut().flatten() {
        rule.scope.get_or_insert_with(|| "*".into());
    }
    if let Some(service) = &mut hook.client_config.service {
        service.port.get_or_insert(SERVICE_PORT);
    }
}

pub fn validate(errors: &mut Errors, hooks: &[MutatingWebhook]) {
    let root = Path::new("webhooks");
    let mut seen = HashSet::new();
    for (index, hook) in hooks.iter().enumerate() {
        let path = root.index(index);
        validate_hook(errors, &path, hook);
        if !hook.name.is_empty() && !seen.insert(hook.name.as_str()) {
            errors.duplicate(&path.child("name"), &hook.name);
        }
    }
}

fn validate_hook(errors: &mut Errors, path: &Path, hook: &MutatingWebhook) {
    validate_name(errors, &path.child("name"), &hook.name);
    let rules = path.child("rules");
    for (index, rule) in hook.rules.iter().flatten().enumerate() {
        validate_rule(errors, &rules.index(index), rule);
    }
    let mut one_of = |field: &str, value: Option<&String>, supported: &[&str]| {
        if let Some(value) = value.filter(|value| !supported.contains(&value.as_str())) {
            errors.not_supported(&path.child(field), value, supported);
        }
    };
    one_of("failurePolicy", hook.failure_policy.as_ref(), FAILURE_POLICIES);
    one_of("matchPolicy", hook.match_policy.as_ref(), MATCH_POLICIES);
    one_of("reinvocationPolicy", hook.reinvocation_policy.as_ref(), REINVOCATION_POLICIES);
    match hook.side_effects.as_str() {
        "" => {
            let detail = format!("must specify one of {}", SIDE_EFFECTS.join(", "));
            errors.required(&path.child("sideEffects"), &detail);
        }
        _ => one_of("sideEffects", Some(&hook.side_effects), SIDE_EFFECTS),
    }
    if let Some(seconds) = hook.timeout_seconds
        && !(1..=MAX_TIMEOUT_SECONDS).contains(&seconds)
    {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.invalid(&path.child("timeoutSeconds"), seconds, detail);
    }
    let selectors = [
        ("namespaceSelector", &hook.namespace_selector),
        ("objectSelector", &hook.object_selector),
    ];
    for (field, selector) in selectors {
        if let Some(selector) = selector {
            labels::validate_selector(errors, &path.child(field), selector);
        }
    }
    validate_client(errors, &path.child("clientConfig"), &hook.client_config);
    let conditions = hook.match_conditions.as_deref().unwrap_or_default();
    validate_conditions(errors, &path.child("matchConditions"), conditions);
    let versions = path.child("admissionReviewVersions");
    validate_versions(errors, &versions, &hook.admission_review_versions);
}

fn validate_name(errors: &mut Errors, path: &Path, name: &str) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    names::report(errors, path, name, names::is_dns1123_subdomain(name));
    if name.split('.').count() < 3 {
        let detail = "should be a domain with at least three segments separated by dots";
        errors.invalid(path, name, detail);
    }
}

pub(super) fn validate_rule(errors: &mut Errors, path: &Path, rule: &RuleWithOperations) {
    let list = |list: &'_ Option<Vec<String>>| list.clone().unwrap_or_default();
    let operations = list(&rule.operations);
    let at = path.child("operations");
    validate_wildcard(errors, &at, &operations, "operations");
    for (index, operation) in operations.iter().enumerate() {
        if !OPERATIONS.contains(&operation.as_str()) {
            errors.not_supported(&at.index(index), operation, OPERATIONS);
        }
    }
    validate_wildcard(errors, &path.child("apiGroups"), &list(&rule.api_groups), "API groups");
    let versions = list(&rule.api_versions);
    let at = path.child("apiVersions");
    validate_wildcard(errors, &at, &versions, "API versions");
    for (index, _) in versions.iter().enumerate().filter(|(_, version)| version.is_empty()) {
        errors.required(&at.index(index), "");
    }
    validate_resources(errors, &path.child("resources"), &list(&rule.resources));
    if let Some(scope) = rule.scope.as_ref().filter(|scope| !SCOPES.contains(&scope.as_str())) {
        errors.not_supported(&path.child("scope"), scope, SCOPES);
    }
}

/// Something must be named; `*` stands alone.
fn validate_wildcard(errors: &mut Errors, path: &Path, items: &[String], what: &str) {
    if items.is_empty() {
        errors.required(path, "");
    }
    if items.len() > 1 && items.iter().any(|item| item == "*") {
        let detail = format!("if '*' is present, must not specify other {what}");
        errors.invalid(path, items, &detail);
    }
}

fn validate_resources(errors: &mut Errors, path: &Path, resources: &[String]) {
    if resources.is_empty() {
        errors.required(path, "");
    }
    let (mut of_resource, mut of_subresource) = (HashSet::new(), HashSet::new());
    let mut plain = false;
    for (index, resource) in resources.iter().enumerate() {
        let at = path.index(index);
        if resource.is_empty() {
            errors.required(&at, "");
            continue;
        }
        let Some((parent, sub)) = resource.split_once('/') else {
            plain |= resource != "*";
            continue;
        };
        if of_resource.contains(parent) {
            let detail = format!("if '{parent}/*' is present, must not specify {resource}");
            errors.invalid(&at, resource, &detail);
        }
        if of_subresource.contains(sub) {
            let detail = format!("if '*/{sub}' is present, must not specify {resource}");
            errors.invalid(&at, resource, &detail);
        }
        if sub == "*" {
            of_resource.insert(parent);
        }
        if parent == "*" {
            of_subresource.insert(sub);
        }
    }
    let has = |text: &str| resources.iter().any(|resource| resource == text);
    if resources.len() > 1 && has("*/*") {
        let detail = "if '*/*' is present, must not specify other resources";
        errors.invalid(path, resources, detail);
    }
    if has("*") && plain {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.invalid(path, resources, detail);
    }
}

pub(super) fn validate_client(errors: &mut Errors, path: &Path, config: &WebhookClientConfig) {
    match (&config.url, &config.service) {
        (Some(url), None) => validate_url(errors, &path.child("url"), url),
        (None, Some(service)) => validate_service(errors, &path.child("service"), service),
        _ => errors.required(path, "exactly one of url or service is required"),
    }
    if let Some(bundle) = config.ca_bundle.as_ref().filter(|bundle| !bundle.0.is_empty())
        && !holds_certificates(&bundle.0)
    {
        let detail = "unable to load root certificates: unable to parse bytes as PEM block";
        errors.invalid(&path.child("caBundle"), Value::Null, detail);
    }
}

fn holds_certificates(pem: &[u8]) -> bool {
    let mut certificates = 0;
    for block in x509_parser::pem::Pem::iter_from_buffer(pem) {
        match block {
            Ok(block) if block.label == "CERTIFICATE" => {
                if block.parse_x509().is_err() {
                    return false;
                }
                certificates += 1;
            }
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    certificates > 0
}

fn validate_url(errors: &mut Errors, path: &Path, url: &str) {
    const FORM: &str = "; desired format: https://host[/path]";
    let without_fragment = url.split('#').next().unwrap_or_default();
    let uri: http::Uri = match without_fragment.parse() {
        Ok(uri) => uri,
        Err(error) => {
            return errors.required(path, &format!("url must be a valid URL: {error}{FORM}"));
        }
    };
    let scheme = uri.scheme_str().unwrap_or_default();
    if scheme != "https" {
        let detail = format!("'https' is the only allowed URL scheme{FORM}");
        errors.invalid(path, scheme, &detail);
    }
    let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    if uri.host().unwrap_or_default().is_empty() || scheme.is_empty() {
        errors.invalid(path, "", &format!("host must be specified{FORM}"));
    }
    if let Some((user, _)) = authority.split_once('@') {
        errors.invalid(path, user, "user information is not permitted in the URL");
    }
    if let Some((_, fragment)) = url.split_once('#') {
        errors.invalid(path, fragment, "fragments are not permitted in the URL");
    }
    if let Some(query) = uri.query().filter(|query| !query.is_empty()) {
        errors.invalid(path, query, "query parameters are not permitted in the URL");
    }
}

fn validate_service(errors: &mut Errors, path: &Path, service: &ServiceReference) {
    if service.name.is_empty() {
        errors.required(&path.child("name"), "");
    }
    if service.namespace.is_empty() {
        errors.required(&path.child("namespace"), "");
    }
    let port = service.port.unwrap_or(SERVICE_PORT);
    let wrong = names::is_port_number(port);
    if !wrong.is_empty() {
        let detail = format!("port is not valid: {}", wrong.join(", "));
        errors.invalid(&path.child("port"), port, &detail);
    }
    let at = path.child("path");
    let text = service.path.as_deref().unwrap_or_default();
    match text {
        "" | "/" => return,
        "//" => return errors.invalid(&at, text, "segment[0] may not be empty"),
        _ => {}
    }
    let Some(rest) = text.strip_prefix('/') else {
        return errors.invalid(&at, text, "must start with a '/'");
    };
    for (index, step) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if step.is_empty() {
            errors.invalid(&at, text, &format!("segment[{index}] may not be empty"));
            continue;
        }
        for failure in names::is_dns1123_subdomain(step) {
            errors.invalid(&at, text, &format!("segment[{index}]: {failure}"));
        }
    }
}

fn validate_conditions(errors: &mut Errors, path: &Path, conditions: &[MatchCondition]) {
    if conditions.is_empty() {
        return;
    }
    let env = &webhook_env();
    if conditions.len() > MAX_CONDITIONS {
        errors.too_many(path, conditions.len(), MAX_CONDITIONS);
    }
    let mut seen = HashSet::new();
    for (index, condition) in conditions.iter().enumerate() {
        let at = path.index(index);
        let (name, expression) = (&condition.name, &condition.expression);
        if expression.trim().is_empty() {
            errors.required(&at.child("expression"), "");
        } else if let Err(error) = Program::compile_as(expression, env, &[Type::Bool]) {
            errors.invalid(&at.child("expression"), expression, &error.to_string());
        }
        if name.is_empty() {
            errors.required(&at.child("name"), "");
            continue;
        }
        names::report(errors, &at.child("name"), name, names::is_qualified_name(name));
        if !seen.insert(name.as_str()) {
            errors.duplicate(&at.child("name"), name);
        }
    }
}

pub(super) fn validate_versions(errors: &mut Errors, path: &Path, versions: &[String]) {
    let known = REVIEW_VERSIONS.join(", ");
    if versions.is_empty() {
        return errors.required(path, &format!("must specify one of {known}"));
    }
    let mut seen = HashSet::new();
    for (index, version) in versions.iter().enumerate() {
        let at = path.index(index);
        if !seen.insert(version.as_str()) {
            errors.invalid(&at, version, "duplicate version");
            continue;
        }
        names::report(errors, &at, version, names::is_dns1035_label(version));
    }
    if !versions.iter().any(|version| REVIEW_VERSIONS.contains(&version.as_str())) {
        errors.invalid(path, versions, &format!("must include at least one of {known}"));
    }
}
