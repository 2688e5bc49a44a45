//! Match conditions of webhooks: expressions in CEL that decide, after rules and selectors, whether
//! a webhook is asked (webhook/matchconditions/matcher.go).

use super::{Hook, Question, review};
use crate::api::cel::admission::{Conditions, Inputs, Matched, variables, webhook_env};
use crate::api::resource::KindInfo;
use crate::api::{ApiError, Object};
use crate::apiserver::asker::Asker;
use crate::apiserver::service::ApiServer;

/// A webhook's conditions; why not, for those that an older server stored.
pub type Compiled = Result<Conditions, String>;

/// Compiles the conditions of a webhook that passed validation.
pub fn compile(hook: &k8s_openapi::api::admissionregistration::v1::MutatingWebhook) -> Compiled {
    let conditions = hook.match_conditions.iter().flatten();
    let pairs = conditions.map(|one| (one.name.as_str(), one.expression.as_str()));
    Conditions::compile(pairs, &webhook_env()).map_err(|(_, error)| error.to_string())
}

/// Whether all conditions hold. One that cannot be decided follows the failure policy.
pub fn hold(
    server: &ApiServer,
    hook: &Hook,
    question: &Question,
    info: &KindInfo,
    object: Option<&Object>,
) -> Result<bool, ApiError> {
    let call = question.call;
    let matched = match &hook.conditions {
        Ok(conditions) if conditions.is_empty() => return Ok(true),
        Ok(conditions) => {
            let seen = |object: Option<&Object>| {
                object.map(|object| review::in_form(object, &call.info, info).into_value())
            };
            let own = |object: Option<&Object>| object.cloned().map(Object::into_value);
            let is_other = info.gvr != call.info.gvr;
            let (object, old) = match is_other {
                true => (seen(object), seen(question.old)),
                false => (own(object), own(question.old)),
            };
            let request = review::described(question, info)?;
            let inputs = Inputs {
                object: object.as_ref(),
                old_object: old.as_ref(),
                request: Some(&request),
                resource: call.check(),
                ..Inputs::default()
            };
            let variables = variables(&inputs);
            conditions.matched(&variables, Some(&Asker { server, user: &call.user }))
        }
        Err(why) => Matched::Failed(why.clone()),
    };
    match matched {
        Matched::Yes => Ok(true),
        Matched::No(_) => Ok(false),
        Matched::Failed(_) if hook.fails_open => Ok(false),
        Matched::Failed(why) => Err(ApiError::forbidden(&call.info.gvr, &call.name, why)),
    }
}
