//! MutatingAdmissionPolicy: expressions that change objects
//! (k8s.io/apiserver/pkg/admission/plugin/policy/mutating). Asked before mutating webhooks, in the
//! order of names; each policy sees what those before it made.

use std::cell::RefCell;

use super::validating_policy::LazyVariables;
use super::validating_policy_match::{matched, params};
use super::validating_policy_table::{ActiveMutating, Binding, MutatingPolicy};
use crate::api::apply::{Shape, merge_config};
use crate::api::cel::Program;
use crate::api::cel::admission::{self, Inputs, Matched};
use crate::api::cel::convert::json;
use crate::api::cel::cost::{Budget, OBJECT_BUDGET};
use crate::api::error::{Cause, Reason};
use crate::api::kinds::mutating_admission_policy::Change;
use crate::api::patch::json_patch;
use crate::api::resource::KindInfo;
use crate::api::{ApiError, Object};
use crate::apiserver::asker::Asker;
use crate::apiserver::ownership::shape_of;
use crate::apiserver::service::ApiServer;
use crate::apiserver::webhooks::{Question, review};

/// What all policies of one request may cost together: some seconds.
const REQUEST_BUDGET: u64 = 5 * OBJECT_BUDGET;

/// Brings a changed object into shape: decodes and defaults it.
pub type Settle<'a> = &'a dyn Fn(Object) -> Result<Object, ApiError>;

impl ApiServer {
    /// The object as the policies leave it; none if they leave it alone. With `again`, only those
    /// that want to see what became of it are asked.
    pub(in crate::apiserver) fn change_by_policies(
        &self,
        question: &Question<'_>,
        object: &Object,
        again: bool,
        settle: Settle<'_>,
    ) -> Result<Option<Object>, ApiError> {
        let active = self.policies.mutating();
        let info = &question.call.info;
        let exempt = info.gvr.group == "admissionregistration.k8s.io" || info.meta.review;
        if active.is_empty() || exempt {
            return Ok(None);
        }
        let mut left = REQUEST_BUDGET;
        let mut changed = object.clone();
        for active in active.iter().filter(|active| !again || active.policy.again) {
            self.change_by_policy(active, question, &mut changed, &mut left, settle)?;
        }
        Ok((changed != *object).then_some(changed))
    }

    fn change_by_policy(
        &self,
        active: &ActiveMutating,
        question: &Question<'_>,
        object: &mut Object,
        left: &mut u64,
        settle: Settle<'_>,
    ) -> Result<(), ApiError> {
        let policy = &*active.policy;
        for binding in &active.bindings {
            let Some(info) = matched(self, &policy.matcher, question, Some(&*object))? else {
                return Ok(());
            };
            if let Some(matcher) = &binding.matcher
                && matched(self, matcher, question, Some(&*object))?.is_none()
            {
                continue;
            }
            let namespace = question.call.namespace.as_str();
            let (kind, reference) = (policy.param_kind.as_ref(), binding.param_ref.as_ref());
            let params = match params(self, kind, reference, namespace) {
                Ok(params) => params,
                Err(_) if policy.fails_open => continue,
                Err(why) => {
                    let why = format!("failed to configure binding: {why}");
                    return Err(refused(policy, binding, question, &why));
                }
            };
            for params in params {
                let changed =
                    self.change(policy, question, &info, params.as_ref(), object, left, settle);
                match changed {
                    Ok(changed) => *object = changed,
                    Err(_) if policy.fails_open => {}
                    Err(why) => return Err(refused(policy, binding, question, &why)),
                }
            }
        }
        Ok(())
    }

    /// All mutations of a policy with one set of parameters; the error says what failed.
    #[expect(clippy::too_many_arguments)]
    fn change(
        &self,
        policy: &MutatingPolicy,
        question: &Question<'_>,
        info: &KindInfo,
        params: Option<&serde_json::Value>,
        object: &Object,
        left: &mut u64,
        settle: Settle<'_>,
    ) -> Result<Object, String> {
        let text = |error: ApiError| error.to_string();
        let request = review::described(question, info).map_err(text)?;
        let namespace = self.namespace_of(question).map_err(text)?;
        let old = question.old.map(|old| review::shown_in(old, question, info).into_value());
        let authorizer = Asker { server: self, user: &question.call.user };
        let shared = &policy.compiled.shared;
        let mut object = object.clone();
        let mut budget = Budget::new((*left).min(OBJECT_BUDGET));
        for (index, change) in policy.compiled.mutations.iter().enumerate() {
            let shown = review::shown_in(&object, question, info).into_value();
            let inputs = Inputs {
                object: Some(&shown),
                old_object: old.as_ref(),
                request: Some(&request),
                params,
                namespace: namespace.as_ref(),
                resource: question.call.check(),
            };
            let variables = LazyVariables {
                base: admission::variables(&inputs),
                programs: &shared.variables,
                made: RefCell::default(),
            };
            if index == 0 {
                match shared.conditions.matched(&variables, Some(&authorizer)) {
                    Matched::Yes => {}
                    Matched::No(_) => return Ok(object),
                    Matched::Failed(why) => return Err(why),
                }
            }
            let (Change::Apply(program) | Change::Patch(program)) = change;
            let before = budget.left();
            let made = program.run(&variables, Some(&authorizer), &mut budget);
            *left = left.saturating_sub(before - budget.left());
            let made = made.map_err(|error| failed(program, &error))?;
            let made = json(&made).map_err(|why| failed(program, &why))?;
            let changed = match change {
                Change::Apply(_) => {
                    let shape: Shape = shape_of(question.call);
                    merge_config(shape, &object, made)
                        .map_err(|why| format!("error applying patch: {why}"))?
                }
                Change::Patch(_) => {
                    let value = json_patch(&object.clone().into_value(), &made);
                    let value = value.map_err(|error| format!("JSON Patch: {error}"))?;
                    Object::from_value(value).map_err(text)?
                }
            };
            let same = |text: fn(&Object) -> &str| text(&changed) == text(&object);
            let is_same = same(Object::name)
                && same(Object::namespace)
                && same(Object::kind)
                && same(Object::api_version);
            if !is_same {
                return Err("a policy may not change what the object is: its kind, version, name \
                            or namespace"
                    .into());
            }
            object = settle(changed).map_err(text)?;
        }
        Ok(object)
    }
}

fn failed(program: &Program, why: &dyn std::fmt::Display) -> String {
    format!("expression '{}' resulted in error: {why}", program.source())
}

fn refused(
    policy: &MutatingPolicy,
    binding: &Binding,
    question: &Question<'_>,
    why: &str,
) -> ApiError {
    let message =
        format!("policy '{}' with binding '{}' denied request: {why}", policy.name, binding.name);
    let call = question.call;
    let mut error = ApiError::forbidden(&call.info.gvr, &call.name, &message);
    error.reason = Reason::Invalid;
    error.cause(Cause { message, ..Cause::default() })
}
