//! ValidatingAdmissionPolicy (admissionregistration.k8s.io/v1). How policies are asked is in
//! `apiserver/admission`.

use std::collections::HashSet;

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{
    ExpressionWarning, ValidatingAdmissionPolicy, ValidatingAdmissionPolicySpec, Validation,
};
use serde_json::Value;

use super::admission_policy::{self as policy, Source};
use crate::api::cel::{Program, Type};
use crate::api::field::{Errors, Path};
use crate::api::names;
use crate::api::resource::{Kind, KindMeta};
use crate::api::table::{self, Column};

const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
/// Upstream's bounds.
const MAX_ANNOTATIONS: usize = 20;
const MAX_ANNOTATION_BYTES: usize = 5 * 1024;

/// A policy that is ready to be asked.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    pub shared: policy::Compiled,
    pub validations: Vec<Check>,
    /// Keys with what their values are made of.
    pub annotations: Vec<(String, Program)>,
}

#[derive(Clone, Debug)]
pub struct Check {
    pub program: Program,
    pub message_program: Option<Program>,
    /// What is told where no expression makes a message.
    pub message: String,
    /// Empty for the usual one.
    pub reason: String,
}

/// Compiles a policy's expressions, and tells what is wrong with them.
pub fn compile(
    spec: &ValidatingAdmissionPolicySpec,
    (object, params): (Type, Type),
    errors: &mut Errors,
) -> Compiled {
    let path = Path::new("spec");
    let source = Source {
        has_params: spec.param_kind.is_some(),
        conditions: spec.match_conditions.as_deref().unwrap_or_default(),
        variables: spec.variables.as_deref().unwrap_or_default(),
        makes_objects: false,
        object,
        params,
    };
    let shared = policy::compile(&source, &path, errors);
    let mut compiled = Compiled { shared, ..Compiled::default() };
    let at = path.child("validations");
    for (index, validation) in spec.validations.iter().flatten().enumerate() {
        let check = check(validation, &compiled.shared, &at.index(index), errors);
        compiled.validations.extend(check);
    }
    let at = path.child("auditAnnotations");
    for (index, annotation) in spec.audit_annotations.iter().flatten().enumerate() {
        let at = at.index(index);
        let at = at.child("valueExpression");
        let expression = annotation.value_expression.trim();
        if expression.is_empty() {
            errors.required(&at, "valueExpression is not specified");
        } else if expression.len() > MAX_ANNOTATION_BYTES {
            let detail = format!("must not exceed {MAX_ANNOTATION_BYTES} bytes in length");
            errors.required(&at, &detail);
        } else {
            let types = [Type::String, Type::Null];
            let env = &compiled.shared.env;
            let program = policy::compile_as(expression, env, &types, &at, errors);
            let key = &annotation.key;
            compiled.annotations.extend(program.map(|program| (key.clone(), program)));
        }
    }
    compiled
}

/// What is wrong with validations where objects have these types, by kind: warnings for
/// `status.typeChecking` (k8s.io/apiserver/pkg/admission/plugin/policy/validating/typechecking.go).
pub fn type_warnings(
    spec: &ValidatingAdmissionPolicySpec,
    kinds: &[(String, Type)],
    params: &Type,
) -> Vec<ExpressionWarning> {
    let mut warnings: Vec<ExpressionWarning> = Vec::new();
    for (kind, object) in kinds {
        let mut errors = Errors::default();
        compile(spec, (object.clone(), params.clone()), &mut errors);
        for error in errors.into_vec() {
            if !error.field.starts_with("spec.validations[") {
                continue;
            }
            let why = error.detail.strip_prefix("compilation failed: ").unwrap_or(&error.detail);
            let warning = format!("{kind}: {why}\n");
            match warnings.iter_mut().find(|known| known.field_ref == error.field) {
                Some(known) => known.warning = format!("{}\n{warning}", known.warning),
                None => warnings.push(ExpressionWarning { field_ref: error.field, warning }),
            }
        }
    }
    warnings
}

fn check(
    validation: &Validation,
    shared: &policy::Compiled,
    at: &Path,
    errors: &mut Errors,
) -> Option<Check> {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let expression = validation.expression.as_str();
    let program = match expression.trim() {
        "" => {
            errors.required(&at.child("expression"), "expression is not specified");
            None
        }
        _ => {
            let at = at.child("expression");
            policy::compile_as(expression, &shared.env, &[Type::Bool], &at, errors)
        }
    };
    let message_expression = text(&validation.message_expression);
    let path = at.child("messageExpression");
    let message_program = match (message_expression.as_str(), message_expression.trim()) {
        ("", _) => None,
        (blank, "") => {
            errors.invalid(&path, blank, "must be non-empty if specified");
            None
        }
        (expression, _) => {
            let types = [Type::String];
            policy::compile_as(expression, &shared.message_env, &types, &path, errors)
        }
    };
    let message = text(&validation.message);
    let path = at.child("message");
    if !message.is_empty() && message.trim().is_empty() {
        errors.invalid(&path, &message, "message must be non-empty if specified");
    } else if message.trim().contains(['\n', '\r']) {
        errors.invalid(&path, &message, "message must not contain line breaks");
    }
    if let Some(reason) = validation.reason.as_deref().filter(|r| !REASONS.contains(r)) {
        errors.not_supported(&at.child("reason"), reason, REASONS);
    }
    let message = match message.trim() {
        "" => format!("failed expression: {}", expression.trim()),
        message => message.to_string(),
    };
    Some(Check { program: program?, message_program, message, reason: text(&validation.reason) })
}

impl Kind for ValidatingAdmissionPolicy {
    const META: KindMeta =
        KindMeta { singular: "validatingadmissionpolicy", status: true, ..policy::META };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        let Some(spec) = &mut self.spec else { return };
        policy::set_policy_defaults(&mut spec.failure_policy, spec.match_constraints.as_mut());
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let spec = self.spec.clone().unwrap_or_default();
        let failure = spec.failure_policy.as_deref();
        let (params, matches) = (spec.param_kind.as_ref(), spec.match_constraints.as_ref());
        policy::validate_policy(errors, failure, params, matches);
        let annotations = spec.audit_annotations.as_deref().unwrap_or_default();
        if annotations.is_empty() && spec.validations.iter().flatten().next().is_none() {
            let detail = "validations or auditAnnotations must contain at least one item";
            errors.required(&path.child("validations"), detail);
            errors.required(&path.child("auditAnnotations"), detail);
        }
        let at = path.child("auditAnnotations");
        if annotations.len() > MAX_ANNOTATIONS {
            errors.too_many(&at, annotations.len(), MAX_ANNOTATIONS);
        }
        let name = self.metadata.name.as_deref().unwrap_or_default();
        let mut seen = HashSet::new();
        for (index, annotation) in annotations.iter().enumerate() {
            let at = at.index(index);
            let at = at.child("key");
            let key = format!("{name}/{}", annotation.key);
            names::report(errors, &at, &key, names::is_qualified_name(&key));
            if !seen.insert(&annotation.key) {
                errors.duplicate(&at, &annotation.key);
            }
        }
        compile(&spec, (Type::Dyn, Type::Dyn), errors);
    }

    fn warnings(&self) -> Vec<String> {
        let spec = self.spec.as_ref();
        let annotations = spec.and_then(|spec| spec.audit_annotations.as_ref());
        let has_some = annotations.is_some_and(|annotations| !annotations.is_empty());
        let text = "spec.auditAnnotations: evaluated, but not recorded: this server keeps no audit \
                    log";
        has_some.then(|| text.to_string()).into_iter().collect()
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Validations", "integer", "How many expressions the policy checks."),
            Column::new("ParamKind", "string", "The kind of the policy's parameters."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.as_ref();
        let count = spec.and_then(|spec| spec.validations.as_ref()).map_or(0, Vec::len);
        let kind = spec.and_then(|spec| spec.param_kind.as_ref());
        vec![
            table::name(&self.metadata),
            count.into(),
            policy::param_kind_text(kind).into(),
            table::age(&self.metadata, now),
        ]
    }
}
