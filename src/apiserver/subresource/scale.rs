//! `/scale`: the number of replicas of whatever has one, as an autoscaling/v1 Scale.

use serde_json::{Value, json};

use super::super::patch::{self, Patch};
use super::super::service::{Answer, ApiServer, Call, Stored};
use super::super::webhooks::SCALE;
use super::super::write::{
    MAX_UPDATE_ATTEMPTS, Owners, Update, Updated, WriteParams, body_object, check_uid,
};
use crate::api::apply::{FieldSet, Manager, Managers, Owned, Step};
use crate::api::field::{Errors, Path};
use crate::api::resource::{KindInfo, Operation};
use crate::api::{ApiError, Object};

const KIND: (&str, &str, &str) = ("autoscaling", "v1", "Scale");

impl ApiServer {
    pub(super) async fn get_scale(&self, call: &Call) -> Result<Answer, ApiError> {
        self.authorize(call, "get")?;
        let old = self.stored_as_asked(call).await?;
        Ok(Answer::other(200, scale_of(&call.info, &old.object).to_json()))
    }

    pub(super) async fn put_scale(
        &self,
        call: &Call,
        body: Value,
        params: &WriteParams,
    ) -> Result<Answer, ApiError> {
        self.authorize(call, "update")?;
        let scale = body_object(body)?;
        let unconditional = scale.resource_version().is_empty();
        for _ in 0..MAX_UPDATE_ATTEMPTS {
            let old = self.stored_as_asked(call).await?;
            match self.set_scale(call, &old, &scale, params).await? {
                Updated::Done(answer) => return Ok(answer),
                Updated::Conflict if unconditional => {}
                Updated::Conflict => break,
            }
        }
        Err(ApiError::modified(&call.info.gvr, &call.name))
    }

    pub(in crate::apiserver) async fn patch_scale(
        &self,
        call: &Call,
        old: &Stored,
        patch: &Patch,
        params: &WriteParams,
    ) -> Result<Updated, ApiError> {
        let patched = patch::apply(KIND, scale_of(&call.info, &old.object).into_value(), patch)?;
        self.set_scale(call, old, &body_object(patched)?, params).await
    }

    async fn set_scale(
        &self,
        call: &Call,
        old: &Stored,
        scale: &Object,
        params: &WriteParams,
    ) -> Result<Updated, ApiError> {
        check(call, scale)?;
        let version = scale.resource_version();
        if !version.is_empty() && version != old.object.resource_version() {
            return Err(ApiError::modified(&call.info.gvr, &call.name));
        }
        check_uid(call, scale.uid(), &old.object)?;
        // A Scale without a number asks for none, as in Go.
        let replicas = scale.at(&["spec", "replicas"]).cloned().unwrap_or_else(|| 0.into());
        let mut object = old.object.clone();
        put(object.fields_mut(), &replicas_path(&call.info), replicas);
        let owners = Owners::AsChanged;
        let update = Update { object, operation: Operation::Update, owners };
        self.store_scaled(call, old, update, params).await
    }

    /// Asks about the Scale of an update, stores the update, and answers with its Scale.
    pub(in crate::apiserver) async fn store_scaled(
        &self,
        call: &Call,
        old: &Stored,
        mut update: Update,
        params: &WriteParams,
    ) -> Result<Updated, ApiError> {
        let mut warnings = Vec::new();
        let current = scale_of(&call.info, &old.object);
        let scale = scale_of(&call.info, &update.object);
        let wanted = scale.at(&["spec", "replicas"]).cloned();
        let asked =
            self.ask_about_part(call, SCALE, scale, Some(&current), params, &mut warnings).await?;
        check(call, &asked)?;
        if let Some(replicas) = asked.at(&["spec", "replicas"])
            && wanted.as_ref() != Some(replicas)
        {
            put(update.object.fields_mut(), &replicas_path(&call.info), replicas.clone());
        }
        Ok(match self.store_update(call, old, update, params).await? {
            Updated::Done(answer) => {
                let raw = self.converted_raw(&call.info, answer.raw).await?;
                let stored = crate::api::Raw(raw).object()?;
                let scaled = Answer::other(answer.code, scale_of(&call.info, &stored).to_json());
                warnings.extend(answer.warnings);
                Updated::Done(scaled.warn(warnings))
            }
            Updated::Conflict => Updated::Conflict,
        })
    }
}

/// What a Scale that is applied says of its object: the number, and which object it is about.
pub(in crate::apiserver) fn as_parent(call: &Call, scale: &Object) -> Result<Object, ApiError> {
    check(call, scale)?;
    let mut parent = scale.clone();
    parent.fields_mut().retain(|field, _| field == "metadata");
    parent.set("apiVersion", call.info.gvr.api_version().into());
    parent.set("kind", Value::from(call.info.kind.clone().into_owned()));
    if let Some(replicas) = scale.at(&["spec", "replicas"]) {
        put(parent.fields_mut(), &replicas_path(&call.info), replicas.clone());
    }
    Ok(parent)
}

/// Where the object has its number.
fn replicas_path(info: &KindInfo) -> Vec<&str> {
    match info.custom.as_ref().and_then(|custom| custom.scale.as_ref()) {
        Some(paths) => words(&paths.spec_replicas),
        None => vec!["spec", "replicas"],
    }
}

/// Who owns the number, in the Scale's own terms (apimachinery's managedfields/scalehandler.go).
fn owners_of(info: &KindInfo, object: &Object) -> Option<Value> {
    let managers = object.meta().get("managedFields").and_then(Managers::read)?;
    let step = |field: &&str| Step::field(field);
    let path: Vec<Step> = replicas_path(info).iter().map(step).collect();
    let mut number = FieldSet::default();
    number.insert(&[Step::field("spec"), Step::field("replicas")]);
    let owns = managers.0.into_iter().filter(|(_, owned)| owned.fields.has(&path));
    let api_version = format!("{}/{}", KIND.0, KIND.1);
    let told = owns.map(|(manager, owned)| {
        let manager = Manager { api_version: api_version.clone(), ..manager };
        (manager, Owned { fields: number.clone(), ..owned })
    });
    match Managers(told.collect()).write() {
        Value::Array(entries) if entries.is_empty() => None,
        entries => Some(entries),
    }
}

fn words(path: &[String]) -> Vec<&str> {
    path.iter().map(String::as_str).collect()
}

/// Sets a value at a path of field names, with the objects on the way.
fn put(fields: &mut serde_json::Map<String, Value>, path: &[&str], value: Value) {
    match path {
        [] => {}
        [last] => {
            fields.insert((*last).into(), value);
        }
        [first, rest @ ..] => {
            let below = fields.entry(*first).or_insert_with(|| json!({}));
            if let Some(below) = below.as_object_mut() {
                put(below, rest, value);
            }
        }
    }
}

/// The Scale of an object: `spec.replicas`, `status.replicas` and the selector as text, or what a
/// custom resource has for them.
fn scale_of(info: &KindInfo, object: &Object) -> Object {
    let mut meta = serde_json::Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.meta().get(field) {
            meta.insert(field.into(), value.clone());
        }
    }
    if let Some(owners) = owners_of(info, object) {
        meta.insert("managedFields".into(), owners);
    }
    let count = |path: &[&str]| object.at(path).and_then(Value::as_i64).unwrap_or(0);
    let (spec, status, selector) = match info.custom.as_ref().and_then(|c| c.scale.as_ref()) {
        None => {
            let selector = object.at(&["spec", "selector"]).map(selector_text);
            (count(&replicas_path(info)), count(&["status", "replicas"]), selector)
        }
        Some(paths) => {
            let selector = paths.selector.as_ref().and_then(|path| object.at(&words(path)));
            let selector = selector.and_then(Value::as_str).map(str::to_string);
            (count(&replicas_path(info)), count(&words(&paths.status_replicas)), selector)
        }
    };
    let mut status = json!({"replicas": status});
    let selector = selector.unwrap_or_default();
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    let mut scale = Object::from_value(json!({})).unwrap_or_else(|_| unreachable!("an object"));
    scale.set("kind", KIND.2.into());
    scale.set("apiVersion", format!("{}/{}", KIND.0, KIND.1).into());
    scale.set("metadata", Value::Object(meta));
    scale.set("spec", json!({"replicas": spec}));
    scale.set("status", status);
    scale
}

/// A selector as people write it: `app=web,tier in (a,b)`.
fn selector_text(selector: &Value) -> String {
    let labels = selector.get("matchLabels").or(Some(selector).filter(|s| is_plain_map(s)));
    let pairs = labels.and_then(Value::as_object).into_iter().flatten();
    let mut terms: Vec<String> =
        pairs.filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?))).collect();
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    for one in expressions.into_iter().flatten() {
        let text = |field: &str| one.get(field).and_then(Value::as_str).unwrap_or_default();
        let values = one.get("values").and_then(Value::as_array).into_iter().flatten();
        let values: Vec<&str> = values.filter_map(Value::as_str).collect();
        let key = text("key");
        terms.push(match text("operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_string(),
        });
    }
    terms.join(",")
}

/// ReplicationControllers select by a bare map.
fn is_plain_map(selector: &Value) -> bool {
    let Some(map) = selector.as_object() else { return false };
    !map.contains_key("matchLabels") && !map.contains_key("matchExpressions")
}

fn check(call: &Call, scale: &Object) -> Result<(), ApiError> {
    let api_version = format!("{}/{}", KIND.0, KIND.1);
    let wrong = (!scale.kind().is_empty() && scale.kind() != KIND.2)
        || (!scale.api_version().is_empty() && scale.api_version() != api_version);
    if wrong {
        let message = format!("expected a Scale of {api_version}, not {}", scale.kind());
        return Err(ApiError::bad_request(message));
    }
    if !scale.name().is_empty() && scale.name() != call.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            scale.name(),
            call.name
        )));
    }
    let replicas = scale.at(&["spec", "replicas"]);
    let number = replicas.map_or(Some(0), Value::as_i64);
    if number.is_some_and(|n| (0..=i64::from(i32::MAX)).contains(&n)) {
        return Ok(());
    }
    let mut errors = Errors::default();
    let spec = Path::new("spec");
    let detail = "must be greater than or equal to 0";
    errors.invalid(&spec.child("replicas"), replicas, detail);
    Err(ApiError::invalid(&call.info, &call.name, errors.into_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_written_as_text() {
        let selector = json!({"matchLabels": {"app": "web"}, "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["a", "b"]},
            {"key": "old", "operator": "DoesNotExist"}]});
        assert_eq!(selector_text(&selector), "app=web,tier in (a,b),!old");
        assert_eq!(selector_text(&json!({"app": "web"})), "app=web");
    }
}
