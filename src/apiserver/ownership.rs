//! Field ownership in the pipeline: server-side apply (PATCH with `application/apply-patch+yaml`),
//! and what every other write means to the owners of an object's fields.
//!
//! Owners are recorded from the creation on where the client names its field manager, as kubectl
//! does, so that its move from client-side to server-side apply ends as on upstream. Otherwise they
//! are from the first apply on: most Pods would carry them for nobody. What controllers and nodes
//! write into statuses is not recorded. The rules are in [`crate::api::apply`]; here are URLs, codes
//! and retries.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use super::conversion::by_webhook;
use super::service::{Answer, ApiServer, Call, Stored, timestamp};
use super::subresource::scale;
use super::write::{
    MAX_UPDATE_ATTEMPTS, Owners, Tracking, Update, Updated, WriteParams, body_object, check_kind,
    check_name, check_namespace, check_preconditions,
};
use super::{patch, update};
use crate::api::apply::{self, ApplyError, Managers, OneVersion, Part, Shape, Versions, Who};
use crate::api::error::{Cause, Reason};
use crate::api::resource::{KindInfo, Operation};
use crate::api::{ApiError, Object};

const MANAGED_FIELDS: &str = "managedFields";

impl ApiServer {
    /// Applies a configuration: creates the object, or merges into it what its manager wants.
    pub(super) async fn apply(
        &self,
        call: &Call,
        config: &Value,
        force: bool,
        params: &WriteParams,
    ) -> Result<Answer, ApiError> {
        if params.manager.is_empty() {
            let message = "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: \
                           is required for apply patch";
            return Err(ApiError::new(422, Reason::Invalid, message));
        }
        let mut config = body_object(config.clone())?;
        if config.api_version().is_empty() || config.kind().is_empty() {
            let message = "the configuration must have apiVersion and kind";
            return Err(ApiError::bad_request(message));
        }
        if call.subresource == "scale" {
            config = scale::as_parent(call, &config)?;
        }
        check_kind(&call.info, &mut config)?;
        check_namespace(call, &mut config)?;
        check_name(call, &mut config)?;
        let conditional = !config.resource_version().is_empty();
        let name = format!("{}/{}", call.namespace, call.name);
        let kind = format!("{}, Kind={}", call.info.gvr.api_version(), call.info.kind);
        let params = &WriteParams { applied: Some(format!("({name}; {kind})")), ..params.clone() };
        for _ in 0..MAX_UPDATE_ATTEMPTS {
            let old = match self.stored_as_asked(call).await {
                Ok(old) => old,
                Err(error) if error.is_not_found() && call.subresource.is_empty() => {
                    match self.apply_new(call, &config, force, params).await {
                        // Somebody else was faster: it is there now.
                        Err(error) if error.is_already_exists() => continue,
                        result => return result,
                    }
                }
                Err(error) => return Err(error),
            };
            match self.apply_to(call, &old, &config, force, params).await? {
                Updated::Done(answer) => return Ok(answer),
                Updated::Conflict if conditional => break,
                Updated::Conflict => {}
            }
        }
        Err(ApiError::modified(&call.info.gvr, &call.name))
    }

    async fn apply_new(
        &self,
        call: &Call,
        config: &Object,
        force: bool,
        params: &WriteParams,
    ) -> Result<Answer, ApiError> {
        if !config.uid().is_empty() || !config.resource_version().is_empty() {
            let why = "the configuration names a uid or resourceVersion, and no such object exists";
            return Err(ApiError::conflict(&call.info.gvr, &call.name, why));
        }
        let time = timestamp(self.clock.now());
        let (versions, part) = (OneVersion(shape_of(call)), part_of(call));
        let applied = apply::apply(&versions, None, config, part, who(call, params, &time), force);
        let applied = applied.map_err(refused)?;
        let unnamed = Call { name: String::new(), ..call.clone() };
        let body = applied.object.into_value();
        self.create_owned(&unnamed, body, params, Some(&applied.managers)).await
    }

    async fn apply_to(
        &self,
        call: &Call,
        old: &Stored,
        config: &Object,
        force: bool,
        params: &WriteParams,
    ) -> Result<Updated, ApiError> {
        check_preconditions(call, old, config)?;
        let time = timestamp(self.clock.now());
        let (versions, part) = (self.versions_of(call, &old.object), part_of(call));
        let who = who(call, params, &time);
        let applied = apply::apply(&versions, Some(&old.object), config, part, who, force);
        let applied = applied.map_err(refused)?;
        let (object, operation) = match call.subresource.as_str() {
            "status" => (update::status_of(&old.object, applied.object), Operation::UpdateStatus),
            _ => (update::main_of(&call.info, &old.object, applied.object), Operation::Update),
        };
        let owners = Owners::Decided(applied.managers);
        let update = Update { object, operation, owners };
        match call.subresource.as_str() {
            "scale" => self.store_scaled(call, old, update, params).await,
            _ => self.store_update(call, old, update, params).await,
        }
    }

    /// Writes into a new object that its creator owns its fields, where that is recorded.
    pub(super) fn set_first_owner(&self, call: &Call, object: &mut Object, params: &WriteParams) {
        if params.tracking != Tracking::Named || call.info.meta.review {
            return;
        }
        let time = timestamp(self.clock.now());
        let (who, nobody) = (who(call, params, &time), Managers::default());
        let mut nothing = object.clone();
        nothing.fields_mut().clear();
        let (versions, part) = (OneVersion(shape_of(call)), part_of(call));
        let managers = apply::update(&versions, &nobody, &nothing, object, part, who);
        write(object, &managers);
    }

    /// Writes into `object` who owns its fields after this update.
    pub(super) fn set_owners(
        &self,
        call: &Call,
        old: &Object,
        object: &mut Object,
        owners: Owners,
        params: &WriteParams,
    ) {
        let before = match owners {
            Owners::Decided(managers) => return write(object, &managers),
            Owners::Told(managers) => managers,
            Owners::AsChanged => match old.meta().get(MANAGED_FIELDS).and_then(Managers::read) {
                Some(managers) => managers,
                None => return,
            },
        };
        let part = part_of(call);
        if before.0.is_empty() || (params.tracking == Tracking::System && part == Part::Status) {
            return write(object, &before);
        }
        let time = timestamp(self.clock.now());
        let who = who(call, params, &time);
        let versions = self.versions_of(call, old);
        let managers = apply::update(&versions, &before, old, object, part, who);
        write(object, &managers);
    }
}

/// The versions of a kind that an object's managers wrote it in.
struct KindVersions<'a> {
    own: &'a KindInfo,
    others: Vec<Arc<KindInfo>>,
}

impl ApiServer {
    fn versions_of<'a>(&self, call: &'a Call, object: &Object) -> KindVersions<'a> {
        let own = &*call.info;
        let entries = object.meta().get(MANAGED_FIELDS).and_then(Value::as_array);
        let named = entries.into_iter().flatten().filter_map(|entry| entry["apiVersion"].as_str());
        let foreign: BTreeSet<&str> =
            named.filter(|version| *version != own.gvr.api_version()).collect();
        let registry = self.registry();
        let rows = foreign.into_iter().filter_map(|version| registry.by_kind(version, &own.kind));
        let same = rows.filter(|row| row.stored_gvr() == own.stored_gvr());
        KindVersions { own, others: same.cloned().collect() }
    }
}

impl KindVersions<'_> {
    fn row(&self, api_version: &str) -> Option<&KindInfo> {
        let rows = std::iter::once(self.own).chain(self.others.iter().map(|row| &**row));
        rows.into_iter().find(|row| row.gvr.api_version() == api_version)
    }
}

impl Versions for KindVersions<'_> {
    fn shape(&self, api_version: &str) -> Option<Shape<'_>> {
        self.row(api_version).map(shape_of_row)
    }

    /// What only a webhook converts keeps its fields: nobody is asked while a write is under way.
    fn convert(&self, mut object: Object, api_version: &str) -> Object {
        let rows = (self.row(object.api_version()), self.row(api_version));
        let (Some(from), Some(to)) = rows else { return object };
        if by_webhook(to).is_none() {
            if let Some(stored) = &from.stored {
                object = stored.stored(object);
            }
            if let Some(stored) = &to.stored {
                object = stored.shown(object, api_version.into());
            }
        }
        object.set("apiVersion", api_version.into());
        object
    }
}

/// The managers that a body tells of, where a user changed them: by clearing them with one empty
/// entry, or by writing others (k8s.io/apimachinery/pkg/util/managedfields, decodeLiveOrNew).
pub(super) fn told_by_user(call: &Call, old: &Object, body: &Object) -> Option<Managers> {
    let told = body.meta().get(MANAGED_FIELDS)?;
    let same = old.meta().get(MANAGED_FIELDS) == Some(told);
    if same || !call.subresource.is_empty() {
        return None;
    }
    let cleared = told.as_array().is_some_and(|entries| {
        entries.len() == 1 && entries[0].as_object().is_some_and(serde_json::Map::is_empty)
    });
    Managers::read(told).filter(|managers| cleared || !managers.0.is_empty())
}

/// Sets the managed fields, or takes them away where nobody owns anything.
pub(super) fn write(object: &mut Object, managers: &Managers) {
    match managers.write() {
        Value::Array(entries) if entries.is_empty() => {
            object.meta_mut().remove(MANAGED_FIELDS);
        }
        entries => object.set_meta(MANAGED_FIELDS, entries),
    }
}

pub(super) fn shape_of(call: &Call) -> Shape<'_> {
    shape_of_row(&call.info)
}

fn shape_of_row(info: &KindInfo) -> Shape<'_> {
    match &info.custom {
        Some(custom) => Shape::Resource(&custom.schema),
        None => Shape::of_kind(&info.gvr.group, &info.gvr.version, &info.kind),
    }
}

fn part_of(call: &Call) -> Part {
    match call.subresource.as_str() {
        part if update::writes_status(part) => Part::Status,
        "" if call.info.meta.status => Part::WithoutStatus,
        _ => Part::Whole,
    }
}

fn who<'a>(call: &'a Call, params: &'a WriteParams, time: &'a str) -> Who<'a> {
    Who {
        manager: &params.manager,
        group: &call.info.gvr.group,
        version: &call.info.gvr.version,
        subresource: &call.subresource,
        time,
    }
}

fn refused(error: ApplyError) -> ApiError {
    let text = error.to_string();
    match error {
        ApplyError::Invalid(_) => ApiError::bad_request(text),
        ApplyError::Conflicts(conflicts) => {
            let mut refused = ApiError::new(409, Reason::Conflict, text);
            for conflict in conflicts.iter().take(patch::MAX_CAUSES) {
                refused = refused.cause(Cause {
                    reason: "FieldManagerConflict".into(),
                    message: conflict.message(),
                    field: conflict.field.clone(),
                });
            }
            refused
        }
    }
}
