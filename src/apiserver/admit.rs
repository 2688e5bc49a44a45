//! The middle of a write: mutating admission, the kind's own rules, validating admission. What the
//! steps are is in [`super::admission`] and [`super::webhooks`]; here is their order.

use super::admission::{self, Attributes, Outcome, Verb};
use super::service::ApiServer;
use super::update;
use super::webhooks::{Asking, Question, Rounds, Table, write_options};
use super::write::{WriteParams, has_generated_name};
use crate::api::field::Errors;
use crate::api::resource::{Draft, Operation};
use crate::api::{ApiError, Object, meta};

/// Subresources whose object is another one than the resource's: webhooks were asked about that
/// one already.
const PARTS: &[&str] = &["binding", "eviction", "scale"];

/// One write of a whole object.
pub(super) struct Write<'a> {
    pub attributes: &'a Attributes<'a>,
    pub operation: Operation,
    pub params: &'a WriteParams,
}

impl Write<'_> {
    /// Whether webhooks and policies are asked.
    fn is_asked(&self) -> bool {
        let subresource = self.attributes.call.subresource.as_str();
        self.params.asking == Asking::Ask && !PARTS.contains(&subresource)
    }

    /// The webhooks that may want to know of it.
    fn webhooks(&self, server: &ApiServer) -> Option<std::sync::Arc<Table>> {
        if self.is_asked() { server.hooks.of(self.attributes.call) } else { None }
    }

    fn question(&self) -> Question<'_> {
        let operation = self.operation.into();
        Question {
            call: self.attributes.call,
            operation,
            part: None,
            old: self.attributes.old,
            dry_run: self.params.dry_run,
            options: write_options(self.params, operation),
        }
    }

    /// An object that a webhook changed, as the pipeline had it before: without what writers
    /// cannot set, decoded and defaulted.
    fn settle(&self, before: &Object, mut object: Object) -> Result<Draft, ApiError> {
        let info = &self.attributes.call.info;
        meta::check_types(&object)?;
        let Some(old) = self.attributes.old else {
            if info.meta.status && !info.meta.status_on_create {
                object.remove("status");
            }
            let mut draft = info.rules.decode(object.into_value(), None, self.operation)?;
            meta::keep_system_fields(&mut draft.object, before);
            return Ok(draft);
        };
        let object = match self.attributes.call.subresource.as_str() {
            part if update::writes_status(part) => update::status_of(old, object),
            "finalize" => update::finalizers_of(old, object),
            update::EPHEMERAL_CONTAINERS => update::ephemeral_containers_of(old, object),
            _ => update::main_of(info, old, object),
        };
        let mut draft = info.rules.decode(object.into_value(), Some(old), self.operation)?;
        meta::keep_system_fields(&mut draft.object, old);
        Ok(draft)
    }
}

impl ApiServer {
    /// Mutating admission, in which defaults are set again after each change.
    pub(super) async fn admit(
        &self,
        write: &Write<'_>,
        draft: Draft,
        warnings: &mut Vec<String>,
    ) -> Result<(Draft, Outcome), ApiError> {
        let attributes = write.attributes;
        let generated = attributes.verb == Verb::Create && has_generated_name(&draft.object);
        let (mut draft, mut outcome) = admit_once(attributes, draft)?;
        if let Some(changed) = self.changed_by_policies(write, &draft.object, false)? {
            (draft, outcome) = admit_once(attributes, changed)?;
        }
        // Defaults may follow from the name, and so from one that was just made; they were set again
        // by whoever changed the object since.
        let mut stale = generated && !outcome.changed;
        if let Some(table) = write.webhooks(self) {
            let first = draft.object.clone();
            let settle = |object: Object| write.settle(&first, object).map(|draft| draft.object);
            let question = write.question();
            let mut rounds = Rounds::default();
            let ask = async |object, rounds: &mut Rounds, warnings: &mut Vec<String>| {
                let asked =
                    self.ask_mutating(&table, &question, Some(object), &settle, rounds, warnings);
                Box::pin(asked)
                    .await
                    .map(|object| object.unwrap_or_else(|| unreachable!("it went in")))
            };
            let object = ask(draft.object.clone(), &mut rounds, warnings).await?;
            if rounds.changed {
                stale = false;
                draft = write.settle(&first, object)?;
                (draft, outcome) = admit_once(attributes, draft)?;
                if let Some(changed) = self.changed_by_policies(write, &draft.object, true)? {
                    (draft, outcome) = admit_once(attributes, changed)?;
                }
                rounds.next(&draft.object);
                let object = ask(draft.object.clone(), &mut rounds, warnings).await?;
                if object != draft.object {
                    draft = write.settle(&first, object)?;
                }
            }
        }
        warnings.append(&mut outcome.warnings);
        outcome.changed = false;
        admission::allocate(attributes, &mut draft.object, &mut outcome)?;
        if outcome.changed || stale {
            draft = attributes.call.info.rules.redefault(draft)?;
        }
        Ok((draft, outcome))
    }

    /// The draft of what policies make of an object, if they change it.
    fn changed_by_policies(
        &self,
        write: &Write<'_>,
        object: &Object,
        again: bool,
    ) -> Result<Option<Draft>, ApiError> {
        if !write.is_asked() || self.policies.mutating().is_empty() {
            return Ok(None);
        }
        let settle = |changed: Object| write.settle(object, changed).map(|draft| draft.object);
        let changed = self.change_by_policies(&write.question(), object, again, &settle)?;
        changed.map(|changed| write.settle(object, changed)).transpose()
    }

    /// The kind's own rules, those of metadata, and validating admission.
    pub(super) async fn validate(
        &self,
        write: &Write<'_>,
        draft: &Draft,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        let attributes = write.attributes;
        let info = &attributes.call.info;
        let object = &draft.object;
        let mut errors = Errors::default();
        meta::validate(object, info, attributes.old, &mut errors);
        let mut errors = errors.into_vec();
        errors.extend(info.rules.validate(draft, write.operation));
        if !errors.is_empty() {
            return Err(ApiError::invalid(info, object.name(), errors));
        }
        // Who writes a status did not choose the spec.
        if write.operation != Operation::UpdateStatus {
            warnings.extend(info.rules.warnings(draft));
        }
        admission::validate(attributes, object, warnings)?;
        if write.is_asked() && !self.policies.validating().is_empty() {
            self.ask_policies(&write.question(), Some(object), warnings)?;
        }
        match write.webhooks(self) {
            Some(table) => {
                let question = write.question();
                Box::pin(self.ask_validating(&table, &question, Some(object), warnings)).await
            }
            None => Ok(()),
        }
    }
}

/// All admitters, and the defaults after what they changed.
fn admit_once(attributes: &Attributes<'_>, mut draft: Draft) -> Result<(Draft, Outcome), ApiError> {
    let mut outcome = Outcome::default();
    admission::admit(attributes, &mut draft.object, &mut outcome)?;
    if outcome.changed {
        draft = attributes.call.info.rules.redefault(draft)?;
    }
    Ok((draft, outcome))
}
