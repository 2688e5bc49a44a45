//! `pods/binding`: the scheduler's decision. A Pod is bound once.
//!
//! As upstream, nothing but the binding is checked: a Pod that was valid is so on its node. Most are
//! written without a look at more of them than changes (`spliced.rs`).

use serde_json::{Value, json};

use super::super::service::{Answer, ApiServer, Call, timestamp};
use super::super::webhooks::BINDING;
use super::super::write::{
    MAX_UPDATE_ATTEMPTS, Owners, Update, Updated, WriteParams, body_object, check_uid,
};
use super::eviction::created;
use crate::api::field::{Errors, Path};
use crate::api::kinds::binders::{BINDER, SEEN_PODS};
use crate::api::resource::Operation;
use crate::api::{ApiError, Object};
use crate::apiserver::authz;
use crate::apiserver::write::check_size;
use crate::store::{Expect, Op};

mod spliced;

impl ApiServer {
    pub(super) async fn bind(
        &self,
        call: &Call,
        body: Value,
        params: &WriteParams,
    ) -> Result<Answer, ApiError> {
        self.authorize(call, "create")?;
        let binding = body_object(body)?;
        if !matches!(binding.kind(), "" | "Binding") {
            let message = format!("expected a Binding, not a {}", binding.kind());
            return Err(ApiError::bad_request(message));
        }
        if !binding.name().is_empty() && binding.name() != call.name {
            let message = "the name of the Binding does not match the name on the URL";
            return Err(ApiError::bad_request(message));
        }
        let mut warnings = Vec::new();
        let asked = self.ask_about_part(call, BINDING, binding, None, params, &mut warnings);
        let binding = asked.await?;
        let target = |field: &str| binding.at(&["target", field]).and_then(Value::as_str);
        let node = target("name").unwrap_or_default().to_string();
        let mut errors = Errors::default();
        let path = Path::new("target");
        if !matches!(target("kind"), None | Some("" | "Node")) {
            errors.not_supported(&path.child("kind"), target("kind"), &["Node", "<empty>"]);
        }
        if node.is_empty() {
            errors.required(&path.child("name"), "");
        }
        if !errors.is_empty() {
            return Err(ApiError::invalid(&call.info, &call.name, errors.into_vec()));
        }
        let turn = self.binders.turn(&binding, &node, self.store.revision());
        let turn = turn.map_err(|why| ApiError::conflict(&call.info.gvr, &call.name, why))?;
        for _ in 0..MAX_UPDATE_ATTEMPTS {
            if !params.dry_run
                && added_annotations(&binding).next().is_none()
                && let Some(bound) = self.bind_spliced(call, &binding, &node).await?
            {
                match bound {
                    Updated::Done(answer) => {
                        turn.done(self.store.revision());
                        return Ok(answer.warn(warnings));
                    }
                    Updated::Conflict => continue,
                }
            }
            let old = self.stored(call)?;
            check_uid(call, binding.uid(), &old.object)?;
            self.check_free(call, &old.object)?;
            let now = timestamp(self.clock.now());
            let object = bound(old.object.clone(), &node, &binding, &now);
            let owners = Owners::AsChanged;
            let update = Update { object, operation: Operation::UpdateStatus, owners };
            match self.store_update(call, &old, update, params).await? {
                Updated::Done(_) => {
                    turn.done(self.store.revision());
                    return Ok(created().warn(warnings));
                }
                Updated::Conflict => {}
            }
        }
        Err(ApiError::modified(&call.info.gvr, &call.name))
    }

    /// Binds a Pod of which no more has to be known than what changes. `None` for others: those that
    /// are refused, or whose fields have owners.
    async fn bind_spliced(
        &self,
        call: &Call,
        binding: &Object,
        node: &str,
    ) -> Result<Option<Updated>, ApiError> {
        if call.info.stored.is_some() || !authz::node_may_write_pod(&call.user, "") {
            return Ok(None);
        }
        let entry = self.entry(call)?;
        let now = timestamp(self.clock.now());
        let Some(value) = spliced::bound(&entry.value, binding.uid(), node, &now) else {
            return Ok(None);
        };
        check_size(&value, entry.value.len())?;
        let put = Op::Put { key: entry.key, value, expect: Expect::Revision(entry.revision) };
        Ok(Some(match self.commit_for(call, vec![put]).await? {
            Ok(_) => Updated::Done(created()),
            Err(_) => Updated::Conflict,
        }))
    }

    /// Refuses Pods that cannot be bound, or are.
    fn check_free(&self, call: &Call, pod: &Object) -> Result<(), ApiError> {
        let conflict = |why: String| Err(ApiError::conflict(&call.info.gvr, &call.name, why));
        if pod.deletion_timestamp().is_some() {
            return conflict(format!("pod {} is being deleted", call.name));
        }
        let gates = pod.at(&["spec", "schedulingGates"]).and_then(Value::as_array);
        if gates.is_some_and(|gates| !gates.is_empty()) {
            return conflict(format!("pod {} has non-empty .spec.schedulingGates", call.name));
        }
        let bound = pod.at(&["spec", "nodeName"]).and_then(Value::as_str).unwrap_or_default();
        if !bound.is_empty() {
            return conflict(format!("pod {} is already assigned to node {bound:?}", call.name));
        }
        Ok(())
    }
}

/// A Binding's annotations are added to the Pod's (core/v1, BindingREST), but for the precondition's.
fn added_annotations(binding: &Object) -> impl Iterator<Item = (String, String)> {
    let all = binding.annotations().into_iter();
    all.filter(|(key, _)| ![BINDER, SEEN_PODS].contains(&key.as_str()))
}

/// The Pod on its node.
fn bound(mut pod: Object, node: &str, binding: &Object, now: &str) -> Object {
    let spec = pod.fields_mut().entry("spec").or_insert_with(|| json!({}));
    spec["nodeName"] = node.into();
    for (key, value) in added_annotations(binding) {
        let annotations = pod.meta_mut().entry("annotations").or_insert_with(|| json!({}));
        annotations[&key] = value.into();
    }
    let status = pod.fields_mut().entry("status").or_insert_with(|| json!({}));
    if let Some(status) = status.as_object_mut() {
        set_bound(status, now);
    }
    pod
}

/// What of a Pod's status its binding changes.
fn set_bound(status: &mut serde_json::Map<String, Value>, now: &str) {
    // It has what was being made free for it (KEP-5278).
    status.remove("nominatedNodeName");
    set_scheduled(status, now);
}

fn set_scheduled(status: &mut serde_json::Map<String, Value>, now: &str) {
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    let condition = json!({"type": "PodScheduled", "status": "True",
        "lastProbeTime": null, "lastTransitionTime": now});
    let Some(list) = conditions.as_array_mut() else { return };
    match list.iter_mut().find(|c| c.get("type") == Some(&Value::from("PodScheduled"))) {
        Some(old) => *old = condition,
        None => list.push(condition),
    }
}
