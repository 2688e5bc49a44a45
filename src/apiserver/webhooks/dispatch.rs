//! Asks the webhooks about one write (webhook/mutating/dispatcher.go, webhook/validating).

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use tokio::time::timeout;

use super::{Hook, Question, Table, matching, review};
use crate::api::patch::json_patch;
use crate::api::resource::KindInfo;
use crate::api::{ApiError, Object};
use crate::apiserver::service::ApiServer;

/// What one write's mutating webhooks did so far: a webhook may ask to be called once more if the
/// object changed after it saw it (reinvocationPolicy).
#[derive(Default)]
pub struct Rounds {
    /// Whether a webhook changed the object.
    pub changed: bool,
    is_second: bool,
    /// Those that may be called again, and those that are to be.
    reinvocable: Vec<Arc<Hook>>,
    again: Vec<Arc<Hook>>,
    /// The object as the webhooks left it.
    output: Option<Object>,
}

impl Rounds {
    /// Begins the second and last round, with the object as the admitters left it.
    pub fn next(&mut self, object: &Object) {
        self.is_second = true;
        if self.output.as_ref() != Some(object) {
            self.call_again();
        }
    }

    fn call_again(&mut self) {
        self.again.append(&mut self.reinvocable);
    }

    fn skips(&self, hook: &Arc<Hook>) -> bool {
        self.is_second && !self.again.iter().any(|one| Arc::ptr_eq(one, hook))
    }
}

/// Why a webhook's word is not a yes.
enum Failure {
    /// It could not be asked, or its answer was none: the failure policy decides.
    Calling(String),
    Refused(ApiError),
}

impl Failure {
    /// What becomes of the write: nothing, if the webhook may fail.
    fn outcome(self, hook: &Hook) -> Result<(), ApiError> {
        let name = &hook.spec.name;
        match self {
            Failure::Refused(error) => Err(error),
            Failure::Calling(why) if hook.fails_open => {
                let configuration = &hook.configuration;
                tracing::warn!(configuration, webhook = name, why, "a webhook failed open");
                Ok(())
            }
            Failure::Calling(why) => {
                Err(ApiError::internal(format!("failed calling webhook {name:?}: {why}")))
            }
        }
    }
}

impl ApiServer {
    /// Asks the mutating webhooks, each about what those before it left. `settle` brings a patched
    /// object into shape (decode, default). Without an object, as on deletions, they can only
    /// refuse.
    pub(in crate::apiserver) async fn ask_mutating(
        &self,
        table: &Table,
        question: &Question<'_>,
        mut object: Option<Object>,
        settle: &(dyn Fn(Object) -> Result<Object, ApiError> + Sync),
        rounds: &mut Rounds,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Object>, ApiError> {
        for hook in &table.mutating {
            if rounds.skips(hook) {
                continue;
            }
            let Some(info) = matching::asked(self, hook, question, object.as_ref())? else {
                continue;
            };
            let asked = self.ask_one(hook, true, question, &info, object.as_ref(), warnings).await;
            let patched = match asked {
                Ok(patch) if patch.is_null() => None,
                Ok(patch) => Some(patched(hook, question, &info, object.as_ref(), &patch)?),
                Err(failure) => {
                    failure.outcome(hook)?;
                    None
                }
            };
            if let Some(patched) = patched {
                let settled = settle(patched)?;
                if object.as_ref() != Some(&settled) {
                    rounds.changed = true;
                    rounds.call_again();
                }
                object = Some(settled);
            }
            if hook.spec.reinvocation_policy.as_deref() == Some("IfNeeded") {
                rounds.reinvocable.push(hook.clone());
            }
        }
        rounds.output.clone_from(&object);
        Ok(object)
    }

    /// Asks the validating webhooks, all at once; the first refusal in their order is the answer.
    pub(in crate::apiserver) async fn ask_validating(
        &self,
        table: &Table,
        question: &Question<'_>,
        object: Option<&Object>,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        let mut calls = Vec::new();
        for hook in &table.validating {
            if let Some(info) = matching::asked(self, hook, question, object)? {
                calls.push(async move {
                    let mut warnings = Vec::new();
                    let asked =
                        self.ask_one(hook, false, question, &info, object, &mut warnings).await;
                    let outcome = asked.map(drop).or_else(|failure| failure.outcome(hook));
                    (outcome, warnings)
                });
            }
        }
        if calls.is_empty() {
            return Ok(());
        }
        let mut first = Ok(());
        for (outcome, told) in join_all(calls).await {
            warnings.extend(told);
            first = first.and(outcome);
        }
        first
    }

    /// Asks one webhook, in its time; answers with its patch.
    async fn ask_one(
        &self,
        hook: &Hook,
        mutating: bool,
        question: &Question<'_>,
        info: &KindInfo,
        object: Option<&Object>,
        warnings: &mut Vec<String>,
    ) -> Result<serde_json::Value, Failure> {
        let name = &hook.spec.name;
        let has_no_effects = matches!(hook.spec.side_effects.as_str(), "None" | "NoneOnDryRun");
        if question.dry_run && !has_no_effects {
            let message = format!("admission webhook {name:?} does not support dry run");
            return Err(Failure::Refused(ApiError::bad_request(message)));
        }
        let Some(version) = review::version(hook) else {
            let why = "could not create admission objects: webhook does not accept known \
                       AdmissionReview versions (v1, v1beta1)";
            return Err(Failure::Calling(why.into()));
        };
        let uid = self.ids.uid();
        let body = review::render(version, &uid, question, info, object);
        let body: Bytes = body.map_err(Failure::Refused)?.into();
        let seconds = hook.timeout.as_secs();
        let call = timeout(hook.timeout, hook.caller.post(self, body, seconds)).await;
        let answer = call.unwrap_or_else(|_| Err("context deadline exceeded".into()));
        let answer = answer.map_err(|why| {
            let url = hook.caller.url(seconds);
            Failure::Calling(format!("failed to call webhook: Post \"{url}\": {why}"))
        })?;
        let verdict = review::read(hook, mutating, version, &uid, &answer);
        let verdict = verdict.map_err(Failure::Calling)?;
        warnings.extend(verdict.warnings);
        match verdict.refused {
            Some(error) => Err(Failure::Refused(error)),
            None => Ok(verdict.patch),
        }
    }
}

/// The object with a webhook's patch, in the version that the user wrote.
fn patched(
    hook: &Hook,
    question: &Question,
    info: &KindInfo,
    object: Option<&Object>,
    patch: &serde_json::Value,
) -> Result<Object, ApiError> {
    let name = &hook.spec.name;
    let Some(object) = object else {
        return Err(ApiError::internal(format!(
            "admission webhook {name:?} attempted to modify the object, which is not supported \
             for this operation"
        )));
    };
    let own = &question.call.info;
    let is_other = info.gvr != own.gvr;
    let seen = if is_other { review::in_form(object, own, info) } else { object.clone() };
    let failed = |why: &dyn std::fmt::Display| {
        ApiError::internal(format!("the patch of admission webhook {name:?} failed: {why}"))
    };
    let value = json_patch(&seen.into_value(), patch).map_err(|error| failed(&error))?;
    let mut patched = Object::from_value(value).map_err(|error| failed(&error))?;
    if is_other {
        patched = review::in_form(&patched, info, own);
    }
    let same = |text: fn(&Object) -> &str| text(&patched) == text(object);
    if same(Object::name)
        && same(Object::namespace)
        && same(Object::kind)
        && same(Object::api_version)
    {
        return Ok(patched);
    }
    Err(ApiError::bad_request(format!(
        "admission webhook {name:?} attempted to change what the object is: its kind, version, \
         name or namespace"
    )))
}
