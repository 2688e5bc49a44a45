//! ValidatingAdmissionPolicy: expressions that refuse writes or warn about them
//! (k8s.io/apiserver/pkg/admission/plugin/policy/validating). Asked after the kind's own rules and
//! before validating webhooks.
//!
//! Nothing here waits: policies and what they need are in memory. What all policies of one request
//! cost together is bounded, beside the bounds of each.

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::validating_policy_match::{matched, params};
use super::validating_policy_table::{Active, Binding, Policy};
use crate::api::cel::admission::{self, Inputs, Matched};
use crate::api::cel::cost::{Budget, OBJECT_BUDGET};
use crate::api::cel::{Authorizer, Error, Evaluation, Program, Value, Variables};
use crate::api::error::{Cause, Reason};
use crate::api::resource::{Gvr, KindInfo};
use crate::api::{ApiError, Object, Raw};
use crate::apiserver::asker::Asker;
use crate::apiserver::keys;
use crate::apiserver::service::{ApiServer, read_error};
use crate::apiserver::webhooks::{Question, review};

/// What all policies of one request may cost together: some seconds.
const REQUEST_BUDGET: u64 = 5 * OBJECT_BUDGET;
/// The longest message that an expression may make, in bytes.
const MAX_MESSAGE_BYTES: usize = 5 * 1024;

/// Why a policy does not let a write pass.
struct Denial {
    message: String,
    reason: String,
}

/// A failed expression, or a configuration that cannot be used.
enum Failure {
    Expression(String),
    Configuration(String),
}

impl ApiServer {
    /// Asks all policies about a write; on deletions there is no object.
    pub(in crate::apiserver) fn ask_policies(
        &self,
        question: &Question<'_>,
        object: Option<&Object>,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        let active = self.policies.validating();
        let info = &question.call.info;
        // Nobody locks themselves out of changing policies.
        let exempt = info.gvr.group == "admissionregistration.k8s.io" || info.meta.review;
        if active.is_empty() || exempt {
            return Ok(());
        }
        let mut left = REQUEST_BUDGET;
        for active in &*active {
            self.ask_policy(active, question, object, &mut left, warnings)?;
        }
        Ok(())
    }

    fn ask_policy(
        &self,
        active: &Active,
        question: &Question<'_>,
        object: Option<&Object>,
        left: &mut u64,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        let policy = &*active.policy;
        let Some(info) = matched(self, &policy.matcher, question, object)? else { return Ok(()) };
        for binding in &active.bindings {
            if let Some(matcher) = &binding.matcher
                && matched(self, matcher, question, object)?.is_none()
            {
                continue;
            }
            let outcome = self.ask_binding(policy, binding, question, &info, object, left);
            let denials = match outcome {
                Ok(denials) => denials,
                Err(_) if policy.fails_open => continue,
                Err(Failure::Expression(why)) => {
                    vec![Denial { message: why, reason: String::new() }]
                }
                // What is configured badly refuses, whatever the binding does with failures.
                Err(Failure::Configuration(why)) => {
                    let why = format!("failed to configure binding: {why}");
                    return Err(refused(policy, binding, question, &why, ""));
                }
            };
            for Denial { message, reason } in denials {
                if binding.actions.iter().any(|action| action == "Deny") {
                    return Err(refused(policy, binding, question, &message, &reason));
                }
                if binding.actions.iter().any(|action| action == "Warn") {
                    warnings.push(format!(
                        "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': \
                         {message}",
                        policy.name, binding.name
                    ));
                }
            }
        }
        Ok(())
    }

    fn ask_binding(
        &self,
        policy: &Policy,
        binding: &Binding,
        question: &Question<'_>,
        info: &KindInfo,
        object: Option<&Object>,
        left: &mut u64,
    ) -> Result<Vec<Denial>, Failure> {
        let namespace = question.call.namespace.as_str();
        let (kind, reference) = (policy.param_kind.as_ref(), binding.param_ref.as_ref());
        let params = params(self, kind, reference, namespace).map_err(Failure::Configuration)?;
        let shown = |object: Option<&Object>| {
            object.map(|object| review::shown_in(object, question, info).into_value())
        };
        let (object, old) = (shown(object), shown(question.old));
        let request = review::described(question, info).map_err(internal)?;
        let namespace = self.namespace_of(question).map_err(internal)?;
        let authorizer = Asker { server: self, user: &question.call.user };
        let mut denials = Vec::new();
        for params in params {
            let inputs = Inputs {
                object: object.as_ref(),
                old_object: old.as_ref(),
                request: Some(&request),
                params: params.as_ref(),
                namespace: namespace.as_ref(),
                resource: question.call.check(),
            };
            let mut budget = Budget::new((*left).min(OBJECT_BUDGET));
            let start = budget.left();
            let result = evaluate(policy, &inputs, &authorizer, &mut budget);
            *left -= start - budget.left();
            denials.extend(result?);
        }
        Ok(denials)
    }

    /// The namespace that a request is in, as stored.
    pub(super) fn namespace_of(&self, question: &Question<'_>) -> Result<Option<Json>, ApiError> {
        let name = question.call.namespace.as_str();
        if name.is_empty() || question.call.info.gvr == Gvr::new("", "v1", "namespaces", false) {
            return Ok(None);
        }
        let entry = self.store.get(&keys::namespace(name)).map_err(read_error)?;
        let object = entry.map(|entry| Raw(entry.value).object()).transpose()?;
        Ok(object.map(Object::into_value))
    }
}

fn internal(error: ApiError) -> Failure {
    Failure::Expression(error.to_string())
}

/// All validations of a policy with one set of parameters.
fn evaluate(
    policy: &Policy,
    inputs: &Inputs,
    authorizer: &dyn Authorizer,
    budget: &mut Budget,
) -> Result<Vec<Denial>, Failure> {
    let shared = &policy.compiled.shared;
    let variables = LazyVariables {
        base: admission::variables(inputs),
        programs: &shared.variables,
        made: RefCell::default(),
    };
    match shared.conditions.matched(&variables, Some(authorizer)) {
        Matched::Yes => {}
        Matched::No(_) => return Ok(Vec::new()),
        Matched::Failed(why) => return Err(Failure::Expression(why)),
    }
    let failed = |program: &Program, error: Error| {
        match error {
        Error::Budget => Failure::Expression(
            "validation failed due to running out of cost budget, no further validation rules will \
             be run"
                .into(),
        ),
        error => Failure::Expression(format!(
            "expression '{}' resulted in error: {error}",
            program.source()
        )),
    }
    };
    let mut denials = Vec::new();
    for check in &policy.compiled.validations {
        match check.program.run(&variables, Some(authorizer), budget) {
            Ok(Value::Bool(true)) => {}
            Ok(_) => {
                let program = check.message_program.as_ref();
                let made = program.map(|program| program.run(&variables, None, budget));
                let message = match made {
                    Some(Ok(Value::String(text))) => one_line(&text),
                    _ => None,
                };
                denials.push(Denial {
                    message: message.unwrap_or_else(|| check.message.clone()),
                    reason: check.reason.clone(),
                });
            }
            Err(error) if policy.fails_open && !error.is_cost() => {}
            Err(error) => {
                // What was refused before it failed stays refused.
                return if denials.is_empty() {
                    Err(failed(&check.program, error))
                } else {
                    Ok(denials)
                };
            }
        }
    }
    // Their values have nowhere to go; one that fails is a failure all the same.
    for (_, program) in &policy.compiled.annotations {
        if let Err(error) = program.run(&variables, Some(authorizer), budget)
            && denials.is_empty()
        {
            return Err(failed(program, error));
        }
    }
    Ok(denials)
}

/// A message that can be shown on one line.
fn one_line(text: &str) -> Option<String> {
    let text = text.trim();
    let fits = !text.is_empty() && text.len() <= MAX_MESSAGE_BYTES && !text.contains('\n');
    fits.then(|| text.to_string())
}

/// The variables of a policy, each made when it is first asked for.
pub(super) struct LazyVariables<'a> {
    pub base: BTreeMap<String, Value>,
    pub programs: &'a [(String, Program)],
    pub made: RefCell<BTreeMap<usize, Result<Value, Error>>>,
}

impl Variables for LazyVariables<'_> {
    fn get(&self, name: &str, run: &mut Evaluation<'_>) -> Option<Result<Value, Error>> {
        if let Some(value) = self.base.get(name) {
            return Some(Ok(value.clone()));
        }
        let index = self.programs.iter().position(|(known, _)| known == name)?;
        if let Some(made) = self.made.borrow().get(&index) {
            return Some(made.clone());
        }
        let result = self.programs[index].1.run_in(run);
        if result.as_ref().err().is_none_or(|error| !error.is_cost()) {
            self.made.borrow_mut().insert(index, result.clone());
        }
        Some(result)
    }
}

fn refused(
    policy: &Policy,
    binding: &Binding,
    question: &Question<'_>,
    why: &str,
    reason: &str,
) -> ApiError {
    let message = format!(
        "ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {why}",
        policy.name, binding.name
    );
    let call = question.call;
    let (code, reason) = match reason {
        "Unauthorized" => (401, Reason::Unauthorized),
        "Forbidden" => (403, Reason::Forbidden),
        "RequestEntityTooLarge" => (413, Reason::RequestEntityTooLarge),
        _ => (422, Reason::Invalid),
    };
    let mut error = ApiError::forbidden(&call.info.gvr, &call.name, &message);
    (error.code, error.reason) = (code, reason);
    error.cause(Cause { message, ..Cause::default() })
}
