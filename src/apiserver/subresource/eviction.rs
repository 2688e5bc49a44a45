//! `pods/eviction`: a deletion that asks the Pod's disruption budget first, and takes from what it
//! allows (k8s.io/kubernetes pkg/registry/core/pod/storage/eviction.go).
//!
//! The budget's status is written before the Pod is deleted, with the Pod's name in it: until the
//! disruption controller has seen the deletion, or two minutes are over, the Pod counts as gone.

use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;

use super::super::options;
use super::super::service::{Answer, ApiServer, Call, Stored};
use super::super::webhooks::{Asking, EVICTION};
use super::super::write::{MAX_UPDATE_ATTEMPTS, Owners, Update, Updated};
use super::super::write::{WriteParams, body_object, check_uid};
use crate::api::error::{Cause, Reason};
use crate::api::kinds::pod_disruption_budget::set_allowed_condition;
use crate::api::resource::{Gvr, Operation};
use crate::api::selector::Selector;
use crate::api::{ApiError, Object, Raw};
use crate::client::DeleteOptions;

/// Most evictions that a budget may have under way.
const MAX_DISRUPTED_PODS: usize = 2000;
/// After how many seconds a budget that was not looked at yet may be asked again.
const UNSEEN_RETRY_SECONDS: u32 = 10;

/// What a budget says about one Pod.
enum Word {
    /// It may go.
    Go,
    /// It may go as it is now: a change could make it count.
    GoUnchanged,
    /// The budget was changed by another writer meanwhile.
    AskAgain,
}

impl ApiServer {
    pub(super) async fn evict(
        &self,
        call: &Call,
        body: Value,
        params: &WriteParams,
    ) -> Result<Answer, ApiError> {
        self.authorize(call, "create")?;
        let eviction = body_object(body)?;
        if !matches!(eviction.kind(), "" | "Eviction") {
            let message = format!("expected an Eviction, not a {}", eviction.kind());
            return Err(ApiError::bad_request(message));
        }
        if !eviction.name().is_empty() && eviction.name() != call.name {
            let message = "name in URL does not match name in Eviction object";
            return Err(ApiError::bad_request(message));
        }
        let mut warnings = Vec::new();
        let asked = self.ask_about_part(call, EVICTION, eviction, None, params, &mut warnings);
        let eviction = asked.await?;
        let mut delete = match eviction.get("deleteOptions") {
            Some(value) => options::delete_options(value)?,
            None => Default::default(),
        };
        delete.dry_run |= params.dry_run;
        // Drains evict many at once: in turn they need not fail each other.
        let _turn = self.turns.lock(&format!("budgets/{}", call.namespace)).await;
        for _ in 0..MAX_UPDATE_ATTEMPTS {
            let pod = self.stored(call)?.object;
            check_uid(call, delete.uid.as_deref().unwrap_or_default(), &pod)?;
            let version = pod.resource_version();
            let moved = delete.resource_version.as_deref().is_some_and(|asked| asked != version);
            let mut now = delete.clone();
            // A precondition that does not hold must not cost the budget anything.
            let word = if moved { Word::Go } else { self.ask(call, &pod, delete.dry_run).await? };
            match word {
                Word::Go => {}
                Word::GoUnchanged => now.resource_version = Some(version.to_string()),
                Word::AskAgain => continue,
            }
            if !moved && !delete.dry_run {
                match self.tell_disruption(call, &now).await? {
                    // A precondition is one of the Pod as it is told.
                    Some(told) => {
                        now.resource_version = now.resource_version.is_some().then_some(told);
                    }
                    None => continue,
                }
            }
            match self.delete_authorized(call, &now, Asking::Skip).await {
                Err(error) if error.is_conflict() && now != delete => {}
                result => return result.map(|_| created().warn(warnings)),
            }
        }
        let message = format!("Timeout: pod {:?} or its budget changes too often", call.name);
        Err(ApiError::new(504, Reason::Timeout, message).retry_after(UNSEEN_RETRY_SECONDS))
    }

    /// Says in the Pod's status why it goes, and answers with its version then; `None`: it is not any
    /// more what the deletion asks for (KEP-3329).
    async fn tell_disruption(
        &self,
        call: &Call,
        delete: &DeleteOptions,
    ) -> Result<Option<String>, ApiError> {
        let call = Call { subresource: "status".into(), ..call.clone() };
        for _ in 0..MAX_UPDATE_ATTEMPTS {
            let old = self.stored(&call)?;
            let (uid, version) = (old.object.uid(), old.object.resource_version());
            let is_same =
                |asked: &Option<String>, is: &str| asked.as_deref().is_none_or(|a| a == is);
            if !is_same(&delete.uid, uid) || !is_same(&delete.resource_version, version) {
                return Ok(None);
            }
            let mut pod: Pod = old.object.typed()?;
            set_disrupted(pod.status.get_or_insert_default(), Time(self.clock.now()));
            let (object, owners) = (Object::from_typed(&pod), Owners::AsChanged);
            let update = Update { object, operation: Operation::UpdateStatus, owners };
            let params = WriteParams { asking: Asking::Skip, ..WriteParams::default() };
            if let Updated::Done(answer) = self.store_update(&call, &old, update, &params).await? {
                let told = Raw(answer.raw).object()?;
                return Ok(Some(told.resource_version().to_string()));
            }
        }
        Ok(None)
    }

    /// Asks the budget that guards a Pod, if there is one, and takes one disruption from it.
    async fn ask(&self, call: &Call, pod: &Object, dry_run: bool) -> Result<Word, ApiError> {
        let phase = pod.at(&["status", "phase"]).and_then(Value::as_str).unwrap_or_default();
        if pod.deletion_timestamp().is_some() || matches!(phase, "Succeeded" | "Failed") {
            return Ok(Word::Go);
        }
        if phase == "Pending" {
            return Ok(Word::GoUnchanged);
        }
        let mut budgets = self.budgets_of(call, pod)?;
        let Some((old, mut budget)) = budgets.pop() else { return Ok(Word::Go) };
        if !budgets.is_empty() {
            let message = "This pod has more than one PodDisruptionBudget, which the eviction \
                           subresource does not support.";
            return Err(ApiError::new(500, Reason::InternalError, message));
        }
        if !is_ready(pod) && lets_unhealthy_go(&budget) {
            return Ok(Word::GoUnchanged);
        }
        take(&mut budget, pod.name(), Time(self.clock.now()))?;
        if dry_run {
            return Ok(Word::Go);
        }
        let registry = self.registry();
        let info = registry.by_url("policy", "v1", BUDGETS.resource.as_ref());
        let Some(info) = info.cloned() else { return Ok(Word::Go) };
        let name = old.object.name().to_string();
        let call = Call { info, name, subresource: "status".into(), ..call.clone() };
        let object = Object::from_typed(&budget);
        let owners = Owners::AsChanged;
        let update = Update { object, operation: Operation::UpdateStatus, owners };
        let params = WriteParams { asking: Asking::Skip, ..WriteParams::default() };
        Ok(match self.store_update(&call, &old, update, &params).await? {
            Updated::Done(_) => Word::Go,
            Updated::Conflict => Word::AskAgain,
        })
    }

    /// The budgets of the Pod's namespace that select it.
    fn budgets_of(
        &self,
        call: &Call,
        pod: &Object,
    ) -> Result<Vec<(Stored, PodDisruptionBudget)>, ApiError> {
        let labels = pod.labels();
        let mut guarding = Vec::new();
        for entry in self.entries_in::<PodDisruptionBudget>(&call.namespace)? {
            let object = Raw(entry.value.clone()).object()?;
            let budget: PodDisruptionBudget = object.typed()?;
            let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            if Selector::from_typed(selector).is_ok_and(|selector| selector.matches(&labels)) {
                guarding.push((Stored { entry, object }, budget));
            }
        }
        Ok(guarding)
    }
}

const BUDGETS: Gvr = Gvr::of::<PodDisruptionBudget>();

fn set_disrupted(status: &mut PodStatus, now: Time) {
    let conditions = status.conditions.get_or_insert_default();
    let before = conditions.iter().position(|condition| condition.type_ == "DisruptionTarget");
    let before = before.map(|at| conditions.remove(at)).filter(|one| one.status == "True");
    conditions.push(PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some("EvictionByEvictionAPI".into()),
        message: Some("Eviction API: evicting".into()),
        last_transition_time: before.and_then(|one| one.last_transition_time).or(Some(now)),
        ..PodCondition::default()
    });
}

fn is_ready(pod: &Object) -> bool {
    let conditions = pod.at(&["status", "conditions"]).and_then(Value::as_array);
    let text = |condition: &Value, field: &str| condition.get(field).cloned().unwrap_or_default();
    conditions
        .into_iter()
        .flatten()
        .any(|condition| text(condition, "type") == "Ready" && text(condition, "status") == "True")
}

/// A Pod that is not healthy takes nothing from the healthy ones that the budget protects; unless
/// its policy says otherwise, those must be enough.
fn lets_unhealthy_go(budget: &PodDisruptionBudget) -> bool {
    let policy = budget.spec.as_ref().and_then(|s| s.unhealthy_pod_eviction_policy.as_deref());
    let status = budget.status.clone().unwrap_or_default();
    let enough = status.desired_healthy > 0 && status.current_healthy >= status.desired_healthy;
    policy == Some("AlwaysAllow") || enough
}

/// Takes one disruption, or says why there is none.
fn take(budget: &mut PodDisruptionBudget, pod: &str, now: Time) -> Result<(), ApiError> {
    let name = budget.metadata.name.clone().unwrap_or_default();
    let status = budget.status.get_or_insert_default();
    let refused = |retry_after_seconds: u32, message: String| {
        let cause = Cause { reason: "DisruptionBudget".into(), message, field: String::new() };
        let message = "Cannot evict pod as it would violate the pod's disruption budget.";
        Err(ApiError::too_many_requests(message, retry_after_seconds).cause(cause))
    };
    if status.observed_generation < budget.metadata.generation {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return refused(UNSEEN_RETRY_SECONDS, why);
    }
    if status.disrupted_pods.as_ref().map_or(0, |pods| pods.len()) > MAX_DISRUPTED_PODS {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(ApiError::forbidden(&BUDGETS, &name, why));
    }
    if status.disruptions_allowed <= 0 {
        let failed = status.conditions.iter().flatten().find(|condition| {
            condition.type_ == "DisruptionAllowed" && condition.reason == "SyncFailed"
        });
        let why = match failed {
            Some(failed) => format!(
                "The disruption budget {name} does not allow evicting pods currently because it \
                 failed sync: {}",
                failed.message
            ),
            None => format!(
                "The disruption budget {name} needs {} healthy pods and has {} currently",
                status.desired_healthy, status.current_healthy
            ),
        };
        return refused(0, why);
    }
    status.disruptions_allowed -= 1;
    if status.disruptions_allowed == 0 {
        set_allowed_condition(status, now.0);
    }
    status.disrupted_pods.get_or_insert_default().insert(pod.to_string(), now);
    Ok(())
}

/// The Status that evictions and bindings answer: 201, in the body as well.
pub(super) fn created() -> Answer {
    let status = "{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\
                  \"status\":\"Success\",\"code\":201}";
    Answer::other(201, status)
}
