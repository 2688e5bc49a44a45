//! Match conditions of webhooks: expressions in CEL that decide, after rules and selectors, whether
//! a webhook is asked (webhook/matchconditions/matcher.go).

use super::{Hook, Question, review};
use crate::api::cel::admission::{Conditions, Inputs, Matched, variables, webhook_env};
use crate::api::cel::{Authorizer, Check, Decision};
use crate::api::resource::{Gvr, KindInfo};
use crate::api::{ApiError, Object};
use crate::apiserver::User;
use crate::apiserver::authz::Attributes;
use crate::apiserver::rbac::SERVICE_ACCOUNT_PREFIX;
use crate::apiserver::service::{ApiServer, Call};
use crate::apiserver::user::AUTHENTICATED;

/// Every service account is in it, and in that of its namespace.
const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";

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
                resource: about(call),
                ..Inputs::default()
            };
            let variables = variables(&inputs);
            conditions.matched(&variables, Some(&Asker { server, call }))
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

/// What the request itself is about.
fn about(call: &Call) -> Check {
    let gvr = &call.info.gvr;
    Check {
        group: gvr.group.to_string(),
        resource: gvr.resource.to_string(),
        subresource: call.subresource.clone(),
        namespace: call.namespace.clone(),
        name: call.name.clone(),
        ..Check::default()
    }
}

/// Decides the checks of expressions as those of requests.
struct Asker<'a> {
    server: &'a ApiServer,
    call: &'a Call,
}

impl Authorizer for Asker<'_> {
    fn decide(&self, check: &Check) -> Decision {
        let account = check.service_account.as_ref().map(|(namespace, name)| {
            let group = format!("{SERVICE_ACCOUNTS}:{namespace}");
            let user = format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}");
            User::new(user, &[SERVICE_ACCOUNTS, &group, AUTHENTICATED])
        });
        let user = account.as_ref().unwrap_or(&self.call.user);
        let gvr = Gvr {
            group: check.group.clone().into(),
            version: "*".into(),
            resource: check.resource.clone().into(),
            namespaced: !check.namespace.is_empty(),
        };
        let attributes = match check.path.as_str() {
            "" => Attributes {
                verb: &check.verb,
                resource: Some(&gvr),
                subresource: &check.subresource,
                namespace: &check.namespace,
                name: &check.name,
                path: "",
            },
            path => Attributes::of_path(&check.verb, path),
        };
        let allowed = self.server.authorize_user(user, &attributes).is_ok();
        let reason = self.server.rules.reason(user, &attributes).filter(|_| allowed);
        Decision { allowed, reason: reason.unwrap_or_default() }
    }
}
