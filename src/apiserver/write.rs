//! POST and PUT: the order in which a write is decoded, defaulted, admitted, validated, committed
//! (k8s.io/apiserver/pkg/registry/rest and registry/generic/registry/store.go).
//!
//! Owns what is the same for every kind. What a kind decides is behind [`crate::api::resource::Rules`];
//! what crosses kinds (namespaces, cluster IPs, images) is in [`super::admission`].

use std::sync::atomic::Ordering;

use serde_json::Value;

use super::admission::resource_quota::Change;
use super::admission::{self, Attributes, Outcome, Verb};
use super::admit::Write;
use super::service::{Answer, ApiServer, Call, Conflict, Stored, read_error, timestamp};
use super::{authz, keys, ownership, update, versions};
use crate::api::apply::Managers;
use crate::api::error::Reason;
use crate::api::resource::{Draft, Generation, Operation};
use crate::api::{ApiError, Object, meta};
use crate::store::{Committed, Expect, Op, Value as StoreValue};

mod checks;
mod params;

pub use checks::MAX_OBJECT_BYTES;
pub(super) use checks::{
    body_object, check_kind, check_name, check_namespace, check_preconditions, check_size,
    check_uid,
};
pub use params::{FieldValidation, Tracking, WriteParams};

/// How often a create is tried when a generated name, a cluster IP or the namespace's state was
/// taken by another write.
const MAX_CREATE_ATTEMPTS: usize = 8;
/// How often a write without a resource version is tried again on top of the newest object.
pub(super) const MAX_UPDATE_ATTEMPTS: usize = 5;

/// How an update ends: with an answer, or because another writer was faster.
pub(super) enum Updated {
    Done(Answer),
    Conflict,
}

/// An update that is ready for the common half of the pipeline.
pub(super) struct Update {
    /// The whole new object; system fields are set from the stored one.
    pub object: Object,
    pub operation: Operation,
    pub owners: Owners,
}

/// Who owns the fields of an updated object.
pub(super) enum Owners {
    /// As it follows from what changed.
    AsChanged,
    /// The same, but the body tells who owned them before.
    Told(Managers),
    /// An apply decided it.
    Decided(Managers),
}

impl ApiServer {
    pub async fn create(
        &self,
        call: &Call,
        body: Value,
        params: &WriteParams,
    ) -> Result<Answer, ApiError> {
        self.create_owned(call, body, params, None).await
    }

    /// Creates an object whose fields have managers.
    pub(super) async fn create_owned(
        &self,
        call: &Call,
        body: Value,
        params: &WriteParams,
        managers: Option<&Managers>,
    ) -> Result<Answer, ApiError> {
        self.authorize(call, "create")?;
        let mut object = body_object(body)?;
        let info = &call.info;
        if info.custom.as_ref().is_some_and(|custom| custom.terminating.load(Ordering::Relaxed)) {
            let message = "create not allowed while custom resource definition is terminating";
            return Err(ApiError::new(405, Reason::MethodNotAllowed, message));
        }
        check_kind(info, &mut object)?;
        check_namespace(call, &mut object)?;
        if !object.resource_version().is_empty() {
            let message = "resourceVersion should not be set on objects to be created";
            return Err(ApiError::bad_request(message));
        }
        self.check_node_create(call, &object)?;
        meta::wipe(&mut object);
        if info.meta.status && !info.meta.status_on_create {
            object.remove("status");
        }
        // Before the defaults: a Job's selector follows from its uid.
        object.set_meta("uid", self.ids.uid());
        object.set_meta("creationTimestamp", timestamp(self.clock.now()));
        let mut warnings = Vec::new();
        let draft = info.rules.decode(object.into_value(), None, Operation::Create)?;
        params.report(&draft.unknown, &mut warnings)?;
        // Another try begins with what this one did not change.
        let kept = draft.kept();
        let generated = draft.object.name().is_empty() && has_generated_name(&draft.object);
        let prefix = draft.object.meta_text(if generated { "generateName" } else { "name" });
        let prefix = prefix.to_string();
        let mut first = Some(draft);
        for _ in 0..MAX_CREATE_ATTEMPTS {
            let mut draft = first.take().unwrap_or_else(|| info.rules.again(&kept));
            let object = &mut draft.object;
            if info.meta.generation != Generation::None {
                object.set_meta("generation", 1);
            }
            match managers {
                Some(managers) => ownership::write(object, managers),
                None => self.set_first_owner(call, object, params),
            }
            if generated {
                let suffix = self.ids.suffix(meta::GENERATED_SUFFIX_LENGTH);
                object.set_meta("name", meta::generated_name(&prefix, &suffix));
            }
            let mut warnings = warnings.clone();
            match self.try_create(call, draft, params, &mut warnings).await? {
                Created::Done(answer) => return Ok(answer.warn(warnings)),
                Created::Exists(name) if !generated => {
                    return Err(ApiError::already_exists(&info.gvr, &name));
                }
                Created::Exists(_) | Created::Retry => {}
            }
        }
        Err(if generated {
            ApiError::already_exists(&info.gvr, &prefix).retry_after(1)
        } else {
            let why = "too many writes at the same time";
            ApiError::conflict(&info.gvr, &prefix, why).retry_after(1)
        })
    }

    async fn try_create(
        &self,
        call: &Call,
        draft: Draft,
        params: &WriteParams,
        warnings: &mut Vec<String>,
    ) -> Result<Created, ApiError> {
        let info = &call.info;
        let name = draft.object.name().to_string();
        let call = Call { name: name.clone(), ..call.clone() };
        let attributes = Attributes::new(self, &call, Verb::Create, None);
        let write = Write { attributes: &attributes, operation: Operation::Create, params };
        let (draft, mut outcome) = self.admit(&write, draft, warnings).await?;
        self.validate(&write, &draft, warnings).await?;
        // Nobody waits in turn for a webhook.
        let change = Change::of(&attributes, Some(&draft.object));
        let _turn = self.quota_turn(&change).await?;
        admission::charge(&attributes, &draft.object, &mut outcome)?;
        let value = self.stored_form(info, &draft.object).await?;
        check_size(&value, 0)?;
        let key = keys::object(info, &call.namespace, &name);
        if params.dry_run {
            if self.store.get(&key).map_err(read_error)?.is_some() {
                return Ok(Created::Exists(name));
            }
            return Ok(Created::Done(Answer::object(201, draft.object.to_json().into())));
        }
        // Not kept until the disk has answered.
        drop(draft);
        let put = Op::Put { key, value, expect: Expect::Absent };
        let ops = std::iter::once(put).chain(outcome.ops).collect();
        match self.commit_for(&call, ops).await? {
            Ok(committed) => Ok(Created::Done(Answer::object(201, first(committed)))),
            Err(Conflict { op: 0, current: Some(_) }) => Ok(Created::Exists(name)),
            Err(_) => Ok(Created::Retry),
        }
    }

    pub async fn update(
        &self,
        call: &Call,
        body: Value,
        params: &WriteParams,
    ) -> Result<Answer, ApiError> {
        self.authorize(call, "update")?;
        let object = body_object(body)?;
        let unconditional = matches!(object.resource_version(), "" | "0");
        let mut object = Some(object);
        for _ in 0..MAX_UPDATE_ATTEMPTS {
            let old = self.stored_as_asked(call).await?;
            if unconditional && !call.info.meta.unconditional_update {
                return Err(versions::unversioned(&call.info, &call.name));
            }
            // Who names a version does not try again.
            let body = if unconditional { object.clone() } else { object.take() };
            let Some(body) = body else { break };
            match self.replace(call, &old, body, params).await? {
                Updated::Done(answer) => return Ok(answer),
                Updated::Conflict if unconditional => {}
                Updated::Conflict => break,
            }
        }
        Err(ApiError::modified(&call.info.gvr, &call.name))
    }

    /// Replaces the stored object, or its part that the call's subresource is about, by `object`.
    pub(super) async fn replace(
        &self,
        call: &Call,
        old: &Stored,
        mut object: Object,
        params: &WriteParams,
    ) -> Result<Updated, ApiError> {
        check_kind(&call.info, &mut object)?;
        check_namespace(call, &mut object)?;
        check_name(call, &mut object)?;
        check_preconditions(call, old, &object)?;
        let told = ownership::told_by_user(call, &old.object, &object);
        let owners = told.map_or(Owners::AsChanged, Owners::Told);
        let (object, operation) = match call.subresource.as_str() {
            part if update::writes_status(part) => {
                (update::status_of(&old.object, object), Operation::UpdateStatus)
            }
            "finalize" => (update::finalizers_of(&old.object, object), Operation::UpdateStatus),
            update::EPHEMERAL_CONTAINERS => (
                update::ephemeral_containers_of(&old.object, object),
                Operation::UpdateEphemeralContainers,
            ),
            _ => (update::main_of(&call.info, &old.object, object), Operation::Update),
        };
        self.store_update(call, old, Update { object, operation, owners }, params).await
    }

    /// The half that every update shares: decode, admit, validate, commit. `update.object` is
    /// complete.
    pub(super) async fn store_update(
        &self,
        call: &Call,
        old: &Stored,
        update: Update,
        params: &WriteParams,
    ) -> Result<Updated, ApiError> {
        let info = &call.info;
        self.check_node_write(call, &old.object)?;
        let mut warnings = Vec::new();
        let Update { object, operation, owners } = update;
        let mut draft = info.rules.decode(object.into_value(), Some(&old.object), operation)?;
        params.report(&draft.unknown, &mut warnings)?;
        meta::keep_system_fields(&mut draft.object, &old.object);
        let attributes = Attributes::new(self, call, Verb::Update, Some(&old.object));
        let write = Write { attributes: &attributes, operation, params };
        let (mut draft, mut outcome) = self.admit(&write, draft, &mut warnings).await?;
        let new_generation = operation != Operation::UpdateStatus
            && update::is_new_generation(info.meta.generation, &draft.object, &old.object);
        if new_generation {
            draft.object.set_meta("generation", old.object.generation() + 1);
        }
        self.set_owners(call, &old.object, &mut draft.object, owners, params);
        self.validate(&write, &draft, &mut warnings).await?;
        let object = draft.object;
        let done = |raw| Updated::Done(Answer::object(200, raw).warn(warnings));
        if object == old.object && versions::is_current(info, &old.entry.value) {
            return Ok(done(old.entry.value.clone()));
        }
        let value = self.stored_form(info, &object).await?;
        check_size(&value, old.entry.value.len())?;
        let _turn = self.quota_turn(&Change::of(&attributes, Some(&object))).await?;
        admission::charge(&attributes, &object, &mut outcome)?;
        if params.dry_run {
            return Ok(done(object.to_json().into()));
        }
        let ops = self.update_ops(call, old, &object, value, outcome);
        match self.commit_for(call, ops).await? {
            Ok(committed) => Ok(done(first(committed))),
            Err(_) => Ok(Updated::Conflict),
        }
    }

    /// A put, or a deletion if the update removed what a deletion was waiting for.
    fn update_ops(
        &self,
        call: &Call,
        old: &Stored,
        object: &Object,
        value: StoreValue,
        outcome: Outcome,
    ) -> Vec<Op> {
        let key = old.entry.key.clone();
        let expect = Expect::Revision(old.entry.revision);
        let ends = object.deletion_timestamp().is_some()
            && !super::delete::is_blocked(&call.info, object)
            && super::delete::is_blocked(&call.info, &old.object)
            && super::delete::remaining_grace_seconds(object) == 0;
        if !ends {
            let put = Op::Put { key, value, expect };
            return std::iter::once(put).chain(outcome.ops).collect();
        }
        self.deletion_ops(call, old, value)
    }

    /// Node agents create only what is theirs.
    fn check_node_create(&self, call: &Call, object: &Object) -> Result<(), ApiError> {
        if authz::node_may_create(&call.user, &call.info.gvr, object.name()) {
            return Ok(());
        }
        let why = "a node may create only its own Node and Lease";
        Err(ApiError::forbidden(&call.info.gvr, object.name(), why))
    }

    /// Node agents write only Pods of their own node.
    pub(super) fn check_node_write(&self, call: &Call, old: &Object) -> Result<(), ApiError> {
        let is_pod = call.info.gvr.group.is_empty() && call.info.gvr.resource == "pods";
        let node = old.at(&["spec", "nodeName"]).and_then(Value::as_str).unwrap_or_default();
        if !is_pod || authz::node_may_write_pod(&call.user, node) {
            return Ok(());
        }
        let why = "a node may write only Pods that are bound to it";
        Err(ApiError::forbidden(&call.info.gvr, &call.name, why))
    }
}

pub(super) fn has_generated_name(object: &Object) -> bool {
    !object.meta_text("generateName").is_empty()
}

enum Created {
    Done(Answer),
    Exists(String),
    Retry,
}

/// The value to store, with its splice point.
pub(super) fn spliced(object: &Object) -> StoreValue {
    let (bytes, offset) = object.to_json_with_splice();
    StoreValue { bytes: bytes.into(), splice_at: Some(offset) }
}

/// The bytes of a commit's first change.
pub(super) fn first(committed: Committed) -> bytes::Bytes {
    committed.values.into_iter().next().unwrap_or_default()
}
