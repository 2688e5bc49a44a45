//! What admission policies and their bindings share: which requests they are about, their
//! parameters, conditions and variables (pkg/apis/admissionregistration/validation).

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MatchResources, NamedRuleWithOperations, ParamKind, ParamRef,
    RuleWithOperations, Variable,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::{checks, labels, webhook};
use crate::api::cel::admission::{Conditions, Declared, env};
use crate::api::cel::types::Struct;
use crate::api::cel::{Env, Program, Type};
use crate::api::field::{Errors, Path};
use crate::api::names;
use crate::api::resource::{DEFAULT_META, Generation, KindMeta};

pub const META: KindMeta = KindMeta {
    categories: &["api-extensions"],
    generation: Generation::Spec,
    unconditional_update: false,
    ..DEFAULT_META
};

const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];
const MATCH_POLICIES: &[&str] = &["Equivalent", "Exact"];
const NOT_FOUND_ACTIONS: &[&str] = &["Allow", "Deny"];
/// Most conditions of one policy (upstream's bound).
const MAX_CONDITIONS: usize = 64;

/// What expressions of a policy are compiled against, and what is compiled already.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    pub conditions: Conditions,
    /// In order: each may use those before it. With the names that expressions see them by.
    pub variables: Vec<(String, Program)>,
    /// With the variables, and with `authorizer`.
    pub env: Env,
    /// With the variables, and without `authorizer`.
    pub message_env: Env,
}

/// A policy's parts that are compiled in the same way.
pub struct Source<'a> {
    pub has_params: bool,
    pub conditions: &'a [MatchCondition],
    pub variables: &'a [Variable],
    /// Whether expressions make objects and patches.
    pub makes_objects: bool,
    /// The type of `object` and `oldObject`.
    pub object: Type,
    pub params: Type,
}

pub fn set_match_defaults(resources: &mut MatchResources) {
    resources.match_policy.get_or_insert_with(|| "Equivalent".into());
    resources.namespace_selector.get_or_insert_with(LabelSelector::default);
    resources.object_selector.get_or_insert_with(LabelSelector::default);
    let rules = resources.resource_rules.iter_mut().flatten();
    for rule in rules.chain(resources.exclude_resource_rules.iter_mut().flatten()) {
        rule.scope.get_or_insert_with(|| "*".into());
    }
}

pub fn set_policy_defaults(
    failure_policy: &mut Option<String>,
    resources: Option<&mut MatchResources>,
) {
    failure_policy.get_or_insert_with(|| "Fail".into());
    if let Some(resources) = resources {
        set_match_defaults(resources);
    }
}

/// What policies of both kinds must have.
pub fn validate_policy(
    errors: &mut Errors,
    failure_policy: Option<&str>,
    param_kind: Option<&ParamKind>,
    resources: Option<&MatchResources>,
) {
    let path = Path::new("spec");
    let failure = failure_policy.unwrap_or_default();
    checks::one_of(errors, &path.child("failurePolicy"), failure, FAILURE_POLICIES);
    if let Some(kind) = param_kind {
        validate_param_kind(errors, &path.child("paramKind"), kind);
    }
    let at = path.child("matchConstraints");
    match resources {
        None => errors.required(&at, ""),
        Some(resources) => {
            validate_match(errors, &at, resources);
            if resources.resource_rules.iter().flatten().next().is_none() {
                errors.required(&at.child("resourceRules"), "");
            }
        }
    }
}

/// The rule without the names of objects.
pub fn rule_of(named: &NamedRuleWithOperations) -> RuleWithOperations {
    RuleWithOperations {
        api_groups: named.api_groups.clone(),
        api_versions: named.api_versions.clone(),
        operations: named.operations.clone(),
        resources: named.resources.clone(),
        scope: named.scope.clone(),
    }
}

pub fn validate_match(errors: &mut Errors, path: &Path, resources: &MatchResources) {
    let policy = resources.match_policy.as_deref().unwrap_or_default();
    checks::one_of(errors, &path.child("matchPolicy"), policy, MATCH_POLICIES);
    let selectors = [
        ("namespaceSelector", &resources.namespace_selector),
        ("objectSelector", &resources.object_selector),
    ];
    for (field, selector) in selectors {
        match selector {
            Some(selector) => labels::validate_selector(errors, &path.child(field), selector),
            None => errors.required(&path.child(field), ""),
        }
    }
    let rules = [
        ("resourceRules", &resources.resource_rules),
        ("excludeResourceRules", &resources.exclude_resource_rules),
    ];
    for (field, rules) in rules {
        let at = path.child(field);
        for (index, rule) in rules.iter().flatten().enumerate() {
            let at = at.index(index);
            let mut seen = HashSet::new();
            let named = at.child("resourceNames");
            for (index, name) in rule.resource_names.iter().flatten().enumerate() {
                let at = named.index(index);
                names::report(errors, &at, name, names::is_path_segment(name));
                if !seen.insert(name) {
                    errors.duplicate(&at, name);
                }
            }
            webhook::validate_rule(errors, &at, &rule_of(rule));
        }
    }
}

pub fn validate_param_kind(errors: &mut Errors, path: &Path, kind: &ParamKind) {
    let at = path.child("apiVersion");
    let api_version = kind.api_version.as_deref().unwrap_or_default();
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    if api_version.is_empty() {
        errors.required(&at, "");
    } else if group.contains('/') {
        let detail = format!("unexpected GroupVersion string: {api_version}");
        errors.invalid(&at, api_version, &detail);
    } else {
        if !group.is_empty() {
            names::report(errors, &at, group, names::is_dns1123_subdomain(group));
        }
        names::report(errors, &at, version, names::is_dns1035_label(version));
    }
    let at = path.child("kind");
    match kind.kind.as_deref().unwrap_or_default() {
        "" => errors.required(&at, ""),
        kind => names::report(errors, &at, kind, names::is_dns1035_label(&kind.to_lowercase())),
    }
}

pub fn validate_param_ref(errors: &mut Errors, path: &Path, reference: &ParamRef) {
    let name = reference.name.as_deref().unwrap_or_default();
    names::report(
        errors,
        &path.child("name"),
        name,
        match name {
            "" => Vec::new(),
            name => names::is_path_segment(name),
        },
    );
    match (&reference.selector, name) {
        (None, "") => errors.required(path, "one of name or selector must be specified"),
        (Some(_), name) if !name.is_empty() => {
            let detail = "name and selector are mutually exclusive";
            errors.forbidden(&path.child("name"), detail);
        }
        (Some(selector), _) => {
            labels::validate_selector(errors, &path.child("selector"), selector);
        }
        (None, _) => {}
    }
    let at = path.child("parameterNotFoundAction");
    let action = reference.parameter_not_found_action.as_deref().unwrap_or_default();
    checks::one_of(errors, &at, action, NOT_FOUND_ACTIONS);
}

/// Compiles what policies share, and tells what is wrong with it.
pub fn compile(source: &Source, spec: &Path, errors: &mut Errors) -> Compiled {
    let declared = Declared { params: source.has_params, authorizer: true };
    let types = || (source.object.clone(), source.params.clone());
    let (object, params) = types();
    let mut with = env(declared, object, params);
    let (object, params) = types();
    let mut without = env(Declared { authorizer: false, ..declared }, object, params);
    let conditions =
        compile_conditions(source.conditions, &with, &spec.child("matchConditions"), errors);
    if source.makes_objects {
        (with, without) = (with.with_objects(), without.with_objects());
    }
    let mut compiled =
        Compiled { conditions, variables: Vec::new(), env: with, message_env: without };
    let mut fields: BTreeMap<String, Type> = BTreeMap::new();
    let at = spec.child("variables");
    for (index, variable) in source.variables.iter().enumerate() {
        let at = at.index(index);
        let name = variable.name.as_str();
        if name.trim().is_empty() {
            errors.required(&at.child("name"), "name is not specified");
        } else if !is_identifier(name) {
            errors.invalid(&at.child("name"), name, "name is not a valid CEL identifier");
        } else if fields.contains_key(name) {
            errors.duplicate(&at.child("name"), name);
        }
        if variable.expression.trim().is_empty() {
            errors.required(&at.child("expression"), "expression is not specified");
            continue;
        }
        let program = match Program::compile(&variable.expression, &compiled.env) {
            Ok(program) => program,
            Err(error) => {
                let at = at.child("expression");
                errors.invalid(&at, &variable.expression, &error.to_string());
                continue;
            }
        };
        let dotted = format!("variables.{name}");
        fields.insert(name.to_string(), program.output().clone());
        let all = Struct { name: "kubernetes.variables".into(), fields: fields.clone() };
        let all = Type::Object(Arc::new(all));
        let add = |env: &Env| {
            env.clone().with("variables", all.clone()).with(&dotted, program.output().clone())
        };
        (compiled.env, compiled.message_env) = (add(&compiled.env), add(&compiled.message_env));
        compiled.variables.push((dotted, program));
    }
    compiled
}

/// Compiles conditions, and tells what is wrong with them.
pub fn compile_conditions(
    conditions: &[MatchCondition],
    env: &Env,
    path: &Path,
    errors: &mut Errors,
) -> Conditions {
    if conditions.len() > MAX_CONDITIONS {
        errors.too_many(path, conditions.len(), MAX_CONDITIONS);
    }
    let mut seen = HashSet::new();
    for (index, condition) in conditions.iter().enumerate() {
        let at = path.index(index);
        let (name, expression) = (condition.name.as_str(), condition.expression.trim());
        if expression.is_empty() {
            errors.required(&at.child("expression"), "");
        } else if let Err(error) = Program::compile_as(expression, env, &[Type::Bool]) {
            errors.invalid(&at.child("expression"), expression, &error.to_string());
        }
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        } else {
            names::report(errors, &at.child("name"), name, names::is_qualified_name(name));
            if !seen.insert(name) {
                errors.duplicate(&at.child("name"), name);
            }
        }
    }
    let named = conditions.iter().map(|one| (one.name.as_str(), one.expression.trim()));
    Conditions::compile(named, env).unwrap_or_default()
}

/// Compiles an expression whose result has a type of these, and tells what is wrong with it.
pub fn compile_as(
    expression: &str,
    env: &Env,
    types: &[Type],
    path: &Path,
    errors: &mut Errors,
) -> Option<Program> {
    match Program::compile_as(expression, env, types) {
        Ok(program) => Some(program),
        Err(error) => {
            errors.invalid(path, expression, &error.to_string());
            None
        }
    }
}

fn is_identifier(name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(is_part) && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// The kind of a policy's parameters, as its row shows it.
pub fn param_kind_text(kind: Option<&ParamKind>) -> String {
    let text = |kind: &ParamKind| {
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        format!("{}/{}", part(&kind.api_version), part(&kind.kind))
    };
    kind.map_or_else(|| "<unset>".into(), text)
}

/// The parameters of a binding, as its row shows them.
pub fn param_ref_text(reference: Option<&ParamRef>) -> String {
    let Some(reference) = reference else { return "<unset>".into() };
    let name = reference.name.as_deref().filter(|name| !name.is_empty()).unwrap_or("*");
    match reference.namespace.as_deref().filter(|namespace| !namespace.is_empty()) {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_string(),
    }
}
